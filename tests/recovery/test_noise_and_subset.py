"""Data without a signal is refused; a subset of measurements is that many measurements."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import debug, recovery

DIM, NUM = 12, 400


@pytest.fixture(scope="module")
def signal():
  op = recovery.make_gaussian_sensing(jax.random.key(0), NUM, DIM, DIM)
  truth = jnp.zeros((DIM, DIM)).at[0, 0].set(1.0).at[1, 1].set(0.5)
  return op, op.apply(truth)


@pytest.mark.parametrize("kind", ["psd", "general"])
@pytest.mark.parametrize("scale", [1.0, 1e6])
def test_all_measurements_wrong_is_refused(signal, kind, scale):
  op, _ = signal
  wrong = scale * jax.random.normal(jax.random.key(1), (NUM,))
  with pytest.raises(ValueError, match="cannot be told from that of random signs"):
    recovery.robust_recover(op, wrong, DIM, kind=kind)


def test_the_test_of_noise_has_its_level_and_sees_signals(signal):
  """95 % of pure noise is refused; low rank, half corrupted, and full rank are let through."""
  from jaxopt_robust.recovery.automatic import _is_pure_noise
  from jaxopt_robust.recovery.initial import mean_of_signs

  op, y = signal
  scaled = recovery.GaussianSensing(1e-3 * op.flat, op.dims)  # the scale of the matrices is free

  def is_refused(y, op=op):
    return _is_pure_noise(op, mean_of_signs(op, jnp.asarray(y)), "psd")

  draws = np.random.default_rng(0).standard_normal((40, NUM)).astype(np.float32)
  refused = sum(is_refused(draw) for draw in draws)
  assert refused >= 34  # of 40 with probability .95 each: fewer has probability 2e-3
  half_wrong = jnp.where(jnp.arange(NUM) % 2 == 0, y, 100 * jnp.asarray(draws[0]))
  flat = op.apply(jnp.eye(DIM))  # no eigenvalue stands out, the norm does
  for seen in (y, half_wrong, flat):
    assert not is_refused(seen)
  assert is_refused(draws[0], scaled) and not is_refused(flat, scaled)


def test_a_subset_is_the_smaller_operator(signal):
  op, y = signal
  kept = 150
  smaller = recovery.GaussianSensing(op.flat[:kept], op.dims)
  y = y.at[kept:].set(jnp.nan)  # not looked at
  subset = recovery.Subset(op, jnp.arange(NUM) < kept)
  assert int(subset.count) == kept and subset.size == NUM

  def run(op, y):
    start = recovery.sign_spectral(op, y, 3, alpha=1e-2)
    tx = recovery.q_normalized_geometric(eta0=0.25, rho=0.9)
    factors, trace = recovery.subgm(op, y, start, tx=tx, num_steps=40)
    return recovery.compose(factors), trace.value, recovery.growth_factor(op, y)

  for a, b in zip(jax.jit(run)(subset, y), jax.jit(run)(smaller, y[:kept]), strict=True):
    np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-5)


def test_the_sample_size_is_data(signal):
  op, y = signal

  @debug.count_traces
  def value(count):
    subset = recovery.Subset(op, jnp.arange(NUM) < count)
    zero = recovery.Factors(jnp.zeros((DIM, 1)), None)
    return recovery.l1_value_subgrad(subset, y, zero)[0]

  compiled = jax.jit(value)
  for count in (10, 400):
    np.testing.assert_allclose(compiled(count), np.mean(np.abs(y[:count])), rtol=1e-6)
  assert value.traces == 1
