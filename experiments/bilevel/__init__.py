"""Experiments on ``jaxopt_robust.bilevel``."""
