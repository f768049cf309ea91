"""Recovery where the measurement matrices could not be stored: entries, rank-one, keyed."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments._earlier import Claim, Outcome, Row
from experiments._protocol import Paper, Progress, new_figure
from jaxopt_robust import recovery

PAPER = Paper(
  title="Low Rank Matrix Completion via Robust Alternating Minimization in Nearly Linear Time",
  authors="Gu, Song, Yin and Zhang",
  year=2024,
  claim="Alternating minimisation with sketched, inexact half steps completes a low-rank matrix in "
  "time nearly linear in the number of observed entries; scaled sub-gradient steps do the same for "
  "rank-one measurements of which a fraction is wrong.",
  section="Theorem 1.1; Tong, Ma and Chi, 2021, for the second problem; the sizes are ours",
  url="https://arxiv.org/abs/2302.11068",
)

GIB = 2**30
_NUM_CHECKED = 100_000  # entries of the completed matrix that are compared with the truth


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings.

  Attributes:
    seeds: random problems of each kind.
    rows: rows of the matrix to complete.
    cols: its columns.
    rank: rank of all matrices; singular values are about equal.
    entries: observed entries.
    rounds: rounds of alternating minimisation.
    rank_one_dim: rows and columns of the matrix measured by rank-one matrices.
    rank_one_rate: fraction of its measurements that are wrong.
    rank_one_steps: scaled sub-gradient steps.
    keyed_dim: rows and columns of the matrix measured by matrices drawn from keys; the rank is 1.
    keyed_num: its measurements.
    keyed_chunk: measurements drawn at a time.
    keyed_rate: fraction of them that are wrong.
    keyed_steps: scaled sub-gradient steps.
    beyond_gib: what the matrices of the first two problems would take at least, in GiB.
    saving: how many times less is held.
  """

  seeds: int = 3
  rows: int = 20_000
  cols: int = 10_000
  rank: int = 5
  entries: int = 1_500_000
  rounds: int = 12
  rank_one_dim: int = 600
  rank_one_rate: float = 0.2
  rank_one_steps: int = 120
  keyed_dim: int = 48
  keyed_num: int = 2304
  keyed_chunk: int = 256
  keyed_rate: float = 0.2
  keyed_steps: int = 60
  beyond_gib: float = 24.0
  saving: float = 100.0


SIZES = {
  "toy": Config(
    seeds=1, rows=60, cols=40, rank=1, entries=800, rounds=8, rank_one_dim=16, rank_one_steps=60,
    keyed_dim=8, keyed_num=256, keyed_chunk=64, keyed_steps=60,
    beyond_gib=0.0, saving=5.0,
  ),
  "desk": Config(),
  # The matrices drawn from keys would take 24.4 GiB: minutes a pass on a CPU, seconds on a GPU.
  "large": Config(
    rows=200_000, cols=100_000, rank=10, entries=40_000_000, rounds=25, rank_one_dim=2000,
    keyed_dim=128, keyed_num=399_872, keyed_chunk=512,
  ),
}  # fmt: skip


def dense_gib(num: int, rows: int, cols: int) -> float:
  """Size in GiB of ``num`` float32 matrices."""
  return num * rows * cols * 4 / GIB


def _factors(key: jax.Array, rows: int, cols: int, rank: int) -> recovery.Factors:
  left, right = jax.random.split(key)
  return recovery.Factors(
    jax.random.normal(left, (rows, rank)), jax.random.normal(right, (cols, rank))
  )


