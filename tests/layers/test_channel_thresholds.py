"""Thresholds of gates: exact shares, scaling, streaming, and attention whose cache stays exact."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from jaxopt_robust import layers

T, F, N = 40, 16, 6
LEVELS = (0.0, 0.1, 0.29, 0.5, 0.7, 0.95, 1.0)


def gates(seed=0, shape=(T, F)):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def weights(seed=1):
  return np.exp(np.random.default_rng(seed).standard_normal(F)).astype(np.float32)


chess = jax.jit(lambda a, w, s: layers.chess_thresholds(a, w, sparsity=s))
cats = jax.jit(lambda a, s: layers.cats_threshold(a, sparsity=s))


def test_quantile_is_the_kth_smallest_value():
  x = gates()
  ordered = np.sort(x.ravel())
  kth = jax.jit(layers.quantile_kth)
  for q in LEVELS:
    k = int(q * x.size + 1e-9)
    assert kth(x, q) == (ordered[k - 1] if k else -np.inf)
  hundred = np.arange(1.0, 101.0, dtype=np.float32)
  assert kth(hundred, 0.29) == layers.quantile_kth(hundred, 0.29) == 29
  assert np.isnan(kth(np.array([1.0, np.nan], np.float32), 0.5))
  assert np.isnan(kth(hundred, np.nan)) and np.all(np.isnan(chess(gates(), weights(), np.nan)))


def test_exactly_the_share_is_dropped_from_the_calibration_set():
  a, w = gates(), weights()
  for s in LEVELS:
    share = int(s * a.size + 1e-9) / a.size
    for t in (chess(a, w, s), cats(a, s)):
      out = np.asarray(layers.apply_gate_threshold(a, t))
      assert np.mean(out == 0) == pytest.approx(share, abs=1e-12)
      np.testing.assert_array_equal(out[out != 0], a[out != 0])
    importance = np.abs(a) * w
    dropped = np.asarray(layers.apply_gate_threshold(a, chess(a, w, s))) == 0
    if 0 < s < 1:
      assert importance[dropped].max() < importance[~dropped].min()
  assert np.all(chess(a, w, 0.0) == 0)


def test_rounding_moves_no_share():
  """tau / w_i may be rounded below the entry that it stands for, and share n below a number."""
  rng = np.random.default_rng(11)
  a = rng.standard_normal((300, 8, F)).astype(np.float32)
  w = np.exp(rng.standard_normal((300, F))).astype(np.float32)
  kept = jax.jit(jax.vmap(lambda a, w: layers.apply_gate_threshold(a, chess(a, w, 0.5)) != 0))
  np.testing.assert_array_equal(np.sum(kept(a, w), axis=(1, 2)), 4 * F)
  # And it may be rounded up to an entry that the cut keeps: c < b w, but b is c / w rounded.
  c, share = (rng.uniform(low, 1, 4000).astype(np.float32) for low in (0.5, 0.3))
  b = c / share
  above = b * share > c
  pairs = np.stack([c, b], axis=1)[above][:50, None]
  by_pair = np.stack([np.ones_like(c), share], axis=1)[above][:50]
  assert len(pairs) == 50
  np.testing.assert_array_equal(kept(pairs, by_pair), np.broadcast_to([False, True], pairs.shape))
  with jax.enable_x64(True):
    # 0.29 * 100 is 28.999999999999996 in double precision.
    assert layers.quantile_kth(np.arange(1.0, 101.0), 0.29) == 29


def test_equal_weights_are_cats_and_thresholds_rise_with_sparsity():
  a = gates()
  for s, scale in itertools.product(LEVELS, (1.0, 0.3, 7e20)):
    found = chess(a, np.full(F, scale, np.float32), s)
    np.testing.assert_array_equal(found, np.full(F, cats(a, s)))
  levels = np.linspace(0, 1, 41, dtype=np.float32)
  paths = jax.vmap(chess, in_axes=(None, None, 0))(a, weights(), levels)
  assert np.all(np.diff(paths, axis=0) >= 0)
  np.testing.assert_allclose(paths[20], chess(a, weights(), 0.5), rtol=3e-7)


def test_scaling_columns_moves_their_thresholds_alone():
  # Channel 0 is the one whose gates are all kept, so that the cut stays where it is.
  a, w = gates(), np.sort(weights())[::-1].copy()
  a[:, 0] += np.sign(a[:, 0]) * 100
  before = np.asarray(chess(a, w, 0.5))
  for c in (4.0, 3.0):
    after = np.asarray(chess(a, np.where(np.arange(F) == 0, c * w, w), 0.5))
    np.testing.assert_allclose(after[0], before[0] / c, rtol=1e-6)
    np.testing.assert_allclose(after[1:], before[1:], rtol=1e-6)
  for c in (4.0, 3.0, 1e-30, 1e30):
    np.testing.assert_allclose(chess(a, (c * w).astype(np.float32), 0.5), before, rtol=1e-6)
  for c in (2.0**60, 2.0**-60):
    np.testing.assert_array_equal(chess(c * a, w, 0.5), c * before)


def test_dead_channels_are_dropped_and_never_nan():
  w = weights()
  w[3] = 0
  t = np.asarray(chess(gates(), w, 0.5))
  assert t[3] == np.inf and np.all(np.isfinite(np.delete(t, 3)))
  assert np.all(chess(gates(), w, 0.0) == 0)
  nothing = chess(gates(), 0 * w, 0.5)
  assert not np.any(np.isnan(nothing))
  out = layers.apply_gate_threshold(jnp.array([1.0, jnp.nan]), jnp.array([jnp.inf, 0.0]))
  np.testing.assert_array_equal(out, [0, np.nan])
  np.testing.assert_array_equal(chess(0 * gates(), weights(), 0.5), np.zeros(F))


def test_independent_factors_lose_less_by_chess_than_by_cats():
  """The mean over 100 random scales of the channels of the cost of both, at the same share."""

  rng = np.random.default_rng(0)
  scales = np.exp(rng.standard_normal((100, 2, 1, 1, F))).astype(np.float32)
  draws = rng.standard_normal((100, 2, 2, 128, F)).astype(np.float32)

  def costs(factors):
    (a, test), (up, other) = factors
    w = jnp.sqrt(jnp.mean(up**2, axis=0))
    cuts = layers.chess_thresholds(a, w, sparsity=0.5), layers.cats_threshold(a, sparsity=0.5)
    lost = [(test - layers.apply_gate_threshold(test, t)) * other for t in cuts]
    return jnp.stack([jnp.sum(v**2) for v in lost])

  ours, base = np.asarray(jax.jit(jax.vmap(costs))(scales * draws)).T
  # On the data of the calibration it is so by definition; here the data are others.
  assert np.mean(ours) < 0.7 * np.mean(base) and np.mean(ours < base) > 0.97


def test_streaming_is_the_mean_over_batches_of_any_network():
  rng = np.random.default_rng(3)
  params = {"gate": rng.standard_normal((N, F)), "up": rng.standard_normal((N, F))}
  params = jax.tree.map(lambda p: p.astype(np.float32), params)
  batches = rng.standard_normal((4, 8, N)).astype(np.float32)
  ups = lambda p, x: {"first": x @ p["up"], "second": 2 * (x @ p["up"])[..., :3]}
  collect = jax.jit(lambda p, b: layers.collect_gate_stats(ups, p, b))
  halves = [collect(params, b) for b in (batches[:2], batches[2:])]
  stats = jax.tree.map(np.asarray, jax.jit(layers.merge_gate_stats)(*halves))
  for name, up in ups(params, batches.reshape(-1, N)).items():
    np.testing.assert_allclose(stats.rms[name], np.sqrt(np.mean(up**2, axis=0)), rtol=1e-5)
    np.testing.assert_allclose(stats.mean_abs[name], np.mean(np.abs(up), axis=0), rtol=1e-5)
    assert stats.count[name] == 32
  activations = lambda p, x: {"first": x @ p["gate"], "second": (x @ p["gate"])[..., :3]}

  @jax.jit
  def thresholds(batches, s, w):
    two = [
      layers.activation_thresholds(activations, params, batches, sparsity=s, weights=u)
      for u in (None, w)
    ]
    each = [layers.chess_thresholds(b @ params["gate"], w["first"], sparsity=s) for b in batches]
    return two, jnp.stack(each)

  (plain, weighted), each = thresholds(batches, 0.5, layers.gate_weights(stats))
  np.testing.assert_allclose(weighted["first"], np.mean(each, axis=0), rtol=1e-6)
  for name, a in activations(params, batches).items():
    middle = [np.sort(np.abs(b).ravel())[b.size // 2 - 1] for b in a]
    np.testing.assert_allclose(plain[name], np.mean(middle), rtol=1e-5)
    assert weighted[name].shape == a.shape[-1:]
  # Of one batch, or of equal ones, exactly the share is dropped.
  (_, found), _ = thresholds(np.repeat(batches[:1], 4, axis=0), 0.5, layers.gate_weights(stats))
  kept = np.abs(batches[0] @ params["gate"]) > np.asarray(found["first"])
  assert np.mean(kept) == pytest.approx(0.5, abs=1.5 / kept.size)


def test_more_tokens_than_an_integer_counts_keep_their_weight():
  many = layers.GateStats(jnp.full(2, 3.0), jnp.full(2, 3.0), jnp.int32(2**30))
  twice = layers.merge_gate_stats(many, many)
  assert twice.count == 2**31 - 1
  few = layers.GateStats(jnp.full(2, 9.0), jnp.full(2, 9.0), jnp.int32(2**20))
  for found in (layers.merge_gate_stats(twice, few), layers.merge_gate_stats(few, twice)):
    share = 2**20 / (2**31 + 2**20)
    np.testing.assert_allclose(found.mean_abs, 3 + 6 * share, rtol=1e-5)
    np.testing.assert_allclose(found.rms, np.sqrt(9 + 72 * share), rtol=1e-5)


def test_weights_by_the_output_error():
  stats = layers.GateStats(jnp.array([3.0, 4.0]), jnp.array([1.0, 2.0]), jnp.int32(7))
  down = jnp.array([[0.0, 2.0], [1.0, 0.0]])
  for stat, expected in (("rms", [3.0, 2.0]), ("mean_abs", [1.0, 1.0])):
    np.testing.assert_allclose(layers.gate_weights(stats, stat=stat, down=down), expected)
  np.testing.assert_allclose(layers.gate_weights(stats, down=1e30 * down), [3.0, 2.0], rtol=1e-6)


def test_gated_network_by_mask_and_by_gathered_channels():
  kernels, x = (
    layers.GatedKernels(gates(5, (N, F)), gates(6, (N, F)), gates(7, (F, N))),
    gates(8, (7, N)),
  )
  g, u, d = (np.asarray(k, np.float64) for k in kernels)
  a = x @ g / (1 + np.exp(-(x @ g)))
  w = weights()
  cases = ((5, None), (5, w), (F, w))
  gather = jax.jit(
    lambda x: [layers.gated_mlp_gather(x, kernels, weight, k=k) for k, weight in cases]
  )
  loss = lambda kernels: jnp.sum(layers.gated_mlp_gather(x, kernels, k=F) ** 2)
  dense = lambda kernels: jnp.sum(layers.gated_mlp(x, kernels) ** 2)
  slopes = jax.jit(lambda kernels: (jax.grad(loss)(kernels), jax.grad(dense)(kernels)))(kernels)
  for ours, whole in zip(*slopes, strict=True):
    np.testing.assert_allclose(ours, whole, rtol=1e-3, atol=1e-3 * np.max(np.abs(whole)))
  for (k, weight), found in zip(cases, gather(x), strict=True):
    importance = np.abs(a) * (1 if weight is None else weight)
    kept = np.argsort(np.argsort(-importance, axis=1), axis=1) < k
    expected = (kept * a * (x @ u)) @ d
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
  t = np.asarray(chess(a.astype(np.float32), w, 0.6))
  masked = jax.jit(
    lambda x, kernels, t: (
      layers.gated_mlp(x, kernels),
      layers.gated_mlp(x, kernels, threshold=t),
      layers.gated_mlp(x.astype(jnp.bfloat16), kernels, threshold=t),
    )
  )
  dense, sparse, half = masked(x, kernels, t)
  np.testing.assert_allclose(dense, (a * (x @ u)) @ d, rtol=1e-3, atol=1e-4)
  expected = (np.where(np.abs(a) > t, a, 0) * (x @ u)) @ d
  np.testing.assert_allclose(sparse, expected, rtol=1e-3, atol=1e-4)
  assert half.dtype == jnp.bfloat16 and np.all(np.isfinite(half.astype(jnp.float32)))


@pytest.mark.x64
def test_gates_are_differentiable_where_they_are_kept():
  a, t = np.array([0.5, -2.0, 3.0, 1.0]), np.array([1.0, 1.0, 4.0, 1.0])
  loss = lambda a, t: jnp.sum(layers.apply_gate_threshold(a, t) ** 2)
  slope = jax.jit(jax.grad(loss, argnums=(0, 1)))
  of_gate, of_threshold = slope(a, t)
  np.testing.assert_array_equal(of_gate, [0, -4, 0, 0])
  assert np.all(of_threshold == 0)


def attention_kernels(rng, groups):
  e, heads = 4, 4
  shapes = ((N, heads * e), (N, groups * e), (N, groups * e), (heads * e, N))
  return layers.AttentionKernels(*(rng.standard_normal(s).astype(np.float32) for s in shapes))


@pytest.mark.parametrize(("groups", "causal"), [(4, False), (2, True)])
def test_attention_drops_inputs_of_query_and_output_alone(groups, causal, rng):
  kernels, x = attention_kernels(rng, groups), gates(8, (2, 5, N))
  run = jax.jit(
    lambda t_in, t_out: layers.selective_attention(
      x, kernels, num_heads=4, causal=causal, t_in=t_in, t_out=t_out
    )
  )

  def expected(t_in, t_out):
    cut = lambda a, t: np.where(np.abs(a) > t, a, 0)
    heads = lambda a: a.reshape(2, 5, -1, 4).transpose(0, 2, 1, 3)
    q = heads(cut(x, t_in) @ kernels.query)
    k, v = (np.repeat(heads(x @ w), 4 // groups, axis=1) for w in (kernels.key, kernels.value))
    scores = q @ k.transpose(0, 1, 3, 2) / 2
    scores = np.where(np.tril(np.ones((5, 5))) > 0, scores, -np.inf) if causal else scores
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    c = (shares / shares.sum(axis=-1, keepdims=True) @ v).transpose(0, 2, 1, 3).reshape(2, 5, -1)
    return c, cut(c, t_out) @ kernels.output

  dense, cache = run(0.0, 0.0)
  context, out = expected(-1, -1)
  np.testing.assert_allclose(dense, out, rtol=1e-3, atol=1e-4)
  t_in = np.asarray(cats(x.reshape(-1, N), 0.5))
  t_out = np.float32(1.01 * np.quantile(np.abs(context), 0.3))  # not at an entry
  sparse, other = run(t_in, t_out)
  np.testing.assert_allclose(sparse, expected(t_in, t_out)[1], rtol=1e-3, atol=1e-3)
  assert not np.allclose(sparse, dense, atol=1e-2)
  for a, b in zip(cache, other, strict=True):
    np.testing.assert_array_equal(a, b)  # bit for bit


@pytest.mark.x64
def test_attention_in_double_precision(rng):
  """JAX's own attention rounds the softmax to float32 whatever its inputs."""
  x = rng.standard_normal((2, 5, 8))
  kernels = layers.AttentionKernels(
    *(0.3 * rng.standard_normal(shape) for shape in ((8, 8), (8, 4), (8, 4), (8, 8)))
  )
  for causal in (False, True):
    out, _ = layers.selective_attention(x, kernels, num_heads=4, causal=causal)
    q = (x @ kernels.query).reshape(2, 5, 4, 2)
    k, v = (np.repeat((x @ w).reshape(2, 5, 2, 2), 2, axis=2) for w in kernels[1:3])
    scores = np.exp(np.einsum("bthe,bshe->bhts", q, k) / np.sqrt(2))
    scores = np.tril(scores) if causal else scores
    mixed = np.einsum("bhts,bshe->bthe", scores / scores.sum(axis=-1, keepdims=True), v)
    assert out.dtype == jnp.float64
    np.testing.assert_allclose(out, mixed.reshape(2, 5, 8) @ kernels.output, rtol=1e-11, atol=1e-12)


