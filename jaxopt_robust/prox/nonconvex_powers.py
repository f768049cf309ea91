"""Powers of the absolute value below one: l0, l_{1/2}, l_{2/3} and l_q. Non-convex; they jump."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.numerics import hard_threshold
from jaxopt_robust.prox._common import entrywise, root, spread, start, strength, total_of
from jaxopt_robust.prox._stationary import bracketed_newton, monotone_newton, stationary
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

_ROOT_STEPS = 6  # at the threshold, their worst case, five leave 2e-11 of the root


@jax.custom_jvp
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


@cbrt.defjvp
def _cbrt_rule(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
  t = cbrt(*primals)
  is_zero = t == 0
  safe = jnp.where(is_zero, 1, t)
  return t, jnp.where(is_zero, 0, 1 / (3 * safe * safe)) * tangents[0]


def _kept(y: Array, v: Array) -> tuple[Array, Array, Array]:
  """Where y is not dropped, y / v there, and |y| (else 1)."""
  keep = y != 0
  return keep, jnp.where(keep, y / jnp.where(keep, v, 1), 1), jnp.where(keep, jnp.abs(y), 1)


def _half_equation(u: Array, c: Array) -> tuple[Array, Array]:
  return (u * u - 1) * u + c, 3 * u * u - 1


def _half(v: Array, g: Array) -> Array:
  a = jnp.abs(v)
  base = cbrt(g) ** 2
  keep = ~(a <= 1.5 * base)  # NaN is kept
  ratio = jnp.where(keep, base, 0) / jnp.where(keep & (a > 0), a, 1)  # 0 where it is dropped
  c = ratio * jnp.sqrt(ratio) / 2
  # u = sqrt(|y| / a) is the largest root of a function that is convex for u > 0; c < 0.28
  u = monotone_newton(_half_equation, jnp.ones_like(a), _ROOT_STEPS, c)
  return jnp.where(keep, v * u * u, 0)


def _half_slopes(y: Array, v: Array, g: Array) -> tuple[Array, Array]:
  keep, ratio, size = _kept(y, v)
  gain = jnp.where(keep, 2 * ratio / (3 * ratio - 1), 0)
  return gain, -gain * jnp.sign(y) / (2 * jnp.sqrt(size))


def _two_thirds_equation(t: Array, c: Array) -> tuple[Array, Array]:
  cube = t * t * t
  return (cube - 1) * t + c, 4 * cube - 1


def _two_thirds(v: Array, g: Array) -> Array:
  a = jnp.abs(v)
  base = jnp.sqrt(jnp.sqrt(2 / 3 * g)) ** 3
  keep = ~(a <= 2 * base)  # NaN is kept
  ratio = jnp.where(keep, base, 0) / jnp.where(keep & (a > 0), a, 1)
  c = ratio * cbrt(ratio)
  # t = (|y| / a)^{1/3} is the largest root of a function that is convex; c < 0.4
  t = monotone_newton(_two_thirds_equation, jnp.ones_like(a), _ROOT_STEPS, c)
  return jnp.where(keep, v * t * t * t, 0)


def _two_thirds_slopes(y: Array, v: Array, g: Array) -> tuple[Array, Array]:
  keep, ratio, size = _kept(y, v)
  gain = jnp.where(keep, 3 * ratio / (4 * ratio - 1), 0)
  return gain, -gain * 2 * jnp.sign(y) / (3 * cbrt(size))


def _lq_equation(t: Array, c: Array, q: Array) -> tuple[Array, Array, Array]:
  power = c * t ** (q - 1)  # t + power = 1 where t = |y| / |x|
  return t + power - 1, 1 - (1 - q) * power / t, t + power + 1


def _lq(v: Array, g: Array, q: Array) -> Array:
  a = jnp.abs(v)
  b = (2 * g * (1 - q)) ** (1 / (2 - q))
  # the threshold b + g q b^{q - 1}, by b^{2 - q} = 2 g (1 - q)
  keep = (g > 0) & ~(a <= b * (1 + q / (2 * (1 - q))))  # NaN is kept
  scale = jnp.where(keep, a, 1)
  c = jnp.where(keep, q * g, 0) / scale * scale ** (q - 1)
  low = jnp.where(keep, b / scale, 1)
  one = jnp.ones_like(a)
  # Convex and increasing on [b, a]: Newton falls from 1. The bracket serves q near 1.
  t = bracketed_newton(_lq_equation, one, low, one, c, jnp.broadcast_to(q, a.shape))
  return jnp.where(g > 0, jnp.where(keep, v * t, 0), v)


def _lq_slopes(y: Array, v: Array, g: Array, q: Array) -> tuple[Array, Array, Array]:
  keep, ratio, size = _kept(y, v)
  gain = jnp.where(keep, ratio / (ratio - (1 - q) * (1 - ratio)), 0)
  power = jnp.sign(y) * size ** (q - 1)
  return gain, -q * power * gain, -g * power * (1 + q * jnp.log(size)) * gain


def _open_unit(name: str, value: Any) -> None:
  _checks.check_interval(name, value, 0.0, 1.0, closed="neither")


def prox_l0(x: PyTree, lam: Any = None, scaling: ArrayLike = 1.0) -> PyTree:
  r"""Hard thresholding, the proximal operator of the number of non-zeros.

  Solves argmin_y 1/2 ||y - x||_2^2 + scaling * sum_i lam_i 1[y_i != 0], by
  y_i = x_i 1[|x_i| > sqrt(2 scaling lam_i)].

  Args:
    x: float[...] or complex[...] array or pytree of arrays.
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
  x = start(x, scaling, complex_ok=True)
  return entrywise(
    lambda v, s, l: hard_threshold(v, root(2 * s) * root(l)), x, scaling, spread("lam", lam, x)
  )


