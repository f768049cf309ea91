"""How the rounds and the work of completing a matrix grow with its observed entries and rank."""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np

from experiments import _figures, _recovery
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from jaxopt_robust import recovery

PAPER = Paper(
  title="Low Rank Matrix Completion via Robust Alternating Minimization in Nearly Linear Time",
  authors="Gu, Song, Yin and Zhang",
  year=2024,
  claim="Alternating minimisation with sketched half steps completes a matrix in a number of "
  "rounds that does not grow with it and in work nearly linear in the observed entries times the "
  "rank, where exact half steps take the square of the rank. The paper has no experiments.",
  section="Theorem 1.1",
  url="https://arxiv.org/abs/2302.11068",
)

PCG, EXACT = "pcg", "exact"


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings. A seed draws positions, Gaussian factors and sketches.

  Work is counted in multiplications of all rounds up to the target, see ``altmin_work``.

  Attributes:
    dims: growing rows and columns of the matrices.
    rank: their rank.
    oversampling: observed entries for each unknown at the first size; those for each unknown grow
      with the logarithm of the size, as in the theorem.
    rounds: rounds of alternating minimisation.
    ranks: growing ranks at one size and one number of entries.
    rank_dim: rows and columns there.
    rank_rate: fraction of entries observed there.
    rank_rounds: rounds there.
    target: relative error over the whole matrix to reach.
    solvers: half steps that are compared.
  """

  dims: tuple[int, ...] = (150, 300, 600, 1200)
  rank: int = 4
  oversampling: float = 6.0
  rounds: int = 25
  ranks: tuple[int, ...] = (2, 4, 8, 16)
  rank_dim: int = 400
  rank_rate: float = 0.5
  rank_rounds: int = 12
  target: float = 1e-5
  solvers: tuple[str, ...] = (PCG, EXACT)


SIZES = {
  "toy": Size(
    Config(seeds=2, dims=(40,), rank=2, rounds=20, ranks=(), solvers=(PCG,)),
    "One matrix, one solver; the paper has no experiments.",
  ),
  "desk": Size(
    Config(),
    "Entries n k log n and half of a matrix instead of the theorem's n k^4.5 log n.",
  ),
  "large": Size(
    Config(
      seeds=10, dims=(300, 600, 1200, 2400, 4800), ranks=(2, 4, 8, 16, 32), rank_dim=2400,
      rank_rounds=15,
    ),
    "Entries n k log n and half of a matrix instead of the theorem's n k^4.5 log n.",
  ),
}  # fmt: skip


def cases(config: Config) -> list[tuple[int, int, int]]:
  """Size, rank and entries of every problem: the sizes first, then the ranks."""
  first = np.log(config.dims[0])
  growing = [
    (n, config.rank, round(config.oversampling * 2 * n * config.rank * np.log(n) / first))
    for n in config.dims
  ]
  n = config.rank_dim
  return growing + [(n, k, round(config.rank_rate * n * n)) for k in config.ranks]


@functools.partial(jax.jit, static_argnames=("rank", "rounds", "solver"))
def complete(
  op: Any, y: Any, truth: Any, key: jax.Array, *, rank: int, rounds: int, solver: str
) -> jax.Array:
  """Relative errors over the whole matrix after each round."""
  options = {"num_rounds": rounds, "solver": solver, "truth": truth}
  return recovery.altmin_complete(op, y, rank, key=key, **options)[1].err


@jax.enable_x64(True)
def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Errors of every problem with both kinds of half steps."""
  lines: dict[str, list[Any]] = {solver: [] for solver in config.solvers}
  for i, (dim, rank, entries) in enumerate(progress.track(cases(config), "sizes and ranks")):
    rounds = config.rounds if i < len(config.dims) else config.rank_rounds
    found: dict[str, list[Any]] = {solver: [] for solver in config.solvers}
    for seed in config.seed_numbers():
      problem = _recovery.completion_problem(seed, (dim, dim), rank, entries)
      for solver, errors in found.items():
        fit = functools.partial(complete, rank=rank, rounds=rounds, solver=solver)
        errors.append(np.asarray(fit(*problem, jax.random.key(seed))))
    for solver, errors in found.items():
      lines[solver].append(np.stack(errors))
  return {
    "rounds": {s: [_recovery.rounds_to(e, config.target) for e in v] for s, v in lines.items()},
    "errors": {s: [_recovery.middle(e) for e in v] for s, v in lines.items()},
    "worst factor": [_worst_factor(errors) for errors in lines[PCG]],
  }


def _worst_factor(errors: np.ndarray) -> np.ndarray:
  """Geometric mean of the factor a round between the first round and 1e-9, a number a seed."""
  out = []
  for line in errors:
    last = min(int(np.sum(line > 1e-9)), line.size - 1)
    out.append((line[last] / line[0]) ** (1 / max(last, 1)))
  return np.array(out)


