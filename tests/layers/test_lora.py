"""Low-rank adapters on any pytree: where they act, what they change, how they are trained."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

from jaxopt_robust import layers, nets
from tests.helpers import assert_no_retrace


class Model(linen.Module):
  @linen.compact
  def __call__(self, x):
    return linen.Dense(3, name="last")(jnp.tanh(linen.Dense(5, name="first")(x)))


class Nnx(nnx.Module):
  def __init__(self, rngs):
    self.first, self.last = nnx.Linear(4, 5, rngs=rngs), nnx.Linear(5, 3, rngs=rngs)

  def __call__(self, x):
    return self.last(jnp.tanh(self.first(x)))


def model_of(kind):
  """A function of parameters and inputs, and its parameters."""
  if kind == "nnx":
    return nets.from_nnx(Nnx(nnx.Rngs(0)))
  model = Model()
  return model.apply, model.init(jax.random.key(0), jnp.ones((1, 4)))


@pytest.mark.x64
def test_merged_and_applied_are_the_formula():
  rng = np.random.default_rng(0)
  kernel, a, b = (rng.standard_normal(s) for s in ((2, 4, 3), (2, 4, 2), (2, 2, 3)))
  params = {"stack": {"kernel": kernel, "bias": np.ones(3)}, "step": 3}
  adapter = layers.LoraAdapter(a, b)
  merged = layers.lora_merge(params, {"stack/kernel": adapter}, alpha=6.0)
  expected = kernel + 3.0 * np.einsum("nir,nro->nio", a, b)
  np.testing.assert_allclose(merged["stack"]["kernel"], expected, rtol=1e-13)
  assert merged["step"] == 3 and merged["stack"]["bias"] is params["stack"]["bias"]
  plain = layers.lora_merge(params, {"stack/kernel": adapter})
  np.testing.assert_allclose(plain["stack"]["kernel"], kernel + a @ b, rtol=1e-13)
  x = rng.standard_normal((7, 4))
  one = layers.LoraAdapter(a[0], b[0])
  found = layers.lora_apply(x, kernel[0], one, alpha=6.0)
  np.testing.assert_allclose(found, x @ expected[0], rtol=1e-12)
  many = jax.vmap(lambda alpha: layers.lora_apply(x, kernel[0], one, alpha=alpha))(
    jnp.array([0.0, 6.0])
  )
  np.testing.assert_allclose(many[0], x @ kernel[0], rtol=1e-12)
  np.testing.assert_allclose(many[1], found, rtol=1e-12)
  # The gradients of both are s x^T g b^T and s a^T x^T g, and the kernel's is not needed.
  g = rng.standard_normal((7, 3))
  slope = jax.grad(lambda p: jnp.sum(g * layers.lora_apply(x, kernel[0], p, alpha=6.0)))(one)
  np.testing.assert_allclose(slope.a, 3.0 * x.T @ g @ b[0].T, rtol=1e-12)
  np.testing.assert_allclose(slope.b, 3.0 * a[0].T @ x.T @ g, rtol=1e-12)


@pytest.mark.parametrize("kind", ["linen", "nnx"])
@pytest.mark.parametrize("zero", ["b", "a"])
def test_adapters_train_a_frozen_network(kind, zero):
  """They change nothing at first, fit a target then, and every other leaf stays as it is."""
  apply_fn, params = model_of(kind)
  is_kernel = lambda path, leaf: "last" not in jax.tree_util.keystr(path) and leaf.ndim == 2
  adapters = layers.lora_init(jax.random.key(1), params, rank=2, predicate=is_kernel, zero=zero)
  (name,) = adapters
  assert "first" in name and "kernel" in name
  x = jax.random.normal(jax.random.key(2), (16, 4))
  begun = layers.lora_merge(params, adapters, alpha=4.0)
  assert jax.tree.structure(begun) == jax.tree.structure(params)
  np.testing.assert_array_equal(apply_fn(begun, x), apply_fn(params, x))
  teacher = jax.tree.map(lambda leaf: leaf + 0.5, adapters)
  target = apply_fn(layers.lora_merge(params, teacher, alpha=4.0), x)
  optimizer = optax.adam(0.05)

  def loss(adapters):
    return jnp.mean((apply_fn(layers.lora_merge(params, adapters, alpha=4.0), x) - target) ** 2)

  def step(carry, _):
    adapters, state = carry
    updates, state = optimizer.update(jax.grad(loss)(adapters), state)
    return (optax.apply_updates(adapters, updates), state), None

  run = jax.jit(lambda a: jax.lax.scan(step, (a, optimizer.init(a)), None, length=40)[0][0])
  trained = run(adapters)
  assert loss(trained) < 0.5 * loss(adapters)
  after = jax.tree.leaves_with_path(layers.lora_merge(params, trained, alpha=4.0))
  for (path, new), old in zip(after, jax.tree.leaves(params), strict=True):
    changed = bool(np.any(new != old))
    assert changed == is_kernel(path, new)


def test_optax_freezes_the_rest_in_one_tree():
  apply_fn, params = model_of("linen")
  both = {"frozen": params, "adapters": layers.lora_init(jax.random.key(0), params, rank=1)}
  labels = {"frozen": "frozen", "adapters": "adapters"}
  optimizer = optax.multi_transform(
    {"frozen": optax.set_to_zero(), "adapters": optax.adam(0.1)}, labels
  )
  x = jnp.ones((2, 4))
  loss = lambda both: jnp.sum(apply_fn(layers.lora_merge(both["frozen"], both["adapters"]), x) ** 2)
  update = jax.jit(lambda both: optimizer.update(jax.grad(loss)(both), optimizer.init(both))[0])
  updates = update(both)
  assert all(not np.any(leaf) for leaf in jax.tree.leaves(updates["frozen"]))
  assert all(np.any(adapter.b) for adapter in updates["adapters"].values())


def test_first_adapters_have_the_stated_variance_and_precision():
  params = {"w": jnp.ones((3, 400, 300), jnp.bfloat16), "table": jnp.ones((2, 2), int)}
  key = jax.random.key(0)
  for zero, part, variance in (("b", "a", 1 / 400), ("a", "b", 1 / 8)):
    (adapter,) = layers.lora_init(key, params, rank=8, zero=zero).values()
    drawn = np.asarray(getattr(adapter, part))
    assert drawn.dtype == np.float32 and not np.any(getattr(adapter, zero))
    assert adapter.a.shape == (3, 400, 8) and adapter.b.shape == (3, 8, 300)
    # Of 7200 draws at least: four standard errors.
    np.testing.assert_allclose(np.var(drawn), variance, rtol=4 * np.sqrt(2 / drawn.size))
  merged = layers.lora_merge(params, {"w": layers.LoraAdapter(adapter.a + 1, adapter.b)})
  assert merged["w"].dtype == jnp.bfloat16 and merged["table"] is params["table"]
  out = layers.lora_apply(
    jnp.ones((2, 400), jnp.bfloat16), params["w"][0], layers.LoraAdapter(adapter.a[0], adapter.b[0])
  )
  assert out.dtype == jnp.bfloat16 and np.all(out == 400)
  wide = layers.lora_apply(
    np.ones((1, 400)),
    np.ones((400, 300)),
    layers.LoraAdapter(adapter.a[0], adapter.b[0].astype(jnp.bfloat16)),
  )
  assert np.all(wide == 400)
  two = {"u": jnp.ones((4, 4)), "v": jnp.ones((4, 4))}
  pair = layers.lora_init(key, two, rank=4)
  assert np.any(pair["u"].a != pair["v"].a)


def test_traced_alphas_do_not_compile_again():
  params = {"kernel": jnp.ones((3, 2))}
  adapters = layers.lora_init(jax.random.key(0), params, rank=1, zero="a")
  run = lambda adapters, alpha: layers.lora_merge(params, adapters, alpha=alpha)
  assert_no_retrace(run, lambda i: (adapters, jnp.float32(i)))
  shapes = jax.eval_shape(lambda key: layers.lora_init(key, params, rank=1), jax.random.key(0))
  assert shapes["kernel"].a.shape == (3, 1)
