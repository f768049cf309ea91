"""Projections with a closed form: slabs between hyperplanes, second-order cones."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.numerics import divisor, safe_divide, safe_norm, upcast
from jaxopt_robust.projections import _common
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "projection_hyperslab",
  "projection_second_order_cone",
]


def projection_hyperslab(x: ArrayLike, hyperparams: Any) -> Array:
  r"""Projection onto the slab between two parallel hyperplanes.

  Solves argmin_p 1/2 ||p - x||_2^2 subject to low <= <a, p> <= high.

  Args:
    x: float[...] array.
    hyperparams: triple (a, low, high): a float array of the shape of ``x``, low <= high scalars,
      which may be infinite; may be traced.

  Returns:
    float[...] of the shape and dtype of ``x``; NaN when the set is empty.

  Raises:
    TypeError: when ``x`` is not floating-point.
    ValueError: when shapes do not fit or the set is known to be empty.

  Note:
    An infinite bound gives a half-space, equal bounds give a hyperplane: for these alone
    ``optax.projections`` has ``projection_halfspace`` and ``projection_hyperplane``. On the
    boundary the derivative is the identity.

  Example:
    >>> projection_hyperslab(jnp.array([3.0, 0.0]), (jnp.array([1.0, 1.0]), 0.0, 1.0))
    Array([ 2., -1.], dtype=float32)

  Reference:
    Bauschke and Combettes, Convex analysis and monotone operator theory in Hilbert spaces, 2017,
    chapter 29.
  """
  normal, low, high = _arguments.parts(hyperparams, "a", "low", "high")
  array = _common.strong(_checks.check_float_array("x", x))
  wide = upcast(array)
  a = _common.like("a", normal, wide)
  low, high = (_common.scalar("bounds", bound, wide.dtype) for bound in (low, high))
  top = divisor(jax.lax.stop_gradient(jnp.max(jnp.abs(a))))  # squares of it leave the range
  a, low, high = a / top, low / top, high / top
  inner = jnp.sum(a * wide)
  target = jnp.where(inner < low, low, jnp.where(inner > high, high, inner))
  square = jnp.sum(a * a)
  moved = wide + safe_divide(target - inner, square) * a
  good = (low <= high) & ((square > 0) | ((low <= 0) & (high >= 0)))
  _checks.check_holds(
    good | jnp.isnan(square) | jnp.isnan(low) | jnp.isnan(high),
    "the set is empty: it needs low <= high, and 0 between them if a = 0.",
  )
  return _common.or_nan(good, moved).astype(array.dtype)


def projection_second_order_cone(x: ArrayLike, slope: ArrayLike = 1.0) -> Array:
  r"""Projection onto the second-order cone; the last entry is its axis.

  With x = (u, t), solves argmin_p 1/2 ||p - x||_2^2 subject to ||p_u||_2 <= slope * p_t: x inside
  the cone, 0 where slope ||u|| <= -t, and else s (slope u / ||u||, 1) with
  s = (slope ||u|| + t) / (1 + slope^2).

  Args:
    x: float[n] array with n >= 2.
    slope: > 0; may be traced. 1 gives the self-dual cone.

  Returns:
    float[n] of the dtype of ``x``; NaN when a traced slope is not positive.

  Raises:
    TypeError: when ``x`` is not floating-point.
    ValueError: when ``x`` is no vector of length 2 or more, or slope is not positive.

  Note:
    On the boundary the derivative is that of the inside.

  Example:
    >>> projection_second_order_cone(jnp.array([3.0, 4.0, 0.0]))
    Array([1.5, 2. , 2.5], dtype=float32)

  Reference:
    Bauschke, Projection algorithms and monotone operators (thesis), 1996, theorem 3.3.6.
  """
  array = _common.vector(x)
  if array.shape[0] < 2:
    raise ValueError(f"x must have length at least 2; got shape {array.shape}.")
  _checks.check_positive("slope", slope)
  wide = upcast(array)
  alpha = _common.scalar("slope", slope, wide.dtype)
  # The cone is homogeneous: at size 1 no square leaves the range.
  size = divisor(jax.lax.stop_gradient(jnp.max(jnp.abs(wide))))
  unit = wide / size
  u, t = unit[:-1], unit[-1]
  norm = safe_norm(u)
  height = (alpha * norm + t) / (1 + alpha * alpha)
  side = safe_divide(alpha * height, norm) * u
  outside = jnp.concatenate([side, height[None]])
  out = size * jnp.where(alpha * norm <= -t, 0, outside)
  out = jnp.where(norm <= alpha * t, wide, out)
  good = (alpha > 0) & ~jnp.any(jnp.isnan(wide))
  return _common.or_nan(good, out).astype(array.dtype)
