"""What losses of embeddings share: checks, rows of norm one, products at full precision."""

import functools

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks, numerics
from jaxopt_robust.typing import Array, ArrayLike

# Accelerators multiply float32 with fewer digits unless told otherwise.
matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)


def check_embeddings(
  embeddings: ArrayLike, labels: ArrayLike, where: ArrayLike | None
) -> tuple[Array, Array, Array]:
  """Rows, their integer classes, and a mask."""
  array = _checks.check_float_array("embeddings", embeddings, rank=2)
  label = check_class_numbers("labels", labels, shape=array.shape[:1])
  mask = _checks.check_mask("where", where, shape=label.shape)
  return array, label, jnp.ones(label.shape, jnp.bool_) if mask is None else mask


def check_class_numbers(name: str, labels: ArrayLike, *, shape: tuple[int, ...]) -> Array:
  """Integers, or bools, that are compared with each other only."""
  return _checks.check_integers(name, labels, shape=shape, bool_ok=True)


def unit_rows(x: Array, where: Array | None = None) -> Array:
  """Rows divided by their norm, at least float32; rows of zeros and masked rows are zero."""
  wide = numerics.upcast(x)
  if where is not None:
    wide = jnp.where(where[..., None], wide, 0)
  # The direction does not depend on the scale: squares neither overflow nor vanish.
  largest = jax.lax.stop_gradient(jnp.max(jnp.abs(wide), axis=-1, keepdims=True))
  scaled = wide / numerics.divisor(largest)
  norm = numerics.safe_norm(scaled, axis=-1)[..., None]
  return scaled / jnp.where(norm == 0, 1, norm)
