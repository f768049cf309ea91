"""Working sets: paths, strengths a feature, other losses and penalties, few features touched."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_robust as jr
from jaxopt_robust import solvers
from tests.registries.solvers import half_mean_square

pytestmark = pytest.mark.x64


@pytest.fixture(scope="module")
def wide():
  rng = np.random.default_rng(4)
  x = rng.standard_normal((60, 300))
  y = x[:, :4] @ [3.0, -2.0, 2.0, 1.0] + 0.3 * rng.standard_normal(60)
  return x, y, 60 / np.linalg.norm(x, 2) ** 2, np.abs(x.T @ y).max() / 60


def test_a_path_in_one_program_equals_scikit_learn_and_has_no_gap(wide):
  from sklearn.linear_model import lasso_path

  x, y, step, largest = wide
  strengths = largest * np.geomspace(0.9, 0.02, 12)
  solver = solvers.working_set(half_mean_square, jr.prox.prox_lasso, stepsize=step, min_size=16)

  @jax.jit
  def path(strengths, x, y):
    def one(w, strength):
      w, info = solvers.run_until(solver, w, strength, x, y, tol=1e-10, max_steps=60)
      return w, (w, info, solvers.lasso_duality_gap(w, x, y, hyperparams=strength))

    return jax.lax.scan(one, jnp.zeros(300), strengths)[1]

  found, info, gaps = path(jnp.asarray(strengths), jnp.asarray(x), jnp.asarray(y))
  assert bool(jnp.all(info.status == solvers.CONVERGED))
  expected = lasso_path(x, y, alphas=strengths, tol=1e-14, max_iter=100_000)[1].T
  np.testing.assert_allclose(found, expected, atol=1e-7)
  assert float(jnp.abs(gaps).max()) < 1e-8
  sizes = np.asarray(info.last.size)
  assert sizes[0] <= 32 and np.all(np.diff(sizes) >= 0) and sizes[-1] < 300


def test_one_strength_a_feature_and_a_non_convex_penalty(wide):
  x, y, step, largest = wide
  data = (jnp.asarray(x), jnp.asarray(y))
  strengths = largest * jnp.linspace(0.1, 0.3, 300)
  solver = solvers.working_set(half_mean_square, jr.prox.prox_lasso, stepsize=step, min_size=64)
  whole = solvers.fista(half_mean_square, jr.prox.prox_lasso, stepsize=step)
  run = lambda s, h, tol, steps: jax.jit(
    lambda w: solvers.run_until(s, w, h, *data, tol=tol, max_steps=steps)
  )(jnp.zeros(300))
  w, info = run(solver, strengths, 1e-11, 60)
  assert int(info.status) == solvers.CONVERGED
  np.testing.assert_allclose(w, run(whole, strengths, 1e-11, 50_000)[0], atol=1e-8)

  hyper = (0.2 * float(largest), 3.0)
  inner = lambda s: solvers.ista(half_mean_square, jr.prox.prox_mcp, stepsize=s)
  solver = solvers.working_set(
    half_mean_square, jr.prox.prox_mcp, stepsize=step, inner=inner, min_size=64
  )
  w, info = run(solver, hyper, 1e-10, 60)
  assert int(info.status) == solvers.CONVERGED
  grad = jax.grad(half_mean_square)(w, *data)
  moved = jr.prox.prox_mcp(w - step * grad, hyper, step)
  np.testing.assert_allclose(moved, w, atol=1e-9)
  np.testing.assert_allclose(w[:3], [3.0, -2.0, 2.0], atol=0.3)  # beyond the bend: unbiased


def test_logistic_loss(wide):
  x, y, step, _ = wide
  labels = np.sign(y)
  fun = lambda w, x, y: jnp.mean(jax.nn.softplus(-y * (x @ w)))
  solver = solvers.working_set(fun, jr.prox.prox_lasso, stepsize=4 * step, min_size=64)
  w, info = jax.jit(lambda w, *d: solvers.run_until(solver, w, 0.05, *d, tol=1e-9, max_steps=60))(
    jnp.zeros(300), jnp.asarray(x), jnp.asarray(labels)
  )
  assert int(info.status) == solvers.CONVERGED
  gap = solvers.logistic_lasso_duality_gap(w, jnp.asarray(x), jnp.asarray(labels), hyperparams=0.05)
  assert abs(float(gap)) < 1e-7


@pytest.mark.peer
def test_equals_celer(wide):
  celer = pytest.importorskip("celer")
  x, y, step, largest = wide
  solver = solvers.working_set(half_mean_square, jr.prox.prox_lasso, stepsize=step, min_size=64)
  w, _ = jax.jit(
    lambda w, *d: solvers.run_until(solver, w, 0.1 * largest, *d, tol=1e-10, max_steps=60)
  )(jnp.zeros(300), jnp.asarray(x), jnp.asarray(y))
  peer = celer.Lasso(alpha=0.1 * largest, fit_intercept=False, tol=1e-13).fit(x, y)
  np.testing.assert_allclose(w, peer.coef_, atol=1e-6)
