"""Public names and bad inputs of linear heads."""

import jax.numpy as jnp

from jaxopt_robust import calibration
from tests.helpers import BadInput

COVERED = {
  "LinearHead",
  "NaiveBayesStats",
  "linear_head_logits",
  "logistic_head",
  "naive_bayes_head",
  "naive_bayes_init",
  "naive_bayes_merge",
  "naive_bayes_update",
}

_X = jnp.ones((3, 2))
_Y = jnp.array([0, 1, 0])
_HEAD = calibration.LinearHead(jnp.ones((2, 2)), jnp.zeros(2), jnp.zeros(2))


def _stats(classes=2, features=2):
  return calibration.naive_bayes_init(num_classes=classes, num_features=features)


def _bad(name, what, call, error, match):
  return BadInput(f"calibration.{name}", what, call, error, match)


def _update(x=_X, labels=_Y, stats=None, **options):
  return lambda: calibration.naive_bayes_update(stats or _stats(), x, labels, **options)


def _logistic(x=_X, labels=_Y, **options):
  return lambda: calibration.logistic_head(x, labels, **{"num_classes": 2, **options})


def _init(**options):
  options = {"num_classes": 2, "num_features": 2, **options}
  return lambda: calibration.naive_bayes_init(**options)


BAD_INPUTS = [
  _bad(*case)
  for case in [
    ("naive_bayes_init", "classes", _init(num_classes=0), ValueError, "num_classes must be at le"),
    ("naive_bayes_init", "features", _init(num_features=2.0), TypeError, "num_features must be a"),
    ("naive_bayes_init", "dtype", _init(dtype=jnp.int32), TypeError, "dtype must be"),
    (
      "naive_bayes_merge", "state", lambda: calibration.naive_bayes_merge(_stats(), _HEAD),
      TypeError, "b must be a NaiveBayesStats",
    ),
    (
      "naive_bayes_merge", "shapes", lambda: calibration.naive_bayes_merge(_stats(), _stats(3)),
      ValueError, "must have equal shapes",
    ),
    ("naive_bayes_update", "state", _update(stats=_HEAD), TypeError, "stats must be a Naive"),
    ("naive_bayes_update", "rank", _update(x=_X[0]), ValueError, "x must have rank 2"),
    ("naive_bayes_update", "features", _update(x=jnp.ones((3, 4))), ValueError, "x must have 2 fe"),
    ("naive_bayes_update", "labels", _update(labels=_Y[:2]), ValueError, "labels must have shape"),
    ("naive_bayes_update", "range", _update(labels=_Y + 1), ValueError, "labels must lie in"),
    ("naive_bayes_update", "mask", _update(where=jnp.ones(3)), TypeError, "where must be a bool"),
    (
      "naive_bayes_head", "state", lambda: calibration.naive_bayes_head(_HEAD), TypeError,
      "stats must be a NaiveBayesStats",
    ),
    (
      "naive_bayes_head", "smoothing",
      lambda: calibration.naive_bayes_head(_stats(), var_smoothing=-1.0), ValueError,
      "var_smoothing must be >= 0",
    ),
    (
      "linear_head_logits", "head", lambda: calibration.linear_head_logits(_stats(), _X), TypeError,
      "head must be a LinearHead",
    ),
    (
      "linear_head_logits", "features",
      lambda: calibration.linear_head_logits(_HEAD, jnp.ones((2, 3))), ValueError, "x must have 2",
    ),
    ("logistic_head", "classes", _logistic(num_classes=1), ValueError, "num_classes must be at le"),
    ("logistic_head", "rank", _logistic(_X[0]), ValueError, "x must have rank 2"),
    ("logistic_head", "dtype", _logistic(_X * 1j), TypeError, "x must be a floating-point"),
    ("logistic_head", "labels", _logistic(labels=_Y + 1), ValueError, "labels must lie in"),
    (
      "logistic_head", "strength", _logistic(inverse_strength=0.0), ValueError,
      "inverse_strength must be > 0",
    ),
    ("logistic_head", "mask", _logistic(where=jnp.ones(3)), TypeError, "where must be a boolean"),
    ("logistic_head", "tol", _logistic(tol=-1.0), ValueError, "tol must be"),
  ]
]  # fmt: skip
