"""Folded concave penalties: l1 near zero, flat far away. MCP, SCAD, CEL0."""

from typing import Any

import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.numerics import hard_threshold, soft_threshold
from jaxopt_robust.prox._common import entrywise, root, spread, start, strength, total_of
from jaxopt_robust.prox._stationary import quotient
from jaxopt_robust.typing import Array, ArrayLike, Penalty, PyTree

__all__ = [
  "cel0",
  "mcp",
  "penalty_cel0",
  "penalty_mcp",
  "penalty_scad",
  "prox_cel0",
  "prox_mcp",
  "prox_scad",
  "scad",
]


def _above_two(name: str, value: Any) -> None:
  _checks.check_greater(name, value, 2.0)


def _firm(v: Array, slope: Array, share: Array, edge: Array, jump: Array) -> Array:
  """Operator of slope |y| - share y^2 / 2, flat from ``edge`` on; jumps where share >= 1."""
  bends = share < 1
  bend = soft_threshold(v, slope) / jnp.where(bends, 1 - share, 1)
  inner = jnp.where(jnp.abs(v) <= edge, bend, v)
  return jnp.where(bends, inner, hard_threshold(v, jump))


def _mcp(v: Array, s: Array, lam: Array, theta: Array) -> Array:
  return _firm(
    v, strength(s, lam), quotient(s, theta), theta * lam, strength(root(s) * root(theta), lam)
  )


def prox_mcp(x: PyTree, hyperparams: Any, scaling: ArrayLike = 1.0) -> PyTree:
  r"""Proximal operator of the minimax concave penalty (firm thresholding).

  Solves argmin_y 1/2 ||y - x||_2^2 + s g(y) with s = scaling and g as in ``penalty_mcp``. For
  s < theta: 0 where |x| <= s lam, sign(x) (|x| - s lam) / (1 - s / theta) up to theta lam, x
  beyond. For s >= theta the problem is concave on the bend and x 1[|x| > lam sqrt(s theta)] solves
  it.

  Args:
    x: float[...] or complex[...] array or pytree of arrays.
    hyperparams: pair (lam, theta): lam >= 0, theta > 0, each a scalar, an array of the shape of
      ``x`` or a pytree prefix of ``x``; may be traced.
    scaling: >= 0, the step size; may be traced.

  Returns:
    Same structure, shapes and dtypes as ``x``. NaN entries stay NaN.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when lam is negative, theta is not positive, the scaling is negative, or shapes do
      not fit.

  Note:
    At |x_i| = s lam (s < theta) the derivative is 0; at the jump of s >= theta the value is 0.
    skglm and others implement s < theta only.

    Choosing theta: g is flat beyond theta lam, so that large entries are not shrunk; theta to
    infinity is the Lasso. An objective is convex along a coordinate where its smooth part has a
    curvature above 1 / theta: with standardised columns theta = 3 is usual for 1/(2n) times the
    squared error (curvature 1) and 10 or more for the mean logistic loss (curvature below 1/4).
    A solution whose non-zero entries are all beyond theta lam does not depend on lam: the
    derivative by lam is 0 there, and a descent on lam stands still. It also jumps where the
    support changes. Begin with a large theta, or with the strength that is best for the Lasso.

  Example:
    >>> prox_mcp(jnp.array([-0.5, 1.5, 4.0]), (1.0, 2.0))
    Array([-0.,  1.,  4.], dtype=float32)

  Reference:
    Zhang, Nearly unbiased variable selection under minimax concave penalty, 2010, equation 2.1.
  """
  lam, theta = _arguments.parts(hyperparams, "lam", "theta", example=(1.0, 3.0))
  x = start(x, scaling, complex_ok=True)
  return entrywise(
    _mcp,
    x,
    scaling,
    spread("lam of hyperparams", lam, x),
    spread("theta of hyperparams", theta, x, check=_checks.check_positive),
  )


