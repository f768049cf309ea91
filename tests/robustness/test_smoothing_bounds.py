"""Bounds from counts against scipy, closed forms, simulation; float32 never on the unsafe side."""

import functools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.stats

from jaxopt_robust import robustness

LEVELS = (1e-6, 0.001, 0.05, 0.5)
TRIALS = (1, 2, 10, 1000, 100_000)


def counts_of(n):
  some = np.random.default_rng(n).integers(0, n + 1, 20)
  return np.unique(np.concatenate([[0, 1, n - 1, n], some]).clip(0, n)).astype(np.int32)


def quantiles(k, n, alpha):
  """Both one-sided bounds of scipy."""
  beta = scipy.stats.beta
  inner = np.clip(k, 1, n), np.clip(k, 0, n - 1)
  lower = np.where(k == 0, 0.0, beta.ppf(alpha, inner[0], n - inner[0] + 1))
  upper = np.where(k == n, 1.0, beta.isf(alpha, inner[1] + 1, n - inner[1]))
  return lower, upper


@pytest.mark.x64
@pytest.mark.parametrize("alpha", LEVELS)
@pytest.mark.parametrize("n", TRIALS)
def test_bounds_are_quantiles_of_the_beta_law(n, alpha):
  k = counts_of(n)
  lower, upper = quantiles(k, n, alpha)
  np.testing.assert_allclose(
    robustness.clopper_pearson_lower(k, n, alpha=alpha), lower, rtol=1e-12, atol=1e-15
  )
  np.testing.assert_allclose(
    robustness.clopper_pearson_upper(k, n, alpha=alpha), upper, rtol=1e-12, atol=1e-15
  )
  low, high = robustness.clopper_pearson_interval(k, n, alpha=alpha)
  np.testing.assert_allclose(low, quantiles(k, n, alpha / 2)[0], rtol=1e-12, atol=1e-15)
  np.testing.assert_allclose(high, quantiles(k, n, alpha / 2)[1], rtol=1e-12, atol=1e-15)


@pytest.mark.x64
def test_closed_forms_at_both_ends():
  n = np.array(TRIALS)
  for alpha in LEVELS:
    lower = robustness.clopper_pearson_lower(n, n, alpha=alpha)
    np.testing.assert_allclose(lower, alpha ** (1 / n), rtol=1e-14)
    upper = robustness.clopper_pearson_upper(0 * n, n, alpha=alpha)
    np.testing.assert_allclose(upper, -np.expm1(np.log(alpha) / n), rtol=1e-14)
  np.testing.assert_array_equal(robustness.clopper_pearson_lower(0 * n, n), 0)
  np.testing.assert_array_equal(robustness.clopper_pearson_upper(n, n), 1)
  # Without trials nothing is known.
  assert float(robustness.clopper_pearson_lower(0, 0)) == 0
  assert float(robustness.clopper_pearson_upper(0, 0)) == 1
  assert float(robustness.binomial_test(0, 0)) == 1


@functools.cache
def traced():
  def both(k, n, alpha):
    return (
      robustness.clopper_pearson_lower(k, n, alpha=alpha),
      robustness.clopper_pearson_upper(k, n, alpha=alpha),
      robustness.binomial_test(k, n),
    )

  return jax.jit(both)


@pytest.mark.x64
@pytest.mark.parametrize("alpha", [0.001, 0.5])
def test_traced_bounds_are_those_of_the_host_and_on_the_safe_side(alpha):
  for n in (10, 1000, 100_000):
    k = np.resize(counts_of(n), 24)
    lower, upper, p_value = traced()(k, np.full(24, n, np.int32), alpha)
    exact = quantiles(k, n, alpha)
    np.testing.assert_allclose(lower, exact[0], rtol=0, atol=2e-11)
    np.testing.assert_allclose(upper, exact[1], rtol=0, atol=2e-11)
    inner = (k > 0) & (k < n)
    assert np.all((np.asarray(lower) <= exact[0])[inner])
    assert np.all((np.asarray(upper) >= exact[1])[inner])
    known = robustness.binomial_test(k, n)
    assert np.all(p_value >= known)
    np.testing.assert_allclose(p_value, known, rtol=2e-8)
  bad = traced()(np.resize(np.int32([5, -1]), 24), np.full(24, 3, np.int32), alpha)
  for value in bad:  # counts that cannot be
    assert np.all(np.isnan(value))


