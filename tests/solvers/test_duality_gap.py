"""Duality gaps bound the true distance to the optimum, vanish there, and equal scikit-learn's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import prox, solvers
from tests.registries.solvers import half_mean_square

pytestmark = pytest.mark.x64


@pytest.fixture(scope="module")
def data():
  rng = np.random.default_rng(2)
  x = rng.standard_normal((30, 12))
  return x, x[:, 0] - 2 * x[:, 1] + 0.5 * rng.standard_normal(30)


def logistic(w, x, y):
  return jnp.mean(jax.nn.softplus(-y * (x @ w)))


def multi_task(w, x, y):
  return 0.5 * jnp.sum((x @ w - y) ** 2) / 30


def rows(x, hyper, scaling=1.0):
  return jax.vmap(lambda r: prox.prox_group_lasso(r, hyper, scaling))(x)


def rows_value(x, hyper):
  return jnp.sum(jax.vmap(lambda r: prox.penalty_group_lasso(r, hyper))(x))


CASES = {
  "lasso": (half_mean_square, prox.prox_lasso, prox.penalty_lasso, 0.2),
  "non_negative_lasso": (
    half_mean_square, prox.prox_non_negative_lasso, prox.penalty_non_negative_lasso, 0.2,
  ),
  "elastic_net": (half_mean_square, prox.prox_elastic_net, prox.penalty_elastic_net, (0.2, 0.7)),
  "logistic_lasso": (logistic, prox.prox_lasso, prox.penalty_lasso, 0.03),
  "group_lasso": (multi_task, rows, rows_value, 0.2),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_it_bounds_the_suboptimality_and_vanishes_at_the_optimum(name, data, rng):
  fun, operator, value, hyper = CASES[name]
  x, y = (jnp.asarray(d) for d in data)
  if name == "logistic_lasso":
    y = jnp.sign(y)
  if name == "group_lasso":
    y = jnp.stack([y, jnp.roll(y, 1) + x[:, 0]], axis=1)
  gap = getattr(solvers, f"{name}_duality_gap")
  measure = jax.jit(lambda w: gap(w, x, y, hyperparams=hyper))
  objective = jax.jit(lambda w: fun(w, x, y) + value(w, hyper))
  shape = (12, 2) if name == "group_lasso" else (12,)
  best, info = jax.jit(
    lambda w: solvers.run_until(
      solvers.fista(fun, operator), w, hyper, x, y, tol=1e-12, max_steps=20_000
    )
  )(jnp.zeros(shape))
  assert int(info.status) == solvers.CONVERGED
  # To first order in the distance to the optimum, which the tolerance bounds.
  assert abs(float(measure(best))) < 1e-10
  optimum = float(objective(best))
  for scale in (1e-6, 1e-3, 0.1, 3.0):
    w = best + scale * jnp.asarray(rng.standard_normal(shape))
    w = jnp.maximum(w, 0) if name.startswith("non_negative") else w
    excess = float(objective(w)) - optimum
    assert excess > 0
    assert excess - 1e-14 <= float(measure(w)) <= 1e4 * max(excess, scale)
  start = jnp.zeros(shape)
  assert float(measure(start)) >= float(objective(start)) - optimum


def test_negative_coefficients_have_no_finite_gap(data):
  x, y = (jnp.asarray(d) for d in data)
  gap = solvers.non_negative_lasso_duality_gap(-jnp.ones(12), x, y, hyperparams=0.1)
  assert float(gap) == np.inf


def test_equals_scikit_learn(data):
  """Its dual_gap_ is that of 1/2 ||.||^2 + n alpha ||w||_1, at the same scaled residual."""
  from sklearn.linear_model import Lasso

  x, y = data
  model = Lasso(alpha=0.2, fit_intercept=False, tol=1e-2).fit(x, y)
  gap = solvers.lasso_duality_gap(
    jnp.asarray(model.coef_), jnp.asarray(x), jnp.asarray(y), hyperparams=0.2
  )
  # Both clip; ours takes the best multiple, so it is never the larger one.
  assert 0 <= float(gap) <= model.dual_gap_ + 1e-12


def test_without_penalty_and_with_a_perfect_fit():
  x = jnp.eye(3)
  y = jnp.asarray([1.0, -2.0, 3.0])
  assert float(solvers.lasso_duality_gap(y, x, y, hyperparams=0.0)) == 0.0
  zero = jnp.zeros(3)
  np.testing.assert_allclose(
    solvers.lasso_duality_gap(zero, x, y, hyperparams=10.0), 0.0, atol=1e-15
  )
