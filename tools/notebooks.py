"""Notebooks from their text form: the address of the repository filled in, then run if asked.

  python tools/notebooks.py OUT [--run] [NAME ...]

The text form, ``notebooks/*.py``, holds no address. Publishing needs one line: ``Repository`` under
``[project.urls]`` in ``pyproject.toml``; the first cell then installs from there, and a badge opens
the notebook in Colab.
"""

import argparse
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
SOURCES = ROOT / "notebooks"
EMPTY = 'REPOSITORY = ""'
_COLAB = "https://colab.research.google.com"


def repository() -> str:
  """The public address of the repository, or nothing."""
  project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
  return project.get("urls", {}).get("Repository", "").rstrip("/")


def badge(name: str, address: str) -> str:
  """Markdown of the badge that opens a notebook in Colab; nothing without a GitHub address."""
  if not address.startswith("https://github.com/"):
    return ""
  path = f"github/{address.removeprefix('https://github.com/')}/blob/main/notebooks/{name}.ipynb"
  return f"[![Open in Colab]({_COLAB}/assets/colab-badge.svg)]({_COLAB}/{path})"


def with_address(text: str, name: str, address: str) -> str:
  """The text form with the address in its first cell and the badge below its title."""
  if EMPTY not in text:
    raise ValueError(f"{name}: the first cell needs the line {EMPTY}")
  text = text.replace(EMPTY, f'REPOSITORY = "{address}"', 1)
  mark = badge(name, address)
  if mark:
    start = text.index("# %% [markdown]\n# # ")
    end = text.index("\n", start + len("# %% [markdown]\n"))
    text = f"{text[:end]}\n#\n# {mark}{text[end:]}"
  return text


def notebook(path: Path, *, run: bool = False) -> Any:
  """The notebook of a text form; with ``run`` its outputs too."""
  import jupytext

  result = jupytext.reads(with_address(path.read_text(), path.stem, repository()), fmt="py:percent")
  if run:
    from nbclient import NotebookClient

    NotebookClient(result, timeout=600, resources={"metadata": {"path": str(SOURCES)}}).execute()
  return result


def main() -> None:
  """Writes the notebooks that are named, or all."""
  import jupytext

  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("out", type=Path)
  parser.add_argument("names", nargs="*")
  parser.add_argument("--run", action="store_true")
  arguments = parser.parse_args()
  arguments.out.mkdir(parents=True, exist_ok=True)
  known = {path.stem: path for path in sorted(SOURCES.glob("*.py"))}
  for name in arguments.names or known:
    target = arguments.out / f"{name}.ipynb"
    jupytext.write(notebook(known[name], run=arguments.run), target, fmt="ipynb")
    print(f"{'Run' if arguments.run else 'Written'}: {target}", flush=True)


if __name__ == "__main__":
  main()
