"""Losses for the area under the ROC curve: all pairs, and the min-max margin form of means."""

from typing import NamedTuple

import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.losses.ranking import _common as base
from jaxopt_robust.losses.ranking.surrogates import squared_hinge_surrogate
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["AucMarginVariables", "auc_margin_init", "auc_margin_loss", "pairwise_auc_loss"]


class AucMarginVariables(NamedTuple):
  """Auxiliary scalars of the AUC margin loss.

  Attributes:
    a: float scalar, minimised over; the mean score of the positives at a saddle point.
    b: float scalar, minimised over; the mean score of the negatives at a saddle point.
    alpha: float scalar >= 0, maximised over; max(0, margin + b - a) at a saddle point.
  """

  a: Array
  b: Array
  alpha: Array


def pairwise_auc_loss(
  scores: ArrayLike,
  labels: ArrayLike,
  *,
  surrogate: base.Surrogate = squared_hinge_surrogate,
  where: ArrayLike | None = None,
) -> Array:
  r"""Mean surrogate of each positive against all negatives of the batch.

  Computes (1/n_-) sum_{j negative} l(s_i - s_j) for each positive i, with l = surrogate. Its mean
  over the positives estimates the probability that a negative is ranked above a positive, which is
  one minus the area under the ROC curve.

  Args:
    scores: float[n] scores s.
    labels: int[n], 1 for positives, 0 for negatives.
    surrogate: elementwise function of an array of gaps s_pos - s_neg, such as
      ``functools.partial(losses.squared_hinge_surrogate, margin=0.5)``.
    where: bool[n]; rows where it is false are neither positives nor negatives, whatever they hold.

  Returns:
    float[n] one value a positive, 0 for all other rows, in the dtype of ``scores``; 0 if there is
    no negative. Under ``jit`` a label out of range makes the values NaN.

  Raises:
    ValueError: shapes do not agree, or a known label is not 0 or 1.
    TypeError: scores are not floating-point, labels are not integers, surrogate is not callable.

  Note:
    Average it over the positives: ``jnp.sum(loss) / jnp.sum(labels)``. A mean over a random batch
    is an unbiased estimate of the mean over all pairs, so that no moving average is needed. Takes
    O(n^2) memory.

  Example:
    >>> scores, labels = jnp.array([1.0, 0.5, -1.0]), jnp.array([1, 0, 0])
    >>> pairwise_auc_loss(scores, labels)
    Array([0.125, 0.   , 0.   ], dtype=float32)

  Reference:
    Gao and Zhou, On the consistency of AUC pairwise optimization, 2015.
  """
  ranked = base.prepare(scores, labels, where)
  loss, _ = base.against_negatives(surrogate, ranked)
  mean = jnp.sum(loss, axis=1) / base.count(ranked.is_negative, loss.dtype)
  return base.finish(mean, ranked)


def auc_margin_init(*, dtype: jnp.dtype = jnp.float32) -> AucMarginVariables:
  """Auxiliary scalars of the AUC margin loss before training, all zero.

  Sets a = b = alpha = 0.

  Args:
    dtype: floating-point dtype of the scalars.

  Returns:
    AucMarginVariables of scalars.

  Raises:
    TypeError: dtype is not a floating-point dtype.

  Example:
    >>> auc_margin_init().alpha
    Array(0., dtype=float32)

  Reference:
    Yuan, Yan, Sonka and Yang, Large-scale robust deep AUC maximization: a new surrogate loss and
    empirical studies on medical image classification, 2021.
  """
  zero = jnp.zeros((), _checks.check_float_dtype(dtype))
  return AucMarginVariables(zero, zero, zero)