def test_activated_parameters():
  kernel = jnp.zeros((4, 4))
  for s in (0.0, 0.25, 0.5):
    names = dict.fromkeys(("gate", "up", "down"), kernel)
    cost = layers.activated_cost({"gate": None, "up": 1 - s, "down": 1 - s}, names)
    assert cost.fraction == pytest.approx((1 + 2 * (1 - s)) / 3)
    assert cost.flops == 2 * cost.parameters == pytest.approx(96 * cost.fraction)
    names = dict.fromkeys(("q", "k", "v", "o"), kernel)
    mask = jnp.arange(4) >= 4 * s
    cost = layers.activated_cost({"q": mask, "k": None, "v": None, "o": mask[None]}, names)
    assert cost.fraction == pytest.approx((2 + 2 * (1 - s)) / 4)


def test_inside_linen_and_nnx_models():
  x = gates(9, (3, N))

  class Linen(linen.Module):
    @linen.compact
    def __call__(self, x, t=None):
      init = linen.initializers.lecun_normal()
      shapes = {"gate": (N, F), "up": (N, F), "down": (F, N)}
      kernels = layers.GatedKernels(*(self.param(n, init, s) for n, s in shapes.items()))
      return layers.gated_mlp(x, kernels, threshold=t)

  class Nnx(nnx.Module):
    def __init__(self, rngs):
      self.gate, self.up = (nnx.Linear(N, F, use_bias=False, rngs=rngs) for _ in range(2))
      self.down = nnx.Linear(F, N, use_bias=False, rngs=rngs)

    def __call__(self, x, t):
      parts = (self.gate, self.up, self.down)
      kernels = layers.GatedKernels(*(part.kernel[...] for part in parts))
      return layers.gated_mlp(x, kernels, threshold=t)

  t = np.full(F, 0.1, np.float32)
  model = Linen()
  params = jax.jit(model.init)(jax.random.key(0), x)
  graph, state = nnx.split(Nnx(nnx.Rngs(0)))
  loss = lambda p, state: jnp.sum(model.apply(p, x, t) ** 2 + nnx.merge(graph, state)(x, t) ** 2)
  slopes = jax.jit(jax.grad(loss, argnums=(0, 1)))(params, state)
  for slope in itertools.chain.from_iterable(map(jax.tree.leaves, slopes)):
    assert np.all(np.isfinite(slope)) and np.any(slope != 0)
