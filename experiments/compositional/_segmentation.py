"""Small synthetic images with masks, dense and empty ones, and a network that segments them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments._training import batches

SIDE = 16
DEPTH = 8  # slices of a volume
DENSE = 0.4  # fraction of images with discs; of slices 0.45 show a ball


def make_images(
  rng: np.random.Generator, is_dense: np.ndarray, kind: str
) -> tuple[np.ndarray, np.ndarray]:
  """Images float32[n, 16, 16] and masks int32[n, 16, 16]; discs in the dense images only."""
  num = len(is_dense)
  blocks = rng.normal(0, 0.35, (num, 4, 4)).repeat(4, axis=1).repeat(4, axis=2)
  if kind == "distinct":  # as slices outside the body
    blocks = np.where(is_dense[:, None, None], blocks, 0.5 * blocks - 0.5)
  image = blocks + rng.normal(0, 0.35, (num, SIDE, SIDE))
  mask = np.zeros((num, SIDE, SIDE), np.int32)
  row, column = np.mgrid[:SIDE, :SIDE]
  for i in np.flatnonzero(is_dense):
    for _ in range(rng.integers(1, 3)):
      radius, contrast = rng.uniform(1.8, 3.2), rng.uniform(0.6, 1.1)
      centre = rng.uniform(radius, SIDE - 1 - radius, 2)
      disc = (row - centre[0]) ** 2 + (column - centre[1]) ** 2 <= radius**2
      image[i] += contrast * (disc & (mask[i] == 0))
      mask[i][disc] = 1
  return image.astype(np.float32), mask


def make_slices(rng: np.random.Generator, num: int) -> tuple[np.ndarray, np.ndarray]:
  """Slices float32[8 num, 16, 16] of ``num`` volumes and masks int32 of the same shape.

  A volume has a smooth background and two thin bright tubes along its depth, which every slice
  shows; the one to three balls that are to be found lie around the middle. A slice is blurred with
  its neighbours, so that the first empty slice next to a ball shows a trace of it.
  """
  depth, row, column = np.mgrid[: 2 * DEPTH, :SIDE, :SIDE]
  place = np.linspace(0, 3, SIDE)
  tent = np.maximum(0, 1 - np.abs(place[:, None] - np.arange(4)))  # linear interpolation
  images, masks = [], []
  for _ in range(num):
    smooth = np.einsum("ai,bj,ck,ijk", tent, tent, tent, rng.normal(size=(4, 4, 4)))
    volume = 0.45 * smooth / smooth.std()
    for _ in range(2):
      start, end = rng.uniform(1, SIDE - 2, (2, 2))
      along = (start + 0.4 * (end - start) * np.linspace(0, 1, 2 * DEPTH)[:, None]).T
      apart = (row - along[0][:, None, None]) ** 2 + (column - along[1][:, None, None]) ** 2
      volume += rng.uniform(0.9, 1.5) * (apart <= rng.uniform(1.0, 1.5) ** 2)
    mask, bright = np.zeros(volume.shape, np.int32), np.zeros(volume.shape)
    for _ in range(rng.integers(1, 4)):
      radius, contrast = rng.uniform(2.0, 3.6), rng.uniform(0.9, 1.5)
      centre = rng.uniform(radius, SIDE - 1 - radius, 2)
      apart = (row - centre[0]) ** 2 + (column - centre[1]) ** 2
      ball = apart + (depth - rng.uniform(5, 2 * DEPTH - 6)) ** 2 <= radius**2
      bright[ball & (mask == 0)] = contrast
      mask[ball] = 1
    volume += 0.5 * bright + 0.25 * (np.roll(bright, 1, axis=0) + np.roll(bright, -1, axis=0))
    images.append((volume + rng.normal(0, 0.25, volume.shape))[::2])
    masks.append(mask[::2])
  return np.concatenate(images).astype(np.float32), np.concatenate(masks)


def init_params(rng: np.random.Generator) -> dict[str, np.ndarray]:
  """Initial weights of the network, a matrix a layer with the bias as its last row."""
  layers = {"first": (9, 8), "down": (72, 12), "deep": (108, 12), "up": (20, 8), "out": (8, 2)}
  draw = lambda fan_in, width: rng.normal(0, np.sqrt(2 / fan_in), (fan_in, width))
  return {
    name: np.concatenate([draw(*shape), np.zeros((1, shape[1]))]).astype(np.float32)
    for name, shape in layers.items()
  }


class Data(NamedTuple):
  """One data set with initial weights, minibatches and key; validation images are held out first.

  ``shown`` are the rows of the held-out images in the figure.
  """

  x: jax.Array
  y: jax.Array
  is_dense: jax.Array
  x_held: jax.Array
  y_held: jax.Array
  shown: jax.Array
  rows: jax.Array
  params: Any
  key: jax.Array


def load(seed: int, kind: str, config: Any) -> Data:
  """A data set of a kind with validation and test images; ``config`` tells sizes and batches."""
  rng = np.random.default_rng(seed)
  if kind == "slices":
    x, y = make_slices(rng, config.images // DEPTH)
    x_held, y_held = make_slices(rng, 2 * config.test_images // DEPTH)
  else:
    filled = np.arange(config.images) < round(DENSE * config.images)
    x, y = make_images(rng, filled, kind)
    x_held, y_held = make_images(rng, np.ones(2 * config.test_images, bool), kind)
  tested = np.arange(len(x_held)) >= config.test_images
  shown = np.flatnonzero(np.any(y_held, axis=(1, 2)) & tested)[:4]
  params = init_params(rng)
  rows = batches(config.images, config.batch, config.epochs, seed)
  arrays = [x, y, np.any(y, axis=(1, 2)), x_held, y_held, shown, rows, params]
  return Data(*jax.tree.map(jnp.asarray, arrays), jax.random.key(seed))


def _affine(x: jax.Array, weights: jax.Array) -> jax.Array:
  return x @ weights[:-1] + weights[-1].reshape((1,) * (x.ndim - 1) + (-1,))


def _convolve(x: jax.Array, weights: jax.Array, stride: int = 1) -> jax.Array:
  """3 x 3 convolution as nine shifted copies and one product, which is faster on a CPU."""
  high, wide = x.shape[1:3]
  padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
  places = [(i, j) for i in range(3) for j in range(3)]
  shifted = [padded[:, i : i + high : stride, j : j + wide : stride] for i, j in places]
  return _affine(jnp.concatenate(shifted, axis=-1), weights)


def segment(params: Any, x: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Features of the encoder, and the scores of background and disc at each pixel."""
  first = jax.nn.relu(_convolve(x[..., None], params["first"]))
  down = jax.nn.relu(_convolve(first, params["down"], stride=2))
  features = jax.nn.relu(_convolve(down, params["deep"]))
  up = features.repeat(2, axis=1).repeat(2, axis=2)
  up = jax.nn.relu(_affine(jnp.concatenate([up, first], axis=-1), params["up"]))
  return features, jnp.clip(_affine(up, params["out"]), -30, 30)


def augment(
  x: jax.Array, y: jax.Array, key: jax.Array, *, gain: float = 0.2, noise: float = 0.15
) -> tuple[jax.Array, jax.Array]:
  """Two copies of each image under one flip, with gains and noise of their own; the flipped mask.

  The maps of features can be compared without turning them back.
  """
  flip_key, gain_key, noise_key = jax.random.split(key, 3)
  flip = jax.random.bernoulli(flip_key, shape=(2, len(x), 1, 1))
  flipped = [jnp.where(flip[0], v[:, ::-1], v) for v in (x, y)]
  image, mask = (jnp.where(flip[1], v[:, :, ::-1], v) for v in flipped)
  factor = 1 + gain * jax.random.normal(gain_key, (2, len(x), 1, 1))
  return factor * image[None] + noise * jax.random.normal(noise_key, (2, *x.shape)), mask
