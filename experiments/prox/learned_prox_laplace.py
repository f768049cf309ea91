"""Proximal networks learned from Laplace samples by three losses: mean, median or mode."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import _figures
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from jaxopt_robust import nets, prox, solvers, sweeps

PAPER = Paper(
  title="What's in a Prior? Learned Proximal Networks for Inverse Problems",
  authors="Fang, Buchanan and Sulam",
  year=2024,
  claim="Trained on noisy Laplace samples by proximal matching, a learned proximal network comes "
  "near to the operator of the samples' log-density, soft thresholding, and its regulariser near "
  "to |x|; trained by the squared or the absolute loss it learns the posterior mean or median.",
  section="Laplacian example",
  url="https://arxiv.org/abs/2310.14344",
)
SQUARED, ABSOLUTE, MATCHING = LOSSES = ("squared loss", "absolute loss", "proximal matching")
RANGE = 3.0  # the operator is looked at on [-3, 3]
PRIOR_AT = (0.5, 1.0, 1.5, 2.0, 2.5)


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  The noise has the standard deviation 1 of the paper, so that the operator of -log p is soft
  thresholding at 1.

  Attributes:
    features: width of the hidden layers.
    layers: layers from hidden to hidden.
    beta: sharpness of the softplus.
    batch: fresh samples of each step.
    chunk: steps of one call of the program; the numbers of steps below are in chunks.
    rates: learning rates of Adam for the squared and the absolute loss, one after the other.
    chunks: how long each of them lasts.
    gammas: widths of the matching loss, from the network of the absolute loss on.
    matching_rates: learning rate at each width.
    matching_chunks: how long each width lasts.
    points: where the operator is compared, an odd number of points of [-3, 3].
  """

  features: int = 32
  layers: int = 4
  beta: float = 10.0
  batch: int = 200
  chunk: int = 500
  rates: tuple[float, ...] = (1e-3, 1e-4)
  chunks: tuple[int, ...] = (6, 4)
  gammas: tuple[float, ...] = (0.5, 0.5, 0.4, 0.3, 0.2, 0.1)
  matching_rates: tuple[float, ...] = (1e-3, 1e-4, 1e-4, 1e-4, 1e-5, 1e-5)
  matching_chunks: tuple[int, ...] = (2, 2, 3, 3, 3, 3)
  points: int = 61


SIZES = {
  "toy": Size(
    Config(
      seeds=2, features=8, layers=2, batch=50, chunk=50, chunks=(2, 1), gammas=(0.5, 0.3),
      matching_rates=(1e-3, 1e-4), matching_chunks=(1, 1), points=13,
    ),
    "A small network, 150 steps in place of 20000.",
  ),
  "desk": Size(
    Config(), "32 hidden units instead of 50, batches of 200 instead of 2000, a third of the steps."
  ),
  "large": Size(
    Config(
      seeds=16, features=50, batch=2000, chunk=1000, chunks=(10, 10),
      matching_chunks=(2, 2, 4, 4, 4, 8),
      matching_rates=(1e-3, 1e-4, 1e-4, 1e-4, 1e-5, 1e-5),
    ),
    "The last 4000 steps are at 1e-5 instead of 1e-6.",
  ),
}  # fmt: skip


def make_net(config: Config) -> nets.ICNN:
  """The network of one variable; kinks are spread by random biases."""
  start = nets.log_normal(math.log(0.25 / config.features**0.5), deviation=0.5)
  return nets.ICNN(
    features=config.features, layers=config.layers, beta=config.beta, nonnegative_init=start,
    bias_init=lambda key, shape: jax.random.uniform(key, shape, minval=-1.0),
  )  # fmt: skip


