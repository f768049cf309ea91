"""Calibration: what is covered, and calls that must fail."""

import jax
import jax.numpy as jnp

from jaxopt_robust import calibration
from tests.helpers import BadInput

_PROBS = jnp.array([[0.5, 0.5], [0.25, 0.75], [1.0, 0.0]])
_LABELS = jnp.array([0, 1, 0])
_LOGITS = jnp.array([[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]])

TOP_LABEL = (
  calibration.reliability_bins,
  calibration.expected_calibration_error,
  calibration.maximum_calibration_error,
  calibration.average_calibration_error,
  calibration.root_mean_square_calibration_error,
)
WITH_BINS = (
  *TOP_LABEL,
  calibration.classwise_calibration_error,
  calibration.debiased_calibration_error,
  calibration.histogram_fit,
)
WITH_BANDWIDTH = (
  calibration.maximum_mean_calibration_error,
  calibration.squared_kernel_calibration_error,
  calibration.dirichlet_calibration_error,
)
OF_PROBS = (
  *WITH_BINS,
  *WITH_BANDWIDTH,
  calibration.sweep_calibration_error,
  calibration.ks_calibration_error,
  calibration.brier_score,
  calibration.negative_log_likelihood,
  calibration.isotonic_fit,
  calibration.h_calibration_loss,
)
FITS = (calibration.temperature_fit, calibration.vector_fit, calibration.matrix_fit)
APPLY = {
  calibration.temperature_apply: jnp.ones(()),
  calibration.vector_apply: calibration.AffineMap(jnp.ones(2), jnp.zeros(2)),
  calibration.matrix_apply: calibration.AffineMap(jnp.eye(2), jnp.zeros(2)),
  calibration.ensemble_temperature_apply: calibration.TemperatureMixture(jnp.ones(2), jnp.ones(2)),
  calibration.piecewise_linear_apply: jnp.ones(3),
  calibration.monotone_network_apply: calibration.MonotoneNetwork(
    (jnp.ones((1, 2)), jnp.eye(2), jnp.ones((2, 1))),
    (jnp.zeros(2), jnp.zeros(2), jnp.zeros(1)),
    jnp.zeros(()),
    jnp.ones(()),
  ),
}
SEGMENTATION = {  # by pixels, and what else a call needs
  calibration.nacl_loss: True,
  calibration.svls_loss: True,
  calibration.mbls_loss: False,
  calibration.label_smoothing_loss: False,
  calibration.focal_loss: False,
  calibration.confidence_penalty_loss: False,
}
_PIXELS = jnp.zeros((1, 2, 3))
_MAP = jnp.zeros((1, 2), int)
COVERED = {
  *(fn.__name__ for fn in (*OF_PROBS, *FITS, *APPLY, *SEGMENTATION)),
  "foreground_calibration_error",
  "neighbor_prior",
  "spatial_kernel",
  "AffineMap",
  "HistogramMap",
  "IsotonicMap",
  "MonotoneNetwork",
  "ReliabilityBins",
  "TemperatureMixture",
  "aps_scores",
  "conformal_quantile",
  "ensemble_temperature_init",
  "histogram_apply",
  "isotonic_apply",
  "label_scores",
  "lac_scores",
  "likelihood_fit",
  "monotone_network_init",
  "piecewise_linear_init",
  "prediction_sets",
  "raps_scores",
  "RecalibrationInfo",
  "recalibrate",
}


def _bad(fn, what, error, match, *args, **kwargs):
  name = f"calibration.{fn.__name__}"
  return BadInput(name, what, lambda: fn(*args, **kwargs), error, match)


