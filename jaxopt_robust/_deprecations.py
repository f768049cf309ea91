"""Renamed and removed public names: one table a module, read by its ``__getattr__``."""

import importlib
import sys
import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from jaxopt_robust import _names


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


def make_getattr(
  module: str, table: Mapping[str, Deprecation] = MappingProxyType({})
) -> Callable[[str], Any]:
  """A module ``__getattr__``: warns for deprecated names, helps with unknown ones."""

  def getattr_(name: str) -> Any:
    entry = table.get(name)
    if entry is None:
      raise _names.unknown(module, name)
    message = _message(module, name, entry)
    if entry.removed or entry.replacement is None:
      raise AttributeError(message)
    warnings.warn(message, DeprecationWarning, stacklevel=2)
    home, _, attribute = entry.replacement.rpartition(".")
    return getattr(importlib.import_module(home), attribute)

  return getattr_


def install_getattr(module: str, table: Mapping[str, Deprecation] = MappingProxyType({})) -> None:
  """Gives a module its ``__getattr__``, unseen by type checkers, for which it would hide typos."""
  vars(sys.modules[module])["__getattr__"] = make_getattr(module, table)
