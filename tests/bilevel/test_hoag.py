"""HOAG against descent with exact gradients, its step rule written anew, and its schedules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import bilevel, solvers
from tests.bilevel.test_maid import N, Quadratic, inner, outer


def method(problem, accuracy, **options):
  lower = bilevel.strongly_convex_descent(
    inner, strong_convexity=problem.mu, smoothness=problem.smooth
  )
  return bilevel.hoag(inner, outer, lower, accuracy=accuracy, max_inner_steps=5000, **options)


def trace(solver, data, steps):
  """All states and infos from x = 1, y = 0."""

  @jax.jit
  def run(*data):
    state = solver.init(bilevel.BilevelPoint(jnp.ones(N), jnp.zeros(N)), None, *data)

    def body(state, _):
      state, info = solver.step(state, None, *data)
      return state, (state, info)

    return jax.lax.scan(body, state, None, length=steps)[1]

  return run(*data)


@pytest.mark.x64
@pytest.mark.parametrize("stepsize", [None, 1e-3])
def test_with_exact_numbers_it_is_descent_with_its_rule(rng, stepsize):
  """The first step length is too long by far: some steps are rejected, some kept, some grow."""
  problem = Quadratic(rng, 4.0)
  tiny = lambda count: 1e-13 + 0.0 * count
  states, infos = trace(method(problem, tiny, stepsize=stepsize), problem.data, 25)
  x, z = np.ones(N), problem.gradient(np.ones(N))
  lipschitz = 1 / stepsize if stepsize else np.linalg.norm(z) / np.sqrt(N)
  taken = []
  for i in range(25):
    z = problem.gradient(x)
    new = x - z / lipschitz
    old_value, new_value = problem.value(x), problem.value(new)
    good = new_value <= old_value - lipschitz * np.sum((new - x) ** 2)
    taken.append(good or new_value < 1.2 * old_value)
    x = new if taken[-1] else x
    lipschitz *= (0.95 if good else 1.0) if taken[-1] else 2.0
    np.testing.assert_allclose(states.params.x[i], x, atol=1e-7)
    np.testing.assert_allclose(states.lipschitz[i], lipschitz, rtol=1e-9)
  np.testing.assert_array_equal(infos.accepted, taken)
  assert any(taken) and (stepsize is not None or not all(taken))


@pytest.mark.x64
@pytest.mark.parametrize(
  "accuracy", [bilevel.geometric_accuracy(0.1), bilevel.polynomial_accuracy(0.1, power=3.0)]
)
def test_it_converges_under_falling_accuracies(rng, accuracy):
  problem = Quadratic(rng, 4.0)
  problem.a3 *= 3
  states, infos = trace(method(problem, accuracy, stepsize=1e-3), problem.data, 150)
  start = problem.value(np.ones(N))  # the least value is 0
  gaps = [problem.value(np.asarray(states.params.x[i])) / start for i in (0, 50, 149)]
  assert gaps[2] < gaps[1] < 0.2 * gaps[0] and gaps[2] < 0.05
  used = infos.inner_steps
  assert used.dtype == jnp.int32 and np.all(np.asarray(used) >= 1)


@pytest.mark.x64
def test_projection_and_rejected_steps_keep_the_point():
  inner = lambda y, x: 0.5 * jnp.sum((y - 1.0) ** 2) + 0.5 * x * jnp.sum(y**2)
  outer = lambda y, x: 0.5 * jnp.sum((y - 1.2) ** 2)
  mu = lambda x: 1 + x
  lower = bilevel.strongly_convex_descent(inner, strong_convexity=mu, smoothness=mu)
  solver = bilevel.hoag(inner, outer, lower, project=lambda x: jnp.maximum(x, 0.0), stepsize=10.0)
  start = bilevel.BilevelPoint(jnp.array(2.0), jnp.zeros(1))
  point, info = solvers.run_steps(solver, start, None, num_steps=30)
  assert float(point.x) == 0.0
  np.testing.assert_allclose(point.y, 1.0, atol=1e-3)
  assert np.all(np.diff(info.accuracy) < 0)
