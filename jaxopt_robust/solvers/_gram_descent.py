"""Penalised quadratics held as a matrix: coordinate descent that finds the support, conjugate
gradients that finish on it."""

import functools
from collections.abc import Callable
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp

from jaxopt_robust.numerics import safe_divide
from jaxopt_robust.solvers._hessians import Hessian
from jaxopt_robust.typing import Array, PyTree

# Epochs of coordinate descent before conjugate gradients, and how many steps these may take.
EPOCHS = 2
_CG_STEPS = 50
# Curvatures are known up to so many units of rounding of those of the coordinates.
_ROUNDING = 16.0
# A Newton step that is not lower is shortened, a few times; the last time to the first change of a
# sign, up to where a convex objective falls.
_SHORTER, _TRIALS = 0.25, 5


class Quadratic(NamedTuple):
  """1/2 w^T H w - b^T w, known by its Hessian and a gradient, and a penalty's numbers.

  Attributes:
    hessian: H of size m.
    diagonal: float[m], that of H.
    bounds: the curvature of each block of coordinates of the penalty, or a bound of it.
    hyper: hyper-parameters, leaves with a leading axis: one number a block.
    used: int32: the first so many coordinates are in use; the others stay as they are.
  """

  hessian: Hessian
  diagonal: Array
  bounds: Array
  hyper: PyTree
  used: Array


class Point(NamedTuple):
  """Coefficients float[m], and the gradient of the quadratic there."""

  params: Array
  gradient: Array


class Local(NamedTuple):
  """A penalty near a point, where it is smooth: on the support.

  Attributes:
    on: bool[m], the coordinates that move.
    slope: float[m], the gradient of the penalty, 0 off the support.
    bend: its second derivative as a function ``v -> float[m]``.
    diagonal: float[m], about the diagonal of that.
    landed: ``new -> float[m]``: what crosses 0 on the way to ``new`` becomes 0.
    first: ``direction -> share``, the share of a step that brings the first to 0; inf for none.
  """

  on: Array
  slope: Array
  bend: Callable[[Array], Array]
  diagonal: Array
  landed: Callable[[Array], Array]
  first: Callable[[Array], Array]


class Separable(Protocol):
  """A penalty that is a sum over blocks of coordinates, and what coordinate descent asks of it."""

  def value(self, params: Array, hyper: PyTree) -> Array:
    """The penalty."""

  def norms(self, vector: Array) -> Array:
    """The length of each block."""

  def spread(self, values: Array, size: int) -> Array:
    """What holds for a block, for each of its coordinates, [size]; 0 for those of none."""

  def image(self, target: Array, hyper: PyTree, step: Array) -> Array:
    """The operator of all blocks, each with its own step."""

  def bounds(self, hessian: Hessian) -> Array:
    """The curvature of each block, or a bound of it."""

  def epoch(self, quadratic: Quadratic, point: Point) -> Point:
    """Every block in use, in turn, at its own minimum or that of a bound."""

  def alive(self, quadratic: Quadratic) -> Array:
    """Which blocks move: those in use that bend."""

  def local(self, quadratic: Quadratic, params: Array) -> Local:
    """The penalty on the support."""


def quadratic_of(penalty: Separable, hessian: Hessian, hyper: PyTree, used: Array) -> Quadratic:
  """The quadratic of a Hessian, with the curvatures that a penalty asks for."""
  return Quadratic(hessian, hessian.diagonal(), penalty.bounds(hessian), hyper, used)


def changes(
  penalty: Separable, params: Array, gradient: Array, hyper: PyTree, bounds: Array
) -> Array:
  """||w_j - prox(w_j - gradient_j / L_j)|| L_j of each block, L_j > 0 its entry of ``bounds``: how
  far it would move alone, times its curvature, and 0 at a solution."""
  wide = penalty.spread(bounds, params.shape[0])
  image = penalty.image(params - gradient / jnp.where(wide > 0, wide, 1), hyper, 1 / bounds)
  return penalty.norms(image - params) * bounds


