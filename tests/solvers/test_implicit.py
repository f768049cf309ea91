"""Implicit derivatives: both modes, second order, data, pytrees, integers, linear solves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_robust as jr
from jaxopt_robust import solvers
from tests.registries.solvers import PROBLEMS, half_mean_square

pytestmark = pytest.mark.x64
PROBLEM = next(p for p in PROBLEMS if p.name == "lasso")
LINEAR_SOLVES = {
  "dense": solvers.solve_dense, "gmres": solvers.solve_gmres, "bicgstab": solvers.solve_bicgstab,
}  # fmt: skip


def data():
  return tuple(jnp.asarray(d) for d in PROBLEM.data)


def make_solution(prox, linear_solve=solvers.solve_gmres):
  step = 1 / PROBLEM.lipschitz
  solver = solvers.fista(half_mean_square, prox, stepsize=step)
  run = lambda w, h, *d: solvers.run_until(solver, w, h, *d, tol=1e-13, max_steps=50_000)
  residual = solvers.proximal_residual(half_mean_square, prox, stepsize=step)
  exact = solvers.implicit(run, residual, linear_solve=linear_solve)
  return lambda h, *d: exact(jnp.zeros(20), h, *d)[0]


@pytest.mark.parametrize("name", LINEAR_SOLVES)
def test_lasso_and_elastic_net_to_eight_digits_and_second_order_to_six(name):
  x, y = data()
  held_x, held_y = x[:17] + 0.1, y[:17] - 0.2
  lasso = make_solution(jr.prox.prox_lasso, LINEAR_SOLVES[name])
  net = make_solution(jr.prox.prox_elastic_net, LINEAR_SOLVES[name])

  # Three programs in all: compiling is what this test costs.
  strength, eps = 0.2, 1e-5
  path = lambda s: lasso(s, x, y)
  near, forward, reverse = jax.jit(
    lambda s: (jax.vmap(path)(s + eps * jnp.array([1.0, -1.0])), jax.jacfwd(path)(s),
               jax.jacrev(path)(s))
  )(strength)  # fmt: skip
  expected = (near[0] - near[1]) / (2 * eps)
  np.testing.assert_allclose(forward, expected, atol=1e-8)
  np.testing.assert_allclose(reverse, expected, atol=1e-8)

  def held_out(t):
    return jnp.mean((held_x @ net((jnp.exp(t[0]), jnp.exp(t[1])), x, y) - held_y) ** 2)

  t = jnp.log(jnp.asarray([0.1, 0.5]))
  shifts = 1e-5 * jnp.eye(2)
  points = t[None] + jnp.concatenate([jnp.zeros((1, 2)), shifts, -shifts])
  values, gradients = jax.jit(jax.vmap(jax.value_and_grad(held_out)))(points)
  np.testing.assert_allclose(gradients[0], (values[1:3] - values[3:]) / 2e-5, atol=1e-8)
  second = (gradients[1:3] - gradients[3:]) / 2e-5
  hessians = jax.jit(lambda t: (jax.hessian(held_out)(t), jax.jacrev(jax.grad(held_out))(t)))
  for hessian in hessians(t):
    np.testing.assert_allclose(hessian, second, atol=1e-6)


def test_closed_form_on_the_support():
  """db_S/dlam = -n (X_S^T X_S)^{-1} sign(b_S), zero elsewhere."""
  x, y = data()
  solution = make_solution(jr.prox.prox_lasso)
  coefficients = np.asarray(solution(0.2, x, y))
  support = coefficients != 0
  design = np.asarray(x)[:, support]
  expected = np.zeros(20)
  expected[support] = -60 * np.linalg.solve(design.T @ design, np.sign(coefficients[support]))
  assert 0 < support.sum() < 20
  slope = jax.jit(jax.jacfwd(lambda s: solution(s, x, y)))(0.2)
  np.testing.assert_allclose(slope, expected, atol=1e-10)


def test_derivative_in_the_data_equals_finite_differences():
  x, y = data()
  solution = make_solution(jr.prox.prox_lasso)
  weights = jnp.sin(jnp.arange(20.0))
  fun = jax.jit(lambda y: jnp.vdot(weights, solution(0.2, x, y)))
  gradient = jax.grad(fun)(y)
  for i in (0, 7, 59):
    eps = jnp.zeros(60).at[i].set(1e-5)
    np.testing.assert_allclose(gradient[i], (fun(y + eps) - fun(y - eps)) / 2e-5, atol=1e-8)


def test_one_strength_a_feature():
  x, y = data()
  solution = make_solution(jr.prox.prox_lasso)
  strengths = jnp.linspace(0.1, 0.3, 20)
  jacobian = jax.jit(jax.jacrev(lambda s: solution(s, x, y)))(strengths)
  solve = jax.jit(lambda s: solution(s, x, y))
  eps = 1e-5 * jnp.eye(20)[2]
  expected = (solve(strengths + eps) - solve(strengths - eps)) / 2e-5
  np.testing.assert_allclose(jacobian[:, 2], expected, atol=1e-8)


def test_the_iterations_are_not_differentiated():
  """No trace of the solve by the derivative: the objective inside runs under stopped gradients."""
  counted = jr.debug.count_traces(half_mean_square)
  solver = solvers.fista(counted, jr.prox.prox_lasso, stepsize=1 / PROBLEM.lipschitz)
  run = lambda w, h, *d: solvers.run_until(solver, w, h, *d, tol=1e-10, max_steps=10_000)
  residual = solvers.proximal_residual(half_mean_square, jr.prox.prox_lasso, stepsize=0.3)
  exact = solvers.implicit(run, residual)
  jax.jit(jax.grad(lambda s: exact(jnp.zeros(20), s, *data())[0].sum()))(0.2)
  assert counted.traces == 2


def test_pytrees_integer_data_and_a_tuple_of_strengths():
  """Two groups of coefficients, rows chosen by integer indices: ridge in closed form."""
  x, y = data()
  index = jnp.arange(0, 60, 2)

  def fun(params, x, y, index):
    fit = x[:, :8] @ params["a"] + x[:, 8:] @ params["b"]
    return 0.5 * jnp.mean((fit - y)[index] ** 2)

  step = 0.2
  solver = solvers.fista(fun, jr.prox.prox_ridge, stepsize=step)
  run = lambda w, h, *d: solvers.run_until(solver, w, h, *d, tol=1e-13, max_steps=50_000)
  exact = solvers.implicit(
    run, solvers.proximal_residual(fun, jr.prox.prox_ridge, stepsize=step),
    linear_solve=solvers.solve_cg,
  )  # fmt: skip
  zeros = {"a": jnp.zeros(8), "b": jnp.zeros(12)}

  def implicit_sum(strengths):
    params, info = exact(zeros, strengths, x, y, index)
    return params["a"].sum() + 2 * params["b"].sum(), info

  def closed(strengths):
    rows = x[index]
    diagonal = jnp.concatenate([jnp.full(8, strengths["a"]), jnp.full(12, strengths["b"])])
    w = jnp.linalg.solve(rows.T @ rows / 30 + jnp.diag(diagonal), rows.T @ y[index] / 30)
    return w[:8].sum() + 2 * w[8:].sum()

  strengths = {"a": jnp.asarray(0.4), "b": jnp.asarray(0.7)}
  gradient, info = jax.jit(jax.grad(implicit_sum, has_aux=True))(strengths)
  assert int(info.status) == 0
  expected = jax.grad(closed)(strengths)
  for name in "ab":
    np.testing.assert_allclose(gradient[name], expected[name], atol=1e-9)
  hessian = jax.jit(jax.hessian(lambda s: implicit_sum(s)[0]))(strengths)
  exact_hessian = jax.hessian(closed)(strengths)
  np.testing.assert_allclose(hessian["a"]["b"], exact_hessian["a"]["b"], atol=1e-7)


def test_the_start_and_the_info_have_no_derivative():
  x, y = data()
  solver = solvers.ista(half_mean_square, jr.prox.prox_lasso, stepsize=1 / PROBLEM.lipschitz)
  run = lambda w, h, *d: solvers.run_until(solver, w, h, *d, tol=1e-6, max_steps=500)
  exact = solvers.implicit(run, solvers.proximal_residual(half_mean_square, jr.prox.prox_lasso))
  at_start = jax.jit(jax.grad(lambda w: exact(w, 0.2, x, y)[0].sum()))(jnp.ones(20))
  assert at_start.tolist() == [0.0] * 20
  assert float(jax.grad(lambda s: exact(jnp.ones(20), s, x, y)[1].error)(0.2)) == 0.0


def test_derivatives_of_a_batch_equal_a_loop():
  x, y = data()
  solution = make_solution(jr.prox.prox_lasso)
  slope = jax.grad(lambda s: jnp.sum(solution(s, x, y) ** 2))
  strengths = jnp.asarray([0.05, 0.2, 1.0])
  batch = jax.jit(jax.vmap(slope))(strengths)
  one = jax.jit(slope)
  np.testing.assert_allclose(batch, [one(s) for s in strengths], rtol=1e-9)


@pytest.mark.parametrize("name", [*LINEAR_SOLVES, "cg"])
def test_linear_solves_on_pytrees(name, rng):
  solve = {**LINEAR_SOLVES, "cg": solvers.solve_cg}[name]
  matrix = rng.standard_normal((7, 7)) + 7 * np.eye(7)
  if name == "cg":
    matrix = matrix @ matrix.T
  rhs = rng.standard_normal(7)
  expected = np.linalg.solve(matrix, rhs)

  def matvec(v):
    flat = jnp.asarray(matrix) @ jnp.concatenate([v["a"], v["b"].ravel()])
    return {"a": flat[:3], "b": flat[3:].reshape(2, 2)}

  x = solve(matvec, {"a": jnp.asarray(rhs[:3]), "b": jnp.asarray(rhs[3:]).reshape(2, 2)})
  flat = jnp.concatenate([x["a"], x["b"].ravel()])
  np.testing.assert_allclose(flat, expected, atol=1e-11)
