"""The pages of the reference: a table a module, a page a function, one for a module's types."""

import inspect
import itertools
import re
from types import ModuleType

import docstrings
import facts
import sentences
from facts import PACKAGE, Fact

# Links to lines of code, where the project has a public address.
REPOSITORY: str | None = None


def cell(text: str) -> str:
  """Text for a cell of a Markdown table."""
  return text.replace("|", "\\|").replace("\n", " ")


def typeset(text: str, names: tuple[str, ...] = ()) -> str:
  """Running text of Markdown with its formulas rendered."""
  return sentences.inline(text, lambda tex: f"{{math}}`{tex}`", lambda words: words, names)


def link(name: str, text: str = "") -> str:
  """A link to the page of a public name such as "prox.prox_lasso"."""
  fact = facts.facts()[name]
  return f"{{py:obj}}`{text or name} <{fact.full}>`"


def hyper_text(fact: Fact) -> str:
  """Hyper-parameters as code."""
  return f"`{fact.hyper}`" if fact.hyper else ""


def summary_table(rows: list[Fact]) -> list[str]:
  """Name, what it does, hyper-parameters, properties."""
  lines = ["| name | what | hyper-parameters | properties |", "|---|---|---|---|"]
  for fact in rows:
    cells = (
      link(fact.short, fact.name),
      typeset(fact.summary),
      hyper_text(fact),
      ", ".join(fact.properties),
    )
    lines.append("| " + " | ".join(cell(c) for c in cells) + " |")
  return [*lines, ""]


def _directive(fact: Fact) -> list[str]:
  thing = fact.thing
  if inspect.isclass(thing):
    return [f".. autoclass:: {fact.full}", ""]
  if inspect.isroutine(thing) or (callable(thing) and hasattr(thing, "__wrapped__")):
    return [f".. autofunction:: {fact.full}", ""]
  lines = [f".. py:data:: {fact.name}", f"   :module: {PACKAGE}.{fact.module}"]
  if isinstance(thing, int):
    lines.append(f"   :value: {thing}")
  if fact.name in facts.penalties():
    lines += ["", *(f"   {line}" if line else "" for line in _penalty_text(fact))]
  return [*lines, ""]


def _penalty_text(fact: Fact) -> list[str]:
  """What a penalty is, from the docstrings of its two functions."""
  penalty = facts.penalties()[fact.name]
  names = {f.thing: f for f in facts.facts().values() if inspect.isfunction(f.thing)}
  shape = "convex" if penalty.convex else "not convex: solvers find a stationary point"
  lines = [
    f"A :py:class:`~{PACKAGE}.typing.Penalty`: give it to a solver as it is, or take its parts.",
    "", f"- hyper-parameters: ``{fact.hyper or 'None'}``", f"- {shape}",
  ]  # fmt: skip
  for field, function in (("value", penalty.value), ("prox", penalty.prox)):
    known = names.get(function)
    if known is not None:
      lines.append(f"- ``.{field}`` is :py:func:`{known.name} <{known.full}>`")
  return lines


def _penalty_formulas(fact: Fact) -> list[str]:
  penalty = facts.penalties()[fact.name]
  lines = ["```{eval-rst}"]
  for function in (penalty.value, penalty.prox):
    head = re.split(r"\n(?:Args|Returns):", inspect.getdoc(function) or "")[0].split("\n")
    lines += docstrings.to_rst(head[2:], docstrings.parameters(function))
  return [*lines, "```", ""]


def _example_of_penalty(fact: Fact) -> list[str]:
  example = facts.section(facts.penalties()[fact.name].prox, "Example")
  if not example:
    return []
  code = docstrings.with_imports(inspect.cleandoc(example), f"{PACKAGE}.{fact.module}")
  return ["## Example", "", "```python", *code, "```", ""]


