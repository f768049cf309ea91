"""Logits with labels, as the calibrators take them."""

from typing import NamedTuple

import jax.numpy as jnp

from jaxopt_robust import _checks, numerics
from jaxopt_robust.typing import Array, ArrayLike


class Labelled(NamedTuple):
  """Checked logits.

  Attributes:
    logits: float[n, classes], at least float32; 0 in rows that are masked out, NaN in rows whose
      label is out of range.
    labels: int[n] within the range of the classes.
    weight: float[n], 1 / (number of kept rows), or 0.
  """

  logits: Array
  labels: Array
  weight: Array


def check_logits(logits: ArrayLike) -> Array:
  """Scores of at least two classes, at least float32."""
  scores = _checks.check_float_array("logits", logits, min_rank=1)
  if scores.shape[-1] < 2:
    raise ValueError(f"logits must have at least two classes; got shape {scores.shape}.")
  return scores


def check_labelled(logits: ArrayLike, labels: ArrayLike, where: ArrayLike | None) -> Labelled:
  """Checks logits, labels and mask of a fit."""
  scores = check_logits(_checks.check_float_array("logits", logits, rank=2))
  num, num_classes = scores.shape
  mask = _checks.check_mask("where", where, shape=(num,))
  index = _checks.check_labels("labels", labels, shape=(num,), num_classes=num_classes, where=mask)
  keep = jnp.ones(num, bool) if mask is None else mask
  wide = jnp.where(keep[:, None], numerics.upcast(scores), 0)
  is_good = (index >= 0) & (index < num_classes) | ~keep
  wide = wide + jnp.where(is_good, 0.0, jnp.nan).astype(wide.dtype)[:, None]
  weight = keep.astype(wide.dtype) / jnp.maximum(jnp.sum(keep), 1).astype(wide.dtype)
  return Labelled(wide, jnp.clip(index, 0, num_classes - 1), weight)


def label_value(x: Array, labels: Array) -> Array:
  """Entry of the label in each row."""
  is_label = jnp.arange(x.shape[1])[None, :] == labels[:, None]
  return jnp.sum(jnp.where(is_label, x, 0), axis=1)


def check_classes(name: str, found: int, logits: Array) -> None:
  """A map that was fitted for as many classes."""
  if logits.shape[-1] != found:
    raise ValueError(f"logits must have the {found} classes of {name}; got shape {logits.shape}.")
