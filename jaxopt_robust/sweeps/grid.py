"""Grids: pytrees whose leaves have the points along their first axis."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_robust import _checks
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = ["product_grid"]


def product_grid(**axes: ArrayLike) -> dict[str, Array]:
  """All combinations of the values of several axes, as stacked arrays.

  Args:
    **axes: name -> array[n_i, ...] of values (numbers, or typed PRNG keys). The last axis varies
      fastest, as in nested loops.

  Returns:
    dict name -> array[n_1 * n_2 * ..., ...]; reshape an output's first axis to (n_1, n_2, ...) to
    get the table back.

  Raises:
    TypeError: when an axis holds no numbers.
    ValueError: when there is no axis, an axis is a scalar or empty, or an integer does not fit the
      bits that JAX keeps.

  Example:
    >>> product_grid(lam=jnp.array([0.1, 1.0]), seed=jnp.arange(2))["seed"]
    Array([0, 1, 0, 1], dtype=int32)

  Reference:
    Cartesian product in row-major order; no source.
  """
  if not axes:
    raise ValueError("product_grid needs at least one axis; got none.")
  arrays = {
    name: _checks.check_array(name, value, min_rank=1, complex_ok=True)
    for name, value in axes.items()
  }
  sizes = [array.shape[0] for array in arrays.values()]
  index = np.unravel_index(np.arange(math.prod(sizes)), sizes)
  return {name: array[i] for (name, array), i in zip(arrays.items(), index, strict=True)}


def as_arrays(name: str, tree: PyTree) -> PyTree:
  """A pytree with arrays for leaves; errors name the leaf, and 64-bit integers do not wrap."""

  def convert(path: tuple, leaf: Any) -> Array:
    return _checks.as_array(f"{name}{jax.tree_util.keystr(path)}", leaf)

  return jax.tree_util.tree_map_with_path(convert, tree)


def num_points(grid: PyTree, name: str = "grid") -> int:
  """The common length of the first axis of all leaves."""
  leaves = jax.tree_util.tree_flatten_with_path(grid)[0]
  if not leaves:
    raise ValueError(f"{name} must hold at least one array; got an empty pytree.")
  sizes = set()
  for path, leaf in leaves:
    if jnp.ndim(leaf) == 0:
      raise ValueError(
        f"{name}{jax.tree_util.keystr(path)} needs a leading axis of points; got a scalar. (A list "
        "of numbers is a pytree of scalars: make it an array.)"
      )
    sizes.add(jnp.shape(leaf)[0])
  if len(sizes) > 1:
    raise ValueError(f"all leaves of {name} must have one leading size; got {sorted(sizes)}.")
  size = sizes.pop()
  if size == 0:
    raise ValueError(f"{name} must have at least one point; got none.")
  return size


def take_rows(grids: PyTree, rows: np.ndarray) -> PyTree:
  """The points at the given rows."""
  return jax.tree.map(lambda leaf: jnp.asarray(leaf)[rows], grids)


def padded_rows(start: int, stop: int, size: int) -> np.ndarray:
  """Rows start..stop-1, then the last of them again until there are ``size``."""
  return np.minimum(np.arange(start, start + size), stop - 1)


def key_to_data(leaf: Any) -> Any:
  """Typed PRNG keys as their integers, everything else as it is."""
  if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
    return jax.random.key_data(leaf)
  return leaf