def penalty_mcp(x: PyTree, hyperparams: Any) -> Array:
  r"""The minimax concave penalty (MCP).

  Computes g(x) = sum_i lam |x_i| - x_i^2 / (2 theta) where |x_i| <= theta lam, and theta lam^2 / 2
  beyond.

  Args:
    x: float[...] or complex[...] array or pytree of arrays.
    hyperparams: as in ``prox_mcp``.

  Returns:
    float scalar.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when lam is negative, theta is not positive, or shapes do not fit.

  Example:
    >>> float(penalty_mcp(jnp.array([9.0]), (1.0, 3.0)))
    1.5

  Reference:
    Zhang, Nearly unbiased variable selection under minimax concave penalty, 2010, equation 2.1.
  """
  lam, theta = _arguments.parts(hyperparams, "lam", "theta", example=(1.0, 3.0))
  x = _checks.check_float_tree("x", x, complex_ok=True)

  def one(v: Array, l: Array, t: Array) -> Array:
    a = jnp.abs(v)
    bends = a <= t * l
    low, top = jnp.where(bends, a, 0), jnp.where(bends, 0, l)  # what is not taken is 0
    return jnp.where(bends, low * (l - quotient(low, t) / 2), t * top / 2 * top)

  return total_of(
    one,
    x,
    spread("lam of hyperparams", lam, x),
    spread("theta of hyperparams", theta, x, check=_checks.check_positive),
  )


def prox_scad(x: PyTree, hyperparams: Any, scaling: ArrayLike = 1.0) -> PyTree:
  r"""Proximal operator of the smoothly clipped absolute deviation (SCAD).

  Solves argmin_y 1/2 ||y - x||_2^2 + s g(y) with s = scaling and g as in ``penalty_scad``. For
  s < a - 1: soft thresholding at s lam where |x| <= lam (1 + s), ((a - 1) x - sign(x) s a lam) /
  (a - 1 - s) up to a lam, x beyond. For s >= a - 1: x where |x| exceeds a jump, which is
  lam (s + a + 1) / 2 for s < a + 1 and lam sqrt(s (a + 1)) else; soft thresholding below.

  Args:
    x: float[...] or complex[...] array or pytree of arrays.
    hyperparams: pair (lam, a): lam >= 0, a > 2 (3.7 is usual), each a scalar, an array of the shape
      of ``x`` or a pytree prefix of ``x``; may be traced.
    scaling: >= 0, the step size; may be traced.

  Returns:
    Same structure, shapes and dtypes as ``x``. NaN entries stay NaN.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when lam is negative, a is not above 2, the scaling is negative, or shapes do not
      fit.

  Note:
    At the jump of s >= a - 1 the soft-thresholded value is returned. Peers implement s < a - 1
    only.

  Example:
    >>> prox_scad(jnp.array([-0.5, 2.0, 4.0]), (1.0, 3.7))
    Array([-0.,  1.,  4.], dtype=float32)

  Reference:
    Fan and Li, Variable selection via nonconcave penalized likelihood and its oracle properties,
    2001, equations 2.7 and 2.8 (s = 1); the other regimes are derived and checked by brute force.
  """
  lam, a = _arguments.parts(hyperparams, "lam", "a", example=(1.0, 3.7))
  x = start(x, scaling, complex_ok=True)

  def one(v: Array, s: Array, l: Array, a: Array) -> Array:
    size = jnp.abs(v)
    g = strength(s, l)
    soft = soft_threshold(v, g)
    bends = s < a - 1
    # divided by a - 1: no product of x or lam with a overflows
    bend = (v - jnp.sign(v) * g * (1 + 1 / (a - 1))) / jnp.where(bends, 1 - s / (a - 1), 1)
    inner = jnp.where(size <= l * (1 + s), soft, jnp.where(size <= a * l, bend, v))
    jump = jnp.where(s < a + 1, l * (s / 2 + a / 2 + 0.5), l * (root(s) * root(a + 1)))
    return jnp.where(bends, inner, jnp.where(size <= jump, soft, v))

  return entrywise(
    one,
    x,
    scaling,
    spread("lam of hyperparams", lam, x),
    spread("a of hyperparams", a, x, check=_above_two),
  )


def penalty_scad(x: PyTree, hyperparams: Any) -> Array:
  r"""The smoothly clipped absolute deviation penalty (SCAD).

  Computes g(x) = sum_i lam |x_i| up to lam, (2 a lam |x_i| - x_i^2 - lam^2) / (2 (a - 1)) up to a
  lam, lam^2 (a + 1) / 2 beyond.

  Args:
    x: float[...] or complex[...] array or pytree of arrays.
    hyperparams: as in ``prox_scad``.

  Returns:
    float scalar.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when lam is negative, a is not above 2, or shapes do not fit.

  Example:
    >>> round(float(penalty_scad(jnp.array([9.0]), (1.0, 3.7))), 3)
    2.35

  Reference:
    Fan and Li, Variable selection via nonconcave penalized likelihood and its oracle properties,
    2001, equations 2.7 and 2.8 (s = 1); the other regimes are derived and checked by brute force.
  """
  lam, a = _arguments.parts(hyperparams, "lam", "a", example=(1.0, 3.7))
  x = _checks.check_float_tree("x", x, complex_ok=True)

  def one(v: Array, l: Array, a: Array) -> Array:
    size = jnp.abs(v)
    beyond, top = size - l, jnp.where(size <= a * l, 0, l)
    bend = l * size - beyond * (beyond / (a - 1) / 2)
    return jnp.where(size <= l, l * size, jnp.where(size <= a * l, bend, top * (a + 1) / 2 * top))

  return total_of(
    one, x, spread("lam of hyperparams", lam, x), spread("a of hyperparams", a, x, check=_above_two)
  )


