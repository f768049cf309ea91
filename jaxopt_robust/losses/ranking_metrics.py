"""Metrics of rankings: areas under ROC curves and parts of them, average precision, NDCG, MRR.

They are exact, ties included, have static shapes, and count in floats, so that neither masks nor
very many pairs are a problem. Not differentiable: their gradient is zero almost everywhere.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks, numerics
from jaxopt_robust.losses import _ranking as base
from jaxopt_robust.losses import ranking_lists as listwise
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "RocCurve",
  "auc",
  "average_precision",
  "mean_reciprocal_rank",
  "ndcg",
  "partial_auc",
  "roc_curve",
  "topn_negative_pool",
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


def mean_reciprocal_rank(
  scores: ArrayLike,
  relevance: ArrayLike,
  *,
  k: int | None = None,
  where: ArrayLike | None = None,
) -> Array:
  r"""Mean over the queries of the reciprocal rank of the first relevant item, 0 beyond rank k.

  Computes the mean of 1[r <= k] / r with r = #{j: s_j >= s_i} for the highest relevant item i, but
  counting other relevant items of the same score not at all: equal scores count against the query.

  Args:
    scores: float[..., items] scores of the items of each query.
    relevance: int, bool or float[..., items]; items above 0 are relevant.
    k: static integer >= 1, or None for all ranks.
    where: bool[..., items]; items where it is false are not in the list, whatever they hold.

  Returns:
    float scalar, float32 or wider; a query without a relevant item counts as 0. NaN if a score is
    NaN.

  Raises:
    ValueError: shapes do not agree or k < 1.
    TypeError: scores are not floating-point or k is not an integer.

  Example:
    >>> scores, relevance = jnp.array([[3.0, 2.0, 1.0]]), jnp.array([[0, 1, 1]])
    >>> float(mean_reciprocal_rank(scores, relevance, k=10))
    0.5

  Reference:
    Voorhees, The TREC-8 question answering track report, 1999.
  """
  array = _checks.check_float_array("scores", scores, min_rank=1)
  mask = _checks.check_mask("where", where, shape=array.shape)
  keep = jnp.ones(array.shape, bool) if mask is None else mask
  grades = jnp.asarray(relevance)
  _checks.check_same_shape("scores", array, "relevance", grades)
  wide = jnp.where(keep, numerics.upcast(array), 0)
  is_relevant = keep & (grades > 0)
  best = jnp.max(jnp.where(is_relevant, wide, -jnp.inf), axis=-1, keepdims=True)
  rank = 1 + jnp.sum(keep & ~is_relevant & (wide >= best), axis=-1).astype(wide.dtype)
  found = jnp.any(is_relevant, axis=-1)
  if k is not None:
    found &= rank <= _checks.check_int("k", k, minimum=1)
  mean = jnp.mean(jnp.where(found, 1 / rank, 0))
  return jnp.where(jnp.any(jnp.isnan(wide)), jnp.nan, mean)


def ndcg(
  scores: ArrayLike,
  relevance: ArrayLike,
  *,
  k: int | None = None,
  gain: str = "exponential",
  where: ArrayLike | None = None,
) -> Array:
  r"""Normalised discounted cumulative gain of each query.

  Computes (1/Z) sum_i g_i 1[r_i <= k] / log2(1 + r_i) with ranks r_i from 1 on and Z the largest
  possible sum. Items of equal scores share the mean discount of their ranks.

  Args:
    scores: float[..., items] scores of the items of each query.
    relevance: int or float[..., items], grades y >= 0.
    k: static integer >= 1, or None for all ranks.
    gain: "exponential", g = 2^y - 1, or "linear", g = y.
    where: bool[..., items]; items where it is false are not in the list, whatever they hold.

  Returns:
    float[...] one value a query, float32 or wider; 0 for queries without a relevant item, NaN if a
    score is NaN.

  Raises:
    ValueError: shapes do not agree, a known grade is negative, k < 1 or an unknown gain.
    TypeError: scores are not floating-point or k is not an integer.

  Example:
    >>> ndcg(jnp.array([[1.0, 2.0, 3.0]]), jnp.array([[1, 0, 0]]))
    Array([0.5], dtype=float32)

  Reference:
    Jarvelin and Kekalainen, Cumulated gain-based evaluation of IR techniques, 2002; ties: McSherry
    and Najork, Computing information retrieval performance measures efficiently in the presence of
    tied scores, 2008.
  """
  lists = listwise.prepare_lists(scores, relevance, where)
  _checks.check_option("gain", gain, ("exponential", "linear"))
  num_items = lists.scores.shape[-1]
  k = num_items if k is None else _checks.check_int("k", k, minimum=1)
  if gain == "linear":
    lists = lists._replace(gain=lists.relevance)
  rank = jnp.arange(1, num_items + 1, dtype=lists.scores.dtype)
  discount = jnp.where(rank <= k, 1 / listwise.log2_rank(rank), 0)
  up_to = jnp.concatenate([jnp.zeros((1,), discount.dtype), jnp.cumsum(discount)])

  def one(values: Array, gains: Array, keep: Array) -> Array:
    rising = jnp.sort(jnp.where(keep, -values, jnp.inf))
    first = jnp.searchsorted(rising, -values, side="left")
    last = jnp.searchsorted(rising, -values, side="right")
    shared = (up_to[last] - up_to[first]) / jnp.maximum(last - first, 1).astype(discount.dtype)
    total = jnp.sum(jnp.where(keep, gains * shared, 0))
    return jnp.where(jnp.any(jnp.isnan(values)), jnp.nan, total)

  flat = [v.reshape(-1, num_items) for v in (lists.scores, lists.gain, lists.where)]
  total = jax.vmap(one)(*flat).reshape(lists.scores.shape[:-1])
  return numerics.safe_divide(total, listwise.ideal_dcg(lists, k))


def topn_negative_pool(
  scores: ArrayLike, pos_mask: ArrayLike, n: int, *, where: ArrayLike | None = None
) -> tuple[Array, Array]:
  r"""Scores of the n highest negatives of each query, the hard pool of retrieval evaluations.

  Takes, in each row, the n largest s_j with pos_mask_j false.

  Args:
    scores: float[queries, passages].
    pos_mask: bool[queries, passages], true where the passage is relevant to the query.
    n: static integer >= 1; rows with fewer negatives are filled up.
    where: bool[queries, passages]; pairs where it is false are left out, whatever they hold.

  Returns:
    (float[queries, min(n, passages)] in falling order and in the dtype of ``scores``, bool of the
    same shape, false in places that hold no negative, whose score is -inf).

  Raises:
    ValueError: shapes do not agree or n < 1.
    TypeError: scores are not floating-point, a mask is not boolean or n is not an integer.

  Example:
    >>> scores, pos_mask = jnp.array([[0.9, 0.8, 0.1]]), jnp.array([[True, False, False]])
    >>> topn_negative_pool(scores, pos_mask, 1)
    (Array([[0.8]], dtype=float32), Array([[ True]], dtype=bool))

  Reference:
    Sheikholeslami, Hosseini, Bechard, Daruru and Rajeswar, Optimizing what matters: AUC-driven
    learning for robust neural retrieval, 2025, section on evaluation (500 passages a query).
  """
  array = _checks.check_float_array("scores", scores, rank=2)
  positives = _checks.check_mask("pos_mask", pos_mask, shape=array.shape)
  if positives is None:
    raise TypeError("pos_mask must be a boolean mask; got None.")
  mask = _checks.check_mask("where", where, shape=array.shape)
  size = min(_checks.check_int("n", n, minimum=1), array.shape[1])
  is_negative = ~positives if mask is None else ~positives & mask
  # Negatives come first even if their score is -inf itself.
  _, order = jax.lax.top_k(jnp.where(is_negative, array, -jnp.inf), size)
  found = jnp.arange(size)[None, :] < jnp.sum(is_negative, axis=1)[:, None]
  pool = jnp.where(found, jnp.take_along_axis(array, order, axis=1), -jnp.inf)
  return pool.astype(array.dtype), found


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
