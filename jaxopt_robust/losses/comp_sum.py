"""Comp-sum losses: one family from the sum-exponential loss over cross entropy to MAE."""

import jax.numpy as jnp

from jaxopt_robust import _checks, numerics
from jaxopt_robust.losses import _classification as base
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["comp_sum_loss", "margin_deviation", "smooth_adversarial_comp_sum_loss"]


def comp_sum_loss(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  tau: ArrayLike = 1.0,
  rho: ArrayLike = 1.0,
  where: ArrayLike | None = None,
) -> Array:
  r"""Comp-sum loss: cross entropy at tau = 1, generalised cross entropy in (1, 2), MAE at 2.

  Computes Phi_tau( sum_{k != y} exp((f_k - f_y) / rho) ) with
  Phi_tau(u) = ((1 + u)^(1 - tau) - 1) / (1 - tau), and log(1 + u) at tau = 1. With
  p = softmax(f / rho)_y this is (1 - p^(tau - 1)) / (tau - 1): 1/p - 1 at tau = 0, -log p at
  tau = 1, 1 - p at tau = 2.

  Args:
    logits: float[..., classes] scores f, at least two classes.
    labels: int[...] class y of each row, in [0, classes).
    tau: >= 0, a scalar or float[...] one per row; may be traced, mapped and differentiated.
    rho: > 0, scale of the scores, a scalar or float[...] one per row; may be traced.
    where: bool[...]; rows where it is false have value 0 and gradient 0, whatever they hold.

  Returns:
    float[...] one loss a row, in the dtype of ``logits``. Under ``jit`` a row whose label is out of
    range is NaN.

  Raises:
    ValueError: shapes do not agree, a known label is out of range, tau < 0 or rho <= 0.
    TypeError: logits are not floating-point or labels are not integers.

  Note:
    The value and its derivatives in the logits and in tau are continuous through tau = 1. For
    tau < 1 the loss grows like p^(tau - 1) and its gradient too: clip gradients. Where
    (1 - tau) (-log p) exceeds 33 in float32 (266 in float64) the exponential is continued linearly,
    so that value and gradient stay finite.

  Example:
    >>> logits, labels = jnp.zeros((1, 2)), jnp.array([1])
    >>> taus = jnp.array([0.0, 1.0, 2.0])
    >>> jax.vmap(lambda tau: comp_sum_loss(logits, labels, tau=tau))(taus).round(3)
    Array([[1.   ],
           [0.693],
           [0.5  ]], dtype=float32)

  Reference:
    Mao, Mohri and Zhong, Cross-entropy loss functions: theoretical analysis and applications,
    2023, section 2 (recalled, not verified against the text; the special cases are verified).
  """
  prepared = base.prepare(logits, labels, where)
  return base.finish(_comp_sum(prepared, tau, rho), prepared)


def _comp_sum(prepared: base.Prepared, tau: ArrayLike, rho: ArrayLike) -> Array:
  _checks.check_non_negative("tau", tau)
  _checks.check_positive("rho", rho)
  scale = base.per_row("rho", rho, prepared)
  scaled = prepared._replace(logits=prepared.logits / scale[..., None])
  power = base.per_row("tau", tau, prepared) - 1
  return base.power_loss(base.negative_log_likelihood(scaled), power)


def margin_deviation(
  logits: ArrayLike,
  adversarial_logits: ArrayLike,
  labels: ArrayLike,
  *,
  where: ArrayLike | None = None,
) -> Array:
  r"""How far the margins move between two inputs: ||D(x') - D(x)||_2.

  The margins are D_k(x) = f_y(x) - f_k(x) for the classes k != y.

  Args:
    logits: float[..., classes] scores at x.
    adversarial_logits: float[..., classes] scores at x', same shape and dtype.
    labels: int[...] class y of each row, in [0, classes).
    where: bool[...]; rows where it is false have value 0 and gradient 0, whatever they hold.

  Returns:
    float[...] one norm a row, in the dtype of ``logits``. Under ``jit`` a row whose label is out of
    range is NaN.

  Raises:
    ValueError: shapes do not agree or a known label is out of range.
    TypeError: logits are not floating-point, dtypes differ, or labels are not integers.

  Note:
    At a deviation of 0 the gradient is 0, so an ascent that starts at x' = x never moves: start at
    a random point of the ball.

  Example:
    >>> margin_deviation(jnp.zeros((1, 3)), jnp.array([[0.0, 3.0, 4.0]]), jnp.array([0]))
    Array([5.], dtype=float32)

  Reference:
    Mao, Mohri and Zhong, Cross-entropy loss functions: theoretical analysis and applications,
    2023, section 5 (recalled, not verified).
  """
  clean, attacked = _prepare_pair(logits, adversarial_logits, labels, where)
  return base.finish(_deviation(clean, attacked), clean)


