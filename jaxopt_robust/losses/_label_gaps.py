"""Normalised scores and their gaps to the label's score, for the label-distributional losses."""

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.losses import _classification as base
from jaxopt_robust.typing import Array, ArrayLike

_NORMALIZATIONS = ("softplus_mean", "l1", "softplus_l1", None)
_L1_FLOOR = 1e-6  # keeps near-zero scores from being divided by zero


def label_gaps(
  scores: ArrayLike,
  labels: ArrayLike,
  margin: ArrayLike,
  normalize: str | None,
  where: ArrayLike | None,
) -> tuple[base.Prepared, Array, Array]:
  """The checked arguments; f_k - f_y; and f_k - f_y + margin 1[k != y]; float[batch, classes]."""
  _arguments.check_option("normalize", normalize, _NORMALIZATIONS)
  prepared = base.prepare(scores, labels, where, name="scores")
  _checks.check_non_negative("margin", margin)
  prepared = prepared._replace(logits=_normalized(prepared.logits, normalize))
  plain = prepared.logits - base.label_score(prepared)[..., None]
  added = base.per_row("margin", margin, prepared)[..., None]
  return prepared, plain, jnp.where(prepared.is_label, plain, plain + added)


def _normalized(scores: Array, normalize: str | None) -> Array:
  if normalize is None:
    return scores
  if normalize == "l1":
    return scores / (jnp.mean(jnp.abs(scores), axis=-1, keepdims=True) + _L1_FLOOR)
  # softplus(f) / mean softplus(f) in the log domain: right even where every softplus underflows
  is_low = scores < -40.0  # there log softplus(f) = f to the last digit of float64
  log_softplus = jnp.where(is_low, scores, jnp.log(jax.nn.softplus(jnp.where(is_low, 0.0, scores))))
  relative = jnp.exp(log_softplus - jnp.max(log_softplus, axis=-1, keepdims=True))
  return relative / jnp.mean(relative, axis=-1, keepdims=True)
