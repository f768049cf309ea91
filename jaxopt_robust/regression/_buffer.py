"""The columns that matter, gathered once: a growing list of features with their Gram matrix."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _designs
from jaxopt_robust.prox import elastic_net
from jaxopt_robust.regression._problem import Model, Problem
from jaxopt_robust.typing import Array

# Features that are added at once.
_BLOCK = 16
_SMALLEST = 64
# Most features at once, whatever the problem, and where solutions are sparse.
_LARGEST = 4096
_SPARSE = 512


class Buffer(NamedTuple):
  """Columns of the transformed design; the first one is the intercept's.

  Attributes:
    columns: float[c + block, n].
    gram: float[c + block, c + block], their weighted products; None where weights change.
    features: int32[c + block], whose columns they are.
    member: bool[p + 1], which features are here.
    used: int32, how many are.
  """

  columns: Array
  gram: Array | None
  features: Array
  member: Array
  used: Array


def capacity(model: Model, rows: int, features: int) -> int:
  """Room for the features that a solution can have, within reason.

  All of them, or as many as there are rows: more are never needed where the penalty is not strictly
  convex.
  """
  most = _LARGEST if model.penalty == elastic_net else max(_SPARSE, rows + 1)
  return min(features + 1, most, _LARGEST)


def sizes(buffer: Buffer) -> tuple[int, ...]:
  """Sizes up to the capacity, each four times the last: what is solved has one of them."""
  room = buffer.columns.shape[0] - _BLOCK
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


def empty(model: Model, problem: Problem, weights: Array | None) -> Buffer:
  """The intercept alone; with products where the weights of the rows are known."""
  rows, features = problem.x.shape
  room = capacity(model, rows, features) + _BLOCK
  dtype = problem.center.dtype
  intercept = jnp.full(rows, problem.column, dtype)
  columns = jnp.zeros((room, rows), dtype).at[0].set(intercept)
  gram = None
  if weights is not None:
    gram = jnp.zeros((room, room), dtype).at[0, 0].set(weights @ intercept**2)
  return Buffer(
    columns, gram, jnp.full(room, features, jnp.int32),
    jnp.zeros(features + 1, bool).at[features].set(True), jnp.ones((), jnp.int32),
  )  # fmt: skip


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
      weighted = (weights[None, :] * new).T
      sides = [
        lambda size=size: jnp.zeros((columns.shape[0], _BLOCK), columns.dtype)
        .at[:size + _BLOCK].set(columns[:size + _BLOCK] @ weighted)
        for size in sizes(buffer)
      ]  # fmt: skip
      cross = jax.lax.switch(which_size(buffer), sides)
      gram = jax.lax.dynamic_update_slice(gram, cross, (zero, at))
      gram = jax.lax.dynamic_update_slice(gram, cross.T, (at, zero))
    return Buffer(
      columns, gram, jax.lax.dynamic_update_slice(buffer.features, features, (at,)),
      buffer.member, at + jnp.minimum(_BLOCK, total - done),
    ), done + _BLOCK  # fmt: skip

  return jax.lax.while_loop(lambda c: c[1] < total, append, (buffer, jnp.zeros_like(total)))[0]
