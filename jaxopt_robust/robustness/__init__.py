"""Adversarial attacks and the training losses built on them."""

from jaxopt_robust.robustness.adversarial import (
  pgd_adversarial_training_loss,
  smooth_adversarial_comp_sum_training_loss,
  trades_loss,
)
from jaxopt_robust.robustness.attacks import pgd_attack

__all__ = [
  "pgd_adversarial_training_loss",
  "pgd_attack",
  "smooth_adversarial_comp_sum_training_loss",
  "trades_loss",
]
