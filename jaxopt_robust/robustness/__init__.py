"""Attacks, training losses built on them, unlabelled examples, streams that drift."""

from jaxopt_robust._deprecations import install_getattr
from jaxopt_robust.robustness.adversarial import (
  pgd_adversarial_training_loss,
  smooth_adversarial_comp_sum_training_loss,
  trades_loss,
)
from jaxopt_robust.robustness.apgd import RobustnessInfo, apgd_attack, robust_accuracy
from jaxopt_robust.robustness.attack_losses import (
  cross_entropy_attack_loss,
  dlr_attack_loss,
  margin_attack_loss,
  targeted_dlr_attack_loss,
  targeted_margin_attack_loss,
)
from jaxopt_robust.robustness.attacks import (
  AttackInfo,
  fgsm_attack,
  pgd_attack,
  pgd_worst_case,
)
from jaxopt_robust.robustness.drift import (
  StreamInfo,
  StreamState,
  prediction_entropy,
  reliable_mask,
  rsgs_losses,
  stream_init,
  stream_step,
)
from jaxopt_robust.robustness.evaluation import (
  FmrImages,
  FmrScore,
  fmr_generate,
  fmr_score,
  oracle_ensemble,
)
from jaxopt_robust.robustness.incremental import (
  CsfaState,
  csfa_add_classes,
  csfa_init,
  csfa_logits,
  csfa_stream_step,
)
from jaxopt_robust.robustness.log_barrier import (
  PerturbationBox,
  implicit_direction,
  implicit_term,
  log_barrier_attack,
  perturbation_box,
)
from jaxopt_robust.robustness.metrics import tail_accuracy
from jaxopt_robust.robustness.mixing import (
  TradeoffCurve,
  alpha_for_margin,
  margin_for_alpha,
  mix_log_probs,
  mixed_radius_lipschitz,
  mixed_radius_smoothing,
  mixing_loss,
  smoothed_lipschitz,
  tradeoff_curve,
)
from jaxopt_robust.robustness.prototypes import (
  calibrate_prototypes,
  class_prototypes,
  prototype_logits,
)
from jaxopt_robust.robustness.reweighted import (
  DoneInfo,
  DoneState,
  done_init,
  done_value_and_grad,
)
from jaxopt_robust.robustness.unlabeled import (
  HyperPlane,
  RssFit,
  RssInfo,
  hyperplane_distance,
  rss_linear_fit,
  rss_objective,
)
from jaxopt_robust.robustness.wasserstein import (
  WassersteinInfo,
  robust_zero_one_loss,
  wasserstein_robust_loss,
)

__all__ = [
  "AttackInfo",
  "CsfaState",
  "DoneInfo",
  "DoneState",
  "FmrImages",
  "FmrScore",
  "HyperPlane",
  "PerturbationBox",
  "RobustnessInfo",
  "RssFit",
  "RssInfo",
  "StreamInfo",
  "StreamState",
  "TradeoffCurve",
  "WassersteinInfo",
  "alpha_for_margin",
  "apgd_attack",
  "calibrate_prototypes",
  "class_prototypes",
  "cross_entropy_attack_loss",
  "csfa_add_classes",
  "csfa_init",
  "csfa_logits",
  "csfa_stream_step",
  "dlr_attack_loss",
  "done_init",
  "done_value_and_grad",
  "fgsm_attack",
  "fmr_generate",
  "fmr_score",
  "hyperplane_distance",
  "implicit_direction",
  "implicit_term",
  "log_barrier_attack",
  "margin_attack_loss",
  "margin_for_alpha",
  "mix_log_probs",
  "mixed_radius_lipschitz",
  "mixed_radius_smoothing",
  "mixing_loss",
  "oracle_ensemble",
  "perturbation_box",
  "pgd_adversarial_training_loss",
  "pgd_attack",
  "pgd_worst_case",
  "prediction_entropy",
  "prototype_logits",
  "reliable_mask",
  "robust_accuracy",
  "robust_zero_one_loss",
  "rsgs_losses",
  "rss_linear_fit",
  "rss_objective",
  "smooth_adversarial_comp_sum_training_loss",
  "smoothed_lipschitz",
  "stream_init",
  "stream_step",
  "tail_accuracy",
  "targeted_dlr_attack_loss",
  "targeted_margin_attack_loss",
  "tradeoff_curve",
  "trades_loss",
  "wasserstein_robust_loss",
]

install_getattr(__name__)
