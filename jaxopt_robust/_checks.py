"""Checks made while tracing; every message says what was wrong, what was got, what is allowed.

Facts about shapes and dtypes are always checked. Facts about values are checked only where the
value is known while tracing: this is the one file that asks whether something is a tracer.
"""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_robust.typing import Array, ArrayLike, Penalty, PyTree


def is_concrete(value: Any) -> bool:
  """True when the value is known now, so that it can be compared in Python."""
  return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value))


def _describe(value: Any) -> str:
  if hasattr(value, "dtype") and hasattr(value, "shape"):
    return f"{value.dtype}{list(value.shape)}"
  return f"{type(value).__name__} {value!r:.60}"


def check_array(
  name: str,
  value: ArrayLike,
  *,
  rank: int | tuple[int, ...] | None = None,
  min_rank: int = 0,
  non_empty: bool = True,
) -> Array:
  """Turns an array-like into an array; refuses wrong rank and empty axes."""
  array = jnp.asarray(value)
  ranks = (rank,) if isinstance(rank, int) else rank
  if ranks is not None and array.ndim not in ranks:
    allowed = " or ".join(str(r) for r in ranks)
    raise ValueError(f"{name} must have rank {allowed}; got shape {array.shape}.")
  if array.ndim < min_rank:
    raise ValueError(f"{name} must have rank at least {min_rank}; got shape {array.shape}.")
  if non_empty and array.size == 0:
    raise ValueError(f"{name} must not be empty; got shape {array.shape}.")
  return array


def check_float_array(name: str, value: ArrayLike, **shape: Any) -> Array:
  """Like ``check_array``, and refuses anything but real floating-point numbers."""
  array = check_array(name, value, **shape)
  if not jnp.issubdtype(array.dtype, jnp.floating):
    raise TypeError(f"{name} must be a floating-point array; got {_describe(array)}.")
  return array


def check_float_tree(name: str, tree: PyTree) -> PyTree:
  """A pytree of floating-point arrays, with weak types removed; refuses everything else."""
  leaves, treedef = jax.tree.flatten(tree)
  if not leaves:
    raise ValueError(f"{name} must hold at least one array; got an empty pytree.")
  arrays = []
  for leaf in leaves:
    array = jnp.asarray(leaf)
    if not jnp.issubdtype(array.dtype, jnp.inexact):
      raise TypeError(f"{name} must hold floating-point arrays only; got {_describe(array)}.")
    if array.size == 0:
      raise ValueError(f"{name} must not hold empty arrays; got shape {array.shape}.")
    arrays.append(jax.lax.convert_element_type(array, array.dtype))
  return jax.tree.unflatten(treedef, arrays)


def check_labels(
  name: str,
  labels: ArrayLike,
  *,
  shape: tuple[int, ...],
  num_classes: int,
  where: ArrayLike | None = None,
) -> Array:
  """Integer class labels of one shape; values are checked where they are known."""
  array = jnp.asarray(labels)
  if not jnp.issubdtype(array.dtype, jnp.integer):
    raise TypeError(f"{name} must hold integer class indices; got {_describe(array)}.")
  if array.shape != shape:
    raise ValueError(f"{name} must have shape {shape}; got {array.shape}.")
  if is_concrete((array, where)):
    bad = (np.asarray(array) < 0) | (np.asarray(array) >= num_classes)
    if where is not None:
      bad &= np.asarray(where)
    if bad.any():
      raise ValueError(
        f"{name} must lie in [0, {num_classes}); got {np.asarray(array)[bad].ravel()[0]}."
      )
  return array


def check_index(
  name: str,
  index: ArrayLike,
  *,
  shape: tuple[int, ...],
  num_examples: int,
  where: ArrayLike | None = None,
) -> Array:
  """Positions in a state of ``num_examples`` rows; ``num_examples`` for rows to be left alone.

  Rows that are masked out, and under ``jit`` rows whose index is out of range, get that position,
  which is out of range itself: reads fill it, writes drop it.
  """
  array = jnp.asarray(index)
  if not jnp.issubdtype(array.dtype, jnp.integer):
    raise TypeError(f"{name} must hold integers; got dtype {array.dtype}.")
  if array.shape != shape:
    raise ValueError(f"{name} must have shape {shape}; got {array.shape}.")
  is_bad = (array < 0) | (array >= num_examples)
  refused = is_bad if where is None else is_bad & where
  if is_concrete(refused) and np.any(np.asarray(refused)):
    first = np.asarray(array)[np.asarray(refused)][0]
    raise ValueError(f"{name} must lie in [0, {num_examples}), the size of the state; got {first}.")
  return jnp.where(is_bad if where is None else is_bad | ~jnp.asarray(where), num_examples, array)


def check_mask(name: str, mask: ArrayLike | None, *, shape: tuple[int, ...]) -> Array | None:
  """A boolean mask of one shape, or None."""
  if mask is None:
    return None
  array = jnp.asarray(mask)
  if array.dtype != jnp.bool_:
    raise TypeError(f"{name} must be a boolean mask; got {_describe(array)}.")
  if array.shape != shape:
    raise ValueError(f"{name} must have shape {shape}; got {array.shape}.")
  return array


def check_same_shape(name_a: str, a: Any, name_b: str, b: Any) -> None:
  """Two arrays of equal shape."""
  if jnp.shape(a) != jnp.shape(b):
    raise ValueError(
      f"{name_a} and {name_b} must have equal shapes; got {jnp.shape(a)} and {jnp.shape(b)}."
    )


