"""Consistent representations: levels, schedules, losses, gradients that must be absent."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_robust import robustness

BATCH, SIZE, WIDTH, OUT = 8, 5, 6, 4


@functools.cache
def grid(n):
  return np.asarray(robustness.edm_noise_level(jnp.arange(n), n))


@pytest.mark.parametrize("n", [2, 21, 41, 81])
def test_grid_of_levels(n):
  t = grid(n)
  assert t[0] == 80 and t[-1] == np.float32(0.002) and np.all(np.diff(t) < 0)
  i = np.arange(n)
  ends = 80 ** (1 / 7), 0.002 ** (1 / 7)
  np.testing.assert_allclose(t, (ends[0] + i / (n - 1) * (ends[1] - ends[0])) ** 7, rtol=1e-5)


def test_grid_in_other_units_and_traced():
  t = robustness.edm_noise_level(jnp.arange(5), 5, bounds=(2e-15, 8e-11), power=3.0)
  wide = robustness.edm_noise_level(jnp.arange(5), 5, bounds=(2e15, 8e19), power=3.0)
  np.testing.assert_allclose(np.asarray(t, np.float64) * 1e30, wide, rtol=1e-5)
  even = robustness.edm_noise_level(jnp.arange(5), 5, bounds=(1.0, 5.0), power=1.0)
  np.testing.assert_allclose(even, [5, 4, 3, 2, 1], rtol=1e-6)
  traced = jax.jit(robustness.edm_noise_level)
  for n in (5, 9):  # the number of levels is data: one compile
    np.testing.assert_allclose(traced(jnp.int32(3), n), grid(n)[3], rtol=1e-6)
  for bad in (-1, 5):
    assert np.isnan(traced(jnp.int32(bad), 5))


@pytest.mark.parametrize("counts", [(20, 80), (10, 1280), (3, 10), (7, 7)])
@pytest.mark.parametrize("total", [1, 10, 1000])
def test_number_of_levels_grows_in_stages(counts, total):
  first, last = counts
  stage = np.ceil(total / np.log2(np.ceil(last / first) + 1))
  k = np.arange(total + 1)
  expected = np.minimum(first * 2 ** np.ceil(k / stage), last) + 1
  found = np.asarray(robustness.num_noise_levels(k, total, counts=counts))
  np.testing.assert_array_equal(found, expected)
  assert found[0] == first + 1
  if counts == (20, 80):
    assert set(found) <= {21, 41, 81}
    assert total < 10 or found[-1] == 81
  assert np.all(np.diff(found) >= 0) and found.dtype == np.int32
  traced = jax.jit(lambda k: robustness.num_noise_levels(k, total, counts=counts))
  np.testing.assert_array_equal(traced(jnp.asarray(k)), found)
  late = robustness.num_noise_levels(2**31 - 1, total, counts=counts)
  assert int(late) == last + 1  # no overflow far beyond the end


def test_number_of_levels_stays_within_32_bits():
  found = robustness.num_noise_levels(np.arange(100), 40, counts=(3, 2**31 - 1))
  assert found[0] == 4 and found[-1] == 2**31 - 1 and np.all(np.diff(found) >= 0)


def test_rate_of_the_average():
  k = np.arange(0, 1001, 50)
  for m0, m1, a in ((0.99, 0.9999, 15.0), (0.5, 0.9, 10.0)):
    found = np.asarray(robustness.sigmoid_ema_rate(k, 1000, bounds=(m0, m1), sharpness=a))
    r = np.sqrt(k / 1000 * (m1**2 - m0**2) + m0**2)
    c = 2 / (1 + np.exp(-a * (r - m0) / (m1 - m0))) - 1
    np.testing.assert_allclose(found, c * m1 + (1 - c) * m0, rtol=2e-7)
    assert found[0] == np.float32(m0) and np.all(np.diff(found) >= 0)
    assert abs(found[-1] - m1) < 1e-4 * (m1 - m0) + 1e-7
  same = robustness.sigmoid_ema_rate(500, 1000, bounds=(0.9, 0.9))
  assert float(same) == np.float32(0.9)


def test_embedding_of_levels():
  t = np.array([0.0, 1e-30, 0.002, 1.0, 80.0], np.float32)
  found = np.asarray(robustness.noise_level_embedding(t, 8))
  assert found.shape == (5, 8) and np.all(np.isfinite(found))
  np.testing.assert_array_equal(found[0], found[1])  # the floor
  u = np.float32(250 * np.log(np.float32(0.002)))
  angle = u * 1e4 ** (-np.arange(4) / 4)
  np.testing.assert_allclose(found[2], np.r_[np.cos(angle), np.sin(angle)], atol=3e-4)
  np.testing.assert_allclose(found[:, :4] ** 2 + found[:, 4:] ** 2, 1, rtol=1e-5)
  assert robustness.noise_level_embedding(jnp.bfloat16(1.0), 2).dtype == jnp.float32


@pytest.mark.parametrize("tau", [0.2, 1.0])
def test_nce_of_orthonormal_rows(tau):
  eye = jnp.eye(BATCH)
  found = robustness.representation_nce_loss(eye, eye, temperature=tau)
  np.testing.assert_allclose(found, np.log(np.exp(1 / tau) + BATCH - 1) - 1 / tau, rtol=1e-5)


def test_nce_is_the_formula_and_ignores_scale_and_order(rng):
  f, k = rng.normal(size=(2, BATCH, SIZE))
  unit = lambda v: v / np.linalg.norm(v, axis=1, keepdims=True)
  logits = unit(f) @ unit(k).T / 0.2
  expected = np.log(np.exp(logits).sum(1)) - np.diag(logits)
  loss = jax.jit(robustness.representation_nce_loss)
  found = loss(jnp.float32(f), jnp.float32(k))
  np.testing.assert_allclose(found, expected, rtol=2e-5)
  sizes = rng.uniform(1e-3, 1e3, size=(2, BATCH, 1))
  np.testing.assert_allclose(
    loss(jnp.float32(sizes[0] * f), jnp.float32(sizes[1] * k)), found, rtol=2e-5
  )
  order = rng.permutation(BATCH)
  np.testing.assert_allclose(
    loss(jnp.float32(f[order]), jnp.float32(k[order])), found[order], rtol=2e-5
  )
  slope = jax.grad(lambda k: jnp.sum(loss(jnp.float32(f), k)))(jnp.float32(k))
  np.testing.assert_array_equal(slope, 0)
  half = robustness.representation_nce_loss(
    jnp.asarray(f, jnp.bfloat16), jnp.asarray(k, jnp.bfloat16)
  )
  assert half.dtype == jnp.bfloat16
  np.testing.assert_allclose(half.astype(jnp.float32), expected, rtol=0.05, atol=0.05)


def test_nce_gathers_the_keys_of_all_devices(rng):
  f, k = (jnp.asarray(v, jnp.float32) for v in rng.normal(size=(2, BATCH, SIZE)))
  mesh = jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
  spec = jax.sharding.PartitionSpec("d")
  shared = jax.jit(
    jax.shard_map(
      functools.partial(robustness.representation_nce_loss, axis_name="d"),
      mesh=mesh, in_specs=(spec, spec), out_specs=spec,
    )
  )  # fmt: skip
  np.testing.assert_allclose(shared(f, k), robustness.representation_nce_loss(f, k), rtol=1e-5)


def encode(params, x, level):
  # The level shows: a shift that the projector's rows and the features both see.
  return jnp.tanh(x @ params["a"] + 0.1 * jnp.log(level)) @ params["b"]


def project(params, features):
  return features @ params["c"]


@pytest.fixture
def setting(rng):
  shapes = {"a": (SIZE, WIDTH), "b": (WIDTH, WIDTH), "c": (WIDTH, OUT)}
  draw = lambda: {n: jnp.asarray(rng.normal(size=s), jnp.float32) for n, s in shapes.items()}
  x = jnp.asarray(rng.normal(size=(BATCH, SIZE)), jnp.float32)
  return draw(), draw(), (x, x + 0.1, x - 0.1)


@functools.cache
def compiled():
  def loss(params, target, images, key, n):
    return robustness.rrcm_loss(encode, project, params, target, images, key, num_levels=n)

  return jax.jit(loss)


def test_loss_is_the_formula(setting, key):
  params, target, (x, first, second) = setting
  values, info = compiled()(params, target, (x, first, second), key, 21)
  noise = jax.random.normal(jax.random.split(key)[1], x.shape)
  nce = robustness.representation_nce_loss
  place = int(np.flatnonzero(np.isclose(grid(21), info.level, rtol=1e-5))[0])
  np.testing.assert_allclose(info.target_level, grid(21)[place + 1], rtol=1e-5)
  low = jnp.float32(0.002)
  views = [
    [project(w, encode(w, v + low * noise, low)) for v in (first, second)] for w in (params, target)
  ]
  contrastive = nce(views[0][0], views[1][1]) + nce(views[0][1], views[1][0])
  levels = info.level, info.target_level
  denoising = nce(*(encode(params, x + t * noise, t) for t in levels))
  np.testing.assert_allclose(values, contrastive + denoising, rtol=1e-4)
  np.testing.assert_allclose(info.contrastive, contrastive.mean(), rtol=1e-4)
  np.testing.assert_allclose(info.denoising, denoising.mean(), rtol=1e-4)


def test_levels_are_uniform_and_shared_by_the_batch(setting):
  params, target, images = setting
  keys = jax.random.split(jax.random.key(0), 300)
  levels = jax.jit(jax.vmap(lambda k: compiled()(params, target, images, k, 5)[1].level))(keys)
  found, counts = np.unique(np.asarray(levels).round(6), return_counts=True)
  np.testing.assert_allclose(found[::-1], grid(5)[:4], rtol=1e-4)  # never the lowest one
  assert np.all(np.abs(counts - 75) < 4 * np.sqrt(75))


def test_no_gradient_flows_to_targets(setting, key):
  params, target, images = setting
  total = lambda p, t: jnp.sum(compiled()(p, t, images, key, 21)[0])
  ours, theirs = jax.jit(jax.grad(total, (0, 1)))(params, target)
  jax.tree.map(lambda g: np.testing.assert_array_equal(g, 0), theirs)
  # The gradient of the denoising part is that with its target held fixed.
  x, noise = images[0], jax.random.normal(jax.random.split(key)[1], images[0].shape)
  info = compiled()(params, target, images, key, 21)[1]

  def by_hand(p):
    views = [project(p, encode(p, v + 0.002 * noise, jnp.float32(0.002))) for v in images[1:]]
    fixed = [
      project(target, encode(target, v + 0.002 * noise, jnp.float32(0.002))) for v in images[1:]
    ]
    nce = robustness.representation_nce_loss
    high = encode(p, x + info.level * noise, info.level)
    low = encode(params, x + info.target_level * noise, info.target_level)  # params, not p
    return jnp.sum(nce(views[0], fixed[1]) + nce(views[1], fixed[0]) + nce(high, low))

  expected = jax.jit(jax.grad(by_hand))(params)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-4), ours, expected)


def test_adjacent_levels_coincide_as_the_grid_grows(setting, key):
  """Then the denoising part is the loss of the features with themselves."""
  params, target, images = setting
  gaps = []
  for n in (3, 31, 3001):
    info = compiled()(params, target, images, key, n)[1]
    noise = jax.random.normal(jax.random.split(key)[1], images[0].shape)
    e = encode(params, images[0] + info.level * noise, info.level)
    gaps.append(abs(float(info.denoising - jnp.mean(robustness.representation_nce_loss(e, e)))))
  assert gaps[2] < 0.02 and gaps[2] < gaps[0]


def test_step_moves_parameters_target_and_count(setting, key):
  params, _, images = setting
  optimizer = optax.chain(optax.clip_by_global_norm(2.0), optax.sgd(0.1))
  state = robustness.rrcm_init(params, optimizer)
  step = jax.jit(
    lambda state, key: robustness.rrcm_step(
      encode, project, optimizer, state, images, key, num_steps=10
    )
  )
  first, info = step(state, key)
  assert int(first.count) == 1 and float(info.level) in grid(21).astype(np.float32).tolist()
  grads = jax.grad(lambda p: jnp.mean(compiled()(p, state.target_params, images, key, 21)[0]))(
    params
  )
  norm = optax.tree.norm(grads)
  for name in params:
    moved = -0.1 * grads[name] * jnp.minimum(1, 2 / norm)
    np.testing.assert_allclose(first.params[name] - params[name], moved, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(
      first.target_params[name] - params[name], 0.01 * moved, rtol=0.02, atol=3e-7
    )  # mu(0) = .99
  second, _ = step(first, jax.random.fold_in(key, 1))
  rate = float(robustness.sigmoid_ema_rate(1, 10))
  expected = rate * first.target_params["a"] + (1 - rate) * second.params["a"]
  np.testing.assert_allclose(second.target_params["a"], expected, rtol=1e-5, atol=1e-6)


def test_average_of_bfloat16_parameters_loses_no_updates(setting, key):
  """At rate .9999 an update of a bfloat16 average would be below half of its last digit."""
  params, _, images = setting
  half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), params)
  optimizer = optax.sgd(1.0)
  state = robustness.rrcm_init(half, optimizer)
  found, _ = robustness.rrcm_step(
    encode, project, optimizer, state, images, key, num_steps=10, ema_bounds=(0.9999, 0.99999)
  )
  assert found.params["a"].dtype == jnp.bfloat16
  gap = np.float32(found.params["a"]) - np.float32(half["a"])
  moved = np.float64(found.target_params["a"]) - np.float32(half["a"])
  np.testing.assert_allclose(moved, 1e-4 * gap, rtol=1e-2, atol=2e-7)
  assert np.abs(gap).max() > 0.1


def test_pre_training_lowers_the_loss(setting, key):
  params, _, images = setting
  optimizer = optax.adam(1e-2)

  def body(state, key):
    return robustness.rrcm_step(encode, project, optimizer, state, images, key, num_steps=200)

  _, info = jax.jit(lambda s: jax.lax.scan(body, s, jax.random.split(key, 200)))(
    robustness.rrcm_init(params, optimizer)
  )
  total = np.asarray(info.contrastive + info.denoising)
  assert total[-50:].mean() < 0.7 * total[:20].mean()


def test_smoothing_in_pixels_is_twice_the_noise_on_the_wider_scale(key):
  """The level of noise sigma on [0, 1] is 2 sigma on [-1, 1]: same key, same votes."""
  weights = jnp.linspace(-1, 1, 15).reshape(5, 3)
  x, sigma = jnp.array([0.1, 0.9, 0.4, 0.6, 0.5]), 0.25
  narrow = robustness.vote_counts(
    lambda v: (2 * v - 1) @ weights, x, key, sigma=sigma, num_samples=500
  )
  wide = robustness.vote_counts(
    lambda v: v @ weights, 2 * x - 1, key, sigma=2 * sigma, num_samples=500
  )
  np.testing.assert_array_equal(narrow, wide)


def test_step_on_devices_is_that_of_the_whole_batch(setting, key):
  """Without noise to speak of: the gradients are averaged, the targets gathered."""
  params, _, images = setting
  optimizer = optax.sgd(0.1)
  options = {"num_steps": 10, "bounds": (1e-9, 2e-9)}
  step = lambda state, images, axis: robustness.rrcm_step(
    encode, project, optimizer, state, images, key, axis_name=axis, **options
  )[0]
  mesh = jax.make_mesh((4,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
  spec = jax.sharding.PartitionSpec
  state = robustness.rrcm_init(params, optimizer)
  shared = jax.jit(
    jax.shard_map(
      lambda s, i: step(s, i, "d"), mesh=mesh, in_specs=(spec(), spec("d")), out_specs=spec(),
      check_vma=False,
    )
  )(state, images)  # fmt: skip
  alone = jax.jit(lambda s, i: step(s, i, None))(state, images)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), shared.params, alone.params
  )
