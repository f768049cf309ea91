"""A network that chooses, input by input, how much of a robust classifier is mixed in."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import linen

from jaxopt_robust import _checks
from jaxopt_robust.typing import Array

__all__ = ["MixingNet"]


class _Block(linen.Module):
  """Pre-activation residual block of dense layers, or of convolutions for images of features."""

  width: int

  @linen.compact
  def __call__(self, x: Array) -> Array:
    image = x.ndim == 4
    layer = lambda: linen.Conv(self.width, (3, 3)) if image else linen.Dense(self.width)
    y = layer()(jax.nn.relu(linen.LayerNorm()(x)))
    return x + layer()(jax.nn.relu(linen.LayerNorm()(y)))


class MixingNet(linen.Module):
  r"""Mixing network of adaptive smoothing: features of two classifiers to gamma, one an example.

  Shallow features of both classifiers, concatenated, pass a block; deep ones are mapped to the same
  width and added; further blocks, a mean over places and a linear map without bias give u. In
  training u is clipped to its mean +- ``clip`` standard deviations over the batch; a batch
  normalisation without parameters and gamma = scale u + bias follow. The weight of the robust
  classifier is ``alpha`` = sigmoid(gamma), in evaluation put into a range.

  Call ``model.apply(variables, shallow, deep, train=True, mutable=["batch_stats"])``; shallow and
  deep are sequences of arrays, float[batch, features] or float[batch, height, width, features], the
  ones of deep with a grid that divides that of shallow. Returns (gamma, alpha), float[batch].

  Attributes:
    width: features inside.
    blocks: residual blocks after the first.
    clip: > 0.
    train_map: (scale, bias) of gamma in training.
    eval_map: (scale, bias) of gamma in evaluation; a larger bias means a more robust mixture.
    alpha_map: (scale, bias) of alpha in evaluation: alpha = scale sigmoid(gamma) + bias.

  Note:
    Statistics of the batch normalisation are frozen in evaluation (``train=False``): an attack sees
    each example alone. Blocks are normalised by layer, theirs by batch; images in theirs are
    subsampled between blocks.

  Reference:
    Bai, Anderson, Kim and Sojoudi, Improving the accuracy-robustness trade-off of classifiers via
    adaptive smoothing, 2024 (the authors' code; default numbers: those for CIFAR-10).
  """

  width: int = 64
  blocks: int = 2
  clip: float = 0.6
  train_map: Sequence[float] = (2.0, 0.4)
  eval_map: Sequence[float] = (2.0, 1.3)
  alpha_map: Sequence[float] = (0.84, 0.15)

  @linen.compact
  def __call__(
    self, shallow: Sequence[Array], deep: Sequence[Array], *, train: bool = False
  ) -> tuple[Array, Array]:
    _checks.check_positive("clip", self.clip)
    _checks.check_int("blocks", self.blocks, minimum=0)
    low, high = _joined("shallow", shallow), _joined("deep", deep)
    _checks.check_holds(low.ndim == high.ndim, "shallow and deep must have equal ranks.")
    image = low.ndim == 4
    layer = lambda: linen.Conv(self.width, (1, 1)) if image else linen.Dense(self.width)
    x = _Block(self.width)(layer()(low))
    if image:
      steps = tuple(a // b for a, b in zip(low.shape[1:3], high.shape[1:3], strict=True))
      if tuple(a * b for a, b in zip(steps, high.shape[1:3], strict=True)) != low.shape[1:3]:
        raise ValueError(
          f"deep must have a grid that divides that of shallow, {low.shape[1:3]}; "
          f"got {high.shape[1:3]}."
        )
      x = linen.avg_pool(x, steps, steps)
    x = x + layer()(high)
    for _ in range(self.blocks):
      x = _Block(self.width)(x)
    x = jax.nn.relu(linen.LayerNorm()(x))
    x = jnp.mean(x, axis=(1, 2)) if image else x
    u = linen.Dense(1, use_bias=False)(x)
    if train:
      # The limits are held fixed: at a standard deviation of 0 it has no derivative.
      center, spread = (jax.lax.stop_gradient(f(u)) for f in (jnp.mean, jnp.std))
      u = jnp.clip(u, center - self.clip * spread, center + self.clip * spread)
    normalise = linen.BatchNorm(
      use_running_average=not train, momentum=0.99, use_bias=False, use_scale=False
    )
    scale, bias = self.train_map if train else self.eval_map
    gamma = scale * normalise(u)[:, 0] + bias
    alpha = jax.nn.sigmoid(gamma)
    return gamma, alpha if train else self.alpha_map[0] * alpha + self.alpha_map[1]


def _joined(name: str, features: Sequence[Array]) -> Array:
  """Features of both classifiers side by side."""
  if not isinstance(features, tuple | list) or not features:
    raise ValueError(f"{name} must be a sequence of arrays; got {_checks.describe(features)}.")
  arrays = [_checks.check_float_array(name, f, rank=(2, 4)) for f in features]
  if len({a.shape[:-1] for a in arrays}) > 1:
    raise ValueError(
      f"{name} must agree in all axes but the last; got {', '.join(str(a.shape) for a in arrays)}."
    )
  return jnp.concatenate(arrays, axis=-1)
