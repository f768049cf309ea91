"""Safe norms, quotients, masked means and thresholds at the points where the naive ones fail."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import numerics
from tests.helpers import central_difference


@pytest.mark.x64
def test_safe_norm_and_its_derivatives(rng):
  x = jnp.asarray(rng.standard_normal(5))
  np.testing.assert_allclose(numerics.safe_norm(x), np.linalg.norm(x), rtol=1e-15)
  grad = jax.grad(numerics.safe_norm)
  np.testing.assert_allclose(grad(x), central_difference(numerics.safe_norm, x), atol=1e-9)
  assert grad(jnp.zeros(5)).tolist() == [0.0] * 5
  assert bool(jnp.all(jnp.isfinite(jax.hessian(numerics.safe_norm)(jnp.zeros(3)))))
  rows = numerics.safe_norm(jnp.stack([x, 0 * x]), axis=1)
  assert rows.shape == (2,) and float(rows[1]) == 0.0
  assert np.isnan(numerics.safe_norm(jnp.asarray([1.0, jnp.nan])))


def test_safe_divide_never_leaks_nan():
  f = lambda d: numerics.safe_divide(1.0, d, default=7.0)
  assert float(f(0.0)) == 7.0 and float(jax.grad(f)(0.0)) == 0.0
  assert float(f(4.0)) == 0.25


def test_masked_mean_ignores_what_is_masked_even_nan():
  x = jnp.asarray([[1.0, jnp.nan], [3.0, 5.0]])
  mask = jnp.asarray([[True, False], [True, True]])
  assert float(numerics.masked_mean(x, mask)) == 3.0
  assert numerics.masked_mean(x, mask, axis=1).tolist() == [1.0, 4.0]
  assert float(numerics.masked_mean(x, jnp.zeros((2, 2), bool))) == 0.0
  grad = jax.grad(lambda v: numerics.masked_mean(v, mask))(x)
  np.testing.assert_allclose(grad, [[1 / 3, 0.0], [1 / 3, 1 / 3]], rtol=1e-6)


def test_log_mean_exp_limits_and_mask():
  x = jnp.asarray([[1e4, 1e4], [-1e4, 0.0]])
  np.testing.assert_allclose(numerics.log_mean_exp(x), [1e4, -np.log(2)], rtol=1e-6)
  masked = numerics.log_mean_exp(x, where=jnp.asarray([[True, False], [False, False]]))
  assert masked.tolist() == [1e4, -np.inf]
  assert numerics.log_mean_exp(jnp.ones(3, jnp.bfloat16)).dtype == jnp.bfloat16


def test_thresholds_keep_nan_and_choose_zero_at_the_kink():
  x = jnp.asarray([jnp.nan, 1.0, -1.0, 2.0])
  soft, hard = numerics.soft_threshold(x, 1.0), numerics.hard_threshold(x, 1.0)
  assert np.isnan(soft[0]) and soft[1:].tolist() == [0.0, 0.0, 1.0]
  assert np.isnan(hard[0]) and hard[1:].tolist() == [0.0, 0.0, 2.0]
  assert float(jax.grad(numerics.soft_threshold)(1.0, 1.0)) == 0.0


def test_tree_helpers():
  assert bool(numerics.tree_all_finite({"a": jnp.arange(3)}))
  assert not bool(numerics.tree_all_finite([jnp.ones(2), jnp.asarray(jnp.nan)]))
  a, b = {"x": jnp.ones(2)}, {"x": jnp.zeros(2)}
  assert numerics.tree_where(False, a, b)["x"].tolist() == [0.0, 0.0]
  assert numerics.upcast(jnp.ones(2, jnp.float16)).dtype == jnp.float32
