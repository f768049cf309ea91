"""Projection onto polyhedra."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust._units import exponent_of, power
from jaxopt_robust.numerics import upcast
from jaxopt_robust.projections import _active_rows, _active_set, _common
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["PolyhedronInfo", "projection_polyhedron", "projection_polyhedron_with_info"]


class PolyhedronInfo(NamedTuple):
  """What a projection onto a polyhedron knows beside the point.

  Attributes:
    status: int32, 0 found, 1 max_steps too small, 2 the data are not finite, 4 the set is empty.
    steps: int32 number of steps.
    equality: float[m] multipliers nu of A p = b.
    inequality: float[k] multipliers lam >= 0 of G p <= h, positive for active rows only:
      x - p = A^T nu + G^T lam.
  """

  status: Array
  steps: Array
  equality: Array
  inequality: Array


def _system(names: tuple[str, str], matrix: Any, rhs: Any, x: Array) -> tuple[Array, Array]:
  """A pair (matrix, right side); None means no rows."""
  if matrix is None and rhs is None:
    return jnp.zeros((0, x.shape[0]), x.dtype), jnp.zeros((0,), x.dtype)
  if matrix is None or rhs is None:
    raise ValueError(f"{names[0]} and {names[1]} must both be given or both be None.")
  return _common.system(names, matrix, rhs, x)


def _power_of_two(value: Array) -> Array:
  """The least power of two above a number, 1 for 0: scaling by it rounds nothing."""
  above = jnp.where(value > 0, exponent_of(value) + 1, 0)
  return power(jnp.minimum(above, -jnp.finfo(value.dtype).minexp), value.dtype)


class _Solution(NamedTuple):
  point: Array
  dual: Array  # of the active rows, as scaled
  held: Array
  factor: Array
  row_size: Array
  status: Array
  steps: Array


@partial(jax.jit, static_argnames=("num_equalities", "max_steps"))
def _solve(x: Array, rows: Array, rhs: Array, num_equalities: int, max_steps: int) -> _Solution:
  m = rows.shape[0]
  is_equality = jnp.arange(m) < num_equalities
  row_size = _power_of_two(jnp.max(jnp.abs(rows), axis=1))
  scaled, right = rows / row_size[:, None], rhs / row_size
  norm = jnp.linalg.norm(scaled, axis=1)
  none = norm == 0
  # Rows of zeros, and sides without a bound, say yes or no and nothing else.
  trivial = none | (~is_equality & (right == jnp.inf))
  refused = jnp.where(is_equality, rhs != 0, rhs < 0) & none
  refused |= ~none & jnp.isinf(right) & (is_equality | (right < 0))
  scaled = jnp.where(trivial[:, None], 0, scaled)
  right = jnp.where(trivial | refused, 0, right)
  away = scaled @ x - right
  away = jnp.where(is_equality, jnp.abs(away), away) / jnp.where(none, 1, norm)
  size = _power_of_two(jnp.maximum(jnp.max(jnp.abs(x)), jnp.max(away, initial=0)))
  pad = lambda array, value: jnp.concatenate(
    [array, jnp.full((1, *array.shape[1:]), value, array.dtype)]
  )
  data = _active_set.Data(
    x / size, pad(scaled, 0), pad(right / size, 0), pad(jnp.where(none, 1, norm), 1),
    pad(is_equality, False), pad(~trivial, False),
  )  # fmt: skip
  last = _active_set.search(data, max_steps)
  good = jnp.all(jnp.isfinite(x)) & jnp.all(jnp.isfinite(rows)) & ~jnp.any(jnp.isnan(rhs))
  status = jnp.where(jnp.any(refused), _active_set.EMPTY, last.status)
  status = jnp.where(good, status, _active_set.NOT_FINITE).astype(jnp.int32)
  a = last.active
  return _Solution(
    size * last.point, size * a.dual, a.held, a.factor, row_size, status,
    last.steps,
  )  # fmt: skip


@jax.custom_jvp
def _kkt(factor: Array, rows: Array, r1: Array, r2: Array) -> tuple[Array, Array]:
  """The p and d with p + rows^T d = r1, rows p = r2."""
  p, d = _active_rows.solve_with_factor(factor, r1, r2)
  # Once more on what is missing: the factor has rounding of its own.
  more, change = _active_rows.solve_with_factor(factor, r1 - p - rows.T @ d, r2 - rows @ p)
  return p + more, d + change


@_kkt.defjvp
def _kkt_rule(primals: tuple, tangents: tuple) -> tuple:
  factor, rows, _, _ = primals
  _, drows, dr1, dr2 = tangents
  p, d = _kkt(*primals)
  return (p, d), _kkt(factor, rows, dr1 - drows.T @ d, dr2 - drows @ p)


@jax.custom_jvp
def _attach(
  known: tuple[Array, Array], factor: Array, rows: Array, x: Array, rhs: Array
) -> tuple[Array, Array]:
  """A solution of [I rows^T; rows 0] (p, d) = (x, rhs) that is known, with its derivatives."""
  return known


@_attach.defjvp
def _attach_rule(primals: tuple, tangents: tuple) -> tuple:
  _, factor, rows, _, _ = primals
  _, _, drows, dx, drhs = tangents
  p, d = _attach(*primals)
  return (p, d), _kkt(factor, rows, dx - drows.T @ d, drhs - drows @ p)


@jax.jit
def _finish(found: _Solution, x: Array, rows: Array, rhs: Array) -> tuple[Array, Array]:
  """Point and multipliers with derivatives, NaN where they were not found."""
  pick = lambda array: jnp.take(array, found.held, axis=0, mode="fill", fill_value=0)
  size = jnp.take(found.row_size, found.held, mode="fill", fill_value=1)
  point, dual = _attach(
    (found.point, found.dual), found.factor, pick(rows) / size[:, None], x, pick(rhs) / size
  )
  dual = jnp.zeros_like(rhs).at[found.held].add(dual / size, mode="drop")
  good = found.status == _active_set.FOUND
  return _common.or_nan(good, point), _common.or_nan(good, dual)


def projection_polyhedron_with_info(
  x: ArrayLike, hyperparams: Any, *, max_steps: int | None = None
) -> tuple[Array, PolyhedronInfo]:
  r"""Projection onto a polyhedron, with its multipliers and a status.

  Solves argmin_p 1/2 ||p - x||_2^2 subject to A p = b, G p <= h, as ``projection_polyhedron`` does.

  Args:
    x: float[n] array.
    hyperparams: as in ``projection_polyhedron``.
    max_steps: as in ``projection_polyhedron``.

  Returns:
    The projection, float[n], NaN where the status is not 0, and a ``PolyhedronInfo``.

  Raises:
    TypeError: when an array is not real.
    ValueError: when ``x`` is no vector, shapes do not fit or max_steps is out of range. An empty
      set raises nothing: it has status 4.

  Note:
    The multipliers have derivatives too. Those of redundant rows are not unique: the ones returned
    belong to linearly independent rows.

  Example:
    >>> G, h = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([1.0, 1.0])
    >>> p, info = projection_polyhedron_with_info(jnp.array([3.0, 0.5]), (None, None, G, h))
    >>> int(info.status), info.inequality
    (0, Array([2., 0.], dtype=float32))

  Reference:
    Goldfarb and Idnani, A numerically stable dual method for solving strictly convex quadratic
    programs, 1983.
  """
  eq, b, ineq, h = _arguments.parts(hyperparams, "A", "b", "G", "h")
  array = _common.vector(x)
  wide = upcast(array)
  eq, b = _system(("A", "b"), eq, b, wide)
  ineq, h = _system(("G", "h"), ineq, h, wide)
  rows, rhs = jnp.concatenate([eq, ineq]), jnp.concatenate([b, h])
  m, n = rows.shape
  limit = 100 + 20 * (m + n) if max_steps is None else max_steps
  limit = _checks.check_int("max_steps", limit, minimum=1)
  if m == 0:
    zero = jnp.zeros((), jnp.int32)
    status = jnp.where(jnp.all(jnp.isfinite(wide)), 0, _active_set.NOT_FINITE).astype(jnp.int32)
    return array, PolyhedronInfo(status, zero, b, h)
  found = _solve(*jax.lax.stop_gradient((wide, rows, rhs)), eq.shape[0], limit)
  point, dual = _finish(found, wide, rows, rhs)
  point, dual = point.astype(array.dtype), dual.astype(array.dtype)
  info = PolyhedronInfo(found.status, found.steps, dual[: eq.shape[0]], dual[eq.shape[0] :])
  return point, info


def projection_polyhedron(x: ArrayLike, hyperparams: Any, *, max_steps: int | None = None) -> Array:
  r"""Projection onto a polyhedron given by equalities and inequalities.

  Solves argmin_p 1/2 ||p - x||_2^2 subject to A p = b, G p <= h, by a dual active-set method whose
  active rows determine the point to the last digit.

  Args:
    x: float[n] array.
    hyperparams: tuple (A, b, G, h) of float[m, n], float[m], float[k, n], float[k]; may be traced.
      A and b may be None (no equalities), or G and h (no inequalities). An infinite h leaves its
      row out. Rows may be zero, redundant, or leave no interior.
    max_steps: static, the largest number of steps, of which a row that becomes active takes two;
      None means 20 (m + k + n) + 100, which is out of reach.

  Returns:
    float[n] of the dtype of ``x``; NaN when the polyhedron is empty (in ``jit``), when max_steps is
    too small, or when the data are not finite. ``projection_polyhedron_with_info`` tells which.

  Raises:
    TypeError: when an array is not real.
    ValueError: when ``x`` is no vector, shapes do not fit, max_steps is out of range, or the
      polyhedron is known to be empty.

  Note:
    Exact to rounding: right sides count as consistent when rows that depend on each other disagree
    by some roundings of the numbers at hand, and rows within 64 roundings of the span of others
    depend on them. A step costs the product of G with a vector, in twice the digits of the dtype.
    The derivative, of any order and mode and in all arguments, holds the rows with a positive
    multiplier active, and lets the others go.

  Example:
    >>> G, h = jnp.array([[1.0, 0.0], [0.0, 1.0]]), jnp.array([1.0, 1.0])
    >>> projection_polyhedron(jnp.array([3.0, 0.5]), (None, None, G, h))
    Array([1. , 0.5], dtype=float32)

  Reference:
    Goldfarb and Idnani, A numerically stable dual method for solving strictly convex quadratic
    programs, 1983.
  """
  point, info = projection_polyhedron_with_info(x, hyperparams, max_steps=max_steps)
  _checks.check_holds(
    info.status != _active_set.EMPTY, "the polyhedron is empty: A p = b, G p <= h has no solution."
  )
  return point
