"""Baseline losses against their formulas written naively, and their limits."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_robust import losses

pytestmark = pytest.mark.x64


@pytest.fixture
def case(rng):
  logits = rng.normal(size=(6, 4)) * 2
  labels = rng.integers(0, 4, size=6)
  p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  return logits, labels, p, p[np.arange(6), labels], np.eye(4)[labels]


def kl(p, q):
  return np.sum(np.where(p > 0, p * np.log(np.where(p > 0, p, 1) / q), 0), axis=1)


def jensen_shannon(p, p_y, onehot, gap):
  mixture = (onehot + p) / 2
  return (kl(onehot, mixture) + kl(p, mixture)) / 2 / (-0.5 * np.log(0.5))


def nce(p, p_y):
  return np.log(p_y) / np.log(p).sum(1)


# The losses with their default hyperparameters, from the definitions.
NAIVE = {
  "cross_entropy_loss": lambda p, p_y, e, gap: -np.log(p_y),
  "generalized_cross_entropy_loss": lambda p, p_y, e, gap: (1 - p_y**0.7) / 0.7,
  "truncated_gce_loss": lambda p, p_y, e, gap: (1 - np.maximum(p_y, 0.5) ** 0.7) / 0.7,
  "symmetric_cross_entropy_loss": lambda p, p_y, e, gap: -np.log(p_y) / 2 + 2 * (1 - p_y),
  "jensen_shannon_loss": jensen_shannon,
  "softmax_mae_loss": lambda p, p_y, e, gap: np.abs(p - e).sum(1) / 2,
  "softmax_mse_loss": lambda p, p_y, e, gap: ((p - e) ** 2).sum(1),
  "nce_rce_loss": lambda p, p_y, e, gap: nce(p, p_y) - (p * np.log(np.clip(e, 1e-4, 1))).sum(1),
  "nce_agce_loss": lambda p, p_y, e, gap: nce(p, p_y) + (4**1.5 - (3 + p_y) ** 1.5) / 1.5,
  "nce_aul_loss": lambda p, p_y, e, gap: nce(p, p_y) + ((6 - p_y) ** 1.5 - 5**1.5) / 1.5,
  "robust_log_loss": lambda p, p_y, e, gap: (
    np.log(2) - np.log(1 + p_y) + ((1 - e) * np.log(1 + p)).sum(1) / 3
  ),
  "crammer_singer_loss": lambda p, p_y, e, gap: gap.max(1),
  "weston_watkins_loss": lambda p, p_y, e, gap: (np.maximum(gap, 0) * (1 - e)).sum(1),
}
NAMES = list(NAIVE)


@pytest.mark.parametrize("name", NAMES)
def test_equals_its_formula(name, case):
  logits, labels, p, p_y, onehot = case
  gap = logits - (logits * onehot).sum(1, keepdims=True) + (1 - onehot)
  expected = NAIVE[name](p, p_y, onehot, gap)
  np.testing.assert_allclose(getattr(losses, name)(logits, labels), expected, rtol=1e-12)


def test_cross_entropy_and_hinge_equal_optax(case):
  logits, labels, *_ = case
  ours = losses.cross_entropy_loss(logits, labels)
  theirs = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
  np.testing.assert_allclose(ours, theirs, rtol=1e-12)
  hinge = optax.losses.multiclass_hinge_loss(jnp.asarray(logits), jnp.asarray(labels))
  np.testing.assert_allclose(losses.crammer_singer_loss(logits, labels), hinge, rtol=1e-12)


def test_cross_entropy_keeps_relative_accuracy_near_zero():
  for gap in (10.0, 30.0, 80.0):  # in float32, where log_softmax would return 0 from 17 on
    loss = losses.cross_entropy_loss(jnp.array([gap, 0.0], jnp.float32), jnp.array(0))
    np.testing.assert_allclose(loss, np.log1p(np.exp(-gap)), rtol=1e-5)


def test_generalized_cross_entropy_limits(case):
  logits, labels, _, p_y, _ = case
  loss = losses.generalized_cross_entropy_loss
  np.testing.assert_allclose(loss(logits, labels, q=0.0), -np.log(p_y), rtol=1e-12)
  np.testing.assert_allclose(loss(logits, labels, q=1.0), 1 - p_y, rtol=1e-12)
  # first-order term of the expansion in q is -q log(p)^2 / 2
  np.testing.assert_allclose(
    loss(logits, labels, q=1e-6), -np.log(p_y) - 0.5e-6 * np.log(p_y) ** 2, rtol=1e-10
  )


@pytest.mark.parametrize("weight", [1e-2, 1e-5, 1e-9])
def test_jensen_shannon_limits(case, weight):
  logits, labels, _, p_y, _ = case
  loss = losses.jensen_shannon_loss
  # to first order in the weight the loss is CE (1 + O(weight)) with 1/p in the constant
  error = np.abs(loss(logits, labels, weight=weight) + np.log(p_y))
  assert np.all(error <= 2 * weight / p_y + 1e-9)
  near_one = loss(logits, labels, weight=1 - weight)
  # from above the rest is (u - p log(1/p)) / log(1/weight), at most 1 / log(1/weight)
  assert np.all(np.abs(near_one - (1 - p_y)) <= 1 / np.log(1 / weight))
  assert np.all(near_one >= 1 - p_y - 1e-12)


@pytest.mark.parametrize("weight", [1e-9, 1e-3, 0.4999, 0.5, 0.999, 1 - 1e-9])
def test_jensen_shannon_equals_its_definition_for_any_weight(case, weight):
  logits, labels, p, _, onehot = case
  m = weight * onehot + (1 - weight) * p
  divergence = weight * kl(onehot, m) + (1 - weight) * kl(p, m)
  expected = divergence / (-(1 - weight) * np.log1p(-weight))
  # the naive form divides a difference of order one by the weight (or one minus it)
  tolerance = 1e-15 / min(weight, 1 - weight) + 1e-12
  np.testing.assert_allclose(
    losses.jensen_shannon_loss(logits, labels, weight=weight), expected, rtol=10 * tolerance
  )


def test_truncation_removes_the_gradient_of_unlikely_labels(case):
  logits, labels, _, p_y, _ = case
  grads = jax.grad(lambda x: jnp.sum(losses.truncated_gce_loss(x, labels)))(jnp.asarray(logits))
  assert 0 < np.sum(p_y <= 0.5) < 6
  np.testing.assert_array_equal(np.all(grads == 0, axis=1), p_y <= 0.5)


def test_hinge_gradient_at_ties_is_shared():
  grads = jax.grad(lambda x: losses.crammer_singer_loss(x, jnp.array(0)))(jnp.zeros(3))
  np.testing.assert_allclose(grads, [-1, 0.5, 0.5])


def test_losses_vanish_at_certain_and_right_predictions():
  logits = jnp.array([1e4, 0.0, 0.0])
  for name in NAMES:
    np.testing.assert_allclose(getattr(losses, name)(logits, jnp.array(0)), 0.0, atol=1e-12)
