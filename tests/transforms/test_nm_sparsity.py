"""Progressive n:m sparsity: schedules, stages, gradients, checkpoints, exact patterns."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_robust import transforms
from jaxopt_robust.debug import count_traces

N, M = 1, 4
TABLE = ((2, 4, 8), (4, 2, 4), (6, 1, 4))  # begins dense, then changes n and m
FLOWS = ("masked", "ste", "srste", "frozen")


def brute_mask(weights, n, m, axis=-2):
  """The n of largest magnitude of each run, of equal ones the first, sorting run by run."""
  last = np.moveaxis(np.abs(weights), axis, -1)
  mask = np.zeros(last.shape, bool)
  for run, marks in zip(last.reshape(-1, m), mask.reshape(-1, m), strict=True):
    marks[np.argsort(-run, kind="stable")[:n]] = True
  return np.moveaxis(mask, -1, axis)


def data():
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
  return {"kernel": draw(16, 4), "bias": draw(4)}, draw(8, 16), draw(8, 4)


def loss(params):
  _, x, y = data()
  return jnp.mean((jnp.tanh(x @ params["kernel"] + params["bias"][None, :]) - y) ** 2)


GRAD = jax.jit(jax.grad(loss))


def run(tx, effective, num, params=None, state=None):
  """Steps of which the loss is one program and the rest goes operation by operation."""
  params = data()[0] if params is None else params
  state = tx.init(params) if state is None else state
  for _ in range(num):
    updates, state = tx.update(GRAD(effective(params, state)), state, params)
    params = optax.apply_updates(params, updates)
  return params, state


def make(inner=None, n=N, m=M, **options):
  return transforms.progressive_nm(inner or optax.sgd(0.5), n=n, m=m, **options)


def dense(inner=None):
  return inner or optax.sgd(0.5), lambda params, state: params


def equal(a, b):
  return all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


def state_at(tx, params, count):
  return tx.init(params)._replace(count=jnp.int32(count))


def test_mask_decays_are_what_their_formulas_say():
  steps = jnp.arange(9)
  for end in (None, 7):
    cut = (steps < 9) if end is None else (steps < end)
    linear = jax.vmap(transforms.linear_mask_decay(0.25, start=2, end=end))(steps)
    np.testing.assert_array_equal(linear, np.clip(1 - (steps - 2) / 4, 0, 1) * cut)
    exp = jax.vmap(transforms.exponential_mask_decay(0.5, start=2, end=end))(steps)
    np.testing.assert_allclose(exp, np.minimum(1, np.exp(1 - steps / 2)) * cut, rtol=1e-6)
  assert float(transforms.linear_mask_decay(0)(10**6)) == 1
  assert float(transforms.linear_mask_decay(0.25)(1)) == 0.75  # from the first step on
  np.testing.assert_allclose(transforms.exponential_mask_decay(0.5)(1), np.exp(-0.5), rtol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
def test_dtypes_stay_and_shapes_are_enough(dtype):
  with jax.enable_x64(dtype == jnp.float64):
    weights = jax.ShapeDtypeStruct((8, 4), dtype)
    decay = transforms.exponential_mask_decay(0.5, start=1, end=6)
    tx, effective = make(stages=TABLE, decay=decay)

    def step(weights, grads):
      state = tx.init(weights)
      return effective(weights, state), *tx.update(grads, state, weights)

    used, updates, state = jax.eval_shape(step, weights, weights)
    hard = jax.eval_shape(lambda w: transforms.harden(w, n=N, m=M), weights)
    assert used.dtype == updates.dtype == hard.dtype == dtype and state.count.dtype == jnp.int32
    assert jax.eval_shape(tx.init, weights).count.shape == ()


def test_rates_of_schedules_are_data_one_program_serves_all():
  params, _, _ = data()

  def used(rate, start, count):
    decay = transforms.exponential_mask_decay(rate, start=start, end=8)
    tx, effective = make(decay=decay)
    return effective(params, tx.init(params)._replace(count=count))["kernel"]

  counted = count_traces(used)
  jitted = jax.jit(counted)
  mask = brute_mask(params["kernel"], N, M)
  for rate, start, count in ((0.1, 0, 3), (0.7, 2, 3), (0.7, 2, 8)):
    beta = np.exp(-rate * (count - start)) * (count < 8)
    expected = np.where(mask, params["kernel"], beta * params["kernel"])
    np.testing.assert_allclose(jitted(rate, start, jnp.int32(count)), expected, rtol=1e-6)
  assert counted.traces == 1


@pytest.mark.parametrize(
  ("kind", "n", "m", "options", "table"),
  [
    ("stepwise", 1, 16, {"total": 350},
     {0: (15, 16), 70: (8, 16), 140: (4, 16), 210: (2, 16), 280: (1, 16)}),
    ("geometric", 1, 8, {"total": 350}, {0: (8, 64), 87: (4, 32), 175: (2, 16), 262: (1, 8)}),
    ("stepwise", 2, 4, {"total": 100}, {0: (3, 4), 50: (2, 4)}),
    ("densify", 2, 4, {"total": 40}, {0: (2, 32), 10: (2, 16), 20: (2, 8), 30: (2, 4)}),
    ("densify", 1, 4, {"total": 9, "num_stages": 2}, {0: (1, 8), 4: (1, 4)}),
    ("stepwise", 2, 8, {"total": 100, "dense": 10, "fine_tune": 30},
     {10: (7, 8), 30: (4, 8), 50: (2, 8)}),
    ("stepwise", 3, 3, {"total": 5, "dense": 2}, {2: (3, 3)}),
    ("stepwise", 3, 12, {"total": 3}, {0: (11, 12), 1: (6, 12), 2: (3, 12)}),
  ],
)  # fmt: skip
def test_tables_of_stages(kind, n, m, options, table):
  stages = transforms.sdgf_stages(kind, n, m, **options)
  assert stages == tuple((start, *pattern) for start, pattern in table.items())
  assert all(type(number) is int for stage in stages for number in stage)


def test_each_stage_has_its_pattern_in_one_program():
  params, _, _ = data()
  tx, effective = make(stages=TABLE)
  counted = count_traces(lambda count: effective(params, state_at(tx, params, count)))
  used = jax.jit(counted)
  kernel = np.asarray(params["kernel"])
  for count in range(8):
    now = [(n, m) for start, n, m in TABLE if start <= count]
    mask = brute_mask(kernel, *now[-1]) if now else True
    weights = used(jnp.int32(count))
    np.testing.assert_array_equal(weights["kernel"], np.where(mask, kernel, 0))
    np.testing.assert_array_equal(weights["bias"], params["bias"])
  assert counted.traces == 1
  seeds = jax.vmap(lambda count: used(count)["kernel"])(jnp.arange(8, dtype=jnp.int32))
  np.testing.assert_array_equal(seeds[5], np.where(brute_mask(kernel, 2, 4), kernel, 0))


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("count", [3, 5])
def test_what_reaches_dense_weights_in_a_stage(flow, count):
  params, _, _ = data()
  beta = 0.0 if flow == "srste" else 0.3
  tx, effective = make(optax.sgd(1.0), stages=TABLE, flow=flow, decay=beta, strength=0.1)
  state = state_at(tx, params, count)
  kernel = params["kernel"]
  mask = brute_mask(kernel, *((4, 8) if count == 3 else (2, 4)))
  z = jnp.where(mask, 1.0, beta)

  def direct(w):  # the product, with the mask as a constant; autodiff does the rest
    return loss(params | {"kernel": jax.lax.stop_gradient(z) * w})

  g_eff = jax.grad(lambda w: loss(params | {"kernel": w}))(z * kernel)
  expected = {
    "masked": jax.grad(direct)(kernel),
    "ste": g_eff,
    "srste": g_eff + 0.1 * np.where(mask, 0, kernel),
    "frozen": np.where(mask, g_eff, 0),
  }[flow]
  updates, state = tx.update(GRAD(effective(params, state)), state, params)
  np.testing.assert_allclose(updates["kernel"], -expected, atol=1e-6)
  assert int(state.count) == count + 1


def test_hand_example_of_sr_ste():
  weights = jnp.array([[4.0, 1.0, -2.0, 3.0]])
  tx, effective = make(optax.sgd(1.0), 2, 4, axis=-1, flow="srste", strength=0.5)
  state = tx.init(weights)
  np.testing.assert_array_equal(effective(weights, state), [[4.0, 0.0, 0.0, 3.0]])
  updates, _ = tx.update(jnp.array([[1.0, 2.0, 3.0, 4.0]]), state, weights)
  # -(g + lambda w) where masked: -(2 + 0.5 * 1), -(3 - 0.5 * 2)
  np.testing.assert_array_equal(updates, [[-1.0, -2.5, -2.0, -4.0]])


@pytest.mark.parametrize(
  "options",
  [
    {"decay": 1.0},
    {"decay": transforms.linear_mask_decay(0.25, start=3)},
    {"stages": ((3, N, M),)},
    {"n": M, "m": M},
    {"n": M, "m": M, "stages": transforms.sdgf_stages("geometric", M, M, total=4, num_stages=2)},
  ],
  ids=["beta 1", "dense phase of a decay", "dense phase of stages", "n = m", "n = m in stages"],
)
def test_without_masking_it_is_dense_training_bit_for_bit(options):
  assert equal(run(*make(optax.adam(0.05), **options), 3)[0], run(*dense(optax.adam(0.05)), 3)[0])


def test_a_decay_that_is_over_is_straight_through_or_frozen():
  over = transforms.linear_mask_decay(1.0, end=0)
  for flow, same in (("masked", "frozen"), ("ste", "ste")):
    ended, constant = make(flow=flow, decay=over), make(flow=same)
    (weights, _), (others, _) = run(*ended, 3), run(*constant, 3)
    assert equal(weights, others)
    before = data()[0]
    after, _ = run(*ended, 1)
    still = np.asarray(after["kernel"]) == np.asarray(before["kernel"])
    if flow == "masked":
      np.testing.assert_array_equal(still, ~brute_mask(before["kernel"], N, M))
    else:
      assert not still.any()


@pytest.mark.parametrize("flow", ["masked", "ste"])
def test_training_goes_on_from_a_checkpoint_across_stages_and_decays(flow):
  decay = transforms.exponential_mask_decay(0.5, start=1, end=6)
  tx, effective = make(optax.adam(0.05), flow=flow, decay=decay, stages=TABLE)
  step = jax.jit(lambda params, state: run(tx, effective, 1, params, state))

  def go(carry, num):
    for _ in range(num):
      carry = step(*carry)
    return carry

  params = data()[0]
  half = go((params, tx.init(params)), 3)
  whole = go(half, 5)
  saved = jax.tree.map(np.asarray, half)
  tx, effective = make(optax.adam(0.05), flow=flow, decay=decay, stages=TABLE)  # a new process
  resumed = go(jax.tree.map(jnp.asarray, saved), 5)
  assert equal(whole, resumed) and int(resumed[1].count) == 8
  final, state = resumed
  np.testing.assert_array_equal(
    effective(final, state)["kernel"], transforms.harden(final, n=N, m=M)["kernel"]
  )


@pytest.mark.parametrize("kind", ["random", "constant", "zero"])
def test_hardened_weights_have_the_pattern_and_stay(kind):
  rng = np.random.default_rng(3)
  shape = (2, 8, 3)
  weights = {
    "random": rng.standard_normal(shape), "constant": np.full(shape, -2.0), "zero": np.zeros(shape),
  }[kind].astype(np.float32)  # fmt: skip
  params = {"layers": jnp.asarray(weights), "bias": jnp.ones(3), "steps": jnp.int32(4)}
  hard = transforms.harden(params, n=2, m=4)
  mask = brute_mask(weights, 2, 4)
  np.testing.assert_array_equal(transforms.nm_mask(weights, 2, 4, axis=-2), mask)
  np.testing.assert_array_equal(hard["layers"], np.where(mask, weights, 0))
  assert np.all(mask.reshape(2, 2, 4, 3).sum(2) == 2)
  left = np.count_nonzero(np.asarray(hard["layers"]).reshape(2, 2, 4, 3), axis=2)
  assert np.all(left == (0 if kind == "zero" else 2))
  assert equal(hard, transforms.harden(hard, n=2, m=4))
  assert hard["steps"].dtype == jnp.int32 and np.array_equal(hard["bias"], params["bias"])
  negative = transforms.harden(jax.tree.map(jnp.negative, params), n=2, m=4)["layers"]
  np.testing.assert_array_equal(negative != 0, hard["layers"] != 0)
  assert equal(params, transforms.harden(params, n=4, m=4))


def test_runs_lie_along_the_inputs_unless_told_otherwise():
  weights = jnp.array([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 1.0, 2.0]])  # 2 inputs, 4 outputs
  inputs = [[0.0, 0.0, 3.0, 4.0], [5.0, 6.0, 0.0, 0.0]]
  outputs = [[0.0, 2.0, 0.0, 4.0], [0.0, 6.0, 0.0, 2.0]]
  tx, effective = make(n=1, m=2)
  np.testing.assert_array_equal(effective(weights, tx.init(weights)), inputs)
  np.testing.assert_array_equal(transforms.harden(weights, n=1, m=2, axis=-1), outputs)
  convolution = np.random.default_rng(4).standard_normal((2, 2, 4, 3)).astype(np.float32)
  np.testing.assert_array_equal(
    transforms.harden(convolution, n=1, m=4) != 0, brute_mask(convolution, 1, 4, axis=2)
  )


def test_layers_with_patterns_of_their_own():
  rng = np.random.default_rng(5)
  params = {k: jnp.asarray(rng.standard_normal((8, 4)), jnp.float32) for k in ("ff", "q", "head")}
  named = lambda name: lambda path, leaf: path[-1].key == name
  attention, used_q = make(optax.sgd(1.0), 2, 4, predicate=named("q"))
  tx, used_ff = make(attention, 1, 8, predicate=named("ff"))
  state = tx.init(params)
  used = used_ff(used_q(params, state.inner_state), state)
  updates, _ = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
  masks = {"ff": brute_mask(params["ff"], 1, 8), "q": brute_mask(params["q"], 2, 4), "head": True}
  for name, mask in masks.items():
    np.testing.assert_array_equal(used[name], np.where(mask, params[name], 0))
    np.testing.assert_array_equal(updates[name], np.where(mask, -jnp.ones((8, 4)), 0))


def test_a_mask_gets_the_count_only_where_it_needs_it():
  weights = jnp.array([[1.0, 2.0]])

  def optional(w, least=1.5):  # a parameter of the user's, not the number of updates
    return jnp.abs(w) > least

  for mask, expected in (
    (optional, [[0.0, 2.0]]),
    (lambda w, count: jnp.abs(w) > count - 2, [[0.0, 2.0]]),
    (jnp.isfinite, [[1.0, 2.0]]),
  ):
    tx, effective = transforms.sparse_flow(optax.sgd(1.0), mask)
    state = tx.init(weights)._replace(count=jnp.int32(3))
    np.testing.assert_array_equal(effective(weights, state), expected)
