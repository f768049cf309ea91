"""Metrics against closed forms, and the Sign-RIP against Monte Carlo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import recovery


@pytest.mark.x64
def test_procrustes_distance(rng):
  u = rng.standard_normal((7, 3))
  rotation = np.linalg.qr(rng.standard_normal((3, 3)))[0]
  assert recovery.procrustes_dist(u, u @ rotation) < 1e-13
  v = rng.standard_normal((7, 3))
  best = float(recovery.procrustes_dist(u, v))
  # Closed form: ||U||^2 + ||V||^2 - 2 ||V^T U||_*; and no random rotation does better.
  nuclear = np.linalg.svd(v.T @ u, compute_uv=False).sum()
  np.testing.assert_allclose(best**2, (u**2).sum() + (v**2).sum() - 2 * nuclear, rtol=1e-12)
  for _ in range(50):
    other = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    assert np.linalg.norm(u - v @ other) >= best - 1e-12


@pytest.mark.x64
def test_other_metrics(rng):
  x = rng.standard_normal((5, 4))
  np.testing.assert_allclose(recovery.rel_err(1.1 * x, x), 0.1, rtol=1e-12)
  assert recovery.rel_err(jnp.zeros(2), jnp.zeros(2)) == 0
  assert jnp.isinf(recovery.rel_err(jnp.ones(2), jnp.zeros(2)))
  left, right = rng.standard_normal((5, 2)), rng.standard_normal((4, 2))
  expected = np.linalg.norm(left.T @ left - right.T @ right)
  np.testing.assert_allclose(recovery.factor_imbalance(left, right), expected, rtol=1e-12)
  angle = 0.3
  u, v = jnp.array([[1.0], [0.0]]), jnp.array([[np.cos(angle)], [np.sin(angle)]])
  np.testing.assert_allclose(recovery.principal_angle(u, v), np.sin(angle), rtol=1e-12)
  found, truth = jnp.array([1.0, 0.1, 0.0, 2.0]), jnp.array([1.0, 0.0, 1.0, 2.0])
  np.testing.assert_allclose(recovery.support_f1(found, truth), 2 * 2 / (3 + 3))
  np.testing.assert_allclose(recovery.support_f1(found, truth, tol=0.5), 2 * 2 / (2 + 3))
  assert recovery.support_f1(jnp.zeros(2), jnp.zeros(2)) == 1


@pytest.mark.x64
@pytest.mark.parametrize("rate, scale", [(0.0, 1.0), (0.3, 1.5), (1.0, 1.0), (0.4, 1e6)], ids=str)
def test_mean_sign_gradient_is_phi_times_the_direction(rate, scale, key):
  """E[sign(<A, X> - s) A] = phi(X) X / ||X||_F, in direction and in size."""
  samples, d = 400_000, 3
  keys = jax.random.split(key, 3)
  x = jnp.asarray([[1.0, 0.5, 0.0], [0.5, -2.0, 1.0], [0.0, 1.0, 0.3]])
  norm = jnp.linalg.norm(x)
  op = recovery.make_gaussian_sensing(keys[0], samples, d, d)
  s = recovery.bernoulli_outliers(keys[1], jnp.zeros(samples), rate=rate, scale=scale).s
  mean = op.adjoint(jnp.sign(op.apply(x) - s)) / samples
  phi = recovery.sign_rip_phi_gaussian(norm, rate=rate, scale=scale)
  noise = 1 / np.sqrt(samples)  # standard deviation of an entry of the mean
  assert jnp.linalg.norm(mean - phi * x / norm) < 2 * d * noise
  np.testing.assert_allclose(jnp.vdot(mean, x) / norm, phi, rtol=0.01)
  np.testing.assert_allclose(recovery.sign_rip_phi(norm, s), phi, rtol=0.01)


def test_phi_is_bounded_below_whatever_the_outliers():
  norms = jnp.array([1e-3, 1.0, 1e3])
  for p in (0.1, 0.5, 0.99):
    bound = np.sqrt(2 / np.pi) * (1 - p)
    for scale in (1.0, 1e6, 1e18):
      phi = recovery.sign_rip_phi_gaussian(norms, rate=p, scale=scale)
      assert bool(jnp.all(phi >= bound * (1 - 1e-5)))
  # With dense Gaussian noise phi is linear near 0: the l1 loss acts like the squared one.
  phi = recovery.sign_rip_phi_gaussian(jnp.array([1e-3, 2e-3]), rate=1.0, scale=1.0)
  np.testing.assert_allclose(phi[1] / phi[0], 2.0, rtol=1e-4)


def test_gap_falls_with_measurements(key):
  keys = jax.random.split(key, 3)
  gaps = []
  for i, m in enumerate((500, 8000)):
    op = recovery.make_gaussian_sensing(keys[i], m, 5, 5)
    s = recovery.bernoulli_outliers(keys[2], jnp.zeros(m), rate=0.3, scale=100.0).s
    measure = jax.jit(recovery.sign_rip_gap, static_argnames=("rank", "num_samples"))
    gaps.append(float(measure(keys[2], op, s, rank=2, num_samples=64)))
  # The deviation of <D, Y> has standard deviation 1/sqrt(m): a factor 4 here, of which we ask 2.
  assert gaps[1] < gaps[0] / 2
  assert 0 < gaps[1] < 5 / np.sqrt(8000) / 0.55
