"""Isotonic regression: what is registered, and calls that must fail."""

import jax.numpy as jnp

from jaxopt_robust import projections
from tests.helpers import BadInput

COVERED = {"projection_isotonic"}

_NAME = "projections.projection_isotonic"
_fn = projections.projection_isotonic
X = jnp.ones(3)
BAD_INPUTS = [
  BadInput(_NAME, "text", lambda: _fn("text"), TypeError, "array of numbers"),
  BadInput(_NAME, "scalar", lambda: _fn(jnp.ones(())), ValueError, "rank at least 1"),
  BadInput(_NAME, "empty", lambda: _fn(jnp.zeros(0)), ValueError, "empty"),
  BadInput(_NAME, "length", lambda: _fn(X, jnp.ones(2)), ValueError, r"shape \(3,\)"),
  BadInput(_NAME, "zero weight", lambda: _fn(X, jnp.array([1.0, 0.0, 1.0])), ValueError, "> 0"),
  BadInput(_NAME, "string", lambda: _fn(X, "1"), TypeError, "number"),
]
