"""Projections onto matrices of a linear structure: symmetric, Toeplitz, Hankel."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust.numerics import upcast
from jaxopt_robust.projections import _common
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["projection_hankel", "projection_symmetric", "projection_toeplitz"]


def _mean_over(x: Array, ids: Array, num: int) -> Array:
  """Each entry becomes the mean of those that share its number."""
  wide, flat = upcast(x), ids.ravel()
  counts = jax.ops.segment_sum(jnp.ones(flat.shape, wide.dtype), flat, num)
  means = jax.ops.segment_sum(wide.ravel(), flat, num) / jnp.maximum(counts, 1)
  return means[ids].astype(x.dtype)


def projection_symmetric(x: ArrayLike, hyperparams: Any = None) -> Array:
  r"""Projection onto the symmetric matrices.

  Solves argmin_P 1/2 ||P - x||_F^2 subject to P = P^T, by (x + x^T) / 2.

  Args:
    x: float[n, n] array.
    hyperparams: ignored.

  Returns:
    float[n, n] of the dtype of ``x``.

  Raises:
    TypeError: when ``x`` is not floating-point.
    ValueError: when ``x`` is no square matrix.

  Example:
    >>> projection_symmetric(jnp.array([[1.0, 4.0], [2.0, 1.0]]))
    Array([[1., 3.],
           [3., 1.]], dtype=float32)

  Reference:
    Higham, Computing a nearest symmetric positive semidefinite matrix, 1988, section 1.
  """
  del hyperparams
  array = _common.matrix(x, square=True)
  return array / 2 + array.T / 2


def projection_toeplitz(x: ArrayLike, hyperparams: Any = None) -> Array:
  r"""Projection onto the Toeplitz matrices.

  Solves argmin_P 1/2 ||P - x||_F^2 subject to P_ij = t_{i-j}: the mean of each diagonal.

  Args:
    x: float[m, n] array.
    hyperparams: ignored.

  Returns:
    float[m, n] of the dtype of ``x``.

  Raises:
    TypeError: when ``x`` is not floating-point.
    ValueError: when ``x`` is no matrix.

  Example:
    >>> projection_toeplitz(jnp.array([[1.0, 4.0], [2.0, 3.0]]))
    Array([[2., 4.],
           [2., 2.]], dtype=float32)

  Reference:
    Cadzow, Signal enhancement: a composite property mapping algorithm, 1988.
  """
  del hyperparams
  array = _common.matrix(x)
  m, n = array.shape
  return _mean_over(array, jnp.arange(m)[:, None] - jnp.arange(n)[None, :] + n - 1, m + n - 1)


def projection_hankel(x: ArrayLike, hyperparams: Any = None) -> Array:
  r"""Projection onto the Hankel matrices.

  Solves argmin_P 1/2 ||P - x||_F^2 subject to P_ij = h_{i+j}: the mean of each anti-diagonal. With
  ``projection_rank`` in turns it is Cadzow's denoising of sums of exponentials.

  Args:
    x: float[m, n] array.
    hyperparams: ignored.

  Returns:
    float[m, n] of the dtype of ``x``.

  Raises:
    TypeError: when ``x`` is not floating-point.
    ValueError: when ``x`` is no matrix.

  Example:
    >>> projection_hankel(jnp.array([[1.0, 4.0], [2.0, 3.0]]))
    Array([[1., 3.],
           [3., 3.]], dtype=float32)

  Reference:
    Cadzow, Signal enhancement: a composite property mapping algorithm, 1988.
  """
  del hyperparams
  array = _common.matrix(x)
  m, n = array.shape
  return _mean_over(array, jnp.arange(m)[:, None] + jnp.arange(n)[None, :], m + n - 1)
