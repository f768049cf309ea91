"""Models of expensive functions, and what is found by searching them."""

from jaxopt_robust._deprecations import install_getattr
from jaxopt_robust.surrogates.acquisition import expected_improvement, q_expected_improvement
from jaxopt_robust.surrogates.adaptive_sampling import CbasInfo, cbas_log_weights, cbas_search
from jaxopt_robust.surrogates.conservative import (
  ConservativeInfo,
  conservative_gap,
  conservative_objective,
  multiplier_step,
)
from jaxopt_robust.surrogates.gaussian_designs import (
  GaussianDesigns,
  design_log_prob,
  fit_gaussian_designs,
  sample_designs,
)
from jaxopt_robust.surrogates.gaussian_head import gaussian_nll_loss, soft_clip
from jaxopt_robust.surrogates.offline import (
  AscentInfo,
  DesignScores,
  TopDesigns,
  design_scores,
  ensemble_prediction,
  gradient_ascent_search,
  top_designs,
)
from jaxopt_robust.surrogates.score_function import (
  ReinforceInfo,
  reinforce_search,
  score_function_surrogate,
)

__all__ = [
  "AscentInfo",
  "CbasInfo",
  "ConservativeInfo",
  "DesignScores",
  "GaussianDesigns",
  "ReinforceInfo",
  "TopDesigns",
  "cbas_log_weights",
  "cbas_search",
  "conservative_gap",
  "conservative_objective",
  "design_log_prob",
  "design_scores",
  "ensemble_prediction",
  "expected_improvement",
  "fit_gaussian_designs",
  "gaussian_nll_loss",
  "gradient_ascent_search",
  "multiplier_step",
  "q_expected_improvement",
  "reinforce_search",
  "sample_designs",
  "score_function_surrogate",
  "soft_clip",
  "top_designs",
]

install_getattr(__name__)
