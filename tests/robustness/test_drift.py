"""Entropy filters, prototypes and the prequential step: limits, closed forms, peers."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from jaxopt_robust import robustness, transforms
from tests.helpers import central_difference


@pytest.mark.x64
def test_entropy():
  rng = np.random.default_rng(0)
  logits = 3 * rng.standard_normal((20, 5))
  p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  found = robustness.prediction_entropy(logits)
  np.testing.assert_allclose(found, scipy.stats.entropy(p, axis=1), rtol=1e-10)
  np.testing.assert_allclose(robustness.prediction_entropy(np.zeros(5)), math.log(5), rtol=1e-14)
  two = np.array([0.3, 0.3, -np.inf])  # a class that is out of the question
  np.testing.assert_allclose(robustness.prediction_entropy(two), math.log(2), rtol=1e-12)
  slope = jax.grad(robustness.prediction_entropy)
  np.testing.assert_allclose(
    slope(jnp.asarray(logits[0])), central_difference(robustness.prediction_entropy, logits[0]),
    atol=1e-8,
  )  # fmt: skip
  for scale in (1e4, 1e30):
    sure = jnp.array([scale, 0.0, -scale])
    assert float(robustness.prediction_entropy(sure)) == 0 and not slope(sure).any()
  half = robustness.prediction_entropy(jnp.zeros((2, 3), jnp.bfloat16))
  assert half.dtype == jnp.bfloat16


def test_mask_and_its_threshold():
  logits = jnp.asarray(np.linspace(0, 8, 50)[:, None] * np.array([1.0, 0.0, 0.0]), jnp.float32)
  entropy = robustness.prediction_entropy(logits)
  np.testing.assert_array_equal(robustness.reliable_mask(logits), entropy < 0.4 * math.log(3))
  np.testing.assert_array_equal(robustness.reliable_mask(logits, threshold=0.1), entropy < 0.1)
  assert bool(robustness.reliable_mask(logits, threshold=jnp.inf).all())
  assert not bool(robustness.reliable_mask(logits, threshold=0.0).any())
  assert not bool(robustness.reliable_mask(jnp.array([jnp.nan, 9.0]), threshold=jnp.inf))


def test_losses_are_masked_means_and_the_second_mask_lies_within_the_first():
  apply_fn = lambda w, x: w * x
  x = jnp.array([[4.0, 0.0], [2.0, 0.0], [0.1, 0.0], [0.0, 0.0]])
  first, second = robustness.rsgs_losses(apply_fn, threshold=0.5)
  entropy = robustness.prediction_entropy(x)
  (value, mask), grad = jax.value_and_grad(first, has_aux=True)(jnp.ones(()), x)
  assert mask.tolist() == [True, True, False, False]
  np.testing.assert_allclose(value, entropy[:2].mean(), rtol=1e-6)
  alone, _ = jax.grad(first, has_aux=True)(jnp.ones(()), x[:2])
  np.testing.assert_allclose(grad, alone, rtol=1e-6)
  # Larger weights make the third certain: it was not reliable, and is not now.
  (value, both), _ = jax.value_and_grad(second, has_aux=True)(jnp.array(50.0), x, mask)
  assert both.tolist() == [True, True, False, False]
  _, both = second(jnp.array(0.4), x, mask)
  assert both.tolist() == [True, False, False, False]
  (value, both), grad = jax.value_and_grad(second, has_aux=True)(jnp.zeros(()), x, mask)
  assert not both.any() and float(value) == 0 and float(grad) == 0


def units(rows):
  rows = np.asarray(rows, float)
  return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.x64
def test_calibration_limits():
  rng = np.random.default_rng(0)
  new, base = rng.standard_normal((3, 6)), rng.standard_normal((4, 6))
  calibrate = functools.partial(robustness.calibrate_prototypes, new, base)
  c_new, c_base = units(new), units(base)
  np.testing.assert_allclose(calibrate(weight=0.0), c_new, rtol=1e-12)
  nearest = c_base[np.argmax(c_new @ c_base.T, axis=1)]
  np.testing.assert_allclose(calibrate(temperature=1e6, weight=1.0), nearest, atol=1e-12)
  mean = units(c_base.mean(0, keepdims=True))
  np.testing.assert_allclose(
    calibrate(temperature=0.0, weight=1.0), np.repeat(mean, 3, 0), atol=1e-12
  )
  scaled = robustness.calibrate_prototypes(1e20 * new, 1e-20 * base)
  np.testing.assert_allclose(scaled, calibrate(), rtol=1e-10)
  # By hand, with the default numbers.
  shares = np.exp(16 * c_new @ c_base.T)
  towards = units(shares / shares.sum(1, keepdims=True) @ c_base)
  np.testing.assert_allclose(calibrate(), 0.5 * c_new + 0.5 * towards, rtol=1e-10)
  blend = calibrate(weight=0.3)
  np.testing.assert_allclose(blend, 0.7 * c_new + 0.3 * towards, rtol=1e-10)
  none = calibrate(weight=1.0, where=np.zeros(4, bool))  # nowhere to go
  np.testing.assert_allclose(none, c_new, rtol=1e-12)


@pytest.mark.x64
def test_prototypes_and_their_logits():
  rng = np.random.default_rng(1)
  features, labels = rng.standard_normal((30, 4)), np.arange(30) % 3
  where = rng.random(30) < 0.5
  found = robustness.class_prototypes(features, labels, num_classes=4, where=where)
  means = np.stack([features[where & (labels == k)].mean(0) for k in range(3)])
  np.testing.assert_allclose(found[:3], units(means), rtol=1e-12)
  np.testing.assert_array_equal(found[3], 0)
  broken = np.where(where[:, None], features, np.nan)
  np.testing.assert_array_equal(
    robustness.class_prototypes(broken, labels, num_classes=4, where=where), found
  )
  logits = robustness.prototype_logits(features, 5 * found, temperature=2.0)
  np.testing.assert_allclose(logits[:, :3], 2 * units(features) @ units(means).T, rtol=1e-10)
  np.testing.assert_array_equal(logits[:, 3], 0)
  np.testing.assert_allclose(
    robustness.prototype_logits(features, found)[:, :3], 8 * logits[:, :3], rtol=1e-12
  )


def stream():
  """Two classes along one axis; the inputs drift away from what the weights know."""
  rng = np.random.default_rng(0)
  y = rng.integers(0, 2, (12, 8))
  x = (2 * y - 1)[..., None] * np.array([1.5, 0.2]) + 0.5 * rng.standard_normal((12, 8, 2))
  return jnp.asarray(x, jnp.float32), {"scale": jnp.ones(2), "shift": jnp.array([0.3, -0.3])}


def answer(params, x):
  flat = x @ jnp.array([[-1.0, 1.0], [0.0, 0.3]])
  return params["scale"][None] * flat + params["shift"][None]


@functools.cache
def parts():
  """Answers, entropies and their masked mean's slope at flat parameters, compiled once."""
  _, unravel = jax.flatten_util.ravel_pytree(stream()[1])
  answers = lambda w, x: answer(unravel(w), x)
  entropy = lambda w, x: robustness.prediction_entropy(answers(w, x))
  mean = lambda w, x, m: jnp.sum(jnp.where(m, entropy(w, x), 0)) / m.sum()
  return jax.jit(answers), jax.jit(entropy), jax.jit(jax.grad(mean)), unravel


