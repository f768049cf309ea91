"""Layers with structure: attention without softmax, orthogonal ones, re-mixed experts."""

from jaxopt_robust._deprecations import install_getattr
from jaxopt_robust.layers.attention import (
  SoftAttentionInfo,
  elu_attention,
  full_gaussian_attention,
  gaussian_gram,
  nystrom_attention,
  segment_means,
  soft_attention,
)
from jaxopt_robust.layers.convolution import (
  circular_convolution,
  convolution_matrix,
  convolution_residual,
  convolution_singular_values,
)
from jaxopt_robust.layers.experts import (
  Pathway,
  core_expert_mask,
  load_balance_loss,
  override_router,
  restrict_pathway,
  select_experts,
)
from jaxopt_robust.layers.lipschitz import bjorck_orthonormal, group_sort
from jaxopt_robust.layers.neighbors import Neighbors, kernel_neighbors, mean_shift
from jaxopt_robust.layers.orthogonal import (
  OrthogonalExistence,
  SingularValueBounds,
  kernel_to_oihw,
  orthogonal_convolution_exists,
  orthogonality_penalty,
  orthogonality_residual,
  singular_value_bounds,
)
from jaxopt_robust.layers.pathways import (
  PathwayInfo,
  PathwaySearchInfo,
  pathway_gradient_descent,
  pathway_kernel_regression,
  pathway_line_search,
  pathway_mode_finding,
)
from jaxopt_robust.layers.remixing import RemixInfo, neighborhood_loss, remix_pathways

__all__ = [
  "Neighbors",
  "OrthogonalExistence",
  "Pathway",
  "PathwayInfo",
  "PathwaySearchInfo",
  "RemixInfo",
  "SingularValueBounds",
  "SoftAttentionInfo",
  "bjorck_orthonormal",
  "circular_convolution",
  "convolution_matrix",
  "convolution_residual",
  "convolution_singular_values",
  "core_expert_mask",
  "elu_attention",
  "full_gaussian_attention",
  "gaussian_gram",
  "group_sort",
  "kernel_neighbors",
  "kernel_to_oihw",
  "load_balance_loss",
  "mean_shift",
  "neighborhood_loss",
  "nystrom_attention",
  "orthogonal_convolution_exists",
  "orthogonality_penalty",
  "orthogonality_residual",
  "override_router",
  "pathway_gradient_descent",
  "pathway_kernel_regression",
  "pathway_line_search",
  "pathway_mode_finding",
  "remix_pathways",
  "restrict_pathway",
  "segment_means",
  "select_experts",
  "singular_value_bounds",
  "soft_attention",
]

install_getattr(__name__)
