"""Cross entropy and its relatives for noisy labels: generalised, truncated, symmetric, JS."""

import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.losses import _classification as base
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "cross_entropy_loss",
  "generalized_cross_entropy_loss",
  "jensen_shannon_loss",
  "symmetric_cross_entropy_loss",
  "truncated_gce_loss",
]


def cross_entropy_loss(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  where: ArrayLike | None = None,
) -> Array:
  r"""Cross entropy of the softmax.

  Computes -log p_y with p = softmax(f).

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
    >>> cross_entropy_loss(jnp.zeros((1, 4)), jnp.array([2])).round(3)
    Array([1.386], dtype=float32)

  Reference:
    Good, Rational decisions, 1952 (logarithmic score).
  """
  prepared = base.prepare(logits, labels, where)
  return base.finish(base.negative_log_likelihood(prepared), prepared)


def generalized_cross_entropy_loss(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  q: ArrayLike = 0.7,
  where: ArrayLike | None = None,
) -> Array:
  r"""Generalised cross entropy: cross entropy at q = 0, 1 - p_y at q = 1.

  Computes (1 - p_y^q) / q with p = softmax(f), continuous through q = 0.

  Args:
    logits: float[..., classes] scores f, at least two classes.
    labels: int[...] class y of each row, in [0, classes).
    q: >= 0, usually in (0, 1], a scalar or float[...] one per row; may be traced.
    where: bool[...]; rows where it is false have value 0 and gradient 0, whatever they hold.

  Returns:
    float[...] one loss a row, in the dtype of ``logits``. Under ``jit`` a row whose label is out of
    range is NaN.

  Raises:
    ValueError: shapes do not agree, a known label is out of range or q < 0.
    TypeError: logits are not floating-point or labels are not integers.

  Example:
    >>> generalized_cross_entropy_loss(jnp.zeros((1, 4)), jnp.array([2]), q=1.0)
    Array([0.75], dtype=float32)

  Reference:
    Zhang and Sabuncu, Generalized cross entropy loss for training deep neural networks with noisy
    labels, 2018, equation 6 (the paper's L_q).
  """
  prepared = base.prepare(logits, labels, where)
  _checks.check_non_negative("q", q)
  nll = base.negative_log_likelihood(prepared)
  return base.finish(base.power_loss(nll, base.per_row("q", q, prepared)), prepared)


def truncated_gce_loss(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  q: ArrayLike = 0.7,
  threshold: ArrayLike = 0.5,
  where: ArrayLike | None = None,
) -> Array:
  r"""Generalised cross entropy that ignores labels of low probability.

  Computes (1 - max(p_y, threshold)^q) / q with p = softmax(f): rows with p_y <= threshold add a
  constant and no gradient.

  Args:
    logits: float[..., classes] scores f, at least two classes.
    labels: int[...] class y of each row, in [0, classes).
    q: >= 0, usually in (0, 1], a scalar or float[...] one per row; may be traced.
    threshold: in (0, 1), the paper's k, a scalar or float[...] one per row; may be traced.
    where: bool[...]; rows where it is false have value 0 and gradient 0, whatever they hold.

  Returns:
    float[...] one loss a row, in the dtype of ``logits``. Under ``jit`` a row whose label is out of
    range is NaN.

  Raises:
    ValueError: shapes do not agree, a known label is out of range, q < 0, or the threshold is
      outside (0, 1).
    TypeError: logits are not floating-point or labels are not integers.

  Note:
    At p_y = threshold the gradient is 0. An untrained network has every p_y near 1 / classes, so
    train first without truncation. To prune now and then, as the paper does, pass
    ``where=cross_entropy_loss(logits, labels) < -log(threshold)`` of an earlier epoch to
    ``generalized_cross_entropy_loss``.

  Example:
    >>> truncated_gce_loss(jnp.zeros((1, 4)), jnp.array([2]), q=1.0)
    Array([0.5], dtype=float32)

  Reference:
    Zhang and Sabuncu, Generalized cross entropy loss for training deep neural networks with noisy
    labels, 2018, equation 10.
  """
  prepared = base.prepare(logits, labels, where)
  _checks.check_non_negative("q", q)
  _checks.check_interval("threshold", threshold, 0.0, 1.0, closed="neither")
  nll = base.negative_log_likelihood(prepared)
  cap = -jnp.log(base.per_row("threshold", threshold, prepared))
  kept = jnp.where(nll >= cap, cap, nll)  # NaN stays NaN
  return base.finish(base.power_loss(kept, base.per_row("q", q, prepared)), prepared)


