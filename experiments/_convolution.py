"""Convolutions that are fast on CPUs."""

from typing import Any

import jax
import jax.numpy as jnp


def convolve(
  x: jax.Array, kernel: jax.Array, strides: Any, padding: Any = "SAME", **_: Any
) -> jax.Array:
  """Convolution (NHWC, HWIO) as one product of patches and a matrix.

  For ``conv_general_dilated`` of ``linen.Conv``. A batch of kernels is a batch of products.
  """
  rows, cols, _, out = kernel.shape
  pads = jax.lax.padtype_to_pads(x.shape[1:3], (rows, cols), strides, padding)
  padded = jnp.pad(x, [(0, 0), *pads, (0, 0)])
  ends = [n - k + 1 for n, k in zip(padded.shape[1:3], (rows, cols), strict=True)]
  cut = [
    padded[:, i : i + ends[0] : strides[0], j : j + ends[1] : strides[1]]
    for i in range(rows)
    for j in range(cols)
  ]
  return jnp.concatenate(cut, axis=-1) @ kernel.reshape(-1, out)
