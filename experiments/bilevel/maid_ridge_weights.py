"""A ridge weight for each coefficient of a multinomial logistic regression, learned."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import _amendments, _figures, datasets
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments.bilevel import _accuracies
from experiments.bilevel.maid_tv_denoising import PAPER as DENOISING
from jaxopt_robust import bilevel, solvers
from jaxopt_robust.bilevel import BilevelPoint

PAPER = Paper(
  title=DENOISING.title,
  authors=DENOISING.authors,
  year=DENOISING.year,
  claim="For the ridge weights of a multinomial logistic regression, descent that chooses its "
  "accuracies on the way gets further with the same work than descent at fixed accuracies or at "
  "those of a schedule, whatever accuracy it starts with.",
  section="Numerical experiments: multinomial logistic regression on MNIST (figures only)",
  url=DENOISING.url,
)
AMENDED = _amendments.MAID_RIDGE_WEIGHTS
CLASSES, START, LIMIT = 10, -3.0, 8.0
UNCERTIFIED = "MAID, mu = L"  # what holds its errors is then no bound


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings. A seed draws the rows of all sets.

  Attributes:
    train: rows of the inner problem.
    validation: rows of the outer objective.
    steps: outer steps of a method, at most.
    budget: inner steps and Hessian products in all after which methods are compared.
    accuracies: of the first step of MAID, of the inner solution and of the linear system.
    fixed: accuracies of descent that never changes them.
    stepsizes: first step sizes, chosen by the loss on rows drawn anew.
    first: first accuracy of the schedules, relative.
    uncertified: whether MAID also runs with mu = L, as in the authors' code.
  """

  seeds: int = 8
  train: int = 300
  validation: int = 600
  steps: int = 40
  budget: int = 2000
  accuracies: tuple[float, ...] = (0.1, 1e-2, 1e-3)
  fixed: tuple[float, ...] = (0.1, 1e-3)
  stepsizes: tuple[float, ...] = (100.0, 1000.0, 1e4, 1e5)
  first: float = 0.01
  uncertified: bool = True


SIZES = {
  "toy": Size(
    Config(seeds=2, train=40, validation=40, steps=1, budget=200, accuracies=(0.1, 1e-2), fixed=(),
           stepsizes=(1.0, 10.0, 100.0), uncertified=False),
    "40 rows and 1 step.",
  ),
  "desk": Size(Config(), "Digits of 8 x 8 pixels instead of MNIST at 12 x 12; 300 rows to learn."),
  "large": Size(Config(budget=50_000, steps=400), "Digits of 8 x 8 pixels instead of MNIST."),
}  # fmt: skip


def make_rows(config: Config, seed: int, draw: int) -> tuple[np.ndarray, ...]:
  """Rows and one-hot labels to train, for validation and for the test, and two curvatures."""
  digits = datasets.load("digits")
  order = np.random.default_rng([seed, draw]).permutation(len(digits["y"]))
  x, y = digits["x"][order] / 16.0, np.eye(CLASSES)[digits["y"][order]]
  ends = np.cumsum([config.train, config.validation])
  parts = list(zip(np.split(x, ends), np.split(y, ends), strict=True))
  # The Hessian of the cross entropy in its logits is at most 1/2.
  bounds = [0.5 * np.linalg.norm(rows, 2) ** 2 / len(rows) for rows, _ in parts[:2]]
  return (*parts[0], *parts[1], *parts[2], *map(np.asarray, bounds))


