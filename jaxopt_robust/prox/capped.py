"""Penalties that grow ever more slowly or stop growing: log-sum and capped l1."""

from typing import Any

import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.numerics import hard_threshold, soft_threshold
from jaxopt_robust.prox._common import entrywise, root, spread, start, strength, total_of
from jaxopt_robust.prox._stationary import quotient, stationary
from jaxopt_robust.typing import Array, ArrayLike, Penalty, PyTree

__all__ = [
  "capped_l1",
  "log_sum",
  "penalty_capped_l1",
  "penalty_log_sum",
  "prox_capped_l1",
  "prox_log_sum",
]


def _log1p_ratio(a: Array, e: Array) -> Array:
  """log(1 + a / e), whose quotient may overflow."""
  large = a > e / jnp.finfo(a.dtype).eps ** 2
  inner = jnp.log1p(quotient(jnp.where(large, 0, a), e))
  return jnp.where(large, jnp.log(jnp.where(large, a, 1)) - jnp.log(e), inner)


def _log_sum(v: Array, g: Array, e: Array) -> Array:
  a = jnp.abs(v)
  middle, high = a / 2 + e / 2, jnp.sqrt(g)
  gap = middle - high
  is_real = ~(gap < 0)  # NaN is kept
  # r = (a - e) / 2 + sqrt(middle^2 - g), written so that nothing cancels for a small step
  r = a - g / (middle + jnp.sqrt(jnp.where(is_real, gap, 0)) * jnp.sqrt(middle + high))
  positive = is_real & ~(r <= 0)
  r = jnp.where(positive, r, 0)
  # (r - a)^2 / 2 + g log(1 + r / e) < a^2 / 2, divided by r: squares of tiny numbers are 0
  better = ~(g * (_log1p_ratio(r, e) / jnp.where(positive, r, 1)) >= a - r / 2)
  return jnp.where(positive & better, jnp.sign(v) * r, 0)


def _log_sum_slopes(y: Array, v: Array, g: Array, e: Array) -> tuple[Array, Array, Array]:
  keep = y != 0
  far = jnp.abs(y) + e
  share = (jnp.sqrt(jnp.where(keep, g, 0)) / far) ** 2  # below 1, the second derivative's part
  gain = jnp.where(keep, 1 / (1 - jnp.where(share < 1, share, 0)), 0)
  return gain, -gain * jnp.sign(y) / far, gain * share * jnp.sign(y)


def prox_log_sum(x: PyTree, hyperparams: Any, scaling: ArrayLike = 1.0) -> PyTree:
  r"""Proximal operator of the log-sum penalty.

  Solves argmin_y 1/2 ||y - x||_2^2 + scaling * sum_i lam log(1 + |y_i| / eps): with G = scaling lam
  and a = |x_i|, the larger root r of (r - a)(r + eps) + G = 0 where it is real, positive and better
  than 0, else 0.

  Args:
    x: float[...] or complex[...] array or pytree of arrays.
    hyperparams: pair (lam, eps): lam >= 0, eps > 0, each a scalar, an array of the shape of ``x``
      or a pytree prefix of ``x``; may be traced.
    scaling: >= 0, the step size; may be traced.

  Returns:
    Same structure, shapes and dtypes as ``x``. NaN entries stay NaN.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when lam is negative, eps is not positive, the scaling is negative, or shapes do not
      fit.

  Note:
    Where both candidates are equally good 0 is returned.

  Example:
    >>> prox_log_sum(jnp.array([-4.0, 1.0]), (1.0, 1.0)).round(2)
    Array([-3.79,  0.  ], dtype=float32)

  Reference:
    Candes, Wakin and Boyd, Enhancing sparsity by reweighted l1 minimization, 2008 (penalty);
    the choice between the candidates is checked by brute force.
  """
  lam, eps = _arguments.parts(hyperparams, "lam", "eps", example=(1.0, 0.5))
  x = start(x, scaling, complex_ok=True)

  def one(v: Array, s: Array, l: Array, e: Array) -> Array:
    return stationary(_log_sum, _log_sum_slopes, v, strength(s, l), e)

  return entrywise(
    one,
    x,
    scaling,
    spread("lam of hyperparams", lam, x),
    spread("eps of hyperparams", eps, x, check=_checks.check_positive),
  )


