"""Mann-Whitney loss against what its paper proves, and the contrastive loss it is compared with."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import losses
from tests.helpers import assert_no_retrace, central_difference

B, P = 6, 15
INDEX = np.array([0, 1, 2, 3, 4, 5], np.int32)
EVERY = np.ones((B, P), bool)


@functools.cache
def compiled(chunk, reduction):
  def evaluate(scores, index, where, temperature):
    def total(s):
      loss = losses.mann_whitney_loss(
        s, index, temperature=temperature, where=where, chunk=chunk, reduction=reduction
      )
      return jnp.mean(loss), loss

    (_, loss), grads = jax.value_and_grad(total, has_aux=True)(scores)
    return loss, grads

  return jax.jit(evaluate)


def evaluate(scores, temperature=1.0, where=EVERY, index=INDEX, chunk=None, reduction="mean"):
  return compiled(chunk, reduction)(scores, index, where, np.float32(temperature))


def split(scores, where=EVERY):
  """Scores of the positives, and of the pool."""
  is_positive = np.arange(P)[None] == INDEX[:, None]
  return scores[np.arange(B), INDEX], scores[~is_positive & where]


@pytest.fixture
def scores(rng):
  return rng.normal(size=(B, P)).astype(np.float32)


def plain(scores, temperature=1.0, where=EVERY):
  positive, pool = split(np.asarray(scores, np.float64), where)
  return np.logaddexp(0, -(positive[:, None] - pool[None]) / temperature).mean(1)


def test_equals_its_plain_form(scores):
  for temperature in (0.01, 1.0, 10.0):
    got, _ = evaluate(scores, temperature)
    np.testing.assert_allclose(got, plain(scores, temperature), rtol=2e-5)
  eager = losses.mann_whitney_loss(scores, INDEX)
  np.testing.assert_allclose(eager, plain(scores, 0.01), rtol=2e-5)
  total, _ = evaluate(scores, reduction="sum")
  np.testing.assert_allclose(total, B * (P - 1) * plain(scores), rtol=2e-5)


@pytest.mark.parametrize("chunk", [1, 4, 6])
def test_chunks_change_nothing(chunk, scores):
  values, grads = evaluate(scores)
  chunked, chunked_grads = evaluate(scores, chunk=chunk)
  np.testing.assert_allclose(chunked, values, rtol=1e-6)
  np.testing.assert_allclose(chunked_grads, grads, rtol=1e-5, atol=1e-8)


def test_chunks_bound_the_memory():
  rows, columns = 64, 192

  def memory(chunk):
    loss = lambda s: jnp.sum(losses.mann_whitney_loss(s, jnp.arange(rows), chunk=chunk))
    example = jax.ShapeDtypeStruct((rows, columns), jnp.float32)
    return jax.jit(jax.grad(loss)).lower(example).compile().memory_analysis().temp_size_in_bytes

  # B^2 P floats at once, against a few arrays of chunk B P; the backward pass included
  assert memory(2) < memory(None) / 4


def test_masks(scores):
  where = np.ones((B, P), bool)
  where[:, 7] = where[3, 9] = where[4] = False
  hidden = np.where(where, scores, np.nan).astype(np.float32)
  values, grads = evaluate(hidden, where=where)
  expected = plain(scores, where=where)
  expected[4] = 0  # the query without a positive
  np.testing.assert_allclose(values, expected, rtol=2e-5)
  np.testing.assert_array_equal(np.asarray(grads)[~where], 0)
  assert np.all(np.isfinite(grads))
  for mask in (~EVERY, np.arange(P)[None] == INDEX[:, None]):  # nothing; positives alone
    values, grads = evaluate(hidden, where=np.array(mask) & where)
    np.testing.assert_array_equal(values, 0)
    np.testing.assert_array_equal(grads, 0)


def test_duplicates_of_a_passage_are_false_negatives_unless_masked(scores):
  scores[:, 9] = scores[:, 2]  # passage 9 is passage 2 again
  positive = scores.copy()
  positive[2, [2, 9]] = 5.0
  hurt, _ = evaluate(positive, 0.1)
  where = EVERY.copy()
  where[2, 9] = False
  fine, _ = evaluate(positive, 0.1, where=where)
  assert np.all(hurt > fine)  # every query is hurt, not only the third


def test_index_out_of_range_is_nan_under_jit(scores):
  values, _ = evaluate(scores, index=np.array([0, 1, 2, 3, 4, P], np.int32))
  np.testing.assert_array_equal(np.isnan(values), np.arange(B) == 5)


def test_finite_at_huge_scores():
  signs = np.where(np.arange(P)[None] == INDEX[:, None], 1.0, -1.0)
  for scores in (1e4 * signs, -1e4 * signs):
    values, grads = evaluate(scores.astype(np.float32), 0.01)
    assert np.all(np.isfinite(values)) and np.all(np.isfinite(grads))
  assert evaluate((1e4 * signs).astype(np.float32))[0].max() == 0


def test_a_separated_batch_has_no_loss(scores):
  separated = np.where(np.arange(P)[None] == INDEX[:, None], 0.6, 0.4).astype(np.float32)
  assert np.max(evaluate(separated, 0.01)[0]) < 1e-6


def test_area_over_the_curve_is_bounded(rng):
  # Lemma 2: P(s_+ < s_-) <= loss / log 2 at every temperature
  area = jax.jit(losses.two_sample_auc)
  for scores in rng.normal(size=(20, B, P)).astype(np.float32):
    over = 1 - area(*split(scores))
    for temperature in (0.01, 0.1, 1.0, 10.0):
      assert over <= np.mean(evaluate(scores, temperature)[0]) / np.log(2) + 1e-6


def test_contrastive_loss_ignores_shifts_of_a_query_and_this_one_does_not(rng, scores):
  # Lemma 1, and its consequence: large shifts make the area one half
  contrastive = jax.jit(lambda s: losses.info_nce_loss(s, INDEX, temperature=1.0))
  shift = (50 * rng.normal(size=(B, 1))).astype(np.float32)
  np.testing.assert_allclose(contrastive(scores + shift), contrastive(scores), rtol=1e-3, atol=1e-4)
  good = scores + np.where(np.arange(P)[None] == INDEX[:, None], 6.0, 0.0).astype(np.float32)
  assert np.mean(evaluate(good + shift)[0]) > 100 * np.mean(evaluate(good)[0])
  many = (50 * rng.normal(size=(2000, 1))).astype(np.float32)
  areas = jax.jit(losses.two_sample_auc)(
    many + 6, many + rng.normal(size=(2000, 4)).astype(np.float32)
  )
  np.testing.assert_allclose(areas, 0.5, atol=0.05)


def test_order_of_the_queries_does_not_matter(rng, scores):
  order = rng.permutation(B)
  permuted, _ = evaluate(scores[order], index=INDEX[order])
  np.testing.assert_allclose(permuted, np.asarray(evaluate(scores)[0])[order], rtol=1e-5)


def test_small_temperature_is_the_pairwise_hinge(scores):
  positive, pool = split(scores)
  hinge = np.maximum(pool[None] - positive[:, None], 0).mean(1)
  # tau log(1 + exp(x / tau)) - max(x, 0) lies in [0, tau log 2]
  difference = 1e-3 * np.asarray(evaluate(scores, 1e-3)[0]) - hinge
  assert np.all(difference > -1e-6) and np.all(difference < 1e-3 * np.log(2))
  # the same hinge from the pairwise loss over the flattened scores
  flat = np.concatenate([positive, pool])
  labels = np.concatenate([np.ones(B, np.int32), np.zeros(len(pool), np.int32)])
  surrogate = functools.partial(losses.hinge_surrogate, margin=0.0)
  pairwise = losses.pairwise_auc_loss(flat, labels, surrogate=surrogate)[:B]
  np.testing.assert_allclose(pairwise, hinge, rtol=1e-4, atol=1e-6)


def test_large_temperature_is_log_two(scores):
  np.testing.assert_allclose(evaluate(scores, 1e5)[0], np.log(2), rtol=1e-4)


@pytest.mark.x64
def test_gradient(scores):
  wide = scores.astype(np.float64)
  values, grads = evaluate(wide, 0.5)
  assert values.dtype == jnp.float64
  mean = lambda s: np.mean(evaluate(s, 0.5)[0])
  np.testing.assert_allclose(grads, central_difference(mean, wide), rtol=1e-6, atol=1e-9)
  positive, pool = split(wide)
  slope = -(1 / 0.5) * np.mean(1 / (1 + np.exp((positive[:, None] - pool[None]) / 0.5)), 1) / B
  np.testing.assert_allclose(np.asarray(grads)[np.arange(B), INDEX], slope, rtol=1e-12)
  with jax.enable_x64(False):
    narrow, narrow_grads = evaluate(scores, 0.5)
  np.testing.assert_allclose(narrow, values, rtol=1e-5)
  np.testing.assert_allclose(narrow_grads, grads, rtol=1e-4, atol=1e-7)


def test_dtype_vmap_and_no_retrace(scores):
  half = jnp.asarray(scores, jnp.bfloat16)
  values, grads = evaluate(half)
  assert values.dtype == grads.dtype == jnp.bfloat16
  many = jax.vmap(lambda s: evaluate(s)[0])(np.stack([scores, 2 * scores]))
  np.testing.assert_allclose(many[1], evaluate(2 * scores)[0], rtol=1e-5)
  loss = lambda tau: losses.mann_whitney_loss(scores, INDEX, temperature=tau)
  assert_no_retrace(loss, lambda i: (np.float32(0.1 + i),))
