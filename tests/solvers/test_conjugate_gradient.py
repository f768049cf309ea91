"""Conjugate gradients: NumPy's iterates, warm starts, honest residuals, status codes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import solvers


def system(rng, condition=20.0, size=8):
  basis = np.linalg.qr(rng.normal(size=(size, size)))[0]
  return basis @ np.diag(np.geomspace(1, condition, size)) @ basis.T, rng.normal(size=size)


SOLVER = solvers.conjugate_gradient(lambda v, a: a @ v)
solve = jax.jit(
  lambda x, b, a, tol, steps: solvers.run_until(SOLVER, x, None, b, a, tol=tol, max_steps=steps)
)


@pytest.mark.x64
def test_iterates_are_the_best_of_their_krylov_spaces(rng):
  """x_k minimises the energy over x_0 + span(r_0, A r_0, ..., A^{k-1} r_0)."""
  a, b = system(rng)
  x0 = rng.normal(size=8)
  r = b - a @ x0
  for k in (1, 2, 5):
    basis = np.linalg.qr(np.stack([np.linalg.matrix_power(a, j) @ r for j in range(k)], axis=1))[0]
    best = x0 + basis @ np.linalg.solve(basis.T @ a @ basis, basis.T @ r)
    x, info = solve(jnp.asarray(x0), b, a, 0.0, k)
    np.testing.assert_allclose(x, best, atol=1e-9)
    np.testing.assert_allclose(info.error, np.linalg.norm(b - a @ x), rtol=1e-6)
    np.testing.assert_allclose(info.value, 0.5 * x @ a @ x - b @ x, rtol=1e-10)
  x, info = solve(jnp.asarray(x0), b, a, 1e-10, 50)
  assert int(info.status) == 0 and int(info.steps) <= 10
  np.testing.assert_allclose(x, np.linalg.solve(a, b), atol=1e-9)


@pytest.mark.parametrize("factor", [1e-25, 1.0, 1e25])
def test_status_0_is_the_true_residual_in_any_unit(rng, factor):
  a, b = system(rng, 1e4, 30)
  b = np.float32(b * factor)
  a32 = np.float32(a)
  size = np.linalg.norm(b.astype(float))
  for tol in (1e-2, 1e-4, 1e-9):
    x, info = solve(jnp.zeros(30), b, a32, tol * size, 500)
    true = np.linalg.norm(b.astype(float) - a32.astype(float) @ np.asarray(x, float))
    assert int(info.status) in (0, 3)
    assert int(info.status) == 3 or true <= 2 * tol * size
    assert tol > 1e-9 or int(info.status) == 3  # rounding is told from convergence


def test_status_of_a_limit_of_nan_and_of_an_indefinite_matrix(rng):
  a, b = system(rng)
  zero = jnp.zeros(8)
  args = [jnp.asarray(v, jnp.float32) for v in (b, a)]
  assert int(solve(zero, *args, 1e-6, 2)[1].status) == solvers.STEP_LIMIT
  assert int(solve(zero, args[0] * jnp.nan, args[1], 1e-6, 50)[1].status) == solvers.NON_FINITE
  x, info = solve(zero, args[0], -args[1], 1e-6, 50)
  assert int(info.status) == solvers.STALLED and not np.any(x)
  x, info = solve(zero, zero, args[1], 1e-6, 50)
  assert int(info.status) == 0 and not np.any(x)
