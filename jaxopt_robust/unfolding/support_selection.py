"""Support selection: large entries are surely part of the signal, and are not shrunk."""

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.numerics import magnitude, soft_threshold
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["soft_threshold_except_largest", "support_schedule"]


def soft_threshold_except_largest(
  x: ArrayLike, threshold: ArrayLike, *, support: ArrayLike
) -> Array:
  r"""Soft thresholding that leaves the largest entries as they are (support selection).

    y_i = x_i                    where |x_i| > t and x_i is among the round(support n) largest
    y_i = soft(x_i, t)           elsewhere

  Large entries are surely part of the signal: shrinking them would only bias them.

  Args:
    x: float[..., n]; the largest entries are those of the last axis.
    threshold: t >= 0, a scalar or of the shape of ``x``; may be traced.
    support: in [0, 1], a scalar, the share of entries; may be traced.

  Returns:
    Like ``x``. NaN entries stay NaN.

  Raises:
    TypeError: when ``x`` holds no numbers.
    ValueError: when ``threshold`` is negative or ``support`` not in [0, 1].

  Note:
    Of equal moduli the lower index is the larger. The choice has no derivative.

  Example:
    >>> soft_threshold_except_largest(jnp.array([3.0, -2.0, 0.5, 0.1]), 1.0, support=0.25)
    Array([ 3., -1.,  0.,  0.], dtype=float32)

  Reference:
    Chen, Liu, Wang and Yin, Theoretical linear convergence of unfolded ISTA and its practical
    weights and thresholds, 2018.
  """
  x = _checks.check_float_array("x", x, min_rank=1)
  _checks.check_interval("support", support, 0.0, 1.0, scalar=True)
  shrunk = soft_threshold(x, threshold)
  size = magnitude(x)
  share = _checks.check_float_array("support", support, rank=0).astype(size.dtype)
  count = jnp.round(share * x.shape[-1]).astype(jnp.int32)
  chosen = _largest(size, count) & (size > jnp.asarray(threshold, size.dtype))
  return jnp.where(chosen, x, shrunk)


def _largest(size: Array, count: Array) -> Array:
  """Which are the ``count`` largest of the last axis, the first of equals; one sort of values."""
  size = jax.lax.stop_gradient(jnp.where(jnp.isnan(size), -1, size))
  place = jnp.clip(size.shape[-1] - count, 0, size.shape[-1] - 1)
  least = jnp.take(jnp.sort(size, axis=-1), place[None], axis=-1)
  above, equal = size > least, size == least
  left = count - jnp.sum(above, axis=-1, keepdims=True, dtype=jnp.int32)
  return above | (equal & (jnp.cumsum(equal, axis=-1, dtype=jnp.int32) <= left))


def support_schedule(
  *, num_layers: int, rate: ArrayLike = 0.012, largest: ArrayLike = 0.13
) -> Array:
  r"""Shares for support selection that grow with the layer: p_k = min(rate k, largest).

  Args:
    num_layers: K >= 1, static; k = 1, ..., K.
    rate: in [0, 1], a scalar; may be traced.
    largest: in [0, 1], a scalar; may be traced.

  Returns:
    float[num_layers].

  Raises:
    TypeError: when ``num_layers`` is no integer.
    ValueError: when a number is out of range.

  Example:
    >>> support_schedule(num_layers=3, rate=0.1, largest=0.2)
    Array([0.1, 0.2, 0.2], dtype=float32)

  Reference:
    Chen, Liu, Wang and Yin, Theoretical linear convergence of unfolded ISTA and its practical
    weights and thresholds, 2018; the numbers 1.2 and 13 percent are those of the
    public implementation of ALISTA.
  """
  num_layers = _checks.check_int("num_layers", num_layers, minimum=1)
  _checks.check_interval("rate", rate, 0.0, 1.0, scalar=True)
  _checks.check_interval("largest", largest, 0.0, 1.0, scalar=True)
  rate, largest = (
    _checks.check_float_array(name, value, rank=0)
    for name, value in (("rate", rate), ("largest", largest))
  )
  return jnp.minimum(rate * jnp.arange(1, num_layers + 1, dtype=rate.dtype), largest)