def penalty_log_sum(x: PyTree, hyperparams: Any) -> Array:
  r"""The log-sum penalty.

  Computes g(x) = sum_i lam log(1 + |x_i| / eps).

  Args:
    x: float[...] or complex[...] array or pytree of arrays.
    hyperparams: as in ``prox_log_sum``.

  Returns:
    float scalar.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when lam is negative, eps is not positive, or shapes do not fit.

  Example:
    >>> round(float(penalty_log_sum(jnp.array([3.0]), (1.0, 1.0))), 3)
    1.386

  Reference:
    Candes, Wakin and Boyd, Enhancing sparsity by reweighted l1 minimization, 2008 (penalty);
    the choice between the candidates is checked by brute force.
  """
  lam, eps = _arguments.parts(hyperparams, "lam", "eps", example=(1.0, 0.5))
  x = _checks.check_float_tree("x", x, complex_ok=True)
  return total_of(
    lambda v, l, e: l * _log1p_ratio(jnp.abs(v), e),
    x,
    spread("lam of hyperparams", lam, x),
    spread("eps of hyperparams", eps, x, check=_checks.check_positive),
  )


def prox_capped_l1(x: PyTree, hyperparams: Any, scaling: ArrayLike = 1.0) -> PyTree:
  r"""Proximal operator of the capped l1 penalty.

  Solves argmin_y 1/2 ||y - x||_2^2 + scaling * sum_i lam min(|y_i|, theta): with G = scaling lam,
  for G < 2 theta x where |x| > theta + G / 2, else soft thresholding at G; for G >= 2 theta x 1[|x|
  > sqrt(2 G theta)].

  Args:
    x: float[...] or complex[...] array or pytree of arrays.
    hyperparams: pair (lam, theta): lam >= 0, theta > 0, each a scalar, an array of the shape of
      ``x`` or a pytree prefix of ``x``; may be traced.
    scaling: >= 0, the step size; may be traced.

  Returns:
    Same structure, shapes and dtypes as ``x``. NaN entries stay NaN.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when lam is negative, theta is not positive, the scaling is negative, or shapes do
      not fit.

  Note:
    Two minimisers at |x_i| = theta + G / 2: the smaller is returned.

  Example:
    >>> prox_capped_l1(jnp.array([-4.0, 2.0]), (1.0, 3.0))
    Array([-4.,  1.], dtype=float32)

  Reference:
    Zhang, Analysis of multi-stage convex relaxation for sparse regularization, 2010.
  """
  lam, theta = _arguments.parts(hyperparams, "lam", "theta", example=(1.0, 3.0))
  x = start(x, scaling, complex_ok=True)

  def one(v: Array, s: Array, l: Array, t: Array) -> Array:
    a, g = jnp.abs(v), strength(s, l)
    low = jnp.where(a <= t + g / 2, soft_threshold(v, g), v)
    return jnp.where(g < 2 * t, low, hard_threshold(v, root(2 * g) * root(t)))

  return entrywise(
    one,
    x,
    scaling,
    spread("lam of hyperparams", lam, x),
    spread("theta of hyperparams", theta, x, check=_checks.check_positive),
  )


def penalty_capped_l1(x: PyTree, hyperparams: Any) -> Array:
  r"""The capped l1 penalty.

  Computes g(x) = sum_i lam min(|x_i|, theta).

  Args:
    x: float[...] or complex[...] array or pytree of arrays.
    hyperparams: as in ``prox_capped_l1``.

  Returns:
    float scalar.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when lam is negative, theta is not positive, or shapes do not fit.

  Example:
    >>> float(penalty_capped_l1(jnp.array([9.0]), (1.0, 3.0)))
    3.0

  Reference:
    Zhang, Analysis of multi-stage convex relaxation for sparse regularization, 2010.
  """
  lam, theta = _arguments.parts(hyperparams, "lam", "theta", example=(1.0, 3.0))
  x = _checks.check_float_tree("x", x, complex_ok=True)
  return total_of(
    lambda v, l, t: l * jnp.where(jnp.abs(v) < t, jnp.abs(v), t),
    x,
    spread("lam of hyperparams", lam, x),
    spread("theta of hyperparams", theta, x, check=_checks.check_positive),
  )


log_sum = Penalty(penalty_log_sum, prox_log_sum, convex=False)
capped_l1 = Penalty(penalty_capped_l1, prox_capped_l1, convex=False)
