"""Scaled against plain sub-gradient steps on ill-conditioned matrices with gross errors."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _figures, _recovery
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments._recovery import best, curves, middle, pick_rule, thin
from jaxopt_robust import problems, recovery, sweeps

PAPER = Paper(
  title="Low-Rank Matrix Recovery with Scaled Subgradient Methods: Fast and Robust Convergence "
  "Without the Condition Number",
  authors="Tong, Ma and Chi",
  year=2021,
  claim="Dividing the sub-gradients of the factors by Gram matrices makes the number of iterations "
  "of robust matrix sensing independent of the condition number, where that of plain steps grows "
  "with it.",
  section="Section 4, the figures on matrix sensing; factors wider than the rank are our own trial",
  url="https://arxiv.org/abs/2010.13364",
)

SCALED, PLAIN = "scaled steps", "plain steps"
POLYAK = {SCALED: 0, PLAIN: 1}  # places in the tuple of rules
GEOMETRIC = {SCALED: 2, PLAIN: 3}
SMALL_START = 4


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  First lengths and decays of the geometric steps, and the damping, are each method's best by the
  error itself.

  Attributes:
    dim: rows and columns of the matrix.
    rank: its rank.
    measurements: number of Gaussian measurements.
    rate: fraction of measurements that are grossly wrong.
    conditions: condition numbers; the last but one is that of the geometric steps.
    steps: steps of Polyak's length.
    target: relative error to reach.
    first_steps: first lengths of the geometric steps.
    decays: their decays.
    geometric_steps: their number.
    wide_condition: condition number of the problems for factors of twice the rank.
    wide_measurements: numbers of measurements there.
    dampings: what is added to the Gram matrices there.
    wide_steps: number of steps there.
    alpha: scale of SubGM's small start there.
    lanes: runs at a time.
  """

  dim: int = 40
  rank: int = 4
  measurements: int = 1280
  rate: float = 0.2
  conditions: tuple[float, ...] = (1.0, 5.0, 10.0, 20.0)
  steps: int = 1000
  target: float = 1e-6
  first_steps: tuple[float, ...] = (0.3, 1.0, 2.0, 5.0, 10.0)
  decays: tuple[float, ...] = (0.85, 0.91, 0.94, 0.97, 0.98, 0.99)
  geometric_steps: int = 300
  wide_condition: float = 5.0
  wide_measurements: tuple[int, ...] = (1280, 3840)
  dampings: tuple[float, ...] = (0.0, 0.1, 1.0)
  wide_steps: int = 600
  alpha: float = 1e-3
  lanes: int = 10


SIZES = {
  "toy": Size(
    Config(
      seeds=2, dim=10, rank=2, measurements=240, conditions=(1.0, 5.0, 20.0), steps=300,
      first_steps=(5.0,), decays=(0.91,), geometric_steps=300, wide_measurements=(),
      lanes=8,
    ),
    "10 x 10 matrices of rank 2 instead of 100 x 100 of rank 10; no wider factors.",
  ),
  "desk": Size(Config(), "40 x 40 matrices of rank 4 instead of 100 x 100 of rank 10."),
  "large": Size(
    Config(
      dim=100, rank=10, measurements=8000, first_steps=(0.3, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0),
      decays=(0.8, 0.85, 0.88, 0.91, 0.94, 0.97, 0.98, 0.99), wide_measurements=(8000, 24000),
    ),
    "Nothing on matrix sensing; the decays reach beyond the paper's 0.97.",
  ),
}  # fmt: skip


class Setting(NamedTuple):
  """One run.

  Attributes:
    rule: place in the tuple of rules.
    condition: condition number of the matrix.
    first: first length of geometric steps.
    decay: their decay.
    damping: of the preconditioner.
  """

  rule: Any
  condition: Any
  first: Any = 1.0
  decay: Any = 0.9
  damping: Any = 0.0


