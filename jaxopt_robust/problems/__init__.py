"""Generators of test problems: data, truth and objective from a key."""

from jaxopt_robust._deprecations import install_getattr
from jaxopt_robust.problems.low_rank import LowRankTruth, make_low_rank_sensing
from jaxopt_robust.problems.mixtures import MixtureTruth, make_spectral_mixture
from jaxopt_robust.problems.noisy_labels import (
  NoisyLabels,
  make_class_dependent_label_noise,
  make_uniform_label_noise,
)
from jaxopt_robust.problems.shifted_gaussians import (
  ShiftedGaussiansTruth,
  gaussian_accuracy,
  make_shifted_gaussians,
)
from jaxopt_robust.problems.sparse_regression import SparseTruth, make_sparse_regression
from jaxopt_robust.problems.streams import DriftingStream, make_drifting_stream
from jaxopt_robust.problems.types import Problem

__all__ = [
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
]

install_getattr(__name__)
