"""The similarity-distance-magnitude estimator against hand-made sets, closed forms and limits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import calibration
from jaxopt_robust.calibration import _sdm_region, _sdm_round

E2 = np.e - 2


def near(queries, own, references, theirs, labels, **options):
  return calibration.nearest_agreement(
    queries, references, predictions=own, reference_predictions=theirs, reference_labels=labels,
    **options,
  )  # fmt: skip


def activation(z, q, d):
  return calibration.sdm_activation(z, similarity=q, distance=d)


def loss_of(z, y, q, d, **options):
  return calibration.sdm_loss(z, y, similarity=q, distance=d, **options)


def brute_similarity(queries, own, references, theirs, labels, skip=None):
  found = []
  for i, (point, prediction) in enumerate(zip(queries, own, strict=True)):
    far = np.linalg.norm(references - point, axis=1)
    order = [j for j in np.argsort(far, kind="stable") if not (skip and j == i)]
    run = 0
    for j in order:
      if theirs[j] != labels[j] or theirs[j] != prediction:
        break
      run += 1
    found.append((run, far[order[0]]))
  return np.array(found).T


def test_similarity_is_the_run_of_matches():
  rng = np.random.default_rng(0)
  references, queries = rng.normal(size=(40, 3)), rng.normal(size=(25, 3))
  labels = rng.integers(0, 2, 40)
  theirs = np.where(rng.random(40) < 0.9, labels, 1 - labels)
  own = rng.integers(0, 2, 25)
  args = (np.float32(queries), own, np.float32(references), theirs, labels)
  q, far = near(*args, block_size=4)
  want = brute_similarity(queries, own, references, theirs, labels)
  np.testing.assert_array_equal(q, want[0])
  np.testing.assert_allclose(far, want[1], rtol=1e-5)
  assert want[0].max() > 3
  capped, _ = near(*args, max_similarity=2)
  np.testing.assert_array_equal(capped, np.minimum(want[0], 2))
  same = (np.float32(references), theirs, np.float32(references), theirs, labels)
  q, far = near(*same, exclude_self=True)
  want = brute_similarity(references, theirs, references, theirs, labels, skip=True)
  np.testing.assert_array_equal(q, want[0])
  np.testing.assert_allclose(far, want[1], rtol=1e-5)


def test_hand_made_set_and_self():
  x = jnp.array([[0.0], [1.0], [2.5], [20.0], [21.0], [22.5]])
  label = jnp.array([0, 0, 0, 1, 1, 1])
  with_self, _ = near(x, label, x, label, label)
  without, far = near(x, label, x, label, label, exclude_self=True)
  np.testing.assert_array_equal(with_self, 3)
  np.testing.assert_array_equal(with_self - without, 1)
  np.testing.assert_allclose(far, [1, 1, 1.5, 1, 1, 1.5])
  # A wrong neighbour ends the run, and so does one as near as it.
  wrong = jnp.array([0, 1, 0, 1, 1, 1])
  q, _ = near(x[:1], label[:1], x, wrong, label)
  assert q[0] == 1
  tie = jnp.array([[0.0], [1.0], [-1.0]])
  q, _ = near(tie[:1], label[:1], tie, jnp.array([0, 0, 1]), jnp.zeros(3, int))
  assert q[0] == 1


@pytest.mark.parametrize("unit", [1e-25, 1e25])
def test_distances_of_any_size(unit):
  x = jnp.array([[3.0, 0.0], [0.0, 4.0]]) * unit
  zero = jnp.zeros(2, int)
  _, far = near(x, zero, x, zero, zero, exclude_self=True)
  np.testing.assert_allclose(far, 5 * unit, rtol=1e-6)


def test_distribution_functions_at_their_ends():
  values = jnp.array([1.0, 2.0, 2.0, 4.0, 5.0])
  ecdf = calibration.class_ecdf_fit(values, jnp.array([0, 0, 0, 1, 1]), num_classes=3)
  at = lambda v, **o: calibration.class_ecdf(ecdf, jnp.full((1, 3), v), **o)[0]
  np.testing.assert_allclose(at(2.0), [1 / 3, 0, 0])
  np.testing.assert_allclose(at(4.5), [1, 0.5, 0])
  np.testing.assert_allclose(at(2.0, saturate=True), [1, 0, 0])
  np.testing.assert_allclose(at(jnp.nan), 0)
  two = jax.tree.map(lambda leaf: leaf[:2], ecdf)
  got = calibration.distance_quantiles(two, jnp.array([0.0, 1.5, 3.0, 4.5, 9.0, jnp.inf, jnp.nan]))
  np.testing.assert_allclose(got, [1, 2 / 3, 0, 0, 0, 0, 0], atol=1e-6)
  # Nothing is known of the empty class, so that nothing is near.
  np.testing.assert_array_equal(calibration.distance_quantiles(ecdf, jnp.zeros(2)), 0)


def test_softmax_and_uniform_limits():
  z = jax.random.normal(jax.random.key(0), (6, 4)) * 3
  np.testing.assert_allclose(activation(z, E2, 1.0), jax.nn.softmax(z), atol=1e-6)
  np.testing.assert_allclose(activation(z, 7.0, 0.0), 0.25)
  loss = loss_of(z, jnp.arange(6) % 4, 7.0, 0.0)
  np.testing.assert_allclose(loss, np.log(4) / np.log(9), rtol=1e-6)
  q, d = jnp.arange(6), jnp.linspace(0.1, 1, 6)
  sdm = activation(z, q, d)
  np.testing.assert_array_equal(jnp.argmax(sdm, 1), jnp.argmax(z, 1))
  np.testing.assert_allclose(
    sdm,
    (2.0 + q[:, None]) ** (d[:, None] * z)
    / jnp.sum((2.0 + q[:, None]) ** (d[:, None] * z), axis=1, keepdims=True),
    rtol=1e-5,
  )
  assert (loss_of(z, jnp.arange(6) % 4, q, d) >= 0).all()


def test_gradient_of_the_loss():
  with jax.enable_x64(True):
    z = jax.random.normal(jax.random.key(1), (5, 3))
    y, q, d = jnp.array([0, 1, 2, 0, 1]), jnp.arange(5.0), jnp.linspace(0, 1, 5)
    total = lambda z: jnp.sum(loss_of(z, y, q, d))
    got = jax.grad(total)(z)
    want = d[:, None] * (activation(z, q, d) - jax.nn.one_hot(y, 3))
    np.testing.assert_allclose(got, want, atol=1e-12)
    way = jax.random.normal(jax.random.key(2), z.shape)
    slope = (total(z + 1e-6 * way) - total(z - 1e-6 * way)) / 2e-6
    np.testing.assert_allclose(jnp.sum(got * way), slope, rtol=1e-7)


def test_mask_and_large_logits():
  z = jnp.array([[1e4, -1e4], [jnp.nan, 0.0]])
  where = jnp.array([True, False])
  total = lambda z: jnp.sum(loss_of(z, jnp.array([1, 0]), 3.0, 1.0, where=where))
  value, grad = jax.value_and_grad(total)(z)
  np.testing.assert_allclose(value, 2e4, rtol=1e-6)
  assert jnp.isfinite(grad).all() and (grad[1] == 0).all()


def test_bands_and_spreads():
  np.testing.assert_allclose(calibration.dkw_epsilon(350, level=0.95), 0.0726, atol=5e-5)
  np.testing.assert_array_equal(calibration.dkw_epsilon(jnp.array([0, 1])), [1, 1])
  one, two = calibration.dkw_epsilon(jnp.array([200, 400]))
  np.testing.assert_allclose(one / two, np.sqrt(2), rtol=1e-5)
  np.testing.assert_allclose(np.tan(np.pi * 0.45), 6.31375, rtol=1e-6)
  values = jnp.array([[1.0, jnp.nan], [2.0, jnp.nan], [4.0, 3.0], [8.0, 5.0]])
  np.testing.assert_allclose(_sdm_region.deviation(values), [1.5, 1.0])
  inf = jnp.inf
  np.testing.assert_allclose(_sdm_region.deviation(jnp.array([1.0, 2.0, inf])), 1.0)
  assert jnp.isinf(_sdm_region.deviation(jnp.array([1.0, inf, inf])))
  assert _sdm_region.deviation(jnp.full(2, jnp.nan)) == 0
  assert _sdm_region.deviation(jnp.array([3.0])) == 0


def brute_region(effective, probabilities, labels, level):
  for least in np.sort(effective):
    if np.floor(least) <= 0:
      continue
    thresholds = []
    for k in range(probabilities.shape[1]):
      kept = np.sort(probabilities[(labels == k) & (effective >= least), k])
      m = len(kept)
      thresholds.append(kept[min(int((1 - level) * m), m - 1)] if m else 0.0)
    if min(thresholds) >= level:
      return least, np.array(thresholds)
  return np.inf, np.full(probabilities.shape[1], np.inf)


@pytest.mark.parametrize("seed", range(6))
def test_region_equals_brute_force(seed):
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, 3, 60)
  effective = np.float32(rng.uniform(0, 4, 60))
  own = 1 / (1 + np.exp(-2 * effective - rng.normal(size=60)))
  table = np.repeat((1 - own)[:, None] / 2, 3, axis=1)
  table[np.arange(60), labels] = own
  table = np.float32(table)
  level = np.float32(0.9)
  got = _sdm_region.high_probability_region(effective, table, jnp.asarray(labels), level)
  want = brute_region(effective, table, labels, level)
  np.testing.assert_allclose(got[0], want[0])
  np.testing.assert_allclose(got[1], want[1])


def test_no_region_without_high_probabilities_or_a_class():
  effective, labels = jnp.full(10, 3.0), jnp.arange(10) % 2
  low = jnp.full((10, 2), 0.5)
  assert jnp.isinf(_sdm_region.high_probability_region(effective, low, labels, 0.9)[0])
  sure = jax.nn.one_hot(labels, 2)
  assert _sdm_region.high_probability_region(effective, sure, labels, 0.9)[0] == 3
  one = _sdm_region.high_probability_region(effective, sure, jnp.zeros(10, int), 0.9)[0]
  assert jnp.isinf(one)
  # Similarities whose whole part is 0 are no candidates.
  assert jnp.isinf(_sdm_region.high_probability_region(effective / 4, sure, labels, 0.9)[0])


SIZES = {
  "learning_rate": 0.05,
  "num_classes": 2,
  "width": 4,
  "num_rounds": 2,
  "num_epochs": 4,
  "batch_size": 50,
}


@functools.cache
def fitted():
  key_x, key_fit = jax.random.split(jax.random.key(0))
  labels = jnp.arange(600, dtype=jnp.int32) % 2
  x = jax.random.normal(key_x, (600, 2)) + jnp.stack([4.0 * labels - 2, 0 * labels], axis=1)
  fit = jax.jit(
    lambda x, labels, key, level: calibration.sdm_fit(x, labels, key, level=level, **SIZES)
  )
  return fit, x, labels, key_fit, fit(x, labels, key_fit, 0.9)


def test_estimates_are_consistent():
  _, x, labels, _, model = fitted()
  grid = jnp.concatenate([x[:60], 40 * jnp.ones((1, 2)), jnp.full((1, 2), jnp.nan)])
  got = jax.jit(calibration.sdm_estimate)(model, grid)
  # Of two classes and a symmetric band: the centre lies between the ends.
  inner = got.lower_similarity > 0
  assert (got.central_probability <= got.upper_probability + 1e-6)[inner].all()
  assert (got.probability <= got.central_probability + 1e-6)[inner].all()
  assert (got.lower_similarity <= got.rescaled_similarity + 1e-6).all()
  assert 0 < got.is_admitted.sum() < 60
  right = got.label[:60] == labels[:60]
  assert right[got.is_admitted[:60]].all()
  # Far away, and not a number.
  np.testing.assert_array_equal(got.is_admitted[60:], False)
  np.testing.assert_array_equal(got.distance[60:], 0)


def test_fewer_are_admitted_at_a_higher_level():
  fit, x, labels, key, model = fitted()
  stricter = fit(x, labels, key, 0.97)
  for a, b in zip(jax.tree.leaves(model.adaptor), jax.tree.leaves(stricter.adaptor), strict=True):
    np.testing.assert_array_equal(a, b)
  low, high = (calibration.sdm_estimate(m, x).is_admitted for m in (model, stricter))
  assert not jnp.any(high & ~low) and high.sum() < low.sum()


def test_held_out_examples_twice_shrink_the_band_alone():
  _, x, _, _, model = fitted()

  def twice(ecdf):
    both = jnp.sort(jnp.concatenate([ecdf.values, ecdf.values], axis=1), axis=1)
    return calibration.ClassEcdf(both, 2 * ecdf.counts)

  more = model._replace(
    distances=twice(model.distances), outputs=twice(model.outputs),
    similarities=twice(model.similarities),
  )  # fmt: skip
  one, two = (calibration.sdm_estimate(m, x[:40]) for m in (model, more))
  np.testing.assert_allclose(one.rescaled_similarity, two.rescaled_similarity, rtol=1e-6)
  np.testing.assert_allclose(one.central_probability, two.central_probability, rtol=1e-6)
  large = one.support > 20
  ratio = calibration.dkw_epsilon(one.support) / calibration.dkw_epsilon(two.support)
  np.testing.assert_allclose(ratio[large], np.sqrt(2), rtol=0.05)
  assert (two.lower_similarity >= one.lower_similarity - 1e-6).all()


def test_split_is_even_in_every_class():
  labels = jnp.array([0] * 7 + [1] * 4 + [2] * 9)
  first, second = _sdm_round._split(jax.random.key(0), labels)
  assert sorted([*first.tolist(), *second.tolist()]) == list(range(20))
  counts = [np.bincount(labels[rows], minlength=3) for rows in (first, second)]
  assert np.abs(counts[0] - counts[1]).max() <= 1


def test_constant_features_admit_nothing():
  model = calibration.sdm_fit(
    jnp.ones((20, 2)), jnp.arange(20) % 2, jax.random.key(0), **{**SIZES, "num_epochs": 2}
  )
  got = calibration.sdm_estimate(model, jnp.ones((3, 2)))
  assert jnp.isinf(model.similarity_threshold) and not got.is_admitted.any()
  assert all(jnp.isfinite(leaf).all() for leaf in got)


def test_other_queries_and_far_references_do_not_matter():
  """A huge query beside it, or a far first reference, once moved every distance to 0."""
  references, right = jnp.array([[0.0], [1.0], [2.0]]), jnp.array([1, 1, 0])
  queries, own = jnp.array([[0.25], [1e25], [-3e38], [jnp.inf]]), jnp.ones(4, int)
  q, far = near(queries, own, references, right, jnp.array([1, 1, 1]))
  np.testing.assert_array_equal(q, [2, 0, 0, 0])
  np.testing.assert_allclose(far, [0.25, 1e25, 3e38, np.nan], rtol=1e-6)
  references = jnp.array([[1e10], [1.0], [2.0]])
  q, far = near(queries[:1], own[:1], references, right, jnp.array([0, 1, 1]))
  assert q[0] == 1 and far[0] == 0.75
  q, _ = near(queries[:1], own[:1] == 1, references, right == 1, jnp.array([0, 1, 1]) == 1)
  assert q[0] == 1


def test_estimates_do_not_depend_on_the_rest_of_the_batch():
  _, x, _, _, model = fitted()
  alone = jax.jit(calibration.sdm_estimate)(model, x[:62])
  beside = jax.jit(calibration.sdm_estimate)(model, x[:62].at[61].set(1e30))
  for one, two in zip(alone, beside, strict=True):
    np.testing.assert_allclose(one[:61], two[:61], atol=1e-5)
  assert not beside.is_admitted[61] and beside.distance[61] == 0


def test_distribution_functions_in_half_precision():
  """Neither the number of examples nor the number looked up is rounded to half precision."""
  ecdf = calibration.class_ecdf_fit(
    jnp.arange(70_000) % 2 * jnp.ones(1, jnp.float16), jnp.zeros(70_000, int), num_classes=1
  )
  got = calibration.class_ecdf(ecdf, jnp.array([[0.5], [1.0]], jnp.float16))
  assert got.dtype == jnp.float16
  np.testing.assert_array_equal(got, 0.5)
  two = calibration.class_ecdf_fit(
    jnp.array([1, 2], jnp.bfloat16), jnp.zeros(2, int), num_classes=1
  )
  assert calibration.class_ecdf(two, jnp.array([2.001]))[0] == 1


def test_band_at_a_level_near_one_is_rounded_up():
  for level in (0.999999, 1 - 1e-7):
    want = np.sqrt(np.log(2 / (1 - level)) / 200)
    got = float(calibration.dkw_epsilon(100, level=level))
    assert want <= got <= want * (1 + 1e-5)


def test_examples_that_are_not_finite_are_refused_or_admit_nothing():
  fit, x, labels, key, _ = fitted()
  with pytest.raises(ValueError, match="features must be finite"):
    calibration.sdm_fit(x.at[0, 0].set(jnp.nan), labels, key, **SIZES)
  for bad in (
    fit(x.at[0, 0].set(jnp.nan), labels, key, 0.9),
    fit(x, labels.at[0].set(2), key, 0.9),
  ):
    assert jnp.isinf(bad.similarity_threshold)
    assert not jax.jit(calibration.sdm_estimate)(bad, x[:62]).is_admitted.any()
  with pytest.raises(ValueError, match="level must be in"):  # 1 in float32
    calibration.sdm_fit(x, labels, key, level=1 - 1e-9, **SIZES)


def test_masked_rows_may_hold_anything():
  q, d = jnp.array([2.0, jnp.nan]), jnp.array([1.0, jnp.nan])
  value = loss_of(jnp.zeros((2, 2)), jnp.zeros(2, int), q, d, where=jnp.array([True, False]))
  np.testing.assert_allclose(value, [0.5, 0])  # log_4 2


@pytest.mark.parametrize("power", [-80, 80])
def test_units_of_features_do_not_matter(power):
  fit, x, labels, key, model = fitted()
  other = fit(x * 2.0**power, labels, key, 0.9)
  np.testing.assert_allclose(other.scale / 2.0**power, model.scale, rtol=1e-5)
  np.testing.assert_allclose(other.similarity_threshold, model.similarity_threshold, rtol=1e-3)


def test_a_tiny_row_has_its_neighbours_without_itself():
  x, right = jnp.array([[0.0], [1e-30], [3.0], [5.0], [1e30]]), jnp.zeros(5, int)
  q, far = near(x, right, x, right, jnp.array([1, 0, 0, 1, 0]), exclude_self=True)
  np.testing.assert_allclose(far, [1e-30, 1e-30, 2, 2, 1e30], atol=0, rtol=1e-5)
  np.testing.assert_array_equal(q[1:4], [0, 0, 1])
  assert 1 <= q[0] <= 2  # 3 and 5 are alike in units of 1e-30: fewer are counted, never more
  far = near(x[2:4], right[2:4], x[:2], right[:2], right[:2])[1]
  np.testing.assert_allclose(far, [3, 5], rtol=1e-6)
  _, far = near(x[1:4], right[1:4], x[1:4], right[1:4], right[1:4], exclude_self=True)
  np.testing.assert_allclose(far, [3, 2, 2], rtol=1e-6)  # tiny beside rows of size 1 alone
