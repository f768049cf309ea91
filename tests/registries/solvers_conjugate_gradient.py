"""Calls of conjugate gradients that must fail."""

import jax.numpy as jnp

from jaxopt_robust import solvers
from tests.helpers import BadInput

COVERED: set[str] = set()  # tests/registries/solvers.py names them all
X = jnp.ones(2)


def _run(*data, matvec=lambda v, *_: v):
  solver = solvers.conjugate_gradient(matvec)
  return solvers.run_until(solver, X, None, *data, tol=1e-3, max_steps=3)


BAD_INPUTS = [
  BadInput(
    "solvers.conjugate_gradient", what, call, error, match
  )
  for what, call, error, match in (
    ("function", lambda: solvers.conjugate_gradient(None), TypeError, "matvec must be callable"),
    ("no data", lambda: _run(), ValueError, "data must be the right side b"),
    ("shape of b", lambda: _run(jnp.ones(3)), ValueError, "b and params"),
    ("product", lambda: _run(X, matvec=lambda v: v[:1]), ValueError, r"matvec\(v\) and v"),
  )
]  # fmt: skip