def symmetric_cross_entropy_loss(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  balance: ArrayLike = 0.5,
  log_zero: ArrayLike = -4.0,
  where: ArrayLike | None = None,
) -> Array:
  r"""Cross entropy mixed with reverse cross entropy.

  Computes (1 - balance) (-log p_y) + balance (-log_zero) (1 - p_y) with p = softmax(f): the reverse
  cross entropy -sum_k p_k log 1[k = y] with log 0 replaced by log_zero.

  Args:
    logits: float[..., classes] scores f, at least two classes.
    labels: int[...] class y of each row, in [0, classes).
    balance: in [0, 1], weight of the reverse term, a scalar or float[...] one per row; may be
      traced.
    log_zero: value put for log 0, negative (the paper's A); may be traced.
    where: bool[...]; rows where it is false have value 0 and gradient 0, whatever they hold.

  Returns:
    float[...] one loss a row, in the dtype of ``logits``. Under ``jit`` a row whose label is out of
    range is NaN.

  Raises:
    ValueError: shapes do not agree, a known label is out of range or balance is outside [0, 1].
    TypeError: logits are not floating-point or labels are not integers.

  Example:
    >>> symmetric_cross_entropy_loss(jnp.zeros((1, 4)), jnp.array([2]), balance=1.0)
    Array([3.], dtype=float32)

  Reference:
    Wang, Ma, Chen, Luo, Yi and Bailey, Symmetric cross entropy for robust learning with noisy
    labels, 2019, section 3. There the two weights are free; the convex mixture follows the code
    published with Zhu, Ying and Yang, 2023.
  """
  prepared = base.prepare(logits, labels, where)
  _checks.check_interval("balance", balance, 0.0, 1.0)
  weight = base.per_row("balance", balance, prepared)
  nll = base.negative_log_likelihood(prepared)
  reverse = base.per_row("log_zero", log_zero, prepared) * jnp.expm1(-nll)
  return base.finish((1 - weight) * nll + weight * reverse, prepared)


def jensen_shannon_loss(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  weight: ArrayLike = 0.5,
  where: ArrayLike | None = None,
) -> Array:
  r"""Scaled Jensen-Shannon divergence between the label and the softmax.

  Computes [ weight KL(e, m) + (1 - weight) KL(p, m) ] / Z with p = softmax(f), e the one-hot label,
  m = weight e + (1 - weight) p and Z = -(1 - weight) log(1 - weight). It tends to the cross entropy
  as weight -> 0 and to 1 - p_y (half of the l1 distance) as weight -> 1.

  Args:
    logits: float[..., classes] scores f, at least two classes.
    labels: int[...] class y of each row, in [0, classes).
    weight: in (0, 1), weight of the label (the paper's pi_1), a scalar or float[...] one per row;
      may be traced.
    where: bool[...]; rows where it is false have value 0 and gradient 0, whatever they hold.

  Returns:
    float[...] one loss a row, in the dtype of ``logits``. Under ``jit`` a row whose label is out of
    range is NaN.

  Raises:
    ValueError: shapes do not agree, a known label is out of range or the weight is outside (0,
      1).
    TypeError: logits are not floating-point or labels are not integers.

  Note:
    It depends on p_y alone, so it is computed from -log p_y without forming m.

  Example:
    >>> jensen_shannon_loss(jnp.zeros((1, 2)), jnp.array([0]), weight=1e-6).round(3)
    Array([0.693], dtype=float32)

  Reference:
    Englesson and Azizpour, Generalized Jensen-Shannon divergence loss for learning with noisy
    labels, 2021, section 3 (proposition 1 has the two limits).
  """
  prepared = base.prepare(logits, labels, where)
  _checks.check_interval("weight", weight, 0.0, 1.0, closed="neither")
  nll = base.negative_log_likelihood(prepared)
  w = base.per_row("weight", weight, prepared)
  wrong = -jnp.expm1(-nll)  # 1 - p_y
  mixed = w + (1 - w) * jnp.exp(-nll)  # m_y
  # log(m_y / p_y) = log(1 + w (1/p_y - 1)); the first form keeps its digits for small weights
  is_near = nll < 40.0
  near = jnp.log1p(w * jnp.expm1(jnp.where(is_near, nll, 0)))
  log_ratio = jnp.where(is_near, near, jnp.log(mixed) + nll)
  # The same number twice: the first cancels for weights near 1, the second for weights near 0.
  from_ratio = w * nll - mixed * log_ratio
  large = jnp.where(w < 0.5, 0.5, w)
  from_mixture = -mixed * jnp.log1p(-(1 - large) * wrong) - (1 - large) * jnp.exp(-nll) * nll
  divergence = jnp.where(w < 0.5, from_ratio, from_mixture)
  return base.finish(wrong + divergence / (-(1 - w) * jnp.log1p(-w)), prepared)
