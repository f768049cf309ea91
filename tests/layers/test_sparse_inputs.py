"""Inputs by size and weights: the best masks by brute force, exact rotations, budgets."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from jaxopt_robust import layers

N, K = 8, 5


def orthogonal_rows(rng, rows=N, columns=12):
  """A kernel [inputs, outputs] with orthogonal rows of different lengths."""
  q = np.linalg.qr(rng.standard_normal((columns, rows)))[0].T
  return np.exp(rng.standard_normal(rows))[:, None] * q


@functools.partial(jax.jit, static_argnums=2)
def _choices(x, kernel, k):
  """Norms of both layouts of a kernel, and the masks of both rules."""
  norms = layers.column_norms(kernel)
  other = layers.column_norms(kernel.T, in_axis=1)
  return norms, other, layers.wina_mask(x, norms, k=k), layers.teal_mask(x, k=k)


def loss(mask, x, kernel):
  return np.sum(((np.where(mask, x, 0) - x) @ kernel) ** 2, axis=-1)


@pytest.mark.x64
def test_no_mask_is_better_where_rows_are_orthogonal(rng):
  kernel, xs = orthogonal_rows(rng), rng.standard_normal((20, N))
  norms, other, wina, teal = map(np.asarray, _choices(xs, kernel, K))
  np.testing.assert_allclose(norms, np.sqrt(np.sum(kernel**2, axis=1)), rtol=1e-12)
  np.testing.assert_allclose(other, norms, rtol=1e-12)
  assert np.all(wina.sum(axis=1) == K) and np.all(teal.sum(axis=1) == K)
  places = np.array(list(itertools.combinations(range(N), K)))
  masks = np.zeros((len(places), N), bool)
  masks[np.arange(len(places))[:, None], places] = True
  for x, ours, by_size in zip(xs, wina, teal, strict=True):
    least = loss(masks, x[None], kernel).min()
    of_ours = loss(ours, x, kernel)
    np.testing.assert_allclose(of_ours, least, rtol=1e-12)
    np.testing.assert_allclose(of_ours, np.sort((x * norms) ** 2)[: N - K].sum(), rtol=1e-12)
    assert of_ours <= loss(by_size, x, kernel) * (1 + 1e-12)
  # Without orthogonal rows there is no such order: the two inputs cancel where both are kept.
  kernel = np.array([[1.0, 0.0], [-1.0, 0.1], [0.0, 0.9]])
  x = np.ones(3)
  mask = np.asarray(_choices(x, kernel, 1)[2])
  best = min(loss(m, x, kernel) for m in np.eye(3, dtype=bool))
  assert loss(mask, x, kernel) > best


def test_behind_a_nonlinearity_the_order_may_be_reversed():
  """W = diag(-3, 1) and ReLU: the largest product dies, so what it displaces is missed."""
  kernel, x = np.diag([-3.0, 1.0]).astype(np.float32), np.array([1.0, 1.5], np.float32)
  relu = lambda v: np.maximum(v, 0)
  errors = [
    np.sum((relu(np.where(mask, x, 0) @ kernel) - relu(x @ kernel)) ** 2)
    for mask in map(np.asarray, _choices(x, kernel, 1)[2:])
  ]
  assert errors == [2.25, 0]


def test_masks_ties_units_and_shares():
  x = np.random.default_rng(1).standard_normal((5, N)).astype(np.float32)
  c = np.exp(np.random.default_rng(2).standard_normal(N)).astype(np.float32)
  masks = jax.jit(
    lambda x, c, s: (layers.wina_mask(x, c, sparsity=s), layers.teal_mask(x, sparsity=s))
  )
  for s in (0.0, 0.25, 0.5, 0.65, 1.0):
    k = int(N * (1 - s) + 1e-6)
    wina, teal = masks(x, c, s)
    largest = lambda score, k=k: np.argsort(np.argsort(-score, axis=1), axis=1) < k
    np.testing.assert_array_equal(wina, largest(np.abs(x) * c))
    np.testing.assert_array_equal(teal, largest(np.abs(x)))
    np.testing.assert_array_equal(teal, masks(x, 0.3 + 0 * c, s)[0])  # c = 1 is TEAL
    for a, b in ((1e30, 1e30), (1e-30, 1e-30), (1e-33, 1.0)):
      np.testing.assert_array_equal(wina, masks(np.float32(a) * x, np.float32(b) * c, s)[0])
  same = layers.wina_mask(jnp.array([1.0, -2.0, 2.0, 1.0]), jnp.array([2.0, 1.0, 1.0, 2.0]), k=2)
  np.testing.assert_array_equal(same, [True, True, False, False])
  zeros = layers.teal_mask(jnp.zeros(3), k=2)
  np.testing.assert_array_equal(zeros, [True, True, False])
  lost = jnp.array([jnp.nan, 1.0, jnp.inf, 0.0])
  np.testing.assert_array_equal(
    layers.wina_mask(lost, jnp.ones(4), k=2), [True, False, True, False]
  )
  # 0.1 of 10 tokens, though 0.9 * 10 may be rounded below 9.
  prefix = layers.dense_prefix(jnp.zeros((10, 2), bool), share=0.1)
  np.testing.assert_array_equal(prefix, np.repeat(np.arange(10)[:, None] < 1, 2, axis=1))
  assert np.sum(layers.dense_prefix(jnp.zeros((50, 1), bool))) == 1  # 50 - int(49.5)


def test_a_share_near_one_leaves_the_stated_number():
  """In float32 1 - 0.998 is 0.00199997, but two of a thousand are left."""
  count = jax.jit(lambda s: jnp.sum(layers.teal_mask(jnp.arange(1000.0), sparsity=s)))
  dense = jax.jit(lambda s: jnp.sum(layers.dense_prefix(jnp.zeros((1000, 1), bool), share=s)))
  for left in (0, 1, 2, 3, 4, 5, 10, 15, 500, 990, 1000):
    share = np.float32((1000 - left) / 1000)
    assert (count(share), dense(share)) == (left, 1000 - left)


def test_infinite_magnitudes_are_beyond_the_finite_ones():
  values = jnp.array([1.0, 2.0, 3.0, jnp.inf])
  found = layers.empirical_icdf(values, jnp.array([0.0, 0.25, 0.375, 0.75, 0.8, 1.0]))
  np.testing.assert_allclose(found, [0, 1, 1.5, 3, np.inf, np.inf])
  np.testing.assert_array_equal(
    layers.empirical_icdf(values[3:], jnp.array([0.0, 0.5])), [0, np.inf]
  )


def test_gathered_and_masked_products_are_equal(rng):
  x, kernel, bias = (
    rng.standard_normal(shape).astype(np.float32) for shape in ((2, 3, N), (N, 4), (4,))
  )
  c = np.linalg.norm(kernel, axis=1)
  cases = ((0, None), (3, None), (3, c), (N, c))

  @jax.jit
  def run(x, kernel, bias):
    forms = lambda k, norms: [
      layers.sparse_linear(x, kernel, bias, k=k, norms=norms, form=form)
      for form in ("gather", "mask")
    ]
    half = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
    return [forms(*case) for case in cases], layers.sparse_linear(*half, k=3)

  found, half = run(x, kernel, bias)
  for (k, norms), (gathered, masked) in zip(cases, found, strict=True):
    score = np.abs(x) * (1 if norms is None else norms)
    mask = np.argsort(np.argsort(-score, axis=-1), axis=-1) < k
    expected = np.where(mask, x, 0) @ kernel + bias
    np.testing.assert_allclose(gathered, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gathered, masked, rtol=1e-5, atol=1e-6)
  np.testing.assert_allclose(expected, x @ kernel + bias, rtol=1e-5, atol=1e-5)  # k = n is dense
  assert half.dtype == jnp.bfloat16 and half.shape == (2, 3, 4)
  # 11 of 20 inputs: a block of rows and a rest; all derivatives, in x and in the kernel.
  x, kernel = (rng.standard_normal(s).astype(np.float32) for s in ((2, 20), (20, 3)))
  mask = np.argsort(np.argsort(-np.abs(x), axis=1), axis=1) < 11
  value = lambda x, kernel: jnp.sum(jnp.sin(layers.sparse_linear(x, kernel, k=11)))
  expected = lambda x, kernel: jnp.sum(jnp.sin(jnp.where(mask, x, 0) @ kernel))

  @jax.jit
  def derivatives(x, kernel):
    mapped = jax.vmap(lambda x: layers.sparse_linear(x, kernel, k=11))(x)
    forward = lambda f: jax.jvp(f, (x, kernel), (jnp.cos(x), jnp.cos(kernel)))
    return mapped, [(jax.grad(f, argnums=(0, 1))(x, kernel), forward(f)) for f in (value, expected)]

  mapped, (found, want) = derivatives(x, kernel)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, want)
  np.testing.assert_array_equal(np.asarray(found[0][0]) != 0, mask)
  np.testing.assert_allclose(mapped, np.where(mask, x, 0) @ kernel, rtol=1e-4, atol=1e-5)


@pytest.mark.x64
def test_threshold_between_values_and_by_channel(rng):
  values = np.array([1.0, 2.0, 2.0, 4.0])
  shares = np.array([0.0, 0.125, 0.25, 0.5, 0.75, 0.875, 1.0])
  found = jax.jit(layers.empirical_icdf)(values, shares)
  np.testing.assert_allclose(found, [0, 0.5, 1, 1.5, 2, 3, 4], rtol=1e-12)
  x, c = rng.standard_normal((30, N)), np.exp(rng.standard_normal(N))
  score = np.abs(x) * c

  @jax.jit
  def keep(s):
    t = layers.empirical_icdf(score, s)
    by_channel = layers.chess_thresholds(x, c, sparsity=s)
    cut = layers.apply_gate_threshold
    return t, cut(x, t / c) != 0, cut(x, by_channel) != 0

  for s in (0.2, 0.5):
    t, kept, by_channel = keep(s)
    np.testing.assert_array_equal(kept, score > t)
    assert np.mean(kept) == pytest.approx(1 - s, abs=1 / score.size)
    np.testing.assert_array_equal(by_channel, kept)


class Norm(linen.Module):
  """Root-mean-square norm with a scale."""

  @linen.compact
  def __call__(self, x):
    scale = self.param("gain", linen.initializers.normal(1.0), (x.shape[-1],))
    root = jnp.sqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6)
    return x / root * jnp.broadcast_to(scale, x.shape)


class Transformer(linen.Module):
  """A decoder of tokens, written with flax's own layers: attention, gated network, biases."""

  width: int = 8
  blocks: int = 2

  @linen.compact
  def __call__(self, tokens, rotations=None):
    if rotations is None:
      rotations = [jnp.eye(self.width)] * (2 * self.blocks)
    h = linen.Embed(11, self.width, name="embed")(tokens)
    h = h + self.param("place", linen.initializers.normal(1.0), (5, self.width))[None]
    for i in range(self.blocks):
      x = Norm(name=f"before_attention_{i}")(h)
      q = linen.DenseGeneral((4, 3), name=f"query_{i}")(x)
      k, v = (linen.DenseGeneral((2, 3), name=f"{name}_{i}")(x) for name in ("key", "value"))
      mixed = jax.nn.dot_product_attention(q, k, v)
      out = linen.DenseGeneral(self.width, axis=(-2, -1), name=f"out_{i}")(mixed)
      h = h @ rotations[2 * i] + out
      x = Norm(name=f"before_mlp_{i}")(h)
      a = linen.silu(linen.Dense(12, name=f"gate_{i}")(x)) * linen.Dense(12, name=f"up_{i}")(x)
      h = h @ rotations[2 * i + 1] + linen.Dense(self.width, name=f"down_{i}")(a)
    return linen.Dense(3, name="head")(Norm(name="last")(h))


