"""The quantile loss has kinks: its path is made by a primal-dual method in units of its own."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust.numerics import safe_divide
from jaxopt_robust.prox import prox_pinball
from jaxopt_robust.regression._problem import Model, Params, Problem, linear, start
from jaxopt_robust.solvers import PrimalDualState, Solver, chambolle_pock, operator_norm
from jaxopt_robust.typing import Array


class Scaled(NamedTuple):
  """The problem divided by its units: design of norm 1, targets of mean square 1.

  With w = (sigma / unit) w' the objective over sigma is
  sum_i sqrt(n) weights_i pinball(y'_i - (K' w')_i) + penalty((sigma / unit) w') / sigma.
  """

  problem: Problem
  target: Array
  weights: Array
  sigma: Array
  root: Array


def scaled(problem: Problem) -> Scaled:
  """Targets are measured from the offset."""
  n = problem.weights.shape[0]
  moved = problem.target - problem.offset
  sigma = jnp.sqrt(jnp.sum(problem.weights * moved**2))
  sigma = jnp.where(sigma > 0, sigma, 1)
  root = jnp.sqrt(jnp.asarray(n, sigma.dtype))
  return Scaled(problem, moved / (sigma * root), root * problem.weights, sigma, root)


def image(params: Params, data: Scaled) -> Array:
  """K' w'."""
  return linear(data.problem, params) / (data.problem.unit * data.root)


def make_solver(model: Model, data: Scaled) -> Solver:
  """Chambolle-Pock with steps of one over the norm of K'."""
  problem = data.problem

  def prox_f(params: Params, hyper: Any, scaling: Any) -> Params:
    # s P(c w) / sigma has the operator w -> prox_P(c w, s c^2 / sigma) / c
    c = data.sigma / problem.unit
    w = model.penalty.prox(c * params.coefficients, hyper, scaling * (c / problem.unit))
    return Params(w / c, params.intercept)

  def prox_g(z: Array, hyper: Any, scaling: Any) -> Array:
    return data.target - prox_pinball(data.target - z, hyper, scaling)

  norm = operator_norm(image, start(problem), data, key=jax.random.key(0), num_steps=50)
  step = 0.99 * safe_divide(jnp.ones_like(norm), norm, default=1.0)
  return chambolle_pock(prox_f, prox_g, image, stepsize=step, dual_stepsize=step)


def hyper_of(hyper: Any, data: Scaled) -> Any:
  """The pair of the two operators."""
  return hyper, (data.weights, data.problem.loss_hyper)


def first_state(solver: Solver, data: Scaled) -> PrimalDualState:
  """No coefficients, and the intercept of the offset."""
  return solver.init(start(data.problem), (None, None), data)


def back(data: Scaled, params: Params) -> Params:
  """In the units of the problem."""
  c = data.sigma / data.problem.unit
  return Params(c * params.coefficients, c * params.intercept)
