"""What is known of every public name: its group, hyper-parameters, properties, relatives.

Everything is read from the code: docstrings, signatures, files, and the page of jaxopt's names.
"""

import functools
import importlib
import inspect
import re
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import synonyms

import jaxopt_robust
from jaxopt_robust.typing import Penalty

PACKAGE = "jaxopt_robust"
ROOT = Path(__file__).parents[2]
_HYPER = re.compile(
  r"^\s*hyperparams: (?:(?:a |the )?(?:pair|triple|quadruple|tuple) )?(\(.*?\)|[a-zA-Z]\w*)", re.M
)


class Fact(NamedTuple):
  """A public name.

  Attributes:
    module: public module, such as "prox".
    name: name in it.
    thing: the object.
    summary: first line of its docstring, without the full stop.
    group: the idea it belongs to, from the file it is defined in.
    hyper: its hyper-parameters as they are given, such as "(lam, theta)".
    properties: words for the table, such as "convex" and "complex numbers".
    source: file and line below the repository's root.
    is_type: whether it is a type without an example, such as a state.
  """

  module: str
  name: str
  thing: Any
  summary: str
  group: str
  hyper: str
  properties: tuple[str, ...]
  source: tuple[str, int] | None
  is_type: bool

  @property
  def full(self) -> str:
    """The import path."""
    return f"{PACKAGE}.{self.module}.{self.name}"

  @property
  def short(self) -> str:
    """The name as the documentation calls it."""
    return f"{self.module}.{self.name}"


def public_modules() -> dict[str, ModuleType]:
  """The public modules by name."""
  names = (name for name in jaxopt_robust.__all__ if not name.startswith("_"))
  return {name: importlib.import_module(f"{PACKAGE}.{name}") for name in sorted(names)}


@functools.cache
def penalties() -> dict[str, Penalty]:
  """The penalties of ``prox`` that are values, by name."""
  module = public_modules()["prox"]
  return {n: v for n in module.__all__ if isinstance(v := getattr(module, n), Penalty)}


def _home(thing: Any) -> ModuleType | None:
  """The module that a function or class is written in."""
  if isinstance(thing, Penalty):
    thing = thing.prox
  name = getattr(inspect.unwrap(thing) if callable(thing) else thing, "__module__", None)
  return importlib.import_module(name) if name and name.startswith(PACKAGE) else None


def _source(thing: Any) -> tuple[str, int] | None:
  thing = thing.prox if isinstance(thing, Penalty) else thing
  thing = inspect.unwrap(thing) if callable(thing) else thing
  try:
    path, line = inspect.getsourcefile(thing), inspect.getsourcelines(thing)[1]
  except (TypeError, OSError):
    return None
  if path is None or not Path(path).is_relative_to(ROOT):
    return None
  return str(Path(path).relative_to(ROOT)), max(line, 1)


def first_line(thing: Any) -> str:
  """The first line of a docstring, without the full stop."""
  return (inspect.getdoc(thing) or "").split("\n\n")[0].replace("\n", " ").strip().rstrip("., ")


def section(thing: Any, title: str) -> str:
  """The text of a section of a docstring, such as "Example"; empty where there is none."""
  doc = inspect.getdoc(thing) or ""
  match = re.search(rf"^{title}:\n((?:[ ]+.*\n?|\n)+)", doc, re.M)
  return match[1] if match else ""


def _penalty_of(thing: Any) -> Penalty | None:
  for penalty in penalties().values():
    if thing is penalty or thing is penalty.prox or thing is penalty.value:
      return penalty
  return None


def _hyper(thing: Any) -> str:
  penalty = _penalty_of(thing)
  if penalty is not None:
    thing = penalty.prox
  doc = inspect.getdoc(thing) or ""
  match = _HYPER.search(doc)
  if match:
    return match[1]
  if not callable(thing) or inspect.isclass(thing):
    return ""
  parameters = inspect.signature(thing).parameters.values()
  if penalty is not None or "scaling" in {p.name for p in parameters}:
    second = [p.name for p in parameters][1:2]
    return second[0] if second and second[0] not in ("scaling", "prox") else ""
  ours = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in ("where", "key")]
  shown = [p.name if p.default is p.empty else f"{p.name}={_default(p.default)}" for p in ours]
  return ", ".join(shown[:4]) + (", ..." if len(shown) > 4 else "")


