"""Bayesian optimisation of a model by joint expected improvement: a small Gaussian process."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxopt_robust import surrogates

LENGTHS = (0.5, 1.0, 2.0, 4.0)  # times sqrt(dimension); the likeliest is taken at each round
NOISE, RATE = 0.1, 0.05  # of standardised values; of Adam, in units of the designs


def kernel(a: jax.Array, b: jax.Array, length: jax.Array) -> jax.Array:
  """Matern 5/2 of variance 1: float[a, b]."""
  square = jnp.sum(a**2, 1)[:, None] + jnp.sum(b**2, 1)[None] - 2 * a @ b.T
  r = jnp.sqrt(5 * jnp.maximum(square, 1e-6)) / length
  return (1 + r + r**2 / 3) * jnp.exp(-r)


def fit(x: jax.Array, y: jax.Array, where: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
  """The likeliest length, the inverse covariance of the values and its product with them.

  Rows that are masked out get the identity, so that they count for nothing.
  """
  pair = where[:, None] & where[None]

  def one(length: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    noise = jnp.where(where, NOISE**2, 1)
    cov = jnp.where(pair, kernel(x, x, length), 0) + jnp.diag(noise)
    lower = jnp.linalg.cholesky(cov)
    inverse = jax.scipy.linalg.cho_solve((lower, True), jnp.eye(len(x), dtype=x.dtype))
    inverse = jnp.where(pair, inverse, 0)
    product = inverse @ y
    return -0.5 * y @ product - jnp.sum(jnp.log(jnp.diag(lower))), inverse, product

  lengths = jnp.asarray(np.array(LENGTHS) * np.sqrt(x.shape[1]), x.dtype)
  likelihood, inverses, products = jax.vmap(one)(lengths)
  best = jnp.argmax(likelihood)
  return lengths[best], inverses[best], products[best]


def draws(x: jax.Array, q: jax.Array, fitted: Any, noise: jax.Array) -> jax.Array:
  """Joint posterior samples float[samples, designs] at q, from standard normal noise."""
  length, inverse, product = fitted
  cross = kernel(q, x, length)
  cov = kernel(q, q, length) - cross @ inverse @ cross.T
  lower = jnp.linalg.cholesky(cov + 1e-4 * jnp.eye(len(q), dtype=q.dtype))
  return (cross @ product)[None] + noise @ lower.T


def search(
  objective: Callable[[jax.Array], jax.Array],
  x: jax.Array,
  y: jax.Array,
  key: jax.Array,
  *,
  num_steps: int,
  batch: int,
  restarts: int,
  climbs: int,
  samples: int,
  bounds: tuple[Any, Any],
) -> jax.Array:
  """Rounds of joint expected improvement; the best len(x) of all designs seen, by their values.

  Args:
    objective: float[batch, n] to float[batch], the model, which stands for the truth.
    x: float[starts, n], known designs.
    y: float[starts], their values.
    key: of all draws.
    num_steps: rounds.
    batch: designs of a round.
    restarts: of the acquisition function's maximisation, from the best designs, perturbed.
    climbs: steps of Adam of each.
    samples: posterior draws.
    bounds: (low, high), scalars or float[n].

  Returns:
    float[starts, n].
  """
  confine = lambda x: jnp.clip(x, *(jnp.broadcast_to(b, x.shape) for b in bounds))
  start, (known, n) = confine(x), x.shape
  room = num_steps * batch
  designs = jnp.concatenate([start, jnp.zeros((room, n), x.dtype)])
  values = jnp.concatenate([y, jnp.zeros(room, y.dtype)])
  row = jnp.arange(known + room)
  adam = optax.adam(RATE)

  def round_(carry: tuple, given: tuple) -> tuple[tuple, None]:
    designs, values, (key, i) = *carry, given
    spread_key, noise_key = jax.random.split(key)
    count = known + i * batch
    where = row < count
    mean = jnp.sum(jnp.where(where, values, 0)) / count
    std = jnp.sqrt(jnp.sum(jnp.where(where, values - mean, 0) ** 2) / count)
    scaled = jnp.where(where, (values - mean) / jnp.maximum(std, 1e-6), 0)
    fitted = fit(designs, scaled, where)
    best = jnp.max(jnp.where(where, scaled, -jnp.inf))
    noise = jax.random.normal(noise_key, (samples, batch), x.dtype)

    def gain(q: jax.Array) -> jax.Array:
      return surrogates.q_expected_improvement(draws(designs, q, fitted, noise), best=best)

    def climb(carry: tuple, _: None) -> tuple[tuple, None]:
      q, state = carry
      slope = jax.grad(lambda q: -jnp.sum(jax.vmap(gain)(q)))(q)
      updates, state = adam.update(slope, state)
      return (confine(optax.apply_updates(q, updates)), state), None

    _, top = jax.lax.top_k(jnp.where(where, scaled, -jnp.inf), batch)
    shape = (restarts, batch, n)
    first = designs[top][None] + 0.2 * jax.random.normal(spread_key, shape, x.dtype)
    first = confine(first)
    (q, _), _ = jax.lax.scan(climb, (first, adam.init(first)), None, length=climbs)
    chosen = q[jnp.argmax(jax.vmap(gain)(q))]
    designs = jax.lax.dynamic_update_slice(designs, chosen, (count, 0))
    values = jax.lax.dynamic_update_slice(values, objective(chosen), (count,))
    return (designs, values), None

  rounds = (jax.random.split(key, num_steps), jnp.arange(num_steps))
  (designs, values), _ = jax.lax.scan(round_, (designs, values), rounds)
  return designs[jax.lax.top_k(values, known)[1]]
