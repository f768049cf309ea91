"""Robust losses: closed forms, brute force, envelope gradients, duality with a linear program."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from jaxopt_robust.debug import count_traces
from jaxopt_robust.robustness import robust_zero_one_loss, wasserstein_robust_loss

GAMMAS = (0.3, 1.0, 4.0)


def score(w, z):
  return z @ w


def squares(sign):
  """sign / 2 (f - y)^2 of scores f."""
  return lambda f, y, where=None: sign * 0.5 * (f - y) ** 2


def logistic(f, y, where=None):
  return jax.nn.softplus(-y * f)


@functools.partial(jax.jit, static_argnames=("loss", "cost", "num_steps"))
def robust(w, x, y, gamma, limit=jnp.inf, *, loss, cost="squared_l2", num_steps=15, stepsize=None):
  return wasserstein_robust_loss(
    score, w, x, y, gamma=gamma, loss=loss, cost=cost, num_steps=num_steps, stepsize=stepsize,
    max_distance=limit,
  )  # fmt: skip


CONVEX, CONCAVE = squares(1.0), squares(-1.0)


@pytest.fixture
def data(rng):
  w, x, y = rng.normal(size=3), rng.normal(size=(5, 3)), rng.normal(size=5)
  return jnp.asarray(w / np.linalg.norm(w)), jnp.asarray(x), jnp.asarray(y)


@pytest.mark.parametrize("cost", ["l2", "squared_l2"])
@pytest.mark.parametrize("gamma", [0.0, *GAMMAS])
def test_closed_form_of_the_zero_one_loss_is_the_brute_force_maximum(cost, gamma):
  step = 1e-3
  z = np.arange(-6000, 6001) * step  # signed distances of moved inputs, the plane among them
  s = np.linspace(-2, 4, 25)
  moved = np.abs(z[None] - s[:, None])
  price = gamma * (moved if cost == "l2" else moved**2)
  expected = np.max((z[None] <= 0) - price, axis=1)
  found = robust_zero_one_loss(jnp.asarray(s), gamma=gamma, cost=cost)
  # s itself is a point of the grid up to half a step, which moves the price by the slope at most
  slope = gamma * (1 if cost == "l2" else 2 * 0.5 * step)
  np.testing.assert_allclose(found, expected, atol=slope * step + 1e-6)


def test_zero_one_loss_orders_and_limits():
  s = jnp.linspace(-2.0, 3.0, 41)
  plain = np.asarray(s) <= 0
  for cost in ("l2", "squared_l2"):
    values = np.array([robust_zero_one_loss(s, gamma=g, cost=cost) for g in (0.0, *GAMMAS, 1e9)])
    assert np.all(np.diff(values, axis=0) <= 0) and np.all(values >= plain)
    np.testing.assert_array_equal(values[0], 1)  # free moves: the supremum of the loss
    np.testing.assert_array_equal(values[-1], plain)
  slope = jax.vmap(jax.grad(lambda s: robust_zero_one_loss(s, gamma=0.5)))
  np.testing.assert_array_equal(slope(jnp.array([-1.0, 0.0, 1.0, 2.0, 9.0])), [0, 0, -0.5, 0, 0])
  masked = robust_zero_one_loss(
    jnp.array([jnp.nan, 1.0]), gamma=0.5, where=jnp.array([False, True])
  )
  np.testing.assert_array_equal(masked, [0.0, 0.5])
  assert robust_zero_one_loss(s.astype(jnp.bfloat16), gamma=0.5).dtype == jnp.bfloat16


@pytest.mark.x64
def test_value_and_envelope_gradient_of_a_convex_loss(data):
  """max_d (r + <w, d>)^2 / 2 - gamma ||d||^2 = gamma r^2 / (2 gamma - ||w||^2)."""
  w, x, y = data
  w = 1.3 * w

  def exact(w, x, gamma):
    return jnp.sum(gamma * (x @ w - y) ** 2 / (2 * gamma - jnp.sum(w**2)))

  def found(w, x, gamma):
    return jnp.sum(robust(w, x, y, gamma, loss=CONVEX, num_steps=200)[0])

  for gamma in (1.5, 4.0):
    expected = jax.value_and_grad(exact, (0, 1, 2))(w, x, gamma)
    computed = jax.value_and_grad(found, (0, 1, 2))(w, x, gamma)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-8), computed, expected)
  values, info = robust(w, x, y, 4.0, loss=CONVEX, num_steps=200)
  offset = np.outer(x @ w - y, w) / (8 - w @ w)
  np.testing.assert_allclose(info.points, x + offset, rtol=1e-8)
  np.testing.assert_allclose(info.costs, np.sum(offset**2, axis=1), rtol=1e-7)
  assert float(info.errors.max()) < 1e-9 and float(values.min()) >= 0
  # one step of length 1/2: the gradient over 1 + 2 gamma / 2
  _, info = robust(w, x, y, 4.0, loss=CONVEX, num_steps=1, stepsize=0.5)
  slope = np.abs(x @ w - y) * np.linalg.norm(w)
  np.testing.assert_allclose(info.errors, slope / 5, rtol=1e-9)


@pytest.mark.x64
def test_envelope_gradient_is_the_finite_difference_of_the_maximised_value(data):
  """The logistic loss: the maximum by Newton's method on the length of the move."""
  w, x, y = data
  y, gamma = jnp.sign(y), 0.4

  def exact(w, gamma):
    w = np.asarray(w)

    def one(margin):
      value = lambda t: gamma * t**2 - np.logaddexp(0, t * np.linalg.norm(w) - margin)
      return -scipy.optimize.minimize_scalar(value, bracket=(0, 1), tol=1e-12).fun

    return sum(one(margin) for margin in np.asarray(y) * (np.asarray(x) @ w))

  found = lambda w, gamma: jnp.sum(robust(w, x, y, gamma, loss=logistic, num_steps=100)[0])
  value, (dw, dgamma) = jax.value_and_grad(found, (0, 1))(w, gamma)
  np.testing.assert_allclose(value, exact(w, gamma), rtol=1e-9)
  eps = 1e-4
  steps = eps * np.eye(3)
  numeric = [(exact(w + h, gamma) - exact(w - h, gamma)) / (2 * eps) for h in steps]
  np.testing.assert_allclose(dw, numeric, rtol=1e-5, atol=1e-6)
  numeric = (exact(w, gamma + eps) - exact(w, gamma - eps)) / (2 * eps)
  np.testing.assert_allclose(dgamma, numeric, rtol=1e-5)


