"""Orthogonal convolutions: exact links with the matrix, infima, existence, bounds, spectra."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.signal

from jaxopt_robust import layers, projections
from tests.helpers import central_difference

# One program a shape: op by op each would compile many.
_residual = jax.jit(layers.orthogonality_residual, static_argnames="stride")
_values = jax.jit(layers.convolution_singular_values, static_argnames=("size", "stride"))
_padded = jax.jit(layers.convolution_residual, static_argnames=("size", "stride", "padding"))
_matrix = jax.jit(layers.convolution_matrix, static_argnames=("size", "stride", "padding"))

# (out, in, k, stride): rows, columns and square cases, odd and even kernels.
PLANES = [
  (4, 8, 3, 1), (8, 4, 3, 1), (3, 3, 2, 1), (6, 2, 3, 2), (9, 2, 3, 2), (2, 1, 5, 3), (3, 4, 1, 1),
  (10, 1, 3, 3),
]  # fmt: skip
LINES = [(3, 2, 3, 1), (4, 2, 4, 2)]
CASES = [(*case, 2) for case in PLANES] + [(*case, 1) for case in LINES]


def _kernel(case, seed=0):
  out, channels, k, _, axes = case
  size = (out, channels, *(k,) * axes)
  return np.random.default_rng(seed).standard_normal(size) / np.sqrt(channels * k**axes)


def _size(case):
  """The least size at which the identities hold."""
  _, _, k, stride, _ = case
  return stride * -(-(2 * k - 1) // stride)


def _brute_matrix(kernel, size, stride):
  """Loops over outputs, channels and taps on the circle; all positions at once."""
  out, channels, *ks = kernel.shape
  axes, positions = len(ks), size // stride
  matrix = np.zeros((out, *(positions,) * axes, channels, *(size,) * axes))
  where = tuple(np.indices((positions,) * axes))
  for m, c in np.ndindex(out, channels):
    for t in np.ndindex(*ks):
      place = tuple(
        (stride * i + j - (k - 1) // 2) % size for i, j, k in zip(where, t, ks, strict=True)
      )
      # Taps that meet on a small circle add up; the positions of one tap never meet.
      matrix[(m, *where, c, *place)] += kernel[(m, c, *t)]
  return matrix.reshape(out * positions**axes, -1)


@functools.cache
def _measured(case, size):
  """What the package says of one random kernel, in one program."""
  *_, stride, _ = case

  def measure(kernel):
    return {
      "matrix": layers.convolution_matrix(kernel, size=size, stride=stride),
      "residual": layers.orthogonality_residual(kernel, stride=stride),
      "values": layers.convolution_singular_values(kernel, size=size, stride=stride),
      "bounds": layers.singular_value_bounds(kernel, stride=stride),
      "dense": layers.convolution_residual(kernel, size=size, stride=stride),
    }

  return jax.tree.map(np.asarray, jax.jit(measure)(_kernel(case)))


@pytest.mark.x64
@pytest.mark.parametrize("case", CASES, ids=str)
def test_links_with_the_matrix_are_exact(case):
  out, channels, _, stride, axes = case
  size = _size(case)
  found, matrix = _measured(case, size), _brute_matrix(_kernel(case), size, stride)
  np.testing.assert_allclose(found["matrix"], matrix, atol=1e-14)
  positions = (size // stride) ** axes
  rows = np.sum((matrix @ matrix.T - np.eye(len(matrix))) ** 2)
  columns = np.sum((matrix.T @ matrix - np.eye(matrix.shape[1])) ** 2)
  is_rows = out <= channels * stride**axes
  wanted = rows if is_rows else columns
  np.testing.assert_allclose(positions * found["residual"], wanted, rtol=1e-10)
  np.testing.assert_allclose(found["dense"], wanted, rtol=1e-10)
  excess = positions * max(0, out - channels * stride**axes)
  np.testing.assert_allclose(positions * found["residual"] + excess, rows, rtol=1e-10)
  # the singular values are those of the matrix
  values = np.sort(found["values"].ravel())
  np.testing.assert_allclose(values, np.sort(np.linalg.svdvals(matrix)), atol=1e-12)
  # and the bound covers them; that of the paper is wider
  distance = np.abs(values**2 - 1).max()
  low, high, bound = found["bounds"]
  assert distance <= bound and low <= values.min() and values.max() <= high
  k, reach = case[2], 2 * ((case[2] - 1) // stride) + 1
  paper = reach**axes * out if is_rows else (2 * k - 1) ** axes * channels
  assert bound <= np.sqrt(paper * found["residual"]) * (1 + 1e-12)


@pytest.mark.x64
def test_below_the_least_size_the_link_fails():
  case = (4, 8, 3, 1, 2)
  matrix = _brute_matrix(_kernel(case), 4, 1)
  rows = np.sum((matrix @ matrix.T - np.eye(len(matrix))) ** 2)
  residual = float(_measured(case, _size(case))["residual"])
  assert abs(rows - 16 * residual) > 1e-5 * rows  # they agree to 1e-10 from size 5 on


def _isometry(rng, rows, columns):
  """A matrix with orthonormal rows or columns."""
  tall = np.linalg.qr(rng.standard_normal((max(rows, columns), min(rows, columns))))[0]
  return tall if rows >= columns else tall.T


@pytest.mark.x64
@pytest.mark.parametrize("case", [(4, 8, 3, 1, 2), (8, 4, 3, 1, 2)], ids=str)
def test_bounds_hold_for_every_size_near_orthogonality(case, rng):
  out, channels, k = case[:3]
  tap = np.zeros((out, channels, k, k))
  tap[:, :, 1, 1] = _isometry(rng, out, channels)
  kernel = tap + 0.05 * _kernel(case)
  low, high, distance = jax.jit(layers.singular_value_bounds)(kernel)
  assert 0 < float(distance) < 1 and 0 < float(low) < 1 < float(high)
  for size in (5, 6):
    values = np.linalg.svdvals(_brute_matrix(kernel, size, 1))
    assert float(low) <= values.min() and values.max() <= float(high)


@pytest.mark.x64
@pytest.mark.parametrize("axes", [1, 2])
def test_the_bound_is_exact_for_one_filter_without_overlap(axes, rng):
  """Blocks of k = S: W W^T = ||K||^2 I, and every singular value is ||K||."""
  kernel = rng.standard_normal((1, 1, *(2,) * axes)) / 2**axes
  low, high, distance = jax.jit(functools.partial(layers.singular_value_bounds, stride=2))(kernel)
  square = np.sum(kernel**2)
  np.testing.assert_allclose(distance, abs(square - 1), rtol=1e-12)
  np.testing.assert_allclose(low**2, 1 - abs(square - 1), rtol=1e-12)
  np.testing.assert_allclose(high**2, 1 + abs(square - 1), rtol=1e-12)


def _space_to_depth(stride, channels):
  """Kernels of size S that move every block of S x S pixels into channels."""
  count = channels * stride**2
  return np.eye(count).reshape(count, channels, stride, stride)


@pytest.mark.x64
def test_orthogonal_kernels_have_residual_zero(rng):
  for out, channels in ((3, 5), (5, 3)):
    tap = np.zeros((out, channels, 3, 3))
    tap[:, :, 1, 1] = _isometry(rng, out, channels)
    assert abs(float(_residual(tap))) < 1e-13
    values = _values(tap, size=6)
    np.testing.assert_allclose(values, 1, atol=1e-13)
  for stride in (2, 3):
    kernel = _space_to_depth(stride, 2)
    assert float(_residual(kernel, stride=stride)) == 0
    mixed = np.einsum(
      "ab,bchw->achw", np.linalg.qr(rng.standard_normal((len(kernel),) * 2))[0], kernel
    )
    for rows in (len(kernel), len(kernel) - 3):  # fewer outputs: rows only
      assert abs(float(_residual(mixed[:rows], stride=stride))) < 1e-13
  for shape in ((6, 4), (4, 6)):
    assert abs(float(_residual(_isometry(rng, *shape)))) < 1e-13


@pytest.mark.x64
@pytest.mark.parametrize(
  ("shape", "stride", "infimum"), [((5, 1, 1, 1), 2, 3), ((3, 2, 1, 1), 2, 1)]
)
def test_where_none_exists_the_infimum_is_known_and_reached(shape, stride, infimum, rng):
  out, channels, k, _ = shape
  assert infimum == out - min(out, channels) - max(0, out - channels * stride**2)
  exists = layers.orthogonal_convolution_exists(out, channels, k, stride=stride)
  assert not exists.exists
  residual = functools.partial(layers.orthogonality_residual, stride=stride)

  def descend(kernel):
    step = lambda _, kernel: kernel - 0.05 * jax.grad(residual)(kernel)
    return residual(jax.lax.fori_loop(0, 400, step, kernel))

  reached = jax.jit(jax.vmap(descend))(0.5 * rng.standard_normal((4, *shape)))
  np.testing.assert_allclose(reached, infimum, atol=1e-9)


@pytest.mark.parametrize(
  ("sizes", "options", "answer"),
  [
    ((4, 8, 3), {}, (True, "rows", "4 filters at one position fit")),
    ((8, 4, 3), {}, (True, "columns", "8 outputs a position hold its 4 inputs")),
    ((5, 1, 1), {"stride": 2}, (False, "columns", "stride 2 exceeds the kernel size 1")),
    ((3, 2, 1), {"stride": 2}, (False, "rows", "3 filters .* orthonormal vectors of 2 numbers")),
    ((4, 1, 1), {"stride": 2}, (False, "rows", "4 filters .* of 1 numbers")),
    ((16, 4, 2), {"stride": 2}, (True, "rows", "16 filters")),
    ((7, 2, 3), {"stride": 4, "num_axes": 1}, (False, "rows", "7 filters .* of 6 numbers")),
    ((8, 2, 3), {"stride": 3, "num_axes": 1}, (True, "columns", "kernels of 3 cover stride 3")),
    ((4, 4, 3), {"padding": "zeros"}, (True, "rows", "only the central tap")),
  ],
)
def test_existence_and_its_reason(sizes, options, answer):
  import re

  exists, case, reason = layers.orthogonal_convolution_exists(*sizes, **options)
  assert (exists, case) == answer[:2] and re.search(answer[2], reason), reason


@pytest.mark.x64
@pytest.mark.parametrize(
  ("stride", "k", "channels", "out"), [(2, 3, 2, 7), (2, 3, 2, 9), (3, 3, 1, 8)]
)
def test_what_exists_is_found_by_descent(stride, k, channels, out, rng):
  """The sufficient conditions: a residual of 0 where the answer is yes."""
  assert layers.orthogonal_convolution_exists(out, channels, k, stride=stride).exists
  residual = functools.partial(layers.orthogonality_residual, stride=stride)

  def descend(kernel):
    step = lambda _, kernel: kernel - 0.02 * jax.grad(residual)(kernel)
    return residual(jax.lax.fori_loop(0, 3000, step, kernel))

  start = rng.standard_normal((3, out, channels, k, k)) / np.sqrt(channels * k**2)
  assert np.min(jax.jit(jax.vmap(descend))(start)) < 1e-6


@pytest.mark.x64
def test_with_zeros_only_the_central_tap_may_stay(rng):
  shift = np.zeros((1, 1, 3, 3))
  shift[0, 0, 0, 1] = 1  # orthogonal on the circle
  assert float(_residual(shift)) == 0
  for size in (4, 8):  # a row of outputs is lost
    assert float(_padded(shift, size=size, padding="zeros")) == size
    assert float(_padded(shift, size=size)) == 0
  tap = np.zeros((3, 4, 3, 3))
  tap[:, :, 1, 1] = _isometry(rng, 3, 4)
  assert float(_padded(tap, size=5, padding="zeros")) < 1e-20
  # outputs in the four corners see a quadrant of the taps each, which share the central one alone:
  # all have norm 1 only if it holds everything
  kernel = rng.standard_normal((2, 2, 3, 3))
  matrix = np.asarray(_matrix(kernel, size=4, padding="zeros"))
  norms = np.sum(matrix**2, axis=1).reshape(2, 4, 4)[:, ::3, ::3]
  halves = (slice(1, 3), slice(0, 2))
  quadrants = [[np.sum(kernel[:, :, i, j] ** 2, axis=(1, 2, 3)) for j in halves] for i in halves]
  np.testing.assert_allclose(norms, np.moveaxis(quadrants, -1, 0), rtol=1e-12)


@pytest.mark.x64
def test_valid_padding_is_correlation_without_border(rng):
  kernel, x = rng.standard_normal((2, 1, 3, 2)), rng.standard_normal((5, 6))
  matrix = np.asarray(_matrix(kernel, size=(5, 6), padding="valid"))
  y = (matrix @ x.ravel()).reshape(2, 3, 5)
  for m in range(2):
    np.testing.assert_allclose(y[m], scipy.signal.correlate(x, kernel[m, 0], mode="valid"))


@pytest.mark.x64
@pytest.mark.parametrize("case", [(6, 2, 3, 2, 2), (9, 2, 3, 2, 2), (4, 2, 4, 2, 1)], ids=str)
def test_derivative_and_scaling(case):
  out, channels, _, stride, axes = case
  kernel = _kernel(case)
  residual = jax.jit(functools.partial(layers.orthogonality_residual, stride=stride))
  np.testing.assert_allclose(
    jax.jit(jax.grad(residual))(kernel), central_difference(residual, kernel), atol=1e-7
  )
  # L(t K) = t^4 a + t^2 b + c with the sum of squared products, the squared norm and the constant
  matrix = _brute_matrix(kernel, _size(case), stride)
  positions = (_size(case) // stride) ** axes
  a, b = np.sum((matrix @ matrix.T) ** 2) / positions, -2 * np.sum(kernel**2)
  c = out - max(0, out - channels * stride**axes)
  for t in (0.0, 0.5, 3.0):
    np.testing.assert_allclose(residual(t * kernel), a * t**4 + b * t**2 + c, rtol=1e-10)


@pytest.mark.x64
def test_convolution_is_its_matrix(rng):
  for case in ((4, 2, 3, 2, 2), (3, 2, 4, 1, 1)):
    out, channels, _, stride, axes = case
    kernel, size = _kernel(case), 8
    x = rng.standard_normal((3, channels, *(size,) * axes))
    y = np.asarray(layers.circular_convolution(x, kernel, stride=stride))
    matrix = _brute_matrix(kernel, size, stride)
    np.testing.assert_allclose(y.reshape(3, -1), x.reshape(3, -1) @ matrix.T, atol=1e-12)
    assert y.shape == (3, out, *(size // stride,) * axes)
    taps = layers.circular_convolution(x, kernel, stride=stride, method="taps")
    np.testing.assert_allclose(taps, y, atol=1e-12)


@pytest.mark.x64
def test_singular_values_of_an_orthogonal_kernel_do_not_depend_on_the_size():
  kernel = _space_to_depth(2, 3)[:7]
  for size in (2, 8, 10):
    values = _values(kernel, size=size, stride=2)
    assert values.shape == ((size // 2) ** 2, 7)
    np.testing.assert_allclose(values, 1, atol=1e-13)
  # different sizes along the axes
  kernel = _kernel((3, 2, 3, 1, 2))
  values = _values(kernel, size=(4, 6))
  matrix = np.asarray(_matrix(kernel, size=(4, 6)))
  np.testing.assert_allclose(
    np.sort(np.ravel(values)), np.sort(np.linalg.svdvals(matrix)[: values.size]), atol=1e-12
  )


def test_penalty_of_a_tree(rng):
  kernels = [rng.standard_normal((3, 3, 2, 4)) for _ in range(2)] + [rng.standard_normal((5, 6))]
  params = {
    "params": {
      "a": {"kernel": kernels[0], "bias": np.ones(4)},
      "b": {"kernel": kernels[1]},
      "head": {"kernel": kernels[2]},
    }
  }
  strides = {"params/a/kernel": 1, "params/b/kernel": 1, "params/head/kernel": 1}
  turned = [np.moveaxis(k, (-1, -2), (0, 1)) for k in kernels]
  parts = [float(_residual(k)) for k in turned]
  penalty = jax.jit(lambda p: layers.orthogonality_penalty(p, strides))
  np.testing.assert_allclose(penalty(params), sum(parts), rtol=1e-5)
  one = layers.orthogonality_penalty({"k": turned[0]}, {"k": 1}, layout="OIHW")
  np.testing.assert_allclose(one, parts[0], rtol=1e-5)
  np.testing.assert_array_equal(layers.kernel_to_oihw(kernels[0]), np.float32(turned[0]))
  assert float(layers.orthogonality_penalty(params, {})) == 0
  flax_linen = pytest.importorskip("flax.linen")
  conv = flax_linen.Conv(4, (3, 3), padding="CIRCULAR", use_bias=False)
  x = rng.standard_normal((2, 6, 6, 2)).astype(np.float32)
  y = conv.apply({"params": {"kernel": kernels[0]}}, x)
  ours = layers.circular_convolution(np.moveaxis(x, -1, 1), turned[0])
  np.testing.assert_allclose(np.moveaxis(y, -1, 1), ours, atol=1e-4)


@pytest.mark.x64
@pytest.mark.parametrize("shape", [(4, 7), (7, 4), (5, 5)])
def test_bjorck_gives_the_polar_factor(shape, rng):
  weight = rng.standard_normal(shape)
  u, _, vt = np.linalg.svd(weight, full_matrices=False)
  found = layers.bjorck_orthonormal(weight, num_steps=40)
  np.testing.assert_allclose(found, u @ vt, atol=1e-10)
  flat = shape[0] < shape[1]
  peer = projections.projection_stiefel(weight.T if flat else weight)
  np.testing.assert_allclose(found.T if flat else found, peer, atol=1e-10)
  # a step is 3/2 W - 1/2 W W^T W of what the scaling leaves, whose norm is between 1/1.3 and 1
  scaled = np.asarray(layers.bjorck_orthonormal(weight, num_steps=0))
  assert 1 / 1.3 < np.linalg.norm(scaled, 2) <= 1
  step = 1.5 * scaled - 0.5 * scaled @ scaled.T @ scaled
  np.testing.assert_allclose(layers.bjorck_orthonormal(weight, num_steps=1), step, atol=1e-12)
  nearly = u @ vt + 1e-3 * rng.standard_normal(shape)
  assert float(_residual(layers.bjorck_orthonormal(nearly, num_steps=5))) < 1e-6
  np.testing.assert_array_equal(layers.bjorck_orthonormal(np.zeros(shape)), 0)


def test_group_sort_permutes(rng):
  x = rng.standard_normal((3, 6, 4)).astype(np.float32)
  for size in (1, 2, 3, 6):
    found = np.asarray(layers.group_sort(x, group_size=size))
    expected = np.sort(x.reshape(3, 6 // size, size, 4), axis=2).reshape(x.shape)
    np.testing.assert_array_equal(found, expected)
  last = layers.group_sort(np.moveaxis(x, 1, -1), axis=-1)
  np.testing.assert_array_equal(np.moveaxis(last, -1, 1), layers.group_sort(x))
  jacobian = jax.jacobian(lambda v: layers.group_sort(v, axis=0))(jnp.array([2.0, -1.0, 0.5, 3.0]))
  np.testing.assert_array_equal(jacobian @ jacobian.T, np.eye(4))
