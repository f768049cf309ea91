"""The pages of the papers, from the committed records of the experiments."""

import ast
import collections
import functools
import importlib
import inspect
import re
from types import ModuleType
from typing import Any

import docstrings
import facts
from facts import PACKAGE
from reference import cell, link

from experiments import _records, _report, _runner

# Helpers that nearly every experiment uses, and that are no paper's method.
_COMMON = ("problems.", "numerics.", "sweeps.", "nets.", "typing.", "debug.")
_SAMPLERS = ("compositional.epoch_batches", "compositional.sample_", "losses.cosine_")
_DRIVERS = {
  "solvers.run_until",
  "solvers.run_steps",
  "solvers.run_state",
  "solvers.raise_if_failed",
}


def names() -> list[str]:
  """Experiments with a committed record."""
  return sorted(path.stem for path in _records.RECORDS.glob("*.json"))


@functools.cache
def _record(name: str) -> dict[str, Any]:
  return _records.read(_records.RECORDS / f"{name}.json")


@functools.cache
def _entry(name: str) -> dict[str, Any]:
  return _report.entry(_record(name), _records.RECORDS, figures=False)


def used_names(source: str) -> list[str]:
  """Public names of the package that a module uses, such as ``prox.prox_lasso``."""
  modules = facts.public_modules()
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
  """An experiment's file, and the files of the experiments with a leading underscore it uses.

  One that runs another experiment with settings of its own has the files of that one too.
  """
  values = vars(module).values()
  found = {v.__name__ if inspect.ismodule(v) else getattr(v, "__module__", "") for v in values}
  shared = sorted(n for n in found if re.match(r"experiments\.(\w+\.)?_\w+$", n or ""))
  owner = module if module.run.__module__ == module.__name__ else inspect.getmodule(module.run)
  others = [] if owner in (module, None) else _sources(owner)
  return [module, *(importlib.import_module(name) for name in shared), *others]


def _words(text: str) -> set[str]:
  return set(re.findall(r"[a-z]{3,}", text.lower()))


@functools.cache
def uses() -> dict[str, list[str]]:
  """The public names that each experiment uses, the experiment's own method first."""
  found = {}
  for name in names():
    module = _runner.load(name)
    found[name] = used_names("\n".join(map(inspect.getsource, _sources(module))))
  counts = collections.Counter(n for used in found.values() for n in used)

  def rank(name: str, experiment: str) -> tuple:
    module = _runner.load(experiment)
    fact = facts.facts()[name]
    helper = name.startswith((*_COMMON, *_SAMPLERS)) or name in _DRIVERS or fact.is_type
    cited = _words(module.PAPER.title) <= _words(inspect.getdoc(fact.thing) or "")
    own = name.startswith(f"{module.__name__.split('.')[1]}.")
    return (helper, not cited, not own, name.endswith(("_init", "_layers")), counts[name], name)

  return {k: sorted(v, key=lambda n: rank(n, k)) for k, v in found.items()}


def title(name: str) -> str:
  """What the experiment shows, with the paper's authors and year: unique."""
  record = _record(name)
  says = facts.first_line(_runner.load(name))
  return f"{says} ({record['paper']['authors']}, {record['paper']['year']})"


@functools.cache
def used_in() -> dict[str, list[tuple[str, str]]]:
  """For each public name the experiments that use it, with their titles."""
  result: dict[str, list[tuple[str, str]]] = {}
  for experiment, used in uses().items():
    for name in used:
      if not name.startswith(_COMMON):
        result.setdefault(name, []).append((experiment, title(experiment)))
  return result


@functools.cache
def _troubles() -> list[tuple[str, str, list[str]]]:
  """Section, trouble and names of each row of the guide."""
  rows, section = [], ""
  for line in (facts.ROOT / "docs" / "how-to-choose.md").read_text().splitlines():
    if line.startswith("## "):
      section = line.removeprefix("## ")
    if line.startswith("| ") and "`jr." in line:
      trouble = line.split("|")[1].strip()
      rows.append((section, trouble, re.findall(r"`jr\.(\w+\.\w+)", line)))
  return rows


def _when(main: list[str]) -> list[str]:
  lines = [
    f"- {section}: {trouble} ({link(next(n for n in names if n in main))})"
    for section, trouble, names in _troubles()
    if any(n in main for n in names)
  ]
  return ["## When to take it", "", *lines[:6], ""] if lines else []


