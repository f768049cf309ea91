"""Batches of examples: no number twice, the promised rates, uniform marginals, shortages."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxopt_robust import compositional

SIZE, DRAWS = 24, 3000
LABELS = np.array([1, 0, 0, 2, 0, 0, 1, 2, 0, 0, 1, 0, 0, 0, 2, 0, 1, 0, 2, 0, 0, 1, 0, 0])
IS_ONE = LABELS == 1  # five examples

SAMPLERS = {
  "batch": lambda key, labels: compositional.sample_batch(key, SIZE, 6),
  "positives": lambda key, labels: compositional.sample_with_positives(
    key, labels == 1, num_positives=3, num_negatives=4
  ),
  "classes": lambda key, labels: compositional.sample_classes(
    key, labels, num_classes=4, classes_per_batch=2, examples_per_class=3
  ),
  "epoch": lambda key, labels: compositional.epoch_batches(key, SIZE, 7),
  "passes": lambda key, labels: compositional.epoch_batches_with_positives(
    key, labels == 1, num_positives=2, num_negatives=4, num_steps=11
  ),
}
every_sampler = pytest.mark.parametrize("name", SAMPLERS)


@functools.cache
def many(name):
  """``(keys, labels) -> samples``, one compiled program for all tests of a sampler."""
  return jax.jit(jax.vmap(SAMPLERS[name], in_axes=(0, None)))


@functools.cache
def draws(name):
  """NumPy index and where of many draws from fixed keys."""
  found = many(name)(jax.random.split(jax.random.key(7), DRAWS), LABELS)
  index, where = (found, jnp.ones(found.shape, bool)) if name == "batch" else found
  return np.asarray(index), np.asarray(where)


def assert_uniform(index, where, members, per_draw):
  """Chi-square test of the numbers of draws that hold each member; the draws are independent."""
  counts = np.bincount(index[where], minlength=SIZE)[members]
  rate = per_draw / len(counts)
  variance = len(index) * rate * (1 - rate) * len(counts) / (len(counts) - 1)
  statistic = np.sum((counts - len(index) * rate) ** 2) / variance
  low, high = stats.chi2.ppf([0.001, 0.999], len(counts) - 1)
  assert low < statistic < high


@every_sampler
def test_no_number_twice_in_a_batch_and_places_agree_with_the_mask(name):
  index, where = draws(name)
  assert index.dtype == np.int32 and where.dtype == bool and index.shape == where.shape
  np.testing.assert_array_equal(where, (index >= 0) & (index < SIZE))
  np.testing.assert_array_equal(index[~where], SIZE)
  rows = np.sort(np.where(where, index, -1 - np.arange(index.shape[-1])), axis=-1)
  assert np.all(np.diff(rows, axis=-1) > 0)


@every_sampler
def test_same_key_same_batch_with_and_without_jit(name):
  keys = jax.random.split(jax.random.key(7), DRAWS)
  eager = SAMPLERS[name](keys[5], jnp.asarray(LABELS))
  index, _ = draws(name)
  np.testing.assert_array_equal(eager if name == "batch" else eager.index, index[5])
  assert len(np.unique(index.reshape(DRAWS, -1), axis=0)) > DRAWS // 2  # other keys, other batches


def test_sample_batch_is_uniform_over_ordered_pairs():
  index, where = draws("batch")
  assert_uniform(index, where, slice(None), 6)
  for place in (0, 5):
    counts = np.bincount(index[:, place], minlength=SIZE)
    assert 0.001 < stats.chisquare(counts).pvalue < 0.999
  pairs = index[:, 0] // 4 * 6 + index[:, 1] // 4  # first and second place, in groups of four
  counts = np.bincount(pairs, minlength=36)
  same = np.eye(6, dtype=bool).ravel()
  expected = DRAWS * np.where(same, 4 * 3, 4 * 4) / (SIZE * (SIZE - 1))
  assert 0.001 < stats.chisquare(counts, expected).pvalue < 0.999
  full = compositional.sample_batch(jax.random.key(0), SIZE, SIZE)
  np.testing.assert_array_equal(np.sort(full), np.arange(SIZE))


def test_positives_have_a_fixed_rate_and_uniform_marginals():
  index, where = draws("positives")
  assert where.all()
  assert IS_ONE[index[:, :3]].all() and not IS_ONE[index[:, 3:]].any()
  assert_uniform(index, where, IS_ONE, 3)
  assert_uniform(index, where, ~IS_ONE, 4)


@pytest.mark.parametrize("kind", ["signs", "zero-one", "bool"])
def test_positives_may_be_labelled_in_three_ways(kind, key):
  labels = {"signs": np.where(IS_ONE, 1, -1), "zero-one": IS_ONE.astype(int), "bool": IS_ONE}[kind]
  sample = functools.partial(compositional.sample_with_positives, num_positives=3, num_negatives=4)
  np.testing.assert_array_equal(sample(key, labels).index, sample(key, IS_ONE).index)


@pytest.mark.parametrize("positives", [0, 2])
def test_too_few_positives_leave_places_empty(positives):
  labels = np.where(np.arange(SIZE) < positives, 1, 0)
  index, where = many("positives")(jax.random.split(jax.random.key(1), DRAWS), labels)
  expected = np.arange(7) < positives
  expected[3:] = True
  np.testing.assert_array_equal(where, np.broadcast_to(expected, where.shape))
  assert np.all(np.asarray(index)[:, positives:3] == SIZE)
  assert np.all(np.sort(np.asarray(index)[:, :positives], axis=1) == np.arange(positives))
  index, where = many("passes")(jax.random.split(jax.random.key(1), DRAWS), labels)
  np.testing.assert_array_equal(where[..., :2].sum(-1), positives)
  assert np.all(where[..., 2:])


def test_classes_are_balanced_and_empty_classes_are_not_drawn():
  index, where = draws("classes")
  assert where.all()  # class 3 has no example; the others have at least four
  classes = LABELS[index].reshape(DRAWS, 2, 3)
  assert np.all(classes == classes[:, :, :1]) and np.all(classes[:, 0, 0] != classes[:, 1, 0])
  counts = np.bincount(classes[:, 0, 0], minlength=3)  # equal, though the classes are not
  assert 0.001 < stats.chisquare(counts).pvalue < 0.999
  first = index.reshape(DRAWS, 2, 3)[classes[..., 0] == 2]
  assert_uniform(first, np.ones_like(first, bool), LABELS == 2, 3)


def test_classes_with_too_few_examples_leave_places_empty():
  labels = np.where(np.arange(SIZE) < 2, 1, 3)  # two classes occur, one of them with two examples
  index, where = compositional.sample_classes(
    jax.random.key(3), labels, num_classes=4, classes_per_batch=3, examples_per_class=4
  )
  by_class = np.asarray(where).reshape(3, 4).sum(1)
  assert sorted(by_class[:2]) == [2, 4] and by_class[2] == 0
  np.testing.assert_array_equal(np.asarray(index)[~np.asarray(where)], SIZE)


def test_an_epoch_holds_every_example_once():
  index, where = draws("epoch")
  assert index.shape == (DRAWS, 4, 7)
  np.testing.assert_array_equal(where.reshape(DRAWS, -1).sum(1), SIZE)
  assert where[:, :-1].all()
  seen = np.sort(index.reshape(DRAWS, -1), axis=1)[:, :SIZE]
  np.testing.assert_array_equal(seen, np.broadcast_to(np.arange(SIZE), seen.shape))
  assert_uniform(index[:, 0], where[:, 0], slice(None), 7)


def test_passes_use_the_examples_of_a_class_equally_often():
  index, where = draws("passes")
  assert where.all() and index.shape == (DRAWS, 11, 6)
  assert IS_ONE[index[..., :2]].all() and not IS_ONE[index[..., 2:]].any()
  for steps in (1, 3, 5, 11):
    for part, members in ((slice(0, 2), IS_ONE), (slice(2, 6), ~IS_ONE)):
      taken = index[:, :steps, part].reshape(DRAWS, -1)
      counts = np.stack([(taken == i).sum(1) for i in np.flatnonzero(members)], axis=1)
      assert np.all(counts.max(1) - counts.min(1) <= 1)
  assert_uniform(index[:, 0, :2], where[:, 0, :2], IS_ONE, 2)
  assert_uniform(index[:, 2, :2], where[:, 2, :2], IS_ONE, 2)  # the batch where the pass ends


def test_new_labels_do_not_retrace():
  draws("positives")
  size = many("positives")._cache_size()
  many("positives")(jax.random.split(jax.random.key(2), DRAWS), np.roll(LABELS, 1))
  assert many("positives")._cache_size() == size
