"""Prox-SVRG: the exact optimum at a constant step, one key one run, batches of keyword data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import prox, solvers
from tests.registries.solvers import PROBLEMS, half_mean_square

pytestmark = pytest.mark.x64
PROBLEM = next(p for p in PROBLEMS if p.name == "lasso")
STEP = 1 / (3 * float(np.max(np.sum(PROBLEM.data[0] ** 2, axis=1))))


def test_a_constant_step_reaches_the_optimum_linearly():
  x, y = (jnp.asarray(d) for d in PROBLEM.data)

  @jax.jit
  def run(key):
    solver = solvers.prox_svrg(half_mean_square, prox.lasso, stepsize=STEP, key=key)
    w, info = solvers.run_until(
      solver, jnp.zeros(20), PROBLEM.hyper, x=x, y=y, tol=1e-10, max_steps=300
    )
    _, infos = solvers.run_steps(solver, jnp.zeros(20), PROBLEM.hyper, x, y, num_steps=40)
    return w, info, infos.error

  keys = [jax.random.key(seed) for seed in (0, 0, 1)]
  (w, info, errors), (again, *_), (other, *_) = (run(key) for key in keys)
  assert int(info.status) == solvers.CONVERGED
  np.testing.assert_allclose(w, PROBLEM.optimum, atol=1e-8)
  np.testing.assert_array_equal(w == 0, PROBLEM.optimum == 0)
  np.testing.assert_array_equal(w, again)
  assert np.any(np.asarray(w) != np.asarray(other))
  # Plain stochastic steps of this size stay at a distance; these lose a fixed share an epoch.
  slope = np.polyfit(np.arange(40), np.log(np.asarray(errors)), 1)[0]
  assert slope < -0.05


def test_the_estimate_of_a_batch_of_everything_is_the_gradient():
  """With one example the batch is the data: an epoch of one step is a proximal gradient step."""
  x, y = jnp.ones((1, 2)), jnp.array([3.0])
  solver = solvers.prox_svrg(
    half_mean_square, prox.lasso, stepsize=0.5, key=jax.random.key(0), num_inner=1
  )
  plain = solvers.ista(half_mean_square, prox.lasso, stepsize=0.5)
  start = jnp.array([0.3, -0.2])
  w, info = solvers.run_steps(solver, start, 0.1, x, y, num_steps=3)
  expected, infos = solvers.run_steps(plain, start, 0.1, x, y, num_steps=3)
  np.testing.assert_allclose(w, expected, rtol=1e-12)
  np.testing.assert_allclose(info.error, infos.error, rtol=1e-12)
