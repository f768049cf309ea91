"""Mirror descent, projected gradient, spectral steps, coordinate descent, power iteration."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxopt_robust as jr
from jaxopt_robust import solvers
from jaxopt_robust.typing import Penalty
from tests.registries.solvers import PROBLEMS, half_mean_square

pytestmark = pytest.mark.x64
SIMPLEX = optax.projections.projection_simplex


@pytest.fixture(scope="module")
def portfolio():
  """1/2 <p, Q p> - <r, p> over the simplex: some weights end at 0."""
  rng = np.random.default_rng(5)
  factors = rng.standard_normal((12, 8))
  return factors.T @ factors / 12, 0.3 * rng.standard_normal(8)


def risk(p, q, r):
  return 0.5 * p @ q @ p - r @ p


def certificate(p, q, r):
  """<grad, p> - min_j grad_j, which bounds the objective gap over the simplex."""
  grad = jax.grad(risk)(p, q, r)
  return float(grad @ p - grad.min())


def test_three_methods_agree_on_the_simplex(portfolio):
  q, r = (jnp.asarray(a) for a in portfolio)
  step = 1 / float(jnp.linalg.norm(q, 2))
  start = jnp.ones(8) / 8
  projection_prox = jr.prox.make_prox_from_projection(SIMPLEX)
  found = {}
  for name, solver, tol in (
    ("mirror", solvers.mirror_descent(risk, solvers.entropic_step, stepsize=step), 1e-9),
    ("projected", solvers.projected_gradient(risk, SIMPLEX, stepsize=step), 1e-11),
    ("backtracking", solvers.projected_gradient(risk, SIMPLEX), 1e-11),
    (
      "spectral",
      solvers.spectral_proximal_gradient(risk, Penalty(jr.prox.penalty_none, projection_prox)),
      1e-11,
    ),
  ):
    x, info = jax.jit(
      lambda x, s=solver, t=tol: solvers.run_until(s, x, 1.0, q, r, tol=t, max_steps=100_000)
    )(start)
    assert int(info.status) == solvers.CONVERGED, name
    assert certificate(x, q, r) < 1e-7, name
    np.testing.assert_allclose(x.sum(), 1, atol=1e-12)
    found[name] = np.asarray(x)
  assert 1 <= np.sum(found["projected"] == 0) <= 6
  for x in found.values():
    np.testing.assert_allclose(x, found["projected"], atol=1e-6)


def test_rate_of_mirror_descent(portfolio):
  """f(x_k) - f* <= D(x*, x_0) / (s k) = log(8) / (s k) for the entropy (s = 1/L in the l1 norm)."""
  q, r = (jnp.asarray(a) for a in portfolio)
  step = 1 / float(jnp.abs(q).max())  # Lipschitz constant from l1 to l_inf
  solver = solvers.mirror_descent(risk, solvers.entropic_step, stepsize=step)
  start = jnp.ones(8) / 8
  _, infos = solvers.run_steps(solver, start, None, q, r, num_steps=3000)
  best = float(infos.value.min())
  gaps = np.asarray(infos.value)[1:500] - best
  assert np.all(gaps <= np.log(8) / (step * np.arange(1, 500)) + 1e-12)
  assert bool(jnp.all(jnp.diff(infos.value) <= 1e-14))


def test_a_non_smooth_objective_with_a_schedule():
  """max_i |p_i - c_i| over the simplex, steps 1/sqrt(k): the best value approaches the optimum."""
  c = jnp.asarray([0.9, 0.4, -0.2, 0.1])
  fun = lambda p, c: jnp.max(jnp.abs(p - c))
  solver = solvers.mirror_descent(
    fun, solvers.entropic_step, stepsize=lambda count: 0.5 / jnp.sqrt(count + 1.0)
  )
  _, infos = solvers.run_steps(solver, jnp.ones(4) / 4, None, c, num_steps=4000)
  # optimum by linear programming: minimise t with |p - c| <= t, p >= 0, sum p = 1
  from scipy.optimize import linprog

  eye, ones = np.eye(4), np.ones((4, 1))
  best = linprog(
    [0, 0, 0, 0, 1], A_ub=np.block([[eye, -ones], [-eye, -ones]]), b_ub=np.r_[c, -c],
    A_eq=[[1, 1, 1, 1, 0]], b_eq=[1],
  ).fun  # fmt: skip
  assert best - 1e-12 <= float(infos.value.min()) <= best + 0.01


def test_entropic_step_is_the_softmax_map_and_keeps_zeros():
  step = solvers.make_projection_grad(jax.nn.softmax, jnp.log)
  x, grad = jnp.asarray([0.2, 0.5, 0.3]), jnp.asarray([1.0, -2.0, 0.3])
  np.testing.assert_allclose(
    solvers.entropic_step(x, grad, 0.7), step(x, grad, 0.7, None), rtol=1e-12
  )
  out = solvers.entropic_step(jnp.asarray([0.0, 0.5, 0.5]), 1e4 * grad, 1.0, 3.0)
  np.testing.assert_allclose(out, [0.0, 3.0, 0.0], atol=1e-300)
  assert bool(jnp.all(jnp.isnan(solvers.entropic_step(-x, grad, 0.7))))


def test_spectral_steps_need_no_constant_and_fewer_steps_than_the_fixed_one():
  problem = next(p for p in PROBLEMS if p.name == "lasso")
  data = tuple(1000 * jnp.asarray(d) for d in problem.data)
  fun, hyper = half_mean_square, 0.2 * 1e6
  spectral = solvers.spectral_proximal_gradient(fun, jr.prox.lasso)
  fixed = solvers.ista(fun, jr.prox.prox_lasso, stepsize=1e-6 / problem.lipschitz)
  steps = {}
  for name, solver in (("spectral", spectral), ("fixed", fixed)):
    x, info = solvers.run_until(solver, jnp.zeros(20), hyper, *data, tol=1e-3, max_steps=5000)
    assert int(info.status) == solvers.CONVERGED
    np.testing.assert_allclose(x, problem.optimum, atol=1e-8)
    steps[name] = int(info.steps)
  assert steps["spectral"] < steps["fixed"] / 2


def test_spectral_method_on_a_non_convex_objective():
  """Rosenbrock's valley with an l1 term and one with bounds: a stationary point, found."""
  fun = lambda w: (1 - w[0]) ** 2 + 100 * (w[1] - w[0] ** 2) ** 2
  box = jr.prox.box
  solver = solvers.spectral_proximal_gradient(fun, box)
  x, info = jax.jit(lambda w: solvers.run_until(solver, w, (-2.0, 0.8), tol=1e-8, max_steps=5000))(
    jnp.asarray([-1.2, 0.5])
  )
  assert int(info.status) == solvers.CONVERGED
  np.testing.assert_allclose(x, [0.8, 0.64], atol=1e-6)


