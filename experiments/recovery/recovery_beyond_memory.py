"""Recovery where the measurement matrices could not be stored: entries, rank-one, keyed."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _recovery
from experiments._claims import Claim, Side
from experiments._figures import curves
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from jaxopt_robust import recovery

PAPER = Paper(
  title="Low Rank Matrix Completion via Robust Alternating Minimization in Nearly Linear Time",
  authors="Gu, Song, Yin and Zhang",
  year=2024,
  claim="Alternating minimisation with sketched, inexact half steps completes a low-rank matrix in "
  "time nearly linear in the number of observed entries; scaled sub-gradient steps do the same for "
  "rank-one measurements of which a fraction is wrong.",
  section="Theorem 1.1; Tong, Ma and Chi, 2021, for the other problems; the sizes are ours",
  url="https://arxiv.org/abs/2302.11068",
)

GIB = 2**30
ENTRIES, RANK_ONE, KEYED = "entries", "rank-one", "keyed"
PCG, EXACT = "pcg", "exact"
_NUM_CHECKED = 100_000  # entries of the completed matrix that are compared with the truth
_INNER = 3  # conjugate gradients of a sketched half step
_SKETCH = 4  # rows of a sketch, in ranks


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  Work is counted in multiplications of all rounds up to the target, see ``altmin_work``.

  Attributes:
    rows: growing rows of the matrix to complete, twice its columns.
    ranks: growing ranks at the middle size; the first rank is that of all other problems.
    oversampling: observed entries for each of the (rows + columns) rank unknowns.
    rounds: rounds of alternating minimisation.
    target: relative residual on the observed entries to reach.
    rank_one_dim: rows and columns of the matrix measured by rank-one matrices.
    rank_one_rate: fraction of its measurements that are wrong.
    rank_one_steps: scaled sub-gradient steps.
    keyed_dim: rows and columns of the matrix measured by matrices drawn from keys; the rank is 1.
    keyed_num: its measurements.
    keyed_chunk: measurements drawn at a time.
    keyed_rate: fraction of them that are wrong.
    keyed_steps: scaled sub-gradient steps.
    success: relative error that counts as recovered.
    solvers: half steps that are compared.
    others: the other kinds of measurements.
  """

  rows: tuple[int, ...] = (500, 1000, 5000)
  ranks: tuple[int, ...] = (5, 10, 20)
  oversampling: float = 10.0
  rounds: int = 8
  target: float = 1e-4
  rank_one_dim: int = 200
  rank_one_rate: float = 0.2
  rank_one_steps: int = 100
  keyed_dim: int = 32
  keyed_num: int = 1536
  keyed_chunk: int = 256
  keyed_rate: float = 0.2
  keyed_steps: int = 60
  success: float = 1e-3
  solvers: tuple[str, ...] = (PCG, EXACT)
  others: tuple[str, ...] = (RANK_ONE, KEYED)


SIZES = {
  "toy": Size(
    Config(
      seeds=2, rows=(60,), ranks=(1,), rounds=10, keyed_dim=8, keyed_num=256, keyed_chunk=64,
      solvers=(PCG,), others=(KEYED,),
    ),
    "One matrix of 60 rows, one solver and one other kind; the paper has no experiments.",
  ),
  "desk": Size(Config(), "Up to 5000 rows; the paper has no experiments."),
  "large": Size(
    Config(
      rows=(20_000, 60_000, 200_000), ranks=(10, 20, 40), rounds=25, rank_one_dim=2000,
      keyed_dim=128, keyed_num=399_872, keyed_chunk=512,
    ),
    "Up to 200,000 rows; the paper has no experiments.",
  ),
}  # fmt: skip


