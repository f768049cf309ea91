"""Penalised quadratics held as a matrix: coordinate descent that finds the support, conjugate
gradients that finish on it."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust.numerics import safe_divide
from jaxopt_robust.typing import Array, PyTree

# Epochs of coordinate descent before conjugate gradients, and how many steps these may take.
EPOCHS = 2
_CG_STEPS = 50
# A Newton step that is not lower is shortened, a few times; the last time to the first change of a
# sign, up to where a convex objective falls.
_SHORTER, _TRIALS = 0.25, 5


class Quadratic(NamedTuple):
  """1/2 w^T H w - b^T w + sum_j g(w_j; hyper_j), known by its Hessian and a gradient.

  Attributes:
    hessian: H, float[m, m], positive semi-definite.
    hyper: hyper-parameters, leaves with a leading axis of length m.
    free: bool[m], coordinates without a penalty.
    used: int32: the first so many coordinates are in use; the others stay as they are.
  """

  hessian: Array
  hyper: PyTree
  free: Array
  used: Array


class Point(NamedTuple):
  """Coefficients float[m], and the gradient of the quadratic there."""

  params: Array
  gradient: Array


def _curvatures(quadratic: Quadratic) -> tuple[Array, Array]:
  """The diagonal of H, and which coordinates move: those in use whose diagonal is positive."""
  diagonal = jnp.diagonal(quadratic.hessian)
  alive = (diagonal > 0) & (jnp.arange(diagonal.shape[0]) < quadratic.used)
  return jnp.where(alive, diagonal, 1), alive


def violation(prox: Callable, quadratic: Quadratic, point: Point) -> Array:
  """The largest H_jj |change of w_j| that a coordinate alone would make: 0 at a solution."""
  bounds, alive = _curvatures(quadratic)
  step = 1 / bounds
  target = point.params - step * point.gradient
  image = jnp.where(quadratic.free, target, jax.vmap(prox)(target, quadratic.hyper, step))
  change = jnp.abs(image - point.params) * bounds
  # Not a number stays one.
  return jnp.max(jnp.where(alive, change, 0), initial=0)


def epoch(prox: Callable, quadratic: Quadratic, point: Point) -> Point:
  """Every coordinate in use, in turn, at its own minimum."""
  bounds, alive = _curvatures(quadratic)
  steps = 1 / bounds

  def visit(j: Array, point: Point) -> Point:
    old, step = point.params[j], steps[j]
    target = old - step * point.gradient[j]
    new = prox(target, jax.tree.map(lambda leaf: leaf[j], quadratic.hyper), step)
    new = jnp.where(quadratic.free[j], target, new)
    change = jnp.where(alive[j], new - old, 0)
    new = jnp.where(alive[j], new, old)
    return Point(point.params.at[j].set(new), point.gradient + change * quadratic.hessian[j])

  return jax.lax.fori_loop(0, quadratic.used, visit, point)


def _newton(
  quadratic: Quadratic, point: Point, slope: Array, bend: Array, on: Array, tol: Array
) -> Array:
  """Conjugate gradients for (H + diag(bend)) d = -(gradient + slope) on the coordinates ``on``."""
  only = lambda v: jnp.where(on, v, 0)
  diagonal = jnp.diagonal(quadratic.hessian) + bend
  scale = jnp.where(on & (diagonal > 0), 1 / jnp.where(diagonal > 0, diagonal, 1), 1)
  product = lambda v: only(quadratic.hessian @ v + bend * v)

  def step(carry: tuple) -> tuple:
    found, rest, line, square, count, _ = carry
    image = product(line)
    curvature = line @ image
    rises = curvature > 0
    length = jnp.where(rises, square / jnp.where(rises, curvature, 1), 0)
    found, rest = found + length * line, rest - length * image
    scaled = scale * rest
    new = rest @ scaled
    return found, rest, scaled + safe_divide(new, square) * line, new, count + 1, rises

  def goes_on(carry: tuple) -> Array:
    return carry[5] & (carry[4] < _CG_STEPS) & (jnp.max(jnp.abs(carry[1])) > tol)

  rest = only(-(point.gradient + slope))
  line = scale * rest
  start = (jnp.zeros_like(rest), rest, line, rest @ line, 0, jnp.array(True))
  return jax.lax.while_loop(goes_on, step, start)[0]


def finish(value: Callable, quadratic: Quadratic, point: Point, tol: Array) -> Point:
  """A Newton step on the support that keeps signs, or a part of it; none where none is lower."""
  params, gradient = point
  _, alive = _curvatures(quadratic)
  on = alive & ((params != 0) | quadratic.free)
  penalised = on & ~quadratic.free
  penalty = lambda w: value(jnp.where(penalised, w, 0), quadratic.hyper)
  slope, bend = jax.jvp(jax.grad(penalty), (params,), (jnp.ones_like(params),))
  slope, bend = jnp.where(penalised, slope, 0), jnp.where(penalised, bend, 0)
  direction = _newton(quadratic, point, slope, bend, on, tol)

  def trial(share: Array) -> tuple[Point, Array]:
    new = params + share * direction
    new = jnp.where(penalised & (new * params <= 0), 0, new)
    change = new - params
    after = gradient + quadratic.hessian @ change
    decrease = penalty(params) - penalty(new) - 0.5 * (gradient + after) @ change
    return Point(new, after), decrease

  eps = jnp.finfo(params.dtype).eps
  turns = penalised & (direction * params < 0)
  shares = jnp.where(turns, -params / jnp.where(turns, direction, 1), jnp.inf)
  # A little beyond, so that rounding leaves nothing of the coordinate.
  first = jnp.minimum(jnp.min(shares, initial=jnp.inf) * (1 + 4 * eps), 1)

  def one(carry: tuple) -> tuple:
    share, _, _, count = carry
    shorter = jnp.where(count == _TRIALS - 2, first, share * _SHORTER)
    return (shorter, *trial(share), count + 1)

  start = (jnp.ones((), params.dtype), point, jnp.zeros((), params.dtype), 0)
  _, new, decrease, _ = jax.lax.while_loop(
    lambda carry: ~(carry[2] > 0) & (carry[3] < _TRIALS), one, start
  )
  lower = decrease > 0
  return jax.tree.map(lambda after, before: jnp.where(lower, after, before), new, point)


def cycle(prox: Callable, value: Callable, quadratic: Quadratic, point: Point, tol: Array) -> Point:
  """A few epochs and a Newton step, whose residual need not be below ``tol``."""
  point = jax.lax.fori_loop(0, EPOCHS, lambda _, p: epoch(prox, quadratic, p), point)
  return finish(value, quadratic, point, tol)


def descend(
  prox: Callable, value: Callable, quadratic: Quadratic, point: Point, tol: Array, max_epochs: Array
) -> tuple[Point, Array]:
  """Epochs and Newton steps, at least one, until ``violation`` is at most ``tol``.

  Args:
    prox: ``prox(scalar, hyper_j, step)``.
    value: ``value(params, hyper)``, the penalty of all coordinates.
    quadratic: the objective.
    point: where to start, with its gradient.
    tol: >= 0.
    max_epochs: rounded up to a multiple of the epochs between two Newton steps.

  Returns:
    The point, and int32: the number of epochs.
  """

  def several(carry: tuple) -> tuple:
    point, done, _ = carry
    point = cycle(prox, value, quadratic, point, 0.3 * tol)
    return point, done + EPOCHS, violation(prox, quadratic, point)

  start = (point, jnp.zeros((), jnp.int32), jnp.full((), jnp.inf, point.params.dtype))
  goes_on = lambda carry: (carry[2] > tol) & (carry[1] < max_epochs)
  point, done, _ = jax.lax.while_loop(goes_on, several, start)
  return point, done