def auc_margin_loss(
  scores: ArrayLike,
  labels: ArrayLike,
  variables: AucMarginVariables,
  *,
  margin: ArrayLike = 1.0,
  prior: ArrayLike | None = None,
  where: ArrayLike | None = None,
) -> Array:
  r"""AUC margin loss: the squared pairwise loss as a min-max problem over single examples.

  Without a prior the mean of the returned values over the rows kept is
  E_+[(s - a)^2] + E_-[(s - b)^2] + 2 alpha (m + E_-[s] - E_+[s]) - alpha^2 with means E_+ over the
  positives and E_- over the negatives of the batch and m = margin; minimise over the scores, a and
  b and maximise over alpha >= 0. With prior = p the value of each row is
  (1-p) (s - a)^2 1[y=1] + p (s - b)^2 1[y=0]
  + 2 alpha (p (1-p) m + p s 1[y=0] - (1-p) s 1[y=1]) - p (1-p) alpha^2.

  Args:
    scores: float[n] scores s.
    labels: int[n], 1 for positives, 0 for negatives.
    variables: AucMarginVariables of scalars.
    margin: > 0, the gap of the means that is asked for; may be traced.
    prior: None for the class-balanced form, or the share p of positives in the whole data, in
      (0, 1); may be traced.
    where: bool[n]; rows where it is false have value 0 and gradient 0, whatever they hold.

  Returns:
    float[n] in the dtype of ``scores``. Without a prior all values are 0 if the batch has no
    positive or no negative. Under ``jit`` a label out of range makes the values NaN.

  Raises:
    ValueError: shapes do not agree, a known label is not 0 or 1, margin <= 0 or prior not in (0,
      1).
    TypeError: scores are not floating-point or labels are not integers.

  Note:
    At fixed scores the saddle point is a = E_+[s], b = E_-[s], alpha = max(0, m + b - a), where the
    value is Var_+ + Var_- + max(0, m + b - a)^2: unlike the squared surrogate it does not punish
    scores that are farther apart than the margin. The gradient in alpha is to be ascended, and
    alpha kept non-negative.

  Example:
    >>> scores, labels = jnp.array([1.0, 0.0]), jnp.array([1, 0])
    >>> variables = AucMarginVariables(*jnp.array([1.0, 0.0, 0.5]))
    >>> float(auc_margin_loss(scores, labels, variables, margin=1.5).mean())
    0.25

  Reference:
    Yuan, Yan, Sonka and Yang, Large-scale robust deep AUC maximization: a new surrogate loss and
    empirical studies on medical image classification, 2021; the form without a prior from the
    authors' library LibAUC.
  """
  ranked = base.prepare(scores, labels, where)
  _checks.check_positive("margin", margin)
  s, is_pos, is_neg = ranked.scores, ranked.is_positive, ranked.is_negative
  a, b, alpha, m = (
    _checks.check_array(name, value, rank=0).astype(s.dtype)
    for name, value in (*_variables(variables), ("margin", margin))
  )
  gap = jnp.where(is_pos, s - a, s - b)
  signed = jnp.where(is_pos, -s, s)
  if prior is None:
    kept = base.count(is_pos | is_neg, s.dtype)
    balance = kept / jnp.where(
      is_pos, base.count(is_pos, s.dtype), base.count(is_neg, s.dtype)
    )  # so that a mean over all rows is a mean over each class
    loss = balance * (gap * gap + 2 * alpha * signed) + alpha * (2 * m - alpha)
    counts = (is_pos | is_neg) & jnp.any(is_pos) & jnp.any(is_neg)
  else:
    _checks.check_interval("prior", prior, 0.0, 1.0, closed="neither")
    p = _checks.check_array("prior", prior, rank=0).astype(s.dtype)
    weight = jnp.where(is_pos, 1 - p, p)
    loss = weight * (gap * gap + 2 * alpha * signed) + p * (1 - p) * alpha * (2 * m - alpha)
    counts = is_pos | is_neg
  return jnp.where(counts, loss, 0).astype(ranked.dtype)


def _variables(variables: AucMarginVariables) -> tuple[tuple[str, ArrayLike], ...]:
  if not isinstance(variables, AucMarginVariables):
    raise TypeError(
      f"variables must be AucMarginVariables(a, b, alpha); got {type(variables).__name__}."
    )
  return tuple((f"variables.{name}", value) for name, value in variables._asdict().items())
