"""Penalties on the norms of the rows of an array: the l2,1 norm and its non-convex relatives."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxopt_robust import _arguments
from jaxopt_robust.numerics import safe_norm, upcast
from jaxopt_robust.prox._common import real_dtype, start_array
from jaxopt_robust.prox._radial import check_lam, check_shared, factors
from jaxopt_robust.prox.l1 import lasso
from jaxopt_robust.typing import Array, ArrayLike, Penalty

__all__ = ["l21", "make_row_penalty", "penalty_l21", "prox_l21"]


def make_row_penalty(penalty: Penalty) -> Penalty:
  r"""A penalty on the norm of every row, from a penalty on one number.

  With phi the given penalty of one number, g(x) = sum_i phi(||x_i||_2; hyperparams_i) over the rows
  x_i (the last axis), whose operator argmin_y 1/2 ||y - x||_2^2 + scaling * g(y) is
  y_i = (x_i / ||x_i||) prox_phi(||x_i||). It is ``make_group_penalty`` for groups of one size.

  Args:
    penalty: an entrywise record such as ``prox.lasso`` or ``prox.mcp`` with phi(0) <= phi(r) for
      r > 0.

  Returns:
    ``Penalty(value, prox)`` for float[..., features] or complex arrays. Each of its
    hyper-parameters is a scalar or has the shape of ``x`` without the last axis.

  Raises:
    TypeError: when ``penalty`` is no ``Penalty``. The functions returned refuse hyper-parameters of
      another shape (ValueError) and what ``penalty`` refuses.

  Note:
    At x_i = 0 the derivative is the slope of prox_phi at 0: 0 for a penalty that thresholds.

  Example:
    >>> make_row_penalty(jr.prox.l0).prox(jnp.array([[3.0, 4.0], [0.5, 0.5]]), 1.0)
    Array([[3., 4.],
           [0., 0.]], dtype=float32)

  Reference:
    Obozinski, Taskar and Jordan, Joint covariate selection and joint subspace selection for
    multiple classification problems, 2010.
  """
  _arguments.check_penalty("penalty", penalty)
  return _of_rows(penalty, check_shared)


def _of_rows(penalty: Penalty, check: Callable[[Any, tuple[int, ...], str], None]) -> Penalty:
  def value(x: ArrayLike, hyperparams: Any = None) -> Array:
    array = start_array(x, min_rank=1, complex_ok=True)
    check(hyperparams, array.shape[:-1], "row")
    with _arguments.within("hyperparams"):
      total = penalty.value(safe_norm(upcast(array), axis=-1), hyperparams)
    return total.astype(real_dtype(array.dtype))

  def prox(x: ArrayLike, hyperparams: Any = None, scaling: ArrayLike = 1.0) -> Array:
    array = start_array(x, scaling, min_rank=1, complex_ok=True)
    check(hyperparams, array.shape[:-1], "row")
    wide = upcast(array)
    with _arguments.within("hyperparams"):
      factor = factors(penalty, safe_norm(wide, axis=-1), hyperparams, scaling)
    return (jnp.expand_dims(factor, -1) * wide).astype(array.dtype)

  return Penalty(value, prox, penalty.convex)


_L21 = _of_rows(lasso, check_lam)


def prox_l21(x: ArrayLike, lam: Any = None, scaling: ArrayLike = 1.0) -> Array:
  r"""Row-wise block soft thresholding, the proximal operator of the l2,1 norm.

  Solves argmin_y 1/2 ||y - x||_2^2 + scaling * sum_i lam_i ||y_i||_2 over the rows y_i (the last
  axis), by y_i = max(1 - scaling lam_i / ||x_i||_2, 0) x_i.

  Args:
    x: float[..., features] or complex array; each row is a group.
    lam: >= 0, a scalar or an array of the shape of ``x`` without the last axis; may be traced. None
      means 1.
    scaling: >= 0, the step size; may be traced.

  Returns:
    An array of the shape and dtype of ``x``. A row with a NaN is NaN.

  Raises:
    TypeError: when ``x`` is no floating-point array.
    ValueError: when a strength or the scaling is negative, or shapes do not fit.

  Note:
    At ||x_i|| = scaling * lam_i and at x_i = 0 the derivative is 0. Equal to ``jax.vmap`` of
    ``prox_group_lasso`` over the rows.

  Example:
    >>> prox_l21(jnp.array([[3.0, 4.0], [0.5, 0.5]]), 1.0)
    Array([[2.4, 3.2],
           [0. , 0. ]], dtype=float32)

  Reference:
    Obozinski, Taskar and Jordan, Joint covariate selection and joint subspace selection for
    multiple classification problems, 2010.
  """
  return _L21.prox(x, lam, scaling)


def penalty_l21(x: ArrayLike, lam: Any = None) -> Array:
  r"""The l2,1 norm: the sum of the norms of the rows.

  Computes g(x) = sum_i lam_i ||x_i||_2 over the rows x_i (the last axis).

  Args:
    x: float[..., features] or complex array.
    lam: >= 0 as in ``prox_l21``.

  Returns:
    float scalar.

  Raises:
    TypeError: when ``x`` is no floating-point array.
    ValueError: when a strength is negative or shapes do not fit.

  Example:
    >>> float(penalty_l21(jnp.array([[3.0, 4.0], [0.0, 0.0]]), 2.0))
    10.0

  Reference:
    Obozinski, Taskar and Jordan, Joint covariate selection and joint subspace selection for
    multiple classification problems, 2010.
  """
  return _L21.value(x, lam)


l21 = Penalty(penalty_l21, prox_l21)
