"""Doubly robust training against finite differences of the solved bilevel problem, and limits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import losses, robustness

BATCH, SIZE, HIDDEN, CLASSES, RADIUS = 4, 3, 6, 3, 0.1


def network(params, x):
  return jnp.tanh(x @ params["a"]) @ params["b"]


def make(rng, dtype=np.float64):
  params = {"a": rng.normal(size=(SIZE, HIDDEN)), "b": rng.normal(size=(HIDDEN, CLASSES))}
  params = jax.tree.map(lambda p: jnp.asarray(p, dtype), params)
  x = jnp.asarray(rng.uniform(0.2, 0.8, size=(BATCH, SIZE)), dtype)
  return params, x, jnp.asarray(rng.integers(0, CLASSES, size=BATCH), jnp.int32)


@functools.cache
def compiled(implicit="diagonal", num_steps=10, rate=1.0):
  def step(params, state, x, labels, key, where, temperature, barrier):
    fn = robustness.done_value_and_grad(
      network, radius=RADIUS, temperature=temperature, rate=rate, barrier=barrier,
      num_steps=num_steps, implicit=implicit,
    )  # fmt: skip
    return fn(params, state, x, labels, key, where=where)

  return jax.jit(step)


def call(
  params, x, labels, key, *, state=None, where=None, temperature=1.0, barrier=1e-3, **static
):
  state = robustness.done_init(dtype=x.dtype) if state is None else state
  where = jnp.ones(BATCH, bool) if where is None else jnp.asarray(where)
  return compiled(**static)(params, state, x, labels, key, where, temperature, barrier)


def flat(tree):
  return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@pytest.mark.x64
@pytest.mark.parametrize("barrier", [0.05, 0.005])
def test_hypergradient_is_that_of_the_solved_problem(barrier, key):
  params, x, labels = make(np.random.default_rng(0))
  options = {"temperature": 0.7, "barrier": barrier, "num_steps": 3000}
  _, full, _ = call(params, x, labels, key, implicit="full", **options)
  vector, unflatten = jax.flatten_util.ravel_pytree(params)
  central = np.zeros(vector.size)
  for i in range(vector.size):  # central differences: error about eps^2 / 6 |f'''|
    step = 1e-5 * np.eye(vector.size)[i]
    up, down = (
      call(unflatten(vector + s), x, labels, key, implicit="full", **options)[0][0]
      for s in (step, -step)
    )
    central[i] = (up - down) / 2e-5
  error = lambda grads: np.linalg.norm(flat(grads) - central) / np.linalg.norm(central)
  assert error(full) < 1e-6
  diagonal = error(call(params, x, labels, key, **options)[1])
  none = error(call(params, x, labels, key, implicit="none", **options)[1])
  assert diagonal < 0.01
  assert none > 10 * diagonal


def test_weights_are_a_softmax_and_sum_to_one(rng, key):
  params, x, labels = make(rng, np.float32)
  for r in (0.1, 1.0, 50.0):
    (value, info), _, state = call(params, x, labels, key, temperature=r)
    np.testing.assert_allclose(info.weights, jax.nn.softmax(info.losses / r), rtol=1e-5)
    np.testing.assert_allclose(info.weights.sum(), 1, rtol=1e-6)
    np.testing.assert_allclose(value, losses.kl_dro(info.losses, r), rtol=1e-4)
    np.testing.assert_allclose(state.log_average, value / r, rtol=1e-5)
    assert int(state.steps) == 1 and info.objective == value
    x_attacked = x + info.perturbation
    again = losses.cross_entropy_loss(network(params, x_attacked), labels)
    np.testing.assert_allclose(info.losses, again, rtol=1e-5)


@pytest.mark.x64
def test_limits_of_the_temperature(rng, key):
  params, x, labels = make(rng)
  _, info = call(params, x, labels, key)[0]
  each = lambda params: losses.cross_entropy_loss(network(params, x + info.perturbation), labels)
  jacobian = jax.jacrev(each)(params)
  # very large: the mean gradient at the attacked points, as in plain adversarial training
  options = {"implicit": "none"}
  (_, flat_info), grads, _ = call(params, x, labels, key, temperature=1e8, **options)
  np.testing.assert_allclose(flat_info.weights, 1 / BATCH, rtol=1e-7)
  mean = jax.tree.map(lambda g: g.mean(0), jacobian)
  np.testing.assert_allclose(flat(grads), flat(mean), rtol=1e-6, atol=1e-9)
  # very small: the gradient of the example with the largest loss
  (_, sharp_info), grads, _ = call(params, x, labels, key, temperature=1e-4, **options)
  worst = int(np.argmax(sharp_info.losses))
  np.testing.assert_allclose(
    flat(grads), flat(jax.tree.map(lambda g: g[worst], jacobian)), rtol=1e-6, atol=1e-9
  )


@pytest.mark.x64
def test_without_attack_it_is_kl_dro(rng, key):
  params, x, labels = make(rng)
  fn = robustness.done_value_and_grad(network, radius=1e-9, rate=1.0, temperature=0.4)
  (value, _), grads, _ = jax.jit(fn)(params, robustness.done_init(dtype=x.dtype), x, labels, key)
  objective = lambda p: losses.kl_dro(losses.cross_entropy_loss(network(p, x), labels), 0.4)
  expected, expected_grads = jax.value_and_grad(objective)(params)
  # perturbations of 1e-9 move the losses by as much
  np.testing.assert_allclose(value, expected, atol=1e-7)
  np.testing.assert_allclose(flat(grads), flat(expected_grads), atol=1e-7)


@pytest.mark.x64
def test_moving_average(rng, key):
  params, x, labels = make(rng)
  state, average = robustness.done_init(dtype=x.dtype), None
  for i in range(4):
    (value, info), _, state = call(
      params, x, labels, jax.random.fold_in(key, i), state=state, rate=0.3, temperature=0.5
    )
    fresh = np.mean(np.exp(np.asarray(info.losses) / 0.5))
    average = fresh if average is None else 0.7 * average + 0.3 * fresh
    np.testing.assert_allclose(state.log_average, np.log(average), rtol=1e-12)
    np.testing.assert_allclose(value, 0.5 * np.log(average), rtol=1e-12)
    np.testing.assert_allclose(info.weights.sum(), fresh / average, rtol=1e-12)
    params = jax.tree.map(lambda p: 1.1 * p, params)


def test_masked_rows_and_nan(rng, key):
  params, x, labels = make(rng, np.float32)
  where = np.array([True, False, True, True])
  hidden = x.at[1].set(jnp.nan)
  (value, info), grads, state = call(params, hidden, labels.at[1].set(-1), key, where=where)
  assert np.all(np.isfinite(flat(grads))) and info.weights[1] == 0
  kept = np.asarray(info.losses)[where]
  np.testing.assert_allclose(value, np.log(np.mean(np.exp(kept))), rtol=1e-5)
  (other, _), other_grads, _ = call(params, x.at[1].set(0.0), labels, key, where=where)
  assert other == value
  np.testing.assert_array_equal(flat(other_grads), flat(grads))
  # nothing left, or a NaN loss: the state stays
  (value, info), grads, empty = call(params, x, labels, key, state=state, where=~where & where)
  assert value == 0 and not np.any(flat(grads)) and not np.any(info.weights)
  bad = jax.tree.map(lambda p: p * jnp.nan, params)
  (value, _), _, after = call(bad, x, labels, key, state=state)
  assert np.isnan(value)
  for kept_state in (empty, after):
    assert kept_state.log_average == state.log_average and kept_state.steps == state.steps


def test_new_numbers_do_not_retrace_and_dtypes_stay(rng, key):
  params, x, labels = make(rng, np.float32)
  (first, _), grads, state = call(params, x, labels, key)
  size = compiled()._cache_size()
  (second, _), _, _ = call(params, x, labels, key, state=state, temperature=0.3, barrier=1e-2)
  assert compiled()._cache_size() == size and first != second
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((grads, state.log_average)))
  half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
  shapes = jax.eval_shape(
    robustness.done_value_and_grad(network, radius=RADIUS), half, state, x.astype(jnp.bfloat16),
    labels, key,
  )  # fmt: skip
  assert {leaf.dtype for leaf in jax.tree.leaves(shapes[1])} == {jnp.dtype(jnp.bfloat16)}
  assert shapes[2].log_average.dtype == jnp.float32


def test_huge_losses(rng, key):
  params, x, labels = make(rng, np.float32)
  wild = jax.tree.map(lambda p: 1e4 * p, params)
  (value, info), grads, state = call(wild, x, labels, key)
  assert np.isfinite(value) and np.all(np.isfinite(flat(grads))) and np.isfinite(state.log_average)
  np.testing.assert_allclose(info.weights.sum(), 1, rtol=1e-5)


def test_tail_accuracy(rng):
  labels = rng.integers(0, 10, size=400)
  correct = rng.uniform(size=400) < 0.3 + 0.05 * labels
  by_class = np.sort([correct[labels == k].mean() for k in range(10)])
  tail = jax.jit(functools.partial(robustness.tail_accuracy, num_classes=10))
  np.testing.assert_allclose(tail(correct, labels), by_class[:3].mean(), rtol=1e-6)
  np.testing.assert_allclose(tail(correct, labels, fraction=1.0), by_class.mean(), rtol=1e-6)
  part = (by_class[:2].sum() + 0.5 * by_class[2]) / 2.5
  np.testing.assert_allclose(tail(correct, labels, fraction=0.25), part, rtol=1e-6)
  where = labels != 4  # a class that does not occur is no class with accuracy 0
  left = np.sort([correct[labels == k].mean() for k in range(10) if k != 4])
  found = tail(correct, labels, where=where, fraction=1 / 3)
  np.testing.assert_allclose(found, left[:3].mean(), rtol=1e-6)
  assert float(tail(correct, labels, where=where & ~where)) == 0