@functools.cache
def make_programs(config: Config) -> tuple[Callable[..., Any], ...]:
  """``start(keys)``, ``steps(carry, keys, kind, rate, gamma)`` and ``look(params)``, over seeds."""
  net = make_net(config)
  operator = jax.vmap(prox.make_prox_from_potential(net.apply), in_axes=(0, None))
  projection = optax.masked(optax.keep_params_nonnegative(), nets.nonnegative_mask)
  optimizer = lambda rate: optax.chain(optax.adam(rate), projection)

  def start(key: jax.Array) -> Any:
    params = net.init(key, jnp.zeros(1))
    return params, optimizer(1.0).init(params)

  def loss(params: Any, key: jax.Array, kind: jax.Array, gamma: jax.Array) -> jax.Array:
    key_x, key_noise = jax.random.split(key)
    x = jax.random.laplace(key_x, (config.batch, 1))
    out = operator(x + jax.random.normal(key_noise, x.shape), params)
    off = (out - x)[:, 0]
    losses = (off**2, jnp.abs(off), prox.proximal_matching_loss(out, x, gamma=gamma))
    return jnp.mean(jnp.select([kind == 0, kind == 1, kind == 2], losses))

  def steps(carry: Any, key: jax.Array, kind: jax.Array, rate: jax.Array, gamma: jax.Array) -> Any:
    def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
      params, state = carry
      grads = jax.grad(loss)(params, key, kind, gamma)
      updates, state = optimizer(rate).update(grads, state, params)
      return (optax.apply_updates(params, updates), state), None

    return jax.lax.scan(step, carry, jax.random.split(key, config.chunk))[0]

  def look(params: Any) -> Any:
    grid = jnp.linspace(-RANGE, RANGE, config.points)[:, None]
    at = jnp.asarray((0.0, *PRIOR_AT))[:, None]
    value = lambda x: solvers.potential_regularizer(net.apply, params, x)
    values, info = jax.vmap(value)(at)
    return operator(grid, params)[:, 0], values[1:] - values[0], info.status

  over_seeds = sweeps.sweep(steps)
  run = lambda carry, keys, *shared: over_seeds(carry, keys, shared=shared)
  return jax.jit(jax.vmap(start)), jax.jit(run), jax.jit(sweeps.sweep(look))