def cross_entropy(w: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
  return jnp.mean(optax.softmax_cross_entropy(x @ w, y))


def inner(w: jax.Array, theta: jax.Array, x: jax.Array, y: jax.Array, *_: jax.Array) -> jax.Array:
  """Cross entropy and 1/2 sum e^theta w^2."""
  return cross_entropy(w, x, y) + 0.5 * jnp.sum(jnp.exp(theta.reshape(w.shape)) * w**2)


def outer(w: jax.Array, theta: jax.Array, *data: jax.Array) -> jax.Array:
  """Cross entropy of the validation rows."""
  del theta
  return cross_entropy(w, data[2], data[3])


def convexity(theta: jax.Array, *data: jax.Array) -> jax.Array:
  """mu, of the ridge term alone."""
  del data
  return jnp.exp(jnp.min(theta))


def smoothness(theta: jax.Array, *data: jax.Array) -> jax.Array:
  """L."""
  return data[6] + jnp.exp(jnp.max(theta))


LOWER = bilevel.strongly_convex_descent(inner, strong_convexity=convexity, smoothness=smoothness)


def start(x: jax.Array, y: jax.Array, *_: jax.Array) -> BilevelPoint:
  shape = (x.shape[1], y.shape[1])
  return BilevelPoint(jnp.full(shape[0] * shape[1], START), jnp.zeros(shape))


def solution(theta: jax.Array, *data: jax.Array) -> jax.Array:
  """Coefficients of high accuracy."""
  solver = solvers.from_optax(inner, optax.lbfgs())
  w = start(*data).y
  return solvers.run_until(solver, w, None, theta, *data, tol=1e-6, max_steps=500)[0]


TASK = _accuracies.Task(
  inner, outer, LOWER, start, functools.partial(jnp.clip, min=-LIMIT, max=LIMIT),
  {
    "strong_convexity": convexity,
    "outer_smoothness": lambda theta, *data: data[7],
    "convex": True,
  },
  lambda theta, *data: outer(solution(theta, *data), theta, *data),
)  # fmt: skip


@jax.enable_x64(True)
def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Every method with every first step size on rows drawn apart, the best on the others."""
  sets = [
    [make_rows(config, seed, draw) for seed in config.seed_numbers()] for draw in (1, 0)
  ]  # step sizes are chosen on the first draw
  tuning, data = (tuple(map(jnp.asarray, map(np.stack, zip(*rows, strict=True)))) for rows in sets)
  evaluate = _accuracies.evaluator(TASK)
  loose = TASK._replace(constants=TASK.constants | {"strong_convexity": smoothness})
  variants = {UNCERTIFIED: loose} if config.uncertified else {}
  found = _accuracies.compare(TASK, config, tuning, data, evaluate, progress, variants)
  points, curves, work, choices = found

  def test(theta: jax.Array, data: tuple) -> jax.Array:
    found = jnp.argmax(data[4] @ solution(theta, *data), axis=1)
    return jnp.mean(found == jnp.argmax(data[5], axis=1), dtype=theta.dtype)

  accuracy = jax.jit(lambda points, data: jax.lax.map(lambda a: test(*a), (points, data)))
  points["one weight for all, as at the start"] = np.full_like(next(iter(points.values())), START)
  return {
    "loss": {name: np.asarray(evaluate(theta, data)) for name, theta in points.items()},
    "accuracy": {name: np.asarray(accuracy(theta, data)) for name, theta in points.items()},
    "curve": curves, "work": work, "choices": choices,
  }  # fmt: skip


def claims(metrics: dict, config: Config) -> list[Claim]:
  """Independence of the first accuracy; further than fixed and scheduled accuracies."""
  metric = f"validation loss after {config.budget} inner steps and products"
  found = _accuracies.whatever_the_start(
    metrics["loss"],
    config,
    "reaches the loss that it does",
    "5 %",
    metric,
    better="lower",
    scale="ratio",
    margin=1.05,
  )
  found += _accuracies.further_with_the_same_work(metrics, config, metric)
  return found + [
    Claim(
      f"uncertified_{name}",
      f"With mu = L, as in the authors' code, MAID reaches a lower loss than HOAG, {name}, with "
      "the same work.", "paper", metric, Side(UNCERTIFIED, metrics["loss"][UNCERTIFIED]),
      Side(f"HOAG, {name}", metrics["loss"][f"HOAG, {name}"]), better="lower", scale="ratio",
      comparisons=len(_accuracies.SCHEDULES),
    )
    for name in (_accuracies.SCHEDULES if config.uncertified else ())
  ]  # fmt: skip


def table(metrics: dict, config: Config) -> list[Row]:
  """Losses after the budget, and accuracy on test rows."""
  middle = _accuracies.middle(_accuracies.names(config)[0])
  base = "one weight for all, as at the start"
  best = Side(middle, metrics["loss"][middle])
  rows = [
    Row("validation loss after the budget", Side(name, values), best, better="lower")
    for name, values in metrics["loss"].items()
    if name != middle
  ]
  bare = Side(base, metrics["accuracy"][base])
  return rows + [
    Row("accuracy on test rows", Side(name, values), bare)
    for name, values in metrics["accuracy"].items()
    if name != base
  ]


def figure(record: dict) -> Any:
  """Loss against work of one seed for each method; beside it the losses of all seeds."""
  metrics = record["metrics"]
  fig, axes = new_figure(1, 2)
  _accuracies.draw(axes[0], metrics, record["settings"], ylabel="validation loss")
  _figures.dots(axes[1], {"": metrics["loss"]}, ylabel="validation loss after the budget")
  return fig
