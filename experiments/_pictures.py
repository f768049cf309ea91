"""Photographs in experiments: cut-outs, signal-to-noise ratios, pictures inside a record."""

from typing import Any

import numpy as np

from experiments import datasets


def load_picture(name: str, *, top: int, left: int, pixels: int, block: int) -> np.ndarray:
  """A square of a grey picture, averaged over blocks.

  Args:
    name: a grey picture that ``datasets.load`` knows.
    top: first row of the square.
    left: first column of the square.
    pixels: side of the result.
    block: side of an averaged block, in pixels of the original.

  Returns:
    float array [pixels, pixels], grey values in [0, 1].
  """
  image = datasets.load(name)["image"]
  side = pixels * block
  square = image[top : top + side, left : left + side]
  if square.shape != (side, side):
    raise ValueError(f"the square of side {side} does not fit into {image.shape}")
  return square.reshape(pixels, block, pixels, block).mean((1, 3))


def psnr(error: Any, pixels: int) -> Any:
  """Peak signal-to-noise ratio in decibels of a Frobenius error, for grey values in [0, 1]."""
  return -20 * np.log10(np.maximum(np.asarray(error), 1e-12) / pixels)


def encode(image: Any) -> str:
  """A picture as hexadecimal digits, two for each pixel."""
  return (np.clip(np.asarray(image), 0, 1) * 255).round().astype(np.uint8).tobytes().hex()


def decode(text: str, pixels: int) -> np.ndarray:
  """The inverse of ``encode``, up to rounding."""
  return np.frombuffer(bytes.fromhex(text), np.uint8).reshape(pixels, pixels) / 255
