"""Per-example losses: ``loss(logits, labels, *, where=None, **hyper) -> float[batch]``.

Nothing is averaged: weights, groups, distributionally robust objectives and the mean are the
caller's choice.
"""

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
from jaxopt_robust.losses.consistency_bounds import (
  comp_sum_conditional_regret,
  comp_sum_gamma,
  comp_sum_gamma_exact,
  comp_sum_transform,
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
from jaxopt_robust.losses.noise_robust import (
  cross_entropy_loss,
  generalized_cross_entropy_loss,
  jensen_shannon_loss,
  symmetric_cross_entropy_loss,
  truncated_gce_loss,
)

__all__ = [
  "AldrState",
  "aldr_init",
  "aldr_kl_exact_loss",
  "aldr_kl_loss",
  "comp_sum_conditional_regret",
  "comp_sum_gamma",
  "comp_sum_gamma_exact",
  "comp_sum_loss",
  "comp_sum_transform",
  "crammer_singer_loss",
  "cross_entropy_loss",
  "generalized_cross_entropy_loss",
  "jensen_shannon_loss",
  "ldr_kl_loss",
  "ldr_kl_topk_loss",
  "ldr_weights",
  "margin_deviation",
  "nce_agce_loss",
  "nce_aul_loss",
  "nce_rce_loss",
  "robust_log_loss",
  "smooth_adversarial_comp_sum_loss",
  "softmax_mae_loss",
  "softmax_mse_loss",
  "symmetric_cross_entropy_loss",
  "truncated_gce_loss",
  "weston_watkins_loss",
]
