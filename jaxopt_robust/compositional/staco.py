"""Two-way partial area under the ROC curve, hardest positives against their hardest negatives."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.compositional import _examples, _ranked
from jaxopt_robust.losses.ranking import _common as base
from jaxopt_robust.losses.ranking.surrogates import squared_hinge_surrogate
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["StacoInfo", "StacoState", "staco_init", "staco_loss"]


class StacoState(NamedTuple):
  """Dual weights and thresholds of STACO; only those of positives are ever written.

  Attributes:
    dual: float[num_examples] in [0, 1], the paper's y_i, which tends to 1 for hard positives and to
      0 for easy ones.
    threshold: float[num_examples], the paper's s_i, above which a pairwise loss counts.
    positive_threshold: float scalar, the paper's s', above which a positive counts.
  """

  dual: Array
  threshold: Array
  positive_threshold: Array


class StacoInfo(NamedTuple):
  """Diagnostics of STACO.

  Attributes:
    objective: float scalar, s' + mean over the anchors of max(g_i - s', 0) / theta_0 with the new
      thresholds; what to report and plot. 0 if there are no anchors.
    num_anchors: int32 scalar, rows that the loss is a mean over.
    selected: float scalar, share of the pairs above their threshold; tends to max_fpr.
    dual_mean: float scalar, mean of the anchors' dual weights; tends to 1 - min_tpr.
  """

  objective: Array
  num_anchors: Array
  selected: Array
  dual_mean: Array


def staco_init(
  num_examples: int,
  *,
  threshold: ArrayLike = 1.0,
  positive_threshold: ArrayLike = 1.0,
  dtype: jnp.dtype = jnp.float32,
) -> StacoState:
  """State of STACO before training.

  Sets y_i = 1, s_i = threshold and s' = positive_threshold.

  Args:
    num_examples: static integer >= 1, size of the training set, negatives included.
    threshold: first threshold of the pairwise losses, a scalar; may be traced.
    positive_threshold: first threshold of the positives, a scalar; may be traced.
    dtype: floating-point dtype of the state.

  Returns:
    StacoState.

  Raises:
    ValueError: num_examples < 1 or a threshold is not a scalar.
    TypeError: num_examples is not an integer or dtype is not floating-point.

  Example:
    >>> staco_init(2).dual
    Array([1., 1.], dtype=float32)

  Reference:
    Zhou, Wang, Thai and Yang, Stochastic primal-dual double block-coordinate for two-way partial
    AUC maximization, 2025.
  """
  size = _checks.check_int("num_examples", num_examples, minimum=1)
  low = _checks.check_array("threshold", threshold, rank=0)
  high = _checks.check_array("positive_threshold", positive_threshold, rank=0)
  dual = jnp.ones((size,), _checks.check_float_dtype(dtype))
  return StacoState(dual, jnp.full((size,), low, dtype), jnp.full((), high, dtype))


def staco_loss(
  scores: ArrayLike,
  labels: ArrayLike,
  index: ArrayLike,
  state: StacoState,
  *,
  max_fpr: ArrayLike = 0.5,
  min_tpr: ArrayLike = 0.5,
  dual_step_size: ArrayLike = 0.1,
  step_size: ArrayLike = 0.1,
  positive_step_size: ArrayLike = 0.1,
  dual_where: ArrayLike | None = None,
  surrogate: _ranked.Surrogate = squared_hinge_surrogate,
  where: ArrayLike | None = None,
) -> tuple[Array, tuple[StacoState, StacoInfo]]:
  r"""Surrogate of the two-way partial AUC loss of hardest pairs: a saddle problem, one step of it.

  The objective is min_{s'} s' + (1/(theta_0 n_+)) sum_{i positive} max(min_{s_i} g_i(s_i) - s', 0)
  with g_i(s) = s + (1/(theta_1 n_-)) sum_{j negative} max(l_ij - s, 0), l_ij = l(s_i - s_j) of the
  scores, theta_1 = max_fpr and theta_0 = 1 - min_tpr (``losses.two_way_partial_auc_cvar_loss``).
  A visit, with means over two sets of negatives, B and B', and p_ij = 1[l_ij > s_i]:
  y_i <- clip(y_i + dual_step_size (g_i(s_i; B) - s') / theta_0, 0, 1); returns the mean over the
  positives of y_i mean_{B'} p_ij l_ij / (theta_0 theta_1), with gradient in l_ij only;
  s_i <- s_i - step_size y_i (1 - mean_{B'} p_ij / theta_1) / theta_0; and
  s' <- s' - positive_step_size (1 - mean_i y_i / theta_0).

  Args:
    scores: float[n] scores.
    labels: int[n], 1 for positives, 0 for negatives.
    index: int[n] position of each row's example in the state.
    state: StacoState from ``staco_init`` or the previous visit.
    max_fpr: in (0, 1], the paper's theta_1; may be traced.
    min_tpr: in [0, 1), 1 minus the paper's theta_0; may be traced.
    dual_step_size: > 0, of y_i, the paper's alpha; may be traced.
    step_size: > 0, of s_i, the paper's beta_0; may be traced.
    positive_step_size: > 0, of s', the paper's beta_1; may be traced.
    dual_where: bool[n], the negatives in B; the others are B'. None: all negatives are in both, as
      in the authors' library. What it says of positives is ignored.
    surrogate: non-increasing elementwise function l of an array of gaps s_pos - s_neg.
    where: bool[n]; rows where it is false do not exist, whatever they hold.

  Returns:
    (surrogate, (new state, StacoInfo)): a scalar, at least float32, whose gradient is the one to
    use and whose value has no meaning; ``info.objective`` is the value to report. A batch without a
    positive, or in which B or B' is empty, gives 0 and changes nothing. NaN if a score is NaN and,
    under ``jit``, if a label or the index of a positive is out of range; the rows concerned, and
    s', are kept.

  Raises:
    ValueError: shapes do not agree, a known label is not 0 or 1, a known index is out of range,
      max_fpr not in (0, 1], min_tpr not in [0, 1), or a step size <= 0.
    TypeError: scores are not floating-point, labels or index not integers, surrogate not callable.

  Note:
    The parameters' step is any optimizer's. The new values of several rows of one example are
    averaged.

  Example:
    >>> state, index = staco_init(3), jnp.arange(3)
    >>> scores, labels = jnp.array([0.5, 0.5, -0.5]), jnp.array([1, 0, 0])
    >>> surrogate, (state, info) = staco_loss(scores, labels, index, state)
    >>> [round(float(value), 3) for value in (state.dual[0], state.threshold[0])]
    [1.0, 0.8]

  Reference:
    Zhou, Wang, Thai and Yang, Stochastic primal-dual double block-coordinate for two-way partial
    AUC maximization, 2025, as documented in the authors' library LibAUC, which starts s_i and s' at
    0 and draws one set of negatives.
  """
  state = _arguments.check_state("state", state, StacoState)
  dual = _ranked.state_array("state.dual", state.dual, 1)
  stored = _ranked.state_array("state.threshold", state.threshold, 1)
  _checks.check_same_shape("state.dual", dual, "state.threshold", stored)
  common = _ranked.state_array("state.positive_threshold", state.positive_threshold, 0)
  _checks.check_interval("max_fpr", max_fpr, 0.0, 1.0, closed="right")
  _checks.check_interval("min_tpr", min_tpr, 0.0, 1.0, closed="left")
  steps = (
    ("dual_step_size", dual_step_size),
    ("step_size", step_size),
    ("positive_step_size", positive_step_size),
  )
  for name, step in steps:
    _checks.check_positive(name, step)
  anchors = _ranked.prepare(scores, labels, index, num_examples=stored.shape[0], where=where)
  anchors, for_dual, for_primal = _two_sets(anchors, dual_where)
  loss = base.pair_losses(surrogate, anchors.ranked.scores, anchors.ranked.scores, anchors.pairs)
  alpha, beta_0, beta_1 = (_ranked.scalar(name, step, loss) for name, step in steps)
  theta_1 = _ranked.scalar("max_fpr", max_fpr, loss)
  theta_0 = 1 - _ranked.scalar("min_tpr", min_tpr, loss)
  theta_0, theta_1 = jax.lax.stop_gradient((theta_0, theta_1))

  fixed = jax.lax.stop_gradient(loss)
  s = _examples.read(stored, anchors.row).astype(loss.dtype)
  s_common = common.astype(loss.dtype)

  def mean(values: Array, pairs: Array) -> Array:
    total = jnp.sum(jnp.where(pairs, values, 0), axis=1)
    return total / base.count(pairs, loss.dtype, axis=1)

  def inner(s: Array, pairs: Array) -> Array:
    return s + mean(jax.nn.relu(fixed - s[:, None]), pairs) / theta_1

  y = _examples.read(dual, anchors.row).astype(loss.dtype)
  y = _examples.merge(anchors.row, y + alpha * (inner(s, for_dual) - s_common) / theta_0)
  y = jax.lax.stop_gradient(jnp.clip(y, 0, 1))
  above = ~(fixed <= s[:, None])  # true for NaN, which is to be seen
  share = mean(jnp.where(jnp.isnan(fixed), jnp.nan, above.astype(loss.dtype)), for_primal)
  new = s - beta_0 * _examples.merge(anchors.row, y * (1 - share / theta_1)) / theta_0
  dual_mean = _ranked.mean_over(anchors.is_anchor, y)
  new_common = s_common - beta_1 * (1 - dual_mean / theta_0)
  is_kept = ~jnp.any(anchors.is_anchor) | jnp.isnan(new_common)
  new_common = jnp.where(is_kept, s_common, new_common)

  state = StacoState(
    _examples.write(dual, anchors.row, y),
    _examples.write(stored, anchors.row, new),
    new_common.astype(common.dtype),
  )
  excess = jax.nn.relu(inner(new, anchors.pairs) - new_common)
  objective = _ranked.mean_over(anchors.is_anchor, new_common + excess / theta_0)
  info = StacoInfo(
    objective,
    jnp.sum(anchors.is_anchor, dtype=jnp.int32),
    _ranked.mean_over(anchors.is_anchor, share),
    dual_mean,
  )
  each = y * mean(jnp.where(above, loss, 0), for_primal) / (theta_0 * theta_1)
  surrogate_value = _ranked.mean_over(anchors.is_anchor, each)
  return surrogate_value, jax.lax.stop_gradient((state, info))


def _two_sets(
  anchors: _ranked.Anchors, dual_where: ArrayLike | None
) -> tuple[_ranked.Anchors, Array, Array]:
  """Pairs with the negatives for the dual weights, and with those for the rest, bool[n, n]."""
  mask = _checks.check_mask("dual_where", dual_where, shape=anchors.is_anchor.shape)
  if mask is None:
    return anchors, anchors.pairs, anchors.pairs
  is_negative = anchors.ranked.is_negative
  both = jnp.any(is_negative & mask) & jnp.any(is_negative & ~mask)
  # A row out of range for the state, as for every row that is no anchor.
  lost = jnp.iinfo(anchors.row.dtype).max
  anchors = anchors._replace(
    is_anchor=anchors.is_anchor & both,
    pairs=anchors.pairs & both,
    row=jnp.where(both, anchors.row, lost),
  )
  return anchors, anchors.pairs & mask[None, :], anchors.pairs & ~mask[None, :]
