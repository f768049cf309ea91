"""Arrays with one row an example: read, averaged and written by the rows of a batch.

The rules for every state of this folder: rows that are masked out or out of range are left alone;
rows of one example that occur twice in a batch are averaged first, so that their order does not
matter and each of them gets the same new value; a row whose new value is NaN is not written, so
that one bad score spoils a step and not the state.
"""

import jax
import jax.numpy as jnp

from jaxopt_robust import numerics
from jaxopt_robust.typing import Array, ArrayLike


def read(stored: Array, row: Array) -> Array:
  """The batch's rows of a state; NaN where the row is out of range."""
  fill = jnp.nan if jnp.issubdtype(stored.dtype, jnp.inexact) else False
  return stored.at[row].get(mode="fill", fill_value=fill)


def write(stored: Array, row: Array, new: Array) -> Array:
  """The state with the batch's rows replaced; rows that hold a NaN are kept as they were."""
  target = _written(row, new, stored.shape[0])
  return stored.at[target].set(new.astype(stored.dtype), mode="drop")


def merge(row: Array, values: Array) -> Array:
  """Every row's mean over the rows of the same example."""
  group = _groups(row)
  total = jax.ops.segment_sum(values, group, row.shape[0])
  mean = total / shaped(_sizes(group), total)
  return mean[group]


def merge_log(row: Array, log_values: Array) -> Array:
  """Every row's log mean exp over the rows of the same example."""
  group = _groups(row)
  largest = jax.ops.segment_max(log_values, group, row.shape[0])
  largest = jnp.where(jnp.isneginf(largest), 0, largest)
  total = jax.ops.segment_sum(jnp.exp(log_values - largest[group]), group, row.shape[0])
  mean = jnp.log(total) - jnp.log(shaped(_sizes(group), total)) + largest
  return mean[group]


def average(
  stored: Array, seen: Array, row: Array, values: Array, rate: ArrayLike
) -> tuple[Array, Array, Array]:
  """Moving averages, u <- (1 - rate) u + rate g; the first value of an example is taken whole.

  Returns the new state, its new flags, and the batch's new averages.
  """
  values = merge(row, values.astype(stored.dtype))
  rate = jnp.asarray(rate, stored.dtype)
  old, touched = read(stored, row), shaped(read(seen, row), values)
  new = jnp.where(touched, old + rate * (values - old), values)
  return write(stored, row, new), mark(seen, row, new), new


def log_average(
  stored: Array, row: Array, log_values: Array, rate: ArrayLike
) -> tuple[Array, Array]:
  """Moving averages of exponentials, kept as logarithms; -inf marks an example not seen yet.

  log u <- log( (1 - rate) u + rate g ), and log g at the first visit. Returns the new state and the
  batch's new logarithms.
  """
  log_values = merge_log(row, log_values.astype(stored.dtype))
  new = numerics.log_average(read(stored, row), log_values, rate)
  return write(stored, row, new), new


def mark(seen: Array, row: Array, new: Array) -> Array:
  """The flags of examples with a value; a row that holds a NaN does not count as seen."""
  return seen.at[_written(row, new, seen.shape[0])].set(True, mode="drop")


def _written(row: Array, new: Array, size: int) -> Array:
  """The rows, out of range where the new value holds a NaN."""
  bad = jnp.any(jnp.isnan(new.reshape(*row.shape, -1)), axis=-1)
  return jnp.where(bad, size, row)


def _groups(row: Array) -> Array:
  """int[batch], equal for rows of the same example, in [0, batch)."""
  return jnp.searchsorted(jnp.sort(row), row)


def _sizes(group: Array) -> Array:
  ones = jnp.ones(group.shape, jnp.float32)
  return jnp.maximum(jax.ops.segment_sum(ones, group, group.shape[0]), 1)


def shaped(per_row: Array, like: Array) -> Array:
  """float[batch] or bool[batch], to broadcast against float[batch, ...]."""
  per_row = per_row.reshape(per_row.shape + (1,) * (like.ndim - per_row.ndim))
  return per_row if per_row.dtype == jnp.bool_ else per_row.astype(like.dtype)


def masked_log_mean_exp(x: Array, where: Array) -> Array:
  """log_mean_exp over the last axis, whose masked entries may hold anything; -inf where empty."""
  return numerics.log_mean_exp(jnp.where(where, x, 0), where=where)
