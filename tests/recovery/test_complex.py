"""Complex matrices in the nuclear-norm methods, against real problems with the same solution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import recovery, solvers

ROWS, COLS = 12, 9


def _low(rng, shape=(ROWS, COLS)):
  draw = lambda *size: rng.standard_normal(size) + 1j * rng.standard_normal(size)
  return draw(shape[0], 2) @ draw(2, shape[1])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("make", [recovery.pcp_admm, recovery.pcp_ialm])
def test_phases_of_rows_and_columns_pass_through_the_split(rng, make, masked):
  """||L||_* and sum |S_ij| do not change under diag(e^{ia}) . diag(e^{ib}): nor does the split."""
  truth = (rng.standard_normal((ROWS, 2)) @ rng.standard_normal((2, COLS))).astype(np.float32)
  hit = rng.random((ROWS, COLS)) < 0.06
  matrix = truth + np.where(hit, np.float32(9), np.float32(0))
  where = rng.random((ROWS, COLS)) < 0.9 if masked else None
  left, right = (np.exp(2j * np.pi * rng.random(n)) for n in (ROWS, COLS))
  phase = np.outer(left, right).astype(np.complex64)
  solve = jax.jit(lambda d: recovery.robust_pca(d, solver=make(), where=where))
  real, info = solve(matrix)
  turned, other = solve(phase * matrix)
  assert turned.low_rank.dtype == turned.sparse.dtype == jnp.complex64
  assert int(other.status) == int(info.status) == solvers.CONVERGED
  assert int(other.rank) == int(info.rank) and other.residual.dtype == jnp.float32
  size = np.abs(matrix).max()
  for a, b in zip(turned, real, strict=True):
    np.testing.assert_allclose(a, phase * b, atol=1e-4 * size)


def test_complex_gross_errors_are_found(rng):
  """Sparse and low-rank parts of generic phases come back exactly."""
  low = _low(rng, (30, 30)).astype(np.complex64)
  sparse = np.where(rng.random((30, 30)) < 0.05, 20 * np.exp(2j * np.pi * rng.random((30, 30))), 0)
  parts, info = jax.jit(recovery.robust_pca)(low + sparse.astype(np.complex64))
  assert int(info.status) == solvers.CONVERGED and int(info.rank) == 2
  np.testing.assert_allclose(parts.low_rank, low, atol=1e-3)
  np.testing.assert_allclose(parts.sparse, sparse, atol=1e-3)


@pytest.mark.x64
def test_soft_impute_equals_the_real_problem_of_twice_the_size(rng):
  """X -> [[Re X, -Im X], [Im X, Re X]] doubles squares and nuclear norms and keeps the minimiser,
  which is unique here, within the matrices of this form."""
  matrix, mask = _low(rng), rng.random((ROWS, COLS)) < 0.8
  embed = lambda x: np.block([[x.real, -x.imag], [x.imag, x.real]])
  lams = jnp.array([4.0, 2.0])
  path = lambda mask, y: recovery.soft_impute_path(
    recovery.EntryMask(jnp.asarray(mask)), jnp.asarray(y).ravel(), lams, tol=1e-12, max_steps=4000
  )
  found, info = path(mask, matrix)
  double, _ = path(np.tile(mask, (2, 2)), embed(matrix))
  assert found.dtype == jnp.complex128 and info.error.dtype == jnp.float64
  # Both stop where the objective no longer falls: its gap is eps, the distance the root of that.
  atol = 10 * np.finfo(np.float64).eps ** 0.5 * np.abs(matrix).max()
  for i in range(2):
    np.testing.assert_allclose(embed(np.asarray(found[i])), double[i], atol=atol)


def test_other_methods_refuse_complex_numbers_by_name(rng):
  matrix = jnp.asarray(_low(rng), jnp.complex64)
  op = recovery.EntryMask(jnp.ones((ROWS, COLS), bool))
  for call, name in (
    (lambda: recovery.l1_robust_pca(matrix, 2), "matrix"),
    (lambda: recovery.robust_pca(matrix, solver=recovery.acc_alt_proj(2)), "matrix"),
    (lambda: recovery.robust_pca(matrix, solver=recovery.scaledgd_rpca(2, fraction=0.1)), "matrix"),
    (lambda: recovery.lmafit_complete(op, matrix.ravel(), 2, key=jax.random.key(0)), "y"),
    (lambda: recovery.biased_baseline(op, matrix.ravel(), row_ridge=1.0, col_ridge=1.0), "y"),
    (lambda: recovery.robust_recover(op, matrix.ravel(), 2, kind="general"), "y"),
    (
      lambda: recovery.soft_impute_path(op, matrix.ravel(), [1.0], rank=2, key=jax.random.key(0)),
      "y",
    ),
  ):
    with pytest.raises(TypeError, match=f"{name} must be a floating-point array of real"):
      call()
