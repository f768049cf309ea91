"""The weight and smoothing of total variation, learned by methods of different accuracy."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _figures
from experiments._claims import Claim, Side
from experiments._pictures import load_picture
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments.bilevel import _accuracies
from jaxopt_robust import bilevel, solvers
from jaxopt_robust.bilevel import BilevelPoint

PAPER = Paper(
  title="An adaptively inexact first-order method for bilevel optimization with application to "
  "hyperparameter learning",
  authors="Salehi, Mukherjee, Roberts and Ehrhardt",
  year=2025,
  claim="Descent that chooses the accuracy of its hypergradients and values on the way ends at the "
  "same place whatever accuracy it starts with, and gets further with the same work than descent "
  "at a fixed accuracy or at one that follows a schedule.",
  section="Numerical experiments: denoising by total variation (figures only)",
  url="https://arxiv.org/abs/2308.10098",
)
PICTURE, BLOCK = "camera", 2
START = (-5.0, -5.0)  # logarithms of twice the weight and of the smoothing, as in the authors' code
LIMIT = 12.0  # of both logarithms


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings. A seed draws the squares of the picture and the noise.

  Attributes:
    squares: number of squares to learn from, and as many for the test.
    pixels: side of a square.
    noise: standard deviation of the noise; grey values lie in [0, 1].
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
  steps: int = 60
  budget: int = 4000
  accuracies: tuple[float, ...] = (10.0, 0.1, 1e-3)
  fixed: tuple[float, ...] = (0.1, 1e-2, 1e-3)
  stepsizes: tuple[float, ...] = (1e-2, 0.1, 1.0, 10.0)
  first: float = 0.01


SIZES = {
  "toy": Size(
    Config(seeds=2, squares=1, pixels=8, steps=4, budget=400, accuracies=(1.0, 0.1), fixed=(),
           stepsizes=(1e-2, 0.1, 1.0)),
    "One square of 8 x 8 pixels and 4 steps.",
  ),
  "desk": Size(Config(), "2 squares of 32 x 32 pixels instead of 25 photographs of 96 x 96."),
  "large": Size(
    Config(squares=4, pixels=96, steps=200, budget=20_000),
    "4 squares of one photograph instead of 25 photographs.",
  ),
}  # fmt: skip


def make_squares(config: Config, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Clean and noisy squares, [3, squares, pixels, pixels]: development, learning and test."""
  rng, side = np.random.default_rng(seed), config.pixels * BLOCK
  clean = np.stack([
    load_picture(
      PICTURE, top=int(rng.integers(0, 512 - side)), left=int(rng.integers(0, 512 - side)),
      pixels=config.pixels, block=BLOCK,
    )
    for _ in range(3 * config.squares)
  ])  # fmt: skip
  clean = clean.reshape(3, config.squares, config.pixels, config.pixels).astype(np.float64)
  return clean, clean + config.noise * rng.standard_normal(clean.shape)


def inner(y: jax.Array, theta: jax.Array, noisy: jax.Array, clean: jax.Array) -> jax.Array:
  """1/2 ||y - noisy||^2 + w sum sqrt(d^2 + nu^2), d differences, w = e^{t_0}/2, nu = e^{t_1}."""
  del clean
  weight, nu = 0.5 * jnp.exp(theta[0]), jnp.exp(theta[1])
  moves = [jnp.diff(y, axis=axis) for axis in (-2, -1)]
  variation = sum(jnp.sum(jnp.sqrt(d**2 + nu**2)) for d in moves)
  return 0.5 * jnp.sum((y - noisy) ** 2) + weight * variation


def outer(y: jax.Array, theta: jax.Array, noisy: jax.Array, clean: jax.Array) -> jax.Array:
  """Half the squared error, a mean over the squares."""
  del theta, noisy
  return 0.5 * jnp.sum((y - clean) ** 2) / y.shape[0]


def smoothness(theta: jax.Array, *_: jax.Array) -> jax.Array:
  """1 + w/nu ||D||^2, ||D||^2 <= 8."""
  return 1 + 0.5 * jnp.exp(theta[0] - theta[1]) * 8


LOWER = bilevel.strongly_convex_descent(inner, strong_convexity=1.0, smoothness=smoothness)
clip = functools.partial(jnp.clip, min=-LIMIT, max=LIMIT)


def loss(theta: jax.Array, noisy: jax.Array, clean: jax.Array) -> jax.Array:
  """The outer objective at an inner solution of high accuracy."""
  y, _ = solvers.run_until(LOWER, noisy, theta, noisy, clean, tol=1e-7, max_steps=20_000)
  return outer(y, theta, noisy, clean)


def task(config: Config) -> _accuracies.Task:
  """The problem as the methods take it."""
  return _accuracies.Task(
    inner, outer, LOWER, lambda noisy, clean: BilevelPoint(jnp.asarray(START), noisy), clip,
    {"strong_convexity": 1.0, "outer_smoothness": 1 / config.squares, "convex": True}, loss,
  )  # fmt: skip


@jax.enable_x64(True)
def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Every method with every first step size on development squares, the best on the others."""
  squares = [make_squares(config, seed) for seed in config.seed_numbers()]
  parts = [
    tuple(jnp.asarray(np.stack([s[k][part] for s in squares])) for k in (1, 0)) for part in range(3)
  ]
  problem = task(config)
  evaluate = _accuracies.evaluator(problem)
  thetas, curves, work, choices = _accuracies.compare(
    problem, config, parts[0], parts[1], evaluate, progress
  )
  metrics: dict[str, Any] = {"loss": {}, "psnr": {}, "work": work, "curve": curves}
  for label, theta in thetas.items():
    test = np.asarray(evaluate(theta, parts[2]))
    metrics["loss"][label] = np.asarray(evaluate(theta, parts[1]))
    metrics["psnr"][label] = -10 * np.log10(2 * test / config.pixels**2)
  metrics["theta"] = thetas
  noisy, clean = (np.asarray(a) for a in parts[2])
  metrics["psnr"]["noisy"] = -10 * np.log10(np.mean((noisy - clean) ** 2, axis=(1, 2, 3)))
  return metrics | {"choices": choices}


def _side(metrics: dict, name: str, key: str = "loss") -> Side:
  return Side(name, metrics[key][name])


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
  adaptive, fixed, scheduled = _accuracies.names(config)
  middle = _accuracies.middle(adaptive)
  rows = [
    Row("loss after the budget", _side(metrics, name), _side(metrics, middle), better="lower")
    for name in adaptive + fixed + scheduled
    if name != middle
  ]
  noisy = _side(metrics, "noisy", "psnr")
  names = adaptive + fixed + scheduled
  rows += [Row("PSNR of test squares in dB", _side(metrics, name, "psnr"), noisy) for name in names]
  return rows


def figure(record: dict) -> Any:
  """Loss against work of one seed for each method; beside it the test squares of all seeds."""
  metrics = record["metrics"]
  fig, axes = new_figure(1, 2)
  _accuracies.draw(axes[0], metrics, record["settings"], ylabel="loss")
  _figures.dots(axes[1], {"": metrics["psnr"]}, ylabel="PSNR of test squares in dB")
  return fig