def _default(value: Any) -> str:
  text = getattr(value, "__name__", None) or repr(value)
  return text if len(text) < 20 else "..."


def _properties(thing: Any) -> tuple[str, ...]:
  """Words from the record of a penalty and from the docstring's arguments."""
  found = []
  penalty = _penalty_of(thing)
  if penalty is not None:
    found.append("convex" if penalty.convex else "not convex")
    thing = penalty.prox
  text = section(thing, "Args")
  for word, pattern in (
    ("complex", r"complex\["), ("pytrees", r"pytree of arrays"), ("mask", r"^\s*where:"),
    ("sparse", r"BCOO"), ("traced", r"may be\s+traced"),
  ):  # fmt: skip
    if re.search(pattern, text, re.M):
      found.append(word)
  return tuple(found)


def _fact(module: str, name: str, thing: Any) -> Fact:
  home = _home(thing)
  group = first_line(home) if home else ""
  doc = inspect.getdoc(thing) or ""
  if isinstance(thing, Penalty):
    summary = f"{first_line(thing.value)}, with its operator"
  elif isinstance(thing, int):
    summary = f"The value {thing}"
  else:
    summary = first_line(thing)
  is_type = (inspect.isclass(thing) and ">>>" not in doc) or module == "typing"
  return Fact(
    module, name, thing, summary, group, _hyper(thing), _properties(thing), _source(thing), is_type
  )


@functools.cache
def facts() -> dict[str, Fact]:
  """All public names, such as "prox.prox_lasso", in the order of their modules' ``__all__``."""
  found = {}
  for module, content in public_modules().items():
    for name in content.__all__:
      fact = _fact(module, name, getattr(content, name))
      found[fact.short] = fact
  return found


def location(fact: Fact) -> str:
  """The page of a name below the folder of generated pages: types of a module share one."""
  return f"reference/{fact.module}/{'types' if fact.is_type else fact.name}"


def mentioned(text: str, module: str) -> list[str]:
  """Public names that a text has in code spans, in order."""
  found = []
  for span in re.findall(r"``(?:jr\.)?([\w.]+)``", text):
    for candidate in (span, f"{module}.{span}"):
      if candidate in facts() and candidate not in found:
        found.append(candidate)
  return found


@functools.cache
def _mentions() -> dict[str, list[str]]:
  return {k: mentioned(inspect.getdoc(f.thing) or "", f.module) for k, f in facts().items()}


def see_also(fact: Fact, limit: int = 8) -> list[str]:
  """Relatives of a name: its penalty or operator, what it mentions, what mentions it."""
  short, known = fact.short, facts()
  stem = re.sub(r"^(prox|penalty)_", "", fact.name)
  found = [f"{fact.module}.{n}" for n in (stem, f"prox_{stem}", f"penalty_{stem}")]
  found += _mentions()[short]
  found += [other for other, names in _mentions().items() if short in names]
  near = [k for k, f in known.items() if f.group == fact.group and f.module == fact.module]
  place = near.index(short) if short in near else 0
  found += near[max(place - 2, 0) : place + 3]
  kept = [name for name in dict.fromkeys(found) if name in known and name != short]
  return [name for name in kept if not known[name].is_type or name in _mentions()[short]][:limit]


@functools.cache
def other_names() -> dict[str, list[str]]:
  """What people may search for: jaxopt's names, from the page of migration, and synonyms."""
  result: dict[str, list[str]] = {}
  text = (ROOT / "docs" / "migration.md").read_text()
  for line in text.splitlines():
    match = re.match(r"\| `([\w.]+)` \| (.*) \|$", line)
    if match:
      for ours in re.findall(r"jr\.(\w+\.\w+)", match[2])[:2]:
        result.setdefault(ours, []).append(f"jaxopt.{match[1]}")
  for words, names in synonyms.SYNONYMS.items():
    for name in names:
      result.setdefault(name, []).append(words)
  return result
