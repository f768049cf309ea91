"""Certified radii of mixtures of two classifiers, and the margins that decide them."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "alpha_for_margin",
  "margin_for_alpha",
  "mixed_radius_lipschitz",
  "mixed_radius_smoothing",
  "smoothed_lipschitz",
]

_ROUNDINGS = 4  # of the probabilities, by which radii are rounded down


def share_a_row(alpha: ArrayLike, shape: tuple[int, ...], dtype: Any) -> Array:
  """alpha, checked, one a row."""
  array = _checks.check_array("alpha", alpha)
  _checks.check_interval("alpha", alpha, 0, 1)
  if array.ndim and array.shape != shape:
    raise ValueError(f"alpha must be a scalar or have shape {shape}; got {array.shape}.")
  return jnp.broadcast_to(_or_nan(array.astype(dtype), (array >= 0) & (array <= 1)), shape)


def _or_nan(array: Array, is_good: Array) -> Array:
  """NaN where a traced number is out of range: no certificate comes of it."""
  return jnp.where(is_good, array, jnp.nan)


def alpha_for_margin(margin: ArrayLike) -> Array:
  r"""The least alpha at which a margin of h decides the mixture: alpha = 1 / (1 + margin).

  If h_y - h_k >= margin for all k != y on a set, the mixture predicts y on it, for any g.

  Args:
    margin: float[...] in [0, 1], difference of two probabilities; may be traced.

  Returns:
    float[...] alpha in [1/2, 1].

  Raises:
    ValueError: margin is not in [0, 1].
    TypeError: margin is no number.

  Example:
    >>> alpha_for_margin(0.25)
    Array(0.8, dtype=float32, weak_type=True)

  Reference:
    Bai, Anderson, Kim and Sojoudi, Improving the accuracy-robustness trade-off of classifiers via
    adaptive smoothing, 2024, the lemma on margins.
  """
  array = _checks.check_float_array("margin", margin)
  _checks.check_interval("margin", margin, 0, 1)
  return 1 / (1 + _or_nan(array, (array >= 0) & (array <= 1)))


def margin_for_alpha(alpha: ArrayLike) -> Array:
  r"""The margin of h that decides a mixture: margin = (1 - alpha) / alpha.

  Args:
    alpha: float[...] in [0, 1]; may be traced. Below 1/2 no margin of probabilities is enough.

  Returns:
    float[...] margin, more than 1 for alpha < 1/2 and inf for 0.

  Raises:
    ValueError: alpha is not in [0, 1].
    TypeError: alpha is no number.

  Example:
    >>> float(margin_for_alpha(0.8).round(4))
    0.25

  Reference:
    Bai, Anderson, Kim and Sojoudi, Improving the accuracy-robustness trade-off of classifiers via
    adaptive smoothing, 2024, the lemma on margins.
  """
  array = _checks.check_float_array("alpha", alpha)
  _checks.check_interval("alpha", alpha, 0, 1)
  array = _or_nan(array, (array >= 0) & (array <= 1))
  return numerics.safe_divide(1 - array, array, default=jnp.inf)


def smoothed_lipschitz(sigma: ArrayLike, *, constant: str = "sharp") -> Array:
  r"""Lipschitz constant, in the l_2 norm, of a function in [0, 1] smoothed by N(0, sigma^2 I).

  "sharp" is 1 / (sigma sqrt(2 pi)), which a half-space attains; "published" is sqrt(2 / (pi
  sigma^2)), twice as much, which the authors' code takes.

  Args:
    sigma: float[...] > 0, standard deviation of the noise; may be traced.
    constant: "sharp" or "published".

  Returns:
    float[...] constant, in units of probability per unit of x.

  Raises:
    ValueError: sigma is not > 0 or constant is unknown.
    TypeError: sigma is no number.

  Example:
    >>> round(float(smoothed_lipschitz(0.5)), 4)
    0.7979
    >>> round(float(smoothed_lipschitz(0.5, constant="published")), 4)
    1.5958

  Reference:
    Salman, Li, Razenshteyn, Zhang, Zhang, Bubeck and Yang, Provably robust deep learning via
    adversarially trained smoothed classifiers, 2019, lemma 1 (the published constant); sharp: the
    slope of Phi at 0.
  """
  array = _checks.check_float_array("sigma", sigma)
  _checks.check_positive("sigma", sigma)
  _arguments.check_option("constant", constant, ("sharp", "published"))
  factor = 1.0 if constant == "sharp" else 2.0
  array = _or_nan(array, array > 0)
  return factor / (array * jnp.sqrt(2 * jnp.pi).astype(array.dtype))


def mixed_radius_lipschitz(
  probabilities: ArrayLike, alpha: ArrayLike, lipschitz: ArrayLike
) -> Array:
  r"""Certified radius of a mixture whose robust part is Lipschitz.

  Computes min_{k != y} [alpha (h_y - h_k) + alpha - 1]_+ / (alpha (L_y + L_k)), y = argmax h: in a
  ball of this radius the mixture predicts y, for any g with values in [0, 1].

  Args:
    probabilities: float[..., classes] output of h at x, in [0, 1], at least two classes.
    alpha: in [0, 1], a scalar or float[...] one a row; may be traced.
    lipschitz: > 0, the L_k of h_k in the norm of the ball, a scalar or float[classes]; may be
      traced. For smoothed h in the l_2 norm: ``smoothed_lipschitz``.

  Returns:
    float[...] radius in the dtype of ``probabilities``, at least float32; 0 where nothing is
    certified, as for alpha <= 1/2 and ties; NaN where a traced number is out of range.

  Raises:
    ValueError: fewer than two classes, a number out of range, or shapes do not agree.
    TypeError: probabilities are not floating-point.

  Note:
    Rounded down by a few roundings of the probabilities. A certificate for estimated probabilities
    needs bounds: ``mixed_radius_smoothing``.

  Example:
    >>> h = jnp.array([0.1, 0.8, 0.1])
    >>> round(float(mixed_radius_lipschitz(h, 0.8, 1.0)), 3)
    0.225

  Reference:
    Bai, Anderson, Kim and Sojoudi, Improving the accuracy-robustness trade-off of classifiers via
    adaptive smoothing, 2024, theorem on Lipschitz h.
  """
  h = _probability("probabilities", probabilities, min_rank=1)
  classes = h.shape[-1]
  if classes < 2:
    raise ValueError(f"probabilities must have at least two classes; got shape {h.shape}.")
  slope = _checks.check_float_array("lipschitz", lipschitz)
  _checks.check_positive("lipschitz", lipschitz)
  if slope.shape not in ((), (classes,)):
    raise ValueError(f"lipschitz must be a scalar or have shape {(classes,)}; got {slope.shape}.")
  slope = jnp.broadcast_to(_or_nan(slope, slope > 0).astype(h.dtype), h.shape)
  weight = share_a_row(alpha, h.shape[:-1], h.dtype)[..., None]
  place = jnp.argmax(h, axis=-1, keepdims=True)
  lead = jnp.take_along_axis(h, place, axis=-1) - h - _ROUNDINGS * jnp.finfo(h.dtype).eps
  # Divided by alpha: a margin of 1 - 1 / alpha, which is -inf at 0.
  needed = numerics.safe_divide(1 - weight, weight, default=jnp.inf)
  radius = jax.nn.relu(lead - needed) / (jnp.take_along_axis(slope, place, axis=-1) + slope)
  is_label = jax.lax.broadcasted_iota(place.dtype, h.shape, h.ndim - 1) == place
  unknown = jnp.isnan(h + slope).any(axis=-1) | jnp.isnan(weight[..., 0])
  return jnp.where(unknown, jnp.nan, jnp.min(jnp.where(is_label, jnp.inf, radius), axis=-1))


def mixed_radius_smoothing(
  lower: ArrayLike, upper: ArrayLike, alpha: ArrayLike, *, sigma: ArrayLike
) -> Array:
  r"""Certified l_2 radius of a mixture whose robust part is smoothed by Gaussian noise.

  Computes sigma / 2 [ Phi^{-1}(alpha h_y) - Phi^{-1}(alpha h_2 + 1 - alpha) ]_+ with h the mean of
  a function with values in [0, 1] over N(0, sigma^2 I), y its largest entry and h_2 the next one.

  Args:
    lower: float[...] in [0, 1], h_y at x or a lower bound of it.
    upper: float[...] in [0, 1], h_2 at x or an upper bound of it, the same shape.
    alpha: in [0, 1], a scalar or float[...]; may be traced.
    sigma: > 0, standard deviation of the noise, a scalar; may be traced.

  Returns:
    float[...] radius, at least float32; 0 where nothing is certified, as for alpha <= 1/2; NaN
    where a traced number is out of range.

  Raises:
    ValueError: a number out of range or shapes that do not agree.
    TypeError: lower or upper are not floating-point.

  Note:
    From noise that was drawn take bounds that hold at once (each at half of the error), not
    estimates. alpha = 1 gives the usual radius for two classes. Neither this radius nor that of
    ``mixed_radius_lipschitz`` is the larger one always. Probabilities are moved by a few roundings,
    so that float32 claims no more than the formula; 1 against 0 has a finite radius.

  Example:
    >>> radius = mixed_radius_smoothing(jnp.array(0.9), jnp.array(0.1), 1.0, sigma=0.5)
    >>> round(float(radius), 3)
    0.641

  Reference:
    Bai, Anderson, Kim and Sojoudi, Improving the accuracy-robustness trade-off of classifiers via
    adaptive smoothing, 2024, theorem on randomized smoothing; Cohen, Rosenfeld and Kolter,
    Certified adversarial robustness via randomized smoothing, 2019, theorem 1.
  """
  first, second = _probability("lower", lower), _probability("upper", upper)
  _checks.check_same_shape("lower", first, "upper", second)
  dtype = jnp.promote_types(first.dtype, second.dtype)
  first, second = first.astype(dtype), second.astype(dtype)
  _checks.check_array("sigma", sigma, rank=0)
  _checks.check_positive("sigma", sigma)
  weight = share_a_row(alpha, first.shape, dtype)
  slack = jnp.asarray(_ROUNDINGS * jnp.finfo(dtype).eps, dtype)
  quantile = lambda p: jax.scipy.special.ndtri(jnp.clip(p, 0, 1))
  own = quantile(weight * first * (1 - slack))
  other = quantile(weight * second + (1 - weight) + slack)
  gap = jnp.where(own > -jnp.inf, own - other, jnp.where(jnp.isnan(own), own, 0))
  noise = jnp.asarray(sigma, dtype)
  return 0.5 * _or_nan(noise, noise > 0) * jax.nn.relu(gap)


def _probability(name: str, value: ArrayLike, *, min_rank: int = 0) -> Array:
  array = _checks.check_float_array(name, value, min_rank=min_rank)
  _checks.check_interval(name, value, 0, 1)
  wide = numerics.upcast(array)
  return jax.lax.stop_gradient(_or_nan(wide, (wide >= 0) & (wide <= 1)))