@pytest.mark.x64
@pytest.mark.parametrize("gamma", GAMMAS)
def test_cost_l2_on_a_concave_loss_is_minus_a_huber_function(data, gamma):
  w, x, y = data  # ||w|| = 1: max_t -(r + t)^2 / 2 - gamma |t|
  r = np.abs(np.asarray(x @ w - y))
  huber = np.where(r <= gamma, 0.5 * r**2, gamma * r - 0.5 * gamma**2)
  values, info = robust(w, x, y, gamma, loss=CONCAVE, cost="l2", num_steps=60, stepsize=0.7)
  np.testing.assert_allclose(values, -huber, rtol=1e-9, atol=1e-12)
  np.testing.assert_allclose(info.costs, np.maximum(r - gamma, 0), atol=1e-8)


@pytest.mark.x64
def test_without_a_high_price_the_cap_holds(data):
  """A convex loss at no price: the maximum on the ball is (|r| + ||w|| limit)^2 / 2."""
  w, x, y = data
  for gamma, stepsize, cost in ((0.0, 0.5, "squared_l2"), (0.2, None, "squared_l2"),
                                (0.0, 0.5, "l2")):  # fmt: skip
    values, info = robust(w, x, y, gamma, 1.5, loss=CONVEX, cost=cost, stepsize=stepsize,
                          num_steps=60)  # fmt: skip
    r = np.abs(np.asarray(x @ w - y))
    np.testing.assert_allclose(values, 0.5 * (r + 1.5) ** 2 - gamma * 1.5**2, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(info.points - x, axis=1), 1.5, rtol=1e-12)


