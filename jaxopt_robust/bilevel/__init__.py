"""Gradients through inner problems: hypergradients of every kind, and what they are off by."""

from jaxopt_robust._deprecations import install_getattr
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
from jaxopt_robust.bilevel.products import (
  SecondOrderProducts,
  finite_difference_products,
  second_order_products,
)
from jaxopt_robust.bilevel.types import BilevelPoint, HoagInfo, HoagState, MaidInfo, MaidState

__all__ = [
  "BilevelConstants",
  "BilevelPoint",
  "HoagInfo",
  "HoagState",
  "HypergradientInfo",
  "MaidInfo",
  "MaidState",
  "SecondOrderProducts",
  "StronglyConvexInfo",
  "StronglyConvexState",
  "conjugate_gradient_bound",
  "finite_difference_products",
  "fixed_point_hypergradient",
  "geometric_accuracy",
  "hoag",
  "hypergradient",
  "hypergradient_bound",
  "inner_distance_bound",
  "maid",
  "one_step_bound",
  "outer_value_interval",
  "polynomial_accuracy",
  "second_order_products",
  "solve_random_neumann",
  "strongly_convex_descent",
  "unrolled_bound",
  "unrolled_hypergradient",
]

install_getattr(__name__)
