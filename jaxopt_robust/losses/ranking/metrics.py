"""Metrics of binary rankings: areas under ROC curves and parts of them, average precision.

They are exact, ties included, have static shapes, and count in floats, so that neither masks nor
very many pairs are a problem. Not differentiable: their gradient is zero almost everywhere.
"""

from typing import NamedTuple

import jax.numpy as jnp

from jaxopt_robust import _checks, numerics
from jaxopt_robust.losses.ranking import _common as base
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "RocCurve",
  "auc",
  "average_precision",
  "partial_auc",
  "roc_curve",
  "two_sample_auc",
]


class RocCurve(NamedTuple):
  """Points of a ROC curve, in the order of falling thresholds.

  Attributes:
    fpr: float[n + 1], shares of the negatives at or above the threshold.
    tpr: float[n + 1], shares of the positives at or above the threshold.
    thresholds: float[n + 1], infinity and then the scores; -infinity for rows masked out.
  """

  fpr: Array
  tpr: Array
  thresholds: Array


def auc(scores: ArrayLike, labels: ArrayLike, *, where: ArrayLike | None = None) -> Array:
  r"""Area under the ROC curve: the probability that a positive scores above a negative.

  Computes (1/(n_+ n_-)) sum over positives i and negatives j of 1[s_i > s_j] + 1[s_i = s_j] / 2, by
  ranks in O(n log n).

  Args:
    scores: float[n].
    labels: int[n], 1 for positives, 0 for negatives.
    where: bool[n]; rows where it is false are left out, whatever they hold.

  Returns:
    float scalar, float32 or wider; NaN without positives or negatives, or if a score is NaN.

  Raises:
    ValueError: shapes do not agree, or a known label is not 0 or 1.
    TypeError: scores are not floating-point or labels are not integers.

  Example:
    >>> float(auc(jnp.array([0.9, 0.4, 0.4, 0.1]), jnp.array([1, 1, 0, 0])))
    0.875

  Reference:
    Hanley and McNeil, The meaning and use of the area under a receiver operating characteristic
    (ROC) curve, 1982.
  """
  ranked = base.prepare(scores, labels, where)
  return _area(ranked.scores, ranked.is_positive, ranked.scores, ranked.is_negative)


def two_sample_auc(
  positive_scores: ArrayLike,
  negative_scores: ArrayLike,
  *,
  positive_where: ArrayLike | None = None,
  negative_where: ArrayLike | None = None,
) -> Array:
  r"""Probability that a score of one pool is above a score of another: the Mann-Whitney statistic.

  Computes the mean over all pairs of 1[s > t] + 1[s = t] / 2, with s from the first and t from the
  second pool. One minus it is the area over the curve.

  Args:
    positive_scores: float[...] of any shape, such as one score a query.
    negative_scores: float[...] of any shape, such as float[queries, passages].
    positive_where: bool, of the shape of ``positive_scores``; others are left out.
    negative_where: bool, of the shape of ``negative_scores``; others are left out.

  Returns:
    float scalar, float32 or wider; NaN if a pool is empty or holds a NaN.

  Raises:
    ValueError: a pool has no entries or a mask has another shape.
    TypeError: scores are not floating-point or a mask is not boolean.

  Example:
    >>> float(two_sample_auc(jnp.array([0.9, 0.4]), jnp.array([[0.4], [0.1]])))
    0.875

  Reference:
    Mann and Whitney, On a test of whether one of two random variables is stochastically larger than
    the other, 1947.
  """
  pools = []
  for name, scores, where in (
    ("positive", positive_scores, positive_where),
    ("negative", negative_scores, negative_where),
  ):
    array = _checks.check_float_array(f"{name}_scores", scores)
    mask = _checks.check_mask(f"{name}_where", where, shape=array.shape)
    keep = jnp.ones(array.shape, bool) if mask is None else mask
    pools.append((numerics.upcast(array).ravel(), keep.ravel()))
  (positive, is_positive), (negative, is_negative) = pools
  return _area(positive, is_positive, negative, is_negative)