BAD_INPUTS = []
for _fn in OF_PROBS:
  BAD_INPUTS += [
    _bad(_fn, "rank", ValueError, "probs must have rank", jnp.zeros((1, 1, 2)), jnp.zeros(1, int)),
    _bad(_fn, "dtype", TypeError, "probs must be a floating-point", _PROBS + 0j, _LABELS),
    _bad(_fn, "classes", ValueError, "at least two classes", _PROBS[:, :1], _LABELS),
    _bad(_fn, "logits", ValueError, "probabilities in .0, 1.; got other", 5 * _PROBS, _LABELS),
    _bad(_fn, "sums", ValueError, "rows that sum to 1", 0.5 * _PROBS, _LABELS),
    _bad(_fn, "nan", ValueError, "probabilities in .0, 1.", jnp.nan * _PROBS, _LABELS),
    _bad(_fn, "empty", ValueError, "probs must not be empty", _PROBS[:0], _LABELS[:0]),
    _bad(_fn, "labels", ValueError, "labels must lie in", _PROBS, _LABELS + 1),
    _bad(_fn, "labels shape", ValueError, "labels must have shape", _PROBS, _LABELS[:2]),
    _bad(_fn, "mask", TypeError, "where must be a boolean", _PROBS, _LABELS, where=jnp.ones(3)),
  ]
for _fn in WITH_BINS:
  BAD_INPUTS.append(
    _bad(_fn, "bins", ValueError, "num_bins must be at least 1", _PROBS, _LABELS, num_bins=0)
  )
for _fn in (*TOP_LABEL, calibration.classwise_calibration_error, calibration.histogram_fit):
  BAD_INPUTS.append(
    _bad(_fn, "binning", ValueError, "binning must be one of", _PROBS, _LABELS, binning="ranks")
  )
for _fn in WITH_BANDWIDTH:
  BAD_INPUTS.append(
    _bad(_fn, "bandwidth", ValueError, "bandwidth must be > 0", _PROBS, _LABELS, bandwidth=0.0)
  )
for _fn in FITS:
  BAD_INPUTS += [
    _bad(_fn, "rank", ValueError, "logits must have rank 2", _LOGITS[0], _LABELS),
    _bad(_fn, "classes", ValueError, "at least two classes", _LOGITS[:, :1], _LABELS),
    _bad(_fn, "labels", ValueError, "labels must lie in", _LOGITS, _LABELS + 1),
    _bad(_fn, "mask", TypeError, "where must be a boolean", _LOGITS, _LABELS, where=jnp.ones(3)),
    _bad(_fn, "tol", ValueError, "tol must be a scalar >= 0|tol must be >= 0", _LOGITS, _LABELS,
         tol=-1.0),
  ]  # fmt: skip
for _fn, _params in APPLY.items():
  BAD_INPUTS += [
    _bad(_fn, "dtype", TypeError, "logits must be a floating-point", _params, _LOGITS + 0j),
    _bad(_fn, "one class", ValueError, "at least two classes", _params, _LOGITS[:, :1]),
  ]
for _fn in (calibration.vector_apply, calibration.matrix_apply):
  BAD_INPUTS += [
    _bad(_fn, "params", TypeError, "params must be an AffineMap", jnp.ones(2), _LOGITS),
    _bad(_fn, "classes", ValueError, "logits must have the 2 classes", APPLY[_fn], jnp.eye(3)),
    _bad(_fn, "parts", ValueError, "params must have a weight of shape",
         APPLY[_fn]._replace(bias=jnp.zeros(3)), _LOGITS),
  ]  # fmt: skip
_HISTOGRAM = calibration.HistogramMap(jnp.full((2, 1), 0.5), jnp.ones((2, 2)), jnp.ones((2, 2)))
_ISOTONIC = calibration.IsotonicMap(jnp.ones((2, 3)), jnp.ones((2, 3)))
for _fn, _params in (
  (calibration.histogram_apply, _HISTOGRAM),
  (calibration.isotonic_apply, _ISOTONIC),
):
  BAD_INPUTS += [
    _bad(_fn, "params", TypeError, "params must be a", None, _PROBS),
    _bad(_fn, "probs", ValueError, "probabilities in .0, 1.", _params, 5 * _PROBS),
    _bad(_fn, "classes", ValueError, "probs must have the classes", _params, jnp.eye(3)),
  ]
for _fn in (calibration.lac_scores, calibration.aps_scores, calibration.raps_scores):
  BAD_INPUTS += [
    _bad(_fn, "rank", ValueError, "probs must have rank 2", _PROBS[0]),
    _bad(_fn, "classes", ValueError, "at least two classes", _PROBS[:, :1]),
    _bad(_fn, "probs", ValueError, "probabilities in .0, 1.", 5 * _PROBS),
  ]
