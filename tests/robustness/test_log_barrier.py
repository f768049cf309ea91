"""The log barrier attack: feasible, right where the answer is known, and differentiable."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import robustness
from jaxopt_robust.debug import count_traces

BATCH, SIZE, RADIUS = 8, 5, 0.1


@functools.partial(jax.jit, static_argnames="num_steps")
def attack_linear(slopes, x, key, barrier, *, num_steps=60):
  box = robustness.perturbation_box(x, RADIUS)
  objective = lambda d: jnp.sum(slopes * d, axis=1)
  d = robustness.log_barrier_attack(objective, box, key, num_steps=num_steps, barrier=barrier)
  q = robustness.implicit_direction(objective, box, d, slopes, barrier=barrier)
  return box, d, q


def analytic(slopes, lower, upper, c):
  """Root of g = c / (u - d) - c / (d - l), entry by entry."""
  middle, half = (upper + lower) / 2, (upper - lower) / 2
  # with t = d - middle: g (half^2 - t^2) = 2 c t
  return middle + slopes * half**2 / (c + np.sqrt(c**2 + slopes**2 * half**2))


@pytest.fixture
def data(rng):
  slopes = rng.normal(size=(BATCH, SIZE)).astype(np.float32)
  x = rng.uniform(size=(BATCH, SIZE)).astype(np.float32)
  x[0, :2], x[1, :2] = 0, 1  # pixels on the boundary
  return slopes, x


def test_box(data):
  _, x = data
  box = robustness.perturbation_box(x.astype(jnp.bfloat16), RADIUS)
  assert box.lower.dtype == jnp.float32
  box = robustness.perturbation_box(x, RADIUS)
  np.testing.assert_allclose(box.lower[0, :2], -1e-3, rtol=1e-6)
  np.testing.assert_allclose(box.upper[1, :2], 1e-3, rtol=1e-6)
  assert np.all(box.lower >= -RADIUS) and np.all(box.upper <= RADIUS)
  assert np.all(x + box.lower >= -1e-3 - 1e-7) and np.all(x + box.upper <= 1 + 1e-3 + 1e-7)
  assert np.all(box.upper > 0) and np.all(box.lower < 0)
  tiny = robustness.perturbation_box(x[:2], np.float32([1e-5, 0.2]))  # one radius an example
  np.testing.assert_allclose(tiny.upper[0], 1e-5, rtol=1e-6)
  assert np.max(tiny.upper[1]) > 0.1


def test_linear_objective_has_a_closed_form(data, key):
  slopes, x = data
  for c in (1e-1, 1e-3):
    box, d, q = attack_linear(slopes, x, key, c)
    lower, upper = np.asarray(box.lower, float), np.asarray(box.upper, float)
    expected = analytic(slopes.astype(float), lower, upper, c)
    # distances to a side are resolved to rounding of the perturbation
    np.testing.assert_allclose(d, expected, atol=2e-6)
    curvature = c / (upper - expected) ** 2 + c / (expected - lower) ** 2
    np.testing.assert_allclose(q, slopes / curvature, rtol=2e-2)
    assert np.all(d > box.lower) and np.all(d < box.upper)


@pytest.mark.x64
def test_weak_barriers_give_the_sign_attack_at_a_linear_rate(rng, key):
  slopes = rng.normal(size=(BATCH, SIZE))
  x = np.full((BATCH, SIZE), 0.5)
  gaps = []
  for c in (1e-3, 1e-4, 1e-5):
    _, d, _ = attack_linear(slopes, x, key, c, num_steps=3000)
    gaps.append(np.max(np.abs(slopes) * np.abs(d - RADIUS * np.sign(slopes))))
  # |g| (radius - |d|) tends to c, from below
  np.testing.assert_allclose(np.array(gaps) / [1e-3, 1e-4, 1e-5], 1, rtol=0.05)


def test_every_iterate_is_strictly_inside(data, key):
  slopes, x = data
  for scale in (1e-6, 1.0, 1e6, 1e30):
    for num_steps in (1, 2, 3, 10):
      box, d, _ = attack_linear(scale * slopes, x, key, 1e-3, num_steps=num_steps)
      assert np.all(d > box.lower) and np.all(d < box.upper)
  wild = lambda d: jnp.sum(jnp.where(d > 0, jnp.nan, d), axis=1)
  box = robustness.perturbation_box(x, RADIUS)
  d = robustness.log_barrier_attack(wild, box, key, num_steps=5)
  assert np.all(d > box.lower) and np.all(d < box.upper)


def test_examples_are_independent_and_no_gradient_flows(data, key):
  slopes, x = data
  _, whole, _ = attack_linear(slopes, x, key, 1e-3, num_steps=7)
  other = x.copy()
  other[1:] = 0.5
  _, changed, _ = attack_linear(slopes, other, key, 1e-3, num_steps=7)
  np.testing.assert_array_equal(changed[0], whole[0])

  def total(weight, radius):
    box = robustness.perturbation_box(x, radius)
    objective = lambda d: weight * jnp.sum(slopes * d, axis=1)
    return jnp.sum(robustness.log_barrier_attack(objective, box, key, num_steps=2))

  grads = jax.grad(total, argnums=(0, 1))(1.0, 0.1)
  assert grads == (0, 0)


def test_shapes_and_no_retrace(key):
  counted = count_traces(
    lambda x, key, radius, c: robustness.log_barrier_attack(
      lambda d: jnp.sum(d**2, axis=(1, 2)),
      robustness.perturbation_box(x, radius),
      key,
      num_steps=3,
      barrier=c,
      stepsize=radius,
    )
  )
  fun = jax.jit(counted)
  for i in range(3):
    d = fun(jnp.full((2, 3, 4), 0.5), jax.random.fold_in(key, i), 0.1 * (i + 1), 0.01 * (i + 1))
  assert d.shape == (2, 3, 4) and counted.traces == 1


@pytest.mark.x64
def test_full_direction_solves_the_whole_system(rng, key):
  matrix = rng.normal(size=(SIZE, SIZE))
  matrix = -(matrix @ matrix.T)  # a concave objective: the barrier problem has one solution
  slopes = rng.normal(size=(3, SIZE))
  box = robustness.perturbation_box(jnp.full((3, SIZE), 0.5), RADIUS)
  objective = lambda d: jnp.sum(slopes * d, axis=1) + 0.5 * jnp.sum((d @ matrix) * d, axis=1)
  d = robustness.log_barrier_attack(objective, box, key, num_steps=300, stepsize=0.05, barrier=0.05)
  q = robustness.implicit_direction(objective, box, d, slopes, barrier=0.05, hessian="full")
  u, l, point = np.asarray(box.upper), np.asarray(box.lower), np.asarray(d)
  gradient = slopes + point @ matrix - 0.05 / (u - point) + 0.05 / (point - l)
  np.testing.assert_allclose(gradient, 0, atol=1e-9)  # the attack has converged
  for i in range(3):
    barrier = 0.05 / (u[i] - point[i]) ** 2 + 0.05 / (point[i] - l[i]) ** 2
    np.testing.assert_allclose((np.diag(barrier) - matrix) @ q[i], slopes[i], rtol=1e-9)
