"""Calls of what evaluates learned regularisers that must fail."""

import jax.numpy as jnp

from jaxopt_robust import solvers
from tests.helpers import BadInput

COVERED: set[str] = set()  # tests/registries/solvers.py names them all
X = jnp.ones(2)
SQUARE = lambda params, x: jnp.sum(x**2)
PENALTY = solvers.make_potential_penalty(SQUARE)

BAD_INPUTS = [
  case
  for name in ("invert_potential", "potential_regularizer")
  for fn in (getattr(solvers, name),)
  for case in (
    BadInput(
      f"solvers.{name}", "function", lambda f=fn: f(1.0, None, X), TypeError,
      "potential must be callable",
    ),
    BadInput(
      f"solvers.{name}", "half precision", lambda f=fn: f(SQUARE, None, X.astype(jnp.bfloat16)),
      TypeError, "x must be float32 or float64",
    ),
    BadInput(
      f"solvers.{name}", "vector", lambda f=fn: f(lambda p, x: x, None, X), ValueError,
      "must be a scalar",
    ),
    BadInput(f"solvers.{name}", "text", lambda f=fn: f(SQUARE, None, "text"), TypeError, "x must"),
    BadInput(
      f"solvers.{name}", "tol", lambda f=fn: f(SQUARE, None, X, tol=-1.0), ValueError,
      "tol must be >= 0",
    ),
    BadInput(
      f"solvers.{name}", "steps", lambda f=fn: f(SQUARE, None, X, max_steps=-1), ValueError,
      "max_steps must be >= 0",
    ),
  )
]  # fmt: skip
BAD_INPUTS += [
  BadInput(
    "solvers.make_potential_penalty", "function", lambda: solvers.make_potential_penalty(1.0),
    TypeError, "potential must be callable",
  ),
  BadInput(
    "solvers.make_potential_penalty", "tol",
    lambda: solvers.make_potential_penalty(SQUARE, tol=-1.0), ValueError, "tol must be >= 0",
  ),
  BadInput(
    "solvers.make_potential_penalty", "scaling", lambda: PENALTY.prox(X, None, 2.0), ValueError,
    r"scaling must be in \[0.0, 1.0\]; got 2",
  ),
]  # fmt: skip
