"""Runs one row in this process: ``python -m benchmarks._worker ROW SIZE REPEATS TARGET``."""

import importlib
import json
import sys
from pathlib import Path

from benchmarks._timing import measure


def main(row: str, size: str, repeats: str, target: str) -> None:
  """Builds and measures the row, and writes what was found."""
  built = importlib.import_module(f"benchmarks.{row}").build(size)
  Path(target).write_text(json.dumps(measure(built, repeats=int(repeats))))


if __name__ == "__main__":
  main(*sys.argv[1:])
