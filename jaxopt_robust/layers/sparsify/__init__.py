"""Layers that skip channels and inputs: thresholds, masks, rotations, and what they save."""
