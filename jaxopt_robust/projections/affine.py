"""Projections onto affine sets and polyhedra."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.numerics import safe_norm, upcast
from jaxopt_robust.projections import _common
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["AffineFactor", "affine_factor", "projection_affine_set", "projection_polyhedron"]


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
  matrix, b = _checks.parts(hyperparams, "A", "b")
  array = _common.vector(x)
  wide = upcast(array)
  if not isinstance(matrix, AffineFactor):
    matrix = affine_factor(_rows("A", matrix, wide))
  if matrix.matrix.shape[1] != wide.shape[0]:
    raise ValueError(f"A must have {wide.shape[0]} columns; got shape {matrix.matrix.shape}.")
  b = _rhs("b", b, matrix.matrix)
  out = _solve_kkt(matrix.matrix.astype(wide.dtype), matrix, wide, b.astype(wide.dtype))
  return out.astype(array.dtype)


def _rows(name: str, matrix: Any, x: Array) -> Array:
  array = _checks.check_array(name, matrix, rank=2)
  if array.shape[1] != x.shape[0]:
    raise ValueError(f"{name} must have {x.shape[0]} columns; got shape {array.shape}.")
  return array.astype(x.dtype)


def _rhs(name: str, value: Any, matrix: Array) -> Array:
  array = jnp.asarray(value, matrix.dtype)
  if array.shape != matrix.shape[:1]:
    raise ValueError(f"{name} must have shape {matrix.shape[:1]}; got {array.shape}.")
  return array


def _system(names: tuple[str, str], matrix: Any, rhs: Any, x: Array) -> tuple[Array, Array]:
  """A pair (matrix, right side) with rows of norm 1; None means no rows."""
  if matrix is None and rhs is None:
    return jnp.zeros((0, x.shape[0]), x.dtype), jnp.zeros((0,), x.dtype)
  if matrix is None or rhs is None:
    raise ValueError(f"{names[0]} and {names[1]} must both be given or both be None.")
  rows = _rows(names[0], matrix, x)
  rhs = _rhs(names[1], rhs, rows)
  norm = safe_norm(rows, axis=1)
  norm = jnp.where(norm == 0, 1, norm)
  return rows / norm[:, None], rhs / norm


def _interior_point(
  x: Array, eq: Array, b: Array, ineq: Array, h: Array, tol: Array, max_steps: int
) -> tuple[Array, Array, Array, Array]:
  """Mehrotra's predictor-corrector method; returns the point, multipliers, slacks and residual."""
  rows = ineq.shape[0]
  tiny = jnp.finfo(x.dtype).eps

  def residuals(y: Array, nu: Array, lam: Array, s: Array) -> tuple[Array, Array, Array]:
    return y - x + eq.T @ nu + ineq.T @ lam, eq @ y - b, ineq @ y + s - h

  def worst(dual: Array, primal: Array, slack: Array, gap: Array) -> Array:
    parts = (dual, primal, slack, gap)
    return jnp.max(jnp.stack([jnp.max(jnp.abs(part), initial=0) for part in parts]))

  def length(value: Array, change: Array) -> Array:
    ratio = jnp.where(change < 0, -value / jnp.where(change < 0, change, 1), jnp.inf)
    return jnp.minimum(1, jnp.min(ratio, initial=jnp.inf))

  def step(carry: tuple) -> tuple:
    y, nu, lam, s, count, _ = carry
    dual, primal, slack = residuals(y, nu, lam, s)
    ratio = lam / s
    hessian = jnp.eye(x.shape[0], dtype=x.dtype) + ineq.T @ (ratio[:, None] * ineq)
    factor = jax.scipy.linalg.cho_factor(hessian)
    inner = eq @ jax.scipy.linalg.cho_solve(factor, eq.T)
    ridge = tiny * jnp.trace(inner) * jnp.eye(inner.shape[0], dtype=x.dtype)
    outer = jax.scipy.linalg.cho_factor(inner + ridge) if inner.shape[0] else None

    def direction(rc: Array) -> tuple[Array, Array, Array, Array]:
      r1 = -dual - ineq.T @ ((lam * slack - rc) / s)
      dy = jax.scipy.linalg.cho_solve(factor, r1)
      dnu = jnp.zeros_like(nu)
      if outer is not None:
        dnu = jax.scipy.linalg.cho_solve(outer, eq @ dy + primal)
        dy = jax.scipy.linalg.cho_solve(factor, r1 - eq.T @ dnu)
      ds = -slack - ineq @ dy
      return dy, dnu, (-rc - lam * ds) / s, ds

    mean = jnp.sum(lam * s) / rows
    _, _, dlam, ds = direction(lam * s)
    reach = jnp.minimum(length(lam, dlam), length(s, ds))
    after = jnp.sum((lam + reach * dlam) * (s + reach * ds)) / rows
    center = (after / mean) ** 3
    dy, dnu, dlam, ds = direction(lam * s + dlam * ds - center * mean)
    reach = 0.995 * jnp.minimum(length(lam, dlam), length(s, ds))
    new = (y + reach * dy, nu + reach * dnu, lam + reach * dlam, s + reach * ds)
    error = worst(*residuals(*new), new[2] * new[3])
    return *new, count + 1, error

  one = jnp.maximum(1, jnp.max(jnp.abs(ineq @ x - h), initial=0))
  slack = jnp.maximum(h - ineq @ x, one)
  carry = (
    x, jnp.zeros(eq.shape[:1], x.dtype), jnp.full((rows,), one, x.dtype), slack,
    jnp.zeros((), jnp.int32), jnp.full((), jnp.inf, x.dtype),
  )  # fmt: skip
  go_on = lambda c: (c[5] > tol) & (c[4] < max_steps)  # a NaN error stops it
  y, _, lam, s, _, error = jax.lax.while_loop(go_on, step, carry)
  return y, lam, s, error


