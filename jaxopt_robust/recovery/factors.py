"""The two factors of a low-rank matrix, or the one of a symmetric positive semidefinite matrix."""

from typing import NamedTuple

import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.numerics import upcast
from jaxopt_robust.recovery.operators import inside, wide_dot
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["KINDS", "Factors", "compose"]

KINDS = ("psd", "general")


class Factors(NamedTuple):
  """Factors of X = L R^T, or of X = L L^T where R is None.

  Attributes:
    L: float[d1, width].
    R: float[d2, width], or None for a symmetric positive semidefinite X.

  Example:
    >>> factors = Factors(jnp.array([[1.0], [2.0]]), None)
    >>> compose(factors).shape, factors.at([0, 1], [1, 1])
    ((2, 2), Array([2., 4.], dtype=float32))

  Reference:
    Burer and Monteiro, A nonlinear programming algorithm for solving semidefinite programs via
    low-rank factorization, 2003.
  """

  L: Array
  R: Array | None

  def at(self, row_index: ArrayLike, col_index: ArrayLike) -> Array:
    """Entries of the product, without the product.

    Args:
      row_index: int[...] in [0, d1).
      col_index: int[...] in [0, d2), of the same shape.

    Returns:
      float[...], <L_i, R_j>; NaN outside of the matrix, -1 included.
    """
    left, right = check_pair(self)
    rows = inside(_checks.check_integers("row_index", row_index), left.shape[0])
    cols = inside(_checks.check_integers("col_index", col_index), right.shape[0])
    _checks.check_same_shape("row_index", rows, "col_index", cols)
    a = upcast(left).at[rows].get(mode="fill", fill_value=jnp.nan)
    b = upcast(right).at[cols].get(mode="fill", fill_value=jnp.nan)
    return jnp.sum(a * b, axis=-1).astype(left.dtype)


def compose(factors: Factors) -> Array:
  r"""Multiplies factors out: L R^T, or L L^T where R is None.

  Args:
    factors: Factors of float[d1, width] and float[d2, width] or None.

  Returns:
    float[d1, d2].

  Raises:
    TypeError: ``factors`` is not a ``Factors``, or holds anything but floating-point arrays.
    ValueError: a factor is not a matrix, or the widths differ.

  Example:
    >>> compose(Factors(jnp.ones((2, 1)), 2.0 * jnp.ones((1, 1))))
    Array([[2.],
           [2.]], dtype=float32)

  Reference:
    Burer and Monteiro, A nonlinear programming algorithm for solving semidefinite programs via
    low-rank factorization, 2003.
  """
  left, right = check_pair(factors)
  return wide_dot(left, right.T).astype(left.dtype)


def check_pair(factors: Factors) -> tuple[Array, Array]:
  """Left and right factor; the left one twice where the matrix is symmetric."""
  if not isinstance(factors, Factors):
    raise TypeError(f"factors must be a Factors(L, R); got {type(factors).__name__}.")
  left = _checks.check_float_array("factors.L", factors.L, rank=2)
  if factors.R is None:
    return left, left
  right = _checks.check_float_array("factors.R", factors.R, rank=2)
  if left.shape[1] != right.shape[1]:
    raise ValueError(
      f"factors.L and factors.R must have equal widths; got {left.shape} and {right.shape}."
    )
  return left, right
