"""What the theory of the sub-gradient method promises, at d = 20 and in float64."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import problems, recovery, solvers
from jaxopt_robust.recovery import Factors

D, RANK, M, RATE, ETA0 = 20, 2, 1200, 0.3, 0.25
ALPHAS = (1e-1, 1e-2, 1e-3, 1e-4)
STEPS = 960  # log(1e8) / (1 - rho) for the smallest alpha


def _rho(alpha):
  """The rule with c = 0.70 and the growth factor of the problems below."""
  return 1 - ETA0 / (np.sqrt(2) * np.log(1 / np.asarray(alpha)))


def _problem(key, *, m=M, scale=100.0, noise=0.0, rate=RATE):
  problem = problems.make_low_rank_sensing(
    key, num_measurements=m, rows=D, rank=RANK, outlier_rate=rate, outlier_scale=scale,
    noise_scale=noise,
  )  # fmt: skip
  matrices, y = problem.data
  return recovery.GaussianSensing(matrices.reshape(m, -1), (D, D)), y, problem.truth


@functools.partial(jax.jit, static_argnames=("width", "steps"))
def _errors(op, ys, truth, alphas, rhos, *, width, steps=STEPS):
  """Final errors and status for a batch of (y, alpha, rho) on one operator."""

  def one(y, alpha, rho):
    start = recovery.sign_spectral(op, y, width, alpha=alpha)
    tx = recovery.q_normalized_geometric(eta0=ETA0, rho=rho)
    _, trace = recovery.subgm(op, y, start, tx=tx, num_steps=steps, truth=truth)
    return trace.err[-1], trace.status

  return jax.vmap(one)(ys, alphas, rhos)


def _path(op, y, truth, width):
  ys = jnp.broadcast_to(y, (len(ALPHAS), y.shape[0]))
  return _errors(op, ys, truth.matrix, jnp.array(ALPHAS), jnp.asarray(_rho(ALPHAS)), width=width)


@pytest.mark.x64
def test_error_falls_with_alpha_and_does_not_depend_on_the_width():
  table = {w: [] for w in (RANK, 5, D)}
  for seed in range(4):
    op, y, truth = _problem(jax.random.key(seed))
    for width in table:
      errors, status = _path(op, y, truth, width)
      assert np.all(status == solvers.CONVERGED)
      table[width].append(np.asarray(errors))
  exact, five, full = (np.stack(table[w]) for w in (RANK, 5, D))
  assert exact.max() < 1e-7  # at the true rank: no floor from alpha
  ratio = full / five
  assert np.all((ratio > 0.5) & (ratio < 2))
  # A hundredfold smaller start: geometric mean over the problems of the gain in error.
  gain = np.exp(np.mean(np.log(full[:, 0] / full[:, 2])))
  assert gain > 100
  slope = np.polyfit(np.log(ALPHAS), np.log(full).mean(0), 1)[0]
  assert 1 < slope < 2  # theory: 2 - O(sqrt(r) kappa delta)


@pytest.mark.x64
def test_recovery_is_exact_at_the_true_rank():
  """The error follows the steps, here down to 1e-12; a third of the measurements is wrong."""
  op, y, truth = _problem(jax.random.key(0))
  alpha = np.array([1e-3])
  rho = np.asarray(_rho(alpha))
  steps = math.ceil(math.log(1e12) / (1 - rho[0]))
  errors, status = _errors(op, y[None], truth.matrix, alpha, rho, width=RANK, steps=steps)
  assert errors[0] < 1e-10 and int(status[0]) == solvers.CONVERGED


@pytest.mark.x64
def test_size_of_outliers_does_not_matter():
  key = jax.random.key(0)
  for width, bound in ((RANK, 3.0), (D, 3.0)):
    errors = []
    for scale in (100.0, 100.0 * 1e4):
      op, y, truth = _problem(key, scale=scale)
      errors.append(np.asarray(_path(op, y, truth, width)[0]))
    floor = 1e-12  # of float64 after many steps; errors below it are rounding
    ratio = np.maximum(errors[1], floor) / np.maximum(errors[0], floor)
    assert np.all((ratio < bound) & (ratio > 1 / bound))


@pytest.mark.x64
def test_decay_must_fit_the_start():
  """Guards against an implementation that ignores alpha: the decay of 1e-2 fails from 1e-6."""
  op, y, truth = _problem(jax.random.key(0))
  ys = jnp.broadcast_to(y, (4, M))
  rhos = jnp.asarray([_rho(1e-2), _rho(1e-2), _rho(1e-6), _rho(1e-2)])
  alphas = jnp.array([1e-6, 1e-6, 1e-6, 1e-2])
  errors, status = _errors(op, ys, truth.matrix, alphas, rhos, width=D)
  norm = np.linalg.norm(truth.matrix)
  np.testing.assert_allclose(errors[0], norm, rtol=1e-4)
  assert int(status[0]) == solvers.STALLED  # and it says so
  assert errors[2] < 1e-4 * norm and errors[3] < 1e-2 * norm


@pytest.mark.x64
def test_error_is_linear_in_the_noise_and_falls_with_the_root_of_m():
  """Sixteen noise draws for each m and nu, so that the slopes are not noise themselves."""
  draws, nus, sizes = 16, (0.1, 0.3, 1.0), (600, 2400)
  rms = np.zeros((len(sizes), len(nus)))
  for i, m in enumerate(sizes):
    op, clean, truth = _problem(jax.random.key(i), m=m, rate=0.0)
    noise = jax.random.normal(jax.random.key(10 + i), (draws, m))
    fixed = jnp.full(draws, 1e-3), jnp.full(draws, _rho(1e-3))
    for j, nu in enumerate(nus):
      errors, _ = _errors(op, clean[None, :] + nu * noise, truth.matrix, *fixed, width=5, steps=500)
      rms[i, j] = np.sqrt(np.mean(np.square(errors)))
  in_noise = np.polyfit(np.log(nus), np.log(rms.mean(0)), 1)[0]
  assert abs(in_noise - 1) < 0.05
  in_m = np.log(rms[1] / rms[0]) / np.log(sizes[1] / sizes[0])
  assert np.all(np.abs(in_m + 0.5) < 0.1), in_m
  constant = rms / (np.asarray(nus) * np.sqrt(D * RANK / np.asarray(sizes)[:, None]))
  assert np.all((constant > 0.8) & (constant < 2))


@pytest.mark.x64
def test_rotation_of_the_start_rotates_the_result(rng):
  op, y, _ = _problem(jax.random.key(1))
  start = recovery.sign_spectral(op, y, 5, alpha=1e-2).L
  rotation = jnp.linalg.qr(jnp.asarray(rng.standard_normal((5, 5))))[0]
  tx = recovery.q_normalized_geometric(eta0=ETA0, rho=0.95)

  @jax.jit
  def run(start):
    return recovery.subgm(op, y, Factors(start, None), tx=tx, num_steps=200)[0].L

  np.testing.assert_allclose(run(start @ rotation), run(start) @ rotation, atol=1e-12)


def test_single_precision_floor():
  op, y, truth = _problem(jax.random.key(0))
  assert y.dtype == jnp.float32
  errors, status = _path(op, y, truth, RANK)
  assert np.all(errors < 1e-6) and np.all(status == solvers.CONVERGED)
  with jax.enable_x64(True):
    wide = jax.tree.map(lambda a: a.astype(jnp.float64) if a.dtype == jnp.float32 else a,
                        (op, y, truth))  # fmt: skip
    double, _ = _path(*wide, D)
  single, _ = _path(op, y, truth, D)
  # Above 1e-5 both precisions agree.
  np.testing.assert_allclose(single[:3], double[:3], rtol=0.2)


@pytest.mark.x64
def test_two_factors_without_balancing(key):
  problem = problems.make_low_rank_sensing(
    key, num_measurements=M, rows=D, cols=12, rank=RANK, outlier_rate=0.2, outlier_scale=100.0
  )
  matrices, y = problem.data
  op = recovery.GaussianSensing(matrices.reshape(M, -1), (D, 12))
  truth = problem.truth.matrix
  growth = recovery.growth_factor(op, y, RANK, kind="general")
  rho = recovery.subgm_schedule(eta0=ETA0, alpha=1e-3, growth=growth).rho
  tx = recovery.q_normalized_geometric(eta0=ETA0, rho=rho)
  spectral = recovery.sign_spectral(op, y, 5, alpha=1e-3, kind="general")
  random = recovery.random_small(key, (D, 12), 5, alpha=1e-3)
  starts = jax.tree.map(lambda a, b: jnp.stack([a, b]), spectral, random)

  @jax.jit
  def run(starts, balance=0.0):
    solve = lambda start: recovery.subgm(
      op, y, start, tx=tx, num_steps=1500, truth=truth, balance=balance
    )
    factors, trace = jax.vmap(solve)(starts)
    return trace.err[:, -1], jax.vmap(recovery.factor_imbalance)(*factors), trace.status

  errors, imbalance, status = run(starts)
  assert np.all(status == solvers.CONVERGED)
  assert np.all(errors < 1e-2 * jnp.linalg.norm(truth))
  assert np.all(imbalance < 0.2)
  exact = jax.tree.map(lambda a: a[:, :, :RANK], starts)
  errors, _, _ = run(exact)
  assert np.all(errors < 1e-6)
  errors, balanced, _ = run(starts, balance=1e-2)
  assert np.all(errors < 1e-2 * jnp.linalg.norm(truth)) and np.all(balanced < 0.2)


@pytest.mark.x64
def test_single_entries_need_the_exact_width():
  """Entrywise sampling has no Sign-RIP: width r recovers, width 2 r does not."""
  keys = jax.random.split(jax.random.key(3), 4)
  d, rank = 100, 3
  truth = jax.random.normal(keys[0], (d, rank)) @ jax.random.normal(keys[1], (rank, d))
  op = recovery.make_entry_mask(keys[2], d, d, rate=0.4)
  y = recovery.bernoulli_outliers(keys[3], op.apply(truth), rate=0.1, scale=30.0).y
  bound = jnp.quantile(jnp.abs(y), 0.9)
  errors = []
  for width in (rank, 2 * rank):
    start = recovery.mask_spectral(op, jnp.clip(y, -bound, bound), width)
    tx = recovery.q_normalized_geometric(eta0=3.0, rho=0.97)
    _, trace = jax.jit(
      lambda start, tx=tx: recovery.subgm(op, y, start, tx=tx, num_steps=600, truth=truth)
    )(start)
    errors.append(float(trace.err[-1] / jnp.linalg.norm(truth)))
  assert errors[0] < 1e-6
  assert errors[1] > 0.1


@pytest.mark.x64
def test_quadratic_sensing_grows_slowly():
  """All residuals have one sign near 0, so every direction grows alike, by 1 + 2 eta / sqrt(d).

  A decay that is ample for Gaussian measurements of the same matrix does not suffice.
  """
  d, m, alpha = 30, 480, 1e-3
  keys = jax.random.split(jax.random.key(0), 4)
  basis = jnp.linalg.qr(jax.random.normal(keys[0], (d, RANK)))[0]
  truth = basis @ basis.T
  start = recovery.random_small(keys[3], d, RANK, alpha=alpha)

  @functools.partial(jax.jit, static_argnames="steps")
  def run(op, rho, steps):
    y = recovery.bernoulli_outliers(keys[2], op.apply(truth), rate=0.2, scale=10.0).y
    tx = recovery.q_normalized_geometric(eta0=ETA0, rho=rho)
    _, trace = recovery.subgm(op, y, start, tx=tx, num_steps=steps, truth=truth)
    return trace.err[-1], trace.status

  quadratic = recovery.make_rank_one_sensing(keys[1], m, d)
  gaussian = recovery.make_gaussian_sensing(keys[1], 4 * m, d, d)
  error, status = run(quadratic, 0.98, 3500)
  assert error > 0.5 and int(status) == solvers.STALLED
  assert run(gaussian, 0.98, 800)[0] < 1e-6
  assert run(quadratic, 0.997, 3500)[0] < 1e-2


@pytest.mark.x64
def test_lower_loss_than_the_truth_with_a_useless_matrix():
  """Fewer measurements than free parameters: the l1 loss has far better minima than X*.

  A smaller copy of the d = 50 case of the experiment: 200 measurements of 300 parameters.
  """
  d, m, alpha = 24, 200, 1e-8
  problem = problems.make_low_rank_sensing(
    jax.random.key(0), num_measurements=m, rows=d, rank=1, outlier_rate=0.3, outlier_scale=10.0
  )
  matrices, y = problem.data
  op = recovery.GaussianSensing(matrices.reshape(m, -1), (d, d))
  truth = problem.truth.matrix
  at_truth = float(problem.objective(truth, *problem.data))
  growth = float(recovery.growth_factor(op, y, 1))
  rhos = jnp.stack([recovery.subgm_schedule(eta0=ETA0, alpha=alpha, growth=growth).rho, 0.997])
  unit = recovery.random_small(jax.random.key(1), d, d, alpha=1.0)
  small = recovery.sign_spectral(op, y, d, alpha=alpha)
  starts = jax.tree.map(lambda a, b: jnp.stack([a, b]), small, unit)

  @jax.jit
  def run(start, rho):
    tx = recovery.q_normalized_geometric(eta0=ETA0, rho=rho)
    _, trace = recovery.subgm(op, y, start, tx=tx, num_steps=5000, truth=truth)
    return trace.value[-1], trace.err[-1]

  (small_loss, unit_loss), (small_error, unit_error) = jax.vmap(run)(starts, rhos)
  assert small_error < 1e-2 and abs(small_loss - at_truth) < 1e-3 * at_truth
  assert unit_loss < 0.7 * at_truth and unit_error > 5
