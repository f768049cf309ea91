"""Iterations as networks: unfolded solvers and their training, sparse coding, dictionaries."""

from jaxopt_robust._deprecations import install_getattr
from jaxopt_robust.unfolding.dictionary import (
  DictionaryInfo,
  DictionaryState,
  dictionary_step,
  init_dictionary,
  learn_dictionary,
  normalize_atoms,
  recovered_atoms,
  sparse_coding,
)
from jaxopt_robust.unfolding.engine import repeat_layers, unfold
from jaxopt_robust.unfolding.learned import (
  alista_cell,
  alista_layers,
  alista_weight,
  lista_cell,
  lista_cp_cell,
  lista_cp_layers,
  lista_layers,
)
from jaxopt_robust.unfolding.losses import l0_objective, l1_objective, supervised_loss
from jaxopt_robust.unfolding.patches import random_patches, whiten
from jaxopt_robust.unfolding.sampling import SparseBatch, sample_sparse_batch
from jaxopt_robust.unfolding.solver_layers import unfold_equilibrium, unfold_solver
from jaxopt_robust.unfolding.support_selection import (
  soft_threshold_except_largest,
  support_schedule,
)
from jaxopt_robust.unfolding.thresholding import (
  continuation_layers,
  hard_threshold_cell,
  iht_cell,
  ista_cell,
  ista_layers,
  step_layers,
  tied_ista_cell,
)
from jaxopt_robust.unfolding.tista import shrink_bernoulli_gaussian, tista_cell, tista_weight
from jaxopt_robust.unfolding.training import (
  Trained,
  from_positive,
  to_positive,
  train_end_to_end,
  train_incremental,
)
from jaxopt_robust.unfolding.types import (
  ListaLayers,
  Measurements,
  StepLayers,
  ThresholdLayers,
  WeightLayers,
)

__all__ = [
  "DictionaryInfo",
  "DictionaryState",
  "ListaLayers",
  "Measurements",
  "SparseBatch",
  "StepLayers",
  "ThresholdLayers",
  "Trained",
  "WeightLayers",
  "alista_cell",
  "alista_layers",
  "alista_weight",
  "continuation_layers",
  "dictionary_step",
  "from_positive",
  "hard_threshold_cell",
  "iht_cell",
  "init_dictionary",
  "ista_cell",
  "ista_layers",
  "l0_objective",
  "l1_objective",
  "learn_dictionary",
  "lista_cell",
  "lista_cp_cell",
  "lista_cp_layers",
  "lista_layers",
  "normalize_atoms",
  "random_patches",
  "recovered_atoms",
  "repeat_layers",
  "sample_sparse_batch",
  "shrink_bernoulli_gaussian",
  "soft_threshold_except_largest",
  "sparse_coding",
  "step_layers",
  "supervised_loss",
  "support_schedule",
  "tied_ista_cell",
  "tista_cell",
  "tista_weight",
  "to_positive",
  "train_end_to_end",
  "train_incremental",
  "unfold",
  "unfold_equilibrium",
  "unfold_solver",
  "whiten",
]

install_getattr(__name__)
