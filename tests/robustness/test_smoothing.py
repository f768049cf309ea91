"""Votes and certificates on classifiers whose smoothed answers are known exactly."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxopt_robust import robustness

SIGMA = 0.5
W, B = np.array([3.0, -4.0, 0.0]), 0.5  # margin m(x) = (<w, x> + b) / 5


def linear(x):
  """Class 0 where <w, x> + b > 0, else class 1; class 2 never."""
  score = x @ jnp.asarray(W, x.dtype) + B
  return jnp.stack([score, -score, jnp.full_like(score, -jnp.inf)], axis=1)


def at_margin(m):
  return jnp.asarray((m - B / 5) * W / 5, jnp.float32)


@functools.partial(jax.jit, static_argnames=("num_samples", "batch_size"))
def votes_at(x, key, *, num_samples=1000, batch_size=500, sigma=SIGMA):
  return robustness.vote_counts(
    linear, x, key, sigma=sigma, num_samples=num_samples, batch_size=batch_size
  )


def test_votes_follow_the_exact_probability(key):
  for m in (-0.7, 0.0, 0.2, 0.6):
    p = scipy.stats.norm.cdf(m / SIGMA)
    counts = np.asarray(votes_at(at_margin(m), key, num_samples=20_000))
    assert counts.sum() == 20_000 and counts[2] == 0 and counts.dtype == np.int32
    assert abs(counts[0] / 20_000 - p) < 4 * np.sqrt(p * (1 - p) / 20_000)


@pytest.mark.parametrize(("num", "batch"), [(1, 500), (7, 3), (100, 100), (101, 50), (1000, 333)])
def test_counts_do_not_depend_on_the_batches(num, batch, key):
  counts = votes_at(at_margin(0.1), key, num_samples=num, batch_size=batch)
  whole = votes_at(at_margin(0.1), key, num_samples=num, batch_size=10_000)
  np.testing.assert_array_equal(counts, whole)
  assert int(counts.sum()) == num


@pytest.mark.parametrize("num", [5, 8, 1003])
def test_devices_share_the_draws(num, key):
  mesh = jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
  one = functools.partial(
    robustness.vote_counts, linear, sigma=SIGMA, num_samples=num, batch_size=64
  )
  spec = jax.sharding.PartitionSpec()
  shared = jax.jit(
    jax.shard_map(
      functools.partial(one, axis_name="d"), mesh=mesh, in_specs=(spec, spec), out_specs=spec
    )
  )
  np.testing.assert_array_equal(shared(at_margin(0.1), key), one(at_margin(0.1), key))


def test_vmap_over_examples_is_a_loop(key):
  x = jnp.stack([at_margin(m) for m in (-0.2, 0.1, 0.4)])
  keys = jax.random.split(key, 3)
  together = jax.jit(
    jax.vmap(lambda x, key: robustness.vote_counts(linear, x, key, sigma=SIGMA, num_samples=77))
  )(x, keys)
  np.testing.assert_array_equal(
    together, [votes_at(row, k, num_samples=77) for row, k in zip(x, keys, strict=True)]
  )


def test_scores_that_are_nan_count_for_no_class(key):
  def sometimes(x):
    scores = linear(x)
    return jnp.where((x[:, 2:] > 0), jnp.nan, scores)

  counts = jax.jit(
    lambda x: robustness.vote_counts(sometimes, x, key, sigma=SIGMA, num_samples=1000)
  )(at_margin(1.0))
  assert 400 < int(counts.sum()) < 600
  found = robustness.certify_votes((counts, counts), num_samples=1000, sigma=SIGMA)
  assert int(found.label) == -1  # half of the draws say nothing
  assert float(found.lower) < 0.6


def test_noise_of_half_precision_is_rounded_after_it_is_added(key):
  seen = []

  def look(x):
    seen.append(x.dtype)
    return jnp.stack([x[:, 0], -x[:, 0]], axis=1)

  x = jnp.zeros(4, jnp.bfloat16)
  counts = robustness.vote_counts(look, x, key, sigma=0.5, num_samples=100)
  wide = robustness.vote_counts(look, x.astype(jnp.float32), key, sigma=0.5, num_samples=100)
  assert seen == [jnp.bfloat16, jnp.float32]
  np.testing.assert_array_equal(counts, wide)  # signs survive the rounding


def test_same_votes_in_other_units(key):
  """Noise sigma on [0, 1] is noise 2 sigma on [-1, 1]."""
  x = jnp.array([0.5, 0.25, 0.75])
  narrow = robustness.vote_counts(lambda v: linear(2 * v - 1), x, key, sigma=0.25, num_samples=1000)
  wide = robustness.vote_counts(linear, 2 * x - 1, key, sigma=0.5, num_samples=1000)
  np.testing.assert_array_equal(narrow, wide)


REPEATS, DRAWS = 400, 500


@functools.cache
def repeats(num_samples=DRAWS):
  """Votes of many keys at one margin."""
  one = lambda m, key: robustness.smoothing_votes(
    linear, (m - B / 5) * jnp.asarray(W, jnp.float32) / 5, key, sigma=SIGMA,
    num_samples=num_samples, num_selection=20,
  )  # fmt: skip
  return jax.jit(jax.vmap(one, in_axes=(None, 0)))


def test_certified_radius_of_a_linear_classifier_is_below_the_true_one(key):
  """The true radius is the margin; R exceeds it in at most the share alpha of repeats."""
  alpha, keys = 0.05, jax.random.split(key, REPEATS)
  for m in (0.1, 0.4, 0.9):
    votes = repeats()(m, keys)
    found = robustness.certify_votes(votes, num_samples=DRAWS, sigma=SIGMA, alpha=alpha)
    said = np.asarray(found.label) >= 0
    wrong = said & ((np.asarray(found.label) != 0) | (np.asarray(found.radius) > m))
    assert wrong.mean() <= alpha + 4 * np.sqrt(alpha / REPEATS)
    assert said.mean() > 0.9 or m < 0.2
  np.testing.assert_allclose(found.confidence, 1 - alpha, rtol=1e-6)


def test_certified_radius_tends_to_the_true_one(key):
  x, m, gaps = at_margin(0.4), 0.4, []
  for num in (100, 10_000, 1_000_000):
    counts = votes_at(x, key, num_samples=num)
    found = robustness.certify_votes((counts, counts), num_samples=num, sigma=SIGMA)
    gaps.append(m - float(found.radius))
  assert gaps[0] > gaps[1] > gaps[2] > 0
  assert gaps[2] < 0.003  # 3.1 deviations of the share, divided by the density


def test_constant_classifier_has_the_largest_radius(key):
  constant = lambda x: jnp.broadcast_to(jnp.array([0.0, 1.0]), (x.shape[0], 2))
  found = robustness.certify_smoothed(
    constant, jnp.zeros((2, 3)), key, sigma=SIGMA, num_samples=1000
  )
  np.testing.assert_array_equal(found.label, 1)
  cap = robustness.largest_smoothed_radius(1000, sigma=SIGMA)
  np.testing.assert_array_equal(found.radius, cap)


def test_abstains_at_ties_and_without_majority():
  counts = jnp.array([[50, 50, 0], [34, 33, 33], [100, 0, 0], [0, 0, 0]])
  found = robustness.certify_votes((counts, counts), num_samples=100, sigma=1.0)
  assert found.label.tolist() == [-1, -1, 0, -1]
  np.testing.assert_array_equal(np.asarray(found.radius) > 0, [False, False, True, False])
  guess = robustness.predict_votes(counts)
  assert guess.label.tolist() == [-1, -1, 0, -1]
  np.testing.assert_allclose(guess.p_value, [1, 1, 2.0**-99, 1], rtol=1e-6)


def test_prediction_is_wrong_at_most_in_the_share_alpha(key):
  """At margin 0.02 both classes are nearly as likely: the worst case."""
  alpha, keys = 0.05, jax.random.split(key, REPEATS)
  counts = repeats()(0.02, keys).counts
  guess = robustness.predict_votes(counts, alpha=alpha)
  wrong = np.mean(np.asarray(guess.label) == 1)
  assert wrong <= alpha + 4 * np.sqrt(alpha / REPEATS)
  assert np.mean(np.asarray(guess.label) == -1) > 0.5
  sure = robustness.predict_votes(repeats()(0.5, keys).counts, alpha=alpha)
  np.testing.assert_array_equal(sure.label, 0)


def test_prediction_abstains_by_the_p_value_alone():
  counts = jnp.array([[3, 9, 1], [8, 4, 0], [0, 0, 12]])
  p_value = np.asarray(robustness.binomial_test([9, 8, 12], [12, 12, 12]))
  for alpha in (0.9 * p_value[0], 1.1 * p_value[0], 0.9, 1e-5):
    guess = robustness.predict_votes(counts, alpha=alpha)
    expected = np.where(p_value <= alpha, [1, 0, 2], -1)
    np.testing.assert_array_equal(guess.label, expected)
    np.testing.assert_array_equal(guess.p_value, p_value)
    np.testing.assert_allclose(guess.confidence, 1 - alpha, rtol=1e-6)


def test_no_attack_inside_the_radius_succeeds_more_often_than_allowed(key):
  """10,000 random moves of the certified length: the smoothed classifier is known exactly."""
  alpha, keys = 0.05, jax.random.split(key, REPEATS)
  margins = jnp.linspace(0.05, 1.2, 20)
  rng = np.random.default_rng(0)
  broken, total = [], 0
  for m in np.asarray(margins):
    found = robustness.certify_votes(
      repeats()(m, keys), num_samples=DRAWS, sigma=SIGMA, alpha=alpha
    )
    radius = np.asarray(found.radius, np.float64)[:25]
    direction = rng.normal(size=(25, 20, 3))
    direction[:, 0] = -W  # the worst one of all
    direction /= np.linalg.norm(direction, axis=2, keepdims=True)
    moved = m + radius[:, None] * (direction @ W / 5)  # the margin after the move
    broken.append(np.any(moved < 0, axis=1) & (radius > 0))
    total += moved.size
  assert total == 10_000
  assert np.mean(broken) <= alpha + 4 * np.sqrt(alpha / np.size(broken))
  # Moves twice as long do succeed.
  assert np.mean(m + 2 * radius * -1.0 < 0) > 0.5


def test_float32_says_what_float64_says_or_less(key):
  votes = repeats()(0.12, jax.random.split(key, REPEATS))
  narrow = robustness.certify_votes(votes, num_samples=DRAWS, sigma=0.36)
  with jax.enable_x64(True):
    wide = robustness.certify_votes(votes, num_samples=DRAWS, sigma=0.36)
    inside = jax.jit(lambda v: robustness.certify_votes(v, num_samples=DRAWS, sigma=0.36))(votes)
  assert (narrow.radius.dtype, wide.radius.dtype) == (jnp.float32, jnp.float64)
  for other in (narrow, inside):
    label = np.asarray(other.label)
    assert np.all((label == np.asarray(wide.label)) | (label == -1))
    assert np.all(np.asarray(other.radius, np.float64) <= np.asarray(wide.radius))
    np.testing.assert_allclose(other.radius, wide.radius, rtol=1e-6, atol=1e-9)
  assert 0 < np.mean(np.asarray(wide.label) == -1) < 1
  assert {str(leaf.dtype) for leaf in inside} == {"int32", "float64"}


def test_selection_names_the_class_and_other_votes_bound_it():
  votes = jnp.array([3, 7]), jnp.array([90, 10])
  assert int(robustness.certify_votes(votes, num_samples=100, sigma=1.0).label) == -1
  first, second = robustness.smoothing_votes(
    linear, at_margin(0.1), jax.random.key(0), sigma=SIGMA, num_samples=200, num_selection=200
  )
  assert first.tolist() != second.tolist()  # keys of their own


def test_accuracy_within_radii_and_their_average():
  radius = jnp.array([0.9, 0.3, 0.0, 0.5])
  right = jnp.array([True, True, False, False])
  curve = robustness.certified_accuracy(radius, right, radii=jnp.array([[0.0, 0.3], [0.31, 1.0]]))
  np.testing.assert_allclose(curve, [[0.5, 0.5], [0.25, 0.0]])
  where = jnp.array([True, False, True, False])
  np.testing.assert_allclose(
    robustness.certified_accuracy(radius, right, radii=0.0, where=where), 0.5
  )
  np.testing.assert_allclose(robustness.average_certified_radius(radius, right), 0.3)
  np.testing.assert_allclose(robustness.average_certified_radius(radius, right, where=where), 0.45)
  assert float(robustness.average_certified_radius(jnp.zeros(0), jnp.zeros(0, bool))) == 0
  # ACR is the area under the curve.
  grid = np.linspace(0, 1, 10_001)
  area = np.trapezoid(robustness.certified_accuracy(radius, right, radii=grid), grid)
  np.testing.assert_allclose(area, 0.3, atol=1e-4)


def test_traced_votes_that_cannot_be_abstain():
  selection = jnp.array([90, 10])
  with jax.enable_x64(True):
    certify = jax.jit(
      lambda counts, sigma, alpha: robustness.certify_votes(
        (selection, counts), num_samples=1000, sigma=sigma, alpha=alpha
      )
    )
    assert certify(jnp.array([900, 100]), 0.5, 0.001).label == 0
    for counts, sigma, alpha in (
      ([900, 900], 0.5, 0.001),  # more votes than draws
      ([1000, -50], 0.5, 0.001),
      ([900, 100], -0.5, 0.001),
      ([1000, 0], 0.5, 1.5),
      ([1000, 0], np.nan, 0.001),
    ):
      found = certify(jnp.array(counts), sigma, alpha)
      assert found.label == -1 and found.radius == 0
