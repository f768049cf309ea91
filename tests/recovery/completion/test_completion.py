"""Matrix completion: alternating minimisation and its peers, against theory and each other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import recovery, solvers

ROWS, COLS, RANK = 40, 30, 2
RATE = 0.6
HUBER = recovery.huber_weights()


@functools.cache
def problem():
  """Entries of a 40 x 30 matrix of rank 2 with condition number 3, 60 % of them observed."""
  rng = np.random.default_rng(0)
  left = np.linalg.qr(rng.standard_normal((ROWS, RANK)))[0]
  right = np.linalg.qr(rng.standard_normal((COLS, RANK)))[0]
  truth = (left * [3.0, 1.0]) @ right.T
  mask = rng.random((ROWS, COLS)) < RATE
  rows, cols = np.nonzero(mask)
  return mask, rows.astype(np.int32), cols.astype(np.int32), truth, left


def entries():
  _, rows, cols, truth, _ = problem()
  op = recovery.EntryCOO(jnp.asarray(rows), jnp.asarray(cols), (ROWS, COLS))
  return op, jnp.asarray(truth[rows, cols]), jnp.asarray(truth)


def dense_entries():
  mask, _, _, truth, _ = problem()
  return recovery.EntryMask(jnp.asarray(mask)), jnp.asarray(np.where(mask, truth, 0).ravel())


@functools.cache
def complete(method, **options):
  """One compiled call of a completion method with the key as its argument."""
  return jax.jit(lambda key, op, y, truth: method(op, y, RANK, key=key, truth=truth, **options))


def altmin(solver, rounds=25, **options):
  return complete(recovery.altmin_complete, solver=solver, num_rounds=rounds, tol=1e-8, **options)


@pytest.mark.x64
def test_half_step_on_a_full_mask_equals_lstsq(rng):
  truth = rng.standard_normal((6, 5))
  op = recovery.EntryMask(jnp.ones((6, 5), bool))
  for side, fixed, target in (
    ("right", rng.standard_normal((6, RANK)), truth),
    ("left", rng.standard_normal((5, RANK)), truth.T),
  ):
    solve = functools.partial(recovery.coo_lstsq, op, side=side, solver="exact")
    found, _ = jax.jit(solve)(truth.ravel(), fixed)
    expected = np.linalg.lstsq(fixed, target, rcond=None)[0]
    np.testing.assert_allclose(found.T, expected, atol=1e-12)


@pytest.mark.x64
@pytest.mark.parametrize("solver", ["exact", "pcg", "sketch"])
def test_error_halves_each_round_down_to_rounding(key, solver):
  op, y, truth = entries()
  factors, trace = altmin(solver)(key, op, y, truth)
  err = np.asarray(trace.err)
  assert err[0] < 0.5
  if solver == "sketch":  # a draw may be poor: it halves in the mean
    assert err[-1] < err[0] * 0.5 ** (err.size - 1)
  else:
    assert (err[2:] <= np.maximum(err[1:-1] / 2, 1e-13)).all(), err
  assert int(trace.status) == solvers.CONVERGED and int(trace.deficient) == 0
  np.testing.assert_allclose(recovery.compose(factors), truth, atol=3 * err[-1] + 1e-13)


@pytest.mark.x64
def test_subspace_distance_halves_and_its_floor_is_linear_in_the_noise():
  _, _, _, _, left = problem()
  op, y, _ = entries()
  rng = np.random.default_rng(1)
  noise = jnp.asarray(rng.standard_normal((25, COLS, RANK)))

  @jax.jit
  def distances(delta):
    def body(u, draw):
      v, _ = recovery.coo_lstsq(op, y, u, solver="exact")
      size = jnp.linalg.norm(v) / (COLS * RANK) ** 0.5
      u, _ = recovery.coo_lstsq(op, y, v + delta * size * draw, side="left", solver="exact")
      u = jnp.linalg.qr(u)[0]
      return u, jnp.linalg.norm(left - u @ (u.T @ left), 2)

    return jax.lax.scan(body, start, noise)[1]

  start = jnp.linalg.qr(recovery.mask_spectral(*dense_entries(), RANK).L)[0]

  deltas = np.array([0.0, 1e-4, 1e-3, 1e-2])
  runs = np.stack([distances(d) for d in deltas])
  clean = runs[0]
  assert (clean[1:] <= np.maximum(clean[:-1] / 2, 1e-13)).all(), clean
  floors = runs[1:, -3:].mean(axis=1)
  slope = np.polyfit(np.log(deltas[1:]), np.log(floors), 1)[0]
  assert slope == pytest.approx(1, abs=0.02)  # second-order terms are of the size of the last delta


@pytest.mark.x64
def test_exact_round_does_not_depend_on_the_basis_of_the_start(rng):
  op, y, _ = entries()
  step = jax.jit(
    lambda factors: solvers.run_steps(
      recovery.alternating_least_squares(solver="exact"), factors, 0.0, op, y, num_steps=1
    )[0]
  )
  left = rng.standard_normal((ROWS, RANK))
  start = recovery.Factors(jnp.asarray(left), jnp.ones((COLS, RANK)))
  turned = recovery.Factors(
    jnp.asarray(left @ np.array([[2.0, 1.0], [-1.0, 3.0]])), 5.0 * jnp.ones((COLS, RANK))
  )
  np.testing.assert_allclose(
    recovery.compose(step(start)), recovery.compose(step(turned)), atol=1e-10
  )


@pytest.mark.x64
def test_mask_list_and_padding_are_the_same_problem(key):
  mask, rows, cols, truth, _ = problem()
  op, y, full = entries()
  reference, _ = altmin("exact")(key, op, y, full)
  pad = 9  # padding may name pairs that are there already, and hold NaN
  padded = recovery.EntryCOO(
    *(jnp.asarray(np.concatenate([index, index[:pad]])) for index in (rows, cols)),
    (ROWS, COLS), jnp.concatenate([jnp.ones(rows.size), jnp.zeros(pad)]),
  )  # fmt: skip
  values = jnp.concatenate([y, jnp.full(pad, jnp.nan)])
  dense = recovery.EntryMask(jnp.asarray(mask))
  for other, z in ((padded, values), (dense, jnp.where(mask, truth, jnp.nan).ravel())):
    factors, trace = altmin("exact")(key, other, z, full)
    np.testing.assert_allclose(recovery.compose(factors), recovery.compose(reference), atol=1e-9)
    assert int(trace.status) == solvers.CONVERGED


@pytest.mark.x64
def test_vmap_over_keys_and_over_values_equals_single_runs(key):
  op, y, truth = entries()
  keys = jax.random.split(key, 2)
  run = altmin("pcg")
  both = jax.vmap(run, in_axes=(0, None, 0, None))(keys, op, jnp.stack([y, 2 * y]), truth)
  for i in range(2):
    single = run(keys[i], op, (1 + i) * y, truth)
    np.testing.assert_allclose(both[1].residual[i], single[1].residual, rtol=1e-3, atol=1e-13)
    np.testing.assert_allclose(
      recovery.compose(single[0]), both[0].L[i] @ both[0].R[i].T, atol=1e-10
    )


@pytest.mark.x64
def test_unit_step_is_reported_as_divergent(key):
  op, y, truth = entries()
  _, trace = altmin("unit_step", sketch_size=RANK + 2, iterations=40)(key, op, y, truth)
  assert int(trace.status) in (solvers.NON_FINITE, solvers.STALLED)
  assert not float(trace.error[-1]) < 1  # NaN, or no better than nothing


def test_resampling_uses_each_part_once_and_still_converges(key):
  truth = np.outer(np.linspace(1, 2, 150), np.linspace(-1, 1, 120) + 0.1)
  op = recovery.EntryMask(jnp.ones((150, 120), bool))
  _, trace = jax.jit(
    lambda k: recovery.altmin_complete(
      op, jnp.asarray(truth.ravel(), jnp.float32), 1, key=k, num_rounds=3, resample=True,
      truth=jnp.asarray(truth, jnp.float32), tol=1e-3,
    )
  )(key)  # fmt: skip
  assert int(trace.status) == solvers.CONVERGED
  err = np.asarray(trace.err)
  assert err[0] < 0.5 and (err[1:] < err[:-1] / 2).all()


def test_a_single_round_has_a_record_of_one(key):
  op, y, _ = entries()
  one = lambda y: recovery.als_complete(op, y, RANK, key=key, ridge=0.1, num_rounds=1)
  _, trace = jax.eval_shape(one, y)
  assert trace.error.shape == trace.value.shape == (1,)


def test_float32_reaches_its_floor_and_the_driver_stops(key):
  op, y, truth = entries()
  y = y.astype(jnp.float32)
  start = recovery.mask_spectral(*dense_entries(), RANK)
  solver = recovery.alternating_least_squares()
  factors, info = jax.jit(
    lambda f, k: solvers.run_until(solver, f, 0.0, op, y, k, tol=1e-5, max_steps=30)
  )(start, key)
  assert int(info.status) == solvers.CONVERGED and int(info.steps) < 30
  assert factors.L.dtype == jnp.float32
  # A residual of 1e-5 on the entries bounds the error up to the conditioning of the sampling.
  assert float(recovery.rel_err(recovery.compose(factors), truth)) < 1e-3


def _empty(mask):
  mask = mask.copy()
  mask[3, :] = False  # an empty row
  mask[:, 5] = False  # an empty column
  mask[:, 6] = False
  mask[0, 6] = True  # a column with one observation for rank 2
  return mask


@pytest.mark.x64
def test_rows_and_columns_without_enough_entries_are_counted_and_stay_finite(key):
  mask, _, _, truth, _ = problem()
  op = recovery.EntryMask(jnp.asarray(_empty(mask)))
  factors, trace = altmin("exact")(key, op, jnp.asarray(truth).ravel(), jnp.asarray(truth))
  assert int(trace.deficient) == 3
  assert int(trace.status) == solvers.CONVERGED
  product = np.asarray(recovery.compose(factors))
  np.testing.assert_array_equal(product[3], 0)
  np.testing.assert_array_equal(product[:, 5], 0)
  keep = np.ix_(np.arange(ROWS) != 3, ~np.isin(np.arange(COLS), [5, 6]))
  np.testing.assert_allclose(product[keep], truth[keep], atol=1e-6)


@pytest.mark.x64
def test_nan_inside_jit_is_status_two(key):
  op, y, truth = entries()
  method, options, _ = PEERS["lmafit"]
  for run in (altmin("exact"), complete(method, **options)):
    _, trace = run(key, op, y.at[4].set(jnp.nan), truth)
    assert int(trace.status) == solvers.NON_FINITE and np.isnan(trace.error).all()


@pytest.mark.x64
def test_ridge_solution_is_a_stationary_point_of_the_stated_objective(key, rng):
  op, y, _ = entries()
  y = y + 0.1 * rng.standard_normal(y.shape)
  ridge = 0.01
  factors, trace = jax.jit(
    lambda y, k: recovery.als_complete(op, y, RANK, key=k, ridge=ridge, num_rounds=600)
  )(y, key)
  rows = np.bincount(op.row_index, minlength=ROWS)
  cols = np.bincount(op.col_index, minlength=COLS)

  def objective(f):
    size = jnp.sum(rows[:, None] * f.L**2) + jnp.sum(cols[:, None] * f.R**2)
    return 0.5 * jnp.sum((op.apply_factored(*f) - y) ** 2) + 0.5 * ridge * size

  value, grad = jax.value_and_grad(objective)(factors)
  assert float(trace.value[-1]) == pytest.approx(float(value), rel=1e-12)
  assert max(float(jnp.abs(g).max()) for g in grad) < 1e-6
  rise = np.diff(trace.value) / np.asarray(trace.value[:-1])
  assert rise.max() < 1e-13  # exact half steps never raise the objective
  assert int(trace.status) in (solvers.STEP_LIMIT, solvers.STALLED)


@pytest.mark.x64
def test_weights_recover_through_gross_errors_where_squares_fail(key):
  op, y, truth = entries()
  rng = np.random.default_rng(3)
  hit = rng.choice(y.size, y.size // 12, replace=False)
  y = y.at[hit].add(rng.choice([-0.4, 0.4], hit.size))  # four times an entry's root mean square
  squared = altmin("exact")(key, op, y, truth)[1]
  # The scale shrinks with the residuals, so that the weights become those of the absolute error.
  huber = altmin("exact", 100, reweight=HUBER)(key, op, y, truth)[1]
  assert float(squared.err[-1]) > 0.5
  assert float(huber.err[-1]) < 1e-10


def test_weights_by_their_formulas():
  residual = jnp.array([0.5, -1.0, 1.0, -4.0, 100.0, jnp.nan])
  seen = jnp.array([True] * 5 + [False])
  scale = 1.4826 * 1.0  # the median of the five magnitudes is 1
  ratio = np.abs(np.array([0.5, 1, 1, 4, 100])) / scale
  huber = recovery.huber_weights(multiple=2.0)(residual, seen)[:5]
  np.testing.assert_allclose(huber, np.minimum(1, 2 / ratio), rtol=1e-6)
  trimmed = recovery.trimmed_weights(rate=0.4)(residual, seen)[:5]
  np.testing.assert_array_equal(trimmed, [1, 1, 1, 0, 0])


@pytest.mark.x64
def test_biases_solve_their_normal_equations(rng):
  op, _, _ = entries()
  y = rng.standard_normal(op.size) + 3
  out = recovery.biased_baseline(op, jnp.asarray(y), row_ridge=2.0, col_ridge=5.0, num_rounds=60)
  design = np.zeros((op.size + ROWS + COLS, 1 + ROWS + COLS))
  every = np.arange(op.size)
  design[every, 0] = 1
  design[every, 1 + np.asarray(op.row_index)] = 1
  design[every, 1 + ROWS + np.asarray(op.col_index)] = 1
  design[op.size + np.arange(ROWS), 1 + np.arange(ROWS)] = 2**0.5
  design[op.size + ROWS + np.arange(COLS), 1 + ROWS + np.arange(COLS)] = 5**0.5
  target = np.concatenate([y, np.zeros(ROWS + COLS)])
  expected = np.linalg.lstsq(design, target, rcond=None)[0]
  np.testing.assert_allclose(np.concatenate([[out.mean], out.row, out.col]), expected, atol=1e-8)
  np.testing.assert_allclose(
    out.at(op.row_index, op.col_index), design[: op.size] @ expected, atol=1e-8
  )


PEERS = {
  # name -> (method, options, error after the last round), at 60 % of the entries.
  "lmafit": (recovery.lmafit_complete, {"num_rounds": 100}, 1e-12),
  "scaled": (recovery.scaled_gradient_complete, {"num_rounds": 100}, 1e-6),
  "gradient": (recovery.riemannian_complete, {"num_rounds": 60, "direction": "gradient"}, 1e-6),
  "conjugate": (recovery.riemannian_complete, {"num_rounds": 40}, 1e-10),
}


@pytest.mark.x64
@pytest.mark.parametrize("name", PEERS)
def test_peers_recover_the_matrix(key, name):
  method, options, bound = PEERS[name]
  op, y, truth = entries()
  run = complete(method, **options)
  factors, trace = run(key, op, y, truth)
  assert float(trace.err[-1]) < bound
  assert int(trace.status) == solvers.CONVERGED
  residual = jnp.linalg.norm(op.apply_factored(*factors) - y) / jnp.linalg.norm(y)
  # The least residuals are differences of nearly equal numbers.
  assert float(trace.residual[-1]) == pytest.approx(float(residual), rel=1e-4, abs=1e-15)
  if name != "lmafit":  # whose over-relaxation is not monotone in the error, only in the residual
    assert (np.diff(trace.value) <= 1e-20).all()


@pytest.mark.parametrize(
  "method",
  [
    recovery.altmin_complete,
    recovery.lmafit_complete,
    recovery.scaled_gradient_complete,
    recovery.riemannian_complete,
  ],
)
def test_no_dense_matrix_is_formed(key, method):
  op, y, _ = entries()
  text = str(jax.make_jaxpr(lambda y: method(op, y, RANK, key=key, num_rounds=2))(y))
  assert f"[{ROWS},{COLS}]" not in text and f"[{COLS},{ROWS}]" not in text


@pytest.mark.x64
def test_soft_impute_satisfies_its_optimality_conditions():
  op, y, _ = entries()
  lam = 0.2
  fit = jax.jit(lambda y, lams: recovery.soft_impute_path(op, y, lams, tol=1e-14, max_steps=3000))
  matrix, info = fit(y, jnp.array([1.0, lam]))
  assert np.isin(info.status, [solvers.CONVERGED, solvers.STALLED]).all()
  u, s, vt = np.linalg.svd(matrix[-1])
  rank = int(np.sum(s > 1e-8))
  assert 0 < rank < COLS
  gap = np.asarray(op.adjoint(y - op.apply(matrix[-1])))
  # Inside the spaces of X the sub-gradient is lam I; outside it is a contraction.
  np.testing.assert_allclose(u[:, :rank].T @ gap @ vt[:rank].T, lam * np.eye(rank), atol=1e-9)
  assert np.linalg.norm(u[:, rank:].T @ gap @ vt[rank:].T, 2) < lam
  # From a warm start or a cold one: the problem is convex.
  cold, _ = fit(y, jnp.array([lam, lam]))
  np.testing.assert_allclose(cold[-1], matrix[-1], atol=1e-8)


@pytest.mark.x64
def test_sparse_plus_low_rank_soft_impute_equals_the_dense_one(key):
  op, y, _ = entries()
  lams = jnp.array([1.0, 0.4])
  dense, info = jax.jit(lambda y: recovery.soft_impute_path(op, y, lams, tol=1e-9, max_steps=500))(
    y
  )
  factors, low = jax.jit(
    lambda y, k: recovery.soft_impute_path(op, y, lams, rank=8, key=k, tol=1e-9, max_steps=500)
  )(y, key)
  product = jnp.einsum("tik,tjk->tij", factors.L, factors.R)
  # Two runs stopped at a change of 1e-9 with a contraction of at most 0.95 differ by 20 times that.
  np.testing.assert_allclose(product, dense, atol=1e-7)
  np.testing.assert_allclose(low.value, info.value, rtol=1e-8)


@pytest.mark.x64
def test_resampled_half_steps_use_parts_of_their_own(key, rng):
  """The theory needs independent entries in every half step: which ones does each depend on?

  R is a function of the entries of its part, and L of R and of the entries of another part. Two
  rounds use four parts of the five, each of them once; the fifth belongs to the start.
  """
  rows, cols = 12, 10
  op = recovery.EntryMask(jnp.ones((rows, cols), bool))
  y = jnp.asarray(rng.standard_normal(rows * cols))
  start = recovery.Factors(jnp.asarray(rng.standard_normal((rows, 1))), jnp.ones((cols, 1)))
  solver = recovery.alternating_least_squares(solver="exact", orthonormalize=False, parts=5)

  @jax.jit
  def depends(count):
    def step(y):
      state = solver.init(start, 1e-3, op, y, key)._replace(count=count)
      params = solver.step(state, 1e-3, op, y, key)[0].params
      return params.R, params.L

    changed = jax.vmap(step)(y[None] + 0.1 * jnp.eye(y.size))
    moved = jax.tree.map(lambda a, b: jnp.abs(a - b[None]).max((1, 2)), changed, step(y))
    return [size > 1e-6 for size in moved]

  parts = []
  for count in range(2):
    by_right, by_left = map(np.asarray, depends(jnp.int32(count)))
    parts += [by_right, by_left & ~by_right]  # L sees what R saw, and a part of its own
  assert np.sum(parts, axis=0).max() == 1
  share = np.mean(parts, axis=1)  # binomial: 0.2 with a deviation of 0.037
  assert (share > 0.08).all() and (share < 0.32).all(), share
