"""NDCG and the listwise cross entropy from parts of long lists, by moving averages."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.compositional import _examples, _lists, _ranked
from jaxopt_robust.compositional._ranked import XRiskInfo
from jaxopt_robust.losses.ranking import _common as base
from jaxopt_robust.losses.ranking.surrogates import squared_hinge_surrogate
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "SongListwiseState",
  "SongState",
  "song_init",
  "song_listwise_init",
  "song_listwise_loss",
  "song_loss",
]


class SongState(NamedTuple):
  """Moving averages of SONG, one a pair of query and item; only relevant items are ever written.

  Attributes:
    average: float[num_queries, num_items], of the item's mean surrogate against the list, the
      paper's u_{q,i}; its rank divided by the length of the list.
    seen: bool[num_queries, num_items], whether the pair was in a batch yet.
  """

  average: Array
  seen: Array


class SongListwiseState(NamedTuple):
  """Moving averages of the listwise cross entropy.

  Attributes:
    log_average: float[num_queries, num_items], logarithm of the average of mean_j exp(s_j - s_i);
      -inf if not seen yet.
  """

  log_average: Array


def song_init(num_queries: int, num_items: int, *, dtype: jnp.dtype = jnp.float32) -> SongState:
  """State of SONG before training: no pair of query and item seen.

  Sets all averages to 0; a pair's first visit overwrites them.

  Args:
    num_queries: static integer >= 1.
    num_items: static integer >= 1, length of the longest list.
    dtype: floating-point dtype of the averages.

  Returns:
    SongState.

  Raises:
    ValueError: a size is < 1, or there are 2^31 pairs or more.
    TypeError: a size is not an integer or dtype is not floating-point.

  Example:
    >>> song_init(2, 3).average.shape
    (2, 3)

  Reference:
    Qiu, Hu, Zhong, Zhang and Yang, Large-scale stochastic optimization of NDCG surrogates for deep
    learning with provable convergence, 2022.
  """
  shape = _lists.pair_shape(num_queries, num_items)
  average = jnp.zeros(shape, _checks.check_float_dtype(dtype))
  return SongState(average, jnp.zeros(shape, bool))


def song_loss(
  scores: ArrayLike,
  relevance: ArrayLike,
  index: tuple[ArrayLike, ArrayLike],
  state: SongState,
  *,
  rate: ArrayLike = 0.9,
  num_items: ArrayLike | None = None,
  num_relevant: ArrayLike | None = None,
  ideal_dcg: ArrayLike | None = None,
  surrogate: _ranked.Surrogate = squared_hinge_surrogate,
  where: ArrayLike | None = None,
) -> tuple[Array, tuple[SongState, XRiskInfo]]:
  r"""Surrogate of the NDCG loss from a part of each list, with a moving average a relevant item.

  The objective is the mean over the queries of 1 - (1/Z) sum_i G_i / log2(1 + N u_i) with
  G_i = 2^{y_i} - 1, u_i = (1/N) sum_j l(s_i - s_j) over the N items of the list and Z the ideal
  value (``losses.ndcg_loss``). For the relevant items a visit sets
  u_i <- (1 - rate) u_i + rate g_i, with g_i the mean over the part of the list, at the first visit
  g_i itself; it returns the mean over the queries of (n_+/Z) times the mean over the relevant items
  of f'(u_i) g_i with f'(u) = G N / (log(2) (1 + N u) log2(1 + N u)^2), through which no gradient
  flows.

  Args:
    scores: float[queries, items] scores s of a part of each query's list, the items themselves
      included.
    relevance: int or float[queries, items], grades y >= 0.
    index: pair (int[queries], int[queries, items]) of positions in the state.
    state: SongState from ``song_init`` or the previous visit.
    rate: in (0, 1], the weight of the new value; 1 uses the batch alone; may be traced.
    num_items: length N of the lists, a scalar or one number a query; the state's number of items
      by default; may be traced.
    num_relevant: number n_+ of relevant items of each whole list, float[queries]; by default those
      in the batch.
    ideal_dcg: Z of each whole list, float[queries]; by default that of the items in the batch.
    surrogate: non-increasing elementwise function l of an array of gaps s_i - s_j, positive at 0.
    where: bool[queries, items]; items where it is false do not exist, whatever they hold.

  Returns:
    (surrogate, (new state, XRiskInfo)): a scalar, at least float32, whose gradient is the one to
    use and whose value has no meaning; ``info.objective`` is the value to report and
    ``info.num_anchors`` the number of queries with a relevant item, which both are means over. A
    batch without one gives 0 and changes nothing. NaN if a score is NaN and, under ``jit``, if an
    index of a relevant item is out of range; the pairs concerned are kept.

  Raises:
    ValueError: shapes do not agree, a known grade is negative, a known index is out of range, or
      rate not in (0, 1].
    TypeError: scores are not floating-point, an index is not of integers, surrogate not callable.

  Note:
    With rate 1 and whole lists the gradient is that of the objective. Equal pairs in a batch are
    averaged.

  Example:
    >>> scores, relevance = jnp.array([[2.0, 0.0, -2.0]]), jnp.array([[0, 1, 0]])
    >>> index = (jnp.array([0]), jnp.arange(3)[None])
    >>> surrogate, (state, info) = song_loss(scores, relevance, index, song_init(1, 3))
    >>> round(float(info.objective), 4)  # 1 - 1 / log2(1 + 9 + 1)
    0.7109

  Reference:
    Qiu, Hu, Zhong, Zhang and Yang, Large-scale stochastic optimization of NDCG surrogates for deep
    learning with provable convergence, 2022; constants from the authors' library LibAUC, which lets
    the averages start at 0 instead of the first value.
  """
  state = _arguments.check_state("state", state, SongState)
  shape = jnp.shape(_ranked.state_array("state.average", state.average, 2))
  batch = _lists.prepare(scores, relevance, index, shape, where)
  _ranked.rate_of("rate", rate)
  part = _lists.gain(batch, (state.average, state.seen), rate, surrogate, num_items)
  scale = _lists.scale(batch, num_relevant, ideal_dcg, None)
  each = scale * _lists.mean_relevant(batch, part.slope * part.inner)
  objective = 1 - scale * _lists.mean_relevant(batch, part.discounted)
  return _lists.result(batch, each, SongState(part.average, part.seen), objective)


def song_listwise_init(
  num_queries: int, num_items: int, *, dtype: jnp.dtype = jnp.float32
) -> SongListwiseState:
  """State of the stochastic listwise cross entropy before training: nothing seen.

  Sets log u = -inf; a pair's first visit overwrites it.

  Args:
    num_queries: static integer >= 1.
    num_items: static integer >= 1, length of the longest list.
    dtype: floating-point dtype of the averages.

  Returns:
    SongListwiseState.

  Raises:
    ValueError: a size is < 1, or there are 2^31 pairs or more.
    TypeError: a size is not an integer or dtype is not floating-point.

  Example:
    >>> song_listwise_init(2, 3).log_average.shape
    (2, 3)

  Reference:
    Qiu, Hu, Zhong, Zhang and Yang, Large-scale stochastic optimization of NDCG surrogates for deep
    learning with provable convergence, 2022.
  """
  shape = _lists.pair_shape(num_queries, num_items)
  return SongListwiseState(jnp.full(shape, -jnp.inf, _checks.check_float_dtype(dtype)))


def song_listwise_loss(
  scores: ArrayLike,
  relevance: ArrayLike,
  index: tuple[ArrayLike, ArrayLike],
  state: SongListwiseState,
  *,
  rate: ArrayLike = 0.9,
  num_items: ArrayLike | None = None,
  where: ArrayLike | None = None,
) -> tuple[Array, tuple[SongListwiseState, XRiskInfo]]:
  r"""Surrogate of the listwise cross entropy from a part of each list, with moving averages.

  The objective is the mean over the queries of sum_i y_i log(N u_i) / sum_i y_i with
  u_i = (1/N) sum_j exp(s_j - s_i) over the N items of the list, which is the cross entropy
  -log softmax(s)_i (``losses.listwise_cross_entropy_loss``). A visit averages u_i for the relevant
  items, as in ``song_loss``, and returns the mean over the queries of
  sum_i y_i mean_j exp(s_j - s_i) / u_i (s_j - s_i) / sum_i y_i, with gradient in the last gap only.

  Args:
    scores: float[queries, items] scores s of a part of each query's list, the items themselves
      included.
    relevance: int or float[queries, items], grades y >= 0.
    index: pair (int[queries], int[queries, items]) of positions in the state.
    state: SongListwiseState from ``song_listwise_init`` or the previous visit.
    rate: in (0, 1], the weight of the new value; 1 uses the batch alone; may be traced.
    num_items: length N of the lists, a scalar or one number a query; the state's number of items
      by default; only ``info.objective`` depends on it; may be traced.
    where: bool[queries, items]; items where it is false do not exist, whatever they hold.

  Returns:
    (surrogate, (new state, XRiskInfo)), as in ``song_loss``.

  Raises:
    ValueError: shapes do not agree, a known grade is negative, a known index is out of range, or
      rate not in (0, 1].
    TypeError: scores are not floating-point or an index is not of integers.

  Example:
    >>> scores, relevance = jnp.zeros((1, 3)), jnp.array([[0, 1, 0]])
    >>> index, state = (jnp.array([0]), jnp.arange(3)[None]), song_listwise_init(1, 3)
    >>> surrogate, (state, info) = song_listwise_loss(scores, relevance, index, state)
    >>> round(float(info.objective), 4)
    1.0986

  Reference:
    Qiu, Hu, Zhong, Zhang and Yang, Large-scale stochastic optimization of NDCG surrogates for deep
    learning with provable convergence, 2022. The authors' library LibAUC compares relevant items
    with the others only; here, as in the paper's objective, with the whole list.
  """
  state = _arguments.check_state("state", state, SongListwiseState)
  stored = _ranked.state_array("state.log_average", state.log_average, 2)
  batch = _lists.prepare(scores, relevance, index, stored.shape, where)
  _ranked.rate_of("rate", rate)
  s, keep = batch.lists.scores, batch.lists.where
  pairs = batch.is_anchor[..., :, None] & keep[..., None, :]
  gap = jnp.where(pairs, s[..., None, :] - s[..., :, None], 0)
  fixed = jax.lax.stop_gradient(gap)
  log_mean = _examples.masked_log_mean_exp(fixed, pairs)
  flat, new = _examples.log_average(stored.ravel(), batch.row.ravel(), log_mean.ravel(), rate)
  new = jax.lax.stop_gradient(new).reshape(s.shape).astype(s.dtype)
  weights = jnp.where(pairs, jnp.exp(jnp.where(pairs, fixed - new[..., None], 0)), 0)
  inner = jnp.sum(weights * gap, axis=-1) / base.count(keep, s.dtype, axis=-1)[:, None]
  length = jnp.log(_lists.lengths(num_items, stored.shape[1], s))[:, None]
  grades = jnp.where(batch.is_anchor, batch.lists.relevance, 0)
  total = jnp.sum(grades, axis=-1)
  over = lambda values: numerics.safe_divide(
    jnp.sum(grades * jnp.where(batch.is_anchor, values, 0), axis=-1), total
  )
  state = SongListwiseState(flat.reshape(stored.shape))
  return _lists.result(batch, over(inner), state, over(new + length))
