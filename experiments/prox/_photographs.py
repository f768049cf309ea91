"""Squares of photographs, how near a picture comes to them, and two classical filters."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from experiments import _statistics, datasets
from experiments._pictures import load_picture
from experiments.prox._total_variation import kernel

EDGES = 0.1  # share of the pixels, those of the steepest jumps, that count as edges


def make_square(config: Any, seed: int, half: int) -> tuple[np.ndarray, np.ndarray]:
  """A random square of the left or right half of a picture, and noise of unit variance a task."""
  rng, side = np.random.default_rng([seed, half]), config.pixels * config.block
  rows, cols = datasets.load(config.picture)["image"].shape
  top, left = (int(rng.integers(0, size - side + 1)) for size in (rows, cols // 2))
  left += half * (cols // 2)
  square = load_picture(
    config.picture, top=top, left=left, pixels=config.pixels, block=config.block
  )
  return square.astype(np.float64), rng.standard_normal((2, config.pixels, config.pixels))


def decibels(image: Any, truth: np.ndarray, where: Any = True) -> float:
  """Peak signal-to-noise ratio of some pixels, for grey values in [0, 1]."""
  return -10 * float(np.log10(np.mean((np.asarray(image) - truth) ** 2, where=where)))


def edges(truth: np.ndarray) -> np.ndarray:
  """The pixels with the steepest jumps to their neighbours."""
  jumps = np.hypot(
    np.diff(truth, axis=0, append=truth[-1:]), np.diff(truth, axis=1, append=truth[:, -1:])
  )
  return jumps >= np.quantile(jumps, 1 - EDGES)


def levels(images: Any, truths: Any) -> dict[str, list[float]]:
  """Signal-to-noise ratios of all pixels and of the edges, a number a square."""
  pairs = list(zip(images, truths, strict=True))
  near = [decibels(x, truth, edges(truth)) for x, truth in pairs]
  return {"psnr": [decibels(x, truth) for x, truth in pairs], "edges": near}


def wiener(sigma: float) -> Callable[[np.ndarray, float], np.ndarray]:
  """scikit-image's Wiener filter, on the mirrored picture: the borders then fit exactly."""
  from skimage import restoration

  point_spread = np.outer(kernel(sigma), kernel(sigma))

  def restore(y: np.ndarray, balance: float) -> np.ndarray:
    n = len(y)
    mirrored = np.pad(y, ((0, n), (0, n)), mode="symmetric")
    return restoration.wiener(mirrored, point_spread, balance, clip=False)[:n, :n]

  return restore


def richardson_lucy(sigma: float) -> Callable[[np.ndarray, float], np.ndarray]:
  """scikit-image's Richardson-Lucy iteration, on a picture with a mirrored rim."""
  from skimage import restoration

  point_spread = np.outer(kernel(sigma), kernel(sigma))

  def restore(y: np.ndarray, steps: float) -> np.ndarray:
    rim = min(len(y), 4 * len(point_spread) // 2)
    padded = np.maximum(np.pad(y, rim, mode="symmetric"), 0.0)
    out = restoration.richardson_lucy(padded, point_spread, num_iter=int(steps), clip=False)
    return out[rim:-rim, rim:-rim]

  return restore


def tune_filter(
  name: str, restore: Callable[..., np.ndarray], settings: Sequence[float], pairs: Any
) -> _statistics.Choice:
  """The setting of a filter with the best mean ratio on the pairs (observed, truth)."""
  scores = [np.mean([decibels(restore(y, s), truth) for y, truth in pairs]) for s in settings]
  return _statistics.choose(name, settings, scores, better="higher")
