"""Bounded losses for noisy labels; most are symmetric: their sum over all labels is constant."""

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.losses import _classification as base
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "nce_agce_loss",
  "nce_aul_loss",
  "nce_rce_loss",
  "robust_log_loss",
  "softmax_mae_loss",
  "softmax_mse_loss",
]

# log(1e-4): what published code puts for log 0 in the reverse cross entropy of NCE + RCE
_LOG_FLOOR = -9.210340371976182


def softmax_mae_loss(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  where: ArrayLike | None = None,
) -> Array:
  r"""Mean absolute error of the softmax, 1 - p_y.

  Computes 1 - p_y = ||softmax(f) - e_y||_1 / 2 with e_y the one-hot label.

  Args:
    logits: float[..., classes] scores f, at least two classes.
    labels: int[...] class y of each row, in [0, classes).
    where: bool[...]; rows where it is false have value 0 and gradient 0, whatever they hold.

  Returns:
    float[...] one loss a row, in the dtype of ``logits``. Under ``jit`` a row whose label is out of
    range is NaN.

  Raises:
    ValueError: shapes do not agree or a known label is out of range.
    TypeError: logits are not floating-point or labels are not integers.

  Note:
    Summed over all labels y it is classes - 1, a constant: a symmetric loss. Its gradient vanishes
    where p_y is near 0, which is at the start when there are many classes.

  Example:
    >>> softmax_mae_loss(jnp.zeros((1, 4)), jnp.array([2]))
    Array([0.75], dtype=float32)

  Reference:
    Ghosh, Kumar and Sastry, Robust loss functions under label noise for deep neural networks,
    2017, section 3 (there without the factor 1/2).
  """
  prepared = base.prepare(logits, labels, where)
  return base.finish(-jnp.expm1(-base.negative_log_likelihood(prepared)), prepared)


def softmax_mse_loss(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  where: ArrayLike | None = None,
) -> Array:
  r"""Squared error of the softmax (Brier score).

  Computes ||softmax(f) - e_y||_2^2 with e_y the one-hot label, a sum over classes.

  Args:
    logits: float[..., classes] scores f, at least two classes.
    labels: int[...] class y of each row, in [0, classes).
    where: bool[...]; rows where it is false have value 0 and gradient 0, whatever they hold.

  Returns:
    float[...] one loss a row, in the dtype of ``logits``. Under ``jit`` a row whose label is out of
    range is NaN.

  Raises:
    ValueError: shapes do not agree or a known label is out of range.
    TypeError: logits are not floating-point or labels are not integers.

  Example:
    >>> softmax_mse_loss(jnp.zeros((1, 4)), jnp.array([2]))
    Array([0.75], dtype=float32)

  Reference:
    Brier, Verification of forecasts expressed in terms of probability, 1950; as a loss for noisy
    labels Ghosh, Kumar and Sastry, 2017, section 3.
  """
  prepared = base.prepare(logits, labels, where)
  wrong = -jnp.expm1(-base.negative_log_likelihood(prepared))
  p = jax.nn.softmax(prepared.logits, axis=-1)
  others = jnp.sum(jnp.where(prepared.is_label, 0, p * p), axis=-1)
  return base.finish(wrong * wrong + others, prepared)


