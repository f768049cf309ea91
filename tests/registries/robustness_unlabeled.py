"""Wasserstein robustness and unlabelled examples: what is covered, and calls that must fail."""

import functools

import jax
import jax.numpy as jnp

from jaxopt_robust import robustness
from tests.helpers import BadInput

COVERED = {
  "HyperPlane",
  "RssFit",
  "RssInfo",
  "WassersteinInfo",
  "hyperplane_distance",
  "robust_zero_one_loss",
  "rss_linear_fit",
  "rss_objective",
  "wasserstein_robust_loss",
}

_X, _LABELS, _SIGNS = jnp.ones((2, 3)), jnp.zeros(2, jnp.int32), jnp.array([1.0, -1.0])
_WEIGHTS = jnp.ones(3)


def _robust(apply_fn=lambda params, x: x @ params, x=_X, labels=_LABELS, **options):
  options = {"gamma": 1.0, "num_steps": 2, **options}
  return robustness.wasserstein_robust_loss(apply_fn, jnp.eye(3), x, labels, **options)


def _hinge(w, x, y):
  return jax.nn.relu(1 - y * (x @ w))


def _side(w, x):
  return jnp.where(x @ w >= 0, 1.0, -1.0)


def _objective(fun=_hinge, labeled=(_X, _SIGNS), unlabeled=_X, **options):
  options = {"predict": _side, **options}
  return robustness.rss_objective(fun, jnp.ones(3), labeled, unlabeled, **options)


def _fit(x=_X, labels=_SIGNS, unlabeled=_X, **options):
  return robustness.rss_linear_fit(x, labels, unlabeled, **{"num_steps": 1, **options})


def _distance(weights=_WEIGHTS, x=_X, **options):
  return robustness.hyperplane_distance(weights, x, **options)


def _ramp(distances=_SIGNS, **options):
  return robustness.robust_zero_one_loss(distances, **{"gamma": 1.0, **options})


BAD_INPUTS: list[BadInput] = []


def _add(name, call, *cases):
  for what, error, match, options in cases:
    bound = functools.partial(call, **options)
    BAD_INPUTS.append(BadInput(f"robustness.{name}", what, bound, error, match))


_add(
  "wasserstein_robust_loss",
  _robust,
  ("apply_fn", TypeError, "apply_fn must be callable", {"apply_fn": None}),
  ("loss", TypeError, "loss must be callable", {"loss": "ce"}),
  ("loss shape", ValueError, "loss must return one", {"loss": lambda s, y, where: jnp.sum(s)}),
  ("rank", ValueError, "x must have rank at least 1", {"x": jnp.zeros(())}),
  ("dtype", TypeError, "x must be a floating-point", {"x": jnp.zeros((2, 3), complex)}),
  ("empty", ValueError, "x must not be empty", {"x": jnp.zeros((0, 3))}),
  ("labels", ValueError, "labels must have shape", {"labels": jnp.zeros(3, jnp.int32)}),
  ("cost", ValueError, "Did you mean 'squared_l2'", {"cost": "squared_l"}),
  ("gamma", ValueError, "gamma must be a scalar >= 0", {"gamma": jnp.ones(2)}),
  ("gamma sign", ValueError, "gamma must be >= 0", {"gamma": -1.0}),
  ("gamma zero", ValueError, "gamma must be > 0 where stepsize is None", {"gamma": 0.0}),
  ("stepsize", ValueError, "stepsize must be > 0", {"stepsize": 0.0}),
  ("no stepsize", ValueError, "stepsize must be given for the cost 'l2'", {"cost": "l2"}),
  ("distance", ValueError, "max_distance must be > 0", {"max_distance": 0.0}),
  ("num_steps", ValueError, "num_steps must be at least 1", {"num_steps": 0}),
  ("mask", TypeError, "where must be a boolean mask", {"where": jnp.ones(2)}),
)
_add(
  "robust_zero_one_loss",
  _ramp,
  ("dtype", TypeError, "distances must be a floating-point", {"distances": jnp.ones(2, complex)}),
  ("cost", ValueError, "cost must be one of 'l2', 'squared_l2'", {"cost": "l1"}),
  ("gamma", ValueError, "gamma must be in", {"gamma": float("inf")}),
  ("gamma shape", ValueError, "gamma must be a scalar", {"gamma": jnp.ones(2)}),
  ("mask", ValueError, "where must have shape", {"where": jnp.ones(3, bool)}),
)
_add(
  "hyperplane_distance",
  _distance,
  ("rank", ValueError, "weights must have rank 1", {"weights": _X}),
  ("features", ValueError, "x must have 3 features", {"x": jnp.ones((2, 2))}),
  ("intercept", ValueError, "intercept must have rank 0", {"intercept": jnp.ones(2)}),
)
_add(
  "rss_objective",
  _objective,
  ("fun", TypeError, "fun must be callable", {"fun": None}),
  ("predict", TypeError, "predict must be callable", {"predict": None}),
  ("unlabeled_fun", TypeError, "unlabeled_fun must be callable", {"unlabeled_fun": 1}),
  ("pair", ValueError, r"labeled must be a pair \(x, labels\)", {"labeled": _X}),
  ("labels", ValueError, "labels must have a row", {"labeled": (_X, jnp.ones(3))}),
  ("rows", ValueError, "unlabeled and labeled x must have rows", {"unlabeled": jnp.ones((2, 4))}),
  ("unlabeled dtype", TypeError, "unlabeled must be a floating", {"unlabeled": _X + 0j}),
  ("weight", ValueError, "weight must be >= 0", {"weight": -1.0}),
  ("fun shape", ValueError, "fun must return one number", {"fun": lambda w, x, y: jnp.sum(x)}),
  ("predict shape", ValueError, "predict must return labels", {"predict": lambda w, x: x @ w > 0,
    "labeled": (_X, _X), "fun": lambda w, x, y: x @ w}),
  ("mask", ValueError, "where must have shape", {"where": jnp.ones(3, bool)}),
)  # fmt: skip
_add(
  "rss_linear_fit",
  _fit,
  ("rank", ValueError, "x must have rank 2", {"x": jnp.ones(3)}),
  ("labels", ValueError, "labels must hold labels -1 and 1", {"labels": jnp.array([0.0, 1.0])}),
  ("labels shape", ValueError, "labels must have shape", {"labels": jnp.ones(3)}),
  ("features", ValueError, "unlabeled must have 3 features", {"unlabeled": jnp.ones((2, 2))}),
  ("gamma", ValueError, "gamma must be in", {"gamma": -1.0}),
  ("weight", ValueError, "weight must be >= 0", {"weight": -1.0}),
  ("cost", ValueError, "cost must be one of", {"cost": "l1"}),
  ("rate", ValueError, "learning_rate must be > 0", {"learning_rate": 0.0}),
  ("num_steps", ValueError, "num_steps must be at least 1", {"num_steps": 0}),
  ("intercept", TypeError, "fit_intercept must be True or False", {"fit_intercept": 1.0}),
  ("batch", ValueError, "batch must be at least 1", {"batch": 0}),
  ("no key", ValueError, "key must be given where batch is", {"batch": 2}),
  ("key", TypeError, "key must be a typed key", {"batch": 2, "key": 0}),
)
