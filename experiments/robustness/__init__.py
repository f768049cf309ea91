"""Experiments on ``jaxopt_robust.robustness``."""
