"""Per-example losses: ``loss(logits, labels, *, where=None, **hyper) -> float[batch]``.

Nothing is averaged: weights, groups, distributionally robust objectives and the mean are the
caller's choice.
"""

from jaxopt_robust._deprecations import install_getattr
from jaxopt_robust.losses.bounded import (
  nce_agce_loss,
  nce_aul_loss,
  nce_rce_loss,
  robust_log_loss,
  softmax_mae_loss,
  softmax_mse_loss,
)
from jaxopt_robust.losses.comp_sum import (
  comp_sum_loss,
  margin_deviation,
  smooth_adversarial_comp_sum_loss,
)
from jaxopt_robust.losses.consistency import (
  adaptive_consistency_loss,
  feature_consistency_loss,
  prediction_consistency_loss,
  soft_dice_loss,
)
from jaxopt_robust.losses.consistency_bounds import (
  comp_sum_conditional_regret,
  comp_sum_gamma,
  comp_sum_gamma_exact,
  comp_sum_transform,
)
from jaxopt_robust.losses.contrastive import (
  global_contrastive_loss,
  info_nce_loss,
  normalized_softmax_loss,
  robust_contrastive_temperatures,
  robust_global_contrastive_loss,
  supervised_contrastive_loss,
  two_view_scores,
)
from jaxopt_robust.losses.dro.chi2 import (
  chi2_ball_dro,
  chi2_ball_dro_weights,
  chi2_dro,
  chi2_dro_weights,
)
from jaxopt_robust.losses.dro.cvar import cvar, cvar_threshold, cvar_weights
from jaxopt_robust.losses.dro.group import group_dro, group_dro_weights
from jaxopt_robust.losses.dro.kl import (
  kl_ball_dro,
  kl_ball_dro_temperature,
  kl_ball_dro_weights,
  kl_dro,
  kl_dro_weights,
)
from jaxopt_robust.losses.dro.phi_divergence import (
  chi2_conjugate,
  cressie_read_conjugate,
  cvar_conjugate,
  kl_conjugate,
  phi_divergence_dro,
  phi_divergence_dro_threshold,
  phi_divergence_dro_weights,
)
from jaxopt_robust.losses.label_dr import (
  AldrState,
  aldr_init,
  aldr_kl_exact_loss,
  aldr_kl_loss,
  ldr_kl_loss,
  ldr_kl_topk_loss,
  ldr_weights,
)
from jaxopt_robust.losses.margin import crammer_singer_loss, weston_watkins_loss
from jaxopt_robust.losses.metric import cosine_similarities, threshold_consistent_margin_loss
from jaxopt_robust.losses.noise_robust import (
  cross_entropy_loss,
  generalized_cross_entropy_loss,
  jensen_shannon_loss,
  symmetric_cross_entropy_loss,
  truncated_gce_loss,
)
from jaxopt_robust.losses.operating_points import Opis, eps_opis, opis, recall_at_1
from jaxopt_robust.losses.ranking.auc import (
  AucMarginVariables,
  auc_margin_init,
  auc_margin_loss,
  pairwise_auc_loss,
)
from jaxopt_robust.losses.ranking.lists import (
  average_precision_loss,
  listwise_cross_entropy_loss,
  ndcg_at_k_loss,
  ndcg_loss,
)
from jaxopt_robust.losses.ranking.metrics import (
  RocCurve,
  auc,
  average_precision,
  partial_auc,
  roc_curve,
  two_sample_auc,
)
from jaxopt_robust.losses.ranking.partial_auc import (
  partial_auc_cvar_loss,
  partial_auc_kl_loss,
  two_way_partial_auc_cvar_loss,
  two_way_partial_auc_kl_loss,
)
from jaxopt_robust.losses.ranking.retrieval import mann_whitney_loss
from jaxopt_robust.losses.ranking.retrieval_metrics import (
  mean_reciprocal_rank,
  ndcg,
  topn_negative_pool,
)
from jaxopt_robust.losses.ranking.surrogates import (
  barrier_hinge_surrogate,
  hinge_surrogate,
  logistic_surrogate,
  squared_hinge_surrogate,
  squared_surrogate,
)

__all__ = [
  "AldrState",
  "AucMarginVariables",
  "Opis",
  "RocCurve",
  "adaptive_consistency_loss",
  "aldr_init",
  "aldr_kl_exact_loss",
  "aldr_kl_loss",
  "auc",
  "auc_margin_init",
  "auc_margin_loss",
  "average_precision",
  "average_precision_loss",
  "barrier_hinge_surrogate",
  "chi2_ball_dro",
  "chi2_ball_dro_weights",
  "chi2_conjugate",
  "chi2_dro",
  "chi2_dro_weights",
  "comp_sum_conditional_regret",
  "comp_sum_gamma",
  "comp_sum_gamma_exact",
  "comp_sum_loss",
  "comp_sum_transform",
  "cosine_similarities",
  "crammer_singer_loss",
  "cressie_read_conjugate",
  "cross_entropy_loss",
  "cvar",
  "cvar_conjugate",
  "cvar_threshold",
  "cvar_weights",
  "eps_opis",
  "feature_consistency_loss",
  "generalized_cross_entropy_loss",
  "global_contrastive_loss",
  "group_dro",
  "group_dro_weights",
  "hinge_surrogate",
  "info_nce_loss",
  "jensen_shannon_loss",
  "kl_ball_dro",
  "kl_ball_dro_temperature",
  "kl_ball_dro_weights",
  "kl_conjugate",
  "kl_dro",
  "kl_dro_weights",
  "ldr_kl_loss",
  "ldr_kl_topk_loss",
  "ldr_weights",
  "listwise_cross_entropy_loss",
  "logistic_surrogate",
  "mann_whitney_loss",
  "margin_deviation",
  "mean_reciprocal_rank",
  "nce_agce_loss",
  "nce_aul_loss",
  "nce_rce_loss",
  "ndcg",
  "ndcg_at_k_loss",
  "ndcg_loss",
  "normalized_softmax_loss",
  "opis",
  "pairwise_auc_loss",
  "partial_auc",
  "partial_auc_cvar_loss",
  "partial_auc_kl_loss",
  "phi_divergence_dro",
  "phi_divergence_dro_threshold",
  "phi_divergence_dro_weights",
  "prediction_consistency_loss",
  "recall_at_1",
  "robust_contrastive_temperatures",
  "robust_global_contrastive_loss",
  "robust_log_loss",
  "roc_curve",
  "smooth_adversarial_comp_sum_loss",
  "soft_dice_loss",
  "softmax_mae_loss",
  "softmax_mse_loss",
  "squared_hinge_surrogate",
  "squared_surrogate",
  "supervised_contrastive_loss",
  "symmetric_cross_entropy_loss",
  "threshold_consistent_margin_loss",
  "topn_negative_pool",
  "truncated_gce_loss",
  "two_sample_auc",
  "two_view_scores",
  "two_way_partial_auc_cvar_loss",
  "two_way_partial_auc_kl_loss",
  "weston_watkins_loss",
]

install_getattr(__name__)
