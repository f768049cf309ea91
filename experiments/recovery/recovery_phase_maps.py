"""How many measurements recovery takes: maps over corruption and rank, from one sharded sweep."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments._earlier import Claim, Outcome, Row
from experiments._protocol import Paper, Progress, new_figure
from jaxopt_robust import recovery, sweeps

PAPER = Paper(
  title="Global Convergence of Sub-gradient Method for Robust Matrix Recovery: Small "
  "Initialization, Noisy Measurements, and Over-parameterization",
  authors="Ma and Fattahi",
  year=2023,
  claim="From a small start the sub-gradient method recovers the matrix for any fraction of gross "
  "errors below one, given enough measurements; how many it takes grows with the corruption and "
  "the rank and does not depend on the width of the factors.",
  section="Theorems 1 and 2; the maps are ours",
  url="https://arxiv.org/abs/2202.08788",
)
DEMO = False

# Start of a method: width of the factors (all columns, or those of the true rank) and scale.
FULL, KNOWN, UNIT = "small start, full width", "small start, true rank", "unit start, full width"
METHODS = (FULL, KNOWN, UNIT)


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings.

  Attributes:
    seeds: random problems a point: matrix, operator and corruption.
    dim: rows and columns of the matrix.
    rates: fractions of gross errors of the first map.
    rank: rank of the first map; all singular values are 1.
    ranks: ranks of the second map.
    rate: fraction of gross errors of the second map.
    samples: numbers of measurements, both maps.
    outlier_scale: standard deviation of the gross errors.
    alpha: scale of the small start.
    eta0: first normalised step.
    num_steps: steps of a run.
    success: relative error that counts as recovered.
    lanes: points solved at a time.
  """

  seeds: int = 5
  dim: int = 16
  rates: tuple[float, ...] = (0.0, 0.15, 0.3, 0.45, 0.6, 0.7, 0.8)
  rank: int = 2
  ranks: tuple[int, ...] = (1, 2, 3, 4, 6)
  rate: float = 0.2
  samples: tuple[int, ...] = (64, 128, 192, 256, 384, 512, 768, 1024)
  outlier_scale: float = 10.0
  alpha: float = 1e-3
  eta0: float = 0.25
  num_steps: int = 1200
  success: float = 1e-2
  lanes: int = 48


SIZES = {
  "toy": Config(
    seeds=2, dim=6, rates=(0.0, 0.6), rank=1, ranks=(1, 2), samples=(24, 160), num_steps=300,
    alpha=1e-2, success=0.1, lanes=8,
  ),
  "desk": Config(),
  "large": Config(
    seeds=10, dim=50, rank=3, rates=tuple(round(0.1 * i, 1) for i in range(10)),
    ranks=(1, 2, 3, 5, 7, 10), samples=(500, 1000, 2000, 4000, 8000, 16000), num_steps=3000,
  ),
}  # fmt: skip


def points_of(config: Config) -> dict[str, np.ndarray]:
  """Both maps as one grid: a row is a method, a corruption, a rank and a sample size."""
  first = [(rate, config.rank) for rate in config.rates]
  second = [(config.rate, rank) for rank in config.ranks]
  rows = [
    (method, rate, rank, size)
    for method in range(len(METHODS))
    for rate, rank in first + second
    for size in config.samples
  ]
  method, rate, rank, size = map(np.asarray, zip(*rows, strict=True))
  return {
    "method": method.astype(np.int32),
    "rate": rate.astype(np.float32),
    "rank": rank.astype(np.int32),
    "size": size.astype(np.int32),
  }


def solve(
  point: dict[str, jax.Array], op: recovery.GaussianSensing, key: jax.Array, *, config: Config
) -> jax.Array:
  """Relative error of one run. Rank, width, corruption and sample size are all data."""
  dim, full = config.dim, op.size
  keys = dict(zip(("truth", "where", "size", "start"), jax.random.split(key, 4), strict=True))
  basis = jnp.linalg.qr(jax.random.normal(keys["truth"], (dim, dim)))[0]
  columns = jnp.arange(dim)
  left = jnp.where((columns < point["rank"])[None, :], basis, 0)
  truth = jnp.matmul(left, left.T, precision="highest")
  wrong = jax.random.uniform(keys["where"], (full,)) < point["rate"]
  gross = config.outlier_scale * jax.random.normal(keys["size"], (full,))
  y = op.apply(truth) + jnp.where(wrong, gross, 0)
  seen = recovery.Subset(op, jnp.arange(full) < point["size"])

  small = recovery.sign_spectral(seen, y, dim, alpha=config.alpha).L
  unit = recovery.random_small(keys["start"], dim, dim, alpha=1.0).L
  start = jnp.where(point["method"] == METHODS.index(UNIT), unit, small)
  width = jnp.where(point["method"] == METHODS.index(KNOWN), point["rank"], dim)
  start = jnp.where((columns < width)[None, :], start, 0)  # a column that is 0 stays 0

  # Neither rank nor growth is asked for, by any of the methods.
  tx = recovery.residual_proportional(eta0=config.eta0)
  factors, trace = recovery.subgm(
    seen, y, recovery.Factors(start, None), tx=tx, num_steps=config.num_steps
  )
  error = recovery.rel_err(recovery.compose(factors), truth)
  return jnp.where(trace.status == 2, jnp.inf, error)