def _snippet(main: list[str]) -> list[str]:
  """The example of the experiment's first method that has one."""
  for name in main:
    example = facts.section(facts.facts()[name].thing, "Example")
    if example:
      code = inspect.cleandoc(example)
      lines = docstrings.with_imports(code, f"{PACKAGE}.{name.split('.')[0]}")
      return [f"{link(name)}: {facts.facts()[name].summary}.", "", "```python", *lines, "```", ""]
  return []


def page(name: str) -> str:
  """The page of an experiment: what, when, how to call, our figures next to the reported ones."""
  record = _record(name)
  module = _runner.load(name)
  entry = _entry(name)
  paper = record["paper"]
  section = f", {paper['section']}" if paper["section"] else ""
  text = inspect.cleandoc(module.__doc__ or "").split("\n\n", 1)
  main = [n for n in uses()[name] if not n.startswith(_COMMON) and n not in _DRIVERS]
  main = [n for n in main or uses()[name] if not facts.facts()[n].is_type]
  lines = [f"# {title(name)}", ""]
  lines += [cell(f"*{paper['title']}*. {paper['authors']}, {paper['year']}{section}.")]
  lines += [f"<{paper['url']}>"] if paper["url"] else []
  lines += ["", f"**Claimed:** {paper['claim']}", "", *text[1:], ""]
  lines += ["## How to call it", "", *_snippet(main), *_when(main[:4])]
  lines += ["## What came out", "", f"![Figure of {name}]({name}.png)", ""]
  for claim in entry["claims"]:
    verdict = claim["verdict"] if claim["verdict"] == "holds" else f"**{claim['verdict']}**"
    lines.append(f"- *{verdict}* ({claim['kind']}): {cell(claim['text'])}")
    lines.append(f"  ({cell(claim['numbers'])})")
    lines += [f"  Amended {a['date']}: {a['why']} Was: {a['was']}" for a in claim["amended"]]
  lines += ["", "## Numbers", "", "| method | metric | ours | baseline | reported |"]
  lines.append("|---|---|---|---|---|")
  for row in entry["rows"]:
    cells = (row["method"], row["metric"], row["ours"], row["baseline"], row["reported"])
    lines.append("| " + " | ".join(cell(c) for c in cells) + " |")
  lines += ["", "Arrows: ↓ lower is better, ↑ higher is better; brackets: 95 % over the seeds.", ""]
  lines += ["## What differs", "", f"- {cell(entry['differs'])}"] if entry.get("differs") else []
  lines += [f"- {cell(note)}" for note in entry["notes"]]
  lines += ["", "## Functions it uses", ""]
  lines += [", ".join(link(used, f"jr.{used}") for used in uses()[name]), ""]
  lines += ["## How to run it again", "", "```sh", entry["command"], "```", ""]
  lines += [
    f"The record was made with {entry['versions']}, seeds {entry['seeds']}, on {entry['device']}, "
    f"in {entry['wall']}",
    "",
  ]
  return "\n".join(lines)


def _verdicts(entry: dict[str, Any]) -> str:
  counts = collections.Counter(claim["verdict"] for claim in entry["claims"])
  return ", ".join(f"{counts[v]} {v}" for v in ("holds", "fails", "open") if counts[v])


def table() -> str:
  """All experiments by module, with their verdicts."""
  rows: dict[str, list[str]] = {}
  for name in names():
    record = _record(name)
    entry = _entry(name)
    folder = _runner.load(name).__name__.split(".")[1]
    says = facts.first_line(_runner.load(name))
    paper = f"{record['paper']['authors']}, {record['paper']['year']}"
    cells = (f"[{cell(says)}](/generated/papers/{name}.md)", cell(paper), _verdicts(entry))
    rows.setdefault(folder, []).append(f"| {folder} | " + " | ".join(cells) + " |")
  lines = ["| module | what is shown | paper | claims |", "|---|---|---|---|"]
  return "\n".join(lines + [line for folder in sorted(rows) for line in rows[folder]]) + "\n"


def gallery() -> str:
  """All figures, each a link to its experiment."""
  lines = [
    "# Gallery",
    "",
    "Every figure is drawn from a committed record; it links to its page.",
    "",
  ]
  lines += ["::::{container} gallery"]
  for name in names():
    says = facts.first_line(_runner.load(name))
    lines += [
      ":::{container} tile",
      f"[![{says}](papers/{name}.png)](papers/{name}.md)",
      "",
      says,
      ":::",
    ]
  return "\n".join([*lines, "::::", ""])


def figure(name: str) -> bytes:
  """The figure of a record."""
  record = _record(name)
  return _records.draw(_runner.load(name), record)
