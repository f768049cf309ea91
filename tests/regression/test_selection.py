"""Cross-validation, bootstraps, stability selection; a grid of them over eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_robust as jr
from jaxopt_robust import regression


def problem(n=40, p=6):
  rng = np.random.default_rng(3)
  x = rng.standard_normal((n, p))
  return x, 1.5 * x[:, 0] - x[:, 1] + 0.7 * rng.standard_normal(n) + 2


@pytest.mark.x64
def test_cross_validation_equals_a_loop_over_subsets():
  x, y = problem()
  lams = np.array([0.3, 0.03, 1.0])
  folds = np.arange(40) % 3  # of 14, 13 and 13 rows
  result = regression.cross_validate(x, y, lams, folds=folds, num_folds=3, tol=1e-10)
  losses = np.zeros((3, 3))
  for f in range(3):
    path = regression.regularization_path(
      x, y, lams, sample_weight=(folds != f).astype(float), tol=1e-10
    )
    out = folds == f
    prediction = x[out] @ np.asarray(path.coefficients).T + np.asarray(path.intercepts)
    losses[f] = np.mean((prediction - y[out, None]) ** 2, axis=0) / 2
  shares = np.array([14, 13, 13]) / 40
  mean = shares @ losses
  error = np.sqrt(shares @ (losses - mean) ** 2 / 2)
  np.testing.assert_allclose(result.losses, losses, rtol=1e-8)
  np.testing.assert_allclose(result.mean, mean, rtol=1e-8)
  np.testing.assert_allclose(result.standard_error, error, rtol=1e-8)
  best = np.argmin(mean)
  assert result.best == lams[best]
  assert result.one_standard_error == lams[mean <= mean[best] + error[best]].max()
  assert result.status.shape == (3, 3) and not np.any(result.status)
  y[0] = np.nan
  bad = regression.cross_validate(x, y, lams, folds=folds, num_folds=3, tol=1e-10)
  assert np.all(bad.status == 2) and np.isnan(bad.best) and np.isnan(bad.one_standard_error)


def test_folds_bootstraps_and_halves():
  key = jax.random.key(0)
  assert sorted(np.bincount(regression.make_folds(key, 11, num_folds=4))) == [2, 3, 3, 3]
  counts = np.asarray(regression.bootstrap_weights(key, 50, 400))
  assert np.all(counts.sum(axis=1) == 50) and np.all(counts == np.round(counts))
  # A row's count is binomial(50, 1/50): mean 1, variance 0.98; five standard errors.
  assert abs(counts.mean(axis=0) - 1).max() < 5 / 20 and abs(counts.var() - 0.98) < 0.05
  halves = np.asarray(regression.subsample_weights(key, 9, 300))
  assert np.all(halves.sum(axis=1) == 4) and set(np.unique(halves)) == {0.0, 1.0}
  assert abs(halves.mean(axis=0) - 4 / 9).max() < 5 * 0.5 / np.sqrt(300)


def test_stability_selection_finds_the_signal_and_its_bound_is_the_formula():
  x, y = problem()
  lams = jnp.array([1.0, 0.4])
  key = jax.random.key(1)
  result = regression.stability_selection(key, x, y, lams, num_subsamples=20, threshold=0.8)
  assert result.selected.tolist() == [True, True, False, False, False, False]
  weights = regression.subsample_weights(key, 40, 20)
  one = lambda s: regression.regularization_path(x, y, lams, sample_weight=s).coefficients != 0
  chosen = np.asarray(jax.jit(jax.vmap(one))(weights))
  np.testing.assert_allclose(result.frequencies, chosen.mean(axis=0), atol=1e-6)
  np.testing.assert_allclose(result.scores, chosen.mean(axis=0).max(axis=0), atol=1e-6)
  size = chosen.any(axis=1).sum(axis=1).mean()
  np.testing.assert_allclose(result.mean_size, size, rtol=1e-6)
  np.testing.assert_allclose(result.error_bound, size**2 / ((2 * 0.8 - 1) * 6), rtol=1e-5)


def test_a_hundred_strengths_five_folds_twenty_bootstraps_are_one_program_on_eight_devices():
  assert jax.device_count() == 8
  x, y = (jnp.asarray(v, jnp.float32) for v in problem(24, 4))
  lams = regression.strength_grid(1.5, num_strengths=100, ratio=0.01)
  folds = regression.make_folds(jax.random.key(0), 24, num_folds=5)
  counts = regression.bootstrap_weights(jax.random.key(1), 24, 20)
  weights = jnp.where(folds[None, None, :] == jnp.arange(5)[None, :, None], 0, counts[:, None, :])
  weights = weights.reshape(100, 24)

  def fit(s, x, y, lams):
    path = regression.regularization_path(x, y, lams, sample_weight=s, tol=1e-4)
    return path.coefficients, path.status

  counted = jr.debug.count_traces(fit)
  spread = jr.sweeps.sweep(counted)
  coefficients, status = spread(weights, shared=(x, y, lams))
  assert coefficients.shape == (100, 100, 4) and len(coefficients.sharding.device_set) == 8
  traces = counted.traces
  spread(weights[::-1], shared=(x, y, 2 * lams))
  assert counted.traces == traces and not np.any(status)
  single, _ = jr.sweeps.sweep(fit, backend="vmap")(weights, shared=(x, y, lams))
  # Equal up to the rounding of sums; a solve may stop a step earlier.
  np.testing.assert_allclose(coefficients, single, atol=1e-3)


@pytest.mark.parametrize("unit", [2.0**-50, 2.0**50])
def test_units_of_the_targets_only_rescale_what_cross_validation_says(unit):
  x, y = (jnp.asarray(v, jnp.float32) for v in problem())
  lams = jnp.array([1.0, 0.3, 0.03])
  fit = lambda c: regression.cross_validate(
    x, c * y, c * lams, folds=np.arange(40) % 4, num_folds=4
  )
  plain, moved = fit(jnp.float32(1)), fit(jnp.float32(unit))
  assert np.all(plain.standard_error > 0)
  np.testing.assert_allclose(moved.standard_error / unit / unit, plain.standard_error, rtol=1e-3)
  np.testing.assert_allclose(moved.one_standard_error / unit, plain.one_standard_error)


def test_an_outlying_row_that_is_held_out_does_not_spoil_the_fit_of_the_others():
  """exp(z) of the held-out row overflows; the fit without it is that of the other rows alone."""
  x, y = problem(30, 2)
  y, lams = np.round(np.exp(0.3 * y)), np.array([0.1, 0.01])
  x[0] = 300.0, -300.0
  weights = (np.arange(30) > 0).astype(float)
  path = regression.regularization_path(x, y, lams, loss="poisson", sample_weight=weights)
  alone = regression.regularization_path(x[1:], y[1:], lams, loss="poisson")
  assert not np.any(path.status)
  assert np.all(np.abs(path.coefficients @ x[0]) > 89)
  np.testing.assert_allclose(path.coefficients, alone.coefficients, atol=2e-4)


def test_unknown_options_are_named_and_failed_solves_select_nothing():
  x, y = problem()
  folds, key = np.arange(40) % 2, jax.random.key(0)
  with pytest.raises(TypeError, match=r"got 'los'\. Did you mean 'loss'"):
    regression.cross_validate(x, y, [0.1], folds=folds, num_folds=2, los="huber")
  with pytest.raises(TypeError, match="but for certificate; got 'certificate'"):
    regression.stability_selection(key, x, y, [0.1], certificate=True)
  y[3] = np.nan
  result = regression.stability_selection(key, x, y, [0.4], num_subsamples=3)
  assert np.all(result.status == 2) and not np.any(result.selected)
  assert np.all(np.isnan(result.scores)) and np.isnan(result.error_bound)
