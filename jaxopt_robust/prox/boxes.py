"""Boxes, and the separable quadratic."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.prox._common import entrywise, spread, start, total_of
from jaxopt_robust.prox._stationary import stationary
from jaxopt_robust.typing import Array, ArrayLike, Penalty, PyTree

__all__ = [
  "box",
  "penalty_box",
  "penalty_quadratic",
  "prox_box",
  "prox_quadratic",
  "quadratic",
]


def _any_number(name: str, value: Any) -> None:
  _checks.check_interval(name, value, -np.inf, np.inf, closed="neither")


def _not_nan(name: str, value: Any) -> None:
  _checks.check_interval(name, value, -np.inf, np.inf)


def _bounds(low: Any, high: Any, x: PyTree) -> tuple[PyTree, PyTree]:
  lows = spread("low of hyperparams", low, x, check=_not_nan)
  highs = spread("high of hyperparams", high, x, check=_not_nan)
  for a, b in zip(jax.tree.leaves(lows), jax.tree.leaves(highs), strict=True):
    if _checks.is_concrete((a, b)) and np.any(np.asarray(a) > np.asarray(b)):
      raise ValueError("low of hyperparams must be at most high everywhere; got a larger one.")
  return lows, highs


def _weight(s: Array, c: Array) -> Array:
  """s / (1 + s c), whose parts may overflow."""
  large = s > 1
  return jnp.where(large, 1 / (1 / jnp.where(large, s, 1) + c), s / (1 + jnp.minimum(s, 1) * c))


def _quadratic(v: Array, s: Array, c: Array, b: Array) -> Array:
  return v / (1 + s * c) + _weight(s, c) * b


def _quadratic_slopes(y: Array, v: Array, s: Array, c: Array, b: Array) -> tuple:
  gain = 1 / (1 + s * c)
  weight = _weight(s, c)
  return gain, (b * gain - c * gain * v) * gain, -weight * y, weight


def prox_box(x: PyTree, hyperparams: Any, scaling: ArrayLike = 1.0) -> PyTree:
  r"""Projection on a box, as a proximal operator.

  Solves argmin_{low <= y <= high} 1/2 ||y - x||_2^2 by clipping,
  y_i = min(max(x_i, low), high).

  Args:
    x: float[...] array or pytree of arrays.
    hyperparams: pair (low, high), low <= high, each a scalar, an array of the shape of ``x`` or a
      pytree prefix of ``x``; infinite bounds are allowed; may be traced.
    scaling: >= 0, the step size; may be traced.

  Returns:
    Same structure, shapes and dtypes as ``x``. NaN entries stay NaN.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when a known low is above its high, the scaling is negative, or shapes do not
      fit.

  Note:
    At a bound the mean of the derivatives 0 and 1 is returned. ``scaling`` does not matter.

  Example:
    >>> prox_box(jnp.array([-1.0, 0.5, 2.0]), (0.0, 1.0))
    Array([0. , 0.5, 1. ], dtype=float32)

  Reference:
    Parikh and Boyd, Proximal algorithms, 2014, chapter 6.
  """
  low, high = _arguments.parts(hyperparams, "low", "high", example=(0.0, 1.0))
  x = start(x, scaling)
  low, high = _bounds(low, high, x)
  return entrywise(lambda v, s, a, b: jnp.minimum(jnp.maximum(v, a), b), x, scaling, low, high)


def penalty_box(x: PyTree, hyperparams: Any) -> Array:
  r"""Indicator of a box.

  Computes g(x) = 0 if low <= x_i <= high for all i, else +inf.

  Args:
    x: float[...] array or pytree of arrays.
    hyperparams: as in ``prox_box``.

  Returns:
    float scalar.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when a known low is above its high, or shapes do not fit.

  Example:
    >>> float(penalty_box(jnp.array([0.5]), (0.0, 1.0)))
    0.0

  Reference:
    Parikh and Boyd, Proximal algorithms, 2014, chapter 6.
  """
  low, high = _arguments.parts(hyperparams, "low", "high", example=(0.0, 1.0))
  x = _checks.check_float_tree("x", x)
  low, high = _bounds(low, high, x)
  return total_of(
    lambda v, a, b: jnp.where((v < a) | (v > b), jnp.inf, jnp.zeros_like(v)), x, low, high
  )


def prox_quadratic(x: PyTree, hyperparams: Any, scaling: ArrayLike = 1.0) -> PyTree:
  r"""Proximal operator of a separable quadratic.

  Solves argmin_y 1/2 ||y - x||_2^2 + scaling * sum_i ((c_i / 2) y_i^2 - b_i y_i), by
  y_i = (x_i + scaling b_i) / (1 + scaling c_i).

  Args:
    x: float[...] array or pytree of arrays.
    hyperparams: pair (curvature, linear): curvature >= 0, linear finite, each a scalar, an array of
      the shape of ``x`` or a pytree prefix of ``x``; may be traced.
    scaling: >= 0, the step size; may be traced.

  Returns:
    Same structure, shapes and dtypes as ``x``. NaN entries stay NaN.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when curvature is negative, linear is not finite, the scaling is negative, or shapes
      do not fit.

  Note:
    With c = 1 it is 1/2 ||x - b||^2 up to a constant.

  Example:
    >>> prox_quadratic(jnp.array([1.0]), (1.0, 3.0))
    Array([2.], dtype=float32)

  Reference:
    Parikh and Boyd, Proximal algorithms, 2014, chapter 6.
  """
  curvature, linear = _arguments.parts(hyperparams, "curvature", "linear", example=(1.0, 0.5))
  x = start(x, scaling)
  return entrywise(
    lambda v, s, c, b: stationary(_quadratic, _quadratic_slopes, v, s, c, b), x, scaling,
    spread("curvature of hyperparams", curvature, x),
    spread("linear of hyperparams", linear, x, check=_any_number),
  )  # fmt: skip


def penalty_quadratic(x: PyTree, hyperparams: Any) -> Array:
  r"""A separable quadratic.

  Computes g(x) = sum_i (c_i / 2) x_i^2 - b_i x_i with (c, b) = (curvature, linear).

  Args:
    x: float[...] array or pytree of arrays.
    hyperparams: as in ``prox_quadratic``.

  Returns:
    float scalar.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when curvature is negative, linear is not finite, or shapes do not fit.

  Example:
    >>> float(penalty_quadratic(jnp.array([2.0]), (1.0, 3.0)))
    -4.0

  Reference:
    Parikh and Boyd, Proximal algorithms, 2014, chapter 6.
  """
  curvature, linear = _arguments.parts(hyperparams, "curvature", "linear", example=(1.0, 0.5))
  x = _checks.check_float_tree("x", x)
  return total_of(
    lambda v, c, b: v * (c * v / 2 - b), x,
    spread("curvature of hyperparams", curvature, x),
    spread("linear of hyperparams", linear, x, check=_any_number),
  )  # fmt: skip


box = Penalty(penalty_box, prox_box)
quadratic = Penalty(penalty_quadratic, prox_quadratic)