def posterior_mean(y: np.ndarray) -> np.ndarray:
  """Of x ~ Laplace(0, 1) given x + noise = y, by quadrature."""
  x = np.linspace(-20, 20, 40_001)
  log_density = -np.abs(x) - (x - y[:, None]) ** 2 / 2
  weights = np.exp(log_density - log_density.max(1, keepdims=True))
  return (weights @ x) / weights.sum(1)


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Two networks by the squared and the absolute loss; the second goes on by proximal matching."""
  start, steps, look = make_programs(config)
  keys = jnp.stack([jax.random.key(seed) for seed in config.seed_numbers()])
  plain = tuple(zip(config.rates, config.chunks, (1.0,) * len(config.rates), strict=True))
  matching = tuple(zip(config.matching_rates, config.matching_chunks, config.gammas, strict=True))
  plans = {SQUARED: plain, ABSOLUTE: plain, MATCHING: matching}
  trained: dict[str, Any] = {}
  for kind, name in enumerate(progress.track(LOSSES, "losses")):
    carry = start(keys)
    if name == MATCHING:
      carry = (trained[ABSOLUTE], carry[1])  # the parameters; Adam starts again
    count = 0
    for rate, chunks, gamma in plans[name]:
      for _ in range(chunks):
        fresh = jax.vmap(lambda key, c=count, k=kind: jax.random.fold_in(key, 100 * k + c))(keys)
        shared = (jnp.int32(kind), jnp.float32(rate), jnp.float32(gamma))
        carry = progress.clock.call(steps, carry, fresh, *shared, name="training")
        count += 1
    trained[name] = carry[0]

  grid = np.linspace(-RANGE, RANGE, config.points)
  soft, mean = np.sign(grid) * np.maximum(np.abs(grid) - 1, 0), posterior_mean(grid)
  metrics: dict[str, Any] = {"grid": grid, "mean": mean}
  for name in LOSSES:
    found, prior, status = (np.asarray(v) for v in look(trained[name]))
    off = np.abs(found - soft)
    metrics[name] = {
      "operator": found, "mean_error": off.mean(1), "max_error": off.max(1),
      "from_mean": np.abs(found - mean).mean(1), "prior": prior,
      "prior_error": np.abs(prior - np.asarray(PRIOR_AT)).max(1), "failed": (status != 0).sum(1),
    }  # fmt: skip
  return metrics


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """The order of the three losses, and how near each comes to what it should learn."""
  side = lambda name, key: Side(name, metrics[name][key])
  operator = "mean distance of the operator to soft thresholding on [-3, 3]"
  prior = "largest distance of R(x) - R(0) to |x| at .5, 1, ..., 2.5"
  nearer = "comes nearer to soft thresholding than by the"
  return [
    Claim(
      "order_absolute", f"Trained by the absolute loss the operator {nearer} squared loss.",
      "paper", operator, side(ABSOLUTE, "mean_error"), side(SQUARED, "mean_error"), "lower",
    ),
    Claim(
      "order_matching", f"Trained by proximal matching the operator {nearer} absolute loss.",
      "paper", operator, side(MATCHING, "mean_error"), side(ABSOLUTE, "mean_error"), "lower",
    ),
    Claim(
      "soft", "Proximal matching learns soft thresholding: its mean distance to it is below .08.",
      "paper", operator, side(MATCHING, "mean_error"), Side(".08", 0.08), "lower",
    ),
    Claim(
      "posterior_mean", "The squared loss learns the posterior mean, within .03.", "theory",
      "mean distance of the operator to the posterior mean on [-3, 3]", side(SQUARED, "from_mean"),
      Side(".03", 0.03), "lower",
    ),
    Claim(
      "prior", "By proximal matching the learned regulariser is |x| within .2, up to a constant.",
      "paper", prior, side(MATCHING, "prior_error"), Side(".2", 0.2), "lower",
    ),
    Claim(
      "prior_squared", "It is nearer to |x| than the one that is learned by the squared loss.",
      "paper", prior, side(MATCHING, "prior_error"), side(SQUARED, "prior_error"), "lower",
    ),
  ]  # fmt: skip


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Distances of the three operators and regularisers."""
  kinds = (
    ("mean distance to soft thresholding", "mean_error"),
    ("largest distance to soft thresholding", "max_error"),
    ("largest distance of the regulariser to |x|", "prior_error"),
  )
  rows = [
    Row(what, Side(MATCHING, metrics[MATCHING][key]), Side(name, metrics[name][key]), "lower")
    for what, key in kinds
    for name in (SQUARED, ABSOLUTE)
  ]
  unsolved = Side(MATCHING, metrics[MATCHING]["failed"])
  note = "Such a value of the regulariser is a lower bound."
  return [*rows, Row(f"of {len(PRIOR_AT) + 1} inversions, not converged", unsolved, None, "lower",
                     note=note)]  # fmt: skip


def figure(record: dict[str, Any]) -> Any:
  """Operators and regularisers beside the exact ones, and the distances."""
  metrics = record["metrics"]
  fig, axes = new_figure(1, 3)
  grid = np.asarray(metrics["grid"])
  lines = {name: metrics[name]["operator"] for name in LOSSES}
  _figures.curves(axes[0], lines, grid, xlabel="y", ylabel="f(y)", title="Operator")
  soft = np.sign(grid) * np.maximum(np.abs(grid) - 1, 0)
  for values, style in ((soft, "k--"), (metrics["mean"], "k:")):
    axes[0].plot(grid, values, style, lw=1)
  lines = {name: metrics[name]["prior"] for name in LOSSES}
  _figures.curves(axes[1], lines, PRIOR_AT, xlabel="x", ylabel="R(x) - R(0)", title="Regulariser")
  axes[1].plot(PRIOR_AT, PRIOR_AT, "k--", lw=1)
  kinds = {"operator, mean": "mean_error", "regulariser, largest": "prior_error"}
  groups = {g: {name: metrics[name][key] for name in LOSSES} for g, key in kinds.items()}
  _figures.dots(axes[2], groups, ylabel="distance to the exact one", title="After training")
  return fig
