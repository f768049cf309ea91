"""EfficientNet-Lite: against loops of NumPy, its derivatives, names of the file, sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import _efficientnet
from experiments._efficientnet import LITE0, Stage

STAGES = (Stage(1, 3, 1, 1, 2), Stage(2, 5, 2, 3, 3))
PARAMS = _efficientnet.random_parameters(0, stages=STAGES, stem=4, head=5, classes=3)
X = np.random.default_rng(1).uniform(size=(2, 7, 10, 3)).astype(np.float32)
ALL = jax.jit(
  lambda params, x: (
    _efficientnet.maps(params, x, after=(0, 2), stages=STAGES),
    _efficientnet.logits(params, x, stages=STAGES),
  )
)


def by_loops(x, kernel, bias, stride):
  """A convolution of one image, place by place; a kernel of three axes has a filter a channel."""
  width, sizes = len(kernel), x.shape[:2]
  out = [-(-n // stride) for n in sizes]
  zeros = [max((m - 1) * stride + width - n, 0) for m, n in zip(out, sizes, strict=True)]
  x = np.pad(x, [(z // 2, z - z // 2) for z in zeros] + [(0, 0)])
  found = np.zeros((*out, kernel.shape[-1]))
  for i in range(out[0]):
    for j in range(out[1]):
      window = x[i * stride : i * stride + width, j * stride : j * stride + width]
      product = window * kernel if kernel.ndim == 3 else window[..., None] * kernel
      found[i, j] = product.reshape(-1, *product.shape[-(kernel.ndim - 2) :]).sum(0).reshape(
        -1, kernel.shape[-1]
      ).sum(0)  # fmt: skip
  return found + bias


def network_by_loops(x):
  """Maps after the first and the last block and of the head, in float64."""
  w = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), PARAMS)
  layer = lambda h, part, stride=1: by_loops(h, part["kernel"], part["bias"], stride)
  relu6 = lambda h: np.clip(h, 0, 6)
  h = relu6(layer((255 * np.float64(x) - 127) / 128, w["stem"], 2))
  seen = []
  for block, stride, adds in zip(w["blocks"], (1, 2, 1), (False, False, True), strict=True):
    wide = relu6(layer(h, block["expand"])) if "expand" in block else h
    out = layer(relu6(layer(wide, block["depthwise"], stride)), block["project"])
    h = h + out if adds else out
    seen.append(h)
  return seen[0], seen[2], relu6(layer(h, w["head"]))


def test_maps_and_logits_are_those_of_the_formulas():
  maps, logits = ALL(PARAMS, X)
  wanted = [network_by_loops(x) for x in X]
  for i, found in enumerate(maps):
    np.testing.assert_allclose(found, np.stack([w[i] for w in wanted]), atol=2e-5)
  assert [m.shape for m in maps] == [(2, 4, 5, 2), (2, 2, 3, 3), (2, 2, 3, 5)]
  pooled = np.stack([w[2].mean((0, 1)) for w in wanted])
  layer = PARAMS["classes"]
  np.testing.assert_allclose(logits, pooled @ layer["kernel"] + layer["bias"], atol=2e-5)
  found = _efficientnet.features(PARAMS, X, stages=STAGES)
  np.testing.assert_allclose(found, pooled, atol=2e-5)


def test_images_do_not_see_one_another():
  np.testing.assert_allclose(ALL(PARAMS, X[::-1])[1], ALL(PARAMS, X)[1][::-1], atol=1e-6)


@pytest.mark.parametrize(("size", "width", "stride"), [
  ((6, 7), 3, 1), ((6, 7), 3, 2), ((5, 8), 5, 2), ((2, 1), 5, 2), ((1, 3), 3, 1),
])  # fmt: skip
def test_filters_and_their_derivatives_are_those_of_a_grouped_convolution(size, width, stride):
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(size=(2, *size, 3)), jnp.float32)
  kernel = jnp.asarray(rng.normal(size=(width, width, 3)), jnp.float32)

  def grouped(x, kernel):
    return jax.lax.conv_general_dilated(
      x, kernel[:, :, None], (stride, stride), "SAME", feature_group_count=3,
      dimension_numbers=("NHWC", "HWIO", "NHWC"), precision="highest",
    )  # fmt: skip

  @jax.jit
  def both(x, kernel):
    ours, back = jax.vjp(lambda x, k: _efficientnet.depthwise(x, k, stride), x, kernel)
    theirs, their_back = jax.vjp(grouped, x, kernel)
    weights = jnp.cos(jnp.arange(ours.size, dtype=x.dtype)).reshape(ours.shape)
    return (ours, *back(weights)), (theirs, *their_back(weights))

  for ours, theirs in zip(*both(x, kernel), strict=True):
    np.testing.assert_allclose(ours, theirs, atol=2e-5)


def file_arrays(params):
  """Weights by the names of the file, with norms that folding undoes."""
  arrays, rng = {}, np.random.default_rng(5)

  def put(convolution, norm, layer):
    kernel = layer["kernel"] if layer["kernel"].ndim == 4 else layer["kernel"][:, :, None]
    n = kernel.shape[-1]
    scale, mean, variance = rng.uniform(0.5, 2, n), rng.normal(size=n), rng.uniform(0.5, 2, n)
    root = np.sqrt(variance + 1e-3)
    arrays[f"{convolution}.weight"] = np.transpose(kernel * root / scale, (3, 2, 0, 1))
    bias = layer["bias"] + scale / root * mean
    for name, value in (("weight", scale), ("bias", bias), ("running_mean", mean),
                        ("running_var", variance)):  # fmt: skip
      arrays[f"{norm}.{name}"] = value

  put("_conv_stem", "_bn0", params["stem"])
  put("_conv_head", "_bn1", params["head"])
  names = {"expand": ("_expand_conv", "_bn0"), "depthwise": ("_depthwise_conv", "_bn1"),
           "project": ("_project_conv", "_bn2")}  # fmt: skip
  for i, block in enumerate(params["blocks"]):
    for part, layer in block.items():
      put(*(f"_blocks.{i}.{name}" for name in names[part]), layer)
  arrays["_fc.weight"], arrays["_fc.bias"] = (
    params["classes"]["kernel"].T,
    params["classes"]["bias"],
  )
  return arrays


def test_norms_are_folded_into_the_convolutions():
  found = _efficientnet.parameters(file_arrays(PARAMS))
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, PARAMS)
  with pytest.raises(ValueError, match=r"names of EfficientNet; got word, \.\.\."):
    _efficientnet.parameters({"word": np.ones(2)})


def test_lite0_has_its_published_size():
  """4,652,008 weights, as many as the file has without the norms' statistics, scales folded."""
  params = _efficientnet.random_parameters(0)
  convolutions = sum(leaf.size for leaf in jax.tree.leaves(params) if leaf.ndim > 1)
  biases = sum(leaf.size for leaf in jax.tree.leaves(params) if leaf.ndim == 1)
  assert convolutions + 2 * (biases - 1000) + 1000 == 4_652_008
  assert len(params["blocks"]) == 16 and sum(stage.repeats for stage in LITE0) == 16
  shape = jax.eval_shape(_efficientnet.logits, params, jnp.zeros((1, 224, 224, 3)))
  assert shape.shape == (1, 1000)
