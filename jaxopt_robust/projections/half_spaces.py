"""Projections onto orthants, boxes, hyperplanes and half-spaces, of arrays and pytrees."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.projections import _common
from jaxopt_robust.projections.vectors import projection_hyperslab
from jaxopt_robust.typing import ArrayLike, PyTree

__all__ = [
  "projection_box",
  "projection_halfspace",
  "projection_hypercube",
  "projection_hyperplane",
  "projection_non_negative",
]


def projection_non_negative(x: PyTree, hyperparams: Any = None) -> PyTree:
  r"""Projection onto the non-negative orthant.

  Solves argmin_p 1/2 ||p - x||_2^2 subject to p >= 0, by max(x, 0).

  Args:
    x: float[...] array or pytree of arrays.
    hyperparams: ignored.

  Returns:
    Like ``x``. NaN entries stay NaN.

  Raises:
    TypeError: when ``x`` is not real.

  Note:
    At 0 the derivative is 0.

  Example:
    >>> projection_non_negative(jnp.array([-1.0, 2.0]))
    Array([0., 2.], dtype=float32)

  Reference:
    Parikh and Boyd, Proximal algorithms, 2014, section 6.2.4.
  """
  del hyperparams
  return jax.tree.map(jax.nn.relu, _checks.check_float_tree("x", x))


def projection_box(x: PyTree, hyperparams: Any) -> PyTree:
  r"""Projection onto a box.

  Solves argmin_p 1/2 ||p - x||_2^2 subject to low <= p <= high, by clipping.

  Args:
    x: float[...] array or pytree of arrays.
    hyperparams: pair (low, high), each a scalar, an array of the shape of ``x`` or a pytree prefix
      of ``x`` with such leaves; may be infinite, may be traced.

  Returns:
    Like ``x``. NaN entries stay NaN; NaN where a traced box is empty.

  Raises:
    TypeError: when an array is not real.
    ValueError: when shapes do not fit or the box is known to be empty.

  Note:
    On the boundary the derivative is that of the inside.

  Example:
    >>> projection_box(jnp.array([-1.0, 0.5, 4.0]), (0.0, 1.0))
    Array([0. , 0.5, 1. ], dtype=float32)

  Reference:
    Parikh and Boyd, Proximal algorithms, 2014, section 6.2.4.
  """
  low, high = _arguments.parts(hyperparams, "low", "high")
  tree = _checks.check_float_tree("x", x)
  low, high = (jax.tree.broadcast(bound, tree) for bound in (low, high))

  def clip(x: Any, low: Any, high: Any) -> Any:
    low, high = (
      _common.like(name, bound, x, spread=True) for name, bound in (("low", low), ("high", high))
    )
    empty = low > high
    _checks.check_holds(~empty, "the box is empty: it needs low <= high.")
    inside = jnp.where(x < low, low, jnp.where(x > high, high, x))
    return jnp.where(empty | jnp.isnan(low) | jnp.isnan(high), jnp.nan, inside)

  return jax.tree.map(clip, tree, low, high)


def projection_hypercube(x: PyTree, unit: ArrayLike = 1.0) -> PyTree:
  r"""Projection onto a hypercube with a corner at the origin.

  Solves argmin_p 1/2 ||p - x||_2^2 subject to 0 <= p <= unit.

  Args:
    x: float[...] array or pytree of arrays.
    unit: >= 0, the length of the sides; may be traced.

  Returns:
    Like ``x``; NaN where a traced length is negative.

  Raises:
    TypeError: when an array is not real.
    ValueError: when the length is negative.

  Example:
    >>> projection_hypercube(jnp.array([-1.0, 0.5, 4.0]))
    Array([0. , 0.5, 1. ], dtype=float32)

  Reference:
    Parikh and Boyd, Proximal algorithms, 2014, section 6.2.4.
  """
  _checks.check_non_negative("unit", unit)
  return projection_box(x, (0.0, unit))


def _plane(x: PyTree, hyperparams: Any, *, equal: bool) -> PyTree:
  normal, b = _arguments.parts(hyperparams, "a", "b")
  flat, unravel = ravel_pytree(_checks.check_float_tree("x", x))
  structure: Any = jax.tree.structure(x)
  if jax.tree.structure(normal) != structure:
    raise ValueError("a must have the structure of x.")
  for leaf, of in zip(jax.tree.leaves(normal), jax.tree.leaves(x), strict=True):
    _common.like("a", leaf, jnp.asarray(of, flat.dtype))
  a = ravel_pytree(_checks.check_float_tree("a", normal))[0].astype(flat.dtype)
  return unravel(projection_hyperslab(flat, (a, b if equal else -jnp.inf, b)))


def projection_hyperplane(x: PyTree, hyperparams: Any) -> PyTree:
  r"""Projection onto a hyperplane.

  Solves argmin_p 1/2 ||p - x||_2^2 subject to <a, p> = b.

  Args:
    x: float[...] array or pytree of arrays.
    hyperparams: pair (a, b): a like ``x``, b a scalar; may be traced.

  Returns:
    Like ``x``; NaN when a is 0 and b, traced, is not.

  Raises:
    TypeError: when an array is not real.
    ValueError: when structures or shapes do not fit, or the set is known to be empty.

  Example:
    >>> projection_hyperplane(jnp.array([3.0, 0.0]), (jnp.array([1.0, 1.0]), 1.0))
    Array([ 2., -1.], dtype=float32)

  Reference:
    Parikh and Boyd, Proximal algorithms, 2014, section 6.2.2.
  """
  return _plane(x, hyperparams, equal=True)


def projection_halfspace(x: PyTree, hyperparams: Any) -> PyTree:
  r"""Projection onto a half-space.

  Solves argmin_p 1/2 ||p - x||_2^2 subject to <a, p> <= b.

  Args:
    x: float[...] array or pytree of arrays.
    hyperparams: pair (a, b): a like ``x``, b a scalar, which may be infinite; may be traced.

  Returns:
    Like ``x``; NaN when a is 0 and b, traced, is negative.

  Raises:
    TypeError: when an array is not real.
    ValueError: when structures or shapes do not fit, or the set is known to be empty.

  Note:
    On the boundary the derivative is the identity.

  Example:
    >>> projection_halfspace(jnp.array([3.0, 0.0]), (jnp.array([1.0, 1.0]), 1.0))
    Array([ 2., -1.], dtype=float32)

  Reference:
    Parikh and Boyd, Proximal algorithms, 2014, section 6.2.3.
  """
  return _plane(x, hyperparams, equal=False)
