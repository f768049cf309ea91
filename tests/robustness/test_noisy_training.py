"""Losses with corrected labels: limits, sums written out, gradients, masks."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special

from jaxopt_robust import losses
from jaxopt_robust.robustness import (
  class_balance_kl,
  cross_view_contrastive_loss,
  mixup,
  mixup_loss,
  sharpen,
)

N, K = 6, 3


@pytest.fixture
def batch(rng):
  logits = jnp.asarray(3 * rng.normal(size=(N, K)))
  targets = jnp.asarray(rng.dirichlet(np.ones(K), N))
  return logits, targets, jnp.asarray(rng.random(N)), jnp.asarray(rng.permutation(N))


@pytest.mark.x64
def test_sharpening(rng):
  p = rng.dirichlet(np.ones(K), N)
  np.testing.assert_allclose(sharpen(p, 1.0), p, rtol=1e-12)
  np.testing.assert_allclose(sharpen(5 * p, 2.0), p**2 / (p**2).sum(1, keepdims=True), rtol=1e-12)
  for gamma in (500.0, np.inf):
    np.testing.assert_allclose(sharpen(p, gamma), np.eye(K)[p.argmax(1)], atol=1e-3)
  np.testing.assert_array_equal(sharpen(jnp.array([[0.0, 0.0], [0.4, 0.4]]), np.inf),
                                [[0, 0], [0.5, 0.5]])  # fmt: skip
  slope = jax.grad(lambda p, g: sharpen(p, g)[0, 0], argnums=(0, 1))(jnp.eye(2), 2.0)
  assert all(np.all(np.isfinite(v)) for v in slope)


def test_mixup_is_a_mixture_with_the_larger_share_its_own(key):
  x = jnp.arange(12.0).reshape(6, 2)
  draw = jax.jit(jax.vmap(lambda key, alpha: mixup(key, x, alpha=alpha), (0, None)))
  mixed = draw(jax.random.split(key, 500), 1.0)
  expected = jax.vmap(lambda lam, o: lam * x + (1 - lam) * x[o])(mixed.lam, mixed.perm)
  np.testing.assert_allclose(mixed.x, expected, rtol=1e-5)
  np.testing.assert_array_equal(jnp.sort(mixed.perm, axis=1), np.tile(np.arange(6), (500, 1)))
  assert mixed.lam.min() >= 0.5
  # max(b, 1 - b) of uniform b is uniform on [1/2, 1]: mean .75, deviation .144 / sqrt(500)
  assert abs(float(mixed.lam.mean()) - 0.75) < 4 * 0.00646
  near = draw(jax.random.split(key, 500), 200.0).lam
  assert float(near.max()) < 0.65


@pytest.mark.x64
def test_mixup_loss_is_its_sum(batch):
  logits, targets, w, perm = batch
  entropy = lambda t: -np.sum(np.asarray(t) * scipy.special.log_softmax(logits, axis=1), axis=1)
  lam = 0.7
  expected = lam * np.sum(w * entropy(targets)) / np.sum(w)
  expected += (1 - lam) * np.sum(w[perm] * entropy(targets[perm])) / np.sum(w)
  np.testing.assert_allclose(
    mixup_loss(logits, targets, w, lam=lam, perm=perm), expected, rtol=1e-12
  )
  np.testing.assert_allclose(
    mixup_loss(logits, targets, 1e-30 * w, lam=lam, perm=perm), expected, rtol=1e-12
  )


@pytest.mark.x64
def test_mixup_loss_without_mixing_is_the_cross_entropy(batch):
  logits, targets, w, perm = batch
  plain = jnp.mean(optax.softmax_cross_entropy(logits, targets))
  np.testing.assert_allclose(mixup_loss(logits, targets, lam=1.0, perm=perm), plain, rtol=1e-12)
  np.testing.assert_allclose(mixup_loss(logits, targets), plain, rtol=1e-12)
  gradients = jax.grad(mixup_loss, argnums=(0, 1, 2))(logits, targets, w, lam=0.6, perm=perm)
  np.testing.assert_array_equal(gradients[1], 0)
  np.testing.assert_array_equal(gradients[2], 0)
  step = 1e-6 * jnp.ones_like(logits).at[0, 0].set(3.0)
  value = lambda z: float(mixup_loss(z, targets, w, lam=0.6, perm=perm))
  slope = (value(logits + step) - value(logits - step)) / 2
  np.testing.assert_allclose(jnp.sum(gradients[0] * step), slope, rtol=1e-5, atol=1e-15)


def test_mixup_loss_at_its_edges(batch):
  logits, targets, w, _ = batch
  assert float(mixup_loss(logits, targets, jnp.zeros(N))) == 0
  huge = jnp.array([[1e4, -1e4], [jnp.inf, 0.0]])
  assert float(mixup_loss(huge[:1], jnp.eye(2)[:1])) == 0
  grads = jax.grad(lambda z: mixup_loss(z, jnp.eye(2)[:1]))(huge[:1])
  assert np.all(np.isfinite(grads))
  bad = jax.jit(lambda p: mixup_loss(logits, targets, w, lam=0.6, perm=p))(jnp.arange(N) + 1)
  assert np.isnan(bad)


def views(rng):
  return (jnp.asarray(rng.normal(size=(N, 4))) for _ in range(2))


@pytest.mark.x64
def test_distinct_labels_give_info_nce_on_the_diagonal(rng):
  first, second = views(rng)
  unit = lambda v: v / jnp.linalg.norm(v, axis=1, keepdims=True)
  found = cross_view_contrastive_loss(first, 7 * second, jnp.arange(N), temperature=0.3)
  expected = losses.info_nce_loss(
    unit(first) @ unit(second).T, jnp.arange(N), temperature=jnp.asarray(0.3)
  )
  np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.x64
def test_equal_labels_give_the_mean_of_log_softmax(rng):
  first, second = views(rng)
  unit = lambda v: v / jnp.linalg.norm(v, axis=1, keepdims=True)
  found = cross_view_contrastive_loss(first, second, jnp.ones(N, int))
  log_p = jax.nn.log_softmax(unit(first) @ unit(second).T / 0.2, axis=1)
  np.testing.assert_allclose(found, -jnp.mean(log_p, axis=1), rtol=1e-10)


@pytest.mark.x64
def test_mixed_anchors_have_the_partners_positives(rng):
  first, second = views(rng)
  labels, perm = jnp.array([0, 0, 1, 2, 2, 2]), jnp.array([3, 2, 5, 0, 1, 4])
  rows = lambda own: jnp.stack([
    -jnp.mean(log_p[i][labels == own[i]]) for i in range(N)
  ])  # fmt: skip
  unit = lambda v: v / jnp.linalg.norm(v, axis=1, keepdims=True)
  log_p = jax.nn.log_softmax(unit(first) @ unit(second).T / 0.5, axis=1)
  found = cross_view_contrastive_loss(first, second, labels, temperature=0.5, lam=0.8, perm=perm)
  np.testing.assert_allclose(found, 0.8 * rows(labels) + 0.2 * rows(labels[perm]), rtol=1e-10)
  plain = cross_view_contrastive_loss(first, second, labels, lam=1.0, perm=perm)
  np.testing.assert_allclose(plain, cross_view_contrastive_loss(first, second, labels), rtol=1e-12)
  bad = jax.jit(lambda p: cross_view_contrastive_loss(first, second, labels, lam=0.5, perm=p))
  np.testing.assert_array_equal(np.isnan(bad(perm.at[1].set(N))), np.arange(N) == 1)


@pytest.mark.x64
def test_contrast_of_some_rows(rng):
  first, second = views(rng)
  labels, used = jnp.array([0, 0, 1, 2, 2, 2]), jnp.arange(N) != 2
  spoil = lambda v: jnp.where(used[:, None], v, jnp.nan)
  loss = lambda a, b: cross_view_contrastive_loss(a, b, labels, where=used)
  found = loss(spoil(first), spoil(second))
  expected = cross_view_contrastive_loss(first[used], second[used], labels[used])
  np.testing.assert_allclose(found[used], expected, rtol=1e-12)
  assert found[2] == 0
  grads = jax.grad(lambda a, b: jnp.sum(loss(a, b)), argnums=(0, 1))(spoil(first), spoil(second))
  assert all(np.all(np.isfinite(g)) and not np.any(g[2]) for g in grads)
  nothing = jnp.zeros(N, bool)
  np.testing.assert_array_equal(
    cross_view_contrastive_loss(first, second, labels, where=nothing), 0
  )


@pytest.mark.x64
def test_balance_is_the_divergence_from_equal_classes(batch):
  logits = batch[0]
  mean = scipy.special.softmax(logits, axis=1).mean(0)
  expected = np.sum(np.log((1 / K) / mean) / K)
  found = class_balance_kl(logits)
  np.testing.assert_allclose(found, expected, rtol=1e-10)
  assert found > 0
  cycle = jnp.stack([jnp.roll(logits[0], i) for i in range(K)])
  np.testing.assert_allclose(class_balance_kl(cycle), 0, atol=1e-14)
  used = jnp.arange(N) != 1
  spoilt = jnp.where(used[:, None], logits, jnp.nan)
  np.testing.assert_allclose(
    class_balance_kl(spoilt, where=used), class_balance_kl(logits[used]), rtol=1e-10
  )
  gradient = jax.grad(lambda z: class_balance_kl(z, where=used))(spoilt)
  assert np.all(np.isfinite(gradient)) and not np.any(gradient[1])
  assert class_balance_kl(logits, where=jnp.zeros(N, bool)) == 0
  assert np.isfinite(class_balance_kl(jnp.array([[1e4, -1e4], [1e4, 0.0]])))


def test_half_precision(batch):
  logits, targets, w, perm = (v.astype(jnp.bfloat16) if v.dtype != int else v for v in batch)
  perm = jnp.asarray(perm, jnp.int32)
  for value in (
    mixup_loss(logits, targets, w, lam=0.7, perm=perm), sharpen(targets),
    cross_view_contrastive_loss(logits, logits, perm), class_balance_kl(logits),
    mixup(jax.random.key(0), logits).x,
  ):  # fmt: skip
    assert value.dtype == jnp.bfloat16 and np.all(np.isfinite(value.astype(jnp.float32)))
