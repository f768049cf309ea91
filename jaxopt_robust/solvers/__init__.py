"""Iterative methods, the two loops that run them, and derivatives of their solutions."""

from jaxopt_robust.solvers.drive import raise_if_failed, run_steps, run_until
from jaxopt_robust.solvers.implicit import implicit
from jaxopt_robust.solvers.linear import solve_bicgstab, solve_cg, solve_dense, solve_gmres
from jaxopt_robust.solvers.proximal_gradient import (
  FistaState,
  IstaState,
  ProximalGradientInfo,
  fista,
  ista,
  proximal_residual,
)
from jaxopt_robust.solvers.types import (
  CONVERGED,
  NON_FINITE,
  STALLED,
  STEP_LIMIT,
  SolveInfo,
  Solver,
)

__all__ = [
  "CONVERGED",
  "NON_FINITE",
  "STALLED",
  "STEP_LIMIT",
  "FistaState",
  "IstaState",
  "ProximalGradientInfo",
  "SolveInfo",
  "Solver",
  "fista",
  "implicit",
  "ista",
  "proximal_residual",
  "raise_if_failed",
  "run_steps",
  "run_until",
  "solve_bicgstab",
  "solve_cg",
  "solve_dense",
  "solve_gmres",
]
