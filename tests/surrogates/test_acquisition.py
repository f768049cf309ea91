"""Acquisition functions: integrals, closed forms, slopes in any unit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from jaxopt_robust import surrogates


@pytest.mark.x64
def test_expected_improvement_is_its_integral():
  for mean, std, best in ((1.0, 0.7, 0.0), (-1.0, 0.7, 0.0), (0.3, 2.0, 0.5), (-4.0, 1.0, 0.0)):
    density = lambda f, m=mean, s=std, b=best: (f - b) * scipy.stats.norm.pdf(f, m, s)
    expected, _ = scipy.integrate.quad(density, best, mean + 40 * std, points=[best + std])
    found = surrogates.expected_improvement(jnp.array([mean]), jnp.array([std]), best=best)
    np.testing.assert_allclose(found, [expected], rtol=1e-8)
  # d/dmean = Phi(z), d/dstd = phi(z); at std = 0 the derivative in the mean is that of the ramp
  slope = jax.jit(
    jax.grad(lambda m, s: surrogates.expected_improvement(m, s, best=0.2), argnums=(0, 1))
  )
  z = (1.0 - 0.2) / 0.5
  np.testing.assert_allclose(
    slope(jnp.array(1.0), jnp.array(0.5)), [scipy.stats.norm.cdf(z), scipy.stats.norm.pdf(z)]
  )
  certain = surrogates.expected_improvement(jnp.array([1.0, -1.0]), jnp.zeros(2), best=0.0)
  np.testing.assert_array_equal(certain, [1, 0])
  assert np.all(np.isfinite(slope(jnp.array(1.0), jnp.array(0.0))))
  never = surrogates.expected_improvement(jnp.zeros(2), jnp.array([0.0, 1.0]), best=jnp.inf)
  np.testing.assert_array_equal(never, 0)
  far = surrogates.expected_improvement(jnp.float32([-13.5]), jnp.ones(1, jnp.float32), best=0.0)
  assert float(far[0]) >= 0


@pytest.mark.parametrize("unit", [1e-30, 1e-20, 1.0, 1e20, 1e30])
def test_slopes_of_expected_improvement_know_no_units(unit):
  """Phi(z) and phi(z) of z = 2 / 3, and 1 or 0 and 0 where the prediction is certain."""
  unit = jnp.float32(unit)
  improvement = lambda m, s: surrogates.expected_improvement(m, s, best=unit)
  slopes = jax.grad(improvement, argnums=(0, 1))(3 * unit, 3 * unit)
  z = 2 / 3
  np.testing.assert_allclose(slopes, [scipy.stats.norm.cdf(z), scipy.stats.norm.pdf(z)], rtol=1e-5)
  for mean, expected in ((3.0, 1.0), (-3.0, 0.0)):
    slopes = jax.grad(improvement, argnums=(0, 1))(mean * unit, 1e-7 * unit)
    np.testing.assert_array_equal(slopes, [expected, 0])


@pytest.mark.x64
def test_joint_improvement_of_one_is_the_closed_form_and_of_several_is_between(rng):
  quantiles = scipy.stats.norm.ppf((np.arange(200_000) + 0.5) / 200_000)
  draws = 0.3 + 0.8 * quantiles[:, None]
  one = surrogates.q_expected_improvement(draws, best=0.5)
  closed = surrogates.expected_improvement(jnp.array(0.3), jnp.array(0.8), best=0.5)
  np.testing.assert_allclose(one, closed, rtol=1e-4)
  samples, best = rng.normal(size=(2, 50, 3)), np.array([0.1, -0.4])
  found = surrogates.q_expected_improvement(samples, best=best)
  by_hand = np.maximum(samples.max(-1) - best[:, None], 0).mean(-1)
  np.testing.assert_allclose(found, by_hand, rtol=1e-12)
  each = np.maximum(samples - best[:, None, None], 0).mean(1)
  assert np.all(each.max(-1) <= found) and np.all(found <= each.sum(-1))
  twice = surrogates.q_expected_improvement(samples[..., [0, 0]], best=best)
  np.testing.assert_allclose(twice, each[:, 0], rtol=1e-12)  # the same design again gains nothing
