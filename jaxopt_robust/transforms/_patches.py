"""Windows of convolutions with channels last, and the patches under them."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.typing import Array

# Accelerators round products to fewer digits by default; a matrix that is inverted needs them all.
EXACT = jax.lax.Precision.HIGHEST
Padding = str | Sequence[tuple[int, int]]


def window_of(sizes: tuple, strides: Any, padding: Any, dilation: Any) -> tuple:
  """Static description of a window: sizes, strides, padding, dilation."""

  def each(name: str, value: Any) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, tuple | list) else (value,) * len(sizes)
    if len(values) != len(sizes):
      raise ValueError(f"{name} must be one number or {len(sizes)}; got {value}.")
    return tuple(_checks.check_int(name, v, minimum=1) for v in values)

  if isinstance(padding, tuple | list):
    pairs = [tuple(pair) if isinstance(pair, tuple | list) else () for pair in padding]
    if len(pairs) != len(sizes) or any(len(pair) != 2 for pair in pairs):
      raise ValueError(f"padding must hold a pair for each of {len(sizes)} axes; got {padding}.")
    padding = tuple(
      tuple(_checks.check_int("padding", side, minimum=0) for side in pair) for pair in pairs
    )
  else:
    _arguments.check_option("padding", padding, ("SAME", "VALID"))
  return sizes, each("strides", strides), padding, each("dilation", dilation)


def _layout(spatial: int) -> tuple[str, str, str]:
  axes = "HWD"[:spatial]
  return f"N{axes}C", f"{axes}IO", f"N{axes}C"


def convolve(x: Array, w: Array, window: tuple, groups: int) -> Array:
  sizes, strides, padding, dilation = window
  out = jax.lax.conv_general_dilated(
    x, w, strides, padding, rhs_dilation=dilation, feature_group_count=groups,
    dimension_numbers=_layout(len(sizes)),
  )  # fmt: skip
  _check_positions(x, window, out)
  return out


def _check_positions(x: Array, window: tuple, out: Array) -> None:
  """Windows that fit somewhere."""
  if 0 in out.shape[1:-1]:
    raise ValueError(
      f"a window of {window[0]} (dilation {window[3]}) must fit into images of "
      f"{x.shape[1:-1]} with padding {window[2]}."
    )


def patches_of(images: Array, window: tuple) -> Array:
  """float[images * positions, taps, channels]: what each position of the kernel sees."""
  sizes, strides, padding, dilation = window
  found = jax.lax.conv_general_dilated_patches(
    images, sizes, strides, padding, rhs_dilation=dilation,
    dimension_numbers=_layout(len(sizes)), precision=EXACT,
  )  # fmt: skip
  _check_positions(images, window, found)
  # Channels come first there, then the taps of the window.
  return jnp.swapaxes(found.reshape(-1, images.shape[-1], math.prod(sizes)), 1, 2)
