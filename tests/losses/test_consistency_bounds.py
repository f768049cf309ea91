"""Consistency-bound calculators against brute force over scores and grids."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import losses

pytestmark = pytest.mark.x64
transform = jax.jit(losses.comp_sum_transform, static_argnames="num_classes")
gamma = jax.jit(losses.comp_sum_gamma, static_argnames="num_classes")
gamma_exact = jax.jit(losses.comp_sum_gamma_exact, static_argnames="num_classes")
conditional_regret = jax.jit(losses.comp_sum_conditional_regret)
TAUS = [0.0, 0.5, 0.97, 1.0, 1.03, 1.5, 2.0]


def phi_of_p(p, tau):
  return -np.log(p) if tau == 1 else (p ** (tau - 1) - 1) / (1 - tau)


def brute_force_two_classes(beta, tau):
  """Smallest regret over scores that rank the less likely class first, for p = (1 +- beta) / 2."""
  s = np.linspace(1e-7, 1 - 1e-7, 2_000_001)  # softmax of the likelier class
  p = (1 + beta) / 2
  risk = p * phi_of_p(s, tau) + (1 - p) * phi_of_p(1 - s, tau)
  return risk[s <= 0.5].min() - risk.min()


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("beta", [0.3, 0.7])
def test_transform_is_the_infimum_for_two_classes(tau, beta):
  ours = transform(jnp.array(beta), tau=tau, num_classes=2)
  # the grid of softmax values has spacing 5e-7; at tau = 2 the minimum sits at its end
  np.testing.assert_allclose(ours, brute_force_two_classes(beta, tau), atol=2e-6)


def test_transform_is_valid_above_two():
  for beta in (0.3, 0.7):
    ours = transform(jnp.array(beta), tau=2.5, num_classes=2)
    exact = brute_force_two_classes(beta, 2.5)
    assert 0 < ours < exact - 0.01  # a lower bound, not tight


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 1.5, 2.0, 2.5])
def test_transform_is_below_brute_force_for_three_classes(tau):
  # all softmax values on a triangular grid, all label distributions on a coarser one
  m = 60
  i, j = np.meshgrid(np.arange(1, m), np.arange(1, m))
  keep = i + j < m
  s = np.stack([i[keep], j[keep], m - i[keep] - j[keep]], axis=1) / m
  rng = np.random.default_rng(0)
  p = rng.dirichlet(np.ones(3), size=300)
  logits = jnp.log(jnp.asarray(s))
  pairs = np.broadcast_to(p[:, None], (len(p), *s.shape))
  regret = conditional_regret(jnp.broadcast_to(logits, pairs.shape), pairs, tau=tau)
  # the closed form of the infimum depends on p alone and is below every point of the grid
  least = p @ phi_of_p(s, tau).T - regret
  np.testing.assert_allclose(least, np.broadcast_to(least[:, :1], least.shape), rtol=1e-8)
  assert np.all(regret >= -1e-12)
  # 0/1 regret of predicting the largest softmax entry
  zero_one = p.max(1, keepdims=True) - p[:, s.argmax(1)]
  bound = transform(jnp.asarray(zero_one), tau=tau, num_classes=3)
  assert np.all(bound <= regret + 1e-12)
  # ties are resolved by the worst of the tied classes
  tied = s.max(1)[:, None] - s < 1e-12
  worst = p.max(1, keepdims=True) - np.where(tied[None], p[:, None, :], 1).min(2)
  assert np.all(transform(jnp.asarray(worst), tau=tau, num_classes=3) <= regret + 1e-12)


@pytest.mark.parametrize("tau", [*TAUS, 2.5, 1.95, 0.949, 0.951, 1.049, 1.051])
def test_least_conditional_risk_is_attained(tau, rng):
  p = rng.dirichlet(np.ones(4), size=5)
  if tau < 2:
    scores = np.log(p) / (2 - tau)  # softmax proportional to p^(1 / (2 - tau))
  else:
    scores = 60.0 * np.eye(4)[p.argmax(1)]
  regret = conditional_regret(jnp.asarray(scores), jnp.asarray(p), tau=tau)
  np.testing.assert_allclose(regret, 0, atol=1e-12)
  tied = conditional_regret(jnp.zeros((5, 4)), jnp.asarray(p), tau=tau)
  assert np.all(tied > 1e-4)


def test_regret_with_certain_labels_is_the_loss(rng):
  logits = jnp.asarray(rng.normal(size=(4, 3)))
  labels = jnp.array([0, 1, 2, 1])
  for tau in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0):
    regret = conditional_regret(logits, jnp.eye(3)[labels], tau=tau)
    np.testing.assert_allclose(regret, losses.comp_sum_loss(logits, labels, tau=tau), rtol=1e-10)


@pytest.mark.parametrize("num_classes", [2, 10])
@pytest.mark.parametrize("tau", [0.0, 0.5, 0.99, 1.0, 1.01, 1.5, 1.99, 2.0, 2.5])
def test_simple_gamma_is_above_the_exact_inverse(tau, num_classes):
  beta = jnp.linspace(0, 1, 1001)[1:-1]
  t = transform(beta, tau=tau, num_classes=num_classes)
  assert np.all(np.diff(t) > 0)
  assert np.all(gamma(t, tau=tau, num_classes=num_classes) >= beta - 1e-9)
  exact = gamma_exact(t, tau=tau, num_classes=num_classes)
  # T is about beta^2 / 2 times a constant: its rounding error divided by the slope
  np.testing.assert_allclose(exact, beta, atol=1e-11)


def test_gamma_at_the_ends():
  for tau in (0.5, 1.0, 1.5, 2.5):
    ends = jnp.array([0.0, 1e3, jnp.inf])
    np.testing.assert_array_equal(gamma_exact(ends, tau=tau, num_classes=3), [0, 1, 1])
    np.testing.assert_array_equal(gamma(ends, tau=tau, num_classes=3), [0, 1, 1])
  assert np.isfinite(jax.grad(lambda t: gamma(t, num_classes=3))(0.0))


def test_transform_is_continuous_and_maps_over_tau():
  taus = jnp.array([1 - 1e-7, 1.0, 1 + 1e-7, 0.95 - 1e-9, 0.95 + 1e-9, 1.05 - 1e-9, 1.05 + 1e-9])
  fun = jax.jit(
    jax.vmap(lambda tau, beta: transform(beta, tau=tau, num_classes=5), in_axes=(0, None))
  )
  values = fun(taus, jnp.array([0.1, 0.5, 0.99]))
  np.testing.assert_allclose(values[0], values[1], atol=1e-6)
  np.testing.assert_allclose(values[2], values[1], atol=1e-6)
  np.testing.assert_allclose(values[3], values[4], rtol=1e-7)
  np.testing.assert_allclose(values[5], values[6], rtol=1e-7)
  beta = np.array([0.1, 0.5, 0.99])
  closed = (1 + beta) / 2 * np.log1p(beta) + (1 - beta) / 2 * np.log1p(-beta)
  np.testing.assert_allclose(values[1], closed, rtol=1e-12)


@pytest.mark.parametrize("tau", [0.3, 1.7])
def test_transform_equals_its_formula(tau):
  beta, n = np.linspace(0.05, 1, 9), 7
  e = 1 / (2 - tau)
  mean = ((1 + beta) ** e + (1 - beta) ** e) / 2
  if tau < 1:
    expected = 2 ** (1 - tau) / (1 - tau) * (1 - mean ** (2 - tau))
  else:
    expected = (mean ** (2 - tau) - 1) / ((tau - 1) * n ** (tau - 1))
  ours = transform(jnp.asarray(beta), tau=tau, num_classes=n)
  np.testing.assert_allclose(ours, expected, rtol=1e-11)


def test_float32_is_close():
  beta = np.array([0.2, 0.6, 1.0])
  wide = transform(jnp.asarray(beta), tau=1.02, num_classes=4)
  narrow = transform(jnp.asarray(beta, jnp.float32), tau=1.02, num_classes=4)
  assert narrow.dtype == jnp.float32
  np.testing.assert_allclose(narrow, wide, atol=5e-7)
  half = gamma_exact(jnp.asarray(wide, jnp.bfloat16), tau=1.02, num_classes=4)
  assert half.dtype == jnp.bfloat16
