"""Step sizes that are not positive, and problems far away from 1."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_robust import prox, solvers


def bowl(x):
  """Minimised by ones: L = 100."""
  return 0.5 * jnp.sum(jnp.array([1.0, 100.0]) * (x - 1) ** 2)


@pytest.mark.parametrize("method", [solvers.ista, solvers.fista])
def test_a_step_of_zero_is_neither_convergence_nor_failure(method):
  def end(schedule):
    solver = method(bowl, prox.prox_lasso, stepsize=schedule)
    return solvers.run_until(solver, jnp.zeros(2), 0.0, tol=1e-3, max_steps=3000)

  faded = end(optax.linear_schedule(0.005, 0.0, 10))[1]
  assert int(faded.status) == 1 and int(faded.steps) == 3000
  x, info = end(lambda count: jnp.where(count < 3, 0.0, 0.01))
  assert int(info.status) == 0
  np.testing.assert_allclose(x, [1, 1], atol=1e-3)  # the strong convexity is 1: error <= tol / 1


def test_a_negative_traced_step_is_a_failure():
  @jax.jit
  def end(s):
    def status(solver, hyper):
      return solvers.run_until(solver, jnp.zeros(2), hyper, tol=1e-4, max_steps=9)[1].status

    return (
      status(solvers.ista(bowl, prox.prox_lasso, stepsize=s), 0.0),
      status(solvers.douglas_rachford(prox.prox_ridge, prox.prox_none, stepsize=s), (1.0, None)),
    )

  assert [int(status) for status in end(-0.001)] == [2, 2]


@pytest.mark.parametrize("size", [1e-25, 1e20])
def test_anderson_at_any_scale(size):
  solver = solvers.anderson(lambda x, h: 0.5 * x + h)
  h = jnp.array([3.0, 1.0]) * size
  x, _ = solvers.run_until(solver, jnp.zeros(2), h, tol=1e-5 * size, max_steps=40)
  np.testing.assert_allclose(x / size, [6, 2], rtol=1e-4)  # x = 2 h; error <= 2 tol


@pytest.mark.parametrize("size", [1e-30, 1e-20, 1e20, 1e30])
def test_operator_norm_at_any_scale(size):
  a = jnp.array([[2.0, 0.0], [0.0, 1.0]])
  key = jax.random.key(0)

  def value(c):
    return solvers.operator_norm(lambda x: c * (a @ x), jnp.zeros(2), key=key, margin=1.0)

  norm, slope = jax.value_and_grad(value)(jnp.float32(size))
  np.testing.assert_allclose([norm / size, slope], 2, rtol=1e-5)


def test_operators_of_another_shape_are_refused():
  def cut(x, hyper, scaling):
    return x[:1]

  ridge = prox.prox_ridge
  cases = (
    ("prox", solvers.ista(bowl, cut, stepsize=0.005), 1.0),
    ("prox", solvers.projected_gradient(bowl, lambda x: x[:1], stepsize=0.005), None),
    ("prox", solvers.fista(bowl, lambda x, h, s: x + 0j, stepsize=0.005), 1.0),
    ("prox_f", solvers.douglas_rachford(cut, ridge), (1.0, 1.0)),
    ("prox_g", solvers.douglas_rachford(ridge, cut), (1.0, 1.0)),
  )
  for name, solver, hyper in cases:
    state = solver.init(jnp.zeros(2), hyper)
    with pytest.raises(ValueError, match=rf"{name} must return.*real\[2\].*got"):
      jax.eval_shape(solver.step, state, hyper)


def test_objectives_that_return_something_else_are_refused():
  cases = (
    (lambda x: x, False, "fun must return a scalar; got shape"),
    (lambda x: None, False, "fun must return a scalar; got a NoneType"),
    (lambda x: (x[0], 1), False, "needs has_aux=True"),
    (lambda x: x[0], True, "fun must return a pair"),
  )
  for fun, has_aux, message in cases:
    solver = solvers.ista(fun, prox.prox_none, stepsize=1.0, has_aux=has_aux)
    state = solver.init(jnp.zeros(2), None)
    with pytest.raises((TypeError, ValueError), match=message):
      jax.eval_shape(solver.step, state, None)