def check_same_structure(name_a: str, a: PyTree, name_b: str, b: PyTree) -> None:
  """Two pytrees of equal structure, leaf shapes and dtypes."""
  structure_a: Any = jax.tree.structure(a)
  if structure_a != jax.tree.structure(b):
    raise ValueError(
      f"{name_a} and {name_b} must have the same pytree structure; "
      f"got {jax.tree.structure(a)} and {jax.tree.structure(b)}."
    )
  for leaf_a, leaf_b in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    if jnp.shape(leaf_a) != jnp.shape(leaf_b) or jnp.result_type(leaf_a) != jnp.result_type(leaf_b):
      raise ValueError(
        f"{name_a} and {name_b} must agree in shapes and dtypes; "
        f"got {_describe(leaf_a)} and {_describe(leaf_b)}."
      )


def check_option(name: str, value: Any, allowed: Iterable[Any]) -> None:
  """A mode string (or None) out of a fixed list."""
  allowed = tuple(allowed)
  if value not in allowed:
    raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}; got {value!r}.")


def _check_values(name: str, value: Any, is_good: Any, allowed: str) -> None:
  for leaf in jax.tree.leaves(value):
    if isinstance(leaf, str | bytes) or leaf is None or callable(leaf):
      raise TypeError(f"{name} must be a number or an array {allowed}; got {_describe(leaf)}.")
    if is_concrete(leaf):
      array = np.asarray(leaf)
      if array.dtype.kind not in "biuf" and not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{name} must be a real number {allowed}; got {_describe(leaf)}.")
      if not np.all(is_good(array)):  # NaN fails every comparison, so it is refused too
        bad = array[~is_good(array)].ravel()[0]
        raise ValueError(f"{name} must be {allowed}; got {bad}.")


def check_positive(name: str, value: Any) -> None:
  """Numbers > 0 (scalar, array or pytree), where known."""
  _check_values(name, value, lambda v: v > 0, "> 0")


def check_non_negative(name: str, value: Any) -> None:
  """Numbers >= 0 (scalar, array or pytree), where known."""
  _check_values(name, value, lambda v: v >= 0, ">= 0")


def check_greater(name: str, value: Any, bound: float) -> None:
  """Numbers > bound, where known."""
  _check_values(name, value, lambda v: v > bound, f"> {bound}")


def check_interval(name: str, value: Any, low: float, high: float, *, closed: str = "both") -> None:
  """Numbers between two bounds, where known; ``closed`` is 'both', 'left', 'right' or 'neither'."""
  left = "[" if closed in ("both", "left") else "("
  right = "]" if closed in ("both", "right") else ")"

  def is_good(v: np.ndarray) -> np.ndarray:
    above = v >= low if left == "[" else v > low
    below = v <= high if right == "]" else v < high
    return above & below

  _check_values(name, value, is_good, f"in {left}{low}, {high}{right}")


def check_non_increasing(name: str, value: Any) -> None:
  """Numbers that do not grow along the last axis, where known."""
  if is_concrete(value):
    array = np.asarray(value)
    if array.ndim and np.any(array[..., 1:] > array[..., :-1]):
      raise ValueError(f"{name} must not increase along their axis; got {array.tolist()!s:.60}.")


def check_int(name: str, value: Any, *, minimum: int) -> int:
  """A static Python integer (a size or a count)."""
  if isinstance(value, jax.core.Tracer):
    raise TypeError(f"{name} must be a static Python integer; got a traced value.")
  if isinstance(value, bool) or not isinstance(value, int | np.integer):
    raise TypeError(f"{name} must be a static Python integer; got {_describe(value)}.")
  if value < minimum:
    raise ValueError(f"{name} must be at least {minimum}; got {value}.")
  return int(value)


def check_rank(rank: Any, shape: tuple[int, ...]) -> int:
  """A rank that a matrix of this shape can have."""
  rank = check_int("rank", rank, minimum=1)
  if rank > min(shape):
    raise ValueError(f"rank must be at most {min(shape)} for shape {shape}; got {rank}.")
  return rank


def check_key(name: str, key: Any) -> Array:
  """A typed PRNG key, such as ``jax.random.key(0)``."""
  if not hasattr(key, "dtype") or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
    raise TypeError(f"{name} must be a typed key such as jax.random.key(0); got {_describe(key)}.")
  return key


def check_callable(name: str, value: Any) -> None:
  """A function."""
  if not callable(value):
    raise TypeError(f"{name} must be callable; got {_describe(value)}.")


def parts(hyperparams: Any, *names: str) -> tuple:
  """The members of a tuple of hyper-parameters, by name."""
  if not isinstance(hyperparams, tuple | list) or len(hyperparams) != len(names):
    kind = {2: "pair", 3: "triple"}.get(len(names), f"tuple of {len(names)}")
    raise ValueError(
      f"hyperparams must be a {kind} ({', '.join(names)}); got a {type(hyperparams).__name__}."
    )
  return tuple(hyperparams)


def check_penalty(name: str, value: Any) -> None:
  """A ``Penalty`` record."""
  if not isinstance(value, Penalty):
    raise TypeError(f"{name} must be a Penalty(value, prox); got {type(value).__name__}.")


def check_holds(condition: Any, message: str) -> None:
  """A fact about values, where they are known."""
  if is_concrete(condition) and not np.all(np.asarray(condition)):
    raise ValueError(message)
