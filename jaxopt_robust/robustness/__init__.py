"""Attacks, training losses built on them, unlabelled examples, wrong labels, streams that drift."""

from jaxopt_robust._deprecations import install_getattr
from jaxopt_robust.robustness.adversarial import (
  pgd_adversarial_training_loss,
  smooth_adversarial_comp_sum_training_loss,
  trades_loss,
)
from jaxopt_robust.robustness.attacks import pgd_attack
from jaxopt_robust.robustness.drift import (
  StreamInfo,
  StreamState,
  prediction_entropy,
  reliable_mask,
  rsgs_losses,
  stream_init,
  stream_step,
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
from jaxopt_robust.robustness.linear_separation import linear_separation
from jaxopt_robust.robustness.log_barrier import (
  PerturbationBox,
  implicit_direction,
  implicit_term,
  log_barrier_attack,
  perturbation_box,
)
from jaxopt_robust.robustness.metrics import tail_accuracy
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
  "CsfaState",
  "DoneInfo",
  "DoneState",
  "GaussianMixture2",
  "HyperPlane",
  "MixedBatch",
  "NoiseInfo",
  "NoiseState",
  "PerturbationBox",
  "RssFit",
  "RssInfo",
  "StreamInfo",
  "StreamState",
  "WassersteinInfo",
  "calibrate_prototypes",
  "class_balance_kl",
  "class_prototypes",
  "cotrain_merge",
  "cross_view_contrastive_loss",
  "csfa_add_classes",
  "csfa_init",
  "csfa_logits",
  "csfa_stream_step",
  "detect_noise",
  "done_init",
  "done_value_and_grad",
  "gmm2_fit",
  "gmm2_posterior",
  "hyperplane_distance",
  "implicit_direction",
  "implicit_term",
  "linear_separation",
  "log_barrier_attack",
  "mixup",
  "mixup_loss",
  "noise_init",
  "perturbation_box",
  "pgd_adversarial_training_loss",
  "pgd_attack",
  "prediction_entropy",
  "prototype_logits",
  "pseudo_label_weights",
  "reliable_mask",
  "robust_zero_one_loss",
  "rsgs_losses",
  "rss_linear_fit",
  "rss_objective",
  "sharpen",
  "small_loss_mask",
  "smooth_adversarial_comp_sum_training_loss",
  "stream_init",
  "stream_step",
  "tail_accuracy",
  "trades_loss",
  "wasserstein_robust_loss",
]

install_getattr(__name__)
