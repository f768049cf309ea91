"""Adversarial training losses: closed forms on linear models, masks, gradients, lower bounds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import losses, robustness
from jaxopt_robust.debug import count_traces
from tests.registries.robustness import TRAINING_LOSSES

BATCH, SIZE, CLASSES = 12, 5, 3
RADIUS = 0.3
attack = functools.partial(robustness.pgd_attack, radius=RADIUS, stepsize=0.1, num_steps=10)


def linear(params, x):
  return x @ params


@pytest.fixture
def problem(rng):
  params = rng.normal(size=(SIZE, CLASSES)).astype(np.float32)
  x = rng.normal(size=(BATCH, SIZE)).astype(np.float32)
  return params, x, rng.integers(0, CLASSES, size=BATCH)


@functools.cache
def compiled(loss):
  def evaluate(params, x, labels, key, where):
    values = lambda p: loss(linear, p, x, labels, key, attack=attack, where=where)
    grads = jax.grad(lambda p: jnp.sum(values(p)))(params)
    return values(params), grads

  return jax.jit(evaluate)


@pytest.mark.parametrize("loss", TRAINING_LOSSES, ids=lambda loss: loss.__name__)
def test_contract(loss, problem, key):
  params, x, labels = problem
  values, grads = compiled(loss)(params, x, labels, key, np.ones(BATCH, bool))
  assert values.shape == (BATCH,) and values.dtype == jnp.float32
  assert np.all(np.isfinite(values)) and np.all(np.isfinite(grads))
  clean = losses.cross_entropy_loss(x @ params, labels)
  assert np.all(values >= clean - 1e-5)  # an attack does not help
  # rows that are masked out may hold anything
  where = np.arange(BATCH) % 3 != 1
  hidden, hidden_labels = x.copy(), labels.copy()
  hidden[~where], hidden_labels[~where] = np.nan, -1
  masked, masked_grads = compiled(loss)(params, hidden, hidden_labels, key, where)
  np.testing.assert_array_equal(masked[~where], 0)
  np.testing.assert_allclose(masked[where], values[where], rtol=1e-5, atol=1e-6)
  kept, kept_grads = compiled(loss)(params, np.where(where[:, None], x, 0), labels, key, where)
  np.testing.assert_allclose(masked_grads, kept_grads, rtol=1e-5, atol=1e-6)
  assert kept.shape == (BATCH,)


@pytest.mark.x64
@pytest.mark.parametrize("loss", TRAINING_LOSSES, ids=lambda loss: loss.__name__)
def test_gradient_holds_the_attacked_point_fixed(loss, problem, key):
  params, x, labels = (np.asarray(v) for v in problem)
  params, x = params.astype(float), x.astype(float)
  points = []

  def recording(objective, clean, key):
    points.append(attack(objective, clean, key))
    return points[0]  # the same point in every later call

  total = lambda p: jnp.sum(loss(linear, p, x, labels, key, attack=recording))
  total(params)
  grads = jax.grad(total)(params)
  direction = np.cos(np.arange(params.size)).reshape(params.shape)
  eps = 1e-6
  central = (total(params + eps * direction) - total(params - eps * direction)) / (2 * eps)
  np.testing.assert_allclose(np.sum(grads * direction), central, rtol=1e-7)


def test_pgd_training_equals_the_worst_case_of_a_binary_linear_model(rng, key):
  # two classes: the worst point of the box moves the margin by radius * ||w_y - w_k||_1
  params = rng.normal(size=(SIZE, 2)).astype(np.float32)
  x = rng.normal(size=(BATCH, SIZE)).astype(np.float32)
  labels = rng.integers(0, 2, size=BATCH)
  values = robustness.pgd_adversarial_training_loss(linear, params, x, labels, key, attack=attack)
  difference = params[:, 0] - params[:, 1]
  margin = np.where(labels == 0, 1, -1) * (x @ difference) - RADIUS * np.abs(difference).sum()
  np.testing.assert_allclose(values, np.log1p(np.exp(-margin)), rtol=1e-4)


def test_other_losses_can_be_attacked(problem, key):
  params, x, labels = problem
  values = robustness.pgd_adversarial_training_loss(
    linear, params, x, labels, key, attack=attack, loss=losses.crammer_singer_loss
  )
  assert np.all(values >= losses.crammer_singer_loss(x @ params, labels) - 1e-6)


def test_trades_without_weight_is_cross_entropy_and_is_linear_in_beta(problem, key):
  params, x, labels = problem
  counted = count_traces(
    lambda beta: robustness.trades_loss(linear, params, x, labels, key, attack=attack, beta=beta)
  )
  run = jax.jit(counted)
  clean = losses.cross_entropy_loss(x @ params, labels)
  np.testing.assert_allclose(run(0.0), clean, rtol=1e-5)
  np.testing.assert_allclose(run(6.0) - clean, 6 * (run(1.0) - clean), rtol=1e-3, atol=1e-5)
  assert np.all(run(1.0) >= clean) and np.any(run(1.0) > clean + 0.01)
  assert counted.traces == 1


def softmax_kl(scores, others):
  """KL(softmax(scores), softmax(others)) of each row, by its definition in double precision."""
  p, q = (np.exp(s) / np.exp(s).sum(1, keepdims=True) for s in np.float64((scores, others)))
  return np.sum(p * np.log(p / q), axis=1)


def test_trades_is_the_divergence_from_the_clean_to_the_attacked_point(problem, key, rng):
  params, x, labels = problem
  shifts = 0.5 * rng.normal(size=(2, *x.shape)).astype(np.float32)
  candidates = [softmax_kl(x @ params, (x + shift) @ params) for shift in shifts]

  def worst_of_two(objective, x, key):
    del key
    values = [objective(x + shift) for shift in shifts]
    # What the attack climbs is that divergence, and it climbs.
    np.testing.assert_allclose(values, candidates, rtol=1e-4, atol=1e-6)
    return jnp.where((values[0] > values[1])[:, None], x + shifts[0], x + shifts[1])

  loss = robustness.trades_loss(linear, params, x, labels, key, attack=worst_of_two, beta=2.0)
  clean = losses.cross_entropy_loss(x @ params, labels)
  np.testing.assert_allclose(loss, clean + 2 * np.maximum(*candidates), rtol=1e-4, atol=1e-6)


def test_radius_zero_gives_the_clean_losses(problem, key):
  params, x, labels = problem
  still = functools.partial(robustness.pgd_attack, radius=0.0, stepsize=0.1, num_steps=1)
  clean = losses.cross_entropy_loss(x @ params, labels)
  for loss in TRAINING_LOSSES:
    values = loss(linear, params, x, labels, key, attack=still)
    np.testing.assert_allclose(values, clean, rtol=1e-5, atol=1e-6)


def test_smooth_loss_bounds_the_adversarial_error(key):
  # 2000 random linear problems: log 2 * 1[some point of the ball is wrong] <= loss at
  # nu = sqrt(n - 1). Over an l2 ball the worst margin of class k is D_k - g ||w_y - w_k||.
  n, size, count, radius = 4, 3, 2000, 0.5
  key_w, key_x, key_y, key_attack = jax.random.split(key, 4)
  weights = jax.random.normal(key_w, (count, size, n))
  x = jax.random.normal(key_x, (count, size))
  labels = jax.random.randint(key_y, (count,), 0, n)
  model = lambda w, v: jnp.einsum("bi,bik->bk", v, w)
  ball = functools.partial(
    robustness.pgd_attack, radius=radius, stepsize=radius / 4, num_steps=100, norm="l2"
  )
  loss = jax.jit(
    functools.partial(
      robustness.smooth_adversarial_comp_sum_training_loss,
      model,
      attack=ball,
      nu=float(np.sqrt(n - 1)),
    )
  )(weights, x, labels, key_attack)
  rows = np.arange(count)
  w, y = np.asarray(weights), np.asarray(labels)
  edges = w[rows, :, y][:, :, None] - w
  worst = np.einsum("bi,bik->bk", np.asarray(x), edges) - radius * np.linalg.norm(edges, axis=1)
  worst[rows, y] = np.inf
  is_wrong = (worst <= 0).any(1)
  assert 200 < is_wrong.sum() < 1990
  assert np.all(np.asarray(loss)[is_wrong] >= np.log(2) * (1 - 1e-3))
  # and it bounds the adversarial comp-sum loss with the ramp 1 - t clipped to [0, 1]
  found = np.log1p(np.clip(1 - np.where(np.isinf(worst), 1, worst), 0, 1).max(1))
  assert np.all(np.asarray(loss) >= found - 1e-3)
