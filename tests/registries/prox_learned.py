"""Calls of what learned proximal operators are made of that must fail."""

import jax.numpy as jnp

from jaxopt_robust import prox
from tests.helpers import BadInput

COVERED = {
  "make_patch_potential", "make_prox_from_potential", "matching_schedule", "proximal_matching_loss",
}  # fmt: skip
X = jnp.ones(2)
IMAGE = jnp.ones((4, 4))
SQUARE = lambda params, x: jnp.sum(x**2)
SOFT = prox.make_prox_from_potential(SQUARE)


def _bad(fn: str, what: str, call, error: type[Exception], match: str) -> BadInput:
  return BadInput(f"prox.{fn}", what, call, error, match)


def _patches(potential=SQUARE, *, patch=(2, 2), stride=1):
  return prox.make_patch_potential(potential, patch=patch, stride=stride)


def _loss(a=IMAGE, b=IMAGE, **options):
  return prox.proximal_matching_loss(a, b, **{"gamma": 1.0, **options})


BAD_INPUTS = [
  _bad(
    "make_prox_from_potential", "function", lambda: prox.make_prox_from_potential(1.0), TypeError,
    "potential must be callable",
  ),
  _bad(
    "make_prox_from_potential", "vector",
    lambda: prox.make_prox_from_potential(lambda p, x: x)(X), ValueError,
    r"must be a scalar for one sample x of shape \(2,\); got shape \(2,\)",
  ),
  _bad(
    "make_prox_from_potential", "tuple",
    lambda: prox.make_prox_from_potential(lambda p, x: (x, x))(X), ValueError, "got tuple",
  ),
  _bad(
    "make_prox_from_potential", "integers",
    lambda: prox.make_prox_from_potential(lambda p, x: jnp.int32(1))(X), TypeError,
    "must be a real number; got int32",
  ),
  _bad("make_prox_from_potential", "complex", lambda: SOFT(X + 1j), TypeError, "real numbers"),
  _bad("make_prox_from_potential", "text", lambda: SOFT("text"), TypeError, "x must be a number"),
  _bad(
    "make_prox_from_potential", "scaling", lambda: SOFT(X, None, -1.0), ValueError,
    "scaling must be >= 0; got -1",
  ),
  _bad(
    "make_patch_potential", "function", lambda: _patches(1.0), TypeError,
    "potential must be callable",
  ),
  _bad("make_patch_potential", "no pair", lambda: _patches(patch=2), ValueError, "patch must be a"),
  _bad(
    "make_patch_potential", "empty patch", lambda: _patches(patch=(0, 2)), ValueError,
    "patch must be at least 1; got 0",
  ),
  _bad(
    "make_patch_potential", "stride", lambda: _patches(patch=(2, 3), stride=2), ValueError,
    "stride must divide",
  ),
  _bad(
    "make_patch_potential", "image", lambda: _patches(patch=(3, 3))(None, IMAGE), ValueError,
    r"patch must divide the image, \(4, 4\); got \(3, 3\)",
  ),
  _bad("make_patch_potential", "rank", lambda: _patches()(None, X), ValueError, "rank 2"),
  _bad(
    "make_patch_potential", "vector",
    lambda: prox.make_patch_potential(lambda p, x: x, patch=(2, 2))(None, IMAGE), ValueError,
    "must be a scalar",
  ),
  _bad("proximal_matching_loss", "shapes", lambda: _loss(b=X), ValueError, "equal shapes"),
  _bad("proximal_matching_loss", "scalar", lambda: _loss(1.0, 1.0), ValueError, "rank at least 1"),
  _bad("proximal_matching_loss", "complex", lambda: _loss(IMAGE + 1j), TypeError, "real numbers"),
  _bad(
    "proximal_matching_loss", "gamma", lambda: _loss(gamma=0.0), ValueError, "gamma must be > 0"
  ),
  _bad(
    "proximal_matching_loss", "mask", lambda: _loss(where=jnp.ones(4)), TypeError, "boolean mask"
  ),
  _bad(
    "matching_schedule", "gamma", lambda: prox.matching_schedule(-1.0, num_steps=8), ValueError,
    "gamma_min must be > 0",
  ),
  _bad(
    "matching_schedule", "steps", lambda: prox.matching_schedule(1.0, num_steps=3), ValueError,
    "num_steps must be at least 4; got 3",
  ),
  _bad(
    "matching_schedule", "stages", lambda: prox.matching_schedule(1.0, num_steps=3, stages=0),
    ValueError, "stages must be at least 1",
  ),
]  # fmt: skip
