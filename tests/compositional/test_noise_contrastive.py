"""Noise-contrastive losses: formulas, minimisers, masks, huge ratios."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import compositional
from tests.helpers import central_difference

LOSSES = {
  "nce": compositional.nce_loss,
  "ence": compositional.ence_loss,
  "log_ence": compositional.log_ence_loss,
}
every_loss = pytest.mark.parametrize("name", LOSSES)
DATA, NOISE = 6, 8


@functools.cache
def compiled(name):
  """``(data, noise, log_z, masks) -> value, gradients``, one program a loss and dtype."""

  def loss(data, noise, log_z, data_where, noise_where):
    return LOSSES[name](data, noise, log_z=log_z, data_where=data_where, noise_where=noise_where)

  return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))


def evaluate(name, data, noise, log_z=0.25, data_where=None, noise_where=None):
  kind = jnp.asarray(data).dtype
  keep = [np.ones(DATA, bool) if data_where is None else data_where]
  keep.append(np.ones(NOISE, bool) if noise_where is None else noise_where)
  return compiled(name)(data, noise, jnp.asarray(log_z, kind), *keep)


@pytest.fixture
def ratios(rng):
  kind = jnp.result_type(float)
  return jnp.asarray(rng.normal(size=DATA), kind), jnp.asarray(rng.normal(size=NOISE), kind)


def expected(name, data, noise, log_z=0.25):
  data, noise = np.asarray(data, np.float64) - log_z, np.asarray(noise, np.float64) - log_z
  if name == "nce":
    return np.mean(np.logaddexp(0, -data)) + np.mean(np.logaddexp(0, noise))
  value = np.mean(np.exp(-data / 2)) + np.mean(np.exp(noise / 2))
  return np.log(value) if name == "log_ence" else value


@pytest.mark.x64
@every_loss
def test_formula_and_gradient(name, ratios):
  value, grads = evaluate(name, *ratios)
  np.testing.assert_allclose(value, expected(name, *ratios), rtol=1e-13)
  by_data = central_difference(lambda x: expected(name, x, ratios[1]), ratios[0])
  by_noise = central_difference(lambda x: expected(name, ratios[0], x), ratios[1])
  by_shift = central_difference(lambda c: expected(name, *ratios, float(c)), 0.25)
  # central differences: 1e-16 |f| / 1e-6 plus the cubic term, that is 1e-9
  for ours, theirs in zip(grads, (by_data, by_noise, by_shift), strict=True):
    np.testing.assert_allclose(ours, theirs, rtol=1e-7, atol=1e-8)
  narrow = tuple(np.asarray(x, np.float32) for x in ratios)
  with jax.enable_x64(False):
    value32, _ = evaluate(name, *(jnp.asarray(x) for x in narrow))
  assert value32.dtype == jnp.float32
  np.testing.assert_allclose(value32, value, rtol=1e-5)


@every_loss
def test_masks_equal_dropping_and_may_hide_anything(name, ratios):
  keep_data, keep_noise = np.arange(DATA) % 2 == 0, np.arange(NOISE) % 3 > 0
  hidden = jnp.where(keep_data, ratios[0], jnp.nan), jnp.where(keep_noise, ratios[1], jnp.inf)
  value, grads = evaluate(name, *hidden, 0.25, keep_data, keep_noise)
  np.testing.assert_allclose(
    value, expected(name, ratios[0][keep_data], ratios[1][keep_noise]), rtol=1e-5
  )
  assert np.all(np.isfinite(grads[0])) and np.all(np.isfinite(grads[1]))
  np.testing.assert_array_equal(grads[0][~keep_data], 0)
  np.testing.assert_array_equal(grads[1][~keep_noise], 0)
  none = np.zeros(DATA, bool), np.zeros(NOISE, bool)
  value, grads = evaluate(name, *hidden, 0.25, *none)
  assert value == 0 and grads[2] == 0 and not np.any(grads[0]) and not np.any(grads[1])


@every_loss
def test_huge_ratios(name):
  for sign in (-1, 1):
    data, noise = jnp.full(DATA, sign * 1e4), jnp.full(NOISE, -sign * 1e4)
    value, grads = evaluate(name, data, noise, 0.0)
    if name == "ence" and sign < 0:
      assert np.isposinf(value)  # as documented
    else:
      assert np.isfinite(value) and all(np.all(np.isfinite(g)) for g in grads)
      if name == "log_ence":
        np.testing.assert_allclose(value, -sign * 5e3, rtol=1e-3)


@every_loss
def test_dtype_follows_the_ratios_and_eager_equals_jit(name, ratios):
  half = LOSSES[name](*(x.astype(jnp.bfloat16) for x in ratios))
  assert half.dtype == jnp.bfloat16 and half.shape == ()
  np.testing.assert_allclose(LOSSES[name](*ratios, log_z=0.25), evaluate(name, *ratios)[0], 1e-6)
  size = compiled(name)._cache_size()
  assert evaluate(name, *ratios, -0.7)[0] != evaluate(name, *ratios, 0.25)[0]
  assert compiled(name)._cache_size() == size


@pytest.mark.x64
@every_loss
def test_population_minimiser_is_the_density_of_the_data(name):
  # A finite state space: expectations are sums, written as batches with repeated states.
  p, q = np.array([4, 1, 1]) / 6, np.array([2, 2, 4]) / 8
  data, noise = np.repeat(np.arange(3), [4, 1, 1]), np.repeat(np.arange(3), [2, 2, 4])

  def objective(log_p0, log_z):
    ratio = log_p0 - np.log(q)
    return evaluate(name, ratio[data], ratio[noise], log_z)

  right = np.log(p) + 0.4  # an unnormalised model with log Z = 0.4
  value, (by_data, by_noise, by_shift) = objective(right, 0.4)
  slope = np.bincount(data, by_data) + np.bincount(noise, by_noise)
  np.testing.assert_allclose(slope, 0, atol=1e-14)
  np.testing.assert_allclose(by_shift, 0, atol=1e-14)
  overlap = np.sum(np.sqrt(p * q))
  least = {"ence": 2 * overlap, "log_ence": np.log(2 * overlap)}
  if name in least:
    np.testing.assert_allclose(value, least[name], rtol=1e-14)
  rng = np.random.default_rng(0)
  for _ in range(20):
    other = right + 0.3 * rng.normal(size=3)
    assert objective(other, 0.4 + 0.3 * rng.normal())[0] > value


@pytest.mark.x64
def test_log_ence_has_the_direction_of_ence(ratios):
  value, grads = evaluate("ence", *ratios)
  log_value, log_grads = evaluate("log_ence", *ratios)
  np.testing.assert_allclose(log_value, np.log(value), rtol=1e-13)
  for g, h in zip(grads, log_grads, strict=True):
    np.testing.assert_allclose(g, value * h, rtol=1e-12, atol=1e-15)


@pytest.mark.x64
def test_nce_is_flat_between_distant_densities():
  # data N(R, 1), noise N(0, 1), log p0 = th x - x^2 / 2 + constant, so that log Z = th^2 / 2
  x = np.linspace(-12, 28, 4001)
  weight = (x[1] - x[0]) / np.sqrt(2 * np.pi)
  on_noise = weight * np.exp(-x * x / 2)

  # the package's loss with expectations by quadrature: one loss a point
  def population(parameters, on_data):
    th, c = parameters
    ratio = (th * x)[:, None]
    data = jax.vmap(lambda r: compositional.nce_loss(r, jnp.array([-jnp.inf]), log_z=c))(ratio)
    noise = jax.vmap(lambda r: compositional.nce_loss(jnp.array([jnp.inf]), r, log_z=c))(ratio)
    return jnp.sum(on_data * data + on_noise * noise)

  gradient = jax.jit(jax.grad(population))
  expected_norms = {(4, 2): 0.285, (8, 4): 0.0767, (16, 8): 2.0e-4, (16, 12): 9.4e-9}
  for (distance, th), norm in expected_norms.items():
    on_data = weight * np.exp(-((x - distance) ** 2) / 2)
    found = gradient(jnp.array([th, th * th / 2]), on_data)
    margin = th * x - th**2 / 2
    wrong_data, wrong_noise = 1 / (1 + np.exp(margin)), 1 / (1 + np.exp(-margin))
    mass = on_noise * wrong_noise - on_data * wrong_data
    np.testing.assert_allclose(found, [np.sum(x * mass), -np.sum(mass)], rtol=1e-8, atol=1e-16)
    np.testing.assert_allclose(np.linalg.norm(found), norm, rtol=0.013)  # two digits
