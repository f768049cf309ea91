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
