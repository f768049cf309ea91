"""Fixed points: Anderson acceleration against GMRES on linear maps, speed, safeguard, pytrees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxopt_robust as jr
from jaxopt_robust import solvers
from tests.registries.solvers import PROBLEMS, one_step

pytestmark = pytest.mark.x64


def linear_map(rng, size=12, radius=0.95):
  matrix = rng.standard_normal((size, size))
  matrix *= radius / np.abs(np.linalg.eigvals(matrix)).max()
  return jnp.asarray(matrix), jnp.asarray(rng.standard_normal(size))


def test_on_a_linear_map_it_is_gmres(rng):
  """Walker and Ni, theorem 2.2: untruncated, x_{k+1} = T(x_k of GMRES); params = T(x_{k+1})."""
  matrix, shift = linear_map(rng)
  solver = solvers.anderson(lambda x, h: matrix @ x + shift, memory=20, ridge=0.0, safeguard=False)
  start = jnp.zeros(12)
  system, krylov = np.eye(12) - np.asarray(matrix), [np.asarray(shift)]
  for steps in range(1, 6):
    got = solvers.run_steps(solver, start, None, num_steps=steps + 2)[0]
    basis = np.stack(krylov, axis=1)
    y = np.linalg.lstsq(system @ basis, np.asarray(shift), rcond=None)[0]
    gmres = basis @ y
    expected = matrix @ (matrix @ gmres + shift) + shift
    np.testing.assert_allclose(got, expected, atol=1e-6)
    krylov.append(np.asarray(matrix) @ krylov[-1])


def test_memory_one_is_the_plain_iteration(rng):
  matrix, shift = linear_map(rng)
  move = lambda x, h: matrix @ x + shift
  one = solvers.run_steps(solvers.anderson(move, memory=1), jnp.zeros(12), None, num_steps=9)[0]
  plain = solvers.run_steps(solvers.fixed_point_iteration(move), jnp.zeros(12), None, num_steps=9)
  np.testing.assert_allclose(one, plain[0], rtol=1e-12)


def test_it_accelerates_the_proximal_gradient_map_and_stays_sparse():
  problem = next(p for p in PROBLEMS if p.name == "lasso")
  data, move = tuple(jnp.asarray(d) for d in problem.data), one_step(problem)
  steps = {}
  for name, solver in (
    ("plain", solvers.fixed_point_iteration(move)), ("anderson", solvers.anderson(move)),
  ):  # fmt: skip
    x, info = jax.jit(
      lambda w, s=solver: solvers.run_until(s, w, 0.2, *data, tol=1e-10, max_steps=5000)
    )(jnp.zeros(20))
    assert int(info.status) == solvers.CONVERGED
    steps[name] = int(info.steps)
    np.testing.assert_allclose(x, problem.optimum, atol=1e-8)
    assert bool(jnp.all((x == 0) == (problem.optimum == 0)))
  assert steps["anderson"] < steps["plain"] / 2


@pytest.mark.parametrize(
  "move",
  [lambda x, h: x - 0.3 * jnp.arctan(x), lambda x, h: x - 0.05 * jnp.arctan(5 * x)],
  ids=["arctan", "steep"],
)
def test_without_the_safeguard_it_runs_away_from_a_non_expansive_map(move):
  start, ends = jnp.asarray([0.9, 3.0, -20.0]), {}
  for safeguard in (True, False):
    solver = solvers.anderson(move, memory=4, ridge=1e-10, safeguard=safeguard)
    ends[safeguard] = solvers.run_until(solver, start, None, tol=1e-10, max_steps=2000)
  x, info = ends[True]
  assert int(info.status) == solvers.CONVERGED
  np.testing.assert_allclose(x, 0, atol=1e-8)
  assert int(ends[False][1].status) != solvers.CONVERGED
  assert float(jnp.abs(ends[False][0]).max()) > 1e6


@pytest.mark.parametrize("mixing", [0.3, 1.0])
def test_pytrees_strengths_and_mixing(mixing):
  move = lambda x, h: {"a": jnp.cos(h * x["a"]), "b": jnp.stack([0.5 * x["b"][1], 0.3 * x["b"][0]])}
  solver = solvers.anderson(move, mixing=mixing)
  start = {"a": jnp.ones(()), "b": jnp.ones(2)}
  solve = jax.jit(
    jax.vmap(lambda h: solvers.run_until(solver, start, h, tol=1e-12, max_steps=200)[0])
  )
  found = solve(jnp.asarray([0.5, 1.0]))
  np.testing.assert_allclose(jnp.cos(jnp.asarray([0.5, 1.0]) * found["a"]), found["a"], atol=1e-11)
  np.testing.assert_allclose(found["b"], 0, atol=1e-11)


def test_derivative_of_a_fixed_point():
  """x = cos(a x): dx/da = -x sin(a x) / (1 + a sin(a x))."""
  solver = solvers.fixed_point_iteration(lambda x, a: jnp.cos(a * x))
  solve = solvers.implicit_fixed_point(solver, tol=1e-14, max_steps=1000)
  value = lambda a: solve(jnp.ones(()), a)[0].params
  x = value(0.8)
  expected = -x * jnp.sin(0.8 * x) / (1 + 0.8 * jnp.sin(0.8 * x))
  np.testing.assert_allclose(jax.grad(value)(0.8), expected, rtol=1e-10)
  second = (jax.grad(value)(0.8 + 1e-5) - jax.grad(value)(0.8 - 1e-5)) / 2e-5
  np.testing.assert_allclose(jax.grad(jax.grad(value))(0.8), second, rtol=1e-6)


def test_a_map_that_diverges_is_reported():
  solver = solvers.fixed_point_iteration(lambda x, h: x**2)
  info = solvers.run_until(solver, jnp.full((), 2.0), None, tol=1e-6, max_steps=100)[1]
  assert int(info.status) == solvers.NON_FINITE
  assert jr.numerics.tree_all_finite(info.steps)
