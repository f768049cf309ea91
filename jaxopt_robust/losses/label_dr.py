"""Label-distributionally robust losses: LDR-KL, its top-k flavour, and per-example temperatures."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.losses import _classification as base
from jaxopt_robust.losses import _worst_case
from jaxopt_robust.losses._label_gaps import label_gaps
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "AldrState",
  "aldr_init",
  "aldr_kl_exact_loss",
  "aldr_kl_loss",
  "ldr_kl_loss",
  "ldr_kl_topk_loss",
  "ldr_weights",
]

_PROBABILITY_FLOOR = 1e-5  # added to the probabilities before their KL, as in the published code


class AldrState(NamedTuple):
  """Temperatures of ALDR-KL, one an example.

  Attributes:
    temperature: float32[num_examples], the paper's lambda_i, in [temperature (1 - 1 / alpha),
      temperature].
  """

  temperature: Array


def ldr_kl_loss(
  scores: ArrayLike,
  labels: ArrayLike,
  *,
  temperature: ArrayLike = 10.0,
  margin: ArrayLike = 0.1,
  normalize: str | None = "softplus_mean",
  where: ArrayLike | None = None,
) -> Array:
  r"""Label-distributionally robust loss with a KL regulariser (LDR-KL).

  Computes max_{p in simplex} sum_k p_k d_k - lam KL(p, 1/K), which is
  lam log( (1/K) sum_k exp(d_k / lam) ), with d_k = f_k - f_y + margin 1[k != y], K classes and
  lam = temperature. As lam -> 0 it is the Crammer-Singer loss max_k d_k, at lam = 1 and margin 0
  the cross entropy minus log K, as lam -> infinity the mean of the d_k, a symmetric loss.

  Args:
    scores: float[..., classes] scores of the network, at least two classes.
    labels: int[...] class y of each row, in [0, classes).
    temperature: > 0 (infinity is allowed), the paper's lambda, a scalar or float[...] one per row;
      may be traced.
    margin: >= 0, the paper's c, a scalar or float[...] one per row; may be traced.
    normalize: how the scores become f: "softplus_mean" (softplus, divided by its mean over the
      classes; "softplus_l1" is another name for it), "l1" (divided by the mean absolute value plus
      1e-6), or None (f = scores).
    where: bool[...]; rows where it is false have value 0 and gradient 0, whatever they hold.

  Returns:
    float[...] one loss a row, in the dtype of ``scores``. Under ``jit`` a row whose label is out of
    range is NaN.

  Raises:
    ValueError: shapes do not agree, a known label is out of range, temperature <= 0, margin < 0 or
      an unknown normalisation.
    TypeError: scores are not floating-point or labels are not integers.

  Note:
    Without normalisation d loss / d f_k = p_k - 1[k = y]. With "softplus_mean" the loss does not
    depend on the scale of softplus(scores), so that lam has a meaning of its own.

  Example:
    >>> scores, labels = jnp.array([[3.0, 1.0, 2.0]]), jnp.array([0])
    >>> loss = ldr_kl_loss(scores, labels, temperature=1.0, margin=0.0, normalize=None)
    >>> round(float(loss[0]), 3)
    -0.691

  Reference:
    Zhu, Ying and Yang, Label distributionally robust losses for multi-class classification:
    consistency, robustness and adaptivity, 2023; margin and normalisation from the authors' code.
  """
  prepared, _, gap = label_gaps(scores, labels, margin, normalize, where)
  _checks.check_positive("temperature", temperature)
  lam = base.per_row("temperature", temperature, prepared)
  return base.finish(_worst_case.worst_case_mean(gap, lam), prepared)


def ldr_weights(
  scores: ArrayLike,
  labels: ArrayLike,
  *,
  temperature: ArrayLike = 10.0,
  margin: ArrayLike = 0.1,
  normalize: str | None = "softplus_mean",
  where: ArrayLike | None = None,
) -> Array:
  r"""Worst-case label distribution of LDR-KL.

  Computes p_k = exp(d_k / lam) / sum_j exp(d_j / lam), the maximiser in ``ldr_kl_loss``.

  Args:
    scores: float[..., classes] scores of the network, at least two classes.
    labels: int[...] class y of each row, in [0, classes).
    temperature: > 0, the paper's lambda, a scalar or float[...] one per row; may be traced.
    margin: >= 0, the paper's c, a scalar or float[...] one per row; may be traced.
    normalize: "softplus_mean", "softplus_l1", "l1" or None, as in ``ldr_kl_loss``.
    where: bool[...]; rows where it is false are all zero.

  Returns:
    float[..., classes], rows sum to one, in the dtype of ``scores``.

  Raises:
    ValueError: shapes do not agree, a known label is out of range, temperature <= 0, margin < 0 or
      an unknown normalisation.
    TypeError: scores are not floating-point or labels are not integers.

  Example:
    >>> scores, labels = jnp.array([[1.0, 0.0]]), jnp.array([0])
    >>> ldr_weights(scores, labels, temperature=1.0, margin=1.0, normalize=None)
    Array([[0.5, 0.5]], dtype=float32)

  Reference:
    Zhu, Ying and Yang, Label distributionally robust losses for multi-class classification:
    consistency, robustness and adaptivity, 2023.
  """
  prepared, _, gap = label_gaps(scores, labels, margin, normalize, where)
  _checks.check_positive("temperature", temperature)
  lam = base.per_row("temperature", temperature, prepared)
  weights = jnp.exp(_worst_case.log_weights(gap, lam)) / gap.shape[-1]
  if prepared.where is not None:
    weights = jnp.where(prepared.where[..., None], weights, 0)
  return weights.astype(prepared.dtype)


def ldr_kl_topk_loss(
  scores: ArrayLike,
  labels: ArrayLike,
  *,
  k: int,
  temperature: ArrayLike = 10.0,
  margin: ArrayLike = 0.1,
  normalize: str | None = "softplus_mean",
  where: ArrayLike | None = None,
) -> Array:
  r"""LDR-KL whose worst-case weights are at most 1/k (top-k flavour, LDR-k-KL).

  Computes max_p sum_j p_j d_j - lam KL(p, 1/K) over p in the simplex with p_j <= 1/k, where
  d_j = f_j - f_y + margin 1[j != y] and lam = temperature. With k = 1 it is ``ldr_kl_loss``, with
  k = K the mean of the d_j; as lam -> 0 it is the mean of the k largest d_j.

  Args:
    scores: float[..., classes] scores of the network, at least two classes.
    labels: int[...] class y of each row, in [0, classes).
    k: static integer in [1, classes].
    temperature: > 0, the paper's lambda, a scalar or float[...] one per row; may be traced.
    margin: >= 0, the paper's c, a scalar or float[...] one per row; may be traced.
    normalize: "softplus_mean", "softplus_l1", "l1" or None, as in ``ldr_kl_loss``.
    where: bool[...]; rows where it is false have value 0 and gradient 0, whatever they hold.

  Returns:
    float[...] one loss a row, in the dtype of ``scores``. Under ``jit`` a row whose label is out of
    range is NaN.

  Raises:
    ValueError: shapes do not agree, a known label is out of range, k is not in [1, classes],
      temperature <= 0, margin < 0 or an unknown normalisation.
    TypeError: scores are not floating-point, labels are not integers, or k is not an integer.

  Note:
    The maximiser is p_j = min(1/k, exp((d_j - nu) / lam)) with nu such that it sums to one; nu is
    found by sorting, not by iteration. Costs a sort of the classes.

  Example:
    >>> scores, labels = jnp.array([[3.0, 1.0, 2.0]]), jnp.array([0])
    >>> options = dict(temperature=1e-3, margin=0.0, normalize=None)
    >>> ldr_kl_topk_loss(scores, labels, k=2, **options).round(2)
    Array([-0.5], dtype=float32)

  Reference:
    Zhu, Ying and Yang, Label distributionally robust losses for multi-class classification:
    consistency, robustness and adaptivity, 2023 (the restricted set is recalled, not verified; the
    maximum is checked against brute force).
  """
  prepared, _, gap = label_gaps(scores, labels, margin, normalize, where)
  _checks.check_positive("temperature", temperature)
  k = _checks.check_int("k", k, minimum=1)
  if k > gap.shape[-1]:
    raise ValueError(f"k must be at most the number of classes, {gap.shape[-1]}; got {k}.")
  lam = base.per_row("temperature", temperature, prepared)
  return base.finish(_worst_case.worst_case_mean(gap, lam, k), prepared)


def aldr_init(num_examples: int, *, temperature: ArrayLike = 10.0) -> AldrState:
  r"""State of ALDR-KL before training: every example has the reference temperature.

  Sets lambda_i = temperature for each i.

  Args:
    num_examples: static integer >= 1, size of the training set.
    temperature: > 0, the reference temperature, the paper's lambda_0; may be traced.

  Returns:
    AldrState with float32[num_examples] temperatures.

  Raises:
    ValueError: num_examples < 1 or temperature <= 0.
    TypeError: num_examples is not an integer.

  Example:
    >>> aldr_init(2, temperature=10.0)
    AldrState(temperature=Array([10., 10.], dtype=float32))

  Reference:
    Zhu, Ying and Yang, Label distributionally robust losses for multi-class classification:
    consistency, robustness and adaptivity, 2023.
  """
  size = _checks.check_int("num_examples", num_examples, minimum=1)
  _checks.check_positive("temperature", temperature)
  return AldrState(jnp.full((size,), temperature, jnp.float32))


def aldr_kl_loss(
  scores: ArrayLike,
  labels: ArrayLike,
  index: ArrayLike,
  state: AldrState,
  *,
  temperature: ArrayLike = 10.0,
  alpha: ArrayLike = 2.0,
  margin: ArrayLike = 0.1,
  normalize: str | None = "l1",
  margin_in_p: bool = False,
  where: ArrayLike | None = None,
) -> tuple[Array, AldrState]:
  r"""One visit of adaptive LDR-KL: updates the examples' temperatures, then evaluates the loss.

  Computes, with lam_i read from the state, p = softmax(f / lam_i) (1e-5 added, renormalised); sets
  lam_i = lam_0 - lam_0 KL(p, 1/K) / (alpha log K), through which no gradient flows; and returns
  lam_i log( (1/K) sum_k exp(d_k / lam_i) ) - alpha log K / (2 lam_0) (lam_i - lam_0)^2 with
  d_k = f_k - f_y + margin 1[k != y]. Sure examples get a low temperature, unsure ones a high one.

  Args:
    scores: float[..., classes] scores of the network, at least two classes.
    labels: int[...] class y of each row, in [0, classes).
    index: int[...] position of each row's example in the state; distinct within a batch.
    state: AldrState from ``aldr_init`` or the previous visit.
    temperature: > 0, the reference temperature, the paper's lambda_0, a scalar; may be traced.
    alpha: > 1, the paper's alpha, a scalar; may be traced.
    margin: >= 0, the paper's c, a scalar or float[...] one per row; may be traced.
    normalize: how the scores become f: "l1" (as in the published code for most data sets),
      "softplus_l1" (there for CIFAR-100; the same as "softplus_mean") or None.
    margin_in_p: whether p is computed with the margin, softmax(d / lam_i), as the exact maximum has
      it; the published code leaves it out.
    where: bool[...]; rows where it is false have value 0 and gradient 0, and keep their state.

  Returns:
    (float[...] one loss a row in the dtype of ``scores``, the new AldrState). Under ``jit`` a row
    whose label or index is out of range is NaN; NaN rows change no state.

  Raises:
    ValueError: shapes do not agree, a known label or index is out of range, temperature <= 0,
      alpha <= 1, margin < 0 or an unknown normalisation.
    TypeError: scores are not floating-point, labels or index are not integers.

  Note:
    Iterated at fixed scores with ``margin_in_p=True`` this is the fixed-point iteration of
    ``aldr_kl_exact_loss``. If an index occurs twice in a batch, one of its rows is kept, which one
    is not specified. The indices must mean the same examples in every epoch; save the state with
    the parameters. Use with ``jax.value_and_grad(..., has_aux=True)``.

  Example:
    >>> state = aldr_init(3)
    >>> scores, labels, index = jnp.array([[4.0, 0.0]]), jnp.array([0]), jnp.array([2])
    >>> loss, state = aldr_kl_loss(scores, labels, index, state)
    >>> state.temperature.round(2)
    Array([10.  , 10.  ,  9.96], dtype=float32)

  Reference:
    Zhu, Ying and Yang, Label distributionally robust losses for multi-class classification:
    consistency, robustness and adaptivity, 2023; the order of the updates and the constants from
    the authors' code.
  """
  state = _arguments.check_state("state", state, AldrState)
  prepared, plain, gap = label_gaps(scores, labels, margin, normalize, where)
  _check_adaptive(temperature, alpha)
  stored = _checks.check_float_array("state.temperature", state.temperature, rank=1)
  num_examples, num_classes = stored.shape[0], gap.shape[-1]
  row = _checks.check_index(
    "index", index, shape=gap.shape[:-1], num_examples=num_examples, where=prepared.where
  )
  lam_0 = jnp.asarray(temperature, gap.dtype)
  old = stored.at[row].get(mode="fill", fill_value=jnp.nan).astype(gap.dtype)
  if prepared.where is not None:
    old = jnp.where(prepared.where, old, lam_0)
  p = jax.nn.softmax((gap if margin_in_p else plain) / old[..., None], axis=-1)
  p = (p + _PROBABILITY_FLOOR) / (1 + num_classes * _PROBABILITY_FLOOR)
  kl = jnp.sum(p * jnp.log(num_classes * p), axis=-1)
  new = jax.lax.stop_gradient(_next_temperature(kl, lam_0, alpha, num_classes))
  written = jnp.where(jnp.isnan(new), num_examples, row)
  updated = stored.at[written].set(new.astype(stored.dtype), mode="drop")
  return base.finish(_adaptive_value(gap, new, lam_0, alpha), prepared), AldrState(updated)


def aldr_kl_exact_loss(
  scores: ArrayLike,
  labels: ArrayLike,
  *,
  temperature: ArrayLike = 10.0,
  alpha: ArrayLike = 2.0,
  margin: ArrayLike = 0.1,
  normalize: str | None = "l1",
  num_steps: int = 50,
  where: ArrayLike | None = None,
) -> Array:
  r"""Adaptive LDR-KL with the temperature maximised out, without state.

  Computes max over lam and p in the simplex of
  sum_k p_k d_k - lam KL(p, 1/K) - alpha log K / (2 lam_0) (lam - lam_0)^2 with
  d_k = f_k - f_y + margin 1[k != y], by the fixed-point iteration
  lam <- lam_0 - lam_0 KL(p_lam, 1/K) / (alpha log K) from both ends of the interval
  [lam_0 (1 - 1 / alpha), lam_0] that holds the maximiser.

  Args:
    scores: float[..., classes] scores of the network, at least two classes.
    labels: int[...] class y of each row, in [0, classes).
    temperature: > 0, the reference temperature, the paper's lambda_0, a scalar; may be traced.
    alpha: > 1, the paper's alpha, a scalar; may be traced.
    margin: >= 0, the paper's c, a scalar or float[...] one per row; may be traced.
    normalize: "l1", "softplus_mean", "softplus_l1" or None, as in ``ldr_kl_loss``.
    num_steps: static integer >= 1, fixed-point steps from each end.
    where: bool[...]; rows where it is false have value 0 and gradient 0, whatever they hold.

  Returns:
    float[...] one loss a row, in the dtype of ``scores``. Under ``jit`` a row whose label is out of
    range is NaN.

  Raises:
    ValueError: shapes do not agree, a known label is out of range, temperature <= 0, alpha <= 1,
      margin < 0, num_steps < 1 or an unknown normalisation.
    TypeError: scores are not floating-point, labels or num_steps are not integers.

  Note:
    The objective may have two local maxima in lam, so one start is not enough; the better end is
    taken. By the envelope theorem the gradient with lam held fixed is exact; second derivatives
    taken through this function treat lam as a constant and are not.

  Example:
    >>> scores, labels = jnp.array([[4.0, 0.0]]), jnp.array([0])
    >>> round(float(aldr_kl_exact_loss(scores, labels, temperature=1.0)[0]), 3)
    -0.501

  Reference:
    Zhu, Ying and Yang, Label distributionally robust losses for multi-class classification:
    consistency, robustness and adaptivity, 2023. The paper's algorithm does one such step a visit
    (``aldr_kl_loss``); the iteration to convergence from both ends is ours.
  """
  prepared, _, gap = label_gaps(scores, labels, margin, normalize, where)
  _check_adaptive(temperature, alpha)
  num_steps = _checks.check_int("num_steps", num_steps, minimum=1)
  lam_0 = jnp.asarray(temperature, gap.dtype)
  fixed_gap, fixed_0, fixed_alpha = jax.lax.stop_gradient((gap, lam_0, jnp.asarray(alpha)))

  def step(_: int, lam: Array) -> Array:
    kl = _worst_case.divergence(_worst_case.log_weights(fixed_gap, lam))
    return _next_temperature(kl, fixed_0, fixed_alpha, gap.shape[-1])

  high = jnp.broadcast_to(fixed_0, gap.shape[:-1])
  low = high * (1 - 1 / fixed_alpha).astype(gap.dtype)
  high, low = (jax.lax.fori_loop(0, num_steps, step, start) for start in (high, low))
  value_high = _adaptive_value(fixed_gap, high, fixed_0, fixed_alpha)
  value_low = _adaptive_value(fixed_gap, low, fixed_0, fixed_alpha)
  lam = jnp.where(value_low > value_high, low, high)
  return base.finish(_adaptive_value(gap, lam, lam_0, alpha), prepared)


def _check_adaptive(temperature: ArrayLike, alpha: ArrayLike) -> None:
  _checks.check_array("temperature", temperature, rank=0)
  _checks.check_interval("temperature", temperature, 0.0, float("inf"), closed="neither")
  _checks.check_array("alpha", alpha, rank=0)
  _checks.check_greater("alpha", alpha, 1.0)


def _next_temperature(kl: Array, lam_0: Array, alpha: ArrayLike, num_classes: int) -> Array:
  log_classes = jnp.log(jnp.asarray(num_classes, kl.dtype))
  return lam_0 - lam_0 * kl / (jnp.asarray(alpha, kl.dtype) * log_classes)


def _adaptive_value(gap: Array, lam: Array, lam_0: Array, alpha: ArrayLike) -> Array:
  weight = jnp.asarray(alpha, gap.dtype) * jnp.log(jnp.asarray(gap.shape[-1], gap.dtype)) / 2
  relative = (lam - lam_0) / lam_0  # (lam - lam_0)^2 / lam_0 without overflow
  return _worst_case.worst_case_mean(gap, lam) - weight * lam_0 * relative * relative
