"""Inverse and regulariser of learned operators: closed forms, optimality, honest ends, PnP."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import prox, solvers
from tests.helpers import assert_no_retrace, central_difference

ALPHA = 0.05
# Convex and smooth, and cheap to compile; tests/prox/test_learned.py holds the networks to it.
PSI = lambda params, y: jax.nn.logsumexp(params @ y) + ALPHA * jnp.sum(y**2)
F = jax.jit(prox.make_prox_from_potential(PSI))
INVERT = jax.jit(
  lambda params, x, tol, steps: solvers.invert_potential(PSI, params, x, tol=tol, max_steps=steps)
)
# R of many points at once: one program for all tests.
VALUES = jax.jit(
  jax.vmap(
    lambda params, x: solvers.potential_regularizer(PSI, params, x, tol=1e-10),
    in_axes=(None, 0),
  )
)
HUBER = lambda lam, y: 0.5 * jnp.sum(jax.nn.relu(jnp.abs(y) - lam) ** 2)
SQUARE = lambda a, y: 0.5 * jnp.sum(a * y**2)


@pytest.fixture
def params(rng):
  return jnp.asarray(rng.standard_normal((4, 3)))


def values(params, points):
  """R at up to 41 points."""
  padded = np.zeros((41, 3))
  padded[: len(points)] = points
  found, info = VALUES(params, jnp.asarray(padded))
  assert not np.any(info.status)
  return np.asarray(found)[: len(points)]


@pytest.mark.x64
def test_the_inverse_inverts(params, rng):
  for y in 3 * rng.standard_normal((4, 3)):
    x = F(jnp.asarray(y), params)
    found, info = INVERT(params, x, 1e-10, 100)
    assert int(info.status) == solvers.CONVERGED
    np.testing.assert_allclose(F(found, params), x, atol=1e-10)
    np.testing.assert_allclose(found, y, atol=1e-10 / (2 * ALPHA))
    np.testing.assert_allclose(info.value, PSI(params, found) - x @ found, rtol=1e-12)


@pytest.mark.x64
def test_the_operator_is_a_stationary_point_of_its_regulariser(params, rng):
  """R + 1/2 ||. - y||^2 has gradient 0 at f(y), and is nowhere lower."""
  y = jnp.asarray(rng.standard_normal(3))
  p = np.asarray(F(y, params))
  steps = 1e-4 * np.concatenate([np.eye(3), -np.eye(3)])
  around = values(params, p + steps)
  gradient = (around[:3] - around[3:]) / 2e-4
  np.testing.assert_allclose(gradient, y - p, atol=1e-6)
  others = p + 0.5 * rng.standard_normal((41, 3))
  objective = lambda at: values(params, at) + 0.5 * np.sum((at - np.asarray(y)) ** 2, axis=1)
  assert objective(others).min() >= objective(p[None])[0]


@pytest.mark.x64
def test_with_half_the_square_the_regulariser_is_convex_along_lines(params, rng):
  start, direction = rng.standard_normal((2, 3))
  line = start + np.linspace(-2.0, 2.0, 41)[:, None] * direction
  whole = values(params, line) + 0.5 * np.sum(line**2, axis=1)
  assert np.diff(whole, 2).min() >= -1e-9


@pytest.mark.x64
def test_closed_forms():
  a, x = jnp.asarray([0.5, 2.0]), jnp.asarray([2.0, -3.0])
  # The gradient of HUBER is soft thresholding, flat around 0: R is the l1 norm.
  y = jnp.asarray([0.4, -3.0])
  of = lambda psi, *args: solvers.potential_regularizer(psi, *args, tol=1e-12)

  @jax.jit
  def both(a, x, lam, y):
    short = solvers.make_potential_penalty(SQUARE).prox(x, a, 0.25)
    # From 5 a whole Newton step leads to -59: steps must be halved.
    steep = lambda height, y: height * jnp.sqrt(1 + y**2)
    halved = solvers.invert_potential(steep, 10.0, jnp.asarray(5.0), tol=1e-12, max_steps=12)
    return of(SQUARE, a, x), of(HUBER, lam, y), short, halved

  (ridge, first), (l1, second), short, (root, third) = both(a, x, 0.7, y)
  np.testing.assert_allclose(ridge, 0.5 * np.sum((1 / a - 1) * x**2), rtol=1e-12)
  np.testing.assert_allclose(short, x / (1 + 0.25 * (1 / a - 1)), rtol=1e-4)
  np.testing.assert_allclose(l1, 0.7 * 3.4, rtol=1e-12)
  np.testing.assert_allclose(root, 0.75**-0.5 / 2, rtol=1e-12)
  assert int(first.status) == int(second.status) == int(third.status) == 0


@pytest.mark.x64
def test_derivatives(params, rng):
  """grad R = y - x; its Hessian is the Jacobian of the inverse minus 1; in the parameters too."""
  x = F(jnp.asarray(rng.standard_normal(3)), params)
  value = lambda x, params: solvers.potential_regularizer(PSI, params, x, tol=1e-12)[0]

  @jax.jit
  def all_of(x, params):
    gradient, by_params = jax.grad(value, argnums=(0, 1))(x, params)
    return gradient, by_params, jax.jacfwd(jax.grad(value))(x, params)

  gradient, by_params, hessian = all_of(x, params)
  y, _ = INVERT(params, x, 1e-12, 100)
  np.testing.assert_allclose(gradient, y - x, atol=1e-9)
  inverse = np.linalg.inv(jax.jacobian(F)(y, params))
  np.testing.assert_allclose(hessian, inverse - np.eye(3), atol=1e-7)
  moved = lambda new: VALUES(new, jnp.broadcast_to(x, (41, 3)))[0][0]
  np.testing.assert_allclose(by_params, central_difference(moved, params), atol=1e-6)


@pytest.mark.x64
def test_status_says_what_happened(params):
  x = F(jnp.asarray([3.0, -2.0, 1.0]), params)
  found, info = INVERT(params, x, 1e-10, 1)
  assert int(info.status) == solvers.STEP_LIMIT and int(info.steps) == 1
  np.testing.assert_allclose(info.error, np.linalg.norm(F(found, params) - x), rtol=1e-9)
  assert int(INVERT(params, x * jnp.nan, 1e-10, 9)[1].status) == solvers.NON_FINITE
  _, info = INVERT(params, x, 0.0, 500)  # below rounding
  assert int(info.status) == solvers.STALLED and 0 < float(info.error) < 1e-13


def test_a_point_outside_of_the_range_is_not_called_converged():
  bounded = lambda params, y: jnp.sum(jnp.logaddexp(y, 0.0))  # its gradient lies in (0, 1)
  _, info = solvers.invert_potential(bounded, None, jnp.asarray([0.5, 2.0]))
  assert int(info.status) != solvers.CONVERGED
  assert 0.9 < float(info.error) < 1.2


@pytest.mark.x64
def test_a_solve_that_ends_early_gives_a_lower_bound(params):
  x = F(jnp.asarray([3.0, -2.0, 1.0]), params)
  few, info = solvers.potential_regularizer(PSI, params, x, tol=1e-10, max_steps=2)
  assert int(info.status) == solvers.STEP_LIMIT
  assert float(few) < values(params, np.asarray(x)[None])[0] - 1e-9


# Steps of any size


@pytest.mark.x64
def test_operators_of_shorter_steps_minimise_their_objective(params):
  penalty = solvers.make_potential_penalty(PSI, tol=1e-11)
  operator = jax.jit(lambda x, s: penalty.prox(x, params, s))
  x = jnp.asarray([1.0, -2.0, 0.5])
  p = np.asarray(operator(x, 0.4))
  steps = 1e-4 * np.concatenate([np.eye(3), -np.eye(3)])
  around = values(params, p + steps)
  # p - x + s grad R(p) = 0
  np.testing.assert_allclose(p + 0.4 * (around[:3] - around[3:]) / 2e-4, x, atol=1e-6)
  np.testing.assert_array_equal(operator(x, 0.0), x)
  np.testing.assert_allclose(operator(x, 1.0), F(x, params), rtol=1e-12)
  assert bool(jnp.isnan(operator(x, 1.5)).all())
  slope = jax.jit(jax.grad(lambda s: operator(x, s).sum()))(0.4)
  numeric = central_difference(lambda s: operator(x, s).sum(), np.asarray(0.4))
  np.testing.assert_allclose(slope, numeric, atol=1e-6)
  assert not penalty.convex
  np.testing.assert_array_equal(penalty.prox(x, params), operator(x, 1.0))
  np.testing.assert_allclose(penalty.value(x, params), values(params, np.asarray(x)[None])[0])


# Plug-and-play


@pytest.mark.x64
def test_plug_and_play_descends_to_a_fixed_point(params, rng):
  """x <- f(x - s grad F(x)) never increases F + R / s for s below 1/L, and comes to rest."""
  operator, b = jnp.asarray(rng.standard_normal((2, 3))), jnp.asarray([1.0, -2.0])
  misfit = lambda x, operator, b: 0.5 * jnp.sum((operator @ x - b) ** 2)
  s = 0.9 / np.linalg.norm(operator, 2) ** 2
  solver = solvers.ista(misfit, prox.make_prox_from_potential(PSI), stepsize=s)

  @jax.jit
  def path(params):
    def body(state, _):
      state, info = solver.step(state, params, operator, b)
      return state, (state.params, info.error)

    return jax.lax.scan(body, solver.init(jnp.ones(3), params), None, length=40)[1]

  points, errors = path(params)
  objective = jax.vmap(lambda x: misfit(x, operator, b))(points) + values(params, points) / s
  assert np.diff(objective).max() <= 1e-9
  assert np.all(np.diff(errors) <= 0)
  x, info = jax.jit(
    lambda params: solvers.run_until(
      solver, jnp.ones(3), params, operator, b, tol=1e-6, max_steps=5000
    )
  )(params)
  assert int(info.status) == solvers.CONVERGED
  np.testing.assert_allclose(F(x - s * operator.T @ (operator @ x - b), params), x, atol=s * 1e-6)


@pytest.mark.x64
def test_splitting_with_a_learned_operator_reaches_the_same_point(params, rng):
  """With the weight 1/s, ADMM has the fixed points of the proximal gradient method of step s."""
  design, b, s = jnp.asarray(rng.standard_normal((4, 3))), jnp.ones(4), 0.05
  misfit = lambda x, design, b: 0.5 * jnp.sum((design @ x - b) ** 2)
  f = prox.make_prox_from_potential(PSI)
  ista = solvers.ista(misfit, f, stepsize=s)
  admm = solvers.admm(prox.prox_least_squares, f, weight=1 / s, relaxation=1.0)

  @jax.jit
  def both(params):
    first = solvers.run_until(ista, jnp.ones(3), params, design, b, tol=1e-9, max_steps=20_000)
    hyper = ((design, b), params)
    return first, solvers.run_until(admm, jnp.ones(3), hyper, tol=1e-9, max_steps=20_000)

  (x, first), (z, second) = both(params)
  assert int(first.status) == int(second.status) == solvers.CONVERGED
  np.testing.assert_allclose(x, z, atol=1e-7)


def test_one_program_serves_all_parameters(params):
  fun = lambda scale, x: solvers.potential_regularizer(SQUARE, scale, x)
  assert_no_retrace(fun, lambda i: (jnp.asarray(1.0 + i), jnp.ones(3)))
