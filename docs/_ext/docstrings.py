"""Makes plain Google docstrings safe for reStructuredText.

Our docstrings write formulas as plain text (``||x||_2``, ``a * b``, ``x_i``), which
reStructuredText would read as substitutions, emphasis and references. Outside of code spans and
examples these characters are escaped, and indented formulas become literal blocks.
"""

import re

_SECTION = re.compile(r"^(Args|Arguments|Attributes|Returns|Raises|Note|Example|Reference):\s*$")
_SPECIAL = re.compile(r"([\\|*`])|(?<=\w)_(?!\w)|_(?=\s|$|[.,;:)\]}])")


def _escape_text(text: str) -> str:
  """Escapes everything outside of double backticks."""
  parts = re.split(r"(``.+?``)", text, flags=re.DOTALL)
  return "".join(
    part if part.startswith("``") else _SPECIAL.sub(lambda m: "\\" + m.group(0), part)
    for part in parts
  )


def _free_text(lines: list[str]) -> list[str]:
  """Text before the first section: indented paragraphs are formulas and stay as they are."""
  result: list[str] = []
  paragraphs: list[list[str]] = [[]]
  for line in lines:
    if line.strip():
      paragraphs[-1].append(line)
    elif paragraphs[-1]:
      paragraphs.append([])
  for paragraph in filter(None, paragraphs):
    is_list = paragraph[0].lstrip().startswith(("- ", "* "))
    if all(line.startswith(" ") for line in paragraph) and not is_list:
      result += ["::", "", *paragraph, ""]
    else:
      result += [*_escape_text("\n".join(paragraph)).split("\n"), ""]
  return result


def to_rst(lines: list[str]) -> list[str]:
  """A docstring's lines as valid reStructuredText, still with its Google sections."""
  blocks: list[tuple[str, list[str]]] = [("", [])]
  for line in lines:
    match = _SECTION.match(line)
    if match:
      blocks.append((match.group(1), [line]))
    else:
      blocks[-1][1].append(line)
  result: list[str] = []
  for section, block in blocks:
    if not section:
      result += _free_text(block)
    elif section == "Example":
      result += block
    else:
      head, body = block[0], "\n".join(block[1:])
      # Sphinx knows "References" as a section of free text.
      result += ["References:" if section == "Reference" else head]
      result += _escape_text(body).split("\n")
  return result


def process(app, what, name, obj, options, lines: list[str]) -> None:
  """Handler of ``autodoc-process-docstring``; runs before napoleon's."""
  lines[:] = to_rst(lines)
