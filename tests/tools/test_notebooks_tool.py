"""The notebooks' tool: the address in the first cell, the badge, and what it refuses."""

import importlib.util
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("notebooks_tool", ROOT / "tools" / "notebooks.py")
tool = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(tool)

TEXT = """# %%
REPOSITORY = ""  # the address

# %% [markdown]
# # A title
#
# A question?

# %%
other = 'REPOSITORY = ""'
"""
GITHUB = "https://github.com/someone/library"


def test_the_address_is_filled_in_once():
  text = tool.with_address(TEXT, "name", GITHUB)
  assert f'REPOSITORY = "{GITHUB}"  # the address' in text
  assert text.count(GITHUB) == 1
  assert "other = 'REPOSITORY = \"\"'" in text


def test_a_github_address_puts_the_badge_below_the_title():
  lines = tool.with_address(TEXT, "name", GITHUB).splitlines()
  title = lines.index("# # A title")
  assert lines[title + 1] == "#"
  assert lines[title + 2].startswith("# [![Open in Colab](https://colab.research.google.com/")
  assert lines[title + 2].endswith("/github/someone/library/blob/main/notebooks/name.ipynb)")
  assert lines[title + 3 : title + 5] == ["#", "# A question?"]


@pytest.mark.parametrize("address", ["", "https://example.org/library", "http://github.com/a/b"])
def test_no_other_address_gets_a_badge(address):
  text = tool.with_address(TEXT, "name", address)
  assert text == TEXT.replace('REPOSITORY = ""', f'REPOSITORY = "{address}"', 1)
  assert tool.badge("name", address) == ""


def test_a_text_without_the_line_is_refused_by_name():
  with pytest.raises(ValueError, match="some_name: the first cell needs the line REPOSITORY"):
    tool.with_address(TEXT.replace('REPOSITORY = ""', "REPOSITORY = 0"), "some_name", GITHUB)


@pytest.mark.parametrize(
  ("project", "address"),
  [
    ('[project]\nname = "a"\n', ""),
    ('[project]\nname = "a"\n[project.urls]\nOther = "https://example.org"\n', ""),
    (f'[project]\nname = "a"\n[project.urls]\nRepository = "{GITHUB}/"\n', GITHUB),
  ],
)
def test_the_address_comes_from_the_project_file(project, address, tmp_path, monkeypatch):
  (tmp_path / "pyproject.toml").write_text(project)
  monkeypatch.setattr(tool, "ROOT", tmp_path)
  assert tool.repository() == address


def test_a_notebook_of_every_text_form_can_be_made_with_an_address(monkeypatch):
  pytest.importorskip("jupytext")
  monkeypatch.setattr(tool, "repository", lambda: GITHUB)
  for path in sorted((ROOT / "notebooks").glob("*.py")):
    notebook = tool.notebook(path)
    assert GITHUB in notebook.cells[0].source
    title = notebook.cells[1].source.splitlines()
    assert title[0].startswith("# ") and title[2].startswith("[![Open in Colab]")
    assert f"/{path.stem}.ipynb" in title[2]
