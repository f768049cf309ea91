"""The parts of the experiments with learned operators against closed forms."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from experiments.prox import _learned_images as lib
from experiments.prox import learned_prox_images, learned_prox_laplace

CONFIG = dataclasses.replace(learned_prox_images.SIZES["toy"].config, stride=4)
N = CONFIG.pixels


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