def nce_rce_loss(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  alpha: ArrayLike = 1.0,
  beta: ArrayLike = 1.0,
  log_zero: ArrayLike = _LOG_FLOOR,
  where: ArrayLike | None = None,
) -> Array:
  r"""Normalised cross entropy plus reverse cross entropy.

  Computes alpha NCE + beta RCE with p = softmax(f), NCE = log p_y / sum_k log p_k in [0, 1] and
  RCE = -log_zero (1 - p_y).

  Args:
    logits: float[..., classes] scores f, at least two classes.
    labels: int[...] class y of each row, in [0, classes).
    alpha: >= 0, weight of the normalised cross entropy, a scalar or float[...] one per row; may be
      traced.
    beta: >= 0, weight of the other term, likewise.
    log_zero: value put for log 0 in RCE, negative; may be traced.
    where: bool[...]; rows where it is false have value 0 and gradient 0, whatever they hold.

  Returns:
    float[...] one loss a row, in the dtype of ``logits``. Under ``jit`` a row whose label is out of
    range is NaN.

  Raises:
    ValueError: shapes do not agree, a known label is out of range, alpha < 0 or beta < 0.
    TypeError: logits are not floating-point or labels are not integers.

  Note:
    Both terms are symmetric: their sums over all labels are constant.

  Example:
    >>> nce_rce_loss(jnp.zeros((1, 4)), jnp.array([2]), beta=0.0)
    Array([0.25], dtype=float32)

  Reference:
    Ma, Huang, Wang, Romano, Erfani and Bailey, Normalized loss functions for deep learning with
    noisy labels, 2020, section 3; log 0 = log 1e-4 as in published code.
  """
  prepared = base.prepare(logits, labels, where)
  nll, nce = _normalized_cross_entropy(prepared, alpha, beta)
  rce = base.per_row("log_zero", log_zero, prepared) * jnp.expm1(-nll)
  return base.finish(nce + base.per_row("beta", beta, prepared) * rce, prepared)


def nce_agce_loss(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  alpha: ArrayLike = 1.0,
  beta: ArrayLike = 1.0,
  a: ArrayLike = 3.0,
  q: ArrayLike = 1.5,
  where: ArrayLike | None = None,
) -> Array:
  r"""Normalised cross entropy plus asymmetric generalised cross entropy.

  Computes alpha NCE + beta AGCE with p = softmax(f), NCE = log p_y / sum_k log p_k and
  AGCE = ((a + 1)^q - (a + p_y)^q) / q.

  Args:
    logits: float[..., classes] scores f, at least two classes.
    labels: int[...] class y of each row, in [0, classes).
    alpha: >= 0, weight of the normalised cross entropy, a scalar or float[...] one per row; may be
      traced.
    beta: >= 0, weight of the other term, likewise.
    a: > 0, shift of AGCE; may be traced.
    q: > 0, power of AGCE; may be traced.
    where: bool[...]; rows where it is false have value 0 and gradient 0, whatever they hold.

  Returns:
    float[...] one loss a row, in the dtype of ``logits``. Under ``jit`` a row whose label is out of
    range is NaN.

  Raises:
    ValueError: shapes do not agree, a known label is out of range, alpha < 0, beta < 0, a <= 0
      or q <= 0.
    TypeError: logits are not floating-point or labels are not integers.

  Example:
    >>> nce_agce_loss(jnp.zeros((1, 4)), jnp.array([2]), alpha=0.0, q=1.0)
    Array([0.75], dtype=float32)

  Reference:
    Zhou, Liu, Jiang, Gao and Ji, Asymmetric loss functions for learning with noisy labels, 2021,
    section 4; a and q as in the code published with Zhu, Ying and Yang, 2023.
  """
  prepared = base.prepare(logits, labels, where)
  _checks.check_positive("a", a)
  _checks.check_positive("q", q)
  nll, nce = _normalized_cross_entropy(prepared, alpha, beta)
  shift, power = base.per_row("a", a, prepared), base.per_row("q", q, prepared)
  agce = ((shift + 1) ** power - (shift + jnp.exp(-nll)) ** power) / power
  return base.finish(nce + base.per_row("beta", beta, prepared) * agce, prepared)


