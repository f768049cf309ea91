"""The attack: stays in the ball, reaches known maxima, treats examples independently."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import losses
from jaxopt_robust.debug import count_traces
from jaxopt_robust.robustness import pgd_attack

BATCH, SIZE = 16, 6
NORMS = ("linf", "l2", "l1")
ORDER = {"linf": np.inf, "l2": 2, "l1": 1}
DUAL = {"linf": 1, "l2": 2, "l1": np.inf}


@functools.partial(jax.jit, static_argnames=("num_steps", "norm", "bounds"))
def attack_linear(weights, x, key, radius, stepsize, *, num_steps=40, norm="linf", bounds=None):
  """Maximises <weights_i, x_i>."""
  return pgd_attack(
    lambda v: jnp.sum(weights * v, axis=1),
    x,
    key,
    radius=radius,
    stepsize=stepsize,
    num_steps=num_steps,
    norm=norm,
    bounds=bounds,
  )


@pytest.fixture
def data(rng):
  return rng.normal(size=(2, BATCH, SIZE)).astype(np.float32)


@pytest.mark.parametrize("norm", NORMS)
def test_reaches_the_maximum_of_a_linear_function(data, key, norm):
  weights, x = data
  radius = np.linspace(0.1, 2, BATCH, dtype=np.float32)  # one radius an example
  # in the l2 ball a step of 0.3 radius shrinks the angle to the maximiser by 1.3: 1.3^-40 is 3e-5
  found = attack_linear(weights, x, key, radius, 0.3 * radius, norm=norm)
  dual = np.linalg.norm(weights, DUAL[norm], axis=1)
  gain = np.sum(weights * (found - x), axis=1)
  np.testing.assert_allclose(gain, radius * dual, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_stays_in_the_ball_and_within_bounds(data, key, norm):
  weights, x = data
  x = np.clip(x, -1, 1)
  radius = 2.1 if norm == "l1" else 0.7
  found = attack_linear(weights, x, key, radius, 5.0, num_steps=3, norm=norm, bounds=(-1.0, 1.0))
  offset = np.asarray(found, np.float64) - x
  size = np.linalg.norm(offset, ORDER[norm], axis=1)
  assert np.all(size <= radius + 1e-6) and np.all(np.abs(found) <= 1)
  assert np.any(np.abs(found) == 1)


def test_l1_steps_pass_over_entries_at_a_side_of_the_box(key):
  """The largest slope leads out of the box at once; the whole radius goes to the next ones."""
  slopes = np.r_[5.0, 2.0, 1.5, np.zeros(37)].astype(np.float32)
  x = np.full((1, 40), 0.5, np.float32)
  x[0, :3] = 1.0, 0.9, 0.2
  found = attack_linear(slopes[None], x, key, 0.5, 0.1, num_steps=200, norm="l1", bounds=(0.0, 1.0))
  offset = np.asarray(found - x)[0]
  # The projection on the ball draws the entry that is at its side back by less than a step.
  np.testing.assert_allclose(offset[:3], [0, 0.1, 0.4], atol=0.02)
  np.testing.assert_allclose(np.sum(np.abs(offset)), 0.5, rtol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_radius_zero_returns_the_examples(data, key, norm):
  weights, x = data
  np.testing.assert_array_equal(attack_linear(weights, x, key, 0.0, 0.1, norm=norm), x)


@pytest.mark.parametrize("norm", NORMS)
def test_start_is_random_and_fills_the_ball(key, norm):
  # a constant objective leaves the start where it is
  start = lambda key, x: pgd_attack(
    lambda v: jnp.zeros(len(v)), x, key, radius=2.0, stepsize=1.0, num_steps=1, norm=norm
  )
  points = np.asarray(jax.jit(start)(key, jnp.zeros((4000, 3))))
  size = np.linalg.norm(points, ORDER[norm], axis=1)
  assert size.max() <= 2 + 1e-6
  # the radius of a uniform point has distribution (r / 2)^3 for all norms: Kolmogorov-Smirnov
  ks = np.abs(np.sort(size / 2) ** 3 - np.arange(4000) / 4000).max()
  assert ks < 1.95 / np.sqrt(4000)  # exceeded with probability 1e-3
  assert np.all(np.abs(points.mean(0)) < 4 * points.std(0) / np.sqrt(4000))


def test_examples_are_independent(data, key):
  weights, x = data
  whole = attack_linear(weights, x, key, 0.3, 0.1, num_steps=7)
  other = x.copy()
  other[1:] += 1.0
  changed = attack_linear(weights, other, key, 0.3, 0.1, num_steps=7)
  np.testing.assert_allclose(changed[0], whole[0], atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_a_traced_radius_that_is_negative_has_no_answer(data, key, norm):
  weights, x = data
  radius = np.where(np.arange(BATCH) == 2, -0.1, 0.1).astype(np.float32)
  found = attack_linear(weights, x, key, radius, 0.1, num_steps=2, norm=norm)
  np.testing.assert_array_equal(np.isnan(found).all(axis=1), radius < 0)
  assert np.isfinite(found[radius > 0]).all()


def test_gradients_that_are_not_finite_are_ignored(key):
  x = jnp.array([[0.0, 0.0], [1.0, 1.0]])
  slopes = jnp.array([[jnp.inf, jnp.nan], [1.0, 1.0]])
  objective = lambda v: jnp.sum(v * slopes, axis=1)
  found = pgd_attack(objective, x, key, radius=0.2, stepsize=0.1, num_steps=5)
  assert np.all(np.isfinite(found)) and np.all(np.abs(found - x) <= 0.2 + 1e-6)
  np.testing.assert_allclose(found[1], 1.2, rtol=1e-6)


def test_tiny_and_huge_gradients_give_full_steps(key):
  x = jnp.zeros((2, 3))
  scale = jnp.array([1e-30, 1e30])
  found = pgd_attack(
    lambda v: scale * v[:, 0], x, key, radius=1.0, stepsize=0.3, num_steps=60, norm="l2"
  )
  np.testing.assert_allclose(found, [[1, 0, 0]] * 2, atol=2e-2)


@pytest.mark.parametrize("norm", NORMS)
def test_dtype_shape_and_no_retrace(key, norm):
  objective = lambda v: jnp.sum(v.astype(jnp.float32) ** 2, axis=(1, 2))
  counted = count_traces(
    lambda x, key, radius: pgd_attack(
      objective, x, key, radius=radius, stepsize=radius / 3, num_steps=4, norm=norm
    )
  )
  fun = jax.jit(counted)
  x = jnp.ones((2, 3, 4), jnp.bfloat16)
  for i in range(3):
    found = fun(x, jax.random.fold_in(key, i), 0.1 * (i + 1))
  assert found.shape == x.shape and found.dtype == jnp.bfloat16
  assert counted.traces == 1


def test_no_gradient_flows_through_the_attack(key):
  x = jnp.ones((2, 3))
  fun = lambda x, r: jnp.sum(
    pgd_attack(lambda v: jnp.sum(v**2, 1), x, key, radius=r, stepsize=0.1, num_steps=2)
  )
  grads = jax.grad(fun, argnums=(0, 1))(x, 0.3)
  np.testing.assert_array_equal(grads[0], 0)
  assert float(grads[1]) == 0


def test_same_key_same_attack(data, key):
  weights, x = data
  first, second = (attack_linear(weights, x, key, 0.3, 0.01, num_steps=2) for _ in range(2))
  np.testing.assert_array_equal(first, second)
  third = attack_linear(weights, x, jax.random.fold_in(key, 1), 0.3, 0.01, num_steps=2)
  assert np.any(third != first)


def test_deviation_of_a_linear_model_is_radius_times_a_singular_value(rng, key):
  # D(x') - D(x) = A_y (x' - x) with rows w_y - w_k: over an l2 ball the norm is g sigma_max(A_y)
  weights = rng.normal(size=(SIZE, 4)).astype(np.float32)
  x = rng.normal(size=(32, SIZE)).astype(np.float32)
  labels = rng.integers(0, 4, size=32)
  radius = 0.3
  clean = x @ weights

  @jax.jit
  def deviation(key):
    objective = lambda v: losses.margin_deviation(clean, v @ weights, labels)
    found = pgd_attack(
      objective, x, key, radius=radius, stepsize=0.3 * radius, num_steps=200, norm="l2"
    )
    return objective(found)

  expected = np.zeros(32)
  for i, y in enumerate(labels):
    rows = (weights[:, [y]] - np.delete(weights, y, axis=1)).T
    expected[i] = radius * np.linalg.svd(rows, compute_uv=False)[0]
  found = deviation(key)
  assert np.all(found <= expected * (1 + 1e-5))
  # ascent with projection is a power iteration: slow only where the two largest values are close
  np.testing.assert_allclose(found, expected, rtol=5e-3)
  assert np.mean(found >= expected * (1 - 1e-4)) >= 0.75
