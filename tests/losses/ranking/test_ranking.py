"""Ranking losses: plain NumPy forms, masks, derivatives, limits, saddle points."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import losses
from jaxopt_robust.debug import count_traces
from tests.helpers import central_difference

N = 12
LABELS = np.array([1, 0, 0, 1, 0, 1, 0, 0, 1, 0, 0, 0], np.int32)
GRADES = LABELS * np.array([1, 0, 0, 3, 0, 2, 0, 0, 1, 0, 0, 0], np.int32)
WHERE = np.array([1, 1, 0, 1, 1, 0, 1, 1, 1, 1, 0, 1], bool)
EVERY = np.ones(N, bool)


def squared_hinge(t):
  return np.maximum(1 - t, 0) ** 2


def gaps(s, y):
  return squared_hinge(s[y == 1][:, None] - s[y == 0][None])


def at_positives(values, y):
  out = np.zeros(len(y))
  out[y == 1] = values
  return out


def top_mean(values, share):
  """Mean of the largest share, by the linear programme's greedy solution."""
  left, total = share * len(values), 0.0
  for v in sorted(values, reverse=True):
    total += min(left, 1.0) * v
    left = max(left - 1, 0)
  return total / (share * len(values))


def soft_max(values, lam):
  return lam * np.log(np.mean(np.exp(values / lam)))


def margin_loss(s, y, h, prior=None):
  pos, neg, (a, b, alpha) = s[y == 1], s[y == 0], VARIABLES
  if prior is None:
    total = np.mean((pos - a) ** 2) + np.mean((neg - b) ** 2) - alpha**2
    return total + 2 * alpha * (h["margin"] + neg.mean() - pos.mean())
  p, is_pos = prior, y == 1
  inner = p * (1 - p) * h["margin"] + np.where(is_pos, -(1 - p) * s, p * s)
  square = np.where(is_pos, (1 - p) * (s - a) ** 2, p * (s - b) ** 2)
  return np.mean(square + 2 * alpha * inner - p * (1 - p) * alpha**2)


def precision_loss(s, y, h):
  loss = squared_hinge(s[y == 1][:, None] - s[None])
  return at_positives(1 - loss[:, y == 1].sum(1) / loss.sum(1), y)


def ideal(y, k=None):
  best = np.sort(2.0**y - 1)[::-1][:k]
  return np.sum(best / np.log2(np.arange(2, len(best) + 2)))


def ndcg_numpy(s, y, h, chosen=1.0, k=None):
  rank = squared_hinge(s[:, None] - s[None]).sum(1)
  return 1 - np.sum(chosen * (2.0**y - 1) / np.log2(1 + rank)) / ideal(y, k)


def ndcg_k_numpy(s, y, h):
  top = np.sort(s)[::-1]
  chosen = 1 / (1 + np.exp(-h["selection_scale"] * (s - (top[2] + top[3]) / 2)))
  return ndcg_numpy(s, y, h, chosen, 3)


VARIABLES = (0.7, -0.3, 0.4)
_VARIABLES = losses.AucMarginVariables(*(np.float32(v) for v in VARIABLES))


def _margin_call(s, y, where, **h):
  loss = losses.auc_margin_loss(s, y, _VARIABLES, where=where, **h)
  return jnp.sum(loss) / jnp.maximum(jnp.sum(where), 1).astype(loss.dtype)


def _list_call(loss, **fixed):
  return lambda s, y, where, **h: loss(s, GRADES * (y == 1), where=where, **fixed, **h)


def _call(loss):
  return lambda s, y, where, **h: loss(s, y, where=where, **h)