def by_hand(params, batches, threshold, rho, alpha):
  """The algorithm as written, with SGD and momentum, in float64 and a Python loop."""
  answers, entropy, slope, unravel = parts()
  w, _ = jax.flatten_util.ravel_pytree(params)
  w, velocity, said = np.asarray(w), np.zeros(w.size), []
  for x in batches:
    said.append(answers(w, x))
    m1 = np.asarray(entropy(w, x) < threshold)
    if not m1.any():
      continue
    g = np.asarray(slope(w, x, m1))
    moved = w + rho * g / np.linalg.norm(g)
    m2 = m1 & np.asarray(entropy(moved, x) < threshold)
    if not m2.any():
      continue
    gp = np.asarray(slope(moved, x, m2))
    d = gp - alpha * (g - (g @ gp) / (gp @ gp) * gp)
    velocity = 0.9 * velocity + d
    w = w - 0.1 * velocity
  return unravel(jnp.asarray(w, jnp.float32)), np.stack(said)


SETTINGS = {
  "RSGS": (0.3, 0.05, 0.2), "SAR": (0.3, 0.05, 0.0), "filtered": (0.3, 0.0, 0.0),
  "nothing reliable": (0.0, 0.05, 0.2), "TENT": (np.inf, 0.0, 0.0),
}  # fmt: skip


