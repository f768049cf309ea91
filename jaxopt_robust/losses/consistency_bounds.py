"""Calculators for the consistency bounds of comp-sum losses: surrogate regret to 0/1 regret."""

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks, numerics
from jaxopt_robust.losses import _classification as base
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "comp_sum_conditional_regret",
  "comp_sum_gamma",
  "comp_sum_gamma_exact",
  "comp_sum_transform",
]

_BISECTIONS = 60  # halves [0, 1] below the rounding error of float64
_NEAR_ONE = 0.05  # |tau - 1| below which differences of order 1 - tau are taken analytically


def comp_sum_transform(beta: ArrayLike, *, tau: ArrayLike = 1.0, num_classes: int) -> Array:
  r"""Smallest conditional comp-sum regret that a conditional 0/1 regret of beta allows.

  Computes T_tau(beta), for which the conditional regret of the comp-sum loss is at least T_tau of
  the conditional 0/1 regret. With e = 1 / (2 - tau) and M = ((1 + beta)^e + (1 - beta)^e) / 2:
  2^(1 - tau) (1 - M^(2 - tau)) / (1 - tau) for tau < 1; ((1 + beta) log(1 + beta) +
  (1 - beta) log(1 - beta)) / 2 at tau = 1; (M^(2 - tau) - 1) / ((tau - 1) n^(tau - 1)) for
  1 < tau < 2; beta / ((tau - 1) n^(tau - 1)) for tau >= 2, with n = num_classes.

  Args:
    beta: float[...] in [0, 1].
    tau: >= 0, a scalar; may be traced and mapped.
    num_classes: static integer >= 2.

  Returns:
    float[...] of the dtype of ``beta``, convex and increasing in it, 0 at 0.

  Raises:
    ValueError: beta outside [0, 1], tau < 0 or num_classes < 2.
    TypeError: beta is not floating-point or num_classes is not an integer.

  Note:
    Equal to the infimum of the regret for two classes and tau <= 2; a valid lower bound, not tight,
    for tau > 2.

  Example:
    >>> comp_sum_transform(jnp.array([0.0, 1.0]), tau=1.0, num_classes=2).round(3)
    Array([0.   , 0.693], dtype=float32)

  Reference:
    Mao, Mohri and Zhong, Cross-entropy loss functions: theoretical analysis and applications,
    2023, theorem 3.1 (formulas recalled; checked against brute force for two and three classes).
  """
  gap, tau, num_classes = _check("beta", beta, tau, num_classes)
  _checks.check_interval("beta", beta, 0.0, 1.0)
  return _transform(gap, tau, num_classes).astype(jnp.result_type(beta))


def comp_sum_gamma(surrogate_regret: ArrayLike, *, tau: ArrayLike = 1.0, num_classes: int) -> Array:
  r"""Simple upper bound on the 0/1 regret from the comp-sum regret.

  Computes sqrt(2^tau (2 - tau) t) for tau < 1, sqrt(2 n^(tau - 1) t) for 1 <= tau < 2 and
  (tau - 1) n^(tau - 1) t for tau >= 2, at most 1, with t = surrogate_regret, n = num_classes.

  Args:
    surrogate_regret: float[...] >= 0, comp-sum regret plus its minimizability gap.
    tau: >= 0, a scalar; may be traced and mapped.
    num_classes: static integer >= 2.

  Returns:
    float[...] of the dtype of ``surrogate_regret``, in [0, 1].

  Raises:
    ValueError: surrogate_regret < 0, tau < 0 or num_classes < 2.
    TypeError: surrogate_regret is not floating-point or num_classes is not an integer.

  Note:
    The slope at 0 is infinite for tau < 2; the derivative returned there is 0.

  Example:
    >>> comp_sum_gamma(jnp.array([0.02]), tau=1.0, num_classes=10)
    Array([0.2], dtype=float32)

  Reference:
    Mao, Mohri and Zhong, Cross-entropy loss functions: theoretical analysis and applications,
    2023, section 3 (recalled; checked to be above the exact inverse on grids).
  """
  t, tau, num_classes = _check("surrogate_regret", surrogate_regret, tau, num_classes)
  _checks.check_non_negative("surrogate_regret", surrogate_regret)
  power = jnp.asarray(num_classes, t.dtype) ** (tau - 1)
  slope = jnp.where(tau < 1, 2**tau * (2 - tau), 2 * power)
  positive = t > 0
  root = jnp.where(positive, jnp.sqrt(slope * jnp.where(positive, t, 1)), 0)
  bound = jnp.where(tau < 2, root, (tau - 1) * power * t)
  return jnp.minimum(bound, 1).astype(jnp.result_type(surrogate_regret))


