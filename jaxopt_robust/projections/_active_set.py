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
from jaxopt_robust.projections import _active_rows, _compensated
from jaxopt_robust.typing import Array

FOUND, STEP_LIMIT, NOT_FINITE, EMPTY = 0, 1, 2, 4  # the first three as in ``solvers``

# Rows of norm 1 nearer than this many roundings to the span of others are dependent on them, and
# their right sides may disagree by as many.
_DEPENDENT = 16
# Roundings by which inequalities are relaxed where they leave no point otherwise.
_RELAXED = 4
_RUNNING, _AGAIN = -1, -2
_ROUNDS = 4  # of refinement; each gains the digits that the condition number leaves


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
    status: int32, negative while running.
    steps: int32 number of steps.
  """

  active: _active_rows.Active
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


# Steps: to the point of the active rows, or part of the way, until a multiplier is 0; the ends; a
# row is ignored, another leaves to make room for it, it is added.
_REACH, _PART, _FOUND, _EMPTY, _RELAX, _SKIP, _ROOM, _ADD = range(8)


class Choice(NamedTuple):
  """What the next step is, and with what.

  Attributes:
    kind: int32, one of ``_REACH`` to ``_ADD``.
    point: float[n], after the step.
    point_low: float[n], its further digits.
    dual: float[k] multipliers, after the step.
    dual_low: float[k] their further digits.
    row: int32 row that enters or is ignored.
    weight: multiplier of the row that enters.
    along: float[k], row = basis^T @ along + across.
    across: float[n].
    slot: int32 slot of the row that leaves, the first empty one for none.
    ignores: bool, whether the row is ignored from now on; a ``_SKIP`` without recalls all of them.
    close: bool, as in ``State``.
    rounding: float[m + 1] by how much right sides may be relaxed.
  """

  kind: Array
  point: Array
  point_low: Array
  dual: Array
  dual_low: Array
  row: Array
  weight: Array
  along: Array
  across: Array
  slot: Array
  ignores: Array
  close: Array
  rounding: Array


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


def _refined(data: Data, s: State) -> tuple[Array, Array, Array, Array]:
  """Point and multipliers of the active rows with their further digits, to the last digit."""
  a = s.active
  rows, rhs = data.rows[a.held], (data.rhs + s.slack)[a.held]

  def once(_: Array, carry: tuple) -> tuple:
    p, p_low, dual, dual_low = carry
    r1, e1 = _compensated.product(-rows.T, dual, dual_low, data.x, -p, -p_low)
    r2, e2 = _compensated.product(-rows, p, p_low, rhs)
    dp, ddual = _active_rows.solve_with_factor(a.factor, r1 + e1, r2 + e2)
    p, e = _compensated.two_sum(p, dp)
    p, p_low = _compensated.two_sum(p, p_low + e)
    dual, e = _compensated.two_sum(dual, ddual)
    dual, dual_low = _compensated.two_sum(dual, dual_low + e)
    return p, p_low, dual, dual_low

  return jax.lax.fori_loop(0, _ROUNDS, once, (s.point, s.point_low, a.dual, a.dual_low))


def _first_zero(value: Array, fall: Array, may: Array) -> tuple[Array, Array]:
  """The smallest value / fall among the entries that may fall to 0, and its place."""
  ratio = jnp.where(may, jnp.maximum(value, 0) / jnp.where(may, fall, 1), jnp.inf)
  slot = jnp.argmin(ratio).astype(jnp.int32)
  return ratio[slot], slot


def _settle(data: Data, s: State, nothing: Choice) -> Choice:
  """Moves to the multipliers of the active rows, or to where the first of them becomes 0."""
  a, k = s.active, s.active.held.shape[0]
  point, point_low, new, new_low = _refined(data, s)
  wrong = (jnp.arange(k) < a.size) & ~data.is_equality[a.held] & (new < 0)
  any_wrong = jnp.any(wrong)
  share, slot = _first_zero(a.dual, a.dual - new, wrong)
  between = a.dual + jnp.minimum(share, 1) * (new - a.dual)
  pick = lambda part, whole: jnp.where(any_wrong, part, whole)
  leaves = a.held[slot]
  return nothing._replace(
    kind=pick(_PART, _REACH).astype(jnp.int32), row=leaves, slot=pick(slot, a.size),
    ignores=any_wrong & (leaves == s.entering),  # violated by no more than a rounding
    point=pick(s.point, point), point_low=pick(s.point_low, point_low),
    dual=pick(between, new), dual_low=pick(0, new_low),
  )  # fmt: skip


def _choose(data: Data, s: State) -> Choice:
  """Chooses the most violated row, and whether to add it or to make room for it."""
  a, eps = s.active, float(jnp.finfo(data.x.dtype).eps)
  none, k = data.rows.shape[0] - 1, a.held.shape[0]
  # How far rows are violated, and the size of the numbers that enter it.
  high, low = _compensated.product(data.rows, s.point, s.point_low, -data.rhs - s.slack)
  side = jnp.where(data.is_equality & (high < 0), -1, 1).astype(high.dtype)
  excess = side * (high + low)
  reach = jnp.linalg.norm(s.point) + jnp.linalg.norm(data.x)
  size = data.norm * reach + jnp.abs(data.rhs)
  close = jnp.all(~data.live | (excess <= _DEPENDENT * eps * size))
  is_active = jnp.any(a.held[:, None] == jnp.arange(none + 1)[None, :], axis=0)
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
  basis, triangle = _active_rows.parts(a.factor)
  along = basis @ g
  across = g - basis.T @ along
  again = basis @ across  # once more takes the rounding off
  along, across = along + again, across - basis.T @ again
  shares = side[row] * _active_rows.solve_triangle(triangle, along)
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
  unit = (jnp.arange(k) == slot).astype(excess.dtype)
  alone = _active_rows.solve_triangle(triangle, unit, transpose=True)
  near = shares[slot] <= s.dependent * eps * data.norm[row] * jnp.linalg.norm(alone)
  exchange = full & jnp.where(jnp.any(may), ~near, ~stays)
  agrees = dependent & (excess[row] <= doubt) & ~exchange
  # Rows through a point whose right sides are rounded may leave no point: once more, with slack.
  end = jnp.where(jnp.all(s.slack == 0), _RELAX, _EMPTY)
  kind = jnp.where(dependent, jnp.where(jnp.any(may), _ROOM, end), _ADD)
  kind = jnp.where(found, _FOUND, jnp.where(agrees, _SKIP, kind))
  kind = jnp.where(recall, _SKIP, kind).astype(jnp.int32)
  length = jnp.where(kind == _ROOM, length, 0)
  return Choice(
    kind, s.point, s.point_low, a.dual - length * shares, jnp.where(kind == _ROOM, 0, a.dual_low),
    row, jnp.where(kind == _ADD, side[row] * s.weight, s.weight + length), along, across,
    jnp.where(kind == _ROOM, slot, a.size), (kind == _SKIP) & ~recall, close, rounding,
  )  # fmt: skip


def _follow(data: Data, s: State, c: Choice) -> State:
  """The state after a choice."""
  none = data.rows.shape[0] - 1
  adds, skips = c.kind == _ADD, c.kind == _SKIP
  a = s.active._replace(dual=c.dual, dual_low=c.dual_low)
  a = _active_rows.append_if(adds, a, c.row, c.along, c.across, c.weight)
  here = jnp.arange(none + 1) == c.row
  clears = (c.kind == _PART) | (c.kind == _ROOM) | skips
  status = jnp.where(c.kind == _FOUND, FOUND, jnp.where(c.kind == _EMPTY, EMPTY, s.status))
  return State(
    active=_active_rows.remove(a, jnp.where(adds, a.size, c.slot), none),
    point=c.point,
    point_low=c.point_low,
    entering=jnp.where(
      (c.kind == _REACH) | skips, none, jnp.where(c.kind == _PART, s.entering, c.row)
    ),
    weight=jnp.where(adds | skips, 0, jnp.where(c.kind == _ROOM, c.weight, s.weight)),
    pending=jnp.where(skips, s.entering != none, adds | (c.kind == _PART)),
    ignored=jnp.where(c.ignores, s.ignored | here, s.ignored & ~clears),
    close=jnp.where(skips, c.close, s.close & ~adds),
    dependent=jnp.where(skips & ~c.ignores, s.dependent / 4, s.dependent),
    slack=jnp.where((c.kind == _RELAX) & ~data.is_equality, c.rounding, s.slack),
    status=jnp.where(c.kind == _RELAX, _AGAIN, status),
    steps=s.steps + 1,
  )


def _start(data: Data) -> State:
  n, none, dtype = data.x.shape[0], data.rows.shape[0] - 1, data.x.dtype
  vector = lambda size: jnp.zeros((size,), dtype)
  number, false = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
  return State(
    _active_rows.empty(none, n, dtype), data.x, vector(n), number + none, jnp.zeros((), dtype),
    false, jnp.zeros((none + 1,), bool), false, jnp.full((), _DEPENDENT, dtype), vector(none + 1),
    number + _RUNNING, number,
  )  # fmt: skip


def search(data: Data, max_steps: int) -> State:
  """The projection of ``data.x``."""
  shapes = jax.eval_shape(_choose, data, _start(data))
  nothing = jax.tree.map(lambda t: jnp.zeros(t.shape, t.dtype), shapes)

  def step(s: State) -> State:
    # Numbers that leave a branch are computed once. Without one each array of the new state would
    # be compiled together with all that leads to the choice.
    settle = lambda s: _settle(data, s, nothing)
    choice = jax.lax.cond(s.pending, settle, lambda s: _choose(data, s), s)
    return _follow(data, s, choice)

  def run(s: State) -> State:
    start = _start(data)._replace(slack=s.slack, steps=s.steps)
    goes_on = lambda s: (s.status == _RUNNING) & (s.steps < max_steps)
    return jax.lax.while_loop(goes_on, step, start)

  first = _start(data)._replace(status=jnp.full((), _AGAIN, jnp.int32))
  last = jax.lax.while_loop(lambda s: s.status == _AGAIN, run, first)
  # Where rounding keeps the search from an end, a point that rounding cannot improve is the answer.
  left = jnp.where(last.close, FOUND, STEP_LIMIT).astype(jnp.int32)
  return last._replace(status=jnp.where(last.status < 0, left, last.status))
