"""Robust principal components: what several methods recover, at which rank and rate of outliers."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _figures
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments._recovery import best_of_rank, f1_score
from jaxopt_robust import recovery, sweeps

PAPER = Paper(
  title="Robust Principal Component Analysis?",
  authors="Candes, Li, Ma and Wright",
  year=2011,
  claim="A matrix of low rank is recovered although a tenth of its entries are grossly wrong, by "
  "convex optimisation and by methods that are told the rank; by principal components it is not. "
  "Accelerated alternating projections fail with their default start where the outliers are large.",
  section="Section 4; the peers: Lin, Chen and Ma 2010, Cai, Cai and Wei 2019, Tong, Ma and Chi "
  "2021",
  url="https://arxiv.org/abs/0912.3599",
)

_FLOOR = 1e-17  # of a relative error, for logarithms
_SUCCESS = 1e-3  # relative error of a recovery


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  Attributes:
    rows: rows of the matrices on which all methods are compared.
    cols: their columns.
    rank: their rank.
    rate: fraction of their entries that are outliers.
    sizes: magnitudes of the outliers; entries of L have standard deviation sqrt(rank) / rows.
    methods: which methods are compared.
    own_dim: side of the test problem of the authors of AccAltProj; 0 leaves it out.
    map_dim: side of the matrices of the sweep.
    map_ranks: their ranks.
    map_rates: fractions of outliers.
    map_steps: steps of the l1 method in the sweep.
  """

  rows: int = 200
  cols: int = 200
  rank: int = 5
  rate: float = 0.1
  sizes: tuple[float, ...] = (1.0, 0.05)
  methods: tuple[str, ...] = (
    "PCP, ADMM", "PCP, IALM", "AccAltProj, default", "AccAltProj, own start", "ScaledGD",
    "l1, scaled", "l1, plain",
  )  # fmt: skip
  own_dim: int = 400
  map_dim: int = 40
  map_ranks: tuple[int, ...] = (1, 2, 4, 6, 9, 12, 16)
  map_rates: tuple[float, ...] = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4)
  map_steps: int = 400


SIZES = {
  "toy": Size(
    Config(
      seeds=2, rows=100, cols=20, rank=2, sizes=(1.0,), methods=("PCP, ADMM", "l1, scaled"),
      own_dim=0, map_dim=16, map_ranks=(1, 8), map_rates=(0.05, 0.4), map_steps=200,
    ),
    "Two methods on small matrices.",
  ),
  "desk": Size(Config(), "Matrices of 200 x 200 instead of up to 3000 x 3000."),
  "large": Size(
    Config(
      seeds=10, rows=500, cols=500, rank=25, own_dim=2500, map_dim=200,
      map_ranks=(2, 10, 20, 30, 40, 60, 80),
    ),
    "The smallest size of the paper, 500 x 500 with rank 25, and the peers' own problem.",
  ),
}  # fmt: skip


def solvers_by_name(rank: int, rate: float) -> dict[str, Callable[[Any], Any]]:
  """matrix -> (parts, info) for every method, told the rank and the rate where it asks for them."""
  pca = recovery.robust_pca
  projections = functools.partial(recovery.acc_alt_proj, rank)
  descent = recovery.scaledgd_rpca(rank, fraction=1.5 * rate)
  half_of_largest = lambda d: jnp.max(jnp.abs(d)) / (2 * jnp.linalg.norm(d, ord=2))
  return {
    "PCP, ADMM": lambda d: pca(d, solver=recovery.pcp_admm()),
    "PCP, IALM": lambda d: pca(d, solver=recovery.pcp_ialm()),
    "AccAltProj, default": lambda d: pca(d, solver=projections(), tol=1e-7, max_steps=100),
    "AccAltProj, own start": lambda d: pca(
      d, solver=projections(beta_init=half_of_largest(d)), tol=1e-7, max_steps=100
    ),
    "ScaledGD": lambda d: pca(d, solver=descent, max_steps=100),
    "l1, scaled": lambda d: recovery.l1_robust_pca(d, rank, rule="scaled"),
    "l1, plain": lambda d: recovery.l1_robust_pca(d, rank, rule="plain"),
  }


@functools.cache
def _program(name: str, rank: int, rate: float) -> Any:
  return jax.jit(solvers_by_name(rank, rate)[name])