def transformer_spec(blocks=2):
  sublayers = []
  for i in range(blocks):
    keys = [f"params/{name}_{i}/kernel" for name in ("query", "key", "value")]
    out = [f"params/out_{i}/kernel", f"params/out_{i}/bias"]
    norm = f"params/before_attention_{i}/gain"
    sublayers.append(layers.Sublayer(keys[1], keys, out, norm))
    gates = [f"params/{name}_{i}/kernel" for name in ("gate", "up")]
    out = [f"params/down_{i}/kernel", f"params/down_{i}/bias"]
    sublayers.append(layers.Sublayer(gates[0], gates, out, f"params/before_mlp_{i}/gain"))
  embeddings = ["params/embed/embedding", "params/place"]
  return layers.ResidualSpec(embeddings, sublayers, ["params/head/kernel"], "params/last/gain")


def random_like(tree, rng):
  return jax.tree.map(lambda a: jnp.asarray(rng.standard_normal(a.shape), a.dtype), tree)


@pytest.mark.x64
@pytest.mark.parametrize(("dtype", "atol"), [("float64", 1e-10), ("float32", 2e-5)])
def test_a_rotated_transformer_is_the_same_function(dtype, atol, rng):
  model, tokens = Transformer(), rng.integers(0, 11, (3, 5))
  shapes = jax.eval_shape(model.init, jax.random.key(0), tokens)
  params = jax.tree.map(
    lambda a: jnp.asarray(rng.standard_normal(a.shape) / np.sqrt(a.shape[0]), dtype), shapes
  )
  spec = transformer_spec()
  rotated, rotations = layers.orthogonalize_pivots(params, spec)
  run = jax.jit(model.apply)
  eye = jnp.broadcast_to(jnp.eye(8, dtype=dtype), rotations.shape)
  before, after = run(params, tokens, eye), run(rotated, tokens, rotations)
  assert rotations.dtype == before.dtype == dtype
  size = np.max(np.abs(before))
  np.testing.assert_allclose(after, before, atol=atol * size)
  assert not np.allclose(run(rotated, tokens, eye), before, atol=1e-2 * size)
  np.testing.assert_array_equal(rotations[-1], np.eye(8))
  scales = lambda p: {k: v for k, v in p["params"].items() if "before" in k or k == "last"}
  assert all(np.all(leaf == 1) for leaf in jax.tree.leaves(scales(rotated)))
  # The pivots: rows orthogonal, of the lengths of the singular values of the folded kernel.
  for layer in spec.sublayers:
    _, name, leaf = layer.pivot.split("/")
    kernel = np.asarray(rotated["params"][name][leaf], np.float64).reshape(8, -1)
    gain = params["params"][layer.norm.split("/")[1]]["gain"]
    old = np.asarray(gain)[:, None] * np.asarray(params["params"][name][leaf]).reshape(8, -1)
    values = np.zeros(8)
    exact = np.linalg.svd(old, compute_uv=False)
    values[: len(exact)] = exact
    gram = kernel @ kernel.T
    np.testing.assert_allclose(gram, np.diag(values**2), atol=atol * values[0] ** 2)
    np.testing.assert_allclose(layers.column_norms(kernel), values, atol=atol * values[0])
  traced, other = jax.jit(lambda p: layers.orthogonalize_pivots(p, spec))(params)
  np.testing.assert_allclose(run(traced, tokens, other), before, atol=10 * atol * size)


