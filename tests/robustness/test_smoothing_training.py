"""Training losses of randomized smoothing: copies by hand, limits, masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from jaxopt_robust import losses, robustness

BATCH, SIZE, CLASSES, COPIES = 4, 3, 3, 5
LABELS = jnp.array([0, 1, 2, 1])


def network(params, x):
  return jnp.tanh(x @ params["a"]) @ params["b"]


@pytest.fixture
def setting(rng):
  params = {
    "a": jnp.asarray(rng.normal(size=(SIZE, 6)), jnp.float32),
    "b": jnp.asarray(rng.normal(size=(6, CLASSES)), jnp.float32),
  }
  return params, jnp.asarray(rng.normal(size=(BATCH, SIZE)), jnp.float32)


def by_hand(params, x, key, sigma):
  """Probabilities [copies, batch, classes] in float64."""
  noise = np.asarray(jax.random.normal(key, (COPIES, *x.shape)), np.float64)
  a, b = (np.asarray(params[n], np.float64) for n in "ab")
  scores = np.tanh((np.asarray(x, np.float64) + sigma * noise) @ a) @ b
  return scipy.special.softmax(scores, axis=-1)


@pytest.mark.parametrize("sigma", [0.0, 0.4])
def test_values_are_those_of_the_formula(setting, key, sigma):
  params, x = setting
  q = by_hand(params, x, key, sigma)
  entropy_of_labels = -np.log(q[:, np.arange(BATCH), np.asarray(LABELS)])
  options = {"sigma": sigma, "num_copies": COPIES}
  found = robustness.gaussian_augmentation_loss(network, params, x, LABELS, key, **options)
  np.testing.assert_allclose(found, entropy_of_labels.mean(0), rtol=2e-5)
  mean = q.mean(0)
  apart = np.sum(mean * (np.log(mean) - np.log(q)), axis=-1).mean(0)
  entropy = -np.sum(mean * np.log(mean), axis=-1)
  whole = robustness.consistency_smoothing_loss(
    network, params, x, LABELS, key, kl_weight=7.0, entropy_weight=0.3, **options
  )
  expected = entropy_of_labels.mean(0) + 7 * apart + 0.3 * entropy
  np.testing.assert_allclose(whole, expected, rtol=3e-5)
  none = robustness.consistency_smoothing_loss(
    network, params, x, LABELS, key, kl_weight=0.0, entropy_weight=0.0, **options
  )
  np.testing.assert_allclose(none, found, rtol=1e-6)
  pair = scipy.special.kl_div(mean, q).sum(-1).mean(0)  # the other way round would not agree
  np.testing.assert_allclose(apart, pair, atol=1e-12)


def test_noise_of_one_deviation_an_example(setting, key):
  params, x = setting
  sigma = jnp.array([0.0, 0.1, 0.2, 0.3])
  loss = lambda sigma: robustness.consistency_smoothing_loss(
    network, params, x, LABELS, key, sigma=sigma
  )
  each = loss(sigma)
  for i in range(BATCH):
    np.testing.assert_allclose(each[i], loss(sigma[i])[i], rtol=1e-5)


def test_masked_rows_count_nothing(setting, key):
  params, x = setting
  where = jnp.array([True, False, True, False])
  bad = x.at[1].set(jnp.nan)
  labels = LABELS.at[3].set(99)
  for function in (robustness.gaussian_augmentation_loss, robustness.consistency_smoothing_loss):
    total = lambda p, function=function: function(
      network, p, bad, labels, key, sigma=0.3, num_copies=2, where=where
    )
    values, pull = jax.vjp(total, params)
    whole = function(network, params, x, LABELS, key, sigma=0.3, num_copies=2)
    np.testing.assert_allclose(values[::2], whole[::2], rtol=1e-5)
    np.testing.assert_array_equal(values[1::2], 0)
    del pull


def test_another_loss_and_images(key):
  images = jnp.ones((2, 4, 4, 1))
  scores = lambda params, x: x.reshape(x.shape[0], -1) @ params
  params = jnp.linspace(-1, 1, 48).reshape(16, 3)
  found = robustness.gaussian_augmentation_loss(
    scores, params, images, jnp.array([0, 2]), key, sigma=0.0, loss=losses.softmax_mae_loss
  )
  plain = losses.softmax_mae_loss(scores(params, images), jnp.array([0, 2]))
  np.testing.assert_allclose(found, plain, rtol=1e-6)


def test_gradient_lowers_the_entropy_of_noisy_copies(setting, key):
  """A few steps on the consistency loss alone make the copies agree."""
  params, x = setting
  apart = lambda p: jnp.mean(
    robustness.consistency_smoothing_loss(
      network, p, x, LABELS, key, sigma=0.4, num_copies=COPIES, kl_weight=10.0
    )
  )
  step = jax.jit(lambda p: jax.tree.map(lambda w, g: w - 0.02 * g, p, jax.grad(apart)(p)))
  trained = params
  for _ in range(30):
    trained = step(trained)
  spread = lambda p: by_hand(p, x, key, 0.4).std(0).mean()
  assert spread(trained) < 0.8 * spread(params)
  assert float(apart(trained)) < float(apart(params))


@pytest.mark.parametrize(
  "loss", [robustness.gaussian_augmentation_loss, robustness.consistency_smoothing_loss]
)
def test_masked_rows_of_nan_leave_the_gradient_of_parameters(key, loss):
  x, labels, where = jnp.ones((3, 2)), jnp.array([0, 1, 0]), jnp.array([True, False, True])

  def slope(x):
    total = lambda weights: loss(
      lambda w, x: x @ w, weights, x, labels, key, sigma=0.5, where=where
    ).sum()
    return jax.grad(total)(jnp.eye(2))

  expected = slope(x)
  assert np.isfinite(expected).all() and np.abs(expected).max() > 0
  np.testing.assert_array_equal(slope(x.at[1].set(jnp.nan)), expected)
