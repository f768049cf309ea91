"""What an experiment module provides, and what the runner makes of it.

An experiment is a file ``experiments/<module>/<name>.py``, where ``<module>`` is the module of the
package that its paper lives in, with these names at its top level:

- ``PAPER: Paper``, the source and what it claims, in our own words.
- ``Config``, a frozen dataclass derived from ``Settings``; its fields are plain numbers, strings,
  booleans or tuples of these, explained one by one in its docstring.
- ``SIZES: dict[str, Size]`` with the keys ``toy`` (at most five seconds; runs in every test),
  ``desk`` (at most three minutes on two CPU cores) and ``large`` (the nearest to the paper's own
  setting that the data allow; for an accelerator). Each says what differs from the paper.
- ``run(config, progress) -> dict``, the metrics: deterministic, no files written, no global
  settings left changed (float64 through ``with jax.enable_x64(True):``), no times in them. Values
  are numbers, strings, arrays, or dicts and lists of these; a list of ``Choice`` under the key
  ``"choices"`` tells what was chosen from which grid.
- ``claims(metrics, config) -> list[Claim]``, written before the run, and
  ``table(metrics, config) -> list[Row]``: from the metrics *as the record holds them* (lists, with
  None for what is not finite), so that they can be computed again from a committed record.
- ``figure(record) -> matplotlib.figure.Figure``, drawn from the record (a dict as read from JSON)
  alone.
- optionally ``AMENDED: tuple[Amendment, ...]``, the changes of claims after a record existed, and
  ``DEMO = True``: part of ``python -m experiments demo``. Its data must then be bundled with
  scikit-learn or scikit-image, or be synthetic, so that the demo works offline.

Settings are chosen on development seeds (0 to 99, the default) and on validation data; the
committed record is made on report seeds (1000 on) by ``python -m experiments record NAME``.

A minimal module::

  import dataclasses
  from experiments._claims import Claim, Side
  from experiments._protocol import Paper, Row, Settings, Size, new_figure

  PAPER = Paper(
    title="...", authors="...", year=2024, claim="Method A has a lower error than B.",
    section="Table 1",
  )

  @dataclasses.dataclass(frozen=True)
  class Config(Settings):
    \"\"\"Settings.

    Attributes:
      samples: rows of the data.
    \"\"\"

    samples: int = 200

  SIZES = {
    "toy": Size(Config(seeds=2, samples=40), "40 rows instead of 5000."),
    "desk": Size(Config(), "200 rows instead of 5000."),
    "large": Size(Config(samples=5000), "Nothing."),
  }

  def run(config, progress):
    errors = {"a": [], "b": []}
    for seed in progress.track(config.seed_numbers(), "seeds"):
      errors["a"].append(float(progress.clock.call(jitted_a, key, data, name="a")))
      ...
    return {"a": {"error": errors["a"]}, "b": {"error": errors["b"]}}

  def claims(metrics, config):
    a, b = (Side(name, metrics[name]["error"]) for name in ("a", "b"))
    text = "A has a lower test error than B."
    return [Claim("lower_error", text, "paper", "test error", a, b, better="lower")]

  def table(metrics, config):
    a, b = (Side(name, metrics[name]["error"]) for name in ("a", "b"))
    return [Row("test error", a, b, better="lower")]

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

from experiments._claims import Side

SIZE_NAMES = ("toy", "desk", "large")
# Note of rows whose grids were changed between two records.
RECORDED_TWICE = (
  "Recorded twice on the report seeds: grids were widened after the first record, because best "
  "values lay at their edges. Claims and verdicts are the same in both."
)
REPORT_SEED = 1000  # first seed of the committed records; settings are chosen on 0 to 99
RECORD_FORMAT = 2
RECORD_KEYS = (
  "format",
  "name",
  "paper",
  "size",
  "differs",
  "settings",
  "seeds",
  "versions",
  "device",
  "metrics",
  "choices",
  "table",
  "claims",
  "amended",
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """What the settings of every experiment begin with.

  Attributes:
    seeds: number of seeds; claims compare methods seed by seed.
    first_seed: the first of them; 0 to 99 are for development, 1000 on for the record.
  """

  seeds: int = 8
  first_seed: int = 0

  def seed_numbers(self) -> list[int]:
    """The seeds, consecutive numbers."""
    return list(range(self.first_seed, self.first_seed + self.seeds))


class Size(NamedTuple):
  """One size of an experiment.

  Attributes:
    config: its settings.
    differs: one line: what differs from the paper's own setting.
  """

  config: Any
  differs: str


class Reported(NamedTuple):
  """A number of the paper, verified in a public copy of it or of its code.

  Attributes:
    value: the number.
    data: the data set that it belongs to.
    network: the network or problem size that it belongs to.
    where: table or figure.
  """

  value: float
  data: str
  network: str
  where: str = ""


class Row(NamedTuple):
  """One line of the report's table.

  Attributes:
    metric: what is measured, with data set and unit.
    ours: the method and its values, a number a seed.
    baseline: the same for what it stands beside, or None.
    better: ``"lower"`` or ``"higher"``.
    reported: the paper's own number for this method, or None.
    note: what a reader must know.
  """

  metric: str
  ours: Side
  baseline: Side | None = None
  better: str = "higher"
  reported: Reported | None = None
  note: str = ""


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


def check_module(name: str, module: Any) -> None:
  """Refuses a module that lacks a part of the protocol."""
  for attribute in ("PAPER", "Config", "SIZES", "run", "claims", "table", "figure"):
    if not hasattr(module, attribute):
      raise TypeError(f"Experiment {name!r} lacks {attribute}.")
  if not isinstance(module.PAPER, Paper):
    raise TypeError(f"Experiment {name!r}: PAPER must be a Paper.")
  if set(module.SIZES) != set(SIZE_NAMES):
    raise TypeError(f"Experiment {name!r}: SIZES must have the keys {', '.join(SIZE_NAMES)}.")
  if not all(isinstance(size, Size) for size in module.SIZES.values()):
    raise TypeError(f"Experiment {name!r}: each of SIZES must be a Size.")
  if not issubclass(module.Config, Settings) or not module.Config.__dataclass_params__.frozen:
    raise TypeError(f"Experiment {name!r}: Config must be a frozen dataclass of Settings.")
