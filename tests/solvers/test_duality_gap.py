"""Duality gaps bound the true distance to the optimum, vanish there, and equal scikit-learn's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import sparse
from scipy.optimize import nnls

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


def weighted_objective(w, x, y, lam, s, ridge=0.0):
  """1/(2n) sum_i s_i (x_i w - y_i)^2 + sum_j lam_j |w_j| + ridge_j/2 w_j^2, by NumPy."""
  at = w != 0
  penalty = np.sum(lam[at] * np.abs(w[at])) + np.sum(ridge * w**2 / 2)
  return np.sum(s * (x @ w - y) ** 2) / (2 * len(y)) + penalty


def test_weights_and_strengths_of_0_and_infinity_against_exact_minima(rng):
  """Minima by solving the optimality equations of every support and sign pattern (4 features)."""
  x, y = rng.standard_normal((15, 4)), rng.standard_normal(15)
  s = rng.uniform(0, 2, 15) * (np.arange(15) > 2)
  lam = np.array([0.0, 0.1, np.inf, 0.3])
  best, at = np.inf, None
  for code in range(3**4):
    sign = np.array([code // 3**j % 3 - 1 for j in range(4)], float)
    on = (sign != 0) & np.isfinite(lam)
    design = x[:, on]
    rhs = design.T @ (s * y) / 15 - lam[on] * sign[on]
    w = np.zeros(4)
    w[on] = np.linalg.solve(design.T @ (s[:, None] * design) / 15, rhs)
    value = weighted_objective(w, x, y, lam, s)
    if value < best:
      best, at = value, w
  gap = jax.jit(lambda w, x: solvers.lasso_duality_gap(w, x, y, hyperparams=lam, sample_weight=s))
  for eps in (1.0, 1e-1, 1e-3, 1e-5):
    w = at + eps * rng.standard_normal(4) * np.isfinite(lam)
    found = float(gap(w, x))
    assert found >= weighted_objective(w, x, y, lam, s) - best - 1e-14
    assert found <= 20 * eps, "it falls with the distance"
  assert abs(float(gap(at, x))) < 1e-13
  assert float(gap(at + np.array([0, 0, 1.0, 0]), x)) == np.inf
  bcoo = sparse.BCOO.fromdense(jnp.asarray(x))
  np.testing.assert_allclose(gap(at + 0.1, bcoo), gap(at + 0.1, x), rtol=1e-12)
  # An elastic net without ridge is the Lasso; without strengths it is least squares.
  net = solvers.elastic_net_duality_gap(w, x, y, hyperparams=(lam, 0.0), sample_weight=s)
  np.testing.assert_allclose(net, gap(w, x), atol=1e-14)
  rows = solvers.group_lasso_duality_gap(
    w[:, None], x, y[:, None], hyperparams=lam, sample_weight=s
  )
  np.testing.assert_allclose(rows, gap(w, x), atol=1e-14)


def test_gaps_at_strength_0_are_the_distance_to_least_squares(rng):
  x, y = rng.standard_normal((15, 4)), rng.standard_normal(15)
  best = np.linalg.lstsq(x, y)[0]
  w = best + 0.1
  exact = (np.sum((x @ w - y) ** 2) - np.sum((x @ best - y) ** 2)) / 30
  for name, h in (("lasso", 0.0), ("elastic_net", (0.0, 3.0))):
    gap = getattr(solvers, f"{name}_duality_gap")(w, x, y, hyperparams=h)
    np.testing.assert_allclose(gap, exact, rtol=1e-10)
  several = solvers.group_lasso_duality_gap(
    np.stack([w, best], 1), x, np.stack([y, y], 1), hyperparams=0.0
  )
  np.testing.assert_allclose(several, exact, rtol=1e-10)
  # Redundant columns leave the fit, and so the gap, as they are.
  doubled = solvers.lasso_duality_gap(
    np.concatenate([w, 0 * w]), np.concatenate([x, x], 1), y, hyperparams=0.0
  )
  np.testing.assert_allclose(doubled, exact, rtol=1e-10)
  fit = nnls(x, y)[0]
  gap = lambda w: float(solvers.non_negative_lasso_duality_gap(w, x, y, hyperparams=0.0))
  assert abs(gap(fit)) < 1e-14
  near = fit * (1 + 1e-3)
  short = (np.sum((x @ near - y) ** 2) - np.sum((x @ fit - y) ** 2)) / 30
  assert short <= gap(near) <= 2 * short + 1e-14


def test_logistic_gap_with_weights_and_a_free_intercept(rng):
  """An unpenalised column of ones: its optimum by Newton's method in NumPy."""
  x = np.concatenate([np.ones((40, 1)), rng.standard_normal((40, 2))], axis=1)
  y = np.sign(x @ [0.3, 1.0, -1.0] + rng.standard_normal(40))
  s = rng.uniform(0, 2, 40) * (np.arange(40) > 4)
  w = np.zeros(3)
  for _ in range(30):
    p = 1 / (1 + np.exp(y * (x @ w)))
    grad = -x.T @ (s * y * p) / 40
    w = w - np.linalg.solve(x.T @ ((s * p * (1 - p))[:, None] * x) / 40, grad)
  value = lambda w: np.sum(s * np.log1p(np.exp(-y * (x @ w)))) / 40
  gap = jax.jit(
    lambda w: solvers.logistic_lasso_duality_gap(w, x, y, hyperparams=np.zeros(3), sample_weight=s)
  )
  assert abs(float(gap(w))) < 1e-13
  for eps in (1e-1, 1e-3):
    near = w + eps * np.array([1.0, -1.0, 1.0])
    short = value(near) - value(w)
    assert short <= float(gap(near)) <= 3 * short


@pytest.mark.parametrize("name", CASES)
def test_nan_is_not_swallowed(name):
  gap = getattr(solvers, f"{name}_duality_gap")
  hyper = CASES[name][3]
  w, x, y = np.ones((2, 1)), np.eye(2), np.ones((2, 1))
  if name != "group_lasso":
    w, y = w[:, 0], y[:, 0]
  for place in range(2 if name == "logistic_lasso" else 3):  # labels are checked
    args = [w.copy(), x.copy(), y.copy()]
    args[place].flat[0] = np.nan
    assert np.isnan(gap(*args, hyperparams=hyper)), place
