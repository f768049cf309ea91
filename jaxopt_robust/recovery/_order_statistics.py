"""The k-th smallest of many numbers without sorting them."""

import jax
import jax.numpy as jnp

from jaxopt_robust.typing import Array


def kth_smallest(values: Array, k: Array) -> Array:
  """``sort(values)[k]`` of a vector of numbers >= 0 in float32 or float64; NaN are the largest.

  Floats >= 0 are ordered like their bits, which are found one by one, from the highest, by
  counting: as many passes as there are bits, a small part of the time of a sort. The derivative is
  that of the entry.
  """
  kind, width = (jnp.int64, 63) if values.dtype == jnp.float64 else (jnp.int32, 31)
  bits = jax.lax.bitcast_convert_type(jax.lax.stop_gradient(values), kind)

  def next_bit(i: Array, low: Array) -> Array:
    higher = low | (jnp.ones((), kind) << (width - 1 - i).astype(kind))
    return jnp.where(jnp.sum(bits < higher) <= k, higher, low)

  found = jax.lax.fori_loop(0, width, next_bit, jnp.zeros((), kind))
  return values[jnp.argmax(bits == found)]
