"""Masks: exact counts for any input, ties, groups along the right axis."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import transforms

INPUTS = {
  "random": lambda shape: np.random.default_rng(0).standard_normal(shape).astype(np.float32),
  "constant": lambda shape: np.full(shape, -2.0, np.float32),
  "zero": lambda shape: np.zeros(shape, np.float32),
}


@pytest.mark.parametrize("kind", INPUTS)
def test_counts_are_exact_and_the_largest_are_taken(kind):
  weights = INPUTS[kind]((4, 6, 8))
  mask = np.asarray(transforms.topk_mask(weights, 3))
  assert mask.dtype == bool and np.all(mask.sum(-1) == 3)
  order = np.argsort(-weights, axis=-1, kind="stable")[..., :3]  # of ties the first ones
  assert np.all(np.take_along_axis(mask, order, -1))
  for n, m, axis in ((2, 4, -1), (1, 8, 2), (1, 3, 1), (2, 4, 0), (0, 2, 0), (2, 2, 1)):
    mask = np.moveaxis(np.asarray(transforms.nm_mask(weights, n, m, axis=axis)), axis, -1)
    groups = mask.reshape(*mask.shape[:-1], -1, m)
    assert np.all(groups.sum(-1) == n)
    size = np.moveaxis(np.abs(weights), axis, -1).reshape(groups.shape)
    least_kept = np.where(groups, size, np.inf).min(-1)
    assert np.all(np.where(groups, -np.inf, size).max(-1) <= least_kept)
  for density in (0.0, 0.3, 1.0):
    mask = np.asarray(transforms.unstructured_mask(weights, density))
    assert mask.sum() == round(density * weights.size)
    if mask.any() and not mask.all():
      assert np.abs(weights[mask]).min() >= np.abs(weights[~mask]).max()


def test_groups_run_along_the_axis_that_is_named():
  weights = jnp.array([[1.0, 2.0, 3.0, 4.0], [5.0, 1.0, 6.0, 1.0]])
  rows = [[False, True, False, True], [True, False, True, False]]
  columns = [[False, True, False, True], [True, False, True, False]]
  np.testing.assert_array_equal(transforms.nm_mask(weights, 1, 2, axis=1), rows)
  np.testing.assert_array_equal(transforms.nm_mask(weights, 1, 2, axis=0), columns)
  along, across = (transforms.nm_mask(jnp.array([[4.0, 3.0], [2.0, 1.0]]), 1, 2, axis=a)
                   for a in (0, 1))  # fmt: skip
  np.testing.assert_array_equal(along, [[True, True], [False, False]])
  np.testing.assert_array_equal(across, [[True, False], [True, False]])


def test_of_equal_entries_the_first_are_taken():
  np.testing.assert_array_equal(transforms.nm_mask(jnp.ones(4), 2, 4), [True, True, False, False])
  np.testing.assert_array_equal(
    transforms.unstructured_mask(jnp.ones((2, 2)), 0.5), [[True, True], [False, False]]
  )
  blocks = transforms.block_mask(jnp.ones((2, 4)), (2, 2), 0.5)
  np.testing.assert_array_equal(blocks, [[True, True, False, False]] * 2)


@pytest.mark.parametrize("scale", [1.0, 1e30, 1e-30])
def test_blocks_of_largest_norm_are_kept_at_any_scale(scale):
  weights = scale * np.random.default_rng(1).standard_normal((6, 8)).astype(np.float32)
  mask = np.asarray(transforms.block_mask(weights, (3, 2), 0.25))
  blocks = mask.reshape(2, 3, 4, 2)
  whole = blocks.all(axis=(1, 3))
  assert np.array_equal(whole, blocks.any(axis=(1, 3))) and whole.sum() == 2
  norms = np.linalg.norm(weights.astype(np.float64).reshape(2, 3, 4, 2), axis=(1, 3))
  assert norms[whole].min() > norms[~whole].max()


def test_blocks_of_very_different_size_are_told_apart():
  weights = jnp.array([[1e-20, 1e-20, 1e20, 1e20, 2e20, 1e20]])
  mask = transforms.block_mask(weights, (1, 2), 1 / 3)
  np.testing.assert_array_equal(mask, [[False, False, False, False, True, True]])


def test_signs_do_not_matter_and_density_is_data():
  weights = INPUTS["random"]((6, 8))
  for make in (
    lambda w: transforms.nm_mask(w, 2, 4),
    lambda w: transforms.unstructured_mask(w, 0.4),
    lambda w: transforms.block_mask(w, (2, 2), 0.5),
  ):
    np.testing.assert_array_equal(make(weights), make(-weights))
  densities = jnp.array([0.25, 0.5])
  counts = jax.jit(jax.vmap(lambda d: transforms.unstructured_mask(weights, d).sum()))(densities)
  np.testing.assert_array_equal(counts, [12, 24])
