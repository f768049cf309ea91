"""Writes the generated pages: one a subpackage from ``__all__``, one an experiment from its record.

Pure functions from the package and the committed records to Markdown; ``conf.py`` calls
``write_all`` before each build, and the tests call it without Sphinx.
"""

import ast
import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType

import jaxopt_robust
from experiments import _records, _report, _runner

PACKAGE = "jaxopt_robust"
NOTEBOOKS = Path(__file__).parents[2] / "notebooks"


def public_modules() -> dict[str, ModuleType]:
  """The public modules by name."""
  names = (name for name in jaxopt_robust.__all__ if not name.startswith("_"))
  return {name: importlib.import_module(f"{PACKAGE}.{name}") for name in sorted(names)}


def public_names() -> list[str]:
  """All public names, such as ``jaxopt_robust.prox.prox_lasso``."""
  return [
    f"{PACKAGE}.{name}.{member}"
    for name, module in public_modules().items()
    for member in module.__all__
  ]


def _directive(module: ModuleType, member: str) -> str:
  thing = getattr(module, member)
  full = f"{module.__name__}.{member}"
  if inspect.isclass(thing):
    return f".. autoclass:: {full}\n"
  if inspect.isroutine(thing):
    return f".. autofunction:: {full}\n"
  if callable(thing) and hasattr(thing, "__wrapped__"):  # a jitted function
    return f".. autofunction:: {full}\n"
  value = f"   :value: {thing}\n" if isinstance(thing, int) else ""
  text = "\n   A penalty with its operator; see the functions of that name.\n"
  if not isinstance(thing, jaxopt_robust.typing.Penalty):
    text = ""
  return f".. py:data:: {member}\n   :module: {module.__name__}\n{value}{text}"


def reference_page(name: str, module: ModuleType) -> str:
  """The page of a subpackage: its own text, then every public name."""
  functions = [m for m in module.__all__ if not inspect.isclass(getattr(module, m))]
  classes = [m for m in module.__all__ if m not in functions]
  lines = [f"# {PACKAGE}.{name}", "", inspect.cleandoc(module.__doc__ or ""), ""]
  lines += ["```{eval-rst}", f".. py:module:: {PACKAGE}.{name}", "```", ""]
  for title, members in (("Functions and values", functions), ("Types", classes)):
    if members:
      lines += [f"## {title}", "", "```{eval-rst}"]
      lines += [*(_directive(module, m) for m in members), "```", ""]
  return "\n".join(lines)


def used_names(source: str) -> list[str]:
  """Public names of the package that a module uses, such as ``prox.prox_lasso``."""
  modules = public_modules()
  aliases: dict[str, str] = {}
  found = set()
  tree = ast.parse(source)
  for node in ast.walk(tree):
    if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(PACKAGE):
      inner = node.module.removeprefix(PACKAGE).strip(".").split(".")[0]
      for alias in node.names:
        if not inner:
          aliases[alias.asname or alias.name] = alias.name
        elif inner in modules and alias.name in modules[inner].__all__:
          found.add(f"{inner}.{alias.name}")
  for node in ast.walk(tree):
    if isinstance(node, ast.Attribute):
      if isinstance(node.value, ast.Name):
        inner = aliases.get(node.value.id, "")
      elif isinstance(node.value, ast.Attribute):
        inner = node.value.attr  # jr.prox.prox_lasso
      else:
        continue
      if inner in modules and node.attr in modules[inner].__all__:
        found.add(f"{inner}.{node.attr}")
  return sorted(found)


def _sources(module: ModuleType) -> list[ModuleType]:
  """An experiment's file, and the files of the experiments with a leading underscore it uses."""
  values = vars(module).values()
  names = {v.__name__ if inspect.ismodule(v) else getattr(v, "__module__", "") for v in values}
  shared = sorted(n for n in names if re.match(r"experiments\.(\w+\.)?_\w+$", n or ""))
  return [module, *(importlib.import_module(name) for name in shared)]


def _cell(text: str) -> str:
  return text.replace("|", "\\|").replace("\n", " ")


