"""Checks made while tracing; every message says what was wrong, what was got, what is allowed.

Facts about shapes and dtypes are always checked. Facts about values are checked only where the
value is known while tracing: this is the one file that asks whether something is a tracer.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_robust.typing import Array, ArrayLike, PyTree


def is_concrete(value: Any) -> bool:
  """True when the value is known now, so that it can be compared in Python."""
  return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(value))


def describe(value: Any) -> str:
  """What a value is, in a few words."""
  if hasattr(value, "dtype") and hasattr(value, "shape"):
    return f"{value.dtype}{list(value.shape)}"
  return f"{type(value).__name__} {value!r:.60}"


def is_jax(value: Any) -> bool:
  """Whether something is an array of JAX, or stands for one."""
  return isinstance(value, jax.Array | jax.core.Tracer | jax.ShapeDtypeStruct)


def _known(name: str, value: Any) -> np.ndarray | None:
  """What NumPy holds, before JAX narrows it; None for JAX's own arrays and what contains them."""
  if is_jax(value) or any(is_jax(leaf) for leaf in jax.tree.leaves(value)):
    return None
  try:
    array = np.asarray(value)
  except (TypeError, ValueError) as error:
    raise TypeError(
      f"{name} must be a number or an array of numbers; got {describe(value)}."
    ) from error
  if not jnp.issubdtype(array.dtype, jnp.number) and array.dtype != np.bool_:
    if array.dtype == object and array.size and all(isinstance(v, int) for v in array.ravel()):
      raise ValueError(f"{name} must hold integers of at most 64 bits; got {describe(value)}.")
    raise TypeError(f"{name} must be a number or an array of numbers; got {describe(value)}.")
  return array


def as_array(name: str, value: Any) -> Array:
  """An array of numbers; None, strings, functions and objects get an error with their name."""
  known = _known(name, value)
  if known is not None and known.dtype.kind in "iu":
    return check_integers(name, known)
  try:
    return jnp.asarray(value)
  except (TypeError, ValueError) as error:
    raise TypeError(
      f"{name} must be a number or an array of numbers; got {describe(value)}."
    ) from error


def _as_floating(name: str, value: Any, *, complex_ok: bool) -> Array:
  """A floating-point array; whole numbers and bools become the default float."""
  known = _known(name, value)
  if known is not None and known.dtype.kind in "iub":  # as floats they cannot wrap
    return jnp.asarray(known.astype(np.float64), jnp.result_type(float))
  array = as_array(name, value)
  if jnp.issubdtype(array.dtype, jnp.integer) or array.dtype == jnp.bool_:
    return array.astype(jnp.result_type(float))
  allowed = jnp.inexact if complex_ok else jnp.floating
  if not jnp.issubdtype(array.dtype, allowed):
    kind = "" if complex_ok else " of real numbers"
    raise TypeError(f"{name} must be a floating-point array{kind}; got {describe(array)}.")
  return array


def _check_shape(
  name: str, array: Array, rank: int | tuple[int, ...] | None, min_rank: int, non_empty: bool
) -> Array:
  ranks = (rank,) if isinstance(rank, int) else rank
  if ranks is not None and array.ndim not in ranks:
    allowed = " or ".join(str(r) for r in ranks)
    raise ValueError(f"{name} must have rank {allowed}; got shape {array.shape}.")
  if array.ndim < min_rank:
    raise ValueError(f"{name} must have rank at least {min_rank}; got shape {array.shape}.")
  if non_empty and array.size == 0:
    raise ValueError(f"{name} must not be empty; got shape {array.shape}.")
  return array


def check_array(
  name: str,
  value: ArrayLike,
  *,
  rank: int | tuple[int, ...] | None = None,
  min_rank: int = 0,
  non_empty: bool = True,
  complex_ok: bool = False,
) -> Array:
  """Turns an array-like into an array; refuses complex numbers, wrong rank and empty axes."""
  array = as_array(name, value)
  if not complex_ok and jnp.issubdtype(array.dtype, jnp.complexfloating):
    raise TypeError(f"{name} must hold real numbers; got {describe(array)}.")
  return _check_shape(name, array, rank, min_rank, non_empty)


def check_float_array(
  name: str,
  value: ArrayLike,
  *,
  rank: int | tuple[int, ...] | None = None,
  min_rank: int = 0,
  non_empty: bool = True,
  complex_ok: bool = False,
) -> Array:
  """Like ``check_array`` in floating point: whole numbers are converted, other kinds refused."""
  array = _as_floating(name, value, complex_ok=complex_ok)
  return _check_shape(name, array, rank, min_rank, non_empty)


def check_float_tree(name: str, tree: PyTree, *, complex_ok: bool = False) -> PyTree:
  """A pytree of floating-point arrays, some of them empty perhaps, with weak types removed."""
  if tree is None:
    raise TypeError(f"{name} must be an array or a pytree of arrays; got None.")
  leaves, treedef = jax.tree.flatten(tree)
  if not leaves:
    raise ValueError(f"{name} must hold at least one array; got an empty pytree.")
  arrays = [_as_floating(name, leaf, complex_ok=complex_ok) for leaf in leaves]
  return jax.tree.unflatten(
    treedef, [jax.lax.convert_element_type(array, array.dtype) for array in arrays]
  )


