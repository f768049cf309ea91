"""Finds experiments and applies settings."""

import contextlib
import dataclasses
import importlib
import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax

from experiments import _protocol
from experiments._protocol import SIZE_NAMES
from jaxopt_robust._arguments import did_you_mean

FOLDER = Path(__file__).parent


class UsageError(Exception):
  """A mistake in the command, told without a traceback."""


def groups() -> dict[str, str]:
  """Name of each experiment and the folder it lies in: files without a leading underscore."""
  found = {p.stem: p.parent.name for p in FOLDER.glob("*/[!_]*.py")}
  return dict(sorted(found.items()))


def names() -> list[str]:
  """Names of all experiments."""
  return list(groups())


def load(name: str) -> ModuleType:
  """Imports an experiment and checks that it provides what the protocol asks for."""
  known = names()
  if name not in known:
    hint = did_you_mean(name, known)
    raise UsageError(
      f"There is no experiment {name!r}.{hint} There are: {', '.join(known) or 'none'}."
    )
  module = importlib.import_module(f"experiments.{groups()[name]}.{name}")
  _protocol.check_module(name, module)
  return module


def settings_of(module: Any, size: str) -> Any:
  """The settings of one size."""
  return module.SIZES[size].config


def _parse_value(key: str, text: str, default: Any) -> Any:
  """Reads a setting as a value of the type of its default."""
  kind = type(default)
  try:
    if kind is bool:
      return {"true": True, "1": True, "false": False, "0": False}[text.strip().lower()]
    if kind is tuple:
      item = default[0] if default else ""
      return tuple(_parse_value(key, part, item) for part in text.split(",") if part.strip())
    return kind(text.strip())
  except (KeyError, ValueError):
    what = f"tuple of {type(default[0]).__name__}" if kind is tuple and default else kind.__name__
    hint = {bool: " (true or false)", tuple: " (comma-separated)"}.get(kind, "")
    raise UsageError(f"--set {key}: {text!r} is not of type {what}{hint}.") from None


def configure(
  name: str,
  module: Any,
  size: str,
  *,
  seeds: int | None = None,
  settings: Sequence[str] = (),
) -> Any:
  """The settings of one size with the user's changes."""
  if size not in SIZE_NAMES:
    hint = did_you_mean(size, SIZE_NAMES)
    raise UsageError(f"--size must be one of {', '.join(SIZE_NAMES)}; got {size!r}.{hint}")
  config = settings_of(module, size)
  fields = [f.name for f in dataclasses.fields(config)]
  changes: dict[str, Any] = {}
  for setting in settings:
    key, equals, text = setting.partition("=")
    key = key.strip()
    if not equals:
      raise UsageError(f"--set takes key=value; got {setting!r}.")
    if key not in fields:
      hint = did_you_mean(key, fields)
      raise UsageError(f"{name} has no setting {key!r}.{hint} There are: {', '.join(fields)}.")
    changes[key] = _parse_value(key, text, getattr(config, key))
  if seeds is not None:
    changes["seeds"] = seeds
  if changes.get("seeds", 1) < 1:
    raise UsageError(f"The number of seeds must be at least 1; got {changes['seeds']}.")
  try:
    return dataclasses.replace(config, **changes)
  except (TypeError, ValueError) as error:  # a check in the experiment's own __post_init__
    raise UsageError(f"{name}: {error}") from error


def explain(module: Any, size: str) -> list[tuple[str, str, str]]:
  """Each setting: its name, its value at one size, its meaning (from the docstrings)."""
  import docstring_parser

  meanings = {}
  for cls in reversed(module.Config.__mro__):
    for entry in docstring_parser.parse(cls.__dict__.get("__doc__") or "").params:
      meanings[entry.arg_name] = " ".join((entry.description or "").split())
  config = settings_of(module, size)
  show = lambda v: ",".join(map(str, v)) if isinstance(v, tuple) else str(v)
  return [
    (f.name, show(getattr(config, f.name)), meanings.get(f.name, ""))
    for f in dataclasses.fields(config)
  ]


@contextlib.contextmanager
def use_device(kind: str | None) -> Iterator[jax.Device]:
  """Runs on the first device of a kind; a clear error when the machine has none."""
  if kind is None:
    yield jax.devices()[0]
    return
  try:
    device = jax.devices(kind)[0]
  except RuntimeError:
    present = ", ".join(sorted({d.platform for d in jax.devices()}))
    raise UsageError(
      f"--device {kind}: JAX sees no {kind} here (it sees: {present}). Install the JAX build for "
      f"that device, or leave --device out."
    ) from None
  with jax.default_device(device):
    yield device


def first_line(text: str | None) -> str:
  """First non-empty line of a docstring."""
  return next((line for line in inspect.cleandoc(text or "").splitlines() if line), "")
