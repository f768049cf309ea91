"""What the methods of this package carry from step to step, and what they tell."""

from typing import Any, NamedTuple

from jaxopt_robust import _checks
from jaxopt_robust.typing import Array, PyTree

__all__ = ["BilevelPoint", "HoagInfo", "HoagState", "MaidInfo", "MaidState"]


class BilevelPoint(NamedTuple):
  """Variables of a bilevel problem.

  Attributes:
    x: the outer variable.
    y: the inner variable, an approximate minimiser of the inner objective at x.
  """

  x: PyTree
  y: PyTree


def check_point(params: Any) -> BilevelPoint:
  """A ``BilevelPoint`` of float arrays."""
  if not isinstance(params, BilevelPoint):
    raise TypeError(f"params must be a BilevelPoint; got {_checks.describe(params)}.")
  return BilevelPoint(
    _checks.check_float_tree("params.x", params.x), _checks.check_float_tree("params.y", params.y)
  )


class MaidState(NamedTuple):
  """State of MAID.

  Attributes:
    params: ``BilevelPoint``.
    adjoint: solution of the last linear system, where the next one starts.
    accuracy: eps, distance of y from the solution that is asked for next.
    residual: delta, residual of the linear system that is asked for next.
    stepsize: alpha, the first trial of the next line search.
    count: int32, steps done.
  """

  params: BilevelPoint
  adjoint: PyTree
  accuracy: Array
  residual: Array
  stepsize: Array
  count: Array  # type: ignore[assignment]


class MaidInfo(NamedTuple):
  """What a step did, and its certificates.

  Attributes:
    error: ||z||_2 + omega at the point before the step, at least ||grad F(x)||; without constants
      an estimate, ||z||_2 + the change that one more step of the linear solve would make of z; the
      largest number where ``unsolved``.
    value: f(y, x) there.
    low: lower end of the interval that holds F(x) there, by ``outer_value_interval``.
    high: upper end of the interval that holds F at the new x.
    decrease: psi = high - low + lam (the first-order decrease); at most 0 on every accepted step,
      which proves that F fell.
    bound: omega, bound on the distance of z from the exact hypergradient; infinite where the
      constants were not given.
    stepsize: the accepted step size, 0 where none was accepted.
    accuracy: eps at which the step was accepted.
    residual: delta at which the step was accepted.
    inner_steps: int32, steps of the inner solver.
    products: int32, products with the Hessian.
    backtracks: int32, rejected trial steps.
    refinements: int32, how often eps and delta were tightened.
    stalled: bool, no step was accepted at the finest accuracy allowed: x is kept.
    unsolved: bool, the inner solver ended at its step limit: y is further off than eps. Intervals
      and bounds are those of the y that it left.
  """

  error: Array
  value: Array
  low: Array
  high: Array
  decrease: Array
  bound: Array
  stepsize: Array
  accuracy: Array
  residual: Array
  inner_steps: Array
  products: Array
  backtracks: Array
  refinements: Array
  stalled: Array
  unsolved: Array


class HoagState(NamedTuple):
  """State of HOAG.

  Attributes:
    params: ``BilevelPoint``.
    adjoint: solution of the last linear system, where the next one starts.
    lipschitz: L, the inverse of the next step size; 0 before the first step.
    tightening: factor of the scheduled accuracies, halved by each rejected step.
    reference: ||grad_y g||_2 at the first point, the unit of the accuracies.
    count: int32, steps done.
  """

  params: BilevelPoint
  adjoint: PyTree
  lipschitz: Array
  tightening: Array
  reference: Array
  count: Array  # type: ignore[assignment]


class HoagInfo(NamedTuple):
  """What a step did.

  Attributes:
    error: ||z||_2, the approximate hypergradient at the point before the step, + the change that
      one more step of the linear solve would make of it; the largest number where the inner solver
      ended at its step limit there.
    value: f(y, x) there.
    next_value: f(y+, x+) at the trial point.
    stepsize: 1 / L, 0 where the step was rejected.
    accuracy: eps, of this step.
    inner_steps: int32, steps of the inner solver.
    products: int32, products with the Hessian.
    accepted: bool, whether x moved.
    unsolved: bool, the inner solver ended at its step limit before the step or at the trial point.
  """

  error: Array
  value: Array
  next_value: Array
  stepsize: Array
  accuracy: Array
  inner_steps: Array
  products: Array
  accepted: Array
  unsolved: Array
