"""Contrastive losses against closed forms, brute force, masks and finite differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import losses
from tests.helpers import central_difference

ANCHORS, CANDIDATES = 6, 9
POSITIVES = np.array([0, 3, 8, 3, 5, 7], np.int32)
EVERY = np.ones((ANCHORS, CANDIDATES), bool)
BOUNDS = (0.05, 1.0)

# name -> (loss, hyper-parameters); "robust" is tested with an interior temperature below.
LOSSES = {
  "info_nce": (losses.info_nce_loss, {"temperature": 0.2}),
  "global": (losses.global_contrastive_loss, {"temperature": 0.2, "radius": 0.3}),
  "robust": (losses.robust_global_contrastive_loss, {"radius": 0.3}),
}
every_loss = pytest.mark.parametrize("name", LOSSES)


@functools.cache
def compiled(name):
  """Jitted ``(scores, positives, hyper, where) -> (values, gradient of their sum)``."""
  loss = LOSSES[name][0]

  def evaluate(scores, positives, hyper, where):
    def total(s):
      values = loss(s, positives, where=where, **hyper)
      return jnp.sum(values), values

    grads, values = jax.grad(total, has_aux=True)(scores)
    return values, grads

  return jax.jit(evaluate)


def evaluate(name, scores, positives=POSITIVES, where=EVERY, **hyper):
  hyper = {k: np.asarray(v, np.float32) for k, v in {**LOSSES[name][1], **hyper}.items()}
  return compiled(name)(scores, positives, hyper, where)


@pytest.fixture
def scores(rng):
  return jnp.asarray(rng.uniform(-1, 1, (ANCHORS, CANDIDATES)), jnp.result_type(float))


def negatives(scores, positives=POSITIVES):
  """float64[anchors, candidates - 1], scores of the negatives minus that of the positive."""
  scores = np.asarray(scores, np.float64)
  keep = np.arange(scores.shape[1]) != positives[:, None]
  gap = scores - np.take_along_axis(scores, positives[:, None], 1)
  return gap[keep].reshape(len(scores), -1)


def log_mean_exp(x):
  return np.log(np.mean(np.exp(x - x.max(1, keepdims=True)), axis=1)) + x.max(1)


def kl_of(gap, tau):
  p = np.exp(gap / tau - (gap / tau).max(1, keepdims=True))
  p /= p.sum(1, keepdims=True)
  return np.sum(p * np.log(p * gap.shape[1]), axis=1)


@every_loss
def test_shape_and_dtype(name, scores):
  values, grads = evaluate(name, scores)
  assert values.shape == (ANCHORS,) and values.dtype == jnp.float32 and not values.weak_type
  assert grads.shape == scores.shape
  stacked = jax.eval_shape(LOSSES[name][0], jnp.zeros((2, 3, 4)), jnp.zeros((2, 3), int))
  assert stacked.shape == (2, 3)
  half = jax.eval_shape(LOSSES[name][0], jnp.zeros((2, 3), jnp.bfloat16), jnp.zeros(2, int))
  assert half.dtype == jnp.bfloat16


def test_half_precision_is_computed_in_float32(scores):
  half = scores.astype(jnp.bfloat16)
  values, grads = evaluate("global", half)
  assert values.dtype == grads.dtype == jnp.bfloat16
  wide, _ = evaluate("global", half.astype(jnp.float32))
  # one rounding of the result, 2^-8 relative
  np.testing.assert_allclose(values.astype(np.float32), wide, rtol=2**-8)


@pytest.mark.x64
def test_values_are_the_formulas(scores):
  gap = negatives(scores)
  tau = np.float64(np.float32(0.2))
  rho = np.float64(np.float32(0.3))
  expected = np.log1p(np.sum(np.exp(gap / tau), axis=1))
  np.testing.assert_allclose(evaluate("info_nce", scores)[0], expected, rtol=1e-12)
  expected = tau * log_mean_exp(gap / tau) + tau * rho
  np.testing.assert_allclose(evaluate("global", scores)[0], expected, rtol=1e-11, atol=1e-13)
  # the positive is in the denominator of one loss only
  through = np.asarray(evaluate("global", scores, radius=0.0)[0]) / tau
  np.testing.assert_allclose(
    evaluate("info_nce", scores)[0], np.log1p(gap.shape[1] * np.exp(through)), rtol=1e-11
  )


@pytest.mark.x64
@every_loss
def test_gradient_against_finite_differences(name, scores):
  _, grads = evaluate(name, scores)
  total = lambda s: np.sum(evaluate(name, s)[0])
  np.testing.assert_allclose(grads, central_difference(total, scores), rtol=1e-6, atol=2e-8)


@every_loss
def test_float32_is_near_float64(name, scores):
  with jax.enable_x64(True):
    wide, wide_grads = evaluate(name, np.asarray(scores, np.float64))
  values, grads = evaluate(name, scores)
  np.testing.assert_allclose(values, wide, rtol=2e-5, atol=1e-6)
  np.testing.assert_allclose(grads, wide_grads, rtol=1e-4, atol=2e-5)


@every_loss
def test_masked_candidates_do_not_count(name, scores):
  where = EVERY.copy()
  where[:, 1] = where[:, 6] = False  # never a positive
  kept = np.delete(np.asarray(scores), [1, 6], axis=1)
  positives = np.array([0, 2, 6, 2, 4, 5], np.int32)
  hidden = scores.at[:, 1].set(jnp.nan).at[:, 6].set(jnp.inf)
  values, grads = evaluate(name, hidden, where=where)
  hyper = {k: np.float32(v) for k, v in LOSSES[name][1].items()}
  expected, expected_grads = compiled(name)(kept, positives, hyper, np.ones(kept.shape, bool))
  np.testing.assert_allclose(values, expected, rtol=1e-5, atol=1e-6)
  np.testing.assert_array_equal(grads[:, [1, 6]], 0)
  np.testing.assert_allclose(np.delete(grads, [1, 6], 1), expected_grads, rtol=1e-4, atol=1e-5)


@every_loss
def test_rows_without_positive_or_negatives_are_zero(name, scores):
  where = EVERY.copy()
  where[0] = False  # nothing at all
  where[1, 3] = False  # no positive
  where[2] = np.arange(CANDIDATES) == 8  # no negatives
  hidden = scores.at[0].set(jnp.nan).at[1, 3].set(jnp.nan)
  positives = np.where(np.arange(ANCHORS) == 0, -1, POSITIVES).astype(np.int32)
  values, grads = evaluate(name, hidden, positives, where)
  np.testing.assert_array_equal(values[:3], 0)
  np.testing.assert_array_equal(grads[:3], 0)
  np.testing.assert_allclose(values[3:], evaluate(name, scores)[0][3:], rtol=1e-5, atol=1e-6)
  assert np.all(np.isfinite(grads))


@every_loss
def test_positions_out_of_range_are_nan_under_jit(name, scores):
  bad = np.array([0, -1, CANDIDATES, 3, 5, 7], np.int32)
  values, grads = evaluate(name, scores, bad)
  np.testing.assert_array_equal(np.isnan(values), [False, True, True, False, False, False])
  assert np.all(np.isfinite(grads))


@every_loss
def test_huge_scores_are_finite(name, scores):
  for factor in (1e4, -1e4):
    values, grads = evaluate(name, factor * jnp.sign(scores))
    assert np.all(np.isfinite(values)) and np.all(np.isfinite(grads))
  constant, grads = evaluate(name, jnp.full_like(scores, 1e4))
  assert np.all(np.isfinite(constant)) and np.all(np.isfinite(grads))


@every_loss
def test_adding_a_constant_to_a_row_changes_nothing(name, scores):
  values, grads = evaluate(name, scores)
  shifted, shifted_grads = evaluate(name, scores + jnp.arange(float(ANCHORS))[:, None])
  np.testing.assert_allclose(shifted, values, atol=2e-5)
  np.testing.assert_allclose(shifted_grads, grads, atol=5e-5)
  np.testing.assert_allclose(np.sum(grads, 1), 0, atol=1e-5)


@every_loss
def test_hyper_parameters_one_an_anchor_are_data(name, scores):
  hyper = LOSSES[name][1]
  factors = 1 + 0.1 * np.arange(ANCHORS, dtype=np.float32)
  evaluate(name, scores)
  size = compiled(name)._cache_size()
  single = [
    evaluate(name, scores, **{k: v * f for k, v in hyper.items()})[0][i]
    for i, f in enumerate(factors)
  ]
  assert compiled(name)._cache_size() == size  # new numbers, the same program
  assert np.ptp([float(evaluate(name, scores, **{k: v * f for k, v in hyper.items()})[0][0])
                 for f in factors]) > 1e-3  # fmt: skip
  together = evaluate(name, scores, **{k: v * factors for k, v in hyper.items()})[0]
  np.testing.assert_allclose(together, single, rtol=1e-5, atol=1e-6)


def test_limits_of_the_temperature(scores):
  gap = negatives(scores)
  value = lambda tau: evaluate("global", scores, temperature=tau, radius=0.0)
  for tau in (1e-3, 1e-10, 1e-30):  # within tau log m of the maximum
    values, grads = value(tau)
    assert np.all(gap.max(1) - values <= tau * np.log(gap.shape[1]) + 1e-6)
    assert np.all(values <= gap.max(1) + 1e-6) and np.all(np.isfinite(grads))
  for tau in (1e3, 1e20, np.inf):  # within var / (2 tau) of the mean
    np.testing.assert_allclose(value(tau)[0], gap.mean(1) + gap.var(1) / (2 * tau), atol=2e-6)


@pytest.mark.x64
def test_derivative_in_the_temperature_is_radius_minus_divergence(scores):
  total = lambda tau: losses.global_contrastive_loss(scores, POSITIVES, temperature=tau, radius=0.3)
  _, slope = jax.jvp(total, (0.2,), (1.0,))
  np.testing.assert_allclose(slope, 0.3 - kl_of(negatives(scores), 0.2), rtol=1e-10, atol=1e-12)


temperatures = jax.jit(losses.robust_contrastive_temperatures)


@pytest.mark.x64
def test_robust_temperatures_solve_their_equation(scores):
  gap = negatives(scores)
  tau = np.asarray(temperatures(scores, POSITIVES, radius=0.3, temperature_bounds=BOUNDS))
  assert np.all((tau > 0.05) & (tau < 1))
  np.testing.assert_allclose(kl_of(gap, tau[:, None]), 0.3, rtol=1e-10)
  robust = jax.jit(losses.robust_global_contrastive_loss)
  value = robust(scores, POSITIVES, radius=0.3, temperature_bounds=BOUNDS)
  grid = np.exp(np.linspace(np.log(0.05), 0, 400))
  curve = np.stack([t * log_mean_exp(gap / t) + t * 0.3 for t in grid])
  assert np.all(value <= curve.min(0) + 1e-12)  # the brute force cannot beat it
  np.testing.assert_allclose(value, curve.min(0), atol=1e-4)  # and comes close


@pytest.mark.x64
def test_robust_loss_is_the_worst_case_over_a_ball(scores, rng):
  """max over KL(p) <= rho of p.h - tau_min KL(p), plus tau_min rho; attained by p_tau."""
  gap, low = negatives(scores), 0.05
  rho, bounds = np.float64(0.3), (np.float64(0.05), np.float64(1.0))
  robust = jax.jit(losses.robust_global_contrastive_loss)
  value = np.asarray(robust(scores, POSITIVES, radius=rho, temperature_bounds=bounds))
  tau = np.asarray(temperatures(scores, POSITIVES, radius=0.3, temperature_bounds=BOUNDS))
  p = np.exp(gap / tau[:, None])
  p /= p.sum(1, keepdims=True)
  kl = np.sum(p * np.log(p * gap.shape[1]), 1)
  np.testing.assert_allclose(np.sum(p * gap, 1) - low * kl + low * 0.3, value, atol=1e-9)
  ball = jax.jit(functools.partial(losses.kl_ball_dro, radius=0.3, min_temperature=low))(gap)
  np.testing.assert_allclose(ball + low * 0.3, value, rtol=1e-10)
  others = rng.dirichlet(np.full(gap.shape[1], 0.7), (2000, ANCHORS))
  divergence = np.sum(others * np.log(others * gap.shape[1] + 1e-300), -1)
  reached = np.sum(others * gap, -1) - low * divergence + low * 0.3
  inside = divergence <= 0.3
  assert inside.sum() > 100 and np.all(np.where(inside, reached, -np.inf) <= value + 1e-12)


@pytest.mark.x64
def test_robust_derivatives_of_second_order_see_the_temperature_move(scores):
  direction = np.cos(np.arange(float(scores.size))).reshape(scores.shape)

  def slope(step):
    """Derivatives along a direction of the sum of the losses and of the temperatures."""

    def totals(t):
      moved = scores + t * direction
      tau = losses.robust_contrastive_temperatures(moved, POSITIVES, radius=0.3)
      return jnp.sum(losses.robust_global_contrastive_loss(moved, POSITIVES, radius=0.3)), tau

    return jax.jvp(totals, (step,), (1.0,))

  both = jax.jit(lambda t: (slope(t), jax.jvp(slope, (t,), (1.0,))[1]))
  (_, (first, tau_first)), (_, (second, _)) = both(0.0)
  (tau_low, (slope_low, _)), (tau_high, (slope_high, _)) = (both(t)[0] for t in (-1e-5, 1e-5))
  np.testing.assert_allclose(second, (slope_high - slope_low) / 2e-5, rtol=1e-6)
  np.testing.assert_allclose(tau_first, (tau_high[1] - tau_low[1]) / 2e-5, rtol=1e-5, atol=1e-8)
  assert np.any(np.abs(tau_first) > 1e-3) and np.isfinite(first)


def test_robust_temperatures_at_the_bounds(scores):
  solve = lambda s, rho: temperatures(s, POSITIVES, radius=rho, temperature_bounds=BOUNDS)
  log_m = np.log(CANDIDATES - 1)
  np.testing.assert_array_equal(solve(scores, 0.0), 1.0)  # any divergence is too much
  np.testing.assert_array_equal(solve(scores, log_m), np.float32(0.05))  # none is too much
  equal = jnp.zeros_like(scores)  # no divergence at any temperature
  np.testing.assert_array_equal(solve(equal, 0.3), np.float32(0.05))
  # at a bound the value's derivative in the bound is that of the formula, inside it is 0
  slope = jax.jit(
    jax.jacfwd(
      lambda high: losses.robust_global_contrastive_loss(
        scores, POSITIVES, radius=0.01, temperature_bounds=(0.05, high)
      )
    )
  )
  np.testing.assert_allclose(slope(0.5), 0.01 - kl_of(negatives(scores), 0.5), rtol=1e-4, atol=1e-6)
  np.testing.assert_array_equal(slope(30.0), 0)


views = jax.jit(losses.two_view_scores, static_argnames="normalize")


def test_two_view_scores(rng):
  z1, z2 = (jnp.asarray(rng.normal(size=(4, 3)), jnp.float32) for _ in range(2))
  scores, pos_index, where = views(z1, z2)
  z = np.concatenate([z1, z2])
  z /= np.linalg.norm(z, axis=1, keepdims=True)
  np.testing.assert_allclose(scores, z @ z.T, atol=1e-6)
  np.testing.assert_array_equal(pos_index, [4, 5, 6, 7, 0, 1, 2, 3])
  np.testing.assert_array_equal(where, ~np.eye(8, dtype=bool))
  raw, _, _ = views(z1, z2, normalize=False)
  both = np.concatenate([z1, z2])
  np.testing.assert_allclose(raw, both @ both.T, rtol=1e-5, atol=1e-6)
  # its negatives are the 2 batch - 2 views of other examples
  off = np.array([[j not in (i, (i + 4) % 8) for j in range(8)] for i in range(8)])
  gap = (z @ z.T - np.sum(z * np.roll(z, 4, axis=0), 1)[:, None])[off].reshape(8, 6)
  value = jax.jit(losses.global_contrastive_loss)
  values = value(scores, pos_index, temperature=0.5, where=where)
  np.testing.assert_allclose(values, 0.5 * log_mean_exp(gap / 0.5), atol=1e-5)


def supcon_by_loops(z, labels, tau):
  z = z / np.linalg.norm(z, axis=1, keepdims=True)
  s = z @ z.T / tau
  values = []
  for i in range(len(z)):
    others = [a for a in range(len(z)) if a != i]
    positives = [p for p in others if labels[p] == labels[i]]
    total = np.log(sum(np.exp(s[i, a]) for a in others))
    values.append(-np.mean([s[i, p] - total for p in positives]) if positives else 0.0)
  return np.array(values)


supcon = jax.jit(losses.supervised_contrastive_loss, static_argnames="normalize")


@pytest.mark.x64
def test_supervised_contrastive_loss(rng):
  z, labels = rng.normal(size=(7, 3)), np.array([0, 1, 0, 2, 1, 0, 5])  # 2 and 5 stand alone
  values = supcon(z, labels, temperature=0.3)
  np.testing.assert_allclose(values, supcon_by_loops(z, labels, 0.3), rtol=1e-12)
  assert values[3] == values[6] == 0
  grad = jax.jit(jax.grad(lambda z: jnp.sum(supcon(z, labels, temperature=0.3))))
  total = lambda z: np.sum(supcon(z, labels, temperature=0.3))
  np.testing.assert_allclose(grad(z), central_difference(total, z), rtol=1e-6, atol=1e-8)
  # two views of each example, labelled by example: InfoNCE
  z1, z2 = z[:3], z[3:6]
  pairs = supcon(np.concatenate([z1, z2]), np.tile(np.arange(3), 2), temperature=0.3)
  scores, pos_index, where = views(z1, z2)
  expected = jax.jit(losses.info_nce_loss)(scores, pos_index, temperature=0.3, where=where)
  np.testing.assert_allclose(pairs, expected, rtol=1e-10, atol=1e-14)


def test_supervised_contrastive_loss_masks_and_extremes(rng):
  z = jnp.asarray(rng.normal(size=(7, 3)), jnp.float32)
  labels, where = np.array([0, 1, 0, 2, 1, 0, 2]), np.arange(7) != 3

  @jax.jit
  def evaluate(z, where, tau):
    fun = lambda z: supcon(z, labels, temperature=tau, where=where)
    return fun(z), jax.grad(lambda z: jnp.sum(fun(z)))(z)

  values, grads = evaluate(z.at[3].set(jnp.nan), where, 0.1)
  expected = supcon_by_loops(np.delete(z, 3, 0), np.delete(labels, 3), 0.1)
  np.testing.assert_allclose(np.delete(values, 3), expected, rtol=1e-4, atol=1e-5)
  np.testing.assert_array_equal(grads[3], 0)
  assert values[3] == 0 and np.all(np.isfinite(grads))
  for scale in (1e-30, 1e30):  # the direction alone matters
    scaled, _ = evaluate(scale * z, np.ones(7, bool), 0.1)
    np.testing.assert_allclose(scaled, evaluate(z, np.ones(7, bool), 0.1)[0], rtol=1e-4)
  values, grads = evaluate(jnp.zeros_like(z), np.ones(7, bool), 1e-3)
  assert np.all(np.isfinite(values)) and np.all(np.isfinite(grads))
  empty, grads = evaluate(z, np.zeros(7, bool), 0.1)
  np.testing.assert_array_equal(empty, 0)
  np.testing.assert_array_equal(grads, 0)
  assert jax.eval_shape(supcon, z.astype(jnp.bfloat16), labels).dtype == jnp.bfloat16


@pytest.mark.x64
def test_normalized_softmax_loss(rng):
  z, prototypes = rng.normal(size=(5, 3)), rng.normal(size=(4, 3))
  labels, where = np.array([0, 3, 1, 1, 2]), np.array([1, 1, 0, 1, 1], bool)
  cosines = (z / np.linalg.norm(z, axis=1, keepdims=True)) @ (
    prototypes / np.linalg.norm(prototypes, axis=1, keepdims=True)
  ).T
  logits = cosines / 0.05
  expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(5), labels]
  fun = jax.jit(losses.normalized_softmax_loss)
  np.testing.assert_allclose(fun(z, prototypes, labels), expected, rtol=1e-10, atol=1e-14)
  np.testing.assert_allclose(fun(7 * z, 0.1 * prototypes, labels), expected, rtol=1e-10, atol=1e-14)
  z[2] = np.nan
  values = fun(z, prototypes, labels, where=where)
  np.testing.assert_allclose(values, np.where(where, expected, 0), rtol=1e-10, atol=1e-14)
  grad = jax.jit(jax.grad(lambda z: jnp.sum(fun(z, prototypes, labels, where=where))))
  np.testing.assert_array_equal(grad(z)[2], 0)
  half = jax.eval_shape(fun, jnp.ones((2, 3), jnp.bfloat16), prototypes, jnp.array([0, 9]))
  assert half.dtype == jnp.bfloat16


@pytest.mark.peer
@pytest.mark.x64
def test_equals_pytorch_metric_learning(rng):
  torch = pytest.importorskip("torch")
  peers = pytest.importorskip("pytorch_metric_learning.losses")
  z1, z2 = rng.normal(size=(6, 4)), rng.normal(size=(6, 4))
  z, labels = np.concatenate([z1, z2]), np.array([0, 1, 0, 2, 1, 0, 5, 2, 2, 1, 0, 6])

  def peer(loss, labels):
    tensor = torch.tensor(z, dtype=torch.float64, requires_grad=True)
    value = loss(tensor, torch.tensor(labels))
    value.backward()
    return value.item(), tensor.grad.numpy()

  def info_nce(z):
    scores, pos_index, where = views(z[:6], z[6:])
    return jnp.mean(losses.info_nce_loss(scores, pos_index, temperature=0.2, where=where))

  value, grads = jax.value_and_grad(info_nce)(z)
  expected, expected_grads = peer(peers.NTXentLoss(temperature=0.2), np.tile(np.arange(6), 2))
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  np.testing.assert_allclose(grads, expected_grads, rtol=1e-5, atol=1e-8)
  number = sum(np.sum(labels == c) > 1 for c in labels)  # the peer averages over these anchors
  total = lambda z: jnp.sum(supcon(z, labels, temperature=0.2)) / number
  value, grads = jax.value_and_grad(total)(z)
  expected, expected_grads = peer(peers.SupConLoss(temperature=0.2), labels)
  np.testing.assert_allclose(value, expected, rtol=1e-6)
  np.testing.assert_allclose(grads, expected_grads, rtol=1e-5, atol=1e-8)