def check_integers(
  name: str,
  value: ArrayLike,
  *,
  low: int | None = None,
  high: int | None = None,
  shape: tuple[int, ...] | None = None,
  rank: int | None = None,
  where: ArrayLike | None = None,
  meaning: str = "",
  bool_ok: bool = False,
) -> Array:
  """Integers in [low, high), looked at before JAX makes 32 bits of them: 2**32 + 1 is not 1.

  ``meaning`` says behind the range where it comes from. Entries that ``where`` masks out may be
  anything. With ``bool_ok`` False and True are 0 and 1.
  """
  known = _known(name, value)
  array: Any = known
  if known is None:
    array = value if hasattr(value, "dtype") else jnp.asarray(value)
  elif known.size == 0 and not isinstance(value, np.ndarray):
    array = known.astype(np.int32)  # an empty list is one of floats to NumPy
  if bool_ok and array.dtype == bool:
    array = array.astype(np.int32)
  if not jnp.issubdtype(array.dtype, jnp.integer):
    raise TypeError(f"{name} must hold integers; got {describe(array)}.")
  if shape is not None and array.shape != shape:
    raise ValueError(f"{name} must have shape {shape}; got {array.shape}.")
  if rank is not None and array.ndim != rank:
    raise ValueError(f"{name} must have rank {rank}; got shape {array.shape}.")
  limits = np.iinfo(jax.dtypes.canonicalize_dtype(array.dtype))
  if is_concrete((array, where)) and not isinstance(array, jax.ShapeDtypeStruct):
    kept = np.asarray(array)
    if where is not None:
      kept = kept[np.broadcast_to(np.asarray(where), kept.shape)]
    first = limits.min if low is None else low
    last = limits.max if high is None else high - 1
    is_bad = (kept < first) | (kept > last)
    if is_bad.any():
      bad = kept[is_bad][0]
      allowed = f"be at least {low}" if high is None else f"lie in [{first}, {high})"
      if high is None and (low is None or bad > last):
        allowed = f"fit {limits.bits} bits"
      raise ValueError(f"{name} must {allowed}{meaning}; got {bad}.")
  if known is not None:
    array = np.clip(array, limits.min, limits.max)  # what nobody looked at must not wrap either
  return jnp.asarray(array)


def check_labels(
  name: str,
  labels: ArrayLike,
  *,
  shape: tuple[int, ...],
  num_classes: int,
  where: ArrayLike | None = None,
) -> Array:
  """Class labels of one shape, integer or bool; values are checked where they are known."""
  known = _known(name, labels)
  array: Any = as_array(name, labels) if known is None else known
  if array.dtype != bool and not jnp.issubdtype(array.dtype, jnp.integer):
    raise TypeError(
      f"{name} must hold integer class indices; got {describe(array)}. Whole numbers in floating "
      "point are converted by labels.astype(int)."
    )
  if array.shape != shape:
    raise ValueError(f"{name} must have shape {shape}; got {array.shape}.")
  if is_concrete((array, where)):
    kept = np.asarray(array) if where is None else np.asarray(array)[np.asarray(where)]
    if np.any(kept == -1) and np.all(np.abs(kept) == 1):
      raise ValueError(
        f"{name} must lie in [0, {num_classes}); got -1. Labels of -1 and 1 are converted by "
        "(labels + 1) // 2."
      )
  return check_integers(name, array, low=0, high=num_classes, where=where, bool_ok=True)


def as_signs(name: str, value: ArrayLike) -> Array:
  """Labels -1 and 1, or bools; those of 0 and 1 are told how to become them."""
  array = as_array(name, value)
  if array.dtype == jnp.bool_:
    return 2 * array.astype(jnp.int32) - 1
  if is_concrete(array):
    other = np.asarray(array)[np.abs(np.asarray(array)) != 1]
    if other.size:
      raise ValueError(
        f"{name} must hold labels -1 and 1; got {other[0]}. Labels of 0 and 1 are converted by "
        f"2 * {name} - 1."
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
  array = check_integers(
    name, index, low=0, high=num_examples, shape=shape, where=where,
    meaning=", the size of the state",
  )  # fmt: skip
  is_bad = (array < 0) | (array >= num_examples)
  return jnp.where(is_bad if where is None else is_bad | ~jnp.asarray(where), num_examples, array)


def check_float_dtype(dtype: Any, *, wide: bool = False) -> np.dtype:
  """A floating-point type; None is the default one. ``wide`` leaves out the half-precision ones."""
  try:
    resolved = jnp.result_type(float) if dtype is None else jnp.dtype(dtype)
  except TypeError as error:
    raise TypeError(f"dtype must be a floating-point type; got {describe(dtype)}.") from error
  if wide and resolved not in (jnp.dtype(jnp.float32), jnp.dtype(jnp.float64)):
    raise TypeError(f"dtype must be float32 or float64; got {resolved}.")
  if not jnp.issubdtype(resolved, jnp.floating):
    raise TypeError(f"dtype must be a floating-point type; got {resolved}.")
  return resolved


def check_mask(name: str, mask: ArrayLike | None, *, shape: tuple[int, ...]) -> Array | None:
  """A boolean mask of one shape, or None."""
  if mask is None:
    return None
  array = as_array(name, mask)
  if array.dtype != jnp.bool_:
    raise TypeError(f"{name} must be a boolean mask; got {describe(array)}.")
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
        f"got {describe(leaf_a)} and {describe(leaf_b)}."
      )