def test_coordinates_of_a_logistic_model_and_rows_of_a_multi_task_one():
  from sklearn.linear_model import LogisticRegression, MultiTaskLasso

  rng = np.random.default_rng(1)
  x = rng.standard_normal((80, 10))
  y = np.sign(x[:, 0] - x[:, 1] + 0.5 * rng.standard_normal(80))
  loss = lambda z, y: jnp.mean(jax.nn.softplus(-y * z))
  solver = solvers.block_coordinate_descent(loss, jr.prox.prox_lasso, curvature=0.25 / 80)
  w, info = jax.jit(
    lambda w, *d: solvers.run_until(solver, w, 0.05, *d, tol=1e-10, max_steps=5000)
  )(jnp.zeros(10), jnp.asarray(x), jnp.asarray(y))
  assert int(info.status) == solvers.CONVERGED
  gap = solvers.logistic_lasso_duality_gap(w, jnp.asarray(x), jnp.asarray(y), hyperparams=0.05)
  assert abs(float(gap)) < 1e-9
  model = LogisticRegression(
    C=1 / (80 * 0.05), l1_ratio=1.0, solver="saga", fit_intercept=False, tol=1e-10, max_iter=100_000
  ).fit(x, y)
  np.testing.assert_allclose(w, model.coef_[0], atol=1e-5)

  targets = np.stack([x[:, 0] + x[:, 2], x[:, 0] - x[:, 2], x[:, 3]], 1)
  targets = targets + 0.2 * rng.standard_normal((80, 3))
  rows = solvers.block_coordinate_descent(
    lambda z, y: 0.5 * jnp.sum((z - y) ** 2) / 80, jr.prox.prox_group_lasso, curvature=1 / 80
  )
  w, info = jax.jit(lambda w, *d: solvers.run_until(rows, w, 0.1, *d, tol=1e-11, max_steps=5000))(
    jnp.zeros((10, 3)), jnp.asarray(x), jnp.asarray(targets)
  )
  model = MultiTaskLasso(alpha=0.1, fit_intercept=False, tol=1e-14, max_iter=100_000)
  np.testing.assert_allclose(w, model.fit(x, targets).coef_.T, atol=1e-8)
  assert np.any(np.all(np.asarray(w) == 0, axis=1))


