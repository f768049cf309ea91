"""The proximal operator of a least-squares term, with a factorisation that serves every step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.prox._common import start
from jaxopt_robust.typing import Array, ArrayLike, Penalty

__all__ = [
  "LeastSquaresFactor",
  "least_squares",
  "least_squares_factor",
  "penalty_least_squares",
  "prox_least_squares",
]


class LeastSquaresFactor(NamedTuple):
  """A matrix with its thin singular value decomposition, for ``prox_least_squares``.

  Attributes:
    matrix: float[m, n], A.
    singular_values: float[r], r = min(m, n).
    right: float[r, n], the right singular vectors as rows.
  """

  matrix: Array
  singular_values: Array
  right: Array


def least_squares_factor(matrix: ArrayLike) -> LeastSquaresFactor:
  """Factorises a matrix once, for many least-squares steps of any size.

  Args:
    matrix: A, float[m, n].

  Returns:
    ``LeastSquaresFactor``, to stand in the place of A in ``prox_least_squares``.

  Raises:
    TypeError: when A is not of floating point.
    ValueError: when A has not rank 2.

  Example:
    >>> factor = least_squares_factor(jnp.eye(2))
    >>> prox_least_squares(jnp.zeros(2), (factor, jnp.array([2.0, 4.0])), 1.0).round(3)
    Array([1., 2.], dtype=float32)

  Reference:
    Parikh and Boyd, Proximal algorithms, 2014, section 6.1.1 (factorisation caching).
  """
  a = _checks.check_float_array("matrix", matrix, rank=2)
  _, values, right = jnp.linalg.svd(a, full_matrices=False)
  return LeastSquaresFactor(a, values, right)


def _matrix_and_target(x: Array, hyperparams: Any) -> tuple[Any, Array]:
  a, b = _arguments.parts(hyperparams, "A", "b", example="(A, b)")
  b = _checks.check_float_array("b", b, rank=1)
  matrix = a.matrix if isinstance(a, LeastSquaresFactor) else a
  matrix = _checks.check_float_array("A", matrix, rank=2, non_empty=False)
  if matrix.shape != (b.shape[0], x.shape[0]):
    raise ValueError(
      f"A must have shape {(b.shape[0], x.shape[0])}, the lengths of b and x; got {matrix.shape}."
    )
  return (a if isinstance(a, LeastSquaresFactor) else matrix), b


def prox_least_squares(x: ArrayLike, hyperparams: Any, scaling: ArrayLike = 1.0) -> Array:
  r"""Proximal operator of a least-squares term.

  Solves argmin_y 1/2 ||y - x||_2^2 + scaling * 1/2 ||A y - b||_2^2, that is
  y = (I + s A^T A)^{-1} (x + s A^T b).

  Args:
    x: float[n].
    hyperparams: pair (A, b) of float[m, n] and float[m]; A may be a ``least_squares_factor``.
    scaling: s >= 0, the step size; may be traced.

  Returns:
    float[n].

  Raises:
    TypeError: when an array is not of floating point.
    ValueError: when shapes do not fit, or the scaling is negative.

  Note:
    With a matrix each call solves an n x n system (for m < n an m x m one); with a factor each call
    costs two products, for any scaling. Inside a loop give the factor. The matrix form has
    derivatives in A too.

  Example:
    >>> prox_least_squares(jnp.zeros(2), (jnp.eye(2), jnp.array([2.0, 4.0])), 1.0).round(3)
    Array([1., 2.], dtype=float32)

  Reference:
    Parikh and Boyd, Proximal algorithms, 2014, section 6.1.1.
  """
  x = _checks.check_float_array("x", start(x, scaling), rank=1, non_empty=False)
  a, b = _matrix_and_target(x, hyperparams)
  if not x.size:
    return x
  s = jnp.asarray(scaling, x.dtype)
  if isinstance(a, LeastSquaresFactor):
    target = x + s * (b @ a.matrix)
    weights = s * a.singular_values**2
    return target - (weights / (1 + weights) * (a.right @ target)) @ a.right
  target = x + s * (b @ a)
  m, n = a.shape
  if m < n:  # (I + s A^T A)^{-1} = I - s A^T (I + s A A^T)^{-1} A
    small = jnp.eye(m, dtype=x.dtype) + s * (a @ a.T)
    return target - s * (jax.scipy.linalg.solve(small, a @ target, assume_a="pos") @ a)
  full = jnp.eye(n, dtype=x.dtype) + s * (a.T @ a)
  return jax.scipy.linalg.solve(full, target, assume_a="pos")


def penalty_least_squares(x: ArrayLike, hyperparams: Any) -> Array:
  r"""A least-squares term.

  Computes g(x) = 1/2 ||A x - b||_2^2.

  Args:
    x: float[n].
    hyperparams: as in ``prox_least_squares``.

  Returns:
    float scalar.

  Raises:
    TypeError: when an array is not of floating point.
    ValueError: when shapes do not fit.

  Example:
    >>> float(penalty_least_squares(jnp.zeros(2), (jnp.eye(2), jnp.array([2.0, 4.0]))))
    10.0

  Reference:
    Parikh and Boyd, Proximal algorithms, 2014, section 6.1.1.
  """
  x = _checks.check_float_array("x", x, rank=1, non_empty=False)
  a, b = _matrix_and_target(x, hyperparams)
  matrix = a.matrix if isinstance(a, LeastSquaresFactor) else a
  return 0.5 * jnp.sum((matrix @ x - b) ** 2)


least_squares = Penalty(penalty_least_squares, prox_least_squares)
