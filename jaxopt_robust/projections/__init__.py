"""Euclidean projections onto convex sets."""

from jaxopt_robust.projections.isotonic import projection_isotonic

__all__ = ["projection_isotonic"]
