"""Powers of the absolute value above one: 3/2, 3 and 4."""

from typing import Any

import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.prox._common import entrywise, root, spread, start, strength, total_of
from jaxopt_robust.prox._stationary import stationary
from jaxopt_robust.prox.nonconvex_powers import cbrt
from jaxopt_robust.typing import Array, ArrayLike, Penalty, PyTree

__all__ = [
  "cube",
  "fourth_power",
  "penalty_cube",
  "penalty_fourth_power",
  "penalty_three_halves",
  "prox_cube",
  "prox_fourth_power",
  "prox_three_halves",
  "three_halves",
]

_ROOT_12 = 12.0**0.5  # not under the root: 12 G may overflow where G does not


def _three_halves(v: Array, g: Array) -> Array:
  a = jnp.abs(v)
  bottom = 1.5 * g + jnp.hypot(1.5 * g, 2 * jnp.sqrt(a))
  flat = bottom == 0  # a = 0 and no penalty
  u = 2 * a / jnp.where(flat, 1, bottom)
  return jnp.sign(v) * jnp.where(g > 0, u * u, a)


def _three_halves_slopes(y: Array, v: Array, g: Array) -> tuple[Array, Array]:
  u = root(jnp.abs(y))
  bottom = u + 0.75 * g
  flat = bottom == 0
  gain = jnp.where(flat, 1, u / jnp.where(flat, 1, bottom))
  return gain, -1.5 * jnp.sign(v) * u * gain


def _cube(v: Array, g: Array) -> Array:
  return 2 * v / (1 + jnp.hypot(jnp.ones_like(v), jnp.sqrt(g) * (_ROOT_12 * jnp.sqrt(jnp.abs(v)))))


def _cube_slopes(y: Array, v: Array, g: Array) -> tuple[Array, Array]:
  gain = 1 / (1 + 6 * (g * jnp.abs(y)))
  return gain, -3 * (jnp.abs(y) * gain) * y


def _fourth_power(v: Array, g: Array) -> Array:
  w = _ROOT_12 / 2 * jnp.sqrt(g)
  free = w == 0
  safe = jnp.where(free, 1, w)
  p = 3 * safe * jnp.abs(v)
  # sinh(asinh(p) / 3) is the cube root of p / 4 to rounding from here on; p itself may overflow
  large = p > 10 * jnp.finfo(v.dtype).eps ** -1.5
  inner = jnp.sinh(jnp.arcsinh(jnp.where(large, 0, p)) / 3) / safe
  outer = cbrt(jnp.abs(v) / 4) / cbrt(jnp.where(free, 1, g))
  return jnp.sign(v) * jnp.where(free, jnp.abs(v), jnp.where(large, outer, inner))


def _fourth_power_slopes(y: Array, v: Array, g: Array) -> tuple[Array, Array]:
  t = jnp.sqrt(g) * y
  gain = 1 / (1 + 12 * t * t)
  return gain, -4 * (y * gain * y) * y


def prox_three_halves(x: PyTree, lam: Any = None, scaling: ArrayLike = 1.0) -> PyTree:
  r"""Proximal operator of the power 3/2.

  Solves argmin_y 1/2 ||y - x||_2^2 + scaling * sum_i lam_i |y_i|^{3/2}: with G = scaling lam_i and
  a = |x_i|, |y_i| = u^2 for the positive root u of u^2 + (3/2) G u = a.

  Args:
    x: float[...] or complex[...] array or pytree of arrays.
    lam: >= 0, a scalar, an array of the shape of ``x`` or a pytree prefix of ``x``; may be traced.
      None means 1.
    scaling: >= 0, the step size; may be traced.

  Returns:
    Same structure, shapes and dtypes as ``x``. NaN entries stay NaN.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when a strength or the scaling is negative, or shapes do not fit.

  Note:
    The root is written as 2 a / ((3/2) G + sqrt((9/4) G^2 + 4 a)): nothing cancels for a << G^2.

  Example:
    >>> prox_three_halves(jnp.array([-2.5, 0.0]), 1.0)
    Array([-1.,  0.], dtype=float32)

  Reference:
    Chaux, Combettes, Pesquet and Wajs, A variational formulation for frame-based inverse problems,
    2007, example 4.4.
  """
  x = start(x, scaling, complex_ok=True)

  def one(v: Array, s: Array, l: Array) -> Array:
    return stationary(_three_halves, _three_halves_slopes, v, strength(s, l))

  return entrywise(one, x, scaling, spread("lam", lam, x))


def penalty_three_halves(x: PyTree, lam: Any = None) -> Array:
  r"""The power 3/2 of the absolute value.

  Computes g(x) = sum_i lam_i |x_i|^{3/2}.

  Args:
    x: float[...] or complex[...] array or pytree of arrays.
    lam: >= 0 as in ``prox_three_halves``.

  Returns:
    float scalar.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when a strength is negative or shapes do not fit.

  Example:
    >>> float(penalty_three_halves(jnp.array([-4.0]), 0.5))
    4.0

  Reference:
    Chaux, Combettes, Pesquet and Wajs, A variational formulation for frame-based inverse problems,
    2007.
  """
  x = _checks.check_float_tree("x", x, complex_ok=True)
  return total_of(lambda v, l: l * jnp.abs(v) * root(jnp.abs(v)), x, spread("lam", lam, x))


