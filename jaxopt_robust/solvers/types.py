"""What a solver is, and what a solve returns besides its solution."""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxopt_robust.typing import Array

__all__ = ["CONVERGED", "NON_FINITE", "STALLED", "STEP_LIMIT", "SolveInfo", "Solver"]

CONVERGED = 0
STEP_LIMIT = 1
NON_FINITE = 2
STALLED = 3

# Fields of a state that control its steps: no part of a fixed point, and kept by ``at``.
CONTROL = ("count", "stepsize", "dual_stepsize", "weight", "gamma")


class Solver(NamedTuple):
  """An iterative method: two pure functions, run by ``run_until`` or ``run_steps``.

  The state has the fields ``params`` (the iterate) and ``count`` (int32, steps done); the step's
  info has the fields ``error`` (scalar stopping quantity, its formula in the factory's docstring),
  ``value`` (scalar objective) and may have ``stalled`` (bool scalar: no further progress possible)
  and ``aux`` (what the objective returned besides its value).

  Attributes:
    init: ``init(params, hyper, *data, **named) -> state``.
    step: ``step(state, hyper, *data, **named) -> (state, info)``.
  """

  init: Callable[..., Any]
  step: Callable[..., tuple[Any, Any]]


class SolveInfo(NamedTuple):
  """What a person wants to know of a finished solve.

  Attributes:
    steps: int32, steps taken.
    error: the stopping quantity at the last step (inf when no step was taken), at least the
      rounding of its formula: where it is at most the tolerance the true one is within twice that.
    value: the objective value that the last step reported.
    status: int32, 0 converged, 1 step limit, 2 non-finite, 3 stalled.
    last: the solver's own info of the last step.
  """

  steps: Array
  error: Array
  value: Array
  status: Array
  last: Any