# name -> (call, hyperparameters, NumPy form on the rows that are kept)
CASES = {
  "pairwise_auc_loss": (
    _call(losses.pairwise_auc_loss),
    {},
    lambda s, y, h: at_positives(gaps(s, y).mean(1), y),
  ),
  "auc_margin_loss": (_margin_call, {"margin": 0.8}, margin_loss),
  "auc_margin_loss with a prior": (
    _margin_call,
    {"margin": 0.8, "prior": 0.3},
    lambda s, y, h: margin_loss(s, y, h, h["prior"]),
  ),
  "partial_auc_cvar_loss": (
    _call(losses.partial_auc_cvar_loss),
    {"max_fpr": 0.45},
    lambda s, y, h: at_positives([top_mean(row, h["max_fpr"]) for row in gaps(s, y)], y),
  ),
  "partial_auc_kl_loss": (
    _call(losses.partial_auc_kl_loss),
    {"temperature": 0.7},
    lambda s, y, h: at_positives([soft_max(row, h["temperature"]) for row in gaps(s, y)], y),
  ),
  "two_way_partial_auc_cvar_loss": (
    _call(losses.two_way_partial_auc_cvar_loss),
    {"max_fpr": 0.45, "min_tpr": 0.4},
    lambda s, y, h: top_mean([top_mean(row, h["max_fpr"]) for row in gaps(s, y)], 1 - h["min_tpr"]),
  ),
  "two_way_partial_auc_kl_loss": (
    _call(losses.two_way_partial_auc_kl_loss),
    {"temperature": 0.7, "positive_temperature": 1.3},
    lambda s, y, h: 1.3 * np.log(np.mean(np.mean(np.exp(gaps(s, y) / 0.7), axis=1) ** (0.7 / 1.3))),
  ),
  "average_precision_loss": (_call(losses.average_precision_loss), {}, precision_loss),
  "ndcg_loss": (_list_call(losses.ndcg_loss), {}, ndcg_numpy),
  "ndcg_at_k_loss": (
    _list_call(losses.ndcg_at_k_loss, k=3),
    {"selection_scale": 1.5},
    ndcg_k_numpy,
  ),
  "listwise_cross_entropy_loss": (
    _list_call(losses.listwise_cross_entropy_loss),
    {},
    lambda s, y, h: -np.sum(y * np.log(np.exp(s) / np.exp(s).sum())) / np.sum(y),
  ),
}
every_case = pytest.mark.parametrize("name", CASES)


@functools.cache
def compiled(name):
  """Jitted ``(scores, labels, where, hyper) -> (values, gradient of their weighted sum)``."""

  def evaluate(scores, labels, where, hyper):
    def total(s):
      values = CASES[name][0](s, labels, where, **hyper)
      weights = jnp.cos(jnp.arange(values.size, dtype=values.dtype)).reshape(values.shape)
      return jnp.sum(weights * values), values

    (_, values), grads = jax.value_and_grad(total, has_aux=True)(scores)
    return values, grads

  counted = count_traces(evaluate)
  return jax.jit(counted), counted


def evaluate(name, scores, labels=LABELS, where=EVERY, scale=1.0):
  hyper = {key: np.float32(value * scale) for key, value in CASES[name][1].items()}
  return compiled(name)[0](scores, labels, where, hyper)


@pytest.fixture
def scores(rng):
  return rng.normal(size=N).astype(np.float32)


@every_case
def test_equals_its_plain_form_on_the_rows_that_are_kept(name, scores):
  plain = CASES[name][2]
  hidden = np.where(WHERE, scores, np.where(np.arange(N) < 5, np.nan, np.inf)).astype(np.float32)
  labels = np.where(WHERE, LABELS, 7).astype(np.int32)
  is_list = "ndcg" in name or "listwise" in name
  for where, s, y in ((EVERY, scores, LABELS), (WHERE, hidden, labels)):
    values, grads = evaluate(name, s, y, where)
    grades = GRADES if is_list else LABELS
    expected = plain(scores[where].astype(np.float64), grades[where], CASES[name][1])
    got = np.asarray(values)[where] if values.ndim else values
    # float32: a dozen operations, conditioning of the ratios below 10
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-6)
    np.testing.assert_array_equal(np.asarray(grads)[~where], 0)
    assert np.all(np.isfinite(grads)) and np.any(grads != 0)
    if values.ndim:
      np.testing.assert_array_equal(np.asarray(values)[~where], 0)


