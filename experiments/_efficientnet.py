"""EfficientNet-Lite as pure functions: features and ImageNet's classes of photographs.

A stem, blocks of three convolutions (1 x 1 to more channels, one filter a channel, 1 x 1 to fewer;
the first block has no first one), a 1 x 1 head and the mean over the places. ReLU6 follows all but
the third of a block, to which the input is added where it has the same shape. Batch norms are
folded into the convolutions. Images are float[batch, height, width, 3] in [0, 1].
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

_EPSILON = 1e-3  # of the batch norms
# The network saw (v - 127) / 128 of values v from 0 to 255.
_SCALE, _SHIFT = 255 / 128, 127 / 128


class Stage(NamedTuple):
  """Blocks in a row; the first of them has the stride and changes the channels.

  Attributes:
    repeats: number of blocks.
    kernel: width of the filters.
    stride: of the first block.
    expansion: how many times more channels are between its convolutions.
    channels: of what comes out.
  """

  repeats: int
  kernel: int
  stride: int
  expansion: int
  channels: int


LITE0 = (
  Stage(1, 3, 1, 1, 16),
  Stage(2, 3, 2, 6, 24),
  Stage(2, 5, 2, 6, 40),
  Stage(3, 3, 2, 6, 80),
  Stage(3, 5, 1, 6, 112),
  Stage(4, 5, 2, 6, 192),
  Stage(1, 3, 1, 6, 320),
)


def _strides(stages: Sequence[Stage]) -> list[int]:
  """Of all blocks."""
  return [stage.stride if i == 0 else 1 for stage in stages for i in range(stage.repeats)]


def parameters(arrays: Mapping[str, Any]) -> dict[str, Any]:
  """Weights by the names of the file as a pytree of kernels and biases, norms folded in."""
  if "_conv_stem.weight" not in arrays:
    names = ", ".join(list(arrays)[:3])
    raise ValueError(f"arrays must have the names of EfficientNet; got {names}, ...")

  def folded(convolution: str, norm: str) -> dict[str, np.ndarray]:
    part = lambda name: np.asarray(arrays[f"{norm}.{name}"], np.float64)
    scale = part("weight") / np.sqrt(part("running_var") + _EPSILON)
    kernel = np.asarray(arrays[f"{convolution}.weight"], np.float64)  # outputs, inputs, y, x
    kernel = np.transpose(kernel * scale[:, None, None, None], (2, 3, 1, 0))
    return {
      "kernel": np.float32(kernel[:, :, 0] if "depthwise" in convolution else kernel),
      "bias": np.float32(part("bias") - scale * part("running_mean")),
    }

  blocks: list[dict[str, Any]] = []
  while f"_blocks.{len(blocks)}._depthwise_conv.weight" in arrays:
    name = f"_blocks.{len(blocks)}."
    parts = {"expand": ("_expand_conv", "_bn0"), "depthwise": ("_depthwise_conv", "_bn1"),
             "project": ("_project_conv", "_bn2")}  # fmt: skip
    blocks.append({
      ours: folded(name + convolution, name + norm)
      for ours, (convolution, norm) in parts.items() if f"{name}{convolution}.weight" in arrays
    })  # fmt: skip
  return {
    "stem": folded("_conv_stem", "_bn0"),
    "blocks": blocks,
    "head": folded("_conv_head", "_bn1"),
    "classes": {
      "kernel": np.asarray(arrays["_fc.weight"]).T,
      "bias": np.asarray(arrays["_fc.bias"]),
    },
  }


def random_parameters(
  seed: int, *, stages: Sequence[Stage] = LITE0, stem: int = 32, head: int = 1280,
  classes: int = 1000,
) -> dict[str, Any]:  # fmt: skip
  """Parameters of a network: normal kernels of variance 2 / inputs, small biases.

  Args:
    seed: of NumPy's generator.
    stages: its blocks.
    stem: channels of the stem.
    head: features.
    classes: classes.

  Returns:
    A pytree like that of ``parameters``.
  """
  rng = np.random.default_rng(seed)

  def layer(*shape: int) -> dict[str, np.ndarray]:
    size = (2 / np.prod(shape[:-1])) ** 0.5
    return {
      "kernel": np.float32(size * rng.normal(size=shape)),
      "bias": np.float32(0.1 * rng.normal(size=shape[-1])),
    }

  blocks, inputs = [], stem
  for stage in stages:
    for _ in range(stage.repeats):
      wide = inputs * stage.expansion
      block = {"expand": layer(1, 1, inputs, wide)} if stage.expansion > 1 else {}
      block["depthwise"] = layer(stage.kernel, stage.kernel, wide)
      block["project"] = layer(1, 1, wide, stage.channels)
      blocks.append(block)
      inputs = stage.channels
  return {
    "stem": layer(3, 3, 3, stem), "blocks": blocks, "head": layer(1, 1, inputs, head),
    "classes": layer(head, classes),
  }  # fmt: skip


def _places(size: int, width: int, stride: int) -> tuple[int, int, int]:
  """How many come out, ceil(size / stride), and the zeros before and after that this needs."""
  out = -(-size // stride)
  zeros = max((out - 1) * stride + width - size, 0)
  return out, zeros // 2, zeros - zeros // 2


def _shifts(x: jax.Array, out: tuple[int, int], width: int, stride: int) -> list[jax.Array]:
  """What each entry of a filter meets, float[batch, out, out, channels], row by row."""
  last = [(n - 1) * stride + 1 for n in out]
  return [
    x[:, i : i + last[0] : stride, j : j + last[1] : stride]
    for i in range(width) for j in range(width)
  ]  # fmt: skip


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def depthwise(x: jax.Array, kernel: jax.Array, stride: int) -> jax.Array:
  """One filter a channel with a stride: kernel float[width, width, channels].

  Sums of shifted images, as are its derivatives: on CPUs 20 times as fast as a grouped convolution.
  """
  (rows, *top), (columns, *left) = (_places(n, len(kernel), stride) for n in x.shape[1:3])
  x = jnp.pad(x, ((0, 0), top, left, (0, 0)))
  shifts = _shifts(x, (rows, columns), len(kernel), stride)
  entries = kernel.reshape(-1, 1, 1, 1, kernel.shape[-1])
  return sum(entry * shift for entry, shift in zip(entries, shifts, strict=True))


def _depthwise_forward(x: jax.Array, kernel: jax.Array, stride: int) -> tuple[jax.Array, Any]:
  return depthwise(x, kernel, stride), (x, kernel)


def _depthwise_backward(stride: int, kept: Any, g: jax.Array) -> tuple[jax.Array, jax.Array]:
  x, kernel = kept
  width, sizes = len(kernel), x.shape[1:3]
  ends = [_places(n, width, stride) for n in sizes]
  padded = jnp.pad(x, ((0, 0), ends[0][1:], ends[1][1:], (0, 0)))
  shifts = _shifts(padded, g.shape[1:3], width, stride)
  of_kernel = jnp.stack([jnp.sum(g * shift, axis=(0, 1, 2)) for shift in shifts])
  # Zeros between the places of g, then so many around it that x comes out.
  around = [
    (width - 1 - before, n + before - (out - 1) * stride - 1, stride - 1)
    for n, (out, before, _) in zip(sizes, ends, strict=True)
  ]
  spread = jax.lax.pad(g, jnp.zeros((), g.dtype), [(0, 0, 0), *around, (0, 0, 0)])
  entries = kernel[::-1, ::-1].reshape(-1, 1, 1, 1, kernel.shape[-1])
  parts = zip(entries, _shifts(spread, sizes, width, 1), strict=True)
  return sum(entry * shift for entry, shift in parts), of_kernel.reshape(kernel.shape)


depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def _convolve(x: jax.Array, layer: Mapping[str, jax.Array], stride: int = 1) -> jax.Array:
  """A convolution, or one filter a channel, with its bias."""
  kernel, bias = jnp.asarray(layer["kernel"]), jnp.asarray(layer["bias"])[None, None, None]
  if kernel.ndim == 3:
    return depthwise(x, kernel, stride) + bias
  if kernel.shape[:2] == (1, 1):
    return x @ kernel[0, 0] + bias
  return bias + jax.lax.conv_general_dilated(
    x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
  )


def maps(
  params: Any, x: jax.Array, *, after: Sequence[int] = (), stages: Sequence[Stage] = LITE0
) -> list[jax.Array]:
  """What comes out of some blocks (counted from 0) and, last, of the head, at all places."""
  h = jax.nn.relu6(_convolve(_SCALE * x - _SHIFT, params["stem"], 2))
  seen = []
  for block, stride in zip(params["blocks"], _strides(stages), strict=True):
    wide = jax.nn.relu6(_convolve(h, block["expand"])) if "expand" in block else h
    wide = jax.nn.relu6(_convolve(wide, block["depthwise"], stride))
    out = _convolve(wide, block["project"])
    h = h + out if out.shape == h.shape else out
    seen.append(h)
  return [*(seen[i] for i in after), jax.nn.relu6(_convolve(h, params["head"]))]


def pooled(params: Any, x: jax.Array, **options: Any) -> list[jax.Array]:
  """``maps``, each as its mean over the places, float[batch, channels]."""
  return [jnp.mean(h, axis=(1, 2)) for h in maps(params, x, **options)]


def features(params: Any, x: jax.Array, *, stages: Sequence[Stage] = LITE0) -> jax.Array:
  """Mean of the head over the places, float[batch, features]."""
  return pooled(params, x, stages=stages)[-1]


def logits(params: Any, x: jax.Array, *, stages: Sequence[Stage] = LITE0) -> jax.Array:
  """Scores of ImageNet's classes, float[batch, classes]."""
  layer = params["classes"]
  return features(params, x, stages=stages) @ layer["kernel"] + jnp.asarray(layer["bias"])[None]
