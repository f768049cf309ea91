"""Consistency of features, soft Dice and their mixture: formulas, masks, dtypes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import losses
from tests.helpers import central_difference

BATCH, CLASSES = 4, 3
SHAPE = (BATCH, 2, 3)  # pixels of an example, or its features
LABELS = np.random.default_rng(0).integers(0, CLASSES, SHAPE, dtype=np.int32)
LABELS[0] = 1  # an example without the other classes


def _total(name, x, where):
  """Values and sum of each loss as a function of one array [4, 2, 3, 3]."""
  if name == "dice":
    return losses.soft_dice_loss(x, LABELS, where=where)
  if name == "features":
    return losses.feature_consistency_loss(x, jnp.cos(x), where=where[:, 0, 0])
  one, two = jnp.mean(x, axis=(1, 2, 3)), jnp.mean(x * x, axis=(1, 2, 3))
  weight = jnp.asarray([0.0, 0.25, 0.5, 1.0], x.dtype)
  return losses.adaptive_consistency_loss(one, two, weight, where=where[:, 0, 0])


NAMES = ("dice", "features", "mixture")
every_loss = pytest.mark.parametrize("name", NAMES)


@functools.cache
def compiled(name):
  def evaluate(x, where):
    values, pull = jax.vjp(lambda x: _total(name, x, where), x)
    return values, pull(jnp.ones_like(values))[0]

  return jax.jit(evaluate)


@pytest.fixture
def x(rng):
  return jnp.asarray(rng.normal(size=(*SHAPE, CLASSES)), jnp.result_type(float))


def expected(name, x):
  x = np.asarray(x, np.float64)
  if name == "features":
    return np.mean((x - np.cos(x)) ** 2, axis=(1, 2, 3))
  if name == "mixture":
    one, two, weight = x.mean((1, 2, 3)), (x * x).mean((1, 2, 3)), np.array([0, 0.25, 0.5, 1])
    return weight * one + (1 - weight) * two
  p = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
  t = np.eye(CLASSES)[LABELS]
  overlap, total = (p * t).sum((1, 2)), (p * p).sum((1, 2)) + (t * t).sum((1, 2))
  return np.mean(1 - (2 * overlap + 1e-5) / (total + 1e-5), axis=1)


@pytest.mark.x64
@every_loss
def test_formula_gradient_and_precision(name, x):
  every = np.ones(SHAPE, bool)
  values, grads = compiled(name)(x, every)
  assert values.shape == (BATCH,) and values.dtype == jnp.float64
  np.testing.assert_allclose(values, expected(name, x), rtol=1e-12)
  direction = np.cos(np.arange(x.size)).reshape(x.shape)
  total = lambda t: np.sum(compiled(name)(x + t[0] * direction, every)[0])
  slope = central_difference(total, np.zeros(1))  # error about 1e-16 / 1e-6
  np.testing.assert_allclose(np.sum(grads * direction), slope[0], rtol=1e-7, atol=1e-8)
  narrow = np.asarray(x, np.float32)
  with jax.enable_x64(False):
    values32, _ = compiled(name)(jnp.asarray(narrow), every)
  assert values32.dtype == jnp.float32
  np.testing.assert_allclose(values32, values, rtol=1e-5, atol=1e-6)


@every_loss
def test_masks_equal_dropping_and_may_hide_anything(name, x):
  where = np.ones(SHAPE, bool)
  values, grads = compiled(name)(x, where)
  where[1] = False
  where[2] = False
  hidden = x.at[1].set(jnp.nan).at[2].set(jnp.inf)
  masked, masked_grads = compiled(name)(hidden, where)
  np.testing.assert_array_equal(masked[1:3], 0)
  np.testing.assert_allclose(masked[0::3], values[0::3], rtol=1e-6)
  if name == "dice":  # the others compute their arguments from x: NaN there is not theirs
    np.testing.assert_array_equal(masked_grads[1:3], 0)
  np.testing.assert_allclose(masked_grads[0::3], grads[0::3], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["features", "mixture"])
def test_gradients_of_masked_rows_are_zero(name):
  fn = {
    "features": losses.feature_consistency_loss,
    "mixture": lambda a, b, where: losses.adaptive_consistency_loss(a, b, 0.3, where=where),
  }[name]
  bad = jnp.array([1.0, jnp.nan, jnp.inf])
  total = lambda a, b: jnp.sum(fn(a, b, where=jnp.array([True, False, False])))
  for slope in jax.grad(total, (0, 1))(bad, 2 * bad):
    assert np.isfinite(slope[0]) and slope[0] != 0 and not np.any(slope[1:])


def test_dice_of_masked_pixels_is_dice_of_the_others(x):
  where = np.ones(SHAPE, bool)
  where[:, :, 2] = False
  values, grads = compiled("dice")(x, where)
  small = jax.jit(losses.soft_dice_loss)(x[:, :, :2], LABELS[:, :, :2])
  np.testing.assert_allclose(values, small, rtol=1e-6)
  np.testing.assert_array_equal(grads[:, :, 2], 0)


def test_dice_at_the_edges():
  labels = jnp.asarray(LABELS)
  dice = jax.jit(losses.soft_dice_loss)
  right = 1e4 * jax.nn.one_hot(labels, CLASSES)
  np.testing.assert_array_equal(dice(right, labels), 0)
  every_wrong = dice(jnp.roll(right, 1, axis=-1), labels)
  # one for the classes of the labels and for those predicted, zero for a class of neither
  present = [len(set(np.unique(y)) | set((np.unique(y) + 1) % CLASSES)) for y in LABELS]
  np.testing.assert_allclose(every_wrong, np.array(present) / CLASSES, rtol=1e-5)
  slope = jax.jit(jax.grad(lambda z: jnp.sum(losses.soft_dice_loss(z, labels))))(right)
  assert np.all(np.isfinite(slope))
  bad = np.where(np.arange(BATCH)[:, None, None] == 2, CLASSES, LABELS)
  np.testing.assert_array_equal(np.isnan(dice(right, bad)), np.arange(BATCH) == 2)
  large = dice(jnp.zeros((*SHAPE, CLASSES)), labels, smoothing=1e6)
  np.testing.assert_allclose(large, 0, atol=1e-5)


def test_mixture_holds_the_weight_fixed():
  fn = lambda w: jnp.sum(losses.adaptive_consistency_loss(jnp.ones(3), jnp.zeros(3), w))
  weight = jnp.array([0.1, 0.5, 0.9])
  np.testing.assert_allclose(fn(weight), 1.5, rtol=1e-6)
  np.testing.assert_array_equal(jax.grad(fn)(weight), 0)
  np.testing.assert_allclose(fn(0.25), 0.75)


def test_bfloat16_is_computed_in_float32(x):
  half = x.astype(jnp.bfloat16)
  dice = losses.soft_dice_loss(half, LABELS)
  wide = losses.soft_dice_loss(half.astype(jnp.float32), LABELS)
  features = losses.feature_consistency_loss(half, 0 * half)
  mixed = losses.adaptive_consistency_loss(half, -half, 0.25)
  assert {v.dtype for v in (dice, features, mixed)} == {jnp.dtype(jnp.bfloat16)}
  np.testing.assert_allclose(dice.astype(np.float32), wide, rtol=2**-8)
  square = np.mean(np.asarray(half, np.float32) ** 2, axis=(1, 2, 3))
  np.testing.assert_allclose(features.astype(np.float32), square, rtol=2**-8)


def test_vmap_equals_a_loop(x):
  dice = jax.jit(jax.vmap(losses.soft_dice_loss))(jnp.stack([x, 2 * x]), np.stack([LABELS] * 2))
  one = compiled("dice")(2 * x, np.ones(SHAPE, bool))[0]
  np.testing.assert_allclose(dice[1], one, rtol=1e-6)


def test_predictions_that_agree_leave_the_entropy(rng):
  """All copies alike: eta H(q); alike and certain: 0; the value does not depend on their order."""
  one = jnp.asarray(rng.normal(size=(BATCH, CLASSES)), jnp.float32)
  copies = jnp.stack([one] * 5)
  q = np.asarray(jax.nn.softmax(one), np.float64)
  entropy = -np.sum(q * np.log(q), axis=-1)
  values = losses.prediction_consistency_loss(copies, kl_weight=20.0, entropy_weight=0.5)
  np.testing.assert_allclose(values, 0.5 * entropy, rtol=1e-5, atol=1e-5)
  certain = 1e4 * jax.nn.one_hot(jnp.array([[0, 1, 2, 1]] * 5), CLASSES)
  np.testing.assert_array_equal(losses.prediction_consistency_loss(certain), 0)
  mixed = jnp.asarray(rng.normal(size=(5, BATCH, CLASSES)), jnp.float32)
  np.testing.assert_allclose(
    losses.prediction_consistency_loss(mixed),
    losses.prediction_consistency_loss(mixed[::-1]),
    rtol=1e-5,
  )


def test_predictions_against_scipy(rng):
  import scipy.special

  logits = rng.normal(size=(3, BATCH, 2, CLASSES))
  q = scipy.special.softmax(logits, axis=-1)
  mean = q.mean(0)
  apart = scipy.special.rel_entr(mean[None], q).sum(-1).mean(0)
  entropy = scipy.special.entr(mean).sum(-1)
  values = losses.prediction_consistency_loss(
    jnp.asarray(logits, jnp.float32), kl_weight=3.0, entropy_weight=0.7
  )
  np.testing.assert_allclose(values, 3 * apart + 0.7 * entropy, rtol=1e-5)


@pytest.mark.x64
def test_predictions_gradients_masks_and_extremes(rng):
  logits = jnp.asarray(rng.normal(size=(3, 2, CLASSES)))
  where = jnp.array([True, False])
  total = jax.jit(
    jax.value_and_grad(lambda z: jnp.sum(losses.prediction_consistency_loss(z, where=where)))
  )
  value, grads = total(logits)
  np.testing.assert_allclose(
    grads, central_difference(lambda z: total(jnp.asarray(z))[0], logits), atol=1e-8
  )
  np.testing.assert_array_equal(grads[:, 1], 0)
  np.testing.assert_allclose(value, losses.prediction_consistency_loss(logits)[0], rtol=1e-12)
  assert not np.any(np.isnan(total(logits.at[:, 1].set(jnp.nan))[1]))
  far, slope = total(1e4 * jnp.sign(logits))
  assert np.isfinite(far) and np.all(np.isfinite(slope))
  half = losses.prediction_consistency_loss(logits.astype(jnp.bfloat16))
  assert half.dtype == jnp.bfloat16
  np.testing.assert_allclose(
    half.astype(jnp.float64), losses.prediction_consistency_loss(logits), rtol=0.05
  )