@functools.cache
def scanned():
  """All settings at once: ``rsgs`` and plain SGD."""
  batches, start = stream()
  inner = optax.sgd(0.1, momentum=0.9)

  def run(optimizer, threshold):
    step = lambda s, x: robustness.stream_step(answer, optimizer, s, x, threshold=threshold)
    return jax.lax.scan(step, robustness.stream_init(start, optimizer), batches)

  grid = jnp.asarray(list(SETTINGS.values()), jnp.float32)
  of = lambda s: run(transforms.rsgs(inner, rho=s[1], alpha=s[2]), s[0])
  return jax.jit(lambda grid: (jax.vmap(of)(grid), run(inner, jnp.inf)))(grid)


@pytest.mark.parametrize("name", SETTINGS)
def test_step_is_the_algorithm(name):
  batches, start = stream()
  (state, info), _ = scanned()
  row = list(SETTINGS).index(name)
  with jax.enable_x64(True):
    wide = jax.tree.map(lambda v: jnp.asarray(np.asarray(v, np.float64)), (start, batches))
    params, answers = by_hand(*wide, *SETTINGS[name])
  for key, value in params.items():
    np.testing.assert_allclose(state.params[key][row], value, rtol=2e-4)
  np.testing.assert_allclose(info.logits[row], answers, rtol=2e-3, atol=1e-4)
  np.testing.assert_array_equal(info.logits[row][0], answer(start, batches[0]))  # answers first
  if name == "nothing reliable":
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[row], b), state.params, start)
    assert not info.num_reliable[row].any() and not info.entropy[row].any()
  else:
    assert int(info.num_reliable[row].max()) > 1 and float(info.entropy[row].max()) > 0


def test_tent_is_the_plain_optimizer_on_all_answers():
  (state, info), (plain, plain_info) = scanned()
  row = list(SETTINGS).index("TENT")
  for key, value in plain.params.items():
    np.testing.assert_allclose(state.params[key][row], value, rtol=1e-5)
  np.testing.assert_array_equal(plain_info.num_reliable, 8)
  np.testing.assert_allclose(info.entropy[row], plain_info.entropy, rtol=1e-5)


def test_sharpness_aware_optimizers_get_their_gradients():
  batches, start = stream()
  inner = optax.sgd(0.1)
  after = [
    robustness.stream_step(answer, tx, robustness.stream_init(start, tx), batches[0])[0].params
    for tx in (transforms.gsam(inner), transforms.rsgs(inner))
  ]
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), *after)


def test_answers_by_prototypes_can_be_adapted():
  """New class calibrated, then the features adapted through the prototypes: both parts of CSFA."""
  rng = np.random.default_rng(0)
  centers = np.eye(3, 4)
  features = lambda p, x: x * p["scale"][None] + p["shift"][None]
  known = robustness.class_prototypes(
    jnp.asarray(np.repeat(centers[:2], 5, 0), jnp.float32), jnp.arange(10) // 5, num_classes=2
  )
  new = robustness.calibrate_prototypes(jnp.asarray(centers[2:] + 0.1, jnp.float32), known)
  prototypes = jnp.concatenate([known, new])
  apply_fn = lambda p, x: robustness.prototype_logits(features(p, x), prototypes)
  y = rng.integers(0, 3, 60)
  x = jnp.asarray(centers[y] + 0.15 * rng.standard_normal((60, 4)) + 0.5, jnp.float32)
  tx = transforms.rsgs(optax.sgd(0.01))
  start = robustness.stream_init({"scale": jnp.ones(4), "shift": jnp.zeros(4)}, tx)
  run = jax.jit(
    lambda batches: jax.lax.scan(
      lambda s, x: robustness.stream_step(apply_fn, tx, s, x), start, batches
    )
  )
  state, info = run(jnp.tile(x.reshape(6, 10, 4), (4, 1, 1)))
  assert info.logits.shape == (24, 10, 3) and float(info.entropy[-1]) < float(info.entropy[0])
  assert int(info.num_reliable[-1]) >= int(info.num_reliable[0]) > 0
  right = lambda params: float(jnp.mean(jnp.argmax(apply_fn(params, x), axis=1) == y))
  assert right(state.params) >= right(start.params) > 0.7


