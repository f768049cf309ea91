"""Public names and bad inputs of the similarity-distance-magnitude estimator."""

import jax
import jax.numpy as jnp

from jaxopt_robust import calibration
from tests.helpers import BadInput

COVERED = {
  "ClassEcdf",
  "SdmEstimate",
  "SdmModel",
  "class_ecdf",
  "class_ecdf_fit",
  "distance_quantiles",
  "dkw_epsilon",
  "nearest_agreement",
  "sdm_activation",
  "sdm_estimate",
  "sdm_fit",
  "sdm_loss",
}

_X = jnp.arange(12.0).reshape(6, 2)
_Y = jnp.array([0, 1, 0, 1, 0, 1])
_ECDF = calibration.ClassEcdf(jnp.zeros((2, 3)), jnp.zeros(2, jnp.int32))
_Z = jnp.zeros((6, 2))


def _bad(name, what, call, error, match):
  return BadInput(f"calibration.{name}", what, call, error, match)


def _near(x=_X, labels=_Y, references=_X, **options):
  options = {
    "predictions": labels, "reference_predictions": _Y, "reference_labels": _Y, **options
  }  # fmt: skip
  return lambda: calibration.nearest_agreement(x, references, **options)


def _ecdf(values=_X[:, 0], labels=_Y, **options):
  return lambda: calibration.class_ecdf_fit(values, labels, **{"num_classes": 2, **options})


def _loss(logits=_Z, labels=_Y, similarity=1.0, distance=1.0, **options):
  return lambda: calibration.sdm_loss(
    logits, labels, similarity=similarity, distance=distance, **options
  )


def _activation(similarity, distance):
  return calibration.sdm_activation(_Z, similarity=similarity, distance=distance)


def _fit(x=_X, labels=_Y, key=None, **options):
  options = {"num_classes": 2, "width": 2, "num_rounds": 1, "num_epochs": 1, **options}
  return lambda: calibration.sdm_fit(
    x, labels, jax.random.key(0) if key is None else key, **options
  )


BAD_INPUTS = [
  _bad(*case)
  for case in [
    ("nearest_agreement", "rank", _near(_X[0]), ValueError, "queries must have rank 2"),
    ("nearest_agreement", "features", _near(_X[:, :1]), ValueError, "references must have 1 feat"),
    ("nearest_agreement", "labels", _near(labels=_Y[:2]), ValueError, "predictions must have shap"),
    ("nearest_agreement", "dtype", _near(labels=_X[:, 0]), TypeError, "predictions must hold"),
    ("nearest_agreement", "limit", _near(max_similarity=0), ValueError, "max_similarity must be"),
    ("nearest_agreement", "block", _near(block_size=0), ValueError, "block_size must be"),
    (
      "nearest_agreement", "self", _near(_X[:2], _Y[:2], exclude_self=True), ValueError,
      "exclude_self needs queries that are the references",
    ),
    ("class_ecdf_fit", "columns", _ecdf(jnp.ones((6, 3))), ValueError, "values must have 2 colum"),
    ("class_ecdf_fit", "labels", _ecdf(labels=_Y + 1), ValueError, "labels must lie in"),
    ("class_ecdf_fit", "mask", _ecdf(where=_Y), TypeError, "where must be a boolean"),
    ("class_ecdf_fit", "classes", _ecdf(num_classes=0), ValueError, "num_classes must be at lea"),
    (
      "class_ecdf", "state", lambda: calibration.class_ecdf(_X, _X), TypeError,
      "ecdf must be a ClassEcdf",
    ),
    (
      "class_ecdf", "classes", lambda: calibration.class_ecdf(_ECDF, _X[:, :1]), ValueError,
      "values must have 2 classes",
    ),
    (
      "distance_quantiles", "state", lambda: calibration.distance_quantiles(_X, _X), TypeError,
      "ecdf must be a ClassEcdf",
    ),
    (
      "sdm_activation", "similarity", lambda: _activation(-1.0, 1.0), ValueError,
      "similarity must be > -1",
    ),
    (
      "sdm_activation", "distance", lambda: _activation(1.0, 1.5), ValueError,
      "distance must be in",
    ),
    (
      "sdm_activation", "shape", lambda: _activation(jnp.ones(2), 1.0),
      ValueError, "similarity must be a scalar or have shape",
    ),
    ("sdm_loss", "rank", _loss(_Z[0]), ValueError, "logits must have rank 2"),
    ("sdm_loss", "labels", _loss(labels=_Y + 1), ValueError, "labels must lie in"),
    ("sdm_loss", "mask", _loss(where=_Y), TypeError, "where must be a boolean"),
    (
      "dkw_epsilon", "count", lambda: calibration.dkw_epsilon(-1), ValueError, "count must",
    ),
    (
      "dkw_epsilon", "level", lambda: calibration.dkw_epsilon(3, level=1.0), ValueError,
      "level must be in",
    ),
    ("sdm_fit", "rank", _fit(_X[0]), ValueError, "features must have rank 2"),
    ("sdm_fit", "one", _fit(_X[:1], _Y[:1]), ValueError, "features must hold at least two"),
    ("sdm_fit", "labels", _fit(labels=_Y + 1), ValueError, "labels must lie in"),
    ("sdm_fit", "key", _fit(key=0), TypeError, "key must be a typed key"),
    ("sdm_fit", "level", _fit(level=0.5), ValueError, "level must be in"),
    ("sdm_fit", "rate", _fit(learning_rate=0.0), ValueError, "learning_rate must be > 0"),
    ("sdm_fit", "rounds", _fit(num_rounds=0), ValueError, "num_rounds must be at least 1"),
    ("sdm_fit", "width", _fit(width=2.0), TypeError, "width must be a static Python integer"),
    (
      "sdm_estimate", "state", lambda: calibration.sdm_estimate(_ECDF, _X), TypeError,
      "model must be a SdmModel",
    ),
    (
      "sdm_estimate", "features", lambda: calibration.sdm_estimate(_fit()(), _X[:, :1]), ValueError,
      "features must have 2 columns",
    ),
  ]
]  # fmt: skip
