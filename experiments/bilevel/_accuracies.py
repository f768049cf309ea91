"""Adaptive, fixed and scheduled accuracies on one bilevel problem, with the same work."""

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _statistics
from experiments._claims import Claim, Side
from experiments._protocol import Progress
from jaxopt_robust import bilevel
from jaxopt_robust.bilevel import BilevelPoint

SCHEDULES = {
  "geometric": lambda k: 0.9**k,
  "quadratic": lambda k: (k + 1.0) ** -2,
  "cubic": lambda k: (k + 1.0) ** -3,
}


class Task(NamedTuple):
  """A bilevel problem; data are what both objectives take after y and x.

  Attributes:
    inner: inner objective.
    outer: outer objective.
    lower: solver of the inner problem.
    start: ``start(*data) -> BilevelPoint``.
    project: projection of the outer variable.
    constants: strong_convexity, outer_smoothness and convex, as ``bilevel.maid`` takes them.
    value: ``value(x, *data)``, the outer objective at an inner solution of high accuracy.
  """

  inner: Callable[..., Any]
  outer: Callable[..., Any]
  lower: Any
  start: Callable[..., BilevelPoint]
  project: Callable[[Any], Any]
  constants: dict[str, Any]
  value: Callable[..., Any]


def descend(method: Any, task: Task, data: tuple, config: Any) -> dict[str, jax.Array]:
  """All outer variables, the start among them, and the work until then; still after the budget."""
  start = task.start(*data)
  state = method.init(start, None, *data)

  def move(state: Any) -> tuple[Any, jax.Array]:
    state, info = method.step(state, None, *data)
    return state, info.inner_steps + info.products

  def step(carry: Any, _: None) -> tuple[Any, tuple]:
    state, work = carry
    rest = lambda state: (state, jnp.zeros_like(work))
    state, more = jax.lax.cond(work <= config.budget, move, rest, state)
    return (state, work + more), (state.params.x, work + more)

  first = jnp.zeros((), jnp.int32)
  _, (points, work) = jax.lax.scan(step, (state, first), None, length=config.steps)
  return {
    "theta": jnp.concatenate([start.x[None], points]), "work": jnp.concatenate([first[None], work])
  }  # fmt: skip


def adaptive(task: Task, setting: dict, data: tuple, config: Any, *, fixed: bool) -> Any:
  """MAID; with ``fixed`` its line search at an accuracy that never changes."""
  eps = setting["accuracy"]
  method = bilevel.maid(
    task.inner, task.outer, task.lower, project=task.project, accuracy=eps, residual=eps,
    stepsize=setting["stepsize"], decrease=1e-4, **task.constants,
    **({"max_refinements": 0, "relax": 1.0} if fixed else {}),
  )  # fmt: skip
  return descend(method, task, data, config)


def scheduled(task: Task, setting: dict, data: tuple, config: Any) -> Any:
  """HOAG with a table of accuracies."""
  method = bilevel.hoag(
    task.inner, task.outer, task.lower, accuracy=lambda k: setting["table"][k],
    project=task.project, stepsize=setting["stepsize"],
  )  # fmt: skip
  return descend(method, task, data, config)


def at_budget(found: dict, budget: int) -> np.ndarray:
  """The last outer variable within the budget, [..., size]."""
  last = np.sum(found["work"] <= budget, axis=-1) - 1
  return np.take_along_axis(found["theta"], last[..., None, None], axis=-2)[..., 0, :]


def names(config: Any) -> tuple[list[str], list[str], list[str]]:
  """Labels of the adaptive, the fixed and the scheduled methods."""
  return (
    [f"MAID {value:g}" for value in config.accuracies],
    [f"fixed {value:g}" for value in config.fixed],
    [f"HOAG, {name}" for name in SCHEDULES],
  )


def evaluator(task: Task) -> Callable[[Any, tuple], Any]:
  """Values at many outer variables, each with its own data, one after the other."""
  return jax.jit(
    lambda points, data: jax.lax.map(lambda a: task.value(a[0], *a[1]), (points, data))
  )


def _repeated(rows: jax.Array, *, count: int) -> jax.Array:
  """The first row, count times."""
  return jnp.broadcast_to(rows[0], (count, *rows.shape[1:]))


