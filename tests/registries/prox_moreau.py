"""Calls of Moreau's calculus that must fail."""

import jax.numpy as jnp

from jaxopt_robust import prox
from tests.helpers import BadInput

COVERED = {"moreau_envelope", "prox_conjugate"}
X = jnp.ones(2)
BAD_INPUTS = [
  BadInput(
    "prox.moreau_envelope", "no penalty", lambda: prox.moreau_envelope(prox.prox_lasso), TypeError,
    "must be a Penalty",
  ),
  BadInput(
    "prox.moreau_envelope", "scaling", lambda: prox.moreau_envelope(prox.lasso)(X, 1.0, 0.0),
    ValueError, "scaling must be > 0",
  ),
  BadInput(
    "prox.moreau_envelope", "text", lambda: prox.moreau_envelope(prox.lasso)("text"),
    TypeError, "array of numbers",
  ),
  BadInput(
    "prox.moreau_envelope", "string", lambda: prox.moreau_envelope(prox.lasso)(X, "a"), TypeError,
    "hyperparams must be",
  ),
  BadInput(
    "prox.prox_conjugate", "function", lambda: prox.prox_conjugate(1.0), TypeError, "proximal op"
  ),
  BadInput(
    "prox.prox_conjugate", "scaling", lambda: prox.prox_conjugate(prox.prox_lasso)(X, 1.0, -1.0),
    ValueError, "scaling must be > 0",
  ),
]  # fmt: skip
