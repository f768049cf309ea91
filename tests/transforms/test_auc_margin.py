"""PESG and PDSCA: their recursions by hand, the saddle of the AUC margin loss, optax contracts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_robust import transforms
from jaxopt_robust.debug import count_traces

OPTIONS = {"margin": 0.8, "epoch_decay": 0.02, "weight_decay": 0.01, "clip": 0.5}


def start():
  return {"w": jnp.array([1.0, -2.0]), "a": jnp.array(0.1), "b": jnp.array(-0.2)}


def gradients(rng, steps):
  return [
    {k: jnp.asarray(rng.standard_normal(v.shape), jnp.float32) for k, v in start().items()}
    for _ in range(steps)
  ]


def decayed(g, p, reference):
  return {k: np.clip(g[k], -0.5, 0.5) + 0.02 * (p[k] - reference[k]) + 0.01 * p[k] for k in p}


def ascended(alpha, p, rate):
  return np.clip(alpha + rate * (2 * (0.8 + p["b"] - p["a"]) - 2 * alpha), 0, 999)


def numbers(tree):
  return {k: np.asarray(v, np.float64) for k, v in tree.items()}


def check(found, want):
  for k in want:
    np.testing.assert_allclose(found[k], want[k], rtol=1e-5, atol=1e-6)


def test_pesg_follows_its_recursion_through_a_new_stage(rng):
  tx = transforms.pesg(0.1, momentum=0.7, stage_decay=4.0, **OPTIONS)
  params, grads = start(), gradients(rng, 6)
  state = tx.init(params)
  update = jax.jit(lambda g, s, p, new: tx.update(g, s, p, new_stage=new))
  p, reference, alpha, rate, buffer, visited = numbers(params), numbers(params), 0.0, 0.1, None, []
  for t, g in enumerate(grads):
    if t == 3:  # the stage begins before this step
      reference = {k: np.mean([v[k] for v in visited], axis=0) for k in p}
      rate, visited = rate / 4, []
    d = decayed(g, p, reference)
    buffer = d if buffer is None else {k: 0.3 * buffer[k] + 0.7 * d[k] for k in p}
    p = {k: p[k] - rate * buffer[k] for k in p}
    visited.append(p)
    alpha = ascended(alpha, p, rate)
    updates, state = update(g, state, params, t == 3)
    params = optax.apply_updates(params, updates)
    check(params, p)
    np.testing.assert_allclose(state.alpha, alpha, rtol=1e-5)
  check(state.stage.reference, reference)


def test_pdsca_follows_its_recursion(rng):
  tx = transforms.pdsca(
    0.1, inner_learning_rate=0.3, inner_rate=0.6, outer_rate=0.7, stage_decay=2.0, **OPTIONS
  )
  params, grads = start(), gradients(rng, 6)
  state = tx.init(params)
  update = jax.jit(lambda g, s, p, phase: tx.update(g, s, p, phase=phase))
  p, reference, alpha, u, z = numbers(params), numbers(params), 0.0, None, None
  for t, g in enumerate(grads):
    d = decayed(g, p, reference)
    if t % 3 < 2:  # two cross-entropy steps, then one AUC step
      point = {k: p[k] - 0.3 * d[k] for k in p}
      u = point if u is None else {k: 0.4 * u[k] + 0.6 * point[k] for k in p}
      p = u
    else:
      z = d if z is None else {k: 0.3 * z[k] + 0.7 * d[k] for k in p}
      p = {k: p[k] - 0.1 * z[k] for k in p}
      alpha = ascended(alpha, p, 0.1)
    updates, state = update(g, state, params, int(t % 3 == 2))
    params = optax.apply_updates(params, updates)
    check(params, p)
    np.testing.assert_allclose(state.alpha, alpha, rtol=1e-5, atol=1e-7)
  assert (int(state.inner_count), int(state.outer_count)) == (4, 2)


@pytest.mark.x64
def test_pesg_finds_the_saddle_of_the_margin_loss(rng):
  """a and b are the mean scores, alpha = max(0, m + b - a), and the loss is its closed form."""
  from jaxopt_robust import losses

  x = jnp.asarray(rng.standard_normal((30, 2)))
  labels = jnp.asarray((np.arange(30) < 10).astype(np.int32))
  x = x + 0.3 * labels[:, None]
  tx = transforms.pesg(0.05, momentum=1.0, epoch_decay=0.0, weight_decay=0.1, clip=1e6)
  params = {"w": jnp.ones(2), "a": jnp.zeros(()), "b": jnp.zeros(())}

  def objective(p, alpha):
    variables = losses.AucMarginVariables(p["a"], p["b"], alpha)
    return jnp.mean(losses.auc_margin_loss(x @ p["w"], labels, variables))

  def step(carry, _):
    p, state = carry
    u, state = tx.update(jax.grad(objective)(p, state.alpha), state, p)
    return (optax.apply_updates(p, u), state), None

  (p, state), _ = jax.jit(lambda c: jax.lax.scan(step, c, None, length=4000))(
    (params, tx.init(params))
  )
  # The decay acts on a and b too: 2 (a - E s) + 0.1 a = 0.
  scores = np.asarray(x @ p["w"])
  positive, negative = scores[:10], scores[10:]
  np.testing.assert_allclose(p["a"], positive.mean() / 1.05, rtol=1e-6)
  np.testing.assert_allclose(p["b"], negative.mean() / 1.05, rtol=1e-6)
  np.testing.assert_allclose(state.alpha, max(0, 1 + p["b"] - p["a"]), rtol=1e-6)
  # At the exact saddle of a, b and alpha the loss is a sum of variances and a squared hinge.
  a, b = positive.mean(), negative.mean()
  alpha = max(0, 1 + b - a)
  value = objective({"w": p["w"], "a": jnp.asarray(a), "b": jnp.asarray(b)}, jnp.asarray(alpha))
  np.testing.assert_allclose(value, positive.var() + negative.var() + alpha**2, rtol=1e-10)


@pytest.mark.parametrize(
  ("make", "extra"), [(transforms.pesg, {}), (transforms.pdsca, {"phase": 1})]
)
def test_optax_contracts(make, extra, rng):
  params, g = start(), gradients(rng, 1)[0]
  tx = make(0.1)
  counted = count_traces(lambda g, s, p, new: tx.update(g, s, p, new_stage=new, loss=1.0, **extra))
  update, state = jax.jit(counted, donate_argnums=1), tx.init(params)
  for new_stage in (False, True, False):
    _, state = update(g, state, params, new_stage)
  assert counted.traces == 1
  like = make(0.1).init(jax.eval_shape(lambda: params))
  assert jax.tree.structure(like) == jax.tree.structure(state)
  chained = optax.chain(optax.clip_by_global_norm(10.0), make(0.1))
  state = chained.init(params)
  one, state = chained.update(g, state, params, **extra)
  two, _ = make(0.1).update(g, make(0.1).init(params), params, **extra)
  check(one, two)
  assert float(optax.tree.get(state, "alpha")) > 0
  injected = optax.inject_hyperparams(make)(learning_rate=0.1)
  three, _ = injected.update(g, injected.init(params), params, **extra)
  check(three, two)
  half = jax.tree.map(lambda v: v.astype(jnp.bfloat16), (params, g))
  four, _ = make(0.1).update(half[1], make(0.1).init(half[0]), half[0], **extra)
  assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(four))


def test_defaults_are_the_constants_of_the_papers():
  common = {
    "learning_rate": 0.1, "margin": 1.0, "epoch_decay": 2e-3, "weight_decay": 1e-5, "clip": 1.0,
    "stage_decay": 10.0,
  }  # fmt: skip
  for make, own, extra in (
    (transforms.pesg, {"momentum": 0.9}, {}),
    (transforms.pdsca, {"inner_rate": 0.99, "outer_rate": 0.999}, {"phase": 1}),
  ):
    runs = []
    for tx in (make(), make(**common, **own)):
      params, state = start(), tx.init(start())
      for g in gradients(np.random.default_rng(0), 3):
        out, state = tx.update(g, state, params, new_stage=True, **extra)
        params = optax.apply_updates(params, out)
      runs.append((params, state))
    jax.tree.map(np.testing.assert_array_equal, *runs)


def test_pesg_takes_another_direction_and_other_names(rng):
  params, g = {"net": jnp.ones(2), "mean": jnp.zeros(2)}, {"net": jnp.ones(2), "mean": jnp.ones(2)}
  tx = transforms.pesg(
    0.1, direction=optax.scale_by_adam(), variables=lambda p: (p["mean"][0], p["mean"][1])
  )
  updates, state = tx.update(g, tx.init(params), params)
  np.testing.assert_allclose(updates["net"], -0.1, rtol=1e-4)  # Adam's first step has length 1
  assert float(state.alpha) == pytest.approx(0.2)
