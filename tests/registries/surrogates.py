"""Offline model-based optimisation: what is covered, and calls that must fail."""

import functools

import jax.numpy as jnp

from jaxopt_robust import surrogates
from tests.helpers import BadInput

COVERED = {
  "AscentInfo",
  "ConservativeInfo",
  "DesignScores",
  "TopDesigns",
  "conservative_gap",
  "conservative_objective",
  "design_scores",
  "ensemble_prediction",
  "gaussian_nll_loss",
  "gradient_ascent_search",
  "multiplier_step",
  "soft_clip",
  "top_designs",
}

_X, _VALUES, _W = jnp.ones((2, 3)), jnp.ones(2), jnp.ones((4, 3))


def _linear(w, x):
  return x @ w


def _column(w, x):
  return (x @ w)[:, None]


def _counts(w, x):
  return jnp.sum(x > w[None], axis=1)


def _search(objective=lambda x: jnp.sum(x, 1), x=_X, **options):
  return surrogates.gradient_ascent_search(objective, x, **{"num_steps": 1, **options})


def _gap(apply_fn=_linear, x=_X, **options):
  return surrogates.conservative_gap(apply_fn, jnp.ones(3), x, **{"num_steps": 1, **options})


def _conservative(apply_fn=_linear, x=_X, targets=_VALUES, **options):
  settings = {"multiplier": 1.0, "num_steps": 1, **options}
  return surrogates.conservative_objective(apply_fn, jnp.ones(3), x, targets, **settings)


def _dual(multiplier=_VALUES, value=_VALUES, bound=0.0, rate=1.0):
  return surrogates.multiplier_step(multiplier, value, bound=bound, rate=rate)


def _ensemble(apply_fn=_linear, params=_W, x=_X, **options):
  return surrogates.ensemble_prediction(apply_fn, params, x, **options)


def _top(x=_X, values=_VALUES, num=1):
  return surrogates.top_designs(x, values, num=num)


def _scores(predictions=_VALUES, values=_VALUES, **options):
  return surrogates.design_scores(predictions, values, **options)


def _nll(mean=_VALUES, log_std=_VALUES, targets=_VALUES, **options):
  return surrogates.gaussian_nll_loss(mean, log_std, targets, **options)


def _clip(x=_X, low=0.0, high=1.0):
  return surrogates.soft_clip(x, low=low, high=high)


BAD_INPUTS: list[BadInput] = []


def _add(name, call, *cases):
  for what, error, match, options in cases:
    bound = functools.partial(call, **options)
    BAD_INPUTS.append(BadInput(f"surrogates.{name}", what, bound, error, match))


_complex = jnp.ones((2, 3), complex)
_SEARCHES = (
  ("rank", ValueError, "x must have rank at least 1", {"x": jnp.zeros(())}),
  ("dtype", TypeError, "x must be a floating-point", {"x": _complex}),
  ("stepsize", ValueError, "stepsize must be > 0", {"stepsize": 0.0}),
  ("num_steps", ValueError, "num_steps must be at least 1", {"num_steps": 0}),
  ("bounds", ValueError, r"bounds must be a pair \(low, high\)", {"bounds": 1.0}),
  ("bounds shape", ValueError, "bounds must be scalars or", {"bounds": (jnp.zeros(2), 1.0)}),
  ("bounds order", ValueError, "low <= high", {"bounds": (1.0, -1.0)}),
)
_add(
  "gradient_ascent_search",
  _search,
  *_SEARCHES,
  ("callable", TypeError, "objective must be callable", {"objective": None}),
  ("objective shape", ValueError, "objective must return one number", {"objective": jnp.sum}),
  (
    "objective dtype", TypeError, "objective must return floating-point numbers",
    {"objective": lambda x: jnp.sum(x > 0, axis=1)},
  ),
)  # fmt: skip
_add(
  "conservative_gap",
  _gap,
  *_SEARCHES,
  ("callable", TypeError, "apply_fn must be callable", {"apply_fn": None}),
  ("apply_fn shape", ValueError, "apply_fn must return one number", {"apply_fn": _column}),
  ("apply_fn dtype", TypeError, "apply_fn must return floating-point", {"apply_fn": _counts}),
)
_add(
  "conservative_objective",
  _conservative,
  *_SEARCHES,
  ("callable", TypeError, "apply_fn must be callable", {"apply_fn": None}),
  ("apply_fn shape", ValueError, "apply_fn must return one number", {"apply_fn": _column}),
  ("targets", ValueError, "targets must have shape", {"targets": jnp.ones(3)}),
  ("multiplier", ValueError, "multiplier must be >= 0", {"multiplier": -1.0}),
)
_add(
  "multiplier_step",
  _dual,
  ("shape", ValueError, "value and multiplier must have equal", {"value": jnp.ones(3)}),
  ("bound", ValueError, "bound must be a scalar or of shape", {"bound": jnp.ones(3)}),
  ("multiplier", ValueError, "multiplier must be >= 0", {"multiplier": -_VALUES}),
  ("rate", ValueError, "rate must be > 0", {"rate": 0.0}),
)
_add(
  "ensemble_prediction",
  _ensemble,
  ("callable", TypeError, "apply_fn must be callable", {"apply_fn": None}),
  ("reduce", ValueError, "reduce must be one of 'mean', 'min'", {"reduce": "max"}),
  ("models", ValueError, "params must have one leading", {"params": (_W, jnp.ones((3, 3)))}),
  ("no axis", ValueError, "params must have one leading", {"params": jnp.ones(())}),
  ("dtype", TypeError, "x must be a floating-point", {"x": _complex}),
)
_add(
  "top_designs",
  _top,
  ("shape", ValueError, "values must have shape", {"values": jnp.ones(3)}),
  ("num", ValueError, "num must be at most 2", {"num": 3}),
  ("dtype", TypeError, "x must be a floating-point", {"x": _complex}),
)
_add(
  "design_scores",
  _scores,
  ("shape", ValueError, "must have equal shapes", {"values": jnp.ones(3)}),
  ("order", ValueError, "low must be below high", {"low": 1.0}),
)
_add(
  "gaussian_nll_loss",
  _nll,
  ("shape", ValueError, "log_std and mean must have equal", {"log_std": jnp.ones(3)}),
  ("targets", ValueError, "targets and mean must have equal", {"targets": jnp.ones(3)}),
  ("dtype", TypeError, "mean must be a floating-point", {"mean": _complex[:, 0]}),
  ("mask", TypeError, "where must be a boolean mask", {"where": _VALUES}),
)
_add(
  "soft_clip",
  _clip,
  ("order", ValueError, "low must be below high", {"low": 1.0}),
  ("dtype", TypeError, "x must be a floating-point", {"x": _complex}),
)
