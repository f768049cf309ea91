"""One scalar equation an entry: its root, from anywhere, and the derivative of the root.

An entrywise operator solves y - x + G phi'(y) = 0. Its derivatives are fractions of y alone; those
of the formula or of the loop that found y cancel or overflow at the ends of the range.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust.typing import Array, ArrayLike

_MAX_STEPS = 200  # halvings of a bracket over the whole range of float64 in its own units


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def stationary(solve: Callable[..., Array], slopes: Callable[..., tuple], *args: Array) -> Array:
  """``solve(*args)``, with the derivatives ``slopes(y, *args)``, one an argument.

  Both are functions of a module, not closures. Higher derivatives are those of the slopes. A slope
  that overflows is held at the largest number: times a tangent of 0 it must stay 0.
  """
  return solve(*args)


@stationary.defjvp
def _rule(
  solve: Callable, slopes: Callable, primals: tuple, tangents: tuple
) -> tuple[Array, Array]:
  y = stationary(solve, slopes, *primals)
  big = jnp.finfo(y.dtype).max
  terms = [
    jnp.clip(slope, -big, big) * tangent
    for slope, tangent in zip(slopes(y, *primals), tangents, strict=True)
  ]
  return y, sum(terms[1:], terms[0])


def pull(direct: Array, size: Array, y: Array, x: Array, g: Array) -> Array:
  """phi'(y) at the solution of y + g phi'(y) = x, from whichever side has not cancelled.

  ``direct`` is phi'(y) by its formula and ``size`` the size of the terms that it adds up.
  """
  distance = jnp.maximum(jnp.abs(x), jnp.abs(y))
  better = distance < g * size
  return jnp.where(better, (x - y) / jnp.where(better, g, 1), direct)


@partial(jax.jit, static_argnums=(0,))
def bracketed_newton(
  equation: Callable[..., tuple[Array, Array, Array]],
  start: Array,
  low: Array,
  high: Array,
  *args: Any,
) -> Array:
  """Root in [low, high] of an increasing function, by Newton steps that bisection replaces.

  Args:
    equation: ``equation(z, *args) -> (value, slope, size)``, a function of a module; ``size`` is
      that of the terms added up in the value, whose rounding is all that can be asked for.
    start: first point, in the bracket.
    low: where the function is <= 0.
    high: where it is >= 0.
    *args: arrays of the shape of ``start``.

  Returns:
    The root, an array like ``start``. NaN stays NaN. No derivative: ``stationary`` has it.
  """
  eps = jnp.finfo(start.dtype).eps

  def body(carry: tuple) -> tuple:
    z, low, high, _, count = carry
    value, slope, size = equation(z, *args)
    low, high = jnp.where(value < 0, z, low), jnp.where(value > 0, z, high)
    newton = z - value / slope
    inside = (newton >= low) & (newton <= high)
    new = jnp.where(inside, newton, low + (high - low) / 2)
    # The last step is taken even from where only rounding is left; NaN is not open.
    is_open = (jnp.abs(value) > 4 * eps * size) & (new != z)
    return jnp.where(jnp.isnan(z), z, new), low, high, jnp.any(is_open), count + 1

  first = (start, low, high, jnp.asarray(True), jnp.zeros((), jnp.int32))
  return jax.lax.while_loop(lambda c: c[3] & (c[4] < _MAX_STEPS), body, first)[0]


def monotone_newton(
  equation: Callable[..., tuple[Array, Array]],
  start: Array,
  steps: int,
  *args: Array,
  low: ArrayLike = -jnp.inf,
) -> Array:
  """Root of an increasing function that is convex, or concave, between ``low`` and the start.

  All tangents lie on one side of such a function, so that the iterates after the first are on one
  side of the root, go towards it and cannot pass it: no bracket is needed. The first one may be
  thrown too far to the left, at most to ``low``. ``equation(z, *args)`` is the pair (value, slope).
  The steps are few and unrolled: one pass over the memory; the caller says why they suffice.
  """

  def step(_: int, z: Array) -> Array:
    value, slope = equation(z, *args)
    return jnp.maximum(z - value / slope, low)

  return jax.lax.fori_loop(0, steps, step, start, unroll=True)


@jax.custom_jvp
def quotient(a: Array, b: Array) -> Array:
  """a / b, b > 0, whose derivative by b is no fraction over b^2: that overflows first."""
  return a / b


@quotient.defjvp
def _quotient_rule(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
  (a, b), (da, db) = primals, tangents
  out = quotient(a, b)
  return out, (da - jnp.minimum(out, jnp.finfo(out.dtype).max) * db) * (1 / b)
