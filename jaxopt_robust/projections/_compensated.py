"""Sums of products with twice the digits of the dtype, for residuals of linear systems.

A factor is split into halves whose products are exact, and the sum keeps its own rounding errors.
Nothing here depends on the order in which a compiler contracts a product and a sum: every product
that is summed is exact.
"""

import jax
import jax.numpy as jnp

from jaxopt_robust.typing import Array

# Bits of the high half: half of the significand, without the leading bit.
_HALF = {jnp.dtype(jnp.float32): (8, 11), jnp.dtype(jnp.float64): (11, 25)}


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
  """The rounded sum and its rounding error, a + b = s + e exactly."""
  s = a + b
  back = s - a
  return s, (a - (s - back)) + (b - back)


def _split(x: Array) -> tuple[Array, Array]:
  """High and low half, x = high + low exactly."""
  exponent, mantissa = _HALF[x.dtype]
  high = jax.lax.reduce_precision(x, exponent, mantissa)
  return high, x - high


def _add(one: tuple[Array, Array], other: tuple[Array, Array]) -> tuple[Array, Array]:
  s, e = two_sum(one[0], other[0])
  return s, one[1] + other[1] + e


def product(matrix: Array, high: Array, low: Array, *rest: Array) -> tuple[Array, Array]:
  """matrix @ (high + low) + sum(rest), as a pair.

  Args:
    matrix: float[m, n].
    high: float[n].
    low: float[n], the digits below ``high``.
    *rest: float[m] each.

  Returns:
    float[m] and float[m], high and low digits of the result.
  """
  a, b = _split(matrix)
  c, d = (part[None, :] for part in _split(high))
  extra = [r[:, None] for r in rest]
  # b * d and matrix * low are small enough to be rounded.
  small = b * d + matrix * low[None, :]
  terms = jnp.concatenate([a * c, a * d, b * c, *extra], axis=1)
  errors = jnp.pad(small, ((0, 0), (0, terms.shape[1] - small.shape[1])))
  zero = jnp.zeros((), matrix.dtype)
  return two_sum(*jax.lax.reduce((terms, errors), (zero, zero), _add, (1,)))
