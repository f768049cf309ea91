"""Experiments on calibrated probabilities and on heads."""