def violation(penalty: Separable, quadratic: Quadratic, point: Point) -> Array:
  """The largest of the changes of the blocks that move. Not a number stays one."""
  alive = penalty.alive(quadratic)
  bounds = jnp.where(alive, quadratic.bounds, 1)
  change = changes(penalty, *point, quadratic.hyper, bounds)
  return jnp.max(jnp.where(alive, change, 0), initial=0)


def moving(quadratic: Quadratic) -> Array:
  """Which coordinates move, bool[m]: those in use whose diagonal is positive."""
  diagonal = quadratic.diagonal
  return (diagonal > 0) & (jnp.arange(diagonal.shape[0]) < quadratic.used)


class Entries(NamedTuple):
  """A penalty of single coordinates.

  Attributes:
    penalty_value: ``penalty_value(params, hyper)``.
    prox: ``prox(scalar, hyper_j, step)``.
    free: bool[m], coordinates without a penalty.
  """

  penalty_value: Callable
  prox: Callable
  free: Array

  def value(self, params: Array, hyper: PyTree) -> Array:
    return self.penalty_value(jnp.where(self.free, 0, params), hyper)

  def norms(self, vector: Array) -> Array:
    return jnp.abs(vector)

  def spread(self, values: Array, size: int) -> Array:
    del size
    return values

  def image(self, target: Array, hyper: PyTree, step: Array) -> Array:
    return jnp.where(self.free, target, jax.vmap(self.prox)(target, hyper, step))

  def bounds(self, hessian: Hessian) -> Array:
    return hessian.diagonal()

  def alive(self, quadratic: Quadratic) -> Array:
    return moving(quadratic)

  def epoch(self, quadratic: Quadratic, point: Point) -> Point:
    hessian, alive = quadratic.hessian, moving(quadratic)
    steps = 1 / jnp.where(alive, quadratic.bounds, 1)

    def visit(j: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
      params, held = carry
      old, step = params[j], steps[j]
      target = old - step * hessian.read(held, point.gradient, j)
      new = self.prox(target, jax.tree.map(lambda leaf: leaf[j], quadratic.hyper), step)
      new = jnp.where(self.free[j], target, new)
      change = jnp.where(alive[j], new - old, 0)
      new = jnp.where(alive[j], new, old)
      return params.at[j].set(new), hessian.add(held, j, change)

    start = (point.params, hessian.hold(point.gradient))
    params, held = jax.lax.fori_loop(0, quadratic.used, visit, start)
    return Point(params, hessian.release(held, point.gradient))

  def local(self, quadratic: Quadratic, params: Array) -> Local:
    on = moving(quadratic) & ((params != 0) | self.free)
    penalised = on & ~self.free
    penalty = lambda w: self.penalty_value(jnp.where(penalised, w, 0), quadratic.hyper)
    slope, bend = jax.jvp(jax.grad(penalty), (params,), (jnp.ones_like(params),))
    slope, bend = jnp.where(penalised, slope, 0), jnp.where(penalised, bend, 0)

    def first(direction: Array) -> Array:
      turns = penalised & (direction * params < 0)
      shares = jnp.where(turns, -params / jnp.where(turns, direction, 1), jnp.inf)
      return jnp.min(shares, initial=jnp.inf)

    def landed(new: Array) -> Array:
      return jnp.where(penalised & (new * params <= 0), 0, new)

    return Local(on, slope, lambda v: bend * v, bend, landed, first)


def _conjugate_gradients(
  product: Callable, right: Array, scale: Array, diagonal: Array, tol: Array
) -> Array:
  """Preconditioned conjugate gradients from 0, up to where no curvature is left but rounding.

  Of a singular matrix further steps, divided by that, would run away along its kernel.
  """
  eps = jnp.finfo(right.dtype).eps

  def step(carry: tuple) -> tuple:
    found, rest, line, square, count, _ = carry
    image = product(line)
    curvature = line @ image
    rises = curvature > _ROUNDING * eps * (line**2 @ diagonal)
    length = jnp.where(rises, square / jnp.where(rises, curvature, 1), 0)
    found, rest = found + length * line, rest - length * image
    scaled = scale * rest
    new = rest @ scaled
    return found, rest, scaled + safe_divide(new, square) * line, new, count + 1, rises

  def goes_on(carry: tuple) -> Array:
    return carry[5] & (carry[4] < _CG_STEPS) & (jnp.max(jnp.abs(carry[1])) > tol)

  line = scale * right
  start = (jnp.zeros_like(right), right, line, right @ line, 0, jnp.array(True))
  return jax.lax.while_loop(goes_on, step, start)[0]


def _newton(quadratic: Quadratic, point: Point, local: Local, tol: Array) -> Array:
  """The d of (H + bend) d = -(gradient + slope) on the coordinates that move, 0 elsewhere."""
  on, hessian = local.on, quadratic.hessian
  only = lambda v: jnp.where(on, v, 0)
  diagonal = quadratic.diagonal + local.diagonal
  scale = jnp.where(on & (diagonal > 0), 1 / jnp.where(diagonal > 0, diagonal, 1), 1)
  right = only(-(point.gradient + local.slope))
  size = right.shape[0]

  def among(count: int) -> Array:
    """On the coordinates that move, gathered; at most so many."""
    (at,) = jnp.nonzero(on, size=count, fill_value=size)
    part = hessian.restricted(at)
    take = lambda v: v.at[at].get(mode="fill", fill_value=0)
    put = lambda v: jnp.zeros(size, v.dtype).at[at].set(v, mode="drop")
    product = lambda v: part.product(v) + take(local.bend(put(v)))
    return put(
      _conjugate_gradients(product, take(right), take(scale), take(quadratic.diagonal), tol)
    )

  counts = hessian.parts()
  if not counts:
    product = lambda v: only(hessian.product(v) + local.bend(v))
    return _conjugate_gradients(product, right, scale, quadratic.diagonal, tol)
  which = jnp.sum(jnp.asarray(counts[:-1]) < jnp.sum(on, dtype=jnp.int32), dtype=jnp.int32)
  return jax.lax.switch(which, [functools.partial(among, count) for count in counts])


def finish(penalty: Separable, quadratic: Quadratic, point: Point, tol: Array) -> Point:
  """A Newton step on the support that keeps signs, or a part of it; none where none is lower."""
  params, gradient = point
  local = penalty.local(quadratic, params)
  direction = _newton(quadratic, point, local, tol)
  value = lambda w: penalty.value(jnp.where(local.on, w, 0), quadratic.hyper)

  def trial(share: Array) -> tuple[Point, Array]:
    new = local.landed(params + share * direction)
    change = new - params
    after = gradient + quadratic.hessian.product(change)
    decrease = value(params) - value(new) - 0.5 * (gradient + after) @ change
    return Point(new, after), decrease

  eps = jnp.finfo(params.dtype).eps
  # A little beyond, so that rounding leaves nothing of the coordinate.
  first = jnp.minimum(local.first(direction) * (1 + 4 * eps), 1)

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


def cycle(penalty: Separable, quadratic: Quadratic, point: Point, tol: Array) -> Point:
  """A few epochs and a Newton step, whose residual need not be below ``tol``."""
  point = jax.lax.fori_loop(0, EPOCHS, lambda _, p: penalty.epoch(quadratic, p), point)
  return finish(penalty, quadratic, point, tol)


def descend(
  penalty: Separable, quadratic: Quadratic, point: Point, tol: Array, max_epochs: Array
) -> tuple[Point, Array]:
  """Epochs and Newton steps, at least one, until ``violation`` is at most ``tol``.

  Args:
    penalty: the penalty by blocks.
    quadratic: the objective.
    point: where to start, with its gradient.
    tol: >= 0.
    max_epochs: rounded up to a multiple of the epochs between two Newton steps.

  Returns:
    The point, and int32: the number of epochs.
  """

  def several(carry: tuple) -> tuple:
    point, done, _ = carry
    point = cycle(penalty, quadratic, point, 0.3 * tol)
    return point, done + EPOCHS, violation(penalty, quadratic, point)

  start = (point, jnp.zeros((), jnp.int32), jnp.full((), jnp.inf, point.params.dtype))
  goes_on = lambda carry: (carry[2] > tol) & (carry[1] < max_epochs)
  point, done, _ = jax.lax.while_loop(goes_on, several, start)
  return point, done
