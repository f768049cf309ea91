"""Experiments on ``jaxopt_robust.layers``."""
