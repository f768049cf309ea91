"""Gradients through inner problems: hypergradients of every kind, and what they are off by."""

from jaxopt_robust._deprecations import install_getattr
from jaxopt_robust.bilevel.directions import (
  BilevelBatch,
  BilevelVariables,
  Directions,
  StochasticMethod,
  neumann_directions,
  soba_directions,
)
from jaxopt_robust.bilevel.error_bounds import (
  BilevelConstants,
  conjugate_gradient_bound,
  hypergradient_bound,
  inner_distance_bound,
  one_step_bound,
  outer_value_interval,
  unrolled_bound,
)
from jaxopt_robust.bilevel.hoag import geometric_accuracy, hoag, polynomial_accuracy
from jaxopt_robust.bilevel.hypergradients import (
  HypergradientInfo,
  fixed_point_hypergradient,
  hypergradient,
  unrolled_hypergradient,
)
from jaxopt_robust.bilevel.inner_solver import (
  StronglyConvexInfo,
  StronglyConvexState,
  strongly_convex_descent,
)
from jaxopt_robust.bilevel.maid import maid
from jaxopt_robust.bilevel.neumann import solve_random_neumann
from jaxopt_robust.bilevel.penalty import bome_directions, f2sa_directions
from jaxopt_robust.bilevel.products import (
  SecondOrderProducts,
  finite_difference_products,
  second_order_products,
)
from jaxopt_robust.bilevel.stochastic import (
  StochasticInfo,
  StochasticState,
  stochastic_bilevel,
)
from jaxopt_robust.bilevel.types import BilevelPoint, HoagInfo, HoagState, MaidInfo, MaidState
from jaxopt_robust.bilevel.variance_reduction import moving_average, saga, spider, storm
from jaxopt_robust.bilevel.zeroth_order import zeroth_order_hypergradient

__all__ = [
  "BilevelBatch",
  "BilevelConstants",
  "BilevelPoint",
  "BilevelVariables",
  "Directions",
  "HoagInfo",
  "HoagState",
  "HypergradientInfo",
  "MaidInfo",
  "MaidState",
  "SecondOrderProducts",
  "StochasticInfo",
  "StochasticMethod",
  "StochasticState",
  "StronglyConvexInfo",
  "StronglyConvexState",
  "bome_directions",
  "conjugate_gradient_bound",
  "f2sa_directions",
  "finite_difference_products",
  "fixed_point_hypergradient",
  "geometric_accuracy",
  "hoag",
  "hypergradient",
  "hypergradient_bound",
  "inner_distance_bound",
  "maid",
  "moving_average",
  "neumann_directions",
  "one_step_bound",
  "outer_value_interval",
  "polynomial_accuracy",
  "saga",
  "second_order_products",
  "soba_directions",
  "solve_random_neumann",
  "spider",
  "stochastic_bilevel",
  "storm",
  "strongly_convex_descent",
  "unrolled_bound",
  "unrolled_hypergradient",
  "zeroth_order_hypergradient",
]

install_getattr(__name__)