def make_matrix(config: Config, size: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """The two parts: a product of Gaussian factors, and outliers of one size and random sign."""
  rng = np.random.default_rng(seed)
  left = rng.standard_normal((config.rows, config.rank))
  low = left @ rng.standard_normal((config.rank, config.cols)) / config.rows
  shape = (config.rows, config.cols)
  hit = rng.random(shape) < config.rate
  return low, np.where(hit, size * rng.choice([-1.0, 1.0], shape), 0)


def _rel(estimate: Any, truth: Any) -> float:
  return float(np.linalg.norm(np.asarray(estimate) - truth) / np.linalg.norm(truth))


def compare(config: Config, progress: Progress) -> dict[str, Any]:
  """Error, iterations, rank, F1 and status of every method, [size, seed]."""
  fields = ("error", "f1", "steps", "rank", "status")
  shape = (len(config.sizes), config.seeds)
  out = {n: {f: np.zeros(shape) for f in fields} for n in config.methods}
  out["principal components"] = {"error": np.zeros(shape)}
  for i, size in enumerate(config.sizes):
    for j, seed in enumerate(progress.track(config.seed_numbers(), f"outliers of size {size:g}")):
      low, sparse = make_matrix(config, size, seed)
      matrix = jnp.asarray(low + sparse)
      for name in config.methods:
        program = _program(name, config.rank, config.rate)
        parts, info = progress.clock.call(program, matrix, name=name)
        found = (
          _rel(parts.low_rank, low), f1_score(np.asarray(parts.sparse) != 0, sparse != 0),
          info.steps, info.rank, info.status,
        )  # fmt: skip
        for field, value in zip(fields, found, strict=True):
          out[name][field][i, j] = value
      out["principal components"]["error"][i, j] = _rel(
        best_of_rank(low + sparse, config.rank), low
      )
  return out


def own_problem(config: Config, progress: Progress) -> dict[str, list[float]]:
  """The test of the authors of AccAltProj: 40 % outliers no larger than the mean entry."""
  solver, n = recovery.acc_alt_proj(5), config.own_dim
  solve = jax.jit(lambda d: recovery.robust_pca(d, solver=solver, tol=1e-5, max_steps=100))
  out: dict[str, list[float]] = {"error": [], "steps": []}
  for seed in config.seed_numbers():
    rng = np.random.default_rng(seed)
    low = rng.standard_normal((n, 5)) @ rng.standard_normal((5, n))
    bound = np.abs(low).mean()
    sparse = np.where(rng.random((n, n)) < 0.4, rng.uniform(-bound, bound, (n, n)), 0)
    parts, info = progress.clock.call(solve, jnp.asarray(low + sparse), name="own problem")
    out["error"].append(_rel(parts.low_rank, low))
    out["steps"].append(int(info.steps))
  return out


def _map_problem(config: Config, rank: int, rate: float, seed: int) -> tuple[Any, Any]:
  """D and L with entries of variance 1, outliers of three standard deviations."""
  rng = np.random.default_rng([rank, int(1e4 * rate), seed])
  n = config.map_dim
  low = rng.standard_normal((n, rank)) @ rng.standard_normal((rank, n)) / math.sqrt(rank)
  hit = rng.random((n, n)) < rate
  return low + np.where(hit, 3.0 * rng.choice([-1.0, 1.0], (n, n)), 0), low


def map_convex(config: Config, matrix: Any, low: Any, rank: Any) -> Any:
  """Relative error of principal component pursuit, which needs no rank."""
  del config, rank
  solver = recovery.pcp_ialm(growth=1.2)  # slow: near the limit a fast one ends too early
  parts, _ = recovery.robust_pca(matrix, solver=solver, tol=1e-6, max_steps=150)
  return recovery.rel_err(parts.low_rank, low)


def map_l1(config: Config, matrix: Any, low: Any, rank: Any) -> Any:
  """Relative error of the scaled l1 method at the true rank.

  Columns of the start beyond the rank are set to 0, and scaled steps leave them there: one program
  serves all ranks.
  """
  bound = jnp.quantile(jnp.abs(matrix), 0.85)
  clipped = jnp.clip(matrix, -bound, bound).ravel()
  everything = recovery.EntryMask(jnp.ones(matrix.shape, bool))
  start = recovery.mask_spectral(everything, clipped, max(config.map_ranks))
  used = (jnp.arange(max(config.map_ranks)) < rank)[None, :]
  start = jax.tree.map(lambda f: jnp.where(used, f, 0), start)
  first = 0.3 * jnp.linalg.norm(recovery.compose(start))
  tx = recovery.scaled_geometric(eta0=first, rho=0.95)
  factors, _ = recovery.subgm(
    recovery.Identity(matrix.shape), matrix.ravel(), start, tx=tx, num_steps=config.map_steps
  )
  return recovery.rel_err(recovery.compose(factors), low)


def success_map(config: Config, progress: Progress) -> dict[str, Any]:
  """Whether L is recovered, [rank, rate, seed], by both methods: one sweep over all points each."""
  shape = (len(config.map_ranks), len(config.map_rates), config.seeds)
  points = list(itertools.product(config.map_ranks, config.map_rates, config.seed_numbers()))
  problems = [_map_problem(config, *point) for point in points]
  matrices, lows = (np.stack(part) for part in zip(*problems, strict=True))
  ranks = np.array([rank for rank, *_ in points], np.int32)
  out = {}
  for name, fn in (("PCP, IALM", map_convex), ("l1, scaled", map_l1)):
    over = sweeps.sweep(functools.partial(fn, config), lanes=1 if fn is map_convex else None)
    program = jax.jit(lambda d, low, r, over=over: over(d, low, r))
    errors = progress.clock.call(program, matrices, lows, ranks, name=f"sweep, {name}")
    out[name] = np.asarray(errors).reshape(shape) < _SUCCESS
  return out


@jax.enable_x64(True)
def run(config: Config, progress: Progress) -> dict[str, Any]:
  """The peers, and the sweep over rank and rate."""
  metrics: dict[str, Any] = {"peers": compare(config, progress)}
  if config.own_dim:
    metrics["own problem"] = own_problem(config, progress)
  return metrics | {"map": success_map(config, progress)}


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """What recovers and what does not, and the share of the sweep that two methods recover."""
  what = f"relative error of L, {config.rate:.0%} outliers of size "
  made = []

  def error(key: str, text: str, name: str, bound: float, size: int = 0, **changes: Any) -> None:
    values = np.maximum(np.asarray(metrics["peers"][name]["error"], float)[size], _FLOOR)
    metric = what + f"{config.sizes[size]:g}"
    sides = (Side(name, values), Side(f"{bound:g}", bound))
    made.append(Claim(key, text, "paper", metric, *sides, scale="ratio", **changes))

  for name in (n for n in config.methods if n.startswith("PCP")):
    text = f"{name}, told nothing, recovers L to 1e-5."
    error(name.replace(", ", "_"), text, name, 1e-5, better="lower")
  for name in (n for n in config.methods if n.startswith("l1")):
    text = f"The sub-gradient method ({name}) is exact to rounding."
    error(name.replace(", ", "_"), text, name, 1e-9, better="lower")
  text = "Principal components are off by more than the matrix itself."
  error("components", text, "principal components", 1.0, better="higher")
  if "AccAltProj, default" in config.methods:
    text = "With its default start AccAltProj does not recover from large outliers."
    error("default_start", text, "AccAltProj, default", 1.0, better="higher")
    text = "With half of the largest entry as the first threshold it does."
    error("own_start", text, "AccAltProj, own start", 1e-4, better="lower")
    own = (Side("AccAltProj, default", metrics["own problem"]["error"]), Side("1e-5", 1e-5))
    text = "On the test problem of its authors the default start recovers to 1e-5."
    metric = "relative error of L, 40 % small outliers"
    made.append(Claim("own_problem", text, "paper", metric, *own, better="lower", scale="ratio"))
  shares = (
    Side(name, np.mean(np.asarray(metrics["map"][name], float), axis=(0, 1)))
    for name in ("l1, scaled", "PCP, IALM")
  )
  text = "Told the rank, the l1 method recovers at more points of the sweep than PCP."
  metric = "share of points (rank, rate) recovered"
  return [*made, Claim("sweep", text, "paper", metric, *shares)]


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Errors, iterations, ranks and supports of all methods."""
  peers, rows = metrics["peers"], []
  words = {"error": "relative error of L", "steps": "iterations", "f1": "F1 of the support"}
  for i, size in enumerate(config.sizes):
    base = Side("principal components", peers["principal components"]["error"][i])
    for name, (key, what) in itertools.product(config.methods, words.items()):
      metric = f"{what}, {config.rate:.0%} outliers of size {size:g}"
      better = "higher" if key == "f1" else "lower"
      rows.append(
        Row(metric, Side(name, peers[name][key][i]), base if key == "error" else None, better)
      )
  return rows


def figure(record: dict[str, Any]) -> Any:
  """Errors of the peers, and the two maps of the sweep."""
  metrics, settings = record["metrics"], record["settings"]
  fig, axes = new_figure(1, 3, width=4.2, height=3.6)
  peers, names = metrics["peers"], list(metrics["peers"])
  for i, size in enumerate(settings["sizes"]):
    errors = np.array([np.maximum(np.asarray(peers[n]["error"][i], float), _FLOOR) for n in names])
    place = np.repeat(np.arange(len(names)), errors.shape[1])
    axes[0].semilogx(errors.ravel(), place, "os"[i], ms=4, label=f"outliers of size {size:g}")
  axes[0].set_yticks(range(len(names))[::-1], names[::-1], fontsize=7)
  axes[0].set(xlabel="relative error of L", title=f"{settings['rate']:.0%} outliers")
  axes[0].legend(fontsize=7)
  for ax, (name, grid) in zip(axes[1:3], metrics["map"].items(), strict=True):
    _figures.heat_map(
      ax, np.mean(np.asarray(grid, float), axis=-1), settings["map_rates"], settings["map_ranks"],
      xlabel="fraction of outliers", title=f"Recovered by {name}", vmin=0, vmax=1,
    )  # fmt: skip
  axes[1].set_ylabel(f"rank of {settings['map_dim']} x {settings['map_dim']}")
  return fig
