"""Losses of linear predictors: formulas, derivatives, bounds of curvature, weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import regression
from tests.helpers import central_difference

Z = np.array([-30.0, -1.2, 0.3, 0.9, 2.0])
FORMULAS = {
  "squared": (np.array([1.0, -1.0, 0.5, 2.0, 0.0]), None, lambda z, y: (z - y) ** 2 / 2),
  "logistic": (
    np.array([0.0, 1.0, 0.0, 0.3, 1.0]),
    None,
    lambda z, y: np.log1p(np.exp(z)) - y * z,
  ),
  "huber": (
    np.array([1.0, -1.0, 0.5, 2.0, 0.0]),
    1.5,
    lambda z, y: np.where(abs(y - z) <= 1.5, (y - z) ** 2 / 2, 1.5 * abs(y - z) - 1.5**2 / 2),
  ),
  "quantile": (
    np.array([1.0, -1.0, 0.5, 2.0, 0.0]),
    0.3,
    lambda z, y: np.where(y > z, 0.3 * (y - z), 0.7 * (z - y)),
  ),
  "poisson": (
    np.array([1.0, 2.0, 0.0, 5.0, 3.0]),
    None,
    lambda z, y: np.exp(z) - y * z + np.where(y > 0, y * np.log(np.where(y > 0, y, 1)), 0) - y,
  ),
}


@pytest.mark.x64
@pytest.mark.parametrize("name", FORMULAS)
def test_formula_gradient_and_curvature(name):
  y, hyper, formula = FORMULAS[name]
  loss = regression.linear_loss(name)
  rows = loss.rows(jnp.asarray(Z), jnp.asarray(y), hyper)
  np.testing.assert_allclose(rows, formula(Z, y), rtol=1e-12, atol=1e-12)
  weights = np.array([1.0, 0.0, 2.0, 3.0, 0.5])
  total = jax.jit(
    lambda z: regression.linear_objective(z, y, loss=name, loss_hyper=hyper, sample_weight=weights)
  )
  np.testing.assert_allclose(total(Z), weights @ formula(Z, y) / weights.sum(), rtol=1e-12)
  np.testing.assert_allclose(
    jax.grad(total)(jnp.asarray(Z)), central_difference(total, Z), atol=1e-7
  )
  if loss.curvature is not None:
    fine = np.linspace(-6, 6, 400)
    slope = jax.vmap(jax.grad(lambda z: loss.rows(z[None], jnp.full(1, 0.4), hyper)[0]))(fine)
    steepest = np.max(np.diff(slope) / np.diff(fine))
    assert 0.99 * loss.curvature(hyper) < steepest <= loss.curvature(hyper) * (1 + 1e-9)
  # The start is the best constant (for the Huber and quantile losses a guess of it).
  if name in ("squared", "logistic", "poisson"):
    at = loss.start(jnp.mean(y))
    np.testing.assert_allclose(jax.grad(lambda c: loss.rows(c * np.ones(5), y, hyper).sum())(at),
                               0, atol=1e-12)  # fmt: skip


def test_extremes_and_empty_weights_are_finite():
  far = jnp.array([1e4, -1e4])
  rows = regression.linear_loss("logistic").rows(far, jnp.array([1.0, 0.0]), None)
  assert rows.tolist() == [0, 0]
  rows = regression.linear_loss("logistic").rows(far, jnp.array([0.0, 1.0]), None)
  assert rows.tolist() == [1e4, 1e4]
  y = jnp.array([1.0, 2.0])
  assert regression.linear_objective(far, y, sample_weight=jnp.zeros(2)) == 0
  # An infinite loss of a row that does not count is none; NaN is never hidden.
  hidden = {"loss": "poisson", "sample_weight": jnp.array([0.0, 1.0])}
  assert jnp.isfinite(regression.linear_objective(far, y, **hidden))
  assert jnp.isnan(regression.linear_objective(far * jnp.nan, y, **hidden))


@pytest.mark.x64
@pytest.mark.parametrize("name", FORMULAS)
def test_a_row_of_weight_zero_has_its_derivative_in_the_weight(name):
  """d/dw_i of sum_j w_j l_j / sum_j w_j is (l_i - mean) / W, also where w_i is 0."""
  y, hyper, formula = FORMULAS[name]
  weights = np.array([1.0, 0.0, 2.0, 3.0, 0.0])
  slope = jax.grad(
    lambda w: regression.linear_objective(Z, y, loss=name, loss_hyper=hyper, sample_weight=w)
  )(jnp.asarray(weights))
  losses = formula(Z, y)
  mean = weights @ losses / weights.sum()
  np.testing.assert_allclose(slope, (losses - mean) / weights.sum(), rtol=1e-11, atol=1e-13)


def test_a_row_that_does_not_count_leaves_the_slope_finite_however_large_its_loss():
  z, y = jnp.array([1000.0, 0.0]), jnp.array([1.0, 2.0])
  fun = lambda z, w: regression.linear_objective(z, y, loss="poisson", sample_weight=w)
  slopes = jax.grad(fun, argnums=(0, 1))(z, jnp.array([0.0, 1.0]))
  np.testing.assert_allclose(slopes[0], [0, np.exp(0) - 2])
  assert np.all(np.isfinite(slopes[1]))
  counts = jax.grad(lambda y: regression.linear_objective(z[1:], y, loss="poisson"))
  np.testing.assert_allclose(counts(jnp.zeros(1)), [0])  # -z, without the infinite log y
  np.testing.assert_allclose(counts(jnp.array([2.0])), [np.log(2)])


def test_half_precision_is_summed_in_float32_and_a_number_that_a_loss_lacks_is_refused():
  z = jnp.full(3000, 300.0, jnp.float16)
  value = regression.linear_objective(z, jnp.zeros(3000))
  assert value.dtype == jnp.float16 and value == jnp.float16(45000)
  with pytest.raises(ValueError, match="loss_hyper must be None"):
    regression.linear_objective(Z, Z, loss_hyper=1.35)
