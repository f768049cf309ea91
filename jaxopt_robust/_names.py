"""What to say of a name that a module does not have: where it lives, or what is close to it."""

import difflib
import importlib
import sys
from collections.abc import Iterable
from types import ModuleType

_LIKE = 0.7  # how much a name must be like one of ours
# Names that people know from elsewhere, and ours.
SYNONYMS = {
  "AndersonAcceleration": "solvers.anderson",
  "BlockCoordinateDescent": "solvers.block_coordinate_descent",
  "FixedPointIteration": "solvers.fixed_point_iteration",
  "MirrorDescent": "solvers.mirror_descent",
  "OptaxSolver": "solvers.from_optax",
  "ProjectedGradient": "solvers.projected_gradient",
  "ProximalGradient": "solvers.fista",
  "custom_fixed_point": "solvers.implicit_fixed_point",
  "custom_root": "solvers.implicit",
  "lasso_loss": "prox.penalty_lasso",
  "prox_l1": "prox.prox_lasso",
  "prox_l1_norm": "prox.prox_lasso",
  "prox_l2": "prox.prox_group_lasso",
  "prox_l2_norm": "prox.prox_group_lasso",
  "prox_l2_squared": "prox.prox_ridge",
  "prox_nuclear_norm": "prox.prox_nuclear",
  "prox_soft_threshold": "prox.prox_lasso",
  "prox_squared_l2": "prox.prox_ridge",
  "roc_auc_score": "losses.auc",
  "roc_auc": "losses.auc",
  "average_precision_score": "losses.average_precision",
  "ndcg_score": "losses.ndcg",
  "soft_thresholding": "numerics.soft_threshold",
  "hard_thresholding": "numerics.hard_threshold",
}


def closest(word: str, words: Iterable[str], cutoff: float = 0.6) -> str | None:
  """The known word that is most like this one, in any case of letters; None where none is."""
  lower = {known.lower(): known for known in words}
  close = difflib.get_close_matches(word.lower(), lower, n=1, cutoff=cutoff)
  return lower[close[0]] if close else None


def unknown(module: str, name: str) -> AttributeError:
  """The error for ``module.name``, with the name that was probably meant."""
  message = f"module {module!r} has no attribute {name!r}"
  hint = "" if name.startswith("_") else _hint(module.partition(".")[2], name)
  return AttributeError(f"{message}.{hint}" if hint else message, name=name)


def _hint(topic: str, name: str) -> str:
  """Exact names first, also of optax; then close ones of this module, then of the others."""
  import optax  # not for a module that does without it

  public = _public()
  if name in SYNONYMS:
    return f" Did you mean jaxopt_robust.{SYNONYMS[name]}?"
  homes = [home for home, names in public.items() if name in names]
  if homes:
    return f" It is jaxopt_robust.{homes[0]}.{name}."
  for home in ("losses", "projections", "schedules"):
    if hasattr(getattr(optax, home), name):
      return f" It is optax.{home}.{name}."
  if not topic:
    module = closest(name, public, _LIKE)
    if module:
      return f" Did you mean jaxopt_robust.{module}?"
  for searched in ([topic] if topic in public else [], list(public)):
    homes_of = {known: home for home in searched for known in public[home]}
    known = closest(name, homes_of, _LIKE)
    if known:
      return f" Did you mean jaxopt_robust.{homes_of[known]}.{known}?"
  return ""


def _public() -> dict[str, list[str]]:
  """The public names of each module; of those that need an extra only once they are in use."""
  root = importlib.import_module("jaxopt_robust")
  names = {}
  for topic in root.__all__:
    full = f"jaxopt_robust.{topic}"
    if topic.startswith("_") or (topic == "nets" and full not in sys.modules):
      continue
    module: ModuleType = importlib.import_module(full)
    names[topic] = list(module.__all__)
  return names
