"""Surrogate sharpness: its gradient, the multiplier's balance in closed form, masks."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_robust import transforms

SGD = optax.sgd(1.0)


def network(params, x):
  """Two layers; the output bias adds to every prediction."""
  return jnp.tanh(x @ params["a"]) @ params["b"] + params["c"]


def example(dtype=float):
  rng = np.random.default_rng(0)
  params = {
    "a": jnp.asarray(rng.standard_normal((2, 8)), dtype),
    "b": jnp.asarray(rng.standard_normal(8), dtype),
    "c": jnp.zeros((), dtype),
  }
  x = jnp.asarray(rng.standard_normal((50, 2)), dtype)
  return params, x, jnp.sin(3 * x[:, 0]) * x[:, 1]


def added(tx, params, pred_grad_fn):
  """What the link adds to a zero gradient."""
  zero = jax.tree.map(jnp.zeros_like, params)
  updates, state = tx.update(zero, tx.init(params), params, pred_grad_fn=pred_grad_fn)
  return jax.tree.map(lambda u: -u, updates), state


def flat(tree):
  return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


WITHOUT_BIAS = {"a": True, "b": True, "c": False}


@pytest.mark.x64
@pytest.mark.parametrize("mask", [None, WITHOUT_BIAS, lambda params: WITHOUT_BIAS])
def test_term_is_the_gradient_of_the_norm(mask):
  """Against double backward; the difference quotient comes as near as its radius."""
  params, x, _ = example()
  mean = lambda w: jnp.mean(network(w, x))

  def norm(w):
    g = jax.grad(mean)(w)
    return jnp.sqrt(sum(jnp.sum(g[k] ** 2) for k in "abc" if mask is None or k != "c"))

  rho, lam = 0.1, 0.7
  expected = flat(jax.grad(norm)(params)) * rho * lam
  make = functools.partial(transforms.ignite_fixed, SGD, rho=rho, multiplier=lam, mask=mask)
  exact, state = added(make(derivative="exact"), params, jax.grad(mean))
  np.testing.assert_allclose(flat(exact), expected, rtol=1e-10, atol=1e-13)
  assert float(state.sharpness) == pytest.approx(rho * float(norm(params)), rel=1e-12)
  errors = [
    np.linalg.norm(flat(added(make(radius=r), params, jax.grad(mean))[0]) - expected)
    for r in (1e-2, 1e-4)
  ]
  assert errors[1] < 10 * 1e-4 * np.linalg.norm(expected)
  assert errors[0] / errors[1] == pytest.approx(100, rel=0.2)


@pytest.mark.x64
@pytest.mark.parametrize("derivative", ["difference", "exact"])
def test_linear_predictions_and_no_multiplier_add_nothing(derivative):
  params, x, _ = example()
  linear = jax.grad(lambda w: jnp.mean(x @ w["a"]) + jnp.sum(w["b"]) + w["c"])
  tx = transforms.ignite(SGD, multiplier=5.0, derivative=derivative)
  np.testing.assert_allclose(flat(added(tx, params, linear)[0]), 0, atol=1e-12)
  constant = jax.grad(lambda w: 0 * w["c"])  # no direction at all
  np.testing.assert_array_equal(flat(added(tx, params, constant)[0]), 0)

  mean = jax.grad(lambda w: jnp.mean(network(w, x)))
  inner = optax.adam(0.1)
  tx = transforms.ignite_fixed(inner, multiplier=0.0, derivative=derivative)
  grads = jax.tree.map(jnp.cos, params)
  found, state = tx.update(grads, tx.init(params), params, pred_grad_fn=mean)
  expected, inner_state = inner.update(grads, inner.init(params), params)
  jax.tree.map(np.testing.assert_array_equal, found, expected)
  jax.tree.map(np.testing.assert_array_equal, state.inner_state, inner_state)


@pytest.mark.x64
def test_multiplier_balances_loss_and_sharpness():
  """L = |w - a|^2 / 2 and G = |w|^2 / 2: at the bound |w| = eps / rho, lam rho = |a| - |w|."""
  target, rho, budget = jnp.array([3.0, 4.0]), 0.1, 0.3
  tx = transforms.ignite(optax.sgd(0.1), rho=rho, budget=budget, multiplier_rate=5.0)

  @jax.jit
  def run(target):
    def step(carry, _):
      w, state = carry
      updates, state = tx.update(w - target, state, w, pred_grad_fn=lambda w: w)
      return (optax.apply_updates(w, updates), state), (state.multiplier, state.sharpness)

    return jax.lax.scan(step, (target, tx.init(target)), length=600)

  (w, state), (lams, sharpness) = run(target)
  np.testing.assert_allclose(w, target * 3 / 5, rtol=1e-5)
  assert float(state.multiplier) == pytest.approx((5 - 3) / rho, rel=1e-5)
  assert float(sharpness[-1]) == pytest.approx(budget, rel=1e-5)
  assert float(sharpness[0]) == pytest.approx(0.5) and float(lams.min()) >= 0
  # A target inside the bound: the multiplier falls to 0 and stays there.
  (w, state), (lams, _) = run(target / 10)
  np.testing.assert_allclose(w, target / 10, rtol=1e-5)
  assert float(state.multiplier) == 0 and float(lams.min()) == 0


def test_a_network_keeps_its_budget():
  """The average sharpness of the last third is within a tenth of a budget that binds."""
  params, x, y = example(jnp.float32)
  rho, budget, mask = 0.05, 0.02, WITHOUT_BIAS
  grads = jax.grad(lambda w: jnp.mean((network(w, x) - y) ** 2))
  mean = jax.grad(lambda w: jnp.mean(network(w, x)))

  @jax.jit
  def run(rate):
    options = {"rho": rho, "budget": budget, "mask": mask, "multiplier_rate": rate}
    tx = transforms.ignite(optax.adam(1e-2), **options)

    def step(carry, _):
      w, state = carry
      updates, state = tx.update(grads(w), state, w, pred_grad_fn=mean)
      return (optax.apply_updates(w, updates), state), (state.multiplier, state.sharpness)

    return jax.lax.scan(step, (params, tx.init(params)), length=1200)[1]

  _, free = run(0.0)
  lams, kept = run(3.0)
  assert float(free[-400:].mean()) > 1.2 * budget, "the bound binds"
  assert float(kept[-400:].mean()) == pytest.approx(budget, rel=0.1)
  late = np.asarray(lams[-400:])
  assert late.min() > 0.5 and late[200:].mean() == pytest.approx(late[:200].mean(), rel=0.3)


@pytest.mark.x64
def test_sharpness_bounds_what_perturbations_do():
  params, x, _ = example()
  mean = lambda w, x: jnp.mean(network(w, x))
  _, unravel = jax.flatten_util.ravel_pytree(params)
  for rho in (0.1, 0.01):
    directions = np.random.default_rng(1).standard_normal((500, flat(params).size))
    directions *= rho / np.linalg.norm(directions, axis=1, keepdims=True)
    growth = jax.vmap(
      lambda d: mean(jax.tree.map(jnp.add, params, unravel(d)), x) - mean(params, x)
    )(jnp.asarray(directions))
    sharpness = float(transforms.surrogate_sharpness(mean, params, x, rho=rho))
    assert float(growth.max()) <= sharpness * (1 + rho)
    # The gradient's own direction reaches it.
    uphill = transforms.perturbed_gradient(
      lambda w: mean(w, x), params, jax.grad(mean)(params, x), radius=rho
    )
    assert float(uphill - mean(params, x)) == pytest.approx(sharpness, rel=10 * rho)
  whole = transforms.surrogate_sharpness(mean, params, x, rho=1.0)
  part = transforms.surrogate_sharpness(mean, params, x, rho=1.0, mask=WITHOUT_BIAS)
  assert float(whole**2 - part**2) == pytest.approx(1.0, rel=1e-10), "an output bias counts 1"


def test_defaults_are_those_of_the_published_code():
  defaults = lambda make: {
    name: p.default
    for name, p in inspect.signature(make).parameters.items()
    if isinstance(p.default, float)
  }
  adaptive = {"rho": 0.05, "budget": 0.1, "multiplier": 1e-3, "multiplier_rate": 1e-3}
  assert defaults(transforms.ignite) == adaptive
  assert defaults(transforms.ignite_fixed) == {"rho": 0.2, "multiplier": 0.01}


def test_a_budget_that_no_weights_keep_is_refused():
  with pytest.raises(ValueError, match="output bias"):
    transforms.ignite(SGD, rho=0.1, budget=0.1)
  for mask in (True, WITHOUT_BIAS, lambda params: WITHOUT_BIAS):
    transforms.ignite(SGD, rho=0.1, budget=0.05, mask=mask)


@pytest.mark.parametrize("derivative", ["difference", "exact"])
def test_a_prediction_in_the_place_of_its_gradient_is_refused(derivative):
  w, tx = jnp.ones(2), transforms.ignite_fixed(SGD, derivative=derivative)
  with pytest.raises(ValueError, match=r"pred_grad_fn returns must be like .*\(2,\); got \(\)"):
    tx.update(w, tx.init(w), w, pred_grad_fn=jnp.sum)


def test_masks_are_booleans():
  for mask in (0.5, 1, "c", {"a": True, "b": 1.0}):
    with pytest.raises(ValueError, match="mask must be a pytree of booleans"):
      transforms.surrogate_sharpness(lambda w: w["a"] + w["b"], {"a": 1.0, "b": 1.0}, mask=mask)
  some = {"a": jnp.asarray(True), "b": np.bool_(False)}
  found = transforms.surrogate_sharpness(
    lambda w: 3 * w["a"] + 4 * w["b"], {"a": 1.0, "b": 1.0}, mask=some, rho=1.0
  )
  assert float(found) == 3.0