def roc_curve(scores: ArrayLike, labels: ArrayLike, *, where: ArrayLike | None = None) -> RocCurve:
  r"""Receiver operating characteristic: shares of negatives and positives above each threshold.

  Computes, for each score t in falling order, (1/n_-) sum_j 1[s_j >= t] over the negatives and
  (1/n_+) sum_i 1[s_i >= t] over the positives, after a first point (0, 0).

  Args:
    scores: float[n].
    labels: int[n], 1 for positives, 0 for negatives.
    where: bool[n]; rows where it is false are left out, whatever they hold.

  Returns:
    RocCurve of float[n + 1] arrays. Equal scores give equal points; rows that are left out repeat
    the last point (1, 1). NaN without positives or negatives, or if a score is NaN.

  Raises:
    ValueError: shapes do not agree, or a known label is not 0 or 1.
    TypeError: scores are not floating-point or labels are not integers.

  Example:
    >>> roc_curve(jnp.array([0.9, 0.4, 0.1]), jnp.array([1, 0, 1])).tpr
    Array([0. , 0.5, 0.5, 1. ], dtype=float32)

  Reference:
    Fawcett, An introduction to ROC analysis, 2006.
  """
  ranked = base.prepare(scores, labels, where)
  keep = ranked.is_positive | ranked.is_negative
  falling = -jnp.sort(-jnp.where(keep, ranked.scores, -jnp.inf))
  rates = []
  for mask in (ranked.is_negative, ranked.is_positive):
    below, _ = _below(ranked.scores, mask, falling)
    rates.append(_rate(_total(mask, falling.dtype) - below, mask, ranked.scores))
  fpr, tpr = (jnp.concatenate([0 * rate[:1], rate]) for rate in rates)
  top = jnp.full((1,), jnp.inf, falling.dtype)
  return RocCurve(fpr, tpr, jnp.concatenate([top, falling]))


def partial_auc(
  scores: ArrayLike,
  labels: ArrayLike,
  *,
  max_fpr: ArrayLike = 1.0,
  min_tpr: ArrayLike = 0.0,
  where: ArrayLike | None = None,
) -> Array:
  r"""Area of the part of the ROC curve at low false and high true positive rates, as a share.

  Computes (1/(beta (1 - alpha))) times the integral over f in [0, beta] of max(TPR(f) - alpha, 0)
  with beta = max_fpr and alpha = min_tpr; straight lines join the points of the curve. If
  beta n_- and (1 - alpha) n_+ are whole numbers and no scores are equal, it is the area under the
  curve of the beta n_- highest negatives and the (1 - alpha) n_+ lowest positives alone.

  Args:
    scores: float[n].
    labels: int[n], 1 for positives, 0 for negatives.
    max_fpr: in (0, 1]; may be traced.
    min_tpr: in [0, 1); may be traced. 0 gives the one-way partial area.
    where: bool[n]; rows where it is false are left out, whatever they hold.

  Returns:
    float scalar in [0, 1], float32 or wider; NaN without positives or negatives, or if a score is
    NaN.

  Raises:
    ValueError: shapes do not agree, a known label is not 0 or 1, max_fpr not in (0, 1] or min_tpr
      not in [0, 1).
    TypeError: scores are not floating-point or labels are not integers.

  Note:
    A random ranking has the value beta / 2 if alpha = 0. The standardised value of scikit-learn's
    ``roc_auc_score(max_fpr=beta)`` is (1 + (a - beta / 2) / (1 - beta / 2)) / 2 for a value a.

  Example:
    >>> float(partial_auc(jnp.array([0.9, 0.4, 0.5, 0.1]), jnp.array([1, 1, 0, 0]), max_fpr=0.5))
    0.5

  Reference:
    Dodd and Pepe, Partial AUC estimation and regression, 2003; the two-way area: Yang, Lu, Lyu and
    Hu, Two-way partial AUC and its properties, 2019.
  """
  _checks.check_interval("max_fpr", max_fpr, 0.0, 1.0, closed="right")
  _checks.check_interval("min_tpr", min_tpr, 0.0, 1.0, closed="left")
  curve = roc_curve(scores, labels, where=where)
  beta = _checks.check_array("max_fpr", max_fpr, rank=0).astype(curve.fpr.dtype)
  alpha = _checks.check_array("min_tpr", min_tpr, rank=0).astype(curve.fpr.dtype)
  left, right = curve.fpr[:-1], curve.fpr[1:]
  low, high = curve.tpr[:-1] - alpha, curve.tpr[1:] - alpha
  share = numerics.safe_divide(jnp.minimum(right, beta) - left, right - left)
  high = low + jnp.clip(share, min=0) * (high - low)  # of the segment cut off at beta
  width = jnp.clip(jnp.minimum(right, beta) - left, min=0)
  # The positive part of a line from low to high: a trapezium, or a triangle where it crosses 0.
  triangle = numerics.safe_divide(high * high, 2 * (high - low))
  mean = jnp.where(low >= 0, (low + high) / 2, jnp.where(high > 0, triangle, 0))
  is_bad = jnp.isnan(curve.fpr[0] + curve.tpr[0])
  return jnp.where(is_bad, jnp.nan, jnp.sum(mean * width) / (beta * (1 - alpha)))


