"""Proper scoring rules of probabilities: Brier score and negative log-likelihood."""

import jax
import jax.numpy as jnp

from jaxopt_robust import numerics
from jaxopt_robust.calibration import _events
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["brier_score", "negative_log_likelihood"]


def brier_score(probs: ArrayLike, labels: ArrayLike, *, where: ArrayLike | None = None) -> Array:
  r"""Brier score: mean squared distance of the probabilities from what happened.

  Computes (1/n) sum_i ||p_i - e_i||_2^2 with e_i the unit vector of the label, summed and not
  averaged over classes; for one event (1/n) sum_i (p_i - o_i)^2.

  Args:
    probs: float[n, classes] probabilities (not logits), or float[n] of one event.
    labels: int[n] in [0, classes); of one event bool or 0 and 1, whether it happened.
    where: bool[n]; rows where it is false are ignored, whatever they hold.

  Returns:
    float scalar in [0, 2], at least float32; 0 if no row is kept, NaN where a kept row is not
    finite.

  Raises:
    ValueError: shapes do not agree, known values are no probabilities, or a known label is out of
      range.
    TypeError: probs are not floating-point, labels are not integers, where is not boolean.

  Note:
    Two columns give twice the value of one event. ``sklearn.metrics.brier_score_loss`` halves the
    two-class score (``scale_by_half``).

  Example:
    >>> probs, labels = jnp.array([[0.8, 0.2], [0.5, 0.5]]), jnp.array([0, 0])
    >>> round(float(brier_score(probs, labels)), 3)
    0.29

  Reference:
    Brier, Verification of forecasts expressed in terms of probability, 1950.
  """
  return _brier(_events.check_probs(probs, labels, where))


@jax.jit
def _brier(given: _events.Probabilities) -> Array:
  given, poison = _events.clean(given)
  if given.probs.ndim == 1:
    square = (given.probs - given.labels.astype(given.probs.dtype)) ** 2
  else:
    square = jnp.sum((given.probs - _events.one_hot(given)) ** 2, axis=1)
  return numerics.masked_mean(square, given.keep) + poison


def negative_log_likelihood(
  probs: ArrayLike, labels: ArrayLike, *, where: ArrayLike | None = None
) -> Array:
  r"""Negative log-likelihood (NLL, log loss) of probabilities.

  Computes -(1/n) sum_i log p_i(y_i); for one event -(1/n) sum_i log of p_i or 1 - p_i.

  Args:
    probs: float[n, classes] probabilities (not logits), or float[n] of one event.
    labels: int[n] in [0, classes); of one event bool or 0 and 1, whether it happened.
    where: bool[n]; rows where it is false are ignored, whatever they hold.

  Returns:
    float scalar, at least float32; inf where a label has the probability 0, 0 if no row is kept,
    NaN where a kept row is not finite.

  Raises:
    ValueError: shapes do not agree, known values are no probabilities, or a known label is out of
      range.
    TypeError: probs are not floating-point, labels are not integers, where is not boolean.

  Note:
    Nothing is clipped, unlike in ``sklearn.metrics.log_loss``. From logits
    ``losses.cross_entropy_loss`` loses no digits.

  Example:
    >>> probs, labels = jnp.array([[0.8, 0.2], [0.5, 0.5]]), jnp.array([0, 0])
    >>> round(float(negative_log_likelihood(probs, labels)), 3)
    0.458

  Reference:
    Good, Rational decisions, 1952.
  """
  return _nll(_events.check_probs(probs, labels, where))


@jax.jit
def _nll(given: _events.Probabilities) -> Array:
  given, poison = _events.clean(given)
  if given.probs.ndim == 1:
    of_label = jnp.where(given.labels == 1, given.probs, 1 - given.probs)
  else:
    of_label = jnp.sum(jnp.where(_events.one_hot(given) == 1, given.probs, 0), axis=1)
  return numerics.masked_mean(-jnp.log(of_label), given.keep) + poison
