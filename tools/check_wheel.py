"""Imports a freshly built wheel beside its own dependencies and nothing else.

Usage: ``python tools/check_wheel.py FOLDER`` with exactly one wheel in the folder. Nothing is
downloaded: the dependencies are those of the running environment, but only the packages that the
wheel's metadata names (and what these need) can be imported. A dependency that the metadata lacks,
a file that the wheel lacks, or an optional package that is imported too early shows here.
"""

import importlib.metadata
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from email.parser import Parser
from pathlib import Path

from packaging.requirements import Requirement

# Public modules that need an extra, and the package that must be missed.
NEEDS_EXTRA = {"nets": "flax"}

_CHECK = """
import importlib, importlib.util, sys
sys.path.insert(0, {site!r})
import jaxopt_robust as jr
assert jr.__file__.startswith({site!r}), jr.__file__
assert (importlib.util.find_spec("flax") or importlib.util.find_spec("sklearn")) is None
extra = {extra!r}
for name in jr.__all__:
  try:
    getattr(jr, name)
  except ImportError as error:
    if name not in extra or extra[name] not in str(error):
      raise
import jax.numpy as jnp
assert jr.prox.prox_lasso(jnp.array([-3.0, 0.5, 2.0]), 1.0).tolist() == [-2.0, 0.0, 1.0]
print("jaxopt_robust", jr.__version__, "imports with its own dependencies alone")
"""


def _needed(lines: Iterable[str]) -> list[str]:
  """Names of the packages that are needed without any extra."""
  names = []
  for requirement in map(Requirement, lines):
    if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
      names.append(requirement.name)
  return names


def _closure(names: list[str]) -> dict[str, importlib.metadata.Distribution]:
  """These distributions and all that they need."""
  found: dict[str, importlib.metadata.Distribution] = {}
  todo = list(names)
  while todo:
    name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
    if name not in found:
      found[name] = importlib.metadata.distribution(name)
      todo += _needed(found[name].requires or [])
  return found


def main(folder: Path) -> int:
  """Unpacks the wheel, links its dependencies beside it, imports every public module."""
  wheels = list(folder.glob("*.whl"))
  if len(wheels) != 1:
    print(f"error: there must be one wheel in {folder}; found {len(wheels)}", file=sys.stderr)
    return 2
  site = (folder / "site").resolve()
  site.mkdir()
  with zipfile.ZipFile(wheels[0]) as wheel:
    wheel.extractall(site)
    names = wheel.namelist()
    metadata = next(n for n in names if n.endswith(".dist-info/METADATA"))
    headers = Parser().parsestr(wheel.read(metadata).decode(), headersonly=True)
    dependencies = _closure(_needed(headers.get_all("Requires-Dist") or []))
  for needed in ("jaxopt_robust/py.typed", "LICENSE"):
    assert any(n.endswith(needed) for n in names), f"the wheel lacks {needed}"
  assert not any(n.startswith(("tests/", "experiments/")) for n in names)
  for distribution in dependencies.values():
    for top in {file.parts[0] for file in distribution.files or []}:
      source = Path(str(distribution.locate_file(top)))
      link = site / top
      if top not in ("..", "__pycache__") and source.exists() and not link.exists():
        link.symlink_to(source)
  check = _CHECK.format(site=str(site), extra=NEEDS_EXTRA)
  # -I and -S: neither this folder nor the environment's packages can be imported.
  return subprocess.run([sys.executable, "-I", "-S", "-c", check], check=False).returncode


if __name__ == "__main__":
  sys.exit(main(Path(sys.argv[1])))
