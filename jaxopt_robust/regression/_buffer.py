"""The columns that matter, gathered once: a growing list of features with their Gram matrix."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _designs
from jaxopt_robust.regression._blocks import Blocks
from jaxopt_robust.regression._problem import Problem
from jaxopt_robust.solvers._hessians import Columns, Dense, Hessian
from jaxopt_robust.typing import Array

# Features that are added at once.
_BLOCK = 16
_SMALLEST = 64
# Most features at once, whatever the problem, and where solutions are sparse.
_LARGEST = 4096
_SPARSE = 512
# Products of more columns than so many times the rows are not kept.
_WORTH = 2


class Buffer(NamedTuple):
  """Columns of the transformed design; the first one is the intercept's.

  Attributes:
    columns: float[c + block, n].
    gram: float[g + block, g + block], the weighted products of the first ones; None where weights
      change.
    features: int32[c + block], whose columns they are.
    member: bool[p + 1], which features are here.
    used: int32, how many are.
  """

  columns: Array
  gram: Array | None
  features: Array
  member: Array
  used: Array


def capacity(blocks: Blocks, rows: int) -> int:
  """Room for the features that a solution can have, within reason.

  All of them, or as many blocks as there are rows: more are never needed where the penalty is not
  strictly convex.
  """
  features = blocks.num_features
  most = _LARGEST if blocks.strict else max(_SPARSE, blocks.largest * rows + 1)
  return min(features, most, _LARGEST)


def sizes(buffer: Buffer) -> tuple[int, ...]:
  """Sizes up to the capacity, each four times the last: what is solved has one of them."""
  return _sizes(buffer.columns.shape[0] - _BLOCK)


def _sizes(room: int) -> tuple[int, ...]:
  found = []
  size = _SMALLEST
  while size < room:
    found.append(size)
    size *= 4
  return (*found, room)


def which_size(buffer: Buffer) -> Array:
  """The index of the smallest size that holds all members."""
  smaller = jnp.asarray(sizes(buffer)[:-1], jnp.int32)
  return jnp.sum(smaller < buffer.used, dtype=jnp.int32)


def _products(found: tuple[int, ...], rows: int) -> tuple[int, ...]:
  """The sizes that are worth a matrix: of more columns, products with them are the cheaper ones."""
  return tuple(size for size in found if size <= max(_SMALLEST, _WORTH * rows))


def hessian(buffer: Buffer, size: int, weights: Array) -> Hessian:
  """That of the first columns, for weights of the rows (those of ``gram`` where there is one)."""
  columns = buffer.columns[:size]
  if size not in _products(sizes(buffer), weights.shape[0]):
    return Columns(columns, weights)
  if buffer.gram is not None:
    return Dense(buffer.gram[:size, :size])
  return Dense((columns * weights[None, :]) @ columns.T)


def _read(problem: Problem, features: Array) -> Array:
  """Columns of the transformed design, float[len(features), n]; the intercept's is the last."""
  num = problem.center.shape[0]
  inside = features < num
  at = jnp.minimum(features, num - 1)  # what is read for the others is not used
  if _designs.is_sparse(problem.x):
    raw = jax.vmap(_designs.column_reader(problem.x))(at)
  else:
    raw = problem.x[:, at].T
  found = problem.scale[at][:, None] * (raw - problem.center[at][:, None])
  return jnp.where(inside[:, None], found, jnp.where(features == num, problem.column, 0)[:, None])


def empty(blocks: Blocks, problem: Problem, weights: Array | None) -> Buffer:
  """The intercept alone; with products where the weights of the rows are known."""
  rows, features = problem.x.shape
  room = capacity(blocks, rows) + _BLOCK
  dtype = problem.center.dtype
  intercept = jnp.full(rows, problem.column, dtype)
  columns = jnp.zeros((room, rows), dtype).at[0].set(intercept)
  gram = None
  if weights is not None:
    most = max(_products(_sizes(room - _BLOCK), rows)) + _BLOCK
    gram = jnp.zeros((most, most), dtype).at[0, 0].set(weights @ intercept**2)
  return Buffer(
    columns, gram, jnp.full(room, features, jnp.int32),
    jnp.zeros(features + 1, bool).at[features].set(True), jnp.ones((), jnp.int32),
  )  # fmt: skip


def _extend(buffer: Buffer, gram: Array, columns: Array, weighted: Array) -> Array:
  """The products with a block of new columns; what is beyond their room is not read again before a
  buffer that begins anew has written it."""
  shape = (gram.shape[0], _BLOCK)

  def side(size: int) -> Array:
    part = columns[: size + _BLOCK] @ weighted
    return jnp.zeros(shape, columns.dtype).at[: size + _BLOCK].set(part)

  found = sizes(buffer)
  held = _products(found, columns.shape[1])
  sides: list[Callable[[], Array]] = [functools.partial(side, size) for size in held]
  sides += [lambda: jnp.zeros(shape, columns.dtype)] * (len(found) - len(held))
  cross = jax.lax.switch(which_size(buffer), sides)
  zero = jnp.zeros((), buffer.used.dtype)
  gram = jax.lax.dynamic_update_slice(gram, cross, (zero, buffer.used))
  return jax.lax.dynamic_update_slice(gram, cross.T, (buffer.used, zero))


def add(buffer: Buffer, problem: Problem, weights: Array | None, want: Array) -> Buffer:
  """The buffer with all features that are wanted; begun anew where they do not fit beside others.

  ``want`` holds no more than there is room for, the intercept among them.
  """
  room = buffer.columns.shape[0] - _BLOCK
  missing = want & ~buffer.member
  full = buffer.used + jnp.sum(missing, dtype=jnp.int32) > room
  alone = jnp.zeros_like(want).at[-1].set(True)
  member = jnp.where(full, alone, buffer.member)
  buffer = buffer._replace(member=member | want, used=jnp.where(full, 1, buffer.used))
  missing = want & ~member
  total = jnp.sum(missing, dtype=jnp.int32)
  order = jnp.where(missing, jnp.cumsum(missing.astype(jnp.int32)) - 1, room + _BLOCK)
  ids = jnp.arange(want.shape[0], dtype=jnp.int32)
  # Beyond the end: no feature.
  queue = jnp.full(room + _BLOCK, want.shape[0], jnp.int32).at[order].set(ids, mode="drop")

  def append(carry: tuple[Buffer, Array]) -> tuple[Buffer, Array]:
    buffer, done = carry
    features = jax.lax.dynamic_slice(queue, (done,), (_BLOCK,))
    new = _read(problem, features)
    at = buffer.used
    zero = jnp.zeros((), at.dtype)
    columns = jax.lax.dynamic_update_slice(buffer.columns, new, (at, zero))
    gram = buffer.gram
    if gram is not None and weights is not None:
      gram = _extend(buffer, gram, columns, (weights[None, :] * new).T)
    return Buffer(
      columns, gram, jax.lax.dynamic_update_slice(buffer.features, features, (at,)),
      buffer.member, at + jnp.minimum(_BLOCK, total - done),
    ), done + _BLOCK  # fmt: skip

  return jax.lax.while_loop(lambda c: c[1] < total, append, (buffer, jnp.zeros_like(total)))[0]
