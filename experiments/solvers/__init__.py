"""Experiments on ``jaxopt_robust.solvers``."""