def name_page(fact: Fact, used_in: dict[str, list[tuple[str, str]]], picture: str | None) -> str:
  """The page of a function, a penalty, or a class with an example."""
  lines = [f"# {fact.short}", ""]
  others = facts.other_names().get(fact.short, [])
  if others:
    lines += ["```{eval-rst}", ".. index::"]
    lines += [f"   ! single: {name}" for words in others for name in words.split(", ")]
    lines += ["```", ""]
  if fact.name in facts.penalties():
    lines += [f"{fact.summary}.", ""]
  lines += ["```{eval-rst}", *_directive(fact), "```", ""]
  if fact.name in facts.penalties():
    lines += _penalty_formulas(fact)
  if picture:
    lines += [f"![Picture of {fact.name}](../../pictures/{picture}.png)", ""]
  if fact.name in facts.penalties():
    lines += _example_of_penalty(fact)
  relatives = facts.see_also(fact)
  if relatives:
    lines += ["## See also", ""]
    lines += [f"- {link(name)}: {typeset(facts.facts()[name].summary)}." for name in relatives]
    lines.append("")
  pages = used_in.get(fact.short, [])
  if pages:
    lines += ["## Used in", ""]
    lines += [f"- [{title}](../../papers/{name}.md)" for name, title in pages[:6]]
    lines.append("")
  if fact.source:
    path, line = fact.source
    where = f"`{path}`, line {line}"
    lines += [
      f"Source: [{where}]({REPOSITORY}/blob/main/{path}#L{line})"
      if REPOSITORY
      else f"Source: {where}",
      "",
    ]
  if others:
    lines += [
      f"Other names: {', '.join(f'`{o}`' if o.startswith('jaxopt') else o for o in others)}.",
      "",
    ]
  return "\n".join(lines)


def _grouped(rows: list[Fact]) -> list[tuple[str, list[Fact]]]:
  """By idea, ideas in the order of their first name."""
  order = {fact.group: place for place, fact in reversed(list(enumerate(rows)))}
  ordered = sorted(rows, key=lambda f: order[f.group])
  return [
    (group, list(members)) for group, members in itertools.groupby(ordered, lambda f: f.group)
  ]


def module_page(name: str, module: ModuleType) -> str:
  """The page of a module: its own text, and a table an idea."""
  rows = [f for f in facts.facts().values() if f.module == name]
  functions, types = [f for f in rows if not f.is_type], [f for f in rows if f.is_type]
  lines = [f"# {PACKAGE}.{name}", "", typeset(inspect.cleandoc(module.__doc__ or "")), ""]
  lines += ["```{eval-rst}", f".. py:module:: {PACKAGE}.{name}", "```", ""]
  for group, members in _grouped(functions):
    lines += [f"## {group.split('. ')[0] or 'Values'}", "", *summary_table(members)]
  if types:
    lines += [
      "## Types",
      "",
      "States, diagnostics and other records; all on [one page](types.md).",
      "",
    ]
    lines += ["| name | what |", "|---|---|"]
    lines += [f"| {link(f.short, f.name)} | {cell(typeset(f.summary))} |" for f in types]
    lines.append("")
  pages = [*sorted(f.name for f in functions), *(["types"] if types else [])]
  return "\n".join([*lines, "```{toctree}", ":hidden:", "", *pages, "```", ""])


def types_page(name: str) -> str:
  """All types of a module."""
  rows = [f for f in facts.facts().values() if f.module == name and f.is_type]
  lines = [f"# Types of {PACKAGE}.{name}", "", "```{eval-rst}"]
  for fact in rows:
    lines += _directive(fact)
  return "\n".join([*lines, "```", ""])


def index_page() -> str:
  """All modules with their first lines."""
  modules = facts.public_modules()
  lines = [
    "# Reference",
    "",
    "`jr` stands for `jaxopt_robust`. One page a function; each module has a table.",
    "",
  ]
  lines += ["| module | what | names |", "|---|---|---|"]
  for name, module in modules.items():
    count = sum(f.module == name and not f.is_type for f in facts.facts().values())
    lines.append(
      f"| [jr.{name}]({name}/index.md) | {cell(typeset(facts.first_line(module)))} | {count} |"
    )
  return "\n".join(
    [*lines, "", "```{toctree}", ":hidden:", "", *(f"{m}/index" for m in modules), "```", ""]
  )


def pages(used_in: dict[str, list[tuple[str, str]]], pictures: dict[str, str]) -> dict[str, str]:
  """All pages of the reference by path; ``pictures`` says which name has which picture."""
  result = {"reference/index.md": index_page()}
  for name, module in facts.public_modules().items():
    result[f"reference/{name}/index.md"] = module_page(name, module)
    rows = [f for f in facts.facts().values() if f.module == name]
    if any(f.is_type for f in rows):
      result[f"reference/{name}/types.md"] = types_page(name)
    for fact in rows:
      if not fact.is_type:
        page = name_page(fact, used_in, pictures.get(fact.short))
        result[f"{facts.location(fact)}.md"] = page
  return result
