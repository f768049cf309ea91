"""How mixed a pixel is, and how far an unmixing is from the truth."""

import math
from typing import NamedTuple

import jax.numpy as jnp
import optax

from jaxopt_robust import _checks
from jaxopt_robust.numerics import divisor, safe_divide, safe_norm, upcast
from jaxopt_robust.recovery.unmixing.types import Unmixing
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["UnmixingErrors", "hoyer_sparseness", "spectral_angle", "unmixing_errors"]


def hoyer_sparseness(x: ArrayLike, *, axis: int = -1) -> Array:
  r"""Sparseness of Hoyer, (sqrt(K) - ||x||_1 / ||x||_2) / (sqrt(K) - 1) for vectors of length K.

  1 where one entry is not zero, 0 where all have the same magnitude.

  Args:
    x: float[...].
    axis: axis of a vector, static.

  Returns:
    float[...] without ``axis``; 0 for the vector 0, and for vectors of length 1.

  Raises:
    TypeError: ``x`` is not floating-point.
    ValueError: ``x`` has rank 0 or is empty.

  Note:
    The derivative is not defined where an entry is 0; that of the absolute value there, 0, is
    taken.

  Example:
    >>> hoyer_sparseness(jnp.array([[0.0, 2.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]]))
    Array([1., 0.], dtype=float32)

  Reference:
    Hoyer, Non-negative matrix factorization with sparseness constraints, 2004, section 3.1.
  """
  array = _checks.check_float_array("x", x, min_rank=1)
  wide = upcast(array)
  length = math.sqrt(array.shape[axis])
  norm = safe_norm(wide, axis=axis)
  # Each entry by the norm first: sums of entries of 1e38 would overflow.
  fits = divisor(norm) >= norm  # else the inverse of the norm is flushed to 0
  wide, by = (
    jnp.where(jnp.expand_dims(fits, axis), v, v / 4) for v in (wide, jnp.expand_dims(norm, axis))
  )
  relative = jnp.abs(wide) / jnp.where(by > 0, by, 1)
  ratio = jnp.where(norm == 0, length, jnp.sum(relative, axis=axis))
  if length == 1:
    return jnp.zeros_like(ratio).astype(array.dtype)
  return ((length - ratio) / (length - 1)).astype(array.dtype)


def spectral_angle(a: ArrayLike, b: ArrayLike, *, axis: int = 0) -> Array:
  r"""Angle between spectra in radians, arccos(<a, b> / (||a|| ||b||)), whatever their scales.

  Args:
    a: float[...].
    b: float[...] of the same shape.
    axis: axis of the channels, static.

  Returns:
    float[...] without ``axis``, in [0, pi]; pi / 2 where a spectrum is 0.

  Raises:
    TypeError: an argument is not floating-point.
    ValueError: the shapes differ, or have rank 0.

  Note:
    Computed as 2 atan2(||u - v||, ||u + v||) of the unit vectors, which is as exact at 0 and pi as
    elsewhere.

  Example:
    >>> spectral_angle(jnp.array([1.0, 0.0]), jnp.array([0.0, 3.0])).round(4)
    Array(1.5708, dtype=float32)

  Reference:
    Kruse et al., The spectral image processing system (SIPS), 1993; the formula: Kahan, How
    futile are mindless assessments of roundoff in floating-point computation?, 2006, section 12.
  """
  a = _checks.check_float_array("a", a, min_rank=1)
  b = _checks.check_float_array("b", b, min_rank=1)
  _checks.check_same_shape("a", a, "b", b)
  sizes = [jnp.expand_dims(safe_norm(upcast(v), axis=axis), axis) for v in (a, b)]
  u, v = (safe_divide(upcast(x), size) for x, size in zip((a, b), sizes, strict=True))
  angle = 2 * jnp.arctan2(safe_norm(u - v, axis=axis), safe_norm(u + v, axis=axis))
  is_zero = jnp.squeeze((sizes[0] == 0) | (sizes[1] == 0), axis)
  return jnp.where(is_zero, math.pi / 2, angle).astype(jnp.result_type(a, b))