@pytest.mark.x64
def test_an_nnx_network_without_scales_and_with_few_outputs(rng):
  """A pivot of rank 2 in a residual of width 5."""

  class Block(nnx.Module):
    def __init__(self, rngs):
      self.e, self.g, self.u = (
        nnx.Linear(n, m, use_bias=False, rngs=rngs) for n, m in ((3, 5), (5, 2), (5, 2))
      )
      self.d, self.h = nnx.Linear(2, 5, rngs=rngs), nnx.Linear(5, 4, rngs=rngs)

    def __call__(self, x, r):
      h = self.e(x)
      n = h / jnp.sqrt(jnp.mean(h**2, axis=-1, keepdims=True))
      h = h @ r[0] + self.d(jax.nn.silu(self.g(n)) * self.u(n))
      return self.h(h / jnp.sqrt(jnp.mean(h**2, axis=-1, keepdims=True)))

  graph, state = nnx.split(Block(nnx.Rngs(0)), nnx.Param)
  params = jax.tree.map(
    lambda a: jnp.asarray(rng.standard_normal(a.shape)), nnx.to_pure_dict(state)
  )
  kernel = lambda name: f"{name}/kernel"
  sublayer = layers.Sublayer(kernel("g"), kernel("u"), [kernel("d"), "d/bias"])
  spec = layers.ResidualSpec([kernel("e")], [sublayer], [kernel("h")])
  rotated, rotations = layers.orthogonalize_pivots(params, spec)
  norms = np.linalg.norm(rotated["g"]["kernel"], axis=1)
  assert np.all(norms[:2] > 0.1) and np.all(norms[2:] < 1e-12)

  @jax.jit
  def run(params, r):
    nnx.replace_by_pure_dict(state, params)
    return nnx.merge(graph, state)(x, r)

  x = rng.standard_normal((6, 3))
  expected = run(params, np.eye(5)[None])
  np.testing.assert_allclose(run(rotated, rotations), expected, atol=1e-10)
  rough = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
  half, turned = jax.jit(lambda params: layers.orthogonalize_pivots(params, spec))(rough)
  kernel = np.asarray(half["g"]["kernel"], np.float64)
  assert half["g"]["kernel"].dtype == turned.dtype == jnp.bfloat16
  gram = kernel @ kernel.T
  np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=0.05 * np.max(gram))
  # The rows beyond the rank are dropped first, and are no loss.
  n = rng.standard_normal(5)
  kept = _choices(n, np.asarray(rotated["g"]["kernel"]), 2)[2]
  np.testing.assert_array_equal(kept, np.arange(5) < 2)


