"""Networks are pure functions of their parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxopt_robust import nets


def test_mlp_is_its_formula(key):
  model = nets.MLP(features=(5, 3), activation=jnp.tanh)
  x = jax.random.normal(key, (4, 2))
  params = model.init(key, x)
  layers = params["params"]
  hidden = jnp.tanh(x @ layers["Dense_0"]["kernel"] + layers["Dense_0"]["bias"][None])
  expected = hidden @ layers["Dense_1"]["kernel"] + layers["Dense_1"]["bias"][None]
  np.testing.assert_allclose(model.apply(params, x), expected, rtol=1e-5)


def test_from_nnx_gives_a_function_that_can_be_differentiated_and_mapped():
  model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
  apply_fn, params = nets.from_nnx(model)
  x = jnp.ones((4, 2))
  np.testing.assert_allclose(jax.jit(apply_fn)(params, x), model(x), rtol=1e-6)
  grads = jax.grad(lambda p: apply_fn(p, x).sum())(params)
  assert jax.tree.structure(grads) == jax.tree.structure(params)
  many = jax.tree.map(lambda p: jnp.stack([p, 2 * p]), params)
  assert jax.vmap(apply_fn, in_axes=(0, None))(many, x).shape == (2, 4, 3)


def test_from_nnx_passes_a_key_on():
  class Noisy(nnx.Module):
    def __init__(self):
      self.scale = nnx.Param(jnp.ones(()))

    def __call__(self, x, *, rngs):
      return x + self.scale * jax.random.normal(rngs(), x.shape)

  apply_fn, params = nets.from_nnx(Noisy())
  x = jnp.zeros(3)
  first, again = (apply_fn(params, x, key=jax.random.key(1)) for _ in range(2))
  np.testing.assert_array_equal(first, again)
  assert float(jnp.abs(first).sum()) > 0
  with pytest.raises(TypeError, match="typed key"):
    apply_fn(params, x, key=3)
