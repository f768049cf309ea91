"""What the searches of a model share: the box that they stay in, and one number a design."""

from collections.abc import Callable

import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.typing import Array, ArrayLike

Bounds = tuple[ArrayLike, ArrayLike] | None


def confine_to(bounds: Bounds, like: Array) -> Callable[[Array], Array]:
  """The clip of designs float[batch, ...] to (low, high); ``like`` is one design, or its shape."""
  if bounds is None:
    return lambda designs: designs
  parts = _arguments.parts(bounds, "low", "high", name="bounds", example="(-1.0, 1.0)")
  low, high = (_checks.check_float_array("bounds", b).astype(like.dtype) for b in parts)
  for bound in (low, high):
    if bound.shape not in ((), like.shape):
      raise ValueError(
        f"bounds must be scalars or of one design's shape {like.shape}; got {bound.shape}."
      )
  low, high = (jnp.broadcast_to(b, like.shape) for b in (low, high))
  _checks.check_holds(low <= high, "bounds must be a pair (low, high) with low <= high.")
  return lambda designs: jnp.clip(designs, low[None], high[None])


def one_a_design(
  objective: Callable[[Array], Array], num: int, *, name: str = "objective", slopes: bool = False
) -> Callable[[Array], Array]:
  """The objective, which must return float[num]; counts and bools only where no slopes are taken.

  ``name`` is what the caller calls it.
  """

  def predict(designs: Array) -> Array:
    found = objective(designs)
    with _arguments.within(name):
      values = _checks.check_float_array("the values returned", found)
    if values.shape != (num,):
      raise ValueError(
        f"{name} must return one number a design, shape {(num,)}; got {values.shape}."
      )
    if slopes and not jnp.issubdtype(jnp.asarray(found).dtype, jnp.floating):
      raise TypeError(
        f"{name} must return floating-point numbers, whose slopes are taken; got "
        f"{_checks.describe(found)}."
      )
    return values

  return predict
