"""FGSM, worst case of PGD, AutoPGD and the ensemble: known maxima, feasibility, monotone counts."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.datasets import load_digits

from jaxopt_robust import losses, nets, robustness
from jaxopt_robust.debug import count_traces
from jaxopt_robust.robustness._balls import make_ball
from jaxopt_robust.robustness.apgd import _make_rule, _Memory, _windows
from tests.helpers import central_difference

BATCH, SIZE, CLASSES = 12, 10, 4
NORMS = ("linf", "l2", "l1")
DUAL = {"linf": 1, "l2": 2, "l1": np.inf}
STATIC = ("num_steps", "norm", "bounds", "restarts", "loss", "optimizer", "num_targets", "attack")


def linear(weights, x):
  return x @ weights


def network(params, x):
  first, second = params
  return jnp.tanh(x @ first) @ second


@functools.partial(jax.jit, static_argnames=STATIC, static_argnums=0)
def run(apply_fn, params, x, labels, key, radius, *, attack=robustness.pgd_worst_case, **options):
  return attack(apply_fn, params, x, labels, key, radius=radius, **options)


@pytest.fixture
def data(rng):
  weights = (rng.normal(size=(SIZE, 8)), rng.normal(size=(8, CLASSES)))
  x = rng.uniform(size=(BATCH, SIZE))
  return jax.tree.map(np.float32, weights), np.float32(x), rng.integers(0, CLASSES, BATCH)


def sizes(offset, norm):
  order = {"linf": np.inf, "l2": 2, "l1": 1}[norm]
  return np.linalg.norm(np.float64(offset), order, axis=1)


@pytest.mark.parametrize("norm", NORMS)
def test_binary_linear_classifier_loses_radius_times_the_dual_norm(rng, key, norm):
  """The gain of the margin is radius ||w||_dual, w = w_1 - w_0, and each example has a radius."""
  weights = rng.normal(size=(40, 2)).astype(np.float32)
  x = rng.normal(size=(BATCH, 40)).astype(np.float32)
  labels, radius = np.zeros(BATCH, int), np.linspace(0.1, 2, BATCH, dtype=np.float32)
  best = radius * np.linalg.norm(weights[:, 1] - weights[:, 0], DUAL[norm])
  margin = lambda point: robustness.margin_attack_loss(linear(weights, point), labels)
  one = robustness.fgsm_attack(margin, x, radius=radius, norm=norm)
  np.testing.assert_allclose(margin(one) - margin(x), best, rtol=1e-5, atol=1e-5)
  steps = {"linf": 10, "l2": 60, "l1": 200}[norm]
  for attack, options in (
    (robustness.pgd_worst_case, {"stepsize": 0.3 * radius}),
    (robustness.apgd_attack, {}),
  ):
    found, info = run(
      linear, weights, x, labels, key, radius, attack=attack, num_steps=steps, norm=norm, **options
    )
    np.testing.assert_allclose(margin(found) - margin(x), best, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(info.broken, margin(found) > 0)
    assert not info.stalled.any() and info.history.shape == (1, steps, BATCH)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("attack", [robustness.pgd_worst_case, robustness.apgd_attack])
def test_stays_in_ball_and_box_and_the_best_loss_never_falls(data, key, attack, norm):
  params, x, labels = data
  radius = 2.0 if norm == "l1" else 0.4
  found, info = run(
    network, params, x, labels, key, radius, attack=attack, num_steps=20, restarts=2, norm=norm,
    bounds=(0.0, 1.0), loss=robustness.margin_attack_loss,
  )  # fmt: skip
  assert np.all(sizes(found - x, norm) <= radius + 1e-6)
  assert np.all((found >= 0) & (found <= 1)) and np.any((found == 0) | (found == 1))
  assert np.all(np.diff(info.history, axis=1) >= 0)
  value = robustness.margin_attack_loss(network(params, found), labels)
  np.testing.assert_allclose(info.value, value, atol=1e-5)
  wrong = np.argmax(network(params, found), axis=1) != labels
  np.testing.assert_array_equal(wrong, info.broken)
  clean = robustness.margin_attack_loss(network(params, x), labels)
  assert np.all(info.value >= clean) and np.any(info.value > clean)


@pytest.mark.parametrize("norm", NORMS)
def test_radius_zero_is_clean_accuracy(data, key, norm):
  params, x, labels = data
  wrong = np.argmax(network(params, x), axis=1) != labels
  for attack in (robustness.pgd_worst_case, robustness.apgd_attack):
    found, info = run(network, params, x, labels, key, 0.0, attack=attack, num_steps=20, norm=norm)
    np.testing.assert_array_equal(found, x)
    np.testing.assert_array_equal(info.broken, wrong)


def test_failures_only_grow_with_restarts_losses_and_radius(data, key):
  params, x, _ = data
  labels = np.argmax(network(params, x), axis=1)
  broken = []
  for restarts in (1, 2, 4):
    _, info = run(network, params, x, labels, key, 0.25, num_steps=3, restarts=restarts)
    broken.append(np.asarray(info.broken))
  assert np.all(broken[0] <= broken[1]) and np.all(broken[1] <= broken[2])
  accuracies = []
  for radius in (0.0, 0.1, 0.2, 0.4, 0.8):
    accuracy, info = run(
      network, params, x, labels, key, radius, attack=robustness.robust_accuracy, num_steps=8
    )
    accuracies.append(float(accuracy))
    assert info.survives.shape == (CLASSES, BATCH)
    np.testing.assert_array_equal(info.robust, np.all(info.survives, axis=0))
    np.testing.assert_array_equal(info.clean, True)
    np.testing.assert_allclose(accuracy, np.mean(info.robust))
    wrong = np.argmax(network(params, info.x), axis=1) != labels
    np.testing.assert_array_equal(wrong, ~np.asarray(info.robust))
  assert accuracies[0] == 1 and np.all(np.diff(accuracies) <= 0) and accuracies[-1] < 0.5
  where = np.arange(BATCH) < 5
  half, info = robustness.robust_accuracy(
    network, params, x, labels, key, radius=0.2, num_steps=2, num_targets=0, where=where
  )
  np.testing.assert_allclose(half, np.mean(np.asarray(info.robust)[:5]))
  assert info.survives.shape == (1, BATCH)


@pytest.mark.x64
def test_gradient_of_what_is_attacked(data):
  params, x, labels = (jax.tree.map(np.float64, data[0]), np.float64(data[1][:3]), data[2][:3])
  for loss in (
    robustness.cross_entropy_attack_loss,
    robustness.margin_attack_loss,
    robustness.dlr_attack_loss,
  ):
    total = jax.jit(lambda x, loss=loss: jnp.sum(loss(network(params, x), labels)))
    np.testing.assert_allclose(jax.grad(total)(x), central_difference(total, x), atol=1e-7)


def test_checkpoints_are_those_of_the_paper():
  for steps in (1, 7, 20, 100):
    ends, lengths = _windows(steps)
    k, less, least = (max(int(part * steps), 1) for part in (0.22, 0.03, 0.06))
    counter, expected = 0, []
    for i in range(steps):
      assert lengths[i] == k
      counter += 1
      if counter == k:
        expected.append(i)
        counter, k = 0, max(k - less, least)
    np.testing.assert_array_equal(np.flatnonzero(ends), expected)


def reference(gradient_of, x, start, radius, steps, norm):
  """AutoPGD of one example in NumPy, after algorithm 1 and the published code."""

  def confine(point):
    offset = point - x
    if norm == "linf":
      offset = np.clip(offset, -radius, radius)
    else:
      offset = offset * min(1, radius / max(np.linalg.norm(offset), 1e-300))
    return np.clip(x + offset, 0, 1)

  point = old = best = start
  value, gradient = gradient_of(point)
  top, top_gradient, losses_seen = value, gradient, [value]
  stepsize, counter, halved, at_check = 2 * radius, 0, True, value
  k, less, least = (max(int(part * steps), 1) for part in (0.22, 0.03, 0.06))
  for i in range(steps):
    move, old = point - old, point
    share = 0.75 if i else 1.0
    ascent = np.sign(gradient) if norm == "linf" else gradient / np.linalg.norm(gradient)
    aim = confine(point + stepsize * ascent)
    point = confine(point + share * (aim - point) + (1 - share) * move)
    value, gradient = gradient_of(point)
    losses_seen.append(value)
    if value > top:
      best, top, top_gradient = point, value, gradient
    counter += 1
    if counter == k:
      window = losses_seen[-k - 1 :]
      rises = sum(b > a for a, b in itertools.pairwise(window))
      halve = rises <= 0.75 * k or (not halved and at_check >= top)
      halved, at_check = halve, top
      if halve:
        stepsize, point, gradient = stepsize / 2, best, top_gradient
      counter, k = 0, max(k - less, least)
  return top


def test_steps_are_halved_by_both_conditions(rng):
  """The bookkeeping alone, on losses that rise in four of five steps."""
  steps, rows = 100, 200
  size, chance = rng.uniform(size=(2, steps + 1, rows))
  values = np.float32(np.cumsum(size * np.where(chance < 0.8, 1, -3), axis=0))
  ball = make_ball(jnp.zeros((rows, 1)), 1.0, "linf", None)
  zero, count = jnp.zeros(rows), jnp.zeros(rows, jnp.int32)
  point = jnp.zeros((rows, 1))
  memory = _Memory(point, point, point, zero, 2 * ball.radius, zero, count, zero, count == 0)
  ends, lengths = _windows(steps)
  rule = jax.jit(_make_rule(ball))
  found = []
  for k in range(steps + 1):  # what step k left behind is judged as the next one begins
    x = (k == 0, bool(k and ends[k - 1]), np.int32(lengths[max(k - 1, 0)]))
    memory = rule(point, values[k], point, memory, x)[1]
    found.append(memory.stepsize[:, 0])
  reasons = np.zeros(2, int)
  for row in range(rows):
    size, halved, at_check, start = 2.0, True, values[0, row], 0
    for k in range(1, steps + 1):
      if ends[k - 1]:
        window = values[start : k + 1, row]
        poor = np.sum(np.diff(window) > 0) <= 0.75 * (k - start)
        top = values[: k + 1, row].max()
        idle = not halved and at_check >= top
        reasons += poor, idle and not poor
        halved, at_check, start = poor or idle, top, k
        size = size / 2 if halved else size
      assert found[k][row] == size
  assert np.all(reasons > 5)


@pytest.mark.x64
@pytest.mark.parametrize(("norm", "steps"), [("linf", 60), ("l2", 60)])
def test_apgd_is_its_algorithm(data, key, norm, steps):
  params, x, labels = jax.tree.map(np.float64, data[0]), np.float64(data[1]), data[2]
  radius = 0.3
  loss = robustness.margin_attack_loss
  _, info = run(
    network, params, x, labels, key, radius, attack=robustness.apgd_attack, num_steps=steps,
    norm=norm, bounds=(0.0, 1.0), loss=loss,
  )  # fmt: skip
  # The start is that of the first restart.
  noise = jax.random.fold_in(key, 0)
  if norm == "linf":
    offset = np.array(jax.random.uniform(noise, x.shape, x.dtype, -1.0, 1.0))
    offset /= np.abs(offset).max(axis=1, keepdims=True)
  else:
    offset = np.array(jax.random.normal(noise, x.shape, x.dtype))
    offset /= np.linalg.norm(offset, axis=1, keepdims=True)
  starts = np.clip(x + radius * offset, 0, 1)
  one = lambda x, y: loss(network(params, x[None]), y[None])[0]
  slope = jax.jit(jax.value_and_grad(one))
  for i in range(BATCH):
    gradient_of = lambda point, i=i: map(np.asarray, slope(point, labels[i]))
    top = reference(gradient_of, x[i], starts[i], radius, steps, norm)
    found = max(np.max(info.history[0, :, i]), info.value[i])
    np.testing.assert_allclose(found, top, atol=1e-9)


def test_any_optax_optimizer_is_a_step_rule(data, key):
  params, x, labels = data
  loss, options = robustness.margin_attack_loss, {"num_steps": 25, "bounds": (0.0, 1.0)}
  base = run(network, params, x, labels, key, 0.2, loss=loss, **options)[1].value
  rules = {
    "linf": optax.chain(optax.scale_by_sign(), optax.sgd(0.02)),
    "adam": optax.adam(0.03),
    "momentum": optax.chain(optax.normalize_by_update_norm(), optax.sgd(0.1, momentum=0.5)),
  }
  for name, optimizer in rules.items():
    _, info = run(network, params, x, labels, key, 0.2, loss=loss, optimizer=optimizer, **options)
    np.testing.assert_allclose(info.value, base, atol=0.1, err_msg=name)
  # Each example has a state and a norm of its own: alone it does the same.
  alone, _ = run(
    network, params, x[:1], labels[:1], key, 0.0, optimizer=rules["momentum"], num_steps=3
  )
  np.testing.assert_array_equal(alone, x[:1])
  flat = lambda params, x: jnp.zeros((x.shape[0], CLASSES)) + 0 * jnp.sum(x)
  still, info = robustness.pgd_worst_case(
    flat, params, x, labels, key, radius=0.1, num_steps=2, optimizer=rules["momentum"]
  )
  assert np.all(np.isfinite(still)) and np.all(info.stalled)


def saturated(params, x):
  return 1e4 * network(params, x)


def test_saturated_softmax_does_not_stall_silently(data, key):
  """Logits of 1e4: the gradient of the cross entropy is 0, that of its logarithm is not."""
  params, x, _ = data
  labels = np.argmax(network(params, x), axis=1)
  for norm in ("linf", "l2"):
    options = {"num_steps": 20, "norm": norm}
    radius = 0.3 if norm == "linf" else 0.6
    by_loss = {
      loss: run(saturated, params, x, labels, key, radius, loss=loss, **options)[1]
      for loss in (
        losses.cross_entropy_loss,
        robustness.cross_entropy_attack_loss,
        robustness.margin_attack_loss,
      )
    }
    stuck, ours, margin = by_loss.values()
    sure = np.asarray(stuck.stalled)
    assert np.mean(sure) > 0.3  # and it says so
    assert not ours.stalled.any() and not margin.stalled.any()
    broken = [np.sum(info.broken) for info in (stuck, ours, margin)]
    assert broken[0] < min(broken[1:])


def test_few_classes_are_attacked_by_margins(rng, key):
  x, radius = rng.normal(size=(BATCH, SIZE)).astype(np.float32), 0.21
  for classes in (2, 3):
    weights = rng.normal(size=(SIZE, classes)).astype(np.float32)
    labels = np.argmax(x @ weights, axis=1)
    for norm in ("linf", "l2"):
      accuracy, info = run(
        linear, weights, x, labels, key, radius, attack=robustness.robust_accuracy, norm=norm,
        num_steps=40,
      )  # fmt: skip
      score = x @ weights
      gap = np.full(BATCH, np.inf)
      for k in range(classes):
        length = np.linalg.norm(weights[:, [k]] - weights, DUAL[norm], axis=0)[labels]
        gain = score[np.arange(BATCH), labels] - score[:, k]
        gap = np.where(labels == k, gap, np.minimum(gap, gain / np.maximum(length, 1e-30)))
      assert np.all(np.abs(gap - radius) > 1e-4)  # no tie
      np.testing.assert_array_equal(info.robust, gap > radius)
      assert info.survives.shape == (classes, BATCH) and 0 < accuracy < 1


def test_apgd_is_at_least_as_strong_as_pgd_of_the_same_budget(key):
  """On digits, a perceptron trained for a moment, 200 images, 40 gradients each."""
  x, y = load_digits(return_X_y=True)
  x, y = np.float32(x / 16), np.int32(y)
  model = nets.MLP((32, 10))
  optimizer = optax.adam(0.02)
  params = model.init(key, x[:1])

  def step(carry, _):
    params, state = carry
    loss = lambda p: jnp.mean(losses.cross_entropy_loss(model.apply(p, x[200:]), y[200:]))
    update, state = optimizer.update(jax.grad(loss)(params), state)
    return (optax.apply_updates(params, update), state), None

  train = lambda p: jax.lax.scan(step, (p, optimizer.init(p)), length=60)[0][0]
  params = jax.jit(train)(params)
  broken = {}
  for attack in (robustness.pgd_worst_case, robustness.apgd_attack):
    _, info = run(
      model.apply, params, x[:200], y[:200], key, 0.1, attack=attack, num_steps=40,
      bounds=(0.0, 1.0),
    )  # fmt: skip
    broken[attack] = np.sum(info.broken)
  pgd, apgd = broken.values()
  assert 40 < pgd <= apgd < 190


def test_scores_of_nan_break_and_bad_rows_do_not_spread(data, key):
  params, x, labels = data
  holes = x.copy()
  holes[3] = np.nan
  _, info = run(network, params, holes, labels, key, 0.1, num_steps=3)
  _, good = run(network, params, x, labels, key, 0.1, num_steps=3)
  assert info.broken[3]
  rest = np.arange(BATCH) != 3
  np.testing.assert_array_equal(info.broken[rest], good.broken[rest])
  np.testing.assert_allclose(info.value[rest], good.value[rest], rtol=1e-6)


def test_half_precision_one_trace_and_no_gradient(data, key):
  params, x, labels = data
  attack = lambda x, radius, key: robustness.apgd_attack(
    network, params, x, labels, key, radius=radius, num_steps=5
  )
  counted = count_traces(lambda *a: attack(*a)[0])
  fun = jax.jit(counted)
  for i in range(3):
    found = fun(jnp.asarray(x, jnp.bfloat16), 0.1 * i, jax.random.fold_in(key, i))
  assert found.dtype == jnp.bfloat16 and counted.traces == 1
  slope = jax.grad(lambda x: jnp.sum(attack(x, 0.1, key)[0]))(x)
  np.testing.assert_array_equal(slope, 0)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_scores_of_half_precision_that_tie_are_the_first_class(dtype, key):
  # The scores 1 and 1 + 2^-12 are equal in 16 bits, whatever a compiler makes of the sum.
  step = jnp.array([[0.0, 2.0**-12]], dtype)
  apply_fn = lambda params, x: 1 + 0 * x + step.astype(x.dtype)
  x = jnp.zeros((1, 2), dtype)
  attack = functools.partial(robustness.apgd_attack, radius=0.0, num_steps=1)
  _, info = jax.jit(lambda x: attack(apply_fn, None, x, jnp.array([0]), key))(x)
  assert not info.broken.any()
  rate, seen = jax.jit(
    lambda x: robustness.robust_accuracy(
      apply_fn, None, x, jnp.array([0]), key, radius=0.0, num_steps=1
    )
  )(x)
  assert rate == 1 and seen.clean.all()
