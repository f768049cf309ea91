"""The spectral norm and the log-determinant barrier: functions of all values of a matrix."""

from typing import Any

import jax.numpy as jnp
import optax

from jaxopt_robust._spectral import (
  eigen_map,
  eigen_sum,
  over_batch,
  singular_map,
  singular_sum,
)
from jaxopt_robust.numerics import upcast
from jaxopt_robust.prox._common import real_dtype, start_array
from jaxopt_robust.prox._radial import check_lam
from jaxopt_robust.prox.barriers import neg_log
from jaxopt_robust.typing import Array, ArrayLike, Penalty

__all__ = [
  "log_det",
  "penalty_log_det",
  "penalty_spectral_norm",
  "prox_log_det",
  "prox_spectral_norm",
  "spectral_norm",
]


def _prepare(
  x: ArrayLike, lam: Any, scaling: ArrayLike = 0.0, *, complex_ok: bool = False
) -> tuple[Array, Array, Array, Array]:
  """The matrices, in their dtype and in float32 at least; their strength, also with the scaling."""
  array = start_array(x, scaling, min_rank=2, complex_ok=complex_ok)
  check_lam(lam, array.shape[:-2], "matrix")
  lam = 1.0 if lam is None else lam
  wide = upcast(array)
  strength = jnp.asarray(lam, real_dtype(wide.dtype))
  return array, wide, strength, jnp.asarray(scaling, strength.dtype) * strength


def _symmetric(x: Array) -> Array:
  if x.shape[-1] != x.shape[-2]:
    raise ValueError(f"x must hold square matrices; got shape {x.shape}.")
  return (x + x.mT) / 2


def _clip_top(s: Array, threshold: Array) -> Array:
  """Operator of threshold * max(s): what is left of s outside the l1 ball of that radius."""
  positive = ~(threshold <= 0)  # NaN is passed on
  safe = jnp.where(positive, threshold, 1)
  return jnp.where(positive, s - optax.projections.projection_l1_ball(s, safe), s)


def prox_spectral_norm(x: ArrayLike, lam: Any = None, scaling: ArrayLike = 1.0) -> Array:
  r"""Proximal operator of the spectral norm, the largest singular value.

  Solves argmin_Y 1/2 ||Y - X||_F^2 + scaling * lam s_1(Y), by Y = U diag(s - P(s)) V^T for
  X = U diag(s) V^T, with P the projection on the l1 ball of radius scaling lam. In effect the
  largest singular values are cut to one level.

  Args:
    x: float[..., m, n] or complex array; leading axes are a batch of matrices.
    lam: >= 0, a scalar or an array of the shape of the batch; may be traced. None means 1.
    scaling: >= 0, the step size; may be traced.

  Returns:
    An array of the shape and dtype of ``x``. One NaN makes its matrix NaN.

  Raises:
    TypeError: when ``x`` is no floating-point array.
    ValueError: when ``x`` is no matrix, a strength or the scaling is negative, or shapes do not
      fit.

  Note:
    Derivatives are exact where singular values repeat, which is the rule in the result. A matrix
    whose singular values sum to at most scaling * lam is mapped to 0.

  Example:
    >>> prox_spectral_norm(jnp.diag(jnp.array([3.0, 0.5])), 1.0)
    Array([[2. , 0. ],
           [0. , 0.5]], dtype=float32)

  Reference:
    Parikh and Boyd, Proximal algorithms, 2014, sections 6.5.1 and 6.7.
  """
  array, wide, _, threshold = _prepare(x, lam, scaling, complex_ok=True)
  if not array.size:
    return array
  out = over_batch(lambda m, t: singular_map(_clip_top, m, t), wide, threshold)
  return out.astype(array.dtype)


