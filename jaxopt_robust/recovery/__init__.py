"""Recovery of low-rank matrices and mixed spectra from noisy, grossly corrupted measurements."""

from jaxopt_robust._deprecations import install_getattr
from jaxopt_robust.recovery.automatic import SubgmSchedule, robust_recover, subgm_schedule
from jaxopt_robust.recovery.completion._common import (
  CompletionInfo,
  CompletionState,
  CompletionTrace,
)
from jaxopt_robust.recovery.completion.altmin import (
  als_complete,
  alternating_least_squares,
  altmin_complete,
)
from jaxopt_robust.recovery.completion.biases import Biases, biased_baseline
from jaxopt_robust.recovery.completion.lmafit import lmafit, lmafit_complete
from jaxopt_robust.recovery.completion.lstsq import coo_lstsq
from jaxopt_robust.recovery.completion.riemannian import riemannian_complete, riemannian_completion
from jaxopt_robust.recovery.completion.scaled import (
  scaled_gradient_complete,
  scaled_gradient_completion,
)
from jaxopt_robust.recovery.completion.soft_impute import (
  soft_impute,
  soft_impute_factored,
  soft_impute_path,
)
from jaxopt_robust.recovery.completion.start import entry_spectral
from jaxopt_robust.recovery.completion.weights import huber_weights, trimmed_weights
from jaxopt_robust.recovery.corruption import (
  Corrupted,
  bernoulli_outliers,
  fixed_count_outliers,
  gaussian_noise,
  li_outliers,
  mixed_noise,
  replace_outliers,
  scaledsm_outliers,
  sign_flip_outliers,
)
from jaxopt_robust.recovery.entries import EntryCOO, EntryMask, Identity, make_entry_mask
from jaxopt_robust.recovery.factors import Factors, compose
from jaxopt_robust.recovery.gaussian import (
  GaussianSensing,
  KeyedGaussianSensing,
  make_gaussian_sensing,
  make_keyed_gaussian_sensing,
)
from jaxopt_robust.recovery.initial import (
  alpha_identity,
  growth_factor,
  mask_spectral,
  median_truncated_spectral,
  random_small,
  sign_spectral,
  truncated_spectral,
)
from jaxopt_robust.recovery.low_rank_plus_sparse._common import (
  LowRankSparse,
  RobustPcaInfo,
  SplitInfo,
)
from jaxopt_robust.recovery.low_rank_plus_sparse.convex import (
  PcpInfo,
  PcpState,
  pcp_admm,
  pcp_ialm,
  robust_pca,
)
from jaxopt_robust.recovery.low_rank_plus_sparse.factored import (
  ScaledGdState,
  l1_robust_pca,
  scaledgd_rpca,
  top_rows_and_columns,
)
from jaxopt_robust.recovery.low_rank_plus_sparse.projections import AccAltProjState, acc_alt_proj
from jaxopt_robust.recovery.metrics import (
  factor_imbalance,
  incoherence,
  principal_angle,
  procrustes_dist,
  rel_err,
  sign_rip_gap,
  sign_rip_phi,
  sign_rip_phi_gaussian,
  support_f1,
)
from jaxopt_robust.recovery.operators import AdjointProducts, MeasurementOperator
from jaxopt_robust.recovery.residual_steps import ResidualState, residual_proportional
from jaxopt_robust.recovery.scaled import (
  ScaledState,
  precondition_factors,
  scaled_geometric,
  scaled_polyak,
)
from jaxopt_robust.recovery.sensing import (
  SubgmInfo,
  SubgmState,
  SubgradAux,
  Trace,
  l1_value_subgrad,
  squared_value_grad,
  subgm,
  subgradient_method,
)
from jaxopt_robust.recovery.stepsizes import (
  LevelState,
  StepCountState,
  geometric,
  grad_normalized_geometric,
  level_polyak,
  polyak,
  polynomial,
  q_normalized_geometric,
)
from jaxopt_robust.recovery.structured import (
  FourierSensing,
  RankOneSensing,
  make_fourier_sensing,
  make_rank_one_sensing,
)
from jaxopt_robust.recovery.subset import Subset
from jaxopt_robust.recovery.unmixing.known_spectra import constrained_abundances
from jaxopt_robust.recovery.unmixing.metrics import (
  UnmixingErrors,
  hoyer_sparseness,
  spectral_angle,
  unmixing_errors,
)
from jaxopt_robust.recovery.unmixing.palm import palm_unmixing
from jaxopt_robust.recovery.unmixing.pure_pixels import (
  channel_noise,
  successive_projections,
  vertex_components,
)
from jaxopt_robust.recovery.unmixing.start import unmixing_start
from jaxopt_robust.recovery.unmixing.types import (
  Unmixing,
  UnmixingInfo,
  UnmixingRecord,
  UnmixingState,
)
from jaxopt_robust.recovery.unmixing.updates import (
  nmf_unmixing,
  robust_unmixing,
  sparse_nmf_unmixing,
  unmix,
)
from jaxopt_robust.recovery.unmixing.weights import l21_weights

