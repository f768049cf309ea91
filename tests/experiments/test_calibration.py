"""Parts of the experiments on calibration."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from experiments import datasets
from experiments.calibration import (
  _coins,
  _recalibration,
  _shapes,
  h_calibration_fashion,
  segmentation_coins,
)


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


def test_every_coin_has_a_rim_and_an_inner_part():
  image, labels = _coins.picture()
  assert image.shape == labels.shape == (151, 192)
  assert image.mean() == pytest.approx(0, abs=1e-9) and image.std() == pytest.approx(1)
  coins, number = ndimage.label(labels > 0)
  inner = ndimage.label(labels == 2)[1]
  assert number == inner == 24  # as many as a person counts
  assert all(labels[coins == k].max() == 2 for k in range(1, 25))
  away = ndimage.distance_transform_edt(labels > 0)
  np.testing.assert_array_equal(labels == 2, away > 4)
  means = [image[labels == k].mean() for k in range(3)]
  assert means[1] - means[0] > 1 and abs(means[2] - means[1]) < 0.3  # a place, not a grey value


def test_crops_come_from_their_own_part():
  image, _ = _coins.picture()
  ends = list(_coins.PARTS.values())
  assert all(left[1] == right[0] for left, right in itertools.pairwise(ends))
  for part, (left, right) in _coins.PARTS.items():
    found = _coins.draw(np.random.default_rng(0), 5, 32, part, 0.0)
    assert found.x.shape == (5, 32, 32, 1) and found.y.shape == (5, 32, 32)
    windows = np.lib.stride_tricks.sliding_window_view(image[:, left:right], (32, 32))
    for x, y in zip(np.asarray(found.x)[..., 0], np.asarray(found.y), strict=True):
      assert np.abs(windows - x).max((2, 3)).min() < 1e-6
      assert min((y == k).mean() for k in range(3)) >= _coins.LEAST
  noisy = _coins.draw(np.random.default_rng(0), 5, 32, "test", 0.5)
  gap = np.asarray(noisy.x - found.x)
  assert gap.std() == pytest.approx(0.5, abs=0.02) and np.all(noisy.y == found.y)


def test_settings_are_chosen_on_a_part_of_its_own():
  config = segmentation_coins.SIZES["toy"].config
  data, other = (segmentation_coins.make_data(3, config, held_out=on) for on in (False, True))
  np.testing.assert_array_equal(data["train"].x, other["train"].x)
  assert np.any(np.asarray(data["test"].x) != np.asarray(other["test"].x))


def test_distances_of_outlines(rng):
  one = np.zeros((12, 12), bool)
  one[2:6, 2:6] = True
  assert _coins.outline_distance(one, one) == 0
  assert _coins.outline_distance(np.roll(one, 3, axis=1), one) == 3
  assert _coins.outline_distance(0 * one, 0 * one) == 0
  assert _coins.outline_distance(0 * one, one) == pytest.approx(np.sqrt(2 * 12**2))
  ours, theirs = rng.random((2, 12, 12)) < 0.3

  def outline(mask):
    wide = np.pad(mask, 1)
    near = [wide[1:-1, :-2], wide[1:-1, 2:], wide[:-2, 1:-1], wide[2:, 1:-1]]
    return np.argwhere(mask & ~np.all(near, axis=0))

  gaps = np.linalg.norm(outline(ours)[:, None] - outline(theirs)[None], axis=2)
  expected = np.percentile(np.concatenate([gaps.min(0), gaps.min(1)]), 95)
  assert _coins.outline_distance(ours, theirs) == pytest.approx(expected)
  labels = np.where(one, 1, 0)[None]
  labels[0, 3:5, 3:5] = 2
  assert _coins.mean_distance(np.roll(labels, 2, axis=2), labels) == 2


def test_parts_of_a_training_set_do_not_overlap(monkeypatch):
  side, train, fit, test = 4, 20, 12, 8
  x = np.float32(np.arange(1, 61)[:, None] * np.ones(side**2) / 60)
  fake = {"x_train": x, "y_train": np.arange(1, 61) % 10}
  fake |= {"x_test": -x[:test], "y_test": np.full(test, 3)}
  monkeypatch.setattr(datasets, "load", lambda name: fake)
  seen = []

  def train_fake(key, first, labels, rows, others, *, kind):
    seen.append([first, *others])
    return [np.zeros((len(part), 10)) for part in others]

  monkeypatch.setattr(_recalibration, "_train", train_fake)
  for held_out in (False, True):
    data, truth = _recalibration.of_network(
      0, "fashion_mnist", train, 1, (fit, test), "cnn", held_out=held_out
    )
    assert truth is None and data.calibration.shape == (fit, 10) and data.test.shape == (test, 10)
    numbers = [set((60 * part[:, 0]).round().astype(int).tolist()) for part in seen[-1]]
    assert [len(part) for part in numbers] == [train, fit, test]
    assert len(set.union(*numbers)) == train + fit + test
    if held_out:
      np.testing.assert_array_equal(data.test_labels, (60 * seen[-1][2][:, 0]).round() % 10)
    else:
      np.testing.assert_array_equal(seen[-1][2], fake["x_test"])
      np.testing.assert_array_equal(data.test_labels, fake["y_test"])
    np.testing.assert_array_equal(data.labels, (60 * seen[-1][1][:, 0]).round() % 10)


def test_every_map_is_compared_by_both_errors():
  config = h_calibration_fashion.Config(seeds=2)
  methods = h_calibration_fashion.h_calibration.methods_of(config)
  names = ("ece", "class-wise ece", "accuracy")
  metrics = {
    method: {name: [0.1 * i, 0.2 * i] for name in names} for i, method in enumerate(methods)
  }
  made = h_calibration_fashion.claims(metrics, config)
  assert len({claim.key for claim in made}) == len(made) == 1 + 2 * (8 + 1) + 1
  by_error = [claim for claim in made if claim.kind == "paper"]
  assert all(claim.better == "lower" for claim in by_error)
  assert {
    claim.comparisons for claim in by_error if claim.ours.name == "piecewise linear, h-loss"
  } == {8}


def test_windows_are_even():
  assert [_recalibration.window_of(n) for n in (100, 7480, 20_000, 10**6)] == [20, 74, 200, 200]
