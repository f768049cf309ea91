"""Formulas in the running text of docstrings, and displayed ones with words between them.

A formula is a run of chunks between spaces whose names are all known: single letters, Greek names,
the operators of ``formulas``, the function's own parameters where they stand beside an operator.
"""

import itertools
import re
from collections.abc import Callable, Iterable

from formulas import (
  CLOSE,
  FUNCTIONS,
  PREFIX,
  SYMBOLS,
  NotAFormula,
  angles,
  is_known,
  to_tex,
  tokens_of,
)


def _plain_in_display(text: str) -> str:
  """Words between the formulas of a displayed line."""
  escaped = re.sub(r"([_#%&$^{}])", r"\\\1", text.replace("``", ""))
  return rf"\text{{{escaped}}}" if escaped else ""


def display(lines: Iterable[str], names: Iterable[str] = ()) -> str | None:
  """Lines of a displayed formula as TeX, one row each; None for a table of words or for code."""
  rows = [line.strip() for line in lines if line.strip()]
  related = sum(bool(re.search(r" (=|<-|<=|~|>=) ", row)) for row in rows)
  if any("#" in row or ">>>" in row for row in rows):
    return None
  if 2 * related < len(rows) and not all(map(_is_formula, rows)):
    return None
  tex = []
  for row in rows:
    columns = re.split(r"\s{2,}", row)
    tex.append(r" \quad ".join(_display_column(column, names) for column in columns))
  # Sphinx puts several rows into an environment that aligns them.
  return r" \\ ".join(f"& {row}" for row in tex) if len(tex) > 1 else tex[0]


_ENGLISH = {
  *("a", "an", "of", "the", "at", "and", "or", "over", "is", "as", "by", "one", "where", "then"),
  *("with", "while", "for", "anew", "apart"),
}


def _is_prose(text: str) -> bool:
  """Whether a column holds words of a sentence."""
  words = [word.strip("(),.;:") for word in text.split()]
  unknown = [word.isalpha() and not is_known(word) for word in words]
  pairs = any(a and b for a, b in itertools.pairwise(unknown))
  return (
    pairs
    or any(w in _ENGLISH and w != "a" for w in words)
    or bool(re.search('"|``|[a-z]-[a-z]{2}', text))
  )


def _is_formula(row: str) -> bool:
  columns = [c for c in re.split(r"\s{2,}", row) if not re.fullmatch(r"\(.*\)\W?", c)]
  try:
    return not any(_is_prose(c) or not to_tex(c) for c in columns)
  except NotAFormula:
    return False


def _display_column(text: str, names: Iterable[str]) -> str:
  if not _is_prose(text):
    try:
      return to_tex(text)
    except NotAFormula:
      pass
  tex = inline(text, lambda formula: f" {formula} ", _plain_in_display, names, spaced=r"\text{ }")
  return re.sub(r"\}(\\text\{ \})?\\text\{", lambda m: " " if m[1] else "", tex)


# In running text a chunk between spaces belongs to a formula when all its names are known.
CODE: set[str] = set()  # names of functions, which are no formulas; filled by who knows them
_OPERATOR = r"[=*/^+<>]"
_STRONG = re.compile(r"[=<>^|~]|_|\bsqrt\b|\d\[|[*+/]|->|[A-Za-z]\(|\[|^-[a-zA-Z]")
_ARTICLES = {"a", "A", "I"}
_NEEDS_ARGUMENT = {*PREFIX, *FUNCTIONS, "grad", "in"}
_BINARY = re.compile(r"[-=<>+*/~]|<=|>=|!=|<-|->")
_NOT_NAMES = {"where", "in", "key", "data", "state", "of", "size"}


def _core(chunk: str) -> str:
  """A chunk without the punctuation behind it."""
  return chunk if chunk.endswith("...") else chunk.rstrip(",.;:")


def _mathematical(chunk: str, extra: frozenset[str]) -> bool:
  """Whether a chunk of text between spaces can be a part of a formula."""
  core = _core(chunk)
  if (
    not core
    or core in CODE
    or re.search(r'"|``|://|[A-Za-z]-[a-z]|[a-z]{2,}\.[a-z]|\[\.\.\.', core)
  ):
    return False
  if re.search(r"[A-Za-z_]{2,}_[a-z]{2,}", core) and re.sub(r"\(.*", "", core) in CODE:
    return False
  if any(word not in extra for word in re.findall(r"\b[A-Za-z]{3,}_[a-z]{3,}\w*", core)):
    return False  # an identifier of code
  try:
    tokens = tokens_of(core)
  except NotAFormula:
    return False
  before, braces = "", 0
  for place, (kind, text) in enumerate(tokens):
    after = tokens[place + 1][1] if place + 1 < len(tokens) else ""
    script = tokens[place + 2][1] if place + 2 < len(tokens) else ""
    indexed = after == "_" and (len(script) == 1 or script == "last")
    called = after == "(" and re.fullmatch(r"[A-Z]{2,4}", text)
    if kind == "name" and not (
      before in ("_", "^") or braces or indexed or called or is_known(text, extra)
    ):
      return False
    braces += (text == "{") - (text == "}")
    before = text
  return True


