"""Losses for calibrated segmentation: identities, closed forms, what belongs to a neighbourhood."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.ndimage

from jaxopt_robust import calibration as cal
from jaxopt_robust import losses
from tests.helpers import central_difference

C = 3
LOSSES = {
  "nacl": cal.nacl_loss,
  "svls": cal.svls_loss,
  "mbls": cal.mbls_loss,
  "smoothing": cal.label_smoothing_loss,
  "focal": cal.focal_loss,
  "entropy": cal.confidence_penalty_loss,
}
every = pytest.mark.parametrize("name", LOSSES)


def sample(seed=0, shape=(2, 6, 5)):
  rng = np.random.default_rng(seed)
  return 2 * rng.standard_normal((*shape, C)), rng.integers(C, size=shape)


def proportions(labels, kernel, mode="nearest"):
  """By scipy, class by class."""
  one_hot = np.eye(C)[labels]
  out = np.empty_like(one_hot)
  for b in range(len(labels)):
    for k in range(C):
      out[b, ..., k] = scipy.ndimage.correlate(one_hot[b, ..., k], kernel, mode=mode, cval=0.0)
  return out


def cross_entropy(target, z):
  return -np.sum(target * np.asarray(jax.nn.log_softmax(z, axis=-1)), axis=-1)


@pytest.mark.x64
def test_kernels():
  for ndim in (1, 2, 3):
    for kind in ("mean", "gaussian", "svls"):
      kernel = np.asarray(cal.spatial_kernel(kind, size=5, sigma=0.8, ndim=ndim))
      assert kernel.shape == (5,) * ndim
      np.testing.assert_allclose(kernel.sum(), 1, rtol=1e-12)
      np.testing.assert_allclose(kernel, np.flip(kernel), rtol=1e-12)
  expected = [[0.0472, 0.0778, 0.0472], [0.0778, 0.5, 0.0778], [0.0472, 0.0778, 0.0472]]
  np.testing.assert_allclose(cal.spatial_kernel("svls"), expected, atol=1e-4)
  line = np.exp(-(np.arange(-1, 2) ** 2) / (2 * 0.7**2))
  plane = np.outer(line, line) / line.sum() ** 2
  np.testing.assert_allclose(cal.spatial_kernel("gaussian", sigma=0.7), plane)
  # As the authors make it: centre and all divided by what the neighbours weigh, then by two.
  s = 1 - plane[1, 1]
  centred = plane.copy()
  centred[1, 1] = s
  np.testing.assert_allclose(cal.spatial_kernel("svls", sigma=0.7), centred / s / 2)
  narrow = cal.spatial_kernel("svls", sigma=1e-3)
  assert np.all(np.isfinite(narrow)) and narrow[1, 1] == 0.5


@pytest.mark.x64
def test_proportions_are_those_of_scipy():
  for shape in ((2, 7), (2, 6, 5), (1, 4, 5, 3)):
    _, y = sample(1, shape)
    for kind in ("mean", "svls"):
      kernel = np.asarray(cal.spatial_kernel(kind, ndim=len(shape) - 1))
      tau = cal.neighbor_prior(y, kernel, num_classes=C)
      np.testing.assert_allclose(tau, proportions(y, kernel), atol=1e-12)
      np.testing.assert_allclose(tau.sum(-1), 1, rtol=1e-12)
      zeros = cal.neighbor_prior(y, kernel, num_classes=C, padding="zeros")
      np.testing.assert_allclose(zeros, proportions(y, kernel, "constant"), atol=1e-12)
  uneven = np.random.default_rng(0).random((3, 5))  # neither symmetric nor square, of any sum
  _, y = sample(2)
  tau = cal.neighbor_prior(y, uneven, num_classes=C)
  np.testing.assert_allclose(tau, proportions(y, uneven / uneven.sum()), atol=1e-12)


def test_constant_maps_and_quarter_turns():
  z, y = sample()
  for kind in ("mean", "gaussian", "svls"):
    kernel = cal.spatial_kernel(kind)
    same = cal.neighbor_prior(np.full((1, 4, 4), 2), kernel, num_classes=C)
    np.testing.assert_allclose(same, np.broadcast_to(np.eye(C)[2], same.shape), atol=1e-6)
    tau = cal.neighbor_prior(y, kernel, num_classes=C)
    turned = cal.neighbor_prior(np.rot90(y, axes=(1, 2)), kernel, num_classes=C)
    np.testing.assert_allclose(turned, np.rot90(tau, axes=(1, 2)), atol=1e-6)
  constant = np.full(y.shape, 1)
  plain = losses.cross_entropy_loss(z, constant)
  np.testing.assert_allclose(cal.svls_loss(z, constant), plain, rtol=1e-4, atol=1e-5)


@pytest.mark.x64
def test_pixels_that_are_left_out_belong_to_no_neighbourhood():
  z, y = sample(3)
  where = np.random.default_rng(0).random(y.shape) > 0.3
  kernel = np.asarray(cal.spatial_kernel("svls"))
  amount = np.stack([
    [scipy.ndimage.correlate((np.eye(C)[y][b, ..., k] * where[b]), kernel, mode="nearest")
     for k in range(C)] for b in range(2)
  ])  # fmt: skip
  expected = np.moveaxis(amount / amount.sum(1, keepdims=True), 1, -1)
  tau = cal.neighbor_prior(y, kernel, num_classes=C, where=where)
  np.testing.assert_allclose(tau[where], expected[where], atol=1e-12)
  wrong, labels = z.copy(), y.copy()
  wrong[~where], labels[~where] = np.nan, 255
  for loss in (cal.nacl_loss, cal.svls_loss):
    value, slope = jax.value_and_grad(
      lambda z, loss=loss: jnp.sum(loss(z, labels, where=where))
    )(jnp.asarray(wrong))  # fmt: skip
    assert np.isfinite(value) and np.all(slope[~where] == 0) and np.all(np.isfinite(slope))
    found = loss(wrong, labels, where=where)
    assert np.all(found[~where] == 0)
    np.testing.assert_allclose(found, loss(z, y, where=where))
  empty = np.zeros(y.shape, bool)
  assert np.all(cal.neighbor_prior(y, kernel, num_classes=C, where=empty) == 0)


@pytest.mark.x64
def test_losses_are_their_formulas():
  z, y = sample(4)
  ce = cross_entropy(np.eye(C)[y], z)
  p = np.asarray(jax.nn.softmax(z, axis=-1))
  tau = proportions(y, np.full((3, 3), 1 / 9))
  expected = {
    "nacl": ce + 0.1 * np.mean(np.abs(tau - z), axis=-1),
    "svls": cross_entropy(proportions(y, np.asarray(cal.spatial_kernel("svls"))), z),
    "mbls": ce + 0.1 * np.mean(np.maximum(z.max(-1, keepdims=True) - z - 10, 0), axis=-1),
    "smoothing": cross_entropy(0.9 * np.eye(C)[y] + 0.1 / C, z),
    "focal": (1 - np.exp(-ce)) ** 3 * ce,
    "entropy": ce - 0.1 * np.mean(-p * np.log(p), axis=-1),
  }
  for name, value in expected.items():
    np.testing.assert_allclose(LOSSES[name](z, y), value, rtol=1e-10, err_msg=name)
  steep = cal.mbls_loss(z, y, margin=1.0, weight=0.5)
  gaps = np.maximum(z.max(-1, keepdims=True) - z - 1, 0)
  np.testing.assert_allclose(steep, ce + 0.5 * np.mean(gaps, axis=-1))
  square = cal.nacl_loss(z, y, norm="l2", weight=0.3)
  np.testing.assert_allclose(square, ce + 0.3 * np.mean((tau - z) ** 2, axis=-1))
  soft = cal.nacl_loss(z, y, on="probs", weight=0.3)
  np.testing.assert_allclose(soft, ce + 0.3 * np.mean(np.abs(tau - p), axis=-1))
  for none in (
    cal.nacl_loss(z, y, weight=0.0), cal.mbls_loss(z, y, weight=0.0),
    cal.focal_loss(z, y, gamma=0.0), cal.label_smoothing_loss(z, y, smoothing=0.0),
    cal.confidence_penalty_loss(z, y, weight=0.0),
  ):  # fmt: skip
    np.testing.assert_allclose(none, ce, rtol=1e-10)


@pytest.mark.x64
def test_smoothed_labels_are_a_penalty_of_fixed_weight():
  z, y = sample(5)
  kernel = np.asarray(cal.spatial_kernel("svls"))
  neighbours = 2 * kernel * (np.arange(9).reshape(3, 3) != 4)
  tau_n = proportions(y, neighbours)
  tau = np.asarray(cal.neighbor_prior(y, kernel, num_classes=C))
  np.testing.assert_allclose(tau, (np.eye(C)[y] + tau_n) / 2, atol=1e-6)
  parts = cross_entropy(np.eye(C)[y], z) / 2 + cross_entropy(tau_n, z) / 2
  np.testing.assert_allclose(cal.svls_loss(z, y), parts, rtol=1e-10)


def test_values_of_monai():
  # NACLLoss of MONAI 1.6.1, whose borders are those of zeros, in two and three dimensions.
  z, y = sample(6)
  mean = lambda **options: float(jnp.mean(cal.nacl_loss(z, y, padding="zeros", **options)))
  np.testing.assert_allclose(mean(), 2.090167284011841, rtol=1e-5)
  np.testing.assert_allclose(mean(norm="l2"), 2.3474810123443604, rtol=1e-5)
  volume = cal.nacl_loss(*sample(6, (1, 4, 5, 3)), padding="zeros")
  np.testing.assert_allclose(jnp.mean(volume), 2.088329315185547, rtol=1e-5)
  # Away from the borders all paddings are the same: the mean of 3 x 3 labels in NumPy.
  one_hot = np.eye(C)[y]
  tau = sum(one_hot[:, i : i + 4, j : j + 3] for i in range(3) for j in range(3)) / 9
  inside = z[:, 1:-1, 1:-1]
  expected = (
    cross_entropy(one_hot[:, 1:-1, 1:-1], inside).mean() + 0.1 * np.abs(tau - inside).mean()
  )
  found = cal.nacl_loss(z, y)[:, 1:-1, 1:-1]
  np.testing.assert_allclose(jnp.mean(found), expected, rtol=1e-5)
  zeros = cal.nacl_loss(z, y, padding="zeros")[:, 1:-1, 1:-1]
  np.testing.assert_allclose(zeros, found, rtol=1e-5)


@pytest.mark.parametrize("weight", [0.1, 0.5])
def test_the_optimum_of_one_pixel_is_the_closed_form(weight):
  labels = jnp.zeros((1, 1), int)  # with replicated borders the neighbours agree
  loss = lambda z: jnp.sum(cal.nacl_loss(z[None, None], labels, weight=weight, kernel=jnp.ones(3)))
  optimizer = optax.adam(optax.exponential_decay(0.3, 100, 0.5))

  def step(carry, _):
    z, state = carry
    updates, state = optimizer.update(jax.grad(loss)(z), state)
    return (z + updates, state), None

  start = jnp.array([0.3, -0.4, 0.5])
  (z, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), None, length=1500)
  expected = np.log((C - 1) * (C - weight) / weight)
  np.testing.assert_allclose(z, [expected, 0, 0], atol=0.05)
  np.testing.assert_allclose(jax.nn.softmax(z)[0], 1 - weight / C, atol=0.003)


@pytest.mark.x64
def test_slope_of_the_penalty_and_where_it_alone_counts():
  z, y = sample(7)
  total = lambda z, weight: jnp.mean(cal.nacl_loss(z, y, weight=weight))
  slope = jax.grad(total)(jnp.asarray(z), 0.7) - jax.grad(total)(jnp.asarray(z), 0.0)
  tau = proportions(y, np.full((3, 3), 1 / 9))
  np.testing.assert_allclose(slope, 0.7 * np.sign(z - tau) / z.size, rtol=1e-9)
  # A large weight draws the logits to the proportions.
  at = lambda z: float(total(jnp.asarray(z), 1e6))
  assert at(tau) < min(at(tau + 1e-3), at(tau - 1e-3), at(z))


@pytest.mark.x64
@every
def test_gradients(name):
  z, y = sample(8, (1, 2, 2))
  f = lambda z: jnp.sum(LOSSES[name](z, y))
  np.testing.assert_allclose(jax.grad(f)(jnp.asarray(z)), central_difference(f, z), atol=1e-7)


@every
def test_masks_types_and_large_logits(name):
  z, y = sample(9)
  loss = LOSSES[name]
  half = loss(jnp.asarray(z, jnp.bfloat16), y)
  exact = loss(jnp.asarray(z, jnp.bfloat16).astype(jnp.float32), y)
  assert half.dtype == jnp.bfloat16 and half.shape == y.shape
  np.testing.assert_allclose(half.astype(jnp.float32), exact, rtol=1e-2)
  value, slope = jax.jit(jax.value_and_grad(lambda z: jnp.sum(loss(z, y))))(1e4 * jnp.asarray(z))
  assert np.isfinite(value) and np.all(np.isfinite(slope))
  unknown = jax.jit(loss)(z, jnp.asarray(y).at[0, 0, 0].set(C))
  assert np.isnan(unknown[0, 0, 0]) and not np.isnan(unknown[1]).any()


def test_losses_without_space_take_rows():
  z, y = sample(10, (7,))
  for name in ("mbls", "smoothing", "focal", "entropy"):
    rows = LOSSES[name](z, y)
    one = jax.jit(LOSSES[name])(z[2], y[2])
    np.testing.assert_allclose(rows[2], one, rtol=1e-5)


def test_foreground_errors_are_averaged_over_images():
  z, y = sample(11, (3, 4, 5))
  y[2] = 0  # no foreground
  p = np.asarray(jax.nn.softmax(z, axis=-1))
  flat = lambda b, where: cal.expected_calibration_error(
    p[b].reshape(-1, C), y[b].ravel(), where=where.ravel()
  )
  one = [flat(b, y[b] > 0) for b in range(2)]
  np.testing.assert_allclose(cal.foreground_calibration_error(p, y), np.mean(one), rtol=1e-5)
  other = [flat(b, y[b] != 1) for b in range(3)]
  found = cal.foreground_calibration_error(p, y, background=1)
  np.testing.assert_allclose(found, np.mean(other), rtol=1e-5)
  assert cal.foreground_calibration_error(p[2:], y[2:]) == 0
  where = np.random.default_rng(0).random(y.shape) > 0.5
  left = np.where(where, y, 0)
  np.testing.assert_allclose(
    cal.foreground_calibration_error(p, y, where=where),
    cal.foreground_calibration_error(p, left), rtol=1e-5,
  )  # fmt: skip
  broken = jax.jit(cal.foreground_calibration_error)(jnp.asarray(p).at[0, 0, 0, 0].set(jnp.nan), y)
  assert np.isnan(broken)


def test_a_label_out_of_range_without_known_neighbours_is_nan():
  found = jax.jit(cal.svls_loss, static_argnames="padding")(
    jnp.zeros((1, 3, 2)), jnp.array([[0, 5, -1]]), kernel=jnp.array([0.25, 0.5, 0.25])
  )
  assert jnp.isfinite(found[0, 0]) and jnp.isnan(found[0, 1:]).all()