def test_greedy_sparsities_meet_the_budget_and_are_no_worse_than_equal_ones(rng):
  kernels = {
    name: (scale * rng.standard_normal((16, 16))).astype(np.float32)
    for name, scale in (("a", 3.0), ("b", 1.0), ("c", 0.3))
  }
  x = rng.standard_normal((2, 8, 16)).astype(np.float32)
  weights = {"a": 1.0, "b": 0.25, "c": 3.5}

  def layer(sparsity, inputs):
    x, kernels = inputs
    keep = lambda name: jnp.where(
      layers.wina_mask(x, layers.column_norms(kernels[name]), sparsity=sparsity[name]), x, 0
    )
    return sum(keep(name) @ kernel for name, kernel in kernels.items())

  allocate = jax.jit(
    lambda target, step: layers.greedy_allocate(
      layer, (x, kernels), weights=weights, target=target, step=step
    )
  )
  total = sum(weights.values())

  @jax.jit
  def output(sparsity):
    return layer(sparsity, (x, kernels))

  def error(sparsity):
    sparsity = {name: np.float32(s) for name, s in sparsity.items()}
    lost = output(sparsity) - output(dict.fromkeys(weights, np.float32(0)))
    return np.mean(np.linalg.norm(lost[:, 6:], axis=1))

  for target in (0.3, 0.66):
    found = allocate(target, 0.1)
    mean = sum(weights[name] * float(s) for name, s in found.sparsity.items()) / total
    assert mean == pytest.approx(target, abs=1e-5)
    assert found.error <= found.uniform_error
    np.testing.assert_allclose(found.error, error(found.sparsity), rtol=1e-4)
    uniform = dict.fromkeys(weights, np.float32(target))
    np.testing.assert_allclose(found.uniform_error, error(uniform), rtol=1e-4)
    assert found.sparsity["a"] < found.sparsity["c"]  # what is large is spared
  # By hand: the cheapest first, in steps of the same number of parameters, the last one cut.
  simple = lambda s, x: jnp.stack([9 * x * s["a"], x * s["b"] ** 2], axis=-1)
  found = layers.greedy_allocate(
    simple, jnp.ones(4), weights={"a": 1.0, "b": 2.0}, target=0.7, step=0.5
  )
  # b: .25, .5, .75, 1 (2 of the 2.1), then a: .1.
  np.testing.assert_allclose([found.sparsity["a"], found.sparsity["b"]], [0.1, 1.0], rtol=1e-5)
  whole, none = allocate(1.0, 0.1), allocate(0.0, 0.1)
  assert all(s == 1 for s in whole.sparsity.values())
  assert all(s == 0 for s in none.sparsity.values()) and none.error == 0
  # Of errors that are all infinite those of projections that are full already count for nothing.
  steep = lambda s, x: jnp.where(s["b"] > 0, jnp.inf, x * (1 - s["a"]))[:, None]
  found = layers.greedy_allocate(steep, jnp.ones(4), weights={"a": 1.0, "b": 1.0}, target=0.8)
  assert np.isinf(found.error) and np.isinf(found.uniform_error)


def test_a_specification_holds_paths_of_one_leaf_each():
  params = {"e": jnp.eye(2), "k": jnp.ones((2, 1)), "o": jnp.ones((1, 2)), "h": jnp.ones((2, 1))}
  spec = layers.ResidualSpec("e", [layers.Sublayer("k", "k", "o")], "h")
  with pytest.raises(ValueError, match="different paths for different leaves"):
    layers.orthogonalize_pivots({**params, "a/b": jnp.ones(1), "a": {"b": jnp.ones(1)}}, spec)
  with pytest.raises(TypeError, match="head must hold paths"):
    layers.orthogonalize_pivots(params, spec._replace(head=None))
  for wrong in ({"inputs": None}, {"outputs": [3]}, {"pivot": ["k"]}):
    (field,) = wrong
    layer = spec.sublayers[0]._replace(**wrong)
    with pytest.raises(TypeError, match=f"{field} must hold paths"):
      layers.orthogonalize_pivots(params, spec._replace(sublayers=[layer]))
