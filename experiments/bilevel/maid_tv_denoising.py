"""The weight and smoothing of total variation, learned by methods of different accuracy."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _figures, _statistics
from experiments._claims import Claim, Side
from experiments._pictures import load_picture
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from jaxopt_robust import bilevel, solvers

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
SCHEDULES = {
  "geometric": lambda k: 0.9**k,
  "quadratic": lambda k: (k + 1.0) ** -2,
  "cubic": lambda k: (k + 1.0) ** -3,
}


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


def descend(method: Any, data: tuple, config: Config) -> dict[str, jax.Array]:
  """All outer variables, the start among them, and the work until then."""
  state = method.init(bilevel.BilevelPoint(jnp.asarray(START), data[0]), None, *data)

  def step(state: Any, _: None) -> tuple[Any, tuple]:
    state, info = method.step(state, None, *data)
    return state, (state.params.x, info.inner_steps + info.products)

  _, (thetas, work) = jax.lax.scan(step, state, None, length=config.steps)
  thetas = jnp.concatenate([jnp.asarray(START)[None], thetas])
  return {"theta": thetas, "work": jnp.concatenate([jnp.zeros(1, work.dtype), jnp.cumsum(work)])}


def adaptive(setting: dict, data: tuple, config: Config, *, fixed: bool) -> dict[str, jax.Array]:
  """MAID; with ``fixed`` its line search at an accuracy that never changes."""
  eps = setting["accuracy"]
  method = bilevel.maid(
    inner, outer, LOWER, strong_convexity=1.0, outer_smoothness=1 / config.squares, convex=True,
    project=clip, accuracy=eps, residual=eps, stepsize=setting["stepsize"], decrease=1e-4,
    **({"max_refinements": 0, "relax": 1.0} if fixed else {}),
  )  # fmt: skip
  return descend(method, data, config)


def scheduled(setting: dict, data: tuple, config: Config) -> dict[str, jax.Array]:
  """HOAG with a table of accuracies."""
  method = bilevel.hoag(
    inner, outer, LOWER, accuracy=lambda k: setting["table"][k], project=clip,
    stepsize=setting["stepsize"],
  )  # fmt: skip
  return descend(method, data, config)


def loss(theta: jax.Array, noisy: jax.Array, clean: jax.Array) -> jax.Array:
  """The outer objective at an inner solution of high accuracy."""
  y, _ = solvers.run_until(LOWER, noisy, theta, noisy, clean, tol=1e-7, max_steps=20_000)
  return outer(y, theta, noisy, clean)


def at_budget(found: dict, budget: int) -> np.ndarray:
  """The last outer variable within the budget, [..., 2]."""
  last = np.sum(found["work"] <= budget, axis=-1) - 1
  return np.take_along_axis(found["theta"], last[..., None, None], axis=-2)[..., 0, :]


@jax.enable_x64(True)
def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Every method with every first step size on development squares, the best on the others."""
  squares = [make_squares(config, seed) for seed in config.seed_numbers()]
  parts = [
    tuple(jnp.asarray(np.stack([s[k][part] for s in squares])) for k in (1, 0)) for part in range(3)
  ]
  evaluate = jax.jit(lambda thetas, data: jax.lax.map(lambda a: loss(a[0], *a[1]), (thetas, data)))
  kinds = {
    "MAID": (functools.partial(adaptive, fixed=False), "accuracy", config.accuracies),
    "fixed": (functools.partial(adaptive, fixed=True), "accuracy", config.fixed),
    "HOAG": (scheduled, "table", [
      [config.first * rule(k) for k in range(config.steps + 1)] for rule in SCHEDULES.values()
    ]),
  }  # fmt: skip
  metrics: dict[str, Any] = {"loss": {}, "psnr": {}, "work": {}, "curve": {}, "theta": {}}
  choices = []
  for kind, (method, key, values) in progress.track(kinds.items(), "methods"):
    one = lambda setting, data, method=method: method(setting, data, config)
    program = jax.jit(lambda settings, data, one=one: jax.lax.map(
      lambda d: jax.lax.map(lambda s: one(s, d), settings), data))  # fmt: skip
    for j, value in enumerate(values):
      label = f"{kind}, {list(SCHEDULES)[j]}" if kind == "HOAG" else f"{kind} {value:g}"
      rates = jnp.asarray(config.stepsizes)
      table = jnp.broadcast_to(jnp.asarray(value), (len(rates), *np.shape(value)))
      settings = {key: table, "stepsize": rates}
      found = jax.device_get(progress.clock.call(program, settings, parts[0], name=kind))
      tried = at_budget(found, config.budget)  # [seeds, rates, 2]
      scores = [float(np.mean(evaluate(tried[:, i], parts[0]))) for i in range(len(rates))]
      choice = _statistics.choose(
        f"first step size of {label}", config.stepsizes, scores, better="lower"
      )
      choices.append(choice)
      found = jax.device_get(progress.clock.call(program, settings, parts[1], name=kind))
      place = config.stepsizes.index(choice.chosen)
      found = {name: values[:, place] for name, values in found.items()}
      theta = at_budget(found, config.budget)
      test = np.asarray(evaluate(theta, parts[2]))
      metrics["loss"][label] = np.asarray(evaluate(theta, parts[1]))
      metrics["psnr"][label] = -10 * np.log10(2 * test / config.pixels**2)
      metrics["theta"][label] = theta
      metrics["work"][label] = found["work"][0]
      path = jnp.asarray(found["theta"][0])
      first = tuple(jnp.broadcast_to(a[0], (len(path), *a.shape[1:])) for a in parts[1])
      metrics["curve"][label] = np.asarray(evaluate(path, first))
  noisy, clean = (np.asarray(a) for a in parts[2])
  metrics["psnr"]["noisy"] = -10 * np.log10(np.mean((noisy - clean) ** 2, axis=(1, 2, 3)))
  return metrics | {"choices": choices}


