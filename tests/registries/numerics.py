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
]  # fmt: skip
