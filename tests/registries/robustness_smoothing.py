"""Randomized smoothing: what is covered, and calls that must fail."""

import functools

import jax
import jax.numpy as jnp

from jaxopt_robust import robustness
from tests.helpers import BadInput

COVERED = {
  "Certificate",
  "Prediction",
  "SmoothingVotes",
  "average_certified_radius",
  "binomial_test",
  "certified_accuracy",
  "certify_smoothed",
  "certify_votes",
  "clopper_pearson_interval",
  "clopper_pearson_lower",
  "clopper_pearson_upper",
  "consistency_smoothing_loss",
  "gaussian_augmentation_loss",
  "largest_smoothed_radius",
  "predict_votes",
  "smoothed_radius",
  "smoothing_votes",
  "vote_counts",
}

_X = jnp.zeros(3)
_VOTES = jnp.array([9, 1]), jnp.array([90, 10])

BAD_INPUTS: list[BadInput] = []


def _add(name, call, *cases):
  for what, error, match, options in cases:
    bound = functools.partial(call, **options)
    BAD_INPUTS.append(BadInput(f"robustness.{name}", what, bound, error, match))


def _on(function, fn=lambda x: x, x=_X, key=None, **options):
  options = {"sigma": 0.5, "num_samples": 8, **options}
  return function(fn, x, jax.random.key(0) if key is None else key, **options)


_SAMPLING = [
  ("fn", TypeError, "fn must be callable", {"fn": None}),
  ("dtype", TypeError, "x must be a floating-point", {"x": _X + 0j}),
  ("key", TypeError, "key must be a typed key", {"key": 0}),
  ("sigma", ValueError, "sigma must be > 0", {"sigma": 0.0}),
  ("sigma shape", ValueError, "sigma must be a scalar", {"sigma": jnp.ones(3)}),
  ("num_samples", ValueError, "num_samples must be at least 1", {"num_samples": 0}),
  ("batch_size", ValueError, "batch_size must be at least 1", {"batch_size": 0}),
  ("scores", ValueError, "fn must return scores of shape", {"fn": lambda x: x[0]}),
  ("one class", ValueError, "at least two classes", {"fn": lambda x: x[:, :1]}),
]
_add("vote_counts", functools.partial(_on, robustness.vote_counts), *_SAMPLING)
_SAMPLING += [("num_selection", ValueError, "num_selection must be at least", {"num_selection": 0})]
_add("smoothing_votes", functools.partial(_on, robustness.smoothing_votes), *_SAMPLING)
_certify = functools.partial(_on, robustness.certify_smoothed, x=jnp.zeros((2, 3)))
_SAMPLING[1] = ("dtype", TypeError, "x must be a floating-point", {"x": jnp.zeros((2, 3), complex)})
_SAMPLING += [
  ("alpha", ValueError, r"alpha must be in \(0, 1\)", {"alpha": 0.0}),
  ("rank", ValueError, "x must have rank at least 1", {"x": jnp.zeros(())}),
]
_add("certify_smoothed", _certify, *_SAMPLING)


def _certify_votes(votes=_VOTES, **options):
  return robustness.certify_votes(votes, **{"num_samples": 100, "sigma": 0.5, **options})


def _traced(fn, *args):
  return jax.jit(fn)(*args)


_add(
  "certify_votes",
  _certify_votes,
  ("pair", ValueError, r"votes must be a pair \(selection, counts\)", {"votes": _VOTES[0]}),
  ("shapes", ValueError, "must have equal shapes", {"votes": (_VOTES[0], jnp.array([1, 2, 3]))}),
  ("dtype", TypeError, "selection must hold integers", {"votes": (_X, _VOTES[1])}),
  ("negative", ValueError, "counts must be at least 0", {"votes": (_VOTES[0], -_VOTES[1])}),
  ("classes", ValueError, "at least two classes", {"votes": (_VOTES[0][:1], _VOTES[1][:1])}),
  ("too many", ValueError, "counts must sum to at most num_samples, 99", {"num_samples": 99}),
  ("num_samples", TypeError, "num_samples must be a static", {"num_samples": 100.0}),
  ("sigma", ValueError, "sigma must be > 0", {"sigma": -1.0}),
  ("alpha", ValueError, r"alpha must be in \(0, 1\)", {"alpha": 1.0}),
)
_add(
  "certify_votes",
  lambda: _traced(lambda v: _certify_votes(v), _VOTES),
  ("traced", TypeError, "votes must be known, or traced in float64", {}),
)


def _predict(counts=_VOTES[1], **options):
  return robustness.predict_votes(counts, **options)


_add(
  "predict_votes",
  _predict,
  ("dtype", TypeError, "counts must hold integers", {"counts": _X}),
  ("negative", ValueError, "counts must be at least 0", {"counts": -_VOTES[1]}),
  ("classes", ValueError, "counts must have at least two classes", {"counts": jnp.array([3])}),
  ("alpha", ValueError, r"alpha must be in \(0, 1\)", {"alpha": 0.0}),
)
_add(
  "predict_votes",
  lambda: _traced(_predict, _VOTES[1]),
  ("traced", TypeError, "counts must be known, or traced in float64", {}),
)


def _bound(function, successes=3, trials=5, **options):
  return function(successes, trials, **options)


