"""Experiments on ``jaxopt_robust.recovery``."""
