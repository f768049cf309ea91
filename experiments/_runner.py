"""Finds experiments, applies settings, runs them and writes their records."""

import contextlib
import dataclasses
import importlib
import inspect
import json
import os
import platform
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import numpy as np

import jaxopt_robust
from experiments._protocol import (
  RECORD_FORMAT,
  SIZE_NAMES,
  Paper,
  Progress,
  check_outcome,
  to_json,
)
from jaxopt_robust._arguments import did_you_mean

FOLDER = Path(__file__).parent
RECORDS = FOLDER / "records"
DEFAULT_OUT = Path("results")
_NOT_EXPERIMENTS = {"datasets"}


class UsageError(Exception):
  """A mistake in the command, told without a traceback."""


def names() -> list[str]:
  """Names of all experiments: the files of this folder without a leading underscore."""
  found = (p.stem for p in FOLDER.glob("*.py") if not p.stem.startswith("_"))
  return sorted(n for n in found if n not in _NOT_EXPERIMENTS)


def load(name: str) -> ModuleType:
  """Imports an experiment and checks that it provides what the protocol asks for."""
  known = names()
  if name not in known:
    hint = did_you_mean(name, known)
    raise UsageError(
      f"There is no experiment {name!r}.{hint} There are: {', '.join(known) or 'none'}."
    )
  module = importlib.import_module(f"experiments.{name}")
  check_module(name, module)
  return module


def check_module(name: str, module: Any) -> None:
  """Refuses a module that lacks a part of the protocol."""
  for attribute in ("PAPER", "Config", "SIZES", "run", "figure"):
    if not hasattr(module, attribute):
      raise TypeError(f"Experiment {name!r} lacks {attribute}.")
  if not isinstance(module.PAPER, Paper):
    raise TypeError(f"Experiment {name!r}: PAPER must be a Paper.")
  if set(module.SIZES) != set(SIZE_NAMES):
    raise TypeError(f"Experiment {name!r}: SIZES must have the keys {', '.join(SIZE_NAMES)}.")
  fields = {f.name for f in dataclasses.fields(module.Config)}
  if "seeds" not in fields or not module.Config.__dataclass_params__.frozen:
    raise TypeError(f"Experiment {name!r}: Config must be a frozen dataclass with a field 'seeds'.")


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
  config = module.SIZES[size]
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


@contextlib.contextmanager
def _compile_spans() -> Iterator[list[tuple[float, float]]]:
  """Collects when JAX was tracing, lowering or compiling."""
  spans: list[tuple[float, float]] = []

  def listen(event: str, duration: float, **_: Any) -> None:
    if event.startswith("/jax/core/compile/"):
      now = time.perf_counter()
      spans.append((now - duration, now))

  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    yield spans
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)


def union_length(spans: Sequence[tuple[float, float]]) -> float:
  """Length of a union of intervals: traces nest, and must not be counted twice."""
  total, end = 0.0, -float("inf")
  for start, stop in sorted(spans):
    total += max(0.0, stop - max(start, end))
    end = max(end, stop)
  return total


def versions() -> dict[str, str]:
  """What a record says about the software it was made with."""
  import jaxlib
  import optax

  return {
    "python": platform.python_version(),
    "jax": jax.__version__,
    "jaxlib": jaxlib.__version__,
    "numpy": np.__version__,
    "optax": optax.__version__,
    "jaxopt_robust": jaxopt_robust.__version__,
  }


def execute(
  name: str,
  module: Any,
  config: Any,
  *,
  size: str,
  device: str | None = None,
  progress: Progress | None = None,
) -> dict[str, Any]:
  """Runs an experiment and wraps its outcome in a record (a dict of plain JSON values)."""
  progress = progress or Progress()
  with use_device(device) as where, _compile_spans() as spans:
    start = time.perf_counter()
    outcome = check_outcome(module.run(config, progress))
    total = time.perf_counter() - start
  compiling = union_length(spans)
  record = {
    "format": RECORD_FORMAT,
    "name": name,
    "paper": module.PAPER,
    "size": size,
    "settings": config,
    "seeds": config.seeds,
    "versions": versions(),
    "device": {"platform": where.platform, "kind": where.device_kind},
    "metrics": outcome.metrics,
    "table": outcome.table,
    "claims": outcome.claims,
    "wall": {
      "total_s": total,
      "compile_s": compiling,
      "without_compile_s": total - compiling,
      "parts": progress.clock.parts,
    },
  }
  return to_json(record)


def write_atomically(path: Path, content: str | bytes) -> None:
  """Writes a file whole or not at all: a killed run leaves no half-written file."""
  path.parent.mkdir(parents=True, exist_ok=True)
  data = content.encode() if isinstance(content, str) else content
  handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
  try:
    with os.fdopen(handle, "wb") as file:
      file.write(data)
    # mkstemp makes files private to the user; give the permissions of a file made by open.
    umask = os.umask(0)
    os.umask(umask)
    os.chmod(temporary, 0o666 & ~umask)
    os.replace(temporary, path)
  except BaseException:
    with contextlib.suppress(FileNotFoundError):
      os.unlink(temporary)
    raise


def dump(record: dict[str, Any]) -> str:
  """The text of a record; NaN is refused, because JSON has none."""
  return json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def draw(module: Any, record: dict[str, Any]) -> bytes:
  """The figure of a record as PNG."""
  import io

  buffer = io.BytesIO()
  module.figure(record).savefig(buffer, format="png", dpi=110)
  return buffer.getvalue()


def save(module: Any, record: dict[str, Any], out: Path) -> None:
  """Writes ``NAME.json``, then ``NAME.png``; forgets an earlier failure."""
  name = record["name"]
  write_atomically(out / f"{name}.json", dump(record))
  (out / f"{name}.error.json").unlink(missing_ok=True)
  write_atomically(out / f"{name}.png", draw(module, record))


def save_failure(name: str, size: str, error: BaseException, out: Path) -> dict[str, Any]:
  """Writes ``NAME.error.json``: what failed, for the report and for the user."""
  failure = {
    "name": name,
    "size": size,
    "error": f"{type(error).__name__}: {error}".strip(),
    "traceback": "".join(traceback.format_exception(error)),
  }
  write_atomically(out / f"{name}.error.json", dump(failure))
  return failure


def read(path: Path) -> dict[str, Any]:
  """Reads a record; a file that is no record is named in the error."""
  try:
    record = json.loads(path.read_text())
  except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
    raise UsageError(f"{path} is not a readable record: {error}.") from error
  if not isinstance(record, dict) or "name" not in record:
    raise UsageError(f"{path} is not a record of an experiment.")
  return record


def commit_record(name: str, out: Path, *, records: Path | None = None) -> Path:
  """Copies the record of a desk run with unchanged settings to the folder of vouched evidence."""
  module = load(name)
  path = out / f"{name}.json"
  if not path.exists():
    raise UsageError(f"There is no {path}. Run: python -m experiments run {name} --size desk")
  record = read(path)
  if record["size"] != "desk" or record["settings"] != to_json(module.SIZES["desk"]):
    raise UsageError(
      f"{path} is not a desk run with the settings of the file; only those become evidence."
    )
  target = (records or RECORDS) / f"{name}.json"
  write_atomically(target, dump(record))
  return target


def first_line(text: str | None) -> str:
  """First non-empty line of a docstring."""
  return next((line for line in inspect.cleandoc(text or "").splitlines() if line), "")
