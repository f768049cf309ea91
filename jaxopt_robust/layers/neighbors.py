"""Neighbours among reference points with kernel weights, and mean shift to a mode of these."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust._units import exponent_of, power
from jaxopt_robust.numerics import safe_divide, safe_norm, upcast
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["Neighbors", "kernel_neighbors", "mean_shift"]

KERNELS = ("gaussian", "matern", "linear", "polynomial")
_DEGREE = 3  # of the polynomial kernel


class Neighbors(NamedTuple):
  """Nearest reference points of some queries.

  Attributes:
    rows: int32[..., k], which references, nearest first (up to rounding); 0 where there is
      none.
    weights: float[..., k] >= 0, at least float32; they sum to 1, or to 0 where there is no
      neighbour.
    distance: float[..., k], Euclidean; inf where there is no neighbour.
    where: bool[..., k], whether there is a neighbour.

  Example:
    >>> Neighbors._fields
    ('rows', 'weights', 'distance', 'where')

  Reference:
    Nadaraya, On estimating regression, 1964 (the weights).
  """

  rows: Array
  weights: Array
  distance: Array
  where: Array


def _dot(a: Array, b: Array) -> Array:
  return jnp.matmul(a, b, precision="highest")


def _log_kernel(
  kernel: str, distance: Array, product: Array, *, width: Array, there: Array
) -> Array:
  """Logarithms of kernel values [t, k] up to a summand a row; -inf where a value is not positive.

  ``distance``, ``product`` and ``width`` are in one unit.
  """
  limits = jnp.finfo(distance.dtype)
  if kernel == "gaussian":  # relative to the nearest: squares of large distances do not fit
    near = jnp.min(jnp.where(there, distance, limits.max), axis=-1, keepdims=True)
    near = jnp.where(near < limits.max, near, 0)
    gap = distance - near
    power = -0.5 * (gap / width) * ((distance + near) / width)
    return jnp.where(gap > 0, jnp.maximum(power, limits.min), 0)
  if kernel == "matern":  # of smoothness 3/2
    u = jnp.minimum(math.sqrt(3.0) * distance / width, 0.1 * limits.max)
    return jnp.log1p(u) - u
  degree = 1
  if kernel == "polynomial":  # of <q, r> and h^2 in place of <q, r> / h^2 and 1: the factor cancels
    product = product + jnp.minimum(width, 0.1 * limits.max**0.5) ** 2
    degree = _DEGREE
  positive = product > 0
  return jnp.where(positive, degree * jnp.log(jnp.where(positive, product, 1)), -jnp.inf)


def _weights(log_values: Array, where: Array) -> Array:
  """Normalised exponentials over what is there; zeros where nothing is."""
  floor = jnp.finfo(log_values.dtype).min
  log_values = jnp.where(where, jnp.maximum(log_values, floor), floor)
  top = jax.lax.stop_gradient(jnp.max(log_values, axis=-1, keepdims=True))
  raw = jnp.where(where, jnp.exp(log_values - top), 0)
  return safe_divide(raw, jnp.sum(raw, axis=-1, keepdims=True))


def kernel_neighbors(
  queries: ArrayLike,
  references: ArrayLike,
  *,
  num_neighbors: int = 3,
  radius: ArrayLike = math.inf,
  kernel: str = "gaussian",
  bandwidth: ArrayLike = 1.0,
  max_similarity: ArrayLike = 0.95,
  where: ArrayLike | None = None,
) -> Neighbors:
  r"""The k nearest references of each query within a ball, weighted by a kernel.

  Weights of the neighbours r_i of a query q are w_i = K(q, r_i) / sum_j K(q, r_j), with the kernel

    gaussian: exp(-||q - r||^2 / (2 h^2))
    matern: (1 + u) exp(-u), u = sqrt(3) ||q - r|| / h
    linear: max(<q, r>, 0)
    polynomial: max(1 + <q, r> / h^2, 0)^3

  and h the bandwidth. References whose cosine with the query exceeds ``max_similarity`` are left
  out: they would hand over the answer to a question that is all but the same.

  Args:
    queries: float[..., d], embeddings.
    references: float[n, d].
    num_neighbors: k, from 1 to n, static.
    radius: > 0; neighbours lie no farther away. Infinite for the k nearest; for an epsilon-ball
      give epsilon, and the largest number of neighbours as k. May be traced.
    kernel: "gaussian", "matern", "linear" or "polynomial"; static.
    bandwidth: h > 0, in the units of the embeddings; may be traced.
    max_similarity: cosine above which a reference is left out; infinite for none, since a query
      that is itself a reference has 1 up to rounding. A zero vector has the cosine 0 with all. May
      be traced.
    where: bool[n], references that may be taken, such as those that the model answers correctly.

  Returns:
    ``Neighbors`` with arrays [..., k], float32 at least.

  Raises:
    TypeError: an array is not floating-point, ``where`` not boolean, or ``num_neighbors`` no static
      integer.
    ValueError: shapes do not fit, a number is out of range, or the embeddings are not finite.

  Note:
    Ties go to the lower row. Neighbours are found by products, ||q||^2 + ||r||^2 - 2 q.r of points
    from which the mean of the references is taken, and their distances computed afresh. Where
    values are not known, a query that is not finite has no neighbours, such a reference is none.

  Example:
    >>> found = kernel_neighbors(
    ...   jnp.array([0.0, 1.0]), jnp.array([[0.0, 1.0], [1.0, 1.0], [3.0, 1.0]]), num_neighbors=2
    ... )
    >>> found.rows  # the first reference is the query itself
    Array([1, 2], dtype=int32)
    >>> [round(float(w), 3) for w in found.weights]  # exp(-1/2) and exp(-9/2)
    [0.982, 0.018]

  Reference:
    Li, Li and Zhou, C3PO: critical-layer, core-expert, collaborative pathway optimization for
    test-time expert re-mixing, 2025, sections 3 and 4: k = 3, radius 0.5, cosines up to 0.95, and
    the names of the kernels; their exact forms are ours.
  """
  points = _checks.check_float_array("queries", queries, min_rank=1)
  known = _checks.check_float_array("references", references, rank=2)
  n, d = known.shape
  if points.shape[-1] != d:
    raise ValueError(f"queries must have the {d} features of references; got {points.shape}.")
  k = _checks.check_int("num_neighbors", num_neighbors, minimum=1, maximum=n)
  _arguments.check_option("kernel", kernel, KERNELS)
  for name, value in (("radius", radius), ("bandwidth", bandwidth)):
    _checks.check_positive(name, value, scalar=True)
  _checks.check_greater("max_similarity", max_similarity, -1.0, scalar=True)
  allowed = _checks.check_mask("where", where, shape=(n,))
  for name, array in (("queries", points), ("references", known)):
    _checks.check_holds(jnp.isfinite(array), f"{name} must be finite; got NaN or infinity.")
  dtype = jnp.result_type(upcast(points).dtype, upcast(known).dtype)
  rows, known = points.astype(dtype).reshape(-1, d), known.astype(dtype)

  good = jnp.all(jnp.isfinite(known), axis=-1)
  good = good if allowed is None else good & allowed
  asked = jnp.all(jnp.isfinite(rows), axis=-1, keepdims=True)
  known, rows = jnp.where(good[:, None], known, 0), jnp.where(asked, rows, 0)
  # In units near the largest entry of a query and the references, since squares of 1e30 do not fit:
  # powers of two, which leave differences of near points exact.
  largest = jax.lax.stop_gradient(jnp.max(jnp.abs(known)))
  own = jax.lax.stop_gradient(jnp.max(jnp.abs(rows), axis=-1, keepdims=True))
  scale = power(exponent_of(jnp.maximum(own, largest[None, None])), dtype)
  unit = power(exponent_of(largest), dtype)
  factor, scaled, small = unit / scale, known / unit, rows / scale
  center = jax.lax.stop_gradient(
    safe_divide(jnp.sum(scaled, axis=0), jnp.sum(good, dtype=dtype))[None]
  )
  moved, shifted = scaled - center, small - factor * center
  square = jnp.sum(shifted**2, -1, keepdims=True) + factor**2 * jnp.sum(moved**2, -1)[None]
  square = square - 2 * factor * _dot(shifted, moved.T)

  direction = lambda v: safe_divide(v, safe_norm(v, axis=-1)[..., None])
  cosine = _dot(direction(small), direction(scaled).T)
  open_ = good[None] & asked & (cosine <= jnp.asarray(max_similarity, dtype))
  score, index = jax.lax.top_k(jnp.where(open_, -square, -jnp.inf), k)
  index = jnp.asarray(index, jnp.int32)
  near = factor[..., None] * scaled[index]
  away = safe_norm(small[:, None] - near, axis=-1)
  there = (score > -jnp.inf) & (scale * away <= jnp.asarray(radius, dtype))
  width = jnp.maximum(jnp.asarray(bandwidth, dtype) / scale, jnp.finfo(dtype).tiny)
  product = jnp.einsum("td,tkd->tk", small, near, precision="highest")
  log_values = _log_kernel(kernel, jnp.where(there, away, 0), product, width=width, there=there)
  there = there & (log_values > -jnp.inf)
  shape = (*points.shape[:-1], k)
  return Neighbors(
    jnp.where(there, index, 0).reshape(shape),
    _weights(log_values, there).reshape(shape),
    jnp.where(there, scale * away, jnp.inf).reshape(shape),
    there.reshape(shape),
  )


def mean_shift(
  points: ArrayLike,
  references: ArrayLike,
  *,
  bandwidth: ArrayLike = 1.0,
  num_neighbors: int | None = None,
  kernel: str = "gaussian",
  alpha: ArrayLike = 0.5,
  num_steps: int = 5,
  where: ArrayLike | None = None,
) -> Array:
  r"""Moves points to where the references are dense: mean shift.

  A step is x <- alpha x + (1 - alpha) sum_i w_i r_i with the weights of ``kernel_neighbors`` at x.

  Args:
    points: float[..., d], where to begin.
    references: float[n, d].
    bandwidth: h > 0; may be traced.
    num_neighbors: k, from 1 to n, static; None for all of them.
    kernel: as in ``kernel_neighbors``; static.
    alpha: what is kept of a point, in [0, 1]; 0 for the classical step; may be traced.
    num_steps: number of steps, at least 0, static.
    where: bool[n], references that count.

  Returns:
    float[..., d], float32 at least.

  Raises:
    TypeError: an array is not floating-point, or a size no static integer.
    ValueError: shapes do not fit, or a number is out of range.

  Note:
    With the Gaussian kernel and all neighbours the density does not fall from step to step. A point
    without neighbours stays.

  Example:
    >>> mean_shift(jnp.array([0.2]), jnp.array([[0.0], [0.0], [9.0]]), alpha=0.0).round(3)
    Array([0.], dtype=float32)

  Reference:
    Fukunaga and Hostetler, The estimation of the gradient of a density function, 1975; Cheng, Mean
    shift, mode seeking, and clustering, 1995.
  """
  known = _checks.check_float_array("references", references, rank=2)
  start = _checks.check_float_array("points", points, min_rank=1)
  if start.shape[-1] != known.shape[-1]:
    raise ValueError(
      f"points must have the {known.shape[-1]} features of references; got {start.shape}."
    )
  steps = _checks.check_int("num_steps", num_steps, minimum=0)
  _checks.check_interval("alpha", alpha, 0.0, 1.0, scalar=True)
  _checks.check_holds(jnp.isfinite(start), "points must be finite; got NaN or infinity.")
  k = known.shape[0] if num_neighbors is None else num_neighbors
  dtype = jnp.result_type(upcast(start).dtype, upcast(known).dtype)
  known, kept = known.astype(dtype), jnp.asarray(alpha, dtype)

  def step(x: Array, _: None) -> tuple[Array, None]:
    found = kernel_neighbors(
      x, known, num_neighbors=k, kernel=kernel, bandwidth=bandwidth, max_similarity=math.inf,
      where=where,
    )  # fmt: skip
    some = jnp.any(found.where, axis=-1, keepdims=True)
    near = jnp.where(found.where[..., None], known[found.rows], 0)
    mean = jnp.einsum("...k,...kd->...d", found.weights, near, precision="highest")
    return jnp.where(some, kept * x + (1 - kept) * mean, x), None

  return jax.lax.scan(step, start.astype(dtype), None, length=steps)[0]