def _work(metrics: dict[str, Any], config: Config) -> dict[str, np.ndarray]:
  """Work to the target by solver, float[cases, seeds]."""
  once = lambda s, dim, *sizes: _recovery.altmin_work(s, (dim, dim), *sizes)
  return {
    s: np.asarray(rounds, float) * np.array([[once(s, *case)] for case in cases(config)])
    for s, rounds in metrics["rounds"].items()
  }


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """Rounds and work with the entries and the rank, inexact half steps beside exact ones."""
  num = len(config.dims)
  rounds = {s: np.asarray(v, float) for s, v in metrics["rounds"].items()}
  work, sizes = _work(metrics, config), [entries for *_, entries in cases(config)]
  worst = np.asarray(metrics["worst factor"], float).max(axis=0)
  made = [
    Claim(
      "halves", "On every matrix the error falls by half or more a round, in the mean of the "
      "rounds.", "theory", "factor a round, the largest over the matrices",
      Side("sketched", worst), Side("1/2", 0.5), better="lower", scale="ratio",
    ),
  ]  # fmt: skip
  below = functools.partial(Claim, kind="paper", better="lower")
  if num > 1:
    text = "The rounds to the target do not grow with the matrix: their slope in the entries is at "
    text += "most .1."
    sides = Side("slope", _recovery.slope(sizes[:num], rounds[PCG][:num])), Side("0", 0.0)
    metric = "slope of log rounds in log entries"
    made.append(
      below("rounds_entries", text, metric=metric, ours=sides[0], baseline=sides[1], margin=-0.1)
    )
    text = "The work to the target is nearly linear in the entries: its slope is at most 1.1."
    sides = Side("slope", _recovery.slope(sizes[:num], work[PCG][:num])), Side("1", 1.0)
    metric = "slope of log work in log entries"
    made.append(
      below("work_entries", text, metric=metric, ours=sides[0], baseline=sides[1], margin=-0.1)
    )
  if EXACT in config.solvers:
    made.append(
      Claim(
        "rounds", "Inexact half steps need no more rounds than exact ones, within half a round.",
        "theory", f"rounds to {config.target:g}, mean over all matrices",
        Side("sketched", rounds[PCG].mean(axis=0)), Side("exact", rounds[EXACT].mean(axis=0)),
        better="lower", margin=-0.5,
      )
    )  # fmt: skip
    text = "The work grows slower with the rank where half steps are sketched than where they are "
    text += "exact."
    slopes = [
      Side(name, _recovery.slope(config.ranks, work[solver][num:]))
      for name, solver in (("sketched", PCG), ("exact", EXACT))
    ]
    metric = "slope of log work in log rank"
    made.append(below("work_rank", text, metric=metric, ours=slopes[0], baseline=slopes[1]))
    text = f"At rank {config.ranks[-1]} sketched half steps take less work than exact ones."
    sides = Side("sketched", work[PCG][-1]), Side("exact", work[EXACT][-1])
    metric = f"multiplications to {config.target:g}"
    made.append(
      below("less_work", text, metric=metric, ours=sides[0], baseline=sides[1], scale="ratio")
    )
  return made


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Rounds and work of every problem, and slopes."""
  work, rows = _work(metrics, config), []
  for i, (dim, rank, entries) in enumerate(cases(config)):
    what = f"{dim} x {dim}, rank {rank}, {entries} entries"
    for metric, found in (("rounds", metrics["rounds"]), ("multiplications", work)):
      sides = (Side(f"altmin, {solver}", found[solver][i]) for solver in config.solvers)
      rows.append(Row(f"{metric} to {config.target:g}, {what}", *sides, better="lower"))
  num = len(config.dims)
  for name, part, x in (
    ("entries", slice(num), [entries for *_, entries in cases(config)][:num]),
    ("rank", slice(num, None), config.ranks),
  ):
    for metric, found in (("rounds", metrics["rounds"]), ("work", work)):
      if len(x) > 1:
        sides = (
          Side(f"altmin, {s}", _recovery.slope(x, np.asarray(found[s], float)[part]))
          for s in config.solvers
        )
        rows.append(Row(f"slope of log {metric} in log {name}", *sides, better="lower"))
  return rows


def figure(record: dict[str, Any]) -> Any:
  """Rounds and counted work to the target, against the observed entries and against the rank."""
  metrics, settings = record["metrics"], record["settings"]
  config = Config(**{k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()})
  fig, axes = new_figure(2, 2, width=4.2)
  num, work = len(config.dims), _work(metrics, config)
  entries = [count for *_, count in cases(config)][:num]
  parts = [(entries, slice(num), "entries", f"rank {config.rank}")]
  if config.ranks:
    place = f"{config.rank_dim} x {config.rank_dim}"
    parts.append((list(config.ranks), slice(num, None), "rank", place))
  for column, (x, part, name, title) in enumerate(parts):
    for row, (what, found) in enumerate((("rounds", metrics["rounds"]), ("multiplications", work))):
      ax = axes[2 * row + column]
      lines = {s: np.asarray(found[s], float)[part].T for s in config.solvers}
      _figures.curves(
        ax, lines, x, xlabel=name, ylabel=f"{what} to {config.target:g}", title=title,
        log="x" if row == 0 else "xy",
      )  # fmt: skip
      ax.set_xticks(x, [f"{v:g}" for v in x])
      ax.minorticks_off()
  return fig