for _name in (
  "clopper_pearson_lower",
  "clopper_pearson_upper",
  "clopper_pearson_interval",
  "binomial_test",
):
  _function = getattr(robustness, _name)
  _add(
    _name,
    functools.partial(_bound, _function),
    ("dtype", TypeError, "successes must hold integers", {"successes": 3.0}),
    ("negative", ValueError, "successes must be at least 0", {"successes": -1}),
    ("too many", ValueError, "successes must be at most trials; got 6 of 5", {"successes": 6}),
    ("trials", TypeError, "trials must hold integers", {"trials": 5.0}),
    (
      "shapes",
      ValueError,
      "successes and trials and alpha must have shapes that broadcast",
      {"successes": jnp.array([1, 2]), "trials": jnp.array([3, 3, 3])},
    ),
  )
  if _name != "binomial_test":
    _add(
      _name,
      functools.partial(_bound, _function),
      ("alpha", ValueError, r"alpha must be in \(0, 1\)", {"alpha": 1.0}),
    )
  _add(
    _name,
    functools.partial(_traced, functools.partial(_bound, _function), 3),
    ("traced", TypeError, "successes must be known, or traced in float64", {}),
  )


def _radius(lower=0.9, **options):
  return robustness.smoothed_radius(lower, **{"sigma": 0.5, **options})


_add(
  "smoothed_radius",
  _radius,
  ("lower", ValueError, r"lower must be in \[0, 1\]", {"lower": 1.1}),
  ("upper", ValueError, r"upper must be in \[0, 1\]", {"upper": -0.1}),
  ("sigma", ValueError, "sigma must be > 0", {"sigma": 0.0}),
  ("shapes", ValueError, "must have shapes that broadcast", {"lower": [0.9, 0.8], "sigma": _X + 1}),
  ("text", TypeError, "lower must be a number or an array", {"lower": "0.9"}),
)
_add(
  "smoothed_radius",
  lambda: _traced(_radius, 0.9),
  ("traced", TypeError, "lower must be known, or traced in float64", {}),
)
_add(
  "largest_smoothed_radius",
  lambda **options: robustness.largest_smoothed_radius(
    **{"num_samples": 10, "sigma": 1.0, **options}
  ),
  ("num_samples", ValueError, "num_samples must be at least 1", {"num_samples": 0}),
  ("sigma", ValueError, "sigma must be > 0", {"sigma": 0.0}),
  ("alpha", ValueError, r"alpha must be in \(0, 1\)", {"alpha": 0.0}),
)

_RIGHT = jnp.array([True, False, True])
_METRIC = [
  ("radius", ValueError, "radius must be >= 0", {"radius": _X - 1}),
  ("rank", ValueError, "radius must have rank 1", {"radius": jnp.zeros((3, 1))}),
  ("correct", TypeError, "correct must be a boolean mask", {"correct": _X}),
  ("shape", ValueError, "correct must have shape", {"correct": _RIGHT[:2]}),
  ("none", TypeError, "correct must be a boolean mask; got None", {"correct": None}),
  ("where", TypeError, "where must be a boolean mask", {"where": _X}),
]
_add(
  "average_certified_radius",
  lambda radius=_X, correct=_RIGHT, where=None: robustness.average_certified_radius(
    radius, correct, where=where
  ),
  *_METRIC,
)
_add(
  "certified_accuracy",
  lambda radius=_X, correct=_RIGHT, where=None, radii=0.5: robustness.certified_accuracy(
    radius, correct, radii=radii, where=where
  ),
  *_METRIC,
  ("radii", ValueError, "radii must be >= 0", {"radii": [-1.0]}),
)


def _train(
  function, apply_fn=lambda params, x: x @ params, x=None, labels=None, key=None, **options
):
  return function(
    apply_fn,
    jnp.eye(3),
    jnp.zeros((2, 3)) if x is None else x,
    jnp.zeros(2, jnp.int32) if labels is None else labels,
    jax.random.key(0) if key is None else key,
    **{"sigma": 0.5, **options},
  )


_TRAINING = [
  ("apply_fn", TypeError, "apply_fn must be callable", {"apply_fn": None}),
  ("loss", TypeError, "loss must be callable", {"loss": None}),
  (
    "loss shape",
    ValueError,
    "loss must return one number a row",
    {"loss": lambda z, y, where: 1.0},
  ),
  ("dtype", TypeError, "x must be a floating-point", {"x": jnp.zeros((2, 3), complex)}),
  ("empty", ValueError, "x must not be empty", {"x": jnp.zeros((0, 3))}),
  ("labels shape", ValueError, "labels must have shape", {"labels": jnp.zeros(3, int)}),
  ("labels range", ValueError, "labels must lie in", {"labels": jnp.array([0, 3])}),
  ("key", TypeError, "key must be a typed key", {"key": 0}),
  ("sigma", ValueError, "sigma must be >= 0", {"sigma": -0.1}),
  ("sigma shape", ValueError, "sigma must be a scalar or have shape", {"sigma": jnp.ones(3)}),
  ("num_copies", ValueError, "num_copies must be at least 1", {"num_copies": 0}),
  ("scores", ValueError, "apply_fn must return scores", {"apply_fn": lambda params, x: x[0]}),
  ("where", TypeError, "where must be a boolean mask", {"where": jnp.ones(2)}),
]
_add(
  "gaussian_augmentation_loss",
  functools.partial(_train, robustness.gaussian_augmentation_loss),
  *_TRAINING,
)
_add(
  "consistency_smoothing_loss",
  functools.partial(_train, robustness.consistency_smoothing_loss),
  *_TRAINING,
  ("kl_weight", ValueError, "kl_weight must be >= 0", {"kl_weight": -1.0}),
  ("entropy_weight", ValueError, "entropy_weight must be >= 0", {"entropy_weight": -1.0}),
)
