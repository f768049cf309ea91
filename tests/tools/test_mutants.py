"""The tool that plants faults: what it plants, what it finds killed, what survives."""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SOURCE = '''"""Toy."""


def area(width, height):
  """Product of 2 sides."""
  return width * height


def is_negative(x: "1 - 1") -> bool:
  if x != x:
    raise ValueError("not a number: " + str(x - 1))
  return x < 0


def never_run(x):
  return x - 1
'''
TESTS = """from jaxopt_robust.toy import area, is_negative


def test_area():
  assert area(2, 3) == 6


def test_is_negative():
  assert is_negative(-1) and not is_negative(1)
"""


@pytest.fixture
def toy(tmp_path):
  for path, text in {
    "jaxopt_robust/__init__.py": "",
    "jaxopt_robust/toy.py": SOURCE,
    "tests/test_toy.py": TESTS,
  }.items():
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_text(text)
  return tmp_path


def mutants(root, *options):
  done = subprocess.run(
    [sys.executable, ROOT / "tools" / "mutants.py", "toy", "--root", root, *options],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  return done.stdout


def test_kills_and_survivors_are_told_apart(toy):
  out = mutants(toy, "--count", "100", "--out", toy / "out.json")
  fates = {(f["before"], f["after"]): f["fate"] for f in json.loads((toy / "out.json").read_text())}
  assert fates["width * height", "(width / height)"].startswith("killed by tests/test_toy.py::")
  assert fates["x != x", "(x == x)"].startswith("killed")
  assert fates["x - 1", "(x + 1)"] == "survived (no test runs it)"
  assert fates["x < 0", "(x <= 0)"] == "survived"
  assert fates["x < 0", "(x > 0)"].startswith("killed by tests/test_toy.py::test_is_negative")
  assert f"toy: {len(fates)} mutants, " in out.splitlines()[-1]
  assert "jaxopt_robust/toy.py:16 (sign)" in out.splitlines()[-1]
  assert (toy / "jaxopt_robust" / "toy.py").read_text() == SOURCE


def test_equal_seeds_plant_equal_faults_outside_of_texts(toy):
  first, again = (mutants(toy, "--list", "--count", "4", "--seed", "1") for _ in range(2))
  assert first == again and len(first.splitlines()) == 4
  assert mutants(toy, "--list", "--count", "4", "--seed", "2") != first
  everything = mutants(toy, "--list", "--count", "100")
  lines = {int(line.split()[0].split(":")[1]) for line in everything.splitlines()}
  assert lines == {6, 10, 12, 16}, "no docstring, annotation or message"
