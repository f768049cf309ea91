"""Experiments on ``jaxopt_robust.unfolding``."""