def compare(
  task: Task, config: Any, tuning: tuple, data: tuple, evaluate: Any, progress: Progress,
  variants: Mapping[str, Task] = MappingProxyType({}),
) -> tuple[dict, dict, dict, list]:  # fmt: skip
  """Every method with every first step size on ``tuning``, the best of each on ``data``.

  Args:
    task: the problem.
    config: with ``accuracies``, ``fixed``, ``first``, ``stepsizes``, ``steps`` and ``budget``.
    tuning: arrays with a leading axis of seeds, where step sizes are chosen.
    data: the like, where methods are compared.
    evaluate: ``evaluator(task)``.
    progress: the runner's.
    variants: label -> the problem with other constants, for MAID from the middle accuracy.

  Returns:
    Outer variables at the budget by method, [seeds, size]; values and work along the way of the
    first seed; the choices.
  """
  free = functools.partial(adaptive, fixed=False)
  kinds = {
    "MAID": (functools.partial(free, task), "accuracy", config.accuracies),
    "fixed": (functools.partial(adaptive, task, fixed=True), "accuracy", config.fixed),
    "HOAG": (functools.partial(scheduled, task), "table", [
      [config.first * rule(k) for k in range(config.steps + 1)] for rule in SCHEDULES.values()
    ]),
  }  # fmt: skip
  kinds |= {
    label: (functools.partial(free, other), "accuracy", [middle(config.accuracies)])
    for label, other in variants.items()
  }
  labels = itertools.chain(*names(config), variants)
  points, curves, work, choices = {}, {}, {}, []
  for kind, (method, key, values) in progress.track(kinds.items(), "methods"):
    one = lambda setting, data, method=method: method(setting, data, config)
    program = jax.jit(lambda settings, data, one=one: jax.lax.map(
      lambda d: jax.lax.map(lambda s: one(s, d), settings), data))  # fmt: skip
    for value in values:
      label = next(labels)
      rates = jnp.asarray(config.stepsizes)
      table = jnp.broadcast_to(jnp.asarray(value), (len(rates), *np.shape(value)))
      settings = {key: table, "stepsize": rates}
      found = jax.device_get(progress.clock.call(program, settings, tuning, name=kind))
      tried = at_budget(found, config.budget)  # [seeds, rates, size]
      scores = [float(np.mean(evaluate(tried[:, i], tuning))) for i in range(len(rates))]
      choice = _statistics.choose(
        f"first step size of {label}", config.stepsizes, scores, better="lower"
      )
      choices.append(choice)
      found = jax.device_get(progress.clock.call(program, settings, data, name=kind))
      place = config.stepsizes.index(choice.chosen)
      found = {name: values[:, place] for name, values in found.items()}
      points[label] = at_budget(found, config.budget)
      work[label] = found["work"][0]
      path = jnp.asarray(found["theta"][0])
      repeat = functools.partial(_repeated, count=len(path))
      curves[label] = np.asarray(evaluate(path, jax.tree.map(repeat, data)))
  return points, curves, work, choices


def further_with_the_same_work(
  metrics: dict, config: Any, metric: str, *, kind: str = "paper"
) -> list[Claim]:
  """One claim a fixed or scheduled accuracy: MAID from the middle accuracy ends lower."""
  ours, fixed, plans = names(config)
  side = lambda name: Side(name, metrics["loss"][name])
  return [
    Claim(
      name.replace(", ", "_").replace(" ", "_"),
      f"With the same work MAID reaches a lower loss than {name}.", kind, metric,
      side(middle(ours)), side(name), better="lower", scale="ratio",
      comparisons=len(fixed) + len(plans),
    )
    for name in fixed + plans
  ]  # fmt: skip


def whatever_the_start(
  values: Mapping[str, Any], config: Any, does: str, within: str, metric: str, **options: Any
) -> list[Claim]:
  """Controls: MAID from every accuracy does as from the middle one."""
  labels = names(config)[0]
  base = middle(labels)
  return [
    Claim(
      f"start_{value:g}",
      f"MAID started with the accuracy {value:g} {does} from {base.split()[1]} (within {within}).",
      "control", metric, Side(name, values[name]), Side(base, values[base]), **options,
    )
    for name, value in zip(labels, config.accuracies, strict=True)
    if name != base
  ]  # fmt: skip


def draw(axes: Any, metrics: dict, config: dict, *, ylabel: str) -> None:
  """Values of the first seed against work, a line a method, and where they are compared."""
  for name, curve in metrics["curve"].items():
    axes.plot(np.asarray(metrics["work"][name], float) + 1, curve, lw=1.2, label=name)
  axes.set(xscale="log", yscale="log", xlabel="inner steps and products", ylabel=ylabel)
  axes.axvline(config["budget"], color="0.6", lw=0.8, ls=":")
  axes.legend(fontsize=7)


def middle(values: Sequence[Any]) -> Any:
  """The one that the others are compared with."""
  return values[len(values) // 2]
