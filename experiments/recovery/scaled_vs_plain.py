"""Scaled against plain sub-gradient steps on ill-conditioned matrices with gross errors."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments._earlier import Claim, Outcome, Row
from experiments._protocol import Paper, Progress, new_figure
from jaxopt_robust import problems, recovery, sweeps

PAPER = Paper(
  title="Low-Rank Matrix Recovery with Scaled Subgradient Methods: Fast and Robust Convergence "
  "Without the Condition Number",
  authors="Tong, Ma and Chi",
  year=2021,
  claim="Dividing the sub-gradients of the factors by Gram matrices makes the number of iterations "
  "of robust matrix sensing independent of the condition number, where that of plain steps grows "
  "with it. Factors wider than the rank are another matter: there the number of measurements "
  "decides, not the damping.",
  section="Section 4, the figures on matrix sensing; the wider factors are our own trial",
  url="https://arxiv.org/abs/2010.13364",
)

_CURVE_POINTS = 100  # of a curve in the record
_FLOOR = 1e-16  # of a relative error, for logarithms


@dataclasses.dataclass(frozen=True)
class Config:
  """Settings.

  Attributes:
    seeds: number of problems.
    dim: rows and columns of the matrix.
    rank: its rank.
    measurements: number of Gaussian measurements.
    rate: fraction of measurements that are grossly wrong.
    conditions: condition numbers; the last but one is that of the geometric steps.
    steps: steps of Polyak's length.
    target: relative error to reach.
    rho: decay of the geometric steps.
    first_steps: their first lengths, of which each method gets its best.
    geometric_steps: their number.
    wide_condition: condition number of the problems for factors of twice the rank.
    wide_measurements: numbers of measurements there.
    dampings: what is added to the Gram matrices there.
    wide_steps: number of steps there.
    small_rho: decay of the method with a small start there, at the first number of measurements.
    small_steps: its number of steps; 0 leaves it out.
  """

  seeds: int = 5
  dim: int = 40
  rank: int = 4
  measurements: int = 1280
  rate: float = 0.2
  conditions: tuple[float, ...] = (1.0, 5.0, 10.0, 20.0)
  steps: int = 1000
  target: float = 1e-6
  rho: float = 0.91
  first_steps: tuple[float, ...] = (1.0, 2.0, 5.0, 10.0)
  geometric_steps: int = 300
  wide_condition: float = 5.0
  wide_measurements: tuple[int, ...] = (1280, 3840)
  dampings: tuple[float, ...] = (0.0, 0.01, 0.1, 1.0)
  wide_steps: int = 600
  small_rho: float = 0.995
  small_steps: int = 2000


SIZES = {
  "toy": Config(
    seeds=1, dim=10, rank=2, measurements=240, conditions=(1.0, 5.0, 20.0), steps=300,
    first_steps=(1.0, 5.0), geometric_steps=200, wide_measurements=(240,), dampings=(0.0, 0.1),
    wide_steps=200, small_steps=0,
  ),
  "desk": Config(),
  "large": Config(
    seeds=10, dim=100, rank=10, measurements=8000, wide_measurements=(8000, 24000),
    first_steps=(1.0, 2.0, 5.0, 10.0, 20.0, 50.0),
  ),
}  # fmt: skip


class Setting(NamedTuple):
  """One run.

  Attributes:
    rule: index of its rule in ``RULES``.
    condition: condition number of the matrix.
    first: first length of geometric steps.
    damping: of the preconditioner.
  """

  rule: Any
  condition: Any
  first: Any = 1.0
  damping: Any = 0.0


RULES = ("scaled, Polyak", "plain, Polyak", "scaled, geometric", "plain, geometric")


def choose(index: Any, rules: Sequence[Any]) -> optax.GradientTransformationExtraArgs:
  """The rule with a number that is data: all run, one is taken. So one program serves them all."""

  def init(params: Any) -> tuple:
    return tuple(rule.init(params) for rule in rules)

  def update(updates: Any, state: tuple, params: Any = None, **extra: Any) -> tuple:
    found = [rule.update(updates, s, params, **extra) for rule, s in zip(rules, state, strict=True)]
    taken = jax.tree.map(lambda *u: jnp.stack(u)[index], *(u for u, _ in found))
    return taken, tuple(s for _, s in found)

  return optax.GradientTransformationExtraArgs(init, update)


def _problem(config: Config, measurements: int, condition: Any, key: Any) -> tuple:
  """Operator, measurements, mean size of the corruption, truth, and its norm."""
  problem = problems.make_low_rank_sensing(
    key, num_measurements=measurements, rows=config.dim, cols=config.dim, rank=config.rank,
    condition=condition,
  )  # fmt: skip
  matrices, clean = problem.data
  op = recovery.GaussianSensing(matrices.reshape(measurements, -1), (config.dim, config.dim))
  corrupted = recovery.scaledsm_outliers(jax.random.fold_in(key, 1), clean, rate=config.rate)
  truth = problem.truth.matrix
  return op, corrupted.y, jnp.mean(jnp.abs(corrupted.s)), truth, jnp.linalg.norm(truth)


def near_start(
  config: Config, measurements: int, width: int, steps: int, key: Any, setting: Setting
) -> Any:
  """Relative errors from the truncated spectral start."""
  op, y, minimum, truth, norm = _problem(config, measurements, setting.condition, key)
  start = recovery.truncated_spectral(op, y, width, rate=config.rate)
  decaying = {"eta0": setting.first, "rho": config.rho}
  rules = (
    recovery.scaled_polyak(minimum=minimum, damping=setting.damping),
    recovery.polyak(minimum=minimum),
    recovery.scaled_geometric(**decaying, damping=setting.damping),
    recovery.grad_normalized_geometric(**decaying),
  )
  tx = choose(setting.rule, rules)
  _, trace = recovery.subgm(op, y, start, tx=tx, num_steps=steps, truth=truth)
  return trace.err / norm


def small_start(config: Config, measurements: int, key: Any, first: Any) -> Any:
  """The last relative error of SubGM with factors of twice the rank."""
  op, y, _, truth, norm = _problem(config, measurements, config.wide_condition, key)
  start = recovery.sign_spectral(op, y, 2 * config.rank, alpha=1e-3, kind="general")
  tx = recovery.q_normalized_geometric(eta0=first, rho=config.small_rho)
  _, trace = recovery.subgm(op, y, start, tx=tx, num_steps=config.small_steps, truth=truth)
  return trace.err[-1] / norm


def _over_seeds(progress: Progress, config: Config, fn: Any, grid: Any, name: str) -> Any:
  """``fn(key, point)`` for every seed (a sweep over devices) and point (a batch): one program.

  The points of one seed share their operator, so that a step reads it once for all of them.
  """
  mapped = sweeps.sweep(lambda key, grid: jax.vmap(lambda point: fn(key, point))(grid))
  program = jax.jit(lambda keys, grid: mapped(keys, shared=(grid,)))
  keys = jax.vmap(jax.random.key)(np.arange(config.seeds))
  return np.asarray(progress.clock.call(program, keys, grid, name=name))


def _grid(settings: Sequence[Setting]) -> Setting:
  """Settings as arrays with one row each."""
  rows = zip(*settings, strict=True)
  return Setting(np.array(next(rows), np.int32), *(np.array(row, np.float64) for row in rows))


def thin(curve: Any) -> list:
  """Iterations and values of a curve, for the record."""
  curve = np.asarray(curve)
  index = np.unique(np.geomspace(1, len(curve), _CURVE_POINTS).astype(int)) - 1
  return [(index + 1).tolist(), curve[index]]


def _middle(errors: Any) -> Any:
  """Geometric mean over the seeds, the first axis."""
  return np.exp(np.mean(np.log(np.maximum(errors, _FLOOR)), axis=0))


def iterations(errors: Any, target: float) -> np.ndarray:
  """Steps until the target is reached; one more than there are where it is not."""
  below = np.asarray(errors) < target
  return np.where(below.any(-1), below.argmax(-1) + 1, below.shape[-1] + 1)


def run(config: Config, progress: Progress) -> Outcome:
  """Counts iterations against the condition number, and looks at wider factors."""
  middle_condition = config.conditions[-2]
  by_condition = [Setting(rule, k) for rule in (0, 1) for k in config.conditions]
  by_first = [Setting(rule, middle_condition, f) for rule in (2, 3) for f in config.first_steps]
  damped = [Setting(0, config.wide_condition, damping=d) for d in config.dampings]
  damped.append(Setting(1, config.wide_condition))
  num, width = len(config.conditions), 2 * config.rank
  metrics: dict[str, Any] = {}
  with jax.enable_x64(True):
    over = functools.partial(_over_seeds, progress, config)
    at_rank = functools.partial(near_start, config, config.measurements, config.rank, config.steps)
    found = over(at_rank, _grid(by_condition + by_first), "true rank")
    polyak, decayed = np.split(found, [len(by_condition)], axis=1)
    for k, name in enumerate(("scaled", "plain")):
      errors = polyak[:, k * num : (k + 1) * num]
      ours = np.split(decayed, 2, axis=1)[k][..., : config.geometric_steps]
      best = int(np.argmin(_middle(ours[..., -1])))
      metrics[name] = {
        "iterations": iterations(errors, config.target),
        "last": errors[..., -1],
        "curves": [thin(curve) for curve in _middle(errors)],
        "geometric": {
          "last": ours[..., -1],
          "best_first_step": config.first_steps[best],
          "curve": thin(_middle(ours[:, best])),
        },
      }
    metrics["wide"] = {"damped": [], "plain": [], "small_start": None, "curves": []}
    for m in progress.track(config.wide_measurements, "wider factors"):
      twice = functools.partial(near_start, config, m, width, config.wide_steps)
      errors = over(twice, _grid(damped), f"twice the rank, {m}")
      metrics["wide"]["damped"].append(errors[:, :-1, -1])
      metrics["wide"]["plain"].append(errors[:, -1, -1])
      metrics["wide"]["curves"].append([thin(curve) for curve in _middle(errors)])
    if config.small_steps:
      few = functools.partial(small_start, config, config.wide_measurements[0])
      metrics["wide"]["small_start"] = over(few, np.array([0.25]), "small start")[:, 0]
  return Outcome(metrics, _table(config, metrics), _claims(config, metrics))


def _table(config: Config, metrics: dict[str, Any]) -> list[Row]:
  counts = {name: np.asarray(metrics[name]["iterations"]) for name in ("scaled", "plain")}
  rows = []
  for i, kappa in enumerate(config.conditions):
    unreached = int(np.sum(counts["plain"][:, i] > config.steps))
    rows.append(
      Row(
        "scaled steps, Polyak",
        f"iterations to {config.target:g}, condition number {kappa:g}",
        float(counts["scaled"][:, i].mean()),
        baseline=float(counts["plain"][:, i].mean()),
        baseline_name="plain steps, Polyak",
        better="lower",
        spread=float(counts["scaled"][:, i].std()),
        note=f"Plain steps do not get there in {config.steps} on {unreached} of {config.seeds} "
        "problems."
        if unreached
        else "",
      )
    )
  decayed = {name: metrics[name]["geometric"] for name in ("scaled", "plain")}
  best = {k: _middle(np.asarray(d["last"])).min() for k, d in decayed.items()}
  rows.append(
    Row(
      "scaled steps, geometric",
      f"relative error after {config.geometric_steps}, condition number {config.conditions[-2]:g}",
      float(best["scaled"]),
      baseline=float(best["plain"]),
      baseline_name="plain steps, geometric",
      better="lower",
      note=f"Decay {config.rho:g} as in the paper; the first step of each is the best one for it, "
      f"{decayed['scaled']['best_first_step']:g} and {decayed['plain']['best_first_step']:g}.",
    )
  )
  found = metrics["wide"]
  for k, m in enumerate(config.wide_measurements):
    by_damping = _middle(np.asarray(found["damped"][k]))
    baselines = {"plain steps": found["plain"][k]}
    if k == 0 and found["small_start"] is not None:
      baselines["SubGM from a small start"] = found["small_start"]
    rows += [
      Row(
        "scaled steps, factors of twice the rank",
        f"relative error, {m} measurements",
        float(by_damping.min()),
        baseline=float(_middle(np.asarray(errors))),
        baseline_name=label,
        better="lower",
        note=f"The best damping, {config.dampings[int(by_damping.argmin())]:g}; without damping "
        f"{by_damping[0]:.2g}.",
      )
      for label, errors in baselines.items()
    ]
  return rows


def _claims(config: Config, metrics: dict[str, Any]) -> list[Claim]:
  scaled = np.asarray(metrics["scaled"]["iterations"]).mean(0)
  plain = np.asarray(metrics["plain"]["iterations"]).mean(0)
  found = metrics["wide"]
  numbers = lambda counts: {
    f"kappa {k:g}": float(n) for k, n in zip(config.conditions, counts, strict=True)
  }
  few = _middle(np.asarray(found["damped"][0]))
  claims = [
    Claim(
      "The iterations of scaled steps differ by at most 15 % over all condition numbers.",
      bool(scaled.max() <= 1.15 * scaled.min() and scaled.max() <= config.steps),
      numbers(scaled),
    ),
    Claim(
      "At condition number 1 both need about the same number, within 20 %.",
      bool(abs(plain[0] / scaled[0] - 1) < 0.2),
      {"scaled": scaled[0], "plain": plain[0]},
    ),
    Claim(
      "Those of plain steps grow with the condition number, to more than four times as many.",
      bool(np.all(np.diff(plain) > 0) and plain[-1] > 4 * plain[0]),
      numbers(plain),
    ),
    Claim(
      "The same holds for geometric steps: plain ones stop where scaled ones converge.",
      bool(
        _middle(np.asarray(metrics["scaled"]["geometric"]["last"])).min()
        < 1e-3 * _middle(np.asarray(metrics["plain"]["geometric"]["last"])).min()
      ),
      {
        name: float(_middle(np.asarray(metrics[name]["geometric"]["last"])).min())
        for name in ("scaled", "plain")
      },
    ),
  ]
  if len(config.wide_measurements) > 1 and config.small_steps:
    many = _middle(np.asarray(found["damped"][-1]))
    small = _middle(np.asarray(found["small_start"]))
    claims += [
      Claim(
        "With factors of twice the rank and few measurements no damping makes scaled steps "
        "converge from the spectral start; the small start of SubGM gets closer.",
        bool(few.min() > 0.03 and small < few.min()),
        {f"damping {d:g}": e for d, e in zip(config.dampings, few, strict=True)}
        | {"small start": float(small)},
      ),
      Claim(
        "With three times as many measurements they converge without damping, and damping hurts.",
        bool(many[0] < 1e-9 and np.all(np.diff(many) > 0)),
        {f"damping {d:g}": e for d, e in zip(config.dampings, many, strict=True)},
      ),
    ]
  return claims


def figure(record: dict[str, Any]) -> Any:
  """Error curves of both rules, iterations against the condition number, and wider factors."""
  metrics, settings = record["metrics"], record["settings"]
  conditions = settings["conditions"]
  panels = len(settings["wide_measurements"])
  fig, axes = new_figure(1, 3 + panels, width=3.6)
  colors = [f"C{i}" for i in range(len(conditions))]
  for i, kappa in enumerate(conditions):
    for name, style in (("scaled", "-"), ("plain", "--")):
      x, y = metrics[name]["curves"][i]
      label = f"condition {kappa:g}" if name == "scaled" else None
      axes[0].semilogy(x, y, style, color=colors[i], label=label)
  axes[0].axhline(settings["target"], color="k", lw=0.8, ls=":")
  axes[0].set(
    xlabel="iteration", ylabel="relative error", title="Polyak: scaled —, plain - -"
  )  # fmt: skip
  axes[0].legend(fontsize=8)
  for name in ("scaled", "plain"):
    counts = np.asarray(metrics[name]["iterations"], float)
    axes[1].errorbar(conditions, counts.mean(0), counts.std(0), fmt="o-", ms=4, label=name)
  axes[1].axhline(settings["steps"], color="k", lw=0.8, ls=":", label="steps made")
  axes[1].set(
    xlabel="condition number", title=f"Iterations to {settings['target']:g}", ylim=(0, None)
  )
  axes[1].legend(fontsize=8)
  for name in ("scaled", "plain"):
    found = metrics[name]["geometric"]
    axes[2].semilogy(*found["curve"], label=f"{name}, first step {found['best_first_step']:g}")
  axes[2].set(xlabel="iteration", title=f"Geometric, condition {conditions[-2]:g}")
  axes[2].legend(fontsize=8)
  wide_metrics = metrics["wide"]
  for k, m in enumerate(settings["wide_measurements"]):
    ax = axes[3 + k]
    labels = [f"damping {damping:g}" for damping in settings["dampings"]] + ["plain steps"]
    for label, curve in zip(labels, wide_metrics["curves"][k], strict=True):
      ax.semilogy(*curve, "k:" if label == "plain steps" else "-", label=label)
    if k == 0 and wide_metrics["small_start"] is not None:
      middle = np.exp(np.mean(np.log(np.asarray(wide_metrics["small_start"], float))))
      ax.axhline(middle, color="k", ls="-.", lw=1, label="SubGM, small start, at its end")
    ax.set(xlabel="iteration", title=f"Twice the rank, m = {m}")
    ax.legend(fontsize=7)
  return fig
