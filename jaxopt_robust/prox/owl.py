"""The sorted l1 norm (OWL, SLOPE) and OSCAR."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust._chain import block_mean, chain_blocks
from jaxopt_robust.numerics import upcast
from jaxopt_robust.prox._lines import check_blocks_of, over_blocks, scalar_strength
from jaxopt_robust.typing import Array, ArrayLike, Penalty

__all__ = ["oscar", "owl", "penalty_oscar", "penalty_owl", "prox_oscar", "prox_owl"]


def _weights(value: Any, like: Array) -> Array:
  """Non-increasing weights >= 0, one an entry of a line; NaN where traced ones are not."""
  if value is None:
    value = 1.0
  _checks.check_non_negative("the weights", value)
  weights = jnp.asarray(value, like.dtype)
  n = like.shape[-1]
  if weights.shape not in ((), (n,)):
    raise ValueError(f"the weights must be a scalar or have shape ({n},); got {weights.shape}.")
  _checks.check_non_increasing("the weights", value)
  weights = jnp.broadcast_to(weights, (n,))
  good = jnp.all(weights >= 0) & jnp.all(weights[1:] <= weights[:-1])
  return jnp.where(good, weights, jnp.nan)


def _oscar_weights(hyperparams: Any, like: Array) -> Array:
  l1reg, pairwise = _arguments.parts(hyperparams, "l1reg", "pairwise", example=(1.0, 1.0))
  l1reg = scalar_strength("l1reg of hyperparams", l1reg, like)
  pairwise = scalar_strength("pairwise of hyperparams", pairwise, like)
  # A negative traced strength must not be hidden by the other one.
  bad = (l1reg < 0) | (pairwise < 0)
  n = like.shape[-1]
  weights = l1reg + pairwise * jnp.arange(n - 1, -1, -1).astype(like.dtype)
  return jnp.where(bad, jnp.nan, weights)


@jax.jit
def _prox_line(v: Array, weights: Array) -> Array:
  size = jnp.abs(v)
  order = jnp.argsort(-size)  # stable: of equal entries the first one gets the larger weight
  reduced = size[order] - weights
  # The non-increasing sequence nearest to the reduced sizes.
  blocks = chain_blocks(reduced, None, jnp.inf, 0.0)
  pooled = jax.nn.relu(block_mean(reduced, blocks))
  out = jnp.sign(v) * jnp.zeros_like(v).at[order].set(pooled, unique_indices=True)
  return jnp.where(jnp.all(jnp.isfinite(reduced)), out, jnp.nan)


def _value(x: Array, weights: Array) -> Array:
  falling = -jnp.sort(-jnp.abs(x), axis=-1)
  return jnp.sum(falling @ weights)


def prox_owl(x: ArrayLike, weights: Any = 1.0, scaling: ArrayLike = 1.0) -> Array:
  r"""Proximal operator of the sorted l1 norm (ordered weighted l1, OWL; SLOPE).

  Solves argmin_y 1/2 ||y - x||_2^2 + scaling * sum_i w_i |y|_(i) along the last axis, where
  |y|_(1) >= |y|_(2) >= ... are the sorted sizes and w = weights: the sorted sizes of x less the
  weights are made non-increasing and non-negative.

  Args:
    x: float[..., n]; leading axes are so many vectors.
    weights: w_1 >= w_2 >= ... >= w_n >= 0, float[n], or a scalar for equal ones; may be traced.
      None means 1. Equal weights give the l1 norm, (w, 0, ..., 0) gives w times the largest size.
    scaling: >= 0, the step size; may be traced.

  Returns:
    float[..., n] of the dtype of ``x``.

  Raises:
    TypeError: when ``x`` is not a floating-point array.
    ValueError: when ``x`` has rank 0, the weights have another length, are negative or increase
      somewhere, or the scaling is negative or not a scalar.

  Note:
    The derivative along x is the mean over each block of entries of equal size, with their signs;
    along the weights it is minus this mean. At ties, at the threshold and at 0 it is one of the
    one-sided ones (0 where the value is 0). An entry that is not finite, or traced weights that
    are not allowed, make the whole line NaN.

  Example:
    >>> prox_owl(jnp.array([3.0, -4.0, 0.5]), jnp.array([2.0, 1.0, 1.0]))
    Array([ 2., -2.,  0.], dtype=float32)

  Reference:
    Bogdan, van den Berg, Sabatti, Su and Candes, SLOPE - adaptive variable selection via convex
    optimization, 2015, algorithm 3; Zeng and Figueiredo, The ordered weighted l1 norm: atomic
    formulation, projections, and algorithms, 2014.
  """
  array = check_blocks_of(x, 1, scaling)
  wide = upcast(array)
  strengths = _weights(weights, wide) * jnp.asarray(scaling, wide.dtype)
  return over_blocks(lambda v: _prox_line(v, strengths), array, 1)


def penalty_owl(x: ArrayLike, weights: Any = 1.0) -> Array:
  r"""The sorted l1 norm.

  Computes g(x) = sum_i w_i |x|_(i) along the last axis, |x|_(1) >= |x|_(2) >= ..., summed over the
  leading axes.

  Args:
    x: float[..., n].
    weights: w_1 >= w_2 >= ... >= w_n >= 0, float[n], or a scalar for equal ones; may be traced.
      None means 1.

  Returns:
    float scalar of the dtype of ``x``.

  Raises:
    TypeError: when ``x`` is not a floating-point array.
    ValueError: when ``x`` has rank 0, or the weights have another length, are negative or increase
      somewhere.

  Example:
    >>> float(penalty_owl(jnp.array([3.0, -4.0]), jnp.array([2.0, 1.0])))
    11.0

  Reference:
    Bogdan, van den Berg, Sabatti, Su and Candes, SLOPE - adaptive variable selection via convex
    optimization, 2015, section 1.
  """
  array = check_blocks_of(x, 1)
  wide = upcast(array)
  return _value(wide, _weights(weights, wide)).astype(array.dtype)


def prox_oscar(x: ArrayLike, hyperparams: Any = (1.0, 1.0), scaling: ArrayLike = 1.0) -> Array:
  r"""Proximal operator of OSCAR: the l1 norm plus the largest size of each pair of entries.

  Solves argmin_y 1/2 ||y - x||_2^2 + scaling * (l1 ||y||_1 + pairwise sum_{i<j} max(|y_i|, |y_j|))
  along the last axis: the sorted l1 norm with the weights w_i = l1 + pairwise (n - i).

  Args:
    x: float[..., n]; leading axes are so many vectors.
    hyperparams: (l1, pairwise), scalars >= 0; may be traced.
    scaling: >= 0, the step size; may be traced.

  Returns:
    float[..., n] of the dtype of ``x``.

  Raises:
    TypeError: when ``x`` is not a floating-point array.
    ValueError: when ``x`` has rank 0, ``hyperparams`` is not a pair, or a number is negative or not
      a scalar.

  Note:
    Derivatives, ties and NaN as in ``prox_owl``.

  Example:
    >>> prox_oscar(jnp.array([3.0, -2.5, 0.5]), (0.5, 0.5))
    Array([ 1.5, -1.5,  0. ], dtype=float32)

  Reference:
    Bondell and Reich, Simultaneous regression shrinkage, variable selection, and supervised
    clustering of predictors with OSCAR, 2008.
  """
  array = check_blocks_of(x, 1, scaling)
  wide = upcast(array)
  strengths = _oscar_weights(hyperparams, wide) * jnp.asarray(scaling, wide.dtype)
  return over_blocks(lambda v: _prox_line(v, strengths), array, 1)


def penalty_oscar(x: ArrayLike, hyperparams: Any = (1.0, 1.0)) -> Array:
  r"""OSCAR: the l1 norm plus the largest size of each pair of entries.

  Computes g(x) = l1 ||x||_1 + pairwise sum_{i<j} max(|x_i|, |x_j|) along the last axis, summed over
  the leading axes.

  Args:
    x: float[..., n].
    hyperparams: (l1, pairwise), scalars >= 0; may be traced.

  Returns:
    float scalar of the dtype of ``x``.

  Raises:
    TypeError: when ``x`` is not a floating-point array.
    ValueError: when ``x`` has rank 0, ``hyperparams`` is not a pair, or a number is negative or not
      a scalar.

  Example:
    >>> float(penalty_oscar(jnp.array([3.0, -4.0]), (1.0, 0.5)))
    9.0

  Reference:
    Bondell and Reich, Simultaneous regression shrinkage, variable selection, and supervised
    clustering of predictors with OSCAR, 2008.
  """
  array = check_blocks_of(x, 1)
  wide = upcast(array)
  return _value(wide, _oscar_weights(hyperparams, wide)).astype(array.dtype)


owl = Penalty(penalty_owl, prox_owl)
oscar = Penalty(penalty_oscar, prox_oscar)
