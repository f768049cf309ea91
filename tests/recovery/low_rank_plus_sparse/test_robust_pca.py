"""Robust principal components: optimality, equality of methods, masks, failures that show."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import recovery, solvers
from jaxopt_robust.debug import count_traces
from jaxopt_robust.recovery import LowRankSparse
from tests.helpers import assert_no_retrace

ROWS, COLS, RANK, RATE = 40, 30, 2, 0.05


def _problem(rng, rows=ROWS, cols=COLS, size=None, rate=RATE):
  """L of rank 2 with entries of order 1, and outliers of a size (3 by default) on a few entries."""
  low = rng.standard_normal((rows, RANK)) @ rng.standard_normal((RANK, cols))
  hit = rng.random((rows, cols)) < rate
  sparse = np.where(hit, (size or 3.0) * rng.choice([-1.0, 1.0], (rows, cols)), 0)
  dtype = jnp.result_type(float)
  return jnp.asarray(low, dtype), jnp.asarray(sparse, dtype)


SOLVERS = {"admm": recovery.pcp_admm(), "ialm": recovery.pcp_ialm(growth=1.05)}


@functools.partial(jax.jit, static_argnames="name")
def _pcp(matrix, where, lam, tol, *, name):
  """State and info: the multipliers prove the optimality."""
  zero = LowRankSparse(jnp.zeros_like(matrix), jnp.zeros_like(matrix))
  solver = SOLVERS[name]
  state = solver.init(zero, lam, matrix, where)
  return solvers.run_state(solver, state, lam, matrix, where, tol=tol, max_steps=2000)


ALL = jnp.ones((ROWS, COLS), bool)
LAM = 1 / np.sqrt(ROWS)
TOL = 1e-11


def _assert_optimal(state, info, matrix, where, lam):
  """The conditions of Karush, Kuhn and Tucker, up to what the last step reports."""
  (low, sparse), dual = jax.tree.map(np.asarray, (state.params, state.dual))
  gap = float(info.last.dual_error) * np.linalg.norm(dual)  # of Y to the sub-gradients at L
  assert np.abs(dual).max() <= lam * (1 + 1e-12)
  assert np.linalg.norm(dual, 2) <= 1 + gap + 1e-12
  nuclear = np.linalg.norm(low, "nuc")
  assert np.sum(dual * low) >= nuclear - gap * np.linalg.norm(low) - 1e-10
  np.testing.assert_allclose(np.sum(dual * sparse), lam * np.abs(sparse).sum(), rtol=1e-10)
  rest = np.where(where, np.asarray(matrix) - low - sparse, 0)
  assert np.linalg.norm(rest) <= 1.01 * TOL * np.linalg.norm(np.where(where, matrix, 0))
  assert not np.any(np.where(where, 0, dual)) and not np.any(np.where(where, 0, sparse))


@pytest.mark.x64
@pytest.mark.parametrize("observed", ["all", "some"])
def test_both_methods_reach_the_same_minimiser(observed, rng):
  low, sparse = _problem(rng)
  where = ALL if observed == "all" else jnp.asarray(rng.random((ROWS, COLS)) < 0.8)
  lam = float(LAM / np.sqrt(np.mean(where)))
  matrix = jnp.where(where, low + sparse, jnp.nan)  # what is not observed may be anything
  found = {}
  for name in SOLVERS:
    state, info = _pcp(matrix, where, lam, TOL, name=name)
    assert int(info.status) == solvers.CONVERGED
    _assert_optimal(state, info, matrix, where, lam)
    found[name] = state.params
    # Exact recovery, of the entries not observed too.
    np.testing.assert_allclose(state.params.low_rank, low, atol=1e-4)
    value = np.linalg.norm(state.params.low_rank, "nuc")
    value += lam * np.abs(state.params.sparse).sum()
    np.testing.assert_allclose(info.value, value, rtol=1e-8)
  np.testing.assert_allclose(*(parts.low_rank for parts in found.values()), atol=2e-4)


@pytest.mark.x64
def test_a_sum_that_fits_is_not_yet_a_solution():
  """Where every entry of Y is at its bound L + S = D holds exactly; the run must go on.

  Of the identity L = 0 is optimal: |Y| <= lam with ||Y|| <= 1 for Y = lam I.
  """
  identity = jnp.eye(ROWS, COLS)
  for name in SOLVERS:
    state, info = _pcp(identity, ALL, LAM, TOL, name=name)
    assert int(info.status) == solvers.CONVERGED
    np.testing.assert_allclose(state.params.sparse, identity, atol=1e-6)
    _assert_optimal(state, info, identity, ALL, LAM)


# ---- the convenience function ----


@functools.cache
def _default():
  counted = count_traces(lambda matrix, lam: recovery.robust_pca(matrix, lam=lam))
  return jax.jit(counted), counted


def test_record_of_a_decomposition(rng):
  low, sparse = _problem(rng)
  parts, info = _default()[0](low + sparse, LAM)
  assert recovery.rel_err(parts.low_rank, low) < 1e-3  # float32: some hundred times tol
  assert float(recovery.support_f1(parts.sparse, sparse)) == 1
  assert int(info.rank) == RANK and int(info.support) == int((sparse != 0).sum())
  assert int(info.status) == solvers.CONVERGED and float(info.residual) < 2e-6


def test_vmap_equals_a_loop(rng):
  matrices = jnp.stack([sum(_problem(rng)) for _ in range(3)])
  lams = LAM * jnp.array([0.8, 1.0, 1.2])
  parts, info = jax.jit(jax.vmap(lambda d, lam: recovery.robust_pca(d, lam=lam)))(matrices, lams)
  for i in range(3):
    alone, record = _default()[0](matrices[i], lams[i])
    assert abs(int(record.steps) - int(info.steps[i])) <= 1  # rounding, at the last one
    assert int(record.rank) == int(info.rank[i])
    # float32 rounding of some 40 decompositions.
    np.testing.assert_allclose(parts.low_rank[i], alone.low_rank, atol=1e-4)


def test_hopeless_data_give_finite_parts_and_a_status(rng):
  low, _ = _problem(rng)
  noise = jnp.asarray(rng.standard_normal((ROWS, COLS)), jnp.float32)  # outliers everywhere
  for matrix, status in (
    (low.at[3, 2].set(jnp.nan), solvers.NON_FINITE),
    (low.at[3, 2].set(jnp.inf), solvers.NON_FINITE),
    (jnp.zeros_like(low), solvers.CONVERGED),
    (noise, solvers.CONVERGED),
  ):
    parts, info = _default()[0](matrix, LAM)
    assert int(info.status) == status
    assert all(bool(jnp.isfinite(part).all()) for part in parts)
  _default()[0](matrix, 2 * LAM)
  assert _default()[1].traces <= 2  # one for each type of lam


# ---- projections ----


@jax.jit
def _projected(matrix, beta_init, trim):
  solver = recovery.acc_alt_proj(RANK, beta_init=beta_init, trim=trim)
  return recovery.robust_pca(matrix, solver=solver, tol=1e-9, max_steps=100)


@jax.jit
def _projected_by_default(matrix):
  return recovery.robust_pca(matrix, solver=recovery.acc_alt_proj(RANK), tol=1e-9, max_steps=100)


@pytest.mark.x64
def test_acc_alt_proj_with_its_start_and_without(rng):
  """Outliers 100 times the entries: the default start keeps them all, half their size removes them.

  The run with the defaults converges all the same, to a useless split.
  """
  low, sparse = _problem(rng, 60, 60, size=100.0, rate=0.1)
  start = 100.0 / (2 * np.linalg.norm(low + sparse, 2))
  incoherence = max(
    float(recovery.incoherence(u)) for u in (np.linalg.svd(m)[0][:, :RANK] for m in (low, low.T))
  )
  # Rows clipped where none needs it (3 mu), and where some do: the tangent space is only a tool.
  for trim in (3 * incoherence, 0.8 * incoherence):
    parts, info = _projected(low + sparse, start, trim)
    assert int(info.status) == solvers.CONVERGED and int(info.steps) <= 40
    assert recovery.rel_err(parts.low_rank, low) < 1e-6
    assert float(recovery.support_f1(parts.sparse, sparse)) == 1
  default, info = _projected_by_default(low + sparse)
  assert int(info.status) == solvers.CONVERGED and float(info.residual) < 1e-9
  assert recovery.rel_err(default.low_rank, low) > 1
  assert int(info.support) > 3 * int((sparse != 0).sum())
  spoiled, info = _projected_by_default(low.at[0, 0].set(jnp.nan))
  assert int(info.status) == solvers.NON_FINITE
  assert all(bool(jnp.isfinite(part).all()) for part in spoiled)


# ---- factors ----


def _top_by_hand(matrix, fraction):
  """Sorted by falling magnitude, then by index: what is kept of rows, and of columns."""

  def rows(z):
    keep = np.zeros(z.shape, bool)
    for i, row in enumerate(np.abs(z)):
      count = int(np.floor(fraction * len(row) + 1e-9))
      keep[i, np.lexsort((np.arange(len(row)), -row))[:count]] = True
    return keep

  return np.where(rows(matrix) & rows(matrix.T).T, matrix, 0)


def test_top_rows_and_columns(rng):
  top = jax.jit(lambda z, a: recovery.top_rows_and_columns(z, fraction=a))
  random = rng.standard_normal((10, 7)).astype(np.float32)
  ties = rng.integers(-2, 3, (10, 7)).astype(np.float32)
  for matrix in (random, ties, np.ones((10, 7), np.float32)):
    for fraction in (0.0, 0.1, 0.29, 0.3, 0.5, 1.0):
      expected = _top_by_hand(matrix, fraction)
      np.testing.assert_array_equal(top(matrix, np.float32(fraction)), expected)
  assert_no_retrace(
    lambda a: recovery.top_rows_and_columns(random, fraction=a), lambda i: (0.1 * (i + 1),)
  )
  both = jax.vmap(lambda a: recovery.top_rows_and_columns(random, fraction=a))(
    jnp.array([0.2, 0.6])
  )
  np.testing.assert_array_equal(both[1], _top_by_hand(random, 0.6))


@functools.cache
def _scaledgd():
  def solve(matrix, fraction):
    solver = recovery.scaledgd_rpca(RANK, fraction=fraction)
    return recovery.robust_pca(matrix, solver=solver, max_steps=400)

  return jax.jit(solve)


def test_scaledgd_rpca(rng):
  low, sparse = _problem(rng)
  parts, info = _scaledgd()(low + sparse, 2 * RATE)
  assert int(info.status) == solvers.CONVERGED
  # ||D - L - S|| <= 2e-6 ||D||, and E covers at least the 80 % of entries outside of S.
  assert recovery.rel_err(parts.low_rank, low) < 1e-4
  found = LowRankSparse(*parts).sparse
  np.testing.assert_allclose(found, sparse, atol=1e-3)
  spoiled, info = _scaledgd()((low + sparse).at[0, 0].set(jnp.nan), 2 * RATE)
  assert int(info.status) == solvers.NON_FINITE
  assert all(bool(jnp.isfinite(part).all()) for part in spoiled)


@functools.partial(jax.jit, static_argnames="rule")
def _l1(matrix, where, eta0, *, rule):
  return recovery.l1_robust_pca(matrix, RANK, where=where, rule=rule, eta0=eta0, num_steps=800)


@pytest.mark.x64
@pytest.mark.parametrize("rule", ["scaled", "plain"])
def test_l1_is_exact_and_blind_to_what_is_not_observed(rule, rng):
  """Steps shrink by 0.95^800 = 1e-18: what is left is rounding."""
  low, sparse = _problem(rng, size=1e3)
  where = jnp.asarray(rng.random((ROWS, COLS)) < 0.8)
  matrix = jnp.where(where, low + sparse, jnp.nan)
  parts, info = _l1(matrix, where, 0.3, rule=rule)
  assert int(info.status) == solvers.CONVERGED and int(info.rank) == RANK
  assert recovery.rel_err(parts.low_rank, low) < 1e-12
  seen = np.where(where, sparse, 0)
  np.testing.assert_allclose(parts.sparse, seen, rtol=1e-10, atol=0)
  assert int(info.support) == np.count_nonzero(seen)
  spoiled, info = _l1(matrix, ALL, 0.3, rule=rule)
  assert int(info.status) == solvers.NON_FINITE
  assert all(bool(jnp.isfinite(part).all()) for part in spoiled)


# ---- metrics and dtypes ----


def test_incoherence(rng):
  basis = np.linalg.qr(rng.standard_normal((12, 3)))[0].astype(np.float32)
  expected = 4 * max(np.sum(row**2) for row in basis)
  np.testing.assert_allclose(recovery.incoherence(basis), expected, rtol=1e-6)
  assert 1 <= float(recovery.incoherence(basis)) <= 4
  np.testing.assert_allclose(recovery.incoherence(jnp.eye(12)[:, :3]), 4)


def test_half_precision_in_and_out(rng):
  low, sparse = (part.astype(jnp.bfloat16) for part in _problem(rng))
  parts, info = jax.jit(recovery.robust_pca)(low + sparse)
  assert all(part.dtype == jnp.bfloat16 for part in parts) and info.residual.dtype == jnp.float32
  # Rounding of D to 8 bits is dense noise of 2^-9 for the method.
  assert float(recovery.rel_err(parts.low_rank, low)) < 0.1
