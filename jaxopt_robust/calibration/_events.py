"""Probabilities beside what happened: checks, and the mistakes that they name."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks, numerics
from jaxopt_robust.typing import Array, ArrayLike

_ROW_SUM_SLACK = 1e-2  # rows of half-precision probabilities do not sum to 1 any better


class Probabilities(NamedTuple):
  """Checked probabilities.

  Attributes:
    probs: float[n, classes] or float[n], at least float32; 0 in rows that are masked out, NaN in
      rows whose label is out of range.
    labels: int[n], within the range of the classes.
    keep: bool[n].
  """

  probs: Array
  labels: Array
  keep: Array


class Events(NamedTuple):
  """Probabilities of events and whether they happened.

  Attributes:
    confidence: float[n]; 0 where masked out.
    outcome: float[n], 0 or 1.
    keep: bool[n].
    poison: float scalar, 0, or NaN where a kept number is not finite: added to each result.
  """

  confidence: Array
  outcome: Array
  keep: Array
  poison: Array


def check_probs(
  probs: ArrayLike,
  labels: ArrayLike,
  where: ArrayLike | None,
  *,
  rank: int | tuple[int, ...] = (1, 2),
) -> Probabilities:
  """Checks probabilities, labels and mask; logits in their place are told how to become them."""
  scores = _checks.check_float_array("probs", probs, rank=rank)
  mask = _checks.check_mask("where", where, shape=scores.shape[:1])
  num_classes = 2 if scores.ndim == 1 else scores.shape[1]
  if num_classes < 2:
    raise ValueError(
      f"probs must have at least two classes, or rank 1 for one event; got shape {scores.shape}."
    )
  index = _checks.check_labels(
    "labels", labels, shape=scores.shape[:1], num_classes=num_classes, where=mask
  )
  keep = jnp.ones(scores.shape[:1], bool) if mask is None else mask
  rows = keep if scores.ndim == 1 else keep[:, None]
  wide = jnp.where(rows, numerics.upcast(scores), 0)
  check_range(wide, keep)
  is_good = (index >= 0) & (index < num_classes) | ~keep
  wide = wide + jnp.where(is_good if scores.ndim == 1 else is_good[:, None], 0.0, jnp.nan).astype(
    wide.dtype
  )
  return Probabilities(wide, jnp.clip(index, 0, num_classes - 1), keep)


def check_range(wide: Array, keep: Array | None = None) -> None:
  """Probabilities in [0, 1] whose rows sum to 1, where they are known."""
  if not _checks.is_concrete((wide, keep)):
    return
  slack = 8 * jnp.finfo(wide.dtype).eps
  _checks.check_holds(
    jnp.all((wide >= -slack) & (wide <= 1 + slack)),
    "probs must be probabilities in [0, 1]; got other numbers. Logits become probabilities by "
    "jax.nn.softmax(logits).",
  )
  if wide.ndim == 2:
    off = jnp.abs(jnp.sum(wide, axis=1) - 1)
    is_right = off <= _ROW_SUM_SLACK
    _checks.check_holds(
      is_right if keep is None else is_right | ~keep,
      "probs must have rows that sum to 1; got others. For events that do not exclude one another "
      "pass one column and labels of 0 and 1.",
    )


def top_label_events(given: Probabilities) -> Events:
  """The predicted class and whether it is right; an event stays what it is."""
  if given.probs.ndim == 1:
    return _events(given.probs, given.labels, given.keep)
  guess = jnp.argmax(given.probs, axis=1)
  return _events(jnp.max(given.probs, axis=1), guess == given.labels, given.keep)


def class_events(given: Probabilities) -> Events:
  """An event a class, with a leading axis of classes."""
  classes = jnp.arange(given.probs.shape[1])
  outcome = given.labels[None, :] == classes[:, None]
  return jax.vmap(_events, in_axes=(0, 0, None))(given.probs.T, outcome, given.keep)


def _events(confidence: Array, outcome: Array, keep: Array) -> Events:
  outcome = jnp.where(keep, outcome, 0).astype(confidence.dtype)
  is_bad = jnp.any(keep & ~jnp.isfinite(confidence))
  poison = jnp.where(is_bad, jnp.nan, 0.0).astype(confidence.dtype)
  confidence = jnp.where(jnp.isfinite(confidence), confidence, 0)
  return Events(confidence, outcome, keep, poison)


def one_hot(given: Probabilities) -> Array:
  """float[n, classes], 1 at the label."""
  return jax.nn.one_hot(given.labels, given.probs.shape[1], dtype=given.probs.dtype)


def clean(given: Probabilities) -> tuple[Probabilities, Array]:
  """The same with finite numbers alone, and 0 or NaN to be added to the result."""
  is_bad = jnp.any(~jnp.isfinite(given.probs))
  poison = jnp.where(is_bad, jnp.nan, 0.0).astype(given.probs.dtype)
  return given._replace(probs=jnp.where(jnp.isfinite(given.probs), given.probs, 0)), poison