def penalty_l0(x: PyTree, lam: Any = None) -> Array:
  r"""The weighted number of non-zeros.

  Computes g(x) = sum_i lam_i 1[x_i != 0].

  Args:
    x: float[...] or complex[...] array or pytree of arrays.
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
  x = _checks.check_float_tree("x", x, complex_ok=True)
  return total_of(lambda v, l: jnp.where(v != 0, l, 0), x, spread("lam", lam, x))


def prox_half(x: PyTree, lam: Any = None, scaling: ArrayLike = 1.0) -> PyTree:
  r"""Half thresholding, the proximal operator of the square root of the absolute value.

  Solves argmin_y 1/2 ||y - x||_2^2 + scaling * sum_i lam_i sqrt(|y_i|): with G = scaling lam_i and
  a = |x_i|, 0 for a <= (3/2) G^{2/3}, else x_i u^2 for the largest root u of
  u^3 - u + G / (2 a^{3/2}) = 0. The root is 2/sqrt(3) cos(pi/3 - arccos((G/4) (a/3)^{-3/2}) / 3);
  Newton's method from u = 1 finds it to rounding in six steps, several times faster.

  Args:
    x: float[...] or complex[...] array or pytree of arrays.
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
  x = start(x, scaling, complex_ok=True)

  def one(v: Array, s: Array, l: Array) -> Array:
    return stationary(_half, _half_slopes, v, strength(s, l))

  return entrywise(one, x, scaling, spread("lam", lam, x))


