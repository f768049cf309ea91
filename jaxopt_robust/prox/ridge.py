"""The squared l2 family: ridge and non-negative ridge."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.prox._common import scaled_for, spread, start, total_of
from jaxopt_robust.typing import Array, ArrayLike, Penalty, PyTree

__all__ = [
  "non_negative_ridge",
  "penalty_non_negative_ridge",
  "penalty_ridge",
  "prox_non_negative_ridge",
  "prox_ridge",
  "ridge",
]


def prox_ridge(x: PyTree, l2reg: Any = 1.0, scaling: ArrayLike = 1.0) -> PyTree:
  r"""Shrinkage, the proximal operator of half the squared l2 norm.

  Solves argmin_y 1/2 ||y - x||_2^2 + scaling * sum_i (lam_i / 2) y_i^2 with lam = l2reg, by
  y_i = x_i / (1 + scaling lam_i).

  Args:
    x: float[...] or complex[...] array or pytree of arrays.
    l2reg: lam >= 0, a scalar, an array of the shape of ``x`` or a pytree prefix of ``x``; may be
      traced. None means 1.
    scaling: >= 0, the step size; may be traced.

  Returns:
    Same structure, shapes and dtypes as ``x``.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when a strength or the scaling is negative, or shapes do not fit.

  Note:
    The factor 1/2 is part of the penalty. jaxopt's operator of this name computes the same numbers,
    although its documentation leaves the 1/2 out.

  Example:
    >>> prox_ridge(jnp.array([2.0, -4.0]), 1.0)
    Array([ 1., -2.], dtype=float32)

  Reference:
    Parikh and Boyd, Proximal algorithms, 2014, section 6.1.1.
  """
  x = start(x, scaling, complex_ok=True)
  return jax.tree.map(
    lambda v, lam: v / (1 + scaled_for(scaling, v) * lam), x, spread("l2reg", l2reg, x)
  )


def penalty_ridge(x: PyTree, l2reg: Any = 1.0) -> Array:
  r"""Half the weighted squared l2 norm.

  Computes g(x) = sum_i (lam_i / 2) x_i^2 with lam = l2reg.

  Args:
    x: float[...] or complex[...] array or pytree of arrays.
    l2reg: lam >= 0 as in ``prox_ridge``.

  Returns:
    float scalar.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when a strength is negative or shapes do not fit.

  Example:
    >>> float(penalty_ridge(jnp.array([2.0, 2.0]), 1.0))
    4.0

  Reference:
    Hoerl and Kennard, Ridge regression: biased estimation for nonorthogonal problems, 1970.
  """
  x = _checks.check_float_tree("x", x, complex_ok=True)
  return total_of(lambda v, lam: 0.5 * lam * v * v, x, spread("l2reg", l2reg, x))


def prox_non_negative_ridge(x: PyTree, l2reg: Any = 1.0, scaling: ArrayLike = 1.0) -> PyTree:
  r"""Proximal operator of half the squared l2 norm on the non-negative orthant.

  Solves argmin_{y >= 0} 1/2 ||y - x||_2^2 + scaling * sum_i (lam_i / 2) y_i^2 with lam = l2reg, by
  y_i = max(x_i, 0) / (1 + scaling lam_i).

  Args:
    x: float[...] array or pytree of arrays.
    l2reg: lam >= 0, a scalar, an array of the shape of ``x`` or a pytree prefix of ``x``; may be
      traced. None means 1.
    scaling: >= 0, the step size; may be traced.

  Returns:
    Same structure, shapes and dtypes as ``x``. NaN entries stay NaN.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when a strength or the scaling is negative, or shapes do not fit.

  Note:
    At x_i = 0 the derivative is 0.

  Example:
    >>> prox_non_negative_ridge(jnp.array([2.0, -4.0]), 1.0)
    Array([1., 0.], dtype=float32)

  Reference:
    Parikh and Boyd, Proximal algorithms, 2014, section 6.1.1 with the constraint added.
  """
  shrunk = prox_ridge(start(x, scaling), l2reg, scaling)
  return jax.tree.map(jax.nn.relu, shrunk)


def penalty_non_negative_ridge(x: PyTree, l2reg: Any = 1.0) -> Array:
  r"""Half the weighted squared l2 norm on the non-negative orthant, infinite elsewhere.

  Computes g(x) = sum_i (lam_i / 2) x_i^2 if all x_i >= 0, else +inf, with lam = l2reg.

  Args:
    x: float[...] array or pytree of arrays.
    l2reg: lam >= 0 as in ``prox_non_negative_ridge``.

  Returns:
    float scalar, possibly +inf.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when a strength is negative or shapes do not fit.

  Example:
    >>> float(penalty_non_negative_ridge(jnp.array([2.0, 2.0]), 1.0))
    4.0

  Reference:
    Parikh and Boyd, Proximal algorithms, 2014, section 6.1.1 with the constraint added.
  """
  x = _checks.check_float_tree("x", x)
  value = lambda v, lam: jnp.where(v < 0, jnp.inf, 0.5 * lam * jax.nn.relu(v) * jax.nn.relu(v))
  return total_of(value, x, spread("l2reg", l2reg, x))


ridge = Penalty(penalty_ridge, prox_ridge)
non_negative_ridge = Penalty(penalty_non_negative_ridge, prox_non_negative_ridge)
