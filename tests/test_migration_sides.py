"""The two columns of the migration page give the same result."""

import importlib
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxopt_robust as jr

PAGE = (Path(__file__).parents[1] / "docs" / "migration.md").read_text()
PAIRS = re.findall(
  r"### (.*?)\n\n::::.*?\njaxopt\n\n```python\n(.*?)```.*?\nhere\n\n```python\n(.*?)```", PAGE, re.S
)


def _names():
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.standard_normal((12, 3)), jnp.float32)
  return {
    "jax": jax, "jnp": jnp, "optax": optax, "jr": jr,
    "x": x, "y": x @ jnp.asarray([1.0, -2.0, 0.1]) + 0.1,
    "scores": x, "labels": jnp.asarray(rng.integers(0, 3, 12)),
    "error": lambda w, x, y: 0.5 * jnp.mean((x @ w - y) ** 2),
  }  # fmt: skip


def _result(code, **names):
  names = {**_names(), **names}
  exec(compile(code, "migration.md", "exec"), names)
  return np.asarray(names["result"])


def test_the_page_has_pairs():
  assert len(PAIRS) >= 5
  assert all("jaxopt." in old and "jr." in new for _, old, new in PAIRS)


@pytest.mark.parametrize(("title", "old", "new"), PAIRS, ids=[p[0] for p in PAIRS])
def test_new_code_runs(title, old, new):
  assert np.all(np.isfinite(_result(new)))


@pytest.mark.peer
@pytest.mark.parametrize(("title", "old", "new"), PAIRS, ids=[p[0] for p in PAIRS])
def test_both_columns_agree(title, old, new):
  pytest.importorskip("jaxopt")
  # Some of its modules are not loaded with it.
  jaxopt = importlib.import_module("jaxopt")
  np.testing.assert_allclose(_result(old, jaxopt=jaxopt), _result(new), atol=2e-4)
