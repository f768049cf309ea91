"""Preconditioned sub-gradient steps: formulas, invariances, absent directions, conditioning."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_robust import problems, recovery, solvers
from jaxopt_robust.debug import count_traces
from jaxopt_robust.recovery import Factors
from tests.helpers import assert_no_retrace

RULES = {
  "link": (recovery.precondition_factors, {"damping": 0.5}),
  "polyak": (recovery.scaled_polyak, {"minimum": 0.25, "damping": 0.5}),
  "geometric": (recovery.scaled_geometric, {"eta0": 0.5, "rho": 0.9, "damping": 0.5}),
}
each = pytest.mark.parametrize(("factory", "hyper"), RULES.values(), ids=RULES)


def _pair(rng, rows=5, cols=4, width=2):
  return Factors(
    jnp.asarray(rng.standard_normal((rows, width)), jnp.result_type(float)),
    jnp.asarray(rng.standard_normal((cols, width)), jnp.result_type(float)),
  )


def _close(a, b, rtol=1e-5, atol=1e-7):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


# ---- formulas ----


@pytest.mark.x64
@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_preconditioner_and_its_norm(damping, rng):
  """Against explicit inverses, for two factors and for one."""
  params, grads = _pair(rng), _pair(rng)
  inverse = lambda f: np.linalg.inv(np.asarray(f.T @ f) + damping * np.eye(2))
  tx = recovery.precondition_factors(damping=damping)
  left, right = np.asarray(grads.L) @ inverse(params.R), np.asarray(grads.R) @ inverse(params.L)
  updates, state = tx.update(grads, tx.init(params), params)
  _close(updates, Factors(left, right), rtol=1e-12, atol=1e-13)
  square = np.sum(left * grads.L) + np.sum(right * grads.R)
  np.testing.assert_allclose(state.square_norm, square, rtol=1e-13)

  one, grad = Factors(params.L, None), Factors(grads.L, None)
  updates, state = tx.update(grad, tx.init(one), one)
  expected = np.asarray(grad.L) @ inverse(one.L)
  _close(updates, Factors(expected, None), rtol=1e-12, atol=1e-13)
  np.testing.assert_allclose(state.square_norm, np.sum(expected * grad.L), rtol=1e-13)


@pytest.mark.x64
def test_polyak_and_geometric_steps(rng):
  params, grads = _pair(rng), _pair(rng)
  link = recovery.precondition_factors()
  base, before = link.update(grads, link.init(params), params)
  scale = lambda factor: jax.tree.map(lambda p: -factor * p, base)
  polyak = recovery.scaled_polyak(minimum=0.25)
  updates, _ = polyak.update(grads, polyak.init(params), params, value=jnp.asarray(2.0))
  _close(updates, scale(1.75 / before.square_norm), rtol=1e-13)
  below, _ = polyak.update(grads, polyak.init(params), params, value=jnp.asarray(0.1))
  assert not any(np.any(u) for u in below)
  geometric = recovery.scaled_geometric(eta0=0.5, rho=0.9)
  state = geometric.init(params)
  for t in range(3):
    updates, state = geometric.update(grads, state, params)
    _close(updates, scale(0.5 * 0.9**t / jnp.sqrt(before.square_norm)), rtol=1e-13)
  assert int(state.count) == 3


@pytest.mark.x64
def test_sum_and_mean_of_residuals_give_the_same_step(rng):
  params, grads = _pair(rng), _pair(rng)
  m = 1280.0
  total = jax.tree.map(lambda g: m * g, grads)
  for tx, by_sum in (
    (recovery.scaled_polyak(minimum=0.25), recovery.scaled_polyak(minimum=0.25 * m)),
    (recovery.scaled_geometric(eta0=0.5, rho=0.9),) * 2,
  ):
    mean, _ = tx.update(grads, tx.init(params), params, value=jnp.asarray(2.0))
    sums, _ = by_sum.update(total, by_sum.init(params), params, value=jnp.asarray(2.0 * m))
    _close(mean, sums, rtol=1e-12)


# ---- the optax contract ----


def _run(tx, params, grads):
  state, out = tx.init(params), []
  for value in (2.0, 1.5):
    updates, state = tx.update(grads, state, params, value=jnp.asarray(value), unknown="ignored")
    out.append(updates)
  return out


@each
def test_chain_multisteps_inject(factory, hyper, rng):
  params, grads = _pair(rng), _pair(rng)
  plain = _run(factory(**hyper), params, grads)
  _close(_run(optax.chain(factory(**hyper)), params, grads), plain)
  known = {k: jnp.asarray(v, jnp.float32) for k, v in hyper.items()}
  _close(_run(optax.inject_hyperparams(factory)(**known), params, grads), plain)
  _close(_run(optax.MultiSteps(factory(**hyper), every_k_schedule=1), params, grads), plain)


def test_constant_steps_follow_the_link(rng):
  params, grads = _pair(rng), _pair(rng)
  link, chain = (
    recovery.precondition_factors(),
    optax.chain(recovery.precondition_factors(), optax.sgd(0.5)),
  )
  base, _ = link.update(grads, link.init(params), params)
  updates, _ = chain.update(grads, chain.init(params), params)
  _close(updates, jax.tree.map(lambda u: -0.5 * u, base))


@each
def test_dtypes_and_no_retrace(factory, hyper, rng):
  params, grads = _pair(rng), _pair(rng)
  tx = factory(**hyper)
  abstract = jax.tree.map(lambda g: jax.ShapeDtypeStruct(g.shape, g.dtype), params)
  concrete = tx.init(params)
  _close(tx.init(abstract), concrete)
  assert not any(jax.typeof(leaf).weak_type for leaf in jax.tree.leaves(concrete))
  half, half_grads = jax.tree.map(lambda g: g.astype(jnp.bfloat16), (params, grads))
  updates, state = tx.update(half_grads, tx.init(half), half, value=jnp.asarray(1.0))
  assert all(u.dtype == jnp.bfloat16 for u in updates) and state.square_norm.dtype == jnp.float32

  state = concrete
  counted = count_traces(lambda s, value: tx.update(grads, s, params, value=value)[1])
  step = jax.jit(counted)
  for value in (2.0, 1.0):
    state = step(state, value)
  assert counted.traces == 1
  assert jax.tree.map(jax.typeof, state) == jax.tree.map(jax.typeof, concrete)


def test_hyperparameters_are_data(rng):
  params, grads = _pair(rng), _pair(rng)

  def first(eta0, damping):
    tx = recovery.scaled_geometric(eta0=eta0, rho=0.9, damping=damping)
    return tx.update(grads, tx.init(params), params)[0].L[0, 0]

  assert_no_retrace(first, lambda i: (0.1 * (i + 1), 0.1 * i))


# ---- directions that are absent ----


@pytest.mark.parametrize("damping", [0.0, 0.1])
def test_absent_directions_do_not_move(damping, rng):
  """A column that is zero in both factors stays zero, the others move as if it were not there."""
  params = _pair(rng)
  wide = Factors(*(jnp.pad(f, ((0, 0), (0, 1))) for f in params))
  z = jnp.asarray(rng.standard_normal((5, 4)), jnp.float32)
  tx = recovery.scaled_geometric(eta0=1.0, rho=0.9, damping=damping)
  grads = lambda pair: Factors(z @ pair.R, z.T @ pair.L)
  narrow, _ = tx.update(grads(params), tx.init(params), params)
  updates, _ = tx.update(grads(wide), tx.init(wide), wide)
  _close(Factors(*(u[:, :2] for u in updates)), narrow, rtol=1e-4)
  assert not any(np.any(u[:, 2]) for u in updates)


def test_zero_and_repeated_columns_are_finite(rng):
  z = jnp.asarray(rng.standard_normal((5, 4)), jnp.float32)
  repeated = Factors(*(jnp.repeat(f[:, :1], 2, axis=1) for f in _pair(rng)))
  zero = jax.tree.map(jnp.zeros_like, repeated)
  tx = recovery.scaled_polyak(minimum=0.0)
  for params in (repeated, zero):
    grads = Factors(z @ params.R, z.T @ params.L)
    updates, state = tx.update(grads, tx.init(params), params, value=jnp.asarray(1.0))
    assert all(bool(jnp.isfinite(u).all()) for u in updates)
    assert bool(jnp.isfinite(state.square_norm))
    # The step is Polyak's for X: f + <Z, dX> = 0 to first order, 0 without any direction.
    change = updates.L @ params.R.T + params.L @ updates.R.T
    np.testing.assert_allclose(jnp.sum(z * change), -1.0 if params is repeated else 0.0, rtol=1e-4)


# ---- recovery: 24 x 24, rank 3, 600 measurements, a fifth of them wrong ----

NUM_STEPS = 500


@functools.partial(jax.jit, static_argnames="scaled")
def _solve(condition, key, twist, spoil, *, scaled):
  problem = problems.make_low_rank_sensing(
    key, num_measurements=600, rows=24, cols=24, rank=3, condition=condition
  )
  matrices, clean = problem.data
  op = recovery.GaussianSensing(matrices.reshape(600, -1), (24, 24))
  corrupted = recovery.scaledsm_outliers(key, clean, rate=0.2)
  start = recovery.truncated_spectral(op, corrupted.y, 3, rate=0.2)
  start = Factors(start.L @ twist, start.R @ jnp.linalg.inv(twist).T)
  rule = recovery.scaled_polyak if scaled else recovery.polyak
  tx = rule(minimum=jnp.mean(jnp.abs(corrupted.s)))
  y = corrupted.y + spoil
  factors, trace = recovery.subgm(
    op, y, start, tx=tx, num_steps=NUM_STEPS, truth=problem.truth.matrix
  )
  error = trace.err / jnp.linalg.norm(problem.truth.matrix)
  return recovery.compose(factors), error, trace.status


def _iterations(condition, seed, scaled):
  """The first step after which the relative error is below 1e-6."""
  error = np.asarray(_solve(condition, jax.random.key(seed), jnp.eye(3), 0.0, scaled=scaled)[1])
  return int(np.argmax(error < 1e-6)) + 1 if error.min() < 1e-6 else NUM_STEPS + 1


@pytest.mark.x64
def test_conditioning_does_not_matter_to_scaled_steps():
  """The counts of scaled steps are 15 % apart at most; plain steps need 2 and 4 times as many."""
  scaled = [_iterations(kappa, 0, True) for kappa in (1.0, 5.0, 20.0)]
  plain = [_iterations(kappa, 0, False) for kappa in (1.0, 5.0, 20.0)]
  assert max(scaled) <= 1.15 * min(scaled) and max(scaled) < 150
  assert abs(plain[0] - scaled[0]) < 0.2 * scaled[0]
  assert plain[1] > 2 * plain[0]
  assert plain[2] > 4 * plain[0]  # not reached


@pytest.mark.x64
def test_the_choice_of_factors_does_not_matter_to_scaled_steps(rng):
  """L G and R G^-T are factors of the same X: the iterates of X agree, those of plain steps not."""
  basis = np.linalg.qr(rng.standard_normal((3, 3)))[0]
  twist = jnp.asarray(basis @ np.diag([2.0, 1.0, 0.5]))
  args = (5.0, jax.random.key(1))
  for scaled in (True, False):
    _, error, _ = _solve(*args, jnp.eye(3), 0.0, scaled=scaled)
    _, twisted, _ = _solve(*args, twist, 0.0, scaled=scaled)
    apart = np.max(np.abs(error[:60] - twisted[:60]))
    # Rounding of 60 steps, amplified by the condition numbers of G and of the factors.
    assert apart < 1e-9 if scaled else apart > 1e-3


@pytest.mark.x64
def test_bad_data_give_a_status():
  matrix, _, status = _solve(5.0, jax.random.key(0), jnp.eye(3), jnp.nan, scaled=True)
  assert int(status) == solvers.NON_FINITE and bool(jnp.isfinite(matrix).all())
