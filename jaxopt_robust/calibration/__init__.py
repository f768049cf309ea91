"""Do predicted probabilities match frequencies? Errors, recalibration maps, prediction sets."""

from jaxopt_robust._deprecations import (
  install_getattr,
)
from jaxopt_robust.calibration.binning import (
  HistogramMap,
  IsotonicMap,
  histogram_apply,
  histogram_fit,
  isotonic_apply,
  isotonic_fit,
)
from jaxopt_robust.calibration.conformal import (
  aps_scores,
  conformal_quantile,
  label_scores,
  lac_scores,
  prediction_sets,
  raps_scores,
)
from jaxopt_robust.calibration.debiased_metrics import (
  debiased_calibration_error,
  ks_calibration_error,
  sweep_calibration_error,
)
from jaxopt_robust.calibration.ensembles import (
  TemperatureMixture,
  ensemble_temperature_apply,
  ensemble_temperature_init,
)
from jaxopt_robust.calibration.generative_heads import (
  LinearHead,
  NaiveBayesStats,
  linear_head_logits,
  logistic_head,
  naive_bayes_head,
  naive_bayes_init,
  naive_bayes_merge,
  naive_bayes_update,
)
from jaxopt_robust.calibration.h_calibration import (
  RecalibrationInfo,
  h_calibration_loss,
  recalibrate,
)
from jaxopt_robust.calibration.kernel_metrics import (
  dirichlet_calibration_error,
  maximum_mean_calibration_error,
  squared_kernel_calibration_error,
)
from jaxopt_robust.calibration.likelihood import (
  likelihood_fit,
)
from jaxopt_robust.calibration.metrics import (
  ReliabilityBins,
  average_calibration_error,
  classwise_calibration_error,
  expected_calibration_error,
  maximum_calibration_error,
  reliability_bins,
  root_mean_square_calibration_error,
)
from jaxopt_robust.calibration.monotone import (
  MonotoneNetwork,
  monotone_network_apply,
  monotone_network_init,
  piecewise_linear_apply,
  piecewise_linear_init,
)
from jaxopt_robust.calibration.neighborhoods import (
  neighbor_prior,
  spatial_kernel,
)
from jaxopt_robust.calibration.scaling import (
  AffineMap,
  matrix_apply,
  matrix_fit,
  temperature_apply,
  temperature_fit,
  vector_apply,
  vector_fit,
)
from jaxopt_robust.calibration.scoring import (
  brier_score,
  negative_log_likelihood,
)
from jaxopt_robust.calibration.sdm import (
  SdmEstimate,
  SdmModel,
  dkw_epsilon,
  sdm_estimate,
  sdm_fit,
)
from jaxopt_robust.calibration.sdm_activation import (
  ClassEcdf,
  class_ecdf,
  class_ecdf_fit,
  distance_quantiles,
  nearest_agreement,
  sdm_activation,
  sdm_loss,
)
from jaxopt_robust.calibration.segmentation import (
  confidence_penalty_loss,
  focal_loss,
  foreground_calibration_error,
  label_smoothing_loss,
  mbls_loss,
  nacl_loss,
  svls_loss,
)

__all__ = [
  "AffineMap",
  "ClassEcdf",
  "HistogramMap",
  "IsotonicMap",
  "LinearHead",
  "MonotoneNetwork",
  "NaiveBayesStats",
  "RecalibrationInfo",
  "ReliabilityBins",
  "SdmEstimate",
  "SdmModel",
  "TemperatureMixture",
  "aps_scores",
  "average_calibration_error",
  "brier_score",
  "class_ecdf",
  "class_ecdf_fit",
  "classwise_calibration_error",
  "confidence_penalty_loss",
  "conformal_quantile",
  "debiased_calibration_error",
  "dirichlet_calibration_error",
  "distance_quantiles",
  "dkw_epsilon",
  "ensemble_temperature_apply",
  "ensemble_temperature_init",
  "expected_calibration_error",
  "focal_loss",
  "foreground_calibration_error",
  "h_calibration_loss",
  "histogram_apply",
  "histogram_fit",
  "isotonic_apply",
  "isotonic_fit",
  "ks_calibration_error",
  "label_scores",
  "label_smoothing_loss",
  "lac_scores",
  "likelihood_fit",
  "linear_head_logits",
  "logistic_head",
  "matrix_apply",
  "matrix_fit",
  "maximum_calibration_error",
  "maximum_mean_calibration_error",
  "mbls_loss",
  "monotone_network_apply",
  "monotone_network_init",
  "nacl_loss",
  "naive_bayes_head",
  "naive_bayes_init",
  "naive_bayes_merge",
  "naive_bayes_update",
  "nearest_agreement",
  "negative_log_likelihood",
  "neighbor_prior",
  "piecewise_linear_apply",
  "piecewise_linear_init",
  "prediction_sets",
  "raps_scores",
  "recalibrate",
  "reliability_bins",
  "root_mean_square_calibration_error",
  "sdm_activation",
  "sdm_estimate",
  "sdm_fit",
  "sdm_loss",
  "spatial_kernel",
  "squared_kernel_calibration_error",
  "svls_loss",
  "sweep_calibration_error",
  "temperature_apply",
  "temperature_fit",
  "vector_apply",
  "vector_fit",
]

install_getattr(__name__)
