"""Newton's method with approximate Hessians beside exact ones and gradient methods."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments._training import stack
from experiments.solvers._newton_baselines import (
  gradient_method,
  recorded_run,
  super_universal_newton,
)
from experiments.solvers._smooth_problems import FAMILIES, Data, tasks
from jaxopt_robust import solvers

PAPER = Paper(
  title="Gradient-normalized smoothness for optimization with approximate Hessians",
  authors="Semenov, Jaggi and Doikov",
  year=2025,
  claim="With a search for one radius, Newton's method with approximate Hessians (Gauss-Newton, "
  "Fisher) is as fast as with exact ones, where gradient methods stall.",
  section="Experiments (figures only; read off those of the authors' public notebook)",
  url="https://arxiv.org/abs/2506.13710",
)
EXACT, UNIVERSAL = "exact Hessian", "super-universal, exact"
ZERO, GRADIENT, METRIC = "no curvature", "gradient method", "gradient method, metric"


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings. A seed draws the data or the start; nothing is tuned, all searches start from 1.

  Attributes:
    problems: which of "LogSumExp", "equations", "Rosenbrock", "Chebyshev", "breast_cancer" and
      "digits" are run.
    sizes: n = m of the log-sum-exp problems.
    mus: their smoothing parameters, in the same order.
    rows: linear equations.
    columns: their unknowns.
    chain: length of the Chebyshev chain.
    components: principal components of digits.
    newton_limit: most steps of Newton methods.
    gradient_limit: most steps of gradient methods and of Newton's without curvature.
    small_limit: the same on the problems of two unknowns.
    target: gap f - f* of the synthetic problems.
    tol: gradient norm of the real data.
  """

  problems: tuple[str, ...] = (
    "LogSumExp", "equations", "Rosenbrock", "Chebyshev", "breast_cancer", "digits",
  )  # fmt: skip
  sizes: tuple[int, ...] = (100, 200, 200)
  mus: tuple[float, ...] = (1.0, 1.0, 0.5)
  rows: int = 100
  columns: int = 200
  chain: int = 200
  components: int = 8
  newton_limit: int = 400
  gradient_limit: int = 2000
  small_limit: int = 10_000
  target: float = 1e-8
  tol: float = 1e-6


SIZES = {
  "toy": Size(
    Config(
      seeds=2, problems=("LogSumExp",), sizes=(8,), mus=(1.0,), newton_limit=60, gradient_limit=300
    ),
    "8 unknowns.",
  ),
  "desk": Size(
    Config(),
    "LogSumExp with 100 and 200 unknowns and a chain of 200, instead of 1000 each; breast cancer "
    "and digits instead of larger tables.",
  ),
  "large": Size(
    Config(sizes=(1000,), mus=(1.0,), chain=1000, components=40), "Tables of scikit-learn."
  ),
}  # fmt: skip


def methods(name: str, config: Config) -> dict[str, Callable]:
  """Each method as ``run(start, data)``."""
  family = FAMILIES[name]
  metric = (lambda d: d.metric) if family.has_metric else None
  newton = lambda model: solvers.gns_newton(family.fun, model, metric=metric)
  found = {
    EXACT: newton(solvers.exact_curvature(family.fun)),
    family.name: newton(family.model),
    UNIVERSAL: super_universal_newton(family.fun, metric),
    GRADIENT: gradient_method(family.fun),
  }
  if family.has_metric:
    found[METRIC] = gradient_method(family.fun, metric)
  if family.real:
    found[ZERO] = newton(solvers.zero_curvature())

  def left(state: Any, d: Data) -> jax.Array:
    if family.real:
      return jnp.linalg.norm(state.grad) / config.tol
    return (state.value - d.best) / config.target

  few = config.small_limit if name == "Rosenbrock" else config.gradient_limit
  cheap = (GRADIENT, METRIC, ZERO)
  limits = {n: few if n in cheap else config.newton_limit for n in found}
  return {n: recorded_run(solver, left, limits[n]) for n, solver in found.items()}


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Every method on every problem."""
  with jax.enable_x64(True):
    return _run(config, progress)


def _run(config: Config, progress: Progress) -> dict[str, Any]:
  metrics: dict[str, Any] = {}
  for name in progress.track(config.problems, "problems"):
    made = tasks(name, config)
    for method, one in methods(name, config).items():
      # One row after the other: in a batch those that have ended would search on with the last.
      program = jax.jit(lambda rows, one=one: jax.lax.map(lambda d: one(d.start, d), rows))
      for task, rows in made.items():
        call = progress.clock.call(program, stack(rows), name=f"{method}, {name}")
        metrics.setdefault(task, {})[method] = summary(call, len(rows), config)
  return {"problems": metrics}


def summary(found: dict[str, Any], rows: int, config: Config) -> dict[str, Any]:
  """Numbers a seed (repeated where no seed changes them), the authors' draw, the first curve."""
  found = {key: np.asarray(value) for key, value in found.items()}
  own = rows > config.seeds or rows == 1
  each = lambda key: np.resize(found[key][1:] if rows > config.seeds else found[key], config.seeds)
  steps = int(found["iterations"][0])
  shown = np.unique(np.geomspace(1, steps, 60).round().astype(int)) - 1
  made = {k: each(k) for k in ("iterations", "solves", "reached", "value", "rise", "overlong")}
  made["own draw"] = [int(found[key][0]) for key in ("iterations", "solves")] if own else []
  curve = {key: found[key][0][shown] for key in ("norms", "work")}
  return made | {"curve": {"step": shown + 1, **curve}}


