"""The images and the weighting rules of the experiment with dense and empty images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments._protocol import Progress
from experiments.compositional import _segmentation
from experiments.compositional import adaptive_augmentation as experiment

ENTROPY = jnp.asarray(np.linspace(0.1, 1.6, 16), jnp.float32)
IS_DENSE = np.arange(16) % 4 == 0
WEIGHT = jnp.linspace(0.0, 1.0, 16)


def rule(name, stepsize=1.0, log_weight=None):
  setting = {
    "rule": jnp.asarray(experiment.RULES.index(name)), "stepsize": jnp.asarray(stepsize)
  }  # fmt: skip
  log_weight = jnp.zeros(16) if log_weight is None else log_weight
  return [
    np.asarray(value)
    for value in experiment.coefficients(
      setting, ENTROPY, jnp.asarray(IS_DENSE), log_weight, WEIGHT
    )
  ]


@pytest.mark.parametrize("kind", ["distinct", "alike"])
def test_discs_are_in_dense_images_only(kind):
  is_dense = np.arange(40) < 20
  image, mask = _segmentation.make_images(np.random.default_rng(0), is_dense, kind)
  sizes = mask.sum((1, 2))
  assert np.all(sizes[:20] >= 9) and not np.any(sizes[20:])
  assert image[mask == 1].mean() > image[:20][mask[:20] == 0].mean() + 0.5
  shift = image[:20][mask[:20] == 0].mean() - image[20:].mean()
  assert abs(shift - (0.5 if kind == "distinct" else 0.0)) < 0.1


def test_empty_slices_share_the_tubes_and_a_trace_of_the_balls():
  image, mask = _segmentation.make_slices(np.random.default_rng(0), 20)
  filled = mask.any((1, 2)).reshape(20, _segmentation.DEPTH)
  assert image.shape == mask.shape == (160, 16, 16)
  assert filled.any(1).all() and not filled[:, [0, -1]].any()
  assert 0.35 < filled.mean() < 0.55
  volumes, labels = (v.reshape(20, _segmentation.DEPTH, 16, 16) for v in (image, mask))
  first, rows = filled.argmax(1), np.arange(20)
  begins = labels[rows, first] == 1
  assert volumes[rows, first - 1][begins].mean() > volumes[rows, 0][begins].mean() + 0.05
  # A background of standard deviation sqrt(0.45^2 + 0.25^2) alone would have 1.2; the tubes, on
  # four percent of the pixels, have 1.2 on average.
  assert np.quantile(volumes[~filled], 0.99) > 1.5


def test_every_rule_counts_the_batch_as_a_whole():
  for name in experiment.RULES:
    supervised, consistency, _ = rule(name)
    assert np.mean(supervised + consistency) == pytest.approx(1, rel=1e-5), name
    assert np.all(supervised >= 0) and np.all(consistency >= 0)
    assert np.any(consistency) == (name in ("adawac", "pseudo"))
  np.testing.assert_array_equal(rule("trim")[0] > 0, IS_DENSE)
  np.testing.assert_array_equal(rule("pseudo")[0] > 0, IS_DENSE)
  np.testing.assert_array_equal(rule("trim_loss")[0] > 0, np.arange(16) >= 7)  # the lowest go
  np.testing.assert_allclose(rule("adawac")[0], WEIGHT)


def test_competing_weights_follow_the_exponentiated_losses():
  log_weight = jnp.linspace(-1.0, 1.0, 16)
  supervised, _, raised = rule("reweight", 0.7, log_weight)
  expected = np.exp(np.asarray(log_weight) + 0.7 * np.asarray(ENTROPY))
  np.testing.assert_allclose(supervised, 16 * expected / expected.sum(), rtol=1e-5)
  np.testing.assert_allclose(raised, np.log(supervised), atol=1e-6)
  pulled = rule("entropic", 0.7, log_weight)[2]
  shrunk = (1 - 0.7 * 0.01) * np.asarray(log_weight) + 0.7 * np.asarray(ENTROPY)
  np.testing.assert_allclose(np.diff(pulled), np.diff(shrunk), atol=1e-6)


def test_copies_share_their_flip():
  x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 16, 16)), jnp.float32)
  copies, mask = _segmentation.augment(x, x, jax.random.key(0), gain=0.0, noise=0.0)
  np.testing.assert_array_equal(copies[0], copies[1])
  np.testing.assert_array_equal(copies[0], mask)
  assert np.any(mask != x)


def test_bad_settings():
  with pytest.raises(ValueError, match="kinds must be among"):
    experiment.Config(kinds=("volumes",))
  with pytest.raises(ValueError, match="must hold ERM"):
    experiment.Config(methods=("ERM",))
  with pytest.raises(ValueError, match="multiples of 8"):
    experiment.Config(images=100)


@pytest.mark.slow
def test_the_step_size_is_chosen_by_validation():
  config = experiment.Config(
    seeds=1, kinds=("slices",), images=16, test_images=8, epochs=1, factors=(0.1, 1.0)
  )
  choices = experiment.run(config, Progress())["choices"]
  assert len(choices) == len(config.methods)
  for choice in choices:
    assert choice.scores[choice.values.index(choice.chosen)] == max(choice.scores)
