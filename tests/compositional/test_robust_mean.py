"""Robust means of minibatches: exact on the whole data, right in the long run, careful at edges."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import compositional as comp
from jaxopt_robust import losses

SIZE = 8
GROUPS = np.array([0, 1, 1, 2, 0, 2, 1, 0], np.int32)  # of 4: the last never occurs
SHARES = np.array([3, 3, 2, 1]) / 8  # of the groups; that of the last plays no part

# name -> (initial state, call(losses, state, where, hyper), hyperparameters)
CASES = {
  "kl": (
    comp.kl_robust_mean_init,
    lambda l, s, w, h: comp.kl_robust_mean(l, s, temperature=h[0], rate=h[1], where=w),
    (0.7, 0.3),
  ),
  "kl_ball": (
    comp.kl_ball_robust_mean_init,
    lambda l, s, w, h: comp.kl_ball_robust_mean(l, s, radius=h[0], rate=h[1], where=w),
    (0.3, 0.5),
  ),
  "cvar": (
    comp.threshold_init,
    lambda l, s, w, h: comp.cvar_robust_mean(l, s, alpha=h[0], stepsize=h[1], where=w),
    (0.5, 0.1),
  ),
  "chi2": (
    comp.threshold_init,
    lambda l, s, w, h: comp.phi_divergence_robust_mean(
      l, s, temperature=h[0], conjugate=losses.chi2_conjugate, stepsize=h[1], where=w
    ),
    (0.7, 0.1),
  ),
  "group": (
    functools.partial(comp.group_robust_mean_init, 4),
    lambda l, s, w, h: comp.group_robust_mean(
      l, GROUPS, s, stepsize=h[0], rate=h[1], where=w
    ),
    (0.2, 0.5),
  ),
  "group, frequencies": (
    functools.partial(comp.group_robust_mean_init, 4),
    lambda l, s, w, h: comp.group_robust_mean(
      l, GROUPS, s, stepsize=h[0], rate=h[1], where=w, frequencies=SHARES
    ),
    (0.2, 1.0),
  ),
  "smoothed group": (
    functools.partial(comp.group_robust_mean_init, 4),
    lambda l, s, w, h: comp.smoothed_group_robust_mean(
      l, GROUPS, s, temperature=h[0], rate=h[1], where=w
    ),
    (0.5, 0.5),
  ),
}  # fmt: skip
every_case = pytest.mark.parametrize("name", CASES)
EVERY = np.ones(SIZE, bool)


@functools.cache
def compiled(name):
  call = CASES[name][1]
  return jax.jit(jax.value_and_grad(call, has_aux=True))


def run(name, loss, state=None, where=EVERY, hyper=None):
  """(surrogate, gradient in the losses, state, info)."""
  loss = jnp.asarray(loss)
  dtype = jnp.promote_types(loss.dtype, jnp.float32)
  state = CASES[name][0](dtype=dtype) if state is None else state
  hyper = jnp.asarray(CASES[name][2] if hyper is None else hyper, dtype)
  (value, (state, info)), grads = compiled(name)(loss, state, jnp.asarray(where), hyper)
  return value, grads, state, info


@pytest.fixture
def loss(rng):
  return rng.normal(size=SIZE) + 1


@pytest.mark.x64
def test_whole_data_with_rate_one_gives_the_exact_gradient(loss):
  exact_values = {
    "kl": lambda l: losses.kl_dro(l, 0.7),
    "cvar": lambda l: losses.cvar(l, 0.5),
    "chi2": lambda l: losses.chi2_dro(l, 0.7),
    "smoothed group": lambda l: losses.group_dro(l, GROUPS, num_groups=4, temperature=0.5),
  }
  exact = jax.jit(lambda l: {n: jax.value_and_grad(f)(l) for n, f in exact_values.items()})(loss)
  hypers = {"kl": (0.7, 1.0), "smoothed group": (0.5, 1.0)}
  for name, (value, weights) in exact.items():
    state = None
    if name == "cvar":  # strictly above the threshold: it must lie between two losses
      ordered = np.sort(loss)
      state = comp.ThresholdState(jnp.asarray(ordered[3:5].mean()), jnp.asarray(1, jnp.int32))
    _, grads, _, info = run(name, loss, state, hyper=hypers.get(name))
    np.testing.assert_allclose(info.objective, value, rtol=1e-11, err_msg=name)
    np.testing.assert_allclose(grads, weights, atol=1e-11, err_msg=name)
    if name != "smoothed group":
      np.testing.assert_allclose(info.weights, weights, atol=1e-11)
  # with the true shares the unbiased form is the plain one
  plain, other = (run(n, loss, hyper=(0.2, 1.0)) for n in ("group", "group, frequencies"))
  np.testing.assert_allclose(other[0], plain[0], rtol=1e-12)
  np.testing.assert_allclose(other[1], plain[1], rtol=1e-12)


@pytest.mark.x64
def test_kl_average_and_weights(rng):
  state, u = None, None
  for _ in range(3):
    loss = rng.normal(size=SIZE) * 3
    _, grads, state, info = run("kl", loss, state)
    fresh = np.mean(np.exp(loss / 0.7))
    u = fresh if u is None else 0.7 * u + 0.3 * fresh
    np.testing.assert_allclose(state.log_average, np.log(u), rtol=1e-12)
    np.testing.assert_allclose(info.weights, np.exp(loss / 0.7) / u / SIZE, rtol=1e-11)
    np.testing.assert_allclose(grads, info.weights, rtol=1e-12)
    np.testing.assert_allclose(info.objective, 0.7 * np.log(u), rtol=1e-12)
  assert int(state.steps) == 3


def stream(name, losses_of_all, hyper, count, *, tail):
  """Mean objective and final state over batches of fixed losses, drawn with replacement."""

  @jax.jit
  def go(key):
    def step(state, key):
      index = jax.random.randint(key, (SIZE,), 0, len(losses_of_all))
      _, (state, info) = CASES[name][1](losses_of_all[index], state, None, hyper)
      return state, (info.objective, state)

    state = CASES[name][0](dtype=losses_of_all.dtype)
    return jax.lax.scan(step, state, jax.random.split(key, count))[1]

  objective, states = go(jax.random.key(0))
  mean = lambda v: np.mean(v[-tail:], axis=0)
  return mean(objective), jax.tree.map(mean, states)


def test_averages_remove_the_bias_of_minibatches(rng):
  everything = jnp.asarray(rng.normal(size=200), jnp.float32)
  truth = float(losses.kl_dro(everything, 0.3))
  naive, _ = stream("kl", everything, (0.3, 1.0), 4000, tail=3000)
  ours, _ = stream("kl", everything, (0.3, 0.02), 4000, tail=3000)
  # the plug-in is biased by about lam Var(exp) / (2 B mean^2), which is large here
  assert naive < truth - 0.1
  assert abs(ours - truth) < 0.2 * abs(naive - truth)


def test_thresholds_and_temperatures_settle(rng):
  everything = jnp.asarray(rng.exponential(size=400), jnp.float32)
  # CVaR: the 1 - alpha quantile; the stationary noise is of the order of the step
  objective, state = stream("cvar", everything, (0.2, 0.02), 6000, tail=4000)
  np.testing.assert_allclose(state.threshold, losses.cvar_threshold(everything, 0.2), atol=0.06)
  np.testing.assert_allclose(objective, losses.cvar(everything, 0.2), rtol=0.03)
  objective, state = stream("chi2", everything, (1.0, 0.02), 6000, tail=4000)
  eta = losses.phi_divergence_dro_threshold(everything, 1.0, conjugate=losses.chi2_conjugate)
  np.testing.assert_allclose(state.threshold, eta, atol=0.05)
  np.testing.assert_allclose(objective, losses.chi2_dro(everything, 1.0), rtol=0.03)
  objective, state = stream("kl_ball", everything, (0.2, 0.02), 6000, tail=4000)
  lam = losses.kl_ball_dro_temperature(everything, 0.2)
  np.testing.assert_allclose(state.temperature, lam, rtol=0.1)
  np.testing.assert_allclose(objective, losses.kl_ball_dro(everything, 0.2), rtol=0.03)


@pytest.mark.x64
def test_joint_temperature_converges_on_fixed_losses(loss):
  @jax.jit
  def settle(radius, rate, floor):
    def step(_, state):
      options = {"radius": radius, "rate": rate, "stepsize": 0.3, "min_temperature": floor}
      return comp.kl_ball_robust_mean(loss, state, **options)[1][0]

    state = comp.kl_ball_robust_mean_init(temperature=2.0, dtype=jnp.float64)
    state = jax.lax.fori_loop(0, 4000, step, state)
    call = lambda l: comp.kl_ball_robust_mean(l, state, radius=radius, min_temperature=floor)
    (_, (_, info)), grads = jax.value_and_grad(call, has_aux=True)(jnp.asarray(loss))
    return state, info, grads

  for radius in (0.05, 0.4):
    for rate in (1.0, 0.3):
      state, info, grads = settle(radius, rate, 1e-3)
      lam = losses.kl_ball_dro_temperature(loss, radius)
      np.testing.assert_allclose(state.temperature, lam, rtol=1e-6)
      np.testing.assert_allclose(info.divergence, radius, rtol=1e-6)
      np.testing.assert_allclose(grads, losses.kl_ball_dro_weights(loss, radius), atol=1e-6)
      expected = losses.kl_ball_dro(loss, radius, min_temperature=1e-3)
      np.testing.assert_allclose(info.objective, expected, rtol=1e-6)
  state, info, _ = settle(50.0, 1.0, 0.2)  # more than log n: the least temperature binds
  np.testing.assert_allclose(state.temperature, 0.2, rtol=1e-12)
  expected = losses.kl_ball_dro(loss, 50.0, min_temperature=0.2)
  np.testing.assert_allclose(info.objective, expected, rtol=1e-6)


@pytest.mark.x64
def test_cvar_threshold_reaches_the_quantile_with_falling_steps(loss):
  ordered = np.sort(loss)

  @jax.jit
  def settle(alpha):
    def step(t, state):
      rate = 1.0 / (1.0 + t)
      return comp.cvar_robust_mean(loss, state, alpha=alpha, stepsize=rate)[1][0]

    start = comp.ThresholdState(jnp.asarray(5.0), jnp.asarray(1, jnp.int32))
    return jax.lax.fori_loop(0, 20000, step, start).threshold

  # a step is at most stepsize / alpha; what is left of the sum of 1 / t is far longer than the way
  np.testing.assert_allclose(settle(0.3), ordered[-3], atol=1e-3)  # the ceil(0.3 * 8) = 3rd
  middle = settle(0.5)  # any number between the 4th and the 5th
  assert ordered[-5] - 1e-3 <= middle <= ordered[-4] + 1e-3


@pytest.mark.x64
def test_group_weights_follow_their_closed_form(rng):
  state, total = None, np.zeros(4)
  averages, seen = np.zeros(4), np.zeros(4, bool)
  for t in range(5):
    loss = rng.normal(size=SIZE)
    where = np.ones(SIZE, bool)
    if t in (0, 3):
      where = GROUPS != 2  # the group is absent: it keeps its last average
    value, grads, state, info = run("group", loss, state, where)
    means = np.zeros(4)
    for k in range(3):
      kept = (k == GROUPS) & where
      if kept.any():
        means[k] = loss[kept].mean()
        averages[k] = 0.5 * averages[k] + 0.5 * means[k] if seen[k] else means[k]
        seen[k] = True
    total += 0.2 * averages
    q = np.exp(total) / np.exp(total).sum()
    np.testing.assert_allclose(info.group_weights, q, rtol=1e-11)
    np.testing.assert_allclose(value, q @ means, rtol=1e-11)
    np.testing.assert_allclose(info.group_losses, means, atol=1e-12)
    np.testing.assert_allclose(info.objective, averages[seen].max(), rtol=1e-11)
    size = np.array([max(((k == GROUPS) & where).sum(), 1) for k in range(4)])
    np.testing.assert_allclose(grads, np.where(where, (q / size)[GROUPS], 0), atol=1e-12)
  assert not bool(state.seen[3])


def test_frequencies_make_rare_groups_unbiased(rng):
  loss = rng.normal(size=200).astype(np.float32)
  groups = (np.arange(200) < 8).astype(np.int32)  # 4 %: missing from most batches of 8
  state = comp.group_robust_mean_init(2)

  def value(key, frequencies):
    index = jax.random.randint(key, (SIZE,), 0, 200)
    options = {"stepsize": 0.0, "frequencies": frequencies}
    return comp.group_robust_mean(
      jnp.asarray(loss)[index], jnp.asarray(groups)[index], state, **options
    )[0]

  keys = jax.random.split(jax.random.key(1), 20000)
  shares = jnp.array([0.96, 0.04])
  values = np.asarray(jax.jit(jax.vmap(lambda k: value(k, shares)))(keys))
  truth = 0.5 * loss[groups == 0].mean() + 0.5 * loss[groups == 1].mean()
  assert abs(values.mean() - truth) < 4 * values.std() / np.sqrt(len(values))


@every_case
def test_edges(name, loss):
  loss = np.asarray(loss, np.float32)
  _, _, state, _ = run(name, loss)
  where = np.arange(SIZE) % 3 != 1
  hidden = np.where(where, loss, np.nan).astype(np.float32)
  hidden[1] = np.inf
  value, grads, _, info = run(name, hidden, state, where)
  assert np.isfinite(value) and np.isfinite(info.objective)
  np.testing.assert_array_equal(grads[~where], 0)
  assert np.all(np.isfinite(grads)) and np.any(grads != 0)
  # nothing left: zero, and the state as it was; also at the very first batch
  for start in (state, None):
    value, grads, after, info = run(name, np.full(SIZE, np.nan, np.float32), start, ~EVERY)
    assert value == 0 and info.objective == 0 and not np.any(grads)
    before = CASES[name][0](dtype=jnp.float32) if start is None else start
    assert all(map(np.array_equal, before, after))
  # a NaN loss: the surrogate says so, the state is kept
  spoiled = loss.copy()
  spoiled[2] = np.nan
  value, _, after, _ = run(name, spoiled, state)
  assert np.isnan(value)
  assert all(map(np.array_equal, state, after))
  # huge losses
  value, grads, after, _ = run(name, np.float32(1e4) * loss, state)
  assert np.isfinite(value) and np.all(np.isfinite(grads))
  assert all(np.all(np.isfinite(leaf)) for leaf in after)


@every_case
def test_dtypes_and_no_retrace(name, loss):
  loss = np.asarray(loss, np.float32)
  value, _, state, _ = run(name, loss)
  size = compiled(name)._cache_size()
  assert value.dtype == jnp.float32
  again = run(name, loss, state, hyper=np.multiply(CASES[name][2], 0.9))
  assert compiled(name)._cache_size() == size  # neither the new state nor new numbers compile again
  assert [leaf.dtype for leaf in again[2]] == [leaf.dtype for leaf in state]
  half = jax.eval_shape(
    lambda l: CASES[name][1](l, state, None, CASES[name][2]), jnp.asarray(loss, jnp.bfloat16)
  )
  assert half[0].dtype == jnp.bfloat16
  assert [leaf.dtype for leaf in half[1][0]] == [leaf.dtype for leaf in state]


def test_groups_out_of_range_are_nan_under_jit():
  state = comp.group_robust_mean_init(2)
  call = jax.jit(lambda g: comp.group_robust_mean(jnp.ones(2), g, state))
  value, (after, _) = call(jnp.array([0, 2]))
  assert np.isnan(value) and all(map(np.array_equal, state, after))
