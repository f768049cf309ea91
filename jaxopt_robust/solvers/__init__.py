"""Iterative methods, the loops that run them, certificates, and derivatives of solutions."""

from jaxopt_robust._deprecations import install_getattr
from jaxopt_robust.solvers.active_features import (
  WorkingSetInfo,
  WorkingSetState,
  working_set,
)
from jaxopt_robust.solvers.alternating_directions import (
  ADMMInfo,
  ADMMState,
  admm,
)
from jaxopt_robust.solvers.alternating_gradients import (
  PalmInfo,
  PalmState,
  palm,
)
from jaxopt_robust.solvers.barzilai_borwein import (
  SpectralInfo,
  SpectralState,
  spectral_proximal_gradient,
)
from jaxopt_robust.solvers.conjugate_gradient import (
  ConjugateGradientInfo,
  ConjugateGradientState,
  conjugate_gradient,
)
from jaxopt_robust.solvers.coordinate import (
  BlockCoordinateInfo,
  BlockCoordinateState,
  block_coordinate_descent,
)
from jaxopt_robust.solvers.curvature import (
  LowRankCurvature,
  empirical_fisher,
  exact_curvature,
  gauss_newton_curvature,
  log_sum_exp_curvature,
  power_norm_curvature,
  power_norm_fisher,
  zero_curvature,
)
from jaxopt_robust.solvers.drive import (
  raise_if_failed,
  run_state,
  run_steps,
  run_until,
)
from jaxopt_robust.solvers.duality_gap import (
  elastic_net_duality_gap,
  group_lasso_duality_gap,
  lasso_duality_gap,
  logistic_lasso_duality_gap,
  non_negative_lasso_duality_gap,
)
from jaxopt_robust.solvers.fixed_points import (
  AndersonState,
  FixedPointInfo,
  FixedPointState,
  anderson,
  fixed_point_iteration,
)
from jaxopt_robust.solvers.gns import (
  GnsInfo,
  GnsState,
  gns_newton,
)
from jaxopt_robust.solvers.gram_descent import (
  GramDescentInfo,
  GramDescentState,
  gram_coordinate_descent,
)
from jaxopt_robust.solvers.hard_thresholding import (
  HardThresholdingInfo,
  HardThresholdingState,
  htp,
  iht,
  niht,
)
from jaxopt_robust.solvers.implicit_differentiation import (
  implicit,
  implicit_fixed_point,
  support_residual,
)
from jaxopt_robust.solvers.linear import (
  solve_bicgstab,
  solve_cg,
  solve_dense,
  solve_gmres,
  solve_neumann,
)
from jaxopt_robust.solvers.mirror_descent import (
  MirrorDescentInfo,
  MirrorDescentState,
  entropic_step,
  make_projection_grad,
  mirror_descent,
  projected_gradient,
)
from jaxopt_robust.solvers.nonconvex_ag import (
  NonconvexAGInfo,
  NonconvexAGState,
  PenaltySplit,
  nonconvex_ag,
  split_mcp,
  split_scad,
)
from jaxopt_robust.solvers.optax_link import (
  OptaxInfo,
  OptaxState,
  from_optax,
)
from jaxopt_robust.solvers.potentials import (
  invert_potential,
  make_potential_penalty,
  potential_regularizer,
)
from jaxopt_robust.solvers.power_iteration import (
  operator_norm,
)
from jaxopt_robust.solvers.primal_dual import (
  PrimalDualInfo,
  PrimalDualState,
  chambolle_pock,
  condat_vu,
)
from jaxopt_robust.solvers.prox_ncg import (
  ProxNcgInfo,
  ProxNcgState,
  prox_ncg,
)
from jaxopt_robust.solvers.proximal_gradient import (
  FistaState,
  IstaState,
  ProximalGradientInfo,
  fista,
  ista,
  proximal_residual,
)
from jaxopt_robust.solvers.restart import at
from jaxopt_robust.solvers.splitting import (
  SplittingInfo,
  SplittingState,
  davis_yin,
  douglas_rachford,
)
from jaxopt_robust.solvers.target import (
  SSOInfo,
  SSOState,
  sso,
  target_surrogate,
)
from jaxopt_robust.solvers.target_search import (
  LineSearchInfo,
  target_line_search,
  target_search,
)
from jaxopt_robust.solvers.target_stepsizes import (
  TargetBatch,
  TargetPoint,
  TargetStepsize,
  inverse_sqrt_schedule,
  target_adagrad,
  target_curvature,
  target_example_adagrad,
)
from jaxopt_robust.solvers.types import (
  CONVERGED,
  NON_FINITE,
  STALLED,
  STEP_LIMIT,
  SolveInfo,
  Solver,
)
from jaxopt_robust.solvers.variance_reduction import (
  SvrgInfo,
  SvrgState,
  prox_svrg,
)

