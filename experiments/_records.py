"""Runs experiments; makes, writes, reads and judges their records."""

import contextlib
import dataclasses
import json
import os
import platform
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxopt_robust
from experiments import _claims, _statistics
from experiments._protocol import RECORD_FORMAT, RECORD_KEYS, REPORT_SEED, Progress, Row, to_json
from experiments._runner import FOLDER, UsageError, load, settings_of, use_device

RECORDS = FOLDER / "records"
DEFAULT_OUT = Path("results")


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


def _row(row: Row) -> dict[str, Any]:
  """A line of the table with the interval of our values."""
  if row.better not in ("lower", "higher"):
    raise ValueError(f"Row.better must be 'lower' or 'higher'; got {row.better!r}.")
  sides = []
  for side in (row.ours, row.baseline):
    if side is None:
      sides.append(None)
      continue
    values = _statistics.numbers(side.values)
    center, low, high = _statistics.mean_interval(values)
    sides.append({"name": side.name, "values": values, "center": center, "low": low, "high": high})
  ours, baseline = sides
  return {
    "method": row.ours.name, "metric": row.metric, "better": row.better, "note": row.note,
    "ours": ours, "baseline": baseline, "reported": row.reported,
  }  # fmt: skip


def judge(module: Any, metrics: dict[str, Any], config: Any) -> dict[str, Any]:
  """Table and evaluated claims of the metrics of a record."""
  rows = [_row(row) for row in module.table(metrics, config)]
  claims = [_claims.evaluate(claim) for claim in module.claims(metrics, config)]
  keys = [claim["key"] for claim in claims]
  if not rows or not claims:
    raise ValueError("An experiment has at least one Row and one Claim.")
  if len(set(keys)) < len(keys):
    raise ValueError(f"Each claim needs a key of its own; got {', '.join(keys)}.")
  return to_json({"table": rows, "claims": claims, "amended": getattr(module, "AMENDED", ())})


def settings_from(module: Any, record: dict[str, Any]) -> Any:
  """The settings of a record as the experiment's own Config."""
  fields = {f.name for f in dataclasses.fields(module.Config)}
  if fields != set(record["settings"]):
    raise UsageError(f"The record of {record['name']} has other settings: run it again.")
  values = record["settings"].items()
  return module.Config(**{k: tuple(v) if isinstance(v, list) else v for k, v in values})


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
    start, cpu = time.perf_counter(), time.process_time()
    outcome = module.run(config, progress)
    total, cpu = time.perf_counter() - start, time.process_time() - cpu
  compiling = union_length(spans)
  record = {
    "format": RECORD_FORMAT,
    "name": name,
    "paper": module.PAPER,
    "size": size,
    "settings": config,
    "versions": versions(),
    "device": {"platform": where.platform, "kind": where.device_kind},
    "wall": {
      "total_s": total,
      "compile_s": compiling,
      "without_compile_s": total - compiling,
      "cpu_s": cpu,  # of all cores: it depends less on what else the machine does
      "parts": progress.clock.parts,
    },
  }
  if not isinstance(outcome, dict) or not outcome:
    raise TypeError(f"run must return a dict of metrics; got {type(outcome).__name__}.")
  choices = outcome.pop("choices", [])
  for choice in choices:
    if choice.at_edge:
      warnings.warn(
        f"{name}: the best {choice.name} ({choice.chosen:g}) lies at an edge of its grid "
        f"({choice.values[0]:g} to {choice.values[-1]:g}); a wider grid may hold a better one.",
        stacklevel=2,
      )
  shown = [{**choice._asdict(), "at_edge": choice.at_edge} for choice in choices]
  metrics = to_json(outcome)
  judged = judge(module, metrics, config)
  own = {
    "differs": module.SIZES[size].differs, "seeds": config.seed_numbers(), "metrics": metrics,
    "choices": shown,
  }  # fmt: skip
  return to_json({**record, **own, **judged})


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
  if "error" in record:
    return record
  if record.get("format") != RECORD_FORMAT:
    raise UsageError(
      f"{path} has another format ({record.get('format')}, not {RECORD_FORMAT}): "
      f"run {record['name']} again."
    )
  if missing := [key for key in RECORD_KEYS if key not in record]:
    raise UsageError(f"{path} is incomplete, it lacks {', '.join(missing)}: run it again.")
  return record


def report_settings(module: Any) -> Any:
  """The settings of the committed record: those of the size desk, on report seeds."""
  return dataclasses.replace(settings_of(module, "desk"), first_seed=REPORT_SEED)


def check_announced(name: str, record: dict[str, Any], records: Path) -> None:
  """Refuses a record whose claims differ from those of the committed one without a word."""
  path = records / f"{name}.json"
  if not path.exists():
    return
  before = json.loads(path.read_text())
  told, amended = (
    [_claims.Amendment(**entry) for entry in entries]
    for entries in (before["amended"], record["amended"])
  )
  same = before["metrics"] == record["metrics"]
  silent = _claims.unannounced(before["claims"], record["claims"], amended, told, same_numbers=same)
  if silent:
    raise UsageError(
      f"{name}: claims that differ from the committed record need an entry in AMENDED "
      f"(was: their old text, word by word): {', '.join(silent)}."
    )


def check_out(out: Path) -> None:
  """Refuses to write what any run leaves among the committed records."""
  if out.resolve() == RECORDS.resolve():
    raise UsageError(f"{out} holds the committed records: 'record NAME' writes them.")


def check_before_run(name: str, module: Any, config: Any) -> None:
  """Refuses changed claims without a word before a run, as far as old numbers can tell."""
  path = RECORDS / f"{name}.json"
  if not path.exists():
    return
  before = json.loads(path.read_text())
  try:
    judged = judge(module, before["metrics"], config)
  except (AttributeError, LookupError, TypeError, ValueError):
    return  # the numbers have another form now: the claims are seen after the run
  check_announced(name, before | judged, RECORDS)


def commit(name: str, record: dict[str, Any], *, records: Path | None = None) -> Path:
  """Writes a record of report settings to the folder of vouched evidence."""
  records = records or RECORDS
  module = load(name)
  if record["size"] != "desk" or record["settings"] != to_json(report_settings(module)):
    raise UsageError(f"{name}: only a desk run on report seeds with its own settings is evidence.")
  check_announced(name, record, records)
  target = records / f"{name}.json"
  write_atomically(target, dump(record))
  return target