def _side(metrics: dict, name: str, key: str = "loss") -> Side:
  return Side(name, metrics[key][name])


def _names(config: Config) -> tuple[list[str], list[str], list[str]]:
  return (
    [f"MAID {value:g}" for value in config.accuracies],
    [f"fixed {value:g}" for value in config.fixed],
    [f"HOAG, {name}" for name in SCHEDULES],
  )


def claims(metrics: dict, config: Config) -> list[Claim]:
  """Independence of the first accuracy; further than fixed and scheduled accuracies."""
  adaptive, fixed, scheduled = _names(config)
  middle = adaptive[len(adaptive) // 2]
  found = [
    Claim(
      f"start_{value:g}",
      f"MAID started with the accuracy {value:g} denoises as well as from {middle.split()[1]} "
      "(within 0.1 dB).",
      "control", "PSNR of test squares in dB", _side(metrics, name, "psnr"),
      _side(metrics, middle, "psnr"), margin=0.1,
    )
    for name, value in zip(adaptive, config.accuracies, strict=True)
    if name != middle
  ]  # fmt: skip
  metric = f"loss on the squares learned from after {config.budget} inner steps and products"
  found += [
    Claim(
      name.replace(", ", "_").replace(" ", "_"),
      f"With the same work MAID reaches a lower loss than {name}.",
      "paper", metric, _side(metrics, middle), _side(metrics, name), better="lower", scale="ratio",
      comparisons=len(fixed) + len(scheduled),
    )
    for name in fixed + scheduled
  ]  # fmt: skip
  return found


def table(metrics: dict, config: Config) -> list[Row]:
  """Losses after the budget, and test squares."""
  adaptive, fixed, scheduled = _names(config)
  middle = adaptive[len(adaptive) // 2]
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
  for name, curve in metrics["curve"].items():
    axes[0].plot(np.asarray(metrics["work"][name], float) + 1, curve, lw=1.2, label=name)
  axes[0].set(xscale="log", yscale="log", xlabel="inner steps and products", ylabel="loss")
  axes[0].axvline(record["settings"]["budget"], color="0.6", lw=0.8, ls=":")
  axes[0].legend(fontsize=7)
  _figures.dots(axes[1], {"": metrics["psnr"]}, ylabel="PSNR of test squares in dB")
  return fig
