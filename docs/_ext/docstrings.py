"""Google docstrings as reStructuredText with rendered formulas.

Our docstrings write formulas as plain text, to be read in a terminal (``||x||_2``, ``a * b``,
``x_i``). Here indented formulas become displayed ones and those in running text inline ones; what
is left is escaped, so that reStructuredText reads no markup in it.
"""

import importlib
import inspect
import re
from collections.abc import Iterable

import sentences

SECTIONS = ("Args", "Arguments", "Attributes", "Returns", "Raises", "Note", "Example", "Reference")
_SECTION = re.compile(rf"^({'|'.join(SECTIONS)}):\s*$")
_SPECIAL = re.compile(r"([\\|*`])|(?<=\w)_(?!\w)|_(?=\s|$|[.,;:)\]}])")
_FIELD = re.compile(r"^(\s*(?:\*{0,2}\w+(?:, )?)+: ?)(.*)$", re.DOTALL)


def _escape(text: str) -> str:
  return _SPECIAL.sub(lambda m: "\\" + m.group(0), text)


def _running_text(text: str, names: Iterable[str]) -> str:
  """A paragraph: code spans stay, formulas are rendered, the rest is escaped."""
  if re.search(r"^\s*[-*] ", text, re.M):  # a list, item by item
    items = re.split(r"(^\s*[-*] )", text, flags=re.M)
    return "".join(
      item if place % 2 else _running_text(item, names) for place, item in enumerate(items) if item
    )
  parts = re.split(r"(``.+?``)", text, flags=re.DOTALL)
  rendered = [
    part
    if part.startswith("``")
    else sentences.inline(part, lambda tex: f"\\ :math:`{tex}`\\ ", _escape, names)
    for part in parts
  ]
  return "".join(rendered)


def _paragraphs(lines: list[str]) -> list[list[str]]:
  result: list[list[str]] = [[]]
  for line in lines:
    if line.strip():
      result[-1].append(line)
    elif result[-1]:
      result.append([])
  return [paragraph for paragraph in result if paragraph]


def _one_line(paragraph: list[str]) -> str:
  """A formula may run over a line's end: lists keep their lines, other paragraphs become one."""
  if any(re.match(r"\s*([-*]|\d+\.) ", line) for line in paragraph):
    return "\n".join(paragraph)
  indent = paragraph[0][: len(paragraph[0]) - len(paragraph[0].lstrip())]
  return indent + " ".join(line.strip() for line in paragraph)


def _free_text(lines: list[str], names: Iterable[str]) -> list[str]:
  """Text before the first section: indented paragraphs are formulas, or tables that stay as is."""
  result: list[str] = []
  for paragraph in _paragraphs(lines):
    is_list = paragraph[0].lstrip().startswith(("- ", "* "))
    if all(line.startswith(" ") for line in paragraph) and not is_list:
      tex = sentences.display(paragraph, names)
      if tex:
        result += [".. math::", "", f"   {tex}", ""]
      else:
        result += ["::", "", *paragraph, ""]
    else:
      result += [*_running_text(_one_line(paragraph), names).split("\n"), ""]
  return result


def _entries(lines: list[str]) -> list[list[str]]:
  """The entries of Args, Attributes or Raises: one each line of least indentation."""
  filled = [line for line in lines if line.strip()]
  if not filled:
    return []
  least = min(len(line) - len(line.lstrip()) for line in filled)
  result: list[list[str]] = []
  for line in filled:
    if len(line) - len(line.lstrip()) == least or not result:
      result.append([line])
    else:
      result[-1].append(line)
  return result


def _fields(lines: list[str], names: Iterable[str]) -> list[str]:
  result = []
  for entry in _entries(lines):
    match = _FIELD.match(_one_line(entry))
    if match:
      result.append(_escape_stars(match[1]) + _running_text(match[2], names))
    else:
      result += _running_text("\n".join(entry), names).split("\n")
  return [*result, ""]


def _escape_stars(head: str) -> str:
  return head.replace("*", "\\*")


def to_rst(lines: list[str], names: Iterable[str] = (), module: str = "") -> list[str]:
  """A docstring's lines as valid reStructuredText, still with its Google sections.

  ``names`` are the parameters of the function, which formulas may contain; examples get the imports
  of names of ``module``.
  """
  blocks: list[tuple[str, list[str]]] = [("", [])]
  for line in lines:
    match = _SECTION.match(line)
    if match:
      blocks.append((match.group(1), [line]))
    else:
      blocks[-1][1].append(line)
  result: list[str] = []
  for section, (head, *body) in ((name, block or [""]) for name, block in blocks):
    if not section:
      result += _free_text([head, *body], names)
    elif section == "Example":
      result += [head, *(_example(body, module) if module else body)]
    elif section in ("Args", "Arguments", "Attributes", "Raises"):
      result += [head, *_fields(body, names)]
    elif section == "Reference":
      # Sphinx knows "References" as a section of free text; titles are no formulas.
      result += ["References:", *_escape("\n".join(body)).split("\n")]
    else:
      result.append(head)
      for paragraph in _paragraphs(body):
        result += [*_running_text(_one_line(paragraph), names).split("\n"), ""]
  return result


def parameters(obj: object) -> list[str]:
  """Names of the parameters of a function; of a class, its fields."""
  if isinstance(obj, type):
    return list(getattr(obj, "_fields", ()))
  try:
    return list(inspect.signature(obj).parameters)  # type: ignore[arg-type]
  except (TypeError, ValueError):
    return []


def with_imports(code: str, module: str) -> list[str]:
  """Lines of an example, with the imports that it needs outside of its module before them."""
  public = importlib.import_module(module).__all__
  bare = set(re.findall(r"(?<![\w.\"'])([A-Za-z_]\w*)", code))
  start = []
  for alias, full in (
    ("jax", "jax"), ("jnp", "jax.numpy as jnp"), ("np", "numpy as np"), ("optax", "optax"),
    ("jr", "jaxopt_robust as jr"),
  ):  # fmt: skip
    if re.search(rf"(?<![\w.]){alias}\.", code) and f"import {full}" not in code:
      start.append(f">>> import {full}")
  names = sorted(n for n in bare & set(public) if f"import {n}" not in code)
  if names:
    start.append(f">>> from {module} import {', '.join(names)}")
  return [*start, *code.split("\n")]


def _example(body: list[str], module: str) -> list[str]:
  code = inspect.cleandoc("\n".join(body))
  return ["", *(f"  {line}" if line else "" for line in with_imports(code, module)), ""]


def process(app, what, name, obj, options, lines: list[str]) -> None:
  """Handler of ``autodoc-process-docstring``; runs before napoleon's."""
  module = ".".join(name.split(".")[:2])
  lines[:] = to_rst(lines, parameters(obj), module)
