"""Losses for a part of the area under the ROC curve: the hardest negatives, the hardest positives.

Restricting the false positive rate to at most max_fpr keeps the hardest negatives, and the true
positive rate to at least min_tpr the hardest positives; both are distributionally robust means of
the pairwise surrogates, over the negatives of each positive and over the positives.
"""

import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.losses.dro.cvar import cvar
from jaxopt_robust.losses.dro.kl import kl_dro
from jaxopt_robust.losses.ranking import _common as base
from jaxopt_robust.losses.ranking.surrogates import squared_hinge_surrogate
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "partial_auc_cvar_loss",
  "partial_auc_kl_loss",
  "two_way_partial_auc_cvar_loss",
  "two_way_partial_auc_kl_loss",
]


def partial_auc_cvar_loss(
  scores: ArrayLike,
  labels: ArrayLike,
  *,
  max_fpr: ArrayLike = 0.2,
  surrogate: base.Surrogate = squared_hinge_surrogate,
  where: ArrayLike | None = None,
) -> Array:
  r"""Mean surrogate of each positive against its hardest negatives.

  Computes min_t t + (1/(beta n_-)) sum_{j negative} max(l(s_i - s_j) - t, 0) for each positive i
  with beta = max_fpr: the mean of the largest share beta of its pairwise losses. Its mean over the
  positives is a surrogate of the partial area at false positive rates up to beta.

  Args:
    scores: float[n] scores s.
    labels: int[n], 1 for positives, 0 for negatives.
    max_fpr: in (0, 1], the paper's beta; may be traced.
    surrogate: non-increasing elementwise function l of an array of gaps s_pos - s_neg.
    where: bool[n]; rows where it is false are neither positives nor negatives, whatever they hold.

  Returns:
    float[n] one value a positive, 0 for all other rows, in the dtype of ``scores``; 0 if there is
    no negative. Under ``jit`` a label out of range makes the values NaN.

  Raises:
    ValueError: shapes do not agree, a known label is not 0 or 1, or max_fpr not in (0, 1].
    TypeError: scores are not floating-point, labels are not integers, surrogate is not callable.

  Note:
    With max_fpr = 1 it is ``pairwise_auc_loss``. On random batches it is biased:
    ``compositional.sopa_loss`` keeps a threshold for each positive instead.

  Example:
    >>> scores, labels = jnp.array([1.0, 0.5, -1.0]), jnp.array([1, 0, 0])
    >>> partial_auc_cvar_loss(scores, labels, max_fpr=0.5)
    Array([0.25, 0.  , 0.  ], dtype=float32)

  Reference:
    Zhu, Li, Wang, Wu and Yang, When AUC meets DRO: optimizing partial AUC for deep learning with
    non-convex convergence guarantee, 2022.
  """
  ranked = base.prepare(scores, labels, where)
  _checks.check_interval("max_fpr", max_fpr, 0.0, 1.0, closed="right")
  return base.finish(_cvar(ranked, surrogate, max_fpr), ranked)


def partial_auc_kl_loss(
  scores: ArrayLike,
  labels: ArrayLike,
  *,
  temperature: ArrayLike = 1.0,
  surrogate: base.Surrogate = squared_hinge_surrogate,
  where: ArrayLike | None = None,
) -> Array:
  r"""Soft maximum of the surrogate of each positive against the negatives.

  Computes lam log( (1/n_-) sum_{j negative} exp(l(s_i - s_j) / lam) ) for each positive i with
  lam = temperature, which is max_p sum_j p_j l(s_i - s_j) - lam KL(p, 1/n_-).

  Args:
    scores: float[n] scores s.
    labels: int[n], 1 for positives, 0 for negatives.
    temperature: > 0, the paper's lambda; may be traced.
    surrogate: non-increasing elementwise function l of an array of gaps s_pos - s_neg.
    where: bool[n]; rows where it is false are neither positives nor negatives, whatever they hold.

  Returns:
    float[n] one value a positive, 0 for all other rows, in the dtype of ``scores``; 0 if there is
    no negative. Under ``jit`` a label out of range makes the values NaN.

  Raises:
    ValueError: shapes do not agree, a known label is not 0 or 1, or temperature <= 0.
    TypeError: scores are not floating-point, labels are not integers, surrogate is not callable.

  Note:
    As lam -> infinity it is ``pairwise_auc_loss``, as lam -> 0 the largest pairwise loss. On random
    batches it is biased: ``compositional.sopas_loss`` keeps a moving average instead.

  Example:
    >>> scores, labels = jnp.array([1.0, 0.5, -1.0]), jnp.array([1, 0, 0])
    >>> partial_auc_kl_loss(scores, labels).round(4)
    Array([0.1328, 0.    , 0.    ], dtype=float32)

  Reference:
    Zhu, Li, Wang, Wu and Yang, When AUC meets DRO: optimizing partial AUC for deep learning with
    non-convex convergence guarantee, 2022.
  """
  ranked = base.prepare(scores, labels, where)
  _checks.check_positive("temperature", temperature)
  return base.finish(_kl(ranked, surrogate, temperature), ranked)