def comp_sum_gamma_exact(
  surrogate_regret: ArrayLike, *, tau: ArrayLike = 1.0, num_classes: int
) -> Array:
  r"""Upper bound on the 0/1 regret from the comp-sum regret: the inverse of the transform.

  Computes Gamma_tau(t) = T_tau^{-1}(t) by bisection, with T as in ``comp_sum_transform``, and 1
  where t > T_tau(1).

  Args:
    surrogate_regret: float[...] >= 0, comp-sum regret plus its minimizability gap.
    tau: >= 0, a scalar; may be traced and mapped.
    num_classes: static integer >= 2.

  Returns:
    float[...] of the dtype of ``surrogate_regret``, in [0, 1].

  Raises:
    ValueError: surrogate_regret < 0, tau < 0 or num_classes < 2.
    TypeError: surrogate_regret is not floating-point or num_classes is not an integer.

  Note:
    A value for reports: no derivative flows through the bisection (it is zero). For small t the
    transform is quadratic, so that float32 resolves Gamma to about 3e-4; use float64 below that.

  Example:
    >>> comp_sum_gamma_exact(jnp.array([0.0, 0.6931472]), tau=1.0, num_classes=2).round(3)
    Array([0., 1.], dtype=float32)

  Reference:
    Mao, Mohri and Zhong, Cross-entropy loss functions: theoretical analysis and applications,
    2023, theorem 3.1 (recalled).
  """
  t, tau, num_classes = _check("surrogate_regret", surrogate_regret, tau, num_classes)
  _checks.check_non_negative("surrogate_regret", surrogate_regret)
  t, tau = jax.lax.stop_gradient((t, tau))
  t_dtype = jnp.result_type(surrogate_regret)

  def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
    low, high = bracket
    middle = (low + high) / 2
    is_above = _transform(middle, tau, num_classes) > t
    return jnp.where(is_above, low, middle), jnp.where(is_above, middle, high)

  _, high = jax.lax.fori_loop(0, _BISECTIONS, halve, (jnp.zeros_like(t), jnp.ones_like(t)))
  root = jnp.where(t == 0, 0, high)  # the upper end stays exactly 1 where t >= T(1)
  return jnp.where(jnp.isnan(t + tau), jnp.nan, root).astype(t_dtype)


def comp_sum_conditional_regret(
  logits: ArrayLike, probabilities: ArrayLike, *, tau: ArrayLike = 1.0
) -> Array:
  r"""Expected comp-sum loss at one input minus the least possible.

  Computes sum_y p_y Phi_tau(logits, y) - inf over logits of the same, for label probabilities p.
  The infimum is ((sum_y p_y^e)^(2 - tau) - 1) / (1 - tau) with e = 1 / (2 - tau) for tau < 2 (the
  entropy at tau = 1) and (1 - max_y p_y) / (tau - 1) for tau >= 2.

  Args:
    logits: float[..., classes] scores.
    probabilities: float[..., classes] of the shape of ``logits``, non-negative, rows summing to 1.
    tau: >= 0, a scalar; may be traced and mapped.

  Returns:
    float[...] >= 0 up to rounding, of the dtype of ``logits``.

  Raises:
    ValueError: shapes do not agree, a probability outside [0, 1], or tau < 0.
    TypeError: logits or probabilities are not floating-point.

  Note:
    Differentiable in the logits; at probabilities of exactly 0 its derivative in them is that of
    the smallest positive number of the dtype. Within 0.05 of tau = 1 differences of order 1 - tau
    are taken analytically, so that nothing cancels.

  Example:
    >>> p = jnp.array([[0.8, 0.2]])
    >>> comp_sum_conditional_regret(jnp.log(p), p, tau=1.0).round(3)
    Array([0.], dtype=float32)

  Reference:
    Mao, Mohri and Zhong, Cross-entropy loss functions: theoretical analysis and applications,
    2023, appendix (the closed form of the infimum is derived here by a Lagrange multiplier).
  """
  scores = _checks.check_float_array("logits", logits, min_rank=1)
  p = _checks.check_float_array("probabilities", probabilities, min_rank=1)
  _checks.check_same_shape("logits", scores, "probabilities", p)
  if scores.shape[-1] < 2:
    raise ValueError(f"logits must have at least two classes; got shape {scores.shape}.")
  _checks.check_interval("probabilities", probabilities, 0.0, 1.0)
  _checks.check_array("tau", tau, rank=0)
  _checks.check_non_negative("tau", tau)
  wide = numerics.upcast(scores)
  p = p.astype(wide.dtype)
  level = jnp.asarray(tau, wide.dtype)
  nll = -jax.nn.log_softmax(wide, axis=-1)
  losses = base.power_loss(nll, jnp.broadcast_to(level - 1, nll.shape))
  weighted = jnp.sum(jnp.where(p > 0, p * losses, 0), axis=-1)
  return (weighted - _least_risk(p, level)).astype(scores.dtype)


