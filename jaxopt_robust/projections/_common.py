"""What the projections share: checked inputs, and the threshold of simplex-like sets.

Every projection onto a polyhedral set here ends in the same way: the active set of the solution is
held constant and the solution is written in closed form on it. This takes the last rounding off,
and differentiating that closed form gives an element of the Clarke Jacobian, at any order and in
both modes.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.numerics import safe_divide
from jaxopt_robust.typing import Array, ArrayLike

F = TypeVar("F", bound=Callable)


def onto_non_convex(projection: F) -> F:
  """Marks a projection whose set is not convex: penalties made of it hand that on."""
  projection.is_convex = False  # type: ignore[attr-defined]
  return projection


def vector(x: ArrayLike) -> Array:
  """A float vector, in its own dtype."""
  return strong(_checks.check_float_array("x", x, rank=1))


def matrix(x: ArrayLike, *, square: bool = False) -> Array:
  """A float matrix, in its own dtype."""
  array = strong(_checks.check_float_array("x", x, rank=2))
  if square and array.shape[0] != array.shape[1]:
    raise ValueError(f"x must be a square matrix; got shape {array.shape}.")
  return array


def strong(array: Array) -> Array:
  """The same array without a weak type."""
  return jax.lax.convert_element_type(array, array.dtype)


def scalar(name: str, value: Any, dtype: Any) -> Array:
  """A number, in a given dtype."""
  array = _checks.check_float_array(name, value, non_empty=False)
  if array.ndim != 0:
    raise ValueError(f"{name} must be a scalar; got shape {array.shape}.")
  return array.astype(dtype)


def like(name: str, value: Any, x: Array, *, spread: bool = False) -> Array:
  """An array of the shape and dtype of ``x``; with ``spread`` a scalar serves too."""
  array = _checks.check_float_array(name, value, non_empty=False).astype(x.dtype)
  if spread and array.ndim == 0:
    return jnp.broadcast_to(array, x.shape)
  if array.shape != x.shape:
    raise ValueError(f"{name} must have the shape of x, {x.shape}; got {array.shape}.")
  return array


def system(names: tuple[str, str], matrix: Any, rhs: Any, x: Array) -> tuple[Array, Array]:
  """A matrix with a column for each entry of ``x``, and its right side, in the dtype of ``x``."""
  rows = _checks.check_float_array(names[0], matrix, rank=2, non_empty=False).astype(x.dtype)
  if rows.shape[1] != x.shape[0]:
    raise ValueError(f"{names[0]} must have {x.shape[0]} columns; got shape {rows.shape}.")
  return rows, right_side(names[1], rhs, rows)


def right_side(name: str, value: Any, rows: Array) -> Array:
  """A number for each row of a matrix."""
  array = _checks.check_float_array(name, value, non_empty=False).astype(rows.dtype)
  if array.shape != rows.shape[:1]:
    raise ValueError(f"{name} must have shape {rows.shape[:1]}; got {array.shape}.")
  return array


def or_nan(good: Array, value: Array) -> Array:
  """The value where the set is not empty, else NaN."""
  return jnp.where(good, value, jnp.nan)


def threshold(z: Array, weights: Array, total: Array) -> Array:
  """Solves sum_i weights_i max(z_i - tau, 0) = total along the last axis; returns z - tau.

  Newton's method from below on a convex piecewise linear function: tau rises, the active set
  shrinks, so it ends after finitely many steps (a handful, as a rule, against a sort). ``z`` must
  have the maximum 0, which keeps small differences of huge numbers.

  Args:
    z: float[..., n], at most 0, with a 0 where the weight is positive; may hold -inf.
    weights: float[..., n], >= 0.
    total: float[..., 1], >= 0.

  Returns:
    float[..., n], max(z - tau, 0).
  """

  def sums(mask: Array, z: Array, weights: Array) -> tuple[Array, Array]:
    weight = jnp.sum(jnp.where(mask, weights, 0), axis=-1, keepdims=True)
    moment = jnp.sum(jnp.where(mask, weights * jnp.where(mask, z, 0), 0), axis=-1, keepdims=True)
    return weight, moment

  fixed_z, fixed_weights, fixed_total = jax.lax.stop_gradient((z, weights, total))

  def step(carry: tuple) -> tuple:
    tau, base, count, _ = carry
    mask = fixed_z > tau
    weight, moment = sums(mask, fixed_z, fixed_weights)
    root = safe_divide(moment - fixed_total, weight)
    # Rounding may put the root on an entry that takes part: then the mask before is the right one.
    base = jnp.where((weight == 0) | (root < tau), base, tau)
    new = jnp.where(weight == 0, tau, jnp.maximum(tau, root))
    new_count = jnp.sum(mask, axis=-1, keepdims=True, dtype=jnp.int32)
    return new, base, new_count, count

  top = jnp.sum(jnp.where(fixed_z == 0, fixed_weights, 0), axis=-1, keepdims=True)
  all_weight, all_moment = sums(fixed_z > -jnp.inf, fixed_z, fixed_weights)
  low = jnp.maximum(
    safe_divide(-fixed_total, top), safe_divide(all_moment - fixed_total, all_weight)
  )
  low = jnp.where(fixed_total == 0, 0, low)
  none = jnp.full(low.shape, -1, jnp.int32)
  _, tau, _, _ = jax.lax.while_loop(
    lambda carry: jnp.any(carry[2] != carry[3]), step, step((low, low, none, none - 1))
  )
  mask = fixed_z > tau
  weight, moment = sums(mask, z, weights)
  return jnp.where(
    mask, jnp.maximum(jnp.where(mask, z, 0) - safe_divide(moment - total, weight), 0), 0
  )


def onto_simplex(z: Array, total: Array) -> Array:
  """Projects the last axis of ``z`` onto {p >= 0, sum p = total}, total of shape [..., 1]."""
  top = jax.lax.stop_gradient(jnp.max(z, axis=-1, keepdims=True))
  out = threshold(z - top, jnp.ones_like(z), total)
  return or_nan(~jnp.isnan(top), out)
