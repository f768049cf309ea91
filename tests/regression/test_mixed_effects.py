"""Mixed effects: SciPy's multivariate t, the Gaussian limit, masks, weights, optimality, units."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxopt_robust import prox, regression
from tests.helpers import central_difference

pytestmark = pytest.mark.x64
S, R, P, Q = 30, 4, 5, 2
NLL = jax.jit(lambda params, model, nu: regression.mixed_lm_nll(params, model, nu=nu))
WEIGHTS = jax.jit(lambda params, model, nu: regression.mixed_lm_weights(params, model, nu=nu))


def make(seed=0):
  """Subjects of 0 to R rows, the first of them outlying; rows of padding hold junk."""
  rng = np.random.default_rng(seed)
  x = rng.standard_normal((S, R, P))
  z = np.stack([np.ones((S, R)), rng.standard_normal((S, R))], -1)
  effects = rng.standard_normal((S, Q)) * [1.0, 0.5]
  effects[0] *= 20
  truth = np.array([2.0, -1.0, 0.0, 0.0, 0.0])
  y = x @ truth + np.einsum("srq,sq->sr", z, effects) + 0.3 * rng.standard_normal((S, R))
  where = np.arange(R) < np.r_[R, R, rng.integers(1, R + 1, S - 3), 0][:, None]
  for array in (x, y, z):
    array[~where] = np.nan
  return regression.MixedLM(*(jnp.asarray(a) for a in (x, y, z, where)))


PARAMS = regression.MixedLMParams(
  np.array([1.5, -1.0, 0.2, 0.0, 0.1]), np.array([0.3, -0.9]), np.array(-1.2)
)


def by_scipy(model, nu):
  """Negative log-densities, subject by subject."""
  x, y, z, where = (np.asarray(a) for a in model)
  out = []
  for i in range(S):
    w = where[i]
    if not w.any():
      out.append(0.0)
      continue
    scatter = z[i][w] @ np.diag(np.exp([0.3, -0.9])) @ z[i][w].T + np.exp(-1.2) * np.eye(w.sum())
    mean = x[i][w] @ np.array([1.5, -1.0, 0.2, 0.0, 0.1])
    if np.isinf(nu):
      out.append(-stats.multivariate_normal(mean, scatter).logpdf(y[i][w]))
    else:
      out.append(-stats.multivariate_t(mean, scatter, df=nu).logpdf(y[i][w]))
  return np.asarray(out)


@pytest.mark.parametrize("nu", [1.0, 4.0, 59.0, 61.0, np.inf])
def test_likelihood_is_that_of_scipy(nu):
  model = make()
  np.testing.assert_allclose(NLL(PARAMS, model, nu), by_scipy(model, nu), rtol=1e-9, atol=1e-10)


def test_many_degrees_of_freedom_are_the_gaussian_model():
  model = make()
  gaussian = by_scipy(model, np.inf)
  np.testing.assert_allclose(NLL(PARAMS, model, 1e8), gaussian, rtol=1e-5)
  single = jax.tree.map(lambda a: a.astype(jnp.float32) if a.dtype != bool else a, (PARAMS, model))
  np.testing.assert_allclose(NLL(*single, np.float32(1e8)), gaussian, rtol=1e-4)
  np.testing.assert_array_equal(WEIGHTS(PARAMS, model, np.inf), 1.0)


def test_weights_are_the_formula_and_small_for_the_outlying_subject():
  model = make()
  weights = np.asarray(WEIGHTS(PARAMS, model, 4.0))
  assert weights[0] == weights.min() and weights[0] < 0.2 < np.median(weights)
  assert weights[-1] == 1.0, "no rows"
  # The gradient in b is that of weighted generalised least squares.
  grad = jax.jit(jax.grad(lambda b: jnp.sum(NLL(PARAMS._replace(fe_params=b), model, 4.0))))(
    PARAMS.fe_params
  )
  x, y, z, where = (np.asarray(a) for a in model)
  expected = np.zeros(P)
  for i in range(S - 1):
    w = where[i]
    scatter = z[i][w] @ np.diag(np.exp([0.3, -0.9])) @ z[i][w].T + np.exp(-1.2) * np.eye(w.sum())
    residual = y[i][w] - x[i][w] @ np.asarray(PARAMS.fe_params)
    solved = np.linalg.solve(scatter, residual)
    expected -= (4 + w.sum()) / (4 + residual @ solved) * x[i][w].T @ solved
  np.testing.assert_allclose(grad, expected, rtol=1e-9)


def test_gradients_are_those_of_finite_differences_and_finite_at_the_gaussian_model():
  model = make()
  flat, restore = jax.flatten_util.ravel_pytree(PARAMS)
  for nu in (3.0, np.inf):
    total = jax.jit(lambda v, nu=nu: jnp.sum(NLL(restore(v), model, nu)))
    np.testing.assert_allclose(jax.grad(total)(flat), central_difference(total, flat), rtol=1e-6)
  in_nu = jax.jit(lambda nu: jnp.sum(NLL(PARAMS, model, nu[0])))
  for nu in (5.0, 80.0):
    start = jnp.array([nu])
    slope = central_difference(in_nu, start, eps=1e-4)
    np.testing.assert_allclose(jax.grad(in_nu)(start), slope, rtol=1e-5)


def test_one_t_for_all_data_together_has_no_robustness():
  """One subject: the same fixed effects as the Gaussian model, at any scatter."""
  model = make()
  rows = tuple(jnp.reshape(a, (1, S * R, *a.shape[2:])) for a in model)
  model = regression.MixedLM(*rows)
  grad = jax.grad(lambda b, nu: NLL(PARAMS._replace(fe_params=b), model, nu)[0])
  a, b = grad(PARAMS.fe_params, 4.0), grad(PARAMS.fe_params, np.inf)
  np.testing.assert_allclose(a / jnp.linalg.norm(a), b / jnp.linalg.norm(b), atol=1e-9)


@functools.cache
def fitted(name):
  penalty, bend = {"lasso": (prox.lasso, None), "mcp": (prox.mcp, 3.0)}[name]

  @jax.jit
  def run(model, lam, nu):
    hyper = lam if bend is None else (lam, bend)
    return regression.fit_mixed_lm(model, hyper, penalty=penalty, nu=nu, tol=1e-7, max_steps=1000)

  return run


@pytest.mark.parametrize("name", ["lasso", "mcp"])
def test_a_fit_is_a_stationary_point_of_the_penalised_mean(name):
  model, lam = make(), jnp.array([0.1, 0.1, 2.0, 2.0, 2.0])
  fit = fitted(name)(model, lam, 4.0)
  assert int(fit.info.status) == 0
  grad = jax.grad(lambda p: jnp.sum(NLL(p, model, 4.0)) / (S - 1))(fit.params)  # one has no rows
  np.testing.assert_allclose(grad.log_var_re, 0, atol=1e-5)
  np.testing.assert_allclose(grad.log_scale, 0, atol=1e-5)
  b = fit.params.fe_params
  penalty, hyper = (prox.lasso, lam) if name == "lasso" else (prox.mcp, (lam, 3.0))
  moved = penalty.prox(b - 0.1 * grad.fe_params, hyper, 0.1)
  np.testing.assert_allclose(moved, b, atol=1e-5)
  assert 0 < int(jnp.sum(b != 0)) < P
  np.testing.assert_allclose(fit.weights, WEIGHTS(fit.params, model, 4.0), rtol=1e-9)
  assert float(fit.weights[0]) == float(fit.weights.min())


def test_units_of_the_outcome_only_rescale_the_fit():
  model, lam, unit = make(), 0.3, 2.0**20
  one = fitted("lasso")(model, lam, 4.0)
  other = fitted("lasso")(model._replace(endog=model.endog * unit), lam / unit, 4.0)
  np.testing.assert_allclose(other.params.fe_params / unit, one.params.fe_params, rtol=1e-12)
  np.testing.assert_allclose(other.params.log_scale - 2 * np.log(unit), one.params.log_scale)
  np.testing.assert_allclose(other.weights, one.weights, rtol=1e-9)


def test_padding_keeps_each_subjects_rows_in_order(rng):
  groups = np.array([2, 0, 2, 2, 0, 3])
  x, y = rng.standard_normal((6, 3)), rng.standard_normal(6)
  model = jax.jit(lambda x, y, g: regression.pad_subjects(x, y, g, num_subjects=4, max_rows=3))(
    x, y, groups
  )
  np.testing.assert_array_equal(model.where.sum(1), [2, 0, 3, 1])
  for i in range(4):
    rows = groups == i
    np.testing.assert_array_equal(model.exog[i][: rows.sum()], x[rows])
    np.testing.assert_array_equal(model.endog[i], np.r_[y[rows], np.zeros(3 - rows.sum())])
  np.testing.assert_array_equal(model.exog_re[..., 0], model.where)


def test_rows_of_no_subject_are_dropped_under_jit(rng):
  groups = jnp.array([0, -1, 1, 0, 1, 5])
  y = jnp.arange(1.0, 7.0)
  pad = lambda g: regression.pad_subjects(y[:, None], y, g, num_subjects=2, max_rows=2)
  model = jax.jit(pad)(groups)
  np.testing.assert_array_equal(model.endog, [[1, 4], [3, 5]])
  assert np.all(model.where)


def test_parameters_may_be_lists_and_a_start_that_is_not_finite_is_refused():
  model = regression.pad_subjects(
    jnp.ones((2, 1)), jnp.ones(2), jnp.arange(2), num_subjects=2, max_rows=1
  )
  given = regression.MixedLMParams([1], [-np.inf], 0)
  found = regression.mixed_lm_nll(given, model, nu=jnp.inf)
  np.testing.assert_allclose(found, 0.5 * np.log(2 * np.pi), rtol=1e-6)
  with pytest.raises(ValueError, match="start must hold finite numbers"):
    regression.fit_mixed_lm(model, 0.1, start=given)


def test_a_traced_nu_that_is_not_positive_is_no_gaussian_model():
  model = regression.pad_subjects(
    jnp.ones((2, 1)), jnp.ones(2), jnp.arange(2), num_subjects=2, max_rows=1
  )
  params = regression.MixedLMParams(jnp.zeros(1), jnp.zeros(1), jnp.zeros(()))
  both = jax.jit(
    lambda nu: [
      f(params, model, nu=nu) for f in (regression.mixed_lm_nll, regression.mixed_lm_weights)
    ]
  )
  for nu in (jnp.nan, -1.0, 0.0, -jnp.inf):
    assert np.all(np.isnan(both(nu)))
  assert np.all(np.isfinite(both(jnp.inf)))
