"""Sub-gradients, the solver contract, status codes and the convenience on top."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_robust import recovery, solvers
from jaxopt_robust.recovery import Factors
from tests.helpers import assert_no_retrace, central_difference
from tests.registries.recovery import COLS, OPERATORS, ROWS

ETA0 = 0.25


@pytest.fixture
def psd(key):
  """A small problem in float32: 6 x 6, rank 1, 200 measurements, a fifth of them wrong."""
  keys = jax.random.split(key, 3)
  u = jax.random.normal(keys[0], (6, 1))
  truth = u @ u.T / jnp.sum(u * u)
  op = recovery.make_gaussian_sensing(keys[1], 200, 6, 6)
  y = recovery.bernoulli_outliers(keys[2], op.apply(truth), rate=0.2, scale=100.0).y
  return op, y, truth


def _make_tx(hyper):
  return recovery.q_normalized_geometric(eta0=hyper[0], rho=hyper[1])


SOLVER = recovery.subgradient_method(_make_tx)


@pytest.mark.x64
def test_one_factor_gradient_is_q_plus_its_transpose(key, rng):
  op = recovery.make_gaussian_sensing(key, 30, 5, 5)
  y, u = jnp.asarray(rng.standard_normal(30)), jnp.asarray(rng.standard_normal((5, 3)))
  loss = lambda u: jnp.mean(jnp.abs(op.apply_factored(u, u) - y))
  value, grads, aux = recovery.l1_value_subgrad(op, y, Factors(u, None))
  q = op.adjoint(jnp.sign(op.apply(u @ u.T) - y)) / 30
  assert grads.R is None
  np.testing.assert_allclose(grads.L, (q + q.T) @ u, rtol=0, atol=1e-12)
  np.testing.assert_allclose(grads.L, jax.grad(loss)(u), rtol=0, atol=1e-12)
  np.testing.assert_allclose(value, loss(u), rtol=1e-14)
  np.testing.assert_allclose(aux.q_norm, jnp.linalg.norm(q), rtol=1e-13)
  np.testing.assert_allclose(grads.L, central_difference(jax.jit(loss), u), atol=1e-7)


@pytest.mark.x64
@pytest.mark.parametrize("name", OPERATORS)
def test_two_factor_gradient_for_every_operator(name, key, rng):
  op = OPERATORS[name](key)
  y = jnp.asarray(rng.standard_normal(op.size))
  pair = Factors(
    jnp.asarray(rng.standard_normal((ROWS, 2))), jnp.asarray(rng.standard_normal((COLS, 2)))
  )

  def residual(pair):
    z = op.apply_factored(*pair) - y
    return z if op.observed is None else jnp.where(op.observed, z, 0)

  losses = {
    recovery.l1_value_subgrad: lambda p: jnp.sum(jnp.abs(residual(p))) / op.count,
    recovery.squared_value_grad: lambda p: 0.5 * jnp.sum(residual(p) ** 2) / op.count,
  }
  for function, loss in losses.items():
    ours, theirs = jax.jit(lambda p: (function(op, y, p), jax.value_and_grad(loss)(p)))(pair)  # noqa: B023
    (value, grads, aux), (known, expected) = ours, theirs
    np.testing.assert_allclose(value, known, rtol=1e-12)
    np.testing.assert_allclose(grads.L, expected.L, atol=1e-12)
    np.testing.assert_allclose(grads.R, expected.R, atol=1e-12)
    np.testing.assert_allclose(aux.resid, residual(pair), atol=1e-12)


@pytest.mark.x64
def test_balancing_term(key, rng):
  op = OPERATORS["gaussian"](key)
  y = jnp.asarray(rng.standard_normal(op.size))
  pair = Factors(
    jnp.asarray(rng.standard_normal((ROWS, 2))), jnp.asarray(rng.standard_normal((COLS, 2)))
  )
  loss = lambda p: (
    jnp.mean(jnp.abs(op.apply_factored(*p) - y)) + 0.7 * recovery.factor_imbalance(*p)
  )
  value, grads, _ = recovery.l1_value_subgrad(op, y, pair, balance=0.7)
  np.testing.assert_allclose(value, loss(pair), rtol=1e-12)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-12), grads, jax.grad(loss)(pair)
  )
  zero = jax.tree.map(jnp.zeros_like, pair)  # both kinks at once: finite
  _, grads, _ = recovery.l1_value_subgrad(op, y, zero, balance=0.7)
  assert all(bool(jnp.isfinite(g).all()) for g in grads)


def test_ties_give_a_zero_subgradient_and_no_step(psd):
  """sign(0) = 0: at an exact fit Q is zero, and the normalised step must not divide by it."""
  op, _, _ = psd
  start = Factors(jnp.ones((6, 2)), None)
  y = op.apply_factored(start.L, start.L)
  value, grads, aux = recovery.l1_value_subgrad(op, y, start)
  assert float(value) == 0 and float(aux.q_norm) == 0 and not bool(jnp.any(grads.L))
  tx = recovery.q_normalized_geometric(eta0=0.25, rho=0.9)
  factors, trace = recovery.subgm(op, y, start, tx=tx, num_steps=3)
  np.testing.assert_array_equal(factors.L, start.L)
  assert int(trace.status) == solvers.CONVERGED


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_dtype_in_dtype_out(psd, dtype):
  op, y, _ = jax.tree.map(lambda a: a.astype(dtype), psd)
  start = recovery.sign_spectral(op, y, 2, alpha=1e-2)
  assert start.L.dtype == dtype
  _, grads, aux = recovery.l1_value_subgrad(op, y, start)
  assert grads.L.dtype == dtype and aux.q_norm.dtype == jnp.float32
  tx = recovery.q_normalized_geometric(eta0=0.25, rho=0.9)
  factors, _ = recovery.subgm(op, y, start, tx=tx, num_steps=2)
  assert factors.L.dtype == dtype and bool(jnp.isfinite(factors.L).all())


# ---- the solver under both drivers ----


@functools.partial(jax.jit, static_argnames="max_steps")
def _until(op, y, start, hyper, tol, max_steps):
  return solvers.run_until(SOLVER, start, hyper, op, y, tol=tol, max_steps=max_steps)


def _start(psd, alpha=1e-2, width=3):
  return recovery.sign_spectral(psd[0], psd[1], width, alpha=alpha)


def test_status_codes_under_run_until(psd):
  op, y, truth = psd
  start = _start(psd)
  factors, info = _until(op, y, start, (ETA0, 0.95), 1e-5, 1000)
  assert int(info.status) == solvers.CONVERGED and int(info.steps) < 1000
  assert recovery.rel_err(recovery.compose(factors), truth) < 1e-2
  _, info = _until(op, y, start, (ETA0, 0.95), 1e-5, 20)
  assert int(info.status) == solvers.STEP_LIMIT and int(info.steps) == 20
  factors, info = _until(op, y.at[3].set(jnp.nan), start, (ETA0, 0.95), 1e-5, 1000)
  assert int(info.status) == solvers.NON_FINITE
  np.testing.assert_array_equal(factors.L, start.L)  # the last finite iterate
  # Steps die out before the signal has grown: small moves, but no solution.
  _, info = _until(op, y, _start(psd, alpha=1e-4), (ETA0, 0.7), 1e-5, 1000)
  assert int(info.status) == solvers.STALLED
  _, info = _until(op, y, Factors(jnp.zeros((6, 3)), None), (ETA0, 0.9), 1e-5, 1000)
  assert int(info.status) == solvers.STALLED


def _fixed(op, y, start, hyper, tol=1e-5):
  return recovery.subgm(op, y, start, tx=_make_tx(hyper), num_steps=300, tol=tol)


def test_status_codes_of_a_fixed_run(psd):
  op, y, truth = psd
  run = jax.jit(_fixed)
  start = _start(psd)
  factors, trace = run(op, y, start, (ETA0, 0.95))
  assert int(trace.status) == solvers.CONVERGED and trace.value.shape == (300,)
  assert recovery.rel_err(recovery.compose(factors), truth) < 1e-2
  assert int(run(op, y, start, (ETA0, 0.999))[1].status) == solvers.STEP_LIMIT
  assert int(run(op, y, start, (ETA0, 0.6))[1].status) == solvers.STALLED
  factors, trace = run(op, y.at[3].set(jnp.nan), start, (ETA0, 0.95))
  assert int(trace.status) == solvers.NON_FINITE
  np.testing.assert_array_equal(factors.L, start.L)


def test_a_run_that_blows_up_returns_its_last_finite_iterate(psd):
  """Constant steps far too large: finite at first, then overflow."""
  op, y, _ = psd
  start = Factors(jnp.ones((6, 2)), None)
  solver = recovery.subgradient_method(
    lambda hyper: optax.sgd(hyper), value_and_subgrad=recovery.squared_value_grad
  )
  factors, infos = jax.jit(
    lambda: solvers.run_steps(solver, start, jnp.asarray(10.0), op, y, num_steps=60)
  )()
  assert bool(jnp.isfinite(factors.L).all()) and bool(jnp.any(factors.L != start.L))
  broken = jnp.isnan(infos.error)
  assert bool(broken[-1]) and not bool(broken[0])
  assert bool(jnp.all(broken[jnp.argmax(broken) :]))  # once broken, it stays broken


def test_vmapped_solves_equal_a_loop(psd):
  op, y, _ = psd
  alphas = jnp.array([1e-1, 1e-2, 1e-3])
  rhos = jax.vmap(lambda a: recovery.subgm_schedule(eta0=ETA0, alpha=a, growth=1.8).rho)(alphas)
  solve = lambda a, rho: _until(op, y, _start(psd, alpha=a), (ETA0, rho), 1e-4, 1000)
  factors, info = jax.vmap(solve)(alphas, rhos)
  for i in range(3):
    single, single_info = solve(alphas[i], rhos[i])
    # Sums are rounded differently in a batch and a sign near a kink may flip: a step is 1e-4 here.
    np.testing.assert_allclose(
      recovery.compose(Factors(factors.L[i], None)), recovery.compose(single), atol=1e-3
    )
    assert int(info.status[i]) == int(single_info.status) == solvers.CONVERGED


def test_one_compile_serves_all_hyperparameters_and_data(psd):
  op, y, truth = psd
  start = _start(psd)

  def run(y, eta0, rho, tol):
    tx = recovery.q_normalized_geometric(eta0=eta0, rho=rho)
    return recovery.subgm(op, y, start, tx=tx, num_steps=5, truth=truth, tol=tol)

  assert_no_retrace(run, lambda i: (y + i, 0.1 + 0.1 * i, 0.9 - 0.1 * i, 1e-3 / (i + 1)))


def test_a_path_over_alpha_traces_the_objective_a_fixed_number_of_times(psd):
  op, y, _ = psd
  traces = []

  def counted(*args):
    traces.append(1)
    return recovery.l1_value_subgrad(*args)

  solver = recovery.subgradient_method(_make_tx, value_and_subgrad=counted)

  @jax.jit
  def path(alphas, rhos):
    def one(alpha, rho):
      start = recovery.sign_spectral(op, y, 3, alpha=alpha)
      return solvers.run_steps(solver, start, (0.25, rho), op, y, num_steps=4)

    return jax.vmap(one)(alphas, rhos)

  path(jnp.geomspace(1e-4, 1e-1, 100), jnp.full(100, 0.9))
  first = len(traces)
  path(jnp.geomspace(1e-3, 1e-1, 100), jnp.full(100, 0.8))
  assert len(traces) == first <= 2


@pytest.mark.x64
def test_unrolled_derivative_in_both_modes(psd):
  op, y, truth = jax.tree.map(lambda a: a.astype(jnp.float64), psd)
  start = recovery.sign_spectral(op, y, 2, alpha=0.1)

  def final(eta0):
    solver_tx = recovery.q_normalized_geometric(eta0=eta0, rho=0.9)
    factors, _ = recovery.subgm(op, y, start, tx=solver_tx, num_steps=6)
    return jnp.sum((recovery.compose(factors) - truth) ** 2)

  reverse = jax.jit(jax.grad(final))(0.2)
  _, forward = jax.jit(lambda e: jax.jvp(final, (e,), (jnp.ones_like(e),)))(jnp.asarray(0.2))
  np.testing.assert_allclose(reverse, forward, rtol=1e-10)
  # Between kinks: signs do not change over a step of 1e-7.
  numeric = central_difference(jax.jit(final), np.asarray(0.2), eps=1e-7)
  np.testing.assert_allclose(reverse, numeric, rtol=1e-4)


def test_extra_arguments_reach_any_optax_rule(psd):
  """A Polyak step needs the value; plain sgd takes neither value nor norm."""
  op, _, truth = psd
  y = op.apply(truth)
  start = recovery.truncated_spectral(op, y, 1, rate=0.0, kind="psd")
  for tx, bound in (
    (recovery.polyak(minimum=0.0), 1e-5),
    (optax.chain(optax.clip_by_global_norm(1.0), recovery.polyak(minimum=0.0)), 1.0),
    (optax.sgd(1e-3), 1.0),
  ):
    factors, trace = recovery.subgm(op, y, start, tx=tx, num_steps=200, truth=truth)
    assert float(trace.err[-1]) < bound
    distance = jnp.linalg.norm(recovery.compose(factors) - truth)
    np.testing.assert_allclose(trace.err[-1], distance, atol=1e-6)


# ---- schedule and convenience ----


@pytest.mark.x64
def test_schedule_formula_and_growth_over_a_run():
  eta0, alpha, g, c = 0.25, 1e-3, 1.7, 0.8
  schedule = recovery.subgm_schedule(eta0=eta0, alpha=alpha, growth=g, c=c)
  np.testing.assert_allclose(schedule.rho, 1 - eta0 / (c * g * np.log(1 / alpha)), rtol=1e-14)
  steps = schedule.num_steps(1e-8)
  assert steps == int(np.ceil(np.log(1e8) / (1 - float(schedule.rho))))
  # The rule's promise: the sum of 2 eta_t / g over the run is 2 c log(1/alpha).
  total = 2 * eta0 / g * float(jnp.sum(schedule.rho ** jnp.arange(steps)))
  np.testing.assert_allclose(total, 2 * c * np.log(1 / alpha), rtol=1e-6)
  slower = recovery.subgm_schedule(eta0=eta0, alpha=1e-6, growth=g, c=c)
  assert abs(slower.num_steps(1e-8) - 2 * steps) <= 1  # T is proportional to log(1/alpha)


def test_robust_recover_symmetric_and_general(psd, key):
  op, y, truth = psd
  factors, trace = recovery.robust_recover(op, y, 6, truth=truth)
  assert int(trace.status) == solvers.CONVERGED and factors.R is None
  assert float(trace.err[-1]) < 1e-2
  _, trace = recovery.robust_recover(op, y, 1, key=key, growth=1.5, truth=truth)
  assert int(trace.status) == solvers.CONVERGED and float(trace.err[-1]) < 1e-5

  keys = jax.random.split(key, 3)
  u, v = jax.random.normal(keys[0], (7, 1)), jax.random.normal(keys[1], (4, 1))
  wide = u @ v.T
  op = recovery.make_gaussian_sensing(keys[2], 300, 7, 4)
  y = recovery.bernoulli_outliers(keys[0], op.apply(wide), rate=0.2, scale=100.0).y
  factors, trace = recovery.robust_recover(op, y, 1, kind="general", truth=wide)
  assert int(trace.status) == solvers.CONVERGED
  assert recovery.rel_err(recovery.compose(factors), wide) < 1e-5


def test_robust_recover_tells_when_the_signal_did_not_arrive(psd):
  op, y, _ = psd
  _, trace = recovery.robust_recover(op, y, 3, alpha=1e-5, growth=1.5, c=0.2)
  assert int(trace.status) == solvers.STALLED
  _, trace = recovery.robust_recover(op, y, 3, alpha=1e-5, num_steps=10)  # still growing
  assert int(trace.status) == solvers.STEP_LIMIT