@functools.cache
def program(config: Config, measurements: int, width: int, steps: int) -> Any:
  """``program(settings, key) -> relative errors`` along every run; one operator for a key."""

  def solve(setting: Setting, key: jax.Array) -> jax.Array:
    problem = problems.make_low_rank_sensing(
      key, num_measurements=measurements, rows=config.dim, cols=config.dim, rank=config.rank,
      condition=setting.condition,
    )  # fmt: skip
    matrices, clean = problem.data
    truth = problem.truth.matrix
    op = recovery.GaussianSensing(matrices.reshape(measurements, -1), truth.shape)
    wrong = recovery.scaledsm_outliers(jax.random.fold_in(key, 1), clean, rate=config.rate)
    minimum = jnp.mean(jnp.abs(wrong.s))
    near = recovery.truncated_spectral(op, wrong.y, width, rate=config.rate)
    small = recovery.sign_spectral(op, wrong.y, width, alpha=config.alpha, kind="general")
    start = jax.tree.map(lambda a, b: jnp.where(setting.rule == SMALL_START, b, a), near, small)
    decaying = {"eta0": setting.first, "rho": setting.decay}
    rules = (
      recovery.scaled_polyak(minimum=minimum, damping=setting.damping),
      recovery.polyak(minimum=minimum),
      recovery.scaled_geometric(**decaying, damping=setting.damping),
      recovery.grad_normalized_geometric(**decaying),
      recovery.residual_proportional(eta0=0.25),
    )
    tx = pick_rule(setting.rule, rules)
    _, trace = recovery.subgm(op, wrong.y, start, tx=tx, num_steps=steps, truth=truth)
    return trace.err / jnp.linalg.norm(truth)

  mapped = sweeps.sweep(solve)
  return jax.jit(lambda settings, key: mapped(settings, shared=(key,)))


