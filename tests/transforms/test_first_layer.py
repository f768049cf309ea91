"""TrAct: its gradient is the ridge solution that it claims to be, and nothing else changes."""

import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen
from flax.core import freeze

from jaxopt_robust import nets, transforms
from jaxopt_robust.transforms import patch_gram, scale_by_tract, tract_conv, tract_dense

ROWS, INPUTS, OUTPUTS = 6, 4, 3


@functools.partial(jax.jit, static_argnums=0)
def pull(layer, x, w, upstream, lam):
  """Output of a layer and what upstream G becomes: (z, gradient by x, gradient by w)."""
  z, back = jax.vjp(lambda x, w: layer(x, w, lam), x, w)
  return z, *back(upstream)


def dense(x, w, lam):
  return tract_dense(x, w, lam=lam)


def draw(rng, rows=ROWS, inputs=INPUTS):
  shapes = (rows, inputs), (inputs, OUTPUTS), (rows, OUTPUTS)
  return [jnp.asarray(rng.standard_normal(shape)) for shape in shapes]


def gradient(x, w, g, lam):
  return np.asarray(pull(dense, x, w, g, jnp.asarray(lam, x.dtype))[2])


@pytest.mark.x64
@pytest.mark.parametrize("rows", [ROWS, INPUTS - 1], ids=["primal", "dual"])
def test_the_gradient_solves_the_augmented_least_squares_problem(rows, rng):
  """Minus the gradient minimises ||b G + X D||^2 + lam b ||D||^2: lstsq on [X; sqrt(lam b) I]."""
  x, w, g = draw(rng, rows)
  lam = 0.1
  tall = np.concatenate([x, np.sqrt(lam * rows) * np.eye(INPUTS)])
  right = np.concatenate([-rows * np.asarray(g), np.zeros((INPUTS, OUTPUTS))])
  step = np.linalg.lstsq(tall, right, rcond=None)[0]
  found = gradient(x, w, g, lam)
  np.testing.assert_allclose(found, -step, atol=1e-12)
  # Both forms, written out.
  x, g = np.asarray(x), np.asarray(g)
  primal = np.linalg.solve(x.T @ x / rows + lam * np.eye(INPUTS), x.T @ g)
  dual = x.T @ np.linalg.solve(x @ x.T / (rows * lam) + np.eye(rows), g) / lam
  np.testing.assert_allclose(found, primal, atol=1e-12)
  np.testing.assert_allclose(found, dual, atol=1e-12)


@pytest.mark.x64
def test_limits_of_lam(rng):
  x, w, g = draw(rng)
  np.testing.assert_allclose(1e9 * gradient(x, w, g, 1e9), x.T @ g, rtol=1e-7, atol=1e-7)
  x, w, g = draw(rng, INPUTS - 1)  # full row rank: each pre-activation moves by its own gradient
  np.testing.assert_allclose(x @ gradient(x, w, g, 1e-12), 3 * g, rtol=1e-8, atol=1e-8)


@pytest.mark.x64
def test_one_hot_inputs_are_an_embedding(rng):
  """Words that occur equally often, c times: the ordinary gradient over c / b + lam."""
  counts = 2
  x = jnp.asarray(np.tile(np.eye(INPUTS), (counts, 1)))
  _, w, g = draw(rng, counts * INPUTS)
  expected = x.T @ g / (1 / INPUTS + 0.1)
  np.testing.assert_allclose(gradient(x, w, g, 0.1), expected, atol=1e-13)


@pytest.mark.x64
def test_the_step_of_the_pre_activations_does_not_depend_on_the_units_of_the_inputs(rng):
  x, w, g = draw(rng)
  moved = x @ gradient(x, w, g, 0.0)
  for scale in (1e-12, 255.0, 1e12):
    np.testing.assert_allclose(scale * x @ gradient(scale * x, w, g, 0.0), moved, rtol=1e-9)
  # A hat matrix: what lies in the range of the inputs moves by b times itself.
  inside = x @ w
  np.testing.assert_allclose(x @ gradient(x, w, inside, 0.0), ROWS * inside, rtol=1e-9)


