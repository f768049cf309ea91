"""The README's example runs, and its commands and pictures exist."""

import contextlib
import io
import re
from pathlib import Path

from experiments import _runner

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def _blocks(language):
  return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def test_the_example_runs_and_prints_what_it_says():
  (code,) = _blocks("python")
  out = io.StringIO()
  names: dict = {}
  with contextlib.redirect_stdout(out):
    exec(compile(code, "README.md", "exec"), names)
  # Too weak a strength: more of it helps. Too strong a strength: more of it hurts.
  assert names["slopes"][0] < 0 < names["slopes"][-1]
  assert 0 < names["errors"].argmin() < 31
  assert names["errors"].min() < 0.5 * names["errors"].max()
  assert out.getvalue().startswith("best of 32: ")


def test_the_example_is_short():
  (code,) = _blocks("python")
  assert len([line for line in code.splitlines() if line.strip()]) <= 18


def test_the_site_starts_with_the_same_example():
  index = (ROOT / "docs" / "index.md").read_text()
  cell = re.search(r"```\{code-cell\} python\n(import jax.*?)```", index, re.DOTALL)
  assert cell and cell[1] == _blocks("python")[0]
  assert len(TEXT.splitlines()) < 150


def test_links_to_files_and_named_experiments_exist():
  for target in re.findall(r"\]\(([^)#]+)\)", TEXT):
    if not target.startswith("https://"):
      assert (ROOT / target).exists(), target
  for name in re.findall(r"experiments (?:run|record|figure) (\w+)", TEXT):
    assert name in _runner.names()


def test_make_targets_exist():
  makefile = (ROOT / "Makefile").read_text()
  for target in re.findall(r"make (demo|test|docs|bench|notebooks)\b", TEXT):
    assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)
