"""Penalties of largest entries, distances and the calculus of operators: calls that must fail."""

import jax.numpy as jnp
import optax

from jaxopt_robust import prox
from tests.helpers import BadInput
from tests.registries.prox import ShapedCase

HYPER = {"linf": 0.8, "max": 0.8, "squared_l1": 0.8, "sum_largest": (0.8, 2.0)}
COVERED = set(HYPER) | {f"prox_{n}" for n in HYPER} | {f"penalty_{n}" for n in HYPER}
COVERED |= {"distance", "indicator", "squared_distance"}
COVERED |= {
  "add_quadratic",
  "precompose_affine",
  "leafwise",
  "precompose_semi_orthogonal",
  "ravelled",
}

BALL = optax.projections.projection_l2_ball
SHAPED = [
  ShapedCase(name, getattr(prox, name).prox, getattr(prox, name).value, hyper, (5,))
  for name, hyper in HYPER.items()
]
SHAPED += [
  ShapedCase(name, make(BALL).prox, make(BALL).value, (0.8, 1.0), (5,))
  for name, make in (("distance", prox.distance), ("squared_distance", prox.squared_distance))
]

X = jnp.ones(3)
NON_NEGATIVE = optax.projections.projection_non_negative


def _bad(name: str) -> list[BadInput]:
  fn, full = getattr(prox, name), f"prox.{name}"
  pair = name.endswith("sum_largest")
  hyper = (lambda h: (h, 1.0)) if pair else (lambda h: h)
  cases = [
    BadInput(full, "text", lambda: fn("text", hyper(1.0)), TypeError, "array of numbers"),
    BadInput(full, "rank", lambda: fn(jnp.ones((2, 2)), hyper(1.0)), ValueError, "rank 1"),
    BadInput(full, "negative", lambda: fn(X, hyper(-1.0)), ValueError, ">= 0; got -1"),
    BadInput(full, "shape", lambda: fn(X, hyper(X)), ValueError, "scalar"),
  ]
  if pair:
    cases.append(
      BadInput(full, "k", lambda: fn(X, (1.0, 4.0)), ValueError, "k of hyperparams must be in")
    )
  if name.startswith("prox_"):
    cases.append(BadInput(full, "scaling", lambda: fn(X, hyper(1.0), -1.0), ValueError, "scaling"))
  return cases


BAD_INPUTS = [case for n in HYPER for kind in ("prox", "penalty") for case in _bad(f"{kind}_{n}")]
BAD_INPUTS += [
  BadInput("prox.distance", "number", lambda: prox.distance(1.0), TypeError, "callable"),
  BadInput("prox.indicator", "number", lambda: prox.indicator(1.0), TypeError, "callable"),
  BadInput(
    "prox.squared_distance", "no", lambda: prox.squared_distance(1.0), TypeError, "callable"
  ),
]
BAD_INPUTS += [
  BadInput(
    "prox.distance", "strength", lambda: prox.distance(NON_NEGATIVE).prox(X, (-1.0, None)),
    ValueError, "lam of hyperparams must be >= 0",
  ),
  BadInput("prox.indicator", "tol", lambda: prox.indicator(jnp.abs, tol=-1.0), ValueError, "tol"),
  BadInput("prox.add_quadratic", "weight", lambda: prox.add_quadratic(prox.lasso, weight=-1.0),
    ValueError, "weight must be >= 0"),
  BadInput("prox.add_quadratic", "center",
    lambda: prox.add_quadratic(prox.lasso, weight=1.0, center="a"), TypeError, "center must be"),
  BadInput("prox.precompose_affine", "none", lambda: prox.precompose_affine(prox.lasso, scale=None),
    TypeError, "scale must be"),
  BadInput("prox.precompose_affine", "shift", lambda: prox.precompose_affine(prox.lasso, shift="b"),
    TypeError, "shift must be"),
  BadInput("prox.precompose_affine", "zero", lambda: prox.precompose_affine(prox.lasso, scale=0.0),
    ValueError, "scale must not be 0"),
  BadInput("prox.precompose_affine", "penalty", lambda: prox.precompose_affine(prox.prox_lasso),
    TypeError, "must be a Penalty"),
  BadInput("prox.precompose_semi_orthogonal", "nu",
    lambda: prox.precompose_semi_orthogonal(prox.lasso, jnp.abs, nu=0.0), ValueError, "nu must be"),
]  # fmt: skip
TREE = {"a": X, "b": X}
BAD_INPUTS += [
  BadInput(
    "prox.leafwise", "penalty", lambda: prox.leafwise({"a": prox.lasso, "b": 1.0}), TypeError,
    "penalties must be a Penalty",
  ),
  BadInput(
    "prox.leafwise", "hyper", lambda: prox.leafwise(prox.lasso).prox(TREE, {"a": 1.0}), ValueError,
    "hyperparams must have the structure of x",
  ),
  BadInput(
    "prox.leafwise", "structure",
    lambda: prox.leafwise({"a": prox.lasso}).value(TREE), ValueError,
    "penalties must have the structure of x",
  ),
  BadInput(
    "prox.ravelled", "penalty", lambda: prox.ravelled(prox.prox_owl), TypeError, "must be a Penalty"
  ),
  BadInput(
    "prox.ravelled", "text", lambda: prox.ravelled(prox.linf).prox({"a": "text"}, 1.0),
    TypeError, "array of numbers",
  ),
]  # fmt: skip
