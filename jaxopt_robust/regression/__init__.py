"""Regression: penalised linear models and their paths, survival times, mixed effects, screening."""

from jaxopt_robust._deprecations import install_getattr
from jaxopt_robust.regression.cox import cox_loss, cox_partial_likelihood_loss
from jaxopt_robust.regression.derivatives import LinearFit, solve_at
from jaxopt_robust.regression.linear_losses import LinearLoss, linear_loss, linear_objective
from jaxopt_robust.regression.mixed_effects import (
  MixedLM,
  MixedLMFit,
  MixedLMParams,
  fit_mixed_lm,
  mixed_lm_nll,
  mixed_lm_weights,
  pad_subjects,
)
from jaxopt_robust.regression.mutual_information import (
  MIScreening,
  mi_binned,
  mi_kde,
  mi_kde_discrete,
  mi_screen,
)
from jaxopt_robust.regression.paths import PathResult, regularization_path
from jaxopt_robust.regression.selection import (
  CrossValidation,
  StabilitySelection,
  bootstrap_weights,
  cross_validate,
  make_folds,
  stability_selection,
  subsample_weights,
)
from jaxopt_robust.regression.strengths import max_strength, strength_grid

__all__ = [
  "CrossValidation",
  "LinearFit",
  "LinearLoss",
  "MIScreening",
  "MixedLM",
  "MixedLMFit",
  "MixedLMParams",
  "PathResult",
  "StabilitySelection",
  "bootstrap_weights",
  "cox_loss",
  "cox_partial_likelihood_loss",
  "cross_validate",
  "fit_mixed_lm",
  "linear_loss",
  "linear_objective",
  "make_folds",
  "max_strength",
  "mi_binned",
  "mi_kde",
  "mi_kde_discrete",
  "mi_screen",
  "mixed_lm_nll",
  "mixed_lm_weights",
  "pad_subjects",
  "regularization_path",
  "solve_at",
  "stability_selection",
  "strength_grid",
  "subsample_weights",
]

install_getattr(__name__)
