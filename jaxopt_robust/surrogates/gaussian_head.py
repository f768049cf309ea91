"""Surrogates that predict a mean and a spread: likelihood, and a smooth bound of the spread."""

import math

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks, numerics
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["gaussian_nll_loss", "soft_clip"]

_LOG_ROOT_TWO_PI = 0.5 * math.log(2 * math.pi)


def gaussian_nll_loss(
  mean: ArrayLike, log_std: ArrayLike, targets: ArrayLike, *, where: ArrayLike | None = None
) -> Array:
  r"""Negative log-likelihood of a normal distribution whose mean and spread are predicted.

  Computes (t - mean)^2 / (2 exp(2 log_std)) + log_std + log(2 pi) / 2.

  Args:
    mean: float[...], predicted means.
    log_std: float[...] of the same shape, logarithms of the predicted standard deviations, bounded
      by ``soft_clip`` perhaps.
    targets: float[...] of the same shape, t.
    where: bool[...]; entries where it is false have value 0 and gradient 0.

  Returns:
    float[...], one number an example, of the dtype of ``mean``.

  Raises:
    ValueError: shapes differ.
    TypeError: an array is not floating-point.

  Note:
    Without a bound from below the spread of an example that is fitted exactly goes to 0, and the
    loss to -inf.

  Example:
    >>> gaussian_nll_loss(jnp.zeros(2), jnp.zeros(2), jnp.array([0.0, 1.0])).round(3)
    Array([0.919, 1.419], dtype=float32)

  Reference:
    Nix and Weigend, Estimating the mean and variance of the target probability distribution, 1994.
  """
  center = _checks.check_float_array("mean", mean, non_empty=False)
  spread = _checks.check_float_array("log_std", log_std, non_empty=False)
  truth = _checks.check_float_array("targets", targets, non_empty=False)
  _checks.check_same_shape("log_std", spread, "mean", center)
  _checks.check_same_shape("targets", truth, "mean", center)
  mask = _checks.check_mask("where", where, shape=center.shape)
  wide = [numerics.upcast(v) for v in (center, spread, truth)]
  if mask is not None:
    wide = [jnp.where(mask, v, 0) for v in wide]
  m, s, t = wide
  gap = t - m
  exact = gap == 0  # exp(-s) may be infinite there
  scaled = gap * jnp.exp(jnp.where(exact, 0, -s))
  loss = 0.5 * scaled**2 + s + _LOG_ROOT_TWO_PI
  if mask is not None:
    loss = jnp.where(mask, loss, 0)
  return loss.astype(center.dtype)


def soft_clip(x: ArrayLike, *, low: ArrayLike, high: ArrayLike) -> Array:
  r"""Smooth clip to (low, high) by two softplus functions.

  Computes low + softplus(u - low) with u = high - softplus(high - x): near x well between the
  bounds. The value can exceed ``high`` by softplus(low - high), log(2) at most.

  Args:
    x: float[...].
    low: float scalar or float[...]; may be traced and trained.
    high: the same, > low.

  Returns:
    float[...] of the dtype of ``x``. The derivative in x is in (0, 1).

  Raises:
    ValueError: low >= high.
    TypeError: x is not floating-point.

  Example:
    >>> soft_clip(jnp.array([-50.0, 0.0, 50.0]), low=-9.0, high=9.0).round(2)
    Array([-9.,  0.,  9.], dtype=float32)

  Reference:
    Chua, Calandra, McAllister and Levine, Deep reinforcement learning in a handful of trials using
    probabilistic dynamics models, 2018, appendix A.1 (bounds of the logarithm of the variance).
  """
  array = _checks.check_float_array("x", x, non_empty=False)
  bottom = _checks.check_float_array("low", low).astype(array.dtype)
  top = _checks.check_float_array("high", high).astype(array.dtype)
  _checks.check_holds(bottom < top, "low must be below high.")
  upper = top - jax.nn.softplus(top - array)
  return bottom + jax.nn.softplus(upper - bottom)
