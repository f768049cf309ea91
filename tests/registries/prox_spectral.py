"""Penalties on singular values and eigenvalues, and calls that must fail."""

import jax.numpy as jnp
import numpy as np

from jaxopt_robust import prox
from jaxopt_robust.typing import Penalty
from tests.helpers import BadInput
from tests.registries.prox import ShapedCase

NAMES = ("log_det", "nuclear", "rank", "schatten", "spectral_norm")
COVERED = {"make_spectral_penalty", *NAMES}
COVERED |= {f"prox_{n}" for n in NAMES} | {f"penalty_{n}" for n in NAMES}


def with_values(values: list[float], shape: tuple[int, int]) -> np.ndarray:
  """A matrix with these singular values in random directions."""
  rng = np.random.default_rng(0)
  u = np.linalg.qr(rng.standard_normal((shape[0], shape[0])))[0][:, : len(values)]
  v = np.linalg.qr(rng.standard_normal((shape[1], shape[1])))[0][:, : len(values)]
  return (u * np.asarray(values)) @ v.T


def symmetric(x):
  return (x + jnp.swapaxes(x, -1, -2)) / 2


def onto_psd(x):
  w, q = np.linalg.eigh(np.asarray(x))
  return (q * np.maximum(w, 0)) @ q.T


def _case(name: str, penalty: Penalty, hyper: object, shape: tuple, **extra: object) -> ShapedCase:
  # With a step of 0.5 and strengths of 0.8, values of 3 stay and values of 0.1 and 0 go.
  exact = (
    with_values([3.0, 3.0], shape),  # a tie
    with_values([3.0, 0.1], shape),
    with_values([3.0], shape),  # a zero
    with_values([3.0, 3.0 * (1 + 1e-9)], shape),  # almost a tie
  )
  return ShapedCase(name, penalty.prox, penalty.value, hyper, shape, exact=exact, **extra)


def _of(name: str, hyper: object, shape: tuple, **extra: object) -> ShapedCase:
  penalty = prox.make_spectral_penalty(getattr(prox, name))
  return _case(f"spectral_{name}", penalty, hyper, shape, **extra)


SHAPED = [
  _case("nuclear", prox.nuclear, 0.8, (3, 2)),
  _case("nuclear", prox.nuclear, 0.8, (2, 3), tag="wide"),
  _case("schatten", prox.schatten, (0.8, 0.4), (3, 2), convex=False),
  _case("rank", prox.rank, 0.8, (2, 3), convex=False),
  _of("mcp", (0.8, 3.1), (3, 3), convex=False),
  _of("huber", (0.8, 1.1), (2, 3)),
  _case("spectral_norm", prox.spectral_norm, 0.8, (3, 2)),
  _case("spectral_norm", prox.spectral_norm, 0.8, (2, 3), tag="wide"),
  ShapedCase(
    "log_det", prox.log_det.prox, prox.log_det.value, 0.8, (3, 3), at_zero=onto_psd, onto=symmetric,
    exact=(np.eye(3), np.diag([1.0, 1.0, -2.0]), np.zeros((3, 3)), 3 * np.ones((3, 3))),
  ),
]  # fmt: skip

X = jnp.ones((3, 2))
SQUARE = jnp.ones((2, 2))


def _bad(name: str) -> list[BadInput]:
  cases = []
  for kind in ("prox", "penalty"):
    fn, full = getattr(prox, f"{kind}_{name}"), f"prox.{kind}_{name}"
    hyper = (lambda h: (h, 0.5)) if name == "schatten" else (lambda h: h)
    one, negative, string, many = hyper(1.0), hyper(-1.0), hyper("1"), hyper(jnp.ones(2))
    cases += [
      BadInput(full, "vector", lambda f=fn, h=one: f(jnp.ones(3), h), ValueError, "rank at least"),
      BadInput(
        full, "text", lambda f=fn, h=one: f("text", h), TypeError, "array of numbers"
      ),
      BadInput(full, "negative", lambda f=fn, h=negative: f(SQUARE, h), ValueError, "got -1"),
      BadInput(full, "string", lambda f=fn, h=string: f(SQUARE, h), TypeError, "number"),
      BadInput(
        full, "strengths", lambda f=fn, h=many: f(SQUARE, h), ValueError,
        "one number a matrix",
      ),
    ]  # fmt: skip
    if kind == "prox":
      cases.append(
        BadInput(full, "scaling", lambda f=fn, h=one: f(SQUARE, h, -1.0), ValueError, "scaling")
      )
  return cases


BAD_INPUTS = [case for name in NAMES for case in _bad(name)]
BAD_INPUTS += [
  BadInput("prox.prox_log_det", "tall", lambda: prox.prox_log_det(X), ValueError, "square"),
  BadInput("prox.penalty_log_det", "tall", lambda: prox.penalty_log_det(X), ValueError, "square"),
  BadInput(
    "prox.prox_schatten", "no pair", lambda: prox.prox_schatten(X, 1.0), ValueError, "a pair"
  ),
  BadInput(
    "prox.prox_schatten", "power", lambda: prox.prox_schatten(X, (1.0, 1.0)), ValueError,
    r"in \(0.0, 1.0\)",
  ),
  BadInput(
    "prox.make_spectral_penalty", "no penalty", lambda: prox.make_spectral_penalty(1.0), TypeError,
    "must be a Penalty",
  ),
  BadInput(
    "prox.make_spectral_penalty", "vector",
    lambda: prox.make_spectral_penalty(prox.mcp).value(jnp.ones(3), (1.0, 2.0)), ValueError,
    "rank at least 2",
  ),
]  # fmt: skip
