"""Adaptive weights between supervision and consistency: Hedge, saddle points, contracts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from jaxopt_robust import compositional

SIZE, BATCH = 7, 4
INDEX = np.array([5, 0, 3, 6], np.int32)


@functools.cache
def compiled():
  def evaluate(one, two, index, state, stepsize, clip, where):
    fn = lambda one, two: compositional.adawac_loss(
      one, two, index, state, stepsize=stepsize, clip=clip, where=where
    )
    return jax.value_and_grad(fn, (0, 1), has_aux=True)(one, two)

  return jax.jit(evaluate)


def visit(one, two, state, *, index=INDEX, stepsize=0.5, clip=30.0, where=None):
  where = np.ones(BATCH, bool) if where is None else where
  one, two = (jnp.asarray(x, jnp.float32) for x in (one, two))
  (loss, (state, info)), grads = compiled()(
    one, two, index, state, np.float32(stepsize), np.float32(clip), where
  )
  return loss, info, state, grads


def init():
  return compositional.adawac_init(SIZE)


@pytest.fixture
def pair(rng):
  return rng.uniform(0, 2, (2, BATCH))


def test_recursion_equals_the_exponentiated_weights(rng):
  state, weights = init(), np.full((SIZE, 2), 0.5)
  for _ in range(6):
    one, two = rng.uniform(0, 2, (2, BATCH))
    loss, info, state, _ = visit(one, two, state, stepsize=0.7)
    weights[INDEX] *= np.exp(0.7 * np.stack([one, two], axis=1))
    weights /= weights.sum(axis=1, keepdims=True)
    mixed = weights[INDEX, 0] * one + weights[INDEX, 1] * two
    np.testing.assert_allclose(info.weight, weights[INDEX, 0], rtol=1e-5)
    np.testing.assert_allclose([loss, info.objective], mixed.mean(), rtol=1e-5)
  np.testing.assert_allclose(special.expit(state.logits), weights[:, 0], rtol=1e-5)
  np.testing.assert_array_equal(state.logits[jnp.array([1, 2, 4])], 0)


def test_constant_losses_have_a_closed_form_and_roles_are_symmetric(pair):
  one, two = pair
  state, swapped = init(), init()
  for _ in range(5):
    _, info, state, _ = visit(one, two, state)
    _, flipped, swapped, _ = visit(two, one, swapped)
  np.testing.assert_allclose(info.weight, special.expit(0.5 * 5 * (one - two)), rtol=1e-5)
  np.testing.assert_allclose(flipped.weight, 1 - info.weight, rtol=1e-5)
  np.testing.assert_allclose(swapped.logits, -state.logits, rtol=1e-6)


def test_stepsize_zero_is_the_plain_mean_of_both(pair):
  loss, info, state, _ = visit(*pair, init(), stepsize=0.0)
  np.testing.assert_allclose(loss, pair.mean(), rtol=1e-6)
  np.testing.assert_array_equal(info.weight, 0.5)
  np.testing.assert_array_equal(state.logits, 0)


def test_frozen_losses_drive_the_weights_to_the_larger_one(pair):
  one, two = pair
  state = init()
  for _ in range(4):
    loss, info, state, _ = visit(one, two, state, stepsize=1e4)
  np.testing.assert_allclose(info.weight, one > two, atol=1e-12)
  np.testing.assert_allclose(loss, np.maximum(one, two).mean(), rtol=1e-6)
  np.testing.assert_allclose(jnp.abs(state.logits[INDEX]), 30)
  _, info, _, _ = visit(two, one, state, stepsize=60 / np.abs(one - two).min())
  np.testing.assert_allclose(info.weight, two > one, atol=1e-12)  # a saturated weight can return


def test_gradient_holds_the_weights_fixed(pair):
  _, info, _, grads = visit(*pair, init())
  np.testing.assert_allclose(grads[0], info.weight / BATCH, rtol=1e-6)
  np.testing.assert_allclose(grads[1], (1 - info.weight) / BATCH, rtol=1e-6)


def test_hedge_has_small_regret(rng):
  # Two arms with losses in [0, 1]: the regret of Hedge is at most log 2 / s + s T / 8.
  rounds, stepsize = 400, np.sqrt(8 * np.log(2) / 400)
  gains = rng.uniform(size=(rounds, 2, BATCH)) * np.array([0.6, 1.0])[:, None]

  def play(state, gain):
    weight = jax.nn.sigmoid(state.logits[INDEX])  # before the update: the forecaster's choice
    earned = weight * gain[0] + (1 - weight) * gain[1]
    _, (state, _) = compositional.adawac_loss(gain[0], gain[1], INDEX, state, stepsize=stepsize)
    return state, earned

  _, earned = jax.jit(lambda g: jax.lax.scan(play, init(), g))(jnp.asarray(gains, jnp.float32))
  regret = gains.sum(0).max(0) - np.asarray(earned).sum(0)
  assert np.all(regret <= np.log(2) / stepsize + stepsize * rounds / 8 + 1e-3)


def test_duality_gap_of_a_bilinear_game_falls_like_the_root_of_time():
  # min over x in [-1, 1] of max over beta of the mean of beta f(x) + (1 - beta) g(x), with lines
  # f and g, and one example drawn at a time. Averages of both players; the gap is exact.
  rng = np.random.default_rng(0)
  lines = jnp.asarray(rng.normal(size=(4, SIZE)), jnp.float32)
  times = 2 ** np.arange(7, 15)

  def game(key, stepsize, num):
    def play(carry, count):
      x, state, mean_x, mean_weight = carry
      index = jax.random.randint(jax.random.fold_in(key, count), (1,), 0, SIZE)

      def loss(x):
        a, b, c, d = (line[index] for line in lines)
        return compositional.adawac_loss(
          a * x + b, c * x + d, index, state, stepsize=SIZE * stepsize
        )  # a weight is visited once in SIZE steps

      slope, (new, _) = jax.grad(loss, has_aux=True)(x)
      active, rate = count < num, 1 / (count + 1)
      step = lambda old, value: jnp.where(active, value, old)
      mean_x = step(mean_x, mean_x + rate * (x - mean_x))
      weight = jax.nn.sigmoid(state.logits)
      mean_weight = step(mean_weight, mean_weight + rate * (weight - mean_weight))
      return (jnp.clip(x - stepsize * slope, -1, 1), new, mean_x, mean_weight), None

    carry = (jnp.float32(0), init(), jnp.float32(0), jnp.zeros(SIZE))
    (_, _, x, weight), _ = jax.lax.scan(play, carry, jnp.arange(times[-1]))
    a, b, c, d = lines
    highest = jnp.mean(jnp.maximum(a * x + b, c * x + d))
    slope, offset = jnp.mean(weight * a + (1 - weight) * c), jnp.mean(weight * b + (1 - weight) * d)
    return highest - (offset - jnp.abs(slope))

  keys = jax.random.split(jax.random.key(0), 8)
  by_time = jax.vmap(game, in_axes=(None, 0, 0))
  gaps = jax.jit(jax.vmap(by_time, in_axes=(0, None, None)))(
    keys, jnp.asarray(times**-0.5, jnp.float32), jnp.asarray(times)
  )
  gaps = np.asarray(gaps).mean(0)
  slope = np.polyfit(np.log(times), np.log(gaps), 1)[0]
  assert np.all(gaps > 0) and -0.65 < slope < -0.35, (slope, gaps)


def test_masked_rows_do_not_count(pair):
  where = np.array([True, False, True, False])
  one, two = np.where(where, pair, [[np.nan], [np.inf]])
  index = np.where(where, INDEX, [0, SIZE, 0, -3])
  loss, info, state, grads = visit(one, two, init(), index=index, where=where)
  full, _, all_rows, _ = visit(*pair, init())
  logits = np.where(np.isin(np.arange(SIZE), INDEX[where]), all_rows.logits, 0)
  np.testing.assert_allclose(state.logits, logits, rtol=1e-6)
  weight = special.expit(0.5 * (pair[0] - pair[1]))
  mixed = weight * pair[0] + (1 - weight) * pair[1]
  np.testing.assert_allclose(loss, mixed[where].mean(), rtol=1e-6)
  np.testing.assert_allclose(full, mixed.mean(), rtol=1e-6)
  for slope in grads:
    np.testing.assert_array_equal(slope[~where], 0)
  np.testing.assert_array_equal(info.weight[~where], 0)
  nothing = np.zeros(BATCH, bool)
  loss, info, state, grads = visit(one * np.nan, two, all_rows, where=nothing)
  assert loss == 0 and info.objective == 0 and not np.any(grads[0]) and not np.any(grads[1])
  np.testing.assert_array_equal(state.logits, all_rows.logits)


def test_nan_rows_spoil_a_step_and_not_the_state(pair):
  one, two = pair
  one = np.where(np.arange(BATCH) == 1, np.nan, one)
  loss, _, state, _ = visit(one, two, init())
  assert np.isnan(loss) and state.logits[INDEX[1]] == 0
  np.testing.assert_allclose(state.logits[INDEX[2]], 0.5 * (one - two)[2], rtol=1e-6)
  eager = compositional.adawac_loss(jnp.asarray(one), jnp.asarray(two), INDEX, init())
  assert np.isnan(eager[0])  # a value, not an error
  loss, _, state, _ = visit(*pair, init(), index=np.array([5, SIZE, 3, -1], np.int32))
  assert np.isnan(loss) and np.all(np.isfinite(state.logits))


def test_repeated_examples_are_averaged(pair):
  index = np.array([2, 4, 2, 2], np.int32)
  _, info, state, _ = visit(*pair, init(), index=index)
  gain = 0.5 * (pair[0] - pair[1])
  np.testing.assert_allclose(state.logits[2], gain[[0, 2, 3]].mean(), rtol=1e-5)
  np.testing.assert_allclose(state.logits[4], gain[1], rtol=1e-5)
  assert info.weight[0] == info.weight[2] == info.weight[3]


def test_huge_losses_dtypes_and_no_retrace(pair):
  for scale in (1e4, -1e4):
    loss, info, state, _ = visit(scale * pair[0], pair[1], init(), stepsize=8.0)
    assert np.all(np.isfinite([loss, *info.weight, *state.logits]))
  size = compiled()._cache_size()
  visit(*pair, init(), stepsize=0.1, clip=2.0)
  assert compiled()._cache_size() == size
  half = jnp.asarray(pair, jnp.bfloat16)
  loss, (state, info) = compositional.adawac_loss(half[0], half[1], INDEX, init())
  assert loss.dtype == jnp.bfloat16 and state.logits.dtype == info.weight.dtype == jnp.float32


@pytest.mark.x64
def test_float64_state_and_losses(pair):
  state = compositional.AdawacState(jnp.zeros(SIZE))
  loss, (state, info) = compositional.adawac_loss(
    jnp.asarray(pair[0]), jnp.asarray(pair[1]), INDEX, state, stepsize=0.5
  )
  weight = special.expit(0.5 * (pair[0] - pair[1]))
  assert state.logits.dtype == jnp.float64
  np.testing.assert_allclose(info.weight, weight, rtol=1e-14)
  np.testing.assert_allclose(loss, np.mean(weight * pair[0] + (1 - weight) * pair[1]), rtol=1e-14)
