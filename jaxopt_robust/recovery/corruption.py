"""Corruption of measurements: sparse gross errors, dense noise, replacement, sign flips."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.numerics import upcast
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "Corrupted",
  "bernoulli_outliers",
  "fixed_count_outliers",
  "gaussian_noise",
  "li_outliers",
  "mixed_noise",
  "replace_outliers",
  "scaledsm_outliers",
  "sign_flip_outliers",
]

_DISTRIBUTIONS = ("normal", "uniform", "cauchy", "laplace", "rademacher")


class Corrupted(NamedTuple):
  """Measurements after corruption, with what was done to them.

  Attributes:
    y: float[...], corrupted measurements, clean + ``s``.
    s: float[...], what was added. mean |s| is the l1 loss of the truth.
    mask: bool[...], true for gross errors; dense noise does not count.

  Example:
    >>> corrupted = bernoulli_outliers(jax.random.key(0), jnp.zeros(4), rate=1.0, scale=2.0)
    >>> bool(jnp.all(corrupted.y == corrupted.s)), int(corrupted.mask.sum())
    (True, 4)

  Reference:
    Ma and Fattahi, Global Convergence of Sub-gradient Method for Robust Matrix Recovery, 2023,
    section 1 (the noise models).
  """

  y: Array
  s: Array
  mask: Array


def _check(key: Array, y: ArrayLike, rate: ArrayLike = 0.0) -> Array:
  _checks.check_key("key", key)
  _checks.check_interval("rate", rate, 0.0, 1.0, scalar=True)
  return _checks.check_float_array("y", y, min_rank=1)


def _draw(key: Array, like: Array, distribution: str) -> Array:
  _arguments.check_option("distribution", distribution, _DISTRIBUTIONS)
  if distribution == "uniform":
    return jax.random.uniform(key, like.shape, like.dtype, -1.0, 1.0)
  sample = {
    "normal": jax.random.normal,
    "cauchy": jax.random.cauchy,
    "laplace": jax.random.laplace,
    "rademacher": jax.random.rademacher,
  }[distribution]
  return sample(key, like.shape, like.dtype)


def _fixed_count_mask(key: Array, y: Array, rate: ArrayLike) -> Array:
  """floor(rate * n) true entries; half a unit of rounding keeps 0.29 * 100 from being 28."""
  wide = upcast(y).dtype
  exact = jnp.asarray(rate, wide) * y.size
  count = jnp.floor(exact * (1 + 2 * jnp.finfo(wide).eps))
  order = jax.random.permutation(key, y.size).reshape(y.shape)
  return order < count.astype(order.dtype)


def _add(y: Array, values: Array, mask: Array) -> Corrupted:
  s = jnp.where(mask, values.astype(y.dtype), jnp.zeros_like(y))
  return Corrupted(y + s, s, mask)


def bernoulli_outliers(
  key: Array, y: ArrayLike, *, rate: ArrayLike, scale: ArrayLike, distribution: str = "normal"
) -> Corrupted:
  """Adds a gross error to each measurement independently with one probability.

  s_i = scale * D with probability ``rate``, else 0, with D from ``distribution``.

  Args:
    key: typed PRNG key.
    y: float[...], clean measurements, rank >= 1.
    rate: probability in [0, 1]; may be traced.
    scale: >= 0, size of the errors; may be traced.
    distribution: ``"normal"``, ``"uniform"`` on [-1, 1], ``"cauchy"``, ``"laplace"`` or
      ``"rademacher"``; static.

  Returns:
    Corrupted(y, s, mask), each of the shape of ``y``.

  Raises:
    TypeError: the key is not a typed key, or ``y`` is not floating-point.
    ValueError: the rate is outside [0, 1], the scale is negative, or the distribution is unknown.

  Example:
    >>> bernoulli_outliers(jax.random.key(0), jnp.ones(3), rate=0.0, scale=1.0).y
    Array([1., 1., 1.], dtype=float32)

  Reference:
    Ma and Fattahi, Global Convergence of Sub-gradient Method for Robust Matrix Recovery, 2023,
    section 1 (outlier noise).
  """
  y = _check(key, y, rate)
  _checks.check_non_negative("scale", scale, scalar=True)
  mask_key, value_key = jax.random.split(key)
  values = _draw(value_key, y, distribution) * jnp.asarray(scale, y.dtype)
  return _add(
    y,
    values,
    jax.random.bernoulli(mask_key, _checks.check_float_array("rate", rate, rank=0), y.shape),
  )


def fixed_count_outliers(
  key: Array, y: ArrayLike, *, rate: ArrayLike, scale: ArrayLike, distribution: str = "normal"
) -> Corrupted:
  """Adds a gross error to exactly floor(rate * n) measurements, at random positions.

  Args:
    key: typed PRNG key.
    y: float[...], clean measurements, n in all.
    rate: fraction in [0, 1]; may be traced.
    scale: >= 0, size of the errors; may be traced.
    distribution: as in ``bernoulli_outliers``; static.

  Returns:
    Corrupted(y, s, mask), each of the shape of ``y``.

  Raises:
    TypeError: the key is not a typed key, or ``y`` is not floating-point.
    ValueError: the rate is outside [0, 1], the scale is negative, or the distribution is unknown.

  Example:
    >>> int(fixed_count_outliers(jax.random.key(0), jnp.ones(100), rate=0.29, scale=1.0).mask.sum())
    29

  Reference:
    Li, Zhu, So and Vidal, Nonconvex Robust Low-rank Matrix Recovery, 2020, section 5 (recalled, not
    verified).
  """
  y = _check(key, y, rate)
  _checks.check_non_negative("scale", scale, scalar=True)
  mask_key, value_key = jax.random.split(key)
  values = _draw(value_key, y, distribution) * jnp.asarray(scale, y.dtype)
  return _add(y, values, _fixed_count_mask(mask_key, y, rate))


def scaledsm_outliers(key: Array, y: ArrayLike, *, rate: ArrayLike) -> Corrupted:
  """Adds errors of ten times the largest measurement: s_i = 10 ||y||_inf U(-1, 1).

  Args:
    key: typed PRNG key.
    y: float[...], clean measurements.
    rate: probability in [0, 1] of an error, independently for each measurement; may be traced.

  Returns:
    Corrupted(y, s, mask), each of the shape of ``y``.

  Raises:
    TypeError: the key is not a typed key, or ``y`` is not floating-point.
    ValueError: the rate is outside [0, 1], or ``y`` is known not to be finite.

  Example:
    >>> corrupted = scaledsm_outliers(jax.random.key(0), jnp.ones(50), rate=0.5)
    >>> bool(jnp.max(jnp.abs(corrupted.s)) <= 10)
    True

  Reference:
    Tong, Ma and Chi, Low-Rank Matrix Recovery with Scaled Subgradient Methods, 2021, section 4 (the
    constant follows the authors' code).
  """
  y = _check(key, y, rate)
  ten_times = 10.0  # the authors' constant
  largest = jnp.max(jnp.abs(y))
  _checks.check_holds(jnp.isfinite(largest), "y must be finite: its largest entry sets the scale.")
  return bernoulli_outliers(key, y, rate=rate, scale=ten_times * largest, distribution="uniform")


def li_outliers(key: Array, y: ArrayLike, *, rate: ArrayLike) -> Corrupted:
  """Adds s_i = 10 N(0, 1) to exactly floor(rate * n) measurements.

  Args:
    key: typed PRNG key.
    y: float[...], clean measurements, n in all.
    rate: fraction in [0, 1]; may be traced.

  Returns:
    Corrupted(y, s, mask), each of the shape of ``y``.

  Raises:
    TypeError: the key is not a typed key, or ``y`` is not floating-point.
    ValueError: the rate is outside [0, 1].

  Example:
    >>> int(li_outliers(jax.random.key(0), jnp.ones(10), rate=0.3).mask.sum())
    3

  Reference:
    Li, Zhu, So and Vidal, Nonconvex Robust Low-rank Matrix Recovery, 2020 (the constant follows the
    authors' code).
  """
  standard_deviation = 10.0  # the authors' constant
  return fixed_count_outliers(key, y, rate=rate, scale=standard_deviation)


def replace_outliers(
  key: Array, y: ArrayLike, *, rate: ArrayLike, scale: ArrayLike, distribution: str = "normal"
) -> Corrupted:
  """Replaces measurements, instead of adding to them: y_i <- scale * D on a random support.

  Args:
    key: typed PRNG key.
    y: float[...], clean measurements.
    rate: probability in [0, 1], independently for each measurement; may be traced.
    scale: >= 0, size of the new values; may be traced.
    distribution: as in ``bernoulli_outliers``; static.

  Returns:
    Corrupted(y, s, mask), each of the shape of ``y``; ``s`` is new minus old value.

  Raises:
    TypeError: the key is not a typed key, or ``y`` is not floating-point.
    ValueError: the rate is outside [0, 1], the scale is negative, or the distribution is unknown.

  Example:
    >>> replaced = replace_outliers(jax.random.key(0), jnp.ones(3), rate=1.0, scale=0.0)
    >>> bool(jnp.all(replaced.y == 0))
    True

  Reference:
    Huber, Robust estimation of a location parameter, 1964 (the gross-error model).
  """
  y = _check(key, y, rate)
  _checks.check_non_negative("scale", scale, scalar=True)
  mask_key, value_key = jax.random.split(key)
  values = _draw(value_key, y, distribution) * jnp.asarray(scale, y.dtype)
  mask = jax.random.bernoulli(mask_key, _checks.check_float_array("rate", rate, rank=0), y.shape)
  replaced = jnp.where(mask, values, y)
  return Corrupted(replaced, jnp.where(mask, values - y, jnp.zeros_like(y)), mask)


def sign_flip_outliers(key: Array, y: ArrayLike, *, rate: ArrayLike) -> Corrupted:
  """Flips the sign of measurements: y_i <- -y_i on a random support.

  Args:
    key: typed PRNG key.
    y: float[...], clean measurements.
    rate: probability in [0, 1], independently for each measurement; may be traced.

  Returns:
    Corrupted(y, s, mask), each of the shape of ``y``; s_i = -2 y_i where flipped.

  Raises:
    TypeError: the key is not a typed key, or ``y`` is not floating-point.
    ValueError: the rate is outside [0, 1].

  Example:
    >>> sign_flip_outliers(jax.random.key(0), jnp.ones(3), rate=1.0).y
    Array([-1., -1., -1.], dtype=float32)

  Reference:
    Huber, Robust estimation of a location parameter, 1964 (the gross-error model).
  """
  y = _check(key, y, rate)
  mask = jax.random.bernoulli(key, _checks.check_float_array("rate", rate, rank=0), y.shape)
  return Corrupted(jnp.where(mask, -y, y), jnp.where(mask, -2 * y, jnp.zeros_like(y)), mask)


def gaussian_noise(key: Array, y: ArrayLike, *, scale: ArrayLike) -> Corrupted:
  """Adds dense noise: s_i = N(0, scale^2).

  Args:
    key: typed PRNG key.
    y: float[...], clean measurements.
    scale: >= 0, standard deviation; may be traced.

  Returns:
    Corrupted(y, s, mask), each of the shape of ``y``; the mask of gross errors is all false.

  Raises:
    TypeError: the key is not a typed key, or ``y`` is not floating-point.
    ValueError: the scale is negative.

  Example:
    >>> gaussian_noise(jax.random.key(0), jnp.ones(2), scale=0.0).y
    Array([1., 1.], dtype=float32)

  Reference:
    Ma and Fattahi, Global Convergence of Sub-gradient Method for Robust Matrix Recovery, 2023,
    section 1 (Gaussian noise).
  """
  y = _check(key, y)
  _checks.check_non_negative("scale", scale, scalar=True)
  s = jnp.asarray(scale, y.dtype) * jax.random.normal(key, y.shape, y.dtype)
  return Corrupted(y + s, s, jnp.zeros(y.shape, jnp.bool_))


def mixed_noise(
  key: Array,
  y: ArrayLike,
  *,
  noise_scale: ArrayLike,
  rate: ArrayLike,
  scale: ArrayLike,
  distribution: str = "normal",
) -> Corrupted:
  """Adds dense Gaussian noise to all measurements and a gross error to some.

  Args:
    key: typed PRNG key.
    y: float[...], clean measurements.
    noise_scale: >= 0, standard deviation of the dense noise; may be traced.
    rate: probability in [0, 1] of a gross error; may be traced.
    scale: >= 0, size of the gross errors; may be traced.
    distribution: of the gross errors, as in ``bernoulli_outliers``; static.

  Returns:
    Corrupted(y, s, mask), each of the shape of ``y``; ``mask`` marks the gross errors.

  Raises:
    TypeError: the key is not a typed key, or ``y`` is not floating-point.
    ValueError: a scale is negative, the rate is outside [0, 1], or the distribution is unknown.

  Example:
    >>> noisy = mixed_noise(jax.random.key(0), jnp.ones(3), noise_scale=0.1, rate=0.0, scale=9.0)
    >>> bool(noisy.mask.any())
    False

  Reference:
    Ma and Fattahi, Global Convergence of Sub-gradient Method for Robust Matrix Recovery, 2023,
    section 1 (both noise models together).
  """
  _checks.check_key("key", key)
  _checks.check_non_negative("noise_scale", noise_scale, scalar=True)
  dense_key, sparse_key = jax.random.split(key)
  dense = gaussian_noise(dense_key, y, scale=noise_scale)
  gross = bernoulli_outliers(sparse_key, dense.y, rate=rate, scale=scale, distribution=distribution)
  return Corrupted(gross.y, dense.s + gross.s, gross.mask)
