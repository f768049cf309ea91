"""Writes the generated pages: reference, papers, gallery, notebooks.

Pure functions from the package and the committed records to Markdown; ``conf.py`` calls
``write_all`` before each build, and the tests call it without Sphinx.
"""

from pathlib import Path

import facts
import papers
import pictures
import reference

from tools import notebooks as notebook_tool

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def public_names() -> list[str]:
  """All public names, such as ``jaxopt_robust.prox.prox_lasso``."""
  return [fact.full for fact in facts.facts().values()]


def _tree(title: str, text: str, entries: list[str], table: str = "") -> str:
  tree = ["```{toctree}", ":hidden:" if table else ":maxdepth: 1", "", *entries, "```", ""]
  return "\n".join([f"# {title}", "", text, "", table, *tree])


def all_pages() -> dict[str, str | bytes]:
  """Every generated page and picture by its path."""
  drawn, used = pictures.pictures()
  pages: dict[str, str | bytes] = dict(reference.pages(papers.used_in(), used))
  pages |= {f"pictures/{name}.png": data for name, data in drawn.items()}
  pages["pictures/composition.png"] = pictures.composition()
  for name in papers.names():
    pages[f"papers/{name}.md"] = papers.page(name)
    pages[f"papers/{name}.png"] = papers.figure(name)
  table = papers.table()
  pages["papers/table.txt"] = table
  pages["papers/index.md"] = _tree(
    "Papers and evidence",
    "One page an experiment, rendered from its committed record: what the paper claims, our figure "
    "beside the baseline and the reported number, and the command that makes it.",
    papers.names(),
    table,
  )
  pages["gallery.md"] = papers.gallery()
  notebooks = sorted(NOTEBOOKS.glob("*.py"))
  for path in notebooks:
    run = path.with_suffix(".ipynb")
    if run.exists() and run.stat().st_mtime >= path.stat().st_mtime:
      pages[f"notebooks/{run.name}"] = run.read_text()
    else:  # run by the build
      address = notebook_tool.repository()
      text = notebook_tool.with_address(path.read_text(), path.stem, address)
      pages[f"notebooks/{path.name}"] = text
  pages["notebooks/index.md"] = _tree(
    "Notebooks", "Each runs top to bottom on a CPU in minutes.", [p.stem for p in notebooks]
  )
  return pages


def write_all(folder: Path) -> list[Path]:
  """Writes every generated page below a folder, deletes stale ones, and returns the paths."""
  written = []
  for name, content in all_pages().items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = content.encode() if isinstance(content, str) else content
    if not path.exists() or path.read_bytes() != raw:  # an untouched page is not built again
      path.write_bytes(raw)
    written.append(path)
  for path in set(folder.rglob("*.*")) - set(written):
    if path.is_file():
      path.unlink()
  return written