def projection_polyhedron(
  x: ArrayLike, hyperparams: Any, *, tol: float = 1e-9, max_steps: int = 60
) -> Array:
  r"""Projection onto a polyhedron given by equalities and inequalities.

  Solves argmin_p 1/2 ||p - x||_2^2 subject to A p = b, G p <= h, by a primal-dual interior-point
  method and a last exact solve on the active set.

  Args:
    x: float[n] array.
    hyperparams: tuple (A, b, G, h) of float[m, n], float[m], float[k, n], float[k]; may be traced.
      A and b may be None (no equalities), or G and h (no inequalities).
    tol: > 0, the largest residual of the optimality conditions, with rows of A and G scaled to norm
      1 and relative to the size of x, b and h; at least a few roundings of the dtype.
    max_steps: static, the largest number of interior-point steps.

  Returns:
    float[n] of the dtype of ``x``; NaN when no point is found: the polyhedron is empty, or
    max_steps too small.

  Raises:
    TypeError: when ``x`` is not floating-point.
    ValueError: when ``x`` is no vector, shapes do not fit, or tol or max_steps are out of range.

  Note:
    A step costs a Cholesky factorisation of size n. The derivative holds the active set constant;
    constraints that are active with multiplier 0 count as active when they are numerically.

  Example:
    >>> G, h = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([1.0, 1.0])
    >>> projection_polyhedron(jnp.array([3.0, 0.5]), (None, None, G, h)).round(5)
    Array([1. , 0.5], dtype=float32)

  Reference:
    Mehrotra, On the implementation of a primal-dual interior point method, 1992.
  """
  eq, b, ineq, h = _checks.parts(hyperparams, "A", "b", "G", "h")
  _checks.check_positive("tol", tol)
  steps = _checks.check_int("max_steps", max_steps, minimum=1)
  array = _common.vector(x)
  wide = upcast(array)
  eq, b = _system(("A", "b"), eq, b, wide)
  ineq, h = _system(("G", "h"), ineq, h, wide)
  if not ineq.shape[0]:
    out = _solve_kkt(eq, affine_factor(eq), wide, b) if eq.shape[0] else wide
    return out.astype(array.dtype)
  data = jax.lax.stop_gradient((wide, eq, b, ineq, h))
  # The method works at size 1; a common factor of x, b and h scales the solution.
  size = jnp.max(jnp.abs(jnp.concatenate([data[0], data[2], data[4]])))
  size = jnp.where(size > 0, size, 1)
  bound = jnp.maximum(jnp.asarray(tol, wide.dtype), 64 * jnp.finfo(wide.dtype).eps)
  y, lam, s, error = _interior_point(
    data[0] / size, data[1], data[2] / size, data[3], data[4] / size, bound, steps
  )
  active = lam > s
  rows = jnp.concatenate([eq, jnp.where(active[:, None], ineq, 0)])
  rhs = jnp.concatenate([b, jnp.where(active, h, 0)])
  exact = _solve_kkt(rows, affine_factor(rows), wide, rhs)
  # The exact solve is the value where it is feasible; its derivative counts in any case.
  fixed = jax.lax.stop_gradient(exact)
  excess = jnp.maximum(
    jnp.max(data[3] @ fixed - data[4]), jnp.max(jnp.abs(data[1] @ fixed - data[2]), initial=0)
  )
  close = jnp.max(jnp.abs(fixed - size * y)) <= size * jnp.sqrt(bound)
  fine = (excess <= size * bound) & close
  out = exact + jnp.where(fine, 0, size * y - fixed)
  # An interior point method that stalls at its rounding floor has still found the point.
  return _common.or_nan((error <= bound) | fine, out).astype(array.dtype)
