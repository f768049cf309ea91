"""IHT, NIHT and HTP: recovery of sparse signals, invariance to scaling, monotone objectives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import solvers

pytestmark = pytest.mark.x64
M, N, S, SEEDS = 60, 100, 12, 50


@pytest.fixture(scope="module")
def problems():
  rng = np.random.default_rng(0)
  matrices = rng.standard_normal((SEEDS, M, N)) / np.sqrt(M)
  signals = np.zeros((SEEDS, N))
  for i in range(SEEDS):
    signals[i, rng.choice(N, S, replace=False)] = rng.standard_normal(S)
  return matrices, signals


def recovered(solver, problems, factor=1.0, max_steps=2000):
  matrices, signals = (jnp.asarray(a) for a in problems)

  def one(a, x):
    y = a @ x
    found, info = solvers.run_until(
      solver, jnp.zeros(N), None, factor * a, factor * y, tol=1e-10, max_steps=max_steps
    )
    return jnp.linalg.norm(found - x) / jnp.linalg.norm(x), info.status, jnp.sum(found != 0)

  errors, status, sizes = jax.jit(jax.vmap(one))(matrices, signals)
  assert int(sizes.max()) <= S
  return int(jnp.sum(errors < 1e-6)), status


def test_pursuit_recovers_nearly_all_and_ends_by_itself(problems):
  count, status = recovered(solvers.htp(sparsity=S), problems, max_steps=100)
  assert count >= 40
  assert int(jnp.sum(status == solvers.CONVERGED)) >= 45


def test_normalised_steps_recover_more_than_the_safe_step_and_do_not_depend_on_scale(problems):
  normalised, _ = recovered(solvers.niht(sparsity=S), problems)
  scaled, _ = recovered(solvers.niht(sparsity=S), problems, factor=100.0)
  # 1/||A||^2 is about 0.19 here: short steps stay in poor local minima.
  largest = max(np.linalg.norm(a, 2) for a in problems[0])
  fixed, _ = recovered(solvers.iht(sparsity=S, stepsize=0.99 / largest**2), problems)
  assert normalised >= 40
  assert scaled == normalised
  assert fixed < normalised


@pytest.mark.parametrize("name", ["iht", "niht"])
def test_the_objective_never_increases(name, problems):
  a, x = jnp.asarray(problems[0][0]), jnp.asarray(problems[1][0])
  noise = 0.3 * jnp.cos(jnp.arange(M, dtype=jnp.float64))
  step = 0.99 / float(jnp.linalg.norm(a, 2)) ** 2
  solver = solvers.iht(sparsity=S, stepsize=step) if name == "iht" else solvers.niht(sparsity=S)
  _, infos = solvers.run_steps(solver, jnp.zeros(N), None, a, a @ x + noise, num_steps=60)
  assert bool(jnp.all(jnp.diff(infos.value) <= 1e-12))


def test_pursuit_ends_at_the_least_squares_fit_on_its_support(problems):
  a, y = jnp.asarray(problems[0][1]), jnp.cos(jnp.arange(M, dtype=jnp.float64))
  x, _ = solvers.run_until(solvers.htp(sparsity=S), jnp.zeros(N), None, a, y, tol=0, max_steps=100)
  support = np.flatnonzero(x)
  fit = np.linalg.lstsq(np.asarray(a)[:, support], np.asarray(y), rcond=None)[0]
  np.testing.assert_allclose(np.asarray(x)[support], fit, rtol=1e-9)


def test_pursuit_survives_equal_columns():
  """Both copies are picked (their gradient is the largest); the fit of least norm shares them."""
  a = jnp.asarray([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
  x, _ = solvers.run_until(
    solvers.htp(sparsity=2), jnp.zeros(3), None, a, jnp.asarray([2.0, 1.0]), tol=0, max_steps=9
  )
  np.testing.assert_allclose(x, [1.0, 1.0, 0.0], atol=1e-12)


def test_an_operator_in_place_of_the_matrix(problems):
  a, x = jnp.asarray(problems[0][2]), jnp.asarray(problems[1][2])
  calls = {"left": a[:, :50], "right": a[:, 50:]}
  matvec = lambda op, v: op["left"] @ v[:50] + op["right"] @ v[50:]
  run = lambda solver, op: solvers.run_steps(solver, jnp.zeros(N), None, op, a @ x, num_steps=20)
  dense, _ = run(solvers.niht(sparsity=S), a)
  split, _ = run(solvers.niht(sparsity=S, matvec=matvec), calls)
  np.testing.assert_allclose(dense, split, atol=1e-10)


def test_ties_keep_the_lower_index():
  x, _ = solvers.run_steps(
    solvers.iht(sparsity=2, stepsize=1.0), jnp.zeros(4), None, jnp.eye(4), jnp.ones(4), num_steps=1
  )
  assert x.tolist() == [1.0, 1.0, 0.0, 0.0]
