"""Experiments on ``jaxopt_robust.transforms``."""
