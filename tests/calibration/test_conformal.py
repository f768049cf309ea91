"""Conformal sets: ranks that are exact, coverage, scores of a hand-made example."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import calibration as cal

PROBS = np.array([[0.5, 0.1, 0.4], [0.2, 0.2, 0.6]])


def test_scores_by_hand():
  np.testing.assert_allclose(cal.lac_scores(PROBS), 1 - PROBS)
  whole = [[0.5, 1.0, 0.9], [0.8, 1.0, 0.6]]  # of tied classes the first comes first
  np.testing.assert_allclose(cal.aps_scores(PROBS), whole, rtol=1e-6)
  price = np.array([[0, 2, 1], [1, 2, 0]])
  for penalty, free in ((0.1, 1), (0.2, 0)):
    found = cal.raps_scores(PROBS, penalty=penalty, num_free=free)
    np.testing.assert_allclose(found, whole + penalty * (price + 1 - free), rtol=1e-6)
  key = jax.random.key(0)
  before = np.array([[0.0, 0.9, 0.5], [0.6, 0.8, 0.0]])
  share = (np.asarray(cal.aps_scores(PROBS, key)) - before) / PROBS
  np.testing.assert_allclose(share, share[:, :1] * np.ones(3), rtol=1e-4)  # one U a row
  assert np.all((share >= 0) & (share <= 1)) and share[0, 0] != share[1, 0]
  np.testing.assert_allclose(
    cal.raps_scores(PROBS, key, penalty=0.0), cal.aps_scores(PROBS, key), rtol=1e-6
  )
  picked = cal.label_scores(PROBS, np.array([2, 0]))
  np.testing.assert_allclose(picked, [0.4, 0.2], rtol=1e-6)
  assert np.isnan(jax.jit(cal.label_scores)(PROBS, jnp.array([2, 3]))[1])


@pytest.mark.parametrize("alpha", [0.1, 0.05, 0.01, 0.3, 1 / 3, 0.7, 0.001])
def test_the_rank_is_exact(alpha):
  # Exact arithmetic: alpha as the fraction that its digits stand for.
  numerator, denominator = (1, 3) if alpha == 1 / 3 else (round(alpha * 1000), 1000)
  size = 1200
  quantile = jax.jit(lambda n: cal.conformal_quantile(
    jnp.arange(1.0, size + 1), alpha=alpha, where=jnp.arange(size) < n
  ))  # fmt: skip
  counts = jnp.arange(size + 1)
  found = jax.vmap(quantile)(counts)
  traced = jax.jit(jax.vmap(lambda n, a: cal.conformal_quantile(
    jnp.arange(1.0, size + 1), alpha=a, where=jnp.arange(size) < n
  ), in_axes=(0, None)))(counts, alpha)  # fmt: skip
  ranks = [-(-(n + 1) * (denominator - numerator) // denominator) for n in range(size + 1)]
  expected = [rank if rank <= n else np.inf for n, rank in enumerate(ranks)]
  np.testing.assert_array_equal(found, expected)
  np.testing.assert_array_equal(traced, expected)


def test_edges_of_the_quantile():
  assert cal.conformal_quantile(jnp.ones(1), alpha=0.1) == jnp.inf
  assert cal.conformal_quantile(jnp.arange(3.0), alpha=0.5, where=jnp.zeros(3, bool)) == jnp.inf
  assert np.isnan(cal.conformal_quantile(jnp.array([1.0, jnp.nan]), alpha=0.5))
  masked = jnp.array([1.0, jnp.nan, 2.0, 3.0])
  assert cal.conformal_quantile(masked, alpha=0.5, where=~jnp.isnan(masked)) == 2
  assert cal.conformal_quantile(jnp.ones(20, jnp.bfloat16), alpha=0.1).dtype == jnp.bfloat16
  scores = cal.lac_scores(PROBS)
  assert np.all(cal.prediction_sets(scores, jnp.inf)) and np.all(
    cal.prediction_sets(scores, jnp.nan)
  )
  np.testing.assert_array_equal(cal.prediction_sets(scores, 0.6), PROBS >= 0.4 - 1e-6)


def test_coverage_over_exchangeable_draws(key):
  n, new, classes, alpha, draws = 99, 200, 5, 0.1, 200

  def one(key):
    keys = jax.random.split(key, 5)
    logits = 2 * jax.random.normal(keys[0], (n + new, classes))
    labels = jax.random.categorical(keys[1], logits)
    guess = jax.nn.softmax(1.5 * logits + jax.random.normal(keys[2], logits.shape))
    covered = []
    for scores in (
      cal.lac_scores(guess),
      cal.aps_scores(guess, keys[3]),
      cal.raps_scores(guess, keys[4], penalty=0.05, num_free=2),
    ):
      limit = cal.conformal_quantile(cal.label_scores(scores, labels)[:n], alpha=alpha)
      sets = cal.prediction_sets(scores[n:], limit)
      covered.append(jnp.mean(sets[jnp.arange(new), labels[n:]]))
    return jnp.stack(covered)

  covered = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(key, draws)))
  # Beta(90, 10) given the calibration scores, whose deviation is .03; and the new rows' own.
  error = np.sqrt(0.9 * 0.1 / 101 + 0.9 * 0.1 / new) / np.sqrt(draws)
  mean = covered.mean(0)
  assert np.all(mean > 1 - alpha - 3.5 * error)
  assert np.all(mean < 1 - alpha + 1 / (n + 1) + 3.5 * error)
