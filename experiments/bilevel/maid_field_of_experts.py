"""Filters, weights and smoothing of a Field of Experts for denoising, learned."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _figures
from experiments._claims import Claim, Side
from experiments._protocol import (
  RECORDED_TWICE,
  Paper,
  Progress,
  Row,
  Settings,
  Size,
  new_figure,
)
from experiments.bilevel import _accuracies, maid_tv_denoising
from experiments.bilevel.maid_tv_denoising import make_squares, outer
from jaxopt_robust import bilevel, solvers
from jaxopt_robust.bilevel import BilevelPoint

PAPER = Paper(
  title=maid_tv_denoising.PAPER.title,
  authors=maid_tv_denoising.PAPER.authors,
  year=maid_tv_denoising.PAPER.year,
  claim="Learning filters, weights and smoothing of a Field of Experts, descent that chooses its "
  "accuracies on the way gets further with the same work than descent at fixed accuracies or at "
  "those of a schedule.",
  section="Numerical experiments: denoising by a Field of Experts (figures only)",
  url=maid_tv_denoising.PAPER.url,
)
WEIGHT, SMOOTHING = -1.5, -3.5  # logarithms at the start; in the authors' code -3 and -3.5
LIMIT = 8.0  # of all outer variables


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings. A seed draws the squares of the picture, the noise and the first filters.

  Attributes:
    squares: number of squares to learn from, and as many for the test.
    pixels: side of a square.
    noise: standard deviation of the noise; grey values lie in [0, 1].
    filters: number of filters.
    side: their side.
    steps: outer steps of a method, at most.
    budget: inner steps and Hessian products in all after which methods are compared.
    accuracies: of the first step of MAID, of the inner solution and of the linear system.
    fixed: accuracies of descent that never changes them.
    stepsizes: first step sizes, chosen by the loss on development squares of the same seed.
    first: first accuracy of the schedules, relative.
  """

  seeds: int = 8
  squares: int = 2
  pixels: int = 32
  noise: float = 0.1
  filters: int = 4
  side: int = 3
  steps: int = 100
  budget: int = 3000
  accuracies: tuple[float, ...] = (1.0, 0.1, 1e-2)
  fixed: tuple[float, ...] = (0.1, 1e-2)
  stepsizes: tuple[float, ...] = (1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)
  first: float = 0.01


SIZES = {
  "toy": Size(
    Config(seeds=2, squares=1, pixels=8, filters=2, side=3, steps=1, budget=100,
           accuracies=(0.1, 1e-2), fixed=(), stepsizes=(1e-2, 0.1, 1.0)),
    "One square of 8 x 8 pixels, 2 filters of 3 x 3, 1 step.",
  ),
  "desk": Size(
    Config(), "4 filters of 3 x 3 and 2 squares of 32 x 32 pixels; the paper has 48 of 7 x 7 and "
    "20 photographs of 256 x 256.",
  ),
  "large": Size(
    Config(squares=8, pixels=64, filters=48, side=7, steps=400, budget=20_000),
    "8 squares of one photograph instead of 20 photographs.",
  ),
}  # fmt: skip