def _check_values(name: str, value: Any, is_good: Any, allowed: str, scalar: bool) -> None:
  if scalar and np.shape(value) != ():  # lists too
    raise ValueError(f"{name} must be a scalar {allowed}; got shape {np.shape(value)}.")
  for leaf in jax.tree.leaves(value, is_leaf=lambda leaf: leaf is None):
    if isinstance(leaf, str | bytes) or leaf is None or callable(leaf):
      raise TypeError(f"{name} must be a number or an array {allowed}; got {describe(leaf)}.")
    if is_concrete(leaf):
      array = np.asarray(leaf)
      if array.dtype.kind not in "biuf" and not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{name} must be a real number {allowed}; got {describe(leaf)}.")
      if not np.all(is_good(array)):  # NaN fails every comparison, so it is refused too
        bad = array[~is_good(array)].ravel()[0]
        raise ValueError(f"{name} must be {allowed}; got {bad}.")


def check_positive(name: str, value: Any, *, scalar: bool = False) -> None:
  """Numbers > 0 (scalar, array or pytree), where known."""
  _check_values(name, value, lambda v: v > 0, "> 0", scalar)


def check_non_negative(name: str, value: Any, *, scalar: bool = False) -> None:
  """Numbers >= 0 (scalar, array or pytree), where known."""
  _check_values(name, value, lambda v: v >= 0, ">= 0", scalar)


def check_greater(name: str, value: Any, bound: float, *, scalar: bool = False) -> None:
  """Numbers > bound, where known."""
  _check_values(name, value, lambda v: v > bound, f"> {bound}", scalar)


def check_interval(
  name: str, value: Any, low: float, high: float, *, closed: str = "both", scalar: bool = False
) -> None:
  """Numbers between two bounds, where known; ``closed`` is 'both', 'left', 'right' or 'neither'."""
  left = "[" if closed in ("both", "left") else "("
  right = "]" if closed in ("both", "right") else ")"

  def is_good(v: np.ndarray) -> np.ndarray:
    above = v >= low if left == "[" else v > low
    below = v <= high if right == "]" else v < high
    return above & below

  _check_values(name, value, is_good, f"in {left}{low}, {high}{right}", scalar)


def check_non_increasing(name: str, value: Any) -> None:
  """Numbers that do not grow along the last axis, where known."""
  if is_concrete(value):
    array = np.asarray(value)
    if array.ndim and np.any(array[..., 1:] > array[..., :-1]):
      raise ValueError(f"{name} must not increase along their axis; got {array.tolist()!s:.60}.")


def check_int(name: str, value: Any, *, minimum: int, maximum: int = 2**31 - 1) -> int:
  """A static Python integer (a size or a count); counters have 32 bits."""
  if isinstance(value, jax.core.Tracer):
    raise TypeError(f"{name} must be a static Python integer; got a traced value.")
  if isinstance(value, bool) or not isinstance(value, int | np.integer):
    raise TypeError(f"{name} must be a static Python integer; got {describe(value)}.")
  if value < minimum:
    raise ValueError(f"{name} must be at least {minimum}; got {value}.")
  if value > maximum:
    raise ValueError(f"{name} must be at most {maximum}; got {value}.")
  return int(value)


def check_rank(rank: Any, shape: tuple[int, ...]) -> int:
  """A rank that a matrix of this shape can have."""
  rank = check_int("rank", rank, minimum=1)
  if rank > min(shape):
    raise ValueError(f"rank must be at most {min(shape)} for shape {shape}; got {rank}.")
  return rank


def check_key(name: str, key: Any) -> Array:
  """One typed PRNG key, such as ``jax.random.key(0)``."""
  if not hasattr(key, "dtype") or not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
    raise TypeError(f"{name} must be a typed key such as jax.random.key(0); got {describe(key)}.")
  if key.shape != ():
    raise ValueError(f"{name} must be one key; got shape {key.shape}: use jax.vmap over keys.")
  return key


def check_holds(condition: Any, message: str) -> None:
  """A fact about values, where they are known."""
  if is_concrete(condition) and not np.all(np.asarray(condition)):
    raise ValueError(message)
