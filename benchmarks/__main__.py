"""Command line of the benchmarks: ``python -m benchmarks --help``."""

import dataclasses
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

FOLDER = Path(__file__).parent


def rows() -> list[str]:
  """Names of all rows."""
  return sorted(p.stem for p in FOLDER.glob("*.py") if not p.stem.startswith("_"))


@dataclasses.dataclass(frozen=True)
class Options:
  """Time this package against its peers, side by side in one run."""

  names: tyro.conf.Positional[tuple[str, ...]] = ()
  """Which rows; all by default."""
  size: Literal["toy", "full"] = "full"
  """toy: seconds, to see that everything runs. full: what the ratios are about."""
  repeats: int = 5
  """Rounds, at least 5 for numbers that are quoted."""
  out: Path = Path("results/bench.json")
  """Where the numbers go."""


def machine() -> dict[str, Any]:
  """What the numbers were measured on."""
  model = platform.processor()
  cpuinfo = Path("/proc/cpuinfo")
  if cpuinfo.exists():
    lines = [x for x in cpuinfo.read_text().splitlines() if x.startswith("model name")]
    model = lines[0].partition(":")[2].strip() if lines else model
  import importlib.metadata as metadata

  versions = {"python": platform.python_version()}
  names = ("jax", "jaxlib", "numpy", "optax", "scikit-learn", "celer", "skglm", "jaxopt")
  for name in (*names, "pyproximal", "torch", "libauc", "netcal"):
    try:
      versions[name] = metadata.version(name)
    except metadata.PackageNotFoundError:
      continue
  return {
    "cpu": model,
    "cores": os.cpu_count(),
    "system": platform.system(),
    "date": datetime.date.today().isoformat(),
    "versions": versions,
  }


def run_row(name: str, options: Options) -> dict[str, Any]:
  """Runs a row in a process of its own, so that no row changes another's settings or memory."""
  with tempfile.TemporaryDirectory() as folder:
    target = Path(folder) / "row.json"
    command = [sys.executable, "-m", "benchmarks._worker"]
    done = subprocess.run(
      [*command, name, options.size, str(options.repeats), str(target)],
      cwd=FOLDER.parent,
      check=False,
    )
    if done.returncode or not target.exists():
      return {"row": name, "error": f"the row's process ended with status {done.returncode}"}
    return json.loads(target.read_text())


def show(results: list[dict[str, Any]], console: Console) -> None:
  """Prints one line a contender."""
  table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
  for heading in ("row", "contender"):
    table.add_column(heading)
  for heading in ("compile s", "run s", "ratio", "accuracy", "goal"):
    table.add_column(heading, justify="right")
  number = lambda v: "-" if v is None else f"{v:.3g}"
  for result in results:
    if "error" in result:
      table.add_row(result["row"], result["error"], style="red")
      continue
    for i, (name, entry) in enumerate(result["contenders"].items()):
      verdict = {True: "met", False: "missed", None: "no peer"}[result["met"]]
      goal = f"{result['goal']:g} {verdict}" if entry["ours"] and i == 0 else ""
      table.add_row(
        result["row"] if i == 0 else "",
        name if entry["valid"] else f"{name} (misses the bound)",
        number(entry["compile_s"]) if entry["compile_s"] else "-",
        number(entry["median_s"]),
        number(entry["ratio"]),
        number(entry["accuracy"]),
        goal,
      )
    if result["limit_s"] is not None:
      table.add_row("", f"limit: {result['limit']}", "", number(result["limit_s"]), "", "", "")
    table.add_section()
  console.print(table)


def main(args: list[str] | None = None) -> int:
  """Runs the rows; exit status 1 when one of them broke, 2 for an unknown name."""
  options = tyro.cli(Options, prog="python -m benchmarks", args=args)
  console = Console() if sys.stdout.isatty() else Console(width=140)
  unknown = [name for name in options.names if name not in rows()]
  if unknown:
    print(f"error: no row {unknown[0]!r}. There are: {', '.join(rows())}.", file=sys.stderr)
    return 2
  results: list[dict[str, Any]] = []
  found = {"size": options.size, "machine": machine(), "rows": results}
  options.out.parent.mkdir(parents=True, exist_ok=True)
  for name in options.names or rows():
    print(f"{name} ({options.size})", flush=True)
    results.append(run_row(name, options))
    # After each row: an interrupted run keeps what it measured.
    options.out.write_text(json.dumps(found, indent=1) + "\n")
  show(results, console)
  print(f"Written: {options.out}")
  return 1 if any("error" in r for r in results) else 0


if __name__ == "__main__":
  sys.exit(main())
