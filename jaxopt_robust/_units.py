"""Units of data: a power of two by which numbers are divided, so that squares stay in range."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust.numerics import upcast
from jaxopt_robust.typing import Array, ArrayLike, PyTree


def exponent_of(sizes: Array) -> Array:
  """floor(log2(size)) of each size, 0 where it is 0, infinite or NaN; an int32 array.

  Cut so that both powers, with this exponent and with its negative, are normal numbers.
  """
  sizes = jax.lax.stop_gradient(sizes)
  usable = jnp.isfinite(sizes) & (sizes > 0)
  exponent = jnp.frexp(jnp.where(usable, sizes, 1))[1] - 1
  limit = -jnp.finfo(sizes.dtype).minexp
  return jnp.clip(exponent, -limit, limit).astype(jnp.int32)


def power(exponent: Array, dtype: Any) -> Array:
  """2^exponent, exactly."""
  return jnp.ldexp(jnp.ones((), dtype), exponent)


def root_of_unit(x: ArrayLike, where: ArrayLike | None = None) -> Array:
  """2^k with 4^k <= max |x| < 4^(k+1), in float32 or wider; 1 where x is 0 or not finite.

  4^k is the unit of x: data divided by it are of size 1, bit for bit the same whatever power of 4
  they are multiplied by. Factors of x have the unit 2^k.
  """
  size = jnp.abs(upcast(x))
  largest = jnp.max(size, initial=0, where=True if where is None else jnp.asarray(where))
  return power(jnp.floor_divide(exponent_of(largest), 2), largest.dtype)


def times(x: Array, *factors: Array) -> Array:
  """x times powers of two, in the dtype of x."""
  wide = upcast(x)
  for factor in factors:
    wide = wide * factor.astype(wide.real.dtype)
  return wide.astype(x.dtype)


def saturated(value: Array, *factors: Array) -> Array:
  """A finite number times powers of two, the largest number where that overflows."""
  out = times(value, *factors)
  largest = jnp.finfo(value.dtype).max
  return jnp.where(jnp.isfinite(value), jnp.clip(out, -largest, largest), value)


def in_units(tree: PyTree) -> tuple[PyTree, Array]:
  """A tree divided by a power of two of its size, in float32 or wider, and that power."""
  wide = jax.tree.map(upcast, tree)
  leaves = jax.tree.leaves(wide)
  dtype = jnp.result_type(jnp.float32, *(leaf.real.dtype for leaf in leaves))
  sizes = (jnp.max(jnp.abs(leaf), initial=0).astype(dtype) for leaf in leaves)
  largest = functools.reduce(jnp.maximum, sizes, jnp.zeros((), dtype))
  unit = power(exponent_of(largest), largest.dtype)
  return jax.tree.map(lambda leaf: leaf / unit.astype(leaf.dtype), wide), unit


def tree_norm(tree: PyTree) -> Array:
  """Euclidean norm over all leaves; squares are taken of numbers of size 1. Not for derivatives."""
  scaled, unit = in_units(jax.tree.map(jnp.abs, tree))
  squares = (jnp.sum(leaf**2).astype(unit.dtype) for leaf in jax.tree.leaves(scaled))
  return unit * jnp.sqrt(sum(squares, start=jnp.zeros_like(unit)))
