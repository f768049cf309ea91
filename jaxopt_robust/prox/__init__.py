"""Proximal operators, argmin_y 1/2 ||y - x||^2 + scaling * g(y; hyperparams), and penalties g."""

from jaxopt_robust.prox.elementary import make_prox_from_projection, penalty_none, prox_none
from jaxopt_robust.prox.group import group_lasso, penalty_group_lasso, prox_group_lasso
from jaxopt_robust.prox.l1 import (
  elastic_net,
  lasso,
  non_negative_lasso,
  penalty_elastic_net,
  penalty_lasso,
  penalty_non_negative_lasso,
  prox_elastic_net,
  prox_lasso,
  prox_non_negative_lasso,
)
from jaxopt_robust.prox.ridge import (
  non_negative_ridge,
  penalty_non_negative_ridge,
  penalty_ridge,
  prox_non_negative_ridge,
  prox_ridge,
  ridge,
)
from jaxopt_robust.typing import Penalty

__all__ = [
  "Penalty",
  "elastic_net",
  "group_lasso",
  "lasso",
  "make_prox_from_projection",
  "non_negative_lasso",
  "non_negative_ridge",
  "penalty_elastic_net",
  "penalty_group_lasso",
  "penalty_lasso",
  "penalty_non_negative_lasso",
  "penalty_non_negative_ridge",
  "penalty_none",
  "penalty_ridge",
  "prox_elastic_net",
  "prox_group_lasso",
  "prox_lasso",
  "prox_non_negative_lasso",
  "prox_non_negative_ridge",
  "prox_none",
  "prox_ridge",
  "ridge",
]
