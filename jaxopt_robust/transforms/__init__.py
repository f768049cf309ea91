"""Links of optax chains: proximal, momentum, saddles, flat minima, sparse weights, first layers."""

from jaxopt_robust._deprecations import install_getattr
from jaxopt_robust.transforms.armijo import ArmijoState, armijo_descent
from jaxopt_robust.transforms.auc_margin import PdscaState, PesgState, pdsca, pesg
from jaxopt_robust.transforms.first_layer import (
  input_gram,
  patch_gram,
  scale_by_tract,
  tract_conv,
  tract_dense,
)
from jaxopt_robust.transforms.gns import GnsLinkState, scale_by_gns
from jaxopt_robust.transforms.ignite import (
  IgniteState,
  ignite,
  ignite_fixed,
  surrogate_sharpness,
)
from jaxopt_robust.transforms.masks import block_mask, nm_mask, topk_mask, unstructured_mask
from jaxopt_robust.transforms.min_max import (
  ExponentiatedGradientState,
  exponentiated_gradient,
  min_max,
  project_updates,
)
from jaxopt_robust.transforms.momentum import (
  EmaFirstState,
  StormState,
  ema_first,
  normalized_gradient,
  storm_momentum,
)
from jaxopt_robust.transforms.nm_sparsity import (
  exponential_mask_decay,
  harden,
  linear_mask_decay,
  progressive_nm,
  sdgf_stages,
)
from jaxopt_robust.transforms.perturbation import perturbed_gradient
from jaxopt_robust.transforms.proximal import ProximalState, apply_updates_projected, proximal
from jaxopt_robust.transforms.reliable_sharpness import RsgsState, rsgs
from jaxopt_robust.transforms.sharpness import SharpnessState, gsam, gsam_radius, sam
from jaxopt_robust.transforms.sparse_flow import SparseFlowState, sparse_flow

__all__ = [
  "ArmijoState",
  "EmaFirstState",
  "ExponentiatedGradientState",
  "GnsLinkState",
  "IgniteState",
  "PdscaState",
  "PesgState",
  "ProximalState",
  "RsgsState",
  "SharpnessState",
  "SparseFlowState",
  "StormState",
  "apply_updates_projected",
  "armijo_descent",
  "block_mask",
  "ema_first",
  "exponential_mask_decay",
  "exponentiated_gradient",
  "gsam",
  "gsam_radius",
  "harden",
  "ignite",
  "ignite_fixed",
  "input_gram",
  "linear_mask_decay",
  "min_max",
  "nm_mask",
  "normalized_gradient",
  "patch_gram",
  "pdsca",
  "perturbed_gradient",
  "pesg",
  "progressive_nm",
  "project_updates",
  "proximal",
  "rsgs",
  "sam",
  "scale_by_gns",
  "scale_by_tract",
  "sdgf_stages",
  "sparse_flow",
  "storm_momentum",
  "surrogate_sharpness",
  "topk_mask",
  "tract_conv",
  "tract_dense",
  "unstructured_mask",
]

install_getattr(__name__)
