"""Newton's methods behind the transport polytopes, on sums of rows and columns.

All of them solve systems with the matrix [diag(W 1), W; W^T, diag(W^T 1)] for weights W >= 0 of the
entries: the support of a plan, the plan itself, or the weights of an interior-point method. Its
Schur complement in the columns is diag(W^T 1) - W^T diag(1 / W 1) W.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust.numerics import safe_divide
from jaxopt_robust.typing import Array, ArrayLike

# Share of the rounding of the range below which products of entries and multipliers do not fall.
_ROUNDING = 1e-6


def schur(weights: Array, ridge: ArrayLike, relative: float = 0.0) -> tuple[Any, Array]:
  """Cholesky factor of the Schur complement and the row sums.

  To the diagonal d of the complement ridge + relative * d is added.
  """
  rows = jnp.sum(weights, axis=1)
  scaled = weights * safe_divide(jnp.ones_like(rows), rows)[:, None]
  # A graph's Laplacian: its diagonal is a sum of the rest, and no digits cancel.
  links = weights.T @ scaled
  links = jnp.where(jnp.eye(links.shape[0], dtype=bool), 0, links)
  diagonal = jnp.sum(links, axis=1)
  diagonal = diagonal + relative * diagonal + ridge
  diagonal = jnp.where(diagonal > 0, diagonal, 1)
  return jax.scipy.linalg.cho_factor(jnp.diag(diagonal) - links), rows


def multipliers(weights: Array, row_rhs: Array, column_rhs: Array) -> tuple[Array, Array]:
  """Solves [diag(W 1), W; W^T, diag(W^T 1)] (u, v) = (row_rhs, column_rhs), which is consistent.

  The matrix is singular: a constant moves between u and v. The ridge picks a solution, and
  repeating the solve on the residual removes its effect.
  """
  fixed = jax.lax.stop_gradient(weights)
  # Errors fall by (ridge / eigenvalue) a round: a cube root of eps needs three.
  ridge = jnp.cbrt(jnp.finfo(weights.dtype).eps) * jnp.max(jnp.sum(fixed, axis=0))
  factor, rows = schur(fixed, jnp.where(ridge > 0, ridge, 1))
  columns = jnp.sum(fixed, axis=0)
  invert = lambda r: safe_divide(r, rows)

  size = row_rhs.shape[0]

  def matvec(pair: Array) -> Array:
    u, v = pair[:size], pair[size:]
    across, down = jnp.sum(weights, axis=1), jnp.sum(weights, axis=0)
    return jnp.concatenate([across * u + weights @ v, weights.T @ u + down * v])

  def solve(_: Any, pair: Array) -> Array:
    u, v = jnp.zeros_like(pair[:size]), jnp.zeros_like(pair[size:])
    for _round in range(4):
      row = pair[:size] - rows * u - fixed @ v
      column = pair[size:] - fixed.T @ u - columns * v
      dv = jax.scipy.linalg.cho_solve(factor, column - fixed.T @ invert(row))
      u, v = u + invert(row - fixed @ dv), v + dv
    return jnp.concatenate([u, v])

  both = jax.lax.custom_linear_solve(
    matvec, jnp.concatenate([row_rhs, column_rhs]), solve=solve, symmetric=True
  )
  return both[:size], both[size:]


def newton(
  plan_of: Callable[[Array], tuple[Array, Array, Array]],
  fallback: Callable[[Array], Array],
  v: Array,
  bound: Array,
  max_steps: int,
) -> tuple[Array, Array]:
  """Minimises the entropic semi-dual; ``plan_of(v)`` returns plan, gradient and value.

  Returns the multipliers and the largest entry of the gradient.
  """

  def step(carry: tuple) -> tuple:
    v, plan, grad, value, error, count = carry
    scale = jnp.max(jnp.sum(plan, axis=0))
    # A ridge that dies with the error keeps the quadratic rate; the floor keeps Cholesky alive.
    floor = 16 * jnp.finfo(v.dtype).eps * v.shape[0]
    ridge = scale * jnp.maximum(floor, jnp.minimum(1e-3, 0.1 * error / (error + bound * 1e3)))
    ridge = jnp.where(error > 1e3 * bound, jnp.minimum(ridge, 1e-3 * scale), floor * scale)
    factor, _ = schur(plan, jnp.where(ridge > 0, ridge, 1))
    d = -jax.scipy.linalg.cho_solve(factor, grad)
    slope = jnp.vdot(grad, d)

    def attempt(t: Array) -> tuple:
      new = v + t * d
      return new, *plan_of(new)

    def shorter(inner: tuple) -> Array:
      t, (_, _, new_grad, new_value) = inner
      falls = new_value <= value + 1e-4 * t * slope
      # Near the end the value has no digits left: the gradient decides.
      falls |= jnp.max(jnp.abs(new_grad)) <= 0.7 * error
      return ~falls & (t > 1e-3)

    def halve(inner: tuple) -> tuple:
      return inner[0] / 2, attempt(inner[0] / 2)

    one = jnp.ones((), v.dtype)
    t, (new, new_plan, new_grad, new_value) = jax.lax.while_loop(
      shorter, halve, (one, attempt(one))
    )
    failed = (t <= 1e-3) | ~jnp.isfinite(jnp.max(jnp.abs(new_grad)))
    other = fallback(v)
    new, new_plan, new_grad, new_value = jax.lax.cond(
      failed, lambda: (other, *plan_of(other)), lambda: (new, new_plan, new_grad, new_value)
    )
    return new, new_plan, new_grad, new_value, jnp.max(jnp.abs(new_grad)), count + 1

  plan, grad, value = plan_of(v)
  bound = jnp.asarray(bound, v.dtype)
  carry = (v, plan, grad, value, jnp.max(jnp.abs(grad)), jnp.zeros((), jnp.int32))
  carry = jax.lax.while_loop(lambda c: (c[4] > bound) & (c[5] < max_steps), step, carry)
  return carry[0], carry[4]


def interior_point(
  s: Array, a: Array, b: Array, live: Array, bound: Array, max_steps: int
) -> tuple[Array, Array]:
  """Projects ``s`` by Mehrotra's method, whose number of steps hardly depends on the data.

  Args:
    s: float[m, n], 0 where not ``live``.
    a: float[m], sums of rows, at most 1.
    b: float[n], sums of columns.
    live: bool[m, n], entries that may be positive.
    bound: largest product of an entry and its multiplier, relative to the range of ``s``: it tells
      which of them is 0.
    max_steps: largest number of steps.

  Returns:
    The plan and the multipliers of its signs, float[m, n] both.
  """
  size = jnp.maximum(1, jnp.max(jnp.abs(s)))
  count = jnp.maximum(jnp.sum(live), 1)
  eps = jnp.finfo(s.dtype).eps
  hold = lambda value: jnp.where(live, value, 0)
  spread = lambda u, v: u[:, None] + v[None, :]

  def length(value: Array, change: Array) -> Array:
    falls = live & (change < 0)
    return jnp.minimum(1, jnp.min(jnp.where(falls, -value / jnp.where(falls, change, 1), jnp.inf)))

  def step(carry: tuple) -> tuple:
    plan, dual, u, v, steps, _ = carry
    both = jnp.where(live, plan + dual, 1)
    weights = hold(plan / both)
    rd = hold(plan - s - spread(u, v) - dual)
    ra, rb = jnp.sum(plan, axis=1) - a, jnp.sum(plan, axis=0) - b
    factor, rows = schur(weights, 0.0, 4 * float(eps) * s.shape[1])
    invert = lambda r: safe_divide(r, rows)

    def solve(row: Array, column: Array) -> tuple[Array, Array]:
      dv = jax.scipy.linalg.cho_solve(factor, column - weights.T @ invert(row))
      return invert(row - weights @ dv), dv

    def direction(rc: Array) -> tuple[Array, ...]:
      base = hold(-weights * rd - rc / both)
      row, column = -ra - jnp.sum(base, axis=1), -rb - jnp.sum(base, axis=0)
      du, dv = solve(row, column)
      dplan = base + weights * spread(du, dv)
      # Once more on what is missing: near the end the system is ill conditioned.
      eu, ev = solve(-ra - jnp.sum(dplan, axis=1), -rb - jnp.sum(dplan, axis=0))
      du, dv = du + eu, dv + ev
      dplan = dplan + weights * spread(eu, ev)
      return dplan, hold(dplan + rd - spread(du, dv)), du, dv

    mean = jnp.sum(plan * dual) / count
    dplan, ddual, _, _ = direction(plan * dual)
    reach = jnp.minimum(length(plan, dplan), length(dual, ddual))
    after = jnp.sum((plan + reach * dplan) * (dual + reach * ddual)) / count
    target = mean * jnp.minimum(1, (after / jnp.where(mean > 0, mean, 1)) ** 3)
    dplan, ddual, du, dv = direction(plan * dual + dplan * ddual - target)
    reach = 0.995 * jnp.minimum(length(plan, dplan), length(dual, ddual))
    new = (plan + reach * dplan, dual + reach * ddual, u + reach * du, v + reach * dv)
    error = jnp.max(new[0] * new[1]) / size
    fine = jnp.isfinite(error) & jnp.isfinite(jnp.max(jnp.abs(new[3])))
    new = jax.tree.map(lambda x, y: jnp.where(fine, x, y), new, (plan, dual, u, v))
    # A step that breaks down leaves the last point, and ends the iteration.
    return *new, steps + 1, jnp.where(fine, error, 0)

  total = jnp.sum(a)
  plan = hold(a[:, None] * b[None, :] / jnp.where(total > 0, total, 1))
  carry = (
    plan, hold(jnp.full(s.shape, size, s.dtype)), jnp.zeros_like(a), jnp.zeros_like(b),
    jnp.zeros((), jnp.int32), jnp.full((), jnp.inf, s.dtype),
  )  # fmt: skip
  # Multipliers as large as the range of s carry its rounding: below it the steps go astray.
  floor = _ROUNDING * eps * size
  go_on = lambda c: (c[5] > jnp.maximum(bound, floor)) & (c[4] < max_steps)
  carry = jax.lax.while_loop(go_on, step, carry)
  return carry[0], carry[1]
