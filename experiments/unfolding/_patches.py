"""Whitened patches of photographs, for training and for tests."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import datasets
from jaxopt_robust import unfolding

PICTURES = ("astronaut", "brick", "camera", "chelsea", "coffee", "grass", "gravel")
TRAIN_SHARE = 0.75  # the left part of each picture; the patches of the test lie in the rest
VARIANCE = 0.1  # of the whitened pictures, as in the authors' code


def load_whitened(names: tuple[str, ...]) -> list[np.ndarray]:
  """Pictures in grey with a flat spectrum."""
  pictures, filtered = [], jax.jit(unfolding.whiten)
  for name in names:
    image = np.asarray(datasets.load(name)["image"], np.float32)
    grey = image if image.ndim == 2 else image @ np.float32([0.2125, 0.7154, 0.0721])
    pictures.append(np.sqrt(VARIANCE) * np.asarray(filtered(grey)))
  return pictures


def make_patches(config: Any, pictures: list[np.ndarray], seed: int) -> dict[str, jax.Array]:
  """Patches of all pictures: batches for training, others for the test."""

  def cut(part: int, count: int) -> np.ndarray:
    rng = np.random.default_rng([seed, part])
    which = rng.integers(0, len(pictures), count)
    out = []
    for i in which:
      rows, cols = pictures[i].shape
      edge = int(TRAIN_SHARE * cols)
      low, high = (0, edge - config.side) if part == 0 else (edge, cols - config.side)
      top, left = rng.integers(0, rows - config.side + 1), rng.integers(low, high + 1)
      out.append(pictures[i][top : top + config.side, left : left + config.side].ravel())
    patches = np.stack(out)
    return patches - patches.mean(1, keepdims=True)

  train = cut(0, config.batches * config.batch).reshape(config.batches, config.batch, -1)
  return {"train": jnp.asarray(train), "test": jnp.asarray(cut(1, config.test)),
          "seed": jnp.asarray(seed)}  # fmt: skip
