"""The notebooks are valid, Colab-ready, and run top to bottom (at toy size)."""

import os
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.py"))
IDS = [path.stem for path in NOTEBOOKS]


def test_there_are_notebooks():
  assert {"noisy_labels", "lasso_strength"} <= set(IDS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_text_form_converts_and_installs_in_its_first_cell(path):
  jupytext = pytest.importorskip("jupytext")
  notebook = jupytext.read(path, fmt="py:percent")
  code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
  assert "%pip install" in code[0] and "jaxopt-robust" in code[0]
  assert len(code) > 4
  assert any(c.cell_type == "markdown" and c.source.startswith("# ") for c in notebook.cells)
  for cell in notebook.cells:
    assert not cell.get("outputs"), "the text form holds no outputs"


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)
def test_runs_top_to_bottom(path, monkeypatch):
  import matplotlib

  matplotlib.use("agg")
  import matplotlib.pyplot as plt

  monkeypatch.setitem(os.environ, "QUICK", "1")
  try:
    exec(compile(path.read_text(), str(path), "exec"), {"__name__": "__main__"})
    assert plt.get_fignums(), "a notebook draws at least one figure"
  finally:
    plt.close("all")
