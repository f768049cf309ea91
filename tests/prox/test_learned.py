"""Learned operators: gradients of convex potentials, the matching loss, overlapping patches."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.ndimage

from jaxopt_robust import nets, prox
from tests.helpers import assert_no_retrace, central_difference

ALPHA = 0.05
NET = nets.ICNN(
  features=6, layers=2, beta=5.0, alpha=ALPHA, nonnegative_init=nets.log_normal(-2.0, deviation=0.5)
)
CONV = nets.ConvICNN(
  features=3, strides=(2, 1), alpha=ALPHA, nonnegative_init=nets.log_normal(-2.0, deviation=0.5)
)
OPERATOR = jax.jit(prox.make_prox_from_potential(NET.apply))
JACOBIAN = jax.jit(jax.jacobian(prox.make_prox_from_potential(NET.apply)))


@pytest.fixture
def params(key):
  return jax.jit(NET.init)(key, jnp.zeros(3))  # in one program: op by op each would compile many


@pytest.mark.x64
def test_the_jacobian_is_symmetric_and_at_least_twice_alpha(params, rng):
  for x in 3 * rng.standard_normal((5, 3)):
    jacobian = JACOBIAN(jnp.asarray(x), params)
    np.testing.assert_allclose(jacobian, jacobian.T, atol=1e-14)
    assert np.linalg.eigvalsh(jacobian).min() >= 2 * ALPHA - 1e-6


@pytest.mark.x64
def test_the_jacobian_of_the_convolutional_network_too(key, rng):
  x = jnp.asarray(rng.standard_normal((5, 6, 1)))
  params = jax.jit(CONV.init)(key, x)
  f = prox.make_prox_from_potential(CONV.apply)
  jacobian = jax.jit(jax.jacobian(f))(x, params).reshape(30, 30)
  np.testing.assert_allclose(jacobian, jacobian.T, atol=1e-14)
  assert np.linalg.eigvalsh(jacobian).min() >= 2 * ALPHA - 1e-6
  assert CONV.apply(params, jnp.stack([x, 2 * x])).shape == (2,)


@pytest.mark.x64
def test_the_convolutional_network_is_its_formula_with_any_convolution(key, rng):
  """s(W_0 * x), s(W_1 * z + V_1 * x_1 + c_1), the sum over positions of <w, z>: by SciPy."""
  used = []

  def convolve(lhs, rhs, strides, padding, **options):
    used.append(rhs.shape)
    return jax.lax.conv_general_dilated(lhs, rhs, strides, padding, **options)

  net = CONV.clone(strides=(1,), conv_general_dilated=convolve, beta=5.0)
  x = rng.standard_normal((5, 6, 2))
  params = jax.jit(net.init)(key, jnp.asarray(x))
  p = jax.tree.map(np.asarray, params["params"])
  one = lambda x, k: scipy.ndimage.correlate(x, k, mode="constant")  # zeros around

  def conv(x, k):
    parts = [[one(x[..., c], k[..., c, o]) for c in range(k.shape[2])] for o in range(k.shape[3])]
    return np.moveaxis(np.sum(parts, axis=1), 0, -1)

  s = lambda t: np.log1p(np.exp(5 * t)) / 5
  z = s(conv(x, p["input"]["kernel"]))
  skip = conv(x, p["skip_0"]["kernel"]) + p["skip_0"]["bias"]
  z = s(conv(z, p["nonnegative_core_0"]["kernel"]) + skip)
  expected = np.sum(z @ p["nonnegative_output"]) + ALPHA * np.sum(x**2)
  np.testing.assert_allclose(jax.jit(net.apply)(params, jnp.asarray(x)), expected, rtol=1e-12)
  assert set(used) == {(3, 3, 2, 3), (3, 3, 3, 3)}


@pytest.mark.x64
def test_the_operator_is_the_gradient_of_the_potential_and_monotone(params, rng):
  a, b = jnp.asarray(2 * rng.standard_normal((2, 3)))
  np.testing.assert_allclose(
    OPERATOR(a, params), central_difference(lambda v: NET.apply(params, v), a), atol=1e-8
  )
  assert float((OPERATOR(a, params) - OPERATOR(b, params)) @ (a - b)) >= 0
  np.testing.assert_array_equal(OPERATOR(a, params, 7.0), OPERATOR(a, params))  # any scaling


@pytest.mark.x64
def test_the_dense_network_is_its_formula(params, rng):
  x, p = rng.standard_normal(3), {k: np.asarray(v) for k, v in params["params"].items()}
  s = lambda t: np.log1p(np.exp(5 * t)) / 5
  z = s(x @ p["input"])
  for j in range(2):
    z = s(z @ p["nonnegative_core"][j] + x @ p["skip"][j] + p["bias"][j])
  expected = z @ p["nonnegative_output"] + x @ p["output_skip"] + ALPHA * x @ x
  np.testing.assert_allclose(NET.apply(params, jnp.asarray(x)), expected, rtol=1e-13)


def test_half_precision_comes_back_as_half_precision(params):
  x = jnp.asarray([0.5, -1.0, 2.0], jnp.bfloat16)
  out = OPERATOR(x, params)
  assert out.dtype == jnp.bfloat16
  np.testing.assert_allclose(out, OPERATOR(x.astype(jnp.float32), params), atol=0.02)


def test_weights_stay_non_negative_in_every_step(params):
  optimizer = optax.chain(
    optax.adam(0.3), optax.masked(optax.keep_params_nonnegative(), nets.nonnegative_mask)
  )
  x = jnp.linspace(-1.0, 1.0, 12).reshape(4, 3)

  def loss(params):
    out = jax.vmap(lambda v: OPERATOR(v, params))(x)
    return prox.proximal_matching_loss(out, -x, gamma=2.0).mean()

  @jax.jit
  def step(carry, _):
    params, state = carry
    updates, state = optimizer.update(jax.grad(loss)(params), state, params)
    params = optax.apply_updates(params, updates)
    return (params, state), params

  _, path = jax.lax.scan(step, (params, optimizer.init(params)), None, length=20)
  mask = nets.nonnegative_mask(params)
  least = jax.tree.map(lambda leaf, m: float(leaf.min()) if m else None, path, mask)
  assert jax.tree.leaves(least) == [0.0, 0.0], "they want to be negative and are cut at 0"
  assert any(float(leaf.min()) < 0 for leaf in jax.tree.leaves(path)), "the others may"


def test_which_weights_are_marked(params, key):
  marked = nets.nonnegative_mask(params)["params"]
  assert {k for k, v in marked.items() if v} == {"nonnegative_core", "nonnegative_output"}
  shapes = jax.eval_shape(CONV.init, key, jnp.zeros((4, 4, 1)))
  marked = nets.nonnegative_mask(shapes)["params"]
  names = {k for k, v in marked.items() if all(jax.tree.leaves(v))}
  assert names == {"nonnegative_core_0", "nonnegative_core_1", "nonnegative_output"}


def test_log_normal_weights_have_that_mean_and_deviation(key):
  draws = np.log(nets.log_normal(-10.0, deviation=0.1)(key, (100, 100)))
  assert abs(draws.mean() + 10) < 0.01 and abs(draws.std() - 0.1) < 0.01


# Patches


@pytest.mark.x64
@pytest.mark.parametrize("stride", [1, 2])
def test_the_gradient_averages_overlapping_patches(rng, stride):
  """Against a loop over the patches of a periodic image, for a potential that mixes pixels."""
  mix = jnp.asarray(rng.standard_normal((4, 4)))
  psi = lambda params, p: jax.nn.logsumexp(mix @ p.ravel()) * params
  f = jax.jit(prox.make_prox_from_potential(lambda params, v: psi(params, v)))
  image = rng.standard_normal((4, 6))
  total, count = np.zeros((4, 6)), np.zeros((4, 6))
  for i in range(0, 4, stride):
    for j in range(0, 6, stride):
      where = np.ix_((i + np.arange(2)) % 4, (j + np.arange(2)) % 6)
      total[where] += f(jnp.asarray(image[where]), 0.7)
      count[where] += 1
  whole = prox.make_patch_potential(psi, patch=(2, 2), stride=stride)
  found = jax.jit(prox.make_prox_from_potential(whole))(jnp.asarray(image), 0.7)
  np.testing.assert_allclose(found, total / count, atol=1e-13)


# The loss


@pytest.mark.x64
def test_a_wide_loss_is_the_squared_error(rng):
  a, b = jnp.asarray(rng.standard_normal((2, 5, 3, 2)))
  loss = 1e5**2 * prox.proximal_matching_loss(a, b, gamma=1e5)
  np.testing.assert_allclose(loss, np.sum((a - b) ** 2, axis=(1, 2)), rtol=1e-8)
  one, other = a[:, 0, 0], b[:, 0, 0]  # a number a sample
  loss = prox.proximal_matching_loss(one, other, gamma=0.7)
  np.testing.assert_allclose(loss, 1 - np.exp(-(((one - other) / 0.7) ** 2)), rtol=1e-12)


@pytest.mark.x64
def test_gradient_and_mask_of_the_loss(rng):
  a, b = jnp.asarray(rng.standard_normal((2, 4, 3)))
  loss = lambda a: prox.proximal_matching_loss(a, b, gamma=1.3).sum()
  np.testing.assert_allclose(jax.grad(loss)(a), central_difference(loss, a), atol=1e-8)
  where = jnp.array([True, False, True, False])
  holes = jnp.where(where[:, None], a, jnp.nan)
  masked = lambda a: prox.proximal_matching_loss(a, b, gamma=1.3, where=where)
  kept = prox.proximal_matching_loss(a[::2], b[::2], gamma=1.3)
  np.testing.assert_array_equal(masked(holes), np.array([kept[0], 0, kept[1], 0]))
  assert bool(jnp.isfinite(jax.grad(lambda a: masked(a).sum())(holes)).all())


@pytest.mark.x64
def test_the_best_prediction_goes_from_the_posterior_mean_to_its_mode():
  """Laplace prior and unit noise, y = 1.6: the mode is soft thresholding, 0.6."""
  x = jnp.linspace(-12.0, 14.0, 5201)
  density = jnp.exp(-jnp.abs(x) - (x - 1.6) ** 2 / 2)
  density /= density.sum()
  guesses = jnp.linspace(0.0, 2.0, 401)

  @jax.jit
  def argmin(gamma):
    grid = jnp.broadcast_to(guesses[:, None], (401, x.size))
    loss = prox.proximal_matching_loss(
      grid.reshape(-1, 1), jnp.broadcast_to(x, grid.shape).reshape(-1, 1), gamma=gamma
    )
    return guesses[jnp.argmin(loss.reshape(grid.shape) @ density)]

  best = lambda gamma: float(argmin(gamma))

  assert abs(best(50.0) - float(x @ density)) < 0.01
  assert abs(best(0.1) - 0.6) < 0.01
  assert 0.6 < best(1.0) < float(x @ density)


def test_one_program_serves_all_widths():
  loss = lambda a, gamma: prox.proximal_matching_loss(a, a + 1, gamma=gamma)
  assert_no_retrace(loss, lambda i: (jnp.ones((2, 3)), jnp.asarray(1.0 + i)))


def test_the_width_is_halved_from_stage_to_stage():
  gamma = jax.jit(prox.matching_schedule(0.3, num_steps=10))  # four of them
  widths = [float(gamma(k)) for k in range(12)]
  stage = [min(4 * k // 10, 3) for k in range(12)]
  np.testing.assert_allclose(widths, [0.3 * 2.0 ** (3 - s) for s in stage], rtol=1e-6)
  assert float(prox.matching_schedule(0.3, num_steps=1, stages=1)(0)) == np.float32(0.3)
