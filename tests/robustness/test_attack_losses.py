"""Losses that attacks maximise: values by hand, signs, gradients, saturation, few classes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxopt_robust import losses, robustness
from tests.helpers import central_difference

BATCH, CLASSES = 6, 5
PLAIN = {
  "log cross entropy": robustness.cross_entropy_attack_loss,
  "margin": robustness.margin_attack_loss,
  "DLR": robustness.dlr_attack_loss,
}
TARGETED = {
  "targeted DLR": robustness.targeted_dlr_attack_loss,
  "targeted margin": robustness.targeted_margin_attack_loss,
}


@pytest.fixture
def data(rng):
  """Scores, labels, targets that differ from them."""
  labels = rng.integers(0, CLASSES, BATCH)
  targets = (labels + rng.integers(1, CLASSES, BATCH)) % CLASSES
  return rng.normal(size=(BATCH, CLASSES)), labels, targets


def by_hand(z, y, t):
  """The formulas of one row."""
  others = np.delete(z, y)
  top = np.sort(z)[::-1]
  p = np.exp(z) / np.exp(z).sum()
  return {
    "log cross entropy": np.log(-np.log(p[y])),
    "margin": others.max() - z[y],
    "DLR": -(z[y] - others.max()) / (top[0] - top[2] + 1e-12),
    "targeted DLR": -(z[y] - z[t]) / (top[0] - (top[2] + top[3]) / 2 + 1e-12),
    "targeted margin": z[t] - z[y],
  }


def bound(data):
  """Every loss as a function of the scores."""
  _, labels, targets = data
  plain = {name: functools.partial(fn, labels=labels) for name, fn in PLAIN.items()}
  aimed = {n: functools.partial(fn, labels=labels, targets=targets) for n, fn in TARGETED.items()}
  return plain | aimed


@pytest.mark.x64
def test_values_and_gradients(data):
  z, labels, targets = data
  rows = [by_hand(*row) for row in zip(z, labels, targets, strict=True)]
  for name, fn in bound(data).items():
    np.testing.assert_allclose(fn(z), [row[name] for row in rows], rtol=1e-10, err_msg=name)
    weights = np.arange(1.0, BATCH + 1)
    total = jax.jit(lambda z, fn=fn, w=weights: jnp.sum(w * fn(z)))
    slope = jax.grad(total)(z)
    np.testing.assert_allclose(slope, central_difference(total, z), atol=1e-6, err_msg=name)


def test_positive_means_misclassified_and_ratios_have_no_units(data):
  z, labels, targets = (np.float32(data[0]), *data[1:])
  wrong = np.argmax(z, axis=1) != labels
  assert wrong.any() and not wrong.all()
  for name in ("margin", "DLR"):
    np.testing.assert_array_equal(PLAIN[name](z, labels) > 0, wrong)
  for name in ("DLR", "targeted DLR"):
    fn = bound((z, labels, targets))[name]
    for factor in (2.0**-40, 2.0**40):
      np.testing.assert_allclose(fn(factor * z), fn(z), rtol=1e-6)
    np.testing.assert_allclose(fn(z + 3), fn(z), rtol=1e-4)


def test_equal_scores_keep_the_sign():
  z = jnp.array([[1.0, 1.0, 1.0, 0.0], [0.0, 1.0, 1.0, 1.0], [2.0, 2.0, 2.0, 2.0]])
  labels = jnp.zeros(3, int)
  value = robustness.dlr_attack_loss(z, labels)
  assert value[0] == 0 and value[1] > 1e6 and np.isfinite(value[1]) and value[2] == 0
  aimed = robustness.targeted_dlr_attack_loss(z[2:], labels[2:], labels[2:] + 1)
  assert aimed[0] == 0
  slope = jax.grad(lambda z: jnp.sum(robustness.dlr_attack_loss(z, labels)))(z)
  assert np.all(np.isfinite(slope))


def test_the_logarithm_has_the_direction_of_the_cross_entropy_and_does_not_vanish(data):
  z, labels = np.float32(data[0]), data[1]
  ours, plain = (
    jax.grad(lambda z, fn=fn: jnp.sum(fn(z, labels)))
    for fn in (robustness.cross_entropy_attack_loss, losses.cross_entropy_loss)
  )
  unit = lambda g: g / np.linalg.norm(g, axis=1, keepdims=True)
  np.testing.assert_allclose(unit(ours(z)), unit(plain(z)), atol=1e-5)
  # Both sides of the change of formula, and far beyond what exp holds.
  sure = np.float32(50 * np.eye(CLASSES)[labels]) + z
  limit = np.where(np.eye(CLASSES, dtype=bool)[labels], -np.inf, z)
  limit = np.asarray(jax.nn.softmax(limit)) - np.eye(CLASSES)[labels]
  np.testing.assert_allclose(ours(sure), limit, atol=1e-5)
  assert np.all(plain(1e4 * sure) == 0) and np.all(np.abs(ours(1e4 * sure)).max(1) > 0.9)
  m = jnp.linspace(-25, -15, 401)
  pair = jnp.stack([jnp.zeros_like(m), m], axis=1)
  value = robustness.cross_entropy_attack_loss(pair, jnp.zeros(401, int))
  np.testing.assert_allclose(value, np.log(np.log1p(np.exp(np.float64(m)))), rtol=1e-6)


def test_masked_rows_half_precision_and_shapes(data):
  z, labels, _ = data
  where = np.arange(BATCH) != 2
  holes = z.copy()
  holes[2] = np.nan
  for name, fn in bound(data).items():
    whole, masked = fn(z), fn(holes, where=where)
    np.testing.assert_array_equal(masked, np.where(where, whole, 0), err_msg=name)
    slope = jax.grad(lambda z, fn=fn: jnp.sum(fn(z, where=where)))(jnp.asarray(holes))
    assert np.all(slope[2] == 0) and np.all(np.isfinite(slope)), name
    half = fn(jnp.asarray(z, jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), whole, rtol=0.1, atol=0.1)
  one = robustness.margin_attack_loss(z[0], labels[0])
  assert one.shape == () and one == robustness.margin_attack_loss(z, labels)[0]
  late = jax.jit(robustness.targeted_margin_attack_loss)(z, labels, jnp.full(BATCH, CLASSES))
  assert np.all(np.isnan(late))


def test_a_class_ruled_out_by_minus_infinity_leaves_the_ratio():
  logits, labels = jnp.array([[5.0, 1.0, 0.0, -jnp.inf]]), jnp.array([0])
  value, slope = jax.value_and_grad(lambda z: robustness.dlr_attack_loss(z, labels)[0])(logits)
  np.testing.assert_allclose(value, -0.8, rtol=1e-6)  # -(5 - 1) / (5 - 0)
  np.testing.assert_allclose(slope, [[-0.04, 0.2, -0.16, 0.0]], atol=1e-6)
  wide = jnp.array([[5.0, 1.0, 0.0, -1.0, -jnp.inf]])
  targeted = robustness.targeted_dlr_attack_loss(wide, labels, jnp.array([1]))
  np.testing.assert_allclose(targeted, [-4 / 5.5], rtol=1e-6)  # 5 - (0 - 1) / 2


def test_where_only_the_label_is_possible_attacks_have_no_direction():
  z, labels = jnp.array([[0.5, -jnp.inf, -jnp.inf], [0.5, 1.0, -jnp.inf]]), jnp.array([0, 0])
  loss = lambda z: robustness.cross_entropy_attack_loss(z, labels)
  values, slopes = loss(z), jax.grad(lambda z: jnp.sum(loss(z)[1:]) + 0 * loss(z)[0])(z)
  assert values[0] == -jnp.inf and np.isclose(values[1], np.log(np.log1p(np.exp(0.5))))
  assert np.all(slopes[0] == 0) and np.isfinite(slopes[1]).all()
