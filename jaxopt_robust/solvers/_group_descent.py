"""Penalties on the norms of groups, for descent on a matrix that visits a group at a time."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_robust.numerics import safe_norm
from jaxopt_robust.prox.groups import GroupForm
from jaxopt_robust.solvers._gram_descent import Local, Point, Quadratic, moving
from jaxopt_robust.solvers._hessians import Hessian
from jaxopt_robust.typing import Array, Penalty, PyTree


def table(form: GroupForm) -> np.ndarray:
  """The entries of every group, int[num_groups + alone, q]: the groups, then one row for each entry
  that is in none; filled up with the number of entries."""
  ids, num = form.ids, form.num_groups
  alone, inside = np.flatnonzero(ids < 0), np.flatnonzero(ids >= 0)
  order = inside[np.argsort(ids[inside], kind="stable")]
  sizes = np.bincount(ids[inside], minlength=num)
  found = np.full((num + alone.size, int(sizes.max())), ids.size, np.int32)
  starts = np.cumsum(sizes) - sizes
  found[ids[order], np.arange(order.size) - starts[ids[order]]] = order
  found[num:, 0] = alone
  return found


class Groups(NamedTuple):
  """A penalty phi of the norms of groups of coordinates.

  Attributes:
    phi: the penalty of one number >= 0.
    members: int32[k, q], the coordinates of each group; m or more where there is none.
    free: bool[k], groups without phi.
    signed: bool[k], groups that may have any sign; the others are >= 0.
    used_groups: int32: the first so many groups are in use.
  """

  phi: Penalty
  members: Array
  free: Array
  signed: Array
  used_groups: Array

  def _gather(self, vector: Array) -> Array:
    """The entries of all groups, float[k, q], 0 where there is none."""
    return vector.at[self.members].get(mode="fill", fill_value=0)

  def _scatter(self, blocks: Array, size: int) -> Array:
    """Numbers of entries at the entries, float[size]."""
    return jnp.zeros(size, blocks.dtype).at[self.members].set(blocks, mode="drop")

  def spread(self, values: Array, size: int) -> Array:
    return self._scatter(jnp.broadcast_to(values[:, None], self.members.shape), size)

  def value(self, params: Array, hyper: PyTree) -> Array:
    return self.phi.value(jnp.where(self.free, 0, self.norms(params)), hyper)

  def norms(self, vector: Array) -> Array:
    return safe_norm(self._gather(vector), axis=1)

  def image(self, target: Array, hyper: PyTree, step: Array) -> Array:
    blocks = jax.vmap(self._one)(self._gather(target), self.free, self.signed, hyper, step)
    return self._scatter(blocks, target.shape[0])

  def _one(self, target: Array, free: Array, signed: Array, hyper: PyTree, step: Array) -> Array:
    """The operator on one group, float[q]."""
    target = jnp.where(signed, target, jnp.maximum(target, 0))
    norm = safe_norm(target)
    length = self.phi.prox(norm, hyper, step)
    factor = jnp.where(norm > 0, length / jnp.where(norm > 0, norm, 1), 0)
    return jnp.where(free, target, factor * target)

  def bounds(self, hessian: Hessian) -> Array:
    """The largest sum of a row of each block, or its trace, float[k]: no eigenvalue is larger."""
    blocks = hessian.blocks(self.members)
    rows = jnp.max(jnp.sum(jnp.abs(blocks), axis=2), axis=1)
    return jnp.minimum(rows, jnp.trace(blocks, axis1=1, axis2=2))

  def alive(self, quadratic: Quadratic) -> Array:
    bounds = quadratic.bounds
    return (bounds > 0) & (jnp.arange(bounds.shape[0]) < self.used_groups)

  def epoch(self, quadratic: Quadratic, point: Point) -> Point:
    hessian, alive = quadratic.hessian, self.alive(quadratic)
    steps = 1 / jnp.where(alive, quadratic.bounds, 1)

    def visit(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
      params, held = carry
      at = self.members[i]
      old = params.at[at].get(mode="fill", fill_value=0)
      target = old - steps[i] * hessian.read(held, point.gradient, at)
      hyper = jax.tree.map(lambda leaf: leaf[i], quadratic.hyper)
      new = self._one(target, self.free[i], self.signed[i], hyper, steps[i])
      new = jnp.where(alive[i], new, old)
      return params.at[at].set(new, mode="drop"), hessian.add(held, at, new - old)

    start = (point.params, hessian.hold(point.gradient))
    params, held = jax.lax.fori_loop(0, self.used_groups, visit, start)
    return Point(params, hessian.release(held, point.gradient))

  def local(self, quadratic: Quadratic, params: Array) -> Local:
    alive = moving(quadratic)
    size = params.shape[0]
    blocks = self._gather(params)
    norms = safe_norm(blocks, axis=1)
    curved = (norms > 0) & ~self.free
    moves = jnp.where(self.signed[:, None], (self.free | (norms > 0))[:, None], blocks > 0)
    on = self._scatter(moves, size) & alive
    phi = lambda r: self.phi.value(jnp.where(curved, r, 0), quadratic.hyper)
    first, second = jax.jvp(jax.grad(phi), (norms,), (jnp.ones_like(norms),))
    # phi'(r) / r across the direction of a group, phi''(r) along it.
    across = jnp.where(curved, first / jnp.where(curved, norms, 1), 0)
    second = jnp.where(curved, second, 0)
    unit = blocks / jnp.where(curved, norms, 1)[:, None]
    unit = jnp.where(curved[:, None], unit, 0)

    def bend(v: Array) -> Array:
      v = self._gather(v)
      along = jnp.sum(unit * v, axis=1)
      return self._scatter(across[:, None] * v + ((second - across) * along)[:, None] * unit, size)

    turning = self.spread(~self.signed, size)

    def landed(new: Array) -> Array:
      along = jnp.sum(self._gather(new) * blocks, axis=1)
      back = self.spread(curved & (along <= 0), size)
      return jnp.where((on & turning & (new <= 0)) | back, 0, new)

    def first_share(direction: Array) -> Array:
      step = self._gather(direction)
      along = jnp.sum(step * blocks, axis=1)
      falls = curved & (along < 0)
      whole = jnp.where(falls, -(norms**2) / jnp.where(falls, along, 1), jnp.inf)
      falls = on & turning & (direction < 0)
      single = jnp.where(falls, -params / jnp.where(falls, direction, 1), jnp.inf)
      return jnp.minimum(jnp.min(whole, initial=jnp.inf), jnp.min(single, initial=jnp.inf))

    diagonal = across[:, None] + (second - across)[:, None] * unit**2
    return Local(
      on, self._scatter(first[:, None] * unit, size), bend, self._scatter(diagonal, size), landed,
      first_share,
    )  # fmt: skip


def of(form: GroupForm) -> Groups:
  """A group penalty for coefficients in the order of its group numbers."""
  members = table(form)
  num = members.shape[0]
  free = jnp.arange(num) >= form.num_groups
  signed = jnp.full(num, not form.non_negative)
  return Groups(form.penalty, jnp.asarray(members), free, signed, jnp.asarray(num, jnp.int32))
