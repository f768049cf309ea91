"""Ranking metrics against scikit-learn, by counting pairs, and with masks and ties."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sk

from jaxopt_robust import losses

N = 40
WHERE = np.arange(N) % 5 != 0


@functools.cache
def compiled():
  """All metrics of one set of scores, in one program."""

  def evaluate(scores, labels, where, max_fpr, min_tpr):
    return (
      losses.auc(scores, labels, where=where),
      losses.partial_auc(scores, labels, max_fpr=max_fpr, min_tpr=min_tpr, where=where),
      losses.average_precision(scores, labels, where=where),
      losses.roc_curve(scores, labels, where=where),
    )

  return jax.jit(evaluate)


def evaluate(scores, labels, where=None, max_fpr=1.0, min_tpr=0.0):
  where = np.ones(N, bool) if where is None else where
  return compiled()(scores, labels, where, np.float32(max_fpr), np.float32(min_tpr))


def draw(rng, levels=None):
  """Scores (with ties if there are few levels), labels, and a mask that hides bad values."""
  scores = rng.normal(size=N) if levels is None else rng.integers(levels, size=N) / 3
  labels = rng.permutation(N) % 4 == 0
  hidden = np.where(WHERE, scores, np.nan)
  return hidden.astype(np.float32), labels.astype(np.int32)


@pytest.mark.parametrize("levels", [None, 4, 1])
def test_equal_to_scikit_learn(levels, rng):
  scores, labels = draw(rng, levels)
  s, y = scores[WHERE], labels[WHERE]
  for max_fpr in (0.1, 0.33, 1.0):
    area, part, precision, curve = evaluate(scores, labels, WHERE, max_fpr)
    np.testing.assert_allclose(area, sk.roc_auc_score(y, s), rtol=1e-6)
    np.testing.assert_allclose(precision, sk.average_precision_score(y, s), rtol=1e-6)
    if max_fpr < 1:
      standardised = (1 + (part - max_fpr / 2) / (1 - max_fpr / 2)) / 2
      expected = sk.roc_auc_score(y, s, max_fpr=max_fpr)
      np.testing.assert_allclose(standardised, expected, rtol=1e-5)
    else:
      np.testing.assert_allclose(part, area, rtol=1e-6)
  fpr, tpr, _ = sk.roc_curve(y, s, drop_intermediate=False)
  points = lambda *curve: np.unique(np.stack(curve, axis=1), axis=0)
  np.testing.assert_allclose(points(curve.fpr, curve.tpr), points(fpr, tpr), atol=1e-6)
  thresholds = np.asarray(curve.thresholds)
  assert np.all(thresholds[1:] <= thresholds[:-1]) and curve.fpr.shape == (N + 1,)
  np.testing.assert_array_equal(np.asarray(curve.tpr)[-2:], 1)


def test_two_way_area_is_that_of_the_hardest_pairs(rng):
  scores, labels = draw(rng)
  scores = np.where(np.isnan(scores), rng.normal(size=N), scores).astype(np.float32)
  positive, negative = np.sort(scores[labels == 1]), np.sort(scores[labels == 0])
  assert (len(positive), len(negative)) == (10, 30)
  for max_fpr, min_tpr in ((0.2, 0.3), (0.5, 0.5), (1.0, 0.9)):
    hard = positive[: round((1 - min_tpr) * 10)][:, None] > negative[-round(max_fpr * 30) :][None]
    _, part, _, _ = evaluate(scores, labels, None, max_fpr, min_tpr)
    np.testing.assert_allclose(part, hard.mean(), rtol=1e-5, atol=1e-6)


def test_shares_that_cut_a_segment(rng):
  # the curve has the points (0, 0), (0.5, 0), (0.5, 1), (1, 1) and, with ties, a slanted line
  scores, labels = np.zeros(N, np.float32), np.arange(N) % 2
  for max_fpr, min_tpr in ((0.4, 0.0), (0.4, 0.2), (0.8, 0.6)):
    # TPR(f) = f: the integral of max(f - alpha, 0) up to beta
    expected = max(max_fpr - min_tpr, 0) ** 2 / 2 / (max_fpr * (1 - min_tpr))
    _, part, _, _ = evaluate(scores, labels, None, max_fpr, min_tpr)
    np.testing.assert_allclose(part, expected, rtol=1e-5)


def test_undefined_is_nan(rng):
  scores, labels = draw(rng)
  for s, y, where in (
    (scores, 0 * labels, WHERE),
    (scores, labels, ~np.ones(N, bool)),
    (scores, labels, None),  # NaN scores that are not masked out
  ):
    area, part, precision, curve = evaluate(s, y, where)
    assert np.isnan([area, part, precision]).all() and np.isnan(curve.tpr).any()
  for no_negative in (0 * labels + 1,):
    area, part, precision, _ = evaluate(scores, no_negative, WHERE)
    assert np.isnan([area, part]).all() and precision == 1


def test_pools_of_different_shapes(rng):
  positive, negative = rng.integers(5, size=7) / 2, rng.integers(5, size=(7, 6)) / 2
  where = rng.random((7, 6)) < 0.7
  area = losses.two_sample_auc(
    jnp.asarray(positive, jnp.bfloat16),
    jnp.asarray(np.where(where, negative, np.nan), jnp.bfloat16),
    negative_where=where,
  )
  wins = np.sign(positive[:, None] - negative[where][None]) / 2 + 0.5
  np.testing.assert_allclose(area, wins.mean(), rtol=1e-6)
  assert area.dtype == jnp.float32


def test_many_pairs_do_not_overflow():
  # 2.5e9 pairs, more than int32 counts
  size = 50_000
  area = jax.jit(losses.two_sample_auc)(jnp.arange(size) + 0.5, jnp.arange(size, dtype=jnp.float32))
  np.testing.assert_allclose(area, (size + 1) / (2 * size), rtol=1e-6)


@pytest.mark.parametrize("levels", [None, 3])
def test_lists_equal_scikit_learn(levels, rng):
  queries, items = 6, 9
  scores = rng.normal(size=(queries, items)) if levels is None else rng.integers(3, size=(6, 9))
  scores = scores.astype(np.float32)
  grades = rng.integers(0, 4, size=(queries, items))
  where = np.ones((queries, items), bool)
  where[:, 7:] = False
  hidden = np.where(where, scores, np.nan).astype(np.float32)
  one = np.zeros((queries, items), np.int32)
  one[np.arange(queries), rng.integers(7, size=queries)] = 1

  @jax.jit
  def everything(scores, hidden):
    rank = losses.mean_reciprocal_rank
    return (
      [losses.ndcg(hidden, grades, k=k, gain="linear", where=where) for k in (None, 3)],
      [losses.ndcg(scores, grades, k=k) for k in (None, 3)],
      rank(hidden, one, where=where),
      rank(scores, one, k=1),
    )

  all_linear, all_gains, rank, first = everything(scores, hidden)
  for k, linear, gains in zip((None, 3), all_linear, all_gains, strict=True):
    for row in range(queries):
      expected = sk.ndcg_score(grades[row : row + 1, :7], scores[row : row + 1, :7], k=k)
      np.testing.assert_allclose(linear[row], expected, rtol=1e-5)
      expected = sk.ndcg_score(2 ** grades[row : row + 1] - 1, scores[row : row + 1], k=k)
      np.testing.assert_allclose(gains[row], expected, rtol=1e-5)
  expected = sk.label_ranking_average_precision_score(one[:, :7], scores[:, :7])
  np.testing.assert_allclose(rank, expected, rtol=1e-6)
  is_first = [s[o == 1] > s[o == 0].max() for s, o in zip(scores, one, strict=True)]
  np.testing.assert_allclose(first, np.mean(is_first), rtol=1e-6)


def test_lists_without_a_relevant_item_and_with_nan():
  scores = np.array([[1.0, 2.0], [np.nan, 0.0]], np.float32)
  grades = np.array([[0, 0], [1, 0]])
  rank = losses.mean_reciprocal_rank
  three = jax.jit(lambda s, y: (losses.ndcg(s, y), rank(s[:1], y[:1]), rank(s, y)))
  got, nothing, spoiled = three(scores, grades)
  assert got[0] == 0 and np.isnan(got[1])
  assert nothing == 0 and np.isnan(spoiled)


def test_hard_pool(rng):
  scores = rng.normal(size=(4, 7)).astype(np.float32)
  positive = np.arange(7)[None] == np.arange(4)[:, None]
  where = np.ones((4, 7), bool)
  where[3, 1:] = False
  pool, found = losses.topn_negative_pool(scores, positive, 5, where=where)
  for row in range(3):
    np.testing.assert_array_equal(pool[row], np.sort(scores[row][~positive[row]])[::-1][:5])
  np.testing.assert_array_equal(found[:3], True)
  np.testing.assert_array_equal(found[3], [True] + 4 * [False])
  np.testing.assert_array_equal(pool[3, 1:], -np.inf)
  assert losses.topn_negative_pool(scores, positive, 100)[0].shape == (4, 7)
