"""What the functions of a solver see beside their arguments: numbers and arrays they close over.

A compiled program holds these as constants. A loop that is kept between eager calls may serve the
next call only while they are the same objects: data that are bound anew under the same name are
other data.
"""

import functools
import types
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

# Their modules hold no data of the caller; what their inner functions close over may.
_LIBRARIES = {
  "builtins", "collections", "functools", "itertools", "jax", "jaxlib", "jaxopt_robust", "math",
  "numpy", "operator", "optax", "scipy", "typing",
}  # fmt: skip
_NUMBERS = bool | int | float | complex | str | np.generic | None


class _Same:
  """Equal to itself alone; holds the object, so that its identity is not given to another."""

  def __init__(self, value: Any) -> None:
    self._value = value

  def __eq__(self, other: object) -> bool:
    return isinstance(other, _Same) and self._value is other._value

  def __hash__(self) -> int:
    return id(self._value)


class _OpaqueError(Exception):
  """An object whose attributes may change unseen."""


def captured(*functions: Any) -> tuple | None:
  """A hashable description of what functions close over or read from their module.

  None where they reach an object that may change without becoming another one: the instance of a
  class, a module of the caller.
  """
  try:
    return tuple(_walk(functions, set()))
  except _OpaqueError:
    return None


def _is_of_library(name: str | None) -> bool:
  return (name or "").partition(".")[0] in _LIBRARIES


def _is_fixed(value: Any) -> bool:
  """Whether a thing that is neither a number nor a function of Python stays what it is."""
  if isinstance(value, types.ModuleType):
    return _is_of_library(value.__name__)
  if isinstance(value, type | types.BuiltinFunctionType | np.ufunc):
    return _is_of_library(getattr(value, "__module__", "numpy"))
  kind = type(value).__module__.partition(".")[0]
  return kind in {"jax", "jaxlib", "jaxopt_robust", "numpy", "optax"}


def _walk(value: Any, seen: set[int]) -> Iterator[Any]:
  if isinstance(value, _NUMBERS):
    yield type(value), value
  elif isinstance(value, jax.Array | np.ndarray):
    yield _Same(value)
  elif isinstance(value, tuple):
    for member in value:
      yield from _walk(member, seen)
  elif id(value) in seen:
    return
  elif isinstance(value, list):
    seen.add(id(value))  # it may hold itself
    yield from _walk(tuple(value), seen)
  elif isinstance(value, dict):
    seen.add(id(value))
    for key, member in value.items():
      yield key if isinstance(key, _NUMBERS) else _Same(key)
      yield from _walk(member, seen)
  elif isinstance(value, functools.partial):
    seen.add(id(value))
    yield from _walk((value.func, value.args, value.keywords), seen)
  elif isinstance(value, types.FunctionType):
    seen.add(id(value))
    yield from _of_function(value, seen)
  elif hasattr(value, "__wrapped__") and not isinstance(value, types.MethodType):
    seen.add(id(value))  # jax.jit and other decorators
    yield from _walk(value.__wrapped__, seen)
  elif not _is_fixed(value):
    raise _OpaqueError


def _of_function(function: types.FunctionType, seen: set[int]) -> Iterator[Any]:
  for cell in function.__closure__ or ():
    try:
      contents = cell.cell_contents
    except ValueError:  # not bound yet
      continue
    yield from _walk(contents, seen)
  yield from _walk((function.__defaults__, function.__kwdefaults__), seen)
  if _is_of_library(function.__module__):
    return
  for name in _names(function.__code__):
    if name in function.__globals__:
      yield from _walk(function.__globals__[name], seen)


@functools.lru_cache(maxsize=1024)
def _names(code: types.CodeType) -> tuple[str, ...]:
  """Names that a function and the functions in it may look up in its module."""
  inner = [_names(part) for part in code.co_consts if isinstance(part, types.CodeType)]
  return tuple(dict.fromkeys([*code.co_names, *(name for names in inner for name in names)]))
