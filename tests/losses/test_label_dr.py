"""LDR-KL, its top-k flavour, and ALDR-KL against closed forms, brute force and theory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import losses
from jaxopt_robust.debug import count_traces

RAW = {"normalize": None}
ldr = jax.jit(losses.ldr_kl_loss, static_argnames="normalize")
weights_of = jax.jit(losses.ldr_weights, static_argnames="normalize")
topk = jax.jit(losses.ldr_kl_topk_loss, static_argnames=("k", "normalize"))
STATIC = ("normalize", "margin_in_p")
aldr = jax.jit(losses.aldr_kl_loss, static_argnames=STATIC)
aldr_exact = jax.jit(losses.aldr_kl_exact_loss, static_argnames=("normalize", "num_steps"))


def gaps(logits, labels, margin):
  rows = np.arange(len(labels))
  d = logits - logits[rows, labels][:, None] + margin
  d[rows, labels] = 0
  return d


def kl(p):
  return np.sum(np.where(p > 0, p * np.log(p.shape[-1] * np.where(p > 0, p, 1)), 0), axis=-1)


@pytest.fixture
def case(rng):
  return rng.normal(size=(5, 6)) * 2, rng.integers(0, 6, size=5)


@pytest.mark.x64
@pytest.mark.parametrize("temperature", [0.05, 0.7, 1.0, 30.0])
def test_value_is_the_tempered_log_mean_exponential(case, temperature):
  logits, labels = case
  d = gaps(logits, labels, 0.1)
  expected = temperature * np.log(np.mean(np.exp(d / temperature), axis=1))
  loss = ldr(logits, labels, temperature=temperature, **RAW)
  np.testing.assert_allclose(loss, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.x64
def test_special_case_of_cross_entropy_and_comp_sum(case):
  logits, labels = case
  loss = ldr(logits, labels, temperature=1.0, margin=0.0, **RAW)
  np.testing.assert_allclose(
    loss, losses.cross_entropy_loss(logits, labels) - np.log(6), rtol=1e-12
  )
  np.testing.assert_allclose(
    loss, losses.comp_sum_loss(logits, labels, tau=1.0) - np.log(6), rtol=1e-12
  )


def test_limits_of_the_temperature_in_float32(case):
  logits, labels = (jnp.asarray(v) for v in case)
  d = gaps(np.asarray(case[0], np.float32).astype(float), case[1], 0.1)
  value = lambda lam: ldr(logits, labels, temperature=lam, **RAW)
  hinge = losses.crammer_singer_loss(logits, labels, margin=0.1)
  for lam in (1e-3, 1e-10, 1e-30):  # within lam log K of the maximum
    assert np.all(hinge - value(lam) <= lam * np.log(6) + 1e-6)
    assert np.all(value(lam) <= hinge + 1e-6)
  for lam in (1e3, 1e8, 1e20, 1e37, np.inf):  # within var(d) / (2 lam) of the mean
    excess = value(lam) - d.mean(1)
    np.testing.assert_allclose(excess, d.var(1) / (2 * lam), atol=3e-6)
  grad = jax.grad(lambda f, lam: jnp.sum(ldr(f, labels, temperature=lam, **RAW)))
  steep, flat = grad(logits, 1e-30), grad(logits, np.inf)
  onehot = np.eye(6)[case[1]]
  np.testing.assert_allclose(flat, 1 / 6 - onehot, atol=1e-6)
  np.testing.assert_allclose(steep, np.eye(6)[d.argmax(1)] - onehot, atol=1e-6)


@pytest.mark.x64
def test_gradient_identities(case):
  logits, labels = jnp.asarray(case[0]), case[1]
  fun = lambda f, lam: ldr(f, labels, temperature=lam, **RAW)
  for lam in (0.3, 5.0):
    p = weights_of(logits, labels, temperature=lam, **RAW)
    np.testing.assert_allclose(p.sum(1), 1, rtol=1e-12)
    grads = jax.grad(lambda f, lam=lam: jnp.sum(fun(f, lam)))(logits)
    np.testing.assert_allclose(grads, p - np.eye(6)[labels], atol=1e-12)
    np.testing.assert_allclose(grads.sum(1), 0, atol=1e-12)
    # decreasing in the temperature with derivative -KL(p, 1/K)
    slope = jax.jacfwd(lambda lam: fun(logits, lam))(lam)
    np.testing.assert_allclose(slope, -kl(np.asarray(p)), rtol=1e-10)
    hessian = jax.jit(jax.hessian(lambda f, lam=lam: jnp.sum(fun(f, lam))))(logits)
    blocks = np.stack([hessian[i, :, i] for i in range(5)])
    expected = np.stack([(np.diag(q) - np.outer(q, q)) / lam for q in np.asarray(p)])
    np.testing.assert_allclose(blocks, expected, atol=1e-12)


def test_shift_invariance_and_symmetry(case):
  logits, labels = jnp.asarray(case[0], jnp.float32), jnp.asarray(case[1])
  for lam in (0.5, 10.0):
    a = ldr(logits, labels, temperature=lam, **RAW)
    b = ldr(logits + 3.0, labels, temperature=lam, **RAW)
    np.testing.assert_allclose(a, b, atol=1e-5)
  every = jax.vmap(lambda y: ldr(logits, jnp.full(5, y), temperature=jnp.inf, margin=0.3))(
    jnp.arange(6)
  )
  np.testing.assert_allclose(every.sum(0), 5 * 0.3, rtol=1e-5)  # K * margin * (K - 1) / K


def test_softplus_normalisation_is_scale_free_and_never_divides_by_zero():
  labels = jnp.array([0, 0])
  low = jnp.array([[-30.0, -31.0, -32.0], [-1000.0, -1001.0, -1002.0]])  # softplus(f) = exp(f)
  loss = ldr(low, labels, temperature=1.0)
  np.testing.assert_allclose(loss[1], loss[0], rtol=1e-5)
  f = np.exp([0, -1, -2.0])
  f = f / f.mean()
  d = gaps(f[None], [0], 0.1)
  np.testing.assert_allclose(loss[0], np.log(np.mean(np.exp(d))), rtol=1e-5)
  tiny = ldr(jnp.zeros((1, 3)), labels[:1], normalize="l1")
  np.testing.assert_allclose(tiny, 10 * np.log((1 + 2 * np.exp(0.01)) / 3), rtol=1e-5)
  same = ldr(low, labels, normalize="softplus_l1")
  np.testing.assert_array_equal(same, ldr(low, labels, normalize="softplus_mean"))


def brute_force_capped(d, lam, k):
  """max_p p.d - lam KL over p <= 1/k, by bisection on the multiplier in float64."""
  low, high = d.min() - lam * 50, d.max() + lam * 50
  for _ in range(200):
    nu = (low + high) / 2
    p = np.minimum(1 / k, np.exp((d - nu) / lam))
    low, high = (nu, high) if p.sum() > 1 else (low, nu)
  return p @ d - lam * kl(p), p


@pytest.mark.x64
@pytest.mark.parametrize("k", [1, 2, 3, 5, 6])
def test_topk_flavour_against_brute_force(rng, k):
  logits, labels = rng.normal(size=(40, 6)) * 2, rng.integers(0, 6, size=40)
  logits[:4] = np.round(logits[:4])  # ties
  lams = rng.uniform(0.05, 5, size=40)
  fun = jax.jit(
    jax.value_and_grad(lambda f: jnp.sum(topk(f, labels, k=k, temperature=lams, **RAW)))
  )
  d = gaps(logits, labels, 0.1)
  pairs = [brute_force_capped(row, lam, k) for row, lam in zip(d, lams, strict=True)]
  value, grads = fun(logits)
  np.testing.assert_allclose(value, sum(v for v, _ in pairs), rtol=1e-10)
  weights = np.stack([p for _, p in pairs])
  np.testing.assert_allclose(grads, weights - np.eye(6)[labels], atol=1e-9)
  # no random feasible point does better
  trial = rng.dirichlet(np.ones(6), size=2000)
  trial = trial[(trial <= 1 / k).all(1)]
  if len(trial):
    objective = trial @ d[0] - lams[0] * kl(trial)
    assert objective.max() <= pairs[0][0] + 1e-12


def test_topk_limits(case):
  logits, labels = jnp.asarray(case[0]), jnp.asarray(case[1])
  d = gaps(case[0], case[1], 0.1)
  top = np.sort(d, axis=1)[:, ::-1]
  for k in (2, 4):
    loss = topk(logits, labels, k=k, temperature=1e-6, **RAW)
    np.testing.assert_allclose(loss, top[:, :k].mean(1), atol=2e-5)
  whole = topk(logits, labels, k=6, temperature=0.1, **RAW)
  np.testing.assert_allclose(whole, d.mean(1), rtol=1e-5, atol=1e-5)
  one = topk(logits, labels, k=1, **RAW)
  np.testing.assert_allclose(one, ldr(logits, labels, **RAW), rtol=1e-5)


ALDR_SETTINGS = [(lam, alpha) for lam in (0.3, 1.0, 10.0) for alpha in (1.1, 2.0)]


@pytest.mark.x64
@pytest.mark.parametrize(("lam_0", "alpha"), ALDR_SETTINGS)
def test_exact_aldr_is_the_maximum(rng, lam_0, alpha):
  logits, labels = rng.normal(size=(64, 5)) * 3, rng.integers(0, 5, size=64)
  logits[:16] = np.where(logits[:16] > 0, 5.0, 0.0)  # two levels: two local maxima occur
  options = {"temperature": lam_0, "alpha": alpha, "normalize": None}
  value = aldr_exact(logits, labels, num_steps=100, **options)
  grid = np.linspace(lam_0 * (1 - 1 / alpha), lam_0, 3001)
  by_lam = jax.vmap(lambda lam: ldr(logits, labels, temperature=lam, **RAW))(jnp.asarray(grid))
  penalty = alpha * np.log(5) / (2 * lam_0) * (grid - lam_0) ** 2
  best = np.max(by_lam - penalty[:, None], axis=0)
  # a grid of 3000 points is below the maximum by at most curvature * spacing^2
  assert np.all(value >= best - 1e-12)
  np.testing.assert_allclose(value, best, atol=5e-6 * lam_0 + 1e-9)
  # at least the loss at the reference temperature, at most that at the lowest one
  assert np.all(value >= by_lam[-1] - 1e-12)


def test_two_starts_are_needed():
  # one class far ahead of many: from lam_0 alone the iteration stops at the worse maximum
  rng = np.random.default_rng(0)
  logits = np.where(rng.uniform(size=(400, 25)) < rng.uniform(size=(400, 1)), 0.0, 1.0)
  logits = logits * 10 ** rng.uniform(0, 1, size=(400, 1))
  labels = np.argmin(logits, axis=1)
  options = {"temperature": 1.0, "alpha": 1.01, "margin": 0.0, "normalize": None}
  both = aldr_exact(logits, labels, num_steps=100, **options)
  state = losses.aldr_init(400, temperature=1.0)
  visit = jax.jit(
    lambda state: losses.aldr_kl_loss(
      logits, labels, jnp.arange(400), state, margin_in_p=True, **options
    )
  )
  for _ in range(100):
    one, state = visit(state)
  assert np.all(both >= one - 1e-4)
  assert np.max(both - one) > 0.01


@pytest.mark.x64
def test_visits_converge_to_the_exact_loss(case):
  logits, labels = jnp.asarray(case[0]), case[1]
  options = {"temperature": 2.0, "alpha": 2.0}
  state = losses.AldrState(jnp.full(5, 2.0))  # float64, so that the fixed point is seen sharply
  for _ in range(60):
    loss, state = aldr(logits, labels, jnp.arange(5), state, margin_in_p=True, **options)
  exact = aldr_exact(logits, labels, **options)
  # the published 1e-5 added to the probabilities moves the temperature by O(1e-5), the value at
  # its maximum by O(1e-10)
  np.testing.assert_allclose(loss, exact, atol=1e-8)
  assert np.all(state.temperature <= 2.0) and np.all(state.temperature >= 1.0)


def test_visit_follows_the_published_order(case):
  logits, labels = np.asarray(case[0], np.float32), case[1]
  index, lam_0, alpha, margin = np.array([3, 0, 7, 5, 1]), 3.0, 1.7, 0.2
  start = np.linspace(1.5, 3.0, 8, dtype=np.float32)
  options = {"temperature": lam_0, "alpha": alpha, "margin": margin}
  loss, state = aldr(logits, labels, index, losses.AldrState(start), **options)
  f = logits / (np.abs(logits).mean(1, keepdims=True))
  p = np.exp(f / start[index][:, None])
  p = p / p.sum(1, keepdims=True) + 1e-5
  p = p / p.sum(1, keepdims=True)
  lam = lam_0 - lam_0 * kl(p) / (alpha * np.log(6))
  d = gaps(f, labels, margin)
  expected = lam * np.log(np.mean(np.exp(d / lam[:, None]), axis=1))
  expected -= alpha * np.log(6) / (2 * lam_0) * (lam - lam_0) ** 2
  np.testing.assert_allclose(loss, expected, rtol=2e-5, atol=1e-5)
  np.testing.assert_allclose(state.temperature[index], lam, rtol=1e-5)
  untouched = np.setdiff1d(np.arange(8), index)
  np.testing.assert_array_equal(state.temperature[untouched], start[untouched])
  assert state.temperature.dtype == jnp.float32


def test_no_gradient_through_the_adapted_temperature(case):
  logits, labels = jnp.asarray(case[0], jnp.float32), case[1]
  state = losses.aldr_init(5, temperature=2.0)

  def total(f):
    loss, new = aldr(f, labels, jnp.arange(5), state, temperature=2.0, normalize=None)
    return jnp.sum(loss), new

  grads, new = jax.grad(total, has_aux=True)(logits)
  p = weights_of(logits, labels, temperature=new.temperature, **RAW)
  np.testing.assert_allclose(grads, p - np.eye(6)[labels], atol=1e-5)


def test_uncertain_examples_get_the_reference_temperature():
  logits = jnp.array([[0.0, 0.0, 0.0], [1e4, 0.0, 0.0]])
  _, state = aldr(logits, jnp.array([0, 0]), jnp.arange(2), losses.aldr_init(2), normalize=None)
  # KL is 0 for the first; log K less the entropy of (1, 1e-5, 1e-5), renormalised, for the second
  p = np.array([1 + 1e-5, 1e-5, 1e-5]) / (1 + 3e-5)
  np.testing.assert_allclose(state.temperature, [10.0, 10 - 5 * kl(p) / np.log(3)], rtol=1e-6)
  assert abs(float(state.temperature[1]) - 5.0) < 2e-3


def test_masked_and_invalid_rows_leave_the_state_alone(case):
  logits = jnp.asarray(case[0], jnp.float32).at[1].set(jnp.nan)
  labels = jnp.asarray(case[1])
  where = jnp.array([True, False, True, True, True])
  call = jax.jit(
    lambda index, labels: aldr(logits, labels, index, losses.aldr_init(6), where=where)
  )
  index = jnp.array([0, 99, 2, -1, 4])  # row 1 is masked, row 3 is out of range
  loss, state = call(index, labels.at[4].set(17))  # row 4 has no such label
  np.testing.assert_array_equal(jnp.isnan(loss), [False, False, False, True, True])
  assert float(loss[1]) == 0.0
  np.testing.assert_array_equal(state.temperature[jnp.array([1, 3, 4, 5])], 10.0)
  assert np.all(state.temperature[jnp.array([0, 2])] < 10.0)


def test_state_is_carried_by_scan_without_retracing(case):
  logits, labels = jnp.asarray(case[0], jnp.float32), jnp.asarray(case[1])
  state = losses.aldr_init(5)

  @count_traces
  def visit(state, lam_0):
    step = lambda s, _: aldr(logits, labels, jnp.arange(5), s, temperature=lam_0)[::-1]
    return jax.lax.scan(step, state, None, length=3)

  jitted = jax.jit(visit)
  for lam_0 in (1.0, 2.0):
    state, _ = jitted(state, lam_0)
  assert visit.traces == 1
