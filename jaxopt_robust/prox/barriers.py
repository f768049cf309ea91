"""Barriers and boxes: functions that keep an entry inside a set; and the separable quadratic."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_robust import _checks
from jaxopt_robust.prox._common import entrywise, parts, root, spread, start, total_of
from jaxopt_robust.typing import Array, ArrayLike, Penalty, PyTree

__all__ = [
  "box",
  "entropy",
  "neg_log",
  "penalty_box",
  "penalty_entropy",
  "penalty_neg_log",
  "penalty_poisson",
  "penalty_quadratic",
  "poisson",
  "prox_box",
  "prox_entropy",
  "prox_neg_log",
  "prox_poisson",
  "prox_quadratic",
  "quadratic",
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


def _any_number(name: str, value: Any) -> None:
  _checks.check_interval(name, value, -np.inf, np.inf, closed="neither")


def _not_nan(name: str, value: Any) -> None:
  _checks.check_interval(name, value, -np.inf, np.inf)


def _bounds(low: Any, high: Any, x: PyTree) -> tuple[PyTree, PyTree]:
  lows = spread("low", low, x, check=_not_nan)
  highs = spread("high", high, x, check=_not_nan)
  for a, b in zip(jax.tree.leaves(lows), jax.tree.leaves(highs), strict=True):
    if _checks.is_concrete((a, b)) and bool(jnp.any(a > b)):
      raise ValueError("low must be at most high everywhere; got a larger one.")
  return lows, highs


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
  lam, count = parts(hyperparams, "lam", "count")
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
  lam, count = parts(hyperparams, "lam", "count")
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
  low, high = parts(hyperparams, "low", "high")
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
  low, high = parts(hyperparams, "low", "high")
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
  curvature, linear = parts(hyperparams, "curvature", "linear")
  x = start(x, scaling)
  return entrywise(
    lambda v, s, c, b: (v + s * b) / (1 + s * c), x, scaling,
    spread("curvature", curvature, x), spread("linear", linear, x, check=_any_number),
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
  curvature, linear = parts(hyperparams, "curvature", "linear")
  x = _checks.check_float_tree("x", x)
  return total_of(
    lambda v, c, b: c * v * v / 2 - b * v, x,
    spread("curvature", curvature, x), spread("linear", linear, x, check=_any_number),
  )  # fmt: skip


neg_log = Penalty(penalty_neg_log, prox_neg_log)
poisson = Penalty(penalty_poisson, prox_poisson)
entropy = Penalty(penalty_entropy, prox_entropy)
box = Penalty(penalty_box, prox_box)
quadratic = Penalty(penalty_quadratic, prox_quadratic)