def cases(config: Config) -> list[tuple[int, int]]:
  """Rows and rank of every matrix to complete: the sizes first, then the ranks."""
  first, middle = config.ranks[0], config.rows[len(config.rows) // 2]
  return [(n, first) for n in config.rows] + [(middle, k) for k in config.ranks[1:]]


def num_entries(config: Config, rows: int, rank: int) -> int:
  """Observed entries of a rows x rows / 2 matrix."""
  return round(config.oversampling * (rows + rows // 2) * rank)


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


@functools.partial(jax.jit, static_argnames=("shape", "rank", "rounds", "solver"))
def complete(
  key: jax.Array, rows: jax.Array, cols: jax.Array, *, shape: tuple[int, int], rank: int,
  rounds: int, solver: str,
) -> tuple[jax.Array, jax.Array]:  # fmt: skip
  """Residuals of all rounds, and the relative error on fresh entries."""
  keys = dict(zip(("truth", "method", "fresh"), jax.random.split(key, 3), strict=True))
  truth = _factors(keys["truth"], *shape, rank)
  op = recovery.EntryCOO(rows, cols, shape)
  y = op.apply_factored(*truth)
  factors, trace = recovery.altmin_complete(
    op, y, rank, key=keys["method"], num_rounds=rounds, solver=solver, iterations=_INNER,
    sketch_size=_SKETCH * rank,
  )  # fmt: skip
  fresh = jax.random.randint(keys["fresh"], (2, _NUM_CHECKED), 0, jnp.asarray(shape)[:, None])
  anywhere = recovery.EntryCOO(fresh[0], fresh[1], shape)
  expected, found = anywhere.apply_factored(*truth), anywhere.apply_factored(*factors)
  return trace.residual, jnp.linalg.norm(found - expected) / jnp.linalg.norm(expected)


@functools.partial(jax.jit, static_argnames=("config", "name"))
def recover(key: jax.Array, config: Config, name: str) -> jax.Array:
  """Relative errors of scaled Polyak steps from the truncated spectral start.

  Of the rank-one matrices a_i b_i^T the factors alone are stored; those from keys are drawn again
  in each pass.
  """
  operator, truth, noise = jax.random.split(key, 3)
  if name == RANK_ONE:
    dim, rank, rate = config.rank_one_dim, config.ranks[0], config.rank_one_rate
    op: Any = recovery.make_rank_one_sensing(operator, rank_one_num(config), dim, dim)
  else:
    dim, rank, rate = config.keyed_dim, 1, config.keyed_rate
    num, chunk = config.keyed_num, config.keyed_chunk
    op = recovery.make_keyed_gaussian_sensing(operator, num, dim, dim, chunk=chunk)
  factors = _factors(truth, dim, dim, rank)
  wrong = recovery.scaledsm_outliers(noise, op.apply_factored(*factors), rate=rate)
  start = recovery.truncated_spectral(op, wrong.y, rank, rate=rate)
  tx = recovery.scaled_polyak(minimum=jnp.mean(jnp.abs(wrong.s)))
  matrix = recovery.compose(factors)
  steps = config.rank_one_steps if name == RANK_ONE else config.keyed_steps
  _, trace = recovery.subgm(op, wrong.y, start, tx=tx, num_steps=steps, truth=matrix)
  return trace.err / jnp.linalg.norm(matrix)


def rank_one_num(config: Config) -> int:
  """Rank-one measurements: eight for each unknown."""
  return 8 * 2 * config.rank_one_dim * config.ranks[0]


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Completes every matrix with both solvers, then recovers the other kinds."""
  seeds = config.seed_numbers()
  residuals: dict[str, Any] = {solver: [] for solver in config.solvers}
  fresh: dict[str, Any] = {solver: [] for solver in config.solvers}
  for rows, rank in progress.track(cases(config), "completion"):
    shape = (rows, rows // 2)
    places = [entries_of(seed, *shape, num_entries(config, rows, rank)) for seed in seeds]
    for solver in config.solvers:
      fit = functools.partial(complete, shape=shape, rank=rank, rounds=config.rounds, solver=solver)
      outs = [fit(jax.random.key(s), *at) for s, at in zip(seeds, places, strict=True)]
      residuals[solver].append([np.asarray(out[0]) for out in outs])
      fresh[solver].append([float(out[1]) for out in outs])
  others = {
    name: np.stack([np.asarray(recover(jax.random.key(s), config, name)) for s in seeds])
    for name in progress.track(config.others, "other kinds")
  }
  names = [f"{n} x {n // 2}, rank {k}" for n, k in cases(config)]
  return {
    "rounds": {n: _recovery.rounds_to(lines, config.target) for n, lines in residuals.items()},
    "errors": fresh,
    "residuals": dict(zip(names, residuals[PCG], strict=True)),
    "curves": others,
  }


def _work(metrics: dict[str, Any], config: Config) -> dict[str, np.ndarray]:
  """Work to the target by solver, float[cases, seeds]."""
  sizes = [((n, n // 2), k, num_entries(config, n, k)) for n, k in cases(config)]
  return {
    solver: np.stack(
      [
        _recovery.altmin_work(solver, *size, sketch=_SKETCH, inner=_INNER)
        * np.asarray(rounds, float)
        for size, rounds in zip(sizes, found, strict=True)
      ]
    )
    for solver, found in metrics["rounds"].items()
  }


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """Work with the entries and the rank, rounds of inexact half steps, and recovery."""
  num = len(config.rows)
  done = _work(metrics, config)
  sizes = [num_entries(config, *case) for case in cases(config)]
  rounds = {n: np.asarray(v, float).mean(0) for n, v in metrics["rounds"].items()}
  last = {name: np.asarray(v, float)[:, -1] for name, v in metrics["curves"].items()}
  last = {ENTRIES: np.asarray(metrics["errors"][PCG], float)[num - 1], **last}
  things = {
    ENTRIES: f"A matrix of {config.rows[-1]} rows from its entries",
    RANK_ONE: f"A matrix from rank-one measurements, {config.rank_one_rate:.0%} of them wrong",
    KEYED: f"A matrix from matrices drawn from keys, {config.keyed_rate:.0%} of them wrong",
  }
  found: list[Claim] = []
  if EXACT in config.solvers:
    found += [
      Claim(
        "rounds", "Inexact half steps need no more rounds than exact ones, within half a round.",
        "theory", f"rounds to a residual of {config.target:g}, mean over all matrices",
        Side("sketched", rounds[PCG]), Side("exact", rounds[EXACT]), better="lower", margin=-0.5,
      ),
      Claim(
        "rank", f"At rank {config.ranks[-1]} sketched half steps take less work than exact ones.",
        "paper", f"multiplications to a residual of {config.target:g}",
        Side("sketched", done[PCG][-1]), Side("exact", done[EXACT][-1]), better="lower",
        scale="ratio",
      ),
    ]  # fmt: skip
  if num > 1:
    text = "The work of sketched half steps up to the target grows linearly with the observed "
    text += "entries: a slope of 1, within .1."
    slope = Side("slope", _recovery.slope(sizes[:num], done[PCG][:num]))
    metric = "slope of log work in log entries"
    found.append(Claim("linear", text, "control", metric, slope, Side("1", 1.0), margin=0.1))
  lower = functools.partial(Claim, kind="theory", better="lower", scale="ratio")
  success = Side("success", config.success)
  for name, what in ((n, things[n]) for n in last):
    text, ours = f"{what} is recovered to {config.success:g}.", Side(name, last[name])
    key = f"recovers_{name.replace('-', '_')}"
    found.append(lower(key, text, metric="relative error", ours=ours, baseline=success))
  return found


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Rounds, work and errors; the note says what the matrices would take and what is held."""
  rows = []
  done = _work(metrics, config)
  for i, (n, rank) in enumerate(cases(config)):
    count = num_entries(config, n, rank)
    note = _note(count, n * (n // 2), count * 12)
    what = f"{n} x {n // 2}, rank {rank}, {count} entries"
    for metric, found in (("rounds", metrics["rounds"]), ("multiplications", done)):
      sides = (Side(f"altmin, {solver}", found[solver][i]) for solver in config.solvers)
      rows.append(Row(f"{metric} to {config.target:g}, {what}", *sides, better="lower", note=note))
  num, dim, side = rank_one_num(config), config.rank_one_dim, config.keyed_dim
  notes = {
    RANK_ONE: _note(num, dim**2, num * (2 * dim + 1) * 4),
    KEYED: _note(config.keyed_num, side**2, config.keyed_chunk * side**2 * 4),
  }
  for name, lines in metrics["curves"].items():
    last = Side("scaled sub-gradient", np.asarray(lines, float)[:, -1])
    rows.append(Row(f"relative error, {name}", last, better="lower", note=notes[name]))
  return rows


def _note(num: int, size: int, held: float) -> str:
  dense = num * size * 4 / GIB
  return f"All matrices: {dense:.3g} GiB; held at once: {held / GIB:.2g} GiB."


def figure(record: dict[str, Any]) -> Any:
  """A panel a problem: residual or relative error against rounds or steps."""
  metrics = record["metrics"]
  fig, axes = new_figure(1, 1 + len(metrics["curves"]), width=4.2)
  what = "residual on the observed entries"
  curves(axes[0], metrics["residuals"], xlabel="round", ylabel=what, title="entries", log="y")
  for ax, (name, lines) in zip(axes[1:], metrics["curves"].items(), strict=True):
    curves(ax, {name: lines}, xlabel="step", ylabel="relative error", title=name, log="y")
  return fig
