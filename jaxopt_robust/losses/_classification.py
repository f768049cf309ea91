"""What the classification losses share: checks, masks, and numerically safe pieces."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks, numerics
from jaxopt_robust.typing import Array, ArrayLike

_SERIES_TERMS = 18  # 1 / 20! is below the rounding error of float64 on the interval [-1, 1]


class Prepared(NamedTuple):
  """Checked arguments of a loss.

  Attributes:
    logits: float[batch, classes], at least float32; 0 in rows that are masked out, NaN in rows
      whose label is out of range.
    is_label: bool[batch, classes], true at the label.
    where: bool[batch] or None.
    dtype: dtype of the caller's logits.
  """

  logits: Array
  is_label: Array
  where: Array | None
  dtype: jnp.dtype


def prepare(
  logits: ArrayLike, labels: ArrayLike, where: ArrayLike | None, *, name: str = "logits"
) -> Prepared:
  """Checks logits, labels and mask; puts harmless values where the mask is false."""
  scores = _checks.check_float_array(name, logits, min_rank=1)
  num_classes = scores.shape[-1]
  if num_classes < 2:
    raise ValueError(f"{name} must have at least two classes; got shape {scores.shape}.")
  mask = _checks.check_mask("where", where, shape=scores.shape[:-1])
  index = _checks.check_labels(
    "labels", labels, shape=scores.shape[:-1], num_classes=num_classes, where=mask
  )
  wide = numerics.upcast(scores)
  classes = jax.lax.broadcasted_iota(index.dtype, scores.shape, scores.ndim - 1)
  is_label = classes == index[..., None]
  is_good = (index >= 0) & (index < num_classes)
  wide = wide + jnp.where(is_good, 0, jnp.nan).astype(wide.dtype)[..., None]
  if mask is not None:  # the value and the gradient of these rows are exactly zero
    wide = jnp.where(mask[..., None], wide, 0)
  return Prepared(wide, is_label, mask, scores.dtype)


def finish(loss: Array, prepared: Prepared) -> Array:
  """Zero where the mask is false; back to the caller's dtype."""
  if prepared.where is not None:
    loss = jnp.where(prepared.where, loss, 0)
  return loss.astype(prepared.dtype)


def label_score(prepared: Prepared) -> Array:
  """Score of the label, float[batch]."""
  return jnp.sum(jnp.where(prepared.is_label, prepared.logits, 0), axis=-1)


def per_row(name: str, value: ArrayLike, prepared: Prepared) -> Array:
  """A hyperparameter (scalar, or one number a row) as float[batch]."""
  batch = prepared.logits.shape[:-1]
  array = jnp.asarray(value, prepared.logits.dtype)
  if array.ndim and array.shape != batch:
    raise ValueError(f"{name} must be a scalar or have shape {batch}; got {array.shape}.")
  return jnp.broadcast_to(array, batch)


def other_scores(prepared: Prepared) -> tuple[Array, Array]:
  """logsumexp of the scores of all classes but the label, and where all of these are -inf.

  The first is 0 there, so that its gradient is finite; the caller puts in what is right.
  """
  others = jnp.where(prepared.is_label, -jnp.inf, prepared.logits)
  is_sure = jnp.max(others, axis=-1) == -jnp.inf
  return jax.nn.logsumexp(jnp.where(is_sure[..., None], 0, others), axis=-1), is_sure


def negative_log_likelihood(prepared: Prepared) -> Array:
  """``-log softmax(logits)[label]``, float[batch], to full relative accuracy near zero.

  Written as softplus(logsumexp of the other scores - score of the label), which does not cancel
  when the label's probability is near one. Scores of -inf are classes that are excluded: where all
  but the label are, the loss and its gradient are 0; where all are, the loss is NaN.
  """
  (total, is_sure), score = other_scores(prepared), label_score(prepared)
  sure = jnp.where(score == -jnp.inf, jnp.nan, 0).astype(score.dtype)
  return jnp.where(is_sure, sure, jax.nn.softplus(total - score))


def expm1_over(x: Array) -> Array:
  """(exp(x) - 1) / x, which is 1 at 0; derivatives of all orders are right at 0."""
  is_small = jnp.abs(x) < 1
  wide = jnp.where(is_small, 1, x)
  return jnp.where(is_small, _series(jnp.where(is_small, x, 0), 1), jnp.expm1(wide) / wide)


def expm1_remainder_over(x: Array) -> Array:
  """(exp(x) - 1 - x) / x^2, which is 1/2 at 0; derivatives of all orders are right at 0."""
  is_small = jnp.abs(x) < 1
  wide = jnp.where(is_small, 1, x)
  far = (jnp.expm1(wide) - wide) / wide / wide
  return jnp.where(is_small, _series(jnp.where(is_small, x, 0), 2), far)


def _series(x: Array, order: int) -> Array:
  """sum_n x^n / (n + order)!, by Horner's rule."""
  coefficients = [1.0]
  for n in range(1, order):
    coefficients[0] /= n + 1
  for n in range(_SERIES_TERMS):
    coefficients.append(coefficients[-1] / (n + order + 1))
  total = jnp.full_like(x, coefficients[-1])
  for coefficient in reversed(coefficients[:-1]):
    total = total * x + coefficient
  return total


def _capped_exp_terms(x: Array) -> tuple[Array, Array]:
  """exp(x) - 1 and exp(x), continued linearly above a cap; both stay finite.

  The cap is 3/8 of the largest exponent of the dtype (33 in float32, 266 in float64), so that the
  square of the slope, as in a global norm, stays finite too.
  """
  cap = 0.375 * jnp.log(jnp.asarray(jnp.finfo(x.dtype).max, x.dtype))
  below = jnp.minimum(x, cap)
  slope = jnp.exp(below)
  return jnp.expm1(below) + slope * jnp.maximum(x - cap, 0), slope


@jax.custom_jvp
def power_loss(nll: Array, power: Array) -> Array:
  """(1 - p^power) / power with p = exp(-nll); -log p at power = 0, for any real power.

  The exponent -power * nll is capped as in ``_capped_exp_terms``, where the loss goes on linearly.
  """
  exponent = -power * nll
  value, _ = _capped_exp_terms(exponent)
  is_small = jnp.abs(exponent) < 1
  near = nll * expm1_over(jnp.where(is_small, exponent, 0))
  return jnp.where(is_small, near, -value / jnp.where(is_small, 1, power))


@power_loss.defjvp
def _power_loss_jvp(
  primals: tuple[Array, Array], tangents: tuple[Array, Array]
) -> tuple[Array, Array]:
  nll, power = primals
  nll_dot, power_dot = tangents
  exponent = -power * nll
  value, slope = _capped_exp_terms(exponent)
  is_small = jnp.abs(exponent) < 1
  small = jnp.where(is_small, exponent, 0)
  # d/dpower = -nll^2 (x exp(x) - expm1(x)) / x^2 at x = exponent
  near = -nll * nll * (expm1_over(small) - expm1_remainder_over(small))
  safe_power = jnp.where(is_small, 1, power)
  far = (value / safe_power + nll * slope) / safe_power
  return power_loss(nll, power), slope * nll_dot + jnp.where(is_small, near, far) * power_dot