def iterations(errors: Any, target: float) -> np.ndarray:
  """Steps until the target is reached; one more than there are where it is not."""
  below = np.asarray(errors) < target
  return np.where(below.any(-1), below.argmax(-1) + 1, below.shape[-1] + 1)


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Counts iterations against the condition number, and looks at wider factors."""
  choices: list = []
  every = functools.partial(_recovery.run_all, progress, config.seed_numbers(), config.lanes)
  sizes = (config.measurements, config.rank)
  metrics: dict[str, Any] = {"polyak": {}, "geometric": {}, "wide": []}
  with jax.enable_x64(True):
    runs = [Setting(rule, k) for rule in POLYAK.values() for k in config.conditions]
    found = every(program(config, *sizes, config.steps), runs, name="Polyak")
    for name, errors in zip(POLYAK, np.split(found, 2, axis=1), strict=True):
      counts = iterations(errors, config.target)
      lines = {
        f"condition {k:g}": thin(c)
        for k, c in zip(config.conditions, middle(errors), strict=True)
      }  # fmt: skip
      metrics["polyak"][name] = {"iterations": counts, "curves": lines}
    pairs = [(first, rho) for first in config.first_steps for rho in config.decays]
    runs = [Setting(r, config.conditions[-2], *pair) for r in GEOMETRIC.values() for pair in pairs]
    found = every(program(config, *sizes, config.geometric_steps), runs, name="geometric")
    for name, errors in zip(GEOMETRIC, np.split(found, 2, axis=1), strict=True):
      grid = errors.reshape(config.seeds, len(config.first_steps), len(config.decays), -1)
      least = middle(grid[..., -1])
      i, j = np.unravel_index(np.nanargmin(least), least.shape)
      best(choices, f"first of {name}", config.first_steps, grid[:, :, j, -1])
      best(choices, f"decay of {name}", config.decays, grid[:, i, :, -1])
      metrics["geometric"][name] = {"last": grid[:, i, j, -1], "curve": thin(middle(grid[:, i, j]))}
    for m in config.wide_measurements:
      kinds = {
        f"damping {d:g}": Setting(0, config.wide_condition, damping=d) for d in config.dampings
      }
      kinds |= {PLAIN: Setting(1, config.wide_condition)}
      kinds |= {"SubGM, small start": Setting(SMALL_START, config.wide_condition)}
      wide = program(config, m, 2 * config.rank, config.wide_steps)
      errors = every(wide, list(kinds.values()), name=f"twice the rank, {m}")
      lines = {name: thin(line) for name, line in zip(kinds, middle(errors), strict=True)}
      last = dict(zip(kinds, errors[..., -1].T, strict=True))
      metrics["wide"].append({"last": last, "curves": lines})
  return {**metrics, "choices": choices}


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """Iterations with the condition number, and geometric steps."""
  counts = {n: np.asarray(v["iterations"], float) for n, v in metrics["polyak"].items()}
  what = f"iterations to a relative error of {config.target:g}"
  side = lambda name, i: Side(f"{name}, condition {config.conditions[i]:g}", counts[name][:, i])
  last = {name: Side(name, found["last"]) for name, found in metrics["geometric"].items()}
  most = config.conditions[-1]
  made = [
    Claim(
      f"condition_{k:g}", f"At condition number {k:g} scaled steps need fewer iterations than "
      "plain ones.", "paper", what, side(SCALED, i), side(PLAIN, i), better="lower", scale="ratio",
    )
    for i, k in enumerate(config.conditions) if k > 1
  ]  # fmt: skip
  return [
    *made,
    Claim(
      "independent", "The iterations of scaled steps do not depend on the condition number: at "
      f"{most:g} as many as at 1, within 15 %.", "control", what, side(SCALED, -1), side(SCALED, 0),
      scale="ratio", margin=1.15,
    ),
    Claim(
      "condition_1", "At condition number 1 both need about the same number, within 20 %.",
      "control", what, side(SCALED, 0), side(PLAIN, 0), scale="ratio", margin=1.2,
    ),
    Claim(
      "geometric", "With geometric steps, which know no minimum, scaled ones end with the smaller "
      f"error at condition number {config.conditions[-2]:g}.", "paper",
      f"relative error after {config.geometric_steps} steps", last[SCALED], last[PLAIN],
      better="lower", scale="ratio",
    ),
  ]  # fmt: skip


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Iterations, geometric steps and wider factors, scaled beside plain."""
  counts = {n: np.asarray(v["iterations"], float) for n, v in metrics["polyak"].items()}
  rows = []
  for i, kappa in enumerate(config.conditions):
    missed = int(np.sum(counts[PLAIN][:, i] > config.steps))
    note = f"Plain steps do not get there in {config.steps} on {missed} problems." if missed else ""
    metric = f"iterations to {config.target:g}, condition number {kappa:g}, Polyak's steps"
    sides = (Side(name, counts[name][:, i]) for name in (SCALED, PLAIN))
    rows.append(Row(metric, *sides, better="lower", note=note))
  what = f"relative error after {config.geometric_steps}, condition {config.conditions[-2]:g}"
  sides = (Side(f"{n}, geometric", found["last"]) for n, found in metrics["geometric"].items())
  rows.append(Row(what, *sides, better="lower"))
  for m, found in zip(config.wide_measurements, metrics["wide"], strict=True):
    least = min(config.dampings, key=lambda d: middle(found["last"][f"damping {d:g}"]))
    ours = Side(f"scaled steps, damping {least:g}", found["last"][f"damping {least:g}"])
    others = (Side(n, v) for n, v in found["last"].items() if "damping" not in n)
    what = f"relative error, factors of twice the rank, {m} measurements"
    rows += [Row(what, ours, other, better="lower", note="The best damping.") for other in others]
  return rows


def figure(record: dict[str, Any]) -> Any:
  """Error curves of both rules, iterations against the condition number, and wider factors."""
  metrics, settings = record["metrics"], record["settings"]
  fig, axes = new_figure(2, 3, width=4)
  what = "relative error"
  for ax, (name, found) in zip(axes, metrics["polyak"].items(), strict=False):
    curves(ax, found["curves"], ylabel=what, title=f"Polyak, {name}", log="y")
    ax.axhline(settings["target"], color="k", lw=0.8, ls=":")
  counts = {name: found["iterations"] for name, found in metrics["polyak"].items()}
  title = f"Iterations to {settings['target']:g}"
  _figures.curves(axes[2], counts, settings["conditions"], xlabel="condition number", title=title)
  lines = {name: found["curve"] for name, found in metrics["geometric"].items()}
  title = f"Geometric, condition {settings['conditions'][-2]:g}"
  curves(axes[3], lines, ylabel=what, title=title, log="y")
  sizes = settings["wide_measurements"]
  for ax, m, found in zip(axes[4:], sizes, metrics["wide"], strict=False):
    curves(ax, found["curves"], title=f"Twice the rank, {m} measurements", log="y")
  return fig