def _depth(text: str) -> int | None:
  """How many brackets are open behind a text; None where one closes that was not opened."""
  depth: list[str] = []
  for character in text:
    if character in CLOSE:
      depth.append(CLOSE[character])
    elif character in ")]}⟩" and (not depth or depth.pop() != character):
      return None
  return len(depth)


def _acceptable(part: list[str]) -> bool:
  """Whether a run of chunks is one formula."""
  text = _core(" ".join(part))
  first, last = part[0], _core(part[-1])
  single = len(part) == 1
  if _depth(text) != 0 or last in _NEEDS_ARGUMENT or _BINARY.fullmatch(last):
    return False
  if first in _ARTICLES and (single or not _BINARY.fullmatch(part[1])):
    return False
  if last in _ARTICLES and not single and part[-2] == "in":
    return False
  if first == "in" or (_BINARY.fullmatch(first) and first != "-"):
    return False
  if re.fullmatch(r"[-\d.,;:/x()%\s]+|\([a-z]\)", text):
    return False
  names = {_core(word) for word in part}
  if single and not (_STRONG.search(text) or text in SYMBOLS or re.fullmatch(r"[A-Za-z]'*", text)):
    return False
  if not single and not (any(map(_STRONG.search, part)) or names & {*SYMBOLS, *PREFIX}):
    return all(len(name) == 1 for name in names) and not names & _ARTICLES
  try:
    to_tex(text)
  except NotAFormula:
    return False
  return True


def _longest(words: list[str]) -> tuple[int, int]:
  """The longest part of a run that is a formula: its first and last place."""
  for length in range(len(words), 0, -1):
    for start in range(len(words) - length + 1):
      if _acceptable(words[start : start + length]):
        return start, start + length
  return 0, 0


def _run(words: list[str], at: int, extra: frozenset[str]) -> int:
  """Where the run of mathematical chunks that starts here ends."""
  end = at
  while end < len(words):
    so_far = "".join(words[at:end])
    inside = so_far.count("{") > so_far.count("}") and end - at < 8
    if not inside and not _mathematical(words[end], extra) and not _operand(words, end, extra):
      break
    end += 1
    listed = words[end - 1 : end] and "..." in "".join(words[end - 1 : end + 1])
    closed = _depth(" ".join(words[at:end])) in (0, None)
    if words[end - 1][-1:] in ",;:." and closed and not listed:
      break
  return end


def _operand(words: list[str], at: int, extra: frozenset[str]) -> bool:
  """Whether a word stands beside an operator as a symbol does: "<= radius", "2 * gap"."""
  if not re.fullmatch(r"[a-z_]{3,}[,.;:]?", words[at]) or words[at] in _ENGLISH | CODE:
    return False
  before = words[at - 1] if at else ""
  after = words[at + 1] if at + 1 < len(words) else ""
  starts = bool(_BINARY.fullmatch(after)) and words[at][-1].isalpha()
  ends = not words[at][-1].isalpha() or _mathematical(after, extra) or not after
  return starts or (bool(_BINARY.fullmatch(before)) and ends and at > 1)


def inline(
  text: str,
  math: Callable[[str], str],
  plain: Callable[[str], str],
  names: Iterable[str] = (),
  spaced: str | None = None,
) -> str:
  """Running text with its formulas through ``math`` (as TeX) and the rest through ``plain``.

  ``names`` are words that count as symbols where they stand beside an operator, such as the
  parameters of the function; ``spaced`` replaces the space between words.
  """
  extra = frozenset(
    name
    for name in names
    if name not in _NOT_NAMES
    and re.search(rf"{_OPERATOR} {name}\b|\b{name}\b(?: {_OPERATOR}|[/^*])|[/^*(-]{name}\b", text)
  )
  pieces = re.split(r"(\s+)", angles(text))
  words, spaces = pieces[::2], [*pieces[1::2], ""]
  if spaced is not None:
    spaces = [spaced if space else "" for space in spaces]
  out: list[str] = []
  at = 0
  while at < len(words):
    end = _run(words, at, extra)
    first, last = _longest(words[at:end])
    stop = at + first if first < last else max(end, at + 1)
    for place in range(at, stop):
      out += [plain(words[place].replace("⟨", "<").replace("⟩", ">")), spaces[place]]
    if first < last:
      body = " ".join(words[at + first : at + last])
      core = _core(body)
      out += [math(to_tex(core)), plain(body[len(core) :]), spaces[at + last - 1]]
      stop = at + last
    at = stop
  return "".join(out)
