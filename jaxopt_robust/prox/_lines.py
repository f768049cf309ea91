"""What the operators on lines and images share: their input checks and scalar strengths."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.numerics import upcast
from jaxopt_robust.prox._common import scaled_for, start
from jaxopt_robust.typing import Array, ArrayLike


def check_blocks_of(
  x: Any, rank: int, scaling: ArrayLike = 1.0, *, complex_ok: bool = False
) -> Array:
  """A float array of at least this rank (1: lines, 2: images), and a scaling >= 0."""
  x = start(x, scaling, complex_ok=complex_ok)
  return _checks.check_float_array("x", x, min_rank=rank, non_empty=False, complex_ok=complex_ok)


def scalar_strength(name: str, value: Any, like: Array) -> Array:
  """A strength >= 0 in the dtype of ``like``; None means 1."""
  if value is None:
    value = 1.0
  _checks.check_non_negative(name, value)
  if jnp.ndim(value) != 0:
    raise ValueError(
      f"{name} must be a scalar (use jax.vmap for several); got shape {jnp.shape(value)}."
    )
  return scaled_for(value, like)


def over_blocks(fun: Callable[[Array], Array], x: Array, rank: int) -> Array:
  """``fun`` on every block of the last ``rank`` axes, in float32 at least; dtype of ``x``."""
  wide = upcast(x)
  if not x.size:
    return x
  if x.ndim == rank:
    return fun(wide).astype(x.dtype)
  out = jax.vmap(fun)(wide.reshape(-1, *x.shape[-rank:]))
  return out.reshape(*x.shape[:-rank], *out.shape[1:]).astype(x.dtype)
