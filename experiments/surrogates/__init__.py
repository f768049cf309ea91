"""Experiments on ``jaxopt_robust.surrogates``."""