@every_case
def test_jit_and_vmap_change_nothing(name, scores):
  call, hyper, _ = CASES[name]
  values, _ = evaluate(name, scores)
  assert values.dtype == jnp.float32 and not values.weak_type
  if name in ("pairwise_auc_loss", "auc_margin_loss", "ndcg_loss"):  # the slow way, op by op
    np.testing.assert_allclose(call(scores, LABELS, EVERY, **hyper), values, rtol=1e-5, atol=1e-6)
  batch = np.stack([scores, 0.5 * scores])
  many, _ = jax.vmap(lambda s: evaluate(name, s))(batch)
  np.testing.assert_allclose(many[0], values, rtol=1e-5, atol=1e-6)


@every_case
def test_empty_masks_and_single_classes_are_zero(name, scores):
  calls = [(LABELS, ~EVERY), (0 * LABELS, EVERY)]
  if "ndcg" not in name and "listwise" not in name:
    calls.append((1 + 0 * LABELS, EVERY))
  if "prior" in name:
    calls = calls[:1]  # with a prior a batch of one class is an unbiased part of the whole
  for labels, where in calls:
    values, grads = evaluate(name, scores, labels, where)
    np.testing.assert_array_equal(values, 0)
    np.testing.assert_array_equal(grads, 0)


@every_case
def test_finite_at_huge_scores(name):
  for pattern in (LABELS, 1 - LABELS, 0 * LABELS + 1, (-1) ** np.arange(N)):
    values, grads = evaluate(name, 1e4 * (2 * pattern - 1).astype(np.float32))
    assert np.all(np.isfinite(values)) and np.all(np.isfinite(grads))


@every_case
def test_labels_out_of_range_and_nan_scores_are_seen(name, scores):
  spoiled = scores.copy()
  spoiled[1] = np.nan
  assert np.any(np.isnan(evaluate(name, spoiled)[0]))
  if "ndcg" not in name and "listwise" not in name:
    labels = LABELS.copy()
    labels[1] = 5
    assert np.any(np.isnan(evaluate(name, scores, labels)[0]))


@pytest.mark.x64
@every_case
def test_gradient_and_precision(name, scores):
  wide = scores.astype(np.float64)
  values, grads = evaluate(name, wide)
  assert values.dtype == jnp.float64

  def total(s):
    out = np.asarray(evaluate(name, s)[0])
    return np.sum(np.cos(np.arange(out.size)).reshape(out.shape) * out)

  # central differences: error about eps^2 |f'''| + 1e-16 |f| / eps, that is 1e-9
  np.testing.assert_allclose(grads, central_difference(total, wide), rtol=1e-6, atol=1e-7)
  with jax.enable_x64(False):
    narrow, narrow_grads = evaluate(name, scores)
  np.testing.assert_allclose(narrow, values, rtol=2e-5, atol=2e-6)
  np.testing.assert_allclose(narrow_grads, grads, rtol=5e-5, atol=1e-5)


@every_case
def test_bfloat16_is_computed_in_float32(name, scores):
  half = jnp.asarray(scores, jnp.bfloat16)
  values, grads = evaluate(name, half)
  assert grads.dtype == jnp.bfloat16 and values.dtype == jnp.bfloat16
  expected, _ = evaluate(name, half.astype(jnp.float32))
  as_float = lambda x: np.asarray(x.astype(jnp.bfloat16).astype(jnp.float32))
  np.testing.assert_allclose(as_float(values), as_float(expected), rtol=2**-7)


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name][1]])
def test_new_hyperparameters_do_not_retrace(name, scores):
  first, _ = evaluate(name, scores)
  before = compiled(name)[1].traces
  second, _ = evaluate(name, scores, scale=0.9)
  assert compiled(name)[1].traces == before
  assert np.any(first != second)  # the new values were used


SURROGATES = {
  "squared_hinge_surrogate": ({"margin": 0.7}, lambda t: np.maximum(0.7 - t, 0) ** 2),
  "squared_surrogate": ({"margin": 0.7}, lambda t: (0.7 - t) ** 2),
  "hinge_surrogate": ({"margin": 0.7}, lambda t: np.maximum(0.7 - t, 0)),
  "logistic_surrogate": ({"scale": 2.0}, lambda t: np.log1p(np.exp(-2 * t))),
  "barrier_hinge_surrogate": (
    {"margin": 0.7, "scale": 3.0},
    lambda t: np.max([-3 * (0.7 + t) + 0.7, 3 * (t - 0.7), 0.7 - t], axis=0),
  ),
}