def problem(config: Config) -> tuple[_accuracies.Task, Any]:
  """The task, whose data are noisy and clean squares and the first filters; and its parts."""
  count, side = config.filters, config.side

  def unpack(theta: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Weights and smoothing of the filters, and the filters."""
    logs, filters = theta[: 1 + 2 * count], theta[1 + 2 * count :]
    weights = jnp.exp(logs[0] + logs[1 : 1 + count])
    return weights, jnp.exp(logs[1 + count :]), filters.reshape(count, side, side)

  def inner(y: jax.Array, theta: jax.Array, noisy: jax.Array, *_: jax.Array) -> jax.Array:
    """1/2 ||y - noisy||^2 + sum_k w_k sum sqrt((c_k * y)^2 + nu_k^2)."""
    weights, nu, filters = unpack(theta)
    seen = jax.lax.conv(y[:, None], filters[:, None], (1, 1), "VALID")
    spread = jnp.sum(jnp.sqrt(seen**2 + nu[None, :, None, None] ** 2), axis=(0, 2, 3))
    return 0.5 * jnp.sum((y - noisy) ** 2) + jnp.sum(weights * spread)

  def smoothness(theta: jax.Array, *_: jax.Array) -> jax.Array:
    """1 + sum_k w_k / nu_k ||c_k||_1^2, since ||c * y|| <= ||c||_1 ||y||."""
    weights, nu, filters = unpack(theta)
    return 1 + jnp.sum(weights / nu * jnp.sum(jnp.abs(filters), axis=(1, 2)) ** 2)

  lower = bilevel.strongly_convex_descent(inner, strong_convexity=1.0, smoothness=smoothness)

  def start(noisy: jax.Array, clean: jax.Array, filters: jax.Array) -> BilevelPoint:
    logs = jnp.concatenate([jnp.full(1 + count, WEIGHT), jnp.full(count, SMOOTHING)])
    return BilevelPoint(jnp.concatenate([logs, filters]), noisy)

  def value(theta: jax.Array, *data: jax.Array) -> jax.Array:
    y, _ = solvers.run_until(lower, data[0], theta, *data, tol=1e-6, max_steps=5000)
    return outer(y, theta, *data[:2])

  task = _accuracies.Task(
    inner, lambda y, theta, *data: outer(y, theta, *data[:2]), lower, start,
    functools.partial(jnp.clip, min=-LIMIT, max=LIMIT),
    {"strong_convexity": 1.0, "outer_smoothness": 1 / config.squares, "convex": True}, value,
  )  # fmt: skip
  return task, unpack


def first_filters(config: Config, seed: int) -> np.ndarray:
  """Normal by Xavier's rule, without means."""
  size = config.side**2
  draws = np.random.default_rng([seed, 1]).standard_normal((config.filters, size))
  draws *= np.sqrt(2 / (size * (1 + config.filters)))
  return (draws - draws.mean(1, keepdims=True)).ravel()


@jax.enable_x64(True)
def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Every method with every first step size on development squares, the best on the others."""
  squares = [make_squares(config, seed) for seed in config.seed_numbers()]
  filters = jnp.asarray(np.stack([first_filters(config, s) for s in config.seed_numbers()]))
  parts = [
    (*(jnp.asarray(np.stack([s[k][part] for s in squares])) for k in (1, 0)), filters)
    for part in range(3)
  ]
  task, unpack = problem(config)
  evaluate = _accuracies.evaluator(task)
  found = _accuracies.compare(task, config, parts[0], parts[1], evaluate, progress)
  points, curves, work, choices = found
  loss = {name: np.asarray(evaluate(theta, parts[1])) for name, theta in points.items()}
  ratio = lambda values: -10 * np.log10(2 * np.asarray(values) / config.pixels**2)
  psnr = {name: ratio(evaluate(theta, parts[2])) for name, theta in points.items()}
  noisy, clean = (np.asarray(a) for a in parts[2][:2])
  psnr["noisy"] = -10 * np.log10(np.mean((noisy - clean) ** 2, axis=(1, 2, 3)))
  best = points[_accuracies.middle(_accuracies.names(config)[0])][0]
  learned = np.asarray(unpack(jnp.asarray(best))[2])
  return {
    "loss": loss, "psnr": psnr, "curve": curves, "work": work, "filters": learned,
    "choices": choices,
  }  # fmt: skip


def claims(metrics: dict, config: Config) -> list[Claim]:
  """Independence of the first accuracy; further than fixed and scheduled accuracies."""
  found = _accuracies.whatever_the_start(
    metrics["psnr"],
    config,
    "denoises as well as",
    "0.1 dB",
    "PSNR of test squares in dB",
    margin=0.1,
  )
  metric = f"loss on the squares learned from after {config.budget} inner steps and products"
  return found + _accuracies.further_with_the_same_work(metrics, config, metric)


def table(metrics: dict, config: Config) -> list[Row]:
  """Losses after the budget, and test squares."""
  middle = _accuracies.middle(_accuracies.names(config)[0])
  base = Side(middle, metrics["loss"][middle])
  rows = [
    Row("loss after the budget", Side(name, values), base, better="lower", note=RECORDED_TWICE)
    for name, values in metrics["loss"].items()
    if name != middle
  ]
  noisy = Side("noisy", metrics["psnr"]["noisy"])
  return rows + [
    Row("PSNR of test squares in dB", Side(name, values), noisy)
    for name, values in metrics["psnr"].items()
    if name != "noisy"
  ]


def figure(record: dict) -> Any:
  """Loss against work of one seed; its learned filters; the test squares of all seeds."""
  metrics = record["metrics"]
  fig, axes = new_figure(1, 3)
  _accuracies.draw(axes[0], metrics, record["settings"], ylabel="loss")
  filters = np.asarray(metrics["filters"], float)
  filters = filters / np.abs(filters).max(axis=(1, 2), keepdims=True)
  columns = int(np.ceil(np.sqrt(len(filters))))
  padded = np.pad(filters, ((0, -len(filters) % columns), (0, 1), (0, 1)), constant_values=np.nan)
  rows = padded.reshape(-1, columns, *padded.shape[1:]).swapaxes(1, 2)
  axes[1].imshow(rows.reshape(rows.shape[0] * rows.shape[1], -1), cmap="gray")
  axes[1].set(title="filters learned by MAID, one seed", xticks=[], yticks=[])
  _figures.dots(axes[2], {"": metrics["psnr"]}, ylabel="PSNR of test squares in dB")
  return fig
