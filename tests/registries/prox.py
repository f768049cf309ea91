"""All proximal operators with their penalties, and calls that must fail."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxopt_robust import prox
from tests.helpers import BadInput


class PenaltyCase(NamedTuple):
  """A penalty under the contract tests of ``tests/prox``."""

  name: str
  prox: Callable
  value: Callable
  hyper: Any
  non_negative: bool = False
  weighted: bool = True
  convex: bool = True
  in_jaxopt: bool = True
  tag: str = ""
  at_zero: Callable = lambda x: x  # what a scaling of 0 gives: the identity or a projection


class ShapedCase(NamedTuple):
  """A penalty on arrays of one shape, under the contract tests of ``tests/prox/test_prox_shaped``.

  Attributes:
    name: public name, or a word for a factory's product.
    prox: ``prox(x, hyper, scaling)``.
    value: ``value(x, hyper)``.
    hyper: hyper-parameters; a tuple's first member (or the number itself) is the strength.
    shape: shape of one array that it takes.
    convex: whether the operator must be firmly non-expansive.
    tag: regime, where several rows have one name.
    at_zero: what a scaling of 0 gives.
    onto: maps any array to the arrays that the operator is defined on.
    kinks: points at which derivatives must be finite, besides zero and a constant array.
    exact: points with ties at which the derivative exists and must equal finite differences.
  """

  name: str
  prox: Callable
  value: Callable
  hyper: Any
  shape: tuple[int, ...]
  convex: bool = True
  tag: str = ""
  at_zero: Callable = lambda x: x
  onto: Callable = lambda x: x
  kinks: tuple = ()
  exact: tuple = ()


PENALTIES = [
  PenaltyCase("none", prox.prox_none, prox.penalty_none, None),
  PenaltyCase("lasso", prox.prox_lasso, prox.penalty_lasso, 0.8),
  PenaltyCase(
    "non_negative_lasso", prox.prox_non_negative_lasso, prox.penalty_non_negative_lasso, 0.8, True
  ),
  PenaltyCase("elastic_net", prox.prox_elastic_net, prox.penalty_elastic_net, (0.8, 0.6)),
  PenaltyCase("group_lasso", prox.prox_group_lasso, prox.penalty_group_lasso, 0.8, weighted=False),
  PenaltyCase("ridge", prox.prox_ridge, prox.penalty_ridge, 0.8),
  PenaltyCase(
    "non_negative_ridge", prox.prox_non_negative_ridge, prox.penalty_non_negative_ridge, 0.8, True
  ),
]
# A weighted zero penalty has no strength to weigh.
PENALTIES[0] = PENALTIES[0]._replace(weighted=False)

COVERED = {f"prox_{c.name}" for c in PENALTIES} | {f"penalty_{c.name}" for c in PENALTIES}
COVERED |= {c.name for c in PENALTIES if c.name != "none"}
COVERED |= {"Penalty", "make_prox_from_projection"}

X = jnp.ones(3)


def _bad(name: str) -> list[BadInput]:
  fn = getattr(prox, name)
  cases = [
    BadInput(f"prox.{name}", "text", lambda: fn("text"), TypeError, "array of numbers"),
    BadInput(f"prox.{name}", "no leaves", lambda: fn({}), ValueError, "empty pytree"),
  ]
  if name.endswith("none"):
    return cases
  pair = "elastic_net" in name
  hyper = (lambda h: (h, 1.0)) if pair else (lambda h: h)
  cases += [
    BadInput(f"prox.{name}", "negative", lambda: fn(X, hyper(-1.0)), ValueError, ">= 0; got -1"),
    BadInput(
      f"prox.{name}", "nan", lambda: fn(X, hyper(float("nan"))), ValueError, ">= 0; got nan"
    ),
    BadInput(f"prox.{name}", "shape", lambda: fn(X, hyper(jnp.ones(2))), ValueError, "scalar"),
    BadInput(f"prox.{name}", "string", lambda: fn(X, hyper("1")), TypeError, "number"),
  ]
  if pair:
    cases.append(BadInput(f"prox.{name}", "pair", lambda: fn(X, 1.0), ValueError, "pair"))
  if name.startswith("prox_"):
    cases += [
      BadInput(f"prox.{name}", "scaling", lambda: fn(X, hyper(1.0), -1.0), ValueError, "scaling"),
      BadInput(
        f"prox.{name}", "rank", lambda: fn(X, hyper(1.0), jnp.ones(3)), ValueError, "scalar"
      ),
    ]
  return cases


BAD_INPUTS = [
  case for name in sorted(COVERED) if name.startswith(("prox_", "penalty_")) for case in _bad(name)
]
BAD_INPUTS += [
  BadInput(
    "prox.make_prox_from_projection",
    "no function",
    lambda: prox.make_prox_from_projection(3.0),
    TypeError,
    "callable",
  )
]
