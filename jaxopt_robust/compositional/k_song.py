"""NDCG at k from parts of long lists: moving averages of ranks, and a soft choice of k items."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.compositional import _examples, _lists, _ranked
from jaxopt_robust.compositional._ranked import XRiskInfo
from jaxopt_robust.compositional.ndcg import song_init
from jaxopt_robust.losses.ranking.surrogates import squared_hinge_surrogate
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["KSongState", "k_song_init", "k_song_loss"]


class KSongState(NamedTuple):
  """Moving averages of K-SONG.

  Attributes:
    average: float[num_queries, num_items], as in SongState.
    seen: bool[num_queries, num_items], as in SongState.
    threshold: float[num_queries], the paper's lambda_q, between the k-th and the next score.
    curvature: float[num_queries], average of the second derivative of the threshold's problem.
    query_seen: bool[num_queries], whether the query was in a batch yet.
  """

  average: Array
  seen: Array
  threshold: Array
  curvature: Array
  query_seen: Array


def k_song_init(num_queries: int, num_items: int, *, dtype: jnp.dtype = jnp.float32) -> KSongState:
  """State of K-SONG before training: no pair of query and item seen, all thresholds 0.

  Sets lambda_q = 0 and all averages to 0; a first visit overwrites the averages.

  Args:
    num_queries: static integer >= 1.
    num_items: static integer >= 1, length of the longest list.
    dtype: floating-point dtype of the averages.

  Returns:
    KSongState.

  Raises:
    ValueError: a size is < 1, or there are 2^31 pairs or more.
    TypeError: a size is not an integer or dtype is not floating-point.

  Example:
    >>> k_song_init(2, 3).threshold.shape
    (2,)

  Reference:
    Qiu, Hu, Zhong, Zhang and Yang, Large-scale stochastic optimization of NDCG surrogates for deep
    learning with provable convergence, 2022.
  """
  pairs = song_init(num_queries, num_items, dtype=dtype)
  zeros = jnp.zeros((num_queries,), pairs.average.dtype)
  return KSongState(*pairs, zeros, zeros, jnp.zeros((num_queries,), bool))


def k_song_loss(
  scores: ArrayLike,
  relevance: ArrayLike,
  index: tuple[ArrayLike, ArrayLike],
  state: KSongState,
  *,
  k: ArrayLike,
  rate: ArrayLike = 0.9,
  curvature_rate: ArrayLike = 0.9,
  step_size: ArrayLike = 0.01,
  selection_scale: ArrayLike = 2.0,
  smoothing: ArrayLike = 0.01,
  ridge: ArrayLike = 1e-4,
  correction: str = "hessian",
  num_items: ArrayLike | None = None,
  num_relevant: ArrayLike | None = None,
  ideal_dcg: ArrayLike | None = None,
  surrogate: _ranked.Surrogate = squared_hinge_surrogate,
  where: ArrayLike | None = None,
) -> tuple[Array, tuple[KSongState, XRiskInfo]]:
  r"""Surrogate of the NDCG-at-k loss from a part of each list: SONG with a soft choice of k items.

  The objective is the mean over the queries of
  1 - (1/Z) sum_i sigmoid(c (s_i - lam_q)) G_i / log2(1 + N u_i), symbols as in ``song_loss``, with
  c = selection_scale and lam_q the minimiser of
  (k/N) lam + (tau_2/2) lam^2 + (1/N) sum_j tau_1 log(1 + exp((s_j - lam) / tau_1)), about halfway
  between the k-th and the next score (tau_1 = smoothing, tau_2 = ridge). A visit averages u_i as
  SONG does, weights SONG's terms by sigmoid(c (s_i - lam_q)) with lam_q from the state, and takes a
  step on the threshold, lam_q <- lam_q - step_size (k/N + tau_2 lam_q
  - mean_j sigmoid((s_j - lam_q) / tau_1)).

  Args:
    scores: float[queries, items] scores s of a part of each query's list, the items themselves
      included.
    relevance: int or float[queries, items], grades y >= 0.
    index: pair (int[queries], int[queries, items]) of positions in the state.
    state: KSongState from ``k_song_init`` or the previous visit.
    k: > 0, number of items that count; may be traced.
    rate: in (0, 1], the weight of the new value in u_i; may be traced.
    curvature_rate: in (0, 1], the weight of the new value in the average of the second derivative
      in lam of the threshold's problem; may be traced.
    step_size: > 0, of the thresholds; may be traced.
    selection_scale: > 0, the paper's alpha; may be traced.
    smoothing: > 0, the paper's tau_1; may be traced.
    ridge: > 0, the paper's tau_2; may be traced.
    correction: "hessian" adds the gradient of the choice, through s_i and, by the implicit function
      theorem, through lam_q; "none" holds the choice fixed.
    num_items: length N of the lists, a scalar or one number a query; the state's number of items
      by default; may be traced.
    num_relevant: number of relevant items of each whole list, float[queries]; by default those in
      the batch.
    ideal_dcg: Z of each whole list, float[queries]; by default that at k (rounded down) of the
      items in the batch.
    surrogate: non-increasing elementwise function l of an array of gaps s_i - s_j, positive at 0.
    where: bool[queries, items]; items where it is false do not exist, whatever they hold.

  Returns:
    (surrogate, (new state, XRiskInfo)), as in ``song_loss``. A NaN score keeps the query's
    threshold.

  Raises:
    ValueError: shapes do not agree, a known grade is negative, a known index is out of range, an
      unknown correction, or a hyper-parameter out of its range.
    TypeError: scores are not floating-point, an index is not of integers, surrogate not callable.

  Note:
    The thresholds must follow the scores: warm up with ``song_loss`` or choose the step size large
    enough.

  Example:
    >>> scores, relevance = jnp.array([[2.0, 0.0, -2.0]]), jnp.array([[1, 0, 0]])
    >>> index, state = (jnp.array([0]), jnp.arange(3)[None]), k_song_init(1, 3)
    >>> surrogate, (state, info) = k_song_loss(scores, relevance, index, state, k=1)
    >>> round(float(info.objective), 4)
    0.018

  Reference:
    Qiu, Hu, Zhong, Zhang and Yang, Large-scale stochastic optimization of NDCG surrogates for deep
    learning with provable convergence, 2022, equations 5 and 6; constants from the authors' library
    LibAUC, whose derivative of the sigmoid lacks the factor c.
  """
  state = _arguments.check_state("state", state, KSongState)
  shape = jnp.shape(_ranked.state_array("state.average", state.average, 2))
  batch = _lists.prepare(scores, relevance, index, shape, where)
  for name, value in (("k", k), ("step_size", step_size), ("smoothing", smoothing)):
    _checks.check_positive(name, value)
  _checks.check_positive("ridge", ridge)
  _checks.check_positive("selection_scale", selection_scale)
  _arguments.check_option("correction", correction, ("hessian", "none"))
  _ranked.rate_of("rate", rate)
  _ranked.rate_of("curvature_rate", curvature_rate)
  s, keep = batch.lists.scores, batch.lists.where
  part = _lists.gain(batch, (state.average, state.seen), rate, surrogate, num_items)
  scale = _lists.scale(batch, num_relevant, ideal_dcg, k)

  c, tau_1, tau_2 = (
    jax.lax.stop_gradient(_ranked.scalar(name, value, s))
    for name, value in (
      ("selection_scale", selection_scale), ("smoothing", smoothing), ("ridge", ridge)
    )
  )  # fmt: skip
  stored = _ranked.state_array("state.threshold", state.threshold, 1)
  old = _examples.read(stored, batch.query).astype(s.dtype)
  old = jnp.where(jnp.any(batch.is_anchor, axis=1), old, 0)  # others read nothing
  gap = jax.lax.stop_gradient(s) - old[:, None]
  above = jax.nn.sigmoid(gap / tau_1)
  share = jnp.asarray(k, s.dtype) / part.length
  slope = share + tau_2 * old - _lists.mean_items(above, keep)
  step = _ranked.scalar("step_size", step_size, s)
  threshold = _examples.write(stored, batch.query, old - step * _examples.merge(batch.query, slope))
  density = above * (1 - above) / tau_1
  curvature, query_seen, new = _examples.average(
    _ranked.state_array("state.curvature", state.curvature, 1),
    state.query_seen,
    batch.query,
    tau_2 + _lists.mean_items(density, keep),
    curvature_rate,
  )

  chosen = jax.nn.sigmoid(c * gap)
  terms = chosen * part.slope * part.inner
  if correction == "hessian":
    new = jax.lax.stop_gradient(new).astype(s.dtype)
    moved = numerics.safe_divide(
      _lists.mean_items(density * s, keep), new
    )  # its gradient is that of lam_q
    terms = terms - c * chosen * (1 - chosen) * part.discounted * (s - moved[:, None])
  each = scale * _lists.mean_relevant(batch, terms)
  objective = 1 - scale * _lists.mean_relevant(batch, chosen * part.discounted)
  new_state = KSongState(part.average, part.seen, threshold, curvature, query_seen)
  return _lists.result(batch, each, new_state, objective)
