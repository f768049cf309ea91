"""Experiments on ``jaxopt_robust.regression``."""
