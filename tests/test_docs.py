"""The documentation names everything public, and names nothing that does not exist."""

import importlib
import importlib.util
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]


def _load(name):
  """A module of docs/_ext, which is no package."""
  spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "_ext" / f"{name}.py")
  module = importlib.util.module_from_spec(spec)
  sys.modules[name] = module
  spec.loader.exec_module(module)
  return module


generate, docstrings = _load("generate"), _load("docstrings")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_name_that_a_page_mentions_exists(page):
  for name in sorted(set(re.findall(r"\bjr\.([a-z_]+\.\w+)", page.read_text()))):
    module, member = name.split(".")
    assert member in importlib.import_module(f"jaxopt_robust.{module}").__all__, name


def test_links_between_pages_exist():
  for page in PAGES:
    for target in re.findall(r"\]\((?!https?://)([^)#]+\.md)\)", page.read_text()):
      generated = target.startswith("generated/")
      assert generated or (page.parent / target).exists(), (page.name, target)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
  folder = tmp_path_factory.mktemp("docs")
  # Each record's figure is drawn by the tests of the experiments.
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(generate._records, "draw", lambda module, record: b"\x89PNG")
    return {str(p.relative_to(folder)): p for p in generate.write_all(folder)}


def test_every_public_name_has_its_place(pages):
  names = generate.public_names()
  assert len(names) > 100
  for name in names:
    _, module, member = name.split(".")
    text = pages[f"reference/{module}.md"].read_text()
    assert f":: {name}\n" in text or f"py:data:: {member}\n" in text, name


def test_every_record_has_a_page_with_its_figure(pages):
  records = sorted(p.stem for p in (ROOT / "experiments" / "records").glob("*.json"))
  assert records
  for name in records:
    text = pages[f"papers/{name}.md"].read_text()
    for part in ("## Claims", "## How to call it", f"experiments record {name}", "| reported |"):
      assert part in text, (name, part)
    assert "{py:obj}`jr." in text, f"{name} uses no public name"
    assert pages[f"papers/{name}.png"].read_bytes().startswith(b"\x89PNG")


def test_every_notebook_has_a_page(pages):
  for path in (ROOT / "notebooks").glob("*.py"):
    assert f"notebooks/{path.name}" in pages


def test_names_used_are_found_in_every_form():
  source = (
    "import jaxopt_robust as jr\nfrom jaxopt_robust import prox, solvers as s\n"
    "from jaxopt_robust.losses import ldr_kl_loss\n"
    "jr.numerics.safe_norm\nprox.prox_lasso\ns.fista\nother.thing\n"
  )
  expected = ["losses.ldr_kl_loss", "numerics.safe_norm", "prox.prox_lasso", "solvers.fista"]
  assert generate.used_names(source) == expected


def test_docstrings_become_safe_restructured_text():
  lines = """Short text with ||x||_2 and a * b and ``code |x|*``.

  x_{k+1} = prox(|x|)

After, see loss_ and x_i.

Args:
  x_: the |value|.

Example:
  >>> a * b
""".splitlines()
  result = docstrings.to_rst(lines)
  assert result[0] == r"Short text with \|\|x\|\|_2 and a \* b and ``code |x|*``."
  assert result[2:5] == ["::", "", "  x_{k+1} = prox(|x|)"]
  assert r"After, see loss\_ and x_i." in result
  assert r"  x\_: the \|value\|." in result
  assert "  >>> a * b" in result
