"""A normal distribution over designs, which some searches move instead of designs themselves."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["GaussianDesigns", "design_log_prob", "fit_gaussian_designs", "sample_designs"]

_LOG_ROOT_TWO_PI = 0.5 * math.log(2 * math.pi)


class GaussianDesigns(NamedTuple):
  """A normal distribution over designs whose entries are independent.

  Attributes:
    mean: float[...] of one design's shape.
    log_std: float[...] of the same shape, logarithms of the standard deviations.
  """

  mean: Array
  log_std: Array


def fit_gaussian_designs(
  x: ArrayLike, *, min_std: ArrayLike, log_weights: ArrayLike | None = None
) -> GaussianDesigns:
  r"""The normal distribution of independent entries that weighted designs have most likely.

  Computes mean = sum_i w_i x_i and std = max(min_std, sqrt(sum_i w_i (x_i - mean)^2)) entry by
  entry, with w = softmax(log_weights), which maximises sum_i w_i log p(x_i) where no std is raised.

  Args:
    x: float[n, ...], designs.
    min_std: > 0, least standard deviation, a scalar or of one design's shape; may be traced.
    log_weights: float[n], logarithms of weights up to a common factor; -inf leaves a design out.
      None weighs all alike.

  Returns:
    GaussianDesigns of the dtype of ``x``. Where all weights are 0 they count alike.

  Raises:
    ValueError: x is empty or has rank 0, shapes do not agree, or min_std <= 0.
    TypeError: an array is not floating-point.

  Example:
    >>> x = jnp.array([[0.0, 5.0], [2.0, 5.0], [9.0, 9.0]])
    >>> found = fit_gaussian_designs(x, min_std=0.1, log_weights=jnp.array([0.0, 0.0, -jnp.inf]))
    >>> found.mean, jnp.exp(found.log_std).round(3)
    (Array([1., 5.], dtype=float32), Array([1. , 0.1], dtype=float32))

  Reference:
    Rubinstein, The cross-entropy method for combinatorial and continuous optimization, 1999 (the
    weighted maximum likelihood of a normal distribution).
  """
  designs = _checks.check_float_array("x", x, min_rank=1)
  _checks.check_positive("min_std", min_std)
  least = _checks.check_float_array("min_std", min_std)
  if least.shape not in ((), designs.shape[1:]):
    raise ValueError(
      f"min_std must be a scalar or of one design's shape {designs.shape[1:]}; got {least.shape}."
    )
  wide = numerics.upcast(designs)
  logits = jnp.zeros(len(wide), wide.dtype)
  if log_weights is not None:
    logits = _checks.check_float_array("log_weights", log_weights, rank=1).astype(wide.dtype)
    if logits.shape != designs.shape[:1]:
      raise ValueError(f"log_weights must have shape {designs.shape[:1]}; got {logits.shape}.")
    logits = jnp.where(jnp.all(logits == -jnp.inf), 0, logits)
  weights = jax.nn.softmax(logits)
  rows = jnp.reshape(weights, (-1,) + (1,) * (wide.ndim - 1))
  kept = jnp.where(rows > 0, wide, 0)  # what is left out may be infinite
  mean = jnp.sum(rows * kept, axis=0)
  # A norm of any scale: squares of small designs would vanish.
  roots = jnp.sqrt(jnp.where(rows > 0, rows, 1))  # whose slope at 0 is infinite
  std = numerics.safe_norm(roots * jnp.where(rows > 0, wide - mean[None], 0), axis=0)
  log_std = jnp.log(jnp.maximum(std, least.astype(wide.dtype)))
  return GaussianDesigns(mean.astype(designs.dtype), log_std.astype(designs.dtype))


def sample_designs(key: Array, designs: GaussianDesigns, *, num: int) -> Array:
  r"""Designs drawn from a normal distribution of independent entries.

  Returns mean + exp(log_std) z with z of independent standard normal entries.

  Args:
    key: typed PRNG key.
    designs: GaussianDesigns of arrays of shape [...].
    num: static integer >= 1.

  Returns:
    float[num, ...] of the dtype of the mean, differentiable in the distribution.

  Raises:
    ValueError: arrays of other shapes, or num < 1.
    TypeError: no typed key, no GaussianDesigns, or num is no integer.

  Example:
    >>> found = sample_designs(
    ...   jax.random.key(0), GaussianDesigns(jnp.zeros(3), jnp.zeros(3)), num=2)
    >>> found.shape
    (2, 3)

  Reference:
    The standard construction of normal variates from standard ones.
  """
  key = _checks.check_key("key", key)
  mean, log_std = check_designs("designs", designs)
  num = _checks.check_int("num", num, minimum=1)
  noise = jax.random.normal(key, (num, *mean.shape), mean.dtype)
  return mean[None] + jnp.exp(log_std)[None] * noise


def design_log_prob(designs: GaussianDesigns, x: ArrayLike) -> Array:
  r"""Logarithm of the density of designs under a normal distribution of independent entries.

  Computes -sum_j [ (x_ij - mean_j)^2 / (2 exp(2 log_std_j)) + log_std_j + log(2 pi) / 2 ].

  Args:
    designs: GaussianDesigns of arrays of shape [...].
    x: float[n, ...].

  Returns:
    float[n], at least float32, differentiable in both arguments.

  Raises:
    ValueError: arrays of other shapes.
    TypeError: no GaussianDesigns, or x is not floating-point.

  Example:
    >>> standard = GaussianDesigns(jnp.zeros(1), jnp.zeros(1))
    >>> design_log_prob(standard, jnp.array([[0.0], [1.0]])).round(3)
    Array([-0.919, -1.419], dtype=float32)

  Reference:
    The density of the normal distribution.
  """
  mean, log_std = check_designs("designs", designs)
  points = _checks.check_float_array("x", x, min_rank=1)
  if points.shape[1:] != mean.shape:
    raise ValueError(f"x must have shape [n, *{mean.shape}]; got {points.shape}.")
  wide, center, spread = (numerics.upcast(v) for v in (points, mean, log_std))
  scaled = (wide - center[None]) * jnp.exp(-spread)[None]
  entries = 0.5 * scaled**2 + spread[None] + _LOG_ROOT_TWO_PI
  return -jnp.sum(entries, axis=tuple(range(1, entries.ndim)))


def check_designs(name: str, designs: GaussianDesigns) -> GaussianDesigns:
  """A GaussianDesigns of two real arrays of one shape and dtype."""
  given = _arguments.check_state(name, designs, GaussianDesigns)
  with _arguments.within(name):
    mean = _checks.check_float_array("mean", given.mean)
    log_std = _checks.check_float_array("log_std", given.log_std)
    _checks.check_same_shape("log_std", log_std, "mean", mean)
  return GaussianDesigns(mean, log_std.astype(mean.dtype))
