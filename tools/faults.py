"""Small faults of Python source: what ``tools/mutants.py`` plants.

``faults_of(source, path)`` lists them. A fault replaces one expression (or one ``+=``); it never
touches docstrings, annotations, decorators, imports, assertions or the text of errors and warnings.
Faults that change nothing by construction (arguments of a commutative function swapped, the size of
a tolerance) are left out as far as the source shows them.
"""

import ast
import copy
import re
from collections.abc import Iterator
from pathlib import PurePath
from typing import NamedTuple

_SIGNS = {ast.Add: ast.Sub, ast.Sub: ast.Add}
_PRODUCTS = {ast.Mult: ast.Div, ast.Div: ast.Mult}
_COMPARISONS = {
  ast.Lt: (ast.LtE, ast.Gt),
  ast.LtE: (ast.Lt, ast.Gt),
  ast.Gt: (ast.GtE, ast.Lt),
  ast.GtE: (ast.Gt, ast.Lt),
  ast.Eq: (ast.NotEq,),
  ast.NotEq: (ast.Eq,),
  ast.Is: (ast.IsNot,),
  ast.IsNot: (ast.Is,),
  ast.In: (ast.NotIn,),
  ast.NotIn: (ast.In,),
}
_FACTORS = {0.0: 1.0, 0.5: 1.0, 1.0: 2.0, 2.0: 3.0}
# Swapping the arguments of these changes nothing, or fails at once for any test that runs it.
_NO_SWAP = re.compile(
  "add|allclose|array_equal|equal|gcd|hypot|isclose|logaddexp|logical_(and|or|xor)|max|maximum|min|"
  "minimum|multiply|not_equal|vdot|inner|promote_types|result_type|can_cast|"
  "isinstance|issubclass|getattr|hasattr|setattr|(zeros|ones|full)(_like)?|reshape|asarray|array|map|"
  "partial|Partial|jit|vmap|scan|cond|while_loop|fori_loop|jvp|vjp|linearize|linear_transpose|"
  "broadcast_to|astype|issubdtype|wraps|namedtuple|ShapeDtypeStruct|check_.*"
)
_TOLERANCE = re.compile(r"tol|eps|(max|num)_(steps|iters|iterations)|unroll|stacklevel|tiny")
_SMALL = 1e-3  # positive constants up to here are taken for tolerances


class Fault(NamedTuple):
  """One change of one file.

  Attributes:
    path: the file, as it was given.
    line: line of the changed expression.
    kind: sign, product, factor, ...
    before, after: the expression's text.
    start, stop: the bytes that ``after`` replaces.
    probe: line of a statement that runs whenever the fault can matter; None at import.
  """

  path: str
  line: int
  kind: str
  before: str
  after: str
  start: int
  stop: int
  probe: int | None

  def plant(self, source: str) -> str:
    data = source.encode()
    return (data[: self.start] + self.after.encode() + data[self.stop :]).decode()


def _name(node: ast.AST) -> str:
  """Last part of a dotted name: ``jnp.linalg.norm`` -> norm."""
  return getattr(node, "attr", getattr(node, "id", ""))


def _is_number(node: ast.AST) -> bool:
  return isinstance(node, ast.Constant) and type(node.value) in (int, float)


def _edited(node: ast.AST, **fields: object) -> ast.AST:
  other = copy.copy(node)
  for field, value in fields.items():
    setattr(other, field, value)
  return other


def _negated(node: ast.expr) -> ast.expr:
  if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Invert):
    return node.operand
  return ast.UnaryOp(ast.Invert(), node)


def _min_max(name: str) -> str:
  """The name with min and max exchanged, where it is made of whole words: argmin, segment_max."""
  match = re.fullmatch(r"(arg|nan|nanarg|cum|segment_|p|reduce_|a)?(min|max)(imum)?", name)
  if not match:
    return ""
  head, word, tail = match.groups()
  return (head or "") + {"min": "max", "max": "min"}[word] + (tail or "")


