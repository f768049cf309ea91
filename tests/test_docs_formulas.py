"""Docstrings' formulas as TeX: what is written is what is set."""

import importlib
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "docs" / "_ext"))
docstrings, formulas, sentences = map(
  importlib.import_module, ("docstrings", "formulas", "sentences")
)


@pytest.mark.parametrize(
  ("text", "tex"),
  [
    ("x_{k+1} = x_k - s grad f(x_k)", r"x_{k + 1} = x_{k} - s \nabla f (x_{k})"),
    ("1/2 ||y - x||_2^2", r"\tfrac{1}{2} \lVert y - x \rVert_{2}^{2}"),
    ("sum_i lam_i |y_i|", r"\sum_{i} \lambda_{i} \lvert y_{i} \rvert"),
    (
      "sign(x) max(|x| - s lam, 0)",
      r"\operatorname{sign} (x) \max (\lvert x \rvert - s \lambda , 0)",
    ),
    ("argmin_{y >= 0} <a, y>", r"\operatorname*{argmin}_{y \ge 0} \langle a , y \rangle"),
    ("A^T A, W^{-1}, A^+", r"A^{\top} A , W^{- 1} , A^{+}"),
    ("sqrt(2 g lam)", r"\sqrt{2 g \lambda}"),
    ("1[x > 0] E[s | x]", r"\mathbf{1} [x > 0] \mathbb{E} [s \mid x]"),
    ("x_bar <- 2 x_new - x", r"\bar{x} \leftarrow 2 x_{\mathrm{new}} - x"),
    ("x+ = soft(r, t)", r"x^{+} = \operatorname{soft} (r , t)"),
    ("prox_{sigma g*}(p)", r"\operatorname{prox}_{\sigma g^{\ast}} (p)"),
    ("||P||_inf < inf", r"\lVert P \rVert_{\infty} < \infty"),
    ("v^ = 1e-9 a", r"\hat{v} = 10^{-9} a"),
    ("0 < p < 1", "0 < p < 1"),
    ("|| |w| g ||", r"\lVert \lvert w \rvert g \rVert"),
  ],
)
def test_notation(text, tex):
  assert formulas.to_tex(text) == tex


@pytest.mark.parametrize("text", ["f(x", "||x|", "x_", "a $ b", "x]"])
def test_what_is_no_formula_is_refused(text):
  with pytest.raises(formulas.NotAFormula):
    formulas.to_tex(text)


def _marked(text, names=()):
  return sentences.inline(text, lambda tex: f"[{tex}]", lambda words: words, names)


@pytest.mark.parametrize(
  ("text", "marked"),
  [
    ("a norm of the entries", "a norm of the entries"),
    ("at x = 0 the value, is 0.", "at [x = 0] the value, is 0."),
    (
      "with G = scaling lam, y_i = 0 beyond",
      r"with [G = \mathrm{scaling}\, \lambda], [y_{i} = 0] beyond",
    ),
    ("I think a path of 100 strengths", "I think a path of 100 strengths"),
    ("the p-th power, 3 x 4 entries", "the p-th power, 3 x 4 entries"),
    ("p in (0, 1) and lam", r"[p \in (0 , 1)] and [\lambda]"),
    ("max_{p in simplex} p_i l_i", r"[\max_{p \in \mathrm{simplex}\,} p_{i} l_{i}]"),
    ("see jax.numpy.array and max_steps", "see jax.numpy.array and max_steps"),
    ("|p_i| <= radius, by clipping", r"[\lvert p_{i} \rvert \le \mathrm{radius}\,], by clipping"),
  ],
)
def test_formulas_in_running_text(text, marked):
  assert _marked(text, ("scaling", "where")) == marked


def test_names_of_functions_are_no_formulas(monkeypatch):
  monkeypatch.setattr(sentences, "CODE", {"prox_lq"})
  assert _marked("by prox_lq or x_q") == "by prox_lq or [x_{q}]"


def test_displayed_formulas_keep_their_rows_and_words():
  tex = sentences.display(["  x <- x - s g   (one step of it)", "  s = 1, then on"])
  assert tex == (
    r"& x \leftarrow x - s g \quad \text{(one step of it)} \\ &  s = 1 \text{, then on}"
  )
  assert sentences.display(["  saga(f)     SABA, with T > 1 others", "  storm(f)    MRBO"]) is None


def test_docstrings_become_safe_restructured_text():
  lines = """Short text with ||x||_2 and ``code |x|*`` and a*.

  x_{k+1} = prox(|x|)

After, see loss_ and x_i.

Args:
  x_: the |value|, lam >= 0.

Raises:
  ValueError: x < 0.

Example:
  >>> a * b
""".splitlines()
  result = docstrings.to_rst(lines, ["x_"])
  assert result[0].startswith(r"Short text with \ :math:`\lVert x \rVert_{2}`\  and ``code |x|*``")
  assert result[2:5] == [".. math::", "", r"   x_{k + 1} = \operatorname{prox} (\lvert x \rvert)"]
  assert any(line.startswith(r"After, see loss\_ and \ :math:`x_{i}`") for line in result)
  assert any(line.startswith("  x_: the ") and r":math:`\lambda \ge 0`" in line for line in result)
  assert any(line.startswith("  ValueError: ") and ":math:`x < 0`" in line for line in result)
  assert "  >>> a * b" in result


def test_examples_get_the_imports_that_they_need():
  code = ">>> prox_lasso(jnp.array([1.0]), 1.0)\nArray([0.], dtype=float32)"
  assert docstrings.with_imports(code, "jaxopt_robust.prox")[:2] == [
    ">>> import jax.numpy as jnp",
    ">>> from jaxopt_robust.prox import prox_lasso",
  ]
