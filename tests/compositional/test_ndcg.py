"""SONG, K-SONG and the listwise form: exact on whole lists, state rules, plain recursions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import compositional, losses
from jaxopt_robust.debug import count_traces

QUERIES, ITEMS = 5, 7  # of the state; a batch has three queries and all items, in another order
QUERY = np.array([4, 0, 2], np.int32)
ITEM = np.stack([np.roll(np.arange(ITEMS), shift) for shift in (0, 2, 3)]).astype(np.int32)
GRADES = np.array([[2, 0, 0, 1, 0, 0, 3], [0, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0]], np.int32)
EVERY = np.ones((3, ITEMS), bool)
HYPER = {
  "song": {"rate": 0.6},
  "song_listwise": {"rate": 0.6},
  "k_song": {"k": 2.0, "rate": 0.6, "curvature_rate": 0.5, "step_size": 0.05, "smoothing": 0.3},
}
every_method = pytest.mark.parametrize("name", HYPER)


def start(name, dtype=jnp.float32):
  return getattr(compositional, f"{name}_init")(QUERIES, ITEMS, dtype=dtype)


@functools.cache
def compiled(name):
  loss = getattr(compositional, f"{name}_loss")

  def visit(scores, grades, index, state, where, hyper):
    fun = lambda s: loss(s, grades, index, state, where=where, **hyper)
    (value, (new, info)), grads = jax.value_and_grad(fun, has_aux=True)(scores)
    return value, grads, new, info

  counted = count_traces(visit)
  return jax.jit(counted), counted


def visit(name, scores, state, grades=GRADES, index=(QUERY, ITEM), where=EVERY, **changes):
  hyper = {key: jnp.asarray(value) for key, value in (HYPER[name] | changes).items()}
  return compiled(name)[0](scores, grades, index, state, where, hyper)


@pytest.fixture
def scores(rng):
  return rng.normal(size=(3, ITEMS)).astype(np.float32)


def trained(name, scores, dtype=jnp.float32):
  state = start(name, dtype)
  for factor in (0.5, 0.8):
    _, _, state, _ = visit(name, np.asarray(factor * scores, scores.dtype), state)
  return state


@pytest.mark.x64
@pytest.mark.parametrize("name", ["song", "song_listwise"])
def test_rate_one_on_whole_lists_is_the_exact_loss(name, scores):
  wide = scores.astype(np.float64)
  exact = losses.ndcg_loss if name == "song" else losses.listwise_cross_entropy_loss
  # two of the three queries have a relevant item
  fun = jax.jit(jax.value_and_grad(lambda s: jnp.sum(exact(s, GRADES)) / 2))
  expected, slopes = fun(wide)
  for state, rate in ((trained(name, wide, jnp.float64), 1.0), (start(name, jnp.float64), 0.3)):
    _, grads, _, info = visit(name, wide, state, rate=rate)
    np.testing.assert_allclose(info.objective, expected, rtol=1e-12)
    np.testing.assert_allclose(grads, slopes, rtol=1e-9, atol=1e-13)
    assert info.num_anchors == 2


@pytest.mark.x64
def test_k_song_with_all_items_chosen_is_song(scores):
  wide = scores.astype(np.float64)
  state = start("k_song", jnp.float64)
  state = state._replace(threshold=jnp.full_like(state.threshold, -1e4))
  ideal = np.array(
    [float(np.sum(np.sort(2.0**g - 1)[::-1] / np.log2(np.arange(2, 9)))) for g in GRADES]
  )
  _, grads, _, info = visit("k_song", wide, state, ideal_dcg=ideal)
  _, plain, _, plain_info = visit("song", wide, start("song", jnp.float64))
  np.testing.assert_allclose(info.objective, plain_info.objective, rtol=1e-12)
  np.testing.assert_allclose(grads, plain, rtol=1e-9, atol=1e-13)


@pytest.mark.x64
def test_k_song_has_the_gradient_of_its_bilevel_objective(scores):
  """With lam_q at its minimiser, rate one, against differences that solve for lam_q again."""
  wide, h = scores[:1].astype(np.float64), {"smoothing": 0.3, "ridge": 1e-2, "selection_scale": 1.5}
  grades, index, where = GRADES[:1], (QUERY[:1], ITEM[:1]), EVERY[:1]

  def threshold(s):  # the slope in lam increases
    low, high = -50.0, 50.0
    for _ in range(200):
      mid = (low + high) / 2
      slope = 2 / ITEMS + 1e-2 * mid - np.mean(1 / (1 + np.exp(-(s - mid) / 0.3)))
      low, high = (mid, high) if slope < 0 else (low, mid)
    return mid

  def call(s, **more):
    state = start("k_song", jnp.float64)
    state = state._replace(threshold=jnp.full_like(state.threshold, threshold(np.asarray(s)[0])))
    return visit("k_song", s, state, grades, index, where, rate=1.0, curvature_rate=1.0, **h)

  _, grads, new, _ = call(wide)
  slopes = np.zeros_like(wide)
  for place in range(ITEMS):
    step = np.zeros_like(wide)
    step[0, place] = 1e-5
    up, down = call(wide + step)[3].objective, call(wide - step)[3].objective
    slopes[0, place] = (up - down) / 2e-5
  np.testing.assert_allclose(grads, slopes, rtol=1e-5, atol=1e-9)
  np.testing.assert_allclose(new.threshold[QUERY[0]], threshold(wide[0]), rtol=1e-9)


@pytest.mark.parametrize("name", ["song", "k_song"])
def test_averages_in_plain_numpy(name, scores):
  state, memory, lam = start(name), {}, np.zeros(3)
  h = HYPER[name]
  for factor in (0.5, 1.0, 1.5):
    s = (factor * scores).astype(np.float32)
    _, _, state, info = visit(name, s, state)
    wide, objective = s.astype(np.float64), []
    for q in range(2):
      gain = total = 0.0
      for i in np.flatnonzero(GRADES[q]):
        g = np.mean(np.maximum(1 - wide[q, i] + wide[q], 0) ** 2)
        u = memory[q, i] = memory[q, i] + 0.6 * (g - memory[q, i]) if (q, i) in memory else g
        chosen = 1 / (1 + np.exp(-2 * (wide[q, i] - lam[q]))) if name == "k_song" else 1.0
        gain += chosen * (2.0 ** GRADES[q, i] - 1) / np.log2(1 + ITEMS * u)
        np.testing.assert_allclose(state.average[QUERY[q], ITEM[q, i]], u, rtol=1e-5)
      best = np.sort(2.0 ** GRADES[q] - 1)[::-1][: 2 if name == "k_song" else ITEMS]
      total = np.sum(best / np.log2(np.arange(2, len(best) + 2)))
      objective.append(1 - gain / total)
      if name == "k_song":
        above = 1 / (1 + np.exp(-(wide[q] - lam[q]) / h["smoothing"]))
        lam[q] -= h["step_size"] * (h["k"] / ITEMS + 1e-4 * lam[q] - above.mean())
        np.testing.assert_allclose(state.threshold[QUERY[q]], lam[q], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(info.objective, np.mean(objective), rtol=2e-5)


def test_thresholds_of_k_song_separate_the_first_items(scores):
  step = lambda state, _: (visit("k_song", scores, state, step_size=0.5, smoothing=0.01)[2], None)
  state = jax.jit(lambda state: jax.lax.scan(step, state, None, 300)[0])(start("k_song"))
  for row in range(2):
    top = np.sort(scores[row])[::-1]
    assert np.sum(scores[row] > state.threshold[QUERY[row]] - 0.3) >= 2
    assert top[3] - 0.3 < state.threshold[QUERY[row]] < top[0] + 0.3


@every_method
def test_state_rules(name, scores):
  state = trained(name, scores)
  same = lambda a, b: jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), a, b)
  # nothing relevant, nothing there
  for grades, where in ((0 * GRADES, EVERY), (GRADES, ~EVERY)):
    value, grads, new, info = visit(name, scores, state, grades, where=where)
    assert value == 0 and info.objective == 0 and not np.any(grads)
    same(new, state)
  # masked items may hold anything
  where = EVERY.copy()
  where[0, 3] = where[:, 5] = False
  hidden = np.where(where, scores, np.nan).astype(np.float32)
  value, grads, new, _ = visit(name, hidden, state, where=where)
  assert np.isfinite(value) and np.all(np.isfinite(grads)) and not np.any(np.asarray(grads)[~where])
  # only relevant items of the batch are written
  first_old, first_new = np.asarray(state[0]), np.asarray(new[0])
  written = {(QUERY[q], ITEM[q, i]) for q, i in zip(*np.nonzero(GRADES * where), strict=True)}
  for place in np.ndindex(QUERIES, ITEMS):
    assert (place in written) == (first_old[place] != first_new[place])
  # NaN spoils the step and not the state
  spoiled = scores.copy()
  spoiled[0, 1] = np.nan
  value, _, new, _ = visit(name, spoiled, state)
  assert np.isnan(value)
  np.testing.assert_array_equal(new[0][QUERY[0]], state[0][QUERY[0]])
  assert np.any(np.asarray(new[0][QUERY[1]]) != np.asarray(state[0][QUERY[1]]))
  # an index out of range, and huge scores
  assert np.isnan(visit(name, scores, state, index=(QUERY + QUERIES, ITEM))[0])
  value, grads, _, _ = visit(name, np.where(GRADES > 0, -1e4, 1e4).astype(np.float32), state)
  assert np.isfinite(value) and np.all(np.isfinite(grads))


@every_method
def test_equal_pairs_are_averaged(name, scores):
  item = ITEM.copy()
  item[0, 3] = item[0, 0]  # both relevant
  grades = GRADES.copy()
  grades[0, 3] = grades[0, 0]
  state, order = trained(name, scores), np.arange(ITEMS)[::-1]
  _, _, new, _ = visit(name, scores, state, grades, (QUERY, item))
  _, _, other, _ = visit(name, scores[:, order], state, grades[:, order], (QUERY, item[:, order]))
  jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), new, other)


@every_method
def test_no_retrace_and_part_of_a_list(name, scores):
  state = trained(name, scores)
  visit(name, scores, state)
  before = compiled(name)[1].traces
  for factor in (0.9, 0.8):
    visit(name, scores, state, **{key: factor * value for key, value in HYPER[name].items()})
  assert compiled(name)[1].traces == before
  # with the length of the list given the state may be wider than the list
  _, _, _, info = visit(name, scores, start(name))
  _, _, _, longer = visit(name, scores, start(name), num_items=np.float32(2 * ITEMS))
  assert longer.objective > info.objective
