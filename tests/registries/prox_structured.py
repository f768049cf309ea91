"""Proximal operators of lines and images, and calls that must fail."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxopt_robust import prox
from tests.helpers import BadInput


class ShapedCase(NamedTuple):
  """An operator that needs an array of some rank.

  Attributes:
    name: what follows ``prox_`` and ``penalty_``.
    prox: the operator.
    value: its penalty.
    hyper: hyper-parameters.
    shape: shape of the data in the tests.
    kwargs: for tests in float64.
    slack: how far from the minimum the objective may be, and the point from its limit.
  """

  name: str
  prox: Callable
  value: Callable
  hyper: Any
  shape: tuple[int, ...]
  kwargs: dict
  slack: float


def _case(name: str, hyper: Any, shape: tuple[int, ...], slack: float = 1e-13, **kwargs: Any):
  fns = (getattr(prox, f"prox_{name}"), getattr(prox, f"penalty_{name}"))
  return ShapedCase(name, *fns, hyper, shape, kwargs, slack)


_TIGHT = {"tol": 1e-14, "max_steps": 20_000}
SHAPED = [
  _case("tv1d", 0.6, (7,)),
  _case("fused_lasso", (0.3, 0.6), (7,)),
  _case("owl", jnp.array([1.2, 0.9, 0.9, 0.4, 0.4, 0.1, 0.0]), (7,)),
  _case("oscar", (0.2, 0.15), (7,)),
  _case("tv2d", 0.4, (3, 4), 1e-12, **_TIGHT),
  _case("tv2d_anisotropic", 0.4, (3, 4), 1e-12, **_TIGHT),
]

NAMES = {c.name for c in SHAPED}
COVERED = NAMES | {f"prox_{n}" for n in NAMES} | {f"penalty_{n}" for n in NAMES}
COVERED |= {"prox_tv2d_with_gap"}


def _bad(case: ShapedCase, kind: str) -> list[BadInput]:
  fn = getattr(prox, f"{kind}_{case.name}")
  full = f"prox.{kind}_{case.name}"
  x = jnp.ones(case.shape)
  pair = isinstance(case.hyper, tuple)
  hyper = (lambda h: (h, 1.0)) if pair else (lambda h: h)
  flat = jnp.ones(case.shape[1:])
  cases = [
    BadInput(full, "text", lambda: fn("text", case.hyper), TypeError, "array of numbers"),
    BadInput(full, "flat", lambda: fn(flat, case.hyper), ValueError, "rank at least"),
    BadInput(full, "negative", lambda: fn(x, hyper(-1.0)), ValueError, ">= 0; got -1"),
    BadInput(full, "nan", lambda: fn(x, hyper(float("nan"))), ValueError, ">= 0; got nan"),
    BadInput(full, "string", lambda: fn(x, hyper("1")), TypeError, "number"),
    BadInput(full, "shape", lambda: fn(x, hyper(jnp.ones(2))), ValueError, "scalar"),
  ]
  if pair:
    cases += [
      BadInput(full, "no pair", lambda: fn(x, 1.0), ValueError, "must be a pair"),
      BadInput(full, "second", lambda: fn(x, (1.0, -2.0)), ValueError, ">= 0; got -2"),
    ]
  if case.name == "owl":
    rising = jnp.arange(7.0)
    cases.append(BadInput(full, "rising", lambda: fn(x, rising), ValueError, "not increase"))
  if kind == "prox":
    cases.append(BadInput(full, "scaling", lambda: fn(x, case.hyper, -1.0), ValueError, "scaling"))
  if case.name.startswith("tv2d") and kind == "prox":
    cases += [
      BadInput(full, "tol", lambda: fn(x, 1.0, tol=0.0), ValueError, "tol must be > 0"),
      BadInput(
        full, "tols", lambda: fn(x, 1.0, tol=[0.1, 0.2]), ValueError, "tol must be a scalar"
      ),
      BadInput(full, "steps", lambda: fn(x, 1.0, max_steps=0), ValueError, "at least 1"),
    ]
  return cases


BAD_INPUTS = [b for case in SHAPED for kind in ("prox", "penalty") for b in _bad(case, kind)]
BAD_INPUTS += [
  BadInput(
    "prox.prox_tv2d_with_gap",
    "kind",
    lambda: prox.prox_tv2d_with_gap(jnp.ones((2, 2)), kind="both"),
    ValueError,
    "kind must be one of",
  ),
]