def test_float32_is_rounded_to_the_safe_side():
  for n in (10, 1000, 100_000):
    k = counts_of(n)
    lower, upper = quantiles(k, n, 0.001)
    for bound, exact, sign in (
      (robustness.clopper_pearson_lower(k, n), lower, -1),
      (robustness.clopper_pearson_upper(k, n), upper, 1),
    ):
      assert bound.dtype == jnp.float32
      wide = np.asarray(bound, np.float64)
      slack = 1e-14 * exact  # scipy's own rounding
      assert np.all(sign * (wide - exact) >= -slack)
      assert np.all(np.abs(wide - exact) <= np.spacing(np.float32(exact)) + slack)
  # What float32 would say of 100000 equal votes (.99993104) is too much.
  assert 0.999930 < float(robustness.clopper_pearson_lower(100_000, 100_000)) <= 0.001**1e-5
  p = np.linspace(0.501, 0.999999, 50)
  exact = 0.36 * scipy.stats.norm.ppf(p)
  radius = np.asarray(robustness.smoothed_radius(p, sigma=0.36), np.float64)
  assert np.all(radius <= exact) and np.all(radius >= exact * (1 - 1.2e-7))
  k = np.arange(11)
  p_value = robustness.binomial_test(k, 10)
  exact = np.array([scipy.stats.binomtest(int(i), 10).pvalue for i in k])
  assert np.all(np.asarray(p_value, np.float64) >= exact * (1 - 1e-14))


def test_numbers_that_float32_flushes_stay_on_their_side():
  # alpha = 1e-6 and many trials: bounds of size 1e-9 and below the smallest normal number
  tiny = np.finfo(np.float32).tiny
  upper = robustness.clopper_pearson_upper(0, 2**30, alpha=1 - 1e-16)
  assert 0 < float(upper) < 1e-20
  from jaxopt_robust.robustness import _float64

  small = np.array([1e-42, -1e-42, 0.0, 1e300, -1e300])
  np.testing.assert_array_equal(
    _float64.round_up(small), np.float32([tiny, 0, 0, np.inf, np.finfo(np.float32).min])
  )
  np.testing.assert_array_equal(
    _float64.round_down(small), np.float32([0, -tiny, 0, np.finfo(np.float32).max, -np.inf])
  )


@pytest.mark.x64
def test_monotone_in_successes_trials_and_level():
  k = np.arange(101)
  lower = np.asarray(robustness.clopper_pearson_lower(k, 100))
  assert np.all(np.diff(lower) > 0)
  n = np.arange(50, 300)
  assert np.all(np.diff(np.asarray(robustness.clopper_pearson_lower(50, n))) < 0)
  alphas = np.geomspace(1e-8, 0.9, 40)
  assert np.all(np.diff(np.asarray(robustness.clopper_pearson_lower(90, 100, alpha=alphas))) > 0)
  upper = np.asarray(robustness.clopper_pearson_upper(k, 100))
  np.testing.assert_allclose(upper, 1 - lower[::-1], rtol=1e-12)


def test_coverage_of_the_bounds():
  """Of 20000 repeats the bounds miss at most the share alpha, up to 4 deviations."""
  rng, repeats, alpha = np.random.default_rng(0), 20_000, 0.05
  slack = 4 * np.sqrt(alpha / repeats)
  for p in (0.03, 0.5, 0.9, 0.999):
    for n in (20, 500):
      k = rng.binomial(n, p, repeats)
      lower, upper = (
        np.asarray(bound(np.arange(n + 1), n, alpha=alpha))[k]
        for bound in (robustness.clopper_pearson_lower, robustness.clopper_pearson_upper)
      )
      assert np.mean(lower > p) <= alpha + slack
      assert np.mean(upper < p) <= alpha + slack
      low, high = (
        np.asarray(end)[k]
        for end in robustness.clopper_pearson_interval(np.arange(n + 1), n, alpha=alpha)
      )
      assert np.mean((low > p) | (high < p)) <= alpha + slack
  # They are not idle: half a million trials come close to alpha.
  k = rng.binomial(500_000, 0.8, repeats)
  missed = np.mean(np.asarray(robustness.clopper_pearson_lower(k, 500_000, alpha=alpha)) > 0.8)
  assert abs(missed - alpha) < slack + 0.002


