"""h-calibration: its formula in NumPy, what must not matter, where its minimum lies."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxopt_robust import calibration as cal
from jaxopt_robust.calibration.h_calibration import kmeans_sorted, window_sums
from tests.helpers import central_difference

C = 4


def sample(seed=0, n=60, temperature=0.5, classes=C):
  """Probabilities that are too sure of themselves, and labels."""
  rng = np.random.default_rng(seed)
  z = 2 * rng.standard_normal((n, classes))
  labels = np.argmax(temperature * z + rng.gumbel(size=z.shape), axis=1)
  e = np.exp(z)
  return e / e.sum(1, keepdims=True), labels


def lloyd(values, k, steps=25):
  """Cluster of each value, by comparing all distances."""
  low, high = values.min(), values.max()
  centres = low + (high - low) * (np.arange(k) + 0.5) / k
  for _ in range(steps):
    index = np.abs(values[:, None] - centres[None]).argmin(1)
    for j in range(k):
      if np.any(index == j):
        centres[j] = values[index == j].mean()
  return np.abs(values[:, None] - centres[None]).argmin(1)


def numpy_loss(p, y, window, tolerance, weighting, k=15):
  gap = p - np.eye(p.shape[1])[y]
  outcome = np.eye(p.shape[1])[y]
  # Elementwise, as the reference writes it.
  np.testing.assert_allclose(p * (1 - outcome) - (1 - p) * outcome, gap, atol=1e-15)
  order = np.argsort(p.ravel(), kind="stable")
  values, gap = p.ravel()[order], gap.ravel()[order]
  padded = np.pad(gap, window // 2)
  windows = np.lib.stride_tricks.sliding_window_view(padded, window + 1)
  excess = np.maximum(np.abs(windows.sum(1)) / (window + 1) - tolerance, 0)
  if weighting == "mean":
    return 1e5 * excess.mean()
  index = lloyd(values, k)
  if weighting == "width":
    index = np.clip(np.ceil(values * k) - 1, 0, k - 1).astype(int)
  parts = [excess[index == j].sum() / ((index == j).sum() + 1e-5) for j in range(k)]
  return 1e5 * np.mean(parts)


@pytest.mark.x64
def test_the_formula_in_numpy():
  p, y = sample()
  for weighting, tolerance in itertools.product(("kmeans", "width", "mean"), (0.0, 0.05)):
    options = {"window": 20, "tolerance": tolerance, "weighting": weighting}
    expected = numpy_loss(p, y, **options)
    np.testing.assert_allclose(cal.h_calibration_loss(p, y, **options), expected, rtol=1e-10)
    left = [numpy_loss(p[y != c], y[y != c], **options) for c in range(C)]
    found = cal.h_calibration_loss(p, y, leave_one_class_out=True, **options)
    np.testing.assert_allclose(found, np.mean(left), rtol=1e-10)


@pytest.mark.x64
def test_clusters_are_those_of_a_brute_force():
  rng = np.random.default_rng(0)
  values = np.sort(rng.beta(0.3, 2, 500))  # most of them near 0, as probabilities are
  find = jax.jit(kmeans_sorted, static_argnums=2)
  for k, count in ((15, 500), (15, 300), (3, 500), (40, 30)):
    ends = np.asarray(find(jnp.asarray(values), jnp.int32(count), k))
    sizes = np.bincount(lloyd(values[:count], k), minlength=k)
    np.testing.assert_array_equal(np.diff(ends), sizes)
  assert np.all(np.asarray(find(jnp.zeros(5), jnp.int32(0), 3)) == 0)


def test_windows():
  x = np.random.default_rng(0).standard_normal(50)
  for length in (1, 3, 5, 21, 49, 51, 99, 201):
    expected = np.convolve(x, np.ones(length))[length // 2 :][:50]
    np.testing.assert_allclose(window_sums(jnp.asarray(x), length), expected, atol=1e-5)
  # No digits are lost by sums over what lies before a window.
  many = jnp.ones(100_000).at[50_000:].set(1e-7)
  np.testing.assert_allclose(window_sums(many, 201)[60_000], 201e-7, rtol=1e-5)


def test_where_nothing_exceeds_the_tolerance_and_where_windows_hold_everything():
  p, y = sample()
  largest = cal.h_calibration_loss(p, y, window=20, weighting="mean") > 0
  assert largest
  assert cal.h_calibration_loss(p, y, window=20, tolerance=1.0) == 0
  # Gaps of a row sum to 0, and so do those of all events.
  assert cal.h_calibration_loss(p, y, window=2 * p.size) < 1e5 * 1e-6
  assert cal.h_calibration_loss(p, y, window=0, weighting="mean") > 1e5 * 0.1


def test_the_order_of_rows_and_classes_and_masked_rows_do_not_matter():
  p, y = sample()
  rng = np.random.default_rng(1)
  for leave in (False, True):
    loss = functools.partial(cal.h_calibration_loss, window=20, leave_one_class_out=leave)
    base = loss(p, y)
    rows, classes = rng.permutation(60), rng.permutation(C)
    np.testing.assert_allclose(loss(p[rows], y[rows]), base, rtol=1e-4)
    np.testing.assert_allclose(loss(p[:, classes], np.argsort(classes)[y]), base, rtol=1e-4)
    where = np.arange(60) < 40
    wrong, labels = p.copy(), y.copy()
    wrong[40:], labels[40:] = np.nan, 99
    np.testing.assert_allclose(loss(wrong, labels, where=where), loss(p[:40], y[:40]), rtol=1e-4)
    assert loss(p, y, where=np.zeros(60, bool)) == 0
    broken = jax.jit(loss)(jnp.asarray(p).at[0, 0].set(jnp.nan), jnp.asarray(y))
    assert np.isnan(broken)


def test_the_noise_of_calibrated_probabilities():
  window, totals, expected = 200, [], []
  for seed in range(3):
    p, y = sample(seed, n=5000, temperature=1.0)
    gap = (p - np.eye(C)[y]).ravel()[np.argsort(p.ravel())]
    sums = np.abs(window_sums(jnp.asarray(gap, jnp.float32), window + 1)) / (window + 1)
    inside = slice(window // 2, -(window // 2))
    totals.append(np.mean(sums[inside]))
    q = np.sort(p.ravel())[inside]
    expected.append(np.mean(np.sqrt(2 * q * (1 - q) / (np.pi * (window + 1)))))
  np.testing.assert_allclose(np.mean(totals), np.mean(expected), rtol=0.1)


@pytest.mark.parametrize("leave", [False, True])
def test_the_minimum_lies_at_the_true_temperature(leave):
  rng = np.random.default_rng(0)
  z = 2 * rng.standard_normal((1000, 10)) + 4 * np.eye(10)[rng.integers(10, size=1000)]
  labels = np.argmax(z + rng.gumbel(size=z.shape), axis=1)
  grid = np.arange(0.2, 0.65, 0.05)
  loss = functools.partial(cal.h_calibration_loss, window=100, leave_one_class_out=leave)
  values = jax.lax.map(lambda t: loss(jax.nn.softmax(t * 2.5 * z, axis=1), labels), grid)
  assert abs(grid[np.argmin(values)] - 0.4) < 0.051


@pytest.mark.x64
@pytest.mark.parametrize("weighting", ["kmeans", "mean"])
def test_gradient(weighting):
  p, y = sample(2, n=20)
  z = np.log(p)
  loss = jax.jit(lambda z: cal.h_calibration_loss(
    jax.nn.softmax(z, axis=1), y, window=8, weighting=weighting, tolerance=0.01
  ))  # fmt: skip
  slope = central_difference(loss, z, 1e-8)
  np.testing.assert_allclose(jax.grad(loss)(z), slope, rtol=1e-4, atol=1e-2)
  assert np.abs(slope).max() > 100


def test_edges():
  for p, y in (
    (np.eye(3), np.array([0, 1, 2])),
    (np.eye(3), np.array([1, 1, 1])),
    (np.full((5, 2), 0.5), np.zeros(5, int)),
    (np.array([[0.3, 0.7]]), np.array([1])),
  ):
    f = lambda p, y=y: cal.h_calibration_loss(p, y, leave_one_class_out=len(y) == 3)
    value, slope = jax.value_and_grad(f)(jnp.asarray(p))
    assert np.isfinite(value) and value >= 0 and np.all(np.isfinite(slope))
  half = cal.h_calibration_loss(jnp.full((5, 2), 0.5, jnp.bfloat16), np.zeros(5, int))
  assert half.dtype == jnp.float32


@pytest.mark.x64
def test_the_piecewise_linear_map():
  rng = np.random.default_rng(0)
  z = 3 * rng.standard_normal((50, 5))
  logs = np.asarray(jax.nn.log_softmax(z, axis=1))
  same = cal.piecewise_linear_apply(cal.piecewise_linear_init(num_segments=10), z)
  np.testing.assert_allclose(same, logs, atol=1e-12)
  slopes, span = rng.standard_normal(8), 6.0
  u, width = -logs, 6.0 / 8
  pieces = np.clip(u[..., None] - width * np.arange(8), 0, np.r_[np.full(7, width), np.inf])
  np.testing.assert_allclose(
    cal.piecewise_linear_apply(slopes, z, span=span), -(pieces @ np.abs(slopes)), atol=1e-12
  )
  # Continuous at the knots: two classes with -log p = the knot, up to 1e-6.
  for knot in width * np.arange(1, 8):
    u = knot + np.array([-1e-6, 1e-6])
    rows = np.stack([-u, np.log(-np.expm1(-u))], axis=1)
    out = np.asarray(cal.piecewise_linear_apply(slopes, rows, span=span))[:, 0]
    assert abs(out[1] - out[0]) < 1e-5
  far = cal.piecewise_linear_apply(slopes, np.array([[0.0, -1e30]]), span=span)
  assert np.all(np.isfinite(far))
  grads = jax.grad(lambda s: jnp.sum(cal.piecewise_linear_apply(s, z, span=span)[:, 0]))(slopes)
  np.testing.assert_allclose(grads, -(pieces[:, 0].sum(0)) * np.sign(slopes), atol=1e-10)


def test_recalibration_keeps_the_best_iterate_and_says_what_failed():
  p, y = sample(0, n=400, temperature=0.4)
  z = np.log(p)
  loss = functools.partial(cal.h_calibration_loss, window=20)
  score = cal.classwise_calibration_error
  fit = jax.jit(functools.partial(
    cal.recalibrate, cal.temperature_apply, loss=loss, optimizer=optax.adam(0.05), num_steps=60,
    selector=score,
  ))  # fmt: skip
  t, info = fit(jnp.ones(()), z, y)
  assert info.status == 0 and abs(t - 0.4) < 0.1
  assert info.best == np.argmin(info.score)
  after = score(jax.nn.softmax(cal.temperature_apply(t, z)), y)
  np.testing.assert_allclose(after, info.score[info.best], rtol=1e-3)
  np.testing.assert_allclose(info.score[0], score(p, y), rtol=1e-3)
  assert fit(jnp.ones(()), jnp.asarray(z).at[0, 0].set(jnp.nan), y)[1].status == 2
  plateau = optax.chain(optax.adam(0.05), optax.contrib.reduce_on_plateau(patience=2))
  _, info = cal.recalibrate(
    cal.temperature_apply, jnp.ones(()), z, y, loss=loss, optimizer=plateau, num_steps=5
  )
  assert info.status == 0
