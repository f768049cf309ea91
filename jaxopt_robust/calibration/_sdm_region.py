"""The region of high probability, bands of distribution functions, and spreads over rounds."""

import math

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.calibration.sdm_activation import ClassEcdf, count_below
from jaxopt_robust.typing import Array, ArrayLike


def dkw_epsilon(count: ArrayLike, *, level: ArrayLike = 0.95) -> Array:
  r"""Half width of the band around an empirical distribution function that holds the true one.

  Computes sqrt(ln(2 / (1 - level)) / (2 n)), and 1 where n = 0.

  Args:
    count: int[...] n >= 0, sample sizes.
    level: in (0, 1), the probability with which the whole true function lies in the band; a scalar;
      may be traced.

  Returns:
    float[...] in [0, 1] of the dtype of ``level``, at least float32; rounded up.

  Raises:
    ValueError: a known count is negative or level is not in (0, 1).
    TypeError: count is not of integers.

  Example:
    >>> dkw_epsilon(350, level=0.95).round(4)
    Array(0.0726, dtype=float32)

  Reference:
    Massart, The tight constant in the Dvoretzky-Kiefer-Wolfowitz inequality, 1990.
  """
  n = _checks.check_integers("count", count, low=0)
  _checks.check_interval("level", level, 0, 1, closed="neither", scalar=True)
  dtype = jnp.promote_types(jnp.result_type(level, float), jnp.float32)
  if jnp.result_type(level) == jnp.float64:
    dtype = jnp.dtype(jnp.float64)
  # A known level keeps its digits: 1 - 0.999999 is off by a hundredth in float32.
  rest = jnp.asarray(1 - (jnp.asarray(level, dtype) if _checks.is_jax(level) else level), dtype)
  size = jnp.maximum(n, 1).astype(dtype)
  width = jnp.sqrt(jnp.log(2 / rest) / (2 * size)) * (1 + 8 * jnp.finfo(dtype).eps)
  return jnp.where(n > 0, jnp.minimum(width, 1), 1)


def support(similarities: ClassEcdf, effective: Array) -> Array:
  """Held-out examples of each class with a smaller rescaled similarity, int32[n, classes]; never
  all of them."""
  wide = jnp.broadcast_to(effective[:, None], (len(effective), len(similarities.counts)))
  most = jnp.maximum(similarities.counts - 1, 0)
  return jnp.minimum(count_below(similarities, wide), most[None])


def high_probability_region(
  effective: Array, probabilities: Array, labels: Array, level: Array
) -> tuple[Array, Array]:
  """The least rescaled similarity, at least 1, above which every class has at most a share
  1 - level of probabilities below a threshold of at least the level, and those thresholds; inf
  where there is none."""
  num, classes = probabilities.shape
  member = labels[None, :] == jnp.arange(classes)[:, None]
  # The examples of each class by their own probability: then every candidate is one running count.
  orders = jnp.argsort(jnp.where(member, probabilities.T, jnp.inf), axis=1)

  def of_class(keep: Array, order: Array, inside: Array, column: Array) -> Array:
    kept = (keep & inside)[order]
    total = jnp.sum(kept)
    rank = jnp.minimum(jnp.floor((1 - level) * total).astype(jnp.int32), total - 1)
    at = jnp.searchsorted(jnp.cumsum(kept), rank + 1, side="left")
    return jnp.where(total > 0, column[order[jnp.minimum(at, num - 1)]], 0)

  def of_candidate(least: Array) -> Array:
    keep = effective >= least
    return jax.vmap(of_class, in_axes=(None, 0, 0, 0))(keep, orders, member, probabilities.T)

  candidates = jnp.sort(effective)
  found = jax.lax.map(of_candidate, candidates)
  good = jnp.all(found >= level, axis=1) & (jnp.floor(candidates) > 0)
  first = jnp.argmax(good)
  none = ~jnp.any(good)
  return jnp.where(none, jnp.inf, candidates[first]), jnp.where(none, jnp.inf, found[first])


def num_bins(limit: int) -> int:
  """Whole parts that a rescaled similarity can have."""
  return int(math.log(2 + limit)) + 1


def median(values: Array, where: Array) -> Array:
  """The median along the first axis of what is kept; NaN where nothing is."""
  count = jnp.sum(where, axis=0)
  ordered = jnp.sort(jnp.where(where, values, jnp.inf), axis=0)
  pick = lambda at: jnp.take_along_axis(ordered, at[None], axis=0)[0]
  low, high = pick(jnp.maximum(count - 1, 0) // 2), pick(jnp.minimum(count // 2, len(values) - 1))
  return jnp.where(count > 0, 0.5 * (low + high), jnp.nan)


def medians_by_bin(own: Array, label: Array, effective: Array, classes: int, bins: int) -> Array:
  """Median probability by predicted class and whole part of the rescaled similarity; NaN where
  there is no example, float[classes, bins]."""
  place = jnp.clip(jnp.floor(effective), 0, bins - 1).astype(jnp.int32)
  at = lambda k, b: median(own, (label == k) & (place == b))
  return jax.vmap(lambda k: jax.vmap(lambda b: at(k, b))(jnp.arange(bins)))(jnp.arange(classes))


def deviation(values: Array) -> Array:
  """Median absolute deviation from the median along the first axis (rounds), unscaled. NaN is left
  out, and gives 0 alone; inf where more than half are inf."""
  there = ~jnp.isnan(values)
  center = median(values, there)
  apart = jnp.where(values == center[None], 0, jnp.abs(values - center[None]))
  found = jnp.where(jnp.isinf(center), jnp.inf, median(apart, there))
  return jnp.where(jnp.any(there, axis=0), found, 0)