for _fn, _has_space in SEGMENTATION.items():
  BAD_INPUTS += [
    _bad(_fn, "dtype", TypeError, "logits must be a floating-point", _PIXELS + 0j, _MAP),
    _bad(_fn, "one class", ValueError, "at least two classes", _PIXELS[..., :1], _MAP),
    _bad(_fn, "labels", ValueError, "labels must lie in", _PIXELS, _MAP + 3),
    _bad(_fn, "labels shape", ValueError, "labels must have shape", _PIXELS, _MAP[:, :1]),
    _bad(_fn, "mask", TypeError, "where must be a boolean", _PIXELS, _MAP, where=jnp.ones((1, 2))),
  ]
  if _has_space:
    BAD_INPUTS += [
      _bad(_fn, "space", ValueError, "logits must have a batch axis", _PIXELS[0], _MAP[0]),
      _bad(_fn, "kernel", ValueError, "labels must have a batch axis", _PIXELS, _MAP,
           kernel=jnp.ones((3, 3))),
      _bad(_fn, "even", ValueError, "kernel must have odd sizes", _PIXELS, _MAP,
           kernel=jnp.ones(2)),
      _bad(_fn, "padding", ValueError, "padding must be one of", _PIXELS, _MAP, padding="same"),
    ]  # fmt: skip