def test_single_precision_of_raw_pixels_and_of_no_input(rng):
  x = jnp.asarray(rng.uniform(0, 255, (64, INPUTS)), jnp.float32)
  _, w, g = (a.astype(jnp.float32) for a in draw(rng, 64))
  wide = np.asarray(x, np.float64)
  exact = np.linalg.solve(wide.T @ wide / 64 + 0.1 * np.eye(INPUTS), wide.T @ np.asarray(g))
  np.testing.assert_allclose(gradient(x, w, g, 0.1), exact, rtol=2e-3, atol=1e-6)
  twice = x.at[:, 1].set(x[:, 0])  # singular, without a ridge: raised to the rounding
  assert np.all(np.isfinite(gradient(twice, w, g, 0.0)))
  np.testing.assert_array_equal(gradient(jnp.zeros_like(x), w, g, 0.0), 0)
  assert np.all(np.isfinite(gradient(1e30 * x, w, g, 0.1)))
  half = [a.astype(jnp.bfloat16) for a in (x / 255, w, g)]
  found = pull(dense, *half, jnp.float32(0.1))
  assert all(a.dtype == jnp.bfloat16 and bool(jnp.all(jnp.isfinite(a))) for a in found)


@pytest.mark.parametrize("lead", [(), (2,), (2, 3)], ids=str)
def test_output_and_input_gradient_are_those_of_the_plain_layer_bit_by_bit(lead, rng):
  x, w, g = (
    jnp.asarray(rng.standard_normal(shape), jnp.float32)
    for shape in ((*lead, 5), (5, 3), (*lead, 3))
  )
  plain = lambda x, w, lam: x @ w
  z, to_x, to_w = pull(dense, x, w, g, jnp.float32(0.1))
  expected, plain_to_x, _ = pull(plain, x, w, g, jnp.float32(0.1))
  np.testing.assert_array_equal(z, expected)
  np.testing.assert_array_equal(to_x, plain_to_x)
  flat = gradient(x.reshape(-1, 5), w, g.reshape(-1, 3), 0.1)
  np.testing.assert_allclose(to_w, flat, rtol=1e-5, atol=1e-6)


def plain_conv(x, w, lam, **options):
  del lam
  return jax.lax.conv_general_dilated(
    x, w, options.get("strides", (1, 1)), options.get("padding", "SAME"),
    rhs_dilation=options.get("dilation", (1, 1)), feature_group_count=options.get("groups", 1),
    dimension_numbers=("NHWC", "HWIO", "NHWC"),
  )  # fmt: skip


def patches(x, window, strides, pads, dilation):
  """im2col by loops: [images, positions, taps, channels]."""
  x = np.pad(np.asarray(x), ((0, 0), *pads, (0, 0)))
  reach = [(k - 1) * d + 1 for k, d in zip(window, dilation, strict=True)]
  places = [range(0, n - r + 1, s) for n, r, s in zip(x.shape[1:3], reach, strides, strict=True)]
  found = [
    x[:, i : i + reach[0] : dilation[0], j : j + reach[1] : dilation[1]]
    for i in places[0]
    for j in places[1]
  ]
  return np.stack(found, 1).reshape(len(x), len(found), -1, x.shape[-1])


CONVS = {
  "valid": ({"padding": "VALID"}, ((0, 0), (0, 0))),
  "same": ({}, ((1, 1), (0, 1))),
  "all": (
    {"strides": (2, 1), "padding": ((1, 0), (2, 1)), "dilation": (1, 2), "groups": 2},
    ((1, 0), (2, 1)),
  ),
}


