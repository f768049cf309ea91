"""Mutual information: independence, the Gaussian closed form, invariance, screening by blocks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import regression
from tests.helpers import assert_no_retrace

N = 1000
KDE = jax.jit(jax.vmap(regression.mi_kde))
BINNED = jax.jit(jax.vmap(regression.mi_binned))


def gaussian_pairs(rhos, seed=0):
  """Pairs whose sample correlations are exactly ``rhos``."""
  rng = np.random.default_rng(seed)
  raw = rng.standard_normal((len(rhos), N, 2))
  raw -= raw.mean(1, keepdims=True)
  white = np.stack([np.linalg.qr(a)[0] for a in raw]) * np.sqrt(N)
  rhos = np.asarray(rhos)[:, None]
  x, e = white[..., 0], white[..., 1]
  return x.astype(np.float32), (rhos * x + np.sqrt(1 - rhos**2) * e).astype(np.float32)


RHOS = (0.0, 0.3, 0.5, 0.7, 0.9)


def test_independent_data_score_low_gaussian_ones_as_the_closed_form_and_dependence_orders():
  x, y = gaussian_pairs(RHOS)
  found = np.asarray(KDE(x, y))
  assert found[0] < 0.03
  assert abs(found[1] - -0.5 * np.log(1 - 0.3**2)) < 0.01
  assert np.all(np.diff(found) > 0)
  # Smoothing hides a part of strong dependence; it never adds to it.
  assert 0.4 < found[-1] < -0.5 * np.log(1 - 0.9**2)
  binned = np.asarray(BINNED(x, y))
  assert np.all(np.diff(binned) > 0)


def test_affine_maps_and_the_order_of_the_variables_change_nothing():
  x, y = gaussian_pairs(RHOS)
  for score, atol in ((KDE, 1e-4), (BINNED, 1e-2)):
    found = score(x, y)
    np.testing.assert_allclose(score(y, x), found, atol=1e-5)
    # Rounding may move a number into the next bin.
    np.testing.assert_allclose(score(100 - 7 * x, 0.5 * y + 3), found, atol=atol)
    for unit in (2.0**-40, 2.0**40):
      np.testing.assert_allclose(score(x * np.float32(unit), y), found, atol=1e-6)


def test_density_table_is_that_of_loops():
  """The formula written out for a few numbers, on a coarse grid, with the Gaussian kernel."""
  rng = np.random.default_rng(1)
  x, y = rng.standard_normal((2, 40))
  tables = []
  for v in (x, y):
    q1, q2, q3 = np.quantile(v, [0.25, 0.5, 0.75])
    v = (v - q2) / (q3 - q1)
    h = min(v.std(ddof=1), 1 / 1.349) * (3 * 40 / 4) ** -0.2
    grid = np.linspace(v.min() - 3 * h, v.max() + 3 * h, 25)
    tables.append(np.exp(-0.5 * ((grid[:, None] - v) / h) ** 2))
  p = np.einsum("an,bn->ab", *tables)
  p /= p.sum()
  expected = np.sum(p * np.log(p / p.sum(1, keepdims=True) / p.sum(0)))
  found = regression.mi_kde(x, y, num_grid=25, kernel="gaussian")
  np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_classes_give_at_most_their_entropy_and_all_of_it_where_they_are_apart():
  rng = np.random.default_rng(2)
  labels = np.arange(N) % 4
  noise = rng.standard_normal(N)
  score = jax.jit(lambda v, c: regression.mi_kde_discrete(v, c, num_classes=5))
  assert float(score(noise, labels)) < 0.03
  # The bandwidth is that of the whole sample: a little of what is apart overlaps.
  apart = float(score(100.0 * labels + noise, labels))
  assert 0.85 * np.log(4) < apart <= np.log(4) + 1e-4
  half = float(score(100.0 * (labels // 2) + noise, labels))
  assert 0.8 * np.log(2) < half <= np.log(2) + 1e-4
  # Two normal densities a deviation apart: the integral by quadrature, of the smoothed densities.
  two = labels % 2
  x = noise + two
  t = np.linspace(-8, 9, 4001)
  density = np.stack([np.exp(-0.5 * (t - m) ** 2) for m in (0.0, 1.0)]) / np.sqrt(2 * np.pi)
  mean = density.mean(0)
  exact = np.mean(np.sum(density * np.log(density / mean), 1)) * (t[1] - t[0])
  assert abs(float(score(x, two)) - exact) < 0.03


def test_bins_are_those_of_the_criterion_and_the_histogram():
  rng = np.random.default_rng(3)
  x = rng.standard_normal(300)
  y = x**2 + 0.1 * rng.standard_normal(300)

  def number(v):
    def criterion(d):
      counts = np.histogram(v, d)[0]
      counts = counts[counts > 0]
      return np.sum(counts * np.log(counts)) + 300 * np.log(d) - (d - 1 + np.log(d) ** 2.5)

    return max(range(2, 100), key=criterion)

  p = np.histogram2d(x, y, (number(x), number(y)))[0] / 300
  ratio = p / np.outer(p.sum(1), p.sum(0)).clip(1e-300)
  expected = np.sum(p[p > 0] * np.log(ratio[p > 0]))
  np.testing.assert_allclose(regression.mi_binned(x, y), expected, rtol=1e-4)


def test_constant_or_tied_covariates_score_zero_or_finite_and_nan_stays():
  rng = np.random.default_rng(4)
  x, y = rng.standard_normal((2, 5, N)).astype(np.float32)
  x[0], x[1] = 3.0, np.arange(N) < 10  # constant; more than three quarters equal
  x[2, 7] = np.nan
  for score in (KDE, BINNED):
    found = np.asarray(score(x, y))
    assert found[0] < 1e-6 and np.isnan(found[2])
    assert np.all(found[[1, 3, 4]] >= 0)


@pytest.mark.parametrize("estimator", ["kde", "discrete", "binned"])
def test_screening_in_blocks_is_one_covariate_at_a_time(estimator):
  rng = np.random.default_rng(5)
  x = rng.standard_normal((100, 7)).astype(np.float32)
  signal = x[:, 4] ** 2 + x[:, 2] ** 2
  options = {"estimator": estimator, "num_grid": 50, "top_k": 2}
  if estimator == "discrete":
    y = (signal > np.median(signal)).astype(np.int32)
    options["num_classes"] = 2
    one = lambda v: regression.mi_kde_discrete(v, y, num_classes=2, num_grid=50)
  else:
    y = signal
    kde = lambda v: regression.mi_kde(v, y, num_grid=50)
    one = kde if estimator == "kde" else (lambda v: regression.mi_binned(v, y))
  expected = jax.jit(jax.vmap(one))(x.T)
  for block_size in (3, 100):
    screened = regression.mi_screen(x, y, block_size=block_size, **options)
    np.testing.assert_allclose(screened.scores, expected, rtol=1e-4)
    assert set(np.asarray(screened.indices).tolist()) == {2, 4}
  assert screened.scores[screened.indices[0]] >= screened.scores[screened.indices[1]]


def test_one_wild_number_costs_no_more_than_its_own_row():
  """A thousandth of the rows, moved to where the grid would lose all others."""
  x, y = (v[3] for v in gaussian_pairs(RHOS))
  wild = np.tile(y, (5, 1))
  wild[:4, 7] = 1e3, 1e4, -1e6, 1e12
  found = np.asarray(KDE(np.tile(x, (5, 1)), wild))
  np.testing.assert_allclose(found[:4], found[4], atol=0.01)
  score = lambda v: regression.mi_kde_discrete(v, x > 0, num_classes=2, kernel="gaussian")
  found = np.asarray(jax.jit(jax.vmap(score))(wild))
  np.testing.assert_allclose(found[:4], found[4], atol=0.01)


def test_no_example_of_a_known_class_has_no_information():
  x, labels = jnp.arange(6.0), jnp.full(6, 7)
  score = jax.jit(lambda x, c: regression.mi_kde_discrete(x, c, num_classes=2, num_grid=8))
  assert float(score(x, labels)) == 0
  assert np.isnan(score(x.at[0].set(jnp.nan), labels))


def test_coarse_grids_smooth_and_a_nan_covariate_is_ranked_last():
  pairs = gaussian_pairs(RHOS)
  x, y = (v[2] for v in pairs)
  columns = np.stack([np.where(np.arange(N) == 5, np.nan, x), y, x], 1)
  screened = regression.mi_screen(columns, x, top_k=3, num_grid=8)
  assert screened.indices.tolist() == [2, 1, 0] and np.isnan(screened.scores[0])
  # Smoothing is a map of each variable: it never adds information.
  assert 0 <= screened.scores[1] < KDE(*pairs)[2]


def test_another_outcome_costs_no_compile():
  x = jnp.asarray(np.random.default_rng(6).standard_normal((30, 3)), jnp.float32)
  assert_no_retrace(
    lambda x, y: regression.mi_screen(x, y, top_k=1, num_grid=20), lambda i: (x, x[:, i] + i)
  )
