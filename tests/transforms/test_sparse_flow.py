"""Flow rules of sparse training: each equals its own derivative; limits, schedules, checkpoints."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_robust import transforms

KEEP = functools.partial(transforms.nm_mask, n=2, m=4, axis=0)
STRENGTH = 0.1


def network(params, x):
  return jnp.tanh(x @ params["kernel"] + params["bias"][None, :]) @ params["out"]


def data():
  rng = np.random.default_rng(0)
  draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)
  params = {"kernel": draw(8, 4), "bias": draw(4), "out": draw(4)}
  return params, draw(16, 8), draw(16)


def loss(params):
  _, x, y = data()
  return jnp.mean((network(params, x) - y) ** 2)


def direct(flow, beta):
  """The loss of dense weights, with the rule as a derivative of the masking operation."""

  def masked(w):
    return jnp.where(KEEP(jax.lax.stop_gradient(w)), 1.0, beta) * w

  @jax.custom_vjp
  def through(w):
    return masked(w)

  def backward(w, g):
    pull = STRENGTH * jnp.where(KEEP(w), 0, w) if flow == "srste" else 0
    return (g + pull,)

  through.defvjp(lambda w: (masked(w), w), backward)
  act = through if flow in ("ste", "srste") else masked
  return lambda params: loss(params | {"kernel": act(params["kernel"])})


@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize("flow", ["masked", "ste", "srste"])
def test_rule_is_the_derivative_of_the_masking_operation(flow, beta):
  params, _, _ = data()
  tx, effective = transforms.sparse_flow(
    optax.sgd(1.0), KEEP, flow=flow, decay=beta, strength=STRENGTH
  )
  state = tx.init(params)

  @jax.jit
  def both(params):
    grads = jax.grad(loss)(effective(params, state))
    return tx.update(grads, state, params)[0], jax.grad(direct(flow, beta))(params)

  updates, expected = both(params)
  jax.tree.map(lambda u, g: np.testing.assert_allclose(u, -g, atol=1e-6), updates, expected)
  assert np.array_equal(effective(params, state)["bias"], params["bias"])  # one axis: not masked


def test_frozen_weights_do_not_move_whatever_the_inner_optimizer_adds():
  params, _, _ = data()
  tx, effective = transforms.sparse_flow(optax.adamw(0.1, weight_decay=0.5), KEEP, flow="frozen")
  state = tx.init(params)

  @jax.jit
  def step(params, state):
    updates, state = tx.update(jax.grad(loss)(effective(params, state)), state, params)
    return optax.apply_updates(params, updates), state

  for _ in range(3):
    kept, before = KEEP(params["kernel"]), params["kernel"]
    params, state = step(params, state)
    np.testing.assert_array_equal(params["kernel"] != before, kept)


def test_hand_example_of_the_pull():
  weights = jnp.array([[4.0, 1.0, -2.0, 3.0]])
  keep = functools.partial(transforms.nm_mask, n=2, m=4)
  tx, effective = transforms.sparse_flow(optax.sgd(1.0), keep, flow="srste", strength=0.5)
  state = tx.init(weights)
  np.testing.assert_array_equal(effective(weights, state), [[4.0, 0.0, 0.0, 3.0]])
  updates, _ = tx.update(jnp.array([[1.0, 2.0, 3.0, 4.0]]), state, weights)
  np.testing.assert_array_equal(updates, [[-1.0, -2.5, -2.0, -4.0]])


def train(tx, effective, params, state, num):
  @jax.jit
  def step(carry, _):
    params, state = carry
    updates, state = tx.update(jax.grad(loss)(effective(params, state)), state, params)
    return (optax.apply_updates(params, updates), state), None

  return jax.lax.scan(step, (params, state), None, length=num)[0]


def equal(a, b):
  return all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


@pytest.mark.parametrize("options", [{"decay": 1.0}, {"all": True}])
def test_without_masking_it_is_dense_training_bit_for_bit(options):
  params, _, _ = data()
  keep = functools.partial(transforms.nm_mask, n=4, m=4) if options.pop("all", 0) else KEEP
  tx, effective = transforms.sparse_flow(optax.adam(0.05), keep, **options)
  plain = optax.adam(0.05)
  grad = jax.jit(jax.grad(loss))

  def run(tx, effective):  # operation by operation: compilers fuse the two programs differently
    weights, state = params, tx.init(params)
    for _ in range(3):
      updates, state = tx.update(grad(effective(weights, state)), state, weights)
      weights = optax.apply_updates(weights, updates)
    return weights

  assert equal(run(tx, effective), run(plain, lambda p, _: p))


def test_a_schedule_goes_on_from_a_checkpoint():
  params, _, _ = data()
  decay = lambda count: jnp.maximum(0.0, 1 - count / 4)
  tx, effective = transforms.sparse_flow(optax.adam(0.05), KEEP, decay=decay)
  whole, _ = train(tx, effective, params, tx.init(params), 6)
  half, state = train(tx, effective, params, tx.init(params), 3)
  saved = jax.tree.map(np.asarray, (half, state))
  rest, state = train(tx, effective, *jax.tree.map(jnp.asarray, saved), 3)
  assert equal(whole, rest) and int(state.count) == 6
  shares = effective(rest, state)["kernel"] / rest["kernel"]  # the schedule has ended
  np.testing.assert_array_equal(shares, np.asarray(KEEP(rest["kernel"]), np.float32))


def test_leaves_are_chosen_by_path_and_inner_gets_extra_arguments():
  params, _, _ = data()
  seen = []

  def update(updates, state, params=None, *, value, **extra):
    seen.append(value)
    return updates, state

  inner = optax.GradientTransformationExtraArgs(lambda params: (), update)
  tx, effective = transforms.sparse_flow(
    inner, functools.partial(transforms.topk_mask, k=1),
    predicate=lambda path, w: path[-1].key == "out",
  )  # fmt: skip
  state = tx.init(params)
  used = effective(params, state)
  assert np.array_equal(used["kernel"], params["kernel"])
  assert np.count_nonzero(used["out"]) == 1
  tx.update(params, state, params, value=3.0)
  assert seen == [3.0]


@pytest.mark.parametrize("bad", [jnp.inf, jnp.nan])
def test_what_a_hard_mask_leaves_out_is_zero_whatever_it_is(bad):
  weights, first = jnp.array([[3.0, bad, 1.0, 0.5]]), lambda w: jnp.arange(w.size)[None] < 1
  tx, effective = transforms.sparse_flow(optax.sgd(1.0), first)
  state = tx.init(weights)
  np.testing.assert_array_equal(effective(weights, state), [[3.0, 0, 0, 0]])
  updates, _ = tx.update(jnp.array([[1.0, bad, bad, 1.0]]), state, weights)
  np.testing.assert_array_equal(updates, [[-1.0, 0, 0, 0]])
  # What is left of it by a soft one is not finite, nor is a weight that is kept.
  _, soft = transforms.sparse_flow(optax.sgd(1.0), first, decay=0.5)
  np.testing.assert_array_equal(soft(weights, state), [[3.0, bad, 0.5, 0.25]])
  # The derivative by the share at 0 is the masked weights'.
  share = lambda beta: jnp.sum(
    transforms.sparse_flow(optax.sgd(1.0), first, decay=beta)[1](jnp.array([[3.0, 2.0]]), state)
  )
  assert jax.grad(share)(0.0) == 2.0


@pytest.mark.parametrize("name", ["decay", "strength"])
def test_shares_and_strengths_are_numbers(name):
  with pytest.raises(ValueError, match=f"{name} must be a scalar"):
    transforms.sparse_flow(optax.sgd(1.0), KEEP, **{name: jnp.array([0.1, 0.2])})
