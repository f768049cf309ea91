"""Losses of a residual as functions of one number: Huber, epsilon-insensitive, pinball."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.prox._common import entrywise, spread, start, strength, total_of
from jaxopt_robust.typing import Array, ArrayLike, Penalty, PyTree

__all__ = [
  "epsilon_insensitive",
  "huber",
  "penalty_epsilon_insensitive",
  "penalty_huber",
  "penalty_pinball",
  "pinball",
  "prox_epsilon_insensitive",
  "prox_huber",
  "prox_pinball",
]


def _unit(name: str, value: Any) -> None:
  _checks.check_interval(name, value, 0.0, 1.0)


def prox_huber(x: PyTree, hyperparams: Any, scaling: ArrayLike = 1.0) -> PyTree:
  r"""Proximal operator of the Huber function.

  Solves argmin_y 1/2 ||y - x||_2^2 + scaling * g(y) with g as in ``penalty_huber``: with G =
  scaling lam, x_i / (1 + G) where |x_i| <= delta (1 + G), else x_i - G delta sign(x_i).

  Args:
    x: float[...] or complex[...] array or pytree of arrays.
    hyperparams: pair (lam, delta): lam >= 0, delta > 0, each a scalar, an array of the shape of
      ``x`` or a pytree prefix of ``x``; may be traced.
    scaling: >= 0, the step size; may be traced.

  Returns:
    Same structure, shapes and dtypes as ``x``. NaN entries stay NaN.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when lam is negative, delta is not positive, the scaling is negative, or shapes do
      not fit.

  Note:
    At |x_i| = delta (1 + G) the two pieces meet; either derivative may be returned.

  Example:
    >>> prox_huber(jnp.array([-4.0, 1.0]), (1.0, 1.0))
    Array([-3. ,  0.5], dtype=float32)

  Reference:
    Huber, Robust estimation of a location parameter, 1964 (function); Combettes and Pesquet,
    Proximal splitting methods in signal processing, 2011, table 10.2.
  """
  lam, delta = _arguments.parts(hyperparams, "lam", "delta", example=(1.0, 1.0))
  x = start(x, scaling, complex_ok=True)

  def one(v: Array, s: Array, l: Array, d: Array) -> Array:
    g = strength(s, l)
    inner = v / (1 + g)
    return jnp.where(jnp.abs(inner) <= d, inner, v - jnp.sign(v) * g * d)

  return entrywise(
    one,
    x,
    scaling,
    spread("lam of hyperparams", lam, x),
    spread("delta of hyperparams", delta, x, check=_checks.check_positive),
  )


def penalty_huber(x: PyTree, hyperparams: Any) -> Array:
  r"""The Huber function.

  Computes g(x) = sum_i lam h(x_i) with h(t) = t^2 / 2 for |t| <= delta and delta |t| - delta^2 / 2
  beyond.

  Args:
    x: float[...] or complex[...] array or pytree of arrays.
    hyperparams: as in ``prox_huber``.

  Returns:
    float scalar.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when lam is negative, delta is not positive, or shapes do not fit.

  Example:
    >>> float(penalty_huber(jnp.array([3.0]), (1.0, 1.0)))
    2.5

  Reference:
    Huber, Robust estimation of a location parameter, 1964 (function); Combettes and Pesquet,
    Proximal splitting methods in signal processing, 2011, table 10.2.
  """
  lam, delta = _arguments.parts(hyperparams, "lam", "delta", example=(1.0, 1.0))
  x = _checks.check_float_tree("x", x, complex_ok=True)

  def one(v: Array, l: Array, d: Array) -> Array:
    a = jnp.abs(v)
    low, top = jnp.where(a <= d, a, 0), jnp.where(a <= d, 0, d)  # what is not taken is 0
    return l * low * (low / 2) + l * top * (a - top / 2)

  return total_of(
    one,
    x,
    spread("lam of hyperparams", lam, x),
    spread("delta of hyperparams", delta, x, check=_checks.check_positive),
  )


def prox_epsilon_insensitive(x: PyTree, hyperparams: Any, scaling: ArrayLike = 1.0) -> PyTree:
  r"""Proximal operator of the epsilon-insensitive absolute value.

  Solves argmin_y 1/2 ||y - x||_2^2 + scaling * g(y) with g as in ``penalty_epsilon_insensitive``:
  with G = scaling lam, x_i inside the tube |x_i| <= eps, eps sign(x_i) up to eps + G, x_i - G
  sign(x_i) beyond.

  Args:
    x: float[...] or complex[...] array or pytree of arrays.
    hyperparams: pair (lam, eps): both >= 0, each a scalar, an array of the shape of ``x`` or a
      pytree prefix of ``x``; may be traced.
    scaling: >= 0, the step size; may be traced.

  Returns:
    Same structure, shapes and dtypes as ``x``. NaN entries stay NaN.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when lam or eps is negative, the scaling is negative, or shapes do not
      fit.

  Note:
    At the kinks one of the two derivatives 0 and 1 is returned, or their mean.

  Example:
    >>> prox_epsilon_insensitive(jnp.array([-4.0, 1.5, 0.5]), (1.0, 1.0))
    Array([-3. ,  1. ,  0.5], dtype=float32)

  Reference:
    Drucker et al., Support vector regression machines, 1996 (function); its operator is derived and
    checked by brute force.
  """
  lam, eps = _arguments.parts(hyperparams, "lam", "eps", example=(1.0, 0.5))
  x = start(x, scaling, complex_ok=True)

  def one(v: Array, s: Array, l: Array, e: Array) -> Array:
    a = jnp.abs(v)
    moved = a - strength(s, l)
    return jnp.where(a <= e, v, jnp.sign(v) * jnp.maximum(moved, e))

  return entrywise(
    one, x, scaling, spread("lam of hyperparams", lam, x), spread("eps of hyperparams", eps, x)
  )


def penalty_epsilon_insensitive(x: PyTree, hyperparams: Any) -> Array:
  r"""The epsilon-insensitive absolute value.

  Computes g(x) = sum_i lam max(|x_i| - eps, 0).

  Args:
    x: float[...] or complex[...] array or pytree of arrays.
    hyperparams: as in ``prox_epsilon_insensitive``.

  Returns:
    float scalar.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when lam or eps is negative, or shapes do not fit.

  Example:
    >>> float(penalty_epsilon_insensitive(jnp.array([3.0]), (1.0, 1.0)))
    2.0

  Reference:
    Drucker et al., Support vector regression machines, 1996 (function); its operator is derived and
    checked by brute force.
  """
  lam, eps = _arguments.parts(hyperparams, "lam", "eps", example=(1.0, 0.5))
  x = _checks.check_float_tree("x", x, complex_ok=True)
  return total_of(
    lambda v, l, e: l * jnp.maximum(jnp.abs(v) - e, 0),
    x,
    spread("lam of hyperparams", lam, x),
    spread("eps of hyperparams", eps, x),
  )


def prox_pinball(x: PyTree, hyperparams: Any, scaling: ArrayLike = 1.0) -> PyTree:
  r"""Proximal operator of the pinball (quantile) function.

  Solves argmin_y 1/2 ||y - x||_2^2 + scaling * g(y) with g as in ``penalty_pinball``: with G =
  scaling lam, x_i - G tau above G tau, x_i + G (1 - tau) below -G (1 - tau), 0 between.

  Args:
    x: float[...] array or pytree of arrays.
    hyperparams: pair (lam, tau): lam >= 0, tau in [0, 1], each a scalar, an array of the shape of
      ``x`` or a pytree prefix of ``x``; may be traced.
    scaling: >= 0, the step size; may be traced.

  Returns:
    Same structure, shapes and dtypes as ``x``. NaN entries stay NaN.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when lam is negative, tau is outside [0, 1], the scaling is negative, or shapes do
      not fit.

  Note:
    tau is the quantile; tau = 1/2 is soft thresholding at scaling lam / 2.

  Example:
    >>> prox_pinball(jnp.array([-4.0, 0.5, 2.0]), (1.0, 0.75))
    Array([-3.75,  0.  ,  1.25], dtype=float32)

  Reference:
    Koenker and Bassett, Regression quantiles, 1978 (function); its operator is derived and checked
    by brute force.
  """
  lam, tau = _arguments.parts(hyperparams, "lam", "tau", example=(1.0, 0.5))
  x = start(x, scaling)

  def one(v: Array, s: Array, l: Array, t: Array) -> Array:
    g = strength(s, l)
    return jax.nn.relu(v - g * t) - jax.nn.relu(-v - g * (1 - t))

  return entrywise(
    one,
    x,
    scaling,
    spread("lam of hyperparams", lam, x),
    spread("tau of hyperparams", tau, x, check=_unit),
  )


def penalty_pinball(x: PyTree, hyperparams: Any) -> Array:
  r"""The pinball (quantile) function.

  Computes g(x) = sum_i lam max(tau x_i, (tau - 1) x_i).

  Args:
    x: float[...] array or pytree of arrays.
    hyperparams: as in ``prox_pinball``.

  Returns:
    float scalar.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when lam is negative, tau is outside [0, 1], or shapes do not fit.

  Example:
    >>> float(penalty_pinball(jnp.array([-4.0]), (1.0, 0.75)))
    1.0

  Reference:
    Koenker and Bassett, Regression quantiles, 1978 (function); its operator is derived and checked
    by brute force.
  """
  lam, tau = _arguments.parts(hyperparams, "lam", "tau", example=(1.0, 0.5))
  x = _checks.check_float_tree("x", x)
  return total_of(
    lambda v, l, t: l * jnp.maximum(t * v, (t - 1) * v),
    x,
    spread("lam of hyperparams", lam, x),
    spread("tau of hyperparams", tau, x, check=_unit),
  )


huber = Penalty(penalty_huber, prox_huber)
epsilon_insensitive = Penalty(penalty_epsilon_insensitive, prox_epsilon_insensitive)
pinball = Penalty(penalty_pinball, prox_pinball)