@pytest.mark.parametrize("name", SURROGATES)
def test_surrogates(name):
  hyper, plain = SURROGATES[name]
  surrogate = functools.partial(getattr(losses, name), **hyper)
  t = np.linspace(-3, 3, 31).astype(np.float32) + np.float32(0.013)
  values, slopes = jax.jit(jax.vmap(jax.value_and_grad(surrogate)))(t)
  np.testing.assert_allclose(values, plain(t.astype(np.float64)), rtol=2e-6, atol=1e-6)
  wide = t.astype(np.float64)
  slope = (plain(wide + 1e-6) - plain(wide - 1e-6)) / 2e-6
  np.testing.assert_allclose(slopes, slope, rtol=1e-5, atol=1e-5)
  huge = np.array([-1e4, 1e4], np.float32)
  assert np.all(np.isfinite(surrogate(huge)))
  assert surrogate(jnp.asarray(t, jnp.bfloat16)).dtype == jnp.bfloat16
  if name == "barrier_hinge_surrogate":  # symmetric between the walls
    inside = np.linspace(-0.69, 0.69, 5, dtype=np.float32)
    np.testing.assert_allclose(surrogate(inside) + surrogate(-inside), 1.4, rtol=1e-6)


def test_any_surrogate_can_be_used(scores):
  hinge = functools.partial(losses.hinge_surrogate, margin=0.0)
  got = losses.pairwise_auc_loss(scores, LABELS, surrogate=hinge)
  expected = np.maximum(scores[LABELS == 0][None] - scores[LABELS == 1][:, None], 0).mean(1)
  np.testing.assert_allclose(np.asarray(got)[LABELS == 1], expected, rtol=1e-5, atol=1e-6)


def test_with_the_indicator_the_losses_are_one_minus_the_metrics(scores):
  indicator = lambda t: (t <= 0) * 1.0
  share, positive = {"max_fpr": 0.5}, LABELS == 1

  @jax.jit
  def both(s):
    mean = lambda loss: jnp.sum(loss) / 4
    two_way = losses.two_way_partial_auc_cvar_loss
    return (
      (
        mean(losses.pairwise_auc_loss(s, LABELS, surrogate=indicator)),
        mean(losses.partial_auc_cvar_loss(s, LABELS, surrogate=indicator, **share)),
        two_way(s, LABELS, min_tpr=0.5, surrogate=indicator, **share),
        mean(losses.average_precision_loss(s, LABELS, surrogate=indicator)),
        losses.ndcg_loss(s, GRADES, surrogate=indicator),
      ),
      (
        losses.auc(s, LABELS),
        losses.partial_auc(s, LABELS, **share),
        jnp.nan,  # below
        losses.average_precision(s, LABELS),
        losses.ndcg(s, GRADES),
      ),
    )

  values, metrics = both(scores)
  metrics = np.array(metrics)
  # the mean over the hardest positives of their own hardest negatives, which are the same for all
  hard = np.sort(scores[positive])[:2][:, None] > np.sort(scores[~positive])[4:][None]
  metrics[2] = hard.mean()
  np.testing.assert_allclose(1 - np.array(values), metrics, rtol=1e-5, atol=1e-6)


def test_limits_of_the_partial_losses(scores):
  all_pairs = gaps(scores.astype(np.float64), LABELS)
  pairwise = all_pairs.mean(1)
  one = lambda name, **h: np.asarray(compiled(name)[0](scores, LABELS, EVERY, _traced(h))[0])
  kl, both_kl = "partial_auc_kl_loss", "two_way_partial_auc_kl_loss"
  positive = LABELS == 1
  cvar = one("partial_auc_cvar_loss", max_fpr=1.0)[positive]
  np.testing.assert_allclose(cvar, pairwise, rtol=1e-5)
  np.testing.assert_allclose(one(kl, temperature=1e6)[positive], pairwise, rtol=1e-4)
  below = all_pairs.max(1) - one(kl, temperature=1e-4)[positive]  # in [0, lam log n]
  assert np.all(below > -1e-5) and np.all(below < 1e-4 * np.log(8) + 1e-5)
  warm = one(both_kl, temperature=1e6, positive_temperature=1e6)
  np.testing.assert_allclose(warm, all_pairs.mean(), rtol=1e-4)
  whole = one("two_way_partial_auc_cvar_loss", max_fpr=1.0, min_tpr=0.0)
  np.testing.assert_allclose(whole, all_pairs.mean(), rtol=1e-5)


