"""Barriers: functions that keep an entry positive. Negative logarithm, Poisson, entropy."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.prox._common import entrywise, root, spread, start, total_of
from jaxopt_robust.typing import Array, ArrayLike, Penalty, PyTree

__all__ = [
  "entropy",
  "neg_log",
  "penalty_entropy",
  "penalty_neg_log",
  "penalty_poisson",
  "poisson",
  "prox_entropy",
  "prox_neg_log",
  "prox_poisson",
]

_NEWTON_STEPS = 8  # of the entropy: rounding in float64 from this start


def _positive_root(v: Array, g: Array) -> Array:
  """The root y >= 0 of y^2 - v y = g, without cancellation and without squares that overflow."""
  top = jax.lax.stop_gradient(jnp.maximum(jnp.abs(v), 2 * jnp.sqrt(g)))
  scale = jnp.where((top > 0) & (top < jnp.inf), top, 1)
  square = scale * root((v / scale) ** 2 + 4 * (g / scale) / scale)
  below = v < 0
  denominator = jnp.where(below, square - v, 1)
  return jnp.where(below, 2 * g / denominator, (v + square) / 2)


def prox_neg_log(x: PyTree, lam: Any = None, scaling: ArrayLike = 1.0) -> PyTree:
  r"""Proximal operator of the negative logarithm.

  Solves argmin_{y > 0} 1/2 ||y - x||_2^2 - scaling * sum_i lam_i log y_i: with G = scaling lam_i,
  y_i = (x_i + sqrt(x_i^2 + 4 G)) / 2.

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
    For x_i < 0 the root is written as 2 G / (sqrt(x_i^2 + 4 G) - x_i): nothing cancels.

  Example:
    >>> prox_neg_log(jnp.array([0.0, 1.5]), 1.0)
    Array([1., 2.], dtype=float32)

  Reference:
    Combettes and Pesquet, Proximal splitting methods in signal processing, 2011, table 10.2.
  """
  x = start(x, scaling)
  return entrywise(lambda v, s, l: _positive_root(v, s * l), x, scaling, spread("lam", lam, x))


def penalty_neg_log(x: PyTree, lam: Any = None) -> Array:
  r"""The negative logarithm, infinite for x <= 0.

  Computes g(x) = -sum_i lam_i log x_i, and +inf where some x_i <= 0 (0 where lam_i = 0 and x_i =
  0).

  Args:
    x: float[...] array or pytree of arrays.
    lam: >= 0 as in ``prox_neg_log``.

  Returns:
    float scalar.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when a strength is negative, or shapes do not fit.

  Example:
    >>> float(penalty_neg_log(jnp.array([1.0]), 1.0))
    -0.0

  Reference:
    Combettes and Pesquet, Proximal splitting methods in signal processing, 2011, table 10.2.
  """
  x = _checks.check_float_tree("x", x)

  def one(v: Array, l: Array) -> Array:
    inside = v > 0
    value = -l * jnp.log(jnp.where(inside, v, 1))
    return jnp.where(inside, value, jnp.where((v == 0) & (l == 0), 0, jnp.inf))

  return total_of(one, x, spread("lam", lam, x))


def prox_poisson(x: PyTree, hyperparams: Any, scaling: ArrayLike = 1.0) -> PyTree:
  r"""Proximal operator of the Poisson (Kullback-Leibler) misfit.

  Solves argmin_{y >= 0} 1/2 ||y - x||_2^2 + scaling * sum_i lam (y_i - b_i log y_i): with G =
  scaling lam and u = x_i - G, y_i = (u + sqrt(u^2 + 4 G b_i)) / 2.

  Args:
    x: float[...] array or pytree of arrays.
    hyperparams: pair (lam, count): both >= 0, each a scalar, an array of the shape of ``x`` or a
      pytree prefix of ``x``; may be traced.
    scaling: >= 0, the step size; may be traced.

  Returns:
    Same structure, shapes and dtypes as ``x``. NaN entries stay NaN.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when lam or count is negative, the scaling is negative, or shapes do not
      fit.

  Note:
    With b_i = 0 it is max(x_i - G, 0).

  Example:
    >>> prox_poisson(jnp.array([1.0, 2.0]), (1.0, jnp.array([1.0, 0.0])))
    Array([1., 1.], dtype=float32)

  Reference:
    Combettes and Pesquet, Proximal splitting methods in signal processing, 2011, table 10.2.
  """
  lam, count = _checks.parts(hyperparams, "lam", "count")
  x = start(x, scaling)
  return entrywise(
    lambda v, s, l, b: _positive_root(v - s * l, s * l * b),
    x,
    scaling,
    spread("lam", lam, x),
    spread("count", count, x),
  )


def penalty_poisson(x: PyTree, hyperparams: Any) -> Array:
  r"""The Poisson (Kullback-Leibler) misfit to counts, up to a constant.

  Computes g(x) = sum_i lam (x_i - b_i log x_i) with b = count, and +inf where some x_i < 0, or
  x_i = 0 and b_i > 0.

  Args:
    x: float[...] array or pytree of arrays.
    hyperparams: as in ``prox_poisson``.

  Returns:
    float scalar.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when lam or count is negative, or shapes do not fit.

  Example:
    >>> float(penalty_poisson(jnp.array([1.0]), (1.0, 3.0)))
    1.0

  Reference:
    Combettes and Pesquet, Proximal splitting methods in signal processing, 2011, table 10.2.
  """
  lam, count = _checks.parts(hyperparams, "lam", "count")
  x = _checks.check_float_tree("x", x)

  def one(v: Array, l: Array, b: Array) -> Array:
    inside = v > 0
    value = l * (v - b * jnp.log(jnp.where(inside, v, 1)))
    edge = jnp.where((v == 0) & (l * b == 0), 0, jnp.inf)
    return jnp.where(inside, value, edge)

  return total_of(one, x, spread("lam", lam, x), spread("count", count, x))


def prox_entropy(x: PyTree, lam: Any = None, scaling: ArrayLike = 1.0) -> PyTree:
  r"""Proximal operator of the negative entropy.

  Solves argmin_{y >= 0} 1/2 ||y - x||_2^2 + scaling * sum_i lam_i y_i log y_i: y_i = G u with G =
  scaling lam_i and u + log u = x_i / G - 1 - log G, by Newton.

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
    Newton works on log u: no exponential of x_i / G is ever formed, so that small strengths do not
    overflow.

  Example:
    >>> prox_entropy(jnp.array([2.0]), 1.0).round(3)
    Array([1.], dtype=float32)

  Reference:
    Combettes and Pesquet, Proximal splitting methods in signal processing, 2011, table 10.2.
  """
  x = start(x, scaling)

  def one(v: Array, s: Array, l: Array) -> Array:
    g = s * l
    positive = g > 0
    safe = jnp.where(positive, g, 1)
    r = v / safe - 1 - jnp.log(safe)
    big = r > 1
    first = jnp.where(big, r - jnp.log(jnp.where(big, r, 1)), jnp.exp(jnp.minimum(r, 1)))

    def newton(_: int, w: Array) -> Array:
      # w = log u: exp(w) + w = r has derivative exp(w) + 1 >= 1, and u cannot become negative.
      u = jnp.exp(w)
      return w - (u + w - r) / (u + 1)

    w = jax.lax.fori_loop(
      0, _NEWTON_STEPS, newton, jnp.where(big, jnp.log(first), jnp.minimum(r, 1))
    )
    return jnp.where(positive, safe * jnp.exp(w), jnp.maximum(v, 0))

  return entrywise(one, x, scaling, spread("lam", lam, x))


def penalty_entropy(x: PyTree, lam: Any = None) -> Array:
  r"""The negative entropy, infinite for x < 0.

  Computes g(x) = sum_i lam_i x_i log x_i (0 at x_i = 0), and +inf where some x_i < 0.

  Args:
    x: float[...] array or pytree of arrays.
    lam: >= 0 as in ``prox_entropy``.

  Returns:
    float scalar.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when a strength is negative, or shapes do not fit.

  Example:
    >>> float(penalty_entropy(jnp.array([1.0, 0.0]), 1.0))
    0.0

  Reference:
    Combettes and Pesquet, Proximal splitting methods in signal processing, 2011, table 10.2.
  """
  x = _checks.check_float_tree("x", x)

  def one(v: Array, l: Array) -> Array:
    inside = v > 0
    value = l * v * jnp.log(jnp.where(inside, v, 1))
    return jnp.where(inside, value, jnp.where(v == 0, 0, jnp.inf))

  return total_of(one, x, spread("lam", lam, x))


neg_log = Penalty(penalty_neg_log, prox_neg_log)
poisson = Penalty(penalty_poisson, prox_poisson)
entropy = Penalty(penalty_entropy, prox_entropy)
