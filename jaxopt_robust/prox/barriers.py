"""Barriers: functions that keep an entry positive. Negative logarithm, Poisson, entropy."""

from typing import Any

import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.prox._common import entrywise, spread, start, strength, total_of
from jaxopt_robust.prox._stationary import monotone_newton, pull, stationary
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


def _positive_root(v: Array, g: Array, b: Array) -> Array:
  """The root y >= 0 of y^2 - v y = g b, without cancellation and squares that overflow."""
  low, high = jnp.minimum(g, b), jnp.maximum(g, b)
  middle = jnp.sqrt(low) * jnp.sqrt(high)
  square = jnp.hypot(jnp.abs(v), 2 * middle)
  below = v < 0
  half = jnp.where(below, square / 2 - v / 2, 1)
  negative = high * (low / jnp.where(half > 0, half, 1))
  return jnp.where(below, negative, v / 2 + square / 2)


def _neg_log(v: Array, g: Array) -> Array:
  return _positive_root(v, g, jnp.ones_like(g))


def _neg_log_slopes(y: Array, v: Array, g: Array) -> tuple[Array, Array]:
  positive = y > 0
  safe = jnp.where(positive, y, 1)
  sum_ = safe + g / safe
  return jnp.where(positive, safe / sum_, 0), jnp.where(positive, 1 / sum_, 0)


def _poisson(v: Array, g: Array, b: Array) -> Array:
  return _positive_root(v - g, g, b)


def _poisson_slopes(y: Array, v: Array, g: Array, b: Array) -> tuple[Array, Array, Array]:
  positive = y > 0
  safe = jnp.where(positive, y, 1)
  share = jnp.minimum(g, b) / safe * jnp.maximum(g, b)  # g b / y, at most y + g
  gain = jnp.where(positive, safe / (safe + share), 0)
  slope = pull(1 - b / safe, 1 + b / safe, y, v, g)
  return gain, -slope * gain, jnp.where(positive, g / (safe + share), 0)


def _log_equation(w: Array, r: Array) -> tuple[Array, Array]:
  u = jnp.exp(w)
  return u + w - r, u + 1


def log_root(r: Array, steps: int) -> Array:
  """The root w of exp(w) + w = r: log u for u + log u = r. No derivative.

  A convex function. The start is at most 1 away (at r = 1); the errors of the steps after it are
  below 0.3, 0.02, 1e-4, 2e-9 and 1e-17.
  """
  big = r > 1
  safe = jnp.where(big, r, 1)
  start = jnp.where(big, jnp.log(safe - jnp.log(safe)), jnp.minimum(r, 1))
  return monotone_newton(_log_equation, start, steps, r)


def _entropy(v: Array, g: Array) -> Array:
  positive = g > 0
  safe = jnp.where(positive, g, 1)
  ratio = v / safe
  # y = g u with u + log u = v / g - 1 - log g; so large a ratio leaves y = v - g (1 + log y).
  huge = jnp.sqrt(jnp.finfo(v.dtype).max)
  r = jnp.clip(ratio, -huge, huge) - 1 - jnp.log(safe)
  log_u = log_root(r, 5 if v.dtype == jnp.float64 else 4)
  # Where u is below the smallest number, y = g u need not be.
  inside = jnp.where(log_u < -60, jnp.exp(log_u + jnp.log(safe)), safe * jnp.exp(log_u))
  # A last Newton step on y itself: the large logarithm of g has gone out of the equation.
  some = inside > 0
  u = jnp.where(some, inside, 1)
  inside = inside - jnp.where(some, u * ((u - v + safe * (1 + jnp.log(u))) / (u + safe)), 0)
  above = jnp.maximum(v, 0)
  above = above - g * (1 + jnp.log(jnp.where(above > 0, above, 1)))
  return jnp.where(positive & ~(ratio > huge), inside, above)


def _entropy_slopes(y: Array, v: Array, g: Array) -> tuple[Array, Array]:
  positive = y > 0
  safe = jnp.where(positive, y, 1)
  gain = jnp.where(positive, safe / (safe + g), 0)
  log = jnp.log(safe)
  return gain, -pull(1 + log, 1 + jnp.abs(log), y, v, g) * gain


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

  def one(v: Array, s: Array, l: Array) -> Array:
    return stationary(_neg_log, _neg_log_slopes, v, strength(s, l))

  return entrywise(one, x, scaling, spread("lam", lam, x))


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
    >>> round(float(penalty_neg_log(jnp.array([3.0]), 1.0)), 3)
    -1.099

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
  lam, count = _arguments.parts(hyperparams, "lam", "count", example=(1.0, 3.0))
  x = start(x, scaling)

  def one(v: Array, s: Array, l: Array, b: Array) -> Array:
    return stationary(_poisson, _poisson_slopes, v, strength(s, l), b)

  return entrywise(
    one, x, scaling, spread("lam of hyperparams", lam, x), spread("count of hyperparams", count, x)
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
  lam, count = _arguments.parts(hyperparams, "lam", "count", example=(1.0, 3.0))
  x = _checks.check_float_tree("x", x)

  def one(v: Array, l: Array, b: Array) -> Array:
    inside = v > 0
    value = l * (v - b * jnp.log(jnp.where(inside, v, 1)))
    edge = jnp.where((v == 0) & (l * b == 0), 0, jnp.inf)
    return jnp.where(inside, value, edge)

  return total_of(
    one, x, spread("lam of hyperparams", lam, x), spread("count of hyperparams", count, x)
  )


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
    return stationary(_entropy, _entropy_slopes, v, strength(s, l))

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