__all__ = [
  "CONVERGED",
  "NON_FINITE",
  "STALLED",
  "STEP_LIMIT",
  "ADMMInfo",
  "ADMMState",
  "AndersonState",
  "BlockCoordinateInfo",
  "BlockCoordinateState",
  "ConjugateGradientInfo",
  "ConjugateGradientState",
  "FistaState",
  "FixedPointInfo",
  "FixedPointState",
  "GnsInfo",
  "GnsState",
  "GramDescentInfo",
  "GramDescentState",
  "HardThresholdingInfo",
  "HardThresholdingState",
  "IstaState",
  "LineSearchInfo",
  "LowRankCurvature",
  "MirrorDescentInfo",
  "MirrorDescentState",
  "NonconvexAGInfo",
  "NonconvexAGState",
  "OptaxInfo",
  "OptaxState",
  "PalmInfo",
  "PalmState",
  "PenaltySplit",
  "PrimalDualInfo",
  "PrimalDualState",
  "ProxNcgInfo",
  "ProxNcgState",
  "ProximalGradientInfo",
  "SSOInfo",
  "SSOState",
  "SolveInfo",
  "Solver",
  "SpectralInfo",
  "SpectralState",
  "SplittingInfo",
  "SplittingState",
  "SvrgInfo",
  "SvrgState",
  "TargetBatch",
  "TargetPoint",
  "TargetStepsize",
  "WorkingSetInfo",
  "WorkingSetState",
  "admm",
  "anderson",
  "at",
  "block_coordinate_descent",
  "chambolle_pock",
  "condat_vu",
  "conjugate_gradient",
  "davis_yin",
  "douglas_rachford",
  "elastic_net_duality_gap",
  "empirical_fisher",
  "entropic_step",
  "exact_curvature",
  "fista",
  "fixed_point_iteration",
  "from_optax",
  "gauss_newton_curvature",
  "gns_newton",
  "gram_coordinate_descent",
  "group_lasso_duality_gap",
  "htp",
  "iht",
  "implicit",
  "implicit_fixed_point",
  "inverse_sqrt_schedule",
  "invert_potential",
  "ista",
  "lasso_duality_gap",
  "log_sum_exp_curvature",
  "logistic_lasso_duality_gap",
  "make_potential_penalty",
  "make_projection_grad",
  "mirror_descent",
  "niht",
  "non_negative_lasso_duality_gap",
  "nonconvex_ag",
  "operator_norm",
  "palm",
  "potential_regularizer",
  "power_norm_curvature",
  "power_norm_fisher",
  "projected_gradient",
  "prox_ncg",
  "prox_svrg",
  "proximal_residual",
  "raise_if_failed",
  "run_state",
  "run_steps",
  "run_until",
  "solve_bicgstab",
  "solve_cg",
  "solve_dense",
  "solve_gmres",
  "solve_neumann",
  "spectral_proximal_gradient",
  "split_mcp",
  "split_scad",
  "sso",
  "support_residual",
  "target_adagrad",
  "target_curvature",
  "target_example_adagrad",
  "target_line_search",
  "target_search",
  "target_surrogate",
  "working_set",
  "zero_curvature",
]

install_getattr(__name__)
