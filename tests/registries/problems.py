"""Problem generators and their bad inputs."""

import jax
import jax.numpy as jnp

from jaxopt_robust import problems
from tests.helpers import BadInput

COVERED = {
  "DriftingStream",
  "LowRankTruth",
  "MixtureTruth",
  "NoisyLabels",
  "Problem",
  "ShiftedGaussiansTruth",
  "SparseTruth",
  "gaussian_accuracy",
  "make_class_dependent_label_noise",
  "make_drifting_stream",
  "make_low_rank_sensing",
  "make_shifted_gaussians",
  "make_sparse_regression",
  "make_spectral_mixture",
  "make_uniform_label_noise",
}

_KEY = jax.random.key(0)
_LABELS = jnp.array([0, 1, 2])

# name -> maker(key); what they return is a Problem whose objective is known at the truth.
PROBLEMS = {
  "low_rank_psd": lambda key: problems.make_low_rank_sensing(
    key, num_measurements=60, rows=5, rank=2, condition=3.0
  ),
  "low_rank_general": lambda key: problems.make_low_rank_sensing(
    key, num_measurements=60, rows=5, cols=3, rank=2, outlier_rate=0.3, outlier_scale=10.0
  ),
  "sparse_regression": lambda key: problems.make_sparse_regression(
    key, num_samples=30, num_features=8, num_active=3, noise=0.0
  ),
}


def _low_rank(**changes):
  settings = {"num_measurements": 4, "rows": 3, "rank": 1} | changes
  return lambda: problems.make_low_rank_sensing(_KEY, **settings)


def _regression(**changes):
  settings = {"num_samples": 4, "num_features": 3, "num_active": 1} | changes
  return lambda: problems.make_sparse_regression(_KEY, **settings)


def _noise_cases(name):
  function = getattr(problems, name)
  public = f"problems.{name}"

  def call(key=_KEY, labels=_LABELS, num_classes=3, rate=0.5):
    return lambda: function(key, labels, num_classes=num_classes, rate=rate)

  return [
    BadInput(public, "rate", call(rate=1.5), ValueError, "rate must be in"),
    BadInput(public, "dtype", call(labels=jnp.ones(3)), TypeError, "integer class indices"),
    BadInput(public, "value", call(num_classes=2), ValueError, r"must lie in \[0, 2\)"),
    BadInput(public, "empty", call(labels=jnp.zeros(0, jnp.int32)), ValueError, "empty"),
    BadInput(public, "key", call(key=3), TypeError, "typed key"),
    BadInput(public, "classes", call(num_classes=1), ValueError, "at least 2"),
  ]


BAD_INPUTS: list[BadInput] = [
  BadInput("problems.make_low_rank_sensing", "rank", _low_rank(rank=4), ValueError, "at most 3"),
  BadInput(
    "problems.make_low_rank_sensing", "condition", _low_rank(condition=0.5), ValueError, "condition"
  ),
  BadInput(
    "problems.make_low_rank_sensing",
    "rate",
    _low_rank(outlier_rate=2.0),
    ValueError,
    "outlier_rate",
  ),
  BadInput(
    "problems.make_low_rank_sensing",
    "dtype",
    _low_rank(dtype=jnp.bfloat16),
    TypeError,
    "float32 or",
  ),
  BadInput(
    "problems.make_low_rank_sensing",
    "size",
    _low_rank(rows=2.5),
    TypeError,
    "static Python integer",
  ),
  BadInput(
    "problems.make_sparse_regression",
    "active",
    _regression(num_active=4),
    ValueError,
    "at most num",
  ),
  BadInput(
    "problems.make_sparse_regression",
    "correlation",
    _regression(correlation=1.0),
    ValueError,
    "correlation",
  ),
  BadInput(
    "problems.make_sparse_regression", "noise", _regression(noise=-1.0), ValueError, "noise"
  ),
  *(
    BadInput(
      "problems.make_spectral_mixture",
      what,
      lambda changes=changes: problems.make_spectral_mixture(_KEY, **changes),
      ValueError,
      match,
    )
    for what, changes, match in (
      ("side", {"side": 0}, "side must be at least 1"),
      ("rate", {"outlier_rate": 1.5}, "outlier_rate must be"),
      ("sharpness", {"sharpness": 3.0}, "sharpness must be a pair"),
      ("spectra", {"spectra": jnp.ones(3)}, "spectra must have rank 2"),
    )
  ),
  *(
    BadInput(
      "problems.make_drifting_stream",
      what,
      lambda changes=changes: problems.make_drifting_stream(
        **({"key": _KEY, "num_batches": 2, "batch": 2} | changes)
      ),
      error,
      match,
    )
    for what, changes, error, match in (
      ("key", {"key": 0}, TypeError, "key must be a typed key"),
      ("batches", {"num_batches": 0}, ValueError, "num_batches must be at least 1"),
      ("batch", {"batch": 2.0}, TypeError, "batch must be a static"),
      ("separation", {"separation": -1.0}, ValueError, "separation must be"),
      ("shift", {"shift": jnp.ones(2)}, ValueError, "shift must be a scalar"),
      ("drift", {"drift": "gradully"}, ValueError, "Did you mean 'gradual'"),
    )
  ),
  *(
    BadInput(
      "problems.make_shifted_gaussians",
      what,
      lambda changes=changes: problems.make_shifted_gaussians(
        _KEY, **{"num_labeled": 2, "num_unlabeled": 2, "dimension": 3} | changes
      ),
      ValueError,
      match,
    )
    for what, changes, match in (
      ("size", {"num_labeled": 0}, "num_labeled must be at least 1"),
      ("shift", {"shift": -1.0}, "shift must be >= 0"),
      ("noise", {"noise": jnp.ones(2)}, "noise must be a scalar"),
    )
  ),
  *(
    BadInput(
      "problems.gaussian_accuracy",
      what,
      lambda mean=mean, noise=noise: problems.gaussian_accuracy(jnp.ones(2), mean, noise=noise),
      ValueError,
      match,
    )
    for what, mean, noise, match in (
      ("shape", jnp.ones(3), 1.0, "must have equal shapes"),
      ("noise", jnp.ones(2), 0.0, "noise must be > 0"),
    )
  ),
  *_noise_cases("make_uniform_label_noise"),
  *_noise_cases("make_class_dependent_label_noise"),
  BadInput(
    "problems.make_class_dependent_label_noise",
    "partner",
    lambda: problems.make_class_dependent_label_noise(
      _KEY, _LABELS, num_classes=3, rate=0.5, partner=jnp.array([1, 2])
    ),
    ValueError,
    "partner must have shape",
  ),
]
