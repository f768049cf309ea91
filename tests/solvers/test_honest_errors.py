"""Status 0 means that the residual, computed in float64, is small: designs of badly scaled columns.

The residual is the distance of 0 to the sub-differential of the Lasso, a closed form.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import prox, solvers
from tests.registries.solvers import half_mean_square

N, P, DRAWS = 20, 6, 24
STRENGTH = 0.05


@functools.cache
def problems():
  """Designs with columns of norms 1e-4 to 1e4 times the usual one, a third of them well scaled."""
  rng = np.random.default_rng(5)
  x = rng.standard_normal((DRAWS, N, P))
  spread = np.repeat([0.0, 1.0, 4.0], DRAWS // 3)
  x *= 10 ** (spread[:, None, None] * rng.uniform(-1, 1, (DRAWS, 1, P)))
  y = rng.standard_normal((DRAWS, N))
  x, y = x.astype(np.float32), y.astype(np.float32)
  lipschitz = np.linalg.norm(x.astype(np.float64), 2, axis=(1, 2)) ** 2 / N
  return x, y, lipschitz.astype(np.float32)


def residual(w, x, y):
  """dist(0, grad f(w) + lam d||w||_1) in float64."""
  w, x, y = (np.asarray(a, np.float64) for a in (w, x, y))
  grad = np.einsum("dnp,dn->dp", x, np.einsum("dnp,dp->dn", x, w) - y) / N
  on = grad + STRENGTH * np.sign(w)
  off = np.maximum(np.abs(grad) - STRENGTH, 0)
  return np.linalg.norm(np.where(w != 0, on, off), axis=1)


SOFT = prox.prox_lasso
SQUARE = lambda z, y: 0.5 * jnp.mean((z - y) ** 2)


# Methods whose error is in the units of the residual.
MAKE = {
  "ista": lambda c: solvers.ista(half_mean_square, SOFT, stepsize=1 / c),
  "ista backtracking": lambda c: solvers.ista(half_mean_square, SOFT),
  "fista": lambda c: solvers.fista(half_mean_square, SOFT, stepsize=1 / c),
  "fista monotone": lambda c: solvers.fista(
    half_mean_square, prox.lasso, stepsize=1 / c, monotone=True
  ),
  "fista backtracking": lambda c: solvers.fista(half_mean_square, SOFT),
  "spectral": lambda c: solvers.spectral_proximal_gradient(half_mean_square, prox.lasso),
  "conjugate": lambda c: solvers.prox_ncg(half_mean_square, prox.lasso),
  "coordinates": lambda c: solvers.block_coordinate_descent(SQUARE, SOFT, curvature=1 / N),
  "working set": lambda c: solvers.working_set(
    half_mean_square, SOFT, stepsize=1 / c, min_size=4, max_inner_steps=500
  ),
  "davis_yin": lambda c: solvers.davis_yin(half_mean_square, prox.prox_none, SOFT, stepsize=1 / c),
}  # fmt: skip
PAIRS = ("davis_yin",)


@functools.cache
def solved(name):
  x, y, lipschitz = problems()
  hyper = (None, STRENGTH) if name in PAIRS else STRENGTH

  def run(x, y, c):
    return solvers.run_until(
      MAKE[name](c),
      jnp.zeros(P),
      hyper,
      x,
      y,
      tol=1e-5,
      max_steps=20 if name == "working set" else 3000,
    )

  w, info = jax.jit(jax.vmap(run))(x, y, lipschitz)
  return residual(w, x, y), np.asarray(info.error), np.asarray(info.status)


@pytest.mark.parametrize("name", MAKE)
def test_status_0_means_a_small_residual_in_float64(name):
  found, error, status = solved(name)
  assert np.all(found[status == 0] <= 10 * 1e-5), (name, found, status)
  assert np.all(error[status == 0] <= 1e-5)
  assert np.any(status == 0), "a third of the problems are well scaled"
  assert np.any(status != 0), "with columns of 1e4 the float32 gradient has no such digits"


def gradient_step(w, hyper, x, y, c):
  return SOFT(w - jax.grad(half_mean_square)(w, x, y) / c, hyper, 1 / c)


def by_douglas_rachford(x, y, c, root):
  solver = solvers.douglas_rachford(prox.prox_least_squares, SOFT, stepsize=1 / c)
  return solver, ((x / root, y / root), STRENGTH), (), lambda state: state.params, 1.0


def by_admm(x, y, c, root):
  """rho u is a sub-gradient at z, the gradient belongs to x."""
  solver = solvers.admm(prox.prox_least_squares, SOFT, weight=c)
  return solver, ((x / root, y / root), STRENGTH), (), lambda state: state.split, c


def by_chambolle_pock(x, y, c, root):
  """p is the gradient of 1/2 ||. - y||^2 at K w + r_p, so that r_p counts ||K|| times."""
  step, square = 0.99 / jnp.sqrt(c), lambda v, b, s: prox.prox_quadratic(v, (1.0, b), s)
  solver = solvers.chambolle_pock(
    SOFT, square, lambda w, x: x @ w, stepsize=step, dual_stepsize=step
  )
  return solver, (STRENGTH, y / root), (x / root,), lambda state: state.params, jnp.sqrt(c)


def by_condat_vu(x, y, c, root):
  """The gradient is that before the step: L times the step, at most r_x, is missing."""
  keep = lambda w, *_: w
  solver = solvers.condat_vu(
    half_mean_square, SOFT, prox.prox_none, keep, stepsize=1 / c, dual_stepsize=c / 4
  )
  return solver, (STRENGTH, None), (x, y), lambda state: state.params, 1.0


def by_anderson(x, y, c, root):
  """The error is the length of a gradient step, the residual after it at most 2 L times that."""
  return (
    solvers.anderson(gradient_step), STRENGTH, (x, y, c),
    lambda state: gradient_step(state.params, STRENGTH, x, y, c), c,
  )  # fmt: skip


@pytest.mark.parametrize(
  "method", [by_douglas_rachford, by_admm, by_chambolle_pock, by_condat_vu, by_anderson]
)
def test_status_0_of_a_splitting_bounds_the_residual(method):
  """The stated residuals are those of the two terms at two points: a Lipschitz constant brings
  them to one. A factor 10 as above."""
  x, y, lipschitz = problems()

  def run(x, y, c):
    solver, hyper, data, point, factor = method(x, y, c, N**0.5)
    start = solver.init(jnp.zeros(P), hyper, *data)
    state, info = solvers.run_state(solver, start, hyper, *data, tol=1e-5, max_steps=3000)
    return point(state), info.status, 1.0 + factor

  w, status, factor = jax.jit(jax.vmap(run))(x, y, lipschitz)
  found, status = residual(w, x, y), np.asarray(status)
  assert np.all((found <= 10 * 1e-5 * np.asarray(factor))[status == 0]), (found, status)
  assert np.sum(status == 0) >= DRAWS // 6, "a third of the problems are well scaled"


@pytest.mark.parametrize("name", ["admm", "douglas_rachford", "chambolle_pock", "condat_vu"])
def test_splittings_take_the_same_steps_in_any_units(name):
  """Total variation is homogeneous: b, lam and tol times a power of 4 scale the run, bit by bit."""
  b = jnp.array([0.3, -0.2, 0.1, 5.0, 5.2, 4.9])
  matrix = jnp.diff(jnp.eye(6), axis=0)
  difference = lambda x, *_: matrix @ x
  square = lambda x, b, s: prox.prox_quadratic(x, (1.0, b), s)
  fit = lambda v, b, rho: jnp.linalg.solve(
    jnp.eye(6) + rho * matrix.T @ matrix, b + rho * matrix.T @ v
  )
  solver = {
    "admm": solvers.admm(fit, SOFT, difference, balance=3.0),
    "douglas_rachford": solvers.douglas_rachford(square, SOFT),
    "chambolle_pock": solvers.chambolle_pock(
      square, SOFT, difference, stepsize=0.49, dual_stepsize=0.49
    ),
    "condat_vu": solvers.condat_vu(
      lambda x, b: 0.5 * jnp.sum((x - b) ** 2), prox.prox_none, SOFT, difference, stepsize=0.4,
      dual_stepsize=0.4,
    ),
  }[name]  # fmt: skip

  @jax.jit
  def run(c):
    hyper, data = ((b * c, 0.7 * c), ()) if name != "condat_vu" else ((None, 0.7 * c), (b * c,))
    return solvers.run_until(solver, 0 * b, hyper, *data, tol=1e-5 * c, max_steps=2000)

  want, base = run(jnp.float32(1))
  assert int(base.status) == solvers.CONVERGED and int(base.steps) > 3
  for c in (4.0**-40, 4.0**-20, 4.0**20, 4.0**30):  # 8e-25, 9e-13, 1e12, 1e18
    x, info = run(jnp.float32(c))
    np.testing.assert_array_equal(x / np.float32(c), want)
    assert (int(info.steps), int(info.status)) == (int(base.steps), int(base.status))
    np.testing.assert_allclose(info.error / c, base.error, rtol=1e-6)


@pytest.mark.parametrize("name", ["solve_cg", "solve_bicgstab", "solve_gmres", "solve_dense"])
def test_linear_solves_in_any_units(name):
  """A x = b for c A and d b: x d / c, by NumPy in float64."""
  rng = np.random.default_rng(0)
  root = rng.standard_normal((6, 6))
  a = (root @ root.T + np.eye(6)).astype(np.float32)
  b = rng.standard_normal(6).astype(np.float32)
  want = np.linalg.solve(a.astype(np.float64), b)
  condition = np.linalg.cond(a)
  solve = jax.jit(
    lambda a, b: getattr(solvers, name)(lambda v: jnp.matmul(a, v, precision="highest"), b)
  )
  for c, d in ((1, 1e-12), (1, 1e-25), (1, 1e25), (1e-12, 1e-12), (1e12, 1e12), (1e-17, 1e-12)):
    x = np.asarray(solve(np.float32(c) * a, np.float32(d) * b), np.float64) * (c / d)
    # Residuals of 100 eps, and the rounding of c a and d b.
    bound = 102 * condition * float(np.finfo(np.float32).eps)
    assert np.linalg.norm(x - want) <= bound * np.linalg.norm(want), (name, c, d)
  np.testing.assert_array_equal(solve(a, 0 * b), 0)
  assert getattr(solvers, name)(lambda v: v, jnp.zeros(0)).shape == (0,)


def test_a_step_that_rounds_to_nothing_is_stalled():
  """x - s g rounds to x for the step 1e-9 and the slope 1: nothing moves, nothing has converged."""
  slope = lambda w, *_: jnp.sum(w)
  one = jnp.ones(2)
  free = prox.prox_none
  for name, solver, start in (
    ("ista", solvers.ista(slope, free, stepsize=1e-9), one),
    ("fista", solvers.fista(slope, free, stepsize=1e-9), one),
    ("projected", solvers.projected_gradient(slope, lambda w: w, stepsize=1e-9), one),
    ("mirror", solvers.mirror_descent(slope, lambda w, g, s, h: w - s * g, stepsize=1e-9), one),
    ("davis_yin", solvers.davis_yin(slope, free, free, stepsize=1e-9), one),
    ("palm", solvers.palm(lambda p: jnp.sum(p[0]), [free], [lambda p: 1e9]), (one,)),
    ("fixed point", solvers.fixed_point_iteration(lambda w, _: w + 1e-9), one),
  ):
    _, info = solvers.run_until(solver, start, None, tol=1e-9, max_steps=9)
    assert (int(info.status), int(info.steps)) == (solvers.STALLED, 1), name
    assert float(info.error) > 1e-9


def test_a_run_without_tolerance_goes_on_at_an_exact_fixed_point():
  solver = solvers.fista(lambda w: 0.5 * jnp.sum(w**2), prox.prox_none, stepsize=1.0)
  run = lambda steps: solvers.run_until(solver, jnp.zeros(2), None, tol=None, max_steps=steps)[1]
  traced = jax.jit(run)
  for steps in (0, 7):
    for info in (run(steps), traced(steps)):
      assert (int(info.steps), int(info.status)) == (steps, solvers.STEP_LIMIT)
  failed = solvers.run_until(solver, jnp.full(2, jnp.nan), None, tol=None, max_steps=5)[1]
  assert int(failed.status) == solvers.NON_FINITE


def test_the_error_does_not_vanish_with_the_units():
  """1e-25 squared is 0 in float32: a small error is not none."""
  solver = solvers.fixed_point_iteration(lambda w, _: 2 * w)
  _, info = solvers.run_until(solver, jnp.full(4, 1e-25), None, tol=1e-26, max_steps=1)
  np.testing.assert_allclose(info.error, 2e-25, rtol=1e-6)
  assert int(info.status) == solvers.STEP_LIMIT
