"""Every solver on every problem that it supports: optimum, monotonicity, rate, derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import solvers
from tests.registries.solvers import PROBLEMS, SOLVERS

BY_NAME = {p.name: p for p in PROBLEMS}
GRID = pytest.mark.parametrize(
  ("case", "problem"),
  [pytest.param(s, BY_NAME[p], id=f"{s.name}-{p}") for s in SOLVERS for p in s.supports],
)
pytestmark = pytest.mark.x64


def arrays(problem):
  return tuple(jnp.asarray(d) for d in problem.data)


def packed(case, problem):
  return case.pack(problem, problem.hyper)


def composite(problem, w):
  return problem.fun(w, *arrays(problem)) + problem.value(w, problem.hyper)


@GRID
def test_reaches_the_known_optimum(case, problem):
  start = jnp.zeros(problem.optimum.size)
  run = jax.jit(
    lambda hyper, *data: solvers.run_until(
      case.make(problem), start, hyper, *data, tol=case.tol, max_steps=20_000
    )
  )
  hyper, data = packed(case, problem)
  params, info = run(hyper, *data)
  assert int(info.status) == solvers.CONVERGED
  # ||x - x*|| <= ||gradient mapping|| / mu, both at the last point
  np.testing.assert_allclose(params, problem.optimum, atol=1e-8)


@pytest.mark.parametrize(
  ("case", "problem"),
  [
    pytest.param(s, BY_NAME[p], id=f"{s.name}-{p}")
    for s in SOLVERS
    for p in s.supports
    if s.monotone or "ista" in s.name  # the others promise neither
  ],
)
def test_rate_is_not_worse_than_the_theory(case, problem):
  """Gap after k steps at most L R^2 / (2k) (ISTA) or 2 L R^2 / (k+1)^2 (FISTA without restart)."""
  steps = 200
  start = jnp.zeros(problem.optimum.size)
  one = lambda w: composite(problem, w)
  solver = case.make(problem)

  hyper, data = packed(case, problem)

  def body(state, _):
    state, info = solver.step(state, hyper, *data)
    return state, (one(state.params), info.error)

  init = solver.init(start, hyper, *data)
  _, (values, errors) = jax.jit(lambda s: jax.lax.scan(body, s, None, length=steps))(init)
  gaps = np.asarray(values) - float(one(jnp.asarray(problem.optimum)))
  assert gaps.min() > -1e-12, "nothing is below the optimum"
  k = np.arange(1, steps + 1)
  radius = float(np.sum(problem.optimum**2))
  # backtracking by halving may use steps down to 1/(2L)
  lipschitz = problem.lipschitz * (2 if "backtracking" in case.name else 1)
  if "ista" in case.name and "fista" not in case.name:
    bound = lipschitz * radius / (2 * k)
  else:
    bound = 2 * lipschitz * radius / (k + 1) ** 2
  if "restart" in case.name or "ista" in case.name:
    assert np.all(gaps <= bound * (1 + 1e-9) + 1e-12)
  if case.monotone:
    assert np.all(np.diff(np.asarray(values)) <= 1e-12)
  if problem.strong > 0 and case.name == "ista":
    slope = np.log(max(gaps[-1], 1e-28) / max(gaps[0], 1e-28)) / (steps - 1)
    assert gaps[-1] < 1e-14 or slope <= np.log1p(-problem.strong / problem.lipschitz)
  assert errors[-1] < 1e-2 * errors[0] or errors[-1] < 1e-10


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
  exact = solvers.implicit(lambda w, h, *d: solve(w, h, *d), residual)

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
  exact = solvers.implicit_fixed_point(case.make(problem), tol=case.tol * 1e-3, max_steps=50_000)

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
  exact = solvers.implicit(run, residual)

  def along(t):
    scaled = jax.tree.map(lambda h: (jnp.asarray(h) + 0.0123) * jnp.exp(t), problem.hyper)
    return jnp.vdot(weights, exact(start, scaled, *arrays(problem))[0])

  both = jax.jit(jax.value_and_grad(along))
  eps = 1e-4
  expected = (both(eps)[0] - both(-eps)[0]) / (2 * eps)
  np.testing.assert_allclose(both(0.0)[1], expected, atol=2e-6)


@GRID
def test_a_batch_over_strengths_equals_a_loop(case, problem):
  start = jnp.zeros(problem.optimum.size)
  factors = jnp.asarray([0.5, 1.0, 3.0])

  def run(factor):
    hyper, data = case.pack(problem, jax.tree.map(lambda h: h * factor, problem.hyper))
    return solvers.run_until(
      case.make(problem), start, hyper, *data, tol=case.tol, max_steps=20_000
    )[0]

  batch = jax.jit(jax.vmap(run))(factors)
  one = jax.jit(run)
  for i in range(3):
    np.testing.assert_allclose(batch[i], one(factors[i]), atol=1e-8)
