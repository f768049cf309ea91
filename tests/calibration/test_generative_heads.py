"""Naive Bayes and logistic heads against closed forms, scikit-learn and optimality conditions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats as sps
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB

from experiments.calibration._gaussians import bayes_error, draw
from jaxopt_robust import calibration, losses

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3)) * np.array([1.0, 3.0, 0.2]) + 5
Y = RNG.integers(0, 3, 40)
X = X + Y[:, None]


@pytest.fixture
def x64():
  with jax.enable_x64(True):
    yield


def stats_of(x, y, classes=3, **options):
  start = calibration.naive_bayes_init(num_classes=classes, num_features=x.shape[1], dtype=x.dtype)
  return calibration.naive_bayes_update(start, x, y, **options)


def test_statistics_equal_those_of_numpy(x64):
  got = stats_of(X, Y)
  for k in range(3):
    part = X[k == Y]
    assert got.count[k] == len(part)
    np.testing.assert_allclose(got.mean[k], part.mean(0), rtol=1e-14)
    np.testing.assert_allclose(got.deviations[k], part.var(0) * len(part), rtol=1e-12)


def test_parts_merge_in_any_order(x64):
  whole = stats_of(X, Y)
  a, b, c = (stats_of(X[i::3], Y[i::3]) for i in range(3))
  merge = calibration.naive_bayes_merge
  for got in (merge(merge(a, b), c), merge(a, merge(b, c)), merge(merge(c, a), b)):
    for ours, theirs in zip(got, whole, strict=True):
      np.testing.assert_allclose(ours, theirs, rtol=1e-10)
  empty = calibration.naive_bayes_init(num_classes=3, num_features=3, dtype=float)
  for got in (merge(empty, a), merge(a, empty)):
    for ours, theirs in zip(got, a, strict=True):
      np.testing.assert_array_equal(ours, theirs)


def test_masked_rows_count_for_nothing():
  where = jnp.arange(40) < 25
  x = jnp.where(where[:, None], jnp.asarray(X, jnp.float32), jnp.nan)
  y = jnp.where(where, jnp.asarray(Y), 99)
  got = jax.jit(stats_of)(x, y, where=where)
  want = stats_of(jnp.asarray(X[:25], jnp.float32), Y[:25])
  for ours, theirs in zip(got, want, strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
  fit = lambda x, y, **o: calibration.logistic_head(x, y, num_classes=3, **o)[0].weights
  want = fit(jnp.asarray(X[:25], jnp.float32), Y[:25])
  np.testing.assert_allclose(fit(x, y, where=where), want, atol=2e-4)


def test_features_far_from_zero_keep_their_digits():
  x = np.float32(X) + np.float32(4096)
  got = stats_of(x, Y)
  for k in range(3):
    part = np.float64(x[k == Y])
    np.testing.assert_allclose(got.deviations[k], part.var(0) * len(part), rtol=1e-4)
  logits = calibration.linear_head_logits(calibration.naive_bayes_head(got), x)
  with jax.enable_x64(True):
    wide = stats_of(np.float64(x), Y)
    want = calibration.linear_head_logits(calibration.naive_bayes_head(wide), np.float64(x))
  # A mean near 4096 is known to 2e-4 in float32, a thousandth of the smallest spread; by squares of
  # raw features the scores would be wrong by more than 10.
  np.testing.assert_allclose(logits, want, rtol=2e-3, atol=2e-2)


def test_predictions_equal_those_of_scikit_learn_where_variances_are_equal(x64):
  # Every class has the same deviations from its mean.
  shape = RNG.normal(size=(10, 3))
  centers = RNG.normal(size=(4, 3))
  x = np.concatenate([shape + center for center in centers])
  y = np.repeat(np.arange(4), 10)
  query = RNG.normal(size=(50, 3)) * 2
  logits = calibration.linear_head_logits(calibration.naive_bayes_head(stats_of(x, y, 4)), query)
  want = GaussianNB().fit(x, y).predict_log_proba(query)
  np.testing.assert_allclose(jax.nn.log_softmax(logits), want, atol=1e-9)


def test_scores_are_gaussian_log_densities_up_to_a_common_term(x64):
  got = stats_of(X, Y)
  variance = np.sum(np.asarray(got.deviations), 0) / 40
  variance = variance + 1e-9 * X.var(0).max()
  scores = [
    np.log(np.mean(k == Y))
    + sps.multivariate_normal.logpdf(X, X[k == Y].mean(0), np.diag(variance))
    for k in range(3)
  ]
  logits = calibration.linear_head_logits(calibration.naive_bayes_head(got), X)
  apart = np.stack(scores, 1) - np.asarray(logits)
  np.testing.assert_allclose(apart - apart[:, :1], 0, atol=1e-9)


def test_nearest_mean_for_equal_priors_and_unit_variance(x64):
  means = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 2.0]])
  one = np.ones(3)
  state = calibration.NaiveBayesStats(one * 10, means, np.full((3, 2), 10.0))
  query = RNG.normal(size=(100, 2)) * 3
  head = calibration.naive_bayes_head(state, var_smoothing=0.0)
  got = jnp.argmax(calibration.linear_head_logits(head, query), axis=1)
  nearest = np.argmin(((query[:, None] - means) ** 2).sum(-1), axis=1)
  np.testing.assert_array_equal(got, nearest)


@pytest.mark.parametrize("features", [4, 10])
def test_bayes_error_with_many_examples(features):
  x, y = draw(jax.random.key(features), 100_000, features, 2, features)
  head = calibration.naive_bayes_head(stats_of(x, y, 2))
  query, truth = draw(jax.random.key(99), 100_000, features, 2, features)
  got = jnp.mean(jnp.argmax(calibration.linear_head_logits(head, query), 1) != truth)
  want = sps.norm.cdf(-np.sqrt((features + 1) / 2))
  np.testing.assert_allclose(bayes_error(features), want, rtol=1e-6)
  assert abs(float(got) - want) < 0.003


@pytest.mark.parametrize("strength", [0.1, 10.0])
def test_logistic_optimality(x64, strength):
  head, info = calibration.logistic_head(
    X, Y, num_classes=3, inverse_strength=strength, tol=1e-9, max_steps=2000
  )
  assert info.status == 0
  residual = jax.nn.softmax(calibration.linear_head_logits(head, X)) - jax.nn.one_hot(Y, 3)
  np.testing.assert_allclose(strength * residual.T @ X + head.weights, 0, atol=1e-5)
  np.testing.assert_allclose(jnp.sum(residual, axis=0), 0, atol=1e-6)
  theirs = LogisticRegression(C=strength, tol=1e-10, max_iter=10_000).fit(X, Y)
  np.testing.assert_allclose(head.weights, theirs.coef_, atol=1e-4)


@pytest.mark.parametrize("unit", [1e-12, 1e12])
def test_units_do_not_matter(unit):
  x = np.float32(X)
  a = calibration.naive_bayes_head(stats_of(x, Y))
  b = calibration.naive_bayes_head(stats_of(x * np.float32(unit), Y))
  np.testing.assert_allclose(b.weights * unit, a.weights, rtol=1e-3, atol=1e-5)
  # The penalty has units: with a strength in those of the features nothing else changes.
  a, _ = calibration.logistic_head(x, Y, num_classes=3, inverse_strength=1e6)
  b, info = calibration.logistic_head(
    x * np.float32(unit), Y, num_classes=3, inverse_strength=1e6 / unit**2
  )
  assert info.status == 0
  np.testing.assert_allclose(b.weights * unit, a.weights, rtol=1e-2, atol=1e-3)


def test_absent_classes_constant_features_and_nothing_at_all():
  x = jnp.array([[1.0, 7.0], [2.0, 7.0], [4.0, 7.0]])
  head = calibration.naive_bayes_head(stats_of(x, jnp.array([0, 0, 2])))
  logits = calibration.linear_head_logits(head, x)
  assert jnp.isneginf(logits[:, 1]).all() and jnp.isfinite(logits[:, ::2]).all()
  np.testing.assert_array_equal(head.weights[:, 1], 0)
  same = calibration.naive_bayes_head(stats_of(jnp.ones((3, 2)), jnp.array([0, 0, 1]), 2))
  np.testing.assert_allclose(
    calibration.linear_head_logits(same, x)[0], np.log([2 / 3, 1 / 3]), rtol=1e-6
  )
  nothing = stats_of(x, jnp.array([0, 0, 2]), where=jnp.zeros(3, bool))
  logits = calibration.linear_head_logits(calibration.naive_bayes_head(nothing), x)
  np.testing.assert_array_equal(logits, 0)
  head, info = calibration.logistic_head(
    x, jnp.array([0, 0, 2]), num_classes=3, where=jnp.zeros(3, bool)
  )
  np.testing.assert_array_equal(calibration.linear_head_logits(head, x), 0)
  assert info.status == 0
  same, _ = calibration.logistic_head(jnp.ones((3, 2)), jnp.array([0, 0, 1]), num_classes=2)
  got = jax.nn.softmax(calibration.linear_head_logits(same, x))
  np.testing.assert_allclose(got[0], [2 / 3, 1 / 3], atol=1e-4)


def test_pointwise_consistency_inequality():
  """p_max - p_predicted <= sqrt(2 KL(p, softmax s)), the bound of ``comp_sum_gamma`` at tau 1."""
  key_p, key_s = jax.random.split(jax.random.key(0))
  p = jax.random.dirichlet(key_p, jnp.ones(5), (20_000,))
  s = 3 * jax.random.normal(key_s, (20_000, 5))
  gap = jnp.max(p, 1) - jnp.take_along_axis(p, jnp.argmax(s, 1)[:, None], 1)[:, 0]
  divergence = jnp.sum(p * (jnp.log(p) - jax.nn.log_softmax(s)), axis=1)
  bound = losses.comp_sum_gamma(jnp.maximum(divergence, 0), tau=1.0, num_classes=5)
  assert jnp.all(gap <= bound + 1e-6)
  assert jnp.max(gap / bound) > 0.7


@pytest.mark.parametrize("strength", [0.1, 10.0])
def test_two_classes_have_half_the_strength_of_scikit_learn(x64, strength):
  """min over W_1 - W_0 = w of 1/2 ||W||^2 is 1/4 ||w||^2, where theirs is 1/2 ||w||^2."""
  y = (Y > 0).astype(int)
  head, _ = calibration.logistic_head(
    X, y, num_classes=2, inverse_strength=strength, tol=1e-9, max_steps=2000
  )
  theirs = LogisticRegression(C=2 * strength, tol=1e-10, max_iter=10_000).fit(X, y)
  np.testing.assert_allclose(head.weights[1] - head.weights[0], theirs.coef_[0], atol=1e-4)


def test_traced_labels_out_of_range_are_not_fitted():
  fit = jax.jit(lambda x, y, where: calibration.logistic_head(x, y, num_classes=3, where=where))
  x, all_rows = jnp.asarray(X, jnp.float32), jnp.ones(40, bool)
  for bad in (-1, 3):
    y = jnp.asarray(Y).at[0].set(bad)
    assert fit(x, y, all_rows)[1].status == 2
    assert fit(x, y, all_rows.at[0].set(False))[1].status == 0


def test_features_of_different_sizes_are_solved_to_the_same_accuracy():
  x = np.float32(X * np.array([1.0, 1e3, 1e-3]))
  head, info = calibration.logistic_head(x, Y, num_classes=3, inverse_strength=100.0)
  theirs = LogisticRegression(C=100.0, tol=1e-10, max_iter=10_000, solver="newton-cg").fit(x, Y)

  def objective(weights, intercepts):
    z = np.float64(x) @ np.float64(weights).T + intercepts
    log_p = z - z.max(1, keepdims=True)
    log_p = log_p - np.log(np.exp(log_p).sum(1, keepdims=True))
    return -100 * np.sum(log_p[np.arange(40), Y]) + 0.5 * np.sum(np.float64(weights) ** 2)

  intercepts = np.float64(head.intercepts) - np.float64(head.weights) @ np.float64(head.center)
  best = objective(theirs.coef_, theirs.intercept_)
  assert info.status == 0
  assert objective(head.weights, intercepts) <= best * (1 + 1e-4)
