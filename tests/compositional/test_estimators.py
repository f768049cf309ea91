"""Inner estimators: recursions, special cases, first visits, duplicates, bad rows, variance."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import compositional as co
from jaxopt_robust.debug import count_traces
from tests.registries.compositional_core import ESTIMATORS

every_case = pytest.mark.parametrize("case", ESTIMATORS, ids=str)
NUM, BATCH = 7, 4
CLIP = (1e-3, 1e3)


@functools.cache
def updater(case):
  """Jitted update; one shape for all tests, the hyper-parameter is data."""

  def update(hyper, state, index, values, previous, where):
    estimator = case.make(hyper)
    previous = previous if case.needs_previous else None
    return estimator.update(state, index, values, previous, where=where)

  return jax.jit(update)


def encode(case, values):
  return np.log(values) if case.log else np.asarray(values)


def update(case, state, index, values, previous=None, where=None, hyper=None):
  previous = values if previous is None else previous
  where = np.ones(BATCH, bool) if where is None else where
  hyper = case.hyper if hyper is None else hyper
  dtype = jnp.result_type(float)
  return updater(case)(
    jnp.asarray(hyper, dtype), state, jnp.asarray(index), jnp.asarray(encode(case, values), dtype),
    jnp.asarray(encode(case, previous), dtype), jnp.asarray(where),
  )  # fmt: skip


def fresh(case):
  return case.make(case.hyper).init(NUM, jnp.zeros(()), dtype=jnp.result_type(float))


def filled(case, values):
  state = fresh(case)
  return state._replace(value=jnp.asarray(encode(case, values)), seen=jnp.ones(NUM, bool))


def expected(case, old, now, before):
  """The recursion of each estimator, by hand."""
  b = case.hyper
  if case.name == "inner_batch":
    return now
  if case.name == "inner_ema":
    return (1 - b) * old + b * now
  if case.name == "inner_scent":
    a = np.exp(b)
    rate = a * old / (1 + a * old)  # a moving average with this rate
    return (1 - rate) * old + rate * now
  theta = 1 - b
  if case.name == "inner_msvr":
    theta += (NUM - BATCH) / (BATCH * (1 - b))
  return np.clip(
    (1 - b) * old + b * now + theta * (now - before), *CLIP if case.log else (None, None)
  )


@pytest.mark.x64
@every_case
def test_recursion_first_visit_and_untouched_rows(case, rng):
  old, now = rng.uniform(0.5, 2, NUM), rng.uniform(0.5, 2, BATCH)
  before = now + rng.uniform(-0.1, 0.1, BATCH)
  index = np.array([3, 0, 6, 5])
  state, u = update(case, filled(case, old), index, now, before)
  want = expected(case, old[index], now, before)
  if case.name == "inner_msvr" and not case.log:
    want = np.clip(want, *CLIP)
  np.testing.assert_allclose(u, encode(case, want), rtol=1e-11, atol=1e-12)
  full = encode(case, old)
  full[index] = u
  np.testing.assert_array_equal(state.value, full)
  assert int(state.count) == 1

  # At the first visit the value is taken whole, and what came before it may be anything.
  state, u = update(case, fresh(case), index, now, np.full(BATCH, np.nan))
  np.testing.assert_allclose(u, encode(case, now), rtol=1e-12, atol=1e-14)
  assert state.seen.tolist() == [True, False, False, True, False, True, True]


@every_case
def test_duplicates_masks_nan_and_bad_indices(case, rng):
  old = rng.uniform(0.5, 2, NUM).astype(np.float32)
  index, values = np.array([2, 2, 4, 2]), np.array([1.0, 2.0, 0.7, 0.3], np.float32)
  merged = np.array([1.1, 0.7, 9.0, 9.0], np.float32)  # the mean of the three rows of example 2
  state, u = update(case, filled(case, old), index, values)
  alone, v = update(
    case, filled(case, old), np.array([2, 4, 0, 1]), merged,
    where=np.array([True, True, False, False]),
  )  # fmt: skip
  if case.name != "inner_msvr":  # its correction depends on the batch size, not on its content
    np.testing.assert_allclose(u, v[jnp.array([0, 0, 1, 0])], rtol=1e-5)
  assert float(u[0]) == float(u[1]) == float(u[3])
  np.testing.assert_allclose(state.value, alone.value, rtol=1e-5)
  # Another order of the same rows, the same state.
  order = np.array([3, 2, 1, 0])
  again, _ = update(case, filled(case, old), index[order], values[order])
  np.testing.assert_allclose(again.value, state.value, rtol=1e-6)

  start = filled(case, old)
  where = np.array([True, False, False, True])
  state, u = update(case, start, [1, 3, 99, -1], [1.0, np.nan, 1.0, 1.0], where=where)
  keep = np.ones(NUM, bool)
  keep[1] = False
  np.testing.assert_array_equal(state.value[keep], start.value[keep])
  assert np.isnan(u).tolist() == [False, True, True, True]

  state, u = update(case, fresh(case), [1, 3, 0, 2], [1.0, np.nan, 1.0, 1.0])
  assert np.isnan(u).tolist() == [False, True, False, False]
  assert state.seen.tolist() == [True, True, True, False] + [False] * 3


@every_case
def test_hyper_parameters_are_data(case, rng):
  counted = count_traces(lambda hyper, state: case.make(hyper).update(
    state, jnp.arange(BATCH), jnp.ones(BATCH), jnp.ones(BATCH) if case.needs_previous else None
  ))  # fmt: skip
  jitted = jax.jit(counted)
  state = fresh(case)
  for hyper in (0.2, 0.3, 0.4):
    state, _ = jitted(jnp.float32(hyper), state)
  assert counted.traces == 1
  assert state.value.dtype == jnp.float32 and not state.value.weak_type


@pytest.mark.x64
@pytest.mark.parametrize("log", [True, False])
def test_special_cases_of_the_family(log, rng):
  """MSVR with the whole data as batch is STORM; STORM and the average at rate 1 are the batch."""
  domain = "log" if log else "linear"
  to = np.log if log else np.asarray
  index = jnp.arange(BATCH)
  values, before = rng.uniform(1, 2, (2, 20, BATCH))
  storm = co.inner_storm(0.2, clip=CLIP, domain=domain)
  msvr = co.inner_msvr(0.2, clip=CLIP, domain=domain)
  start = storm.init(BATCH, jnp.zeros(()), dtype=jnp.float64)
  one, two = start, start
  for g, h in zip(values, before, strict=True):
    one, u = storm.update(one, index, to(g), to(h))
    two, v = msvr.update(two, index, to(g), to(h))
    np.testing.assert_allclose(u, v, rtol=1e-12, atol=1e-12)
  plain, _ = co.inner_storm(1.0, clip=CLIP, domain=domain).update(one, index, to(g), to(h))
  ema, _ = co.inner_ema(1.0, domain=domain).update(one, index, to(g))
  batch, _ = co.inner_batch(domain=domain).update(one, index, to(g))
  np.testing.assert_allclose(plain.value, batch.value, rtol=1e-12, atol=1e-13)
  np.testing.assert_allclose(ema.value, batch.value, rtol=1e-12, atol=1e-13)


@pytest.mark.x64
def test_scent_is_an_average_with_an_adaptive_rate(rng):
  """For step sizes over twelve orders of magnitude."""
  log_a = np.log(10.0) * np.arange(-6, 7)
  nu, s = rng.uniform(-3, 3, (2, 13))
  step = jax.vmap(lambda a, nu, s: co.inner_scent(a).update(
    co.InnerState(nu[None], jnp.ones(1, bool), None, jnp.zeros((), jnp.int32)),
    jnp.zeros(1, jnp.int32), s[None],
  )[1][0])  # fmt: skip
  u, g = np.exp(nu), np.exp(s)
  a = np.exp(log_a)
  rate = a * u / (1 + a * u)
  np.testing.assert_allclose(np.exp(step(log_a, nu, s)), (1 - rate) * u + rate * g, rtol=1e-10)
  # the mirror-prox form of the same step
  np.testing.assert_allclose(np.exp(step(log_a, nu, s)), (1 + a * g) / (a + 1 / u), rtol=1e-10)


def test_stationary_variance_of_the_average():
  """At fixed parameters the average of values of variance v has variance gamma / (2 - gamma) v."""
  gamma, steps = 0.1, 100_000
  estimator = co.inner_ema(gamma, domain="linear")
  values = 3 + jax.random.normal(jax.random.key(0), (steps, 50))  # 50 examples at once

  def step(state, g):
    return estimator.update(state, jnp.arange(50), g)

  _, u = jax.jit(lambda v: jax.lax.scan(step, estimator.init(50), v))(values)
  variance = float(jnp.mean(jnp.var(u[1000:], axis=0)))
  assert abs(variance / (gamma / (2 - gamma)) - 1) < 0.05


def test_no_overflow_in_the_log_domain():
  estimator = co.inner_ema(0.5)
  state = estimator.init(1)
  for value in (500.0, -500.0, 2000.0):
    state, u = estimator.update(state, jnp.array([0]), jnp.array([value]))
  np.testing.assert_allclose(u, 2000 - np.log(2), rtol=1e-6)


def test_a_schedule_of_rates_reads_the_count():
  estimator = co.inner_ema(lambda count: 1 / (1 + count), domain="linear")  # the running mean
  state = estimator.init(1)
  for value in (1.0, 2.0, 6.0):
    state, u = estimator.update(state, jnp.array([0]), jnp.array([value]))
  assert float(u[0]) == pytest.approx(3.0)
