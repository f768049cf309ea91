"""Corruption models: supports, sizes, and y = clean + s."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import recovery

N = 20_000
MODELS = {
  "bernoulli": lambda k, y: recovery.bernoulli_outliers(k, y, rate=0.3, scale=5.0),
  "fixed": lambda k, y: recovery.fixed_count_outliers(k, y, rate=0.3, scale=5.0),
  "scaledsm": lambda k, y: recovery.scaledsm_outliers(k, y, rate=0.3),
  "li": lambda k, y: recovery.li_outliers(k, y, rate=0.3),
  "replace": lambda k, y: recovery.replace_outliers(k, y, rate=0.3, scale=5.0),
  "flip": lambda k, y: recovery.sign_flip_outliers(k, y, rate=0.3),
}


@pytest.fixture
def clean(rng):
  return jnp.asarray(rng.standard_normal(N), jnp.float32)


@pytest.mark.parametrize("name", MODELS)
def test_support_and_sum(name, key, clean):
  y, s, mask = jax.jit(MODELS[name])(key, clean)
  np.testing.assert_allclose(y, clean + s, atol=1e-5)
  assert bool(jnp.all(jnp.where(mask, True, s == 0)))
  spread = 5 * np.sqrt(0.3 * 0.7 / N)  # five standard deviations of a Bernoulli mean
  assert abs(float(mask.mean()) - 0.3) < spread
  if name in ("fixed", "li"):
    assert int(mask.sum()) == 6000
  again = jax.jit(MODELS[name])(key, clean)
  np.testing.assert_array_equal(again.y, y)


def test_what_each_model_puts_there(key, clean):
  largest = float(jnp.max(jnp.abs(clean)))
  s = MODELS["scaledsm"](key, clean).s
  assert 9.9 * largest < float(jnp.max(jnp.abs(s))) <= 10 * largest
  s, mask = MODELS["li"](key, clean)[1:]
  assert abs(float(jnp.std(s[mask])) - 10) < 0.5
  flipped = MODELS["flip"](key, clean)
  np.testing.assert_array_equal(flipped.y, jnp.where(flipped.mask, -clean, clean))
  replaced = MODELS["replace"](key, clean)
  assert abs(float(jnp.std(replaced.y[replaced.mask])) - 5) < 0.3  # not sqrt(26): it replaces


@pytest.mark.parametrize(
  "distribution, moment",
  [("normal", 1.0), ("uniform", 1 / 3), ("laplace", 2.0), ("rademacher", 1.0), ("cauchy", np.inf)],
)
def test_distributions(distribution, moment, key):
  s = recovery.bernoulli_outliers(
    key, jnp.zeros(N), rate=1.0, scale=2.0, distribution=distribution
  ).s
  if distribution == "cauchy":
    assert abs(float(jnp.median(jnp.abs(s))) - 2) < 0.1  # quartile of the Cauchy distribution
  else:
    assert abs(float(jnp.mean(s**2)) / (4 * moment) - 1) < 0.1


def test_dense_and_mixed_noise(key, clean):
  y, s, mask = recovery.gaussian_noise(key, clean, scale=0.5)
  assert not bool(mask.any()) and abs(float(jnp.std(s)) - 0.5) < 0.02
  np.testing.assert_allclose(y, clean + s, atol=1e-6)
  y, s, mask = recovery.mixed_noise(key, clean, noise_scale=0.5, rate=0.1, scale=100.0)
  np.testing.assert_allclose(y, clean + s, atol=1e-4)
  assert abs(float(jnp.std(s[~mask])) - 0.5) < 0.02
  assert float(jnp.std(s[mask])) > 90


@pytest.mark.parametrize("rate, count", [(0.0, 0), (0.29, 29), (0.07, 7), (0.995, 99), (1.0, 100)])
def test_fixed_count_is_the_floor(rate, count, key):
  rates = [rate, jnp.asarray(rate, jnp.float32)]
  for value in rates:
    mask = recovery.fixed_count_outliers(key, jnp.zeros(100), rate=value, scale=1.0).mask
    assert int(mask.sum()) == count


def test_rates_may_be_traced(key):
  masks = jax.vmap(
    lambda p: recovery.bernoulli_outliers(key, jnp.zeros(9), rate=p, scale=1.0).mask
  )(jnp.array([0.0, 1.0]))
  assert not bool(masks[0].any()) and bool(masks[1].all())
