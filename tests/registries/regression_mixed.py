"""Public names and bad inputs of mixed-effects models in ``regression``."""

import functools

import jax.numpy as jnp

from jaxopt_robust import prox, regression
from tests.helpers import BadInput

COVERED = {
  "MixedLM",
  "MixedLMFit",
  "MixedLMParams",
  "fit_mixed_lm",
  "mixed_lm_nll",
  "mixed_lm_weights",
  "pad_subjects",
}

_X, _Y, _GROUPS = jnp.ones((3, 2)), jnp.ones(3), jnp.array([0, 1, 0])
_MODEL = regression.MixedLM(
  jnp.ones((2, 2, 2)), jnp.ones((2, 2)), jnp.ones((2, 2, 1)), jnp.ones((2, 2), bool)
)
_PARAMS = regression.MixedLMParams(jnp.ones(2), jnp.zeros(1), jnp.zeros(()))
BAD_INPUTS: list[BadInput] = []


def _add(name, what, error, match, *args, **options):
  call = functools.partial(getattr(regression, name), *args, **options)
  BAD_INPUTS.append(BadInput(f"regression.{name}", what, call, error, match))


_PAD = functools.partial(_add, "pad_subjects")
_PAD("rank", ValueError, "exog must have rank 2", _Y, _Y, _GROUPS, num_subjects=2, max_rows=2)
_PAD("endog", ValueError, "endog must have the 3 rows", _X, _Y[:2], _GROUPS, num_subjects=2,
     max_rows=2)  # fmt: skip
_PAD("groups", TypeError, "groups must hold integers", _X, _Y, _Y, num_subjects=2, max_rows=2)
_PAD("range", ValueError, "groups must lie in", _X, _Y, _GROUPS, num_subjects=1, max_rows=2)
_PAD("rows", ValueError, "max_rows must be at least the rows", _X, _Y, _GROUPS, num_subjects=2,
     max_rows=1)  # fmt: skip
for _name in ("mixed_lm_nll", "mixed_lm_weights"):
  _add(_name, "params", TypeError, "params must be a MixedLMParams", _Y, _MODEL)
  _add(_name, "model", TypeError, "model must be a MixedLM", _PARAMS, _X)
  _add(_name, "nu", ValueError, "nu must be > 0", _PARAMS, _MODEL, nu=0.0)
  _add(_name, "effects", ValueError, r"params.fe_params must have shape \(2,\)",
       _PARAMS._replace(fe_params=_Y), _MODEL)  # fmt: skip
  _add(_name, "mask", TypeError, "model.where must hold bools", _PARAMS,
       _MODEL._replace(where=jnp.ones((2, 2))))  # fmt: skip
  _add(_name, "shape", ValueError, "model.endog must begin with the shape", _PARAMS,
       _MODEL._replace(endog=jnp.ones((2, 3))))  # fmt: skip
_add("fit_mixed_lm", "model", TypeError, "model must be a MixedLM", _X, 1.0)
_add("fit_mixed_lm", "penalty", TypeError, "penalty must be a Penalty", _MODEL, 1.0,
     penalty=prox.prox_lasso)  # fmt: skip
_add("fit_mixed_lm", "nu", ValueError, "nu must be > 0", _MODEL, 1.0, nu=-1.0)
_add("fit_mixed_lm", "start", TypeError, "start must be a MixedLMParams", _MODEL, 1.0, start=_X)
