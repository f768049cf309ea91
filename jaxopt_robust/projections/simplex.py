"""Projections that threshold: sparse simplex, sparse vectors, weighted l1 ball."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.numerics import divisor, upcast
from jaxopt_robust.projections import _common
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["projection_sparse_simplex", "projection_top_k", "projection_weighted_l1_ball"]


def _size(name: str, k: Any, x: Array) -> int:
  size = _checks.check_int(name, k, minimum=1)
  if size > x.shape[0]:
    raise ValueError(f"{name} must be at most the length of x, {x.shape[0]}; got {size}.")
  return size


@_common.onto_non_convex
def projection_top_k(x: ArrayLike, k: int = 1) -> Array:
  r"""Projection onto the vectors with at most k non-zero entries.

  Solves argmin_p 1/2 ||p - x||_2^2 subject to ||p||_0 <= k: the k entries of largest magnitude are
  kept.

  Args:
    x: float[n] array.
    k: static size, 1 <= k <= n.

  Returns:
    float[n] of the dtype of ``x``.

  Raises:
    TypeError: when ``x`` is not floating-point or k is no static integer.
    ValueError: when ``x`` is no vector or k is out of range.

  Note:
    The set is not convex: among equal magnitudes the lowest index is kept. The derivative is that
    of the kept entries.

  Example:
    >>> projection_top_k(jnp.array([1.0, -3.0, 2.0]), 2)
    Array([ 0., -3.,  2.], dtype=float32)

  Reference:
    Blumensath and Davies, Iterative hard thresholding for compressed sensing, 2009, section 2.
  """
  array = _common.vector(x)
  _, index = jax.lax.top_k(jnp.abs(array), _size("k", k, array))
  return jnp.zeros_like(array).at[index].set(array[index], unique_indices=True)


@_common.onto_non_convex
def projection_sparse_simplex(x: ArrayLike, max_nz: int, value: ArrayLike = 1.0) -> Array:
  r"""Projection onto the vectors of a simplex with few non-zero entries.

  Solves argmin_p 1/2 ||p - x||_2^2 subject to p >= 0, sum_i p_i = value, ||p||_0 <= max_nz: the
  max_nz largest entries of x are projected onto the simplex.

  Args:
    x: float[n] array.
    max_nz: static size, 1 <= max_nz <= n.
    value: >= 0, what the entries sum to; may be traced.

  Returns:
    float[n] of the dtype of ``x``; NaN when a traced value is negative.

  Raises:
    TypeError: when ``x`` is not floating-point or max_nz is no static integer.
    ValueError: when ``x`` is no vector, max_nz is out of range or value is negative.

  Note:
    The set is not convex: among equal entries those of lowest index are kept. On the support S the
    derivative is h_S - mean(h_S).

  Example:
    >>> projection_sparse_simplex(jnp.array([0.2, 0.9, 0.5]), 2)
    Array([0. , 0.7, 0.3], dtype=float32)

  Reference:
    Kyrillidis, Becker, Cevher and Koch, Sparse projections onto the simplex, 2013, algorithm 1.
  """
  array = _common.vector(x)
  size = _size("max_nz", max_nz, array)
  _checks.check_non_negative("value", value)
  wide = upcast(array)
  total = _common.scalar("value", value, wide.dtype)
  top, index = jax.lax.top_k(wide, size)
  kept = _common.onto_simplex(top, total[None])
  out = jnp.zeros_like(wide).at[index].set(kept, unique_indices=True)
  return _common.or_nan(total >= 0, out).astype(array.dtype)


def projection_weighted_l1_ball(x: ArrayLike, hyperparams: Any = (1.0, 1.0)) -> Array:
  r"""Projection onto a weighted l1 ball.

  Solves argmin_p 1/2 ||p - x||_2^2 subject to sum_i w_i |p_i| <= radius, by soft thresholding at
  tau w_i with the tau that puts p on the boundary.

  Args:
    x: float[n] array.
    hyperparams: pair (w, radius): w >= 0 a scalar or an array of the shape of ``x``, radius >= 0 a
      scalar; may be traced. Entries of weight 0 are free.

  Returns:
    float[n] of the dtype of ``x``; NaN when a traced radius or weight is negative.

  Raises:
    TypeError: when ``x`` is not floating-point.
    ValueError: when ``x`` is no vector, a shape does not fit, or a number is negative.

  Note:
    With all weights 1 this is ``optax.projections.projection_l1_ball``. Found by Newton's method,
    without a sort. The derivative holds the support constant.

  Example:
    >>> projection_weighted_l1_ball(jnp.array([3.0, -1.0]), (jnp.array([1.0, 2.0]), 2.0))
    Array([ 2., -0.], dtype=float32)

  Reference:
    Duchi, Shalev-Shwartz, Singer and Chandra, Efficient projections onto the l1-ball for learning
    in high dimensions, 2008 (equal weights); Michelot, A finite algorithm for finding the
    projection of a point onto the canonical simplex of R^n, 1986 (the iteration).
  """
  weights, radius = _arguments.parts(hyperparams, "weights", "radius")
  array = _common.vector(x)
  wide = upcast(array)
  _checks.check_non_negative("weights", weights)
  _checks.check_non_negative("radius", radius)
  w = _common.like("weights", weights, wide, spread=True)
  r = _common.scalar("radius", radius, wide.dtype)
  top = jax.lax.stop_gradient(jnp.max(w))
  top = divisor(jnp.where(top > 0, top, 1))
  scaled, bound = w / top, r / top
  size = jnp.abs(wide)
  counts = scaled > 0
  safe = jnp.where(counts, scaled, 1)
  ratio = jnp.where(counts, size / safe, -jnp.inf)
  highest = jax.lax.stop_gradient(jnp.max(ratio))
  highest = jnp.where(highest == -jnp.inf, 0, highest)
  square = jnp.where(counts, scaled**2, 0)
  near = _common.threshold(ratio - highest, square, bound[None])
  # Near the largest ratio the difference from it has the digits, far below it the ratio itself.
  far = _common.threshold(ratio, square, bound[None])
  rest = safe * jnp.where(2 * jnp.max(near) < highest, near, far)
  inside = jnp.sum(scaled * size) <= bound
  out = jnp.where(inside | ~counts, wide, jnp.sign(wide) * rest)
  good = (r >= 0) & jnp.all(w >= 0) & ~jnp.any(jnp.isnan(wide))
  return _common.or_nan(good, out).astype(array.dtype)
