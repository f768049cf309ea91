"""Parts of the experiments on calibration."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.calibration import _recalibration, _shapes


def test_overlap():
  y = np.array([[[0, 1], [2, 2]], [[1, 1], [0, 0]]])
  guess = np.array([[[0, 1], [1, 2]], [[1, 0], [0, 0]]])
  # Ring: 2/3 and 2/3; core: 2/3, and 0 where there is none.
  assert _shapes.dice(jnp.asarray(guess), jnp.asarray(y)) == pytest.approx((2 / 3 + 1 / 3) / 2)


def test_shapes_have_a_core_within_a_ring(key):
  found = _shapes.draw(key, 20, 16)
  y, x = np.asarray(found.y), np.asarray(found.x)[..., 0]
  assert set(np.unique(y)) == {0, 1, 2} and all((one == 2).any() for one in y)
  assert np.all(y[:, [0, -1]] != 2)
  for k in range(3):
    assert x[y == k].mean() == pytest.approx(k / 2, abs=0.1)
    assert x[y == k].std() == pytest.approx(_shapes.NOISE, abs=0.1)


def test_a_network_grows_back_to_its_input(key):
  net = _shapes.UNet(4)
  x = jnp.ones((2, 8, 8, 1))
  assert net.apply(net.init(key, x), x).shape == (2, 8, 8, 3)


def test_convolution_is_the_one_of_jax(key):
  x = jax.random.normal(key, (2, 6, 5, 3))
  conv = _shapes.Conv(4)
  params = conv.init(key, x)
  kernel = params["params"]["Dense_0"]["kernel"].reshape(3, 3, 3, 4)
  expected = jax.lax.conv_general_dilated(
    x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )
  np.testing.assert_allclose(conv.apply(params, x), expected, atol=1e-4)


def test_synthetic_labels_follow_the_truth():
  data, truth = _recalibration.synthetic(jax.random.key(0), 10, 20_000, "temperature")
  assert data.calibration.shape == (10, 10) and data.test.shape == truth.shape
  right = float(np.mean(np.argmax(truth, axis=1) == data.test_labels))
  assert right == pytest.approx(float(np.mean(np.max(truth, axis=1))), abs=0.01)
  np.testing.assert_allclose(np.exp(np.asarray(data.test) / 2.5), np.asarray(truth), atol=1e-5)
  other, _ = _recalibration.synthetic(jax.random.key(0), 10, 20_000, "distorted")
  np.testing.assert_array_equal(np.argmax(other.test, 1), np.argmax(data.test, 1))


def test_windows_are_even():
  assert [_recalibration.window_of(n) for n in (100, 7480, 20_000, 10**6)] == [20, 74, 200, 200]
