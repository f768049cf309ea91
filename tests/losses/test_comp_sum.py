"""Comp-sum losses: special cases, continuity in tau, and the smooth adversarial loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import losses
from jaxopt_robust.debug import count_traces


@pytest.fixture
def case(rng):
  logits = rng.normal(size=(6, 4)) * 2
  labels = rng.integers(0, 4, size=6)
  p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  return logits, labels, p, p[np.arange(6), labels]


def phi(u, tau):
  return np.log1p(u) if tau == 1 else ((1 + u) ** (1 - tau) - 1) / (1 - tau)


@pytest.mark.x64
@pytest.mark.parametrize("rho", [1.0, 0.4])
def test_equals_its_formula_at_all_taus_in_one_compile(case, rho):
  logits, labels, _, _ = case
  taus = np.array([0.0, 0.5, 0.9, 1.0, 1.1, 1.5, 2.0, 3.5])
  values = jax.jit(jax.vmap(lambda tau: losses.comp_sum_loss(logits, labels, tau=tau, rho=rho)))(
    jnp.asarray(taus)
  )
  others = np.exp((logits - logits[np.arange(6), labels][:, None]) / rho)
  others[np.arange(6), labels] = 0
  expected = np.stack([phi(others.sum(1), tau) for tau in taus])
  np.testing.assert_allclose(values, expected, rtol=1e-11)


@pytest.mark.x64
def test_special_cases(case):
  logits, labels, _, p_y = case
  value = lambda tau: losses.comp_sum_loss(logits, labels, tau=tau)
  np.testing.assert_allclose(value(0.0), 1 / p_y - 1, rtol=1e-12)
  np.testing.assert_allclose(value(1.0), losses.cross_entropy_loss(logits, labels), rtol=1e-14)
  gce = losses.generalized_cross_entropy_loss(logits, labels, q=0.7)
  np.testing.assert_allclose(value(1.7), gce, rtol=1e-12)
  np.testing.assert_allclose(value(2.0), losses.softmax_mae_loss(logits, labels), rtol=1e-12)


@pytest.mark.x64
def test_continuous_through_tau_one(case):
  logits, labels, _, p_y = case
  log_p = np.log(p_y)
  fun = lambda f, tau: losses.comp_sum_loss(f, labels, tau=tau)
  derivative = jax.jit(lambda tau: jax.jvp(lambda t: fun(logits, t), (tau,), (1.0,)))
  gradient = jax.jit(jax.grad(lambda f, tau: jnp.sum(fun(f, tau))))
  at_one = gradient(jnp.asarray(logits), 1.0)
  for step in (0.0, 1e-12, 1e-9, 1e-6, 1e-4, -1e-4, -1e-6, -1e-9):
    q = step  # tau - 1
    value, slope = derivative(1.0 + q)
    # -log p + series in q: sum_n (-1)^n q^n (log p)^(n+1) / (n+1)! with the sign of the loss
    series = -log_p - q * log_p**2 / 2 - q**2 * log_p**3 / 6
    np.testing.assert_allclose(value, series, rtol=1e-12, atol=np.abs(log_p**4).max() * abs(q) ** 3)
    np.testing.assert_allclose(
      slope, -(log_p**2) / 2 - q * log_p**3 / 3, rtol=1e-12, atol=np.abs(log_p**4).max() * q**2
    )
    np.testing.assert_allclose(
      gradient(jnp.asarray(logits), 1.0 + q), at_one, atol=2 * abs(q) * np.abs(log_p).max() + 1e-14
    )


@pytest.mark.x64
def test_derivatives_of_second_order_and_in_tau_against_finite_differences(case):
  logits, labels, _, _ = case
  loss = lambda tau: jnp.sum(losses.comp_sum_loss(logits, labels, tau=tau))
  first, second = jax.jit(jax.grad(loss)), jax.jit(jax.grad(jax.grad(loss)))
  for tau in (0.3, 0.99, 1.0, 1.2, 2.5):
    eps = 1e-5
    central = (loss(tau + eps) - loss(tau - eps)) / (2 * eps)
    np.testing.assert_allclose(first(tau), central, rtol=1e-7)
    central = (first(tau + eps) - first(tau - eps)) / (2 * eps)
    np.testing.assert_allclose(second(tau), central, rtol=1e-7)


@pytest.mark.x64
@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 1.5, 2.0])
def test_gradient_in_the_label_score(case, tau):
  logits, labels, p, p_y = case
  grads = jax.grad(lambda f: jnp.sum(losses.comp_sum_loss(f, labels, tau=tau)))(jnp.asarray(logits))
  onehot = np.eye(4)[labels]
  np.testing.assert_allclose(
    grads, (p - onehot) * p_y[:, None] ** (tau - 1), rtol=1e-10, atol=1e-14
  )


def test_decreasing_in_the_probability_of_the_label():
  score = jnp.linspace(-30, 15, 200)
  logits = jnp.stack([score, jnp.zeros(200), jnp.zeros(200)], axis=1)
  for tau in (0.0, 0.5, 1.0, 1.5, 2.0):
    loss = losses.comp_sum_loss(logits, jnp.zeros(200, jnp.int32), tau=tau)
    steps = np.diff(loss)
    assert np.all(steps <= 0)
    assert np.all(steps[-100:] < 0)  # where float32 resolves them


def test_steep_losses_go_on_linearly_instead_of_overflowing():
  # 1/p - 1 at tau = 0 overflows float32 from -log p = 89 on
  logits = jnp.array([[0.0, 30.0], [0.0, 60.0], [0.0, 120.0], [0.0, 1e4]])
  labels = jnp.zeros(4, jnp.int32)
  fun = lambda f: losses.comp_sum_loss(f, labels, tau=0.0)
  np.testing.assert_allclose(fun(logits)[0], np.exp(30.0), rtol=1e-5)
  grads = jax.grad(lambda f: jnp.sum(fun(f)))(logits)
  assert np.all(np.diff(fun(logits)) > 0) and np.all(np.isfinite(fun(logits)))
  np.testing.assert_allclose(grads[1:, 1], grads[3, 1])  # the slope stays
  assert 1e14 < grads[3, 1] < 1e15
  assert np.isfinite(jnp.sum(grads**2) * 1e6)  # room for the global norm of a network


def test_no_compile_for_new_parameters(case):
  logits, labels = jnp.asarray(case[0], jnp.float32), jnp.asarray(case[1])
  counted = count_traces(lambda f, tau: jnp.sum(losses.comp_sum_loss(f, labels, tau=tau)))
  fun = jax.jit(jax.grad(counted))
  for tau in (0.0, 1.0, 2.0):
    fun(logits, tau)
  assert counted.traces == 1


def test_deviation_is_the_norm_of_the_margin_changes(rng):
  a, b = rng.normal(size=(2, 5, 4)).astype(np.float32)
  labels = np.array([0, 1, 2, 3, 0])
  margins = lambda f: np.stack(
    [row[y] - np.delete(row, y) for row, y in zip(f, labels, strict=True)]
  )
  expected = np.linalg.norm(margins(b) - margins(a), axis=1)
  np.testing.assert_allclose(losses.margin_deviation(a, b, labels), expected, rtol=1e-5)
  np.testing.assert_allclose(  # a shift of all scores is no deviation
    losses.margin_deviation(a, b + 5, labels), expected, rtol=1e-4
  )


def test_gradient_at_zero_deviation_is_zero_not_nan(rng):
  logits = jnp.asarray(rng.normal(size=(3, 4)), jnp.float32)
  labels = jnp.array([0, 1, 2])
  loss = lambda a, b: jnp.sum(losses.margin_deviation(a, b, labels))
  for grads in jax.grad(loss, argnums=(0, 1))(logits, logits):
    np.testing.assert_array_equal(grads, 0)
  smooth = lambda a, b: jnp.sum(losses.smooth_adversarial_comp_sum_loss(a, b, labels, nu=3.0))
  clean, attacked = jax.grad(smooth, argnums=(0, 1))(logits, logits)
  plain = jax.grad(lambda a: jnp.sum(losses.comp_sum_loss(a, labels)))(logits)
  np.testing.assert_allclose(clean, plain, rtol=1e-5, atol=1e-7)
  np.testing.assert_array_equal(attacked, 0)


def test_smooth_adversarial_loss_without_weight_is_comp_sum(rng):
  a, b = jnp.asarray(rng.normal(size=(2, 5, 4)), jnp.float32)
  labels = jnp.array([0, 1, 2, 3, 0])
  for tau in (0.5, 1.0, 1.6):
    smooth = losses.smooth_adversarial_comp_sum_loss(a, b, labels, tau=tau, nu=0.0)
    np.testing.assert_allclose(smooth, losses.comp_sum_loss(a, labels, tau=tau), rtol=1e-6)
  extra = losses.smooth_adversarial_comp_sum_loss(a, b, labels, nu=0.7)
  expected = losses.cross_entropy_loss(a, labels) + 0.7 * losses.margin_deviation(a, b, labels)
  np.testing.assert_allclose(extra, expected, rtol=1e-6)


def test_scaling_scores_trades_rho_for_nu(rng):
  a, b = jnp.asarray(rng.normal(size=(2, 5, 4)), jnp.float32)
  labels, rho, nu = jnp.array([0, 1, 2, 3, 0]), 2.5, 0.4
  left = losses.smooth_adversarial_comp_sum_loss(rho * a, rho * b, labels, rho=rho, nu=nu)
  right = losses.smooth_adversarial_comp_sum_loss(a, b, labels, rho=1.0, nu=rho * nu)
  np.testing.assert_allclose(left, right, rtol=1e-5)
