"""Calls of ``numerics`` that must fail."""

import jax.numpy as jnp

from jaxopt_robust import numerics
from tests.helpers import BadInput

COVERED = set(numerics.__all__)

X = jnp.ones(3)
BAD_INPUTS = [
  BadInput(
    "numerics.masked_mean", "dtype", lambda: numerics.masked_mean(X, jnp.ones(3)), TypeError,
    "boolean mask",
  ),
  BadInput(
    "numerics.masked_mean", "shape", lambda: numerics.masked_mean(X, jnp.ones(2, bool)), ValueError,
    r"shape \(3,\)",
  ),
  BadInput(
    "numerics.log_mean_exp", "dtype", lambda: numerics.log_mean_exp(X, where=jnp.ones(3)),
    TypeError, "boolean mask",
  ),
  BadInput(
    "numerics.soft_threshold", "negative", lambda: numerics.soft_threshold(X, -2.0), ValueError,
    "threshold must be >= 0; got -2",
  ),
  BadInput(
    "numerics.hard_threshold", "negative", lambda: numerics.hard_threshold(X, [1.0, -1.0, 0.0]),
    ValueError, "threshold must be >= 0; got -1",
  ),
  BadInput(
    "numerics.soft_threshold", "none", lambda: numerics.soft_threshold(X, None), TypeError,
    "threshold must be a number",
  ),
  BadInput(
    "numerics.safe_norm", "string", lambda: numerics.safe_norm("abc"), TypeError, "x must be"
  ),
]  # fmt: skip
