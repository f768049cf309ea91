"""What the stateful losses of lists share: checks, positions of pairs, averages of ranks."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks, numerics
from jaxopt_robust.compositional import _examples, _ranked
from jaxopt_robust.losses.ranking import _common as base
from jaxopt_robust.losses.ranking import lists as lists_of
from jaxopt_robust.typing import Array, ArrayLike

_MAX_PAIRS = 2**31 - 1  # positions are int32


class Batch(NamedTuple):
  """Checked arguments: lists, relevant items, positions of pairs (flat) and of queries."""

  lists: lists_of.Lists
  is_anchor: Array
  row: Array
  query: Array


class Gain(NamedTuple):
  """What SONG and K-SONG share.

  Attributes:
    average: the new averages of the state.
    seen: the new flags of the state.
    length: float[queries], lengths N of the whole lists.
    inner: float[queries, items], mean surrogate of each relevant item against the batch.
    slope: float[queries, items], f' at the averages, without the factor 1/Z.
    discounted: float[queries, items], gain over discount at the averages.
  """

  average: Array
  seen: Array
  length: Array
  inner: Array
  slope: Array
  discounted: Array


def pair_shape(num_queries: int, num_items: int) -> tuple[int, int]:
  """Checked sizes of a state with one entry a pair."""
  queries = _checks.check_int("num_queries", num_queries, minimum=1)
  items = _checks.check_int("num_items", num_items, minimum=1)
  if queries * items > _MAX_PAIRS:
    raise ValueError(
      f"num_queries * num_items must be below 2^31, so that int32 can count the pairs; got "
      f"{queries} * {items}."
    )
  return queries, items


def prepare(
  scores: ArrayLike,
  relevance: ArrayLike,
  index: tuple[ArrayLike, ArrayLike],
  shape: tuple[int, ...],
  where: ArrayLike | None,
) -> Batch:
  """Checks scores, grades, index and mask; positions of what is not relevant are out of range."""
  _checks.check_float_array("scores", scores, rank=2)
  lists = lists_of.prepare_lists(scores, relevance, where)
  if not isinstance(index, tuple | list) or len(index) != 2:
    raise TypeError(f"index must be a pair (query, item); got {type(index).__name__}.")
  size = shape[0] * shape[1]
  has_any = jnp.any(lists.where, axis=1)
  query = _checks.check_index(
    "index of the query", index[0], shape=has_any.shape, num_examples=shape[0], where=has_any
  )
  item = _checks.check_index(
    "index of the item",
    index[1],
    shape=lists.where.shape,
    num_examples=shape[1],
    where=lists.where,
  )
  is_anchor = lists.where & (lists.gain > 0)
  is_lost = (query[:, None] == shape[0]) | (item == shape[1])
  row = jnp.where(is_lost | ~is_anchor, size, query[:, None] * shape[1] + item)
  lists = lists._replace(scores=jnp.where(is_anchor & is_lost, jnp.nan, lists.scores))
  return Batch(lists, is_anchor, row, jnp.where(jnp.any(is_anchor, axis=1), query, shape[0]))


def gain(
  batch: Batch,
  state: tuple[Array, Array],
  rate: ArrayLike,
  surrogate: _ranked.Surrogate,
  num_items: ArrayLike | None,
) -> Gain:
  """One visit of the averages of the relevant items, and what the losses need of it."""
  s, keep = batch.lists.scores, batch.lists.where
  pairs = batch.is_anchor[..., :, None] & keep[..., None, :]
  loss = base.pair_losses(surrogate, s, s, pairs)
  inner = jnp.sum(loss, axis=-1) / base.count(keep, s.dtype, axis=-1)[:, None]
  stored, flags = state
  shape, rows = stored.shape, batch.row.ravel()
  fixed = jax.lax.stop_gradient(inner).ravel()
  average, seen, new = _examples.average(stored.ravel(), flags.ravel(), rows, fixed, rate)
  u = jax.lax.stop_gradient(new).reshape(inner.shape).astype(s.dtype)
  length = lengths(num_items, shape[1], s)
  rank = jnp.where(batch.is_anchor, length[:, None] * u, 1)
  discount = lists_of.log2_rank(rank)
  discounted = batch.lists.gain / discount
  log_2 = jnp.log(jnp.asarray(2, s.dtype))
  slope = discounted * length[:, None] / (log_2 * (1 + rank) * discount)
  return Gain(average.reshape(shape), seen.reshape(shape), length, inner, slope, discounted)


def lengths(num_items: ArrayLike | None, default: int, scores: Array) -> Array:
  """Lengths of the whole lists, float[queries]."""
  if num_items is None:
    return jnp.full(scores.shape[:1], default, scores.dtype)
  _checks.check_positive("num_items", num_items)
  return _per_query("num_items", num_items, scores)


def _per_query(name: str, value: ArrayLike, scores: Array) -> Array:
  array = jnp.asarray(value, scores.dtype)
  if array.ndim and array.shape != scores.shape[:1]:
    raise ValueError(
      f"{name} must be a scalar or have shape {scores.shape[:1]}; got {array.shape}."
    )
  return jax.lax.stop_gradient(jnp.broadcast_to(array, scores.shape[:1]))


def scale(
  batch: Batch,
  num_relevant: ArrayLike | None,
  ideal_dcg: ArrayLike | None,
  k: ArrayLike | None,
) -> Array:
  """n_+ / Z of each query, 0 without a relevant item."""
  s = batch.lists.scores
  if num_relevant is None:
    relevant = jnp.sum(batch.is_anchor, axis=1).astype(s.dtype)
  else:
    _checks.check_non_negative("num_relevant", num_relevant)
    relevant = _per_query("num_relevant", num_relevant, s)
  if ideal_dcg is not None:
    _checks.check_non_negative("ideal_dcg", ideal_dcg)
    ideal = _per_query("ideal_dcg", ideal_dcg, s)
  else:
    best = -jnp.sort(-batch.lists.gain, axis=1)
    rank = jnp.arange(1, s.shape[1] + 1, dtype=s.dtype)
    counts = jnp.ones_like(rank) if k is None else (rank <= jnp.asarray(k, s.dtype))
    ideal = jnp.sum(best * (counts / lists_of.log2_rank(rank))[None, :], axis=1)
  return numerics.safe_divide(relevant, ideal)


def mean_items(values: Array, where: Array) -> Array:
  """Mean over the items of each list."""
  return jnp.sum(jnp.where(where, values, 0), axis=1) / base.count(where, values.dtype, axis=1)


def mean_relevant(batch: Batch, values: Array) -> Array:
  """Mean over the relevant items of each list."""
  return mean_items(values, batch.is_anchor)


def result(batch: Batch, each: Array, state: Any, objective: Array) -> tuple[Array, Any]:
  """Means over the queries with a relevant item, and what must not carry a gradient."""
  has_any = jnp.any(batch.is_anchor, axis=1)
  info = _ranked.XRiskInfo(_ranked.mean_over(has_any, objective), jnp.sum(has_any, dtype=jnp.int32))
  return _ranked.mean_over(has_any, each), jax.lax.stop_gradient((state, info))
