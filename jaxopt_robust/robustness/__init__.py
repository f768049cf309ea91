"""Attacks, certificates by smoothing, training for both; wrong and no labels, drifting streams."""

from jaxopt_robust._deprecations import (
  install_getattr,
)
from jaxopt_robust.robustness.adversarial import (
  pgd_adversarial_training_loss,
  smooth_adversarial_comp_sum_training_loss,
  trades_loss,
)
from jaxopt_robust.robustness.apgd import (
  RobustnessInfo,
  apgd_attack,
  robust_accuracy,
)
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
from jaxopt_robust.robustness.consistency import (
  RrcmInfo,
  RrcmState,
  representation_nce_loss,
  rrcm_init,
  rrcm_loss,
  rrcm_step,
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
from jaxopt_robust.robustness.dual_smoothing import (
  certify_dual_votes,
  checkerboard_masks,
  dual_radius,
  dual_smoothing_loss,
  dual_smoothing_votes,
  sub_image,
)
from jaxopt_robust.robustness.evaluation import (
  FmrImages,
  FmrScore,
  fmr_generate,
  fmr_score,
  oracle_ensemble,
)
from jaxopt_robust.robustness.gaussian_mixture import (
  GaussianMixture2,
  gmm2_fit,
  gmm2_posterior,
)
from jaxopt_robust.robustness.incremental import (
  CsfaState,
  csfa_add_classes,
  csfa_init,
  csfa_logits,
  csfa_stream_step,
)
from jaxopt_robust.robustness.label_noise import (
  NoiseInfo,
  NoiseState,
  cotrain_merge,
  detect_noise,
  noise_init,
  pseudo_label_weights,
  small_loss_mask,
)
from jaxopt_robust.robustness.linear_separation import (
  linear_separation,
)
from jaxopt_robust.robustness.log_barrier import (
  PerturbationBox,
  implicit_direction,
  implicit_term,
  log_barrier_attack,
  perturbation_box,
)
from jaxopt_robust.robustness.metrics import (
  average_certified_radius,
  certified_accuracy,
  tail_accuracy,
)
from jaxopt_robust.robustness.mixing import (
  TradeoffCurve,
  mix_log_probs,
  mixing_loss,
  tradeoff_curve,
)
from jaxopt_robust.robustness.mixing_bounds import (
  alpha_for_margin,
  margin_for_alpha,
  mixed_radius_lipschitz,
  mixed_radius_smoothing,
  smoothed_lipschitz,
)
from jaxopt_robust.robustness.noise_levels import (
  edm_noise_level,
  noise_level_embedding,
  num_noise_levels,
  sigmoid_ema_rate,
)
from jaxopt_robust.robustness.noisy_training import (
  MixedBatch,
  class_balance_kl,
  cross_view_contrastive_loss,
  mixup,
  mixup_loss,
  sharpen,
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
from jaxopt_robust.robustness.smoothing import (
  Certificate,
  Prediction,
  SmoothingVotes,
  certify_smoothed,
  certify_votes,
  predict_votes,
  smoothing_votes,
  vote_counts,
)
from jaxopt_robust.robustness.smoothing_bounds import (
  binomial_test,
  clopper_pearson_interval,
  clopper_pearson_lower,
  clopper_pearson_upper,
  largest_smoothed_radius,
  smoothed_radius,
)
from jaxopt_robust.robustness.smoothing_training import (
  consistency_smoothing_loss,
  gaussian_augmentation_loss,
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
  "Certificate",
  "CsfaState",
  "DoneInfo",
  "DoneState",
  "FmrImages",
  "FmrScore",
  "GaussianMixture2",
  "HyperPlane",
  "MixedBatch",
  "NoiseInfo",
  "NoiseState",
  "PerturbationBox",
  "Prediction",
  "RobustnessInfo",
  "RrcmInfo",
  "RrcmState",
  "RssFit",
  "RssInfo",
  "SmoothingVotes",
  "StreamInfo",
  "StreamState",
  "TradeoffCurve",
  "WassersteinInfo",
  "alpha_for_margin",
  "apgd_attack",
  "average_certified_radius",
  "binomial_test",
  "calibrate_prototypes",
  "certified_accuracy",
  "certify_dual_votes",
  "certify_smoothed",
  "certify_votes",
  "checkerboard_masks",
  "class_balance_kl",
  "class_prototypes",
  "clopper_pearson_interval",
  "clopper_pearson_lower",
  "clopper_pearson_upper",
  "consistency_smoothing_loss",
  "cotrain_merge",
  "cross_entropy_attack_loss",
  "cross_view_contrastive_loss",
  "csfa_add_classes",
  "csfa_init",
  "csfa_logits",
  "csfa_stream_step",
  "detect_noise",
  "dlr_attack_loss",
  "done_init",
  "done_value_and_grad",
  "dual_radius",
  "dual_smoothing_loss",
  "dual_smoothing_votes",
  "edm_noise_level",
  "fgsm_attack",
  "fmr_generate",
  "fmr_score",
  "gaussian_augmentation_loss",
  "gmm2_fit",
  "gmm2_posterior",
  "hyperplane_distance",
  "implicit_direction",
  "implicit_term",
  "largest_smoothed_radius",
  "linear_separation",
  "log_barrier_attack",
  "margin_attack_loss",
  "margin_for_alpha",
  "mix_log_probs",
  "mixed_radius_lipschitz",
  "mixed_radius_smoothing",
  "mixing_loss",
  "mixup",
  "mixup_loss",
  "noise_init",
  "noise_level_embedding",
  "num_noise_levels",
  "oracle_ensemble",
  "perturbation_box",
  "pgd_adversarial_training_loss",
  "pgd_attack",
  "pgd_worst_case",
  "predict_votes",
  "prediction_entropy",
  "prototype_logits",
  "pseudo_label_weights",
  "reliable_mask",
  "representation_nce_loss",
  "robust_accuracy",
  "robust_zero_one_loss",
  "rrcm_init",
  "rrcm_loss",
  "rrcm_step",
  "rsgs_losses",
  "rss_linear_fit",
  "rss_objective",
  "sharpen",
  "sigmoid_ema_rate",
  "small_loss_mask",
  "smooth_adversarial_comp_sum_training_loss",
  "smoothed_lipschitz",
  "smoothed_radius",
  "smoothing_votes",
  "stream_init",
  "stream_step",
  "sub_image",
  "tail_accuracy",
  "targeted_dlr_attack_loss",
  "targeted_margin_attack_loss",
  "tradeoff_curve",
  "trades_loss",
  "vote_counts",
  "wasserstein_robust_loss",
]

install_getattr(__name__)
