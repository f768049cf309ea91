"""Projections of matrices: rank, spectral and nuclear balls, cones, orthogonal frames."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust._spectral import eigen_map, singular_map
from jaxopt_robust.numerics import upcast
from jaxopt_robust.projections import _common
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "projection_correlation",
  "projection_nuclear_norm_ball",
  "projection_psd",
  "projection_rank",
  "projection_spectral_norm_ball",
  "projection_stiefel",
]


def _clip_above(values: Array, radius: Array) -> Array:
  return jnp.where(values > radius, radius, values)


def _onto_ball(values: Array, radius: Array) -> Array:
  """The part of the l1 ball where singular values live."""
  outside = _common.onto_simplex(values, radius[None])
  return jnp.where(jnp.sum(values) <= radius, values, outside)


def _positive(values: Array) -> Array:
  return jnp.where(values <= 0, 0, values)  # NaN stays


def _keep_first(values: Array, *, size: int) -> Array:
  return jnp.where(jnp.arange(values.shape[0]) < size, values, 0)  # they come in falling order


def _symmetric(x: Array) -> Array:
  return (x + x.T) / 2


@_common.onto_non_convex
def projection_rank(x: ArrayLike, rank: int = 1) -> Array:
  r"""Projection onto the matrices of bounded rank.

  Solves argmin_P 1/2 ||P - x||_F^2 subject to rank(P) <= rank: the largest singular values are
  kept.

  Args:
    x: float[m, n] array.
    rank: static size, 1 <= rank <= min(m, n).

  Returns:
    float[m, n] of the dtype of ``x``.

  Raises:
    TypeError: when ``x`` is not floating-point or rank is no static integer.
    ValueError: when ``x`` is no matrix or rank is out of range.

  Note:
    The set is not convex: where the singular values number rank and rank + 1 agree one of the
    nearest matrices is returned, and the derivative is finite but arbitrary.

  Example:
    >>> projection_rank(jnp.diag(jnp.array([3.0, 2.0])), 1)
    Array([[3., 0.],
           [0., 0.]], dtype=float32)

  Reference:
    Eckart and Young, The approximation of one matrix by another of lower rank, 1936.
  """
  array = _common.matrix(x)
  size = _checks.check_int("rank", rank, minimum=1)
  if size > min(array.shape):
    raise ValueError(f"rank must be at most {min(array.shape)}; got {size}.")
  return singular_map(partial(_keep_first, size=size), upcast(array)).astype(array.dtype)


def projection_spectral_norm_ball(x: ArrayLike, radius: ArrayLike = 1.0) -> Array:
  r"""Projection onto the matrices of bounded spectral norm.

  Solves argmin_P 1/2 ||P - x||_F^2 subject to ||P||_2 <= radius: singular values are clipped.

  Args:
    x: float[m, n] array.
    radius: >= 0; may be traced.

  Returns:
    float[m, n] of the dtype of ``x``; NaN when a traced radius is negative.

  Raises:
    TypeError: when ``x`` is not floating-point.
    ValueError: when ``x`` is no matrix or radius is negative.

  Note:
    Derivatives are right where singular values repeat; a singular value equal to the radius counts
    as inside.

  Example:
    >>> projection_spectral_norm_ball(jnp.diag(jnp.array([3.0, 0.5])))
    Array([[1. , 0. ],
           [0. , 0.5]], dtype=float32)

  Reference:
    Parikh and Boyd, Proximal algorithms, 2014, section 6.7.
  """
  return _in_ball(_clip_above, x, radius)


def projection_nuclear_norm_ball(x: ArrayLike, radius: ArrayLike = 1.0) -> Array:
  r"""Projection onto the matrices of bounded nuclear norm.

  Solves argmin_P 1/2 ||P - x||_F^2 subject to sum_i sigma_i(P) <= radius: the vector of singular
  values is projected onto the l1 ball.

  Args:
    x: float[m, n] array.
    radius: >= 0; may be traced.

  Returns:
    float[m, n] of the dtype of ``x``; NaN when a traced radius is negative.

  Raises:
    TypeError: when ``x`` is not floating-point.
    ValueError: when ``x`` is no matrix or radius is negative.

  Note:
    Derivatives are right where singular values repeat, and hold the support constant.

  Example:
    >>> projection_nuclear_norm_ball(jnp.diag(jnp.array([3.0, 0.5])))
    Array([[1., 0.],
           [0., 0.]], dtype=float32)

  Reference:
    Jaggi and Sulovsky, A simple algorithm for nuclear norm regularized problems, 2010 (the ball);
    Parikh and Boyd, Proximal algorithms, 2014, section 6.7 (the projection).
  """
  return _in_ball(_onto_ball, x, radius)


def _in_ball(fun: Callable[..., Array], x: ArrayLike, radius: ArrayLike) -> Array:
  array = _common.matrix(x)
  _checks.check_non_negative("radius", radius)
  wide = upcast(array)
  bound = _common.scalar("radius", radius, wide.dtype)
  out = singular_map(fun, wide, bound)
  return _common.or_nan(bound >= 0, out).astype(array.dtype)


def projection_psd(x: ArrayLike, hyperparams: Any = None) -> Array:
  r"""Projection onto the cone of symmetric positive semidefinite matrices.

  Solves argmin_P 1/2 ||P - x||_F^2 subject to P = P^T >= 0: negative eigenvalues of (x + x^T) / 2
  are set to 0.

  Args:
    x: float[n, n] array; its symmetric part counts.
    hyperparams: ignored.

  Returns:
    float[n, n] of the dtype of ``x``, symmetric.

  Raises:
    TypeError: when ``x`` is not floating-point.
    ValueError: when ``x`` is no square matrix.

  Note:
    The derivative is Q (W o Q^T H Q) Q^T with the divided differences W of max(w, 0), right where
    eigenvalues repeat. A NaN makes the whole matrix NaN: every eigenvalue depends on every entry.

  Example:
    >>> projection_psd(jnp.diag(jnp.array([3.0, -1.0])))
    Array([[3., 0.],
           [0., 0.]], dtype=float32)

  Reference:
    Higham, Computing a nearest symmetric positive semidefinite matrix, 1988.
  """
  del hyperparams
  array = _common.matrix(x, square=True)
  out = eigen_map(_positive, _symmetric(upcast(array)))
  return _common.or_nan(~jnp.any(jnp.isnan(array)), out).astype(array.dtype)


@_common.onto_non_convex
def projection_stiefel(x: ArrayLike, hyperparams: Any = None) -> Array:
  r"""Projection onto the matrices with orthonormal columns (or rows): the polar factor.

  Solves argmin_P 1/2 ||P - x||_F^2 subject to P^T P = I (m >= n) or P P^T = I (m < n), by
  P = U V^T for x = U diag(s) V^T.

  Args:
    x: float[m, n] array.
    hyperparams: ignored.

  Returns:
    float[m, n] of the dtype of ``x``.

  Raises:
    TypeError: when ``x`` is not floating-point.
    ValueError: when ``x`` is no matrix.

  Note:
    Unique where ``x`` has full rank; else one of the nearest frames, with a finite derivative.

  Example:
    >>> projection_stiefel(jnp.diag(jnp.array([3.0, 0.5])))
    Array([[1., 0.],
           [0., 1.]], dtype=float32)

  Reference:
    Higham, Computing the polar decomposition - with applications, 1986.
  """
  del hyperparams
  array = _common.matrix(x)
  return singular_map(jnp.ones_like, upcast(array)).astype(array.dtype)


def projection_correlation(x: ArrayLike, *, tol: float = 1e-10, max_steps: int = 50) -> Array:
  r"""Projection onto the correlation matrices: the nearest correlation matrix.

  Solves argmin_P 1/2 ||P - x||_F^2 subject to P = P^T >= 0, diag(P) = 1, by a semismooth Newton
  method on the dual: P = (x + diag(y))_+ with diag(P) = 1.

  Args:
    x: float[n, n] array; its symmetric part counts.
    tol: > 0, the largest error of a diagonal entry at the end of the iteration (at least a few
      roundings of the dtype); what is left of it is scaled away.
    max_steps: static, the largest number of Newton steps.

  Returns:
    float[n, n] of the dtype of ``x``, with a unit diagonal; NaN when max_steps is too small.

  Raises:
    TypeError: when ``x`` is not floating-point.
    ValueError: when ``x`` is no square matrix, or tol or max_steps are out of range.

  Note:
    Converges quadratically, where alternating projections with Dykstra's correction take hundreds
    of eigenvalue decompositions. The derivative is implicit, of forward and reverse mode; second
    derivatives leave the dependence of the multipliers' Jacobian out. Entries that are far larger
    than 1 determine the result to sqrt(eps) only.

  Example:
    >>> projection_correlation(jnp.array([[1.0, 2.0], [2.0, 1.0]])).round(4)
    Array([[1., 1.],
           [1., 1.]], dtype=float32)

  Reference:
    Qi and Sun, A quadratically convergent Newton method for computing the nearest correlation
    matrix, 2006; Higham, Computing the nearest correlation matrix - a problem from finance, 2002.
  """
  _checks.check_positive("tol", tol)
  limit = _checks.check_int("max_steps", max_steps, minimum=1)
  array = _common.matrix(x, square=True)
  wide = _symmetric(upcast(array))
  n = wide.shape[0]
  eps = float(jnp.finfo(wide.dtype).eps)
  # The unit diagonal drowns in the rounding of entries beyond 1 / eps. Nearer than 1 / c to the
  # projection of c x are those of all multiples beyond it: sqrt(eps) where c is 1 / sqrt(eps).
  largest = jax.lax.stop_gradient(jnp.max(jnp.abs(wide)))
  wide = wide * jnp.where(largest > eps**-0.5, eps**-0.5 / largest, 1)
  bound = max(tol, 16 * n * eps)

  def shifted(y: Array) -> Array:
    return eigen_map(_positive, wide + jnp.diag(y))

  def residual_at(y: Array) -> Array:
    return jnp.diagonal(eigen_map(_positive, jax.lax.stop_gradient(wide) + jnp.diag(y))) - 1

  def cg(linear: Callable[[Array], Array], rhs: Array, accuracy: float) -> Array:
    # The map is positive semidefinite; the shift decides where it is singular.
    ridge = lambda h: linear(h) + 8 * eps * h
    return jax.scipy.sparse.linalg.cg(ridge, rhs, tol=accuracy, maxiter=4 * n)[0]

  def newton(fun: Callable[[Array], Array], y: Array) -> Array:
    matrix = jax.lax.stop_gradient(wide)

    def objective(y: Array) -> Array:
      values = jnp.linalg.eigvalsh(matrix + jnp.diag(y))
      return jnp.sum(jnp.maximum(values, 0) ** 2) / 2 - jnp.sum(y)

    def step(carry: tuple) -> tuple:
      y, error, count, _ = carry
      grad, linear = jax.linearize(fun, y)
      d = cg(linear, -grad, 1e-6 if eps < 1e-10 else 1e-4)
      here, slope = objective(y), jnp.vdot(grad, d)

      def shorter(t: Array) -> Array:
        # Armijo's rule, or a smaller gradient where the objective's digits are used up.
        falls = objective(y + t * d) <= here + 1e-4 * t * slope
        return ~(falls | (jnp.max(jnp.abs(fun(y + t * d))) <= error / 2)) & (t > 1e-4)

      t = jax.lax.while_loop(shorter, lambda t: t / 2, jnp.ones((), y.dtype))
      new = y + t * d
      new_error = jnp.max(jnp.abs(fun(new)))
      return new, new_error, count + 1, error

    first = jnp.max(jnp.abs(fun(y)))
    carry = (y, first, jnp.zeros((), jnp.int32), jnp.full_like(first, jnp.inf))
    go_on = lambda c: (c[1] > bound) & (c[2] < limit)
    return jax.lax.while_loop(go_on, step, carry)[0]

  start = 1 - jnp.diagonal(jax.lax.stop_gradient(wide))
  y = newton(residual_at, start)
  # One Newton step, whose value is dropped and whose derivative counts.
  _, linear = jax.linearize(residual_at, y)
  error = jnp.diagonal(eigen_map(_positive, wide + jnp.diag(y)))
  y = y - cg(linear, error - jax.lax.stop_gradient(error), 8 * eps)
  # Entries whose rounding exceeds the unit diagonal leave nothing to be told from the residual.
  rounding = n * n * eps * jax.lax.stop_gradient(jnp.max(jnp.abs(wide)))
  left = jnp.max(jnp.abs(jax.lax.stop_gradient(error) - 1))
  found = (left <= jnp.maximum(bound**0.5, rounding)) | (rounding > 1)
  out = shifted(y)
  # Scaling to the unit diagonal keeps the matrix semidefinite; it changes the last digits only.
  scale = jax.lax.stop_gradient(jnp.sqrt(jnp.diagonal(out)))
  out = out / (scale[:, None] * scale[None, :])
  eye = jnp.eye(n, dtype=bool)
  out = out + jnp.where(eye, jax.lax.stop_gradient(1 - out), 0)
  return _common.or_nan(found, out).astype(array.dtype)
