"""What layers on tokens share: products in full precision, shapes that must agree."""

import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.typing import Array, ArrayLike


def dot(a: Array, b: Array) -> Array:
  """Products of the last two axes in full precision."""
  return jnp.matmul(a, b, precision="highest")


def transposed(a: Array) -> Array:
  """The last two axes exchanged."""
  return jnp.swapaxes(a, -1, -2)


def tokens(**arrays: ArrayLike) -> list[Array]:
  """Arrays [..., tokens, features] with the same leading axes."""
  checked = [_checks.check_float_array(name, a, min_rank=2) for name, a in arrays.items()]
  names, first = list(arrays), checked[0]
  for name, array in zip(names[1:], checked[1:], strict=True):
    if array.shape[:-2] != first.shape[:-2]:
      raise ValueError(
        f"{name} must have the leading axes of {names[0]}, {first.shape[:-2]}; got shape "
        f"{array.shape}."
      )
  return checked


def check_same(name: str, array: Array, like_name: str, like: Array, axis: int) -> None:
  """Two arrays with equally many tokens (axis -2) or features (axis -1)."""
  what = "tokens" if axis == -2 else "features"
  if array.shape[axis] != like.shape[axis]:
    raise ValueError(
      f"{name} must have the {like.shape[axis]} {what} of {like_name}; got shape {array.shape}."
    )
