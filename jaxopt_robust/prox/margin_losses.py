"""Losses of a classification margin: hinge, squared hinge, logistic."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.prox._common import entrywise, spread, start, strength, total_of
from jaxopt_robust.prox._stationary import monotone_newton, stationary
from jaxopt_robust.prox.barriers import log_root
from jaxopt_robust.typing import Array, ArrayLike, Penalty, PyTree

__all__ = [
  "hinge",
  "logistic",
  "penalty_hinge",
  "penalty_logistic",
  "penalty_squared_hinge",
  "prox_hinge",
  "prox_logistic",
  "prox_squared_hinge",
  "squared_hinge",
]


def _hinge(v: Array, g: Array) -> Array:
  # by the region of v: a maximum would tie, and halve the slope, where g is lost in v + g
  return jnp.where(v >= 1, v, jnp.where(v + g < 1, v + g, 1))


def _squared_hinge(v: Array, g: Array) -> Array:
  return jnp.where(v < 1, v / (1 + g) + g / (1 + g), v)


def _squared_hinge_slopes(y: Array, v: Array, g: Array) -> tuple[Array, Array]:
  share = 1 / (1 + g)
  return jnp.where(v < 1, share, 1), jnp.where(v < 1, (1 - v) * share * share, 0)


def _logistic_equation(z: Array, v: Array, g: Array) -> tuple[Array, Array]:
  p = jax.nn.sigmoid(-z)  # at most 1/2
  return z - v - g * p, 1 + g * p * (1 - p)


def _logistic(v: Array, g: Array) -> Array:
  # z - v = g / (1 + exp(z)) stays the same with z, v -> -z, -(v + g): z >= 0 is enough, where
  # z - v - g / (1 + exp(z)) is concave.
  flip = v + g / 2 < 0
  w = jnp.where(flip, -(v + g), v)
  low = jnp.maximum(w, 0)
  # For z >= 0 the fraction lies between g exp(-z) / 2 and g exp(-z), whose roots w + u with
  # u + log u = log g - w (- log 2) are at most log 2 apart. From e <= log 2 a step leaves e^2 / 2,
  # since the second derivative is at most the first: 0.25, 0.03, 4e-4, 9e-8, 4e-15, rounding.
  log_g = jnp.log(jnp.where(g > 0, g, 1))
  u = jnp.exp(log_root(log_g - w - jnp.log(2.0).astype(v.dtype), 1))
  start = jnp.clip(w + u, low, w + g / 2)
  # Far below 0 the sum w + u has no digits left. There z + log(z - w) = log g - log 2 is a
  # contraction by 1 / (z - w): each pass divides an error of at most log(g / -w) by 16 and more.
  is_far = w < -16
  depth = jnp.where(is_far, -w, 1)
  ratio = jnp.log(jnp.where(is_far & (g > 0), g / depth / 2, 1))
  far = ratio
  for _ in range(3):
    far = jnp.maximum(ratio - jnp.log1p(jnp.maximum(far, 0) / depth), 0)
  start = jnp.where(is_far, far, start)
  steps = 6 if v.dtype == jnp.float64 else 5
  z = monotone_newton(_logistic_equation, start, steps, w, g, low=low)
  return jnp.where(g > 0, jnp.where(flip, -z, z), v)


def _logistic_slopes(y: Array, v: Array, g: Array) -> tuple[Array, Array]:
  p, q = jax.nn.sigmoid(-y), jax.nn.sigmoid(y)
  gain = 1 / (1 + g * p * q)
  return gain, p * gain


def prox_hinge(x: PyTree, lam: Any = None, scaling: ArrayLike = 1.0) -> PyTree:
  r"""Proximal operator of the hinge function.

  Solves argmin_y 1/2 ||y - x||_2^2 + scaling * sum_i lam_i max(1 - y_i, 0): with G = scaling lam_i,
  x_i + G below 1 - G, 1 up to 1, x_i beyond.

  Args:
    x: float[...] array or pytree of arrays.
    lam: >= 0, a scalar, an array of the shape of ``x`` or a pytree prefix of ``x``; may be traced.
      None means 1.
    scaling: >= 0, the step size; may be traced.

  Returns:
    Same structure, shapes and dtypes as ``x``. NaN entries stay NaN.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when a strength is negative, the scaling is negative, or shapes do not
      fit.

  Note:
    At the kinks one of the two derivatives is returned: 0 at 1 - G, 1 at 1.

  Example:
    >>> prox_hinge(jnp.array([-4.0, 0.5, 2.0]), 1.0)
    Array([-3.,  1.,  2.], dtype=float32)

  Reference:
    Combettes and Pesquet, Proximal splitting methods in signal processing, 2011, table 10.2.
  """
  x = start(x, scaling)
  return entrywise(lambda v, s, l: _hinge(v, strength(s, l)), x, scaling, spread("lam", lam, x))


def penalty_hinge(x: PyTree, lam: Any = None) -> Array:
  r"""The hinge function.

  Computes g(x) = sum_i lam_i max(1 - x_i, 0).

  Args:
    x: float[...] array or pytree of arrays.
    lam: >= 0 as in ``prox_hinge``.

  Returns:
    float scalar.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when a strength is negative, or shapes do not fit.

  Example:
    >>> float(penalty_hinge(jnp.array([-1.0]), 0.5))
    1.0

  Reference:
    Combettes and Pesquet, Proximal splitting methods in signal processing, 2011, table 10.2.
  """
  x = _checks.check_float_tree("x", x)
  return total_of(lambda v, l: l * jax.nn.relu(1 - v), x, spread("lam", lam, x))


def prox_squared_hinge(x: PyTree, lam: Any = None, scaling: ArrayLike = 1.0) -> PyTree:
  r"""Proximal operator of half the squared hinge function.

  Solves argmin_y 1/2 ||y - x||_2^2 + scaling * sum_i (lam_i / 2) max(1 - y_i, 0)^2: with
  G = scaling lam_i, (x_i + G) / (1 + G) below 1, x_i beyond.

  Args:
    x: float[...] array or pytree of arrays.
    lam: >= 0, a scalar, an array of the shape of ``x`` or a pytree prefix of ``x``; may be traced.
      None means 1.
    scaling: >= 0, the step size; may be traced.

  Returns:
    Same structure, shapes and dtypes as ``x``. NaN entries stay NaN.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when a strength is negative, the scaling is negative, or shapes do not
      fit.

  Note:
    At x_i = 1 the derivative is 1.

  Example:
    >>> prox_squared_hinge(jnp.array([-1.0, 2.0]), 1.0)
    Array([0., 2.], dtype=float32)

  Reference:
    Combettes and Pesquet, Proximal splitting methods in signal processing, 2011, table 10.2.
  """
  x = start(x, scaling)

  def one(v: Array, s: Array, l: Array) -> Array:
    return stationary(_squared_hinge, _squared_hinge_slopes, v, strength(s, l))

  return entrywise(one, x, scaling, spread("lam", lam, x))


def penalty_squared_hinge(x: PyTree, lam: Any = None) -> Array:
  r"""Half the squared hinge function.

  Computes g(x) = sum_i (lam_i / 2) max(1 - x_i, 0)^2.

  Args:
    x: float[...] array or pytree of arrays.
    lam: >= 0 as in ``prox_squared_hinge``.

  Returns:
    float scalar.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when a strength is negative, or shapes do not fit.

  Example:
    >>> float(penalty_squared_hinge(jnp.array([-1.0]), 0.5))
    1.0

  Reference:
    Combettes and Pesquet, Proximal splitting methods in signal processing, 2011, table 10.2.
  """
  x = _checks.check_float_tree("x", x)
  return total_of(
    lambda v, l: l * jax.nn.relu(1 - v) * (jax.nn.relu(1 - v) / 2), x, spread("lam", lam, x)
  )


def prox_logistic(x: PyTree, lam: Any = None, scaling: ArrayLike = 1.0) -> PyTree:
  r"""Proximal operator of the logistic function.

  Solves argmin_y 1/2 ||y - x||_2^2 + scaling * sum_i lam_i log(1 + exp(-y_i)): the root of
  y - x_i = scaling lam_i / (1 + exp(y)), by Newton from one side.

  Args:
    x: float[...] array or pytree of arrays.
    lam: >= 0, a scalar, an array of the shape of ``x`` or a pytree prefix of ``x``; may be traced.
      None means 1.
    scaling: >= 0, the step size; may be traced.

  Returns:
    Same structure, shapes and dtypes as ``x``. NaN entries stay NaN.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when a strength is negative, the scaling is negative, or shapes do not
      fit.

  Note:
    No closed form. The start is within log 2 of the root on a concave function, so that every x and
    strength converge. The derivative is that of the equation.

  Example:
    >>> round(float(prox_logistic(jnp.array([0.0]), 1.0)[0]), 2)
    0.4

  Reference:
    Parikh and Boyd, Proximal algorithms, 2014, chapter 6.
  """
  x = start(x, scaling)

  def one(v: Array, s: Array, l: Array) -> Array:
    return stationary(_logistic, _logistic_slopes, v, strength(s, l))

  return entrywise(one, x, scaling, spread("lam", lam, x))


def penalty_logistic(x: PyTree, lam: Any = None) -> Array:
  r"""The logistic function.

  Computes g(x) = sum_i lam_i log(1 + exp(-x_i)).

  Args:
    x: float[...] array or pytree of arrays.
    lam: >= 0 as in ``prox_logistic``.

  Returns:
    float scalar.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when a strength is negative, or shapes do not fit.

  Example:
    >>> round(float(penalty_logistic(jnp.array([0.0]), 1.0)), 3)
    0.693

  Reference:
    Parikh and Boyd, Proximal algorithms, 2014, chapter 6.
  """
  x = _checks.check_float_tree("x", x)
  return total_of(lambda v, l: l * jax.nn.softplus(-v), x, spread("lam", lam, x))


hinge = Penalty(penalty_hinge, prox_hinge)
squared_hinge = Penalty(penalty_squared_hinge, prox_squared_hinge)
logistic = Penalty(penalty_logistic, prox_logistic)