def nce_aul_loss(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  alpha: ArrayLike = 1.0,
  beta: ArrayLike = 1.0,
  a: ArrayLike = 6.0,
  q: ArrayLike = 1.5,
  where: ArrayLike | None = None,
) -> Array:
  r"""Normalised cross entropy plus asymmetric unhinged loss.

  Computes alpha NCE + beta AUL with p = softmax(f), NCE = log p_y / sum_k log p_k and
  AUL = ((a - p_y)^q - (a - 1)^q) / q.

  Args:
    logits: float[..., classes] scores f, at least two classes.
    labels: int[...] class y of each row, in [0, classes).
    alpha: >= 0, weight of the normalised cross entropy, a scalar or float[...] one per row; may be
      traced.
    beta: >= 0, weight of the other term, likewise.
    a: > 1, shift of AUL; may be traced.
    q: > 0, power of AUL; may be traced.
    where: bool[...]; rows where it is false have value 0 and gradient 0, whatever they hold.

  Returns:
    float[...] one loss a row, in the dtype of ``logits``. Under ``jit`` a row whose label is out of
    range is NaN.

  Raises:
    ValueError: shapes do not agree, a known label is out of range, alpha < 0, beta < 0, a <= 1
      or q <= 0.
    TypeError: logits are not floating-point or labels are not integers.

  Example:
    >>> nce_aul_loss(jnp.zeros((1, 4)), jnp.array([2]), alpha=0.0, q=1.0)
    Array([0.75], dtype=float32)

  Reference:
    Zhou, Liu, Jiang, Gao and Ji, Asymmetric loss functions for learning with noisy labels, 2021,
    section 4; a and q as in the code published with Zhu, Ying and Yang, 2023.
  """
  prepared = base.prepare(logits, labels, where)
  _checks.check_greater("a", a, 1.0)
  _checks.check_positive("q", q)
  nll, nce = _normalized_cross_entropy(prepared, alpha, beta)
  shift, power = base.per_row("a", a, prepared), base.per_row("q", q, prepared)
  aul = ((shift - jnp.exp(-nll)) ** power - (shift - 1) ** power) / power
  return base.finish(nce + base.per_row("beta", beta, prepared) * aul, prepared)


def robust_log_loss(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  alpha: ArrayLike = 1.0,
  where: ArrayLike | None = None,
) -> Array:
  r"""Robust log loss: a bounded, symmetric log loss.

  Computes log((alpha + 1) / alpha) - log(alpha + p_y) + (1 / (K - 1)) sum_{k != y} log(alpha + p_k)
  with p = softmax(f) and K classes.

  Args:
    logits: float[..., classes] scores f, at least two classes.
    labels: int[...] class y of each row, in [0, classes).
    alpha: > 0, a scalar or float[...] one per row; may be traced.
    where: bool[...]; rows where it is false have value 0 and gradient 0, whatever they hold.

  Returns:
    float[...] one loss a row, in the dtype of ``logits``. Under ``jit`` a row whose label is out of
    range is NaN.

  Raises:
    ValueError: shapes do not agree, a known label is out of range or alpha <= 0.
    TypeError: logits are not floating-point or labels are not integers.

  Note:
    Summed over all labels it is classes * log((alpha + 1) / alpha), a constant: a symmetric loss.

  Example:
    >>> robust_log_loss(jnp.zeros((1, 4)), jnp.array([2])).round(3)
    Array([0.693], dtype=float32)

  Reference:
    Patel and Sastry, Memorization in deep neural networks: does the loss function matter?, 2021
    (recalled, not verified; the symmetry is verified). The code published with Zhu, Ying and Yang,
    2023, computes something else, which is not symmetric.
  """
  prepared = base.prepare(logits, labels, where)
  _checks.check_positive("alpha", alpha)
  shift = base.per_row("alpha", alpha, prepared)
  # log(1 + p / alpha) = log(alpha + p) - log(alpha): the logarithms of alpha cancel in the sum
  log_terms = jnp.log1p(jax.nn.softmax(prepared.logits, axis=-1) / shift[..., None])
  label_term = jnp.sum(jnp.where(prepared.is_label, log_terms, 0), axis=-1)
  others = jnp.sum(jnp.where(prepared.is_label, 0, log_terms), axis=-1)
  loss = jnp.log1p(1 / shift) - label_term + others / (prepared.logits.shape[-1] - 1)
  return base.finish(loss, prepared)


def _normalized_cross_entropy(
  prepared: base.Prepared, alpha: ArrayLike, beta: ArrayLike
) -> tuple[Array, Array]:
  """-log p_y, and alpha * log p_y / sum_k log p_k."""
  _checks.check_non_negative("alpha", alpha)
  _checks.check_non_negative("beta", beta)
  nll = base.negative_log_likelihood(prepared)
  others = jnp.where(prepared.is_label, 0, -jax.nn.log_softmax(prepared.logits, axis=-1))
  return nll, base.per_row("alpha", alpha, prepared) * nll / (nll + jnp.sum(others, axis=-1))
