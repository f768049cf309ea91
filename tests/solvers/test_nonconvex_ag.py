"""Accelerated gradient for split penalties: the split, the steps, the fixed points, the speed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import prox, solvers
from tests.helpers import central_difference
from tests.registries.solvers import half_mean_square

pytestmark = pytest.mark.x64
N, P = 60, 40
SPLITS = {
  "scad": (solvers.split_scad, prox.scad, 3.7),
  "mcp": (solvers.split_mcp, prox.mcp, 3.0),
}
BY_SPLIT = pytest.mark.parametrize("name", SPLITS)


def problem(rng):
  cov = 0.5 ** np.abs(np.subtract.outer(np.arange(P), np.arange(P)))
  x = rng.standard_normal((N, P)) @ np.linalg.cholesky(cov).T
  y = x[:, ::10] @ np.array([3.0, -2.0, 1.0, 4.0]) + rng.standard_normal(N)
  lipschitz = np.linalg.norm(x, 2) ** 2 / N
  return jnp.asarray(x), jnp.asarray(y), float(lipschitz)


@BY_SPLIT
def test_l1_and_the_smooth_part_are_the_penalty(name):
  split, penalty, bend = SPLITS[name]
  v = np.linspace(-6, 6, 241)
  for lam in (0.0, 0.5, 1.3):
    parts = split((lam, bend))
    for entry in v[::12]:
      one = jnp.array([entry])
      whole = penalty.value(one, (lam, bend))
      np.testing.assert_allclose(lam * abs(entry) + parts.value(one), whole, atol=1e-12)
    # The gradient, its Lipschitz constant (attained on the bend), concavity.
    slope = np.asarray(parts.grad(jnp.asarray(v)))
    np.testing.assert_allclose(slope, central_difference(parts.value, v), atol=1e-5)
    quotients = np.diff(slope) / np.diff(v)
    assert np.all(quotients <= 1e-12)
    largest = float(parts.lipschitz) if lam else 0.0
    np.testing.assert_allclose(np.max(-quotients), largest, rtol=1e-9, atol=1e-12)


@BY_SPLIT
def test_strengths_may_differ_by_entry_and_leaf(name):
  split, penalty, bend = SPLITS[name]
  tree = {"a": jnp.array([0.3, 2.0, -5.0]), "b": jnp.array(4.0)}
  lam = {"a": jnp.array([0.0, 1.0, 0.5]), "b": jnp.array(0.0)}
  parts = split((lam, bend))
  whole = parts.value(tree) + prox.penalty_lasso(tree, lam)
  np.testing.assert_allclose(whole, penalty.value(tree, (lam, bend)), atol=1e-12)
  assert float(parts.grad(tree)["b"]) == 0.0, "an intercept is not penalised"


def by_hand(x, y, lam, parts, lipschitz, steps, schedule):
  """The recursion written out in NumPy; least squares."""
  soft = lambda v, t: np.sign(v) * np.maximum(np.abs(v) - t, 0)
  curvature = max(lipschitz, float(parts.lipschitz))
  share = {"optimal": 0.99, "original": 0.5}[schedule]
  beta, alpha = share / curvature, 1.0
  b = b_ag = np.zeros(P)
  for k in range(1, steps + 1):
    if schedule == "optimal":
      alpha = 2 / (1 + np.sqrt(1 + 4 / alpha**2))
      step = beta / alpha
    else:
      alpha, step = 2 / (k + 1), k * beta / 2
    middle = (1 - alpha) * b_ag + alpha * b
    grad = x.T @ (x @ middle - y) / N + np.asarray(parts.grad(jnp.asarray(middle)))
    b, b_ag = soft(b - step * grad, step * lam), soft(middle - beta * grad, beta * lam)
  return middle, b_ag, np.max(np.abs(middle - b_ag)) / beta


@BY_SPLIT
@pytest.mark.parametrize("schedule", ["optimal", "original"])
def test_steps_are_the_recursion(rng, name, schedule):
  split, penalty, bend = SPLITS[name]
  x, y, lipschitz = problem(rng)
  solver = solvers.nonconvex_ag(half_mean_square, split, lipschitz=lipschitz, schedule=schedule)
  params, info = solvers.run_until(solver, jnp.zeros(P), (0.3, bend), x, y, tol=0, max_steps=7)
  middle, _, error = by_hand(
    np.asarray(x), np.asarray(y), 0.3, split((0.3, bend)), lipschitz, 7, schedule
  )
  np.testing.assert_allclose(params, middle, atol=1e-12)
  np.testing.assert_allclose(info.error, error, rtol=1e-9)
  whole = half_mean_square(params, x, y) + penalty.value(params, (0.3, bend))
  np.testing.assert_allclose(info.value, whole, rtol=1e-12)


@BY_SPLIT
@pytest.mark.parametrize("restart", [None, "speed"])
def test_a_fixed_point_is_one_of_the_proximal_gradient_map_of_the_whole_penalty(rng, name, restart):
  split, penalty, bend = SPLITS[name]
  x, y, lipschitz = problem(rng)
  solver = solvers.nonconvex_ag(half_mean_square, split, lipschitz=lipschitz, restart=restart)
  b, info = solvers.run_until(solver, jnp.zeros(P), (0.3, bend), x, y, tol=1e-11, max_steps=20_000)
  assert int(info.status) == solvers.CONVERGED
  step = 1 / max(lipschitz, 1 / (bend - 1) if name == "scad" else 1 / bend)
  grad = jax.grad(half_mean_square)(b, x, y)
  np.testing.assert_allclose(penalty.prox(b - step * grad, (0.3, bend), step), b, atol=1e-9)
  assert 0 < int(jnp.sum(jnp.abs(b) > 1e-8)) < P


def test_large_curvature_of_the_penalty_shortens_the_steps():
  """For a flat loss L is that of the penalty: with it the quadratic bound holds, else not."""
  fun = lambda w: 5e-3 * jnp.sum((w - 1) ** 2)
  solver = solvers.nonconvex_ag(fun, solvers.split_mcp, lipschitz=1e-2)
  state = solver.init(jnp.full(2, 0.5), (0.1, 10.0))
  new, _ = solver.step(state, (0.1, 10.0))
  gradient = 1e-2 * (0.5 - 1) - 0.5 / 10
  expected = 0.5 - 9.9 * gradient - 9.9 * 0.1
  np.testing.assert_allclose(new.aggregate, np.full(2, expected), atol=1e-12)


def test_restarts_wait_three_steps_and_begin_the_momentum_anew(rng):
  x, y, lipschitz = problem(rng)
  solver = solvers.nonconvex_ag(
    half_mean_square, solvers.split_scad, lipschitz=lipschitz, restart="speed"
  )
  hyper = (0.1, 3.7)

  def body(state, _):
    new, info = solver.step(state, hyper, x, y)
    return new, (new.speed, new.mixing, info.restarted)

  start = solver.init(jnp.zeros(P), hyper, x, y)
  _, (speed, mixing, restarted) = jax.jit(lambda s: jax.lax.scan(body, s, None, length=100))(start)
  at = np.flatnonzero(restarted)
  assert at.size and np.all(np.diff(at) >= 3) and at[0] >= 2
  assert np.all(np.asarray(speed)[at] < np.asarray(speed)[at - 1])
  np.testing.assert_array_equal(np.asarray(mixing)[at], 1.0)


def test_strengths_of_another_shape_are_refused_and_not_broadcast():
  for split in (solvers.split_mcp, solvers.split_scad):
    parts = split((jnp.ones((3, 1)), 3.0))
    for fn in (parts.value, parts.grad):
      with pytest.raises(
        ValueError, match=r"lam of hyperparams must be a scalar or have the shape"
      ):
        fn(jnp.ones(3))
