"""Cost and kernel width of support vector machines, chosen on held-out data by hypergradients."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import _figures, datasets
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from jaxopt_robust import bilevel, solvers

PAPER = Paper(
  title="Implicit differentiation for fast hyperparameter selection in non-smooth convex learning",
  authors="Bertrand, Klopfenstein, Massias, Blondel, Vaiter, Gramfort and Salmon",
  year=2022,
  claim="For the dual of a support vector machine, which is not smooth at its box, descent along "
  "implicit gradients of the validation loss finds hyper-parameters as good as those of a grid "
  "with a fraction of the solves.",
  section="Sections 3 and 4 (there the cost alone, linear machines on sparse text)",
  url="https://jmlr.org/papers/v23/21-0486.html",
)
TRAIN, VALIDATION = 150, 150  # of 569 rows; the others are the test
LOW, HIGH = np.log([1e-2, 1e-4]), np.log([1e3, 1.0])  # of the cost and of the inverse width


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings. A seed draws the split and the random trials.

  Attributes:
    grid: costs on the grid of one hyper-parameter; two have a grid of about as many pairs.
    steps: hyper-gradient steps, one solve each, also the number of random trials.
    learning_rate: step size of Adam on the logarithms.
    tol: bound on the gradient mapping at a solution, for labels of size 1.
    max_steps: limit of FISTA steps.
  """

  seeds: int = 12
  grid: int = 100
  steps: int = 25
  learning_rate: float = 0.3
  tol: float = 1e-6
  max_steps: int = 20_000


SIZES = {
  "toy": Size(
    Config(seeds=2, grid=4, steps=4, tol=1e-3, max_steps=500), "A grid of 4 and 4 steps."
  ),
  "desk": Size(Config(), "Breast cancer data, 150 rows to train, instead of sparse text."),
  "large": Size(Config(seeds=48, steps=50, tol=1e-9), "The same data, more splits and steps."),
}


class Data(NamedTuple):
  """Standardised rows and labels -1 and 1 of one split."""

  x: jax.Array
  y: jax.Array
  x_val: jax.Array
  y_val: jax.Array
  x_test: jax.Array
  y_test: jax.Array


def load_split(seed: int) -> Data:
  """The breast cancer data."""
  table = datasets.load("breast_cancer")
  order = np.random.default_rng(seed).permutation(len(table["y"]))
  parts = np.split(order, [TRAIN, TRAIN + VALIDATION])
  rows = datasets.standardise(*(table["x"][part] for part in parts))
  labels = [2.0 * table["y"][part] - 1 for part in parts]
  return Data(
    *(jnp.asarray(a, jnp.float64) for pair in zip(rows, labels, strict=True) for a in pair)
  )


