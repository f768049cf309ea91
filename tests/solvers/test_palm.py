"""PALM: monotone on a sparse dictionary, exact on rank one, three blocks, stationarity."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_robust import prox, solvers

pytestmark = pytest.mark.x64


def coupling(params, y):
  return 0.5 * jnp.sum((y - params[0] @ params[1]) ** 2)


def unit_columns(x, hyper, scaling):
  del hyper, scaling
  return x / jnp.maximum(jnp.linalg.norm(x, axis=0, keepdims=True), 1)


CONSTANTS = [
  lambda p, y: jnp.linalg.norm(p[1] @ p[1].T, 2),
  lambda p, y: jnp.linalg.norm(p[0].T @ p[0], 2),
]


def test_a_sparse_dictionary_falls_monotonically_to_a_stationary_point(rng):
  truth = rng.standard_normal((8, 5)) @ (
    rng.standard_normal((5, 30)) * (rng.uniform(size=(5, 30)) < 0.3)
  )
  y = jnp.asarray(truth)
  start = (jnp.asarray(rng.standard_normal((8, 5))), jnp.asarray(rng.standard_normal((5, 30))))
  solver = solvers.palm(coupling, [unit_columns, prox.prox_lasso], CONSTANTS)
  start = (unit_columns(start[0], None, 1.0), start[1])

  def body(state, _):
    state, info = solver.step(state, (None, 0.1), y)
    return state, (info.value + prox.penalty_lasso(state.params[1], 0.1), info.error)

  init = solver.init(start, (None, 0.1), y)
  state, (values, errors) = jax.jit(lambda s: jax.lax.scan(body, s, None, length=3000))(init)
  assert bool(jnp.all(jnp.diff(values) <= 1e-12))
  assert float(errors[-1]) < 1e-2 * float(errors[0])
  # At a stationary point each block is a fixed point of its own proximal gradient map.
  d, codes = state.params
  s = 1 / float(CONSTANTS[1](state.params, y))
  grad = jax.grad(lambda c: coupling((d, c), y))(codes)
  moved = prox.prox_lasso(codes - s * grad, 0.1, s)
  assert float(jnp.linalg.norm(moved - codes) / s) <= 2 * float(errors[-1])
  assert float(jnp.mean(codes == 0)) > 0.05


def test_rank_one_reaches_the_best_approximation(rng):
  """min 1/2 ||Y - a b^T||^2 is half the sum of the other squared singular values."""
  y = jnp.asarray(rng.standard_normal((6, 4)))
  fun = lambda p, y: 0.5 * jnp.sum((y - jnp.outer(p[0], p[1])) ** 2)
  solver = solvers.palm(
    fun, [prox.prox_none, prox.prox_none],
    [lambda p, y: jnp.sum(p[1] ** 2), lambda p, y: jnp.sum(p[0] ** 2)],
  )  # fmt: skip
  start = (jnp.ones(6), jnp.asarray(rng.standard_normal(4)))
  _, info = jax.jit(lambda s: solvers.run_until(solver, s, None, y, tol=1e-9, max_steps=20_000))(
    start
  )
  assert int(info.status) == solvers.CONVERGED
  values = np.linalg.svd(np.asarray(y), compute_uv=False)
  np.testing.assert_allclose(info.value, 0.5 * np.sum(values[1:] ** 2), rtol=1e-9)


def test_three_blocks_and_a_block_that_vanishes():
  """a b c = 2 with b on [0, 1]: found; from zeros the steps stay finite."""
  fun = lambda p, y: 0.5 * (p[0] * p[1] * p[2] - y) ** 2
  others = [lambda p, y, i=i: optax.tree.sum([0.0, (p[i - 1] * p[i - 2]) ** 2]) for i in range(3)]
  solver = solvers.palm(fun, [prox.prox_none, prox.prox_box, prox.prox_none], others)
  start = (jnp.ones(()), jnp.ones(()), jnp.ones(()))
  found, info = solvers.run_until(
    solver, start, (None, (0.0, 1.0), None), jnp.asarray(2.0), tol=1e-10, max_steps=500
  )
  assert int(info.status) == solvers.CONVERGED
  np.testing.assert_allclose(found[0] * found[1] * found[2], 2.0, atol=1e-8)
  zero = tuple(0 * x for x in start)
  _, stuck = solvers.run_until(
    solver, zero, (None, (0.0, 1.0), None), jnp.asarray(2.0), tol=1e-10, max_steps=5
  )
  assert int(stuck.status) == solvers.CONVERGED  # a saddle, reported as stationary
