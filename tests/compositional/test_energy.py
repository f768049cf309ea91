"""Energy-based models: exact gradients where they are known, and the contracts of the state."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special

from jaxopt_robust import compositional

BATCH, NOISE = 6, 8
SUPPORT = np.linspace(-2.0, 2.0, NOISE)  # a finite state space


def log_density(params, x):
  """log p0 of a quadratic exponential family, with a constant that Z absorbs."""
  return params["shift"] + params["linear"] * x - params["square"] * x * x


def log_uniform(x):
  return jnp.full(x.shape, -np.log(NOISE), x.dtype)


def log_wide(x):
  return jax.scipy.stats.norm.logpdf(x, 0.0, jnp.asarray(2.0, x.dtype))


def make_params(linear=0.7, square=0.4, shift=0.0):
  params = {"linear": linear, "square": square, "shift": shift}
  return jax.tree.map(jnp.asarray, params)


@functools.cache
def compiled(log_noise):
  fn = compositional.meco_value_and_grad(log_density, log_noise)
  return jax.jit(fn)


def step(params, state, data, noise, *, log_noise=log_wide, rate=1.0, clip=np.inf, **masks):
  masks = {"data_where": np.ones(BATCH, bool), "noise_where": np.ones(NOISE, bool)} | masks
  kind = jnp.result_type(float)
  return compiled(log_noise)(
    params,
    state,
    jnp.asarray(data, kind),
    jnp.asarray(noise, kind),
    rate=jnp.asarray(rate, kind),
    weight_clip=jnp.asarray(clip, kind),
    **masks,
  )


def init():
  return compositional.meco_init(dtype=jnp.result_type(float))


@pytest.fixture
def data(rng):
  return rng.normal(size=BATCH)


@pytest.fixture
def noise(rng):
  return 2 * rng.normal(size=NOISE)


def snis_gradient(params, data, noise):
  """Self-normalised importance sampling, in NumPy: d/d(linear, square)."""
  log_w = np.asarray(log_density(params, noise) - log_wide(jnp.asarray(noise)))
  w = special.softmax(log_w)
  return {"linear": w @ noise - data.mean(), "square": -(w @ noise**2) + (data**2).mean()}


@pytest.mark.x64
def test_rate_one_is_self_normalised_importance_sampling(data, noise):
  params = make_params()
  (value, info), grads, state = step(params, init(), data, noise)
  expected = snis_gradient(params, data, noise)
  for name, slope in expected.items():
    np.testing.assert_allclose(grads[name], slope, rtol=1e-12)
  log_w = np.asarray(log_density(params, noise) - log_wide(jnp.asarray(noise)))
  log_z = special.logsumexp(log_w) - np.log(NOISE)
  np.testing.assert_allclose([info.log_z, state.log_z, info.batch_log_z], log_z, rtol=1e-12)
  np.testing.assert_allclose(value, log_z - np.mean(log_density(params, data)), rtol=1e-12)
  assert value == info.objective
  w = np.exp(log_w)
  np.testing.assert_allclose(info.effective_sample_size, w.sum() ** 2 / (w @ w), rtol=1e-12)
  assert info.clipped == 0
  # a second visit with rate 1 forgets the first
  again, _, _ = step(params, state._replace(log_z=state.log_z + 3), data, noise)
  np.testing.assert_allclose(again[0], value, rtol=1e-12)


@pytest.mark.x64
def test_finite_state_space_gives_the_exact_likelihood_gradient(data):
  params = make_params()

  def exact(params):
    log_z = jax.nn.logsumexp(log_density(params, jnp.asarray(SUPPORT)))
    return log_z - jnp.mean(log_density(params, jnp.asarray(data)))

  value, grads = jax.value_and_grad(exact)(params)
  (ours, _), our_grads, _ = step(params, init(), data, SUPPORT, log_noise=log_uniform)
  np.testing.assert_allclose(ours, value, rtol=1e-12)
  for name in grads:
    np.testing.assert_allclose(our_grads[name], grads[name], rtol=1e-11, atol=1e-13)


@pytest.mark.x64
def test_noise_equal_to_the_model_has_constant_weights(data, noise):
  # log p0 = -x^2 / 8 is the noise, N(0, 2^2), up to log Z = log(2 sqrt(2 pi))
  params = make_params(linear=0.0, square=0.125)
  (_, info), _, state = step(params, init(), data, noise)
  np.testing.assert_allclose(state.log_z, np.log(2 * np.sqrt(2 * np.pi)), rtol=1e-13)
  np.testing.assert_allclose(info.effective_sample_size, NOISE, rtol=1e-13)


@pytest.mark.x64
def test_a_constant_in_the_log_density_shifts_log_z_alone(data, noise):
  state = compositional.MecoState(jnp.asarray(0.3))
  (value, info), grads, new = step(make_params(), state, data, noise, rate=0.4, clip=1.7)
  for shift in (-40.0, 700.0):
    moved = compositional.MecoState(state.log_z + shift)
    (v, i), g, n = step(make_params(shift=shift), moved, data, noise, rate=0.4, clip=1.7)
    np.testing.assert_allclose(n.log_z, new.log_z + shift, rtol=1e-13)
    np.testing.assert_allclose([v, i.clipped], [value, info.clipped], rtol=1e-12)
    for name in ("linear", "square"):
      np.testing.assert_allclose(g[name], grads[name], rtol=1e-11)


@pytest.mark.x64
def test_moving_average_and_clipping(data, noise):
  params, old, rate, clip = make_params(), 0.3, 0.4, 1.2
  (_, info), grads, state = step(
    params, compositional.MecoState(jnp.asarray(old)), data, noise, rate=rate, clip=clip
  )
  w = np.exp(np.asarray(log_density(params, noise) - log_wide(jnp.asarray(noise))))
  u = (1 - rate) * np.exp(old) + rate * w.mean()
  np.testing.assert_allclose(state.log_z, np.log(u), rtol=1e-13)
  relative = np.minimum(w / u, clip) / NOISE
  assert 0 < np.mean(w / u > clip) < 1
  np.testing.assert_allclose(info.clipped, np.mean(w / u > clip))
  np.testing.assert_allclose(grads["linear"], relative @ noise - data.mean(), rtol=1e-12)
  np.testing.assert_allclose(grads["shift"], relative.sum() - 1, rtol=1e-12)


@pytest.mark.x64
def test_log_z_against_quadrature_within_its_standard_error():
  params = make_params(linear=0.5, square=0.3)
  z, _ = integrate.quad(lambda x: np.exp(0.5 * x - 0.3 * x * x), -np.inf, np.inf)
  noise = 2.0 * jax.random.normal(jax.random.key(0), (400, 500))
  log_w = log_density(params, noise) - log_wide(noise)
  found = compositional.log_partition(log_w)
  scaled = (np.asarray(found.log_z) - np.log(z)) / np.asarray(found.standard_error)
  # of 400 standard normal numbers the mean is within 4 / 20, the deviation within 4 / sqrt(800)
  assert abs(scaled.mean()) < 0.2 and abs(scaled.std() - 1) < 0.15
  w = np.exp(np.asarray(log_w[0]))
  error = np.std(w / w.mean(), ddof=1) / np.sqrt(w.size)
  np.testing.assert_allclose(found.standard_error[0], error, rtol=1e-12)
  # averaging the batches through the state: the same integral
  mean = compositional.meco_init(dtype=jnp.float64)
  fn = compiled(log_wide)
  for i in range(20):
    rate = 1 / (i + 1)  # a plain average
    (_, _), _, mean = fn(params, mean, noise[0, :BATCH], noise[i], rate=rate, weight_clip=np.inf)
  expected = special.logsumexp(log_w[:20]) - np.log(log_w[:20].size)
  np.testing.assert_allclose(mean.log_z, expected, rtol=1e-12)


def test_log_partition_and_effective_sample_size_at_the_edges():
  log_w = jnp.array([[1e4, 1e4, 0.0], [-1e4, -1e4, -1e4], [-np.inf, 0.0, 0.0], [-np.inf] * 3])
  found = jax.jit(compositional.log_partition)(log_w)
  np.testing.assert_allclose(found.log_z[:3], [1e4 + np.log(2 / 3), -1e4, np.log(2 / 3)], rtol=1e-6)
  assert np.isneginf(found.log_z[3])
  np.testing.assert_allclose(found.effective_sample_size, [2, 3, 2, 0])
  np.testing.assert_allclose(found.standard_error[:3], [0.5, 0.0, 0.5], atol=1e-6)
  where = jnp.array([[True, True, False], [False, False, True], [True] * 3, [False] * 3])
  hidden = jnp.where(where, log_w, jnp.nan)
  masked = jax.jit(compositional.log_partition)(hidden, where=where)
  np.testing.assert_allclose(masked.log_z[:2], [1e4, -1e4], rtol=1e-6)
  assert np.isneginf(masked.log_z[3]) and np.isinf(masked.standard_error[1])
  np.testing.assert_allclose(masked.effective_sample_size, [2, 1, 2, 0])
  size = compositional.effective_sample_size(hidden, where=where)
  np.testing.assert_array_equal(size, masked.effective_sample_size)
  slope = jax.grad(lambda x: jnp.sum(compositional.log_partition(x, where=where).log_z[:2]))(hidden)
  np.testing.assert_allclose(slope, [[0.5, 0.5, 0], [0, 0, 1], [0] * 3, [0] * 3], atol=1e-6)
  half = compositional.log_partition(jnp.zeros(3, jnp.bfloat16))
  assert {x.dtype for x in half} == {jnp.dtype(jnp.bfloat16)}


def test_masked_rows_may_hold_anything(data, noise):
  keep_data, keep_noise = np.arange(BATCH) % 2 == 0, np.arange(NOISE) % 3 > 0
  hidden_data, hidden_noise = np.where(keep_data, data, np.nan), np.where(keep_noise, noise, np.inf)
  masks = {"data_where": keep_data, "noise_where": keep_noise}
  (value, info), grads, state = step(make_params(), init(), hidden_data, hidden_noise, **masks)
  kept = data[keep_data].astype(np.float32), noise[keep_noise].astype(np.float32)
  fn = compositional.meco_value_and_grad(log_density, log_wide)
  (v, i), g, s = fn(make_params(), init(), *kept, rate=1.0, weight_clip=np.inf)
  np.testing.assert_allclose([value, state.log_z], [v, s.log_z], rtol=1e-5)
  np.testing.assert_allclose(info, i, rtol=1e-5)
  for name in ("linear", "square"):
    np.testing.assert_allclose(grads[name], g[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", ["data_where", "noise_where"])
def test_a_mask_that_leaves_nothing_changes_nothing(side, data, noise):
  state = compositional.MecoState(jnp.asarray(0.3, jnp.float32))
  hidden = {"data_where": (np.full(BATCH, np.nan), noise), "noise_where": (data, [np.nan] * NOISE)}
  none = np.zeros(BATCH if side == "data_where" else NOISE, bool)
  (value, info), grads, new = step(make_params(), state, *hidden[side], **{side: none})
  assert value == 0 and info.objective == 0 and new.log_z == state.log_z
  assert all(g == 0 for g in grads.values())


def test_bad_noise_spoils_a_step_and_not_the_state(data, noise):
  state = compositional.MecoState(jnp.asarray(0.3, jnp.float32))
  for bad in (np.nan, np.inf):
    (value, _), grads, new = step(make_params(), state, data, np.append(noise[:-1], bad), rate=0.5)
    assert np.isnan(value) and np.isnan(grads["linear"]) and new.log_z == state.log_z
  (value, _), _, first = step(make_params(), init(), data, np.append(noise[:-1], np.nan))
  assert np.isnan(value) and np.isneginf(first.log_z)


def test_huge_log_densities_are_finite(data, noise):
  for linear in (-1e4, 1e4):
    (value, info), grads, state = step(make_params(linear=linear), init(), data, noise, clip=50.0)
    found = [value, *info, *grads.values(), state.log_z]
    assert np.all(np.isfinite(found)) and info.effective_sample_size == pytest.approx(1, abs=1e-3)


def test_points_without_density_have_no_weight(data):
  def box(params, x):
    return jnp.where(jnp.abs(x) < 1, params["linear"] * x, -jnp.inf)

  fn = jax.jit(compositional.meco_value_and_grad(box, log_uniform))
  inside = np.abs(SUPPORT) < 1
  points = jnp.asarray(SUPPORT, jnp.float32)
  _, grads, state = fn(make_params(), init(), jnp.zeros(BATCH), points, rate=1.0)
  w = special.softmax(0.7 * SUPPORT[inside])
  np.testing.assert_allclose(grads["linear"], w @ SUPPORT[inside], rtol=1e-5)
  expected = special.logsumexp(0.7 * SUPPORT[inside])  # q is one over the number of points
  np.testing.assert_allclose(state.log_z, expected, rtol=1e-5)
  _, grads, state = fn(make_params(), init(), jnp.zeros(BATCH), points + 100, rate=1.0)
  assert np.isneginf(state.log_z) and grads["linear"] == 0


@pytest.mark.x64
def test_float32_is_close_to_float64_and_new_numbers_do_not_retrace(data, noise):
  data, noise = data.astype(np.float32), noise.astype(np.float32)
  (wide, _), wide_grads, _ = step(make_params(), init(), data, noise, rate=0.5)
  with jax.enable_x64(False):
    (value, _), grads, state = step(make_params(), init(), data, noise, rate=0.5)
    size = compiled(log_wide)._cache_size()
    (other, _), _, _ = step(make_params(linear=0.1), state, data, noise, rate=0.25, clip=2.0)
    assert compiled(log_wide)._cache_size() == size and other != value
  assert value.dtype == jnp.float32 and wide.dtype == jnp.float64
  np.testing.assert_allclose(value, wide, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(grads["linear"], wide_grads["linear"], rtol=1e-5, atol=1e-5)


def test_vmap_over_runs(data, noise):
  runs = 3
  fn = jax.jit(jax.vmap(compositional.meco_value_and_grad(log_density, log_wide)))
  params = jax.tree.map(lambda p: p + 0.1 * jnp.arange(runs, dtype=jnp.float32), make_params())
  x = np.broadcast_to(data.astype(np.float32), (runs, BATCH))
  z = np.broadcast_to(noise.astype(np.float32), (runs, NOISE))
  state = compositional.MecoState(jnp.full(runs, -jnp.inf))
  (values, _), grads, _ = fn(params, state, x, z)
  for i in range(runs):
    one = jax.tree.map(lambda p, i=i: p[i], params)
    (value, _), grad, _ = step(one, init(), data, noise, rate=0.1, clip=50.0)
    np.testing.assert_allclose(values[i], value, rtol=1e-5)
    np.testing.assert_allclose(grads["linear"][i], grad["linear"], rtol=1e-4, atol=1e-5)
