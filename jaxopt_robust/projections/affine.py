"""Projections onto affine sets."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.numerics import upcast
from jaxopt_robust.projections import _common
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["AffineFactor", "affine_factor", "projection_affine_set"]


class AffineFactor(NamedTuple):
  """A matrix with its singular value decomposition, for many projections.

  Attributes:
    matrix: float[m, n], the matrix A.
    left: float[m, k] left singular vectors.
    inverse: float[k] inverse singular values, 0 for those that vanish.
    right: float[k, n] right singular vectors.
  """

  matrix: Array
  left: Array
  inverse: Array
  right: Array


def affine_factor(matrix: ArrayLike) -> AffineFactor:
  """Factorises the matrix of an affine set once, to be used in many projections.

  Computes A = U diag(s) V^T and 1 / s where s > eps max(m, n) s_max, 0 elsewhere.

  Args:
    matrix: float[m, n], A; rows may be redundant.

  Returns:
    ``AffineFactor``, to be given to ``projection_affine_set`` in the place of A.

  Raises:
    TypeError: when ``matrix`` is not floating-point.
    ValueError: when ``matrix`` has not rank 2.

  Example:
    >>> factor = affine_factor(jnp.ones((1, 2)))
    >>> projection_affine_set(jnp.array([2.0, 0.0]), (factor, jnp.array([4.0]))).round(1)
    Array([3., 1.], dtype=float32)

  Reference:
    Golub and Van Loan, Matrix computations, 2013, section 5.5 (pseudo-inverse).
  """
  array = _common.strong(_checks.check_float_array("matrix", matrix, rank=2))
  wide = upcast(array)
  left, values, right = jnp.linalg.svd(jax.lax.stop_gradient(wide), full_matrices=False)
  # Bounded by the largest entry: an overestimate of nothing, and it scales with the matrix.
  cut = jnp.finfo(wide.dtype).eps * max(wide.shape) * values[0]
  inverse = jnp.where(values > cut, 1 / jnp.where(values > cut, values, 1), 0)
  return AffineFactor(wide, left, inverse, right)


def _solve_kkt(matrix: Array, factor: AffineFactor, x: Array, b: Array) -> Array:
  """The y of [I A^T; A 0] (y, z) = (x, b), with derivatives in A, x and b of any order.

  ``factor`` is that of the value of ``matrix``, and constant.
  """
  left, inverse, right = (jax.lax.stop_gradient(f) for f in factor[1:])

  size = x.shape[0]  # one flat vector: pairs with an unused half have no transpose in JAX

  def matvec(pair: Array) -> Array:
    y, z = pair[:size], pair[size:]
    return jnp.concatenate([y + matrix.T @ z, matrix @ y])

  def solve(_: Any, pair: Array) -> Array:
    x, b = pair[:size], pair[size:]
    # y keeps the part of x off the row space, twice: the second pass takes the rounding off.
    keep = (inverse > 0).astype(x.dtype)
    y = x - right.T @ (keep * (right @ x))
    y = y - right.T @ (keep * (right @ y)) + right.T @ (inverse * (left.T @ b))
    return jnp.concatenate([y, left @ (inverse * (right @ (x - y)))])

  return jax.lax.custom_linear_solve(matvec, jnp.concatenate([x, b]), solve=solve, symmetric=True)[
    :size
  ]


def projection_affine_set(x: ArrayLike, hyperparams: Any) -> Array:
  r"""Projection onto the solutions of a linear system.

  Solves argmin_p 1/2 ||p - x||_2^2 subject to A p = b, by x - A^+ (A x - b).

  Args:
    x: float[n] array.
    hyperparams: pair (A, b): A of float[m, n], or an ``AffineFactor`` of it, b of float[m]; may be
      traced. Rows may be redundant.

  Returns:
    float[n] of the dtype of ``x``. When A p = b has no solution, the projection onto the
    least-squares solutions.

  Raises:
    TypeError: when ``x`` is not floating-point.
    ValueError: when ``x`` is no vector or shapes do not fit.

  Note:
    Differentiable in x, A and b; with a factor, in x and b and the factor's matrix. At a matrix of
    deficient rank the pseudo-inverse jumps; the derivative is that on matrices of the same rank.

  Example:
    >>> projection_affine_set(jnp.array([2.0, 0.0]), (jnp.ones((1, 2)), jnp.array([4.0]))).round(1)
    Array([3., 1.], dtype=float32)

  Reference:
    Parikh and Boyd, Proximal algorithms, 2014, section 6.2.1.
  """
  matrix, b = _arguments.parts(hyperparams, "A", "b")
  array = _common.vector(x)
  wide = upcast(array)
  if not isinstance(matrix, AffineFactor):
    matrix = affine_factor(_common.system(("A", "b"), matrix, b, wide)[0])
  if matrix.matrix.shape[1] != wide.shape[0]:
    raise ValueError(f"A must have {wide.shape[0]} columns; got shape {matrix.matrix.shape}.")
  b = _common.right_side("b", b, matrix.matrix)
  out = _solve_kkt(matrix.matrix.astype(wide.dtype), matrix, wide, b.astype(wide.dtype))
  return out.astype(array.dtype)
