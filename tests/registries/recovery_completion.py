"""Public names and bad inputs of matrix completion in ``recovery``."""

import jax
import jax.numpy as jnp

from jaxopt_robust import recovery
from tests.helpers import BadInput

COVERED = {
  "Biases",
  "CompletionInfo",
  "CompletionState",
  "CompletionTrace",
  "als_complete",
  "alternating_least_squares",
  "altmin_complete",
  "biased_baseline",
  "coo_lstsq",
  "entry_spectral",
  "huber_weights",
  "lmafit",
  "lmafit_complete",
  "riemannian_complete",
  "riemannian_completion",
  "scaled_gradient_complete",
  "scaled_gradient_completion",
  "soft_impute",
  "soft_impute_factored",
  "soft_impute_path",
  "trimmed_weights",
}

_KEY = jax.random.key(0)
_OP = recovery.EntryCOO(jnp.array([0, 0, 1]), jnp.array([0, 1, 1]), (2, 2))
_TWICE = recovery.EntryCOO(jnp.array([0, 0, 0]), jnp.array([0, 1, 1]), (2, 2))
_OUTSIDE = recovery.EntryCOO(jnp.array([0, 0, 2]), jnp.array([0, 1, 1]), (2, 2))
_EMPTY = recovery.EntryMask(jnp.zeros((2, 2), bool))
_SENSING = recovery.GaussianSensing(jnp.ones((3, 4)), (2, 2))
_Y = jnp.ones(3)
_START = recovery.Factors(jnp.ones((2, 1)), jnp.ones((2, 1)))
_METHODS = {
  "altmin_complete": {},
  "als_complete": {"ridge": 0.1},
  "lmafit_complete": {},
  "riemannian_complete": {},
  "scaled_gradient_complete": {},
}


def _bad(name, what, call, error, match):
  return BadInput(f"recovery.{name}", what, call, error, match)


def _method_cases(name, extra):
  method = getattr(recovery, name)

  def call(op=_OP, y=_Y, rank=1, key=_KEY, **more):
    return lambda: method(op, y, rank, key=key, **extra, **more)

  return [
    _bad(name, "op", call(op=_SENSING), TypeError, "op must be an EntryCOO or an EntryMask"),
    _bad(name, "rank", call(rank=3), ValueError, "rank must be at most 2"),
    _bad(name, "key", call(key=0), TypeError, "typed key"),
    _bad(name, "NaN", call(y=_Y.at[0].set(jnp.nan)), ValueError, "1 entries that are NaN"),
    _bad(name, "repeated", call(op=_TWICE), ValueError, "1 repetitions"),
    _bad(name, "outside", call(op=_OUTSIDE), ValueError, "row_index must lie in"),
    _bad(name, "empty", call(op=_EMPTY, y=jnp.ones(4)), ValueError, "at least one entry"),
    _bad(name, "y", call(y=jnp.ones(4)), ValueError, "one entry per"),
    _bad(name, "rounds", call(num_rounds=0), ValueError, "num_rounds"),
    _bad(name, "tol", call(tol=-1.0), ValueError, "tol"),
    _bad(name, "truth", call(truth=jnp.ones((3, 2))), ValueError, "truth must have shape"),
    _bad(name, "start", call(start=_START, rank=2), ValueError, "width 2"),
    _bad(name, "one factor", call(start=_START._replace(R=None)), TypeError, "with two factors"),
  ]


BAD_INPUTS = [
  *(case for name, extra in _METHODS.items() for case in _method_cases(name, extra)),
  _bad(
    "altmin_complete", "solver",
    lambda: recovery.altmin_complete(_OP, _Y, 1, key=_KEY, solver="qr"), ValueError, "solver must",
  ),
  _bad(
    "als_complete", "ridge", lambda: recovery.als_complete(_OP, _Y, 1, key=_KEY, ridge=-1.0),
    ValueError, "ridge",
  ),
  _bad(
    "scaled_gradient_complete", "eta",
    lambda: recovery.scaled_gradient_complete(_OP, _Y, 1, key=_KEY, eta=0.0), ValueError, "eta",
  ),
  _bad(
    "riemannian_complete", "direction",
    lambda: recovery.riemannian_complete(_OP, _Y, 1, key=_KEY, direction="newton"), ValueError,
    "direction must be one of",
  ),
  _bad(
    "riemannian_completion", "direction",
    lambda: recovery.riemannian_completion(direction="newton"), ValueError, "direction must be one",
  ),
  _bad(
    "alternating_least_squares", "parts",
    lambda: recovery.alternating_least_squares(parts=0), ValueError, "parts",
  ),
  _bad(
    "alternating_least_squares", "reweight",
    lambda: recovery.alternating_least_squares(reweight=1.0), TypeError, "reweight must be",
  ),
  _bad(
    "alternating_least_squares", "key",
    lambda: (solver := recovery.alternating_least_squares()).step(
      solver.init(_START, 0.0, _OP, _Y), 0.0, _OP, _Y
    ), TypeError, "key must be a typed key",
  ),
  _bad(
    "lmafit", "factors", lambda: recovery.lmafit().init(jnp.ones((2, 2)), None, _OP, _Y), TypeError,
    "factors must be a Factors",
  ),
  _bad(
    "scaled_gradient_completion", "factors",
    lambda: recovery.scaled_gradient_completion().init(
      recovery.Factors(jnp.ones((3, 1)), jnp.ones((2, 1))), 0.5, _OP, _Y
    ), ValueError, "left and right must have shapes",
  ),
  _bad(
    "coo_lstsq", "side",
    lambda: recovery.coo_lstsq(_OP, _Y, jnp.ones((2, 1)), side="both", solver="exact"), ValueError,
    "side must be one of",
  ),
  _bad(
    "coo_lstsq", "fixed", lambda: recovery.coo_lstsq(_OP, _Y, jnp.ones((3, 1)), solver="exact"),
    ValueError, "fixed must have 2 rows",
  ),
  _bad(
    "coo_lstsq", "key", lambda: recovery.coo_lstsq(_OP, _Y, jnp.ones((2, 1))), TypeError,
    "key must be a typed key",
  ),
  _bad(
    "entry_spectral", "clip", lambda: recovery.entry_spectral(_KEY, _OP, _Y, 1, clip=0.0),
    ValueError, "clip",
  ),
  _bad(
    "biased_baseline", "ridge",
    lambda: recovery.biased_baseline(_OP, _Y, row_ridge=-1.0, col_ridge=1.0), ValueError,
    "row_ridge",
  ),
  _bad(
    "huber_weights", "multiple", lambda: recovery.huber_weights(multiple=0.0), ValueError,
    "multiple",
  ),
  _bad("trimmed_weights", "rate", lambda: recovery.trimmed_weights(rate=1.0), ValueError, "rate"),
  _bad(
    "soft_impute", "decrease", lambda: recovery.soft_impute(min_decrease=-1.0), ValueError,
    "min_decrease",
  ),
  _bad(
    "soft_impute_factored", "decrease",
    lambda: recovery.soft_impute_factored(min_decrease=-1.0), ValueError, "min_decrease",
  ),
  _bad(
    "soft_impute_path", "increasing",
    lambda: recovery.soft_impute_path(_OP, _Y, jnp.array([1.0, 2.0])), ValueError,
    "must not increase",
  ),
  _bad(
    "soft_impute_path", "key",
    lambda: recovery.soft_impute_path(_OP, _Y, jnp.array([1.0]), rank=1), TypeError, "typed key",
  ),
]  # fmt: skip
