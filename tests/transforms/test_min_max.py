"""Saddle-point links: averages of gradients, constraints, descent ascent, Hedge."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxopt_robust import transforms

SIMPLEX = optax.projections.projection_simplex


def run(tx, grads, params, extra=lambda t: {}):
  """The updates of a sequence of gradients at fixed parameters."""
  state, out = tx.init(params), []
  for t, g in enumerate(grads):
    u, state = tx.update(g, state, params, **extra(t))
    out.append(u)
  return np.asarray(out), state


def test_ema_first_starts_at_the_first_gradient(rng):
  grads = rng.standard_normal((5, 3)).astype(np.float32)
  found, state = run(transforms.ema_first(0.3), jnp.asarray(grads), jnp.zeros(3))
  v = grads[0]
  for g, u in zip(grads, found, strict=True):
    v = v if g is grads[0] else 0.7 * v + 0.3 * g
    np.testing.assert_allclose(u, v if g is not grads[0] else grads[0], rtol=1e-5)
  assert int(state.count) == 5
  whole, _ = run(transforms.ema_first(1.0), jnp.asarray(grads), jnp.zeros(3))
  np.testing.assert_array_equal(whole, grads)


def test_storm_momentum_follows_its_recursion_and_ignores_what_it_does_not_use(rng):
  grads, before = rng.standard_normal((2, 5, 3)).astype(np.float32)
  before[0] = np.nan  # the first update has no previous point
  extra = lambda t: {"previous_grads": jnp.asarray(before[t])}
  found, _ = run(transforms.storm_momentum(0.3), jnp.asarray(grads), jnp.zeros(3), extra)
  d = grads[0]
  for t in range(1, 5):
    d = grads[t] + 0.7 * (d - before[t])
    np.testing.assert_allclose(found[t], d, rtol=1e-5, atol=1e-6)
  before[:] = np.nan
  plain, _ = run(transforms.storm_momentum(1.0), jnp.asarray(grads), jnp.zeros(3), extra)
  np.testing.assert_array_equal(plain, grads)


def test_storm_momentum_has_less_noise_than_the_gradient():
  """At parameters that move by 0.01 a step the error of the estimate is a third of the noise."""
  noise = jax.random.normal(jax.random.key(0), (2000, 20))
  w = 0.01 * jnp.arange(2000.0)[:, None] * jnp.ones((1, 20))
  gradient = lambda w, xi: w + xi
  tx = transforms.storm_momentum(0.1)

  def step(state, t):
    g = gradient(w[t], noise[t])
    d, state = tx.update(g, state, previous_grads=gradient(w[jnp.maximum(t - 1, 0)], noise[t]))
    return state, d - w[t]

  _, errors = jax.jit(lambda: jax.lax.scan(step, tx.init(jnp.zeros(20)), jnp.arange(2000)))()
  # the noise is averaged with weight 0.1: standard deviation sqrt(0.1 / 1.9) = 0.23
  assert 0.2 < float(jnp.std(errors[100:])) < 0.26


def test_normalized_gradients_have_length_one_at_any_scale():
  tx = transforms.normalized_gradient()
  tree = {"a": jnp.array([3.0]), "b": jnp.array([0.0, -4.0])}
  for scale in (1e-36, 1e-20, 1.0, 1e20):
    u, _ = tx.update(jax.tree.map(lambda g, s=scale: g * s, tree), tx.init(tree))
    np.testing.assert_allclose(u["a"], 0.6, rtol=1e-5)
    np.testing.assert_allclose(u["b"], [0, -0.8], rtol=1e-5)
  zero, _ = tx.update(jax.tree.map(jnp.zeros_like, tree), tx.init(tree))
  assert not any(leaf.any() for leaf in jax.tree.leaves(zero))


def test_nasa_is_a_chain_of_links():
  """z <- average, y = P(w - z / beta), w <- w + tau (y - w), at a constrained least squares."""
  target, beta, tau = jnp.array([2.0, 0.3, -1.0]), 1.0, 0.5
  tx = optax.chain(
    transforms.ema_first(0.5),
    optax.scale(-1 / beta),
    transforms.project_updates(SIMPLEX),
    optax.scale(tau),
  )

  @jax.jit
  def solve():
    def step(carry, _):
      w, state = carry
      u, state = tx.update(w - target, state, w)
      return (optax.apply_updates(w, u), state), None

    w = jnp.full(3, 1 / 3)
    return jax.lax.scan(step, (w, tx.init(w)), None, length=100)[0][0]

  np.testing.assert_allclose(solve(), SIMPLEX(target), atol=1e-5)


def test_projections_of_single_blocks():
  params = {"w": jnp.array([1.0, -1.0]), "q": jnp.array([0.5, 0.5])}
  tx = transforms.project_updates({"w": None, "q": SIMPLEX})
  updates = {"w": jnp.array([1.0, 1.0]), "q": jnp.array([1.0, 0.0])}
  out, _ = tx.update(updates, tx.init(params), params)
  np.testing.assert_array_equal(out["w"], updates["w"])
  np.testing.assert_allclose(params["q"] + out["q"], [1.0, 0.0], atol=1e-7)


def test_multiplicative_weights_in_both_parametrizations(rng):
  q = rng.dirichlet(np.ones(4), 3).astype(np.float32)
  g = rng.standard_normal((3, 4)).astype(np.float32)
  want = q * np.exp(-0.7 * g)
  want /= want.sum(1, keepdims=True)
  for parametrization, start in (("weights", q), ("log_weights", np.log(q) + 3.0)):
    tx = transforms.exponentiated_gradient(0.7, parametrization=parametrization)
    start = jnp.asarray(start)
    u, _ = tx.update(jnp.asarray(g), tx.init(start), start)
    moved = np.asarray(start + u)
    np.testing.assert_allclose(
      moved if parametrization == "weights" else np.exp(moved), want, rtol=1e-5
    )
  # A weight of zero stays zero, and gives no NaN.
  tx = transforms.exponentiated_gradient(0.7, parametrization="weights")
  zero = jnp.array([0.0, 1.0])
  u, _ = tx.update(jnp.array([-5.0, 5.0]), tx.init(zero), zero)
  np.testing.assert_allclose(zero + u, zero)


def test_descent_ascent_finds_the_saddle_of_a_group_problem():
  """min_w max_q sum_k q_k (w - c_k)^2: the midpoint of the extreme centres, equal weights."""
  centres = jnp.array([-1.0, 0.2, 3.0])
  params = {"w": jnp.zeros(()), "q": jnp.zeros(3)}
  dual = transforms.exponentiated_gradient(optax.polynomial_schedule(0.1, 0.003, 1, 2000))
  tx = transforms.min_max(
    optax.sgd(optax.polynomial_schedule(0.1, 0.003, 1, 2000)), dual, {"w": "min", "q": "max"}
  )

  def step(carry, _):
    params, state = carry
    loss = (params["w"] - centres) ** 2
    grads = {"w": 2 * jnp.sum(jax.nn.softmax(params["q"]) * (params["w"] - centres)), "q": loss}
    u, state = tx.update(grads, state, params)
    return (optax.apply_updates(params, u), state), params

  start = (params, tx.init(params))
  path = jax.jit(lambda start: jax.lax.scan(step, start, None, length=4000)[1])(start)
  np.testing.assert_allclose(jnp.mean(path["w"][2000:]), 1.0, atol=0.02)
  q = jnp.mean(jnp.exp(path["q"][2000:]), axis=0)
  np.testing.assert_allclose(q, [0.5, 0.0, 0.5], atol=0.03)
