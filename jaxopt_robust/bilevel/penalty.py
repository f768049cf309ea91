"""First-order bilevel directions: the inner problem as a penalty, no second derivatives."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import _checks
from jaxopt_robust._units import in_units
from jaxopt_robust.bilevel.directions import (
  BilevelBatch,
  BilevelVariables,
  Directions,
  StochasticMethod,
  check_batch,
  method_of,
  total,
)
from jaxopt_robust.bilevel.products import scalar_of
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["bome_directions", "f2sa_directions"]


def f2sa_directions(
  inner: Callable[..., Any],
  outer: Callable[..., Any],
  *,
  penalty: ArrayLike = 1.0,
  power: ArrayLike = 1 / 7,
) -> StochasticMethod:
  r"""Directions of F2SA: two inner problems, one of them with the outer objective added.

  With lam_k = lam_0 (k + 1)^power at move k of y, y near argmin f + lam g and w near argmin g (kept
  in the place of v),

    d_y = grad_y g(y) + grad_y f(y) / lam,   d_w = grad_y g(w),
    d_x = grad_x f(y) + lam (grad_x g(y) - grad_x g(w)).

  Where both inner problems are solved d_x is off the hypergradient by O(1 / lam).

  Args:
    inner: ``inner(y, x, batch) -> scalar``, g on a batch.
    outer: ``outer(y, x, batch) -> scalar``, f on a batch.
    penalty: lam_0 > 0; may be traced.
    power: >= 0: 1/7 where both objectives are noisy, 1/5 where f alone is, 1/3 without noise. May
      be traced.

  Returns:
    ``StochasticMethod`` for ``stochastic_bilevel``; ``params.v`` is w and starts like y. Its
    ``parts`` are those of lam_0; with power = 0, not traced, it has no memory: ``storm`` and
    ``saga`` take it.

  Raises:
    TypeError: when an objective is not a function.
    ValueError: when a number is out of its range.

  Note:
    The paper counts outer steps: with ``inner_steps`` = T of ``stochastic_bilevel`` lam_k grows
    with the T moves of each, T^power times as fast.
    d_y is divided by lam, so that a constant step of y is as stable as one of w. The step of x
    should fall at least as fast as 1 / lam.

  Example:
    >>> inner = lambda y, x, b: 0.5 * jnp.sum((y - b) ** 2) + 0.5 * x * jnp.sum(y**2)
    >>> outer = lambda y, x, b: 0.5 * jnp.sum((y - b) ** 2)
    >>> method = f2sa_directions(inner, outer, penalty=10.0)
    >>> at = BilevelVariables(jnp.array(1.0), jnp.array([0.5]), jnp.array([0.5]))
    >>> batch = BilevelBatch(jnp.ones(1), jnp.zeros(1))
    >>> found, _, _ = method.directions(at, method.init(at, batch), batch)
    >>> round(float(found.y[0]), 3), float(found.v[0]), float(found.x)
    (0.05, 0.0, 0.0)

  Reference:
    Kwon, Kwon, Wright and Nowak, A fully first-order method for stochastic bilevel optimization,
    2023 (the exponents recalled from it).
  """
  inner_of, outer_of = scalar_of("inner", inner), scalar_of("outer", outer)
  _checks.check_positive("penalty", penalty, scalar=True)
  _checks.check_non_negative("power", power, scalar=True)

  def at(variables: BilevelVariables, batch: BilevelBatch, lam: Array) -> Directions:
    x, y, w = variables
    batch = check_batch(batch)
    slope_y, pull_y = jax.grad(inner_of, argnums=(0, 1))(y, x, batch.inner)
    slope_w, pull_w = jax.grad(inner_of, argnums=(0, 1))(w, x, batch.inner)
    value, (outer_y, outer_x) = jax.value_and_grad(outer_of, argnums=(0, 1))(y, x, batch.outer)
    zero = jax.tree.map(jnp.zeros_like, w)
    away = jax.tree.map(lambda a, b: lam.astype(a.dtype) * (a - b), pull_y, pull_w)
    scaled = jax.tree.map(lambda a: a / lam.astype(a.dtype), outer_y)
    return Directions(
      BilevelVariables(away, slope_y, slope_w), BilevelVariables(outer_x, scaled, zero), value
    )

  def init(variables: BilevelVariables, batch: BilevelBatch) -> Array:
    del variables, batch
    return jnp.zeros((), jnp.int32)

  def directions(variables: BilevelVariables, memory: Array, batch: BilevelBatch) -> tuple:
    lam = jnp.asarray(penalty) * (memory + 1.0) ** jnp.asarray(power)
    found = at(variables, batch, lam)
    return total(found), memory + 1, found.value

  parts = lambda variables, batch: at(variables, batch, jnp.asarray(penalty))
  if _checks.is_concrete(power) and power == 0:
    return method_of(parts)
  return StochasticMethod(init, parts, directions)


def bome_directions(
  inner: Callable[..., Any],
  outer: Callable[..., Any],
  *,
  stepsize: ArrayLike,
  num_steps: int = 10,
  control: ArrayLike = 0.5,
) -> StochasticMethod:
  r"""Directions of BOME: descent of f that also closes the gap of the inner objective.

  With y_T the result of T gradient steps on g from y and q = g(y, x) - g(y_T, x), y_T a constant,

    (d_y, d_x) = grad f + lam grad q,   grad q = (grad_y g(y), grad_x g(y) - grad_x g(y_T)),
    lam = max(eta ||grad q||^2 - <grad f, grad q>, 0) / ||grad q||^2.

  Args:
    inner: ``inner(y, x, batch) -> scalar``, g on a batch.
    outer: ``outer(y, x, batch) -> scalar``, f on a batch.
    stepsize: > 0, of the T steps; may be traced.
    num_steps: T >= 1, static.
    control: eta > 0: how fast q must fall; may be traced.

  Returns:
    ``StochasticMethod`` for ``stochastic_bilevel``; v does not move.

  Raises:
    TypeError: when an objective is not a function, or ``num_steps`` no static integer.
    ValueError: when a number is out of its range.

  Note:
    lam = 0 where grad q = 0. y and x must move with the same plain step for the guarantee.

  Example:
    >>> inner = lambda y, x, b: 0.5 * jnp.sum((y - b) ** 2) + 0.5 * x * jnp.sum(y**2)
    >>> outer = lambda y, x, b: 0.5 * jnp.sum((y - b) ** 2)
    >>> method = bome_directions(inner, outer, stepsize=0.4)
    >>> at = BilevelVariables(jnp.array(1.0), jnp.array([0.5]), jnp.zeros(1))
    >>> found, _, _ = method.directions(at, (), BilevelBatch(jnp.ones(1), jnp.zeros(1)))
    >>> float(found.y[0]), float(found.x)
    (0.5, 0.0)

  Reference:
    Ye, Liu, Wright, Stone and Liu, BOME! Bilevel optimization made easy: a simple first-order
    approach, 2022.
  """
  inner_of, outer_of = scalar_of("inner", inner), scalar_of("outer", outer)
  num_steps = _checks.check_int("num_steps", num_steps, minimum=1)
  _checks.check_positive("stepsize", stepsize, scalar=True)
  _checks.check_positive("control", control, scalar=True)

  def parts(variables: BilevelVariables, batch: BilevelBatch) -> Directions:
    x, y, v = variables
    batch = check_batch(batch)
    slope = jax.grad(inner_of)
    move = lambda w, g: w - jnp.asarray(stepsize, w.dtype) * g
    step = lambda _, w: jax.tree.map(move, w, slope(w, x, batch.inner))
    near = jax.lax.fori_loop(0, num_steps, step, y)
    gap_y, pull = jax.grad(inner_of, argnums=(0, 1))(y, x, batch.inner)
    pull_near = jax.grad(inner_of, argnums=1)(near, x, batch.inner)
    gap = (gap_y, jax.tree.map(jnp.subtract, pull, pull_near))
    value, descent = jax.value_and_grad(outer_of, argnums=(0, 1))(y, x, batch.outer)
    # Both in units of their own, so that squares stay in range.
    (unit_gap, unit), (unit_descent, size) = in_units(gap), in_units(descent)
    ratio = jnp.minimum(size / unit, jnp.finfo(unit.dtype).max)
    square = optax.tree.vdot(unit_gap, unit_gap)
    along = optax.tree.vdot(unit_descent, unit_gap) * ratio.astype(square.dtype)
    wanted = jnp.maximum(jnp.asarray(control, square.dtype) * square - along, 0)
    lam = jnp.where(square > 0, wanted / jnp.where(square > 0, square, 1), 0)
    pushed = jax.tree.map(lambda a: lam.astype(a.dtype) * a, gap)
    zero = jax.tree.map(jnp.zeros_like, v)
    return Directions(
      BilevelVariables(pushed[1], pushed[0], zero), BilevelVariables(descent[1], descent[0], zero),
      value,
    )  # fmt: skip

  return method_of(parts)