_MIXTURE = APPLY[calibration.ensemble_temperature_apply]
BAD_INPUTS += [
  _bad(calibration.nacl_loss, "weight", ValueError, "weight must be >= 0", _PIXELS, _MAP,
       weight=-1.0),
  _bad(calibration.nacl_loss, "norm", ValueError, "norm must be one of", _PIXELS, _MAP, norm="l3"),
  _bad(calibration.nacl_loss, "on", ValueError, "on must be one of", _PIXELS, _MAP, on="softmax"),
  _bad(calibration.mbls_loss, "margin", ValueError, "margin must be >= 0", _PIXELS, _MAP,
       margin=-1.0),
  _bad(calibration.label_smoothing_loss, "smoothing", ValueError, "smoothing must be", _PIXELS,
       _MAP, smoothing=1.5),
  _bad(calibration.focal_loss, "gamma", ValueError, "gamma must be >= 0", _PIXELS, _MAP,
       gamma=-1.0),
  _bad(calibration.confidence_penalty_loss, "weight", ValueError, "weight must be >= 0", _PIXELS,
       _MAP, weight=-1.0),
  _bad(calibration.foreground_calibration_error, "rank", ValueError, "probs must have rank",
       _PIXELS[0], _MAP[0]),
  _bad(calibration.foreground_calibration_error, "logits", ValueError, "probabilities in .0, 1.",
       _PIXELS + 3, _MAP),
  _bad(calibration.foreground_calibration_error, "bins", ValueError, "num_bins must be at least 1",
       _PIXELS + 1 / 3, _MAP, num_bins=0),
  _bad(calibration.spatial_kernel, "kind", ValueError, "kind must be one of", "box"),
  _bad(calibration.spatial_kernel, "size", ValueError, "size must be odd", size=4),
  _bad(calibration.spatial_kernel, "sigma", ValueError, "sigma must be > 0", sigma=0.0),
  _bad(calibration.neighbor_prior, "classes", ValueError, "num_classes must be at least 2", _MAP,
       jnp.ones(3), num_classes=1),
  _bad(calibration.neighbor_prior, "kernel", ValueError, "kernel must be >= 0", _MAP,
       -jnp.ones(3), num_classes=2),
  _bad(calibration.h_calibration_loss, "window", ValueError, "window must be even", _PROBS, _LABELS,
       window=3),
  _bad(calibration.h_calibration_loss, "weighting", ValueError, "weighting must be one of", _PROBS,
       _LABELS, weighting="bins"),
  _bad(calibration.h_calibration_loss, "clusters", ValueError, "num_clusters must be at least 1",
       _PROBS, _LABELS, num_clusters=0),
  _bad(calibration.h_calibration_loss, "tolerance", ValueError, "tolerance must be >= 0", _PROBS,
       _LABELS, tolerance=-1.0),
  _bad(calibration.h_calibration_loss, "scale", ValueError, "scale must be > 0", _PROBS, _LABELS,
       scale=0.0),
  _bad(calibration.recalibrate, "apply_fn", TypeError, "apply_fn must be callable", None,
       jnp.ones(()), _LOGITS, _LABELS),
  _bad(calibration.recalibrate, "loss", TypeError, "loss must be callable",
       calibration.temperature_apply, jnp.ones(()), _LOGITS, _LABELS, loss=None),
  _bad(calibration.recalibrate, "optimizer", TypeError, "optimizer must be an optax",
       calibration.temperature_apply, jnp.ones(()), _LOGITS, _LABELS, optimizer="adam"),
  _bad(calibration.recalibrate, "num_steps", ValueError, "num_steps must be at least 1",
       calibration.temperature_apply, jnp.ones(()), _LOGITS, _LABELS, num_steps=0),
  _bad(calibration.classwise_calibration_error, "reduction", ValueError, "reduction must be one of",
       _PROBS, _LABELS, reduction="average"),
  _bad(calibration.classwise_calibration_error, "threshold", ValueError, "threshold must be",
       _PROBS, _LABELS, threshold=2.0),
  _bad(calibration.sweep_calibration_error, "max_bins", ValueError, "max_bins must be at least 1",
       _PROBS, _LABELS, max_bins=0),
  _bad(calibration.matrix_fit, "off_diagonal", ValueError, "off_diagonal must be >= 0", _LOGITS,
       _LABELS, off_diagonal=-1.0),
  _bad(calibration.temperature_apply, "params", ValueError, "params must be >= 0", -1.0, _LOGITS),
  _bad(calibration.ensemble_temperature_apply, "params", TypeError, "must be a TemperatureMixture",
       None, _LOGITS),
  _bad(calibration.ensemble_temperature_apply, "parts", ValueError, "equal shapes",
       _MIXTURE._replace(scale=jnp.ones(3)), _LOGITS),
  _bad(calibration.ensemble_temperature_init, "key", TypeError, "key must be a typed key", 0),
  _bad(calibration.ensemble_temperature_init, "size", ValueError, "num_members must be at least 1",
       jax.random.key(0), num_members=0),
  _bad(calibration.piecewise_linear_init, "size", ValueError, "num_segments must be at least 1",
       num_segments=0),
  _bad(calibration.piecewise_linear_apply, "span", ValueError, "span must be > 0", jnp.ones(3),
       _LOGITS, span=0.0),
  _bad(calibration.monotone_network_init, "key", TypeError, "key must be a typed key", 0, _LOGITS),
  _bad(calibration.monotone_network_init, "rank", ValueError, "logits must have rank 2",
       jax.random.key(0), _LOGITS[0]),
  _bad(calibration.monotone_network_apply, "params", TypeError, "must be a MonotoneNetwork", None,
       _LOGITS),
  _bad(calibration.monotone_network_apply, "steps", ValueError, "num_steps must be even",
       APPLY[calibration.monotone_network_apply], _LOGITS, num_steps=3),
  _bad(calibration.likelihood_fit, "apply_fn", TypeError, "apply_fn must be callable", None,
       jnp.ones(()), _LOGITS, _LABELS),
  _bad(calibration.likelihood_fit, "labels", ValueError, "labels must lie in",
       calibration.temperature_apply, jnp.ones(()), _LOGITS, _LABELS + 1),
  _bad(calibration.label_scores, "labels", ValueError, "labels must lie in", _PROBS, _LABELS + 1),
  _bad(calibration.conformal_quantile, "rank", ValueError, "scores must have rank 1", _PROBS,
       alpha=0.1),
  _bad(calibration.conformal_quantile, "alpha", ValueError, "alpha must be in", _PROBS[0],
       alpha=1.0),
  _bad(calibration.prediction_sets, "rank", ValueError, "scores must have rank 2", _PROBS[0], 0.5),
  _bad(calibration.prediction_sets, "threshold", ValueError, "threshold must have rank 0", _PROBS,
       jnp.ones(2)),
  _bad(calibration.raps_scores, "penalty", ValueError, "penalty must be >= 0", _PROBS,
       penalty=-1.0),
]  # fmt: skip
