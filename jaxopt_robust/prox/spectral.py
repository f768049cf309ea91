"""Penalties on the singular values of matrices: nuclear norm, Schatten powers, rank, any other."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments
from jaxopt_robust._spectral import clean, over_batch, singular_map, singular_sum
from jaxopt_robust.numerics import upcast
from jaxopt_robust.prox._common import real_dtype, start_array
from jaxopt_robust.prox._radial import check_lam, check_shared
from jaxopt_robust.prox.l1 import lasso
from jaxopt_robust.prox.nonconvex_powers import l0, lq
from jaxopt_robust.typing import Array, ArrayLike, Penalty

__all__ = [
  "make_spectral_penalty",
  "nuclear",
  "penalty_nuclear",
  "penalty_rank",
  "penalty_schatten",
  "prox_nuclear",
  "prox_rank",
  "prox_schatten",
  "rank",
  "schatten",
]


def make_spectral_penalty(penalty: Penalty) -> Penalty:
  r"""A penalty on the singular values of a matrix, from a penalty on one number.

  With phi the given penalty of one number, g(X) = sum_i phi(s_i(X); hyperparams), whose operator
  argmin_Y 1/2 ||Y - X||_F^2 + scaling * g(Y) is U diag(prox_phi(s)) V^T for X = U diag(s) V^T.
  ``prox.lasso`` makes the nuclear norm, ``prox.mcp`` or ``prox.log_sum`` its less biased relatives.

  Args:
    penalty: an entrywise record such as ``prox.lasso`` or ``prox.mcp`` that is even and has its
      minimum at 0.

  Returns:
    ``Penalty(value, prox)`` for float[..., m, n] or complex arrays; leading axes are a batch, whose
    values are summed. Each of its hyper-parameters is a scalar or has the shape of the batch.

  Raises:
    TypeError: when ``penalty`` is no ``Penalty``. The functions returned refuse arrays that are no
      matrices, hyper-parameters of another shape (ValueError) and what ``penalty`` refuses.

  Note:
    First derivatives, by the matrix and by the hyper-parameters, are exact where singular values
    repeat or vanish, for tall and wide matrices, in forward and reverse mode. Second derivatives
    of the operator are exact for distinct singular values and finite elsewhere. Singular values
    below the rounding of the largest count as 0 in ``value``. One NaN makes its matrix NaN.

  Example:
    >>> make_spectral_penalty(jr.prox.l0).prox(jnp.diag(jnp.array([3.0, 1.0])), 1.0)
    Array([[3., 0.],
           [0., 0.]], dtype=float32)

  Reference:
    Lewis, The convex analysis of unitarily invariant matrix functions, 1995; derivatives: Lewis and
    Sendov, Nonsmooth analysis of singular values, 2005.
  """
  _arguments.check_penalty("penalty", penalty)
  return _of_values(penalty, check_shared)


def _of_values(penalty: Penalty, check: Callable[[Any, tuple[int, ...], str], None]) -> Penalty:
  def checked(x: ArrayLike, hyperparams: Any, scaling: ArrayLike) -> tuple[Array, Any]:
    array = start_array(x, scaling, min_rank=2, complex_ok=True)
    check(hyperparams, array.shape[:-2], "matrix")
    dtype = real_dtype(upcast(array).dtype)
    # The penalty's own checks of what is known now: inside a derivative nothing is.
    one_each = jax.ShapeDtypeStruct(array.shape[:-2], dtype)
    with _arguments.within("hyperparams"):
      jax.eval_shape(lambda v: penalty.value(v, hyperparams), one_each)
    return array, jax.tree.map(lambda h: jnp.asarray(h, dtype), hyperparams)

  def value(x: ArrayLike, hyperparams: Any = None) -> Array:
    array, hyper = checked(x, hyperparams, 0.0)
    if not array.size:
      return jnp.zeros((), real_dtype(array.dtype))
    size = max(array.shape[-2:])
    sums = over_batch(
      lambda m, h: singular_sum(lambda s, p: penalty.value(clean(s, size), p), m, h),
      upcast(array),
      hyper,
    )
    return jnp.sum(sums).astype(real_dtype(array.dtype))

  def prox(x: ArrayLike, hyperparams: Any = None, scaling: ArrayLike = 1.0) -> Array:
    array, hyper = checked(x, hyperparams, scaling)
    if not array.size:
      return array
    wide = upcast(array)
    step = jnp.asarray(scaling, real_dtype(wide.dtype))
    out = over_batch(lambda m, h, t: singular_map(penalty.prox, m, h, t), wide, hyper, step)
    return out.astype(array.dtype)

  return Penalty(value, prox, penalty.convex)


_NUCLEAR = _of_values(lasso, check_lam)
_SCHATTEN = make_spectral_penalty(lq)
_RANK = _of_values(l0, check_lam)


def prox_nuclear(x: ArrayLike, lam: Any = None, scaling: ArrayLike = 1.0) -> Array:
  r"""Singular value thresholding, the proximal operator of the nuclear norm.

  Solves argmin_Y 1/2 ||Y - X||_F^2 + scaling * lam sum_i s_i(Y), by
  Y = U diag(max(s - scaling lam, 0)) V^T for X = U diag(s) V^T.

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
    Derivatives are exact where singular values repeat or vanish; those of the plain decomposition
    are NaN there. At s_i = scaling * lam the derivative of the threshold is 0.

  Example:
    >>> prox_nuclear(jnp.diag(jnp.array([3.0, 0.5])), 1.0)
    Array([[2., 0.],
           [0., 0.]], dtype=float32)

  Reference:
    Cai, Candes and Shen, A singular value thresholding algorithm for matrix completion, 2010,
    theorem 2.1.
  """
  return _NUCLEAR.prox(x, lam, scaling)


def penalty_nuclear(x: ArrayLike, lam: Any = None) -> Array:
  r"""The nuclear norm: the sum of the singular values.

  Computes g(X) = lam sum_i s_i(X), summed over a batch.

  Args:
    x: float[..., m, n] or complex array; leading axes are a batch of matrices.
    lam: >= 0 as in ``prox_nuclear``.

  Returns:
    float scalar.

  Raises:
    TypeError: when ``x`` is no floating-point array.
    ValueError: when ``x`` is no matrix, a strength is negative, or shapes do not fit.

  Note:
    The gradient is lam U V^T over the non-zero singular values.

  Example:
    >>> float(penalty_nuclear(jnp.diag(jnp.array([3.0, -0.5])), 2.0))
    7.0

  Reference:
    Fazel, Matrix rank minimization with applications, 2002.
  """
  return _NUCLEAR.value(x, lam)


def prox_schatten(x: ArrayLike, hyperparams: Any, scaling: ArrayLike = 1.0) -> Array:
  r"""Proximal operator of a power between 0 and 1 of the singular values.

  Solves argmin_Y 1/2 ||Y - X||_F^2 + scaling * lam sum_i s_i(Y)^p, by
  Y = U diag(prox_lq(s)) V^T for X = U diag(s) V^T, with ``prox_lq`` of power p.

  Args:
    x: float[..., m, n] or complex array; leading axes are a batch of matrices.
    hyperparams: pair (lam, p): lam >= 0 and p in (0, 1), each a scalar or an array of the shape of
      the batch; may be traced.
    scaling: >= 0, the step size; may be traced.

  Returns:
    An array of the shape and dtype of ``x``. One NaN makes its matrix NaN.

  Raises:
    TypeError: when ``x`` is no floating-point array.
    ValueError: when ``x`` is no matrix, ``hyperparams`` is no pair, a strength or the scaling is
      negative, p is outside (0, 1), or shapes do not fit.

  Note:
    p = 1 is ``prox_nuclear``; for p = 1/2 and 2/3 the closed forms
    ``make_spectral_penalty(prox.half)`` and ``make_spectral_penalty(prox.two_thirds)`` save the
    Newton steps. Not continuous: a singular value that crosses the threshold jumps.

  Example:
    >>> prox_schatten(jnp.diag(jnp.array([4.0, 1.0])), (1.0, 0.5)).round(3)
    Array([[3.742, 0.   ],
           [0.   , 0.   ]], dtype=float32)

  Reference:
    Marjanovic and Solo, On lq optimization and matrix completion, 2012.
  """
  return _SCHATTEN.prox(x, hyperparams, scaling)


def penalty_schatten(x: ArrayLike, hyperparams: Any) -> Array:
  r"""The p-th power of a Schatten quasi-norm, 0 < p < 1.

  Computes g(X) = lam sum_i s_i(X)^p, summed over a batch.

  Args:
    x: float[..., m, n] or complex array; leading axes are a batch of matrices.
    hyperparams: pair (lam, p) as in ``prox_schatten``.

  Returns:
    float scalar.

  Raises:
    TypeError: when ``x`` is no floating-point array.
    ValueError: when ``x`` is no matrix, ``hyperparams`` is no pair, a strength is negative, p is
      outside (0, 1), or shapes do not fit.

  Note:
    Singular values below the rounding of the largest, max(m, n) eps s_1, count as 0.

  Example:
    >>> float(penalty_schatten(jnp.diag(jnp.array([4.0, 0.0])), (0.5, 0.5)))
    1.0

  Reference:
    Marjanovic and Solo, On lq optimization and matrix completion, 2012.
  """
  return _SCHATTEN.value(x, hyperparams)


def prox_rank(x: ArrayLike, lam: Any = None, scaling: ArrayLike = 1.0) -> Array:
  r"""Proximal operator of the rank: singular values up to a threshold are dropped.

  Solves argmin_Y 1/2 ||Y - X||_F^2 + scaling * lam rank(Y), by
  Y = U diag(s 1[s > sqrt(2 scaling lam)]) V^T for X = U diag(s) V^T.

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
    Not continuous: at s_i = sqrt(2 scaling lam) both values are minimisers and 0 is taken.

  Example:
    >>> prox_rank(jnp.diag(jnp.array([3.0, 1.0])), 1.0)
    Array([[3., 0.],
           [0., 0.]], dtype=float32)

  Reference:
    Eckart and Young, The approximation of one matrix by another of lower rank, 1936.
  """
  return _RANK.prox(x, lam, scaling)


def penalty_rank(x: ArrayLike, lam: Any = None) -> Array:
  r"""The rank of a matrix.

  Computes g(X) = lam |{i : s_i(X) > 0}|, summed over a batch.

  Args:
    x: float[..., m, n] or complex array; leading axes are a batch of matrices.
    lam: >= 0 as in ``prox_rank``.

  Returns:
    float scalar.

  Raises:
    TypeError: when ``x`` is no floating-point array.
    ValueError: when ``x`` is no matrix, a strength is negative, or shapes do not fit.

  Note:
    Singular values below the rounding of the largest, max(m, n) eps s_1, count as 0, as in
    ``jnp.linalg.matrix_rank``.

  Example:
    >>> float(penalty_rank(jnp.ones((3, 2)), 0.5))
    0.5

  Reference:
    Fazel, Matrix rank minimization with applications, 2002.
  """
  return _RANK.value(x, lam)


nuclear = Penalty(penalty_nuclear, prox_nuclear)
schatten = Penalty(penalty_schatten, prox_schatten, convex=False)
rank = Penalty(penalty_rank, prox_rank, convex=False)
