"""The pieces of the robust regression experiment: the planted outliers and the trimmed start."""

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.solvers import _trimmed_start
from experiments.solvers import robust_regression_outliers as experiment
from jaxopt_robust import prox


@pytest.mark.parametrize("kind", experiment.KINDS)
def test_outliers_are_planted_in_the_share_of_training_rows_alone(kind):
  clean = experiment.make_problem(kind, 5.0, 0.0, seed=1)
  dirty = experiment.make_problem(kind, 5.0, 0.2, seed=1)
  changed = (dirty.y != clean.y) | np.any(dirty.x != clean.x, axis=1)
  assert changed.sum() == round(0.2 * len(clean.y))
  np.testing.assert_array_equal(dirty.x_test, clean.x_test)
  np.testing.assert_array_equal(dirty.clean, clean.clean)
  more = experiment.make_problem(kind, 5.0, 0.4, seed=1)
  assert np.all(changed <= ((more.y != clean.y) | np.any(more.x != clean.x, axis=1)))
  if kind == "target":
    np.testing.assert_array_equal(dirty.x, clean.x)
    assert np.all(dirty.y[changed] - clean.y[changed] >= 5)
  else:  # the wrong sign of the prediction, with the row's own residual
    residual = clean.y - clean.x @ clean.clean
    np.testing.assert_allclose((dirty.y + dirty.x @ clean.clean)[changed], residual[changed])
    np.testing.assert_array_equal(dirty.x[:, 0], 1)


def test_the_operator_of_the_shifted_terms_minimises_them():
  rng = np.random.default_rng(0)
  y, z = (jnp.asarray(rng.normal(0, 3, 200), jnp.float32) for _ in range(2))
  v = jnp.asarray(rng.normal(0, 3, 5), jnp.float32)
  out, coefficients = experiment.shifted(prox.lasso)((z, v), (y, 1.0, 0.7), 0.5)
  # By hand: z moves towards y by at most the scaling, v towards 0 by at most 0.35.
  np.testing.assert_allclose(out, z + np.clip(y - z, -0.5, 0.5), atol=1e-6)
  np.testing.assert_allclose(coefficients, v - np.clip(v, -0.35, 0.35), atol=1e-6)


def test_the_trimmed_start_finds_a_plane_under_far_outliers():
  rng = np.random.default_rng(0)
  x = np.concatenate([np.ones((60, 1)), rng.standard_normal((60, 3))], axis=1)
  truth = np.array([0.5, 1.0, -2.0, 3.0])
  y = x @ truth
  x[:18, 1:] *= 10
  y[:18] = -x[:18] @ truth + 7
  subsets = rng.random((50, 60)).argpartition(4, axis=1)[:, :4]
  w, scale = _trimmed_start.trimmed(
    jnp.asarray(subsets), jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32), trims=3
  )
  np.testing.assert_allclose(w, truth, atol=1e-4)
  assert scale < 1e-4


@pytest.mark.x64
def test_least_absolute_deviations_reach_the_optimum_of_a_linear_program():
  from sklearn.linear_model import QuantileRegressor

  data = experiment.make_problem("leverage", 10.0, 0.2, seed=0)
  x, y, penalty = data.x[:, 1:], data.y, 0.005
  model = QuantileRegressor(quantile=0.5, alpha=penalty / 2, solver="highs").fit(x, y)
  exact = np.abs(y - model.predict(x)).sum() + len(y) * penalty * np.abs(model.coef_).sum()
  fit = experiment.make_fit(prox.lasso, experiment.Config(), 3000)
  hyper = (data.y[None], np.ones(1), np.array([penalty * len(y)]))
  _, value, _, _ = fit(np.zeros((1, data.x.shape[1])), hyper, data.x[None])
  np.testing.assert_allclose(value[0], exact, rtol=1e-5)
