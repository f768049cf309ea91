"""MAID: descent on hypergradients whose accuracy is chosen on the way, with certificates."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.bilevel._maid_step import Problem, Settings, maid_step
from jaxopt_robust.bilevel.error_bounds import BilevelConstants
from jaxopt_robust.bilevel.inner_solver import check_constant
from jaxopt_robust.bilevel.products import scalar_of
from jaxopt_robust.bilevel.types import BilevelPoint, MaidState, check_point
from jaxopt_robust.solvers import Solver
from jaxopt_robust.solvers._common import hashable
from jaxopt_robust.typing import ArrayLike, PyTree

__all__ = ["maid"]


@hashable
def maid(
  inner: Callable[..., Any],
  outer: Callable[..., Any],
  inner_solver: Solver,
  *,
  strong_convexity: ArrayLike | Callable[..., ArrayLike],
  outer_smoothness: ArrayLike | Callable[..., ArrayLike],
  constants: Callable[..., BilevelConstants] | None = None,
  project: Callable[[PyTree], PyTree] | None = None,
  convex: bool = False,
  accuracy: ArrayLike = 0.1,
  residual: ArrayLike = 0.1,
  stepsize: ArrayLike = 0.01,
  shrink: ArrayLike = 0.5,
  growth: ArrayLike = 10 / 9,
  tighten: ArrayLike = 0.5,
  relax: ArrayLike = 1.05,
  descent: ArrayLike = 1e-4,
  decrease: ArrayLike = 1e-8,
  max_backtracks: int = 10,
  max_refinements: int = 40,
  min_accuracy: float | None = None,
  max_inner_steps: int = 2000,
  max_products: int = 2000,
) -> Solver:
  r"""Method of adaptive inexact descent for min_x F(x), F(x) = f(y*(x), x), as a solver.

  A step at x, with accuracies eps and delta:

  1. y with ||y - y*(x)|| <= eps, v with ||H v - grad_y f(y)|| <= delta, z = grad_x f - B^T v. With
     ``constants``: eps and delta are halved until omega <= (1 - eta) ||z||, the bound omega on
     ||z - grad F(x)||, so that -z is a direction of descent.
  2. x+ = x - alpha z and y+ with ||y+ - y*(x+)|| <= 1.05 eps. Accepted if
     psi = high(x+) - low(x) + lam alpha ||z||^2 <= 0, where the intervals of
     ``outer_value_interval`` hold F: then F(x+) <= F(x) - lam alpha ||z||^2 is proved. Otherwise
     alpha is halved, at most ``max_backtracks`` times (once more after each failure).
  3. When all fail the accuracy was the reason: eps and delta are halved, and 1 is done again.
  4. After a success alpha grows by 10/9, eps and delta by 1.05.

  The stopping quantity ``info.error`` is ||z||_2 + omega at the point before the step, a bound on
  ||grad F(x)||; without ``constants`` it is ||z||_2 + the change that one more step of the linear
  solve would make of z, an estimate, and the largest number where the inner solver ended at its
  step limit (``info.unsolved``).

  Args:
    inner: ``inner(y, x, *data) -> scalar``, g, mu-strongly convex in y and twice differentiable.
    outer: ``outer(y, x, *data) -> scalar``, f.
    inner_solver: ``Solver`` whose params are y, whose hyper is x and whose error bounds
      ||grad_y g|| at its result: ``strongly_convex_descent``, or any other. Distances are computed
      again from the gradient at the result.
    strong_convexity: mu > 0, a number or ``mu(x, *data)``. Too large a value makes every
      certificate wrong.
    outer_smoothness: L_f >= 0, Lipschitz constant of grad_y f in y, a number or ``L_f(x, *data)``.
    constants: ``constants(y, x, *data) -> BilevelConstants`` for the test of step 1; None leaves it
      out, the certificate of step 2 stays.
    project: projection of x on a convex set; None: none. The decrease is then
      lam ||x - x+||^2 / alpha.
    convex: static, whether f is convex in y: tighter intervals.
    accuracy: eps_0 > 0, in the units of y.
    residual: delta_0 > 0, in those of grad_y f.
    stepsize: alpha_0 > 0, in the units of x squared over F.
    shrink: in (0, 1), factor of a rejected step.
    growth: >= 1, factor of an accepted step.
    tighten: in (0, 1), factor of eps and delta after a failure.
    relax: >= 1, factor of eps and delta after a success.
    descent: eta in (0, 1).
    decrease: lam > 0, below eta where the test of step 1 is made.
    max_backtracks: >= 1, static.
    max_refinements: >= 0, static, of a step.
    min_accuracy: > 0, static, in the units of y; finer accuracies are not asked for: the step is
      *stalled* (status 3). None: 1e-13, in float32 1e-6, for y of size 1.
    max_inner_steps: >= 1, static, of one call of the inner solver.
    max_products: >= 1, static, of one linear solve.

  Returns:
    ``Solver`` whose params are a ``BilevelPoint``, hyper is None, with states ``MaidState`` and
    infos ``MaidInfo``: ``run_until`` stops by it, ``run_steps`` records every certificate.

  Raises:
    TypeError: when an objective is not a function, or ``inner_solver`` no solver.
    ValueError: when a number is out of its range, or an objective is no scalar.

  Note:
    Use float64: below an accuracy of about 1e-5 float32 has nothing to compare. Near a stationary
    point ||z||^2 falls below what any accuracy can tell, and the run ends as stalled.

  Example:
    >>> inner = lambda y, x: 0.5 * jnp.sum((y - 1.0) ** 2) + 0.5 * x * jnp.sum(y**2)
    >>> outer = lambda y, x: 0.5 * jnp.sum((y - 0.8) ** 2)
    >>> mu = lambda x: 1 + x
    >>> solver = jr.bilevel.strongly_convex_descent(inner, strong_convexity=mu, smoothness=mu)
    >>> method = maid(inner, outer, solver, strong_convexity=mu, outer_smoothness=1.0,
    ...               stepsize=1.0, project=lambda x: jnp.maximum(x, 0.0))
    >>> start = BilevelPoint(jnp.array(1.0), jnp.zeros(1))
    >>> best, info = jr.solvers.run_until(method, start, None, tol=1e-3, max_steps=50)
    >>> round(float(best.x), 2), int(info.status)  # 1 / (1 + x) = 0.8
    (0.25, 0)

  Reference:
    Salehi, Mukherjee, Roberts and Ehrhardt, An adaptively inexact first-order method for bilevel
    optimization with application to hyperparameter learning, 2025, algorithms 3.1 and 3.2. The
    value and gradient of f are taken at the refined y, where the authors' code keeps older ones.
  """
  scalar_of("inner", inner)
  value_of = scalar_of("outer", outer)
  _arguments.check_solver("inner_solver", inner_solver)
  check_constant("strong_convexity", strong_convexity)
  if not callable(outer_smoothness):
    _checks.check_non_negative("outer_smoothness", outer_smoothness, scalar=True)
  for name, number in (("accuracy", accuracy), ("residual", residual), ("stepsize", stepsize)):
    _checks.check_positive(name, number, scalar=True)
  for name, number in (("shrink", shrink), ("tighten", tighten), ("descent", descent)):
    _checks.check_interval(name, number, 0.0, 1.0, closed="neither", scalar=True)
  for name, number in (("growth", growth), ("relax", relax)):
    _checks.check_interval(name, number, 1.0, float("inf"), closed="left", scalar=True)
  _checks.check_positive("decrease", decrease, scalar=True)
  if constants is not None and _checks.is_concrete((decrease, descent)):
    below = np.asarray(decrease) < np.asarray(descent)
    _checks.check_holds(below, f"decrease must be below descent, {descent}; got {decrease}.")
  if min_accuracy is not None:
    _checks.check_positive("min_accuracy", min_accuracy, scalar=True)
  for name, function in (("constants", constants), ("project", project)):
    if function is not None:
      _arguments.check_callable(name, function)
  settings = Settings(
    strong_convexity, outer_smoothness, constants, project or (lambda x: x), convex, shrink, growth,
    tighten, relax, descent, decrease,
    _checks.check_int("max_backtracks", max_backtracks, minimum=1),
    _checks.check_int("max_refinements", max_refinements, minimum=0), min_accuracy,
    _checks.check_int("max_inner_steps", max_inner_steps, minimum=1),
    _checks.check_int("max_products", max_products, minimum=1),
  )  # fmt: skip

  def init(params: BilevelPoint, hyper: None, *data: PyTree) -> MaidState:
    del hyper, data
    params = check_point(params)
    dtype = jnp.result_type(*jax.tree.leaves(params))
    zero = jax.tree.map(jnp.zeros_like, params.y)
    eps, delta, alpha = (jnp.asarray(v, dtype) for v in (accuracy, residual, stepsize))
    return MaidState(params, zero, eps, delta, alpha, jnp.zeros((), jnp.int32))

  problem = Problem(inner, value_of, inner_solver, settings)
  return Solver(init, lambda state, hyper, *data: maid_step(problem, state, data))
