"""What every proximal operator shares: checked inputs and broadcast strengths."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.numerics import upcast
from jaxopt_robust.typing import Array, ArrayLike, PyTree


def spread(
  name: str,
  hyper: Any,
  x: PyTree,
  *,
  check: Callable[[str, Any], None] = _checks.check_non_negative,
) -> PyTree:
  """A parameter for each leaf of ``x``: broadcasts a scalar or a pytree prefix; None means 1."""
  if hyper is None:
    hyper = 1.0
  check(name, hyper)
  try:
    spread_tree = jax.tree.broadcast(hyper, x)
  except ValueError as error:
    raise ValueError(
      f"{name} must be a number or a pytree prefix of x; got {jax.tree.structure(hyper)} "
      f"for x of structure {jax.tree.structure(x)}."
    ) from error

  def fit(leaf: Array, strength: ArrayLike) -> Array:
    array = jnp.asarray(strength, leaf.dtype)
    if array.ndim and array.shape != leaf.shape:
      raise ValueError(
        f"{name} must be a scalar or have the shape of x, {leaf.shape}; got {array.shape}."
      )
    return array

  return jax.tree.map(fit, x, spread_tree)


def _check_scaling(scaling: ArrayLike) -> None:
  _checks.check_non_negative("scaling", scaling)
  if jnp.ndim(scaling) != 0:
    raise ValueError(f"scaling must be a scalar; got shape {jnp.shape(scaling)}.")


def start(x: PyTree, scaling: ArrayLike) -> PyTree:
  """Checks what every proximal operator takes: float arrays and a scaling >= 0."""
  _check_scaling(scaling)
  return _checks.check_float_tree("x", x)


def start_array(
  x: ArrayLike,
  scaling: ArrayLike = 0.0,
  *,
  min_rank: int = 0,
  shape: tuple[int, ...] | None = None,
) -> Array:
  """Like ``start`` for one real array of a least rank or a given shape, not a pytree."""
  _check_scaling(scaling)
  array = _checks.check_float_array("x", x, min_rank=min_rank)
  if shape is not None and array.shape != shape:
    raise ValueError(f"x must have the shape of group_ids, {shape}; got {array.shape}.")
  return jax.lax.convert_element_type(array, array.dtype)  # without weak types


def total(terms: PyTree) -> Array:
  """Sum of all entries of a pytree, accumulated in float32 at least."""
  leaves = jax.tree.leaves(terms)
  dtype = jnp.result_type(*leaves)
  return sum((jnp.sum(upcast(leaf)) for leaf in leaves[1:]), jnp.sum(upcast(leaves[0]))).astype(
    dtype
  )


def scaled_for(scaling: ArrayLike, leaf: Array) -> Array:
  """The scaling in the dtype of one leaf, so that it promotes nothing."""
  return jnp.asarray(scaling, leaf.dtype)


def entrywise(fun: Callable[..., Array], x: PyTree, scaling: ArrayLike, *params: PyTree) -> PyTree:
  """``fun(v, scaling, *params)`` on every leaf, computed in float32 at least, in the leaf's dtype.

  Closed forms with roots lose too many digits in half precision.
  """

  def one(v: Array, *leaves: Array) -> Array:
    wide = upcast(v)
    s = jnp.asarray(scaling, wide.dtype)
    return fun(wide, s, *(upcast(leaf) for leaf in leaves)).astype(v.dtype)

  return jax.tree.map(one, x, *params)


def total_of(fun: Callable[..., Array], x: PyTree, *params: PyTree) -> Array:
  """Sum over all entries of ``fun(v, *params)``."""
  return total(jax.tree.map(lambda v, *leaves: fun(v, *leaves), x, *params))


def root(square: ArrayLike) -> Array:
  """Square root with derivative 0 at 0."""
  array = jnp.asarray(square)
  is_zero = array == 0  # False for NaN, which stays NaN
  return jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, array)))
