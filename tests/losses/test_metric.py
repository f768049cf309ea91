"""Threshold-consistent margin loss: the worked example, hard pairs, invariances, a peer."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import losses
from tests.helpers import assert_no_retrace, central_difference

EMBEDDINGS = np.array([[0, 1], [0.43, 0.90], [1, 0], [0.5, 0.5]])
LABELS = np.array([0, 0, 1, 1], np.int32)
NUMBERS = {
  "positive_margin": 0.9,
  "negative_margin": 0.5,
  "positive_weight": 1.0,
  "negative_weight": 1.0,
}
SIZE = 8
MANY = np.array([0, 1, 0, 2, 1, 0, 2, 5], np.int32)


@functools.cache
def compiled():
  """Jitted ``(similarities, labels, numbers, where) -> (value, gradient)``."""

  def evaluate(similarities, labels, numbers, where):
    loss = lambda s: losses.threshold_consistent_margin_loss(s, labels, where=where, **numbers)
    return jax.value_and_grad(loss)(similarities)

  return jax.jit(evaluate)


def evaluate(similarities, labels=MANY, where=None, **numbers):
  numbers = {k: np.float32(v) for k, v in {**NUMBERS, **numbers}.items()}
  where = np.ones(np.shape(similarities), bool) if where is None else where
  return compiled()(similarities, labels, numbers, where)


@pytest.fixture
def similarities(rng):
  """Cosines, none of them within 1e-4 of a margin, so that finite differences see no jump."""
  z = rng.normal(size=(SIZE, 3))
  s = np.asarray(losses.cosine_similarities(z))
  assert np.min(np.abs(s[..., None] - np.array([0.9, 0.5, 0.3]))) > 1e-4
  return jnp.asarray(s, jnp.result_type(float))


def by_loops(s, labels, m_pos=0.9, m_neg=0.5, w_pos=1.0, w_neg=1.0):
  pairs = [(i, j) for i in range(len(s)) for j in range(len(s)) if i != j]
  positive = [m_pos - s[i, j] for i, j in pairs if labels[i] == labels[j] and s[i, j] <= m_pos]
  negative = [s[i, j] - m_neg for i, j in pairs if labels[i] != labels[j] and s[i, j] >= m_neg]
  mean = lambda values: np.mean(values) if values else 0.0
  return w_pos * mean(positive) + w_neg * mean(negative)


@pytest.mark.x64
def test_worked_example():
  """One pair of each class is 0.9 - s apart; two of the four pairs across are too close."""
  s = losses.cosine_similarities(EMBEDDINGS)
  value = lambda **numbers: float(losses.threshold_consistent_margin_loss(s, LABELS, **numbers))
  positive, negative = value(negative_weight=0.0), value(positive_weight=0.0)
  np.testing.assert_allclose([positive, negative], [0.1929, 0.3250], atol=6e-5)
  np.testing.assert_allclose(value(), 0.5179, atol=6e-5)
  np.testing.assert_allclose(value(), by_loops(np.asarray(s), LABELS), rtol=1e-12)


@pytest.mark.x64
def test_value_and_gradient(similarities):
  numbers = {"positive_margin": 0.3, "positive_weight": 0.3, "negative_weight": 2.0}
  value, grads = evaluate(similarities, **numbers)
  m_pos, w_pos = float(np.float32(0.3)), float(np.float32(0.3))
  s = np.asarray(similarities)
  np.testing.assert_allclose(value, by_loops(s, MANY, m_pos, 0.5, w_pos, 2.0), rtol=1e-12)
  same, off = MANY[:, None] == MANY[None, :], ~np.eye(SIZE, dtype=bool)
  hard_pos, hard_neg = same & off & (s <= m_pos), ~same & (s >= 0.5)
  assert hard_pos.sum() > 1 and hard_neg.sum() > 1 and not hard_pos[off & same].all()
  expected = -w_pos / hard_pos.sum() * hard_pos + 2 / hard_neg.sum() * hard_neg
  np.testing.assert_allclose(grads, expected, rtol=1e-12)
  total = lambda s: float(evaluate(s, **numbers)[0])
  np.testing.assert_allclose(grads, central_difference(total, s), atol=1e-8)


@pytest.mark.x64
def test_scale_and_rotation_of_the_embeddings_do_not_matter(rng):
  z = rng.normal(size=(SIZE, 3))
  rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
  value, _ = evaluate(losses.cosine_similarities(z))
  scaled = z * rng.uniform(0.1, 10, (SIZE, 1))
  for other in (scaled, z @ rotation, 1e-200 * z):
    np.testing.assert_allclose(evaluate(losses.cosine_similarities(other))[0], value, rtol=1e-10)


def test_zero_beyond_the_margins_and_pairs_at_a_margin_count():
  same = MANY[:, None] == MANY[None, :]
  value, grads = evaluate(np.where(same, np.float32(0.91), np.float32(0.49)))
  assert value == 0 and np.all(grads == 0)
  at = np.where(same, np.float32(0.75), np.float32(0.5))  # both margins, exactly
  value, grads = evaluate(at, positive_margin=0.75)
  assert value == 0
  assert np.all((grads != 0) == ~np.eye(SIZE, dtype=bool))


def test_masked_pairs_do_not_count(similarities):
  where = np.ones((SIZE, SIZE), bool)
  where[5] = where[:, 5] = False
  hidden = similarities.at[5].set(jnp.nan).at[:, 5].set(jnp.inf)
  value, grads = evaluate(hidden, where=where)
  kept = np.delete(np.delete(np.asarray(similarities), 5, 0), 5, 1)
  np.testing.assert_allclose(value, by_loops(kept, np.delete(MANY, 5)), rtol=1e-5)
  assert np.all(grads[5] == 0) and np.all(grads[:, 5] == 0) and np.all(np.isfinite(grads))
  value, grads = evaluate(hidden, where=np.zeros((SIZE, SIZE), bool))
  assert value == 0 and np.all(grads == 0)
  assert np.isnan(evaluate(hidden)[0])


def test_dtypes_extremes_and_traced_numbers(similarities):
  value, grads = evaluate(similarities.astype(jnp.bfloat16))
  assert value.dtype == grads.dtype == jnp.bfloat16
  wide, _ = evaluate(similarities.astype(jnp.bfloat16).astype(jnp.float32))
  np.testing.assert_allclose(np.float32(value), wide, rtol=2**-7)
  for sign in (1e4, -1e4):
    value, grads = evaluate(sign * jnp.ones((SIZE, SIZE)))
    assert np.isfinite(value) and np.all(np.isfinite(grads))
  fun = lambda margin: losses.threshold_consistent_margin_loss(
    similarities, MANY, positive_margin=margin
  )
  assert_no_retrace(fun, lambda i: (jnp.float32(0.9 - 0.1 * i),))
  margins = jnp.array([0.9, 0.7])
  expected = [evaluate(similarities, positive_margin=m)[0] for m in margins]
  np.testing.assert_allclose(jax.jit(jax.vmap(fun))(margins), expected, rtol=1e-6)


@pytest.mark.x64
def test_zero_embeddings_have_finite_gradients():
  z = np.zeros((4, 2))
  loss = lambda z: losses.threshold_consistent_margin_loss(losses.cosine_similarities(z), LABELS)
  grads = jax.jit(jax.grad(loss))(z)
  assert np.all(np.isfinite(grads))


@pytest.mark.peer
@pytest.mark.x64
def test_equals_pytorch_metric_learning(rng):
  torch = pytest.importorskip("torch")
  peers = pytest.importorskip("pytorch_metric_learning.losses")
  peer = peers.ThresholdConsistentMarginLoss()
  for _ in range(5):
    z, labels = rng.normal(size=(12, 4)), rng.integers(0, 4, 12)
    tensor = torch.tensor(z, dtype=torch.float64, requires_grad=True)
    expected = peer(tensor, torch.tensor(labels))
    expected.backward()
    fun = lambda z, labels=labels: losses.threshold_consistent_margin_loss(
      losses.cosine_similarities(z), labels
    )
    value, grads = jax.value_and_grad(fun)(z)
    np.testing.assert_allclose(value, expected.item(), rtol=1e-6)
    np.testing.assert_allclose(grads, tensor.grad.numpy(), rtol=1e-5, atol=1e-8)
