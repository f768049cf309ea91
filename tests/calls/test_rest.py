"""Recorded calls of all other modules: see ``tests.recorded``."""

from tests.recorded import MODULES, examples

ELSEWHERE = {
  "compositional", "linalg", "losses", "projections", "prox", "recovery", "solvers",
}  # fmt: skip
globals().update(examples(*(name for name in MODULES if name not in ELSEWHERE)))
