"""What callers of other libraries bring along: auxiliary output, keywords, schedules, blocks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_robust import prox, solvers
from jaxopt_robust.typing import Penalty

B = jnp.array([3.0, 0.5])
SOFT = np.array([2.0, 0.0])  # of B by 1


def square(w, b):
  return 0.5 * jnp.sum((w - b) ** 2)


def with_aux(w, b):
  return square(w, b), {"residual": w - b, "size": w.size}


SAME = lambda w, *_, **__: w
PAIR = (None, 1.0)
# name -> (solver of an objective, with or without auxiliary output, hyper, solution)
SMOOTH = {
  "ista": (lambda f, **k: solvers.ista(f, prox.lasso, stepsize=0.5, **k), 1.0, SOFT),
  "ista backtracking": (lambda f, **k: solvers.ista(f, prox.lasso, **k), 1.0, SOFT),
  "fista": (lambda f, **k: solvers.fista(f, prox.lasso, **k), 1.0, SOFT),
  "fista monotone": (lambda f, **k: solvers.fista(f, prox.lasso, monotone=True, **k), 1.0, SOFT),
  "spectral": (lambda f, **k: solvers.spectral_proximal_gradient(f, prox.lasso, **k), 1.0, SOFT),
  "projected": (
    lambda f, **k: solvers.projected_gradient(f, lambda w: jnp.clip(w, 1, 2), stepsize=0.5, **k),
    None, np.array([2.0, 1.0]),
  ),
  "mirror": (
    lambda f, **k: solvers.mirror_descent(f, lambda w, g, s, h: w - s * g, stepsize=0.5, **k),
    None, np.asarray(B),
  ),
  "davis_yin": (
    lambda f, **k: solvers.davis_yin(f, prox.prox_none, prox.lasso, stepsize=0.5, **k), PAIR, SOFT,
  ),
  "condat_vu": (
    lambda f, **k: solvers.condat_vu(
      f, prox.prox_none, prox.lasso, SAME, stepsize=0.5, dual_stepsize=0.5, **k
    ),
    PAIR, SOFT,
  ),
  "from_optax": (lambda f, **k: solvers.from_optax(f, optax.sgd(0.5), **k), None, np.asarray(B)),
}  # fmt: skip


@pytest.mark.parametrize("name", SMOOTH)
def test_auxiliary_output_and_data_by_keyword(name):
  make, hyper, solution = SMOOTH[name]
  options = {"tol": 1e-5, "max_steps": 300}
  w, info = solvers.run_until(make(with_aux, has_aux=True), jnp.zeros(2), hyper, b=B, **options)
  np.testing.assert_allclose(w, solution, atol=1e-4)
  assert int(info.last.aux["size"]) == 2
  np.testing.assert_allclose(info.last.aux["residual"], w - B, atol=1e-3)
  plain, info = solvers.run_until(make(square), jnp.zeros(2), hyper, B, **options)
  assert info.last.aux is None
  np.testing.assert_allclose(plain, w, atol=1e-6)


BLOCKS = {"a": jnp.zeros(2), "none": jnp.zeros((0, 3))}


@pytest.mark.parametrize("name", [n for n in SMOOTH if n != "projected"])
def test_empty_leaves_are_leaves(name):
  make, hyper, solution = SMOOTH[name]
  if name == "mirror":
    gradient = lambda w, g, s, h: jax.tree.map(lambda a, d: a - s * d, w, g)
    solver = solvers.mirror_descent(lambda w, b: square(w["a"], b), gradient, stepsize=0.5)
  else:
    solver = make(lambda w, b: square(w["a"], b))
  w, info = solvers.run_until(solver, BLOCKS, hyper, B, tol=1e-5, max_steps=300)
  assert int(info.status) == solvers.CONVERGED and w["none"].shape == (0, 3)
  np.testing.assert_allclose(w["a"], solution, atol=1e-4)


def test_empty_leaves_of_the_other_methods():
  half = lambda w, h: jax.tree.map(lambda leaf: 0.5 * leaf + 1, w)
  for solver in (solvers.fixed_point_iteration(half), solvers.anderson(half)):
    w, info = solvers.run_until(solver, BLOCKS, None, tol=1e-5, max_steps=99)
    np.testing.assert_allclose(w["a"], 2.0, atol=1e-4)
    assert int(info.status) == solvers.CONVERGED
  ridge = prox.make_prox_from_projection(SAME)
  for solver in (solvers.douglas_rachford(prox.ridge, ridge), solvers.admm(prox.ridge, ridge)):
    start = jax.tree.map(lambda leaf: leaf + 1, BLOCKS)
    w, info = solvers.run_until(solver, start, (1.0, None), tol=1e-5, max_steps=99)
    np.testing.assert_allclose(w["a"], 0.0, atol=1e-4)


def test_whole_numbers_become_floats():
  solver = solvers.fista(square, prox.lasso, stepsize=0.5)
  w, _ = solvers.run_until(solver, np.array([0, 0]), 1, B, tol=1e-5, max_steps=99)
  np.testing.assert_allclose(w, SOFT, atol=1e-4)


@pytest.mark.parametrize("name", ["ista", "fista", "projected_gradient", "mirror_descent"])
def test_a_schedule_gives_the_step_of_each_count(name):
  """Steps 1/2, 1/3, 1/4 on f = 1/2 (w - b)^2: plain steps leave (1 - s) of the distance each."""
  schedule = lambda count: 1 / (count + 2)
  if name == "mirror_descent":
    solver = solvers.mirror_descent(square, lambda w, g, s, h: w - s * g, stepsize=schedule)
  else:
    operator = (lambda w: w) if name == "projected_gradient" else prox.prox_none
    solver = getattr(solvers, name)(square, operator, stepsize=schedule)
  w, infos = solvers.run_steps(solver, jnp.zeros(2), None, B, num_steps=3)
  np.testing.assert_allclose(infos.stepsize, [1 / 2, 1 / 3, 1 / 4], rtol=1e-6)
  if name != "fista":
    np.testing.assert_allclose(w, B * (1 - (1 / 2) * (2 / 3) * (3 / 4)), rtol=1e-6)


def test_a_state_at_other_parameters_forgets_the_old_ones():
  """One step from replaced parameters is the first step of a fresh solve there."""
  make = {
    "fista": (solvers.fista(square, prox.lasso, stepsize=0.3), 1.0),
    "spectral": (solvers.spectral_proximal_gradient(square, prox.lasso), 1.0),
    "condat_vu": (
      solvers.condat_vu(
        square, prox.prox_none, prox.lasso, SAME, stepsize=0.3, dual_stepsize=0.3
      ),
      PAIR,
    ),
    "anderson": (solvers.anderson(lambda w, h, b: 0.5 * w + b), None),
    "adam": (solvers.from_optax(square, optax.adam(0.1)), None),
  }  # fmt: skip
  elsewhere = jnp.array([-1.0, 4.0])
  for name, (solver, hyper) in make.items():

    @jax.jit
    def both(b, solver=solver, hyper=hyper):
      state = solver.init(jnp.zeros(2), hyper, b)
      for _ in range(3):
        state, _ = solver.step(state, hyper, b)
      moved = solvers.at(solver, state, elsewhere, hyper, b=b)
      fresh = solver.init(elsewhere, hyper, b)
      if hasattr(state, "stepsize"):
        fresh = fresh._replace(stepsize=state.stepsize)
      steps = [solver.step(one, hyper, b)[0].params for one in (moved, fresh)]
      return moved.count, *steps

    count, got, expected = both(B)
    assert int(count) == 3, name
    np.testing.assert_allclose(got, expected, rtol=1e-6, err_msg=name)
  state = make["fista"][0].init(jnp.zeros(2), 1.0, B)
  stale, _ = make["fista"][0].step(state._replace(params=elsewhere), 1.0, B)
  right, _ = make["fista"][0].step(solvers.at(make["fista"][0], state, elsewhere, 1.0, B), 1.0, B)
  assert not np.allclose(stale.params, right.params), "replacing the field alone is not enough"


@pytest.mark.parametrize("name", ["ista", "fista", "spectral", "davis_yin"])
def test_complex_parameters_shrink_radially(name):
  """Soft thresholding of complex numbers: the modulus loses 1, the phase stays."""
  fun = lambda w, b: 0.5 * jnp.sum(jnp.abs(w - b) ** 2)
  size = lambda w, lam: lam * jnp.sum(jnp.abs(w))

  def shrink(w, lam, scaling):
    return w * jnp.maximum(1 - lam * scaling / jnp.maximum(jnp.abs(w), 1e-30), 0)

  solver = {
    "ista": lambda: solvers.ista(fun, shrink),
    "fista": lambda: solvers.fista(fun, shrink, stepsize=0.5),
    "spectral": lambda: solvers.spectral_proximal_gradient(fun, Penalty(size, shrink)),
    "davis_yin": lambda: solvers.davis_yin(fun, lambda w, h, s: w, shrink, stepsize=0.5),
  }[name]()
  b = jnp.array([3 + 4j, 0.1j, -2j])
  hyper = PAIR if name == "davis_yin" else 1.0
  w, info = solvers.run_until(solver, jnp.zeros(3, complex), hyper, b, tol=1e-5, max_steps=200)
  assert int(info.status) == solvers.CONVERGED
  np.testing.assert_allclose(w, [2.4 + 3.2j, 0, -1j], atol=1e-4)


def test_implicit_takes_data_by_keyword():
  solver = solvers.ista(square, prox.lasso, stepsize=0.9)
  run = functools.partial(solvers.run_until, solver, tol=1e-6, max_steps=99)
  rest = solvers.implicit_fixed_point(
    solver, tol=1e-6, max_steps=99, linear_solve=solvers.solve_dense
  )
  rules = [
    solvers.implicit(
      run, solvers.proximal_residual(square, prox.lasso), linear_solve=solvers.solve_dense
    ),
    lambda *a, **k: (rest(*a, **k)[0].params,),
  ]
  for rule in rules:
    jacobian = jax.jacobian(lambda b, rule=rule: rule(jnp.zeros(2), 1.0, b=b)[0])(B)
    np.testing.assert_allclose(jacobian, np.diag([1.0, 0.0]), atol=1e-6)


def test_fista_of_a_non_convex_penalty_never_rises_and_is_as_good_as_ista():
  """Best objective by exhaustion over supports: l0-penalised least squares."""
  rng = np.random.default_rng(3)
  x, y = rng.standard_normal((12, 20, 5)), rng.standard_normal((12, 20))
  lam = 0.08
  fun = lambda w, x, y: 0.5 * jnp.mean((x @ w - y) ** 2)
  assert not prox.l0.convex and not prox.mcp.convex and prox.lasso.convex
  step = float(20 / np.max(np.linalg.norm(x, 2, axis=(1, 2))) ** 2)
  total = lambda w, x, y: fun(w, x, y) + prox.penalty_l0(w, lam)

  def values(solver):
    def one(x, y):
      def body(state, _):
        state, info = solver.step(state, lam, x, y)
        return state, (total(state.params, x, y), info.error)

      return jax.lax.scan(body, solver.init(jnp.ones(5), lam, x, y), None, length=300)[1]

    return jax.jit(jax.vmap(one))(jnp.asarray(x, jnp.float32), jnp.asarray(y, jnp.float32))

  found, error = values(solvers.fista(fun, prox.l0, stepsize=step))
  assert np.all(np.diff(found, axis=1) <= 1e-6), "monotone"
  assert np.all(error[:, -1] < 1e-4), "stationary"
  best = []
  for xi, yi in zip(x, y, strict=True):
    options = []
    for bits in range(32):
      s = [j for j in range(5) if bits >> j & 1]
      fit = xi[:, s] @ np.linalg.lstsq(xi[:, s], yi, rcond=None)[0] if s else 0 * yi
      options.append(0.5 * np.mean((fit - yi) ** 2) + lam * len(s))
    best.append(min(options))
  assert np.all(found[:, -1] >= np.asarray(best) - 1e-5), "nothing is below the optimum"
  plain, _ = values(solvers.ista(fun, prox.l0, stepsize=step))
  assert np.mean(found[:, -1]) <= np.mean(plain[:, -1]) + 1e-3
  by_hand, _ = values(solvers.fista(fun, Penalty(prox.penalty_l0, prox.prox_l0), stepsize=step))
  assert np.any(np.diff(by_hand, axis=1) > 1e-6), "marked convex it is not monotone"
