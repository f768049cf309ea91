"""Renamed and removed public names: one table a module, read by its ``__getattr__``."""

import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Deprecation(NamedTuple):
  """One renamed or removed name.

  Attributes:
    replacement: full dotted name of what to use now, or None when there is nothing.
    since: version that deprecated it, such as "0.2".
    removal: version that removes it; from then on the same message is an error.
    removed: whether that version has come.
  """

  replacement: str | None
  since: str
  removal: str
  removed: bool = False


def _message(module: str, name: str, entry: Deprecation) -> str:
  use = f"use {entry.replacement}" if entry.replacement else "there is no replacement"
  when = "was removed" if entry.removed else "will be removed"
  return f"{module}.{name} is deprecated since {entry.since} and {when} in {entry.removal}; {use}."


def make_getattr(module: str, table: Mapping[str, Deprecation]) -> Callable[[str], Any]:
  """A module ``__getattr__`` that warns for deprecated names and fails for removed ones."""

  def getattr_(name: str) -> Any:
    entry = table.get(name)
    if entry is None:
      raise AttributeError(f"module {module!r} has no attribute {name!r}")
    message = _message(module, name, entry)
    if entry.removed or entry.replacement is None:
      raise AttributeError(message)
    warnings.warn(message, DeprecationWarning, stacklevel=2)
    home, _, attribute = entry.replacement.rpartition(".")
    return getattr(importlib.import_module(home), attribute)

  return getattr_
