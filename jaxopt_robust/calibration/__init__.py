"""Heads."""

from jaxopt_robust.calibration.generative_heads import (
  LinearHead,
  NaiveBayesStats,
  linear_head_logits,
  logistic_head,
  naive_bayes_head,
  naive_bayes_init,
  naive_bayes_merge,
  naive_bayes_update,
)

__all__ = [
  "LinearHead",
  "NaiveBayesStats",
  "linear_head_logits",
  "logistic_head",
  "naive_bayes_head",
  "naive_bayes_init",
  "naive_bayes_merge",
  "naive_bayes_update",
]