def _of_call(node: ast.Call) -> Iterator[tuple[str, ast.AST]]:
  name, args = _name(node.func), node.args
  if other := _min_max(name):
    field = "attr" if isinstance(node.func, ast.Attribute) else "id"
    yield "extremum", _edited(node, func=_edited(node.func, **{field: other}))
  plain = not any(isinstance(arg, ast.Starred | ast.Lambda) for arg in args)
  pair = plain and len(args) == 2 and not _NO_SWAP.fullmatch(name)
  if pair and ast.dump(args[0]) != ast.dump(args[1]):
    yield "swap", _edited(node, args=args[::-1])
  if name in ("where", "select") and plain and len(args) == 3:
    yield "mask", _edited(node, args=[args[0], args[2], args[1]])
  if name in ("range", "arange") and args and not _is_number(args[min(1, len(args) - 1)]):
    last = min(1, len(args) - 1)
    shorter = ast.BinOp(args[last], ast.Sub(), ast.Constant(1))
    yield "index", _edited(node, args=[*args[:last], shorter, *args[last + 1 :]])
  for i, keyword in enumerate(node.keywords):
    value, changed = keyword.value, None
    if keyword.arg == "where" and not isinstance(value, ast.Constant):
      changed = "mask", _negated(value)
    elif keyword.arg == "axis" and isinstance(value, ast.Constant | ast.UnaryOp):
      text = ast.unparse(value)
      if text in ("0", "1", "-1"):
        changed = "axis", ast.Constant(-1 if text == "0" else 0)
    if changed:
      keywords = list(node.keywords)
      keywords[i] = ast.keyword(keyword.arg, changed[1])
      yield changed[0], _edited(node, keywords=keywords)


