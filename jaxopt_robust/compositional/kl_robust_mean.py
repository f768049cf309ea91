"""KL-robust means of losses from minibatches, with a moving average carried along.

The exact forms on a whole data set are in ``losses``. On a minibatch they are biased downwards:
the logarithm (or the minimum over a threshold) of a batch mean is not that of the whole mean.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.compositional import _robust_batch as base
from jaxopt_robust.compositional._robust_batch import RobustMeanInfo
from jaxopt_robust.losses.dro.kl import kl_dro, kl_dro_weights
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "KlBallMeanInfo",
  "KlBallMeanState",
  "KlMeanState",
  "kl_ball_robust_mean",
  "kl_ball_robust_mean_init",
  "kl_robust_mean",
  "kl_robust_mean_init",
]


class KlMeanState(NamedTuple):
  """State of ``kl_robust_mean``.

  Attributes:
    log_average: float scalar, logarithm of the moving average of mean exp(loss / temperature); -inf
      before the first batch.
    steps: int32 scalar, batches seen.
  """

  log_average: Array
  steps: Array


class KlBallMeanState(NamedTuple):
  """State of ``kl_ball_robust_mean``.

  Attributes:
    temperature: float scalar, the dual variable lam.
    momentum: float scalar, moving average of its derivative.
    log_average: float scalar, as in ``KlMeanState``, at the present temperature.
    steps: int32 scalar, batches seen.
  """

  temperature: Array
  momentum: Array
  log_average: Array
  steps: Array


class KlBallMeanInfo(NamedTuple):
  """What one batch says; nothing here carries a gradient.

  Attributes:
    objective: float scalar, lam log u + (lam - lam0) rho at the temperature of this batch.
    weights: float[batch], weight of each loss in the gradient; 0 where masked out.
    temperature: float scalar, the lam that was used.
    divergence: float scalar, estimate of KL(p, 1/n) at it.
  """

  objective: Array
  weights: Array
  temperature: Array
  divergence: Array


def kl_robust_mean_init(*, dtype: Any = jnp.float32) -> KlMeanState:
  r"""State of ``kl_robust_mean`` before the first batch.

  Sets log_average = -inf, which marks that nothing was averaged yet.

  Args:
    dtype: floating-point type of the average.

  Returns:
    KlMeanState of scalars.

  Raises:
    TypeError: dtype is not a floating-point type.

  Example:
    >>> kl_robust_mean_init().log_average
    Array(-inf, dtype=float32)

  Reference:
    Qi, Guo, Xu, Jin and Yang, An online method for a class of distributionally robust optimization
    with non-convex objectives, 2021 (recalled, not verified).
  """
  return KlMeanState(
    jnp.full((), -jnp.inf, _checks.check_float_dtype(dtype)), jnp.zeros((), jnp.int32)
  )


def kl_robust_mean(
  losses: ArrayLike,
  state: KlMeanState,
  *,
  temperature: ArrayLike,
  rate: ArrayLike = 0.1,
  where: ArrayLike | None = None,
) -> tuple[Array, tuple[KlMeanState, RobustMeanInfo]]:
  r"""One minibatch of ``losses.kl_dro``: lam log E exp(loss / lam), with a moving average inside.

  Keeps u <- (1 - rate) u + rate (1/B) sum_i exp(l_i / lam), in the log domain, with lam =
  temperature; the gradient is that of the batch's lam (1/B) sum_i exp(l_i / lam) / u with u fixed,
  so a loss has weight exp(l_i / lam) / (B u).

  Args:
    losses: float[batch] losses of a minibatch.
    state: KlMeanState from ``kl_robust_mean_init`` or the previous batch.
    temperature: > 0 and finite, a scalar; may be traced.
    rate: in (0, 1], weight of the new batch, a scalar; may be traced. 1 is the minibatch form.
    where: bool[batch]; losses where it is false do not count.

  Returns:
    (surrogate, (state, RobustMeanInfo)) for ``jax.value_and_grad(..., has_aux=True)``. Without
    losses the surrogate is 0; then, and when a loss is NaN (the surrogate is too), the state stays.

  Raises:
    ValueError: losses do not have rank 1 or are empty, shapes do not agree, temperature or rate out
      of range.
    TypeError: losses are not floating-point or where is not boolean.

  Note:
    With rate 1 and the whole data set the gradient is exact. A rate much below the speed at which
    the losses change leaves u behind; from 0.1 on that is rarely seen.

  Example:
    >>> losses = jnp.array([0.0, 2.0])
    >>> _, (state, info) = kl_robust_mean(losses, kl_robust_mean_init(), temperature=1.0)
    >>> round(float(info.objective), 3)
    1.434

  Reference:
    Qi, Guo, Xu, Jin and Yang, An online method for a class of distributionally robust optimization
    with non-convex objectives, 2021; Qi, Xu, Yin, Jin and Yang, Attentional-biased stochastic
    gradient descent, 2023 (both recalled, not verified); the logarithmic form is ours.
  """
  state = _arguments.check_state("state", state, KlMeanState)
  batch = base.prepare(losses, where)
  base.check_scalar("temperature", temperature)
  _checks.check_interval("temperature", temperature, 0.0, float("inf"), closed="neither")
  base.check_rate("rate", rate)
  lam = jnp.asarray(temperature, batch.values.dtype)
  surrogate, average, weights, _ = _tilt(batch, state.log_average, lam, rate)
  objective = jnp.where(batch.is_empty, 0, lam * average)
  fresh = KlMeanState(average.astype(state.log_average.dtype), state.steps + 1)
  info = RobustMeanInfo(objective, weights)
  return base.finish(batch, surrogate, objective, state, fresh, info)


def kl_ball_robust_mean_init(
  *, temperature: ArrayLike = 1.0, dtype: Any = jnp.float32
) -> KlBallMeanState:
  r"""State of ``kl_ball_robust_mean`` before the first batch.

  Sets lam to the temperature to start from, and log_average = -inf.

  Args:
    temperature: > 0, a scalar; may be traced.
    dtype: floating-point type of the state.

  Returns:
    KlBallMeanState of scalars.

  Raises:
    ValueError: temperature <= 0.
    TypeError: dtype is not a floating-point type.

  Example:
    >>> float(kl_ball_robust_mean_init(temperature=2.0).temperature)
    2.0

  Reference:
    Qi, Lyu, Chan, Bai and Yang, Stochastic constrained DRO with a complexity independent of sample
    size, 2023 (recalled, not verified).
  """
  dtype = _checks.check_float_dtype(dtype)
  base.check_scalar("temperature", temperature)
  _checks.check_positive("temperature", temperature)
  return KlBallMeanState(
    jnp.asarray(temperature, dtype) + jnp.zeros((), dtype),
    jnp.zeros((), dtype),
    jnp.full((), -jnp.inf, dtype),
    jnp.zeros((), jnp.int32),
  )


def kl_ball_robust_mean(
  losses: ArrayLike,
  state: KlBallMeanState,
  *,
  radius: ArrayLike,
  rate: ArrayLike = 0.1,
  stepsize: ArrayLike = 0.1,
  momentum_rate: ArrayLike = 0.1,
  min_temperature: ArrayLike = 1e-3,
  max_temperature: ArrayLike = 1e3,
  clip: ArrayLike = 5.0,
  where: ArrayLike | None = None,
) -> tuple[Array, tuple[KlBallMeanState, KlBallMeanInfo]]:
  r"""One minibatch of ``losses.kl_ball_dro``, whose temperature is learned along.

  The objective is min over lam in [lam0, lam1] of lam log E exp(loss / lam) + (lam - lam0) rho.
  Uses the state's lam and moving average u as in ``kl_robust_mean``; estimates the divergence by
  (1/B) sum_i (t_i log t_i - t_i + 1) with t_i = exp(l_i / lam) / u; then steps
  m <- (1 - beta) m + beta max(rho - KL, -clip) and lam <- min(max(lam - s m, lam0), lam1), with
  rho = radius, beta = momentum_rate (1 at the first batch) and s = stepsize.

  Args:
    losses: float[batch] losses of a minibatch.
    state: KlBallMeanState from ``kl_ball_robust_mean_init`` or the previous batch.
    radius: >= 0, a scalar; may be traced.
    rate: in (0, 1], weight of the new batch in u, a scalar; may be traced.
    stepsize: > 0, of the temperature, a scalar; may be traced.
    momentum_rate: in (0, 1], a scalar; may be traced.
    min_temperature: > 0, the lam0, a scalar; may be traced.
    max_temperature: > 0, the lam1, a scalar; may be traced.
    clip: > 0, bound on how negative the derivative may be, a scalar; may be traced. Without it one
      batch with a new largest loss can throw lam far up, from where it returns slowly.
    where: bool[batch]; losses where it is false do not count.

  Returns:
    (surrogate, (state, KlBallMeanInfo)) for ``jax.value_and_grad(..., has_aux=True)``. Without
    losses the surrogate is 0; then, and when a loss is NaN (the surrogate is too), the state stays.

  Raises:
    ValueError: losses do not have rank 1 or are empty, shapes do not agree, or a number is out of
      range.
    TypeError: losses are not floating-point or where is not boolean.

  Note:
    When lam moves, lam log u is kept, an estimate of the objective, which varies less than log u.
    The temperature has the unit of the losses: choose the stepsize accordingly.

  Example:
    >>> losses, state = jnp.array([0.0, 1.0, 2.0]), kl_ball_robust_mean_init()
    >>> step = jax.jit(lambda s: kl_ball_robust_mean(losses, s, radius=0.1)[1][0])
    >>> state = jax.lax.fori_loop(0, 600, lambda _, s: step(s), state)
    >>> round(float(state.temperature), 2)  # as losses.kl_ball_dro_temperature
    1.76

  Reference:
    Qi, Lyu, Chan, Bai and Yang, Stochastic constrained DRO with a complexity independent of sample
    size, 2023 (recalled, not verified). The form of the divergence estimate, which does not change
    when a constant is added to the losses, and the shift of log u are ours.
  """
  state = _arguments.check_state("state", state, KlBallMeanState)
  batch = base.prepare(losses, where)
  base.check_scalar("radius", radius)
  _checks.check_non_negative("radius", radius)
  base.check_rate("rate", rate)
  base.check_rate("momentum_rate", momentum_rate)
  for name, value in (
    ("stepsize", stepsize),
    ("min_temperature", min_temperature),
    ("max_temperature", max_temperature),
    ("clip", clip),
  ):
    base.check_scalar(name, value)
    _checks.check_positive(name, value)
  dtype = batch.values.dtype
  lam, momentum = (jnp.asarray(v, dtype) for v in (state.temperature, state.momentum))
  rho, low, high, step, beta = (
    jnp.asarray(v, dtype)
    for v in (radius, min_temperature, max_temperature, stepsize, momentum_rate)
  )
  surrogate, average, weights, log_t = _tilt(batch, state.log_average, lam, rate)
  terms = log_t * jnp.exp(log_t) - jnp.expm1(log_t)
  divergence = numerics.masked_mean(terms, batch.where)
  objective = jnp.where(batch.is_empty, 0, lam * average + (lam - low) * rho)
  slope = jnp.maximum(rho - divergence, -jnp.asarray(clip, dtype))
  momentum = jnp.where(state.steps == 0, slope, (1 - beta) * momentum + beta * slope)
  new = jnp.clip(lam - step * momentum, min=low, max=high)
  average = lam * average / new
  dtype = state.temperature.dtype
  fresh = KlBallMeanState(
    new.astype(dtype), momentum.astype(dtype), average.astype(dtype), state.steps + 1
  )
  info = KlBallMeanInfo(objective, weights, lam, divergence)
  return base.finish(batch, surrogate, objective, state, fresh, info)


def _tilt(
  batch: base.Batch, log_average: Array, lam: Array, rate: ArrayLike
) -> tuple[Array, Array, Array, Array]:
  """The surrogate of the KL form, the new log u, the weights, and log t = l / lam - log u."""
  value = kl_dro(batch.values, lam, where=batch.where)
  fixed = jax.lax.stop_gradient(batch.values)
  fresh = jax.lax.stop_gradient(value) / lam
  average = numerics.log_average(jnp.asarray(log_average, fresh.dtype), fresh, rate)
  factor = jnp.exp(fresh - average)
  weights = factor * kl_dro_weights(fixed, lam, where=batch.where)
  log_t = fixed / lam - average
  if batch.where is not None:
    log_t = jnp.where(batch.where, log_t, 0)
  return jax.lax.stop_gradient(factor) * value, average, weights, log_t