def test_one_strength_a_coordinate_and_a_column_of_zeros():
  problem = next(p for p in PROBLEMS if p.name == "lasso")
  x, y = (jnp.asarray(d) for d in problem.data)
  x = x.at[:, 3].set(0)
  loss = lambda z, y: 0.5 * jnp.mean((z - y) ** 2)
  solver = solvers.block_coordinate_descent(loss, jr.prox.prox_lasso, curvature=1 / 60)
  strengths = jnp.linspace(0.05, 0.4, 20)
  w, info = solvers.run_until(solver, jnp.ones(20), strengths, x, y, tol=1e-11, max_steps=2000)
  assert int(info.status) == solvers.CONVERGED
  assert float(w[3]) == 1.0  # untouched
  fista = solvers.fista(half_mean_square, jr.prox.prox_lasso)
  expected, _ = solvers.run_until(
    fista, jnp.ones(20), strengths.at[3].set(0), x, y, tol=1e-11, max_steps=20_000
  )
  np.testing.assert_allclose(w, expected, atol=1e-8)


def test_power_iteration(rng, key):
  a = rng.standard_normal((7, 5))
  op = lambda x, a: a @ x["w"]
  norm = solvers.operator_norm(op, {"w": jnp.zeros(5)}, jnp.asarray(a), key=key, margin=1.0)
  exact = np.linalg.norm(a, 2)
  np.testing.assert_allclose(norm, exact, rtol=1e-6)
  bound = solvers.operator_norm(op, {"w": jnp.zeros(5)}, jnp.asarray(a), key=key)
  np.testing.assert_allclose(bound, 1.01 * exact, rtol=1e-6)
  assert float(solvers.operator_norm(lambda x: 0 * x, jnp.zeros(3), key=key)) == 0.0


def test_optax_optimizers_in_the_drivers():
  """L-BFGS on ridge; a swept learning rate; a chain that ends in a proximal operator."""
  ridge = next(p for p in PROBLEMS if p.name == "ridge")
  data = tuple(jnp.asarray(d) for d in ridge.data)
  fun = lambda w, x, y: half_mean_square(w, x, y) + 0.15 * jnp.sum(w**2)
  x, info = jax.jit(
    lambda w: solvers.run_until(
      solvers.from_optax(fun, optax.lbfgs()), w, None, *data, tol=1e-9, max_steps=200
    )
  )(jnp.zeros(20))
  assert int(info.status) == solvers.CONVERGED and int(info.steps) < 60
  np.testing.assert_allclose(x, ridge.optimum, atol=1e-8)

  lasso = next(p for p in PROBLEMS if p.name == "lasso")
  chain = lambda rate: optax.chain(
    optax.sgd(rate),
    jr.transforms.proximal(jr.prox.prox_lasso, hyperparams=lasso.hyper, learning_rate=rate),
  )
  solver = solvers.from_optax(half_mean_square, chain, error="step")
  rates = jnp.asarray([0.3, 1.0]) / lasso.lipschitz
  found, infos = jax.jit(
    jax.vmap(
      lambda rate: solvers.run_until(solver, jnp.zeros(20), rate, *data, tol=1e-12, max_steps=5000)
    )
  )(rates)
  np.testing.assert_allclose(found, jnp.stack(2 * [jnp.asarray(lasso.optimum)]), atol=1e-8)
  assert int(infos.steps[1]) < int(infos.steps[0])


def test_the_error_of_spectral_steps_is_the_gradient_where_there_is_no_penalty(rng):
  """(x_k - x_{k+1}) / s + grad f(x_{k+1}) - grad f(x_k) = grad f(x_{k+1}) then, for every step."""
  curvature = jnp.asarray(rng.uniform(0.5, 3.0, 6))
  fun = lambda x, c: 0.5 * jnp.sum(curvature * (x - c) ** 2)
  center, start = jnp.asarray(rng.normal(size=6)), jnp.zeros(6)
  nothing = Penalty(jr.prox.penalty_none, jr.prox.prox_none)
  for stepsize in (0.01, 0.2):
    solver = solvers.spectral_proximal_gradient(fun, nothing, init_stepsize=stepsize)
    _, info = solver.step(solver.init(start, None, center), None, center)
    expected = np.linalg.norm(curvature * (1 - stepsize * curvature) * center)
    np.testing.assert_allclose(info.error, expected, rtol=1e-12)
