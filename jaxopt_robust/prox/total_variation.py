"""Total variation along a line and the fused lasso, exactly."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust._chain import block_mean, block_sum, chain_blocks
from jaxopt_robust.numerics import soft_threshold, upcast
from jaxopt_robust.prox._lines import check_blocks_of, over_blocks, scalar_strength
from jaxopt_robust.typing import Array, ArrayLike, Penalty

__all__ = [
  "fused_lasso",
  "penalty_fused_lasso",
  "penalty_tv1d",
  "prox_fused_lasso",
  "prox_tv1d",
  "tv1d",
]


def _line_of(x: ArrayLike, scaling: ArrayLike = 1.0) -> Array:
  x = _checks.check_float_array("x", x, non_empty=False, complex_ok=True)
  if jnp.iscomplexobj(x):
    raise TypeError(
      "x must hold real numbers: the exact method sorts along the line. For complex lines use "
      "prox_tv2d(x[..., None]), which iterates."
    )
  return check_blocks_of(x, 1, scaling)


@jax.jit
def _tv1d_line(v: Array, lam: Array) -> Array:
  blocks = chain_blocks(v, None, lam, lam, is_tv=True)
  # Each jump moves the two blocks beside it towards each other by lam / size.
  ends = block_sum((blocks.rises + blocks.falls).astype(v.dtype), blocks)
  size = block_sum(jnp.ones_like(v), blocks)
  free = ends == 0  # an infinite strength must not give 0 * inf
  pull = jnp.where(free, 0, ends * jnp.where(free, 0, lam) / size)
  good = jnp.all(jnp.isfinite(v)) & (lam >= 0)
  return jnp.where(good, block_mean(v, blocks) + pull, jnp.nan)


def prox_tv1d(x: ArrayLike, lam: Any = 1.0, scaling: ArrayLike = 1.0) -> Array:
  r"""Proximal operator of the total variation of a line, computed exactly.

  Solves argmin_y 1/2 ||y - x||_2^2 + scaling * lam sum_i |y_{i+1} - y_i| along the last axis.

  Args:
    x: float[..., n]; leading axes are so many lines.
    lam: >= 0, a scalar; may be traced. None means 1.
    scaling: >= 0, the step size; may be traced.

  Returns:
    float[..., n] of the dtype of ``x``, constant on blocks.

  Raises:
    TypeError: when ``x`` is not a floating-point array.
    ValueError: when ``x`` has rank 0, or the strength or the scaling is negative or not a scalar.

  Note:
    The derivative along x is the mean over each block; along lam it is (jumps away from the block
    on its two sides, up minus down) / (size of the block). Between blocks of equal value (a tie) it
    is that of one of the partitions. An entry that is not finite, or a negative traced strength,
    makes the whole line NaN. On a CPU a direct method walks along the line; where it goes back too
    often (smooth data), and on other devices, all blocks are divided at once by level sets, in
    about log(n) rounds of a few passes. No tolerance. Sums of n entries are formed: in float32
    jumps that differ from 0 by rounding of |x| or lam may be missed.

  Example:
    >>> prox_tv1d(jnp.array([0.0, 0.0, 4.0, 4.0]), 1.0)
    Array([0.5, 0.5, 3.5, 3.5], dtype=float32)

  Reference:
    Condat, A direct algorithm for 1-D total variation denoising, 2013, algorithm 1. Division by
    level sets: Hochbaum, An efficient algorithm for image segmentation, Markov random
    fields and related problems, 2001; Chambolle and Darbon, On total variation minimization and
    surface evolution using parametric maximum flows, 2009. The clipped messages: Johnson, A dynamic
    programming algorithm for the fused lasso and L0-segmentation, 2013.
  """
  array = _line_of(x, scaling)
  wide = upcast(array)
  strength = scalar_strength("lam", lam, wide) * jnp.asarray(scaling, wide.dtype)
  return over_blocks(lambda v: _tv1d_line(v, strength), array, 1)


def penalty_tv1d(x: ArrayLike, lam: Any = 1.0) -> Array:
  r"""Total variation of a line.

  Computes g(x) = lam sum_i |x_{i+1} - x_i| along the last axis, summed over the leading axes.

  Args:
    x: float[..., n].
    lam: >= 0, a scalar; may be traced. None means 1.

  Returns:
    float scalar of the dtype of ``x``.

  Raises:
    TypeError: when ``x`` is not a floating-point array.
    ValueError: when ``x`` has rank 0, or the strength is negative or not a scalar.

  Example:
    >>> float(penalty_tv1d(jnp.array([0.0, 2.0, 1.0]), 2.0))
    6.0

  Reference:
    Rudin, Osher and Fatemi, Nonlinear total variation based noise removal algorithms, 1992.
  """
  array = _line_of(x)
  wide = upcast(array)
  value = scalar_strength("lam", lam, wide) * jnp.sum(jnp.abs(jnp.diff(wide, axis=-1)))
  return value.astype(array.dtype)


def prox_fused_lasso(
  x: ArrayLike, hyperparams: Any = (1.0, 1.0), scaling: ArrayLike = 1.0
) -> Array:
  r"""Proximal operator of the l1 norm plus the total variation of a line.

  Solves argmin_y 1/2 ||y - x||_2^2 + scaling * (l1 ||y||_1 + tv sum_i |y_{i+1} - y_i|) along the
  last axis, by soft thresholding the proximal operator of the total variation.

  Args:
    x: float[..., n]; leading axes are so many lines.
    hyperparams: (l1, tv), scalars >= 0; may be traced.
    scaling: >= 0, the step size; may be traced.

  Returns:
    float[..., n] of the dtype of ``x``.

  Raises:
    TypeError: when ``x`` is not a floating-point array.
    ValueError: when ``x`` has rank 0, ``hyperparams`` is not a pair, or a number is negative or not
      a scalar.

  Note:
    Derivatives as those of ``prox_tv1d`` and soft thresholding; 0 at the threshold.

  Example:
    >>> prox_fused_lasso(jnp.array([0.0, 0.0, 4.0, 4.0]), (1.0, 1.0))
    Array([0. , 0. , 2.5, 2.5], dtype=float32)

  Reference:
    Friedman, Hastie, Hoefling and Tibshirani, Pathwise coordinate optimization, 2007, section 4.
  """
  array = _line_of(x, scaling)
  wide = upcast(array)
  l1reg, tvreg = _arguments.parts(hyperparams, "l1reg", "tvreg", example=(1.0, 1.0))
  step = jnp.asarray(scaling, wide.dtype)
  strength = scalar_strength("tvreg of hyperparams", tvreg, wide) * step
  threshold = scalar_strength("l1reg of hyperparams", l1reg, wide) * step
  threshold = jnp.where(threshold >= 0, threshold, jnp.nan)
  return over_blocks(lambda v: soft_threshold(_tv1d_line(v, strength), threshold), array, 1)


def penalty_fused_lasso(x: ArrayLike, hyperparams: Any = (1.0, 1.0)) -> Array:
  r"""The l1 norm plus the total variation of a line.

  Computes g(x) = l1 ||x||_1 + tv sum_i |x_{i+1} - x_i| along the last axis, summed over the
  leading axes.

  Args:
    x: float[..., n].
    hyperparams: (l1, tv), scalars >= 0; may be traced.

  Returns:
    float scalar of the dtype of ``x``.

  Raises:
    TypeError: when ``x`` is not a floating-point array.
    ValueError: when ``x`` has rank 0, ``hyperparams`` is not a pair, or a number is negative or not
      a scalar.

  Example:
    >>> float(penalty_fused_lasso(jnp.array([0.0, 2.0, 1.0]), (1.0, 2.0)))
    9.0

  Reference:
    Tibshirani, Saunders, Rosset, Zhu and Knight, Sparsity and smoothness via the fused lasso, 2005.
  """
  array = _line_of(x)
  wide = upcast(array)
  l1reg, tvreg = _arguments.parts(hyperparams, "l1reg", "tvreg", example=(1.0, 1.0))
  l1_part = scalar_strength("l1reg of hyperparams", l1reg, wide) * jnp.sum(jnp.abs(wide))
  tv_part = scalar_strength("tvreg of hyperparams", tvreg, wide) * jnp.sum(
    jnp.abs(jnp.diff(wide, axis=-1))
  )
  return (l1_part + tv_part).astype(array.dtype)


tv1d = Penalty(penalty_tv1d, prox_tv1d)
fused_lasso = Penalty(penalty_fused_lasso, prox_fused_lasso)
