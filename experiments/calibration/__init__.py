"""Experiments on ``jaxopt_robust.calibration``."""