def penalty_spectral_norm(x: ArrayLike, lam: Any = None) -> Array:
  r"""The spectral norm: the largest singular value.

  Computes g(X) = lam s_1(X), summed over a batch.

  Args:
    x: float[..., m, n] or complex array; leading axes are a batch of matrices.
    lam: >= 0 as in ``prox_spectral_norm``.

  Returns:
    float scalar.

  Raises:
    TypeError: when ``x`` is no floating-point array.
    ValueError: when ``x`` is no matrix, a strength is negative, or shapes do not fit.

  Note:
    Where the largest singular value is repeated, the gradient is the mean over its copies.

  Example:
    >>> float(penalty_spectral_norm(jnp.diag(jnp.array([-3.0, 0.5])), 2.0))
    6.0

  Reference:
    Parikh and Boyd, Proximal algorithms, 2014, section 6.7.
  """
  array, wide, strength, _ = _prepare(x, lam, complex_ok=True)
  dtype = real_dtype(array.dtype)
  if not array.size:
    return jnp.zeros((), dtype)
  one = lambda m, l: singular_sum(lambda s, t: t * jnp.max(s), m, l)
  return jnp.sum(over_batch(one, wide, strength)).astype(dtype)


def prox_log_det(x: ArrayLike, lam: Any = None, scaling: ArrayLike = 1.0) -> Array:
  r"""Proximal operator of the negative log-determinant of symmetric matrices.

  Solves argmin_{Y symmetric positive definite} 1/2 ||Y - X||_F^2 - scaling * lam log det Y, by
  Y = Q diag((w + sqrt(w^2 + 4 scaling lam)) / 2) Q^T for (X + X^T) / 2 = Q diag(w) Q^T.

  Args:
    x: float[..., n, n] array; leading axes are a batch of matrices. Only the symmetric part counts;
      it need not be positive definite.
    lam: >= 0, a scalar or an array of the shape of the batch; may be traced. None means 1.
    scaling: >= 0, the step size; may be traced.

  Returns:
    float[..., n, n] of the dtype of ``x``, positive definite for scaling lam > 0. One NaN makes its
    matrix NaN.

  Raises:
    TypeError: when ``x`` is no floating-point array.
    ValueError: when ``x`` holds no square matrices, a strength or the scaling is negative, or
      shapes do not fit.

  Note:
    With scaling lam = 0 it is the projection on the positive semi-definite cone. Derivatives are
    exact where eigenvalues repeat.

  Example:
    >>> prox_log_det(jnp.diag(jnp.array([1.5, 0.0])), 1.0)
    Array([[2., 0.],
           [0., 1.]], dtype=float32)

  Reference:
    Boyd et al., Distributed optimization and statistical learning via the alternating direction
    method of multipliers, 2011, section 6.5.
  """
  array, wide, _, threshold = _prepare(x, lam, scaling)
  symmetric = _symmetric(wide)
  if not array.size:
    return array
  out = over_batch(lambda m, t: eigen_map(neg_log.prox, m, t), symmetric, threshold)
  return out.astype(array.dtype)


def penalty_log_det(x: ArrayLike, lam: Any = None) -> Array:
  r"""The negative log-determinant, infinite outside the positive definite matrices.

  Computes g(X) = -lam log det X over symmetric positive definite X, else +inf, summed over a batch.

  Args:
    x: float[..., n, n] array; leading axes are a batch of matrices. Only the symmetric part counts.
    lam: >= 0 as in ``prox_log_det``.

  Returns:
    float scalar, possibly +inf.

  Raises:
    TypeError: when ``x`` is no floating-point array.
    ValueError: when ``x`` holds no square matrices, a strength is negative, or shapes do not fit.

  Example:
    >>> float(penalty_log_det(jnp.eye(2), 2.0)), float(penalty_log_det(-jnp.eye(2)))
    (0.0, inf)

  Reference:
    Boyd and Vandenberghe, Convex optimization, 2004, section 3.1.5.
  """
  array, wide, strength, _ = _prepare(x, lam)
  symmetric = _symmetric(wide)
  if not array.size:
    return jnp.zeros((), array.dtype)
  one = lambda m, l: eigen_sum(neg_log.value, m, l)
  return jnp.sum(over_batch(one, symmetric, strength)).astype(array.dtype)


spectral_norm = Penalty(penalty_spectral_norm, prox_spectral_norm)
log_det = Penalty(penalty_log_det, prox_log_det)
