"""Crops of a photograph of coins, labels by a threshold and morphology, distances of outlines."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from experiments import datasets
from experiments.calibration._shapes import CLASSES, Shapes, measured

RIM = 4  # pixels of half the resolution
# Columns of the picture, at half its resolution, whose crops are of each kind.
PARTS = {"train": (0, 88), "held out": (88, 132), "test": (132, 192)}
LEAST = 0.05  # share of a crop that each of the three classes has


@functools.cache
def picture() -> tuple[np.ndarray, np.ndarray]:
  """The photograph at half its resolution, of mean 0 and deviation 1, and its labels.

  Otsu's threshold after the light of the surroundings is taken off, holes closed, specks opened; a
  coin's outer ``RIM`` pixels are class 1, its inner ones class 2.
  """
  from skimage import filters, morphology

  image = datasets.load("coins")["image"].astype(np.float64)[:302]
  flat = image - ndimage.gaussian_filter(image, 40)
  coin = flat > filters.threshold_otsu(flat)
  coin = ndimage.binary_fill_holes(ndimage.binary_closing(coin, morphology.disk(3)))
  coin = ndimage.binary_opening(coin, morphology.disk(5))
  small, share = (a.reshape(151, 2, 192, 2).mean((1, 3)) for a in (image, coin.astype(float)))
  inside = ndimage.distance_transform_edt(share > 0.5)
  labels = (inside > 0).astype(np.int32) + (inside > RIM)
  return (small - small.mean()) / small.std(), labels


def draw(rng: np.random.Generator, num: int, side: int, part: str, noise: float) -> Shapes:
  """Noisy crops out of one part of the picture, each with some of every class."""
  image, labels = picture()
  left, right = PARTS[part]
  windows = [
    np.lib.stride_tricks.sliding_window_view(a[:, left:right], (side, side))
    for a in (image, labels)
  ]
  shares = np.stack([(windows[1] == k).mean((2, 3)) for k in range(CLASSES)])
  places = np.argwhere((shares >= LEAST).all(0))
  chosen = tuple(places[rng.choice(len(places), num)].T)
  x, y = (window[chosen] for window in windows)
  x = x + noise * rng.normal(size=x.shape)
  return Shapes(jnp.asarray(x[..., None], jnp.float32), jnp.asarray(y, jnp.int32))


def measured_with_guess(logits: jax.Array, labels: jax.Array) -> dict[str, jax.Array]:
  """The same, and the classes that are predicted."""
  guess = jnp.argmax(logits, axis=-1).astype(jnp.int8)
  return {**measured(logits, labels), "guess": guess}


def outline_distance(guess: np.ndarray, labels: np.ndarray) -> float:
  """95th percentile of the distances between two outlines, in pixels (HD95).

  Of all pixels of either outline to the nearest pixel of the other. Where nothing is predicted it
  is the diagonal of the image.
  """
  if not guess.any() or not labels.any():
    return float(np.hypot(*labels.shape)) * float(guess.any() != labels.any())
  lines = [mask & ~ndimage.binary_erosion(mask) for mask in (guess, labels)]
  away = [ndimage.distance_transform_edt(~line) for line in lines]
  return float(np.percentile(np.concatenate([away[1][lines[0]], away[0][lines[1]]]), 95))


def mean_distance(guess: Any, labels: Any) -> float:
  """Mean HD95 of the coins as wholes and of their inner parts over all images."""
  pairs = [
    (ours >= k, theirs >= k) for ours, theirs in zip(guess, labels, strict=True) for k in (1, 2)
  ]
  return float(np.mean([outline_distance(*pair) for pair in pairs]))
