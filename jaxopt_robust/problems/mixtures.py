"""Spectral images with planted materials: smooth abundances, noise and outlier channels."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_robust import _checks
from jaxopt_robust.problems.types import Problem
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["MixtureTruth", "make_spectral_mixture"]


class MixtureTruth(NamedTuple):
  """What the pixels were made of.

  Attributes:
    spectra: float[channels, K], M.
    abundances: float[K, pixels], A >= 0, whose columns sum to one.
    corruption: float[channels, pixels], what was added to M A.
    outliers: bool[channels], which channels are corrupted grossly.

  Example:
    >>> MixtureTruth._fields
    ('spectra', 'abundances', 'corruption', 'outliers')

  Reference:
    Keshava and Mustard, Spectral unmixing, 2002 (the linear mixing model).
  """

  spectra: Array
  abundances: Array
  corruption: Array
  outliers: Array


def _mean_norm(params: Any, pixels: Array) -> Array:
  spectra, abundances = params
  residual = pixels - jnp.matmul(spectra, abundances, precision="highest")
  return jnp.mean(jnp.sqrt(jnp.mean(residual**2, axis=1)))


def _bumps(key: Array, channels: int, count: int, dtype: Any) -> Array:
  """Spectra of .15 plus three bumps each, at most 1."""
  keys = jax.random.split(key, 3)
  draw = lambda k, low, high: jax.random.uniform(k, (1, 3, count), dtype, low, high)
  place, width, height = draw(keys[0], 0, 1), draw(keys[1], 0.05, 0.2), draw(keys[2], 0.2, 0.6)
  grid = jnp.linspace(0, 1, channels, dtype=dtype)[:, None, None]
  return jnp.clip(0.15 + jnp.sum(height * jnp.exp(-0.5 * ((grid - place) / width) ** 2), 1), 0, 1)


def _smooth_fields(key: Array, count: int, side: int, smoothness: Array, dtype: Any) -> Array:
  """Periodic Gaussian fields with variance 1 over the pixels, float[count, side, side]."""
  white = jax.random.normal(key, (count, side, side), dtype)
  square = jnp.asarray((np.fft.fftfreq(side) * 2 * np.pi) ** 2, dtype)
  blur = jnp.exp(-0.5 * smoothness**2 * (square[:, None] + square[None, :]))[None]
  fields = jnp.fft.ifft2(jnp.fft.fft2(white) * blur).real.astype(dtype)
  fields = fields - jnp.mean(fields, axis=(1, 2), keepdims=True)
  size = jnp.sqrt(jnp.mean(fields**2, axis=(1, 2), keepdims=True))
  return fields / jnp.where(size > 0, size, 1)


def make_spectral_mixture(
  key: Array,
  spectra: ArrayLike | None = None,
  *,
  num_channels: int = 120,
  num_spectra: int = 4,
  side: int = 32,
  sharpness: tuple[ArrayLike, ArrayLike] = (6.0, 1.5),
  smoothness: ArrayLike = 4.0,
  snr_db: ArrayLike = 30.0,
  outlier_rate: ArrayLike = 0.0,
  outlier_scale: ArrayLike = 1.0,
  dtype: Any = None,
) -> Problem:
  r"""Makes a spectral image Y = M A + E whose left half is nearly pure and whose right half mixed.

  Abundances are softmax(c f) of smooth Gaussian fields f, with c one number in the left half of the
  image and another in the right one. E is white noise of the given ratio of mean squares, plus
  outlier_scale |N(0, 1)| in every pixel of a random share of the channels. The objective is the
  mean over the channels of the root mean squared residual, for a pair (M, A).

  Args:
    key: typed PRNG key.
    spectra: float[channels, K], M; None draws spectra of .15 plus three Gaussian bumps, at most 1.
    num_channels: channels of drawn spectra, >= 1, static.
    num_spectra: K of drawn spectra, >= 1, static.
    side: rows and columns of the image, >= 1, static; pixels are its rows one after another.
    sharpness: c of the left and of the right half; may be traced.
    smoothness: >= 0, standard deviation in pixels of the (periodic) blur of f; may be traced.
    snr_db: ratio of signal to noise in decibels, inf for no noise; may be traced.
    outlier_rate: in [0, 1], share of channels, rounded to a whole number of them; may be traced.
    outlier_scale: >= 0, in the units of the spectra; may be traced.
    dtype: floating-point dtype of drawn spectra; the default float by default.

  Returns:
    Problem with data ``(pixels: float[channels, side^2],)`` and truth ``MixtureTruth``. ``optimum``
    is None: noise can be fitted too.

  Raises:
    TypeError: the key is not a typed key, a size is not an integer, or numbers are of wrong dtype.
    ValueError: a size or a number is out of range.

  Example:
    >>> problem = make_spectral_mixture(jax.random.key(0), side=8, num_spectra=3)
    >>> problem.data[0].shape, bool(jnp.allclose(problem.truth.abundances.sum(0), 1.0))
    ((120, 64), True)

  Reference:
    The linear mixing model of Keshava and Mustard, Spectral unmixing, 2002; the recipe is ours.
  """
  _checks.check_key("key", key)
  side = _checks.check_int("side", side, minimum=1)
  channels = _checks.check_int("num_channels", num_channels, minimum=1)
  count = _checks.check_int("num_spectra", num_spectra, minimum=1)
  if not isinstance(sharpness, tuple | list) or len(sharpness) != 2:
    raise ValueError(f"sharpness must be a pair (left, right); got {sharpness!r:.60}.")
  for name, value in (("smoothness", smoothness), ("outlier_scale", outlier_scale)):
    _checks.check_non_negative(name, value, scalar=True)
  _checks.check_interval("outlier_rate", outlier_rate, 0.0, 1.0, scalar=True)
  scalar_type = _checks.check_float_dtype(dtype, wide=True)
  snr = _checks.check_float_array("snr_db", snr_db, rank=0).astype(scalar_type)
  names = ("spectra", "fields", "noise", "channels", "outliers")
  keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))
  if spectra is None:
    matrix = _bumps(keys["spectra"], channels, count, scalar_type)
  else:
    matrix = _checks.check_float_array("spectra", spectra, rank=2)
    scalar_type = jnp.promote_types(matrix.dtype, jnp.float32)
    channels, count = matrix.shape
  width = jnp.asarray(smoothness, scalar_type)
  fields = _smooth_fields(keys["fields"], count, side, width, scalar_type)
  left, right = (jnp.asarray(c, scalar_type) for c in sharpness)
  factor = jnp.where(jnp.arange(side) < (side + 1) // 2, left, right)
  abundances = jax.nn.softmax(factor[None, None, :] * fields, axis=0).reshape(count, -1)
  clean = jnp.matmul(matrix.astype(scalar_type), abundances, precision="highest")
  size = jnp.sqrt(jnp.mean(clean**2)) * 10 ** (-snr / 20)
  noise = size * jax.random.normal(keys["noise"], clean.shape, scalar_type)
  order = jax.random.permutation(keys["channels"], channels)
  outliers = order < jnp.round(jnp.asarray(outlier_rate, scalar_type) * channels)
  gross = jnp.abs(jax.random.normal(keys["outliers"], clean.shape, scalar_type))
  gross = jnp.where(outliers[:, None], jnp.asarray(outlier_scale, scalar_type) * gross, 0)
  corruption = noise + gross
  return Problem(
    data=(clean + corruption,),
    truth=MixtureTruth(matrix, abundances, corruption, outliers),
    objective=_mean_norm,
    optimum=None,
  )
