"""The timing code of the benchmarks; the rows themselves run at toy size by ``make test``."""

import ast
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from benchmarks import __main__ as command_line
from benchmarks._timing import (
  Contender,
  Row,
  compiled,
  copy_seconds,
  loosest,
  measure,
  peer,
  read_seconds,
)


def _sleeper(name, seconds, calls, **kwargs):
  def run():
    calls.append(name)
    time.sleep(seconds)
    return seconds

  return Contender(name, run, **kwargs)


def test_contenders_alternate_and_ratios_are_to_the_fastest_peer():
  calls = []
  row = Row(
    "row",
    "sleep",
    [
      _sleeper("ours", 0.02, calls, ours=True),
      _sleeper("slow", 0.04, calls),
      _sleeper("quick", 0.01, calls),
      _sleeper("aside", 0.0, calls, counts=False),
    ],
  )
  found = measure(row, repeats=3)
  order = ["ours", "slow", "quick", "aside"]
  assert calls == order + order + order[::-1] + order  # warm-up, then forwards and backwards
  assert found["fastest_peer"] == "quick" and found["met"] is False
  assert found["ratio"] == found["contenders"]["ours"]["ratio"] > 1
  assert found["contenders"]["quick"]["ratio"] == 1
  assert all(len(entry["times_s"]) == 3 for entry in found["contenders"].values())


def test_who_misses_the_accuracy_is_not_raced_against():
  calls = []
  row = Row(
    "row",
    "sleep",
    [
      _sleeper("ours", 0.01, calls, ours=True, accuracy=lambda s: 1e-7),
      _sleeper("sloppy", 0.0, calls, accuracy=lambda s: 1e-3),
      _sleeper("good", 0.03, calls, accuracy=lambda s: 1e-6),
    ],
    bound=1e-6,
  )
  found = measure(row, repeats=1)
  assert found["fastest_peer"] == "good" and found["met"] is True
  assert [e["valid"] for e in found["contenders"].values()] == [True, False, True]


def test_a_row_without_peers_has_no_ratio():
  found = measure(Row("row", "sleep", [_sleeper("ours", 0.0, [], ours=True)]), repeats=1)
  assert found["ratio"] is None and found["met"] is None


def test_loosest_takes_the_first_tolerance_that_meets_the_bound():
  tried = []

  def make(tol):
    tried.append(tol)
    return Contender(str(tol), lambda: tol, accuracy=lambda r: r, compile_s=1.0 / len(tried))

  assert loosest(make, 0.05, tolerances=(1.0, 0.1, 0.01, 0.001)).name == "0.01"
  assert tried == [1.0, 0.1, 0.01]
  # The first one's compile time is the one that a user waits for.
  assert loosest(make, 0.05, tolerances=(1.0, 0.01)).compile_s == 1.0 / 4


def test_compiled_books_compilation_apart():
  contender = compiled("double", jax.jit(lambda x: 2 * x), jnp.ones(3))
  assert contender.compile_s > 0
  assert contender.run().tolist() == [2, 2, 2]


def test_a_missing_peer_is_skipped_with_a_line(capsys):
  assert peer("no_such_library_at_all") is None
  assert "skipped: no_such_library_at_all is not installed" in capsys.readouterr().out


def test_bandwidth_scales_with_the_bytes():
  for seconds in (copy_seconds, read_seconds):
    assert seconds(2 << 30) > seconds(1 << 20) > 0


def test_an_unknown_row_lists_what_exists(capsys):
  assert command_line.main(["no_such_row"]) == 2
  assert "lasso_path" in capsys.readouterr().err


def test_a_broken_row_does_not_lose_the_others(tmp_path, monkeypatch, capsys):
  results = iter([{"row": "a", "error": "broke"}, measure(Row("b", "w", []), repeats=1)])
  monkeypatch.setattr(command_line, "rows", lambda: ["a", "b"])
  monkeypatch.setattr(command_line, "run_row", lambda name, options: next(results))
  assert command_line.main(["--out", str(tmp_path / "bench.json")]) == 1
  assert "broke" in capsys.readouterr().out
  assert '"row": "b"' in (tmp_path / "bench.json").read_text()


@pytest.mark.parametrize("name", command_line.rows())
def test_every_row_says_what_it_does(name):
  path = Path(command_line.FOLDER) / f"{name}.py"
  tree = ast.parse(path.read_text())
  assert ast.get_docstring(tree)
  assert any(isinstance(n, ast.FunctionDef) and n.name == "build" for n in tree.body)
