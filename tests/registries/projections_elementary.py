"""Half-spaces, boxes, simplex, balls and spheres: what is registered, and calls that must fail."""

import jax.numpy as jnp

from jaxopt_robust import projections
from tests.helpers import BadInput

X = jnp.ones(3)
PLANES = ("hyperplane", "halfspace")
SIZED = (
  "hypercube", "simplex", "l1_sphere", "l1_ball", "l2_sphere", "l2_ball", "linf_ball",
)  # fmt: skip
HYPER = {"non_negative": None, "box": (0.0, 1.0), **dict.fromkeys(PLANES, (X, 1.0))}
HYPER |= dict.fromkeys(SIZED, 1.0)
COVERED = {f"projection_{name}" for name in HYPER}


def _bad(name, what, x, hyper, error, match):
  full = f"projection_{name}"
  call = lambda: getattr(projections, full)(x, hyper)
  return BadInput(f"projections.{full}", what, call, error, match)


BAD_INPUTS = [_bad(n, "complex", X + 1j, h, TypeError, "real numbers") for n, h in HYPER.items()]
BAD_INPUTS += [_bad(n, "text", "1", h, TypeError, "x must be") for n, h in HYPER.items()]
BAD_INPUTS += [_bad(n, "negative", X, -1.0, ValueError, ">= 0") for n in SIZED]
BAD_INPUTS += [_bad(n, "no size", X, None, TypeError, "number") for n in SIZED]
BAD_INPUTS += [_bad(n, "no pair", X, X, ValueError, "pair") for n in ("box", *PLANES)]
BAD_INPUTS += [_bad(n, "structure", {"a": X}, (X, 1.0), ValueError, "structure") for n in PLANES]
BAD_INPUTS += [_bad(n, "shape", X, (X[:2], 1.0), ValueError, "shape of x") for n in PLANES]
BAD_INPUTS += [_bad(n, "empty", X, (0 * X, -1.0), ValueError, "empty") for n in PLANES]
BAD_INPUTS += [
  _bad("box", "empty", X, (1.0, 0.0), ValueError, "empty"),
  _bad("box", "shape", X, (X[:2], 1.0), ValueError, "shape of x"),
]
