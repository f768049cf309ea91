"""Parts of the experiments on randomized smoothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen

from experiments._convolution import Convolution
from experiments._protocol import Progress
from experiments._training import train_all, train_each
from experiments.robustness import _dual_smoothing, _smoothing, dual_smoothing_fashion
from jaxopt_robust import robustness


@pytest.mark.parametrize(("size", "stride", "side"), [(4, 4, 8), (3, 2, 7), (3, 2, 8), (2, 3, 7)])
def test_convolution_by_patches_is_the_convolution(size, stride, side, rng):
  x = jnp.asarray(rng.normal(size=(2, side, side, 3)), jnp.float32)
  ours = Convolution(5, size, stride)
  params = ours.init(jax.random.key(0), x)
  weights = params["params"]["Dense_0"]
  kernel = weights["kernel"].reshape(size, size, 3, 5)
  theirs = linen.Conv(5, (size, size), strides=(stride, stride))
  want = theirs.apply({"params": {"kernel": kernel, "bias": weights["bias"]}}, x)
  np.testing.assert_allclose(ours.apply(params, x), want, atol=1e-5)


def test_one_run_after_another_gives_what_all_in_one_program_give():
  train = lambda setting, data: {"y": setting["a"] * data["x"], "b": setting["b"]}
  settings = {"a": np.float32([1, 2, 3]), "b": np.int32([4, 5, 6])}
  data = [{"x": np.float32([1, 2])}, {"x": np.float32([3, 4])}]
  progress = Progress()
  each = train_each(progress, train, settings, data, name="each")
  every = train_all(
    Progress(), train, settings, {"x": np.stack([d["x"] for d in data])}, name="all"
  )
  jax.tree.map(np.testing.assert_array_equal, each, every)
  assert each["y"].shape == (2, 3, 2)
  assert progress.clock.parts["each"]["calls"] == 6


def test_averaged_images_are_the_means_of_blocks(rng):
  x = np.float32(rng.normal(size=(3, 4, 6, 1)))
  data = _smoothing.Data(x, None, x[:1], None, None, None)
  found = dual_smoothing_fashion.averaged(data, 2)
  assert found.x.shape == (3, 2, 3, 1)
  np.testing.assert_allclose(found.x[1, 1, 2, 0], x[1, 2:, 4:, 0].mean(), rtol=1e-5)
  assert found.x_test.shape == (1, 2, 3, 1)


def test_levels_have_the_same_largest_radius_and_votes_add_up():
  np.testing.assert_allclose(_dual_smoothing.levels((0.5,), True), 0.5 / np.sqrt(2), rtol=1e-6)
  # Two sub-images whose votes all agree, at the level of alpha / 2, reach the radius of one image.
  votes = jnp.array([[[[100, 0], [100, 0]]]])
  level = float(_dual_smoothing.levels((0.5,), True)[0])
  dual = _dual_smoothing.certify((votes, votes), True, level, 100, 0.002)
  whole = _dual_smoothing.certify((votes[:, :, 0], votes[:, :, 0]), False, 0.5, 100, 0.001)
  np.testing.assert_allclose(dual.radius, whole.radius, rtol=1e-5)
  np.testing.assert_allclose(_dual_smoothing.root_rule(dual, level), dual.radius, rtol=1e-5)


def test_votes_are_cast_in_two_parts_of_half_the_draws():
  config = dataclasses.replace(
    dual_smoothing_fashion.SIZES["toy"].config, network="mlp", steps=2, test=2
  )
  data = _smoothing.load_split(0, config, 1)
  setting = {"sigma": jnp.float32(0.3), "rate": jnp.float32(0.01)}
  found = robustness.SmoothingVotes(
    *jax.jit(dual_smoothing_fashion.make_run(True, config))(setting, data)
  )
  assert found.counts.shape == (2, 2, 2, 10)  # parts, images, sub-images, classes
  assert np.all(np.sum(found.counts, -1) == config.num_samples // 2)
  assert np.all(np.sum(found.selection, -1) == config.num_selection // 2)
  assert np.any(found.counts[0] != found.counts[1])
