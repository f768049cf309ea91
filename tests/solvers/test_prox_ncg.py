"""Proximal nonlinear conjugate gradients: the direction, descent, and steps against FISTA's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import prox, solvers
from jaxopt_robust.solvers.prox_ncg import three_term_direction
from tests.registries.solvers import half_mean_square

pytestmark = pytest.mark.x64
N, P = 40, 80


def design(rng, correlation=0.8):
  """Rows of a stationary Gaussian sequence."""
  cov = correlation ** np.abs(np.subtract.outer(np.arange(P), np.arange(P)))
  x = rng.standard_normal((N, P)) @ np.linalg.cholesky(cov).T
  y = x[:, ::16] @ np.ones(5) + 0.1 * rng.standard_normal(N)
  return jnp.asarray(x), jnp.asarray(y)


def test_direction_has_the_slope_of_the_residual_and_starts_steepest(rng):
  r, before, d = rng.standard_normal((3, 50))
  new = three_term_direction(r, before, d)
  np.testing.assert_allclose(new @ r, -(r @ r), rtol=1e-12)
  y = r - before
  expected = -r + (r @ y) / (d @ y) * d - (r @ d) / (d @ y) * y
  np.testing.assert_allclose(new, expected, atol=1e-12)
  np.testing.assert_allclose(three_term_direction(1e100 * r, 1e100 * before, d), 1e100 * new)
  np.testing.assert_array_equal(three_term_direction(r, 0 * r, 0 * r), -r)
  # Orthogonal to the change, or nearly: steepest descent.
  e = np.eye(3)
  np.testing.assert_array_equal(three_term_direction(e[0], e[1], e[2]), -e[0])
  near = e[2] + 1e-5 * e[0]
  np.testing.assert_array_equal(three_term_direction(e[0], 0 * e[0], near), -e[0])


def run(solver, penalty, hyper, x, y, steps):
  """Objective and info of each step, from 0."""

  def body(state, _):
    state, info = solver.step(state, hyper, x, y)
    return state, (half_mean_square(state.params, x, y) + penalty.value(state.params, hyper), info)

  start = solver.init(jnp.zeros(P), hyper, x, y)
  return jax.jit(lambda s: jax.lax.scan(body, s, None, length=steps))(start)


@pytest.mark.parametrize(
  ("penalty", "hyper"), [(prox.lasso, 0.1), (prox.mcp, (0.1, 3.0)), (prox.l0, 0.01)]
)
def test_objective_never_increases_and_is_what_info_says(rng, penalty, hyper):
  x, y = design(rng)
  solver = solvers.prox_ncg(half_mean_square, penalty)
  state, (values, info) = run(solver, penalty, hyper, x, y, 80)
  np.testing.assert_allclose(values, info.value, rtol=1e-12)
  assert np.all(np.diff(values) <= 1e-12 * np.abs(values[:-1]))
  assert 0 < int(jnp.sum(state.params != 0)) < P, "exact zeros, and something besides"
  assert bool(info.conjugate[:20].any())
  assert int(info.evaluations.min()) >= 5


def test_at_least_as_good_as_the_proximal_step_and_fewer_steps_than_fista(rng):
  x, y = design(rng)
  lam = 0.1 * jnp.max(jnp.abs(x.T @ y)) / N
  lipschitz = jnp.linalg.norm(x, 2) ** 2 / N
  ncg = solvers.prox_ncg(half_mean_square, prox.lasso)
  fista = solvers.fista(half_mean_square, prox.prox_lasso, stepsize=1 / lipschitz)
  _, (values, _) = run(ncg, prox.lasso, lam, x, y, 200)
  _, (others, _) = run(fista, prox.lasso, lam, x, y, 400)
  best = min(values.min(), others.min())
  first = half_mean_square(jnp.zeros(P), x, y)
  steps = [int(np.argmax(v - best <= 1e-6 * (first - best))) for v in (values, others)]
  assert 0 < steps[0] < steps[1]
  # One step from one point: below the proximal step of the same size.
  state = ncg.init(jnp.ones(P), lam, x, y)
  new, info = ncg.step(state, lam, x, y)
  grad = jax.grad(half_mean_square)(jnp.ones(P), x, y)
  z = prox.prox_lasso(1 - info.stepsize * grad, lam, info.stepsize)
  objective = lambda w: half_mean_square(w, x, y) + prox.penalty_lasso(w, lam)
  assert float(info.value) <= float(objective(z))
  # The error is an element of the sub-differential: at least the distance of 0 to it.
  grad = jax.grad(half_mean_square)(new.params, x, y)
  gap = jnp.where(
    new.params != 0, grad + lam * jnp.sign(new.params), jnp.maximum(jnp.abs(grad) - lam, 0)
  )
  assert float(info.error) >= float(jnp.linalg.norm(gap)) * (1 - 1e-9)


def test_logistic_loss_solution_satisfies_the_optimality_condition(rng):
  x, y = design(rng)
  labels = (y > 0).astype(x.dtype)
  loss = lambda w, x, y: jnp.mean(jnp.logaddexp(0, x @ w) - y * (x @ w))
  lam = 0.02
  solver = solvers.prox_ncg(loss, prox.lasso, init_stepsize=1e3)
  w, info = solvers.run_until(solver, jnp.zeros(P), lam, x, labels, tol=1e-8, max_steps=2000)
  assert int(info.status) == solvers.CONVERGED
  grad = np.asarray(jax.grad(loss)(w, x, labels))
  on = np.asarray(w) != 0
  np.testing.assert_allclose(grad[on], -lam * np.sign(np.asarray(w)[on]), atol=1e-7)
  assert np.abs(grad[~on]).max() <= lam + 1e-7


def test_a_search_that_finds_nothing_is_stalled():
  solver = solvers.prox_ncg(
    lambda w: 1e6 * jnp.sum(w**2), prox.lasso, init_stepsize=1.0, max_backtracks=1
  )
  _, info = solvers.run_until(solver, jnp.ones(2), 1.0, tol=1e-9, max_steps=5)
  assert int(info.status) == solvers.STALLED
  nan = solvers.prox_ncg(lambda w: jnp.nan * jnp.sum(w**2), prox.lasso)
  _, info = solvers.run_until(nan, jnp.ones(2), 1.0, tol=1e-9, max_steps=5)
  assert int(info.status) in (solvers.NON_FINITE, solvers.STALLED)