def _check(
  name: str, value: ArrayLike, tau: ArrayLike, num_classes: int
) -> tuple[Array, Array, int]:
  array = numerics.upcast(_checks.check_float_array(name, value))
  _checks.check_array("tau", tau, rank=0)
  _checks.check_non_negative("tau", tau)
  size = _checks.check_int("num_classes", num_classes, minimum=2)
  return array, jnp.asarray(tau, array.dtype), size


def _transform(beta: Array, tau: Array, num_classes: int) -> Array:
  """Two classes at tied scores attain the infimum; more classes only change the factor."""
  p = jnp.stack([(1 + beta) / 2, (1 - beta) / 2], axis=-1)
  log_two = jnp.log(jnp.asarray(2, beta.dtype))
  tied = base.power_loss(log_two, tau - 1)  # Phi_tau(1)
  two_classes = jnp.where(beta > 0, tied - _least_risk(p, tau), 0)
  factor = (2 / jnp.asarray(num_classes, beta.dtype)) ** jnp.maximum(tau - 1, 0)
  safe = jnp.where(tau < 2, 2, tau)
  linear = beta / ((safe - 1) * jnp.asarray(num_classes, beta.dtype) ** (safe - 1))
  return jnp.where(tau < 2, factor * two_classes, linear)


def _least_risk(p: Array, tau: Array) -> Array:
  """inf over scores of sum_y p_y Phi_tau, float[...]."""
  epsilon = 1 - tau
  log_p = jnp.log(jnp.maximum(p, jnp.finfo(p.dtype).tiny))
  # Near tau = 1: with S = sum p^e, (S^(2 - tau) - 1) / (1 - tau) without dividing by 1 - tau.
  is_near = jnp.abs(epsilon) < _NEAR_ONE
  small = jnp.where(is_near, epsilon, 0)
  exponent = small / (1 + small)  # p^e = p exp(-exponent log p)
  excess = jnp.sum(-p * log_p * base.expm1_over(-exponent * log_p), axis=-1) / (1 + small)
  growth = jnp.log1p(small * excess)
  rate = excess / base.expm1_over(growth)  # log S / (1 - tau)
  near = (1 + small) * rate * base.expm1_over((1 + small) * growth)
  # Away from tau = 1, with the temperature 2 - tau: (2 - tau) log S is a soft maximum of log p.
  far_epsilon = jnp.where(is_near | (tau >= 2), -0.5, epsilon)
  log_sum = jax.nn.logsumexp(log_p / (1 + far_epsilon), axis=-1) * (1 + far_epsilon)
  far = jnp.expm1(log_sum) / far_epsilon
  vertex = (1 - jnp.max(p, axis=-1)) / jnp.where(tau < 2, 1, tau - 1)
  return jnp.where(tau >= 2, vertex, jnp.where(is_near, near, far))
