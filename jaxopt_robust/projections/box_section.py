"""Projection onto a box cut by a hyperplane."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.numerics import safe_divide, upcast
from jaxopt_robust.projections import _common, _compensated
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["projection_box_section"]

# Newton needs a handful of steps; the cap only bounds a bisection down to the last bit.
_MAX_STEPS = 200
# So many entries of a long vector say where the first step goes.
_SAMPLE = 4096


def _excess(w: Array, p: Array, c: Array) -> Array:
  """<w, p> - c in twice the digits: large weights at a bound must not hide the small free ones."""
  high, low = _compensated.product(w[None], p, jnp.zeros_like(p), -c[None])
  return (high + low)[0]


def _leave_flat(x: Array, low: Array, high: Array, w: Array, tau: Array, value: Array) -> Array:
  """From where no entry moves: the next tau where one starts to, or Newton's where one just does.

  By the kinks, as x + tau w may be rounded to the bound that an entry is about to leave.
  """
  uses = w != 0
  safe = jnp.where(uses, w, 1)
  start = (jnp.where(w > 0, low, high) - x) / safe  # where an entry leaves a bound as tau rises ...
  stop = (jnp.where(w > 0, high, low) - x) / safe  # ... and where it reaches the other one
  below = value < 0
  moves = uses & jnp.where(below, (start <= tau) & (tau < stop), (start < tau) & (tau <= stop))
  slope = jnp.sum(jnp.where(moves, w * w, 0))
  up = jnp.min(jnp.where(uses & (start > tau), start, jnp.inf))
  down = jnp.max(jnp.where(uses & (stop < tau), stop, -jnp.inf))
  kink = jnp.where(below, up, down)
  return jnp.where(slope > 0, tau - safe_divide(value, slope), kink)


def _newton(
  excess: Callable, x: Array, low: Array, high: Array, w: Array, tau: Array, *, exact: bool
) -> tuple[Array, Array]:
  """The tau with excess(clip(x + tau w, low, high)) = 0, by Newton's method in a bracket.

  Ends where a step stays in place (``exact``) or where that could be rounding, and where rounding
  hides what the entries that reach or leave a bound on its way make of it. Returns tau from before
  the last step, and the excess there.
  """
  eps = jnp.finfo(x.dtype).eps

  def step(carry: tuple) -> tuple:
    tau, left, right, _, count, _ = carry
    moved = x + tau * w
    value = excess(jnp.clip(moved, min=low, max=high))
    below = value < 0
    left, right = jnp.where(below, tau, left), jnp.where(below, right, tau)
    # The slope on the side of the root: an entry at a bound that it is about to leave moves.
    leaves = (w > 0) == below
    moves = ((moved > low) | (leaves & (moved == low))) & (
      (moved < high) | (~leaves & (moved == high))
    )
    slope = jnp.sum(jnp.where(moves, w * w, 0))
    new = jax.lax.cond(
      slope > 0,
      lambda: tau - safe_divide(value, slope),
      lambda: _leave_flat(x, low, high, w, tau, value),
    )
    outside = ~((new > left) & (new < right))
    new = jnp.where(outside & jnp.isfinite(left + right), left + (right - left) / 2, new)
    done = (value == 0) | (new == left) | (new == right) | ~jnp.isfinite(new)
    if exact:
      there = x + new * w
      changes = ((moved > low) & (moved < high)) != ((there > low) & (there < high))
      crossing = jnp.sum(jnp.where(changes, w * w, 0))
    else:
      crossing = slope / 4
    rounds = crossing * jnp.abs(new - tau) <= eps * slope * jnp.abs(new)
    done = done | ((slope > 0) & rounds)  # from where it is flat the next kink is no solution yet
    return jnp.where(done, tau, new), left, right, value, count + 1, done

  infinite = jnp.full((), jnp.inf, x.dtype)
  zero = jnp.zeros((), jnp.int32)
  carry = (tau, -infinite, infinite, infinite, zero, jnp.zeros((), bool))
  carry = jax.lax.while_loop(lambda s: ~s[5] & (s[4] < _MAX_STEPS), step, carry)
  tau, value, done = carry[0], carry[3], carry[5]
  value = jax.lax.cond(
    done, lambda: value, lambda: excess(jnp.clip(x + tau * w, min=low, max=high))
  )
  return tau, value


def _multiplier(x: Array, low: Array, high: Array, w: Array, c: Array) -> tuple[Array, Array]:
  """The tau with <w, clip(x + tau w, low, high)> = c up to a last Newton step, and what is left.

  A sample of the entries says about where it is, rounded sums come near it; sums of twice the
  digits then take their steps, as a rule none.
  """

  def about(x: Array, low: Array, high: Array, w: Array, c: Array, first: Array) -> Array:
    near, _ = _newton(lambda p: jnp.sum(w * p) - c, x, low, high, w, first, exact=False)
    return jnp.where(jnp.isfinite(near), near, first)

  tau = safe_divide(c - jnp.sum(w * x), jnp.sum(w * w))
  stride = x.shape[0] // _SAMPLE
  if stride > 1:
    share = x[::stride].shape[0] / x.shape[0]
    tau = about(x[::stride], low[::stride], high[::stride], w[::stride], share * c, tau)
  tau = about(x, low, high, w, c, tau)
  return _newton(lambda p: _excess(w, p, c), x, low, high, w, tau, exact=True)


def projection_box_section(x: ArrayLike, hyperparams: Any) -> Array:
  r"""Projection onto a box cut by a hyperplane (a capped or weighted simplex).

  Solves argmin_p 1/2 ||p - x||_2^2 subject to alpha <= p <= beta, <w, p> = c, by
  p = clip(x + tau w, alpha, beta) with the root tau of a monotone piecewise linear equation.

  Args:
    x: float[n] array.
    hyperparams: tuple (alpha, beta, w, c): alpha <= beta (may be infinite) and w (of any sign),
      each a scalar or an array of the shape of ``x``, c a scalar; may be traced.

  Returns:
    float[n] of the dtype of ``x``; NaN when the set is empty.

  Raises:
    TypeError: when ``x`` is not floating-point.
    ValueError: when ``x`` is no vector, shapes do not fit, or the set is known to be empty.

  Note:
    Exact: a last Newton step on the final active set leaves rounding errors only, where bisection
    leaves its tolerance. The derivative holds the entries that stand at a bound constant.

  Example:
    >>> projection_box_section(jnp.array([2.0, 0.5, 0.0]), (0.0, 1.0, 1.0, 2.0)).round(2)
    Array([1.  , 0.75, 0.25], dtype=float32)

  Reference:
    Cominetti, Mascarenhas and Silva, A Newton's method for the continuous quadratic knapsack
    problem, 2014.
  """
  alpha, beta, w, c = _arguments.parts(hyperparams, "alpha", "beta", "w", "c")
  array = _common.vector(x)
  wide = upcast(array)
  low, high, w = (
    _common.like(name, value, wide, spread=True)
    for name, value in (("alpha", alpha), ("beta", beta), ("w", w))
  )
  c = _common.scalar("c", c, wide.dtype)
  least = jnp.where(w == 0, 0, w * jnp.where(w > 0, low, high))
  most = jnp.where(w == 0, 0, w * jnp.where(w > 0, high, low))
  magnitude = jnp.sum(jnp.where(jnp.isfinite(least), jnp.abs(least), 0)) + jnp.sum(
    jnp.where(jnp.isfinite(most), jnp.abs(most), 0)
  )
  slack = 16 * jnp.finfo(wide.dtype).eps * (magnitude + jnp.abs(c))  # rounding of the sums
  good = jnp.all(low <= high) & (jnp.sum(least) <= c + slack) & (jnp.sum(most) >= c - slack)
  unknown = jnp.any(jnp.isnan(wide) | jnp.isnan(low) | jnp.isnan(high) | jnp.isnan(w))
  _checks.check_holds(
    good | unknown | jnp.isnan(c),
    "the set is empty: it needs alpha <= beta and <w, p> = c for some alpha <= p <= beta.",
  )
  tau, excess = _multiplier(*jax.lax.stop_gradient((wide, low, high, w, c)))
  moved = wide + tau * w
  free = (moved > low) & (moved < high)
  bound = jnp.where(moved <= low, low, high)
  fixed = jnp.where(free, 0, bound)
  # One Newton step on the active set, around the moved point: no cancellation is left.
  point = jnp.where(free, moved, fixed)
  miss = c - jnp.sum(w * point)
  miss = miss + jax.lax.stop_gradient(-excess - miss)
  rest = safe_divide(miss, jnp.sum(jnp.where(free, w * w, 0)))
  inner = moved + rest * w
  # The step may leave the box by a rounding: the value is clipped, the derivative is not.
  clipped = inner + jax.lax.stop_gradient(jnp.clip(inner, min=low, max=high) - inner)
  out = jnp.where(free, clipped, bound)
  return _common.or_nan(good & ~unknown, out).astype(array.dtype)
