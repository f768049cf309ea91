"""Units do not matter: what a method makes of c D is c times what it makes of D; zeros give zeros.

Powers of 4 change no digit, so that results must be equal bit for bit; other factors round.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import recovery, solvers

ROWS, COLS, RANK = 12, 9, 2
EXACT = [4.0**-49, 4.0**-20, 4.0**20, 4.0**49]  # 3e-30, 9e-13, 1e12, 3e29
ROUNDED = [1e-30, 1e-25, 1e-12, 3.0, 1e12, 1e25, 1e30]
EPS = float(np.finfo(np.float32).eps)


@functools.cache
def data():
  """A matrix of rank 2, six gross errors, and which entries are observed."""
  rng = np.random.default_rng(0)
  low = rng.standard_normal((ROWS, RANK)) @ rng.standard_normal((RANK, COLS))
  hit = rng.choice(ROWS * COLS, 6, replace=False)
  sparse = np.zeros(ROWS * COLS)
  sparse[hit] = rng.choice([-9.0, 9.0], hit.size)
  mask = rng.random((ROWS, COLS)) < 0.8
  return low.astype(np.float32), sparse.reshape(ROWS, COLS).astype(np.float32), mask


def _op():
  *_, mask = data()
  return recovery.EntryMask(jnp.asarray(mask))


def _last(tree):
  return jax.tree.map(lambda leaf: leaf[-1], tree)


def _complete(method, powers=1, **options):
  def run(key, matrix, unit):
    factors, trace = method(_op(), matrix.ravel(), RANK, key=key, truth=matrix, **options)
    return (*factors,), trace.status, trace.err[-1]

  return run, powers


def _ridge(key, matrix, unit):
  factors, trace = recovery.als_complete(
    _op(), matrix.ravel(), RANK, key=key, ridge=0.01 * unit, num_rounds=8, truth=matrix
  )
  return (*factors,), trace.status, trace.err[-1]


def _impute(rank, key, matrix, unit):
  found, info = recovery.soft_impute_path(
    _op(), matrix.ravel(), jnp.array([4.0, 2.0]) * unit, rank=rank, key=key, tol=1e-5
  )
  return jax.tree.leaves(_last(found)), info.status[-1], info.error[-1]


def _split(make_solver, masked=False, **options):
  def run(key, matrix, unit):
    where = _op().mask if masked else None
    parts, info = recovery.robust_pca(matrix, solver=make_solver(unit), where=where, **options)
    return parts, info.status, info.residual

  return run, 2


def _l1(rule, masked, key, matrix, unit):
  where = _op().mask if masked else None
  parts, info = recovery.l1_robust_pca(matrix, RANK, rule=rule, where=where, num_steps=200)
  return parts, info.status, info.residual


def _start(make):
  return lambda key, matrix, unit: (
    [leaf for leaf in make(key, matrix) if leaf is not None], jnp.zeros((), jnp.int32),
    jnp.zeros(()),
  ), 1  # fmt: skip


def _baseline(key, matrix, unit):
  out = recovery.biased_baseline(
    _op(), matrix.ravel(), row_ridge=1.0, col_ridge=2.0, reweight=recovery.huber_weights()
  )
  return out, jnp.zeros((), jnp.int32), jnp.zeros(())


# name -> (call of (key, matrix, unit) -> (outputs, status, relative number), the power of the root
# of the unit by which outputs are measured, one a factor where these differ).
METHODS = {
  "als": (_ridge, 1),
  "altmin": _complete(recovery.altmin_complete, (2, 0), num_rounds=8),
  "lmafit": _complete(recovery.lmafit_complete, (0, 2), num_rounds=30),
  "conjugate": _complete(recovery.riemannian_complete, num_rounds=10),
  "scaled": _complete(recovery.scaled_gradient_complete, num_rounds=30),
  "soft_impute": (functools.partial(_impute, None), 2),
  "soft_impute_factored": (functools.partial(_impute, 3), 1),
  "admm": _split(lambda unit: recovery.pcp_admm()),
  "admm_mu": _split(lambda unit: recovery.pcp_admm(mu=0.1 / unit), masked=True),
  "ialm": _split(lambda unit: recovery.pcp_ialm(), masked=True),
  "projections": _split(lambda unit: recovery.acc_alt_proj(RANK), tol=1e-5),
  "scaled_pca": _split(lambda unit: recovery.scaledgd_rpca(RANK, fraction=0.1), tol=1e-3),
  "l1": (functools.partial(_l1, "plain", True), 2),
  "entry_spectral": _start(
    lambda key, m: recovery.entry_spectral(key, _op(), m.ravel(), RANK, clip=2.0)
  ),
  "mask_spectral": _start(lambda key, m: recovery.mask_spectral(_op(), m.ravel(), RANK)),
  "truncated_spectral": _start(
    lambda key, m: recovery.truncated_spectral(_op(), m.ravel(), RANK, rate=0.1)
  ),
  "median_truncated_spectral": _start(
    lambda key, m: recovery.median_truncated_spectral(_op(), m.ravel(), RANK)
  ),
  "biased_baseline": (_baseline, 2),
}


@functools.cache
def compiled(name):
  return jax.jit(METHODS[name][0])


def _call(name, key, factor):
  low, sparse, _ = data()
  plain = name.endswith(("admm", "mu", "ialm", "projections", "pca", "l1"))
  matrix = low + sparse if plain else low
  unit = np.float32(factor)
  outputs, status, number = compiled(name)(key, unit * matrix, np.float32(factor or 1))
  scales = [float(unit or 1) ** (power / 2) for power in _powers(name, len(outputs))]
  outputs = [np.asarray(leaf, np.float64) / s for leaf, s in zip(outputs, scales, strict=True)]
  return outputs, int(status), float(number)


def _powers(name, count):
  power = METHODS[name][1]
  return power if isinstance(power, tuple) else (power,) * count


def _product(outputs, power):
  return outputs[0] if power == 2 else outputs[0] @ outputs[1].T


@pytest.mark.parametrize("name", METHODS)
def test_results_scale_with_the_data(name, key):
  base, status, number = _call(name, key, 1.0)
  assert all(np.isfinite(leaf).all() and leaf.any() for leaf in base if leaf.ndim)
  for factor in EXACT:
    outputs, other, other_number = _call(name, key, factor)
    for a, b, power in zip(outputs, base, _powers(name, len(base)), strict=True):
      np.testing.assert_array_equal(a, b)
      if power == 0:
        np.testing.assert_allclose(a.T @ a, np.eye(RANK), atol=32 * EPS)
    assert (other, other_number) == (status, number)
  power = METHODS[name][1]
  size = np.abs(_product(base, power)).max()
  for factor in ROUNDED:
    outputs, other, _ = _call(name, key, factor)
    # Rounding of the data, 6e-8, times what the iterations make of it. Soft thresholding stops when
    # the objective no longer falls: its gap is of the order of eps, the distance of its root.
    loose = 4 * EPS**0.5 if name.startswith("soft") else 5e-4
    np.testing.assert_allclose(
      _product(outputs, power), _product(base, power), rtol=0, atol=loose * size
    )
    assert solvers.NON_FINITE not in (other, status)


@pytest.mark.parametrize("name", METHODS)
def test_zero_data_have_the_zero_solution(name, key):
  outputs, status, number = _call(name, key, 0.0)
  assert status == solvers.CONVERGED and number == 0
  power = METHODS[name][1]
  np.testing.assert_array_equal(_product(outputs, power), 0)


@functools.cache
def sensing():
  rng = np.random.default_rng(1)
  flat = rng.standard_normal((200, 36)).astype(np.float32)
  factor = np.linalg.qr(rng.standard_normal((6, 2)))[0]
  truth = (factor @ factor.T).astype(np.float32)
  y = flat @ truth.ravel()
  y[:40] = 1e3 * rng.standard_normal(40)
  return flat, y.astype(np.float32), truth


@pytest.mark.parametrize("random", [False, True])
def test_robust_recovery_in_any_units_of_matrix_and_measurements(key, random):
  flat, y, truth = sensing()

  def run(op_unit, unit):
    op = recovery.GaussianSensing(jnp.asarray(np.float32(op_unit) * flat), (6, 6))
    factors, trace = recovery.robust_recover(
      op, np.float32(op_unit * unit) * y, 6, alpha=1e-2, truth=np.float32(unit) * truth,
      key=key if random else None, num_steps=400,
    )  # fmt: skip
    return np.asarray(factors.L, np.float64) / float(np.float32(unit)) ** 0.5, trace

  base, trace = run(1.0, 1.0)
  assert float(trace.err[-1]) < 1e-2 and int(trace.status) != solvers.NON_FINITE
  for unit in EXACT:
    factor, other = run(1.0, unit)
    np.testing.assert_array_equal(factor, base)
    assert int(other.status) == int(trace.status)
    np.testing.assert_allclose(np.asarray(other.err, np.float64) / unit, trace.err, rtol=1e-6)
  for op_unit, unit in ((3.0, 1.0), (1e-12, 1.0), (1.0, 1e-25), (1e12, 1e12)):
    factor, _ = run(op_unit, unit)
    # Signs of residuals near a kink flip by rounding; what they move is below the surplus error.
    assert np.linalg.norm(factor @ factor.T - truth) < 1e-2
  op = recovery.GaussianSensing(jnp.asarray(flat), (6, 6))
  factors, trace = recovery.robust_recover(op, 0 * y, 3, num_steps=400)
  np.testing.assert_array_equal(factors.L, 0)
  assert int(trace.status) == solvers.CONVERGED


def test_sub_gradient_steps_in_any_units():
  """The same start in the units of the factors gives the same run, and the same status."""
  flat, y, _ = sensing()
  op = recovery.GaussianSensing(jnp.asarray(flat), (6, 6))
  tx = recovery.residual_proportional(eta0=0.25)

  @jax.jit
  def run(y, root):
    start = jax.tree.map(lambda f: root * f, recovery.sign_spectral(op, y, 6, alpha=1e-3))
    return recovery.subgm(op, y, start, tx=tx, num_steps=40)

  base, trace = run(y, np.float32(1))
  for unit in EXACT:
    factors, other = run(np.float32(unit) * y, np.float32(unit**0.5))
    np.testing.assert_array_equal(factors.L / np.float32(unit**0.5), base.L)
    np.testing.assert_array_equal(other.error, trace.error)
    assert int(other.status) == int(trace.status)


def test_a_start_of_zeros_on_other_data_is_not_called_a_solution():
  """The loss is not 0 there: nothing moves, and the status says stalled."""
  flat, y, _ = sensing()
  op = recovery.GaussianSensing(jnp.asarray(flat), (6, 6))
  zero = recovery.Factors(jnp.zeros((6, 2)), None)
  tx = recovery.residual_proportional(eta0=0.25)
  _, trace = recovery.subgm(op, y, zero, tx=tx, num_steps=3)
  assert int(trace.status) == solvers.STALLED
