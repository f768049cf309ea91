"""What losses of anchors share: one positive among the columns, negatives behind a mask."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.losses import _worst_case
from jaxopt_robust.typing import Array, ArrayLike


class Anchors(NamedTuple):
  """Checked arguments of a loss of anchors.

  Attributes:
    gap: float[..., columns], score minus the score of the positive, at least float32; 0 off the
      negatives, NaN in rows whose positive is out of range.
    negatives: bool[..., columns], candidates other than the positive; none in rows without a
      positive.
    is_anchor: bool[...], rows whose positive is a candidate; their value is 0 otherwise.
    is_bad: bool[...], rows whose positive is out of range; their value is NaN.
    dtype: dtype of the caller's scores.
  """

  gap: Array
  negatives: Array
  is_anchor: Array
  is_bad: Array
  dtype: jnp.dtype


def prepare(scores: ArrayLike, pos_index: ArrayLike, where: ArrayLike | None) -> Anchors:
  """Checks scores, positives and mask; puts harmless values where the mask is false."""
  array = _checks.check_float_array("scores", scores, min_rank=1)
  mask = _checks.check_mask("where", where, shape=array.shape)
  has_any = None if mask is None else jnp.any(mask, axis=-1)
  index = _checks.check_labels(
    "pos_index", pos_index, shape=array.shape[:-1], num_classes=array.shape[-1], where=has_any
  )
  if mask is None:
    mask = jnp.ones(array.shape, jnp.bool_)
  wide = numerics.upcast(array)
  is_positive = (
    jax.lax.broadcasted_iota(index.dtype, array.shape, array.ndim - 1) == (index[..., None])
  )
  is_anchor = jnp.any(is_positive & mask, axis=-1)
  is_bad = ((index < 0) | (index >= array.shape[-1])) & jnp.any(mask, axis=-1)
  negatives = mask & ~is_positive & is_anchor[..., None]
  positive = jnp.sum(jnp.where(is_positive & mask, wide, 0), axis=-1, keepdims=True)
  gap = jnp.where(negatives, wide - positive, 0)
  return Anchors(gap, negatives, is_anchor, is_bad, array.dtype)


def finish(value: Array, anchors: Anchors) -> Array:
  """Zero in rows that are no anchors, NaN in those out of range; back to the caller's dtype."""
  value = jnp.where(anchors.is_anchor, value, 0)
  return jnp.where(anchors.is_bad, jnp.nan, value).astype(anchors.dtype)


def per_anchor(name: str, value: ArrayLike, anchors: Anchors) -> Array:
  """A hyperparameter (scalar, or one number an anchor) as float[...]."""
  shape = anchors.gap.shape[:-1]
  array = jnp.asarray(value, anchors.gap.dtype)
  if array.ndim and array.shape != shape:
    raise ValueError(f"{name} must be a scalar or have shape {shape}; got {array.shape}.")
  return jnp.broadcast_to(array, shape)


def check_bounds(temperature_bounds: tuple[ArrayLike, ArrayLike]) -> tuple[ArrayLike, ArrayLike]:
  """The pair of bounds of a temperature; refused unless 0 < low <= high, where known."""
  low, high = _arguments.parts(temperature_bounds, "tau_min", "tau_max", name="temperature_bounds")
  _checks.check_positive("temperature_bounds", (low, high))
  _checks.check_holds(
    jnp.asarray(low) <= jnp.asarray(high),
    f"temperature_bounds must not decrease; got ({low}, {high}).",
  )
  return low, high


def worst_case_mean(anchors: Anchors, temperature: Array) -> Array:
  """tau log( (1/m) sum_j exp(h_j / tau) ) over the m negatives; 0 in rows without any."""
  return _worst_case.worst_case_mean(anchors.gap, temperature, where=never_empty(anchors))


def divergence(anchors: Anchors, temperature: Array) -> Array:
  """KL(p, 1/m) of p proportional to exp(h_j / tau) on the m negatives; 0 in rows without any."""
  where = never_empty(anchors)
  log_ratio = _worst_case.log_weights(anchors.gap, temperature, where=where)
  return _worst_case.divergence(log_ratio, where)


def never_empty(anchors: Anchors) -> Array:
  """The negatives; in rows without any all columns, whose gap is 0."""
  return anchors.negatives | ~jnp.any(anchors.negatives, axis=-1, keepdims=True)
