"""Splitting methods on total variation: optimality, multipliers, rates, empty intersections."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxopt_robust as jr
from jaxopt_robust import solvers

pytestmark = pytest.mark.x64
SIZE, STRENGTH = 40, 0.7


@pytest.fixture(scope="module")
def signal():
  rng = np.random.default_rng(3)
  return np.repeat([0.0, 2.0, -1.0, 0.5], SIZE // 4) + 0.3 * rng.standard_normal(SIZE)


def difference(x, *data):
  del data
  return jnp.diff(x)


def objective(x, hyper, *data):
  del data
  return 0.5 * jnp.sum(x**2) - jnp.vdot(hyper[0][1], x) + hyper[1] * jnp.sum(jnp.abs(jnp.diff(x)))


def admm_of(weight=1.0, **options):
  laplacian = jnp.diff(jnp.eye(SIZE), axis=0).T @ jnp.diff(jnp.eye(SIZE), axis=0)

  def argmin(v, hyper, rho):
    right = hyper[1] + rho * jnp.diff(jnp.eye(SIZE), axis=0).T @ v
    return jnp.linalg.solve(jnp.eye(SIZE) + rho * laplacian, right)

  return solvers.admm(
    argmin, jr.prox.prox_lasso, difference, weight=weight, objective=objective, **options
  )


METHODS = {
  "admm": admm_of,
  "admm_balanced": lambda: admm_of(1e4, balance=10.0),
  "chambolle_pock": lambda: solvers.chambolle_pock(
    jr.prox.prox_quadratic, jr.prox.prox_lasso, difference, stepsize=0.49, dual_stepsize=0.49,
    objective=objective,
  ),
  "chambolle_pock_accelerated": lambda: solvers.chambolle_pock(
    jr.prox.prox_quadratic, jr.prox.prox_lasso, difference, stepsize=0.49, dual_stepsize=0.49,
    strong_convexity=0.9, objective=objective,
  ),
  "condat_vu": lambda: solvers.condat_vu(
    lambda x, b: 0.5 * jnp.sum((x - b) ** 2), jr.prox.prox_none, jr.prox.prox_lasso, difference,
    stepsize=0.4, dual_stepsize=0.49,
  ),
}  # fmt: skip


def run(name, b, tol=1e-9, max_steps=30_000):
  solver = METHODS[name]()
  hyper, data = (((1.0, b), STRENGTH), ()) if name != "condat_vu" else ((None, STRENGTH), (b,))
  start = solver.init(jnp.zeros(SIZE), hyper, *data)
  state, info = jax.jit(
    lambda s: solvers.run_state(solver, s, hyper, *data, tol=tol, max_steps=max_steps)
  )(start)
  return state, info


@pytest.mark.parametrize("name", [m for m in METHODS if "accelerated" not in m])
def test_total_variation_with_its_multipliers(name, signal):
  """x = b - D^T p with |p| <= lam, p = lam sign(D x) where D x jumps: sufficient for optimality."""
  b = jnp.asarray(signal)
  state, info = run(name, b)
  assert int(info.status) == solvers.CONVERGED
  multiplier = state.weight * state.dual if hasattr(state, "weight") else state.dual
  x, p = np.asarray(state.params), np.asarray(multiplier)
  np.testing.assert_allclose(x - signal + np.diff(np.eye(SIZE), axis=0).T @ p, 0, atol=1e-7)
  assert np.abs(p).max() <= STRENGTH + 1e-8
  jumps = np.diff(x)
  assert np.sum(np.abs(jumps) > 1e-3) >= 3
  np.testing.assert_allclose(np.abs(jumps) * STRENGTH, jumps * p, atol=1e-7)
  if name != "condat_vu":
    best = objective(state.params, ((1.0, b), STRENGTH))
    np.testing.assert_allclose(info.value, best, rtol=1e-12)


@pytest.mark.parametrize("weight", [1e4, 1e-4])
def test_balancing_repairs_a_bad_weight(weight, signal):
  b = jnp.asarray(signal)
  hyper = ((1.0, b), STRENGTH)
  steps = {}
  for balance in (None, 10.0):
    solver = admm_of(weight, balance=balance)
    _, info = jax.jit(
      lambda x, s=solver: solvers.run_until(s, x, hyper, tol=1e-6, max_steps=20_000)
    )(jnp.zeros(SIZE))
    steps[balance] = int(info.steps)
  assert steps[10.0] < steps[None] / 5


@pytest.mark.parametrize("weight", [1e4, 1e-4])
def test_a_bad_weight_is_repaired_in_the_first_steps_and_then_rests(weight, signal):
  """One factor of 2 a step towards the balance, none after the last step that balances."""
  solver, hyper = admm_of(weight, balance=10.0), ((1.0, jnp.asarray(signal)), STRENGTH)
  state, step = solver.init(jnp.zeros(SIZE), hyper), jax.jit(solver.step)
  for _ in range(4):
    state, _ = step(state, hyper)
  moved = np.log2(state.weight / weight)
  assert moved <= -3 if weight > 1 else moved >= 3
  state = state._replace(weight=state.weight * 0 + weight, count=jnp.asarray(10**6, jnp.int32))
  state, _ = step(state, hyper)
  assert state.weight == weight


def test_acceleration_reaches_the_rate_of_strong_convexity(signal):
  """||x_k - x*||^2 = O(1/k^2): the plain method is not required to, the accelerated one is."""
  b = jnp.asarray(signal)
  best = run("admm", b, tol=1e-11)[0].params
  hyper = ((1.0, b), STRENGTH)
  solver = METHODS["chambolle_pock_accelerated"]()

  def body(state, _):
    state, _ = solver.step(state, hyper)
    return state, jnp.sum((state.params - best) ** 2)

  start = solver.init(jnp.zeros(SIZE), hyper)
  _, squares = jax.jit(lambda s: jax.lax.scan(body, s, None, length=2000))(start)
  k = np.arange(1, 2001)
  scaled = np.asarray(squares) * k**2
  assert scaled[1000:].max() <= scaled[:200].max()


def test_a_third_operator_keeps_its_constraint(signal):
  """Davis-Yin with l1 and the non-negative orthant: max(b - lam, 0), with exact zeros."""
  b = jnp.asarray(signal[:12])

  def fun(x, b):
    return 0.5 * jnp.sum((x - b) ** 2)

  solver = solvers.davis_yin(fun, jr.prox.prox_lasso, jr.prox.prox_non_negative_lasso, stepsize=1.0)
  x, info = solvers.run_until(solver, jnp.zeros(12), (0.3, 0.0), b, tol=1e-11, max_steps=2000)
  assert int(info.status) == solvers.CONVERGED
  np.testing.assert_allclose(x, np.maximum(np.asarray(b) - 0.3, 0), atol=1e-10)
  assert float(x.min()) == 0.0


def test_two_sets_that_do_not_meet_do_not_converge():
  box = lambda x, bounds: jnp.clip(x, min=bounds[0], max=bounds[1])
  prox = jr.prox.make_prox_from_projection(box)
  solver = solvers.douglas_rachford(prox, prox)
  _, info = solvers.run_until(
    solver, jnp.zeros(2), ((0.0, 1.0), (3.0, 4.0)), tol=1e-8, max_steps=300
  )
  assert int(info.status) == solvers.STEP_LIMIT
  np.testing.assert_allclose(info.error, 2 * np.sqrt(2), rtol=1e-6)  # their distance


def test_intersection_of_a_simplex_and_a_hyperplane():
  """A linear program over the simplex with one more equality, by two projections."""
  normal = jnp.asarray([1.0, 2.0, 4.0])
  plane = lambda x, level: x - (normal @ x - level) / (normal @ normal) * normal
  solver = solvers.douglas_rachford(
    jr.prox.make_prox_from_projection(plane),
    jr.prox.make_prox_from_projection(optax.projections.projection_simplex),
  )
  x, info = solvers.run_until(solver, jnp.ones(3), (2.5, 1.0), tol=1e-11, max_steps=5000)
  assert int(info.status) == solvers.CONVERGED
  np.testing.assert_allclose([x.sum(), normal @ x], [1.0, 2.5], atol=1e-9)


def test_warm_start_from_a_state_saves_steps(signal):
  b = jnp.asarray(signal)
  solver = METHODS["chambolle_pock"]()
  go = jax.jit(
    lambda s, lam: solvers.run_state(solver, s, ((1.0, b), lam), tol=1e-8, max_steps=30_000)
  )
  cold = solver.init(jnp.zeros(SIZE), ((1.0, b), 0.7))
  state, first = go(cold, 0.7)
  _, warm = go(state, 0.69)
  _, again = go(cold, 0.69)
  assert int(warm.steps) < int(again.steps)
  _, same = go(state, 0.7)
  assert int(same.steps) <= 2 < int(first.steps)


def test_nan_data_are_reported(signal):
  _, info = run("condat_vu", jnp.asarray(signal).at[3].set(jnp.nan))
  assert int(info.status) == solvers.NON_FINITE
