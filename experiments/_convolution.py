"""Convolutions that are fast on CPUs: XLA's own have gradients that are some ten times slower."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen


def patches(
  x: jax.Array, size: Sequence[int], strides: Sequence[int], padding: Any = "SAME"
) -> jax.Array:
  """What each place of a convolution sees, float[batch, rows, columns, numbers]."""
  pads = jax.lax.padtype_to_pads(x.shape[1:3], size, strides, padding)
  padded = jnp.pad(x, [(0, 0), *pads, (0, 0)])
  ends = [n - k + 1 for n, k in zip(padded.shape[1:3], size, strict=True)]
  cut = [
    padded[:, i : i + ends[0] : strides[0], j : j + ends[1] : strides[1]]
    for i in range(size[0])
    for j in range(size[1])
  ]
  return jnp.concatenate(cut, axis=-1)


def convolve(
  x: jax.Array, kernel: jax.Array, strides: Any, padding: Any = "SAME", **_: Any
) -> jax.Array:
  """Convolution (NHWC, HWIO) as one product of patches and a matrix.

  For ``conv_general_dilated`` of ``linen.Conv``. A batch of kernels is a batch of products.
  """
  rows, cols, _, out = kernel.shape
  return patches(x, (rows, cols), strides, padding) @ kernel.reshape(-1, out)


class Convolution(linen.Module):
  """A dense layer on the patches of all places."""

  width: int
  size: int
  stride: int

  @linen.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    return linen.Dense(self.width)(patches(x, (self.size,) * 2, (self.stride,) * 2))
