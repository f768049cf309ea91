"""Links of optax chains: proximal steps, momentum, saddle points, the AUC margin optimizers."""

from jaxopt_robust.transforms.auc_margin import PdscaState, PesgState, pdsca, pesg
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
from jaxopt_robust.transforms.proximal import ProximalState, apply_updates_projected, proximal

__all__ = [
  "EmaFirstState",
  "ExponentiatedGradientState",
  "PdscaState",
  "PesgState",
  "ProximalState",
  "StormState",
  "apply_updates_projected",
  "ema_first",
  "exponentiated_gradient",
  "min_max",
  "normalized_gradient",
  "pdsca",
  "pesg",
  "project_updates",
  "proximal",
  "storm_momentum",
]
