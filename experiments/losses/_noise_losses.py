"""Losses that are compared on noisy labels, by the names of a table."""

from collections.abc import Callable

import jax

from jaxopt_robust import losses

# name -> (family, hyperparameters that are data). One program serves a family.
LOSSES: dict[str, tuple[str, dict[str, float]]] = {
  "CE": ("power", {"q": 0.0}),
  "GCE 0.7": ("power", {"q": 0.7}),
  "MAE": ("power", {"q": 1.0}),
  "CS": ("hinge", {"margin": 1.0}),
  "LDR 1": ("ldr", {"temperature": 1.0}),
  "LDR 10": ("ldr", {"temperature": 10.0}),
  "ALDR 1": ("aldr", {"temperature": 1.0}),
  "ALDR 10": ("aldr", {"temperature": 10.0}),
  "JS 0.5": ("js", {"weight": 0.5}),
  "SCE 0.5": ("sce", {"balance": 0.5}),
  "RLL 1": ("rll", {"alpha": 1.0}),
  "NCE+RCE": ("nce_rce", {"alpha": 5.0, "beta": 5.0}),
  "NCE+AGCE": ("nce_agce", {"alpha": 5.0, "beta": 5.0}),
  "NCE+AUL": ("nce_aul", {"alpha": 5.0, "beta": 5.0}),
}
STATELESS: dict[str, Callable[..., jax.Array]] = {
  "power": losses.generalized_cross_entropy_loss,
  "hinge": losses.crammer_singer_loss,
  "ldr": losses.ldr_kl_loss,
  "js": losses.jensen_shannon_loss,
  "sce": losses.symmetric_cross_entropy_loss,
  "rll": losses.robust_log_loss,
  "nce_rce": losses.nce_rce_loss,
  "nce_agce": losses.nce_agce_loss,
  "nce_aul": losses.nce_aul_loss,
}
