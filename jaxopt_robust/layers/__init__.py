"""Layers of networks with structure: attention without softmax, orthogonal and 1-Lipschitz ones."""

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
from jaxopt_robust.layers.lipschitz import bjorck_orthonormal, group_sort
from jaxopt_robust.layers.orthogonal import (
  OrthogonalExistence,
  SingularValueBounds,
  kernel_to_oihw,
  orthogonal_convolution_exists,
  orthogonality_penalty,
  orthogonality_residual,
  singular_value_bounds,
)

__all__ = [
  "OrthogonalExistence",
  "SingularValueBounds",
  "SoftAttentionInfo",
  "bjorck_orthonormal",
  "circular_convolution",
  "convolution_matrix",
  "convolution_residual",
  "convolution_singular_values",
  "elu_attention",
  "full_gaussian_attention",
  "gaussian_gram",
  "group_sort",
  "kernel_to_oihw",
  "nystrom_attention",
  "orthogonal_convolution_exists",
  "orthogonality_penalty",
  "orthogonality_residual",
  "segment_means",
  "singular_value_bounds",
  "soft_attention",
]

install_getattr(__name__)
