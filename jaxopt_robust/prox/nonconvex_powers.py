"""Powers of the absolute value below one: l0, l_{1/2}, l_{2/3} and l_q. Non-convex; they jump."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.numerics import hard_threshold
from jaxopt_robust.prox._common import entrywise, root, spread, start, total_of
from jaxopt_robust.typing import Array, ArrayLike, Penalty, PyTree

__all__ = [
  "half",
  "l0",
  "lq",
  "penalty_half",
  "penalty_l0",
  "penalty_lq",
  "penalty_two_thirds",
  "prox_half",
  "prox_l0",
  "prox_lq",
  "prox_two_thirds",
  "two_thirds",
]

_NEWTON_STEPS = 8  # six reach rounding in float64 for q <= 0.95
_NEWTON_STEPS_SINGLE = 5  # four leave 7e-8
_ROOT_STEPS = 6  # at the threshold, their worst case, five leave 2e-11 of the root


def cbrt(x: Array) -> Array:
  """Cube root of x >= 0, with derivative 0 at 0.

  By logarithm and exponential, whose rounding one Newton step removes: three times as fast as
  ``jnp.cbrt`` on long vectors.
  """
  is_zero = x == 0
  safe = jnp.where(is_zero, 1, x)
  t = jnp.exp(jnp.log(safe) / 3)
  t = jnp.where(safe < jnp.inf, t - (t - safe / (t * t)) / 3, t)
  return jnp.where(is_zero, 0, t)


def _open_unit(name: str, value: Any) -> None:
  _checks.check_interval(name, value, 0.0, 1.0, closed="neither")


def prox_l0(x: PyTree, lam: Any = None, scaling: ArrayLike = 1.0) -> PyTree:
  r"""Hard thresholding, the proximal operator of the number of non-zeros.

  Solves argmin_y 1/2 ||y - x||_2^2 + scaling * sum_i lam_i 1[y_i != 0], by
  y_i = x_i 1[|x_i| > sqrt(2 scaling lam_i)].

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
    Two minimisers at |x_i| = sqrt(2 scaling lam_i): 0 is returned. The derivative is that of the
    branch taken, 1 or 0.

  Example:
    >>> prox_l0(jnp.array([-3.0, 1.0]), 1.0)
    Array([-3.,  0.], dtype=float32)

  Reference:
    Blumensath and Davies, Iterative thresholding for sparse approximations, 2008.
  """
  x = start(x, scaling)
  return entrywise(
    lambda v, s, l: hard_threshold(v, root(2 * s * l)), x, scaling, spread("lam", lam, x)
  )


def penalty_l0(x: PyTree, lam: Any = None) -> Array:
  r"""The weighted number of non-zeros.

  Computes g(x) = sum_i lam_i 1[x_i != 0].

  Args:
    x: float[...] array or pytree of arrays.
    lam: >= 0 as in ``prox_l0``.

  Returns:
    float scalar.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when a strength is negative, or shapes do not fit.

  Example:
    >>> float(penalty_l0(jnp.array([-3.0, 0.0]), 0.5))
    0.5

  Reference:
    Blumensath and Davies, Iterative thresholding for sparse approximations, 2008.
  """
  x = _checks.check_float_tree("x", x)
  return total_of(lambda v, l: jnp.where(v != 0, l, 0), x, spread("lam", lam, x))


def prox_half(x: PyTree, lam: Any = None, scaling: ArrayLike = 1.0) -> PyTree:
  r"""Half thresholding, the proximal operator of the square root of the absolute value.

  Solves argmin_y 1/2 ||y - x||_2^2 + scaling * sum_i lam_i sqrt(|y_i|): with G = scaling lam_i and
  a = |x_i|, 0 for a <= (3/2) G^{2/3}, else x_i u^2 for the largest root u of
  u^3 - u + G / (2 a^{3/2}) = 0. The root is 2/sqrt(3) cos(pi/3 - arccos((G/4) (a/3)^{-3/2}) / 3);
  Newton's method from u = 1 finds it to rounding in six steps, several times faster.

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
    Two minimisers at |x_i| = (3/2) G^{2/3}: 0 is returned. The literature on half thresholding
    often writes the objective without the factor 1/2, which doubles G.

  Example:
    >>> prox_half(jnp.array([-4.0, 1.0]), 1.0).round(3)
    Array([-3.742,  0.   ], dtype=float32)

  Reference:
    Xu, Chang, Xu and Zhang, L1/2 regularization: a thresholding representation theory and a fast
    solver, 2012.
  """
  x = start(x, scaling)

  def one(v: Array, s: Array, l: Array) -> Array:
    a, g = jnp.abs(v), s * l
    jump = 1.5 * cbrt(g) ** 2
    keep = ~(a <= jump)  # NaN is kept
    scale = jnp.where(keep & (a > 0), a, 1)  # where it is dropped, harmless arguments
    c = jnp.where(keep, g, 0) / scale / jnp.sqrt(scale) / 2

    def newton(_: int, u: Array) -> Array:  # u = sqrt(|y| / a) solves u^3 - u + c = 0
      return u - ((u * u - 1) * u + c) / (3 * u * u - 1)

    u = jax.lax.fori_loop(0, _ROOT_STEPS, newton, jnp.ones_like(a), unroll=True)
    return jnp.where(keep, v * u * u, 0)

  return entrywise(one, x, scaling, spread("lam", lam, x))


def penalty_half(x: PyTree, lam: Any = None) -> Array:
  r"""The square root of the absolute value (l_{1/2} quasi-norm to the power 1/2).

  Computes g(x) = sum_i lam_i sqrt(|x_i|).

  Args:
    x: float[...] array or pytree of arrays.
    lam: >= 0 as in ``prox_half``.

  Returns:
    float scalar.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when a strength is negative, or shapes do not fit.

  Example:
    >>> float(penalty_half(jnp.array([-4.0]), 0.5))
    1.0

  Reference:
    Xu, Chang, Xu and Zhang, L1/2 regularization: a thresholding representation theory and a fast
    solver, 2012.
  """
  x = _checks.check_float_tree("x", x)
  return total_of(lambda v, l: l * root(jnp.abs(v)), x, spread("lam", lam, x))


def prox_two_thirds(x: PyTree, lam: Any = None, scaling: ArrayLike = 1.0) -> PyTree:
  r"""Proximal operator of the power 2/3 of the absolute value.

  Solves argmin_y 1/2 ||y - x||_2^2 + scaling * sum_i lam_i |y_i|^{2/3}: with G = scaling lam_i,
  a = |x_i|, the value is 0 for a <= 2 (2 G / 3)^{3/4}, else x_i t^3 for the largest root t of
  t^4 - t + (2 G / 3) a^{-4/3} = 0, which Newton's method finds from t = 1 in six steps.

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
    Two minimisers at the threshold: 0 is returned.

  Example:
    >>> prox_two_thirds(jnp.array([-4.0, 1.0]), 1.0).round(2)
    Array([-3.56,  0.  ], dtype=float32)

  Reference:
    Cao, Sun and Xu, Fast image deconvolution using closed-form thresholding formulas of Lq
    (q = 1/2, 2/3) regularization, 2013.
  """
  x = start(x, scaling)

  def one(v: Array, s: Array, l: Array) -> Array:
    a, g = jnp.abs(v), s * l
    jump = 2 * root(root(2 * g / 3)) ** 3
    keep = ~(a <= jump)  # NaN is kept
    scale = jnp.where(keep & (a > 0), a, 1)
    c = 2 * jnp.where(keep, g, 0) / 3 / scale / cbrt(scale)

    def newton(_: int, t: Array) -> Array:  # t = (|y| / a)^{1/3} solves t^4 - t + c = 0
      cube = t * t * t
      return t - ((cube - 1) * t + c) / (4 * cube - 1)

    t = jax.lax.fori_loop(0, _ROOT_STEPS, newton, jnp.ones_like(a), unroll=True)
    return jnp.where(keep, v * t * t * t, 0)

  return entrywise(one, x, scaling, spread("lam", lam, x))


def penalty_two_thirds(x: PyTree, lam: Any = None) -> Array:
  r"""The power 2/3 of the absolute value.

  Computes g(x) = sum_i lam_i |x_i|^{2/3}.

  Args:
    x: float[...] array or pytree of arrays.
    lam: >= 0 as in ``prox_two_thirds``.

  Returns:
    float scalar.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when a strength is negative, or shapes do not fit.

  Example:
    >>> float(penalty_two_thirds(jnp.array([-8.0]), 0.5))
    2.0

  Reference:
    Cao, Sun and Xu, Fast image deconvolution using closed-form thresholding formulas of Lq
    (q = 1/2, 2/3) regularization, 2013.
  """
  x = _checks.check_float_tree("x", x)
  return total_of(lambda v, l: l * cbrt(jnp.abs(v)) ** 2, x, spread("lam", lam, x))


def prox_lq(x: PyTree, hyperparams: Any, scaling: ArrayLike = 1.0) -> PyTree:
  r"""Proximal operator of any power between 0 and 1 of the absolute value.

  Solves argmin_y 1/2 ||y - x||_2^2 + scaling * sum_i lam_i |y_i|^q: with G = scaling lam_i,
  a = |x_i|, b = (2 G (1 - q))^{1/(2 - q)} and h = b + G q b^{q - 1}, the value is 0 for a <= h,
  else sign(x_i) z for the root z in [b, a] of z + G q z^{q - 1} = a, found by Newton from z = a.

  Args:
    x: float[...] array or pytree of arrays.
    hyperparams: pair (lam, q): lam >= 0 and q in (0, 1), each a scalar, an array of the shape of
      ``x`` or a pytree prefix of ``x``; may be traced.
    scaling: >= 0, the step size; may be traced.

  Returns:
    Same structure, shapes and dtypes as ``x``. NaN entries stay NaN.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when a strength is negative, q is outside (0, 1), the scaling is negative, or shapes
      do not fit.

  Note:
    Two minimisers at the threshold: 0 is returned. From z = a Newton decreases monotonically and
    is exact to rounding in six steps for q <= 0.95. For q = 1/2 and 2/3 ``prox_half`` and
    ``prox_two_thirds`` are faster: their iterations need no powers.

  Example:
    >>> prox_lq(jnp.array([-4.0, 1.0]), (1.0, 0.5)).round(3)
    Array([-3.742,  0.   ], dtype=float32)

  Reference:
    Marjanovic and Solo, On lq optimization and matrix completion, 2012, theorem 1.
  """
  lam, q = _checks.parts(hyperparams, "lam", "q")
  x = start(x, scaling)

  def one(v: Array, s: Array, l: Array, q: Array) -> Array:
    a, g = jnp.abs(v), s * l
    positive = g > 0
    g_safe = jnp.where(positive, g, 1)
    b = (2 * g_safe * (1 - q)) ** (1 / (2 - q))
    jump = jnp.where(positive, b + g_safe * q * b ** (q - 1), 0)
    keep = positive & ~(a <= jump)  # NaN is kept
    target = jnp.where(keep, a, 2 * (b + g_safe * q * b ** (q - 1)))

    def newton(_: int, z: Array) -> Array:
      slope = g_safe * q * z ** (q - 2)
      return jnp.maximum(z - (z + slope * z - target) / (1 + (q - 1) * slope), b)

    steps = _NEWTON_STEPS if v.dtype == jnp.float64 else _NEWTON_STEPS_SINGLE
    z = jax.lax.fori_loop(0, steps, newton, target)
    return jnp.where(positive, jnp.where(keep, jnp.sign(v) * z, 0), v)

  return entrywise(one, x, scaling, spread("lam", lam, x), spread("q", q, x, check=_open_unit))


def penalty_lq(x: PyTree, hyperparams: Any) -> Array:
  r"""A power between 0 and 1 of the absolute value.

  Computes g(x) = sum_i lam_i |x_i|^{q_i}.

  Args:
    x: float[...] array or pytree of arrays.
    hyperparams: as in ``prox_lq``.

  Returns:
    float scalar.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when a strength is negative, q is outside (0, 1), or shapes do not fit.

  Example:
    >>> float(penalty_lq(jnp.array([-4.0]), (0.5, 0.5)))
    1.0

  Reference:
    Marjanovic and Solo, On lq optimization and matrix completion, 2012, theorem 1.
  """
  lam, q = _checks.parts(hyperparams, "lam", "q")
  x = _checks.check_float_tree("x", x)

  def one(v: Array, l: Array, q: Array) -> Array:
    present = v != 0
    return jnp.where(present, l * jnp.where(present, jnp.abs(v), 1) ** q, 0)

  return total_of(one, x, spread("lam", lam, x), spread("q", q, x, check=_open_unit))


l0 = Penalty(penalty_l0, prox_l0, convex=False)
half = Penalty(penalty_half, prox_half, convex=False)
two_thirds = Penalty(penalty_two_thirds, prox_two_thirds, convex=False)
lq = Penalty(penalty_lq, prox_lq, convex=False)
