"""OPIS and recall against brute force in NumPy, closed forms, masks and blocks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import losses

SIZE, WIDTH, CLASSES, BINS, THRESHOLDS = 45, 3, 5, 4096, 21
OPTIONS = {"num_classes": CLASSES, "num_bins": BINS, "num_thresholds": THRESHOLDS, "block": 16}


@functools.cache
def compiled(**options):
  return jax.jit(functools.partial(losses.opis, **{**OPTIONS, **options}))


@pytest.fixture
def data(rng):
  """Classes of different tightness and size; class 4 has one member only."""
  labels = np.array([0] * 8 + [1] * 20 + [2] * 9 + [3] * 7 + [4], np.int32)
  centres = rng.normal(size=(CLASSES, WIDTH))
  spread = np.array([0.2, 0.5, 0.9, 0.4, 0.1])[labels][:, None]
  order = rng.permutation(SIZE)
  return (centres[labels] + spread * rng.normal(size=(SIZE, WIDTH)))[order], labels[order]


def brute_force(z, labels, far=(0.01, 0.1), beta=1.0):
  """The definition, pair by pair, at float64."""
  z = z / np.linalg.norm(z, axis=1, keepdims=True)
  distance = np.linalg.norm(z[:, None] - z[None, :], axis=2)
  i, j = np.triu_indices(len(z), 1)
  pair, a, b = distance[i, j], labels[i], labels[j]
  negatives = np.sort(pair[a != b])
  ends = []
  for share in far:
    exact = negatives[int(np.ceil(share * len(negatives) - 1e-9)) - 1]
    ends.append(np.ceil(exact * BINS / 2) * 2 / BINS)
  thresholds = np.linspace(*ends, THRESHOLDS)
  rows = []
  for c in range(CLASSES):
    inside, across = pair[(a == c) & (b == c)], pair[(a == c) != (b == c)]
    if len(inside) and len(across):
      phi = np.mean(inside[:, None] <= thresholds, axis=0)
      psi = np.mean(across[:, None] > thresholds, axis=0)
      with np.errstate(invalid="ignore"):
        rows.append(np.nan_to_num((1 + beta**2) * phi * psi / (beta**2 * psi + phi)))
  utility = np.array(rows)
  square = (utility - utility.mean(0)) ** 2
  integral = np.trapezoid(square, dx=1 / (THRESHOLDS - 1), axis=1)
  return np.array(ends), utility, integral


@pytest.mark.x64
@pytest.mark.parametrize(("far", "beta"), [((0.01, 0.1), 1.0), ((0.2, 0.6), 2.0)])
def test_equals_brute_force(data, far, beta):
  z, labels = data
  result = compiled()(z, labels, far=far, beta=beta)
  ends, utility, per_class = brute_force(z, labels, far, beta)
  np.testing.assert_allclose(result.distance_range, ends, rtol=1e-12)
  np.testing.assert_allclose(result.thresholds, np.linspace(*ends, THRESHOLDS), rtol=1e-12)
  np.testing.assert_array_equal(result.is_counted, [True] * 4 + [False])
  np.testing.assert_allclose(result.utility[:4], utility, rtol=1e-12)
  np.testing.assert_allclose(result.per_class[:4], per_class, rtol=1e-10)
  np.testing.assert_allclose(result.score, per_class.mean(), rtol=1e-10)
  assert result.score > 1e-3 and result.per_class[4] == 0 and np.all(result.utility[4] == 0)
  # two of the four classes that count at each end
  best = np.sort(utility, axis=0)[2:].mean(0) - np.sort(utility, axis=0)[:2].mean(0)
  expected = np.trapezoid(best**2, dx=1 / (THRESHOLDS - 1))
  np.testing.assert_allclose(jax.jit(losses.eps_opis)(result, epsilon=0.5), expected, rtol=1e-10)
  widest = utility.max(0) - utility.min(0)
  expected = np.trapezoid(widest**2, dx=1 / (THRESHOLDS - 1))
  np.testing.assert_allclose(losses.eps_opis(result, epsilon=0.1), expected, rtol=1e-10)


@pytest.mark.x64
def test_range_of_distances_has_the_false_acceptance_rates(data):
  z, labels = data
  far = (0.05, 0.5)
  low, high = compiled()(z, labels, far=far).distance_range
  unit = z / np.linalg.norm(z, axis=1, keepdims=True)
  distance = np.linalg.norm(unit[:, None] - unit[None, :], axis=2)[labels[:, None] != labels]
  for end, share in ((low, 0.05), (high, 0.5)):
    assert np.mean(distance <= end) >= share > np.mean(distance <= end - 2 / BINS)


@pytest.mark.x64
def test_equal_classes_are_consistent(rng):
  """The same cloud in orthogonal places: equal laws of the distances, so no inconsistency."""
  cloud = rng.normal(size=(9, 4)) + 2
  z = np.kron(np.eye(CLASSES), cloud)
  labels = np.repeat(np.arange(CLASSES), 9).astype(np.int32)
  result = compiled()(z, labels, far=(0.5, 1.0))
  assert np.all(result.is_counted) and result.score < 1e-28
  assert losses.eps_opis(result) < 1e-28


@pytest.mark.x64
def test_two_classes_of_constant_utility(rng):
  """One tight class and one whose members are far apart: ((U_1 - U_2) / 2)^2."""
  ring = np.array([[1.0, 0, 0, 0]] * 9)
  far_apart = np.array([[0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]] * 12, float)  # 3 directions
  z, labels = np.concatenate([ring, far_apart]), np.array([0] * 9 + [1] * 36, np.int32)
  # all distances across are sqrt(2); thresholds end one bin above
  result = compiled()(z, labels, far=(0.01, 0.02))
  assert np.ptp(result.thresholds) == 0 and abs(result.thresholds[0] - np.sqrt(2)) < 2 / BINS
  # nothing across is rejected there: both utilities are 0
  np.testing.assert_array_equal(result.utility[:2], 0)
  near = z + 0.0
  near[0] = [np.cos(0.3), np.sin(0.3), 0, 0]  # brings a few pairs across closer
  result = compiled()(near, labels, far=(1e-3, 1e-3))
  threshold = 2 * np.sin((np.pi / 2 - 0.3) / 2)
  np.testing.assert_allclose(result.thresholds, threshold, atol=2 / BINS)
  psi = 1 - 12 / (9 * 36)  # its 12 pairs with one of the three directions
  phi = np.array([1.0, 3 * 66 / 630])  # within class 1: the pairs of one direction
  utility = 2 * phi * psi / (phi + psi)
  np.testing.assert_allclose(result.utility[:2], np.repeat(utility[:, None], 21, 1), rtol=1e-12)
  np.testing.assert_allclose(result.score, np.ptp(utility) ** 2 / 4, rtol=1e-12)
  np.testing.assert_allclose(losses.eps_opis(result), np.ptp(utility) ** 2, rtol=1e-12)


@pytest.mark.x64
def test_blocks_masks_and_dtypes(data):
  z, labels = data
  result = compiled()(z, labels)
  other = compiled(block=64)(z, labels)  # one block, padded
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), other, result)
  kept = labels != 1
  ends, utility, per_class = brute_force(z[kept], labels[kept])
  hidden = np.where(kept[:, None], z, np.nan)
  masked = compiled()(hidden, np.where(kept, labels, -3), where=kept)
  outside = compiled()(z, np.where(kept, labels, CLASSES), where=np.ones(SIZE, bool))
  for got in (masked, outside):  # labels out of range do not count, under jit
    np.testing.assert_allclose(got.distance_range, ends, rtol=1e-12)
    np.testing.assert_allclose(got.utility[np.array([0, 2, 3])], utility, rtol=1e-12)
    np.testing.assert_allclose(got.score, per_class.mean(), rtol=1e-10)
    np.testing.assert_array_equal(got.is_counted, [True, False, True, True, False])
  alone = compiled()(z, np.zeros(SIZE, np.int32))  # one class: no pairs across
  assert alone.score == 0 and not np.any(alone.is_counted)
  assert all(np.all(np.isfinite(x)) for x in alone) and losses.eps_opis(alone) == 0
  half = jax.eval_shape(compiled(), jnp.zeros((SIZE, WIDTH), jnp.bfloat16), labels)
  assert all(x.dtype == jnp.float32 for x in half[:5])


def test_recall_at_1(data, rng):
  z, labels = (jnp.asarray(data[0], jnp.float32), data[1])
  recall = jax.jit(losses.recall_at_1, static_argnames="block")

  def by_loops(z, labels):
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    cosines = unit @ unit.T
    np.fill_diagonal(cosines, -np.inf)
    queries = [i for i in range(len(z)) if np.sum(labels == labels[i]) > 1]
    return np.mean([labels[np.argmax(cosines[i])] == labels[i] for i in queries])

  expected = by_loops(np.asarray(z, np.float64), labels)
  assert 0.3 < expected < 1
  np.testing.assert_allclose(recall(z, labels, block=16), expected, rtol=1e-6)
  np.testing.assert_allclose(recall(z, labels), expected, rtol=1e-6)
  where = rng.uniform(size=SIZE) < 0.7
  hidden = jnp.where(where[:, None], z, jnp.nan)
  expected = by_loops(np.asarray(z, np.float64)[where], labels[where])
  np.testing.assert_allclose(recall(hidden, labels, where=where), expected, rtol=1e-6)
  assert recall(hidden, labels, where=np.zeros(SIZE, bool)) == 0