def linear(theta: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
  """<a, b> / features + 1; the 1 stands for the offset."""
  del theta
  return a @ b.T / a.shape[1] + 1


def gaussian(theta: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
  """exp(-e^t ||a - b||^2) + 1."""
  squares = jnp.sum(a**2, 1)[:, None] + jnp.sum(b**2, 1)[None] - 2 * a @ b.T
  return jnp.exp(-jnp.exp(theta[1]) * jnp.maximum(squares, 0)) + 1


KERNELS = {"linear": (linear, 1), "Gaussian": (gaussian, 2)}


class Found(NamedTuple):
  """Validation loss, test error, status of the solve, hyper-parameters."""

  loss: jax.Array
  test: jax.Array
  status: jax.Array
  theta: jax.Array


def make_search(kernel: Callable[..., Any], config: Config) -> tuple[Any, Any]:
  """``evaluate(thetas, data)`` at given hyper-parameters, and ``descend(theta, data)``."""

  def dual(a: jax.Array, gram: jax.Array) -> jax.Array:
    """1/2 a^T Q a - sum a over 0 <= a <= C, Q_ij = y_i y_j k(x_i, x_j)."""
    return 0.5 * a @ gram @ a - jnp.sum(a)

  def box(a: jax.Array, cost: jax.Array, scaling: Any) -> jax.Array:
    del scaling
    return jnp.clip(a, 0.0, cost)

  def gram_of(theta: jax.Array, data: Data) -> jax.Array:
    return data.y[:, None] * kernel(theta, data.x, data.x) * data.y[None]

  def decision(a: jax.Array, theta: jax.Array, data: Data, rows: jax.Array) -> jax.Array:
    return kernel(theta, rows, data.x) @ (a * data.y)

  def outer(a: jax.Array, theta: jax.Array, data: Data) -> jax.Array:
    """Mean logistic loss of the validation rows."""
    return jnp.mean(jnp.logaddexp(0, -data.y_val * decision(a, theta, data, data.x_val)))

  def step_of(gram: jax.Array) -> jax.Array:
    """1/L, by the largest row sum."""
    return jax.lax.stop_gradient(1 / jnp.max(jnp.sum(jnp.abs(gram), axis=1)))

  def fixed_point(a: jax.Array, theta: jax.Array, data: Data) -> jax.Array:
    """A projected gradient step: what the solution is a fixed point of."""
    gram = gram_of(theta, data)
    return box(a - step_of(gram) * (gram @ a - 1), jnp.exp(theta[0]), 1.0)

  def solve(a: jax.Array, theta: jax.Array, data: Data) -> tuple[jax.Array, Any]:
    gram = gram_of(theta, data)
    solver = solvers.fista(dual, box, stepsize=step_of(gram))
    return solvers.run_until(
      solver, a, jnp.exp(theta[0]), gram, tol=config.tol, max_steps=config.max_steps
    )

  def judge(a: jax.Array, info: Any, theta: jax.Array, data: Data) -> Found:
    wrong = data.y_test * decision(a, theta, data, data.x_test) <= 0
    return Found(outer(a, theta, data), jnp.mean(wrong, dtype=a.dtype), info.status, theta)

  @jax.jit
  def evaluate(thetas: jax.Array, data: Data) -> Found:
    zero = jnp.zeros(TRAIN)
    return jax.lax.map(lambda t: judge(*solve(zero, t, data), t, data), thetas)

  hypergradient = functools.partial(
    bilevel.fixed_point_hypergradient, fixed_point, outer, linear_solve=solvers.solve_dense
  )

  @jax.jit
  def descend(theta: jax.Array, data: Data) -> Found:
    optimizer = optax.adam(config.learning_rate)

    def step(carry: Any, _: None) -> Any:
      theta, state, a = carry
      a, info = solve(a, theta, data)
      grad, _ = hypergradient(a, theta, data)
      updates, state = optimizer.update(grad, state)
      size = theta.shape[0]
      new = jnp.clip(optax.apply_updates(theta, updates), LOW[:size], HIGH[:size])
      return (new, state, a), judge(a, info, theta, data)

    carry = (theta, optimizer.init(theta), jnp.zeros(TRAIN))
    return jax.lax.scan(step, carry, None, length=config.steps)[1]

  return evaluate, descend


@jax.enable_x64(True)
def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Every search on every split."""
  metrics: dict[str, Any] = {"searches": {}, "drawing": {}}
  splits = [load_split(seed) for seed in config.seed_numbers()]
  for kernel, (function, size) in progress.track(KERNELS.items(), "kernels"):
    evaluate, descend = make_search(function, config)
    low, high = LOW[:size], HIGH[:size]
    axes = [np.linspace(a, b, max(2, round(config.grid ** (1 / size)))) for a, b in
            zip(low, high, strict=True)]  # fmt: skip
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, size)
    found: dict[str, list] = {"grid": [], "random": [], "descent": []}
    for seed, data in zip(config.seed_numbers(), splits, strict=True):
      trials = low + (high - low) * np.random.default_rng(seed).random((config.steps, size))
      middle = jnp.asarray((low + high) / 2)
      for name, search, where in (
        ("grid", evaluate, grid), ("random", evaluate, trials), ("descent", descend, middle)
      ):  # fmt: skip
        result = progress.clock.call(search, jnp.asarray(where), data, name=f"{kernel} {name}")
        found[name].append(jax.device_get(result))
    stacked = {name: Found(*map(np.stack, zip(*rows, strict=True))) for name, rows in found.items()}
    goal = stacked["grid"].loss.min(axis=1)
    for name, rows in stacked.items():
      best = rows.loss.argmin(axis=1)
      good = rows.loss <= 1.01 * goal[:, None]
      never = rows.loss.shape[1] + 1
      metrics["searches"][f"{kernel} {name}"] = {
        "validation": rows.loss.min(axis=1),
        "test": rows.test[np.arange(len(best)), best],
        "solves": rows.loss.shape[1],
        "solves_to_goal": np.where(good.any(axis=1), good.argmax(axis=1) + 1, never),
        "unsolved": np.count_nonzero(rows.status, axis=1),
        "chosen": rows.theta[np.arange(len(best)), best],
      }
    metrics["drawing"][kernel] = {
      name: {"loss": rows.loss[0], "theta": rows.theta[0]} for name, rows in stacked.items()
    }
  return metrics


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """Validation losses beside the grid's, solves beside random search, the test errors."""
  found, made = metrics["searches"], []
  side = lambda name, key: Side(f"{name} ({found[name]['solves']} solves)", found[name][key])
  count = "solves until within 1 % of the grid's best"
  for kernel, what in (("linear", "the cost"), ("Gaussian", "cost and width")):
    ours, key = f"{kernel} descent", kernel.lower()
    made += [
      Claim(
        f"{key}_grid", f"For {what} a quarter of the solves of a grid gives a validation loss "
        "within 1 % of its best.", "paper", "validation loss", side(ours, "validation"),
        side(f"{kernel} grid", "validation"), better="lower", scale="ratio", margin=1 / 1.01,
      ),
      Claim(
        f"{key}_random", f"For {what} descent is there after fewer solves than random search.",
        "paper", count, side(ours, "solves_to_goal"), side(f"{kernel} random", "solves_to_goal"),
        better="lower",
      ),
      Claim(
        f"{key}_test", f"On test rows {what} found by descent are worth that of the grid.",
        "control", "test error", side(ours, "test"), side(f"{kernel} grid", "test"),
        better="lower", margin=0.01,
      ),
    ]  # fmt: skip
  return made


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Losses, test errors and unfinished solves of every search beside the grid of its kernel."""
  found = metrics["searches"]
  labels = {
    "validation": "validation loss", "test": "test error",
    "solves_to_goal": "solves until within 1 % of the grid's best", "unsolved": "unfinished solves",
  }  # fmt: skip
  return [
    Row(what, Side(f"{kernel} {name}", found[f"{kernel} {name}"][key]),
        Side(f"{kernel} grid", found[f"{kernel} grid"][key]), better="lower")
    for kernel in KERNELS
    for name in ("descent", "random")
    for key, what in labels.items()
  ]  # fmt: skip


def figure(record: dict[str, Any]) -> Any:
  """The loss over the cost, the descent over cost and width (one split); all searches."""
  drawing, found = record["metrics"]["drawing"], record["metrics"]["searches"]
  fig, (left, middle, right) = new_figure(1, 3)
  line, path = drawing["linear"]["grid"], drawing["linear"]["descent"]
  left.plot(np.ravel(line["theta"]), line["loss"], label="grid")
  left.plot(np.ravel(path["theta"]), path["loss"], "o-", ms=3, label="descent")
  left.set(xlabel="log cost", ylabel="validation loss", title="linear kernel, one split")
  left.legend(fontsize=8)
  cells, path = drawing["Gaussian"]["grid"], drawing["Gaussian"]["descent"]
  theta = np.asarray(cells["theta"])
  middle.tripcolor(*theta.T, np.log10(cells["loss"]), shading="gouraud")
  middle.plot(*np.asarray(path["theta"]).T, "wo-", ms=3)
  middle.set(xlabel="log cost", ylabel="log inverse width", title="Gaussian kernel, one split")
  losses = {"": {name: entry["validation"] for name, entry in found.items()}}
  _figures.dots(right, losses, ylabel="validation loss", title="all splits")
  return fig