class UnmixingErrors(NamedTuple):
  """How far an unmixing is from the truth.

  Attributes:
    angle: float scalar, mean spectral angle of matched spectra, in radians.
    rmse: float scalar, root mean squared difference of matched abundances, those found divided by
      their sum in each pixel.
    order: int32[K], material k of the truth is material order[k] of what was found.

  Example:
    >>> UnmixingErrors._fields
    ('angle', 'rmse', 'order')

  Reference:
    Keshava and Mustard, Spectral unmixing, 2002.
  """

  angle: Array
  rmse: Array
  order: Array


def unmixing_errors(
  found: Unmixing, truth: Unmixing, *, where: ArrayLike | None = None
) -> UnmixingErrors:
  r"""Spectral angle and abundance error of an unmixing after the best matching of materials.

  The order of the materials minimises the sum of the spectral angles (an assignment problem, solved
  exactly).

  Args:
    found: Unmixing of K materials; abundances are divided by their sum in each pixel first.
    truth: Unmixing of the same shapes, whose abundances sum to one.
    where: bool[channels], channels that count for the angles, such as those without outliers; None
      for all.

  Returns:
    ``UnmixingErrors``.

  Raises:
    TypeError: an argument is no ``Unmixing`` of floating-point arrays, or the mask not boolean.
    ValueError: the shapes do not fit.

  Example:
    >>> truth = jr.recovery.Unmixing(jnp.eye(3)[:, :2], jnp.array([[0.3], [0.7]]))
    >>> found = jr.recovery.Unmixing(2 * truth.spectra[:, ::-1], 3 * truth.abundances[::-1])
    >>> errors = unmixing_errors(found, truth)
    >>> bool(errors.angle < 1e-6), bool(errors.rmse < 1e-6), errors.order
    (True, True, Array([1, 0], dtype=int32))

  Reference:
    The metrics of Keshava and Mustard, Spectral unmixing, 2002; assignment: Kuhn, The Hungarian
    method for the assignment problem, 1955.
  """
  parts = []
  for name, value in (("found", found), ("truth", truth)):
    if not isinstance(value, Unmixing):
      raise TypeError(f"{name} must be an Unmixing; got {_checks.describe(value)}.")
    fields = zip(value._fields, value, strict=True)
    parts.append([_checks.check_float_array(f"{name}.{f}", part, rank=2) for f, part in fields])
  (spectra, abundances), (true_spectra, true_abundances) = parts
  _checks.check_same_shape("found.spectra", spectra, "truth.spectra", true_spectra)
  _checks.check_same_shape("found.abundances", abundances, "truth.abundances", true_abundances)
  if spectra.shape[1] != abundances.shape[0]:
    raise ValueError(
      f"found must have as many spectra as rows of abundances; got {spectra.shape} and "
      f"{abundances.shape}."
    )
  mask = _checks.check_mask("where", where, shape=spectra.shape[:1])
  if mask is not None:
    spectra, true_spectra = (jnp.where(mask[:, None], s, 0) for s in (spectra, true_spectra))
  count = spectra.shape[1]
  shape = (spectra.shape[0], count, count)
  angles = spectral_angle(
    jnp.broadcast_to(true_spectra[:, :, None], shape), jnp.broadcast_to(spectra[:, None, :], shape)
  )
  # The search must end for NaN too; it comes back in the mean.
  rows, columns = optax.assignment.hungarian_algorithm(jnp.where(jnp.isnan(angles), 4.0, angles))
  order = jnp.zeros(count, jnp.int32).at[rows].set(columns.astype(jnp.int32))
  matched = jnp.take_along_axis(angles, order[:, None], axis=1)
  shares = safe_divide(abundances, jnp.sum(abundances, axis=0, keepdims=True))
  rmse = jnp.sqrt(jnp.mean((shares[order] - true_abundances) ** 2))
  return UnmixingErrors(jnp.mean(matched), rmse, order)
