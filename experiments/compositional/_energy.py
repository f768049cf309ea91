"""Energy-based models on a line and in the plane: data, noise, exact losses, gradient oracles."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import datasets
from experiments._training import batches
from jaxopt_robust import compositional

LOG_ROOT = 0.5 * np.log(2 * np.pi)
_EXTENT = 6.0  # of the quadrature grid, in standard deviations


def log_normal(x: jax.Array, scale: float) -> jax.Array:
  """Log density of N(0, scale^2 I) in the plane."""
  return -0.5 * jnp.sum((x / scale) ** 2, axis=-1) - 2 * (LOG_ROOT + np.log(scale))


def make_grid(points: int, extent: float = _EXTENT) -> tuple[np.ndarray, float]:
  """Centres of the cells of a square grid, and the log area of a cell."""
  edges = np.linspace(-extent, extent, points + 1)
  centre = 0.5 * (edges[1:] + edges[:-1])
  x, y = np.meshgrid(centre, centre)
  area = float(2 * np.log(edges[1] - edges[0]))
  return np.stack([x.ravel(), y.ravel()], axis=1).astype(np.float32), area


def landscape(distances: tuple[float, ...]) -> dict[str, Any]:
  """Gradient norms along the mean with exact expectations (float64); the noise is N(0, 1)."""
  x = np.linspace(-12.0, max(distances) + 12.0, 4001)
  mass = (x[1] - x[0]) * np.exp(-LOG_ROOT)
  on_noise = mass * np.exp(-x * x / 2)
  nothing = {1: jnp.array([-jnp.inf]), -1: jnp.array([jnp.inf])}

  def contrast(parameters: jax.Array, on_data: jax.Array) -> jax.Array:
    mean, log_z = parameters  # log p0 = mean x - x^2 / 2, and log Z less that of the noise
    ratio = (mean * x)[:, None]
    loss = functools.partial(compositional.nce_loss, log_z=log_z)
    data = jax.vmap(lambda r: loss(r, nothing[1]))(ratio)
    noise = jax.vmap(lambda r: loss(nothing[-1], r))(ratio)
    return jnp.sum(on_data * data + on_noise * noise)

  def likelihood(mean: jax.Array, on_data: jax.Array) -> jax.Array:
    log_w = mean * x + jnp.log(on_noise * x.size)
    return compositional.log_partition(log_w).log_z - jnp.sum(on_data * mean * x)

  def at(mean: jax.Array, on_data: jax.Array) -> dict[str, jax.Array]:
    slope = jax.grad(contrast)(jnp.stack([mean, 0.5 * mean**2]), on_data)
    return {"nce": jnp.linalg.norm(slope), "mle": jnp.abs(jax.grad(likelihood)(mean, on_data))}

  curves = jax.jit(jax.vmap(at, in_axes=(0, None)))
  found = {}
  for distance in distances:
    means = np.linspace(0, 1.25, 41) * distance
    on_data = mass * np.exp(-((x - distance) ** 2) / 2)
    found[f"{distance:g}"] = {"mean": means, **curves(jnp.asarray(means), jnp.asarray(on_data))}
  return found


def make_oracle(
  method: str, log_density: Callable[..., Any], log_noise: Callable[..., Any], rate: float
) -> Callable[..., tuple[Any, Any]]:
  """``(params, state, data, noise) -> (gradients, state)``."""
  if method in ("MECO", "batch estimate"):
    rate = rate if method == "MECO" else 1.0
    value_and_grad = compositional.meco_value_and_grad(log_density, log_noise)
    return lambda *inputs: value_and_grad(*inputs, rate=rate)[1:]
  loss = compositional.log_ence_loss if method == "eNCE, normalised" else None
  loss = loss or (compositional.ence_loss if method == "eNCE" else compositional.nce_loss)

  def contrast(params: Any, data: jax.Array, noise: jax.Array) -> jax.Array:
    on_data = log_density(params, data) - log_noise(data)
    return loss(on_data, log_density(params, noise) - log_noise(noise), log_z=params["log_z"])

  return lambda params, state, data, noise: (jax.grad(contrast)(params, data, noise), state)


def descend(
  oracle: Callable[..., tuple[Any, Any]], optimizer: Any, params: Any, draw: Callable[[Any], Any],
  inputs: Any, evaluate: Callable[[Any], Any],
) -> tuple[Any, Any]:  # fmt: skip
  """One run: final parameters, and what ``evaluate`` returned after each part of the steps.

  Args:
    oracle: of ``make_oracle``.
    optimizer: any optax chain.
    params: initial parameters.
    draw: ``input of a step -> (data, noise)``.
    inputs: pytree of arrays [parts, steps, ...].
    evaluate: of the parameters.
  """
  import optax

  def step(carry: Any, given: Any) -> tuple[Any, None]:
    params, opt_state, state = carry
    grads, state = oracle(params, state, *draw(given))
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state, state), None

  def part(carry: Any, given: Any) -> Any:
    carry, _ = jax.lax.scan(step, carry, given)
    return carry, evaluate(carry[0])

  carry = (params, optimizer.init(params), compositional.meco_init())
  carry, seen = jax.lax.scan(part, carry, inputs)
  return carry[0], seen


def load_points(table: str, seed: int) -> dict[str, np.ndarray]:
  """Training, validation and test points; the training points have mean 0 and covariance I."""
  if table == "moons":
    from sklearn.datasets import make_moons

    x = make_moons(1500, noise=0.1, random_state=seed)[0]
  else:
    full = np.asarray(datasets.load(table)["x"], np.float64)
    deviation = full.std(0)
    if table == "breast_cancer":  # columns in different units
      full = full / np.where(deviation > 0, deviation, 1)
    full = full - full.mean(0)
    x = full @ np.linalg.svd(full, full_matrices=False)[2][:2].T
  parts = [x[rows] for rows in datasets.split(len(x), (0.6, 0.15, 0.25), seed)]
  root = np.linalg.cholesky(np.linalg.inv(np.cov(parts[0].T)))
  white = [(part - parts[0].mean(0)) @ root for part in parts]
  return dict(zip(("train", "val", "test"), white, strict=True))


def references(points: dict[str, np.ndarray]) -> dict[str, float]:
  """Test NLL of a fitted Gaussian, and of a kernel estimate with a cross-validated bandwidth."""
  from sklearn.model_selection import GridSearchCV
  from sklearn.neighbors import KernelDensity

  gaussian = np.mean(0.5 * np.sum(points["test"] ** 2, axis=1)) + 2 * LOG_ROOT
  search = GridSearchCV(KernelDensity(), {"bandwidth": np.geomspace(0.06, 0.5, 8)}, cv=3)
  fitted = search.fit(points["train"]).best_estimator_
  kernel = -np.mean(fitted.score_samples(points["test"]))
  return {"Gaussian fit": float(gaussian), "kernel estimate": float(kernel)}


class Split(NamedTuple):
  """One table and seed: whitened points (padded rows are masked), minibatches, initial weights."""

  x: dict[str, jax.Array]
  where: dict[str, jax.Array]
  rows: jax.Array
  params: Any
  key: jax.Array


def load_split(points: Any, seed: int, config: Any, sizes: dict[str, int]) -> Split:
  """Arrays of common sizes; padded rows are never drawn and do not count."""
  num = len(points["train"])
  epochs = -(-config.plane_steps // (num // config.plane_batch))
  rows = batches(num, config.plane_batch, epochs, seed).reshape(-1, config.plane_batch)
  init_key, key = jax.random.split(jax.random.key(seed))
  pad = lambda x, size: jnp.asarray(np.pad(x, ((0, size - len(x)), (0, 0))), jnp.float32)
  return Split(
    {name: pad(points[name], size) for name, size in sizes.items()},
    {name: jnp.arange(size) < len(points[name]) for name, size in sizes.items()},
    jnp.asarray(rows[: config.plane_steps]),
    {"net": _init(make_net(config.hidden), init_key), "log_z": jnp.zeros((), jnp.float32)},
    key,
  )


def make_net(hidden: int) -> Any:
  """The energy: a perceptron with two hidden layers and one output."""
  from flax import linen

  from jaxopt_robust import nets

  return nets.MLP((hidden, hidden, 1), jax.nn.silu, linen.initializers.lecun_normal())


@functools.partial(jax.jit, static_argnums=0)
def _init(net: Any, key: jax.Array) -> Any:
  return net.init(key, jnp.zeros((1, 2)))


def log_density(net: Any, params: Any, x: jax.Array) -> jax.Array:
  """Logarithm of the unnormalised density: the network tilts a standard normal density."""
  return net.apply(params["net"], x)[:, 0] + log_normal(x, 1.0)
