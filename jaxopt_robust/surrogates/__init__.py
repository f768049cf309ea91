"""Models of expensive functions, and what is found by searching them."""

from jaxopt_robust._deprecations import install_getattr
from jaxopt_robust.surrogates.gaussian_head import gaussian_nll_loss, soft_clip
from jaxopt_robust.surrogates.offline import (
  AscentInfo,
  DesignScores,
  TopDesigns,
  conservative_gap,
  design_scores,
  ensemble_prediction,
  gradient_ascent_search,
  top_designs,
)

__all__ = [
  "AscentInfo",
  "DesignScores",
  "TopDesigns",
  "conservative_gap",
  "design_scores",
  "ensemble_prediction",
  "gaussian_nll_loss",
  "gradient_ascent_search",
  "soft_clip",
  "top_designs",
]

install_getattr(__name__)
