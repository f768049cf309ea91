"""Experiments on ``jaxopt_robust.projections``."""