@pytest.mark.x64
@pytest.mark.parametrize("name", CONVS)
def test_a_convolution_has_the_gradient_of_its_patches(name, rng):
  options, pads = CONVS[name]
  groups = options.get("groups", 1)
  x = jnp.asarray(rng.standard_normal((2, 5, 6, 2)))
  w = jnp.asarray(rng.standard_normal((3, 2, 2 // groups, 4)))
  layer = lambda x, w, lam: tract_conv(x, w, lam=lam, **options)
  plain = functools.partial(plain_conv, **options)
  shape = jax.eval_shape(plain, x, w, 0.1).shape
  g = jnp.asarray(rng.standard_normal(shape))
  z, to_x, to_w = pull(layer, x, w, g, jnp.asarray(0.1))
  expected, plain_to_x, _ = pull(plain, x, w, g, jnp.asarray(0.1))
  np.testing.assert_array_equal(z, expected)
  np.testing.assert_array_equal(to_x, plain_to_x)
  strides, dilation = options.get("strides", (1, 1)), options.get("dilation", (1, 1))
  rows = patches(x, (3, 2), strides, pads, dilation)
  rows = rows.reshape(-1, 6, 2)
  outputs = np.asarray(g).reshape(len(rows), groups, -1)
  for k in range(groups):
    part = rows[:, :, k * (2 // groups) : (k + 1) * (2 // groups)].reshape(len(rows), -1)
    gram = part.T @ part / len(part)
    exact = np.linalg.solve(gram + 0.1 * np.eye(len(gram)), part.T @ outputs[:, k])
    width = 4 // groups
    found = np.asarray(to_w)[..., k * width : (k + 1) * width].reshape(len(gram), width)
    np.testing.assert_allclose(found, exact, atol=1e-12)
  if groups == 1:
    whole = rows.reshape(len(rows), -1)
    second = patch_gram(x, window=(3, 2), padding=options.get("padding", "SAME"))
    np.testing.assert_allclose(second, whole.T @ whole / len(whole), atol=1e-13)


@pytest.mark.x64
def test_a_kernel_as_large_as_the_image_is_a_dense_layer(rng):
  x, w = jnp.asarray(rng.standard_normal((3, 2, 2, 2))), jnp.asarray(rng.standard_normal((8, 3)))
  g = jnp.asarray(rng.standard_normal((3, 3)))
  layer = lambda x, w, lam: tract_conv(x, w, lam=lam, padding="VALID")
  z, to_x, to_w = pull(layer, x, w.reshape(2, 2, 2, 3), g.reshape(3, 1, 1, 3), jnp.asarray(0.1))
  flat = pull(dense, x.reshape(3, 8), w, g, jnp.asarray(0.1))
  for found, expected in zip((z, to_x, to_w), flat, strict=True):
    np.testing.assert_allclose(found.ravel(), expected.ravel(), atol=1e-13)


@pytest.mark.x64
def test_the_optax_link_turns_the_ordinary_gradient_into_this_one(rng):
  x, w, g = draw(rng)
  grads = {"kernel": x.T @ g, "bias": jnp.sum(g, 0)}
  tx = optax.masked(scale_by_tract(0.1), {"kernel": True, "bias": False})
  updates, _ = tx.update(grads, tx.init(grads), gram=transforms.input_gram(x))
  np.testing.assert_allclose(updates["kernel"], gradient(x, w, g, 0.1), atol=1e-13)
  np.testing.assert_array_equal(updates["bias"], grads["bias"])
  each = {"kernel": transforms.input_gram(x), "bias": jnp.eye(1)}
  both, _ = scale_by_tract(0.1).update(grads, optax.EmptyState(), gram=each)
  np.testing.assert_allclose(both["kernel"], updates["kernel"], atol=1e-15)
  np.testing.assert_allclose(both["bias"], grads["bias"] / 1.1, rtol=1e-12)


def test_the_optax_link_keeps_the_range_of_its_type():
  update = lambda gram, g, lam: scale_by_tract(lam).update(g, optax.EmptyState(), gram=gram)[0]
  g = jnp.full((2, 1), 1e10)
  for gram, lam, expected in ((1e38, 1e-3, 1e-28), (1e-38, 1e2, 1e8), (1e-20, 0.0, 1e30)):
    found = update(gram * jnp.eye(2), g, lam)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
  np.testing.assert_allclose(update(np.zeros((2, 2)), g, 0.5), 2e10, rtol=1e-6)


@pytest.mark.x64
def test_defaults_are_those_of_the_paper(rng):
  x, w, g = draw(rng)
  expected = gradient(x, w, g, 0.1)
  patches = x[:, None, None]  # images of one pixel
  layers = {
    "dense": lambda w: tract_dense(x, w),
    "conv": lambda w: tract_conv(patches, w.reshape(1, 1, INPUTS, OUTPUTS))[:, 0, 0],
    "TrActDense": lambda w: nets.TrActDense(OUTPUTS, use_bias=False).apply(
      {"params": {"kernel": w}}, x
    ),
    "TrActConv": lambda w: nets.TrActConv(OUTPUTS, (1, 1), use_bias=False).apply(
      {"params": {"kernel": w.reshape(1, 1, INPUTS, OUTPUTS)}}, patches
    )[:, 0, 0],
  }
  for layer in layers.values():
    np.testing.assert_allclose(jax.vjp(layer, w)[1](g)[0], expected, rtol=1e-9)
  updates, _ = scale_by_tract().update(x.T @ g, None, gram=transforms.input_gram(x))
  np.testing.assert_allclose(updates, expected, rtol=1e-9)


def test_many_devices_make_the_gradient_of_one(rng):
  """Gram matrix and raw gradient are averaged before the solve, in each device's backward pass."""
  x, w, g = (a.astype(jnp.float32) for a in draw(rng, 8))

  def local(x, g, w):
    loss = lambda w: jnp.sum(tract_dense(x, w, lam=0.1, axis_name="data") * g)
    return jax.grad(loss)(w)[None]

  # A device's loss is the mean over its own rows: four times the share of the whole.
  mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
  spec = jax.sharding.PartitionSpec("data")
  whole = jax.sharding.PartitionSpec()
  mapped = jax.shard_map(
    local, mesh=mesh, in_specs=(spec, spec, whole), out_specs=spec, check_vma=False
  )
  found = np.asarray(jax.jit(mapped)(x, 4 * g, w))
  expected = gradient(x, w, g, 0.1)
  for one in found:
    np.testing.assert_allclose(one, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_modules_stand_in_for_those_of_linen(kind, key):
  x = jax.random.normal(key, (4, 6, 6, 2))
  options = {"kernel_size": (3, 3), "strides": (2, 2), "kernel_dilation": (1, 2)}
  ours, plain = {
    "dense": (nets.TrActDense(5), linen.Dense(5)),
    "conv": (nets.TrActConv(4, **options), linen.Conv(4, **options)),
  }[kind]
  params = plain.init(key, x)
  assert jax.tree.map(jnp.shape, ours.init(key, x)) == jax.tree.map(jnp.shape, params)
  found, expected = ours.apply(params, x), plain.apply(params, x)
  np.testing.assert_array_equal(found, expected)

  def grads(model):
    return jax.grad(lambda p: jnp.mean(model.apply(p, x) ** 2))(params)["params"]

  ours, plain = jax.jit(lambda: (grads(ours), grads(plain)))()
  np.testing.assert_allclose(ours["bias"], plain["bias"], rtol=1e-6)
  assert np.max(np.abs(ours["kernel"] - plain["kernel"])) > 1e-3
  rows = patches_of_kind(kind, x)
  exact = jnp.linalg.solve(
    rows.T @ rows / len(rows) + 0.1 * jnp.eye(rows.shape[1]),
    plain["kernel"].reshape(rows.shape[1], -1),
  )
  np.testing.assert_allclose(ours["kernel"].ravel(), exact.ravel(), rtol=1e-3, atol=1e-5)


def patches_of_kind(kind, x):
  if kind == "dense":
    return x.reshape(-1, 2)
  pads = ((0, 1), (1, 2))  # what SAME means for windows of 3 and 5 taps at stride 2
  return jnp.asarray(patches(x, (3, 3), (2, 2), pads, (1, 2)).reshape(-1, 18))


def test_one_compile_for_all_ridges_and_second_order_in_reverse(rng):
  x, w, g = (a.astype(jnp.float32) for a in draw(rng))
  traces = []

  @jax.jit
  def many(lams):
    traces.append(1)
    return jax.vmap(lambda lam: jax.grad(lambda w: jnp.sum(dense(x, w, lam) * g))(w))(lams)

  for lams in (jnp.array([0.1, 1.0]), jnp.array([0.2, 3.0])):
    for found, lam in zip(many(lams), lams, strict=True):
      np.testing.assert_allclose(found, gradient(x, w, g, lam), rtol=1e-4, atol=1e-5)
  assert len(traces) == 1
  # A penalty on the size of this gradient can be trained: linear in G, which is w here.
  size = lambda w: jnp.sum(jax.grad(lambda w: jnp.sum(dense(x, w, 0.1) ** 2))(w) ** 2)
  assert np.all(np.isfinite(jax.jit(jax.grad(size))(w)))


class Grams(flax.struct.PyTreeNode):
  kernel: jax.Array


def test_moments_may_come_in_any_pytree():
  grads, gram = 2 * jnp.ones((3, 2)), 3 * jnp.eye(3)  # (3 + 1)^{-1} 2
  for tree in (lambda v: {"kernel": v}, lambda v: freeze({"kernel": v}), lambda v: Grams(v)):
    found, _ = scale_by_tract(1.0).update(tree(grads), optax.EmptyState(), gram=tree(gram))
    np.testing.assert_allclose(jax.tree.leaves(found)[0], 0.5, rtol=1e-6)


def test_a_window_that_fits_nowhere_is_refused():
  x, w = jnp.ones((2, 4, 6, 1)), jnp.ones((3, 2, 1, 1))
  for options in ({"dilation": (2, 1)}, {"dilation": (1, 6)}):
    with pytest.raises(ValueError, match=r"window of \(3, 2\).*must fit"):
      tract_conv(x, w, padding="VALID", **options)
    with pytest.raises(ValueError, match=r"window of \(3, 2\).*must fit"):
      patch_gram(x, window=(3, 2), padding="VALID", **options)


def test_checkpointed_layers_have_the_same_gradient(rng):
  x, w = rng.standard_normal((2, 5, 4, 1)), rng.standard_normal((2, 2, 1, 3))
  for layer, *args in ((tract_conv, x, w), (tract_dense, x.reshape(10, 4), w.reshape(4, 3))):
    a, b = (jnp.asarray(v, jnp.float32) for v in args)
    loss = lambda b, layer=layer, a=a: jnp.sum(layer(a, b) ** 2)
    expected = jax.grad(loss)(b)
    np.testing.assert_allclose(jax.grad(jax.checkpoint(loss))(b), expected, rtol=1e-5)
