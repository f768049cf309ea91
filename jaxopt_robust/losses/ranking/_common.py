"""What the losses of positives against negatives share: checks, masks, surrogates of gaps."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.typing import Array, ArrayLike

Surrogate = Callable[[Array], Array]


class Ranked(NamedTuple):
  """Checked arguments of a ranking loss of one batch.

  Attributes:
    scores: float[n], at least float32; 0 in rows that are masked out.
    is_positive: bool[n], false in rows that are masked out.
    is_negative: bool[n], likewise. A row whose label is out of range is a negative with score NaN.
    dtype: dtype of the caller's scores.
  """

  scores: Array
  is_positive: Array
  is_negative: Array
  dtype: jnp.dtype


def prepare(scores: ArrayLike, labels: ArrayLike, where: ArrayLike | None) -> Ranked:
  """Checks scores, labels 0 or 1, and mask; puts harmless values where the mask is false."""
  array = _checks.check_float_array("scores", scores, rank=1)
  mask = _checks.check_mask("where", where, shape=array.shape)
  label = _checks.check_labels("labels", labels, shape=array.shape, num_classes=2, where=mask)
  keep = jnp.ones(array.shape, bool) if mask is None else mask
  wide = numerics.upcast(array)
  wide = jnp.where((label == 0) | (label == 1), wide, jnp.nan)
  return Ranked(jnp.where(keep, wide, 0), keep & (label == 1), keep & (label != 1), array.dtype)


def pair_losses(surrogate: Surrogate, anchors: Array, others: Array, pairs: Array) -> Array:
  """l(anchor_i - other_j) where a pair counts, else 0 with gradient 0, float[..., n, m]."""
  gap = jnp.where(pairs, anchors[..., :, None] - others[..., None, :], 0)
  return jnp.where(pairs, evaluate(surrogate, gap), 0)


def evaluate(surrogate: Surrogate, gap: Array) -> Array:
  """The surrogate of an array of gaps, checked to be elementwise in shape."""
  _arguments.check_callable("surrogate", surrogate)
  loss = jnp.asarray(surrogate(gap))
  if loss.shape != gap.shape:
    raise ValueError(
      f"surrogate must return an array of the shape it is given, {gap.shape}; got {loss.shape}."
    )
  return loss.astype(gap.dtype)


def against_negatives(surrogate: Surrogate, ranked: Ranked) -> tuple[Array, Array]:
  """l(s_i - s_j) of positives i and negatives j, and which pairs these are, both [n, n]."""
  pairs = ranked.is_positive[:, None] & ranked.is_negative[None, :]
  return pair_losses(surrogate, ranked.scores, ranked.scores, pairs), pairs


def count(mask: Array, dtype: jnp.dtype, axis: int | None = None) -> Array:
  """Number of true entries as a float, at least 1, to divide by."""
  return jnp.maximum(jnp.sum(mask, axis=axis), 1).astype(dtype)


def finish(loss: Array, ranked: Ranked) -> Array:
  """The losses of the positives, 0 elsewhere, in the caller's dtype."""
  return jnp.where(ranked.is_positive, loss, 0).astype(ranked.dtype)
