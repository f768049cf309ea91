"""Distributions over designs, their searches, acquisition functions: covered, calls that fail."""

import functools

import jax
import jax.numpy as jnp

from jaxopt_robust import surrogates
from tests.helpers import BadInput

COVERED = {
  "CbasInfo",
  "GaussianDesigns",
  "ReinforceInfo",
  "cbas_log_weights",
  "cbas_search",
  "design_log_prob",
  "expected_improvement",
  "fit_gaussian_designs",
  "q_expected_improvement",
  "reinforce_search",
  "sample_designs",
  "score_function_surrogate",
}

_X, _VALUES, _KEY = jnp.ones((2, 3)), jnp.ones(2), jax.random.key(0)
_DESIGNS = surrogates.GaussianDesigns(jnp.zeros(3), jnp.zeros(3))
_RAGGED = surrogates.GaussianDesigns(jnp.zeros(3), jnp.zeros(2))


def _total(x):
  return jnp.sum(x, 1)


def _complex(x):
  return jnp.sum(x, 1) + 1j


def _fit(x=_X, min_std=1.0, **options):
  return surrogates.fit_gaussian_designs(x, min_std=min_std, **options)


def _sample(key=_KEY, designs=_DESIGNS, num=2):
  return surrogates.sample_designs(key, designs, num=num)


def _log_prob(designs=_DESIGNS, x=_X):
  return surrogates.design_log_prob(designs, x)


def _score(log_probs=_VALUES, losses=_VALUES, **options):
  return surrogates.score_function_surrogate(log_probs, losses, **options)


def _reinforce(objective=_total, designs=_DESIGNS, key=_KEY, **options):
  settings = {"num_samples": 2, "num_steps": 1, **options}
  return surrogates.reinforce_search(objective, designs, key, **settings)


def _weights(log_prior=_VALUES, log_search=_VALUES, predictions=_VALUES, **options):
  settings = {"threshold": 0.0, "noise": 1.0, **options}
  return surrogates.cbas_log_weights(log_prior, log_search, predictions, **settings)


def _cbas(objective=_total, prior=_DESIGNS, key=_KEY, **options):
  settings = {"noise": 1.0, "num_samples": 2, "num_steps": 1, **options}
  return surrogates.cbas_search(objective, prior, key, **settings)


def _improvement(mean=_VALUES, std=_VALUES, best=0.0):
  return surrogates.expected_improvement(mean, std, best=best)


def _joint(samples=_X, best=0.0):
  return surrogates.q_expected_improvement(samples, best=best)


BAD_INPUTS: list[BadInput] = []


def _add(name, call, *cases):
  for what, error, match, options in cases:
    bound = functools.partial(call, **options)
    BAD_INPUTS.append(BadInput(f"surrogates.{name}", what, bound, error, match))


_SEARCHES = (
  ("callable", TypeError, "objective must be callable", {"objective": None}),
  ("objective shape", ValueError, "objective must return one number", {"objective": jnp.sum}),
  ("objective dtype", TypeError, "objective: the values returned must", {"objective": _complex}),
  ("key", TypeError, "key must be a typed key", {"key": 0}),
  ("num_samples", ValueError, "num_samples must be at least 2", {"num_samples": 1}),
  ("num_steps", ValueError, "num_steps must be at least 1", {"num_steps": 0}),
  ("bounds", ValueError, r"bounds must be a pair \(low, high\)", {"bounds": 1.0}),
)
_add(
  "fit_gaussian_designs",
  _fit,
  ("rank", ValueError, "x must have rank at least 1", {"x": jnp.zeros(())}),
  ("min_std", ValueError, "min_std must be > 0", {"min_std": 0.0}),
  ("min_std shape", ValueError, "min_std must be a scalar or", {"min_std": _VALUES}),
  ("weights", ValueError, "log_weights must have shape", {"log_weights": jnp.ones(3)}),
)
_add(
  "sample_designs",
  _sample,
  ("key", TypeError, "key must be a typed key", {"key": 0}),
  ("designs", TypeError, "designs must be a GaussianDesigns", {"designs": _X}),
  ("shapes", ValueError, "designs: log_std and mean must have equal", {"designs": _RAGGED}),
  ("num", ValueError, "num must be at least 1", {"num": 0}),
)
_add(
  "design_log_prob",
  _log_prob,
  ("designs", TypeError, "designs must be a GaussianDesigns", {"designs": _X}),
  ("shape", ValueError, "x must have shape", {"x": jnp.ones((3, 2))}),
)
_add(
  "score_function_surrogate",
  _score,
  ("shape", ValueError, "losses and log_probs must have equal", {"losses": jnp.ones(3)}),
  ("baseline", ValueError, "baseline must be one of .* Did you mean", {"baseline": "leave_out"}),
  ("one sample", ValueError, "at least 2 samples", {"log_probs": _X[0, :1], "losses": _X[0, :1]}),
  ("mask", TypeError, "where must be a boolean mask", {"where": _VALUES}),
)
_add(
  "reinforce_search",
  _reinforce,
  *_SEARCHES,
  ("designs", TypeError, "designs must be a GaussianDesigns", {"designs": _X}),
  ("optimizer", TypeError, "optimizer must be an optax", {"optimizer": 0.1}),
  ("baseline", ValueError, "baseline must be one of", {"baseline": "mean"}),
)
_add(
  "cbas_log_weights",
  _weights,
  ("search", ValueError, "log_search and log_prior must have equal", {"log_search": jnp.ones(3)}),
  ("shape", ValueError, "predictions and log_prior must have", {"predictions": jnp.ones(3)}),
  ("noise", ValueError, "noise must be >= 0", {"noise": -1.0}),
  ("noise shape", ValueError, "noise must be a scalar or of shape", {"noise": jnp.ones(3)}),
)
_add(
  "cbas_search",
  _cbas,
  *_SEARCHES,
  ("prior", TypeError, "prior must be a GaussianDesigns", {"prior": _X}),
  ("noise", ValueError, "noise must be >= 0", {"noise": -1.0}),
  ("quantile", ValueError, r"quantile must be in \(0, 1\)", {"quantile": 1.0}),
  ("floor", ValueError, "floor must be > 0", {"floor": 0.0}),
)
_add(
  "expected_improvement",
  _improvement,
  ("shape", ValueError, "std and mean must have equal", {"std": jnp.ones(3)}),
  ("std", ValueError, "std must be >= 0", {"std": -_VALUES}),
  ("best", ValueError, "best must be a scalar or of shape", {"best": jnp.ones(3)}),
)
_add(
  "q_expected_improvement",
  _joint,
  ("rank", ValueError, "samples must have rank at least 2", {"samples": _VALUES}),
  ("best", ValueError, "best must be a scalar or of shape", {"best": _VALUES}),
)
