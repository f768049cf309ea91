"""A dual active-set method for the projection onto a polyhedron.

The point is always the projection onto the rows that are active, with multipliers of the right
sign; the most violated row enters, and rows whose multiplier would change sign leave. The dual
objective grows with every row that enters, so no set of active rows comes back: degenerate vertices
and redundant rows need no special care. Rows count as dependent where rounding of the data could
have made them so; what a system of active rows determines is solved with the residuals in twice the
digits of the dtype, so that nearly parallel rows cost no accuracy.

Goldfarb and Idnani, A numerically stable dual method for solving strictly convex quadratic
programs, 1983; the inner steps are those of Lawson and Hanson, Solving least squares problems,
1974, chapter 23; the refinement is that of Bjorck, Iterative refinement of linear least squares
solutions, 1967.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust.numerics import safe_divide
from jaxopt_robust.projections import _compensated
from jaxopt_robust.typing import Array

FOUND, STEP_LIMIT, NOT_FINITE, EMPTY = 0, 1, 2, 4  # the first three as in ``solvers``

# Rows of norm 1 nearer than this many roundings to the span of others are dependent on them, and
# their right sides may disagree by as many.
_DEPENDENT = 16
# Roundings by which inequalities are relaxed where they leave no point otherwise.
_RELAXED = 4
_ROUNDS = 4  # of refinement; each gains the digits that the condition number leaves


class Active(NamedTuple):
  """Active rows and what is known of them; k <= min(m, n) slots, the first ``size`` are filled.

  Attributes:
    held: int32[k] rows, m in empty slots.
    size: int32 number of active rows.
    basis: float[n, k] orthonormal columns that span the active rows.
    upper: float[k, k] triangular, rows^T = basis @ upper.
    dual: float[k] multipliers.
    dual_low: float[k] their further digits.
  """

  held: Array
  size: Array
  basis: Array
  upper: Array
  dual: Array
  dual_low: Array


class State(NamedTuple):
  """A state of the search.

  Attributes:
    active: the active rows.
    point: float[n].
    point_low: float[n], its further digits.
    entering: int32 row that enters, m for none.
    weight: its multiplier so far.
    pending: bool, whether point and multipliers are still to be moved to those of the active rows.
    ignored: bool[m + 1] rows that say no more than the active ones do.
    close: bool, whether rounding of the data could explain what rows are violated by.
    dependent: roundings within which rows depend on others.
    slack: float[m + 1] by how much the right sides are relaxed.
    status: int32, -1 while running.
    steps: int32 number of steps.
  """

  active: Active
  point: Array
  point_low: Array
  entering: Array
  weight: Array
  pending: Array
  ignored: Array
  close: Array
  dependent: Array
  slack: Array
  status: Array
  steps: Array


class Data(NamedTuple):
  """A problem; a last row of zeros stands for none.

  Attributes:
    x: float[n].
    rows: float[m + 1, n].
    rhs: float[m + 1].
    norm: float[m + 1] norms of the rows.
    is_equality: bool[m + 1].
    live: bool[m + 1] rows that count.
  """

  x: Array
  rows: Array
  rhs: Array
  norm: Array
  is_equality: Array
  live: Array


def _solve_upper(upper: Array, size: Array, rhs: Array, *, transpose: bool = False) -> Array:
  empty = jnp.arange(upper.shape[0]) >= size
  full = upper + jnp.diag(empty.astype(upper.dtype))
  trans = 1 if transpose else 0
  out = jax.scipy.linalg.solve_triangular(full, rhs[:, None], trans=trans)[:, 0]
  return jnp.where(empty, 0, out)


def solve_with_factor(
  basis: Array, upper: Array, size: Array, r1: Array, r2: Array
) -> tuple[Array, Array]:
  """Solves p + rows^T dual = r1, rows p = r2 by rows^T = basis @ upper."""
  y = _solve_upper(upper, size, r2, transpose=True)
  along = basis.T @ r1
  p = basis @ (y - along) + r1
  return p, _solve_upper(upper, size, along - y)


def _refined(data: Data, s: State) -> State:
  """Point and multipliers of the active rows, to the last digit."""
  a = s.active
  rows, rhs = data.rows[a.held], (data.rhs + s.slack)[a.held]

  def once(_: Array, carry: tuple) -> tuple:
    p, p_low, dual, dual_low = carry
    r1, e1 = _compensated.product(-rows.T, dual, dual_low, data.x, -p, -p_low)
    r2, e2 = _compensated.product(-rows, p, p_low, rhs)
    dp, ddual = solve_with_factor(a.basis, a.upper, a.size, r1 + e1, r2 + e2)
    p, e = _compensated.two_sum(p, dp)
    p, p_low = _compensated.two_sum(p, p_low + e)
    dual, e = _compensated.two_sum(dual, ddual)
    dual, dual_low = _compensated.two_sum(dual, dual_low + e)
    return p, p_low, dual, dual_low

  start = (s.point, s.point_low, a.dual, a.dual_low)
  p, p_low, dual, dual_low = jax.lax.fori_loop(0, _ROUNDS, once, start)
  return s._replace(point=p, point_low=p_low, active=a._replace(dual=dual, dual_low=dual_low))


def _append(a: Active, row: Array, along: Array, across: Array, weight: Array) -> Active:
  """Adds a row = basis @ along + across."""
  length = jnp.linalg.norm(across)
  put = lambda array, value: array.at[..., a.size].set(value, mode="drop")
  return Active(
    put(a.held, row), a.size + 1, put(a.basis, across / length),
    put(a.upper, along.at[a.size].set(length, mode="drop")), put(a.dual, weight),
    put(a.dual_low, jnp.zeros_like(weight)),
  )  # fmt: skip


def _remove(a: Active, slot: Array, none: int) -> Active:
  """Takes the row in a slot out, no row if that is empty; rotations restore the triangle."""
  k = a.held.shape[0]
  slot = jnp.minimum(slot, a.size)
  last = a.size - (slot < a.size)
  at = jnp.arange(k)

  def shift(array: Array, fill: int = 0) -> Array:
    left = jnp.where(at < slot, array, jnp.roll(array, -1))
    return jnp.where(at < last, left, fill)

  def rotate(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
    basis, upper = carry
    pair = jax.lax.dynamic_slice_in_dim(upper, i, 2, axis=0)
    x, y = pair[0, i], pair[1, i]
    size = jnp.hypot(x, y)
    c, s = safe_divide(x, size, default=1.0), safe_divide(y, size)
    mix = lambda p: jnp.stack([c * p[0] + s * p[1], c * p[1] - s * p[0]])
    columns = jax.lax.dynamic_slice_in_dim(basis, i, 2, axis=1)
    basis = jax.lax.dynamic_update_slice_in_dim(basis, mix(columns.T).T, i, axis=1)
    return basis, jax.lax.dynamic_update_slice_in_dim(upper, mix(pair), i, axis=0)

  basis, upper = a.basis, jax.vmap(shift)(a.upper)
  if k > 1:
    basis, upper = jax.lax.fori_loop(slot, last, rotate, (basis, upper))
  filled = (at < last)[None, :]
  return Active(
    shift(a.held, none), last, jnp.where(filled, basis, 0),
    jnp.triu(jnp.where(filled.T & filled, upper, 0)), shift(a.dual), shift(a.dual_low),
  )  # fmt: skip


def _first_zero(value: Array, fall: Array, may: Array) -> tuple[Array, Array]:
  """The smallest value / fall among the entries that may fall to 0, and its place."""
  ratio = jnp.where(may, jnp.maximum(value, 0) / jnp.where(may, fall, 1), jnp.inf)
  slot = jnp.argmin(ratio).astype(jnp.int32)
  return ratio[slot], slot


def _settle(data: Data, s: State) -> tuple[State, Array]:
  """Moves to the multipliers of the active rows, or to where the first of them becomes 0."""
  none, a = data.rows.shape[0] - 1, s.active
  target = _refined(data, s)
  new = target.active.dual
  filled = jnp.arange(a.held.shape[0]) < a.size
  wrong = filled & ~data.is_equality[a.held] & (new < 0)
  share, slot = _first_zero(a.dual, a.dual - new, wrong)
  leaves = a.held[slot]
  stuck = leaves == s.entering  # violated by no more than a rounding
  between = jnp.where(filled, a.dual + jnp.minimum(share, 1) * (new - a.dual), 0)
  less = s._replace(
    active=a._replace(dual=between, dual_low=jnp.zeros_like(new)),
    ignored=jnp.where(stuck, s.ignored.at[leaves].set(True), jnp.zeros_like(s.ignored)),
  )
  done = target._replace(
    pending=jnp.zeros_like(s.pending), entering=jnp.full_like(s.entering, none)
  )
  any_wrong = jnp.any(wrong)
  new_state = jax.tree.map(lambda x, y: jnp.where(any_wrong, x, y), less, done)
  return new_state, jnp.where(any_wrong, slot, a.held.shape[0])


def _enter(data: Data, s: State) -> tuple[State, Array]:
  """Chooses the most violated row and adds it, or makes room for it."""
  a, eps = s.active, float(jnp.finfo(data.x.dtype).eps)
  none, k = data.rows.shape[0] - 1, a.held.shape[0]
  # How far rows are violated, and the size of the numbers that enter it.
  high, low = _compensated.product(data.rows, s.point, s.point_low, -data.rhs - s.slack)
  side = jnp.where(data.is_equality & (high < 0), -1, 1).astype(high.dtype)
  excess = side * (high + low)
  reach = jnp.linalg.norm(s.point) + jnp.linalg.norm(data.x)
  size = data.norm * reach + jnp.abs(data.rhs)
  close = jnp.all(~data.live | (excess <= _DEPENDENT * eps * size))
  is_active = jnp.zeros(none + 1, bool).at[a.held].set(True)
  counts = data.live & ~is_active & ~s.ignored & (excess > eps**1.5 * size)
  rank = jnp.where(counts, safe_divide(excess, data.norm), -1)
  # Equalities first: they stay.
  first = counts & data.is_equality
  rank = jnp.where(jnp.any(first) & ~first, -1, rank)
  fresh = s.entering == none
  row = jnp.where(fresh, jnp.argmax(rank).astype(jnp.int32), s.entering)
  found = fresh & ~jnp.any(counts)
  # A row that was redundant once may have come to count: fewer shall be taken for redundant.
  recall = found & jnp.any(s.ignored & (excess > _DEPENDENT * eps * size))

  g = data.rows[row]
  along = a.basis.T @ g
  across = g - a.basis @ along
  again = a.basis.T @ across  # once more takes the rounding off
  along, across = along + again, across - a.basis @ again
  shares = side[row] * _solve_upper(a.upper, a.size, along)
  full = a.size == k
  dependent = full | (jnp.linalg.norm(across) <= s.dependent * eps * data.norm[row])
  rounding = _RELAXED * eps * size
  stays = data.is_equality[row]
  # Equalities are not relaxed: what rounding of the others makes of their right side is allowed.
  doubt = jnp.where(stays, jnp.sum(jnp.abs(shares) * rounding[a.held]), 0)
  doubt = doubt + s.dependent * eps * size[row]
  filled = jnp.arange(k) < a.size
  may = filled & ~data.is_equality[a.held] & (shares > 4 * eps * jnp.max(jnp.abs(shares)))
  length, slot = _first_zero(a.dual, shares, may)
  # At a vertex all rows depend on the active ones. Is this one still dependent without the first?
  alone = _solve_upper(
    a.upper, a.size, (jnp.arange(k) == slot).astype(excess.dtype), transpose=True
  )
  near = shares[slot] <= s.dependent * eps * data.norm[row] * jnp.linalg.norm(alone)
  exchange = full & jnp.where(jnp.any(may), ~near, ~stays)
  agrees = dependent & (excess[row] <= doubt) & ~exchange

  FINISH, SKIP, ROOM, ADD = range(4)
  # Rows through a point whose right sides are rounded may leave no point: once more, with slack.
  again = ~found & jnp.all(s.slack == 0)
  slack = jnp.where(data.is_equality, 0, rounding)
  status = jnp.where(again, -1, jnp.where(found, FOUND, EMPTY)).astype(jnp.int32)
  finish = s._replace(status=status)
  finish = jax.tree.map(
    lambda x, y: jnp.where(again, x, y), _start(data)._replace(slack=slack, steps=s.steps), finish
  )
  skip = s._replace(
    ignored=~recall & s.ignored.at[row].set(True), close=close, pending=~fresh,
    entering=jnp.full_like(row, none), weight=jnp.zeros_like(s.weight),
    dependent=jnp.where(recall, s.dependent / 4, s.dependent),
  )  # fmt: skip
  moved = jnp.where(filled, a.dual - jnp.where(jnp.any(may), length, 0) * shares, 0)
  room = s._replace(
    active=a._replace(dual=moved, dual_low=jnp.zeros_like(moved)), entering=row,
    weight=s.weight + length, ignored=jnp.zeros_like(s.ignored),
  )  # fmt: skip
  add = s._replace(
    active=_append(a, row, along, across, side[row] * s.weight), entering=row,
    weight=jnp.zeros_like(s.weight), pending=jnp.ones_like(s.pending),
    close=jnp.zeros_like(s.close),
  )  # fmt: skip
  which = jnp.where(dependent, jnp.where(jnp.any(may), ROOM, FINISH), ADD)
  which = jnp.where(found, FINISH, jnp.where(agrees, SKIP, which))
  which = jnp.where(recall, SKIP, which)
  new_state = jax.tree.map(
    lambda *options: jax.lax.select_n(which, *options), finish, skip, room, add
  )
  return new_state, jnp.where(which == ROOM, slot, k)


def _start(data: Data) -> State:
  n, none = data.x.shape[0], data.rows.shape[0] - 1
  k, dtype = min(none, n), data.x.dtype
  vector = lambda size: jnp.zeros((size,), dtype)
  number, false = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
  active = Active(
    jnp.full((k,), none, jnp.int32), number, jnp.zeros((n, k), dtype), jnp.zeros((k, k), dtype),
    vector(k), vector(k),
  )  # fmt: skip
  return State(
    active, data.x, vector(n), number + none, jnp.zeros((), dtype), false,
    jnp.zeros((none + 1,), bool), false, jnp.full((), _DEPENDENT, dtype), vector(none + 1),
    number - 1, number,
  )  # fmt: skip


def search(data: Data, max_steps: int) -> State:
  """The projection of ``data.x``."""
  none = data.rows.shape[0] - 1

  def step(s: State) -> State:
    new, slot = jax.lax.cond(s.pending, lambda s: _settle(data, s), lambda s: _enter(data, s), s)
    return new._replace(active=_remove(new.active, slot, none), steps=s.steps + 1)

  last = jax.lax.while_loop(lambda s: (s.status < 0) & (s.steps < max_steps), step, _start(data))
  # Where rounding keeps the search from an end, a point that rounding cannot improve is the answer.
  left = jnp.where(last.close, FOUND, STEP_LIMIT).astype(jnp.int32)
  return last._replace(status=jnp.where(last.status < 0, left, last.status))
