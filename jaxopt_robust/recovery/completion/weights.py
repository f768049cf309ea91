"""Weights that make least squares robust: what alternating minimisation gives to gross errors."""

from collections.abc import Callable

import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.numerics import safe_divide, upcast
from jaxopt_robust.recovery._order_statistics import kth_smallest
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["huber_weights", "trimmed_weights"]

_CONSISTENCY = 1.4826  # the median absolute value of a normal variable is 1 / 1.4826

Reweight = Callable[[Array, Array | None], Array]


def _scaled(residual: Array, observed: Array | None) -> Array:
  """|r| over its robust scale."""
  size = jnp.abs(residual)
  if observed is None:
    scale = jnp.median(size)
  else:
    scale = jnp.nanmedian(jnp.where(observed, size, jnp.nan))
  return safe_divide(size, _CONSISTENCY * scale)


def huber_weights(*, multiple: ArrayLike = 1.345) -> Reweight:
  r"""Weights of Huber's loss: min(1, c / |r / s|), with s = 1.4826 median |r|.

  Args:
    multiple: > 0, c; residuals above c s are down-weighted; may be traced.

  Returns:
    Function (float[E] residuals, bool[E] or None which are observed) -> float[E] weights in [0, 1].

  Raises:
    ValueError: ``multiple`` is not positive.

  Note:
    Where more than half of the residuals are 0 the scale is 0 and all weights are 1.

  Example:
    >>> huber_weights()(jnp.array([0.1, -0.1, 0.1, 10.0]), None).round(2)
    Array([1.  , 1.  , 1.  , 0.02], dtype=float32)

  Reference:
    Huber, Robust estimation of a location parameter, 1964; the constant 1.345: Holland and Welsch,
    Robust regression using iteratively reweighted least-squares, 1977.
  """
  _checks.check_positive("multiple", multiple, scalar=True)

  def weights(residual: Array, observed: Array | None) -> Array:
    scaled = _scaled(residual, observed)
    bound = jnp.asarray(multiple, scaled.dtype)
    return bound / jnp.maximum(scaled, bound)

  return weights


def trimmed_weights(*, rate: ArrayLike) -> Reweight:
  r"""Weights of least trimmed squares: 0 for a fraction of the largest residuals, else 1.

  Args:
    rate: fraction of the observed entries to leave out, in [0, 1); may be traced.

  Returns:
    Function (float[E] residuals, bool[E] or None which are observed) -> float[E] weights, 0 or 1.

  Raises:
    ValueError: ``rate`` is outside [0, 1).

  Note:
    Residuals that tie with the largest one kept are kept.

  Example:
    >>> trimmed_weights(rate=0.25)(jnp.array([0.1, -0.1, 0.1, 10.0]), None)
    Array([1., 1., 1., 0.], dtype=float32)

  Reference:
    Rousseeuw, Least median of squares regression, 1984 (least trimmed squares).
  """
  _checks.check_interval("rate", rate, 0.0, 1.0, closed="left", scalar=True)

  def weights(residual: Array, observed: Array | None) -> Array:
    size = jnp.abs(residual)
    if observed is not None:
      size = jnp.where(observed, size, jnp.inf)
    total = size.size if observed is None else jnp.sum(observed)
    kept = jnp.ceil(jnp.asarray(total, size.dtype) * (1 - jnp.asarray(rate, size.dtype)))
    last = kth_smallest(upcast(size), jnp.maximum(kept.astype(jnp.int32), 1) - 1)
    kept_ones = (size <= last).astype(residual.dtype)
    return jnp.where(jnp.isnan(size), jnp.nan, kept_ones)

  return weights
