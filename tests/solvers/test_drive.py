"""The two drivers: status codes, nothing lost, trace counts, batches equal loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_robust as jr
from jaxopt_robust import solvers
from tests.registries.solvers import PROBLEMS, half_mean_square

LASSO = next(p for p in PROBLEMS if p.name == "lasso")


def lasso_arrays(dtype=jnp.float32):
  return tuple(jnp.asarray(d, dtype) for d in LASSO.data)


def solve(strength, x, y, *, tol=1e-5, max_steps=1000, stepsize=1 / LASSO.lipschitz):
  solver = solvers.fista(half_mean_square, jr.prox.prox_lasso, stepsize=stepsize)
  start = jnp.zeros(x.shape[1], x.dtype)
  return solvers.run_until(solver, start, strength, x, y, tol=tol, max_steps=max_steps)


def test_status_converged_and_limit():
  x, y = lasso_arrays()
  _, info = solve(0.2, x, y)
  assert (int(info.status), bool(info.error <= 1e-5)) == (solvers.CONVERGED, True)
  _, short = solve(0.2, x, y, max_steps=7)
  assert (int(short.status), int(short.steps)) == (solvers.STEP_LIMIT, 7)
  assert bool(short.error > 1e-5)
  params, none = solve(0.2, x, y, max_steps=0)
  assert (int(none.status), int(none.steps), float(none.error)) == (1, 0, np.inf)
  assert params.tolist() == [0.0] * 20


def test_nan_data_end_with_their_status_and_the_start():
  x, y = lasso_arrays()
  params, info = solve(0.2, x.at[3, 4].set(jnp.nan), y)
  assert (int(info.status), int(info.steps)) == (solvers.NON_FINITE, 1)
  assert params.tolist() == [0.0] * 20, "the last finite iterate is kept"


def test_divergence_keeps_the_last_finite_iterate():
  x, y = lasso_arrays()
  params, info = solve(0.2, x, y, stepsize=1e6, max_steps=10_000)
  assert int(info.status) == solvers.NON_FINITE
  assert bool(jnp.all(jnp.isfinite(params))) and float(jnp.abs(params).max()) > 1e6


def test_stalled_when_no_step_decreases_the_objective():
  def wrong_gradient(w):
    """Claims to slope down where it rises: no step is ever accepted."""
    return jnp.sum(w) - 2 * jnp.sum(jax.lax.stop_gradient(w))

  solver = solvers.ista(wrong_gradient, jr.prox.prox_none, max_backtracks=5)
  params, info = solvers.run_until(solver, jnp.ones(2), None, tol=1e-6, max_steps=50)
  assert (int(info.status), int(info.steps)) == (solvers.STALLED, 1)
  assert bool(info.last.stalled)
  assert bool(jnp.all(jnp.isfinite(params)))


def test_raise_if_failed_says_which_and_why():
  x, y = lasso_arrays()
  _, good = solve(0.2, x, y)
  solvers.raise_if_failed(good)
  batch = jax.vmap(lambda s, n: solve(s, x, y, max_steps=n)[1])(
    jnp.asarray([0.2, 0.3, 0.2]), jnp.asarray([1000, 3, 2])
  )
  with pytest.raises(RuntimeError, match=r"2 of 3 solves .* First: number 1, status 1 .*3 steps"):
    solvers.raise_if_failed(batch)


@pytest.mark.x64
def test_a_path_of_100_strengths_costs_one_compile_and_equals_scikit_learn():
  from sklearn.linear_model import lasso_path

  counted = jr.debug.count_traces(half_mean_square)
  x, y = lasso_arrays(jnp.float64)

  @jax.jit
  def path(strengths, x, y):
    solver = solvers.fista(counted, jr.prox.prox_lasso, stepsize=1 / LASSO.lipschitz)
    run = lambda s: solvers.run_until(solver, jnp.zeros(20), s, x, y, tol=1e-11, max_steps=20_000)
    return jax.vmap(run)(strengths)

  strengths = jnp.max(jnp.abs(x.T @ y)) / 60 * jnp.geomspace(1.0, 1e-3, 100)
  params, info = path(strengths, x, y)
  assert counted.traces <= 2
  _, coefficients, _ = lasso_path(
    *LASSO.data, alphas=np.asarray(strengths), tol=1e-15, max_iter=10**6
  )
  np.testing.assert_allclose(params.T, coefficients, atol=1e-8)
  assert info.status.tolist() == [0] * 100
  path(strengths * 1.1, x, y + 1)
  assert counted.traces <= 2, "another grid and other data: no compile"


def test_a_batch_of_solves_equals_a_loop_of_solves():
  x, y = lasso_arrays()
  strengths = jnp.asarray([0.05, 0.2, 1.0, 10.0])
  batch, infos = jax.jit(jax.vmap(lambda s: solve(s, x, y)))(strengths)
  assert len(set(infos.steps.tolist())) > 2
  one = jax.jit(lambda s: solve(s, x, y))
  for i, strength in enumerate(strengths):
    params, info = one(strength)
    np.testing.assert_allclose(batch[i], params, atol=2e-6)
    assert abs(int(infos.steps[i]) - int(info.steps)) <= 1, "a rounding may move the stop by a step"
    assert int(info.status) == int(infos.status[i]) == 0


def test_run_steps_records_each_step_and_agrees_with_run_until():
  x, y = lasso_arrays()
  solver = solvers.fista(half_mean_square, jr.prox.prox_lasso, stepsize=1 / LASSO.lipschitz)
  params, infos = jax.jit(
    lambda: solvers.run_steps(solver, jnp.zeros(20), 0.2, x, y, num_steps=30)
  )()
  stopped, info = jax.jit(
    lambda: solvers.run_until(solver, jnp.zeros(20), 0.2, x, y, tol=0.0, max_steps=30)
  )()
  assert infos.error.shape == (30,)
  np.testing.assert_allclose(params, stopped, atol=1e-6)
  np.testing.assert_allclose(infos.error[-1], info.error, rtol=1e-2, atol=1e-6)


def test_strong_types_only_python_numbers_do_not_retrace():
  counted = jr.debug.count_traces(lambda w, b: 0.5 * jnp.sum((w - b) ** 2))
  solver = solvers.fista(counted, jr.prox.prox_lasso, stepsize=0.5)
  run = jax.jit(lambda h, b: solvers.run_until(solver, 2.0, h, b, tol=1e-6, max_steps=99))
  params, info = run(1.0, 3.0)
  assert float(params) == pytest.approx(2.0, abs=1e-5)
  assert params.dtype == info.error.dtype == jnp.float32 and info.steps.dtype == jnp.int32
  assert not params.weak_type and not info.error.weak_type
  assert counted.traces == 2


def test_rematerialised_steps_have_the_same_derivative():
  x, y = lasso_arrays()
  solver = solvers.ista(half_mean_square, jr.prox.prox_lasso, stepsize=1 / LASSO.lipschitz)

  def end(s, remat):
    return solvers.run_steps(solver, jnp.zeros(20), s, x, y, num_steps=20, remat=remat)[0].sum()

  plain, again = (jax.grad(lambda s: end(s, remat))(0.2) for remat in (False, True))  # noqa: B023
  np.testing.assert_allclose(plain, again, rtol=1e-5)
