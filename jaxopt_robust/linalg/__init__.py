"""Linear algebra by few products: random projections, sketched least squares, Newton's inverse."""

from jaxopt_robust._deprecations import install_getattr
from jaxopt_robust.linalg.newton_inverse import NewtonInverseInfo, newton_inverse
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
  "NewtonInverseInfo",
  "SegmentLstsqInfo",
  "newton_inverse",
  "randomized_svd",
  "randomized_svd_matvec",
  "segment_lstsq",
  "sketch_precondition",
]

install_getattr(__name__)
