"""Least squares in least squares: accuracies of hypergradients where everything is known."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _figures
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments.bilevel import _accuracies
from experiments.bilevel.maid_tv_denoising import PAPER as DENOISING
from jaxopt_robust import bilevel
from jaxopt_robust.bilevel import BilevelPoint

PAPER = Paper(
  title=DENOISING.title,
  authors=DENOISING.authors,
  year=DENOISING.year,
  claim="On least squares in least squares, whose value is known in closed form, descent at a "
  "fixed low accuracy stalls; descent that chooses its accuracies on the way does not, whatever "
  "accuracy it starts with.",
  section="Numerical experiments: linear least squares (figures only)",
  url=DENOISING.url,
)
TWICE = (
  "Recorded twice on the report seeds: best step sizes at the edge of the grid led to a wider one, "
  "and gaps are computed without the difference of two values, which was below 0 for some."
)
GAP = "F - min F after {} inner steps and products"


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings. A seed draws the matrices and the noise.

  Attributes:
    inner_size: number of inner variables.
    outer_size: number of outer variables.
    condition: condition number of the inner matrix, whose square is that of the inner problem.
    noise: standard deviation of both right-hand sides' noise.
    steps: outer steps of a method, at most.
    budget: inner steps and Hessian products in all after which methods are compared.
    accuracies: of the first step of MAID, of the inner solution and of the linear system.
    fixed: accuracies of descent that never changes them.
    stepsizes: first step sizes, chosen on problems drawn anew.
    first: first accuracy of the schedules, relative.
  """

  seeds: int = 8
  inner_size: int = 100
  outer_size: int = 10
  condition: float = 30.0
  noise: float = 0.01
  steps: int = 400
  budget: int = 20_000
  accuracies: tuple[float, ...] = (0.1, 1e-2, 1e-4)
  fixed: tuple[float, ...] = (0.1, 1e-3, 1e-5)
  stepsizes: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)
  first: float = 0.01


SIZES = {
  "toy": Size(
    Config(seeds=2, inner_size=8, outer_size=2, steps=1, budget=200, accuracies=(0.1, 1e-2),
           fixed=(), stepsizes=(1e-3, 1e-2, 0.1)),
    "8 inner and 2 outer variables, 1 step.",
  ),
  "desk": Size(
    Config(), "100 inner variables instead of 1000, normal instead of uniform matrices, of a "
    "condition number that is set.",
  ),
  "large": Size(
    Config(inner_size=1000, steps=2000, budget=200_000),
    "Normal instead of uniform matrices, of a condition number that is set.",
  ),
}  # fmt: skip


def make_problem(config: Config, seed: int, draw: int) -> tuple[np.ndarray, ...]:
  """A1 and b1 of f; A2, A3 and b2 of g; A1 dy*/dx, the best x and the curvature of f."""
  n, m, rng = config.inner_size, config.outer_size, np.random.default_rng([seed, draw])
  normal = lambda *shape: rng.standard_normal(shape)
  a1, a3 = normal(n, n) / np.sqrt(n), normal(n, m) / np.sqrt(n)
  left, _, right = np.linalg.svd(normal(n, n))
  a2 = left * np.geomspace(1, 1 / config.condition, n) @ right
  y, x = rng.random(n), rng.random(m)
  b1, b2 = a1 @ y + config.noise * normal(n), a2 @ y + a3 @ x + config.noise * normal(n)
  slope, offset = np.linalg.solve(a2, -a3), np.linalg.solve(a2, b2)  # y*(x) = offset + slope x
  best = np.linalg.lstsq(a1 @ slope, b1 - a1 @ offset)[0]
  return a1, b1, a2, a3, b2, a1 @ slope, best, np.asarray(np.linalg.norm(a1, 2) ** 2)


def inner(y: jax.Array, x: jax.Array, *data: jax.Array) -> jax.Array:
  """1/2 ||A2 y + A3 x - b2||^2."""
  return 0.5 * jnp.sum((data[2] @ y + data[3] @ x - data[4]) ** 2)


def outer(y: jax.Array, x: jax.Array, *data: jax.Array) -> jax.Array:
  """1/2 ||A1 y - b1||^2."""
  del x
  return 0.5 * jnp.sum((data[0] @ y - data[1]) ** 2)


def value(x: jax.Array, *data: jax.Array) -> jax.Array:
  """F(x) - min F = 1/2 ||A1 dy*/dx (x - best)||^2."""
  return 0.5 * jnp.sum((data[5] @ (x - data[6])) ** 2)


def task(config: Config) -> _accuracies.Task:
  """The problem as the methods take it; the matrix A2 has singular values from 1 down."""
  mu = config.condition**-2
  lower = bilevel.strongly_convex_descent(inner, strong_convexity=mu, smoothness=1.0)
  ones = lambda *data: BilevelPoint(jnp.ones(data[3].shape[1]), jnp.zeros(data[2].shape[1]))
  constants = {
    "strong_convexity": mu, "outer_smoothness": lambda x, *data: data[7], "convex": True
  }  # fmt: skip
  return _accuracies.Task(inner, outer, lower, ones, lambda x: x, constants, value)


@jax.enable_x64(True)
def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Every method with every first step size on problems drawn apart, the best on the others."""
  sets = [[make_problem(config, s, draw) for s in config.seed_numbers()] for draw in (1, 0)]
  tuning, data = (tuple(map(jnp.asarray, map(np.stack, zip(*rows, strict=True)))) for rows in sets)
  problem = task(config)
  evaluate = _accuracies.evaluator(problem)
  found = _accuracies.compare(problem, config, tuning, data, evaluate, progress)
  points, curves, work, choices = found
  points["start"] = np.ones_like(next(iter(points.values())))
  loss = {name: np.asarray(evaluate(jnp.asarray(x), data)) for name, x in points.items()}
  return {"loss": loss, "curve": curves, "work": work, "choices": choices}


def claims(metrics: dict, config: Config) -> list[Claim]:
  """Independence of the first accuracy; further than fixed and scheduled accuracies."""
  metric = GAP.format(config.budget)
  found = _accuracies.whatever_the_start(
    metrics["loss"],
    config,
    "comes as near as",
    "a factor of 2",
    metric,
    better="lower",
    scale="ratio",
    margin=2.0,
  )
  return found + _accuracies.further_with_the_same_work(metrics, config, metric)


def table(metrics: dict, config: Config) -> list[Row]:
  """Gaps after the budget."""
  middle = _accuracies.middle(_accuracies.names(config)[0])
  base = Side(middle, metrics["loss"][middle])
  return [
    Row(GAP.format(config.budget), Side(name, values), base, better="lower", note=TWICE)
    for name, values in metrics["loss"].items()
    if name != middle
  ]


def figure(record: dict) -> Any:
  """Gap against work of one seed for each method; beside it the gaps of all seeds."""
  metrics = record["metrics"]
  fig, axes = new_figure(1, 2)
  _accuracies.draw(axes[0], metrics, record["settings"], ylabel="F - min F")
  logs = {name: np.log10(np.maximum(values, 1e-300)) for name, values in metrics["loss"].items()}
  _figures.dots(axes[1], {"": logs}, ylabel="log10 of the gap after the budget")
  return fig
