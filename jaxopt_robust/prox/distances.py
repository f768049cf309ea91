"""Penalties made from a projection: the distance to a set, its square, the indicator."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.numerics import safe_norm, upcast
from jaxopt_robust.prox.elementary import make_prox_from_projection
from jaxopt_robust.typing import Array, ArrayLike, Penalty

__all__ = ["distance", "indicator", "squared_distance"]

Projection = Callable[..., Array]


def _onto(projection: Projection, x: Array, of_set: Any) -> Array:
  return projection(x) if of_set is None else projection(x, of_set)


def _is_convex(projection: Projection, convex: bool | None) -> bool:
  return getattr(projection, "is_convex", True) if convex is None else convex


def _strength(hyperparams: Any, x: Array) -> tuple[Array, Any]:
  lam, of_set = _arguments.parts(hyperparams, "lam", "of_set", example="(1.0, None)")
  _checks.check_non_negative("lam of hyperparams", lam)
  if jnp.ndim(lam) != 0:
    raise ValueError(f"lam of hyperparams must be a scalar; got shape {jnp.shape(lam)}.")
  return jnp.asarray(lam, x.dtype), of_set


def distance(projection: Projection, *, convex: bool | None = None) -> Penalty:
  r"""The distance to a convex set, as a penalty.

  g(x) = lam d_C(x) with d_C(x) = ||x - P_C(x)||_2. Its operator moves x towards P_C(x) by
  scaling * lam, or onto it if that is nearer: x + min(1, scaling lam / d_C(x)) (P_C(x) - x).

  Args:
    projection: ``projection(x, hyperparams) -> x_like`` onto a closed convex set C, such as those
      of ``jaxopt_robust.projections``; called with ``x`` alone where the hyper-parameters are None.
    convex: whether the set is convex, which solvers ask; None: yes, except for projections of this
      package onto spheres, sparse vectors, low rank and orthonormal columns.

  Returns:
    ``Penalty`` of float arrays whose hyper-parameters are a pair (lam, hyper-parameters of C),
    (1, None) by default; lam >= 0.

  Raises:
    TypeError: when ``projection`` is not a function.

  Note:
    In C the derivative of the distance is 0. At d_C = scaling lam the operator is differentiated as
    outside.

  Example:
    >>> penalty = distance(optax.projections.projection_non_negative)
    >>> penalty.prox(jnp.array([2.0, -3.0]), (1.0, None))
    Array([ 2., -2.], dtype=float32)

  Reference:
    Combettes and Pesquet, Proximal splitting methods in signal processing, 2011, table 10.1.
  """
  _arguments.check_callable("projection", projection)

  def value(x: ArrayLike, hyperparams: Any = (1.0, None)) -> Array:
    array = _checks.check_float_array("x", x, non_empty=False)
    wide = upcast(array)
    lam, of_set = _strength(hyperparams, wide)
    return (lam * safe_norm(wide - _onto(projection, wide, of_set))).astype(array.dtype)

  def prox(x: ArrayLike, hyperparams: Any = (1.0, None), scaling: ArrayLike = 1.0) -> Array:
    _checks.check_non_negative("scaling", scaling)
    array = _checks.check_float_array("x", x, non_empty=False)
    wide = upcast(array)
    lam, of_set = _strength(hyperparams, wide)
    nearest = _onto(projection, wide, of_set)
    far = safe_norm(wide - nearest)
    step = jnp.asarray(scaling, wide.dtype) * lam
    outside = ~(far < step)  # NaN too
    share = step / jnp.where(outside & ~(far == 0), far, 1)
    moved = wide + share * (nearest - wide)
    out = jnp.where(outside & ~(far == 0), moved, nearest)
    return jnp.where(jnp.isnan(step), jnp.nan, out).astype(array.dtype)

  return Penalty(value, prox, _is_convex(projection, convex))


def squared_distance(projection: Projection, *, convex: bool | None = None) -> Penalty:
  r"""Half the squared distance to a convex set, as a penalty.

  g(x) = lam / 2 d_C(x)^2, smooth with the gradient lam (x - P_C(x)); its operator is
  (x + G P_C(x)) / (1 + G) with G = scaling * lam.

  Args:
    projection: as in ``distance``.
    convex: as in ``distance``.

  Returns:
    ``Penalty`` of float arrays whose hyper-parameters are a pair (lam, hyper-parameters of C),
    (1, None) by default; lam >= 0.

  Raises:
    TypeError: when ``projection`` is not a function.

  Example:
    >>> penalty = squared_distance(optax.projections.projection_non_negative)
    >>> penalty.prox(jnp.array([2.0, -3.0]), (2.0, None))
    Array([ 2., -1.], dtype=float32)

  Reference:
    Combettes and Pesquet, Proximal splitting methods in signal processing, 2011, table 10.1.
  """
  _arguments.check_callable("projection", projection)

  def value(x: ArrayLike, hyperparams: Any = (1.0, None)) -> Array:
    array = _checks.check_float_array("x", x, non_empty=False)
    wide = upcast(array)
    lam, of_set = _strength(hyperparams, wide)
    off = wide - _onto(projection, wide, of_set)
    return (lam / 2 * jnp.sum(off * off)).astype(array.dtype)

  def prox(x: ArrayLike, hyperparams: Any = (1.0, None), scaling: ArrayLike = 1.0) -> Array:
    _checks.check_non_negative("scaling", scaling)
    array = _checks.check_float_array("x", x, non_empty=False)
    wide = upcast(array)
    lam, of_set = _strength(hyperparams, wide)
    step = jnp.asarray(scaling, wide.dtype) * lam
    nearest = _onto(projection, wide, of_set)
    return (wide + step / (1 + step) * (nearest - wide)).astype(array.dtype)

  return Penalty(value, prox, _is_convex(projection, convex))


def indicator(projection: Projection, *, tol: float = 1e-5, convex: bool | None = None) -> Penalty:
  r"""The indicator of a set, as a penalty.

  g(x) = 0 where ||x - P(x)||_inf <= tol max(||x||_inf, ||P(x)||_inf), and inf elsewhere; the
  operator is P whatever the scaling.

  Args:
    projection: ``projection(x, hyperparams) -> x_like``; called with ``x`` alone where the
      hyper-parameters are None.
    tol: >= 0, how far from the set rounding may leave a point of it.
    convex: as in ``distance``.

  Returns:
    ``Penalty`` of float arrays whose hyper-parameters are those of the projection.

  Raises:
    TypeError: when ``projection`` is not a function.
    ValueError: when tol is negative.

  Example:
    >>> penalty = indicator(optax.projections.projection_non_negative)
    >>> [float(penalty.value(jnp.array([v]))) for v in (1.0, -1.0)]
    [0.0, inf]

  Reference:
    Parikh and Boyd, Proximal algorithms, 2014, section 1.2.
  """
  _arguments.check_callable("projection", projection)
  _checks.check_non_negative("tol", tol)

  def value(x: ArrayLike, hyperparams: Any = None) -> Array:
    array = _checks.check_float_array("x", x, non_empty=False)
    nearest = _onto(projection, array, hyperparams)
    off = jnp.max(jnp.abs(array - nearest), initial=0)
    size = jnp.maximum(jnp.max(jnp.abs(array), initial=0), jnp.max(jnp.abs(nearest), initial=0))
    inside = off <= tol * size
    return jnp.where(inside, 0, jnp.where(jnp.isnan(off), jnp.nan, jnp.inf)).astype(array.dtype)

  return Penalty(value, make_prox_from_projection(projection), _is_convex(projection, convex))
