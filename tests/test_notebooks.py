"""The notebooks are valid, Colab-ready, of one form, and run top to bottom (at toy size)."""

import os
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.py"))
IDS = [path.stem for path in NOTEBOOKS]
REQUIRED = {
  "bilevel",
  "denoising",
  "lasso_strength",
  "low_rank_recovery",
  "many_devices",
  "noisy_labels",
  "rare_positives",
  "unfolding",
}
each = pytest.mark.parametrize("path", NOTEBOOKS, ids=IDS)


def read(path):
  return pytest.importorskip("jupytext").read(path, fmt="py:percent")


def sources(notebook, kind):
  return [cell.source for cell in notebook.cells if cell.cell_type == kind]


def test_all_notebooks_are_there():
  assert set(IDS) >= REQUIRED


@each
def test_text_form_converts_and_installs_in_its_first_cell(path):
  notebook = read(path)
  first = notebook.cells[0]
  assert first.cell_type == "code"
  assert 'REPOSITORY = ""' in first.source and "jaxopt-robust" in first.source
  assert first.metadata.get("tags") == ["hide-cell"]
  assert len(sources(notebook, "code")) > 4
  for cell in notebook.cells:
    assert not cell.get("outputs"), "the text form holds no outputs"


@each
def test_first_cell_is_that_of_all_others_but_for_what_it_installs(path):
  def common(path):
    lines = read(path).cells[0].source.splitlines()
    return [line for line in lines if not line.lstrip().startswith("extras = ")]

  assert common(path) == common(NOTEBOOKS[0])


@each
def test_first_cell_installs_nothing_where_the_library_is(path, monkeypatch, capsys):
  monkeypatch.setattr("subprocess.run", lambda *args, **options: pytest.fail("it installs"))
  exec(compile(read(path).cells[0].source, str(path), "exec"), {})
  assert "is installed" in capsys.readouterr().out


@each
def test_has_a_title_something_to_change_and_what_to_try_next(path):
  notebook = read(path)
  texts = sources(notebook, "markdown")
  assert notebook.cells[1].cell_type == "markdown" and texts[0].startswith("# ")
  assert "?" in texts[0], "it starts from a question"
  assert any("change me" in source for source in sources(notebook, "code"))
  assert "next function to try" in texts[-1]
  assert texts[-1].count("`jr.") >= 2


@pytest.mark.slow
@each
def test_runs_top_to_bottom_and_draws_two_figures(path, monkeypatch):
  import matplotlib

  matplotlib.use("agg")
  import matplotlib.pyplot as plt

  shown = set()
  show = lambda *args, **options: shown.update(map(plt.figure, plt.get_fignums()))
  monkeypatch.setattr(plt, "show", show)
  monkeypatch.setitem(os.environ, "QUICK", "1")
  try:
    exec(compile(path.read_text(), str(path), "exec"), {"__name__": "__main__"})
    assert len(shown) >= 2, "a notebook shows at least two figures"
  finally:
    plt.close("all")
