"""Every solver on every problem that it supports: optimum, monotonicity, rate, derivatives."""

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
def test_reaches_the_known_optimum_in_a_batch_over_strengths_and_alone(case, problem):
  start = jnp.zeros(problem.optimum.size)

  def run(factor):
    hyper, data = case.pack(problem, jax.tree.map(lambda h: h * factor, problem.hyper))
    return solvers.run_until(
      case.make(problem), start, hyper, *data, tol=case.tol, max_steps=20_000
    )

  factors = (1.0, 0.5, 3.0)
  batch, infos = jax.jit(jax.vmap(run))(jnp.asarray(factors))
  assert bool(jnp.all(infos.status == solvers.CONVERGED))
  # ||x - x*|| <= ||gradient mapping|| / mu, both at the last point
  np.testing.assert_allclose(batch[0], problem.optimum, atol=1e-8)
  if problem.name != case.supports[0]:
    return  # one problem a solver alone: another program of each would double what this costs
  one = jax.jit(run)
  for row, factor in zip(batch, factors, strict=True):
    params, info = one(factor)
    assert int(info.status) == solvers.CONVERGED
    np.testing.assert_allclose(row, params, atol=1e-8)


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
