"""Adversarial attacks and the training losses built on them."""

from jaxopt_robust._deprecations import install_getattr
from jaxopt_robust.robustness.adversarial import (
  pgd_adversarial_training_loss,
  smooth_adversarial_comp_sum_training_loss,
  trades_loss,
)
from jaxopt_robust.robustness.attacks import pgd_attack
from jaxopt_robust.robustness.log_barrier import (
  PerturbationBox,
  implicit_direction,
  implicit_term,
  log_barrier_attack,
  perturbation_box,
)
from jaxopt_robust.robustness.metrics import tail_accuracy
from jaxopt_robust.robustness.reweighted import (
  DoneInfo,
  DoneState,
  done_init,
  done_value_and_grad,
)

__all__ = [
  "DoneInfo",
  "DoneState",
  "PerturbationBox",
  "done_init",
  "done_value_and_grad",
  "implicit_direction",
  "implicit_term",
  "log_barrier_attack",
  "perturbation_box",
  "pgd_adversarial_training_loss",
  "pgd_attack",
  "smooth_adversarial_comp_sum_training_loss",
  "tail_accuracy",
  "trades_loss",
]

install_getattr(__name__)
