"""CMA-ES with a full covariance as pure functions: Hansen's tutorial, with negative weights."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class CmaState(NamedTuple):
  """One run: the normal distribution N(mean, sigma^2 cov), two evolution paths, generations."""

  mean: jax.Array
  sigma: jax.Array
  cov: jax.Array
  path_sigma: jax.Array
  path_cov: jax.Array
  count: jax.Array


def population_size(dimension: int) -> int:
  """The tutorial's default."""
  return 4 + int(3 * np.log(dimension))


def constants(dimension: int, population: int) -> dict[str, Any]:
  """Weights and rates of the tutorial's table 1, in its names."""
  n, half = dimension, population // 2
  raw = np.log((population + 1) / 2) - np.log(np.arange(1, population + 1))
  effective = lambda w: np.sum(w) ** 2 / np.sum(w**2)
  mu, mu_bad = effective(raw[:half]), effective(raw[half:])
  c_1 = 2 / ((n + 1.3) ** 2 + mu)
  c_mu = min(1 - c_1, 2 * (mu - 2 + 1 / mu) / ((n + 2) ** 2 + mu))
  c_sigma = (mu + 2) / (n + mu + 5)
  bad = min(1 + c_1 / c_mu, 1 + 2 * mu_bad / (mu + 2), (1 - c_1 - c_mu) / (n * c_mu))
  positive, negative = np.sum(raw[raw > 0]), -np.sum(raw[raw < 0])
  return {
    "weights": np.where(raw >= 0, raw / positive, bad * raw / negative),
    "half": half, "mu": mu, "c_1": c_1, "c_mu": c_mu, "c_sigma": c_sigma,
    "c_c": (4 + mu / n) / (n + 4 + 2 * mu / n),
    "d_sigma": 1 + 2 * max(0, np.sqrt((mu - 1) / (n + 1)) - 1) + c_sigma,
    "chi": np.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n**2)),
  }  # fmt: skip


def init(mean: jax.Array, sigma: Any) -> CmaState:
  """A run from ``mean``."""
  zero = jnp.zeros_like(mean)
  eye = jnp.eye(mean.shape[0], dtype=mean.dtype)
  sigma = jnp.asarray(sigma, mean.dtype)
  return CmaState(mean, sigma, eye, zero, zero, jnp.zeros((), jnp.int32))


def roots(cov: jax.Array) -> tuple[jax.Array, jax.Array]:
  """The symmetric square root of a covariance and its inverse."""
  values, vectors = jnp.linalg.eigh(cov)
  scale = jnp.sqrt(jnp.maximum(values, jnp.finfo(cov.dtype).tiny))[None]
  return (vectors * scale) @ vectors.T, (vectors / scale) @ vectors.T


def ask(state: CmaState, root: jax.Array, noise: jax.Array) -> jax.Array:
  """float[population, n], from standard normal noise of this shape."""
  return state.mean[None] + state.sigma * noise @ root


def tell(state: CmaState, inverse: jax.Array, x: jax.Array, values: jax.Array) -> CmaState:
  """The next distribution, from designs and their values (higher is better)."""
  n, k = x.shape[1], constants(x.shape[1], x.shape[0])
  weights = jnp.asarray(k["weights"], x.dtype)
  _, order = jax.lax.top_k(values, len(x))
  y = (x[order] - state.mean[None]) / state.sigma
  middle = weights[: k["half"]] @ y[: k["half"]]
  c_s, c_c = k["c_sigma"], k["c_c"]
  path_sigma = (1 - c_s) * state.path_sigma
  path_sigma += np.sqrt(c_s * (2 - c_s) * k["mu"]) * (inverse @ middle)
  length = jnp.linalg.norm(path_sigma)
  count = state.count + 1
  begun = 1 - (1 - c_s) ** (2 * count.astype(x.dtype))
  steady = (length / jnp.sqrt(begun) < (1.4 + 2 / (n + 1)) * k["chi"]).astype(x.dtype)
  path_cov = (1 - c_c) * state.path_cov + steady * np.sqrt(c_c * (2 - c_c) * k["mu"]) * middle
  size = jnp.sum((y @ inverse) ** 2, axis=1)
  signed = jnp.where(weights >= 0, weights, weights * n / jnp.maximum(size, 1e-8))
  late = k["c_1"] * (1 - steady) * c_c * (2 - c_c)
  cov = (1 + late - k["c_1"] - k["c_mu"] * np.sum(k["weights"])) * state.cov
  cov += k["c_1"] * jnp.outer(path_cov, path_cov) + k["c_mu"] * (y * signed[:, None]).T @ y
  sigma = state.sigma * jnp.exp(c_s / k["d_sigma"] * (length / k["chi"] - 1))
  return CmaState(state.mean + state.sigma * middle, sigma, cov, path_sigma, path_cov, count)


def search(
  objective: Callable[[jax.Array], jax.Array],
  starts: jax.Array,
  key: jax.Array,
  *,
  sigma: float,
  num_steps: int,
  bounds: tuple[Any, Any],
) -> jax.Array:
  """A run from each start; the design of each with the highest value, clipped to the bounds.

  A design outside of them is ranked by its clipped value minus its squared distance.

  Args:
    objective: float[designs, n] to float[designs].
    starts: float[runs, n].
    key: of all draws.
    sigma: of the first generation.
    num_steps: generations.
    bounds: (low, high), scalars or float[n], of the designs that the objective sees.

  Returns:
    float[runs, n].
  """
  runs, n = starts.shape
  size = population_size(n)
  confine = lambda x: jnp.clip(x, *(jnp.broadcast_to(b, x.shape) for b in bounds))

  def generation(carry: tuple, key: jax.Array) -> tuple[tuple, None]:
    states, best, top = carry
    root, inverse = jax.vmap(roots)(states.cov)
    x = jax.vmap(ask)(states, root, jax.random.normal(key, (runs, size, n), starts.dtype))
    inside = confine(x)
    values = objective(inside.reshape(-1, n)).reshape(runs, size)
    found = jnp.argmax(values, axis=1)
    value = jnp.max(values, axis=1)
    design = jnp.take_along_axis(inside, found[:, None, None], axis=1)[:, 0]
    best = jnp.where((value > top)[:, None], design, best)
    # Outside of the box the objective is flat: without a price the distribution would widen there.
    ranked = values - jnp.sum((x - inside) ** 2, axis=2)
    return (jax.vmap(tell)(states, inverse, x, ranked), best, jnp.maximum(value, top)), None

  states = jax.vmap(lambda start: init(start, sigma))(starts)
  first = (states, confine(starts), jnp.full(runs, -jnp.inf, starts.dtype))
  return jax.lax.scan(generation, first, jax.random.split(key, num_steps))[0][1]