def prox_cube(x: PyTree, lam: Any = None, scaling: ArrayLike = 1.0) -> PyTree:
  r"""Proximal operator of the cube of the absolute value.

  Solves argmin_y 1/2 ||y - x||_2^2 + scaling * sum_i lam_i |y_i|^3, by
  y_i = 2 x_i / (1 + sqrt(1 + 12 scaling lam_i |x_i|)).

  Args:
    x: float[...] or complex[...] array or pytree of arrays.
    lam: >= 0, a scalar, an array of the shape of ``x`` or a pytree prefix of ``x``; may be traced.
      None means 1.
    scaling: >= 0, the step size; may be traced.

  Returns:
    Same structure, shapes and dtypes as ``x``. NaN entries stay NaN.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when a strength or the scaling is negative, or shapes do not fit.

  Example:
    >>> prox_cube(jnp.array([-4.0, 0.0]), 1.0)
    Array([-1.,  0.], dtype=float32)

  Reference:
    Chaux, Combettes, Pesquet and Wajs, A variational formulation for frame-based inverse problems,
    2007, example 4.4.
  """
  x = start(x, scaling, complex_ok=True)

  def one(v: Array, s: Array, l: Array) -> Array:
    return stationary(_cube, _cube_slopes, v, strength(s, l))

  return entrywise(one, x, scaling, spread("lam", lam, x))


def penalty_cube(x: PyTree, lam: Any = None) -> Array:
  r"""The cube of the absolute value.

  Computes g(x) = sum_i lam_i |x_i|^3.

  Args:
    x: float[...] or complex[...] array or pytree of arrays.
    lam: >= 0 as in ``prox_cube``.

  Returns:
    float scalar.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when a strength is negative or shapes do not fit.

  Example:
    >>> float(penalty_cube(jnp.array([-2.0]), 0.5))
    4.0

  Reference:
    Chaux, Combettes, Pesquet and Wajs, A variational formulation for frame-based inverse problems,
    2007.
  """
  x = _checks.check_float_tree("x", x, complex_ok=True)
  return total_of(lambda v, l: l * jnp.abs(v) * v * v, x, spread("lam", lam, x))


def prox_fourth_power(x: PyTree, lam: Any = None, scaling: ArrayLike = 1.0) -> PyTree:
  r"""Proximal operator of the fourth power.

  Solves argmin_y 1/2 ||y - x||_2^2 + scaling * sum_i lam_i y_i^4, by
  y_i = sinh( asinh(3 w x_i) / 3 ) / w with w = sqrt(3 scaling lam_i).

  Args:
    x: float[...] or complex[...] array or pytree of arrays.
    lam: >= 0, a scalar, an array of the shape of ``x`` or a pytree prefix of ``x``; may be traced.
      None means 1.
    scaling: >= 0, the step size; may be traced.

  Returns:
    Same structure, shapes and dtypes as ``x``. NaN entries stay NaN.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when a strength or the scaling is negative, or shapes do not fit.

  Note:
    The hyperbolic form of the root of y + 4 scaling lam y^3 = x: the difference of cube roots of
    Cardano's formula cancels for small strengths, this does not.

  Example:
    >>> prox_fourth_power(jnp.array([-5.0, 0.0]), 1.0).round(4)
    Array([-1.,  0.], dtype=float32)

  Reference:
    Chaux, Combettes, Pesquet and Wajs, A variational formulation for frame-based inverse problems,
    2007, example 4.4; the hyperbolic form is ours.
  """
  x = start(x, scaling, complex_ok=True)

  def one(v: Array, s: Array, l: Array) -> Array:
    return stationary(_fourth_power, _fourth_power_slopes, v, strength(s, l))

  return entrywise(one, x, scaling, spread("lam", lam, x))


def penalty_fourth_power(x: PyTree, lam: Any = None) -> Array:
  r"""The fourth power.

  Computes g(x) = sum_i lam_i x_i^4.

  Args:
    x: float[...] or complex[...] array or pytree of arrays.
    lam: >= 0 as in ``prox_fourth_power``.

  Returns:
    float scalar.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when a strength is negative or shapes do not fit.

  Example:
    >>> float(penalty_fourth_power(jnp.array([-2.0]), 0.5))
    8.0

  Reference:
    Chaux, Combettes, Pesquet and Wajs, A variational formulation for frame-based inverse problems,
    2007.
  """
  x = _checks.check_float_tree("x", x, complex_ok=True)
  return total_of(lambda v, l: l * v * v * v * v, x, spread("lam", lam, x))


three_halves = Penalty(penalty_three_halves, prox_three_halves)
cube = Penalty(penalty_cube, prox_cube)
fourth_power = Penalty(penalty_fourth_power, prox_fourth_power)
