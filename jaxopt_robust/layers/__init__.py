"""Layers with structure: attention, low-rank adapters, orthogonal ones, experts, skipped parts."""

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
from jaxopt_robust.layers.lora.adapters import LoraAdapter, lora_apply, lora_init, lora_merge
from jaxopt_robust.layers.lora.gradients import FastGradientInfo, lora_attention_grads_fast
from jaxopt_robust.layers.lora.head import (
  LogitBound,
  logit_bound,
  lora_attention_loss,
  lora_attention_loss_fast,
)
from jaxopt_robust.layers.lora.norms import NormRegime, attention_norm_regime
from jaxopt_robust.layers.lora.polynomial_attention import (
  factored_attention_vjp,
  polynomial_attention,
)
from jaxopt_robust.layers.lora.polynomial_softmax import (
  PolynomialSoftmaxInfo,
  exponential_features,
  softmax_poly_factors,
)
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
from jaxopt_robust.layers.sparsify.allocation import (
  ActivatedCost,
  SparsityAllocation,
  activated_cost,
  greedy_allocate,
)
from jaxopt_robust.layers.sparsify.gated import (
  AttentionKernels,
  GatedKernels,
  KeyValue,
  gated_mlp,
  gated_mlp_gather,
  selective_attention,
)
from jaxopt_robust.layers.sparsify.linear import (
  column_norms,
  dense_prefix,
  empirical_icdf,
  sparse_linear,
  teal_mask,
  wina_mask,
)
from jaxopt_robust.layers.sparsify.rotation import ResidualSpec, Sublayer, orthogonalize_pivots
from jaxopt_robust.layers.sparsify.statistics import (
  GateStats,
  activation_thresholds,
  collect_gate_stats,
  gate_weights,
  merge_gate_stats,
)
from jaxopt_robust.layers.sparsify.thresholds import (
  apply_gate_threshold,
  cats_threshold,
  chess_thresholds,
  quantile_kth,
)

__all__ = [
  "ActivatedCost",
  "AttentionKernels",
  "FastGradientInfo",
  "GateStats",
  "GatedKernels",
  "KeyValue",
  "LogitBound",
  "LoraAdapter",
  "Neighbors",
  "NormRegime",
  "OrthogonalExistence",
  "Pathway",
  "PathwayInfo",
  "PathwaySearchInfo",
  "PolynomialSoftmaxInfo",
  "RemixInfo",
  "ResidualSpec",
  "SingularValueBounds",
  "SoftAttentionInfo",
  "SparsityAllocation",
  "Sublayer",
  "activated_cost",
  "activation_thresholds",
  "apply_gate_threshold",
  "attention_norm_regime",
  "bjorck_orthonormal",
  "cats_threshold",
  "chess_thresholds",
  "circular_convolution",
  "collect_gate_stats",
  "column_norms",
  "convolution_matrix",
  "convolution_residual",
  "convolution_singular_values",
  "core_expert_mask",
  "dense_prefix",
  "elu_attention",
  "empirical_icdf",
  "exponential_features",
  "factored_attention_vjp",
  "full_gaussian_attention",
  "gate_weights",
  "gated_mlp",
  "gated_mlp_gather",
  "gaussian_gram",
  "greedy_allocate",
  "group_sort",
  "kernel_neighbors",
  "kernel_to_oihw",
  "load_balance_loss",
  "logit_bound",
  "lora_apply",
  "lora_attention_grads_fast",
  "lora_attention_loss",
  "lora_attention_loss_fast",
  "lora_init",
  "lora_merge",
  "mean_shift",
  "merge_gate_stats",
  "neighborhood_loss",
  "nystrom_attention",
  "orthogonal_convolution_exists",
  "orthogonality_penalty",
  "orthogonality_residual",
  "orthogonalize_pivots",
  "override_router",
  "pathway_gradient_descent",
  "pathway_kernel_regression",
  "pathway_line_search",
  "pathway_mode_finding",
  "polynomial_attention",
  "quantile_kth",
  "remix_pathways",
  "restrict_pathway",
  "segment_means",
  "select_experts",
  "selective_attention",
  "singular_value_bounds",
  "soft_attention",
  "softmax_poly_factors",
  "sparse_linear",
  "teal_mask",
  "wina_mask",
]

install_getattr(__name__)
