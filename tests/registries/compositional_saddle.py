"""Saddle-point losses: what they refuse. Their contracts are in ``tests/compositional``."""

import jax.numpy as jnp

from jaxopt_robust import compositional
from tests.helpers import BadInput

COVERED = {"AdawacInfo", "AdawacState", "adawac_init", "adawac_loss"}


def _loss(supervised=None, consistency=None, index=None, **options):
  supervised = jnp.zeros(2) if supervised is None else supervised
  consistency = jnp.zeros(2) if consistency is None else consistency
  index = jnp.arange(2) if index is None else index
  state = compositional.adawac_init(3)
  return compositional.adawac_loss(supervised, consistency, index, state, **options)


def _case(what, call, error, match, name="adawac_loss"):
  return BadInput(f"compositional.{name}", what, call, error, match)


BAD_INPUTS = [
  _case(
    "size",
    lambda: compositional.adawac_init(0),
    ValueError,
    "num_examples must be at least 1",
    "adawac_init",
  ),
  _case(
    "rank", lambda: _loss(jnp.zeros((2, 1))), ValueError, "supervised must have rank 1; got shape"
  ),
  _case(
    "shapes",
    lambda: _loss(jnp.zeros(3)),
    ValueError,
    "supervised and consistency must have equal shapes",
  ),
  _case(
    "dtype",
    lambda: _loss(consistency=1j * jnp.ones(2)),
    TypeError,
    "consistency must be a floating-point array",
  ),
  _case(
    "index",
    lambda: _loss(index=jnp.array([0, 3])),
    ValueError,
    r"index must lie in \[0, 3\), the size of the state; got 3",
  ),
  _case("index dtype", lambda: _loss(index=jnp.zeros(2)), TypeError, "index must hold integers"),
  _case("stepsize", lambda: _loss(stepsize=-1.0), ValueError, "stepsize must be >= 0"),
  _case("clip", lambda: _loss(clip=0.0), ValueError, "clip must be > 0"),
  _case("mask", lambda: _loss(where=jnp.ones(2)), TypeError, "where must be a boolean mask"),
]
