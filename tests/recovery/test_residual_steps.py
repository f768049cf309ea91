"""Steps proportional to the error: their rule, and recovery without rank and growth."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import problems, recovery, solvers
from jaxopt_robust.recovery._order_statistics import kth_smallest

D, M, ETA0 = 12, 500, 0.25


@pytest.mark.parametrize("x64", [False, pytest.param(True, marks=pytest.mark.x64)])
def test_an_order_statistic_is_that_of_numpy(x64):
  """Ties, zeros, subnormal numbers, infinity, NaN; the derivative is that of the entry."""
  rng = np.random.default_rng(2)
  draws = np.abs(rng.standard_normal((6, 40))) * 10.0 ** rng.uniform(-30, 30, (6, 40))
  draws[1] = rng.integers(0, 3, 40)
  draws[2, ::2], draws[3, ::3], draws[4, ::3] = 0, np.inf, np.nan
  draws[5] = 1e-42
  draws = draws.astype(np.float64 if x64 else np.float32)
  run = jax.jit(jax.vmap(jax.value_and_grad(kth_smallest), in_axes=(0, None)))
  for k in (0, 9, 30, 39):
    found, grad = run(draws, k)
    assert found.dtype == draws.dtype
    np.testing.assert_array_equal(found, np.sort(draws, axis=1)[:, k])
    np.testing.assert_array_equal(np.sum(grad, axis=1), 1)
    at = np.take_along_axis(draws, np.argmax(grad, axis=1)[:, None], axis=1)[:, 0]
    np.testing.assert_array_equal(at, found)


def _rule(scales, norms, cooling):
  """The factors on -g of the docstring, in plain Python."""
  top, best, wait, patience, cooled, out = 0.0, 0.0, 0.0, np.inf, 1.0, []
  for s, q in zip(scales, norms, strict=True):
    top = max(top, s)
    if np.isinf(patience):
      best = top
    wait += np.clip((norms[0] / q) ** 2 * s / top, 0.1, 10)
    if s < 0.95 * best:
      if np.isinf(patience):
        patience = max(1.5 * wait, 20)
      best, wait = s, 0.0
    if wait > patience:
      cooled *= cooling
    out.append(ETA0 * cooled * s / top / q)
  return out


def test_rule_in_all_its_phases():
  """Growth, progress, a plateau that ends, and one that does not."""
  scales = [1.0] * 30 + [0.9, 0.5] + [0.5] * 60 + [0.3] + [0.3] * 200
  norms = [2.0] * 40 + [1.0] * 53 + [0.5] * 200
  tx = recovery.residual_proportional(eta0=ETA0, cooling=0.9)
  gradient = jnp.ones(1)

  def body(state, inputs):
    update, state = tx.update(gradient, state, scale=inputs[0], q_norm=inputs[1])
    return state, (-update[0], state.patience)

  inputs = jnp.array([scales, norms], jnp.float32).T
  _, (steps, patience) = jax.lax.scan(body, tx.init(gradient), inputs)
  expected = _rule(scales, norms, 0.9)
  np.testing.assert_allclose(steps, expected, rtol=1e-4)
  assert np.isinf(patience[29]) and patience[-1] == pytest.approx(1.5 * 30.9)
  assert steps[-1] < 1e-3 * steps[95]  # the last plateau was long enough to cool


@pytest.mark.parametrize(("rate", "share"), [(0.0, 0.25), (0.5, 0.5), (0.7, 0.25 / 0.3)])
def test_scale_is_the_quantile_of_clean_residuals(rate, share, rng):
  """With a fraction p of huge residuals the lower quartile is the 1/(4 (1 - p)) quantile of the
  others, for normal ones s Phi^{-1}((1 + 1/(4 (1 - p)))/2)."""
  from scipy import stats

  size = 40_000
  residual = 3 * rng.standard_normal(size)
  residual[: int(rate * size)] = 1e6
  op = recovery.Subset(recovery.Identity((200, 210)), jnp.arange(200 * 210) < size)
  y = np.full(200 * 210, np.nan, np.float32)
  y[:size] = residual
  zero = recovery.Factors(jnp.zeros((200, 1)), jnp.zeros((210, 1)))
  _, _, aux = recovery.l1_value_subgrad(op, y, zero)
  clean = 1 / (4 * (1 - rate))
  assert clean == pytest.approx(share)
  # The deviation of a sample quantile, sqrt(q (1 - q) / n) over the density, is below 1 %.
  assert float(aux.scale) == pytest.approx(3 * stats.norm.ppf((1 + clean) / 2), rel=0.04)


@functools.partial(jax.jit, static_argnames=("width", "rank", "kind", "steps"))
def _errors(keys, condition, rate, noise, alphas, *, width, rank=2, kind="psd", steps=640):
  """Relative errors [draw, alpha] and status of runs that know neither rank nor growth."""

  def draw(key):
    problem = problems.make_low_rank_sensing(
      key, num_measurements=M, rows=D, cols=None if kind == "psd" else D, rank=rank,
      condition=condition, outlier_rate=rate, outlier_scale=100.0, noise_scale=noise,
    )  # fmt: skip
    matrices, y = problem.data
    op = recovery.GaussianSensing(matrices.reshape(M, -1), (D, D))
    truth = problem.truth.matrix

    def solve(alpha):
      start = recovery.sign_spectral(op, y, width, alpha=alpha, kind=kind)
      tx = recovery.residual_proportional(eta0=ETA0)
      _, trace = recovery.subgm(op, y, start, tx=tx, num_steps=steps, truth=truth, tol=1e-5)
      return trace.err[-1] / jnp.linalg.norm(truth), trace.status

    return jax.vmap(solve)(alphas)

  return jax.lax.map(draw, keys)


def _keys(num, seed):
  return jax.random.split(jax.random.key(seed), num)


@pytest.mark.parametrize(
  ("condition", "rate", "gain"), [(1.0, 0.0, 100), (1.0, 0.4, 10), (3.0, 0.3, 10)]
)
def test_full_width_recovers_in_every_draw_and_the_error_falls_with_the_start(
  condition, rate, gain
):
  """Theory: an error of alpha^(2 - O(sqrt(r) kappa delta)), delta about sqrt(d r / m) / (1 - p).

  delta is 0.2 to 0.4 here: the exponent is at least 1 without outliers and 1/2 with many of them or
  unequal singular values. A decay that does not fit gives 0.2, which is a gain of 2.5.
  """
  alphas = jnp.array([1e-1, 1e-3])
  errors, status = _errors(_keys(12, 3), condition, rate, 0.0, alphas, width=D)
  assert errors[:, 1].max() < 5e-3  # no draw fails
  assert np.exp(np.mean(np.log(errors[:, 0] / errors[:, 1]))) > gain
  assert not np.isin(status, [solvers.NON_FINITE, solvers.STALLED]).any()


def test_true_width_recovers_to_rounding():
  errors, status = _errors(_keys(12, 4), 3.0, 0.3, 0.0, jnp.array([1e-3]), width=2)
  assert errors.max() < 1e-5 and (status == solvers.CONVERGED).all()


def test_two_factors_recover_too():
  errors, status = _errors(
    _keys(4, 5), 2.0, 0.2, 0.0, jnp.array([1e-3]), width=D, kind="general", steps=900
  )
  assert errors.max() < 1e-2 and not np.isin(status, [solvers.NON_FINITE, solvers.STALLED]).any()


def test_dense_noise_leaves_its_own_error_and_no_more():
  """Least squares at the true rank would leave nu sqrt(d r / m) up to a constant; the surplus
  columns add little, and the run ends by itself."""
  noise = 0.3
  bound = noise * np.sqrt(D * 2 / M) / np.sqrt(2)  # relative to ||X*||_F = sqrt(2)
  full, status = _errors(_keys(8, 6), 1.0, 0.0, noise, jnp.array([1e-3]), width=D)
  exact, _ = _errors(_keys(8, 6), 1.0, 0.0, noise, jnp.array([1e-3]), width=2)
  assert (status == solvers.CONVERGED).all()
  assert np.sqrt(np.mean(full**2)) < 2 * bound
  np.testing.assert_allclose(np.mean(full), np.mean(exact), rtol=0.1)
