"""Projection onto the non-decreasing sequences: isotonic regression."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust._chain import block_mean, chain_blocks
from jaxopt_robust.numerics import upcast
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["projection_isotonic"]


@jax.jit
def _line(v: Array, weights: Array | None) -> Array:
  good = jnp.all(jnp.isfinite(v))
  if weights is not None:
    good &= jnp.all(weights > 0)
  blocks = chain_blocks(v, weights, 0.0, jnp.inf)
  return jnp.where(good, block_mean(v, blocks, weights), jnp.nan)


def projection_isotonic(x: ArrayLike, hyperparams: Any = None) -> Array:
  r"""Projection onto the non-decreasing sequences, weighted isotonic regression.

  Solves argmin_y sum_i w_i/2 (y_i - x_i)^2 subject to y_1 <= y_2 <= ... <= y_n, with
  w = hyperparams, along the last axis. For non-increasing sequences use
  ``-projection_isotonic(-x)``.

  Args:
    x: float[..., n].
    hyperparams: weights w > 0, float[n]; None means ones. They may be traced.

  Returns:
    float[..., n] of the dtype of ``x``, constant on blocks: the weighted mean of ``x`` over each.

  Raises:
    TypeError: when ``x`` is not a floating-point array.
    ValueError: when ``x`` has rank 0, or the weights have another length or are not positive.

  Note:
    The derivative is the mean of the tangent over each block; between neighbouring blocks of equal
    value (a tie) it is that of one of the two partitions. An entry that is not finite, or a traced
    weight that is not positive, makes the whole line NaN. Exact up to rounding; the time is about
    that of log(n) passes over the data.

  Example:
    >>> projection_isotonic(jnp.array([1.0, 3.0, 2.0, 4.0]))
    Array([1. , 2.5, 2.5, 4. ], dtype=float32)

  Reference:
    Barlow, Bartholomew, Bremner and Brunk, Statistical inference under order restrictions, 1972;
    the division by level sets: Luss, Rosset and Shahar, Efficient regularized isotonic regression
    with application to gene-gene interaction search, 2012.
  """
  array = _checks.check_float_array("x", x, min_rank=1)
  n = array.shape[-1]
  weights = None
  if hyperparams is not None:
    _checks.check_positive("the weights", hyperparams)
    weights = jnp.asarray(hyperparams, upcast(array).dtype)
    if weights.shape != (n,):
      raise ValueError(f"the weights must have shape ({n},); got {weights.shape}.")

  lines = upcast(array).reshape(-1, n)
  out = jax.vmap(_line, in_axes=(0, None))(lines, weights)
  return out.reshape(array.shape).astype(array.dtype)