def penalty_half(x: PyTree, lam: Any = None) -> Array:
  r"""The square root of the absolute value (l_{1/2} quasi-norm to the power 1/2).

  Computes g(x) = sum_i lam_i sqrt(|x_i|).

  Args:
    x: float[...] or complex[...] array or pytree of arrays.
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
  x = _checks.check_float_tree("x", x, complex_ok=True)
  return total_of(lambda v, l: l * root(jnp.abs(v)), x, spread("lam", lam, x))


def prox_two_thirds(x: PyTree, lam: Any = None, scaling: ArrayLike = 1.0) -> PyTree:
  r"""Proximal operator of the power 2/3 of the absolute value.

  Solves argmin_y 1/2 ||y - x||_2^2 + scaling * sum_i lam_i |y_i|^{2/3}: with G = scaling lam_i,
  a = |x_i|, the value is 0 for a <= 2 (2 G / 3)^{3/4}, else x_i t^3 for the largest root t of
  t^4 - t + (2 G / 3) a^{-4/3} = 0, which Newton's method finds from t = 1 in six steps.

  Args:
    x: float[...] or complex[...] array or pytree of arrays.
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
  x = start(x, scaling, complex_ok=True)

  def one(v: Array, s: Array, l: Array) -> Array:
    return stationary(_two_thirds, _two_thirds_slopes, v, strength(s, l))

  return entrywise(one, x, scaling, spread("lam", lam, x))


def penalty_two_thirds(x: PyTree, lam: Any = None) -> Array:
  r"""The power 2/3 of the absolute value.

  Computes g(x) = sum_i lam_i |x_i|^{2/3}.

  Args:
    x: float[...] or complex[...] array or pytree of arrays.
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
  x = _checks.check_float_tree("x", x, complex_ok=True)
  return total_of(lambda v, l: l * cbrt(jnp.abs(v)) ** 2, x, spread("lam", lam, x))


def prox_lq(x: PyTree, hyperparams: Any, scaling: ArrayLike = 1.0) -> PyTree:
  r"""Proximal operator of any power between 0 and 1 of the absolute value.

  Solves argmin_y 1/2 ||y - x||_2^2 + scaling * sum_i lam_i |y_i|^q: with G = scaling lam_i,
  a = |x_i|, b = (2 G (1 - q))^{1/(2 - q)} and h = b + G q b^{q - 1}, the value is 0 for a <= h,
  else sign(x_i) z for the root z in [b, a] of z + G q z^{q - 1} = a, found by Newton from z = a.

  Args:
    x: float[...] or complex[...] array or pytree of arrays.
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
    Two minimisers at the threshold: 0 is returned. From z = a Newton decreases monotonically. For
    q = 1/2 and 2/3 ``prox_half`` and ``prox_two_thirds`` are faster: their iterations need no
    powers.

  Example:
    >>> prox_lq(jnp.array([-4.0, 1.0]), (1.0, 0.5)).round(3)
    Array([-3.742,  0.   ], dtype=float32)

  Reference:
    Marjanovic and Solo, On lq optimization and matrix completion, 2012, theorem 1.
  """
  lam, q = _arguments.parts(hyperparams, "lam", "q", example=(1.0, 0.5))
  x = start(x, scaling, complex_ok=True)

  def one(v: Array, s: Array, l: Array, q: Array) -> Array:
    return stationary(_lq, _lq_slopes, v, strength(s, l), q)

  return entrywise(
    one,
    x,
    scaling,
    spread("lam of hyperparams", lam, x),
    spread("q of hyperparams", q, x, check=_open_unit),
  )


def penalty_lq(x: PyTree, hyperparams: Any) -> Array:
  r"""A power between 0 and 1 of the absolute value.

  Computes g(x) = sum_i lam_i |x_i|^{q_i}.

  Args:
    x: float[...] or complex[...] array or pytree of arrays.
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
  lam, q = _arguments.parts(hyperparams, "lam", "q", example=(1.0, 0.5))
  x = _checks.check_float_tree("x", x, complex_ok=True)

  def one(v: Array, l: Array, q: Array) -> Array:
    present = v != 0
    return jnp.where(present, l * jnp.where(present, jnp.abs(v), 1) ** q, 0)

  return total_of(
    one, x, spread("lam of hyperparams", lam, x), spread("q of hyperparams", q, x, check=_open_unit)
  )


l0 = Penalty(penalty_l0, prox_l0, convex=False)
half = Penalty(penalty_half, prox_half, convex=False)
two_thirds = Penalty(penalty_two_thirds, prox_two_thirds, convex=False)
lq = Penalty(penalty_lq, prox_lq, convex=False)