def entries_of(seed: int, rows: int, cols: int, count: int) -> tuple[np.ndarray, np.ndarray]:
  """Distinct positions, uniformly at random: sorted, so that rows are contiguous."""
  rng = np.random.default_rng(seed)
  if rows * cols < 10 * count:
    flat = np.arange(rows * cols)
  else:  # repetitions are rare
    flat = np.unique(rng.integers(0, rows * cols, math.ceil(1.1 * count), dtype=np.int64))
  flat = np.sort(rng.choice(flat, count, replace=False))
  return (flat // cols).astype(np.int32), (flat % cols).astype(np.int32)


@functools.partial(jax.jit, static_argnames=("shape", "rank", "rounds"))
def complete(
  key: jax.Array, rows: jax.Array, cols: jax.Array, *, shape: tuple[int, int], rank: int,
  rounds: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:  # fmt: skip
  """Residuals of all rounds, relative error on fresh entries, status."""
  keys = dict(zip(("truth", "method", "fresh"), jax.random.split(key, 3), strict=True))
  truth = _factors(keys["truth"], *shape, rank)
  op = recovery.EntryCOO(rows, cols, shape)
  y = op.apply_factored(*truth)
  factors, trace = recovery.altmin_complete(
    op, y, rank, key=keys["method"], num_rounds=rounds, tol=1e-4
  )
  fresh = jax.random.randint(keys["fresh"], (2, _NUM_CHECKED), 0, jnp.asarray(shape)[:, None])
  anywhere = recovery.EntryCOO(fresh[0], fresh[1], shape)
  expected = anywhere.apply_factored(*truth)
  found = anywhere.apply_factored(*factors)
  error = jnp.linalg.norm(found - expected) / jnp.linalg.norm(expected)
  return trace.residual, error, trace.status


def _scaled(
  op: recovery.MeasurementOperator, truth: recovery.Factors, key: jax.Array, *,
  rate: float, rank: int, num_steps: int,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
  """Errors of scaled Polyak steps from the truncated spectral start, and the status."""
  clean = op.apply_factored(truth.L, truth.L if truth.R is None else truth.R)
  wrong = recovery.scaledsm_outliers(key, clean, rate=rate)
  kind = "psd" if truth.R is None else "general"
  start = recovery.truncated_spectral(op, wrong.y, rank, rate=rate, kind=kind)
  tx = recovery.scaled_polyak(minimum=jnp.mean(jnp.abs(wrong.s)))
  matrix = recovery.compose(truth)
  _, trace = recovery.subgm(op, wrong.y, start, tx=tx, num_steps=num_steps, truth=matrix)
  return trace.err / jnp.linalg.norm(matrix), trace.status


@functools.partial(jax.jit, static_argnames=("dim", "rank", "num", "rate", "num_steps"))
def rank_one(
  key: jax.Array, *, dim: int, rank: int, num: int, rate: float, num_steps: int
) -> tuple[jax.Array, jax.Array]:
  """Recovery from a_i b_i^T, whose factors alone are stored."""
  operator, truth, noise = jax.random.split(key, 3)
  op = recovery.make_rank_one_sensing(operator, num, dim, dim)
  factors = _factors(truth, dim, dim, rank)
  return _scaled(op, factors, noise, rate=rate, rank=rank, num_steps=num_steps)


@functools.partial(jax.jit, static_argnames=("dim", "num", "chunk", "rate", "num_steps"))
def keyed(
  key: jax.Array, *, dim: int, num: int, chunk: int, rate: float, num_steps: int
) -> tuple[jax.Array, jax.Array]:
  """Recovery from Gaussian matrices that are drawn again in each pass."""
  operator, truth, noise = jax.random.split(key, 3)
  op = recovery.make_keyed_gaussian_sensing(operator, num, dim, dim, chunk=chunk)
  factors = _factors(truth, dim, dim, 1)
  return _scaled(op, factors, noise, rate=rate, rank=1, num_steps=num_steps)


def run(config: Config, progress: Progress) -> Outcome:
  """Three problems, several draws each."""
  keys = jax.random.split(jax.random.key(0), config.seeds)
  shape = (config.rows, config.cols)
  num = 8 * 2 * config.rank_one_dim * config.rank
  solves = {
    "entries": lambda seed: complete(
      keys[seed], *entries_of(seed, *shape, config.entries), shape=shape, rank=config.rank,
      rounds=config.rounds,
    ),
    "rank-one": lambda seed: rank_one(
      keys[seed], dim=config.rank_one_dim, rank=config.rank, num=num, rate=config.rank_one_rate,
      num_steps=config.rank_one_steps,
    ),
    "keyed": lambda seed: keyed(
      keys[seed], dim=config.keyed_dim, num=config.keyed_num, chunk=config.keyed_chunk,
      rate=config.keyed_rate, num_steps=config.keyed_steps,
    ),
  }  # fmt: skip
  metrics: dict[str, Any] = {
    "dense_gib": {
      "entries": dense_gib(config.entries, *shape),
      "rank-one": dense_gib(num, config.rank_one_dim, config.rank_one_dim),
      "keyed": dense_gib(config.keyed_num, config.keyed_dim, config.keyed_dim),
    },
    "stored_gib": {
      "entries": config.entries * 12 / GIB,
      "rank-one": num * (2 * config.rank_one_dim + 1) * 4 / GIB,
      "keyed": config.keyed_chunk * config.keyed_dim**2 * 4 / GIB,
    },
    "errors": {}, "curves": {}, "status": {},
  }  # fmt: skip
  for name in progress.track(list(solves), "problems"):
    progress.message(name)
    outs = [jax.tree.map(np.asarray, solves[name](seed)) for seed in range(config.seeds)]
    metrics["curves"][name] = [out[0] for out in outs]
    metrics["errors"][name] = [out[1] if name == "entries" else out[0][-1] for out in outs]
    metrics["status"][name] = [int(out[-1]) for out in outs]
  return Outcome(metrics, _table(config, metrics), _claims(config, metrics))


def _table(config: Config, metrics: dict[str, Any]) -> list[Row]:
  names = {
    "entries": f"alternating minimisation, {config.rows} x {config.cols}, {config.entries} entries",
    "rank-one": f"scaled sub-gradient, {config.rank_one_dim} x {config.rank_one_dim}, rank-one "
    f"measurements, {config.rank_one_rate:.0%} wrong",
    "keyed": f"scaled sub-gradient, {config.keyed_dim} x {config.keyed_dim}, matrices from keys, "
    f"{config.keyed_rate:.0%} wrong",
  }
  return [
    Row(
      text,
      "relative error",
      float(np.max(metrics["errors"][name])),
      better="lower",
      note=f"All matrices: {metrics['dense_gib'][name]:.3g} GiB; held at once: "
      f"{metrics['stored_gib'][name]:.2g} GiB.",
    )
    for name, text in names.items()
  ]


def _claims(config: Config, metrics: dict[str, Any]) -> list[Claim]:
  dense, stored = metrics["dense_gib"], metrics["stored_gib"]
  beyond = ("entries", "rank-one")
  return [
    Claim(
      "Every run recovers its matrix to 1e-3, in float32.",
      bool(all(np.max(errors) < 1e-3 for errors in metrics["errors"].values())),
      {f"largest error, {name}": float(np.max(e)) for name, e in metrics["errors"].items()},
    ),
    Claim(
      f"Entries and rank-one measurements: the matrices would take more than {config.beyond_gib:g} "
      f"GiB, and at least {config.saving:g} times less is held.",
      all(
        dense[name] > config.beyond_gib and stored[name] * config.saving < dense[name]
        for name in beyond
      ),
      {f"GiB of all matrices, {name}": size for name, size in dense.items()}
      | {f"GiB held, {name}": size for name, size in stored.items()},
    ),
  ]


def figure(record: dict[str, Any]) -> Any:
  """A panel a problem: residual or error against rounds or steps."""
  metrics = record["metrics"]
  fig, axes = new_figure(1, len(metrics["curves"]), width=3.8)
  labels = {
    "entries": ("round", "residual on the observed entries"),
    "rank-one": ("step", "relative error"),
    "keyed": ("step", "relative error"),
  }
  for ax, (name, curves) in zip(axes, metrics["curves"].items(), strict=True):
    for curve in curves:
      ax.semilogy(np.arange(1, len(curve) + 1), curve)
    x, y = labels[name]
    title = f"{name}: {metrics['dense_gib'][name]:.3g} GiB if stored"
    ax.set(xlabel=x, ylabel=y, title=title)
  return fig