__all__ = [
  "AccAltProjState",
  "AdjointProducts",
  "Biases",
  "CompletionInfo",
  "CompletionState",
  "CompletionTrace",
  "Corrupted",
  "EntryCOO",
  "EntryMask",
  "Factors",
  "FourierSensing",
  "GaussianSensing",
  "Identity",
  "KeyedGaussianSensing",
  "LevelState",
  "LowRankSparse",
  "MeasurementOperator",
  "PcpInfo",
  "PcpState",
  "RankOneSensing",
  "ResidualState",
  "RobustPcaInfo",
  "ScaledGdState",
  "ScaledState",
  "SplitInfo",
  "StepCountState",
  "SubgmInfo",
  "SubgmSchedule",
  "SubgmState",
  "SubgradAux",
  "Subset",
  "Trace",
  "Unmixing",
  "UnmixingErrors",
  "UnmixingInfo",
  "UnmixingRecord",
  "UnmixingState",
  "acc_alt_proj",
  "alpha_identity",
  "als_complete",
  "alternating_least_squares",
  "altmin_complete",
  "bernoulli_outliers",
  "biased_baseline",
  "channel_noise",
  "compose",
  "constrained_abundances",
  "coo_lstsq",
  "entry_spectral",
  "factor_imbalance",
  "fixed_count_outliers",
  "gaussian_noise",
  "geometric",
  "grad_normalized_geometric",
  "growth_factor",
  "hoyer_sparseness",
  "huber_weights",
  "incoherence",
  "l1_robust_pca",
  "l1_value_subgrad",
  "l21_weights",
  "level_polyak",
  "li_outliers",
  "lmafit",
  "lmafit_complete",
  "make_entry_mask",
  "make_fourier_sensing",
  "make_gaussian_sensing",
  "make_keyed_gaussian_sensing",
  "make_rank_one_sensing",
  "mask_spectral",
  "median_truncated_spectral",
  "mixed_noise",
  "nmf_unmixing",
  "palm_unmixing",
  "pcp_admm",
  "pcp_ialm",
  "polyak",
  "polynomial",
  "precondition_factors",
  "principal_angle",
  "procrustes_dist",
  "q_normalized_geometric",
  "random_small",
  "rel_err",
  "replace_outliers",
  "residual_proportional",
  "riemannian_complete",
  "riemannian_completion",
  "robust_pca",
  "robust_recover",
  "robust_unmixing",
  "scaled_geometric",
  "scaled_gradient_complete",
  "scaled_gradient_completion",
  "scaled_polyak",
  "scaledgd_rpca",
  "scaledsm_outliers",
  "sign_flip_outliers",
  "sign_rip_gap",
  "sign_rip_phi",
  "sign_rip_phi_gaussian",
  "sign_spectral",
  "soft_impute",
  "soft_impute_factored",
  "soft_impute_path",
  "sparse_nmf_unmixing",
  "spectral_angle",
  "squared_value_grad",
  "subgm",
  "subgm_schedule",
  "subgradient_method",
  "successive_projections",
  "support_f1",
  "top_rows_and_columns",
  "trimmed_weights",
  "truncated_spectral",
  "unmix",
  "unmixing_errors",
  "unmixing_start",
  "vertex_components",
]

install_getattr(__name__)
