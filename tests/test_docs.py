"""The documentation names everything public, and names nothing that does not exist."""

import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]
sys.path.insert(0, str(ROOT / "docs" / "_ext"))
facts, generate, papers, pictures, reference, sentences = map(
  importlib.import_module,
  ("facts", "generate", "papers", "pictures", "reference", "sentences"),
)
sentences.CODE |= {fact.name for fact in facts.facts().values()}
# Docstrings whose indented paragraph is a table of words, or that JAX writes.
TABLES = {"bilevel.stochastic_bilevel", "robustness.stream_step", "typing.Array"}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_name_that_a_page_mentions_exists(page):
  for name in sorted(set(re.findall(r"\bjr\.([a-z_]+\.\w+)", page.read_text()))):
    module, member = name.split(".")
    assert member in importlib.import_module(f"jaxopt_robust.{module}").__all__, name


def test_links_between_pages_exist(pages):
  for page in PAGES:
    for target in re.findall(r"\]\((?!https?://)([^)#]+\.md)\)", page.read_text()):
      generated = target.removeprefix("generated/")
      assert generated in pages or (page.parent / target).exists(), (page.name, target)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
  folder = tmp_path_factory.mktemp("docs")
  # Each record's figure is drawn by the tests of the experiments.
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(papers, "figure", lambda name: b"\x89PNG")
    patch.setattr(
      pictures, "pictures", lambda: ({"prox_mcp": b"\x89PNG"}, {"prox.mcp": "prox_mcp"})
    )
    stale = folder / "papers" / "gone.md"
    stale.parent.mkdir()
    stale.write_text("old")
    written = {str(p.relative_to(folder)): p for p in generate.write_all(folder)}
    assert not stale.exists()
    return written


FACTS = list(facts.facts().values())


def test_every_public_name_has_a_page_and_a_row_in_a_table(pages):
  assert len(FACTS) > 500
  tables = {m: pages[f"reference/{m}/index.md"].read_text() for m in facts.public_modules()}
  for fact in FACTS:
    text = pages[f"{facts.location(fact)}.md"].read_text()
    assert f":: {fact.full}\n" in text or f"py:data:: {fact.name}\n" in text, fact.short
    assert f"<{fact.full}>` |" in tables[fact.module], fact.short
    assert (fact.summary and fact.source) or fact.module in ("typing", "solvers"), fact.short
    if not fact.is_type and not isinstance(fact.thing, int):
      doc = inspect.getdoc(fact.thing) if fact.name not in facts.penalties() else text
      assert ">>> " in doc, f"{fact.short} has no example"


def _head(fact):
  doc = inspect.getdoc(fact.thing) or ""
  return re.split(r"\n(?:Args|Attributes|Returns|Raises|Note|Example|Reference):", doc)[0]


def test_formulas_are_rendered_where_a_docstring_has_one():
  docstrings = importlib.import_module("docstrings")
  rendered = 0
  for fact in FACTS:
    head = _head(fact)
    has_one = re.search(r"\|\||argmin|sum_|_\{|\^T|^  \S.* = ", re.sub(r"``.*?``", "", head), re.M)
    if not has_one or fact.short in TABLES or fact.module == "typing":
      continue
    text = "\n".join(docstrings.to_rst(head.split("\n"), docstrings.parameters(fact.thing)))
    assert ":math:`" in text or ".. math::" in text, fact.short
    for tex in re.findall(r":math:`(.*?)`|\.\. math::\n\n   (.*)", text):
      _check_tex("".join(tex))
      rendered += 1
  assert rendered > 600


def _check_tex(tex):
  plain = tex.replace(r"\{", "").replace(r"\}", "")
  assert plain.count("{") == plain.count("}"), tex
  for left, right in (("l", "r"),):
    for bar in ("vert", "Vert"):
      assert tex.count(rf"\{left}{bar}") == tex.count(rf"\{right}{bar}"), tex


def test_every_record_has_a_page_with_its_figure(pages):
  records = sorted(p.stem for p in (ROOT / "experiments" / "records").glob("*.json"))
  titles = set()
  for name in records:
    text = pages[f"papers/{name}.md"].read_text()
    titles.add(text.splitlines()[0])
    parts = ("## What came out", "## How to call it", f"experiments record {name}", "| reported |")
    for part in (*parts, "**Claimed:**", "{py:obj}`jr.", ">>> "):
      assert part in text, (name, part)
    assert pages[f"papers/{name}.png"].read_bytes().startswith(b"\x89PNG")
    assert f"papers/{name}.md" in pages["papers/table.txt"].read_text()
    assert f"papers/{name}.png" in pages["gallery.md"].read_text()
  assert len(titles) == len(records), "two pages share a title"


def test_every_notebook_has_a_page(pages):
  # Where the notebooks were run, their pages have the results: another file type.
  found = {Path(name).stem for name in pages if name.startswith("notebooks/")}
  for path in (ROOT / "notebooks").glob("*.py"):
    assert path.stem in found


def test_names_used_are_found_in_every_form():
  source = (
    "import jaxopt_robust as jr\nfrom jaxopt_robust import prox, solvers as s\n"
    "from jaxopt_robust.losses import ldr_kl_loss\n"
    "jr.numerics.safe_norm\nprox.prox_lasso\ns.fista\nother.thing\n"
  )
  expected = ["losses.ldr_kl_loss", "numerics.safe_norm", "prox.prox_lasso", "solvers.fista"]
  assert papers.used_names(source) == expected


def test_synonyms_name_what_exists():
  names = importlib.import_module("synonyms").SYNONYMS
  for words, found in names.items():
    for name in found:
      assert name in facts.facts(), (words, name)


@pytest.mark.parametrize(
  ("words", "name"),
  [
    ("l1", "prox.prox_lasso"),
    ("soft thresholding", "prox.prox_lasso"),
    ("AUC", "losses.auc_margin_loss"),
    ("lasso path", "solvers.working_set"),
    ("jaxopt.prox.prox_lasso", "prox.prox_lasso"),
  ],
)
def test_what_people_search_for_is_in_the_index(pages, words, name):
  text = pages[f"reference/{name.replace('.', '/')}.md"].read_text()
  assert f"   ! single: {words}\n" in text


def test_facts_are_read_from_the_code():
  known = facts.facts()
  assert known["prox.mcp"].hyper == known["prox.prox_mcp"].hyper == "(lam, theta)"
  assert "not convex" in known["prox.penalty_mcp"].properties
  assert {"convex", "complex", "pytrees"} <= set(known["prox.lasso"].properties)
  assert known["losses.ldr_kl_loss"].hyper.startswith("temperature=10.0, margin=0.1")
  assert known["solvers.CONVERGED"].summary == "The value 0"
  assert "prox.penalty_mcp" in facts.see_also(known["prox.mcp"])


def test_losses_of_one_margin_are_drawn():
  np = pytest.importorskip("numpy")
  values = pictures.loss_of_margin(facts.facts()["losses.cross_entropy_loss"].thing)
  np.testing.assert_allclose(values, np.log1p(np.exp(-np.linspace(-3, 3, 121))), rtol=1e-5)
  assert pictures.loss_of_margin(facts.facts()["losses.info_nce_loss"].thing) is None


def test_every_penalty_of_the_gallery_has_its_picture():
  gallery = importlib.import_module("experiments.prox.prox_gallery")
  drawn = {*gallery.CURVES, *gallery.SLICES}
  assert drawn <= set(facts.penalties())
