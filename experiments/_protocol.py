"""What an experiment module provides, and what the runner makes of it.

An experiment is a file ``experiments/<topic>_<method>.py`` with these module-level names:

- ``PAPER: Paper``, the source and the claim, in our own words.
- ``Config``, a frozen dataclass whose fields are plain numbers, strings, booleans or tuples of
  these, one of them ``seeds: int`` (how many seeds are averaged).
- ``SIZES: dict[str, Config]`` with the keys ``toy`` (seconds; runs in every test), ``desk`` (at
  most three minutes on two CPU cores) and ``paper`` (the setting of the paper).
- ``run(config, progress) -> Outcome``: deterministic, no files written, no global settings left
  changed (float64 through ``with jax.enable_x64(True):``), times never put into ``metrics``.
- ``figure(record) -> matplotlib.figure.Figure``, drawn from the record (a dict as read from JSON)
  alone.
- optionally ``DEMO = True``: part of ``python -m experiments demo``. Its data must then be bundled
  with scikit-learn or scikit-image, or be synthetic, so that the demo works offline.

A minimal module::

  import dataclasses
  from experiments._protocol import Claim, Outcome, Paper, Row, new_figure

  PAPER = Paper(
    title="...", authors="...", year=2024, claim="Method A has a lower error than B.",
    section="Table 1",
  )

  @dataclasses.dataclass(frozen=True)
  class Config:
    seeds: int = 3
    samples: int = 200

  SIZES = {"toy": Config(seeds=1, samples=40), "desk": Config(), "paper": Config(10, 5000)}

  def run(config, progress):
    errors = {"a": [], "b": []}
    for seed in progress.track(range(config.seeds), "seeds"):
      errors["a"].append(float(progress.clock.call(jitted_a, key, data, name="a")))
      ...
    ours, base = np.mean(errors["a"]), np.mean(errors["b"])
    return Outcome(
      metrics={"a": {"error": errors["a"]}, "b": {"error": errors["b"]}},
      table=[Row("A", "test error", ours, base, baseline_name="B", reported=0.12, better="lower")],
      claims=[Claim("A has a lower test error than B.", ours < base, {"a": ours, "b": base})],
    )

  def figure(record):
    fig, axes = new_figure(1, 2)
    axes[0].plot(record["metrics"]["a"]["error"])
    return fig
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

SIZE_NAMES = ("toy", "desk", "paper")
RECORD_FORMAT = 1
RECORD_KEYS = (
  "format",
  "name",
  "paper",
  "size",
  "settings",
  "seeds",
  "versions",
  "device",
  "metrics",
  "table",
  "claims",
  "wall",
)
_SIGNIFICANT_DIGITS = 9  # enough to hold a float32 exactly; keeps the committed records short


class Paper(NamedTuple):
  """Where a claim comes from.

  Attributes:
    title: title of the paper (or of the method, where there is no single paper).
    authors: authors, as in a reference list.
    year: year of publication.
    claim: what the experiment checks, in one or two sentences of our own.
    section: section, table or figure of the paper that makes the claim.
    url: address of the paper, or empty.
  """

  title: str
  authors: str
  year: int
  claim: str
  section: str = ""
  url: str = ""


class Row(NamedTuple):
  """One line of the report's table.

  Attributes:
    method: the method that ``ours`` belongs to.
    metric: what is measured, with data set and unit.
    ours: our figure (mean over the seeds).
    baseline: the same measurement for the baseline, or None.
    baseline_name: which baseline.
    reported: the number in the paper, or None where the paper has none for this setting.
    better: ``"lower"`` or ``"higher"``.
    spread: standard deviation of ``ours`` over the seeds, or None.
    note: what a reader must know when comparing with ``reported`` (other data, smaller size).
  """

  method: str
  metric: str
  ours: float
  baseline: float | None = None
  baseline_name: str = ""
  reported: float | None = None
  better: str = "higher"
  spread: float | None = None
  note: str = ""


class Claim(NamedTuple):
  """One statement that the run confirms or refutes.

  Attributes:
    text: the statement, one sentence.
    holds: whether it holds in this run.
    numbers: the numbers it was decided on.
  """

  text: str
  holds: bool
  numbers: Mapping[str, float]


class Outcome(NamedTuple):
  """What ``run`` returns.

  Attributes:
    metrics: nested dict, method -> metric -> number or (nested) list of numbers, including the
      values for each seed and whatever the figure draws. Arrays are allowed: they become lists.
      Numbers that are not finite become None in the record.
    table: rows of the report.
    claims: the statements checked; at least one.
  """

  metrics: Mapping[str, Any]
  table: list[Row]
  claims: list[Claim]


class Clock:
  """Measures compilation and execution apart.

  ``clock.call(jitted, *args, name="fista")`` compiles ahead of time, waits for the result and
  books both durations under ``name`` in ``clock.parts``. A second call with arguments of the same
  shapes and dtypes does not compile again. The runner measures the compile time of the whole run by
  itself, so that only what is to be compared needs ``call``.
  """

  def __init__(self) -> None:
    self.parts: dict[str, dict[str, float]] = {}
    self._compiled: dict[Any, Any] = {}

  def call(self, jitted: Callable[..., Any], *args: Any, name: str | None = None) -> Any:
    """Compiles (the first time), runs, and returns the finished result.

    Args:
      jitted: a function made by ``jax.jit``; static arguments must be bound beforehand.
      *args: its arguments.
      name: key in ``clock.parts``; the function's own name by default.

    Returns:
      What ``jitted(*args)`` returns, ready.
    """
    name = name or getattr(jitted, "__name__", "call")
    part = self.parts.setdefault(name, {"compile_s": 0.0, "run_s": 0.0, "calls": 0})
    leaves, treedef = jax.tree.flatten(args)
    avals = tuple((jax.typeof(x), getattr(x, "sharding", None)) for x in leaves)
    # The function itself is part of the key, so that it lives on and its identity is not reused.
    key = (jitted, treedef, avals, bool(jax.config.jax_enable_x64))
    if key not in self._compiled:
      start = time.perf_counter()
      self._compiled[key] = jitted.lower(*args).compile()
      part["compile_s"] += time.perf_counter() - start
    compiled = self._compiled[key]
    jax.block_until_ready(leaves)  # the arguments' own computation is not booked here
    start = time.perf_counter()
    result = jax.block_until_ready(compiled(*args))
    part["run_s"] += time.perf_counter() - start
    part["calls"] += 1
    return result


class Progress:
  """What ``run`` reports to. This one is silent; the command line passes one that draws bars.

  Attributes:
    clock: for timings that compare methods.
  """

  def __init__(self) -> None:
    self.clock = Clock()

  def track(
    self, items: Iterable[Any], description: str = "", total: int | None = None
  ) -> Iterator[Any]:
    """Passes the items on, drawing a bar where there is someone to see it."""
    del description, total
    yield from items

  def message(self, text: str) -> None:
    """A line for the reader, such as the stage that starts now."""
    del text


def new_figure(rows: int = 1, columns: int = 1, *, width: float = 4.4, height: float = 3.3):
  """A figure outside pyplot's global state, and its axes.

  Args:
    rows: number of rows of axes.
    columns: number of columns of axes.
    width: inches a column.
    height: inches a row.

  Returns:
    ``(figure, axes)`` with ``axes`` a flat list of ``rows * columns`` axes.
  """
  from matplotlib.figure import Figure

  fig = Figure(figsize=(width * columns, height * rows), layout="constrained")
  axes = np.ravel(fig.subplots(rows, columns, squeeze=False)).tolist()
  for ax in axes:
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(alpha=0.3)
  return fig, axes


def to_json(value: Any) -> Any:
  """Turns arrays, NumPy scalars, tuples, named tuples and dataclasses into plain JSON values.

  Floats keep nine significant digits; those that are not finite become None.
  """
  if value is None or isinstance(value, bool | str):
    return value
  if isinstance(value, np.bool_):
    return bool(value)
  if isinstance(value, int | np.integer):
    return int(value)
  if isinstance(value, float | np.floating):
    number = float(value)
    return float(f"{number:.{_SIGNIFICANT_DIGITS}g}") if math.isfinite(number) else None
  if dataclasses.is_dataclass(value) and not isinstance(value, type):
    return to_json({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
  if isinstance(value, tuple) and hasattr(value, "_asdict"):
    return to_json(value._asdict())
  if isinstance(value, Mapping):
    return {str(k): to_json(v) for k, v in value.items()}
  if isinstance(value, list | tuple):
    return [to_json(v) for v in value]
  if hasattr(value, "dtype") and hasattr(value, "shape"):
    array = np.asarray(value)
    if array.dtype.kind not in "biuf":  # such as bfloat16
      array = array.astype(np.float32)
    return to_json(array.tolist())
  raise TypeError(
    f"A record holds numbers, strings, lists and dicts only; got {type(value).__name__}."
  )


def check_outcome(outcome: Any) -> Outcome:
  """Refuses an outcome that the report could not show."""
  if not isinstance(outcome, Outcome):
    raise TypeError(f"run must return an Outcome; got {type(outcome).__name__}.")
  if not isinstance(outcome.metrics, Mapping) or not outcome.metrics:
    raise ValueError("Outcome.metrics must be a dict with at least one method.")
  if not outcome.table or not all(isinstance(row, Row) for row in outcome.table):
    raise ValueError("Outcome.table must hold at least one Row.")
  if not outcome.claims or not all(isinstance(claim, Claim) for claim in outcome.claims):
    raise ValueError("Outcome.claims must hold at least one Claim.")
  for row in outcome.table:
    if row.better not in ("lower", "higher"):
      raise ValueError(f"Row.better must be 'lower' or 'higher'; got {row.better!r}.")
  return outcome
