"""Stateful ranking losses: exact on the whole data, state rules, and what each state tends to."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import compositional, losses
from jaxopt_robust.debug import count_traces
from tests.helpers import central_difference

N, ROWS = 12, 15  # rows of a batch, examples in the state
LABELS = np.array([1, 0, 0, 1, 0, 1, 0, 0, 1, 0, 0, 0], np.int32)
INDEX = np.array([3, 0, 1, 9, 2, 14, 4, 5, 6, 7, 8, 10], np.int32)
EVERY = np.ones(N, bool)
POSITIVE = LABELS == 1

EXACT = {  # method -> hyperparameters, and the exact loss of scores, as a scalar
  "soap": ({"rate": 0.6}, lambda s, h: _mean(losses.average_precision_loss(s, LABELS))),
  "sopas": (
    {"rate": 0.6, "temperature": 0.7},
    lambda s, h: _mean(losses.partial_auc_kl_loss(s, LABELS, temperature=h["temperature"])),
  ),
  "sotas": (
    {"rate": 0.6, "positive_rate": 0.4, "temperature": 0.7, "positive_temperature": 1.3},
    lambda s, h: losses.two_way_partial_auc_kl_loss(
      s,
      LABELS,
      temperature=h["temperature"],
      positive_temperature=h["positive_temperature"],
    ),
  ),
}
HYPER = {name: hyper for name, (hyper, _) in EXACT.items()} | {
  "sopa": {"max_fpr": 0.3, "step_size": 0.1},
  "staco": {
    "max_fpr": 0.3,
    "min_tpr": 0.4,
    "dual_step_size": 0.1,
    "step_size": 0.2,
    "positive_step_size": 0.05,
  },
}
every_method = pytest.mark.parametrize("name", HYPER)


def _mean(loss):
  return jnp.sum(loss) / POSITIVE.sum().astype(loss.dtype)


def start(name, dtype=jnp.float32):
  return getattr(compositional, f"{name}_init")(ROWS, dtype=dtype)


@functools.cache
def compiled(name):
  loss = getattr(compositional, f"{name}_loss")

  def visit(scores, labels, index, state, where, hyper):
    fun = lambda s: loss(s, labels, index, state, where=where, **hyper)
    (value, (new, info)), grads = jax.value_and_grad(fun, has_aux=True)(scores)
    return value, grads, new, info

  counted = count_traces(visit)
  return jax.jit(counted), counted


def visit(name, scores, state, labels=LABELS, index=INDEX, where=EVERY, **changes):
  hyper = {key: jnp.asarray(value) for key, value in (HYPER[name] | changes).items()}
  return compiled(name)[0](scores, labels, index, state, where, hyper)


@pytest.fixture
def scores(rng):
  return rng.normal(size=N).astype(np.float32)


def trained(name, scores, dtype=jnp.float32):
  """A state in which every positive was seen, with other scores."""
  state = start(name, dtype)
  for factor in (0.5, 0.8):
    _, _, state, _ = visit(name, np.asarray(factor * scores, scores.dtype), state)
  return state


def assert_same(a, b, **tolerance):
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


@pytest.mark.x64
@pytest.mark.parametrize("name", EXACT)
def test_rate_one_on_all_data_is_the_exact_loss(name, scores):
  wide = scores.astype(np.float64)
  hyper, exact = EXACT[name]
  rates = {key: 1.0 for key in hyper if key.endswith("rate")}
  state = trained(name, wide, jnp.float64)  # forgotten at rate one
  _, grads, _, info = visit(name, wide, state, **rates)
  expected, slopes = jax.jit(jax.value_and_grad(lambda s: exact(s, hyper)))(wide)
  np.testing.assert_allclose(grads, slopes, rtol=1e-9, atol=1e-12)
  np.testing.assert_allclose(info.objective, expected, rtol=1e-12)
  assert info.num_anchors == POSITIVE.sum()
  # the first visit is taken whole whatever the rate
  _, first, _, _ = visit(name, wide, start(name, jnp.float64))
  np.testing.assert_allclose(first, slopes, rtol=1e-9, atol=1e-12)


@pytest.mark.x64
@every_method
def test_the_surrogate_has_the_gradient_that_is_returned(name, scores):
  wide = scores.astype(np.float64)
  state = trained(name, wide, jnp.float64)
  _, grads, _, info = visit(name, wide, state)
  assert np.any(grads != 0)
  # Differences of the objective in one direction through the batch's own part only: for these
  # losses, f(u) with u = rate g(s) + old, has the gradient rate times the surrogate's.
  if name in EXACT:
    rate = HYPER[name]["rate"]
    fixed = {"positive_rate": 1.0} if name == "sotas" else {}
    _, grads, _, _ = visit(name, wide, state, **fixed)
    objective = lambda s: visit(name, np.asarray(s), state, **fixed)[3].objective
    slopes = central_difference(objective, wide)
    np.testing.assert_allclose(rate * grads, slopes, rtol=1e-6, atol=1e-8)
  assert np.isfinite(info.objective)


@pytest.mark.x64
def test_weights_of_soap(scores):
  wide = scores.astype(np.float64)
  state = trained("soap", wide, jnp.float64)
  value, grads, new, _ = visit("soap", wide, state)
  # p_ij = (u+ - u 1[j positive]) / u^2 on the pairwise losses, as the paper writes them
  u, up = np.asarray(new.averages)[INDEX[POSITIVE]].T
  weights = (up[:, None] - u[:, None] * POSITIVE[None]) / u[:, None] ** 2
  pairs = lambda s: jnp.maximum(1 - s[POSITIVE][:, None] + s[None], 0) ** 2
  expected, slopes = jax.value_and_grad(lambda s: jnp.mean(weights * pairs(s)))(jnp.asarray(wide))
  np.testing.assert_allclose(value, expected, rtol=1e-10)
  np.testing.assert_allclose(grads, slopes, rtol=1e-10, atol=1e-14)


@every_method
def test_moving_averages_in_plain_numpy(name, scores):
  """Three visits, against the recursions written as loops over examples."""
  state, h = start(name), HYPER[name]
  memory = dict.fromkeys(INDEX[POSITIVE])
  scalar = None
  if name == "sopa":
    memory = dict.fromkeys(memory, 0.0)
  if name == "staco":
    memory, scalar = dict.fromkeys(memory, (1.0, 1.0)), 1.0
  for factor in (0.5, 1.0, 1.5):
    s = (factor * scores).astype(np.float32)
    value, _, state, info = visit(name, s, state)
    wide, total, objective, powers = s.astype(np.float64), [], [], []
    old_scalar, duals = scalar, []
    for i, row in zip(np.flatnonzero(POSITIVE), INDEX[POSITIVE], strict=True):
      every = np.maximum(1 - wide[i] + wide, 0) ** 2
      loss, old = every[~POSITIVE], memory[row]
      if name == "soap":
        g = np.array([every.mean(), (every * POSITIVE).mean()])
        u = memory[row] = g if old is None else old + h["rate"] * (g - old)
        weights = (u[1] - u[0] * POSITIVE) / u[0] ** 2
        total.append(np.mean(weights * every))
        objective.append(1 - u[1] / u[0])
      elif name in ("sopas", "sotas"):
        exps = np.exp(loss / h["temperature"])
        g = exps.mean()
        u = memory[row] = g if old is None else old + h["rate"] * (g - old)
        total.append(np.mean(exps / u * loss))
        objective.append(h["temperature"] * np.log(u))
        if name == "sotas":
          powers.append(u ** (h["temperature"] / h["positive_temperature"]))
      elif name == "sopa":
        above = loss > old
        total.append(np.mean(above * loss) / h["max_fpr"])
        new = memory[row] = old - h["step_size"] * (1 - above.mean() / h["max_fpr"])
        objective.append(new + np.maximum(loss - new, 0).mean() / h["max_fpr"])
      else:
        y, t = old
        theta_0, theta_1 = 1 - h["min_tpr"], h["max_fpr"]
        inner = t + np.maximum(loss - t, 0).mean() / theta_1
        y = np.clip(y + h["dual_step_size"] * (inner - old_scalar) / theta_0, 0, 1)
        above = loss > t
        total.append(y * np.mean(above * loss) / theta_0 / theta_1)
        new = t - h["step_size"] / theta_0 * y * (1 - above.mean() / theta_1)
        memory[row] = (y, new)
        duals.append(y)
        objective.append(new + np.maximum(loss - new, 0).mean() / theta_1)
    if name == "sotas":
      v = np.mean(powers)
      scalar = v if scalar is None else scalar + h["positive_rate"] * (v - scalar)
      total = [np.mean(np.array(powers) * np.array(total)) / scalar]
      objective = [h["positive_temperature"] * np.log(scalar)]
    if name == "staco":
      scalar = scalar - h["positive_step_size"] * (1 - np.mean(duals) / theta_0)
      objective = [scalar + np.maximum(np.array(objective) - scalar, 0).mean() / theta_0]
      np.testing.assert_allclose(state.positive_threshold, scalar, rtol=1e-5)
    np.testing.assert_allclose(value, np.mean(total), rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(info.objective, np.mean(objective), rtol=2e-5)


@every_method
def test_masks_hide_rows_and_negatives_change_no_state(name, scores):
  where = np.arange(N) != 3
  hidden = np.where(where, scores, np.inf).astype(np.float32)
  state = trained(name, scores)
  value, grads, new, _ = visit(name, hidden, state, np.where(where, LABELS, 9), where=where)
  assert np.isfinite(value) and np.all(np.isfinite(grads)) and grads[3] == 0
  untouched = np.setdiff1d(np.arange(ROWS), INDEX[POSITIVE & where])
  for old_leaf, new_leaf in zip(state, new, strict=True):
    if np.ndim(new_leaf):
      np.testing.assert_array_equal(new_leaf[untouched], old_leaf[untouched])


@every_method
def test_batches_of_one_class_change_nothing(name, scores):
  state = trained(name, scores)
  for labels, where in ((0 * LABELS, EVERY), (1 + 0 * LABELS, EVERY), (LABELS, ~EVERY)):
    value, grads, new, info = visit(name, scores, state, labels, where=where)
    assert value == 0 and info.objective == 0 and info.num_anchors == 0
    np.testing.assert_array_equal(grads, 0)
    assert_same(new, state)


@every_method
def test_nan_scores_spoil_the_step_and_not_the_state(name, scores):
  state = trained(name, scores)
  for place in (1, 3):  # a negative, a positive
    spoiled = scores.copy()
    spoiled[place] = np.nan
    value, _, new, _ = visit(name, spoiled, state)
    assert np.isnan(value)
    assert not any(np.any(np.isnan(leaf)) for leaf in new)
    lost = INDEX[POSITIVE] if place == 1 or name == "soap" else INDEX[[place]]
    for old_leaf, new_leaf in zip(state, new, strict=True):
      if np.ndim(new_leaf):
        np.testing.assert_array_equal(new_leaf[lost], old_leaf[lost])


@every_method
def test_bad_labels_and_indices_are_nan_under_jit(name, scores):
  state = trained(name, scores)
  labels, index = LABELS.copy(), INDEX.copy()
  labels[1], index[3] = 2, ROWS
  for y, i in ((labels, INDEX), (LABELS, index)):
    value, _, new, _ = visit(name, scores, state, y, i)
    assert np.isnan(value)
    assert not any(np.any(np.isnan(leaf)) for leaf in new)
  index = INDEX.copy()
  index[1] = -7  # of a negative: never read
  assert np.isfinite(visit(name, scores, state, index=index)[0])


@every_method
def test_rows_of_one_example_are_averaged(name, scores):
  index = INDEX.copy()
  index[3] = index[0]
  state = trained(name, scores)
  _, _, new, _ = visit(name, scores, state, index=index)
  order = np.arange(N)[::-1]
  _, _, other, _ = visit(name, scores[order], state, LABELS[order], index[order])
  assert_same(new, other, rtol=1e-5)
  both = np.asarray(scores).copy()
  both[0] = both[3]
  _, _, twice, _ = visit(name, both, state, index=index)
  where = np.arange(N) != 3
  _, _, once, _ = visit(name, both, state, index=index, where=where)
  if name != "soap":  # there the batch's own mean changes with the row that is left out
    leaf = lambda s: np.asarray(s[0])[index[0]]
    np.testing.assert_allclose(leaf(twice), leaf(once), rtol=1e-5)


@every_method
def test_finite_at_huge_scores_and_no_retrace(name, scores):
  state = trained(name, scores)
  for pattern in (LABELS, 1 - LABELS):
    value, grads, _, info = visit(name, 1e4 * (2 * pattern - 1).astype(np.float32), state)
    assert np.isfinite(value) and np.all(np.isfinite(grads)) and np.isfinite(info.objective)
  visit(name, scores, state)
  before = compiled(name)[1].traces
  for factor in (0.9, 0.8):
    visit(name, scores, state, **{key: factor * value for key, value in HYPER[name].items()})
  assert compiled(name)[1].traces == before


@every_method
def test_vmap_over_states(name, scores):
  states = [start(name), trained(name, scores)]
  stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
  values, grads, _, _ = jax.vmap(lambda state: visit(name, scores, state))(stacked)
  for i, state in enumerate(states):
    value, grad, _, _ = visit(name, scores, state)
    np.testing.assert_allclose(values[i], value, rtol=1e-5)
    np.testing.assert_allclose(grads[i], grad, rtol=1e-5, atol=1e-7)


@every_method
def test_no_gradient_through_state_and_info(name, scores):
  loss = getattr(compositional, f"{name}_loss")
  state = trained(name, scores)

  def total(s):
    _, aux = loss(s, LABELS, INDEX, state, **HYPER[name])
    leaves = [x for x in jax.tree.leaves(aux) if jnp.issubdtype(x.dtype, jnp.floating)]
    return sum(jnp.sum(jnp.where(jnp.isfinite(x), x, 0)) for x in leaves)

  np.testing.assert_array_equal(jax.jit(jax.grad(total))(scores), 0)


def test_thresholds_of_sopa_tend_to_the_quantile(scores):
  max_fpr = 0.3  # of 8 negatives: 2.4, so that the threshold is the third largest loss
  one = lambda state, eta: (visit("sopa", scores, state, step_size=eta)[2], None)
  run = jax.jit(lambda state: jax.lax.scan(one, state, 0.3 / jnp.sqrt(1.0 + jnp.arange(2000.0)))[0])
  state = run(start("sopa"))
  loss = np.maximum(1 - scores[POSITIVE][:, None] + scores[~POSITIVE][None], 0) ** 2
  third = np.sort(loss, axis=1)[:, -3]
  # steps of at most 0.3 / sqrt(2000) (1 / 0.3 - 1) around the kink
  np.testing.assert_allclose(state.threshold[INDEX[POSITIVE]], third, atol=0.016)
  _, _, _, info = visit("sopa", scores, state, step_size=1e-6)
  exact = _mean(losses.partial_auc_cvar_loss(scores, LABELS, max_fpr=max_fpr))
  np.testing.assert_allclose(info.objective, exact, rtol=1e-2)


def test_staco_tends_to_the_two_way_loss(scores):
  h = {"dual_step_size": 0.05, "positive_step_size": 0.05}
  one = lambda state, eta: (visit("staco", scores, state, step_size=eta, **h)[2], None)
  run = jax.jit(lambda state: jax.lax.scan(one, state, 0.3 / jnp.sqrt(1.0 + jnp.arange(4000.0)))[0])
  state = run(start("staco"))
  _, _, _, info = visit("staco", scores, state, step_size=1e-6)
  exact = losses.two_way_partial_auc_cvar_loss(scores, LABELS, max_fpr=0.3, min_tpr=0.4)
  np.testing.assert_allclose(info.objective, exact, rtol=0.05)
  assert np.all(state.dual >= 0) and np.all(state.dual <= 1)


def test_staco_with_two_sets_of_negatives(scores):
  state = trained("staco", scores)
  fold = np.arange(N) % 2 == 0
  value, grads, new, _ = visit("staco", scores, state, dual_where=fold)
  # the gradient comes from the other set, the dual weights from the first
  np.testing.assert_array_equal(np.asarray(grads)[fold & ~POSITIVE], 0)
  moved = np.where(fold & ~POSITIVE, -5.0, scores).astype(np.float32)
  _, _, other, _ = visit("staco", moved, state, dual_where=fold)
  rows = INDEX[POSITIVE]
  assert np.any(new.dual[rows] != other.dual[rows])
  # one of them empty: nothing happens
  value, grads, new, _ = visit("staco", scores, state, dual_where=~EVERY)
  assert value == 0 and not np.any(grads)
  assert_same(new, state)


def test_sopas_with_similarities_is_the_global_contrastive_loss(scores):
  # anchors are positives; with the surrogate t -> -t the pairwise losses are gaps of similarities
  negative = np.broadcast_to(scores[~POSITIVE][None], (4, 8))
  rows = np.concatenate([scores[POSITIVE][:, None], negative], axis=1)

  def both(s, rows):
    loss = lambda s: compositional.sopas_loss(
      s, LABELS, INDEX, start("sopas"), temperature=0.7, rate=0.5, surrogate=lambda t: -t
    )
    contrastive = lambda rows: jnp.mean(
      losses.global_contrastive_loss(rows, jnp.zeros(4, int), temperature=0.7)
    )
    return (
      jax.value_and_grad(loss, has_aux=True)(s),
      jax.value_and_grad(contrastive)(rows),
    )

  ((_, (_, info)), grads), (value, slopes) = jax.jit(both)(scores, rows)
  np.testing.assert_allclose(info.objective, value, rtol=1e-5)
  np.testing.assert_allclose(grads[POSITIVE], slopes[:, 0], rtol=1e-4, atol=1e-6)
  np.testing.assert_allclose(grads[~POSITIVE], slopes[:, 1:].sum(0), rtol=1e-4, atol=1e-6)


def test_bfloat16_scores_keep_a_float32_state(scores):
  state = start("sopas")
  value, grads, new, info = visit("sopas", jnp.asarray(scores, jnp.bfloat16), state)
  assert grads.dtype == jnp.bfloat16
  assert new.log_average.dtype == value.dtype == info.objective.dtype == jnp.float32


AUTHORS = {  # constants of the papers' public code
  "soap": {"rate": 0.9},
  "sopa": {"max_fpr": 0.2, "step_size": 0.1},
  "sopas": {"temperature": 1.0, "rate": 0.9},
  "sotas": {"temperature": 1.0, "positive_temperature": 1.0, "rate": 0.9, "positive_rate": 0.9},
  "song": {"rate": 0.9},
  "staco": {"max_fpr": 0.5, "min_tpr": 0.5, "dual_step_size": 0.1, "step_size": 0.1},
}


@pytest.mark.parametrize(("name", "constants"), AUTHORS.items(), ids=AUTHORS)
def test_defaults_are_those_of_the_authors(name, constants):
  parameters = inspect.signature(getattr(compositional, f"{name}_loss")).parameters
  assert {k: parameters[k].default for k in constants} == constants
