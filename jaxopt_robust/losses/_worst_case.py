"""The largest KL-regularised mean over distributions, accurate for any temperature."""

import jax
import jax.numpy as jnp

from jaxopt_robust.losses import _classification as base
from jaxopt_robust.typing import Array


def worst_case_mean(values: Array, temperature: Array, k: int = 1) -> Array:
  """max_p sum_i p_i v_i - lam KL(p, 1/n) over p in the simplex with p_i <= 1/k.

  Its derivatives are p in the values and -KL in the temperature (envelope theorem), which are used
  as such: the quotients of the formula would overflow for small temperatures.
  """
  return _worst_case_mean(k, values, temperature)


def _attain(k: int, values: Array, temperature: Array) -> tuple[Array, Array, Array]:
  """The value, the weights, and their divergence."""
  log_ratio = log_weights(values, temperature, k)
  weights = jnp.exp(log_ratio) / values.shape[-1]
  kl = divergence(log_ratio)
  penalty = jnp.where(kl > 0, temperature * kl, 0 * kl)  # 0 at an infinite temperature; NaN stays
  # Rounding leaves sum_i p_i off one by an ulp or so; centred values make that harmless.
  centre = jnp.max(values, axis=-1, keepdims=True)
  mean = jnp.sum(weights * (values - centre), axis=-1) + centre[..., 0]
  return mean - penalty, weights, kl


def _worst_case_mean_value(k: int, values: Array, temperature: Array) -> Array:
  return _attain(k, values, temperature)[0]


_worst_case_mean = jax.custom_jvp(_worst_case_mean_value, nondiff_argnums=(0,))


@_worst_case_mean.defjvp
def _worst_case_mean_jvp(
  k: int, primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
  value, weights, kl = _attain(k, *primals)
  values_dot, temperature_dot = tangents
  return value, jnp.sum(weights * values_dot, axis=-1) - kl * temperature_dot


def log_weights(values: Array, temperature: Array, k: int = 1) -> Array:
  """log(n p_i) of the maximiser p, float[batch, n]; finite."""
  n = values.shape[-1]
  largest = jnp.max(values, axis=-1, keepdims=True)
  # Below eps^2 times the range the temperature changes nothing, and quotients would overflow.
  spread = jax.lax.stop_gradient(largest - jnp.min(values, axis=-1, keepdims=True))
  floor = jnp.asarray(jnp.finfo(values.dtype).eps, values.dtype) ** 2 * spread
  scale = jnp.maximum(temperature[..., None], floor)
  # log mean exp x of centred x is log(1 + mean(exp x - 1 - x)): no digits lost when x is tiny
  x = (values - jnp.mean(values, axis=-1, keepdims=True)) / scale
  is_flat = jnp.max(jnp.abs(x), axis=-1, keepdims=True) < 1
  flat = jnp.where(is_flat, x, 0)
  excess = jnp.mean(flat * flat * base.expm1_remainder_over(flat), axis=-1, keepdims=True)
  shifted = (values - largest) / scale
  log_mean = jax.nn.logsumexp(shifted, axis=-1, keepdims=True) - jnp.log(float(n))
  log_ratio = jnp.where(is_flat, flat - jnp.log1p(excess), shifted - log_mean)
  return log_ratio if k == 1 else _capped(log_ratio, k)


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


def divergence(log_ratio: Array) -> Array:
  """KL(p, 1/n) from log(n p_i), as the mean of r log r - r + 1 >= 0 with r = n p_i."""
  is_small = jnp.abs(log_ratio) < 1
  small = jnp.where(is_small, log_ratio, 0)
  near = small * small * (base.expm1_over(small) - base.expm1_remainder_over(small))
  wide = jnp.where(is_small, 1, log_ratio)
  far = wide * jnp.exp(wide) - jnp.expm1(wide)
  return jnp.mean(jnp.where(is_small, near, far), axis=-1)