@pytest.mark.parametrize(
  "optimizer", [optax.lbfgs(), transforms.armijo_descent(), optax.polyak_sgd(0.1)]
)
def test_line_searches_get_what_they_ask_for(optimizer):
  x = jnp.array([[3.0, 0.0], [0.1, 0.0]])
  apply_fn = lambda w, x: x * w[None]
  state = robustness.stream_init(jnp.ones(2), optimizer)
  entropies = []
  for _ in range(3):
    state, info = robustness.stream_step(apply_fn, optimizer, state, x)
    entropies.append(float(info.entropy))
  assert int(info.num_reliable) == 1
  assert entropies[0] > entropies[1] > entropies[2] or entropies[1] == 0


def test_a_row_of_nan_does_not_end_the_stream():
  """It is not reliable, but 0 times the slope of its answer is NaN: that batch is answered only."""
  x, optimizer = jnp.array([[3.0, 0.0], [0.1, 0.0]]), optax.MultiSteps(optax.adam(0.1), 3)
  step = jax.jit(
    lambda s, x: robustness.stream_step(lambda w, x: x * w[None], optimizer, s, x, threshold=0.5)
  )
  start, _ = step(robustness.stream_init(jnp.ones(2), optimizer), x)
  after, info = step(start, x.at[1, 0].set(jnp.nan))
  jax.tree.map(np.testing.assert_array_equal, after, start)
  assert np.isnan(info.logits[1, 0]) and int(info.num_reliable) == 1
  for _ in range(2):
    after, _ = step(after, x)
  assert bool(jnp.all(jnp.isfinite(after.params))) and float(after.params[0]) > 1


def test_prototypes_of_rows_whose_sum_is_out_of_range_and_of_tiny_ones():
  rows = jnp.array([[3e38, 1e-3], [3e38, 1e-3], [1e-37, 0.0], [1e-37, 1e-37]])
  found = robustness.class_prototypes(rows, jnp.array([0, 0, 1, 1]), num_classes=2)
  expected = np.array([[1, 0], [2 / 5**0.5, 1 / 5**0.5]])
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-35)


def test_prototypes_of_other_classes_do_not_see_what_is_not_finite():
  x = jnp.array([[3.0, 4.0], [0.0, 2.0], [1.0, 2.0], [5.0, 5.0]])
  labels = jnp.array([0, 1, 1, 2])
  expected = np.array([[0.6, 0.8], [1, 4] / np.sqrt(17), [1, 1] / np.sqrt(2), [0, 0]])
  for bad in (jnp.nan, jnp.inf):
    found = robustness.class_prototypes(x.at[0, 1].set(bad), labels, num_classes=4)
    assert np.all(np.isnan(found[0]))
    np.testing.assert_allclose(found[1:], expected[1:], rtol=1e-6)
  scale = jnp.array([1e-30, 1.5e38, 1.5e38, 1.0])[:, None]  # the sum of class 1 is out of range
  found = robustness.class_prototypes(scale * x / 2, labels, num_classes=4)
  np.testing.assert_allclose(found, expected, rtol=1e-6)
  with pytest.raises(ValueError, match="temperature must be in"):
    robustness.prototype_logits(x, x, temperature=jnp.inf)