def smooth_adversarial_comp_sum_loss(
  logits: ArrayLike,
  adversarial_logits: ArrayLike,
  labels: ArrayLike,
  *,
  tau: ArrayLike = 1.0,
  rho: ArrayLike = 1.0,
  nu: ArrayLike = 1.0,
  where: ArrayLike | None = None,
) -> Array:
  r"""Comp-sum loss at x plus nu times the deviation of the margins at x'.

  Computes Phi_tau( sum_{k != y} exp(-D_k(x) / rho) ) + nu ||D(x') - D(x)||_2 with the margins
  D_k = f_y - f_k. With x' the point of the ball where the second term is largest this is the smooth
  adversarial comp-sum loss; for nu >= sqrt(classes - 1) / rho it is at least Phi_tau(1) wherever
  some point of the ball is misclassified.

  Args:
    logits: float[..., classes] scores at x.
    adversarial_logits: float[..., classes] scores at x', same shape and dtype.
    labels: int[...] class y of each row, in [0, classes).
    tau: >= 0, as in ``comp_sum_loss``; may be traced.
    rho: > 0, scale of the scores in the first term; may be traced.
    nu: >= 0, weight of the second term, a scalar or float[...] one per row; may be traced.
    where: bool[...]; rows where it is false have value 0 and gradient 0, whatever they hold.

  Returns:
    float[...] one loss a row, in the dtype of ``logits``. Under ``jit`` a row whose label is out of
    range is NaN.

  Raises:
    ValueError: shapes do not agree, a known label is out of range, tau < 0, rho <= 0 or nu < 0.
    TypeError: logits are not floating-point, dtypes differ, or labels are not integers.

  Note:
    At equal scores the second term has gradient 0. A pure function of two sets of scores: find x'
    by an attack (``robustness.smooth_adversarial_comp_sum_training_loss`` does both).

  Example:
    >>> clean, attacked = jnp.zeros((1, 2)), jnp.array([[-1.0, 0.0]])
    >>> smooth_adversarial_comp_sum_loss(clean, attacked, jnp.array([0]), nu=2.0).round(3)
    Array([2.693], dtype=float32)

  Reference:
    Mao, Mohri and Zhong, Cross-entropy loss functions: theoretical analysis and applications,
    2023, section 5 (recalled, not verified; the lower bound is checked on linear models).
  """
  clean, attacked = _prepare_pair(logits, adversarial_logits, labels, where)
  _checks.check_non_negative("nu", nu)
  deviation = base.per_row("nu", nu, clean) * _deviation(clean, attacked)
  return base.finish(_comp_sum(clean, tau, rho) + deviation, clean)


def _prepare_pair(
  logits: ArrayLike, adversarial_logits: ArrayLike, labels: ArrayLike, where: ArrayLike | None
) -> tuple[base.Prepared, base.Prepared]:
  clean = base.prepare(logits, labels, where)
  attacked = base.prepare(adversarial_logits, labels, where, name="adversarial_logits")
  _checks.check_same_shape("logits", clean.logits, "adversarial_logits", attacked.logits)
  if clean.dtype != attacked.dtype:
    raise TypeError(
      "logits and adversarial_logits must have equal dtypes; "
      f"got {clean.dtype} and {attacked.dtype}."
    )
  return clean, attacked


def _deviation(clean: base.Prepared, attacked: base.Prepared) -> Array:
  change = attacked.logits - clean.logits
  shift = jnp.sum(jnp.where(clean.is_label, change, 0), axis=-1)
  return numerics.safe_norm(shift[..., None] - change, axis=-1)  # the label's own entry is 0