def test_robust_loss_orders_and_limits(data):
  w, x, y = (v.astype(jnp.float32) for v in data)
  y = jnp.sign(y)
  plain = np.asarray(logistic(x @ w, y))
  prices = (*GAMMAS, 1e6)
  values = np.array([robust(w, x, y, g, loss=logistic, num_steps=100)[0] for g in prices])
  assert np.all(np.diff(values, axis=0) <= 1e-6) and np.all(values >= plain - 1e-7)
  np.testing.assert_allclose(values[-1], plain, rtol=1e-5)
  # iterates that run away to infinity never count
  wild = lambda f, y, where=None: jnp.where(jnp.abs(f - y) > 50, jnp.inf, (f - y) ** 2)
  values, info = robust(w, x, y, 0.01, loss=wild)
  assert np.all(np.isfinite(values)) and np.all(np.isfinite(info.points))


@functools.partial(jax.jit, static_argnames="cost")
def dual_values(s, budget, *, cost):
  """gamma budget + mean phi_gamma on a fine grid of gamma."""
  value = lambda g: g * budget + jnp.mean(robust_zero_one_loss(s, gamma=g, cost=cost))
  return jax.vmap(value)(jnp.linspace(0.0, 60.0, 60_001))


def test_duality_with_the_worst_case_of_a_linear_program():
  """min_gamma gamma rho + mean phi_gamma is the largest risk within transport cost rho."""
  grid = np.linspace(-1, 2.8, 20)  # holds the plane, where the loss is still 1
  grid -= grid[np.argmin(np.abs(grid))]
  loss = (grid <= 0).astype(float)
  for cost in ("l2", "squared_l2"):
    distance = np.abs(grid[:, None] - grid[None])
    price = distance if cost == "l2" else distance**2
    for budget in (0.1, 0.5):
      rows = np.kron(np.eye(20), np.ones(20))
      worst = -scipy.optimize.linprog(
        -np.tile(loss, 20), A_ub=price.reshape(1, -1), b_ub=[budget], A_eq=rows,
        b_eq=np.full(20, 1 / 20),
      ).fun  # fmt: skip
      values = dual_values(np.where(grid <= 0, -1, grid), budget, cost=cost)
      np.testing.assert_allclose(values.min(), worst, atol=1e-3)


def test_masks_images_half_precision_and_traces(data):
  w, x, y = (v.astype(jnp.float32) for v in data)
  mask = jnp.arange(5) < 3
  spoiled = x.at[3:].set(jnp.nan)

  def total(w, x, where):
    loss = lambda f, y, where: jnp.where(where, logistic(f, y), 0)
    values, info = wasserstein_robust_loss(score, w, x, jnp.sign(y), gamma=1.0, loss=loss,
                                           where=where)  # fmt: skip
    return jnp.sum(values), (values, info)

  (_, (values, _)), grads = jax.jit(jax.value_and_grad(total, has_aux=True))(w, spoiled, mask)
  whole, _ = robust(w, x, jnp.sign(y), 1.0, loss=logistic)
  np.testing.assert_allclose(values, np.where(mask, whole, 0), rtol=1e-6)
  assert np.all(np.isfinite(grads))
  image = x.reshape(5, 1, 3).astype(jnp.bfloat16)
  flat = lambda w, z: z[:, 0] @ w
  counted = count_traces(lambda gamma: wasserstein_robust_loss(
    flat, w.astype(jnp.bfloat16), image, jnp.sign(y).astype(jnp.bfloat16), gamma=gamma,
    loss=logistic))  # fmt: skip
  fun = jax.jit(counted)
  for gamma in GAMMAS:
    values, info = fun(gamma)
  assert counted.traces == 1 and values.dtype == jnp.bfloat16 and info.points.shape == (5, 1, 3)
