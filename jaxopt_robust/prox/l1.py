"""The l1 family: lasso, non-negative lasso, elastic net."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.numerics import soft_threshold
from jaxopt_robust.prox._common import entrywise, scaled_for, spread, start, strength, total_of
from jaxopt_robust.prox._stationary import stationary
from jaxopt_robust.typing import Array, ArrayLike, Penalty, PyTree

__all__ = [
  "elastic_net",
  "lasso",
  "non_negative_lasso",
  "penalty_elastic_net",
  "penalty_lasso",
  "penalty_non_negative_lasso",
  "prox_elastic_net",
  "prox_lasso",
  "prox_non_negative_lasso",
]


def _elastic_net(v: Array, t: Array, gamma: Array) -> Array:
  return soft_threshold(v, t) / (1 + t * gamma)


def _elastic_net_slopes(y: Array, v: Array, t: Array, gamma: Array) -> tuple[Array, Array, Array]:
  gain = jnp.where(jnp.abs(v) > t, 1 / (1 + t * gamma), 0)
  return gain, -(jnp.sign(y) + gamma * y) * gain, -t * gain * y


def prox_lasso(x: PyTree, l1reg: Any = None, scaling: ArrayLike = 1.0) -> PyTree:
  r"""Soft thresholding, the proximal operator of the weighted l1 norm.

  Solves argmin_y 1/2 ||y - x||_2^2 + scaling * sum_i lam_i |y_i| with lam = l1reg, by
  y_i = sign(x_i) max(|x_i| - scaling lam_i, 0).

  Args:
    x: float[...] or complex[...] array or pytree of arrays.
    l1reg: lam >= 0, a scalar, an array of the shape of ``x`` or a pytree prefix of ``x``; may be
      traced. None means 1.
    scaling: >= 0, the step size; may be traced.

  Returns:
    Same structure, shapes and dtypes as ``x``. NaN entries stay NaN.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when a strength or the scaling is negative, or shapes do not fit.

  Note:
    At a kink, |x_i| = scaling * lam_i, the derivative is 0.

  Example:
    >>> prox_lasso(jnp.array([-3.0, 0.5, 2.0]), 1.0)
    Array([-2.,  0.,  1.], dtype=float32)

  Reference:
    Donoho and Johnstone, Ideal spatial adaptation by wavelet shrinkage, 1994.
  """
  x = start(x, scaling, complex_ok=True)
  return jax.tree.map(
    lambda v, lam: soft_threshold(v, strength(scaled_for(scaling, v), lam)),
    x,
    spread("l1reg", l1reg, x),
  )


def penalty_lasso(x: PyTree, l1reg: Any = None) -> Array:
  r"""The weighted l1 norm.

  Computes g(x) = sum_i lam_i |x_i| with lam = l1reg.

  Args:
    x: float[...] or complex[...] array or pytree of arrays.
    l1reg: lam >= 0 as in ``prox_lasso``.

  Returns:
    float scalar.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when a strength is negative or shapes do not fit.

  Example:
    >>> float(penalty_lasso(jnp.array([-3.0, 1.0]), 0.5))
    2.0

  Reference:
    Tibshirani, Regression shrinkage and selection via the lasso, 1996, equation 1.
  """
  x = _checks.check_float_tree("x", x, complex_ok=True)
  return total_of(lambda v, lam: lam * jnp.abs(v), x, spread("l1reg", l1reg, x))


def prox_non_negative_lasso(x: PyTree, l1reg: Any = None, scaling: ArrayLike = 1.0) -> PyTree:
  r"""Proximal operator of the weighted l1 norm on the non-negative orthant.

  Solves argmin_{y >= 0} 1/2 ||y - x||_2^2 + scaling * sum_i lam_i y_i with lam = l1reg, by
  y_i = max(x_i - scaling lam_i, 0).

  Args:
    x: float[...] array or pytree of arrays.
    l1reg: lam >= 0, a scalar, an array of the shape of ``x`` or a pytree prefix of ``x``; may be
      traced. None means 1.
    scaling: >= 0, the step size; may be traced.

  Returns:
    Same structure, shapes and dtypes as ``x``. NaN entries stay NaN.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when a strength or the scaling is negative, or shapes do not fit.

  Note:
    At a kink, x_i = scaling * lam_i, the derivative is 0.

  Example:
    >>> prox_non_negative_lasso(jnp.array([-3.0, 0.5, 2.0]), 1.0)
    Array([0., 0., 1.], dtype=float32)

  Reference:
    Parikh and Boyd, Proximal algorithms, 2014, section 6.5.2 with the constraint added.
  """
  x = start(x, scaling)
  return jax.tree.map(
    lambda v, lam: jax.nn.relu(v - strength(scaled_for(scaling, v), lam)),
    x,
    spread("l1reg", l1reg, x),
  )


def penalty_non_negative_lasso(x: PyTree, l1reg: Any = None) -> Array:
  r"""The weighted l1 norm on the non-negative orthant, infinite elsewhere.

  Computes g(x) = sum_i lam_i x_i if all x_i >= 0, else +inf, with lam = l1reg.

  Args:
    x: float[...] array or pytree of arrays.
    l1reg: lam >= 0 as in ``prox_non_negative_lasso``.

  Returns:
    float scalar, possibly +inf.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when a strength is negative or shapes do not fit.

  Example:
    >>> float(penalty_non_negative_lasso(jnp.array([3.0, 1.0]), 0.5))
    2.0

  Reference:
    Parikh and Boyd, Proximal algorithms, 2014, section 6.5.2 with the constraint added.
  """
  x = _checks.check_float_tree("x", x)
  value = lambda v, lam: jnp.where(v < 0, jnp.inf, lam * v)
  return total_of(value, x, spread("l1reg", l1reg, x))


def prox_elastic_net(x: PyTree, hyperparams: Any = None, scaling: ArrayLike = 1.0) -> PyTree:
  r"""Proximal operator of the elastic net.

  Solves argmin_y 1/2 ||y - x||_2^2 + scaling * sum_i lam_i (|y_i| + (gamma_i / 2) y_i^2) with
  (lam, gamma) = hyperparams, by soft thresholding at scaling lam_i, then division by
  1 + scaling lam_i gamma_i.

  Args:
    x: float[...] or complex[...] array or pytree of arrays.
    hyperparams: pair (lam, gamma), both >= 0, each a scalar, an array of the shape of ``x`` or a
      pytree prefix of ``x``; may be traced. None means (1, 1).
    scaling: >= 0, the step size; may be traced.

  Returns:
    Same structure, shapes and dtypes as ``x``. NaN entries stay NaN.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when ``hyperparams`` is no pair, a strength or the scaling is negative, or shapes do
      not fit.

  Note:
    gamma multiplies lam: scikit-learn's (alpha, l1_ratio) are lam = alpha l1_ratio and
    gamma = (1 - l1_ratio) / l1_ratio. At a kink, |x_i| = scaling * lam_i, the derivative is 0.

  Example:
    >>> prox_elastic_net(jnp.array([-3.0, 0.5, 2.0]), (1.0, 1.0))
    Array([-1. ,  0. ,  0.5], dtype=float32)

  Reference:
    Zou and Hastie, Regularization and variable selection via the elastic net, 2005; the argument
    order and the product lam gamma are those of jaxopt.
  """
  lam, gamma = _arguments.parts(
    (1.0, 1.0) if hyperparams is None else hyperparams, "lam", "gamma", example=(1.0, 1.0)
  )
  x = start(x, scaling, complex_ok=True)

  def one(v: Array, s: Array, l: Array, g: Array) -> Array:
    return stationary(_elastic_net, _elastic_net_slopes, v, strength(s, l), g)

  return entrywise(
    one, x, scaling, spread("lam of hyperparams", lam, x), spread("gamma of hyperparams", gamma, x)
  )


def penalty_elastic_net(x: PyTree, hyperparams: Any = None) -> Array:
  r"""The elastic-net penalty.

  Computes g(x) = sum_i lam_i (|x_i| + (gamma_i / 2) x_i^2) with (lam, gamma) = hyperparams.

  Args:
    x: float[...] or complex[...] array or pytree of arrays.
    hyperparams: pair (lam, gamma) as in ``prox_elastic_net``.

  Returns:
    float scalar.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when ``hyperparams`` is no pair, a strength is negative or shapes do not fit.

  Example:
    >>> float(penalty_elastic_net(jnp.array([2.0]), (1.0, 1.0)))
    4.0

  Reference:
    Zou and Hastie, Regularization and variable selection via the elastic net, 2005.
  """
  lam, gamma = _arguments.parts(
    (1.0, 1.0) if hyperparams is None else hyperparams, "lam", "gamma", example=(1.0, 1.0)
  )
  x = _checks.check_float_tree("x", x, complex_ok=True)
  # the strength first: a square that overflows must not meet a strength of 0
  value = lambda v, l, g: l * jnp.abs(v) + 0.5 * (strength(l, jnp.abs(v)) * g) * jnp.abs(v)
  return total_of(
    value, x, spread("lam of hyperparams", lam, x), spread("gamma of hyperparams", gamma, x)
  )


lasso = Penalty(penalty_lasso, prox_lasso)
non_negative_lasso = Penalty(penalty_non_negative_lasso, prox_non_negative_lasso)
elastic_net = Penalty(penalty_elastic_net, prox_elastic_net)
