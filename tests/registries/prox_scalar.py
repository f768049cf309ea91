"""The entrywise part of the proximal catalogue, and calls that must fail."""

import jax
import jax.numpy as jnp

from jaxopt_robust import prox
from tests.helpers import BadInput
from tests.registries.prox import PenaltyCase


def _case(
  name: str, hyper: object, *, convex: bool = False, tag: str = "", **extra: object
) -> PenaltyCase:
  return PenaltyCase(
    name, getattr(prox, f"prox_{name}"), getattr(prox, f"penalty_{name}"), hyper,
    convex=convex, in_jaxopt=False, tag=tag, **extra,
  )  # fmt: skip


# Several rows of one name are its regimes: the step below and above the bend of the penalty.
SCALAR = [
  _case("three_halves", 0.8, convex=True),
  _case("cube", 0.8, convex=True),
  _case("fourth_power", 0.8, convex=True),
  _case("l0", 0.8),
  _case("half", 0.8),
  _case("two_thirds", 0.8),
  _case("lq", (0.8, 0.3)),
  _case("lq", (0.8, 0.9), tag="near one"),
  _case("mcp", (0.8, 3.1)),
  _case("mcp", (0.8, 0.6), tag="step above theta"),
  _case("scad", (0.8, 3.7)),
  _case("scad", (0.8, 2.1), tag="step above a - 1"),
  _case("cel0", (0.5, 0.4)),
  _case("cel0", (0.5, 1.7), tag="long columns"),
  _case("log_sum", (0.8, 2.0)),
  _case("log_sum", (0.8, 0.3), tag="jumps"),
  _case("capped_l1", (0.8, 2.2)),
  _case("capped_l1", (0.8, 0.2), tag="hard"),
  _case("huber", (0.8, 1.1), convex=True),
  _case("epsilon_insensitive", (0.8, 0.5), convex=True),
  _case("pinball", (0.8, 0.3), convex=True),
  _case("hinge", 0.8, convex=True),
  _case("squared_hinge", 0.8, convex=True),
  _case("logistic", 0.8, convex=True),
  _case("neg_log", 0.8, convex=True, non_negative=True),
  _case("poisson", (0.8, 1.5), convex=True, non_negative=True),
  _case("entropy", 0.8, convex=True, non_negative=True),
  _case("box", (-0.5, 1.3), convex=True, at_zero=lambda x: jnp.clip(x, min=-0.5, max=1.3)),
  _case("quadratic", (0.8, -1.2), convex=True),
]

NAMES = {c.name for c in SCALAR}
COVERED = NAMES | {f"prox_{n}" for n in NAMES} | {f"penalty_{n}" for n in NAMES}

X = jnp.ones(3)
# What the second parameter must not be.
SECOND = {
  "lq": 1.0, "mcp": 0.0, "scad": 2.0, "cel0": 0.0, "log_sum": 0.0, "capped_l1": -1.0,
  "huber": 0.0, "epsilon_insensitive": -1.0, "pinball": 1.5, "poisson": -1.0, "box": 0.5,
  "quadratic": float("inf"),
}  # fmt: skip

# An error about a pair shows one.
SHOWN = r"hyperparams must be a pair \(\w+, \w+\): pass \([0-9.]+, [0-9.]+\); got "


def _bad(name: str, hyper: object) -> list[BadInput]:
  cases = []
  for kind in ("prox", "penalty"):
    fn = getattr(prox, f"{kind}_{name}")
    full = f"prox.{kind}_{name}"
    pair = isinstance(hyper, tuple)
    first = (lambda h, second=hyper[1]: (h, second)) if pair else (lambda h: h)
    cases += [
      BadInput(full, "text", lambda f=fn: f("text", hyper), TypeError, "array of numbers"),
      BadInput(full, "empty", lambda f=fn: f({}, hyper), ValueError, "empty pytree"),
      BadInput(full, "shape", lambda f=fn, h=first: f(X, h(jnp.ones(2))), ValueError, "scalar"),
      BadInput(full, "string", lambda f=fn, h=first: f(X, h("1")), TypeError, "number"),
    ]
    if name != "box":  # its bounds may be negative
      message = ">= 0; got -1"
      cases.append(
        BadInput(full, "negative", lambda f=fn, h=first: f(X, h(-1.0)), ValueError, message)
      )
    if pair:
      wrong = SECOND[name]
      cases += [
        BadInput(full, "no pair", lambda f=fn: f(X, 1.0), ValueError, SHOWN),
        BadInput(
          full, "array", lambda f=fn: f(X, jnp.ones(2)), ValueError, rf"{SHOWN}float32\[2\]"
        ),
        BadInput(
          full,
          "traced",
          lambda f=fn: jax.jit(lambda h: f(X, h))(jnp.ones(2)),
          ValueError,
          rf"{SHOWN}float32\[2\]",
        ),
        BadInput(
          full, "second", lambda f=fn, w=wrong: f(X, (1.0, w)), ValueError, "of hyperparams must be"
        ),
      ]
    if kind == "prox":
      cases.append(
        BadInput(full, "scaling", lambda f=fn: f(X, hyper, -1.0), ValueError, "scaling must be")
      )
  return cases


BAD_INPUTS = [case for c in SCALAR if not c.tag for case in _bad(c.name, c.hyper)]
