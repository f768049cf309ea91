"""The parts of the experiments with learned operators against closed forms."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from experiments.prox import _convolutional as conv
from experiments.prox import _learned_images as lib
from experiments.prox import (
  learned_prox_convolutional,
  learned_prox_images,
  learned_prox_laplace,
)

CONFIG = dataclasses.replace(learned_prox_images.SIZES["toy"].config, stride=4)
N = CONFIG.pixels
CONVOLUTIONAL = learned_prox_convolutional.SIZES["toy"].config


def test_the_posterior_mean_is_the_closed_form():
  """E[x | y] of a Laplace prior and unit noise: two truncated normal distributions."""
  y = np.linspace(-3.0, 3.0, 7)
  tail = lambda t: np.exp(t**2 / 2) * scipy.special.erfc(t / np.sqrt(2))
  left, right = tail(1 + y), tail(1 - y)  # weights of x < 0, with mean y + 1, and of x > 0
  expected = (left * (y + 1) + right * (y - 1)) / (left + right)
  np.testing.assert_allclose(learned_prox_laplace.posterior_mean(y), expected, atol=1e-6)


@pytest.mark.parametrize("task", learned_prox_images.TASKS)
def test_the_data_step_is_a_minimiser(task, rng):
  operator = lib.make_task(task, CONFIG)
  x, noise, v = jnp.asarray(rng.standard_normal((3, N, N)), jnp.float32)
  back = lib.observe(x, noise, operator, 0.1)
  found = lib.data_prox(v, (back, operator), 0.7)
  loss = lambda z: lib.misfit(z, back, operator) + jnp.sum((z - v) ** 2) / 1.4
  np.testing.assert_allclose(jax.grad(loss)(found), 0.0, atol=1e-4)


def test_measurements_without_noise_are_met_by_the_picture(rng):
  for task in learned_prox_images.TASKS:
    operator = lib.make_task(task, CONFIG)
    x = jnp.asarray(rng.standard_normal((N, N)), jnp.float32)
    back = lib.observe(x, x, operator, 0.0)
    gradient = jax.grad(lib.misfit)(x, back, operator)
    np.testing.assert_allclose(gradient, 0.0, atol=1e-5)
  assert round(float(operator.weights.mean()), 2) == CONFIG.rate
  again = lib.inner(back, operator.weights, operator)
  np.testing.assert_allclose(again, back, atol=1e-5)  # A A^T = 1


def test_both_networks_average_their_patches_alike(rng):
  """The averages of an operator that is a gradient: by its potential, and patch by patch."""
  psi = lambda params, p: params * jnp.sum(jnp.logaddexp(p[:, 1:], p[:, :-1]))
  patch = jax.grad(psi, argnums=1)
  whole = lib.prox.make_patch_potential(psi, patch=(lib.PATCH, lib.PATCH), stride=4)
  x = jnp.asarray(rng.standard_normal((N, N)), jnp.float32)
  found = jax.grad(lambda x: whole(0.7, lib.mirrored(x)) / 4)(x)
  np.testing.assert_allclose(lib.averaged(patch, 4)(0.7, x), found, atol=1e-5)


def test_parts_of_a_picture_do_not_overlap():
  for name in lib.PICTURES:
    strips = [lib.third(name, part) for part in (lib.REPORT, lib.TUNING, lib.TRAINING)]
    widths = [strip.shape[1] for strip in strips]
    assert min(widths) >= learned_prox_images.SIZES["desk"].config.pixels
    size = lib.datasets.load(name)["image"].shape[1] // lib.BLOCK
    assert sum(widths) == size


@pytest.mark.parametrize("levels", [1, 2])
def test_framelets_are_a_tight_frame(levels, rng):
  """W^T W = 1 with mirrored borders, whatever the sides; a constant has no details."""
  x = jnp.asarray(rng.standard_normal((7, 10)), jnp.float32)
  parts, back = jax.vjp(lambda x: conv.framelets(x, levels), x)
  np.testing.assert_allclose(back(parts)[0], x, atol=1e-6)
  assert parts[1].shape == (7, 10, 8 * levels)
  low, details = conv.framelets(jnp.ones((7, 10)), levels)
  np.testing.assert_allclose(low, 1, rtol=1e-6)
  np.testing.assert_allclose(details, 0, atol=1e-7)


def test_products_of_patches_are_the_convolution(rng):
  x, kernel = rng.standard_normal((2, 7, 8, 3)), rng.standard_normal((3, 3, 3, 4))
  x, kernel = jnp.float32(x), jnp.float32(kernel)
  for strides in ((1, 1), (2, 2)):
    peer = jax.lax.conv_general_dilated(
      x, kernel, strides, "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    np.testing.assert_allclose(conv.convolve(x, kernel, strides, "SAME"), peer, atol=1e-4)


def test_the_iteration_with_non_local_means_is_that_of_the_networks(rng):
  """With a linear operator instead of both."""
  task = lib.make_task("deblurring", CONVOLUTIONAL)
  shrink = lambda name, config: lib.Network(None, None, lambda params, x: 0.7 * x + 0.1, None)
  back = jnp.asarray(rng.standard_normal((N, N)), jnp.float32)
  solve = lib.make_solve(lib.PLAIN, CONVOLUTIONAL, shrink)
  theirs = solve(jnp.zeros(1), jnp.full(1, 0.3), back[None], task)
  ours = conv.plug_in(lambda x: 0.7 * x + 0.1, 0.3, back, task, CONVOLUTIONAL.iterations)
  np.testing.assert_allclose(ours.image, theirs.image[0], atol=1e-5)
  np.testing.assert_allclose(ours.errors, theirs.errors[0], rtol=1e-3)


@pytest.mark.x64
def test_the_convolutional_network_is_a_gradient_of_a_convex_function(key, rng):
  network = conv.make_network(lib.LEARNED, CONVOLUTIONAL)
  params = jax.tree.map(lambda leaf: 3 * leaf, jax.jit(network.init)(key))
  points = jnp.asarray(rng.standard_normal((1, 1, 8, 8)))
  shape = conv.make_shape_of_jacobian(lib.LEARNED, CONVOLUTIONAL)
  off, least = shape(jax.tree.map(lambda leaf: leaf[None], params), points)
  assert float(off[0]) < 1e-14 and float(least[0]) >= 2 * CONVOLUTIONAL.alpha - 1e-6
  # alone, the smooth part is left as it is
  flat = jnp.full((8, 8), 0.4)
  bright, dark = jax.jit(jax.vmap(network.image, (None, 0)))(params, jnp.stack([flat, 0 * flat]))
  np.testing.assert_allclose(bright - dark, flat)
