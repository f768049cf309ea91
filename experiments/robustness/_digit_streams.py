"""Streams of digits whose appearance drifts away from that of the training images."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.ndimage
from flax import linen

from experiments import datasets
from experiments._training import batches

# name -> (kind of drift, batch size)
STREAMS = {
  "brightness, 64": ("brightness", 64),
  "brightness, 8": ("brightness", 8),
  "brightness and noise, 8": ("noise", 8),
  "blur and brightness, 64": ("blur", 64),
  "gradual, 64": ("gradual", 64),
  "sorted by class, 64": ("sorted", 64),
}


class Net(linen.Module):
  """A perceptron with layer normalisation before each activation."""

  features: tuple[int, ...]
  outputs: int = 10

  @linen.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    for width in self.features:
      x = linen.relu(linen.LayerNorm()(linen.Dense(width)(x)))
    return linen.Dense(self.outputs)(x)


class Data(NamedTuple):
  """A seed: clean training images, weights, minibatches; images and labels of each stream."""

  x: Any
  y: Any
  params: Any
  rows: Any
  streams: dict[str, Any]
  labels: dict[str, Any]


def drifted(images: np.ndarray, kind: str, config: Any, rng: np.random.Generator) -> np.ndarray:
  """Images float[n, 8, 8] of grey values in [0, 1] after one kind of drift, not clipped."""
  x, amount = images, np.full(len(images), config.brightness)
  if kind == "blur":
    x = scipy.ndimage.gaussian_filter(x, (0, config.blur, config.blur))
  if kind == "gradual":
    progress = np.linspace(0, 1, len(images))
    turn = lambda image, part: scipy.ndimage.rotate(
      image, config.angle * part, reshape=False, order=1
    )
    x = np.stack([turn(*pair) for pair in zip(x, progress, strict=True)])
    amount = amount * progress
  x = x + amount[:, None, None]
  if kind == "noise":
    x = x + config.noise * rng.standard_normal(x.shape)
  return x


def load_split(seed: int, config: Any) -> Data:
  """Training images, and what the stream shows: the same images twice, in other orders."""
  table = datasets.load("digits")
  x, y = np.asarray(table["x"]).reshape(-1, 8, 8) / 16, np.asarray(table["y"], np.int32)
  rng = np.random.default_rng(seed)
  order = rng.permutation(len(x))
  train, rest = order[: config.train], order[config.train :]
  mean, scale = x[train].mean(), x[train].std()
  flat = lambda v: jnp.asarray((v.reshape(len(v), -1) - mean) / scale, jnp.float32)
  streams, labels = {}, {}
  for name in config.streams:
    kind, batch = STREAMS[name]
    shown = np.concatenate([rng.permutation(rest), rng.permutation(rest)])[: config.length]
    if kind == "sorted":
      shown = shown[np.argsort(y[shown], kind="stable")]
    images = flat(drifted(x[shown], kind, config, rng))
    streams[name] = images.reshape(-1, batch, images.shape[1])
    labels[name] = jnp.asarray(y[shown]).reshape(-1, batch)
  model, clean = Net(config.hidden), flat(x[train])
  params = model.init(jax.random.key(seed), clean[:1])
  rows = jnp.asarray(batches(config.train, 64, config.epochs, seed))
  return Data(clean, jnp.asarray(y[train]), params, rows, streams, labels)