def prox_cel0(x: PyTree, hyperparams: Any, scaling: ArrayLike = 1.0) -> PyTree:
  r"""Proximal operator of CEL0, the continuous exact relaxation of l0.

  Solves argmin_y 1/2 ||y - x||_2^2 + scaling * g(y) with g as in ``penalty_cel0``. It is the
  minimax concave penalty with theta = 1 / c^2 and strength c sqrt(2 lam), c = norm, and computed as
  such.

  Args:
    x: float[...] or complex[...] array or pytree of arrays.
    hyperparams: pair (lam, norm): lam >= 0, norm > 0, each a scalar, an array of the shape of ``x``
      or a pytree prefix of ``x``; may be traced.
    scaling: >= 0, the step size; may be traced.

  Returns:
    Same structure, shapes and dtypes as ``x``. NaN entries stay NaN.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when lam is negative, norm is not positive, the scaling is negative, or shapes do
      not fit.

  Note:
    With norm = ||a_i||, the norms of the columns of A, 1/2 ||A x - y||^2 + g(x) has the global
    minimisers of the l0 problem and fewer local ones.

  Example:
    >>> prox_cel0(jnp.array([-0.5, 2.0]), (0.5, 0.5))
    Array([-0.,  2.], dtype=float32)

  Reference:
    Soubies, Blanc-Feraud and Aubert, A continuous exact l0 penalty (CEL0) for least squares
    regularized problem, 2015.
  """
  lam, norm = _arguments.parts(hyperparams, "lam", "norm", example=(1.0, 1.0))
  x = start(x, scaling, complex_ok=True)

  def one(v: Array, s: Array, l: Array, c: Array) -> Array:
    lam = root(2 * l)
    return _firm(
      v, strength(strength(s, c), lam), strength(strength(s, c), c), quotient(lam, c), lam * root(s)
    )

  return entrywise(
    one,
    x,
    scaling,
    spread("lam of hyperparams", lam, x),
    spread("norm of hyperparams", norm, x, check=_checks.check_positive),
  )


def penalty_cel0(x: PyTree, hyperparams: Any) -> Array:
  r"""CEL0, the continuous exact relaxation of the number of non-zeros.

  Computes g(x) = sum_i lam - (c^2 / 2) (|x_i| - sqrt(2 lam) / c)^2 where |x_i| <= sqrt(2 lam) / c,
  and lam beyond, with c = norm.

  Args:
    x: float[...] or complex[...] array or pytree of arrays.
    hyperparams: as in ``prox_cel0``.

  Returns:
    float scalar.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when lam is negative, norm is not positive, or shapes do not fit.

  Example:
    >>> float(penalty_cel0(jnp.array([9.0]), (0.5, 0.5)))
    0.5

  Reference:
    Soubies, Blanc-Feraud and Aubert, A continuous exact l0 penalty (CEL0) for least squares
    regularized problem, 2015.
  """
  lam, norm = _arguments.parts(hyperparams, "lam", "norm", example=(1.0, 1.0))
  x = _checks.check_float_tree("x", x, complex_ok=True)

  def one(v: Array, l: Array, c: Array) -> Array:
    lam = root(2 * l)
    a = jnp.abs(v)
    bends = a <= lam / c
    share = c * jnp.where(bends, a, 0)
    # l - (c^2 / 2) (a - edge)^2 without its cancellation near 0
    return jnp.where(bends, share * (lam - share / 2), l)

  return total_of(
    one,
    x,
    spread("lam of hyperparams", lam, x),
    spread("norm of hyperparams", norm, x, check=_checks.check_positive),
  )


mcp = Penalty(penalty_mcp, prox_mcp, convex=False)
scad = Penalty(penalty_scad, prox_scad, convex=False)
cel0 = Penalty(penalty_cel0, prox_cel0, convex=False)
