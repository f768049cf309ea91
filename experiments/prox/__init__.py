"""Experiments on ``jaxopt_robust.prox``."""
