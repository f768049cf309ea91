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

# Sums of more than a few times so many numbers keep as many partial ones.
_LANES = 4096


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


def _in_lanes(terms: Array, errors: Array) -> tuple[Array, Array]:
  """Partial sums of long rows, many side by side: a reduction by pairs is not vectorised."""
  rows, size = terms.shape
  steps = -(-size // _LANES)

  def lanes(array: Array) -> Array:
    array = jnp.pad(array, ((0, 0), (0, steps * _LANES - size)))
    return array.reshape(rows, steps, _LANES).transpose(1, 0, 2)

  zero = jnp.zeros((rows, _LANES), terms.dtype)
  return jax.lax.scan(
    lambda total, part: (_add(total, part), None), (zero, zero), (lanes(terms), lanes(errors))
  )[0]


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
  extra = jnp.stack(rest, axis=1) if rest else jnp.zeros((a.shape[0], 0), a.dtype)
  # b * d and matrix * low are small enough to be rounded.
  small = b * d + matrix * low[None, :]
  if a.shape[1] > 4 * _LANES:
    terms, first = two_sum(a * c, a * d)
    terms, second = two_sum(terms, b * c)
    terms, errors = _in_lanes(terms, first + second + small)
    terms = jnp.concatenate([terms, extra], axis=1)
  else:
    terms, errors = jnp.concatenate([a * c, a * d, b * c, extra], axis=1), small
  errors = jnp.pad(errors, ((0, 0), (0, terms.shape[1] - errors.shape[1])))
  zero = jnp.zeros((), matrix.dtype)
  return two_sum(*jax.lax.reduce((terms, errors), (zero, zero), _add, (1,)))