def paper_page(name: str) -> str:
  """The page of an experiment: what, how to call, our figures next to the reported ones."""
  record = _records.read(_records.RECORDS / f"{name}.json")
  module = _runner.load(name)
  entry = _report.entry(record, _records.RECORDS, figures=False)
  paper = record["paper"]
  section = f", {paper['section']}" if paper["section"] else ""
  lines = [f"# {paper['title']}", "", _cell(f"{paper['authors']}, {paper['year']}{section}.")]
  lines += [f"<{paper['url']}>"] if paper["url"] else []
  lines += ["", f"**Checked here:** {entry['claim']}", "", "## Claims", ""]
  for claim in entry["claims"]:
    verdict = claim["verdict"] if claim["verdict"] == "holds" else f"**{claim['verdict']}**"
    lines.append(f"- *{verdict}* ({claim['kind']}): {_cell(claim['text'])}")
    lines.append(f"  {_cell(claim['numbers'])}.")
    lines += [f"  Amended {a['date']}: {a['why']} Was: {a['was']}" for a in claim["amended"]]
  lines += ["", "## Numbers", "", "| method | metric | ours | baseline | reported |"]
  lines.append("|---|---|---|---|---|")
  for row in entry["rows"]:
    cells = (row["method"], row["metric"], row["ours"], row["baseline"], row["reported"])
    lines.append("| " + " | ".join(_cell(c) for c in cells) + " |")
  lines += ["", "Arrows: ↓ lower is better, ↑ higher is better; brackets: 95 % over the seeds.", ""]
  lines += [f"- {_cell(note)}" for note in entry["notes"]]
  lines += ["", f"![Figure of {name}]({name}.png)", "", "## How to call it", ""]
  lines.append(inspect.cleandoc(module.__doc__ or ""))
  lines += ["", "The experiment uses:", ""]
  for used in used_names("\n".join(map(inspect.getsource, _sources(module)))):
    lines.append(f"- {{py:obj}}`jr.{used} <{PACKAGE}.{used}>`")
  lines += ["", "## How to run it again", "", "```sh", entry["command"], "```", ""]
  lines += [
    f"The record was made with {entry['versions']}, seeds {entry['seeds']}, on {entry['device']}, "
    f"in {entry['wall']}",
    "",
  ]
  return "\n".join(lines)


def _index(title: str, text: str, entries: list[str]) -> str:
  tree = ["```{toctree}", ":maxdepth: 1", "", *entries, "```", ""]
  return "\n".join([f"# {title}", "", text, "", *tree])


def write_all(folder: Path) -> list[Path]:
  """Writes every generated page below a folder; returns the paths."""
  pages: dict[str, str | bytes] = {}
  modules = public_modules()
  for name, module in modules.items():
    pages[f"reference/{name}.md"] = reference_page(name, module)
  pages["reference/index.md"] = _index(
    "Reference", "Every public name, by module; `jr` stands for `jaxopt_robust`.", list(modules)
  )
  records = sorted(path.stem for path in _records.RECORDS.glob("*.json"))
  for name in records:
    pages[f"papers/{name}.md"] = paper_page(name)
    record = _records.read(_records.RECORDS / f"{name}.json")
    pages[f"papers/{name}.png"] = _records.draw(_runner.load(name), record)
  pages["papers/index.md"] = _index(
    "Papers and evidence",
    "One page an experiment, rendered from its committed record: what the paper claims, our figure "
    "beside the baseline and the reported number, and the command that makes it.",
    records,
  )
  notebooks = sorted(NOTEBOOKS.glob("*.py"))
  for path in notebooks:
    pages[f"notebooks/{path.stem}.py"] = path.read_text()
  pages["notebooks/index.md"] = _index(
    "Notebooks", "Each runs top to bottom on a CPU in minutes.", [p.stem for p in notebooks]
  )
  written = []
  for name, content in pages.items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = content.encode() if isinstance(content, str) else content
    if not path.exists() or path.read_bytes() != raw:  # an untouched page is not built again
      path.write_bytes(raw)
    written.append(path)
  return written
