"""What a method of spectral unmixing takes and returns, and the checks that all of them share."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust._units import root_of_unit
from jaxopt_robust.numerics import safe_norm, upcast
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["Unmixing", "UnmixingInfo", "UnmixingRecord", "UnmixingState"]


class Unmixing(NamedTuple):
  """A factorisation Y ~ M A of pixels into non-negative spectra and abundances.

  Attributes:
    spectra: float[channels, K], M, a column a material.
    abundances: float[K, pixels], A, how much of each material is in a pixel.

  Example:
    >>> Unmixing._fields
    ('spectra', 'abundances')

  Reference:
    Keshava and Mustard, Spectral unmixing, 2002 (the linear mixing model).
  """

  spectra: Array
  abundances: Array


class UnmixingState(NamedTuple):
  """State of the multiplicative updates.

  Attributes:
    params: Unmixing, the iterate.
    guidance: float[pixels], h in [0, 1): the exponents of the next step are p = 1 - h.
    loss: float scalar, the data term of the iterate.
    count: int32 scalar, steps done.

  Example:
    >>> UnmixingState._fields
    ('params', 'guidance', 'loss', 'count')

  Reference:
    Zhu, Wang, Fan, Meng and Pan, Effective spectral unmixing via robust representation and
    learning-based sparsity, 2014.
  """

  params: Unmixing
  guidance: Array
  loss: Array
  count: Array  # type: ignore[assignment]


class UnmixingInfo(NamedTuple):
  """Diagnostics of one step.

  Attributes:
    error: float scalar, the stopping quantity of ``robust_unmixing``.
    value: float scalar, the objective after the step, with the guidance map that the step used.
    previous: float scalar, the same objective before the step; never less than ``value``.

  Example:
    >>> UnmixingInfo._fields
    ('error', 'value', 'previous')

  Reference:
    Hunter and Lange, A tutorial on MM algorithms, 2004 (the descent property).
  """

  error: Array
  value: Array
  previous: Array


class UnmixingRecord(NamedTuple):
  """What a person wants to know of a finished unmixing.

  Attributes:
    residual: float scalar, ||Y - M A||_F / ||Y||_F.
    guidance: float[pixels], the guidance map h: towards 1 a pure pixel, 0 an even mixture.
    channel_weights: float[channels], mean_l ||Y_l|| / ||Y_l - M_l A||: small ones belong to
      channels that do not fit. At most 1000, that of a channel without residual.
    value: float scalar, the objective at the last step.
    steps: int32 scalar, steps taken.
    status: int32 scalar: 0 converged, 1 step limit, 2 a number was not finite (the factors are
      those of the last finite step), 3 stalled.

  Example:
    >>> UnmixingRecord._fields
    ('residual', 'guidance', 'channel_weights', 'value', 'steps', 'status')

  Reference:
    Zhu, Wang, Fan, Meng and Pan, Effective spectral unmixing via robust representation and
    learning-based sparsity, 2014 (guidance map; weights of channels).
  """

  residual: Array
  guidance: Array
  channel_weights: Array
  value: Array
  steps: Array
  status: Array


def check_pixels(pixels: ArrayLike, *, finite: bool = True) -> Array:
  """The data in float32 or wider; values are looked at where they are known."""
  array = upcast(_checks.check_float_array("pixels", pixels, rank=2))
  if finite:
    _checks.check_holds(
      jnp.isfinite(array).all(),
      "pixels must be finite; got NaN or infinite entries. Leave such channels or pixels out.",
    )
  return array


def check_count(num_spectra: Any, pixels: Array) -> int:
  """A number of materials that the data can have."""
  count = _checks.check_int("num_spectra", num_spectra, minimum=1)
  if count > min(pixels.shape):
    raise ValueError(
      f"num_spectra must be at most {min(pixels.shape)} for pixels of shape {pixels.shape} "
      f"(channels, pixels); got {count}."
    )
  return count


def check_factors(params: Any, pixels: Array, name: str = "params") -> Unmixing:
  """Factors that fit the data, in its dtype; those known to be negative are refused."""
  if not isinstance(params, Unmixing):
    raise TypeError(f"{name} must be an Unmixing; got {_checks.describe(params)}.")
  spectra, abundances = (
    _checks.check_float_array(f"{name}.{field}", part, rank=2)
    for field, part in zip(params._fields, params, strict=True)
  )
  if (spectra.shape[0], abundances.shape[1]) != pixels.shape or (
    spectra.shape[1] != abundances.shape[0]
  ):
    raise ValueError(
      f"{name} must have the shapes ({pixels.shape[0]}, K) and (K, {pixels.shape[1]}); got "
      f"{spectra.shape} and {abundances.shape}."
    )
  for field, part in (("spectra", spectra), ("abundances", abundances)):
    _checks.check_holds(~(part < 0).any(), f"{name}.{field} must be >= 0.")
  return Unmixing(spectra.astype(pixels.dtype), abundances.astype(pixels.dtype))


def unit_of(pixels: Array) -> Array:
  """A power of 4 of the size of the data, by which pixels and spectra are divided."""
  return root_of_unit(pixels) ** 2


def row_norms(matrix: Array) -> Array:
  """Euclidean norm of each channel, float[channels]."""
  return safe_norm(matrix, axis=1)