@pytest.mark.x64
def test_two_sided_test_is_that_of_scipy():
  for n in (1, 2, 7, 100):
    k = np.arange(n + 1)
    expected = [scipy.stats.binomtest(int(i), n).pvalue for i in k]
    np.testing.assert_allclose(robustness.binomial_test(k, n), expected, rtol=1e-12)
  with mpmath.workdps(40):  # far out
    tail = 2 * mpmath.fsum(mpmath.binomial(300, i) for i in range(31)) / mpmath.mpf(2) ** 300
  np.testing.assert_allclose(robustness.binomial_test(270, 300), float(tail), rtol=1e-11)


@pytest.mark.x64
def test_radius_is_the_quantile():
  p = np.array([0.5, 0.6, 0.99, 1 - 1e-9])
  with mpmath.workdps(30):
    exact = [float(mpmath.sqrt(2) * mpmath.erfinv(2 * mpmath.mpf(float(v)) - 1)) for v in p]
  np.testing.assert_allclose(robustness.smoothed_radius(p, sigma=1.0), exact, rtol=1e-12)
  np.testing.assert_array_equal(robustness.smoothed_radius([0.0, 0.3], sigma=1.0), 0)
  assert float(robustness.smoothed_radius(1.0, sigma=2.0)) == np.inf
  # With the runner-up: the same where it has all the rest, more where it has less.
  both = robustness.smoothed_radius(p, sigma=0.5, upper=1 - p)
  np.testing.assert_allclose(both, robustness.smoothed_radius(p, sigma=0.5), rtol=1e-12)
  gap = scipy.stats.norm.ppf(0.4) - scipy.stats.norm.ppf(0.2)
  less = robustness.smoothed_radius(0.4, sigma=0.5, upper=0.2)
  np.testing.assert_allclose(less, 0.25 * gap, rtol=1e-12)
  for equal in (0.0, 0.5, 1.0):
    assert float(robustness.smoothed_radius(equal, sigma=1.0, upper=equal)) == 0
  inside = jax.jit(lambda p, s: robustness.smoothed_radius(p, sigma=s))(p, 0.5)
  np.testing.assert_allclose(inside, robustness.smoothed_radius(p, sigma=0.5), rtol=1e-12)
  slope = jax.grad(lambda s: jnp.sum(robustness.smoothed_radius(p, sigma=s)))(1.0)
  np.testing.assert_allclose(slope, np.sum(exact), rtol=1e-12)


@pytest.mark.parametrize(("n", "expected"), [(1000, 2.463), (2000, 2.70), (100_000, 3.811)])
def test_largest_radius(n, expected):
  found = float(robustness.largest_smoothed_radius(n, sigma=1.0))
  assert abs(found - expected) < 2e-3
  exact = scipy.stats.norm.ppf(0.001 ** (1 / n))
  assert exact * (1 - 1.2e-7) <= found <= exact
  # Scale: twice the noise is twice the radius.
  assert float(robustness.largest_smoothed_radius(n, sigma=2.0)) == 2 * found


def test_traced_numbers_out_of_range_bound_nothing():
  k, n, few = jnp.array([90, 100]), jnp.array([100, 100]), jnp.array([60, 500_000])
  with jax.enable_x64(True):
    for bound in (robustness.clopper_pearson_lower, robustness.clopper_pearson_upper):
      traced = jax.jit(lambda k, n, alpha, bound=bound: bound(k, n, alpha=alpha))
      for alpha in (-0.1, 0.0, 1.0, 1.5, np.nan):
        assert np.isnan(traced(k, n, alpha)).all()
      # JAX's incomplete beta function fails near the mean of so many trials.
      assert np.isnan(traced(few, few * 0 + 10**9, 0.001)).all()
      assert np.isfinite(traced(few, few * 0 + 10**6, 0.5)).all()
    assert np.isnan(jax.jit(robustness.binomial_test)(few, few * 0 + 10**7)).all()
    radius = jax.jit(lambda p, sigma: robustness.smoothed_radius(p, sigma=sigma))
    assert np.isnan(radius(0.9, -1.0)) and np.isnan(radius(1.5, 1.0))


@pytest.mark.parametrize("alpha", [0.5, 0.9])
def test_traced_bounds_of_a_million_trials_stay_below(alpha):
  n = 10**6
  k = np.array([1, n // 4, n // 2, 3 * n // 4, n - 1])
  exact = scipy.stats.beta.ppf(alpha, k, n - k + 1)
  with jax.enable_x64(True):
    found = jax.jit(lambda k: robustness.clopper_pearson_lower(k, n, alpha=alpha))(jnp.asarray(k))
    assert np.all(found <= exact) and np.all(found >= exact - 1e-10)
