"""Patches of natural images: whitening filter and random cuts."""

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.numerics import upcast
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["random_patches", "whiten"]

# Share of the image's height at which the amplitude of natural images' noise begins, from the
# experiments of Olshausen and Field.
_CUTOFF = 0.4


def whiten(image: ArrayLike, *, cutoff: ArrayLike = _CUTOFF) -> Array:
  r"""Flattens the 1/f spectrum of a natural image and suppresses its highest frequencies.

  The mean is subtracted; each Fourier coefficient is multiplied by r exp(-(r / r_0)^4), with
  r = sqrt(f_y^2 + f_x^2) in cycles a picture height on both axes (so that the filter is isotropic
  for oblong images as well) and r_0 = cutoff times the height; the result is divided by its
  standard deviation.

  Args:
    image: float[..., height, width].
    cutoff: > 0, share of the height; 0.4 lets four fifths of the resolvable frequencies pass.

  Returns:
    float[..., height, width] of mean 0 and variance 1; zeros for a constant image.

  Raises:
    TypeError: when the image does not hold floating-point numbers.
    ValueError: when ``cutoff`` is not positive, or the rank is below 2.

  Example:
    >>> image = jax.random.normal(jax.random.key(0), (32, 48)).cumsum(0).cumsum(1)
    >>> flat = whiten(image)
    >>> flat.shape, float(flat.std().round(3))
    ((32, 48), 1.0)

  Reference:
    Olshausen and Field, Sparse coding with an overcomplete basis set: a strategy employed by V1?,
    1997 (the filter); Rentzeperis, Calatroni, Perrinet and Prandi, Beyond l1 sparse coding in V1,
    2023 (f_0 = 0.4 of the height).
  """
  image = _checks.check_float_array("image", image)
  if image.ndim < 2:
    raise ValueError(f"image must have at least rank 2; got shape {image.shape}.")
  _checks.check_positive("cutoff", cutoff, scalar=True)
  height, width = image.shape[-2:]
  size = jnp.max(jnp.abs(image), axis=(-2, -1), keepdims=True)
  given, image = image.dtype, upcast(image)
  image = image / jnp.where(size > 0, size, 1).astype(image.dtype)  # squares stay in range
  centred = image - jnp.mean(image, axis=(-2, -1), keepdims=True)
  dtype = image.dtype
  fy = jnp.fft.fftfreq(height).astype(dtype)[:, None] * height
  fx = jnp.fft.rfftfreq(width).astype(dtype)[None, :] * height
  radius = jnp.sqrt(fy**2 + fx**2)
  gain = radius / height * jnp.exp(-((radius / (jnp.asarray(cutoff, dtype) * height)) ** 4))
  gain = gain.reshape((1,) * (image.ndim - 2) + gain.shape)  # for a stack of images
  filtered = jnp.fft.irfft2(jnp.fft.rfft2(centred) * gain, s=(height, width)).astype(dtype)
  # What is left of a constant image is rounding; it has no part in derivatives either.
  variance = jnp.mean(filtered**2, axis=(-2, -1), keepdims=True)  # the filter leaves no mean
  flat = variance <= jnp.finfo(dtype).eps ** 2
  scale = jnp.sqrt(jnp.where(flat, 1, variance))
  return jnp.where(flat, 0, filtered / scale).astype(given)


def random_patches(key: Array, image: ArrayLike, *, size: int, count: int) -> Array:
  r"""Square patches at random places of an image, each minus its own mean.

  Args:
    key: typed PRNG key.
    image: float[height, width].
    size: side of a patch in pixels, at most the image's sides.
    count: number of patches, drawn independently.

  Returns:
    float[count, size * size], a patch a row, its pixels row by row.

  Raises:
    TypeError: when ``key`` is no typed key or the image does not hold floating-point numbers.
    ValueError: when the image is smaller than a patch.

  Example:
    >>> random_patches(jax.random.key(0), jnp.ones((16, 16)), size=4, count=3).shape
    (3, 16)

  Reference:
    Olshausen and Field, Sparse coding with an overcomplete basis set: a strategy employed by V1?,
    1997.
  """
  key = _checks.check_key("key", key)
  image = _checks.check_float_array("image", image, rank=2)
  size = _checks.check_int("size", size, minimum=1)
  count = _checks.check_int("count", count, minimum=1)
  if size > min(image.shape):
    raise ValueError(f"size must be at most the image's sides, {image.shape}; got {size}.")
  corners = [
    jax.random.randint(part, (count,), 0, side - size + 1)
    for part, side in zip(jax.random.split(key), image.shape, strict=True)
  ]
  cut = jax.vmap(lambda top, left: jax.lax.dynamic_slice(image, (top, left), (size, size)).ravel())
  patches = cut(*corners)
  return patches - jnp.mean(patches, axis=1, keepdims=True)
