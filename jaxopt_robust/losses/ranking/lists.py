"""Losses of ranked lists: average precision, NDCG, NDCG at k, and the listwise cross entropy."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks, numerics
from jaxopt_robust.losses.ranking import _common as base
from jaxopt_robust.losses.ranking.surrogates import squared_hinge_surrogate
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "average_precision_loss",
  "listwise_cross_entropy_loss",
  "ndcg_at_k_loss",
  "ndcg_loss",
]


def average_precision_loss(
  scores: ArrayLike,
  labels: ArrayLike,
  *,
  surrogate: base.Surrogate = squared_hinge_surrogate,
  where: ArrayLike | None = None,
) -> Array:
  r"""One minus the surrogate precision at each positive.

  Computes 1 - sum_{j positive} l(s_i - s_j) / sum_j l(s_i - s_j) for each positive i, where j runs
  over all rows, i among them. With the indicator 1[s_j >= s_i] for l, the mean over the positives
  is exactly one minus the average precision.

  Args:
    scores: float[n] scores s.
    labels: int[n], 1 for positives, 0 for negatives.
    surrogate: non-increasing elementwise function l of an array of gaps s_i - s_j, positive at 0.
    where: bool[n]; rows where it is false are neither positives nor negatives, whatever they hold.

  Returns:
    float[n] in [0, 1], one value a positive, 0 for all other rows, in the dtype of ``scores``; 0 if
    there is no negative. Under ``jit`` a label out of range makes the values NaN.

  Raises:
    ValueError: shapes do not agree, or a known label is not 0 or 1.
    TypeError: scores are not floating-point, labels are not integers, surrogate is not callable.

  Note:
    On random batches a ratio of means is biased: ``compositional.soap_loss`` keeps moving averages
    of both instead.

  Example:
    >>> scores, labels = jnp.array([1.0, 1.0, -5.0]), jnp.array([1, 0, 0])
    >>> average_precision_loss(scores, labels)
    Array([0.5, 0. , 0. ], dtype=float32)

  Reference:
    Qi, Luo, Xu, Ji and Yang, Stochastic optimization of areas under precision-recall curves with
    provable convergence, 2021.
  """
  ranked = base.prepare(scores, labels, where)
  everything = ranked.is_positive | ranked.is_negative
  pairs = ranked.is_positive[:, None] & everything[None, :]
  loss = base.pair_losses(surrogate, ranked.scores, ranked.scores, pairs)
  negative = jnp.sum(jnp.where(ranked.is_negative[None, :], loss, 0), axis=1)
  # one minus a ratio, as a ratio: no digits are lost near the optimum
  return base.finish(numerics.safe_divide(negative, jnp.sum(loss, axis=1)), ranked)


def ndcg_loss(
  scores: ArrayLike,
  relevance: ArrayLike,
  *,
  surrogate: base.Surrogate = squared_hinge_surrogate,
  where: ArrayLike | None = None,
) -> Array:
  r"""One minus the surrogate NDCG of each query.

  Computes 1 - (1/Z) sum_i (2^{y_i} - 1) / log2(1 + r_i) with r_i = sum_j l(s_i - s_j), where j runs
  over all items, i among them, and Z is the largest possible value of the sum with true ranks. With
  the indicator 1[s_j >= s_i] for l, r_i is the rank of item i and the loss is one minus the NDCG.

  Args:
    scores: float[..., items] scores s of the items of each query.
    relevance: int or float[..., items], grades y >= 0.
    surrogate: non-increasing elementwise function l of an array of gaps s_i - s_j, positive at 0.
    where: bool[..., items]; items where it is false are not in the list, whatever they hold.

  Returns:
    float[...] one value a query, in the dtype of ``scores``; 0 for queries without a relevant item.

  Raises:
    ValueError: shapes do not agree or a known grade is negative.
    TypeError: scores are not floating-point or surrogate is not callable.

  Note:
    If l is at least the indicator the loss is at least one minus the NDCG. On a random part of a
    long list it is biased: ``compositional.song_loss`` keeps a moving average of r_i instead. Takes
    O(items^2) memory a query.

  Example:
    >>> scores, relevance = jnp.array([2.0, 0.0, -2.0]), jnp.array([1, 0, 0])
    >>> float(ndcg_loss(scores, relevance))
    0.0

  Reference:
    Qiu, Hu, Zhong, Zhang and Yang, Large-scale stochastic optimization of NDCG surrogates for deep
    learning with provable convergence, 2022.
  """
  lists = prepare_lists(scores, relevance, where)
  discounted = lists.gain / log2_rank(_ranks(surrogate, lists))
  return _finish(discounted, ideal_dcg(lists), lists)


def ndcg_at_k_loss(
  scores: ArrayLike,
  relevance: ArrayLike,
  *,
  k: int,
  selection_scale: ArrayLike = 2.0,
  surrogate: base.Surrogate = squared_hinge_surrogate,
  where: ArrayLike | None = None,
) -> Array:
  r"""One minus the surrogate NDCG at k of each query, with a soft choice of the first k items.

  Computes 1 - (1/Z_k) sum_i sigmoid(c (s_i - lam)) (2^{y_i} - 1) / log2(1 + r_i) with
  r_i = sum_j l(s_i - s_j), j over all items, Z_k the largest possible sum with true ranks up to k,
  c = selection_scale, and lam halfway between the k-th and the next largest score.

  Args:
    scores: float[..., items] scores s of the items of each query.
    relevance: int or float[..., items], grades y >= 0.
    k: static integer >= 1; with at least as many as there are items all are chosen.
    selection_scale: > 0, the paper's alpha; may be traced.
    surrogate: non-increasing elementwise function l of an array of gaps s_i - s_j, positive at 0.
    where: bool[..., items]; items where it is false are not in the list, whatever they hold.

  Returns:
    float[...] one value a query, in the dtype of ``scores``; 0 for queries without a relevant item.

  Raises:
    ValueError: shapes do not agree, a known grade is negative, k < 1 or selection_scale <= 0.
    TypeError: scores are not floating-point, k is not an integer or surrogate is not callable.

  Note:
    The gradient goes through lam too, to the two scores that it lies between.

  Example:
    >>> scores, relevance = jnp.array([2.0, 0.0, -2.0]), jnp.array([1, 0, 1])
    >>> round(float(ndcg_at_k_loss(scores, relevance, k=1)), 4)
    0.1187

  Reference:
    Qiu, Hu, Zhong, Zhang and Yang, Large-scale stochastic optimization of NDCG surrogates for deep
    learning with provable convergence, 2022, whose threshold solves a smoothed problem; here it is
    the limit of that problem without smoothing.
  """
  lists = prepare_lists(scores, relevance, where)
  k = _checks.check_int("k", k, minimum=1)
  _checks.check_positive("selection_scale", selection_scale)
  num_items = lists.scores.shape[-1]
  scale = _checks.check_array("selection_scale", selection_scale, rank=0).astype(lists.scores.dtype)
  chosen = jnp.ones_like(lists.scores)
  if k < num_items:
    lowest = jnp.where(lists.where, lists.scores, -jnp.inf)
    top, _ = jax.lax.top_k(lowest, k + 1)
    has_more = ~jnp.isneginf(top[..., -1:])  # more than k items are in the list
    top = jnp.where(has_more, top, 0)
    threshold = (top[..., -2:-1] + top[..., -1:]) / 2
    chosen = jnp.where(has_more, jax.nn.sigmoid(scale * (lists.scores - threshold)), 1)
  discounted = chosen * lists.gain / log2_rank(_ranks(surrogate, lists))
  return _finish(discounted, ideal_dcg(lists, k), lists)


def listwise_cross_entropy_loss(
  scores: ArrayLike, relevance: ArrayLike, *, where: ArrayLike | None = None
) -> Array:
  r"""Cross entropy of each query's list: -sum_i y_i log softmax(s)_i / sum_i y_i.

  Computes sum_i y_i log( sum_j exp(s_j - s_i) ) / sum_i y_i, where j runs over all items.

  Args:
    scores: float[..., items] scores s of the items of each query.
    relevance: int or float[..., items], grades y >= 0.
    where: bool[..., items]; items where it is false are not in the list, whatever they hold.

  Returns:
    float[...] one value a query, in the dtype of ``scores``; 0 for queries without a relevant item.

  Raises:
    ValueError: shapes do not agree or a known grade is negative.
    TypeError: scores are not floating-point.

  Example:
    >>> listwise_cross_entropy_loss(jnp.zeros((1, 4)), jnp.array([[2, 0, 1, 0]])).round(4)
    Array([1.3863], dtype=float32)

  Reference:
    Cao, Qin, Liu, Tsai and Li, Learning to rank: from pairwise approach to listwise approach, 2007.
  """
  lists = prepare_lists(scores, relevance, where)
  weights = jnp.where(lists.where, lists.relevance, 0)
  total = jax.nn.logsumexp(lists.scores, axis=-1, where=lists.where)
  has_any = jnp.sum(weights, axis=-1) > 0
  gap = jnp.where(has_any, total, 0)[..., None] - lists.scores
  loss = jnp.sum(weights * gap, axis=-1)
  return numerics.safe_divide(loss, jnp.sum(weights, axis=-1)).astype(lists.dtype)


class Lists(NamedTuple):
  """Checked arguments of a loss of lists.

  Attributes:
    scores: float[..., items], at least float32; 0 in items that are masked out.
    relevance: float[..., items], 0 in items that are masked out.
    gain: float[..., items], 2^relevance - 1.
    where: bool[..., items].
    dtype: dtype of the caller's scores.
  """

  scores: Array
  relevance: Array
  gain: Array
  where: Array
  dtype: jnp.dtype


def prepare_lists(scores: ArrayLike, relevance: ArrayLike, where: ArrayLike | None) -> Lists:
  """Checks scores, grades and mask; puts harmless values where the mask is false."""
  array = _checks.check_float_array("scores", scores, min_rank=1)
  mask = _checks.check_mask("where", where, shape=array.shape)
  keep = jnp.ones(array.shape, bool) if mask is None else mask
  grades = _checks.check_array("relevance", relevance)
  _checks.check_same_shape("scores", array, "relevance", grades)
  grades = jnp.where(keep, grades, 0)
  _checks.check_non_negative("relevance", grades)
  wide = jnp.where(keep, numerics.upcast(array), 0)
  grades = grades.astype(wide.dtype)
  return Lists(wide, grades, jnp.exp2(grades) - 1, keep, array.dtype)


def log2_rank(rank: Array) -> Array:
  """log2(1 + rank), the discount of a rank that starts at one."""
  return jnp.log1p(rank) / jnp.log(jnp.asarray(2, rank.dtype))


def ideal_dcg(lists: Lists, k: int | None = None) -> Array:
  """The largest sum of gains over log2(1 + rank), ranks up to k, float[...]."""
  best = -jnp.sort(-lists.gain, axis=-1)[..., :k]
  discount = log2_rank(jnp.arange(1, best.shape[-1] + 1, dtype=best.dtype))
  return jnp.sum(best / discount.reshape((1,) * (best.ndim - 1) + (-1,)), axis=-1)


def _ranks(surrogate: base.Surrogate, lists: Lists) -> Array:
  """sum_j l(s_i - s_j), float[..., items]; 1 in items that are masked out."""
  pairs = lists.where[..., :, None] & lists.where[..., None, :]
  loss = base.pair_losses(surrogate, lists.scores, lists.scores, pairs)
  return jnp.where(lists.where, jnp.sum(loss, axis=-1), 1)


def _finish(discounted: Array, ideal: Array, lists: Lists) -> Array:
  total = jnp.sum(jnp.where(lists.where, discounted, 0), axis=-1)
  return jnp.where(ideal == 0, 0, 1 - numerics.safe_divide(total, ideal)).astype(lists.dtype)
