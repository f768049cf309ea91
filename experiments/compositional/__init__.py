"""Experiments on ``jaxopt_robust.compositional``."""
