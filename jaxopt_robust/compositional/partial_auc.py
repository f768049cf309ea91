"""Partial areas under the ROC curve from small batches: a threshold or an average a positive.

The objectives are means, over the positives, of functions of a mean over all negatives; a batch
estimates the inner mean badly and with a bias, so one number a positive is carried along instead.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.compositional import _examples, _ranked
from jaxopt_robust.compositional._ranked import XRiskInfo
from jaxopt_robust.losses.ranking import _common as base
from jaxopt_robust.losses.ranking.surrogates import squared_hinge_surrogate
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "SopaInfo",
  "SopaState",
  "SopasState",
  "SotasState",
  "sopa_init",
  "sopa_loss",
  "sopas_init",
  "sopas_loss",
  "sotas_init",
  "sotas_loss",
]


class SopaState(NamedTuple):
  """Thresholds of SOPA, one an example; only those of positives are ever written.

  Attributes:
    threshold: float[num_examples], the paper's s_i, above which a pairwise loss counts.
  """

  threshold: Array


class SopaInfo(NamedTuple):
  """Diagnostics of SOPA.

  Attributes:
    objective: float scalar, mean over the anchors of s + mean_j max(l_j - s, 0) / beta with the new
      thresholds s; what to report and plot. 0 if there are no anchors.
    num_anchors: int32 scalar, rows that the loss is a mean over.
    selected: float scalar, share of the pairs above their threshold; tends to beta.
  """

  objective: Array
  num_anchors: Array
  selected: Array


class SopasState(NamedTuple):
  """Moving averages of SOPAs, one an example; only those of positives are ever written.

  Attributes:
    log_average: float[num_examples], logarithm of the paper's u_i; -inf if not seen yet.
  """

  log_average: Array


class SotasState(NamedTuple):
  """Moving averages of SOTAs.

  Attributes:
    log_average: float[num_examples], logarithm of the paper's u_i; -inf if not seen yet.
    log_total: float scalar, logarithm of the average over the positives; -inf before the first
      batch.
  """

  log_average: Array
  log_total: Array


def sopa_init(
  num_examples: int, *, threshold: ArrayLike = 0.0, dtype: jnp.dtype = jnp.float32
) -> SopaState:
  """State of SOPA before training: every example has the same threshold.

  Sets s_i = threshold.

  Args:
    num_examples: static integer >= 1, size of the training set, negatives included.
    threshold: first threshold, a scalar; may be traced.
    dtype: floating-point dtype of the thresholds.

  Returns:
    SopaState.

  Raises:
    ValueError: num_examples < 1 or threshold is not a scalar.
    TypeError: num_examples is not an integer or dtype is not floating-point.

  Example:
    >>> sopa_init(2)
    SopaState(threshold=Array([0., 0.], dtype=float32))

  Reference:
    Zhu, Li, Wang, Wu and Yang, When AUC meets DRO: optimizing partial AUC for deep learning with
    non-convex convergence guarantee, 2022.
  """
  size = _checks.check_int("num_examples", num_examples, minimum=1)
  value = _checks.check_array("threshold", threshold, rank=0)
  return SopaState(jnp.full((size,), value, _checks.check_float_dtype(dtype)))


def sopa_loss(
  scores: ArrayLike,
  labels: ArrayLike,
  index: ArrayLike,
  state: SopaState,
  *,
  max_fpr: ArrayLike = 0.2,
  step_size: ArrayLike = 0.1,
  surrogate: _ranked.Surrogate = squared_hinge_surrogate,
  where: ArrayLike | None = None,
) -> tuple[Array, tuple[SopaState, SopaInfo]]:
  r"""Surrogate of the one-way partial AUC loss of hardest negatives, with a threshold a positive.

  The objective is (1/n_+) sum_{i positive} min_s s + (1/(beta n_-)) sum_{j negative}
  max(l(s_i - s_j) - s, 0) with beta = max_fpr (``losses.partial_auc_cvar_loss``). With s_i from the
  state and p_ij = 1[l_ij > s_i], a visit returns the mean over the batch's pairs of p_ij l_ij /
  beta, through whose first factor no gradient flows, and sets
  s_i <- s_i - step_size (1 - mean_j p_ij / beta).

  Args:
    scores: float[n] scores.
    labels: int[n], 1 for positives, 0 for negatives.
    index: int[n] position of each row's example in the state.
    state: SopaState from ``sopa_init`` or the previous visit.
    max_fpr: in (0, 1], the paper's beta; may be traced.
    step_size: > 0, of the thresholds, the paper's eta; may be traced.
    surrogate: non-increasing elementwise function l of an array of gaps s_pos - s_neg.
    where: bool[n]; rows where it is false do not exist, whatever they hold.

  Returns:
    (surrogate, (new state, SopaInfo)): a scalar, at least float32, whose gradient is the one to use
    and whose value has no meaning; ``info.objective`` is the value to report. A batch without a
    positive or without a negative gives 0 and changes nothing. NaN if a score is NaN and, under
    ``jit``, if a label or the index of a positive is out of range; the rows concerned are kept.

  Raises:
    ValueError: shapes do not agree, a known label is not 0 or 1, a known index is out of range,
      max_fpr not in (0, 1] or step_size <= 0.
    TypeError: scores are not floating-point, labels or index not integers, surrogate not callable.

  Note:
    The estimate needs no moving average: it is linear in the batch's mean. With fixed scores s_i
    tends to the (1 - beta)-quantile of l_ij. The steps of several rows of one example are averaged.

  Example:
    >>> state, index = sopa_init(3), jnp.arange(3)
    >>> scores, labels = jnp.array([0.5, 0.5, -2.0]), jnp.array([1, 0, 0])
    >>> surrogate, (state, info) = sopa_loss(scores, labels, index, state)
    >>> [round(float(threshold), 3) for threshold in state.threshold]
    [0.15, 0.0, 0.0]

  Reference:
    Zhu, Li, Wang, Wu and Yang, When AUC meets DRO: optimizing partial AUC for deep learning with
    non-convex convergence guarantee, 2022; constants from the authors' library LibAUC.
  """
  state = _arguments.check_state("state", state, SopaState)
  stored = _ranked.state_array("state.threshold", state.threshold, 1)
  anchors = _ranked.prepare(scores, labels, index, num_examples=stored.shape[0], where=where)
  _checks.check_interval("max_fpr", max_fpr, 0.0, 1.0, closed="right")
  _checks.check_positive("step_size", step_size)
  loss = base.pair_losses(surrogate, anchors.ranked.scores, anchors.ranked.scores, anchors.pairs)
  beta = jax.lax.stop_gradient(_ranked.scalar("max_fpr", max_fpr, loss))
  size = base.count(anchors.ranked.is_negative, loss.dtype)
  old = _examples.read(stored, anchors.row).astype(loss.dtype)
  fixed = jax.lax.stop_gradient(loss)
  selected = anchors.pairs & ~(fixed <= old[:, None])  # true for NaN, which is to be seen
  share = jnp.sum(selected, axis=1).astype(loss.dtype) / size
  share = jnp.where(jnp.any(jnp.isnan(fixed), axis=1), jnp.nan, share)
  eta = _ranked.scalar("step_size", step_size, loss)
  new = old - eta * _examples.merge(anchors.row, 1 - share / beta)
  excess = jnp.sum(jnp.where(anchors.pairs, jax.nn.relu(fixed - new[:, None]), 0), axis=1)
  info = SopaInfo(
    *_ranked.info_of(anchors.is_anchor, new + excess / size / beta),
    _ranked.mean_over(anchors.is_anchor, share),
  )
  each = jnp.sum(jnp.where(selected, loss, 0), axis=1) / size / beta
  return _ranked.result(anchors, each, SopaState(_examples.write(stored, anchors.row, new)), info)


def sopas_init(num_examples: int, *, dtype: jnp.dtype = jnp.float32) -> SopasState:
  """State of SOPAs before training: no example seen.

  Sets log u_i = -inf; an example's first visit overwrites it.

  Args:
    num_examples: static integer >= 1, size of the training set, negatives included.
    dtype: floating-point dtype of the averages.

  Returns:
    SopasState.

  Raises:
    ValueError: num_examples < 1.
    TypeError: num_examples is not an integer or dtype is not floating-point.

  Example:
    >>> sopas_init(2)
    SopasState(log_average=Array([-inf, -inf], dtype=float32))

  Reference:
    Zhu, Li, Wang, Wu and Yang, When AUC meets DRO: optimizing partial AUC for deep learning with
    non-convex convergence guarantee, 2022.
  """
  size = _checks.check_int("num_examples", num_examples, minimum=1)
  return SopasState(jnp.full((size,), -jnp.inf, _checks.check_float_dtype(dtype)))


def sopas_loss(
  scores: ArrayLike,
  labels: ArrayLike,
  index: ArrayLike,
  state: SopasState,
  *,
  temperature: ArrayLike = 1.0,
  rate: ArrayLike = 0.9,
  surrogate: _ranked.Surrogate = squared_hinge_surrogate,
  where: ArrayLike | None = None,
) -> tuple[Array, tuple[SopasState, XRiskInfo]]:
  r"""Surrogate of the one-way partial AUC loss in its KL form, with a moving average a positive.

  The objective is (1/n_+) sum_{i positive} lam log( (1/n_-) sum_{j negative} exp(l_ij / lam) ) with
  l_ij = l(s_i - s_j) and lam = temperature (``losses.partial_auc_kl_loss``). A visit sets
  u_i <- (1 - rate) u_i + rate (mean over the batch's negatives of exp(l_ij / lam)), at the first
  visit the mean itself, and returns the mean over the batch's pairs of exp(l_ij / lam) / u_i l_ij,
  through whose first factor no gradient flows.

  Args:
    scores: float[n] scores s.
    labels: int[n], 1 for positives, 0 for negatives.
    index: int[n] position of each row's example in the state.
    state: SopasState from ``sopas_init`` or the previous visit.
    temperature: > 0, the paper's lambda; may be traced.
    rate: in (0, 1], the weight of the new value; 1 uses the batch alone; may be traced.
    surrogate: non-increasing elementwise function l of an array of gaps s_pos - s_neg.
    where: bool[n]; rows where it is false do not exist, whatever they hold.

  Returns:
    (surrogate, (new state, XRiskInfo)): a scalar, at least float32, whose gradient is the one to
    use and whose value has no meaning; ``info.objective`` is the value to report. A batch without a
    positive or without a negative gives 0 and changes nothing. NaN if a score is NaN and, under
    ``jit``, if a label or the index of a positive is out of range; the rows concerned are kept.

  Raises:
    ValueError: shapes do not agree, a known label is not 0 or 1, a known index is out of range,
      temperature <= 0, or rate not in (0, 1].
    TypeError: scores are not floating-point, labels or index not integers, surrogate not callable.

  Note:
    u_i is kept as a logarithm, so that small temperatures do not overflow. With rate 1 and all data
    in the batch the gradient is that of the objective. Several rows of one example are averaged.

  Example:
    >>> state, index = sopas_init(3), jnp.arange(3)
    >>> scores, labels = jnp.array([0.5, 0.5, -0.5]), jnp.array([1, 0, 0])
    >>> surrogate, (state, info) = sopas_loss(scores, labels, index, state)
    >>> round(float(info.objective), 4)
    0.6201

  Reference:
    Zhu, Li, Wang, Wu and Yang, When AUC meets DRO: optimizing partial AUC for deep learning with
    non-convex convergence guarantee, 2022; constants from the authors' library LibAUC, which lets
    u_i start at 0 instead of the first value.
  """
  state = _arguments.check_state("state", state, SopasState)
  stored = _ranked.state_array("state.log_average", state.log_average, 1)
  anchors = _ranked.prepare(scores, labels, index, num_examples=stored.shape[0], where=where)
  _checks.check_positive("temperature", temperature)
  _ranked.rate_of("rate", rate)
  loss, lam, logits = _logits(anchors, surrogate, temperature)
  stored, new = _examples.log_average(stored, anchors.row, _log_mean(logits, anchors), rate)
  new = jax.lax.stop_gradient(new).astype(loss.dtype)
  each = _weighted(loss, logits - new[:, None], anchors)
  info = _ranked.info_of(anchors.is_anchor, lam * new)
  return _ranked.result(anchors, each, SopasState(stored), info)


def sotas_init(num_examples: int, *, dtype: jnp.dtype = jnp.float32) -> SotasState:
  """State of SOTAs before training: no example seen.

  Sets log u_i = log v = -inf; the first visits overwrite them.

  Args:
    num_examples: static integer >= 1, size of the training set, negatives included.
    dtype: floating-point dtype of the averages.

  Returns:
    SotasState.

  Raises:
    ValueError: num_examples < 1.
    TypeError: num_examples is not an integer or dtype is not floating-point.

  Example:
    >>> sotas_init(2).log_total
    Array(-inf, dtype=float32)

  Reference:
    Zhu, Li, Wang, Wu and Yang, When AUC meets DRO: optimizing partial AUC for deep learning with
    non-convex convergence guarantee, 2022.
  """
  size = _checks.check_int("num_examples", num_examples, minimum=1)
  stored = jnp.full((size,), -jnp.inf, _checks.check_float_dtype(dtype))
  return SotasState(stored, jnp.full((), -jnp.inf, stored.dtype))


def sotas_loss(
  scores: ArrayLike,
  labels: ArrayLike,
  index: ArrayLike,
  state: SotasState,
  *,
  temperature: ArrayLike = 1.0,
  positive_temperature: ArrayLike = 1.0,
  rate: ArrayLike = 0.9,
  positive_rate: ArrayLike = 0.9,
  surrogate: _ranked.Surrogate = squared_hinge_surrogate,
  where: ArrayLike | None = None,
) -> tuple[Array, tuple[SotasState, XRiskInfo]]:
  r"""Surrogate of the two-way partial AUC loss in its KL form, with moving averages at two levels.

  The objective is tau log( (1/n_+) sum_{i positive} u_i^(lam / tau) ) with
  u_i = (1/n_-) sum_{j negative} exp(l_ij / lam), l_ij = l(s_i - s_j), lam = temperature and
  tau = positive_temperature (``losses.two_way_partial_auc_kl_loss``). A visit averages u_i as in
  ``sopas_loss``, sets v <- (1 - positive_rate) v + positive_rate (mean over the batch's positives
  of u_i^(lam / tau)), at the first visit the mean itself, and returns the mean over the batch's
  pairs of u_i^(lam / tau - 1) exp(l_ij / lam) / v l_ij, through whose factors before l_ij no
  gradient flows.

  Args:
    scores: float[n] scores s.
    labels: int[n], 1 for positives, 0 for negatives.
    index: int[n] position of each row's example in the state.
    state: SotasState from ``sotas_init`` or the previous visit.
    temperature: > 0, the paper's lambda, for the negatives; may be traced.
    positive_temperature: > 0, the paper's lambda', for the positives; may be traced.
    rate: in (0, 1], the weight of the new value in u_i; may be traced.
    positive_rate: in (0, 1], the weight of the new value in v; may be traced.
    surrogate: non-increasing elementwise function l of an array of gaps s_pos - s_neg.
    where: bool[n]; rows where it is false do not exist, whatever they hold.

  Returns:
    (surrogate, (new state, XRiskInfo)): a scalar, at least float32, whose gradient is the one to
    use and whose value has no meaning; ``info.objective`` is tau log v. A batch without a positive
    or without a negative gives 0 and changes nothing. NaN if a score is NaN and, under ``jit``, if
    a label or the index of a positive is out of range; the rows concerned, and v, are kept.

  Raises:
    ValueError: shapes do not agree, a known label is not 0 or 1, a known index is out of range, a
      temperature <= 0, or a rate not in (0, 1].
    TypeError: scores are not floating-point, labels or index not integers, surrogate not callable.

  Note:
    All averages are kept as logarithms. With both rates 1 and all data in the batch the gradient is
    that of the objective. Several rows of one example are averaged.

  Example:
    >>> state, index = sotas_init(3), jnp.arange(3)
    >>> scores, labels = jnp.array([0.5, 0.5, -0.5]), jnp.array([1, 0, 0])
    >>> surrogate, (state, info) = sotas_loss(scores, labels, index, state)
    >>> round(float(info.objective), 4)
    0.6201

  Reference:
    Zhu, Li, Wang, Wu and Yang, When AUC meets DRO: optimizing partial AUC for deep learning with
    non-convex convergence guarantee, 2022; constants from the authors' library LibAUC, which lets
    u_i and v start at 0 instead of the first value.
  """
  state = _arguments.check_state("state", state, SotasState)
  stored = _ranked.state_array("state.log_average", state.log_average, 1)
  old_total = _ranked.state_array("state.log_total", state.log_total, 0)
  anchors = _ranked.prepare(scores, labels, index, num_examples=stored.shape[0], where=where)
  _checks.check_positive("temperature", temperature)
  _checks.check_positive("positive_temperature", positive_temperature)
  _ranked.rate_of("rate", rate)
  _ranked.rate_of("positive_rate", positive_rate)
  loss, lam, logits = _logits(anchors, surrogate, temperature)
  tau = jax.lax.stop_gradient(_ranked.scalar("positive_temperature", positive_temperature, loss))
  stored, new = _examples.log_average(stored, anchors.row, _log_mean(logits, anchors), rate)
  new = jax.lax.stop_gradient(new).astype(loss.dtype)
  powers = jnp.where(anchors.is_anchor, lam / tau * new, 0)
  mean = numerics.log_mean_exp(powers, where=anchors.is_anchor)
  total = numerics.log_average(old_total.astype(loss.dtype), mean, positive_rate)
  total = jax.lax.stop_gradient(total)
  each = _weighted(loss, logits - new[:, None] + (powers - total)[:, None], anchors)
  has_any = jnp.any(anchors.is_anchor)
  kept = jnp.where(has_any & ~jnp.isnan(total), total, old_total).astype(old_total.dtype)
  info = _ranked.info_of(anchors.is_anchor, 0 * new)._replace(
    objective=jnp.where(has_any, tau * total, 0)
  )
  return _ranked.result(anchors, each, SotasState(stored, kept), info)


def _logits(
  anchors: _ranked.Anchors, surrogate: _ranked.Surrogate, temperature: ArrayLike
) -> tuple[Array, Array, Array]:
  """Pairwise losses, the temperature, and losses over it without gradient."""
  scores = anchors.ranked.scores
  loss = base.pair_losses(surrogate, scores, scores, anchors.pairs)
  lam = jax.lax.stop_gradient(_ranked.scalar("temperature", temperature, loss))
  return loss, lam, jax.lax.stop_gradient(loss) / lam


def _log_mean(logits: Array, anchors: _ranked.Anchors) -> Array:
  """log mean exp over the negatives of each anchor; -inf in other rows."""
  return _examples.masked_log_mean_exp(logits, anchors.pairs)


def _weighted(loss: Array, log_weights: Array, anchors: _ranked.Anchors) -> Array:
  """Mean over the negatives of the losses with weights that have no gradient."""
  weights = jnp.where(anchors.pairs, jnp.exp(jnp.where(anchors.pairs, log_weights, 0)), 0)
  size = base.count(anchors.ranked.is_negative, loss.dtype)
  return jnp.sum(weights * loss, axis=1) / size
