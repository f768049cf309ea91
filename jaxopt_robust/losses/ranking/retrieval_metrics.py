"""Metrics of ranked lists, one list a query: reciprocal rank, NDCG, pools of hard negatives.

Exact, ties included, and of static shape. Not differentiable: their gradient is zero almost
everywhere.
"""

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.losses.ranking import lists as listwise
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["mean_reciprocal_rank", "ndcg", "topn_negative_pool"]


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
  grades = _checks.check_array("relevance", relevance)
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
  _arguments.check_option("gain", gain, ("exponential", "linear"))
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