def _side(metrics: dict, task: str, method: str, key: str = "iterations") -> Side:
  """Numbers of the seeds on which some method reaches the target.

  From some starts of the Chebyshev chain all of them end in another stationary point.
  """
  found = metrics["problems"][task]
  some = np.any([numbers["reached"] for numbers in found.values()], axis=0)
  values = np.asarray(found[method][key], float)
  return Side(method, values[some] if some.any() else values)


def _family(task: str) -> str:
  return task.split(",")[0]


def _model(task: str) -> str:
  return FAMILIES[_family(task)].name


# How many times the steps of the exact Hessian the inexact model takes at most. The figures of the
# authors show about 90 and 35 (LogSumExp, n = 1000), 20 and 30 (equations), and lines that cover
# each other (Rosenbrock, p = 5). On the Chebyshev chain super-universal Newton is their exact one.
AT_MOST = {"LogSumExp": 3.0, "equations": 1.0, "Rosenbrock": 1.1, "Chebyshev": 1.1}
NOT_SHOWN = ("Rosenbrock, squares", "Rosenbrock, p = 4", "LogSumExp, n = 200, mu = 0.5")


def claims(metrics: dict, config: Config) -> list[Claim]:
  """Steps of inexact models beside exact ones and gradient methods; bounds that are proved."""
  made = []

  def fewer(task: str, other: str, text: str, *, kind: str, factor: float = 1.0) -> None:
    key = f"{task}_{other}".replace(", ", "_").replace(" ", "_")
    made.append(
      Claim(
        key, text, kind, f"steps to the target, {task}", _side(metrics, task, _model(task)),
        _side(metrics, task, other), better="lower", scale="ratio", margin=factor,
      )
    )  # fmt: skip

  for task in metrics["problems"]:
    family, model = FAMILIES[_family(task)], _model(task)
    kind = "expected" if task in NOT_SHOWN or family.real else "paper"
    if family.real:
      fewer(task, GRADIENT, f"{model} takes fewer steps than the gradient method.", kind=kind)
      fewer(task, ZERO, f"{model} takes fewer steps than the method without it.", kind=kind)
      continue
    most, chain = AT_MOST[_family(task)], task.startswith("Chebyshev")
    text = f"{model} takes at most {most:g} times the steps of the exact Hessian."
    fewer(task, EXACT, text, kind="expected" if chain else kind, factor=1 / most)
    if chain:
      text = f"{model} takes fewer steps than super-universal Newton with the exact Hessian."
      fewer(task, UNIVERSAL, text, kind=kind)
    many = 2.0 if task.startswith("equations") else 10.0
    text = f"The gradient method takes more than {many:g} times the steps of {model}, or stalls."
    fewer(task, GRADIENT, text, kind=kind, factor=many)
    if family.has_metric:
      fewer(task, METRIC, f"{model} takes fewer steps than gradients in its metric.", kind=kind)
  for key, bound, text in (
    ("overlong", 1.0, "No step of an inexact model is longer than its radius gamma."),
    ("rise", 0.0, "No step of an inexact model raises the objective."),
  ):
    worst = np.max([metrics["problems"][t][_model(t)][key] for t in metrics["problems"]], axis=0)
    beyond = Side("inexact models", np.maximum(worst - bound, 0))
    made.append(
      Claim(
        key, text, "theory", f"by how much, largest over all problems: {key}", beyond,
        Side("0", 0.0), better="lower", margin=-1e-9,
      )
    )  # fmt: skip
  return made


def table(metrics: dict, config: Config) -> list[Row]:
  """Steps and linear solves of every method beside the exact Hessian."""
  rows = []
  for task, found in metrics["problems"].items():
    reached = {method: np.asarray(numbers["reached"]) for method, numbers in found.items()}
    some = np.any(list(reached.values()), axis=0)
    left_out = f"{np.sum(~some)} starts from which no method gets there left out. "
    for method, numbers in found.items():
      if method == EXACT:
        continue
      missed = int(np.sum(some & ~reached[method]))
      note = f"{missed} runs ended before the target, at the limit of steps. " if missed else ""
      note += "" if some.all() else left_out
      for i, key in enumerate(("iterations", "solves")):
        own = [str(m["own draw"][i]) for m in (numbers, found[EXACT]) if m["own draw"]]
        draw = f"With the data of the authors' notebook: {' and '.join(own)}." if own else ""
        sides = (_side(metrics, task, m, key) for m in (method, EXACT))
        rows.append(Row(f"{key}, {task}", *sides, better="lower", note=note + draw))
  return rows


def figure(record: dict) -> Any:
  """The gradient's norm against steps and against linear solves, one problem of each family."""
  last = {_family(task): task for task in record["metrics"]["problems"]}
  fig, axes = new_figure(2, len(last), width=3.4)
  for i, task in enumerate(last.values()):
    above, below = axes[i], axes[len(last) + i]
    for method, numbers in record["metrics"]["problems"][task].items():
      curve = numbers["curve"]
      for ax, key in ((above, "step"), (below, "work")):
        ax.loglog(curve[key], curve["norms"], lw=1.2, label=method)
    above.set(xlabel="steps", ylabel="gradient norm", title=task)
    below.set(xlabel="trials (Newton: linear solves)", ylabel="gradient norm")
    above.legend(fontsize=6)
  return fig
