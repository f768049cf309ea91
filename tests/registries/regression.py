"""Public names and bad inputs of ``regression``."""

import functools

import jax
import jax.numpy as jnp

import jaxopt_robust as jr
from jaxopt_robust import regression
from tests.helpers import BadInput

COVERED = {
  "CrossValidation",
  "LinearFit",
  "LinearLoss",
  "PathResult",
  "StabilitySelection",
  "bootstrap_weights",
  "cox_loss",
  "cox_partial_likelihood_loss",
  "cross_validate",
  "linear_loss",
  "linear_objective",
  "make_folds",
  "max_strength",
  "regularization_path",
  "solve_at",
  "stability_selection",
  "strength_grid",
  "subsample_weights",
}

_KEY = jax.random.key(0)
_X, _Y, _LAM = jnp.ones((3, 2)), jnp.ones(3), jnp.ones(1)
_FOLDS = jnp.array([0, 1, 0])
BAD_INPUTS: list[BadInput] = []


def _add(name, what, error, match, *args, **options):
  call = functools.partial(getattr(regression, name), *args, **options)
  BAD_INPUTS.append(BadInput(f"regression.{name}", what, call, error, match))


_path = functools.partial(_add, "regularization_path")
_path("x", ValueError, "x must have rank 2", _Y, _Y, _LAM)
_path("rows", ValueError, "y must have a number for each of the 3 rows", _X, _Y[:2], _LAM)
_path("loss", ValueError, "Did you mean 'huber'", _X, _Y, _LAM, loss="hubert")
_path("labels", ValueError, "y must hold labels 0 and 1", _X, -_Y, _LAM, loss="logistic")
_path("counts", ValueError, "y must be >= 0", _X, -_Y, _LAM, loss="poisson")
_path("tau", ValueError, "loss_hyper: tau", _X, _Y, _LAM, loss="quantile", loss_hyper=1.5)
_path("delta", ValueError, "loss_hyper: delta", _X, _Y, _LAM, loss="huber", loss_hyper=0.0)
_path("strength", ValueError, "strengths must be >= 0", _X, _Y, -_LAM)
_path("rank", ValueError, "strengths must have rank 1", _X, _Y, 1.0)
_path("penalty", TypeError, "penalty must be a Penalty", _X, _Y, _LAM, penalty=jr.prox.prox_lasso)
_path("params", ValueError, "penalty_params: .* pair", _X, _Y, _LAM, penalty=jr.prox.mcp)
_path("tuple", ValueError, "penalty_params must be a tuple", _X, _Y, _LAM, penalty_params=3.0)
_path("factor", ValueError, "penalty_factor: l1reg", _X, _Y, _LAM, penalty_factor=jnp.ones(3))
_path("negative factor", ValueError, "penalty_factor must be >= 0", _X, _Y, _LAM, penalty_factor=-1)
_path("weights", ValueError, "sample_weight must be >= 0", _X, _Y, _LAM, sample_weight=-_Y)
_path("weight rows", ValueError, "sample_weight must have", _X, _Y, _LAM, sample_weight=_Y[:2])
_path("intercept", ValueError, "fit_intercept must be one of", _X, _Y, _LAM, fit_intercept="yes")
_path("standardize", ValueError, "standardize must be one", _X, _Y, _LAM, standardize="yes")
_path(
  "certificate", ValueError, "certificate needs", _X, _Y, _LAM, loss="quantile", certificate=True
)
_path("method", ValueError, "method must be one of", _X, _Y, _LAM, method="cd")
_path("served", ValueError, "'coordinate_descent' needs", _X, _Y, _LAM, penalty=jr.prox.owl,
      penalty_factor=jnp.ones(2), method="coordinate_descent")  # fmt: skip
_path("tol", ValueError, "tol must be >= 0", _X, _Y, _LAM, tol=-1.0)
_path("steps", ValueError, "max_steps must be >= 0", _X, _Y, _LAM, max_steps=-1)
_path("pair", ValueError, "y must be a pair", _X, _Y, _LAM, loss="cox")
_add("max_strength", "loss", ValueError, "loss must be smooth", _X, _Y, loss="quantile")
_add("max_strength", "rows", ValueError, "y must have a number", _X, _Y[:2])
_add("strength_grid", "largest", ValueError, "largest must be >= 0", -1.0)
_add("strength_grid", "number", ValueError, "num_strengths must be at least", 1.0, num_strengths=0)
_add("strength_grid", "ratio", ValueError, "ratio must be in", 1.0, ratio=2.0)
_add("linear_loss", "name", ValueError, "Did you mean 'squared'", "square")
_add("linear_objective", "rank", ValueError, "prediction must have rank 1", _X, _Y)
_add("linear_objective", "rows", ValueError, "y must have a number", _Y, _Y[:2])
_add("solve_at", "loss", ValueError, "loss must be smooth", _X, _Y, 1.0, loss="quantile")
_add("solve_at", "strength", ValueError, "strength must be >= 0", _X, _Y, -1.0)
_add("solve_at", "solve", TypeError, "linear_solve must be callable", _X, _Y, 1.0, linear_solve=1)
_add("make_folds", "key", TypeError, "key must be a typed key", 0, 3)
_add("make_folds", "folds", ValueError, "num_folds must be at most 3", _KEY, 3, num_folds=4)
_add("bootstrap_weights", "key", TypeError, "key must be a typed key", 0, 3, 1)
_add("bootstrap_weights", "rows", ValueError, "num_rows must be at least 1", _KEY, 0, 1)
_add("subsample_weights", "key", TypeError, "key must be a typed key", 0, 3, 1)
_add("subsample_weights", "rows", ValueError, "num_rows must be at least 2", _KEY, 1, 1)
BAD_INPUTS += [
  BadInput(
    "regression.cross_validate", what,
    functools.partial(regression.cross_validate, _X, _Y, _LAM, **options), error, match,
  )
  for what, error, match, options in (
    ("folds", ValueError, "folds must have shape", {"folds": _FOLDS[:2], "num_folds": 2}),
    ("range", ValueError, r"folds must lie in \[0, 2\)", {"folds": _FOLDS + 1, "num_folds": 2}),
    ("number", ValueError, "num_folds must be at least 2", {"folds": _FOLDS, "num_folds": 1}),
    ("dtype", TypeError, "folds must hold integers", {"folds": _Y, "num_folds": 2}),
  )
]  # fmt: skip
_add("stability_selection", "key", TypeError, "key must be a typed key", 0, _X, _Y, _LAM)
_add(
  "stability_selection", "threshold", ValueError, "threshold must be in", _KEY, _X, _Y, _LAM,
  threshold=0.4,
)  # fmt: skip
_add("cox_loss", "ties", ValueError, "ties must be one of", ties="exact")
_add(
  "cox_partial_likelihood_loss", "times", ValueError, "times must have shape", _Y, _Y[:2], _FOLDS
)
_add("cox_partial_likelihood_loss", "events", TypeError, "events must hold integer", _Y, _Y, _Y)
_add(
  "cox_partial_likelihood_loss", "range", ValueError, r"events must lie in \[0, 2\)", _Y, _Y,
  _FOLDS + 1,
)  # fmt: skip
_add(
  "cox_partial_likelihood_loss", "strata", ValueError, "strata must have shape", _Y, _Y, _FOLDS,
  strata=_FOLDS[:2],
)  # fmt: skip