def average_precision(
  scores: ArrayLike, labels: ArrayLike, *, where: ArrayLike | None = None
) -> Array:
  r"""Average precision: the mean, over the positives, of the precision at their score.

  Computes (1/n_+) sum over positives i of #{j positive: s_j >= s_i} / #{j: s_j >= s_i}.

  Args:
    scores: float[n].
    labels: int[n], 1 for positives, 0 for negatives.
    where: bool[n]; rows where it is false are left out, whatever they hold.

  Returns:
    float scalar, float32 or wider; NaN without positives, or if a score is NaN.

  Raises:
    ValueError: shapes do not agree, or a known label is not 0 or 1.
    TypeError: scores are not floating-point or labels are not integers.

  Example:
    >>> round(float(average_precision(jnp.array([0.9, 0.4, 0.5]), jnp.array([1, 1, 0]))), 4)
    0.8333

  Reference:
    Davis and Goadrich, The relationship between precision-recall and ROC curves, 2006.
  """
  ranked = base.prepare(scores, labels, where)
  above = [
    _total(mask, ranked.scores.dtype) - _below(ranked.scores, mask, ranked.scores)[0]
    for mask in (ranked.is_positive, ranked.is_negative)
  ]
  precision = numerics.safe_divide(above[0], above[0] + above[1])
  total = jnp.sum(jnp.where(ranked.is_positive, precision, 0))
  is_bad = jnp.any(jnp.isnan(ranked.scores)) | ~jnp.any(ranked.is_positive)
  return jnp.where(is_bad, jnp.nan, total / base.count(ranked.is_positive, total.dtype))


def _area(positive: Array, is_positive: Array, negative: Array, is_negative: Array) -> Array:
  below, up_to = _below(negative, is_negative, positive)
  wins = jnp.where(is_positive, (below + up_to) / 2, 0)
  mean = jnp.sum(wins / base.count(is_negative, wins.dtype)) / base.count(is_positive, wins.dtype)
  is_bad = ~(jnp.any(is_positive) & jnp.any(is_negative))
  for scores, keep in ((positive, is_positive), (negative, is_negative)):
    is_bad |= jnp.any(keep & jnp.isnan(scores))
  return jnp.where(is_bad, jnp.nan, mean)


def _below(pool: Array, keep: Array, values: Array) -> tuple[Array, Array]:
  """How many entries of a pool are below each value, and how many are at most it; as floats."""
  rising = jnp.sort(jnp.where(keep, pool, jnp.inf))
  size = _total(keep, values.dtype)
  below = jnp.searchsorted(rising, values, side="left").astype(values.dtype)
  up_to = jnp.searchsorted(rising, values, side="right").astype(values.dtype)
  return jnp.minimum(below, size), jnp.minimum(up_to, size)


def _total(keep: Array, dtype: jnp.dtype) -> Array:
  return jnp.sum(keep).astype(dtype)


def _rate(counts: Array, keep: Array, scores: Array) -> Array:
  is_bad = ~jnp.any(keep) | jnp.any(jnp.isnan(scores))
  return jnp.where(is_bad, jnp.nan, counts / base.count(keep, counts.dtype))