def two_way_partial_auc_cvar_loss(
  scores: ArrayLike,
  labels: ArrayLike,
  *,
  max_fpr: ArrayLike = 0.5,
  min_tpr: ArrayLike = 0.5,
  surrogate: base.Surrogate = squared_hinge_surrogate,
  where: ArrayLike | None = None,
) -> Array:
  r"""Mean surrogate of the hardest positives against their hardest negatives.

  Computes the mean of the largest share 1 - min_tpr, over the positives i, of the mean of the
  largest share max_fpr, over the negatives j, of l(s_i - s_j). It is a surrogate of the two-way
  partial area, at false positive rates up to max_fpr and true positive rates from min_tpr on.

  Args:
    scores: float[n] scores s.
    labels: int[n], 1 for positives, 0 for negatives.
    max_fpr: in (0, 1], the paper's theta_1; may be traced.
    min_tpr: in [0, 1), 1 minus the paper's theta_0; may be traced.
    surrogate: non-increasing elementwise function l of an array of gaps s_pos - s_neg.
    where: bool[n]; rows where it is false are neither positives nor negatives, whatever they hold.

  Returns:
    float scalar in the dtype of ``scores``; 0 if there is no positive or no negative. Under ``jit``
    a label out of range makes it NaN.

  Raises:
    ValueError: shapes do not agree, a known label is not 0 or 1, max_fpr not in (0, 1] or min_tpr
      not in [0, 1).
    TypeError: scores are not floating-point, labels are not integers, surrogate is not callable.

  Note:
    On random batches it is biased: ``compositional.staco_loss`` keeps thresholds instead.

  Example:
    >>> scores, labels = jnp.array([1.0, 0.0, 0.5, -1.0]), jnp.array([1, 1, 0, 0])
    >>> float(two_way_partial_auc_cvar_loss(scores, labels))
    2.25

  Reference:
    Zhou, Wang, Thai and Yang, Stochastic primal-dual double block-coordinate for two-way partial
    AUC maximization, 2025.
  """
  ranked = base.prepare(scores, labels, where)
  _checks.check_interval("max_fpr", max_fpr, 0.0, 1.0, closed="right")
  _checks.check_interval("min_tpr", min_tpr, 0.0, 1.0, closed="left")
  share = 1 - jnp.asarray(min_tpr, ranked.scores.dtype)
  each = _cvar(ranked, surrogate, max_fpr)
  total = cvar(each, share, where=ranked.is_positive)
  return _finish_scalar(total, ranked)


def two_way_partial_auc_kl_loss(
  scores: ArrayLike,
  labels: ArrayLike,
  *,
  temperature: ArrayLike = 1.0,
  positive_temperature: ArrayLike = 1.0,
  surrogate: base.Surrogate = squared_hinge_surrogate,
  where: ArrayLike | None = None,
) -> Array:
  r"""Soft maximum over the positives of their soft maxima over the negatives.

  Computes tau log( (1/n_+) sum_{i positive} ( (1/n_-) sum_{j negative} exp(l(s_i - s_j) / lam)
  )^(lam / tau) ) with lam = temperature and tau = positive_temperature.

  Args:
    scores: float[n] scores s.
    labels: int[n], 1 for positives, 0 for negatives.
    temperature: > 0, the paper's lambda, for the negatives; may be traced.
    positive_temperature: > 0, the paper's lambda', for the positives; may be traced.
    surrogate: non-increasing elementwise function l of an array of gaps s_pos - s_neg.
    where: bool[n]; rows where it is false are neither positives nor negatives, whatever they hold.

  Returns:
    float scalar in the dtype of ``scores``; 0 if there is no positive or no negative. Under ``jit``
    a label out of range makes it NaN.

  Raises:
    ValueError: shapes do not agree, a known label is not 0 or 1, or a temperature <= 0.
    TypeError: scores are not floating-point, labels are not integers, surrogate is not callable.

  Note:
    On random batches it is biased: ``compositional.sotas_loss`` keeps moving averages instead.

  Example:
    >>> scores, labels = jnp.array([1.0, 0.0, 0.5, -1.0]), jnp.array([1, 1, 0, 0])
    >>> round(float(two_way_partial_auc_kl_loss(scores, labels)), 4)
    1.1609

  Reference:
    Zhu, Li, Wang, Wu and Yang, When AUC meets DRO: optimizing partial AUC for deep learning with
    non-convex convergence guarantee, 2022.
  """
  ranked = base.prepare(scores, labels, where)
  _checks.check_positive("temperature", temperature)
  _checks.check_positive("positive_temperature", positive_temperature)
  each = _kl(ranked, surrogate, temperature)
  total = kl_dro(each, positive_temperature, where=ranked.is_positive)
  return _finish_scalar(total, ranked)


def _cvar(ranked: base.Ranked, surrogate: base.Surrogate, share: ArrayLike) -> Array:
  loss, pairs = base.against_negatives(surrogate, ranked)
  return cvar(loss, share, where=pairs)


def _kl(ranked: base.Ranked, surrogate: base.Surrogate, temperature: ArrayLike) -> Array:
  loss, pairs = base.against_negatives(surrogate, ranked)
  return kl_dro(loss, temperature, where=pairs)


def _finish_scalar(total: Array, ranked: base.Ranked) -> Array:
  counts = jnp.any(ranked.is_positive) & jnp.any(ranked.is_negative)
  return jnp.where(counts, total, 0).astype(ranked.dtype)
