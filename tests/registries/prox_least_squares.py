"""The least-squares operator, and calls that must fail."""

import jax.numpy as jnp

from jaxopt_robust import prox
from tests.helpers import BadInput

COVERED = {
  "LeastSquaresFactor", "least_squares", "least_squares_factor", "penalty_least_squares",
  "prox_least_squares",
}  # fmt: skip

X, EYE = jnp.ones(2), jnp.eye(2)
BAD_INPUTS = [
  BadInput(
    "prox.least_squares_factor", "rank", lambda: prox.least_squares_factor(X), ValueError, "rank 2"
  ),
  BadInput(
    "prox.prox_least_squares", "scaling", lambda: prox.prox_least_squares(X, (EYE, X), -1.0),
    ValueError, "scaling must be >= 0",
  ),
]  # fmt: skip
for _name in ("prox_least_squares", "penalty_least_squares"):
  _fn = getattr(prox, _name)
  BAD_INPUTS += [
    BadInput(f"prox.{_name}", "pair", lambda f=_fn: f(X, EYE), ValueError, "pair"),
    BadInput(
      f"prox.{_name}", "shape", lambda f=_fn: f(X, (EYE, jnp.ones(3))), ValueError,
      "A must have shape",
    ),
    BadInput(
      f"prox.{_name}", "text", lambda f=_fn: f(X, ("text", X)), TypeError,
      "array of numbers",
    ),
    BadInput(f"prox.{_name}", "rank", lambda f=_fn: f(EYE, (EYE, X)), ValueError, "rank 1"),
  ]  # fmt: skip
