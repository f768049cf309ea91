"""How many steps each method needs on one Lasso, 60 x 100, to 1e-8 of the objective."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import prox, solvers

pytestmark = pytest.mark.x64
STRENGTH = 0.1


def problem():
  rng = np.random.default_rng(0)
  a = rng.standard_normal((60, 100)) / np.sqrt(60)
  truth = np.zeros(100)
  truth[rng.choice(100, 8, replace=False)] = rng.standard_normal(8)
  return jnp.asarray(a), jnp.asarray(a @ truth + 0.05 * rng.standard_normal(60))


def least_squares(x, a, y):
  return 0.5 * jnp.sum((a @ x - y) ** 2)


def steps_to(solver, hyper, data, a, y, best):
  def body(state, _):
    state, _ = solver.step(state, hyper, *data)
    x = getattr(state, "split", state.params)  # of ADMM, the copy that is sparse
    return state, least_squares(x, a, y) + prox.penalty_lasso(x, STRENGTH)

  start = solver.init(jnp.zeros(100), hyper, *data)
  values = jax.jit(lambda s: jax.lax.scan(body, s, None, length=1500)[1])(start)
  late = np.flatnonzero(np.asarray(values) > best + 1e-8)
  return 1 if late.size == 0 else int(late[-1]) + 2


def test_the_order_of_the_methods():
  a, y = problem()
  norm = float(jnp.linalg.norm(a, 2))
  step = 1 / norm**2
  best_x, _ = jax.jit(
    lambda: solvers.run_until(
      solvers.fista(least_squares, prox.prox_lasso, stepsize=step), jnp.zeros(100), STRENGTH, a, y,
      tol=1e-13, max_steps=100_000,
    )
  )()  # fmt: skip
  best = float(least_squares(best_x, a, y) + prox.penalty_lasso(best_x, STRENGTH))
  factor = prox.least_squares_factor(a)
  both = ((factor, y), STRENGTH)
  one = (STRENGTH, (a, y))
  smooth = (least_squares, prox.prox_lasso)
  runs = {
    "ista": (solvers.ista(*smooth, stepsize=step), *one),
    "fista": (solvers.fista(*smooth, stepsize=step, restart=None), *one),
    "restarted": (solvers.fista(*smooth, stepsize=step), *one),
    "spectral": (solvers.spectral_proximal_gradient(least_squares, prox.lasso), *one),
    "douglas_rachford": (
      solvers.douglas_rachford(prox.prox_least_squares, prox.prox_lasso), both, (),
    ),
    "admm": (solvers.admm(prox.prox_least_squares, prox.prox_lasso), both, ()),
    "chambolle_pock": (
      solvers.chambolle_pock(
        prox.prox_lasso, lambda p, h, s: prox.prox_quadratic(p, (1.0, h), s),
        lambda x, a: a @ x, stepsize=0.99 / norm, dual_stepsize=0.99 / norm,
      ),
      (STRENGTH, y), (a,),
    ),
  }  # fmt: skip
  steps = {name: steps_to(*run, a, y, best) for name, run in runs.items()}
  # An operator that solves the quadratic beats gradients; restarts beat plain momentum.
  exact = max(steps["douglas_rachford"], steps["admm"])
  assert exact < steps["restarted"] < steps["fista"] < steps["ista"] < 1500, steps
  assert steps["spectral"] < steps["ista"] / 2, steps
  assert steps["chambolle_pock"] < steps["ista"], steps
