"""Robust means of losses from minibatches whose dual threshold is learned along.

The exact forms on a whole data set are in ``losses``. On a minibatch they are biased downwards:
the logarithm (or the minimum over a threshold) of a batch mean is not that of the whole mean.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.compositional import _robust_batch as base
from jaxopt_robust.compositional._robust_batch import RobustMeanInfo
from jaxopt_robust.losses.dro.cvar import cvar_threshold
from jaxopt_robust.losses.dro.phi_divergence import cvar_conjugate, phi_divergence_dro_threshold
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "ThresholdState",
  "cvar_robust_mean",
  "phi_divergence_robust_mean",
  "threshold_init",
]


class ThresholdState(NamedTuple):
  """State of ``cvar_robust_mean`` and ``phi_divergence_robust_mean``.

  Attributes:
    threshold: float scalar, the dual variable eta (of the CVaR: the quantile).
    steps: int32 scalar, batches seen; the first one sets the threshold.
  """

  threshold: Array
  steps: Array


def threshold_init(*, dtype: Any = jnp.float32) -> ThresholdState:
  r"""State of ``cvar_robust_mean`` and ``phi_divergence_robust_mean`` before the first batch.

  Sets steps = 0, which makes the first batch choose the threshold.

  Args:
    dtype: floating-point type of the threshold.

  Returns:
    ThresholdState of scalars.

  Raises:
    TypeError: dtype is not a floating-point type.

  Example:
    >>> int(threshold_init().steps)
    0

  Reference:
    Rockafellar and Uryasev, Optimization of conditional value-at-risk, 2000 (the threshold as a
    variable); the choice by the first batch is ours.
  """
  return ThresholdState(jnp.zeros((), _checks.check_float_dtype(dtype)), jnp.zeros((), jnp.int32))


def cvar_robust_mean(
  losses: ArrayLike,
  state: ThresholdState,
  *,
  alpha: ArrayLike,
  stepsize: ArrayLike = 0.1,
  where: ArrayLike | None = None,
) -> tuple[Array, tuple[ThresholdState, RobustMeanInfo]]:
  r"""One minibatch of ``losses.cvar``, whose threshold is learned along.

  Computes s + (1 / (alpha B)) sum_i max(l_i - s, 0) with the state's threshold s held fixed, then
  steps s <- s - stepsize (1 - (1 / (alpha B)) sum_i 1[l_i > s]): joint stochastic subgradient
  descent in the parameters and s, which is unbiased.

  Args:
    losses: float[batch] losses of a minibatch.
    state: ThresholdState from ``threshold_init`` or the previous batch.
    alpha: in (0, 1], the fraction of largest losses, a scalar; may be traced.
    stepsize: >= 0, of the threshold, in the unit of the losses, a scalar; may be traced.
    where: bool[batch]; losses where it is false do not count.

  Returns:
    (surrogate, (state, RobustMeanInfo)) for ``jax.value_and_grad(..., has_aux=True)``. Without
    losses the surrogate is 0; then, and when a loss is NaN (the surrogate is too), the state stays.

  Raises:
    ValueError: losses do not have rank 1 or are empty, shapes do not agree, or alpha or stepsize is
      out of range.
    TypeError: losses are not floating-point or where is not boolean.

  Note:
    The threshold starts at the first batch's own quantile. With a constant stepsize it keeps
    moving by about that much; let the stepsize fall for a limit.

  Example:
    >>> losses = jnp.array([4.0, 1.0, 3.0, 2.0])
    >>> _, (state, info) = cvar_robust_mean(losses, threshold_init(), alpha=0.5)
    >>> float(info.objective), float(state.threshold)
    (3.5, 2.950000047683716)

  Reference:
    Rockafellar and Uryasev, Optimization of conditional value-at-risk, 2000 (recalled, not
    verified).
  """
  state = _arguments.check_state("state", state, ThresholdState)
  batch = base.prepare(losses, where)
  base.check_scalar("alpha", alpha)
  _checks.check_interval("alpha", alpha, 0.0, 1.0, closed="right")
  conjugate = lambda s: cvar_conjugate(s, alpha=alpha)
  first = cvar_threshold(jax.lax.stop_gradient(batch.values), alpha, where=batch.where)
  return _threshold_step(batch, state, jnp.ones(()), conjugate, first, stepsize)


def phi_divergence_robust_mean(
  losses: ArrayLike,
  state: ThresholdState,
  *,
  temperature: ArrayLike,
  conjugate: Callable[[Array], Array],
  stepsize: ArrayLike = 0.1,
  where: ArrayLike | None = None,
) -> tuple[Array, tuple[ThresholdState, RobustMeanInfo]]:
  r"""One minibatch of ``losses.phi_divergence_dro``, whose threshold is learned along.

  Computes eta + lam (1/B) sum_i phi*((l_i - eta) / lam) with the state's eta held fixed, then steps
  eta <- eta - stepsize (1 - (1/B) sum_i phi*'((l_i - eta) / lam)), with lam = temperature: joint
  stochastic gradient descent in the parameters and eta, which is unbiased. With
  ``losses.chi2_conjugate`` it is the stochastic form of ``losses.chi2_dro``.

  Args:
    losses: float[batch] losses of a minibatch.
    state: ThresholdState from ``threshold_init`` or the previous batch.
    temperature: > 0 and finite, a scalar; may be traced.
    conjugate: phi*, as in ``losses.phi_divergence_dro``.
    stepsize: >= 0, of eta, in the unit of the losses, a scalar; may be traced.
    where: bool[batch]; losses where it is false do not count.

  Returns:
    (surrogate, (state, RobustMeanInfo)) for ``jax.value_and_grad(..., has_aux=True)``. Without
    losses the surrogate is 0; then, and when a loss is NaN (the surrogate is too), the state stays.

  Raises:
    ValueError: losses do not have rank 1 or are empty, shapes do not agree, or temperature or
      stepsize is out of range.
    TypeError: losses are not floating-point, where is not boolean or conjugate is not callable.

  Note:
    eta starts at the first batch's own minimiser. With ``losses.kl_conjugate`` the steps grow with
    the exponential of the losses; ``kl_robust_mean`` is made for that.

  Example:
    >>> from jaxopt_robust.losses import chi2_conjugate
    >>> losses = jnp.array([0.0, 1.0, 2.0])
    >>> _, (state, info) = phi_divergence_robust_mean(
    ...   losses, threshold_init(), temperature=2.0, conjugate=chi2_conjugate
    ... )
    >>> round(float(info.objective), 3)
    1.167

  Reference:
    Ben-Tal and Teboulle, An old-new concept of convex risk measures: the optimized certainty
    equivalent, 2007; Jin, Zhang, Wang and Wang, Non-convex distributionally robust optimization:
    non-asymptotic analysis, 2021 (both recalled, not verified).
  """
  state = _arguments.check_state("state", state, ThresholdState)
  batch = base.prepare(losses, where)
  base.check_scalar("temperature", temperature)
  fixed = jax.lax.stop_gradient(batch.values)
  first = phi_divergence_dro_threshold(fixed, temperature, conjugate=conjugate, where=batch.where)
  lam = jnp.asarray(temperature)
  return _threshold_step(batch, state, lam, conjugate, first, stepsize)


def _threshold_step(
  batch: base.Batch,
  state: ThresholdState,
  lam: Array,
  conjugate: Callable[[Array], Array],
  first: Array,
  stepsize: ArrayLike,
) -> tuple[Array, tuple[ThresholdState, RobustMeanInfo]]:
  """The OCE at the state's threshold, and a step of gradient descent of the threshold."""
  base.check_scalar("stepsize", stepsize)
  _checks.check_non_negative("stepsize", stepsize)
  dtype = batch.values.dtype
  lam = lam.astype(dtype)
  eta = jnp.where(state.steps == 0, first, jnp.asarray(state.threshold, dtype))
  eta = jax.lax.stop_gradient(eta)
  scaled = (batch.values - eta) / lam
  if batch.where is not None:
    scaled = jnp.where(batch.where, scaled, 0)
  value = eta + lam * numerics.masked_mean(conjugate(scaled), batch.where)
  fixed = jax.lax.stop_gradient(scaled)
  slope = jax.jvp(conjugate, (fixed,), (jnp.ones_like(fixed),))[1]
  weights = slope / batch.size
  if batch.where is not None:
    weights = jnp.where(batch.where, weights, 0)
  objective = jnp.where(batch.is_empty, 0, value)
  new = eta - jnp.asarray(stepsize, dtype) * (1 - jnp.sum(weights))
  fresh = ThresholdState(new.astype(state.threshold.dtype), state.steps + 1)
  return base.finish(batch, value, objective, state, fresh, RobustMeanInfo(objective, weights))
