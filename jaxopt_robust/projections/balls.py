"""Projections onto the simplex, balls and spheres, of arrays and pytrees."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxopt_robust import _checks
from jaxopt_robust.numerics import divisor, safe_norm, upcast
from jaxopt_robust.projections import _common
from jaxopt_robust.projections.half_spaces import projection_box
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = [
  "projection_l1_ball",
  "projection_l1_sphere",
  "projection_l2_ball",
  "projection_l2_sphere",
  "projection_linf_ball",
  "projection_simplex",
]


def _of_size(name: str, x: PyTree, size: Any, onto: Callable[[Array, Array], Array]) -> PyTree:
  """``onto`` of all entries as one vector, for sets that a number >= 0 gives the size of."""
  flat, unravel = ravel_pytree(_checks.check_float_tree("x", x))
  _checks.check_non_negative(name, size)
  wide = upcast(flat)
  bound = _common.scalar(name, size, wide.dtype)
  if not flat.size:
    return unravel(flat)
  good = (bound >= 0) & ~jnp.any(jnp.isnan(wide))
  return unravel(_common.or_nan(good, onto(wide, bound)).astype(flat.dtype))


def _signs(x: Array) -> Array:
  return jnp.where(x < 0, -1, 1).astype(x.dtype)  # 0 has a side too: a sphere has no point there


def _l1_sphere(x: Array, value: Array) -> Array:
  return _signs(x) * _common.onto_simplex(jnp.abs(x), value[None])


def _length(x: Array) -> tuple[Array, Array]:
  """A unit of length, and the norm in it: at size 1 no square leaves the range."""
  unit = jax.lax.stop_gradient(jnp.max(jnp.abs(x)))
  unit = divisor(jnp.where(jnp.isfinite(unit), unit, 1))
  return unit, safe_norm(x / unit)


def projection_simplex(x: PyTree, value: ArrayLike = 1.0) -> PyTree:
  r"""Projection onto a simplex.

  Solves argmin_p 1/2 ||p - x||_2^2 subject to p >= 0, sum_i p_i = value.

  Args:
    x: float[...] array or pytree of arrays, all of whose entries make one vector.
    value: >= 0, what the entries sum to; may be traced.

  Returns:
    Like ``x``; NaN when a traced value is negative or an entry is NaN.

  Raises:
    TypeError: when an array is not real.
    ValueError: when value is negative or no scalar.

  Note:
    Found by Newton's method, without a sort. On the support S the derivative is h_S - mean(h_S).

  Example:
    >>> projection_simplex(jnp.array([1.0, 0.5, -1.0]))
    Array([0.75, 0.25, 0.  ], dtype=float32)

  Reference:
    Michelot, A finite algorithm for finding the projection of a point onto the canonical simplex of
    R^n, 1986.
  """
  return _of_size("value", x, value, lambda x, v: _common.onto_simplex(x, v[None]))


@_common.onto_non_convex
def projection_l1_sphere(x: PyTree, value: ArrayLike = 1.0) -> PyTree:
  r"""Projection onto an l1 sphere.

  Solves argmin_p 1/2 ||p - x||_2^2 subject to ||p||_1 = value, by signs times the projection of the
  magnitudes onto a simplex.

  Args:
    x: float[...] array or pytree of arrays, all of whose entries make one vector.
    value: >= 0, the radius; may be traced.

  Returns:
    Like ``x``; NaN when a traced radius is negative or an entry is NaN.

  Raises:
    TypeError: when an array is not real.
    ValueError: when the radius is negative or no scalar.

  Note:
    The set is not convex: entries of 0 go to the positive side where there are several nearest
    points.

  Example:
    >>> projection_l1_sphere(jnp.array([0.25, -0.25]))
    Array([ 0.5, -0.5], dtype=float32)

  Reference:
    Duchi, Shalev-Shwartz, Singer and Chandra, Efficient projections onto the l1-ball for learning
    in high dimensions, 2008.
  """
  return _of_size("value", x, value, _l1_sphere)


def projection_l1_ball(x: PyTree, max_value: ArrayLike = 1.0) -> PyTree:
  r"""Projection onto an l1 ball.

  Solves argmin_p 1/2 ||p - x||_2^2 subject to ||p||_1 <= max_value.

  Args:
    x: float[...] array or pytree of arrays, all of whose entries make one vector.
    max_value: >= 0, the radius; may be traced.

  Returns:
    Like ``x``; NaN when a traced radius is negative or an entry is NaN.

  Raises:
    TypeError: when an array is not real.
    ValueError: when the radius is negative or no scalar.

  Note:
    The derivative holds the support constant. ``projection_weighted_l1_ball`` takes weights.

  Example:
    >>> projection_l1_ball(jnp.array([1.0, -0.5]))
    Array([ 0.75, -0.25], dtype=float32)

  Reference:
    Duchi, Shalev-Shwartz, Singer and Chandra, Efficient projections onto the l1-ball for learning
    in high dimensions, 2008.
  """
  return _of_size(
    "max_value",
    x,
    max_value,
    lambda x, r: jnp.where(jnp.sum(jnp.abs(x)) <= r, x, _l1_sphere(x, r)),
  )


@_common.onto_non_convex
def projection_l2_sphere(x: PyTree, value: ArrayLike = 1.0) -> PyTree:
  r"""Projection onto a Euclidean sphere.

  Solves argmin_p 1/2 ||p - x||_2^2 subject to ||p||_2 = value, by value * x / ||x||.

  Args:
    x: float[...] array or pytree of arrays, all of whose entries make one vector.
    value: >= 0, the radius; may be traced.

  Returns:
    Like ``x``; NaN when a traced radius is negative or an entry is NaN.

  Raises:
    TypeError: when an array is not real.
    ValueError: when the radius is negative or no scalar.

  Note:
    The set is not convex: of x = 0, from which all points are as far, the image is the point with
    equal entries, with derivative 0.

  Example:
    >>> projection_l2_sphere(jnp.array([3.0, -4.0]), 10.0)
    Array([ 6., -8.], dtype=float32)

  Reference:
    Bauschke and Combettes, Convex analysis and monotone operator theory in Hilbert spaces, 2017,
    chapter 3.
  """

  def onto(x: Array, radius: Array) -> Array:
    unit, norm = _length(x)
    is_zero = norm == 0
    even = jnp.ones_like(x) / jnp.sqrt(jnp.asarray(x.size, x.dtype))
    return radius * jnp.where(is_zero, even, x / unit / jnp.where(is_zero, 1, norm))

  return _of_size("value", x, value, onto)


def projection_l2_ball(x: PyTree, max_value: ArrayLike = 1.0) -> PyTree:
  r"""Projection onto a Euclidean ball.

  Solves argmin_p 1/2 ||p - x||_2^2 subject to ||p||_2 <= max_value.

  Args:
    x: float[...] array or pytree of arrays, all of whose entries make one vector.
    max_value: >= 0, the radius; may be traced.

  Returns:
    Like ``x``; NaN when a traced radius is negative or an entry is NaN.

  Raises:
    TypeError: when an array is not real.
    ValueError: when the radius is negative or no scalar.

  Note:
    On the sphere the derivative is the identity.

  Example:
    >>> projection_l2_ball(jnp.array([3.0, -4.0]), 1.0)
    Array([ 0.6, -0.8], dtype=float32)

  Reference:
    Parikh and Boyd, Proximal algorithms, 2014, section 6.5.1.
  """

  def onto(x: Array, radius: Array) -> Array:
    unit, norm = _length(x)
    inside = norm <= radius / unit
    return jnp.where(inside, x, radius * (x / unit / jnp.where(inside, 1, norm)))

  return _of_size("max_value", x, max_value, onto)


def projection_linf_ball(x: PyTree, max_value: ArrayLike = 1.0) -> PyTree:
  r"""Projection onto a ball of the maximum norm.

  Solves argmin_p 1/2 ||p - x||_2^2 subject to |p_i| <= max_value, by clipping.

  Args:
    x: float[...] array or pytree of arrays.
    max_value: >= 0, the radius; may be traced.

  Returns:
    Like ``x``; NaN when a traced radius is negative. NaN entries stay NaN.

  Raises:
    TypeError: when an array is not real.
    ValueError: when the radius is negative.

  Example:
    >>> projection_linf_ball(jnp.array([3.0, -0.5]))
    Array([ 1. , -0.5], dtype=float32)

  Reference:
    Parikh and Boyd, Proximal algorithms, 2014, section 6.2.4.
  """
  _checks.check_non_negative("max_value", max_value)
  radius = _common.scalar("max_value", max_value, jnp.result_type(float))
  return projection_box(x, (-radius, radius))
