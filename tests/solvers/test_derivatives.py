"""Derivatives of every solver's solution on every problem that it supports."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import solvers
from tests.registries.solvers import PROBLEMS, SOLVERS

BY_NAME = {p.name: p for p in PROBLEMS}
pytestmark = pytest.mark.x64


def arrays(problem):
  return tuple(jnp.asarray(d) for d in problem.data)


# The derivative of the solution does not depend on restarts.
@pytest.mark.parametrize(
  ("case", "problem"),
  [
    pytest.param(s, BY_NAME[p], id=f"{s.name}-{p}")
    for s in SOLVERS
    if s.name in ("ista", "fista", "ista_backtracking")
    for p in s.supports
  ],
)
def test_implicit_unrolled_and_finite_differences_agree(case, problem):
  start, data = jnp.zeros(problem.optimum.size), arrays(problem)
  solver = case.make(problem)
  weights = jnp.cos(jnp.arange(problem.optimum.size, dtype=jnp.float64))
  # A point where the solution is smooth in the strengths: move them a little.
  strengths = jax.tree.map(lambda h: jnp.asarray(h) + 0.0123, problem.hyper)
  solve = functools.partial(solvers.run_until, solver, tol=1e-13, max_steps=50_000)
  residual = solvers.proximal_residual(problem.fun, problem.prox, stepsize=1 / problem.lipschitz)
  linear_solve = solvers.solve_gmres if problem.name == "lasso" else solvers.solve_dense
  exact = solvers.implicit(lambda w, h, *d: solve(w, h, *d), residual, linear_solve=linear_solve)

  def along(t, solution):
    scaled = jax.tree.map(lambda h: h * jnp.exp(t), strengths)
    return jnp.vdot(weights, solution(start, scaled, *data)[0])

  implicit_fun = jax.jit(lambda t: along(t, exact))
  eps = 1e-5
  expected = (implicit_fun(eps) - implicit_fun(-eps)) / (2 * eps)
  forward = jax.jvp(implicit_fun, (0.0,), (1.0,))[1]
  reverse = jax.grad(implicit_fun)(0.0)
  np.testing.assert_allclose([forward, reverse], [expected, expected], atol=1e-8)
  unrolled = functools.partial(solvers.run_steps, solver, num_steps=800)
  slope = jax.jit(jax.grad(lambda t: along(t, unrolled)))(0.0)
  np.testing.assert_allclose(slope, expected, atol=1e-7)


@pytest.mark.parametrize(
  ("case", "problem"),
  [
    pytest.param(s, BY_NAME[p], id=f"{s.name}-{p}")
    for s in SOLVERS
    if s.at_rest
    for p in s.supports
  ],
)
def test_derivative_of_the_fixed_point_of_any_step(case, problem):
  """One wrapper for all: both modes equal finite differences of a solve to 1e-13."""
  start = jnp.zeros(problem.optimum.size)
  weights = jnp.cos(jnp.arange(problem.optimum.size, dtype=jnp.float64))
  # GMRES takes long to compile: it is shown on one problem, elimination on the others.
  linear_solve = solvers.solve_gmres if problem.name == "lasso" else solvers.solve_dense
  exact = solvers.implicit_fixed_point(
    case.make(problem), tol=case.tol * 1e-3, max_steps=50_000, linear_solve=linear_solve
  )

  def along(t):
    scaled = jax.tree.map(lambda h: (jnp.asarray(h) + 0.0123) * jnp.exp(t), problem.hyper)
    hyper, data = case.pack(problem, scaled)
    return jnp.vdot(weights, exact(start, hyper, *data)[0].params)

  @jax.jit
  def both_modes(t):  # one program: the solve runs once, the linear map forwards and transposed
    value, tangent = jax.linearize(along, t)
    return value, tangent(1.0), jax.linear_transpose(tangent, t)(1.0)[0]

  eps = 1e-5
  expected = (both_modes(eps)[0] - both_modes(-eps)[0]) / (2 * eps)
  _, forward, reverse = both_modes(0.0)
  assert abs(expected) > 1e-3
  np.testing.assert_allclose([forward, reverse], [expected, expected], atol=1e-7)


@pytest.mark.parametrize(
  ("case", "problem"),
  [
    pytest.param(s, BY_NAME[p], id=f"{s.name}-{p}")
    for s in SOLVERS
    if not s.at_rest and s.name not in ("fista", "ista_backtracking")  # above
    for p in s.supports
  ],
)
def test_derivative_by_the_optimality_condition(case, problem):
  """Methods with momentum, memory or changing steps: the condition of the problem serves them."""
  start = jnp.zeros(problem.optimum.size)
  weights = jnp.cos(jnp.arange(problem.optimum.size, dtype=jnp.float64))

  def run(params, hyper, *data):
    del data
    packed_hyper, packed_data = case.pack(problem, hyper)
    return solvers.run_until(
      case.make(problem), params, packed_hyper, *packed_data, tol=case.tol, max_steps=50_000
    )

  residual = solvers.proximal_residual(problem.fun, problem.prox, stepsize=1 / problem.lipschitz)
  exact = solvers.implicit(run, residual, linear_solve=solvers.solve_dense)

  def along(t):
    scaled = jax.tree.map(lambda h: (jnp.asarray(h) + 0.0123) * jnp.exp(t), problem.hyper)
    return jnp.vdot(weights, exact(start, scaled, *arrays(problem))[0])

  both = jax.jit(jax.value_and_grad(along))
  eps = 1e-4
  expected = (both(eps)[0] - both(-eps)[0]) / (2 * eps)
  np.testing.assert_allclose(both(0.0)[1], expected, atol=2e-6)
