"""Four ways to differentiate a Lasso on one problem: implicit, one step, Neumann, truncated."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import prox, solvers
from tests.registries.solvers import half_mean_square

pytestmark = pytest.mark.x64


@pytest.fixture(scope="module")
def problem():
  rng = np.random.RandomState(0)
  x = rng.randn(60, 100)
  truth = np.zeros(100)
  truth[:7] = rng.randn(7) + 2 * np.sign(rng.randn(7))
  return x, x @ truth + 0.1 * rng.randn(60)


def settings(problem):
  x, y = (jnp.asarray(d) for d in problem)
  step = 1 / float(np.linalg.norm(problem[0], 2) ** 2 / 60)
  log_strength = float(np.log(np.abs(problem[0].T @ problem[1]).max() / 60 / 10))
  return x, y, step, log_strength


def derivative(problem, linear_solve=solvers.solve_gmres, residual=None):
  """d/dl of 1/2 ||b(l)||^2 at strength e^l."""
  x, y, step, at = settings(problem)
  solver = solvers.fista(half_mean_square, prox.prox_lasso, stepsize=step)
  run = functools.partial(solvers.run_until, solver, tol=1e-13, max_steps=100_000)
  residual = residual or solvers.proximal_residual(half_mean_square, prox.prox_lasso, stepsize=step)
  exact = solvers.implicit(run, residual, linear_solve=linear_solve)
  loss = lambda l: 0.5 * jnp.sum(exact(jnp.zeros(100), jnp.exp(l), x, y)[0] ** 2)
  return float(jax.jit(jax.grad(loss))(at))


@pytest.fixture(scope="module")
def exact(problem):
  """The closed form on the support."""
  with jax.enable_x64(True):
    x, y, step, at = settings(problem)
    solver = solvers.fista(half_mean_square, prox.prox_lasso, stepsize=step)
    b = jax.jit(
      lambda: solvers.run_until(
        solver, jnp.zeros(100), jnp.exp(at), x, y, tol=1e-14, max_steps=100_000
      )[0]
    )()
  b = np.asarray(b)
  support = b != 0
  assert 3 < support.sum() < 40
  design = problem[0][:, support]
  slope = -60 * np.exp(at) * np.linalg.solve(design.T @ design, np.sign(b[support]))
  return b[support] @ slope


def test_support_restricted_conjugate_gradients_are_exact(problem, exact):
  residual = solvers.support_residual(half_mean_square, prox.lasso)
  np.testing.assert_allclose(derivative(problem, solvers.solve_cg, residual), exact, rtol=1e-9)
  np.testing.assert_allclose(derivative(problem), exact, rtol=1e-9)


def test_neumann_terms_close_the_gap_at_the_rate_of_the_contraction(problem, exact):
  bias = []
  for terms in (0, 1, 10, 100, 1000):
    solve = functools.partial(solvers.solve_neumann, num_terms=terms)
    bias.append(abs(derivative(problem, solve) / exact - 1))
  assert bias[0] > 0.5, "one step is far off"
  assert all(late < early for early, late in itertools.pairwise(bias))
  assert bias[-1] < 1e-6


def test_truncated_unrolling_at_the_solution_is_the_neumann_series(problem):
  x, y, step, at = settings(problem)
  solver = solvers.ista(half_mean_square, prox.prox_lasso, stepsize=step)
  start = jax.jit(
    lambda: solvers.run_until(
      solver, jnp.zeros(100), jnp.exp(at), x, y, tol=1e-13, max_steps=100_000
    )[0]
  )()

  def loss(l, truncate):
    b, infos = solvers.run_steps(solver, start, jnp.exp(l), x, y, num_steps=30, truncate=truncate)
    assert infos.error.shape == (30,)
    return 0.5 * jnp.sum(b**2)

  for terms in (0, 1, 11):
    got = jax.jit(jax.grad(functools.partial(loss, truncate=terms)))(at)
    if terms == 0:
      assert float(got) == 0.0
      continue
    solve = functools.partial(solvers.solve_neumann, num_terms=terms - 1)
    np.testing.assert_allclose(got, derivative(problem, solve), rtol=1e-8)


@pytest.mark.parametrize(
  ("record", "hyper", "curvature"),
  [
    (prox.elastic_net, (0.3, 0.4), None),
    (prox.mcp, (0.5, 3.0), None),
    (prox.scad, (0.5, 3.7), None),
    (prox.lq, (0.3, 0.5), None),
  ],
  ids=["elastic_net", "mcp", "scad", "lq"],
)
def test_other_sparse_penalties_by_finite_differences(record, hyper, curvature, problem):
  del curvature
  x, y = jnp.asarray(problem[0][:, :20]), jnp.asarray(problem[1])
  step = 1 / float(np.linalg.norm(problem[0][:, :20], 2) ** 2 / 60)
  solver = solvers.ista(half_mean_square, record.prox, stepsize=step)
  run = functools.partial(solvers.run_until, solver, tol=1e-14, max_steps=50_000)
  solve = solvers.implicit(
    run, solvers.support_residual(half_mean_square, record), linear_solve=solvers.solve_cg
  )
  weights = jnp.cos(jnp.arange(20.0))
  value = lambda t: jnp.vdot(
    weights, solve(jnp.zeros(20), tuple(h * jnp.exp(t) for h in hyper), x, y)[0]
  )
  fast = jax.jit(value)
  expected = (fast(1e-5) - fast(-1e-5)) / 2e-5
  got = jax.jit(jax.grad(value))(0.0)
  np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)
