"""Starting points and the growth factor."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import problems, recovery
from jaxopt_robust.recovery.initial import growth_of

D, R, M = 12, 2, 3000


@pytest.fixture
def psd(key):
  keys = jax.random.split(key, 3)
  basis = jnp.linalg.qr(jax.random.normal(keys[0], (D, R)))[0]
  truth = basis @ basis.T
  op = recovery.make_gaussian_sensing(keys[1], M, D, D)
  return op, truth, basis, op.apply(truth)


@pytest.fixture
def general(key):
  keys = jax.random.split(key, 4)
  left = jnp.linalg.qr(jax.random.normal(keys[0], (D, R)))[0]
  right = jnp.linalg.qr(jax.random.normal(keys[1], (8, R)))[0]
  op = recovery.make_gaussian_sensing(keys[2], M, D, 8)
  return op, left @ right.T, left, right


def test_sign_start_points_at_the_signal_and_ignores_size(psd, key):
  op, _, basis, y = psd
  s, mask = recovery.bernoulli_outliers(key, y, rate=0.3, scale=1.0)[1:]
  starts = [recovery.sign_spectral(op, y + scale * s, R, alpha=1e-2).L for scale in (1e2, 1e8)]
  for start in starts:
    directions = jnp.linalg.qr(start)[0]
    assert recovery.principal_angle(directions, basis) < 0.3
    assert jnp.linalg.norm(start, ord=2) < 1e-2  # alpha sqrt(phi / sqrt(r)) <= alpha
  # Outliers of 1e2 already decide every sign where they occur, but for the odd small one.
  np.testing.assert_allclose(*starts, atol=1e-3)
  assert bool(mask.any())


def test_sign_start_is_the_eigendecomposition_of_the_sign_mean(psd):
  op, _, _, y = psd
  mean = op.adjoint(jnp.sign(y)) / M
  symmetric = (mean + mean.T) / 2
  full = recovery.compose(recovery.sign_spectral(op, y, D, alpha=0.5))
  values, vectors = np.linalg.eigh(np.asarray(symmetric))
  positive = 0.25 * (vectors * np.maximum(values, 0)) @ vectors.T
  np.testing.assert_allclose(full, positive, atol=1e-5)


def test_general_sign_start(general):
  op, truth, left, right = general
  start = recovery.sign_spectral(op, op.apply(truth), R, alpha=1e-2, kind="general")
  assert recovery.principal_angle(jnp.linalg.qr(start.L)[0], left) < 0.3
  assert recovery.principal_angle(jnp.linalg.qr(start.R)[0], right) < 0.3
  assert recovery.factor_imbalance(start.L, start.R) < 1e-8


def test_random_and_identity_starts(key):
  start = recovery.random_small(key, 400, 50, alpha=1e-3)
  assert start.R is None and start.L.shape == (400, 50)
  np.testing.assert_allclose(jnp.std(start.L), 1e-3 / 20, rtol=0.05)
  pair = recovery.random_small(key, (400, 100), 50, alpha=1e-3)
  np.testing.assert_allclose(jnp.std(pair.R), 1e-3 / 10, rtol=0.05)
  np.testing.assert_array_equal(recovery.alpha_identity(3, alpha=0.1).L, 0.1 * jnp.eye(3))


def test_truncated_starts_ignore_what_they_drop(general, key):
  op, truth, _, _ = general
  clean = op.apply(truth)
  y = recovery.fixed_count_outliers(key, clean, rate=0.2, scale=1e6).y
  relative = lambda start: float(recovery.rel_err(recovery.compose(start), truth))
  kept = relative(recovery.truncated_spectral(op, y, R, rate=0.2))
  median = relative(recovery.median_truncated_spectral(op, y, R))
  everything = relative(recovery.truncated_spectral(op, y, R, rate=0.0))
  assert kept < 0.7 and median < 0.7 and everything > 100
  # rate = 0 keeps all measurements: the plain spectral start.
  u, s, vt = np.linalg.svd(np.asarray(op.adjoint(clean)) / M)
  plain = (u[:, :R] * s[:R]) @ vt[:R]
  start = recovery.truncated_spectral(op, clean, R, rate=0.0)
  np.testing.assert_allclose(recovery.compose(start), plain, atol=1e-5)


def test_truncation_counts_and_breaks_ties_by_index():
  op = recovery.Identity((2, 2))
  y = jnp.array([1.0, -1.0, 1.0, 1.0])
  for rate, kept in ((0.0, 4), (0.25, 3), (0.3, 3), (0.5, 2), (0.74, 2)):
    start = recovery.truncated_spectral(op, y, 2, rate=rate)
    expected = jnp.where(jnp.arange(4) < kept, y, 0).reshape(2, 2) / kept
    np.testing.assert_allclose(recovery.compose(start), expected, atol=1e-6)


def test_mask_start_is_unbiased_and_exact_when_all_is_seen(rng, key):
  left, right = rng.standard_normal((20, 2)), rng.standard_normal((15, 2))
  truth = jnp.asarray(left @ right.T, jnp.float32)
  full = recovery.EntryMask(jnp.ones((20, 15), bool))
  exact = recovery.mask_spectral(full, truth.ravel(), 2)
  np.testing.assert_allclose(recovery.compose(exact), truth, atol=1e-4)
  op = recovery.make_entry_mask(key, 20, 15, rate=0.6)
  unseen = jnp.where(op.mask, truth, jnp.nan).ravel()  # what is not observed is not read
  part = recovery.mask_spectral(op, unseen, 2)
  assert recovery.rel_err(recovery.compose(part), truth) < 0.8


def test_growth_factor(psd, general):
  op, _, _, y = psd
  # Population value ||X*||_F / sigma_r = sqrt(2); ||C||_F also holds noise of about d / sqrt(m).
  ideal = np.hypot(np.sqrt(2), D / np.sqrt(M) / np.sqrt(2 / np.pi) * np.sqrt(2))
  assert abs(float(recovery.growth_factor(op, y, R)) - ideal) < 0.15
  np.testing.assert_allclose(recovery.growth_factor(op, y), recovery.growth_factor(op, y, R))
  op, truth, _, _ = general
  y = op.apply(truth)
  g = recovery.growth_factor(op, y, R, kind="general")
  assert 2 * np.sqrt(2) < float(g) < 4
  np.testing.assert_allclose(recovery.growth_factor(op, y, kind="general"), g)
  # No positive direction: X* negative definite.
  op = recovery.Identity((2, 2))
  assert jnp.isinf(recovery.growth_factor(op, -jnp.eye(2).ravel(), 1))


def test_growth_is_found_without_the_rank_in_nearly_all_draws():
  """Equal singular values, up to 40 % gross errors: the estimate counts the directions right."""

  @jax.jit
  def both(key, rate):
    def draw(key):
      problem = problems.make_low_rank_sensing(
        key, num_measurements=600, rows=10, rank=R, outlier_rate=rate, outlier_scale=100.0
      )
      matrices, y = problem.data
      op = recovery.GaussianSensing(matrices.reshape(600, -1), (10, 10))
      return recovery.growth_factor(op, y), recovery.growth_factor(op, y, R)

    return jax.lax.map(draw, jax.random.split(key, 40))

  found = np.concatenate(
    [np.stack(both(jax.random.key(i), rate)) for i, rate in enumerate((0.0, 0.3, 0.4))], axis=1
  )
  # Of 120 draws; at a rate of 99 % more than four failures have probability 0.8 %.
  assert np.sum(found[0] != found[1]) <= 4


def test_growth_of_a_rectangle_finds_its_rank_by_the_edge_of_its_shape(rng):
  """Gavish and Donoho: values above omega(1/4) = 1.834 times the median are signal."""
  left = np.linalg.qr(rng.normal(size=(5, 5)))[0]
  right = np.linalg.qr(rng.normal(size=(20, 5)))[0]
  for second, weakest in ((2.2, 2.2), (1.7, 10.0)):
    values = np.array([10.0, second, 1.0, 1.0, 1.0])
    dense = jnp.asarray(left @ np.diag(values) @ right.T, jnp.float32)
    growth = growth_of(dense, None, "general")
    np.testing.assert_allclose(growth, 2 * np.linalg.norm(values) / weakest, rtol=1e-5)


def test_growth_bounds_the_first_step(psd):
  """Near 0 a step multiplies the weakest signal direction by 1 + 2 eta / g."""
  op, _, _, y = psd
  g = float(recovery.growth_factor(op, y, R))
  start = recovery.sign_spectral(op, y, R, alpha=1e-6)
  _, grads, aux = recovery.l1_value_subgrad(op, y, start)
  eta = 0.25
  after = start.L - eta / aux.q_norm * grads.L
  ratios = jnp.linalg.norm(after, axis=0) / jnp.linalg.norm(start.L, axis=0)
  np.testing.assert_allclose(jnp.min(ratios), 1 + 2 * eta / g, rtol=1e-3)
