"""What the worst-case expectations share: checks, masks, order statistics."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks, numerics
from jaxopt_robust.typing import Array, ArrayLike


class Prepared(NamedTuple):
  """Checked losses.

  Attributes:
    values: float[..., n], at least float32; 0 where the mask is false.
    where: bool[..., n] or None; all true in sets of which no entry is kept, so that the formulas
      need no special case (their results are put to zero at the end).
    kept: bool[..., n] or None, the caller's mask.
    dtype: dtype of the caller's losses.
  """

  values: Array
  where: Array | None
  kept: Array | None
  dtype: jnp.dtype


def prepare(losses: ArrayLike, where: ArrayLike | None) -> Prepared:
  """Checks losses and mask; puts harmless values where the mask is false."""
  array = _checks.check_float_array("losses", losses, min_rank=1)
  kept = _checks.check_mask("where", where, shape=array.shape)
  values = numerics.upcast(array)
  if kept is None:
    return Prepared(values, None, None, array.dtype)
  mask = kept | ~jnp.any(kept, axis=-1, keepdims=True)
  return Prepared(jnp.where(kept, values, 0), mask, kept, array.dtype)


def per_set(name: str, value: ArrayLike, prepared: Prepared) -> Array:
  """A hyperparameter (scalar, or one number a set of losses) as float[...]."""
  sets = prepared.values.shape[:-1]
  array = jnp.asarray(value, prepared.values.dtype)
  if array.ndim and array.shape != sets:
    raise ValueError(f"{name} must be a scalar or have shape {sets}; got {array.shape}.")
  return jnp.broadcast_to(array, sets)


def with_numbers(prepared: Prepared, *numbers: Array) -> Prepared:
  """The losses, NaN in sets one of whose hyper-parameters is: comparisons would hide it."""
  is_bad = functools.reduce(jnp.logical_or, [jnp.isnan(number) for number in numbers])
  return prepared._replace(values=jnp.where(is_bad[..., None], jnp.nan, prepared.values))


def finish(value: Array, prepared: Prepared) -> Array:
  """NaN where a loss is NaN, zero where no loss is kept; back to the caller's dtype."""
  value = value + _nan_marks(prepared)
  if prepared.kept is not None:
    value = jnp.where(jnp.any(prepared.kept, axis=-1), value, 0)
  return value.astype(prepared.dtype)


def finish_weights(weights: Array, prepared: Prepared) -> Array:
  """The same for weights, float[..., n]; zero where the mask is false."""
  weights = weights + _nan_marks(prepared)[..., None]
  if prepared.kept is not None:
    weights = jnp.where(prepared.kept, weights, 0)
  return weights.astype(prepared.dtype)


def _nan_marks(prepared: Prepared) -> Array:
  has_nan = jnp.any(jnp.isnan(prepared.values), axis=-1)
  return jnp.where(has_nan, jnp.nan, 0).astype(prepared.values.dtype)


def count(prepared: Prepared) -> Array:
  """The number n of kept losses, float[...]."""
  shape, dtype = prepared.values.shape, prepared.values.dtype
  if prepared.where is None:
    return jnp.full(shape[:-1], shape[-1], dtype)
  return jnp.sum(prepared.where, axis=-1).astype(dtype)


def largest(prepared: Prepared) -> Array:
  """The largest kept loss, float[...]."""
  return jnp.max(
    prepared.values,
    axis=-1,
    where=True if prepared.where is None else prepared.where,
    initial=-jnp.inf,
  )


def smallest(prepared: Prepared) -> Array:
  """The smallest kept loss, float[...]."""
  return -largest(prepared._replace(values=-prepared.values))


def mean(values: Array, prepared: Prepared) -> Array:
  """Mean over the kept entries, float[...]."""
  if prepared.where is None:
    return jnp.mean(values, axis=-1)
  return jnp.sum(values, axis=-1, where=prepared.where) / count(prepared)


def descending(prepared: Prepared) -> Array:
  """The losses from largest to smallest, entries that are masked out last, as -inf."""
  values = jax.lax.stop_gradient(prepared.values)
  if prepared.where is not None:
    values = jnp.where(prepared.where, values, -jnp.inf)
  return -jnp.sort(-values, axis=-1)
