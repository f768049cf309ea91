"""Projection onto a box cut by a hyperplane."""

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


def _excess(w: Array, p: Array, c: Array) -> Array:
  """<w, p> - c in twice the digits: large weights at a bound must not hide the small free ones."""
  high, low = _compensated.product(w[None], p, jnp.zeros_like(p), -c[None])
  return (high + low)[0]


def _multiplier(x: Array, low: Array, high: Array, w: Array, c: Array) -> Array:
  """The tau with <w, clip(x + tau w, low, high)> = c, by Newton's method in a bracket."""
  entry = jnp.where(w > 0, low, high)  # the bound that an entry leaves as tau rises ...
  leave = jnp.where(w > 0, high, low)  # ... and the one that it reaches
  uses = w != 0
  safe = jnp.where(uses, w, 1)
  start = jnp.where(uses, (entry - x) / safe, jnp.inf)
  stop = jnp.where(uses, (leave - x) / safe, -jnp.inf)

  def step(carry: tuple[Array, Array, Array, Array, Array]) -> tuple:
    tau, left, right, count, _ = carry
    value = _excess(w, jnp.clip(x + tau * w, min=low, max=high), c)
    below = value < 0
    left, right = jnp.where(below, tau, left), jnp.where(below, right, tau)
    # The slope on the side of the root.
    moves = jnp.where(below, (start <= tau) & (tau < stop), (start < tau) & (tau <= stop))
    slope = jnp.sum(jnp.where(moves, w * w, 0))
    newton = tau - safe_divide(value, slope)
    # Flat: on to the next point where an entry starts to move.
    up = jnp.min(jnp.where(start > tau, start, jnp.inf))
    down = jnp.max(jnp.where(stop < tau, stop, -jnp.inf))
    new = jnp.where(slope > 0, newton, jnp.where(below, up, down))
    outside = ~((new > left) & (new < right))
    new = jnp.where(outside & jnp.isfinite(left + right), left + (right - left) / 2, new)
    done = (value == 0) | (new == left) | (new == right) | ~jnp.isfinite(new)
    return jnp.where(done, tau, new), left, right, count + 1, done

  first = safe_divide(c - jnp.sum(w * x), jnp.sum(w * w))
  infinite = jnp.full((), jnp.inf, x.dtype)
  carry = (first, -infinite, infinite, jnp.zeros((), jnp.int32), jnp.zeros((), bool))
  carry = jax.lax.while_loop(lambda s: ~s[4] & (s[3] < _MAX_STEPS), step, carry)
  return carry[0]


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
  _checks.check_holds(
    good | jnp.any(jnp.isnan(wide + low + w)) | jnp.any(jnp.isnan(high)) | jnp.isnan(c),
    "the set is empty: it needs alpha <= beta and <w, p> = c for some alpha <= p <= beta.",
  )
  tau = _multiplier(*jax.lax.stop_gradient((wide, low, high, w, c)))
  moved = wide + tau * w
  free = (moved > low) & (moved < high)
  bound = jnp.where(moved <= low, low, high)
  fixed = jnp.where(free, 0, bound)
  # One Newton step on the active set, around the moved point: no cancellation is left.
  point = jnp.where(free, moved, fixed)
  miss = c - jnp.sum(w * point)
  exact = -_excess(*jax.lax.stop_gradient((w, point, c)))
  miss = miss + jax.lax.stop_gradient(exact - miss)
  rest = safe_divide(miss, jnp.sum(jnp.where(free, w * w, 0)))
  inner = moved + rest * w
  # The step may leave the box by a rounding: the value is clipped, the derivative is not.
  clipped = inner + jax.lax.stop_gradient(jnp.clip(inner, min=low, max=high) - inner)
  out = jnp.where(free, clipped, bound)
  return _common.or_nan(good & ~jnp.any(jnp.isnan(wide)), out).astype(array.dtype)
