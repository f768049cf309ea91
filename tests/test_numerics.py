"""Safe norms, quotients, masked means and thresholds at the points where the naive ones fail."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import losses, numerics, projections, recovery
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


@pytest.mark.parametrize("size", [1e-30, 1e-25, 1.0, 1e25, 1e30, 6e37])
def test_safe_norm_does_not_depend_on_the_units(size):
  """||c (3, 4)|| = 5 c with the slope (3, 4) / 5 for every c of float32."""
  x = jnp.asarray([3.0, 4.0]) * size
  norm, slope = jax.value_and_grad(numerics.safe_norm)(x)
  np.testing.assert_allclose([norm / size, *slope], [5.0, 0.6, 0.8], rtol=5e-7)
  assert float(numerics.safe_norm(jnp.float32(size))) == np.float32(size)
  rows = numerics.safe_norm(jnp.stack([x, 0 * x, x / size]), axis=1)
  np.testing.assert_allclose(rows, [5 * size, 0, 5], rtol=5e-7)


def test_the_largest_numbers_may_be_divided_by():
  """1 / 1.5e38 is below the normal numbers of float32; multiplied by it everything would be 0."""
  c = 1.5e38
  x = jnp.float32([c, 0.0, 0.0])
  found = {
    "ball": (projections.projection_l2_ball(x, c / 3), [1 / 3, 0, 0]),
    "hyperplane": (
      projections.projection_hyperplane(x, (jnp.full(3, c), 0.0)),
      [2 / 3, -1 / 3, -1 / 3],
    ),
    "cone": (projections.projection_second_order_cone(x), [1 / 2, 0, 1 / 2]),
  }
  for name, (value, expected) in found.items():
    np.testing.assert_allclose(np.float64(value) / c, expected, rtol=1e-5, atol=1e-7, err_msg=name)
  weighted = projections.projection_weighted_l1_ball(x, (jnp.full(3, c), c))
  np.testing.assert_allclose(weighted, [1, 0, 0], rtol=1e-6)
  near = jnp.float32([[1, 0], [1, 0.1], [0, 1], [0.1, 1]]) * c
  assert float(losses.recall_at_1(near, jnp.array([0, 0, 1, 1]))) == 1
  sparseness = recovery.hoyer_sparseness(jnp.float32([[c, 1.0], [c, 0.0]]), axis=0)
  np.testing.assert_allclose(sparseness, [0, 1], atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_safe_norm_of_half_precision(dtype):
  """300^2 does not fit in float16; 10,000 ones do not add up in bfloat16."""
  x = jnp.full((3, 3), 100, dtype)
  norm, slope = jax.value_and_grad(numerics.safe_norm)(x)
  assert norm.dtype == dtype and float(norm) == 300
  np.testing.assert_allclose(slope.astype(jnp.float32), 1 / 3, rtol=4e-3)
  assert float(numerics.safe_norm(jnp.ones(10_000, dtype))) == float(jnp.asarray(100, dtype))


def test_safe_norm_of_complex_numbers_nothing_inf_and_nan():
  z = jnp.asarray([3 + 4j, 0.0, 12j]) * 1e25
  norm, slope = jax.value_and_grad(numerics.safe_norm)(z)
  assert norm.dtype == jnp.float32
  np.testing.assert_allclose(norm, 13e25, rtol=1e-6)
  np.testing.assert_allclose(slope, jnp.conj(z) / norm, rtol=1e-6)  # the convention of jax.grad
  assert jax.grad(numerics.safe_norm)(0 * z).tolist() == [0, 0, 0]
  assert float(numerics.safe_norm(jnp.zeros(0))) == 0.0
  assert numerics.safe_norm(jnp.zeros((0, 2)), axis=0).tolist() == [0.0, 0.0]
  assert float(numerics.safe_norm(jnp.asarray([1.0, jnp.inf]))) == np.inf
  assert np.isnan(numerics.safe_norm(jnp.asarray([jnp.inf, jnp.nan])))


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
  right = jnp.asarray([True, False, True, True])  # a mean of bools or whole numbers is none
  for kind in (bool, jnp.int32, jnp.uint8):
    found = numerics.masked_mean(right.astype(kind), jnp.arange(4) < 3)
    np.testing.assert_allclose(found, 2 / 3, rtol=1e-6)


def test_log_mean_exp_limits_and_mask():
  x = jnp.asarray([[1e4, 1e4], [-1e4, 0.0]])
  np.testing.assert_allclose(numerics.log_mean_exp(x), [1e4, -np.log(2)], rtol=1e-6)
  masked = numerics.log_mean_exp(x, where=jnp.asarray([[True, False], [False, False]]))
  assert masked.tolist() == [1e4, -np.inf]
  whole = numerics.log_mean_exp(jnp.arange(2), where=jnp.ones(2, bool))
  np.testing.assert_allclose(whole, np.log((1 + np.e) / 2), rtol=1e-6)
  assert numerics.log_mean_exp(jnp.ones(3, jnp.bfloat16)).dtype == jnp.bfloat16


def test_thresholds_keep_nan_and_choose_zero_at_the_kink():
  x = jnp.asarray([jnp.nan, 1.0, -1.0, 2.0])
  soft, hard = numerics.soft_threshold(x, 1.0), numerics.hard_threshold(x, 1.0)
  assert np.isnan(soft[0]) and soft[1:].tolist() == [0.0, 0.0, 1.0]
  assert np.isnan(hard[0]) and hard[1:].tolist() == [0.0, 0.0, 2.0]
  assert float(jax.grad(numerics.soft_threshold)(1.0, 1.0)) == 0.0


def test_thresholds_of_nan_and_of_complex_numbers():
  x, z = jnp.asarray([-3.0, 0.5]), jnp.asarray([3 + 4j, 0.1j, 0.0])
  for threshold in (numerics.soft_threshold, numerics.hard_threshold):
    assert np.isnan(threshold(x, jnp.nan)).all()
    assert np.isnan(threshold(x, jnp.asarray([jnp.nan, 1.0]))).tolist() == [True, False]
    assert np.isnan(threshold(z, jnp.nan)).all()
    assert bool(jnp.isfinite(jax.grad(lambda v, f=threshold: jnp.abs(f(v, 1.0)[1]))(z)).all())
  np.testing.assert_allclose(numerics.soft_threshold(z, 1.0), [2.4 + 3.2j, 0, 0], rtol=1e-6)
  assert numerics.hard_threshold(z, 1.0).tolist() == [3 + 4j, 0, 0]


def test_tree_helpers():
  assert bool(numerics.tree_all_finite({"a": jnp.arange(3)}))
  assert not bool(numerics.tree_all_finite([jnp.ones(2), jnp.asarray(jnp.nan)]))
  a, b = {"x": jnp.ones(2)}, {"x": jnp.zeros(2)}
  assert numerics.tree_where(False, a, b)["x"].tolist() == [0.0, 0.0]
  assert numerics.upcast(jnp.ones(2, jnp.float16)).dtype == jnp.float32
