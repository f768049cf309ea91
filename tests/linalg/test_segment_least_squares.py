"""Batches of least squares: solvers against lstsq, the sketch, problems without enough rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import linalg
from tests.helpers import central_difference

WIDTH, NUM = 4, 12


@functools.cache
def batch():
  """Rows, segments and targets of NUM ragged problems, and their solutions one by one."""
  rng = np.random.default_rng(0)
  segments = rng.permutation(np.repeat(np.arange(NUM), rng.integers(15, 40, NUM)))
  rows = rng.standard_normal((segments.size, WIDTH))
  targets = rng.standard_normal(segments.size)
  weights = rng.uniform(0.5, 2, segments.size)
  return rows, segments, targets, weights


def one_by_one(rows, segments, targets, weights, ridge=0.0, num=NUM):
  out = np.zeros((num, rows.shape[1]))
  for j in range(num):
    mine = (segments == j) & (weights > 0)
    root = np.sqrt(weights[mine])
    a = np.vstack([rows[mine] * root[:, None], np.sqrt(ridge) * np.eye(rows.shape[1])])
    b = np.concatenate([targets[mine] * root, np.zeros(rows.shape[1])])
    out[j] = np.linalg.lstsq(a, b, rcond=None)[0]
  return out


@functools.cache
def solve(solver, sketch_size=None, iterations=3, num=NUM):
  @jax.jit
  def fit(key, rows, segments, targets, weights, ridge):
    return linalg.segment_lstsq(
      rows, segments, targets, num_segments=num, weights=weights, ridge=ridge, solver=solver,
      key=key, sketch_size=sketch_size, iterations=iterations,
    )  # fmt: skip

  return fit


@pytest.mark.x64
@pytest.mark.parametrize(("solver", "size"), [("exact", None), ("pcg", WIDTH + 1), ("pcg", None)])
def test_equals_lstsq_after_as_many_iterations_as_columns(key, solver, size):
  rows, segments, targets, weights = batch()
  x, info = solve(solver, size, WIDTH)(key, rows, segments, targets, weights, 0.0)
  np.testing.assert_allclose(x, one_by_one(rows, segments, targets, weights), atol=1e-10)
  assert int(info.status) == 0 and not info.deficient.any()
  assert float(info.residual.max()) < 1e-8


@pytest.mark.x64
@pytest.mark.parametrize("solver", ["exact", "pcg"])
def test_ridge_equals_appended_rows(key, solver):
  rows, segments, targets, weights = batch()
  x, info = solve(solver, None, WIDTH)(key, rows, segments, targets, weights, 3.0)
  np.testing.assert_allclose(x, one_by_one(rows, segments, targets, weights, 3.0), atol=1e-10)
  assert int(info.status) == 0


@pytest.mark.x64
def test_sketch_alone_is_exact_where_the_rows_are_consistent(key):
  rows, segments, _, weights = batch()
  truth = np.random.default_rng(1).standard_normal((NUM, WIDTH))
  targets = np.sum(rows * truth[segments], axis=1)
  x, info = solve("sketch")(key, rows, segments, targets, weights, 0.0)
  np.testing.assert_allclose(x, truth, atol=1e-10)
  assert int(info.status) == 0
  # On inconsistent rows it is not, and says so.
  _, info = solve("sketch")(key, rows, segments, batch()[2], weights, 0.0)
  assert int(info.status) == 1 and float(info.residual.max()) > 1e-2


@functools.cache
def many_columns():
  """300 problems of 60 observations in 5 unknowns, with residuals."""
  rng = np.random.default_rng(2)
  basis = np.linalg.qr(rng.standard_normal((300, 5)))[0]
  own = np.concatenate([rng.choice(300, 60, replace=False) for _ in range(300)])
  return basis[own], np.repeat(np.arange(300), 60), rng.standard_normal(own.size)


@pytest.mark.x64
def test_unit_step_diverges_and_says_so_where_conjugate_gradients_converge(key):
  rows, segments, targets = many_columns()
  ones = np.ones(segments.size)
  exact, _ = solve("exact", num=300)(key, rows, segments, targets, ones, 0.0)
  x, info = solve("unit_step", 40, 20, 300)(key, rows, segments, targets, ones, 0.0)
  assert int(info.status) == 3
  assert float(info.residual.max()) > 100 * float(info.first_residual.max())
  assert np.linalg.norm(x - exact) > 100 * np.linalg.norm(exact)
  x, info = solve("pcg", 40, 5, 300)(key, rows, segments, targets, ones, 0.0)
  assert int(info.status) == 0
  assert np.linalg.norm(x - exact) < 1e-10 * np.linalg.norm(exact)


@pytest.mark.x64
@pytest.mark.parametrize("solver", ["exact", "pcg", "sketch", "unit_step"])
def test_problems_without_enough_rows_get_the_shortest_solution(key, solver):
  rows, segments, targets, weights = (np.array(leaf) for leaf in batch())
  weights[segments == 0] = 0  # no row at all
  weights[np.flatnonzero(segments == 1)[2:]] = 0  # two rows for four unknowns
  targets[segments == 0] = np.nan
  size = 10 * WIDTH if solver == "unit_step" else None  # a step that converges
  steps = 3 if solver == "sketch" else WIDTH
  x, info = solve(solver, size, steps)(key, rows, segments, targets, weights, 0.0)
  np.testing.assert_array_equal(x[0], 0)
  expected = one_by_one(rows, segments, targets, weights)[1]
  # The shift of the factorisation is the root of the epsilon, relative to trace(A^T A).
  np.testing.assert_allclose(x[1], expected, atol=1e-5 * np.linalg.norm(expected))
  np.testing.assert_array_equal(np.flatnonzero(info.deficient), [0, 1])
  assert np.isfinite(info.residual).all() and int(info.status) != 2


@pytest.mark.x64
@pytest.mark.x64
@pytest.mark.parametrize("solver", ["exact", "pcg"])
def test_dependent_columns_are_told(key, solver):
  """Columns that repeat each other: a least residual, and the shortest solution by pcg."""
  rows, segments, targets, weights = batch()
  rows = np.where((segments == 3)[:, None], rows[:, [0, 0, 2, 2]], rows)
  x, info = solve(solver, None, WIDTH)(key, rows, segments, targets, weights, 0.0)
  np.testing.assert_array_equal(np.flatnonzero(info.deficient), [3])
  expected = one_by_one(rows, segments, targets, weights)
  sums = lambda x: np.stack([x[:, 0] + x[:, 1], x[:, 2] + x[:, 3]])
  np.testing.assert_allclose(sums(x)[:, 3], sums(expected)[:, 3], atol=1e-8)
  others = np.arange(NUM) != 3
  np.testing.assert_allclose(x[others], expected[others], atol=1e-8)
  if solver == "pcg":
    np.testing.assert_allclose(x[3], expected[3], atol=1e-6)


@pytest.mark.parametrize("solver", ["exact", "pcg"])
def test_zeros_beside_large_entries_are_no_unit(key, solver):
  """1e20 x_1 = 1e20, 2e20 x_2 = 4e20, ... in float32: squares of the entries are out of range."""
  rows = jnp.diag(jnp.array([1e20, 2e20, 4e20, 8e20], jnp.float32))
  truth = jnp.array([1.0, 2.0, -3.0, 0.5])
  zeros, ones = jnp.zeros(WIDTH, jnp.int32), jnp.ones(WIDTH)
  x, info = solve(solver, None, WIDTH, 1)(key, rows, zeros, rows @ truth, ones, 0.0)
  np.testing.assert_allclose(x[0], truth, rtol=1e-5)
  assert int(info.status) == 0


def test_rows_of_weight_zero_do_not_count(key):
  rows, segments, targets, weights = batch()
  pad = np.full((7, WIDTH), np.nan)
  padded = (
    np.vstack([rows, pad]), np.concatenate([segments, np.arange(7)]),
    np.concatenate([targets, np.full(7, np.nan)]), np.concatenate([weights, np.zeros(7)]),
  )  # fmt: skip
  a, _ = solve("exact")(key, rows, segments, targets, weights, 0.0)
  b, info = solve("exact")(key, *padded, 0.0)
  np.testing.assert_allclose(a, b, rtol=1e-12)
  assert int(info.status) == 0


def test_nan_inside_jit_is_status_two_and_stays_in_its_problem(key):
  rows, segments, targets, weights = (jnp.asarray(leaf) for leaf in batch())
  bad = targets.at[jnp.argmax(segments == 3)].set(jnp.nan)
  x, info = solve("pcg", None, WIDTH)(key, rows, segments, bad, weights, jnp.zeros(()))
  assert int(info.status) == 2
  np.testing.assert_array_equal(np.flatnonzero(np.isnan(x).any(axis=1)), [3])


def test_ill_conditioned_float32_keeps_the_accuracy_of_the_rows(key):
  rows, segments, _, weights = batch()
  rows = rows * np.array([1.0, 1e-1, 1e-2, 1e-3])  # condition number about 1e3
  truth = np.random.default_rng(1).standard_normal((NUM, WIDTH))
  targets = np.sum(rows * truth[segments], axis=1)
  args = (jnp.asarray(a, jnp.float32) for a in (rows, targets, weights))
  rows, targets, weights = args
  x, _ = solve("pcg", None, WIDTH)(
    key, rows, jnp.asarray(segments), targets, weights, jnp.zeros(())
  )
  # 2e3 * 6e-8 = 1.2e-4 for each rounding of the targets; the normal equations would lose 1e3 more.
  assert np.abs(x - truth).max() < 20 * 1.2e-4


def test_preconditioner_is_triangular_and_makes_columns_nearly_orthonormal(key):
  rows, segments, _, _ = batch()
  factor = linalg.sketch_precondition(
    key, jnp.asarray(rows, jnp.float32), jnp.asarray(segments), num_segments=NUM + 1,
    sketch_size=200,
  )  # fmt: skip
  np.testing.assert_array_equal(np.tril(factor, -1), 0)
  assert (np.diagonal(factor, axis1=1, axis2=2) > 0).all()
  np.testing.assert_array_equal(factor[NUM], np.eye(WIDTH))  # no rows
  # With 200 buckets for 15 to 40 rows only collisions are left: n^2 / 400 = 4 pairs of rows, each
  # of which moves a diagonal entry of Q^T Q by about 2 a_e a_f / n.
  for j in range(NUM):
    q = rows[segments == j] @ np.linalg.inv(factor[j])
    assert np.linalg.cond(q) < 3 < np.linalg.cond(rows[segments == j] * [1, 1e1, 1e2, 1e3])


@pytest.mark.x64
def test_derivative_of_the_exact_solution_by_the_ridge(key):
  rows, segments, targets, weights = batch()

  @jax.jit
  def total(ridge):
    return jnp.sum(solve("exact")(key, rows, segments, targets, weights, ridge)[0] ** 2)

  grad = jax.jit(jax.grad(total))(2.0)
  np.testing.assert_allclose(grad, central_difference(total, np.array(2.0)), rtol=1e-6)


def test_refinement_takes_back_the_shift_of_the_factorisation():
  """Iterated Tikhonov regularisation: after k solves the error is V diag(q^k) V^T x.

  With q = shift / (s^2 + shift), shift = 4 width eps trace(A^T A): at kappa = 100 in float32 q is
  0.02 in the weakest direction, and 4e-4 after the refinement.
  """
  rng = np.random.default_rng(2)
  kappa, count = 100.0, 40
  basis = np.linalg.qr(rng.standard_normal((count, 30, WIDTH)))[0]
  turn = np.linalg.qr(rng.standard_normal((count, WIDTH, WIDTH)))[0]
  rows = np.einsum("jek,k,jlk->jel", basis, np.geomspace(1, 1 / kappa, WIDTH), turn)
  rows = rows.reshape(-1, WIDTH).astype(np.float32)
  segments = np.repeat(np.arange(count), 30)
  truth = rng.standard_normal((count, WIDTH)).astype(np.float32)
  targets = np.sum(rows.astype(np.float64) * truth[segments], axis=1).astype(np.float32)
  exact = np.stack([
    np.linalg.lstsq(rows[segments == j].astype(np.float64), targets[segments == j], rcond=None)[0]
    for j in range(count)
  ])  # fmt: skip
  x, info = jax.jit(
    lambda a, b: linalg.segment_lstsq(a, segments, b, num_segments=count, solver="exact")
  )(rows, targets)
  eps = float(np.finfo(np.float32).eps)
  errors = np.linalg.norm(x - exact, axis=1) / np.linalg.norm(exact, axis=1)
  shift = 4 * WIDTH * eps * np.sum(np.geomspace(1, 1 / kappa, WIDTH) ** 2)
  q = shift / (kappa**-2 + shift)
  # A random x has half of its length in the weakest of four directions; rounding is below q^2.
  assert np.median(errors) < q / 10 and int(info.status) == 0


@pytest.mark.parametrize("solver", ["exact", "pcg"])
def test_a_ridge_above_the_rows(solver, key):
  """Rows of the identity: x_j = b_j / (1 + ridge), for ridges below and above the squares."""
  rows = jnp.tile(jnp.eye(WIDTH), (3, 1))
  targets = jnp.arange(1.0, 3 * WIDTH + 1)
  ridge = np.array([0.5, 2.0, 1e4], np.float32)
  x, _ = linalg.segment_lstsq(
    rows, jnp.repeat(jnp.arange(3), WIDTH), targets, num_segments=3, ridge=ridge, solver=solver,
    key=key, sketch_size=4 * WIDTH,
  )  # fmt: skip
  want = np.asarray(targets).reshape(3, WIDTH) / (1 + ridge[:, None])
  np.testing.assert_allclose(x, want, rtol=1e-5)
