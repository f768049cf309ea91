"""Formulas of docstrings, which are written to be read in a terminal, as TeX.

The notation: ``||x||_2^2``, ``sum_i lam_i |x_i|``, ``x_{k+1} = prox(x_k - s grad f(x_k))``,
``argmin_y``, ``A^T``, ``x_bar``, ``1[x > 0]``, ``<a, b>``, ``<-``. ``to_tex`` reads one formula;
``sentences`` finds the formulas in running text. Nothing is rearranged: a slash stays a slash,
products keep their order.
"""

import re

_GREEK = (
  *("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "kappa", "lambda"),
  *("mu", "nu", "xi", "pi", "rho", "sigma", "tau", "phi", "chi", "psi", "omega", "Gamma"),
  *("Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Phi", "Psi", "Omega"),
)
SYMBOLS = {name: rf"\{name}" for name in _GREEK} | {
  "lam": r"\lambda", "eps": r"\varepsilon", "epsilon": r"\varepsilon", "phi": r"\varphi",
  "grad": r"\nabla", "infinity": r"\infty", "in": r"\in",
}  # fmt: skip
# Names of operators that stand before their argument with a space, such as "sum_i x_i".
PREFIX = {
  name: rf"\{name}" for name in ["log", "exp", "sum", "prod", "max", "min", "sup", "inf", "det"]
} | {
  name: rf"\operatorname*{{{name}}}" for name in ("argmin", "argmax", "mean")
} | {
  name: rf"\operatorname{{{name}}}" for name in ("sign", "tr", "diag", "rank")
}  # fmt: skip
FUNCTIONS = {
  "soft", "hard", "clip", "KL", "SVT", "TV", "softplus", "sigmoid", "softmax", "prox", "Var",
  "dist", "sqrt", "cos", "sin", "tanh", "erf", "vec", "conv", "round", "floor", "dx", "dh", "dF",
  "dT", "log2", "arccos", "log1p", "expm1", "relu", "hyper", "hyperparams", "kl",
}  # fmt: skip
_RELATIONS = {
  "<=": r"\le", ">=": r"\ge", "!=": r"\ne", "->": r"\to", "<-": r"\leftarrow", "==": "=",
  ":=": ":=", "...": r"\dots", "..": r"\dots", "=": "=", "+": "+", "-": "-", "/": "/", ",": ",",
  ";": ";", ":": ":", "~": r"\sim", "*": r"\cdot", "!": "!", ".": ".",
}  # fmt: skip
_TOKEN = re.compile(
  r"(?P<space>\s+)|(?P<number>\d+(?:\.\d+)?(?:e-?\d+)?)|(?P<name>[A-Za-z][A-Za-z0-9]*'*)"
  r"|(?P<op>\|\||<=|>=|!=|==|:=|->|<-|\.\.\.|\.\.|[-+*/^_=<>|()\[\]{},;:~!.⟨⟩])"
)
CLOSE = {"(": ")", "[": "]", "{": "}", "⟨": "⟩"}
_TEX_BRACKETS = {"{": r"\{", "}": r"\}", "⟨": r"\langle ", "⟩": r" \rangle"}
_ANGLES = re.compile(r"(?<![\w\])])<(?=[^\s=-])([^<>=]*?[^\s<>=])>")
_ACCENTS = {"bar": r"\bar", "hat": r"\hat", "tilde": r"\tilde"}


def is_known(name: str, extra: frozenset[str] = frozenset()) -> bool:
  """Whether a name is a letter, a symbol, an operator, or one of ``extra``."""
  plain = name.rstrip("'")
  return (
    len(plain) == 1 or bool(re.fullmatch(r"[A-Za-z]\d+", plain)) or plain in SYMBOLS
    or plain in PREFIX or plain in FUNCTIONS or plain in extra
  )  # fmt: skip


class NotAFormula(ValueError):
  """The text does not follow the notation."""


def tokens_of(text: str) -> list[tuple[str, str]]:
  """Kinds and texts of the tokens of a formula."""
  result, at = [], 0
  while at < len(text):
    match = _TOKEN.match(text, at)
    if not match:
      raise NotAFormula(f"{text[at]!r} in {text!r}")
    result.append((str(match.lastgroup), match.group()))
    at = match.end()
  return result


class _Reader:
  """A recursive reader of one formula."""

  def __init__(self, text: str):
    self.tokens, self.at, self.text = tokens_of(text), 0, text

  def peek(self, offset: int = 0) -> tuple[str, str]:
    place = self.at + offset
    return self.tokens[place] if 0 <= place < len(self.tokens) else ("end", "")

  def sequence(self, stop: str = "") -> str:
    """Atoms up to a closing token, which is taken."""
    out: list[str] = []
    while self.peek()[0] != "end":
      kind, text = self.peek()
      if stop and text == stop and self._closes(stop):
        self.at += 1
        return " ".join(out)
      if kind == "space":
        self.at += 1
        if len(text) > 1 and out and self.peek()[0] != "end":
          out.append(r"\quad")
        continue
      out.append(self.scripts(self.atom()))
    if stop:
      raise NotAFormula(f"{stop!r} is missing in {self.text!r}")
    return " ".join(out)

  def _closes(self, stop: str) -> bool:
    """Whether a bar or an angle ends the group: it stands at the end of a term."""
    return stop in ")]}⟩" or self.peek(-1)[0] != "space"

  def atom(self) -> str:
    kind, text = self.peek()
    self.at += 1
    if kind == "number":
      if self.peek()[1] == "[" and text == "1":  # an indicator
        return r"\mathbf{1}"
      if self.peek()[1] == "/" and self.peek(1)[0] == "number":
        below = self.peek(1)[1]
        self.at += 2
        return rf"\tfrac{{{text}}}{{{below}}}"
      mantissa, _, exponent = text.partition("e")
      if exponent:
        return f"{'' if mantissa == '1' else mantissa + chr(92) + 'cdot '}10^{{{exponent}}}"
      return text
    if kind == "name":
      return self.name(text)
    if text in CLOSE:
      inner = self.sequence(CLOSE[text])
      left, right = (_TEX_BRACKETS.get(side, side) for side in (text, CLOSE[text]))
      return f"{left}{inner}{right}"
    if text in ("|", "||"):
      bar = {"|": "vert", "||": "Vert"}[text]
      if not (self.peek()[0] != "space" or self.peek(1)[1] in ("|", "||")):
        return r"\mid"
      if text == "|" and self.peek(-2)[0] != "space" and self.peek(-2)[0] != "end":
        before = self.peek(-2)[1]
        if before not in "([{|||=,/*-+":
          return r"\mid"
      if self.peek()[0] == "space":
        self.at += 1  # "|| |w| g ||"
        inner = self.sequence_to_spaced(text)
      else:
        inner = self.sequence(text)
      return rf"\l{bar} {inner} \r{bar}"
    if text in ("<", ">"):
      return text
    if text in _RELATIONS:
      return _RELATIONS[text]
    raise NotAFormula(f"{text!r} in {self.text!r}")

  def sequence_to_spaced(self, stop: str) -> str:
    """Up to a closing bar that stands after a space."""
    out: list[str] = []
    while self.peek()[0] != "end":
      if self.peek()[0] == "space":
        self.at += 1
        if self.peek()[1] == stop:
          self.at += 1
          return " ".join(out)
        continue
      out.append(self.scripts(self.atom()))
    raise NotAFormula(f"{stop!r} is missing in {self.text!r}")

  def name(self, text: str) -> str:
    primes = len(text) - len(text.rstrip("'"))
    base, tail = text.rstrip("'"), "'" * primes
    following = self.peek()[1]
    if base == "sqrt" and following == "(":
      self.at += 1
      return rf"\sqrt{{{self.sequence(')')}}}"
    if base == "E" and "[" in (following, self.peek(2)[1] if following == "_" else ""):
      return rf"\mathbb{{E}}{tail}"
    if base == "P" and following == "[":
      return rf"\mathbb{{P}}{tail}"
    if following == "_" and len(base) > 2 and len(self.peek(1)[1]) > 2 and base != "prox":
      joined = rf"\mathrm{{{base}\_{self.peek(1)[1]}}}\,"  # a parameter such as inner_rate
      self.at += 2
      return joined
    if base == "grad" and (self.peek()[0] == "end" or self.peek(1)[1] in ("=", "of")):
      return r"\mathrm{grad}"
    if re.fullmatch(r"d[a-zA-Z]", base):
      return rf"\mathrm{{d}}{base[1]}{tail}"
    if base == "inf" and following != "_":
      return r"\infty"
    if base in SYMBOLS:
      return SYMBOLS[base] + tail
    if base in PREFIX:
      return PREFIX[base] + tail
    if len(base) == 1:
      return base + tail
    match = re.fullmatch(r"([A-Za-z])(\d+)", base)
    if match:
      return f"{match[1]}_{{{match[2]}}}{tail}"
    if following == "(" or following == "_":
      return rf"\operatorname{{{base}}}{tail}"
    neighbours = (self.peek(-3), self.peek(1))
    if any(kind == "name" and not is_known(name) for kind, name in neighbours):
      return rf"\;\text{{{base}}}\;"
    return rf"\mathrm{{{base}}}\," + tail

  def scripts(self, base: str) -> str:
    """The atom with what stands below and above it."""
    parts = {"_": "", "^": ""}
    while self.peek()[1] in ("_", "^"):
      mark = self.peek()[1]
      self.at += 1
      kind, text = self.peek()
      if kind in ("space", "end") or text in (",", ")"):
        if mark == "^":
          return rf"\hat{{{base}}}"
        raise NotAFormula(f"{mark!r} without a script in {self.text!r}")
      self.at += 1
      if text == "{":
        script = self.sequence("}")
      elif mark == "_" and text in _ACCENTS:
        base = rf"{_ACCENTS[text]}{{{base}}}"
        continue
      elif kind == "name":
        script = self.script_name(text)
      elif kind == "number":
        script = text
        if self.peek()[0] == "name":  # T_2a
          script += self.peek()[1]
          self.at += 1
      elif text == "-" and self.peek()[0] == "number":
        script = f"-{self.peek()[1]}"
        self.at += 1
      elif text in ("+", "-", "*", "|", "||"):
        script = {"*": r"\ast", "||": r"\|"}.get(text, text)
      elif text == "(":
        script = f"({self.sequence(')')})"
      else:
        raise NotAFormula(f"{text!r} after {mark!r} in {self.text!r}")
      if parts[mark]:
        script = f"{parts[mark]} {script}"
      parts[mark] = script
    # x+ is the next x, g* the conjugate of g.
    kind, text = self.peek()
    letter = re.fullmatch(r"[A-Za-z]'*|\\[a-z]+", base)
    if letter and not parts["^"] and text in ("+", "*") and self.peek(-1)[0] != "space":
      behind = self.peek(1)
      ends = behind[0] in ("space", "end") and self.peek(2)[1] in ("=", "", "<-", "<=")
      if ends or (text == "*" and behind[0] not in ("name", "number")):
        self.at += 1
        parts["^"] = {"*": r"\ast"}.get(text, text)
    if base.startswith("'"):
      raise NotAFormula(self.text)
    below = f"_{{{parts['_']}}}" if parts["_"] else ""
    above = f"^{{{parts['^']}}}" if parts["^"] else ""
    return base + below + above

  def script_name(self, text: str) -> str:
    base = text.rstrip("'")
    tail = text[len(base) :]
    if base == "T" and self.tokens[self.at - 2][1] == "^":
      return r"\top"
    if base == "inf":
      return r"\infty"
    if base in SYMBOLS and base not in ("in",):
      return SYMBOLS[base] + tail
    if len(base) <= 2 or base.isdigit():
      return base + tail
    return rf"\mathrm{{{base}}}{tail}"


def to_tex(text: str) -> str:
  """A formula on one line as TeX; ``NotAFormula`` where it does not follow the notation."""
  return _Reader(angles(text.strip())).sequence()


def angles(text: str) -> str:
  """Inner products with brackets of their own."""
  return _ANGLES.sub(r"⟨\1⟩", text)
