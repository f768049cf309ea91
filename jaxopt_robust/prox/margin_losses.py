"""Losses of a classification margin: hinge, squared hinge, logistic."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.prox._common import entrywise, spread, start, total_of
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

_NEWTON_STEPS = 12  # of the logistic function: quadratic from a start within its bracket


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
    At the kinks the mean of both derivatives is returned.

  Example:
    >>> prox_hinge(jnp.array([-4.0, 0.5, 2.0]), 1.0)
    Array([-3.,  1.,  2.], dtype=float32)

  Reference:
    Combettes and Pesquet, Proximal splitting methods in signal processing, 2011, table 10.2.
  """
  x = start(x, scaling)
  return entrywise(
    lambda v, s, l: jnp.maximum(v, jnp.minimum(v + s * l, 1)), x, scaling, spread("lam", lam, x)
  )


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
  return total_of(lambda v, l: l * jnp.maximum(1 - v, 0), x, spread("lam", lam, x))


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
    At x_i = 1 the mean of both derivatives is returned.

  Example:
    >>> prox_squared_hinge(jnp.array([-1.0, 2.0]), 1.0)
    Array([0., 2.], dtype=float32)

  Reference:
    Combettes and Pesquet, Proximal splitting methods in signal processing, 2011, table 10.2.
  """
  x = start(x, scaling)
  return entrywise(
    lambda v, s, l: v + s * l * jnp.maximum(1 - v, 0) / (1 + s * l),
    x,
    scaling,
    spread("lam", lam, x),
  )


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
  return total_of(lambda v, l: l * jnp.maximum(1 - v, 0) ** 2 / 2, x, spread("lam", lam, x))


def prox_logistic(x: PyTree, lam: Any = None, scaling: ArrayLike = 1.0) -> PyTree:
  r"""Proximal operator of the logistic function.

  Solves argmin_y 1/2 ||y - x||_2^2 + scaling * sum_i lam_i log(1 + exp(-y_i)): the root of
  y - x_i = scaling lam_i / (1 + exp(y)), by safeguarded Newton in [x_i, x_i + scaling lam_i].

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
    No closed form; the derivative of the residual is at least 1, so that Newton is stable.

  Example:
    >>> round(float(prox_logistic(jnp.array([0.0]), 1.0)[0]), 2)
    0.4

  Reference:
    Parikh and Boyd, Proximal algorithms, 2014, chapter 6.
  """
  x = start(x, scaling)

  def one(v: Array, s: Array, l: Array) -> Array:
    g = s * l

    def newton(_: int, z: Array) -> Array:
      p = jax.nn.sigmoid(-z)
      z = z - (z - v - g * p) / (1 + g * p * (1 - p))
      return jnp.clip(z, min=v, max=v + g)

    return jax.lax.fori_loop(0, _NEWTON_STEPS, newton, v + g * jax.nn.sigmoid(-(v + g / 2)))

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