def run(config: Config, progress: Progress) -> Outcome:
  """Solves every point of both maps for every seed, in one sweep over all devices."""
  points = points_of(config)
  keys = jax.random.split(jax.random.key(0), config.seeds)
  full = max(config.samples)

  def one(point: dict[str, jax.Array], keys: jax.Array) -> jax.Array:
    def seed(key: jax.Array) -> jax.Array:
      operator, problem = jax.random.split(key)
      op = recovery.make_gaussian_sensing(operator, full, config.dim, config.dim)
      return solve(point, op, problem, config=config)

    return jax.vmap(seed)(keys)

  progress.message(f"{len(points['rank'])} points, {config.seeds} problems each")
  mapped = sweeps.sweep(one, lanes=config.lanes)
  errors = np.asarray(mapped(points, shared=(keys,)))
  shape = (len(METHODS), len(config.rates) + len(config.ranks), len(config.samples), config.seeds)
  errors = errors.reshape(shape)
  split = len(config.rates)
  metrics = {
    "methods": METHODS,
    "corruption_errors": errors[:, :split],
    "rank_errors": errors[:, split:],
  }
  recovered = errors <= config.success
  return Outcome(metrics, _table(config, recovered), _claims(config, recovered))


def needed(config: Config, recovered: np.ndarray) -> np.ndarray:
  """Least sample size from which on at least half of the problems are recovered; inf if none."""
  good = recovered.mean(-1) >= 0.5
  from_here_on = np.flip(np.cumprod(np.flip(good, -1), -1), -1).astype(bool)
  sizes = np.where(from_here_on, np.asarray(config.samples, float), np.inf)
  return sizes.min(-1)


def _table(config: Config, recovered: np.ndarray) -> list[Row]:
  split = len(config.rates)
  share = recovered.mean((-1, -2))
  rows = []
  for name, part in (
    (f"share of the map recovered, corruption x samples, rank {config.rank}", share[:, :split]),
    (f"share of the map recovered, rank x samples, {config.rate:.0%} wrong", share[:, split:]),
  ):
    mean = part.mean(1)
    rows.append(
      Row("SubGM, " + FULL, name, float(mean[0]), baseline=float(mean[2]),
          baseline_name=UNIT, better="higher")
    )  # fmt: skip
    rows.append(
      Row("SubGM, " + FULL, name, float(mean[0]), baseline=float(mean[1]),
          baseline_name=KNOWN, better="higher")
    )  # fmt: skip
  return rows


def _claims(config: Config, recovered: np.ndarray) -> list[Claim]:
  split = len(config.rates)
  least = needed(config, recovered)  # [method, rate or rank]
  by_rate, by_rank = least[:, :split], least[:, split:]
  ordered = lambda values: bool(np.all(values[1:] >= values[:-1]))
  counts = recovered.sum((-1, -2, -3))
  return [
    Claim(
      "The measurements it takes do not decrease with the corruption, nor with the rank.",
      ordered(by_rate[0]) and ordered(by_rank[0]),
      {f"{r:.0%} wrong": n for r, n in zip(config.rates, by_rate[0], strict=True)}
      | {f"rank {r}": n for r, n in zip(config.ranks, by_rank[0], strict=True)},
    ),
    Claim(
      "Not knowing the rank takes at most twice the measurements, at each corruption and rank "
      "(the factor was set after a first look: one step of the sizes is not enough).",
      bool(np.all((least[0] <= 2 * least[1]) | np.isinf(least[1]))),
      {
        f"{what}, full width / true rank": f"{a:g} / {b:g}"
        for what, a, b in zip(_names(config), least[0], least[1], strict=True)
      },
    ),
    Claim(
      "At full width the small start recovers wherever the unit start does, and more.",
      bool(np.all(least[0] <= least[2]) and counts[0] > counts[2]),
      {"runs recovered, small": int(counts[0]), "runs recovered, unit": int(counts[2])},
    ),
  ]


def _names(config: Config) -> list[str]:
  return [f"{rate:.0%} wrong" for rate in config.rates] + [f"rank {r}" for r in config.ranks]


def figure(record: dict[str, Any]) -> Any:
  """Two rows of heat maps, a column a method: the fraction of problems recovered."""
  metrics, settings = record["metrics"], record["settings"]
  fig, axes = new_figure(2, len(METHODS), width=3.6)
  rows = (
    ("corruption_errors", settings["rates"], "fraction of gross errors"),
    ("rank_errors", settings["ranks"], "rank"),
  )
  samples = settings["samples"]
  image = None
  for i, (name, levels, label) in enumerate(rows):
    errors = np.asarray(metrics[name], float)
    for k, method in enumerate(metrics["methods"]):
      ax = axes[i * len(METHODS) + k]
      share = (errors[k] <= settings["success"]).mean(-1)
      image = ax.imshow(share, origin="lower", aspect="auto", vmin=0, vmax=1, cmap="viridis")
      ax.set_xticks(range(len(samples)), [str(n) for n in samples], rotation=60, fontsize=8)
      ax.set_yticks(range(len(levels)), [f"{v:g}" for v in levels])
      ax.set(xlabel="measurements", title=method)
      ax.grid(visible=False)
      if k == 0:
        ax.set_ylabel(label)
  fig.colorbar(image, ax=list(axes), label="fraction recovered", shrink=0.8)
  return fig