def _traced(hyper):
  return {key: np.float32(value) for key, value in hyper.items()}


@pytest.mark.x64
@pytest.mark.parametrize("margin", [0.4, 3.0])
def test_saddle_point_of_the_auc_margin_loss(margin, rng):
  scores = rng.normal(size=N) + 1.5 * LABELS
  pos, neg = scores[LABELS == 1], scores[LABELS == 0]
  a, b = pos.mean(), neg.mean()
  alpha = max(0.0, margin + b - a)
  assert (alpha > 0) == (margin > 1)  # both cases occur
  loss = lambda v: jnp.mean(losses.auc_margin_loss(scores, LABELS, v, margin=margin))
  value, slope = jax.value_and_grad(loss)(losses.AucMarginVariables(a, b, alpha))
  np.testing.assert_allclose(value, pos.var() + neg.var() + alpha**2, rtol=1e-12)
  # d/da holds E_+[s - a] = 0 alone, since a enters through the square only
  np.testing.assert_allclose([slope.a, slope.b], 0, atol=1e-12)
  if alpha > 0:
    np.testing.assert_allclose(slope.alpha, 0, atol=1e-12)
  else:
    assert slope.alpha < 0  # alpha stays at its bound


@pytest.mark.x64
def test_auc_margin_loss_is_the_squared_pairwise_loss_at_its_saddle_point(rng):
  # E (m - s_+ + s_-)^2 = Var_+ + Var_- + (m + E_- - E_+)^2
  scores, margin = rng.normal(size=N), 3.0
  pos, neg = scores[LABELS == 1], scores[LABELS == 0]
  variables = losses.AucMarginVariables(pos.mean(), neg.mean(), margin + neg.mean() - pos.mean())
  loss = jnp.mean(losses.auc_margin_loss(scores, LABELS, variables, margin=margin))
  np.testing.assert_allclose(loss, np.mean((margin - pos[:, None] + neg[None]) ** 2), rtol=1e-12)


def test_at_k_with_all_items_is_the_plain_loss(scores):
  where = np.arange(N) < 4  # a list shorter than k

  @jax.jit
  def three(s):
    at = lambda k: losses.ndcg_at_k_loss(s, GRADES, k=k, where=where)
    return at(N), at(5), losses.ndcg_loss(s, GRADES, where=where)

  everything, shorter, plain = three(scores)
  np.testing.assert_allclose([everything, shorter], [plain, plain], rtol=1e-6)


def test_surrogate_ndcg_bounds_the_metric(rng):
  scores = rng.normal(size=(50, N)).astype(np.float32)
  grades = rng.integers(0, 4, size=(50, N))
  indicator = lambda gap: (gap <= 0).astype(gap.dtype)
  run = jax.jit(
    lambda s, y: (
      losses.ndcg_loss(s, y),
      losses.ndcg_loss(s, y, surrogate=indicator),
      losses.ndcg(s, y),
    )
  )
  loss, exact, metric = run(scores, grades)
  np.testing.assert_allclose(exact, 1 - np.asarray(metric), atol=1e-6)
  assert np.all(loss >= exact - 1e-6)
  # The definition, with the squared hinge (1 - gap)_+^2 for the indicator.
  gaps = scores[:, :, None].astype(float) - scores[:, None, :]
  rank = np.sum(np.maximum(1 - gaps, 0) ** 2, axis=2)
  ideal = np.sort(2.0**grades - 1, axis=1)[:, ::-1]
  best = np.sum(ideal / np.log2(2 + np.arange(N)), axis=1)
  expected = 1 - np.sum((2.0**grades - 1) / np.log2(1 + rank), axis=1) / best
  np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-6)