def _of_node(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
  """(kind, changed copy) for each fault of this very node."""
  if isinstance(node, ast.BinOp | ast.AugAssign):
    operands = [node.left, node.right] if isinstance(node, ast.BinOp) else [node.value]
    texts = (ast.JoinedStr, ast.List, ast.Tuple, ast.ListComp, ast.Set)
    if not any(
      isinstance(x, texts) or (isinstance(x, ast.Constant) and isinstance(x.value, str))
      for x in operands
    ):
      for kind, table in (("sign", _SIGNS), ("product", _PRODUCTS)):
        if type(node.op) in table:
          yield kind, _edited(node, op=table[type(node.op)]())
  elif isinstance(node, ast.UnaryOp) and not isinstance(node.op, ast.UAdd):
    kind = {ast.USub: "minus", ast.Not: "condition", ast.Invert: "mask"}[type(node.op)]
    if ast.unparse(node) not in ("-0", "-0.0"):
      yield kind, node.operand
  elif _is_number(node):
    value = node.value
    if isinstance(value, int):
      yield "index", ast.Constant(value + 1)
    elif not 0 < abs(value) <= _SMALL:
      yield "factor", ast.Constant(_FACTORS.get(value, 2 * value))
  elif isinstance(node, ast.Compare) and len(node.ops) == 1:
    for op in _COMPARISONS[type(node.ops[0])]:
      yield "comparison", _edited(node, ops=[op()])
  elif isinstance(node, ast.BoolOp):
    other = ast.Or() if isinstance(node.op, ast.And) else ast.And()
    yield "logic", _edited(node, op=other)
  elif isinstance(node, ast.Call):
    yield from _of_call(node)


class _Walk:
  def __init__(self, source: str, path: str) -> None:
    self.data, self.path = source.encode(), path
    lines = self.data.splitlines(keepends=True)
    self.offsets = [0]
    for line in lines:
      self.offsets.append(self.offsets[-1] + len(line))

  def fault(self, kind: str, node: ast.AST, new: ast.AST, probe: int | None) -> Fault:
    start = self.offsets[node.lineno - 1] + node.col_offset
    stop = self.offsets[node.end_lineno - 1] + node.end_col_offset
    after = ast.unparse(ast.fix_missing_locations(new))
    if not isinstance(new, ast.AugAssign | ast.Call | ast.Constant | ast.Name):
      after = f"({after})"
    before = " ".join(self.data[start:stop].decode().split())
    return Fault(self.path, node.lineno, kind, before, after, start, stop, probe)

  def visit(self, node: ast.AST | None, probe: int | None, inside: bool) -> Iterator[Fault]:
    skipped = (ast.Raise, ast.Assert, ast.JoinedStr, ast.Import, ast.ImportFrom, ast.Global)
    if node is None or isinstance(node, skipped):
      return
    if isinstance(node, ast.Call) and _name(node.func) in ("warn", "TypeVar", "NewType"):
      return
    if isinstance(node, ast.Assign) and any(_name(t) == "__all__" for t in node.targets):
      return
    if isinstance(node, ast.stmt) and inside:
      probe = node.lineno
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
      yield from self.function(node, probe)
    elif isinstance(node, ast.ClassDef):
      for child in node.body:
        yield from self.visit(child, probe, inside)
    elif isinstance(node, ast.AnnAssign):
      yield from self.visit(node.value, probe, inside)
    elif isinstance(node, ast.keyword):
      if not (node.arg and _TOLERANCE.search(node.arg) and _is_number(node.value)):
        yield from self.visit(node.value, probe, inside)
    else:
      for kind, new in _of_node(node):
        yield self.fault(kind, node, new, probe)
      if isinstance(node, ast.If | ast.IfExp) and isinstance(
        node.test, ast.Name | ast.Attribute | ast.Call
      ):
        yield self.fault("condition", node.test, ast.UnaryOp(ast.Not(), node.test), probe)
      for child in ast.iter_child_nodes(node):
        yield from self.visit(child, probe, inside)

  def function(self, node: ast.AST, probe: int | None) -> Iterator[Fault]:
    if isinstance(node, ast.Lambda):
      body, first, inside = [node.body], probe, probe is not None
    else:
      body, inside = node.body, True
      documented = isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant)
      first = body[1 if documented and len(body) > 1 else 0].lineno
    positional = (node.args.posonlyargs + node.args.args)[::-1]
    defaults = [*zip(positional, node.args.defaults[::-1], strict=False)]
    defaults += zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
    for parameter, default in defaults:
      if not _TOLERANCE.search(parameter.arg):
        yield from self.visit(default, first, False)
    for child in body:
      yield from self.visit(child, probe, inside)


def faults_of(source: str, path: str | PurePath) -> list[Fault]:
  """All small faults of a file's source, in the order of the source."""
  walk = _Walk(source, str(path))
  found = walk.visit(ast.parse(source), None, False)
  return sorted({(f.start, f.stop, f.after): f for f in found}.values())


def with_probes(source: str, path: str) -> str:
  """The source with ``_probe_hit(path, line)`` called before each statement inside a function."""

  def called(statement: ast.stmt) -> ast.stmt:
    # Nothing listens in processes that a test starts.
    hook = "vars(__import__('builtins')).get('_probe_hit', lambda *_: None)"
    return ast.parse(f"{hook}({path!r}, {statement.lineno})").body[0]

  def probe(node: ast.AST, inside: bool) -> None:
    inside = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    for field in ("body", "orelse", "finalbody", "handlers", "cases"):
      block = getattr(node, field, None)
      if not isinstance(block, list):
        continue
      for child in block:
        probe(child, inside)
      if inside and field not in ("handlers", "cases") and not isinstance(node, ast.ClassDef):
        function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        docs = block[:1] if function and ast.get_docstring(node, clean=False) is not None else []
        rest = block[len(docs) :]
        setattr(node, field, docs + [part for c in rest for part in (called(c), c)])

  tree = ast.parse(source)
  probe(tree, False)
  return ast.unparse(ast.fix_missing_locations(tree))
