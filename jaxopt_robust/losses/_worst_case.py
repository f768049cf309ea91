"""The largest KL-regularised mean over distributions, accurate for any temperature."""

import jax
import jax.numpy as jnp

from jaxopt_robust.losses import _classification as base
from jaxopt_robust.typing import Array


def worst_case_mean(
  values: Array, temperature: Array, k: int = 1, where: Array | None = None
) -> Array:
  """max_p sum_i p_i v_i - lam KL(p, 1/n) over p in the simplex with p_i <= 1/k.

  Its derivatives are p in the values and -KL in the temperature (envelope theorem), which are used
  as such: the quotients of the formula would overflow for small temperatures. With a mask (k = 1
  only) p lives on the n entries where it is true, of which there must be one; the other entries
  must be finite.
  """
  return _worst_case_mean(k, values, temperature, where)


def _attain(
  k: int, values: Array, temperature: Array, where: Array | None
) -> tuple[Array, Array, Array]:
  """The value, the weights, and their divergence."""
  log_ratio = log_weights(values, temperature, k, where)
  weights = probabilities(log_ratio, where)
  kl = divergence(log_ratio, where)
  penalty = jnp.where(kl > 0, temperature * kl, 0 * kl)  # 0 at an infinite temperature; NaN stays
  # Rounding leaves sum_i p_i off one by an ulp or so; centred values make that harmless.
  centre = _largest(values, where)
  mean = jnp.sum(weights * (values - centre), axis=-1) + centre[..., 0]
  return mean - penalty, weights, kl


def _worst_case_mean_value(k: int, values: Array, temperature: Array, where: Array | None) -> Array:
  return _attain(k, values, temperature, where)[0]


_worst_case_mean = jax.custom_jvp(_worst_case_mean_value, nondiff_argnums=(0,))


@_worst_case_mean.defjvp
def _worst_case_mean_jvp(
  k: int,
  primals: tuple[Array, Array, Array | None],
  tangents: tuple[Array, Array, Array | None],
) -> tuple[Array, Array]:
  value, weights, kl = _attain(k, *primals)
  values_dot, temperature_dot, _ = tangents
  return value, jnp.sum(weights * values_dot, axis=-1) - kl * temperature_dot


def log_weights(values: Array, temperature: Array, k: int = 1, where: Array | None = None) -> Array:
  """log(n p_i) of the maximiser p, float[batch, n]; finite, and 0 where the mask is false."""
  count = _count(values, where)
  largest = _largest(values, where)
  # Below eps^2 times the range the temperature changes nothing, and quotients would overflow.
  spread = jax.lax.stop_gradient(largest + _largest(-values, where))
  floor = jnp.asarray(jnp.finfo(values.dtype).eps, values.dtype) ** 2 * spread
  scale = jnp.maximum(temperature[..., None], floor)
  scale = jnp.where(scale == 0, 1, scale)  # temperature 0 and equal values
  # log mean exp x of centred x is log(1 + mean(exp x - 1 - x)): no digits lost when x is tiny
  x = (values - _sum(values, where) / count) / scale
  is_flat = _largest(jnp.abs(x), where) < 1
  flat = jnp.where(is_flat, x, 0)
  excess = _sum(flat * flat * base.expm1_remainder_over(flat), where) / count
  shifted = (values - largest) / scale
  total = jax.nn.logsumexp(shifted, axis=-1, keepdims=True, where=where)
  log_ratio = jnp.where(is_flat, flat - jnp.log1p(excess), shifted - (total - jnp.log(count)))
  if where is not None:
    log_ratio = jnp.where(where, log_ratio, 0)
  return log_ratio if k == 1 else _capped(log_ratio, k)


def probabilities(log_ratio: Array, where: Array | None = None) -> Array:
  """p from log(n p_i); 0 where the mask is false."""
  weights = jnp.exp(log_ratio) / _count(log_ratio, where)
  return weights if where is None else jnp.where(where, weights, 0)


def _count(values: Array, where: Array | None) -> Array:
  """The number of entries, float[..., 1] or float[]."""
  if where is None:
    return jnp.asarray(values.shape[-1], values.dtype)
  return jnp.maximum(jnp.sum(where, axis=-1, keepdims=True), 1).astype(values.dtype)


def _largest(values: Array, where: Array | None) -> Array:
  if where is None:
    return jnp.max(values, axis=-1, keepdims=True)
  return jnp.max(values, axis=-1, keepdims=True, where=where, initial=-jnp.inf)


def _sum(values: Array, where: Array | None) -> Array:
  return jnp.sum(values, axis=-1, keepdims=True, where=where)


def _capped(log_ratio: Array, k: int) -> Array:
  """Log ratios of the closest distribution whose entries are at most 1/k: min(1/k, c p_i)."""
  n = log_ratio.shape[-1]
  log_cap = jnp.log(jnp.asarray(n / k, log_ratio.dtype))
  descending = -jnp.sort(-log_ratio, axis=-1)
  # With the j largest at the cap the others share the mass 1 - j/k in proportion to p.
  tail = jax.lax.cumlogsumexp(descending, axis=log_ratio.ndim - 1, reverse=True)
  log_mass = jnp.log(n * (1 - jnp.arange(k, dtype=log_ratio.dtype) / k))
  log_mass = jnp.broadcast_to(log_mass, (*log_ratio.shape[:-1], k))
  fits = (descending - tail)[..., :k] + log_mass <= log_cap
  # j = k - 1 always fits: the rest has mass 1/k, so that no entry of it exceeds 1/k.
  fits = fits.at[..., -1].set(True)
  first = jnp.argmax(fits, axis=-1)[..., None]
  tail, log_mass = (jnp.take_along_axis(v, first, axis=-1) for v in (tail[..., :k], log_mass))
  # The large numbers are subtracted first: for small temperatures the order matters.
  return jnp.minimum((log_ratio - tail) + log_mass, log_cap)


def divergence(log_ratio: Array, where: Array | None = None) -> Array:
  """KL(p, 1/n) from log(n p_i), as the mean of r log r - r + 1 >= 0 with r = n p_i."""
  is_small = jnp.abs(log_ratio) < 1
  small = jnp.where(is_small, log_ratio, 0)
  near = small * small * (base.expm1_over(small) - base.expm1_remainder_over(small))
  wide = jnp.where(is_small, 1, log_ratio)
  far = wide * jnp.exp(wide) - jnp.expm1(wide)
  terms = jnp.where(is_small, near, far)  # 0 where the mask is false
  return (
    jnp.mean(terms, axis=-1)
    if where is None
    else (_sum(terms, where) / _count(terms, where))[..., 0]
  )
