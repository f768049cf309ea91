"""Experiments on ``jaxopt_robust.losses``."""
