"""Euclidean projections, argmin_p 1/2 ||p - x||^2 over p in a set."""

from jaxopt_robust._deprecations import install_getattr
from jaxopt_robust.projections.affine import (
  AffineFactor,
  affine_factor,
  projection_affine_set,
)
from jaxopt_robust.projections.balls import (
  projection_l1_ball,
  projection_l1_sphere,
  projection_l2_ball,
  projection_l2_sphere,
  projection_linf_ball,
  projection_simplex,
)
from jaxopt_robust.projections.box_section import (
  projection_box_section,
)
from jaxopt_robust.projections.half_spaces import (
  projection_box,
  projection_halfspace,
  projection_hypercube,
  projection_hyperplane,
  projection_non_negative,
)
from jaxopt_robust.projections.intersection import (
  projection_intersection,
)
from jaxopt_robust.projections.isotonic import (
  projection_isotonic,
)
from jaxopt_robust.projections.linear_structure import (
  projection_hankel,
  projection_symmetric,
  projection_toeplitz,
)
from jaxopt_robust.projections.matrices import (
  projection_correlation,
  projection_nuclear_norm_ball,
  projection_psd,
  projection_rank,
  projection_spectral_norm_ball,
  projection_stiefel,
)
from jaxopt_robust.projections.polyhedra import (
  PolyhedronInfo,
  projection_polyhedron,
  projection_polyhedron_with_info,
)
from jaxopt_robust.projections.simplex import (
  projection_sparse_simplex,
  projection_top_k,
  projection_weighted_l1_ball,
)
from jaxopt_robust.projections.transport import (
  kl_projection_birkhoff,
  kl_projection_transport,
  projection_birkhoff,
  projection_transport,
)
from jaxopt_robust.projections.vectors import (
  projection_hyperslab,
  projection_second_order_cone,
)

__all__ = [
  "AffineFactor",
  "PolyhedronInfo",
  "affine_factor",
  "kl_projection_birkhoff",
  "kl_projection_transport",
  "projection_affine_set",
  "projection_birkhoff",
  "projection_box",
  "projection_box_section",
  "projection_correlation",
  "projection_halfspace",
  "projection_hankel",
  "projection_hypercube",
  "projection_hyperplane",
  "projection_hyperslab",
  "projection_intersection",
  "projection_isotonic",
  "projection_l1_ball",
  "projection_l1_sphere",
  "projection_l2_ball",
  "projection_l2_sphere",
  "projection_linf_ball",
  "projection_non_negative",
  "projection_nuclear_norm_ball",
  "projection_polyhedron",
  "projection_polyhedron_with_info",
  "projection_psd",
  "projection_rank",
  "projection_second_order_cone",
  "projection_simplex",
  "projection_sparse_simplex",
  "projection_spectral_norm_ball",
  "projection_stiefel",
  "projection_symmetric",
  "projection_toeplitz",
  "projection_top_k",
  "projection_transport",
  "projection_weighted_l1_ball",
]

install_getattr(__name__)
