"""Masks of sparse weights: the largest of a row, of each group, of a matrix, or whole blocks."""

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.numerics import safe_norm, upcast
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["block_mask", "nm_mask", "topk_mask", "unstructured_mask"]


def topk_mask(score: ArrayLike, k: int) -> Array:
  """Marks the k largest entries along the last axis.

  Args:
    score: float[..., n].
    k: how many, 0 <= k <= n, static.

  Returns:
    bool[..., n], exactly k true in each row. Of equal entries the first ones are taken, on every
    device; NaN counts as the largest.

  Raises:
    TypeError: ``score`` is not floating-point, or ``k`` not a static integer.
    ValueError: ``score`` is a scalar, or k is out of range.

  Example:
    >>> topk_mask(jnp.array([1.0, 3.0, 3.0, 0.0]), 2)
    Array([False,  True,  True, False], dtype=bool)

  Reference:
    Hard thresholding; the order of ties is that of ``jax.lax.top_k``.
  """
  array = _checks.check_float_array("score", score, min_rank=1)
  size = array.shape[-1]
  k = _checks.check_int("k", k, minimum=0)
  if k > size:
    raise ValueError(f"k must be at most {size}, the length of the last axis; got {k}.")
  rows = array.reshape(-1, size)
  place = jax.lax.top_k(rows, k)[1]
  mask = jnp.zeros(rows.shape, bool)
  mask = mask.at[jnp.arange(rows.shape[0])[:, None], place].set(True, unique_indices=True)
  return mask.reshape(array.shape)


def nm_mask(weights: ArrayLike, n: int, m: int, *, axis: int = -1) -> Array:
  """Marks the n entries of largest magnitude in each run of m entries along an axis (n:m pattern).

  Args:
    weights: float[...].
    n: entries that are kept of each run, 0 <= n <= m, static.
    m: length of a run; divides the length of the axis; static.
    axis: static. Hardware wants the axis that a product sums over, the inputs: 0 for a kernel of
      shape [inputs, outputs].

  Returns:
    bool like ``weights``, exactly n true in each run; of equal magnitudes the first ones.

  Raises:
    TypeError: ``weights`` are not floating-point, or a size is not a static integer.
    ValueError: a size or the axis is out of range, or m does not divide the length of the axis.

  Example:
    >>> nm_mask(jnp.array([1.0, -3.0, 2.0, 0.0, 0.0, 0.1, 0.0, 0.0]), 2, 4).astype(int)
    Array([0, 1, 1, 0, 1, 1, 0, 0], dtype=int32)

  Reference:
    Zhou et al., Learning N:M fine-grained structured sparse neural networks from scratch, 2021,
    section 3.
  """
  array = _checks.check_float_array("weights", weights, min_rank=1)
  n, m = _checks.check_int("n", n, minimum=0), _checks.check_int("m", m, minimum=1)
  if n > m:
    raise ValueError(f"n must be at most m; got {n} of {m}.")
  axis = _checks.check_int("axis", axis, minimum=-(2**31))
  if not -array.ndim <= axis < array.ndim:
    raise ValueError(f"axis must be an axis of weights; got {axis} for shape {array.shape}.")
  if array.shape[axis] % m:
    raise ValueError(f"m must divide the length {array.shape[axis]} of axis {axis}; got {m}.")
  last = jnp.moveaxis(jnp.abs(array), axis, -1)
  mask = topk_mask(last.reshape(*last.shape[:-1], -1, m), n)
  return jnp.moveaxis(mask.reshape(last.shape), -1, axis)


def unstructured_mask(weights: ArrayLike, density: ArrayLike) -> Array:
  """Marks the entries of largest magnitude of a whole array.

  Args:
    weights: float[...].
    density: in [0, 1], the share of entries that is kept, a scalar; may be traced.

  Returns:
    bool like ``weights``, round(density * size) entries true (halves to even); of equal magnitudes
    the first ones, row by row.

  Raises:
    TypeError: ``weights`` are not floating-point.
    ValueError: ``density`` is out of range or not a scalar.

  Example:
    >>> unstructured_mask(jnp.array([[1.0, -3.0], [2.0, 0.5]]), 0.5)
    Array([[False,  True],
           [ True, False]], dtype=bool)

  Reference:
    Han, Pool, Tran and Dally, Learning both weights and connections for efficient neural networks,
    2015.
  """
  array = _checks.check_float_array("weights", weights)
  return _largest(jnp.abs(array).ravel(), density).reshape(array.shape)


def block_mask(weights: ArrayLike, block: tuple[int, int], density: ArrayLike) -> Array:
  """Marks the blocks of a matrix with the largest Euclidean norms.

  Args:
    weights: float[rows, cols].
    block: (a, b), the size of a block; divides the matrix; static.
    density: in [0, 1], the share of blocks that is kept, a scalar; may be traced.

  Returns:
    bool[rows, cols], round(density * blocks) blocks true (halves to even); of equal norms the first
    ones, row by row.

  Raises:
    TypeError: ``weights`` are not floating-point, or a size is not a static integer.
    ValueError: ``weights`` is no matrix, the blocks do not divide it, or ``density`` is out of
      range or not a scalar.

  Example:
    >>> block_mask(jnp.array([[1.0, 1.0, 0.0, 5.0]]), (1, 2), 0.5)
    Array([[False, False,  True,  True]], dtype=bool)

  Reference:
    Gray, Radford and Kingma, GPU kernels for block-sparse weights, 2017 (block patterns).
  """
  array = _checks.check_float_array("weights", weights, rank=2)
  if not isinstance(block, tuple | list) or len(block) != 2:
    raise ValueError(f"block must be a pair of integers; got {block!r}.")
  a, b = (_checks.check_int("block", size, minimum=1) for size in block)
  rows, cols = array.shape
  if rows % a or cols % b:
    raise ValueError(f"block must divide the shape {array.shape}; got {(a, b)}.")
  norms = safe_norm(upcast(array).reshape(rows // a, a, cols // b, b), axis=(1, 3))
  mask = _largest(norms.ravel(), density).reshape(norms.shape)
  return jnp.repeat(jnp.repeat(mask, a, axis=0), b, axis=1)


def _largest(score: Array, density: ArrayLike) -> Array:
  _checks.check_interval("density", density, 0.0, 1.0)
  share = _checks.check_array("density", density, rank=0)
  count = jnp.round(share * score.size).astype(jnp.int32)
  order = jnp.argsort(score, stable=True, descending=True)  # equal ones in their order
  return jnp.zeros(score.shape, bool).at[order].set(jnp.arange(score.size) < count)
