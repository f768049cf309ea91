"""Layers of networks with structure: orthogonal and 1-Lipschitz ones."""

from jaxopt_robust._deprecations import install_getattr
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
  "bjorck_orthonormal",
  "circular_convolution",
  "convolution_matrix",
  "convolution_residual",
  "convolution_singular_values",
  "group_sort",
  "kernel_to_oihw",
  "orthogonal_convolution_exists",
  "orthogonality_penalty",
  "orthogonality_residual",
  "singular_value_bounds",
]

install_getattr(__name__)
