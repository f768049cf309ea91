"""Randomised linear algebra: low-rank decompositions, batches of sketched least squares."""

from jaxopt_robust.linalg.randomized_svd import (
  LowRankSVD,
  randomized_svd,
  randomized_svd_matvec,
)
from jaxopt_robust.linalg.segment_least_squares import (
  SegmentLstsqInfo,
  segment_lstsq,
  sketch_precondition,
)

__all__ = [
  "LowRankSVD",
  "SegmentLstsqInfo",
  "randomized_svd",
  "randomized_svd_matvec",
  "segment_lstsq",
  "sketch_precondition",
]
