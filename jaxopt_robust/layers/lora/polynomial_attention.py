r"""Softmax attention in time linear in the tokens, forward and backward, while logits are small.

Every factor of the chain rule of softmax attention is of low rank where the softmax matrix is.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.layers._tokens import check_same, dot, tokens, transposed
from jaxopt_robust.layers.lora.polynomial_softmax import (
  PolynomialSoftmaxInfo,
  check_queries_and_keys,
  factors_of,
)
from jaxopt_robust.numerics import upcast
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["factored_attention_vjp", "polynomial_attention"]


def pull_back(left: Array, right: Array, qkv: tuple[Array, Array, Array], g: Array) -> tuple:
  """Gradients by q, k, v of <g, f v>, f = left right^T taken for the softmax of q k^T."""
  q, k, v = qkv
  attend = lambda u, w, x: dot(u, dot(transposed(w), x))
  pairs = lambda x, y: (x[..., :, None] * y[..., None, :]).reshape(*x.shape[:-1], -1)

  def product(u: Array, w: Array, rows: Array, columns: Array, x: Array) -> Array:
    """((u w^T) o (rows columns^T)) x, the product of low rank that the chain rule has."""
    spread = dot(u, dot(transposed(w), pairs(columns, x)))
    spread = spread.reshape(*u.shape[:-1], columns.shape[-1], x.shape[-1])
    return jnp.sum(rows[..., :, None] * spread, axis=-2)

  # d/dlogits = f o (g v^T) - diag(totals) f, the totals being the sums of the rows of f o (g v^T).
  totals = jnp.sum(g * attend(left, right, v), axis=-1, keepdims=True)
  dq = product(left, right, g, v, k) - totals * attend(left, right, k)
  dk = product(right, left, v, g, q) - attend(right, left, totals * q)
  return dq, dk, attend(right, left, g)


def factored_attention_vjp(
  factors: tuple[ArrayLike, ArrayLike],
  qkv: tuple[ArrayLike, ArrayLike, ArrayLike],
  cotangent: ArrayLike,
) -> tuple[Array, Array, Array]:
  r"""Gradients of <g, softmax(q k^T) v> by q, k and v, with the softmax given as two factors.

  With f = left right^T and w = f o (g v^T), whose factors are the row-wise Kronecker products of
  left with g and of right with v, and p = w - diag(w 1) f:

    dq = p k,    dk = p^T q,    dv = f^T g.

  With left = softmax(q k^T) and right = I these are the exact gradients.

  Args:
    factors: (left float[..., n, r], right float[..., m, r]).
    qkv: (q float[..., n, e], k float[..., m, e], v float[..., m, h]); the logits are q k^T.
    cotangent: float[..., n, h], g: the gradient by the outputs, f v - y for 1/2 ||f v - y||_F^2.

  Returns:
    (dq, dk, dv) of the shapes of q, k and v, float32 at least. O((n + m) r e h), and nothing of
    size n x m is formed.

  Raises:
    TypeError: an array is not floating-point.
    ValueError: shapes do not fit.

  Note:
    p 1 = 0 where the rows of f sum to 1. For factors that only approximate the softmax this is not
    the gradient of any output: it is the gradient of the softmax with f put in its place.

  Example:
    >>> q, v = jnp.array([[1.0], [0.0]]), jnp.array([[1.0], [3.0]])
    >>> f = jax.nn.softmax(q @ q.T, axis=-1)
    >>> exact = jax.grad(lambda q: jnp.sum(jax.nn.softmax(q @ v.T, axis=-1) @ v))(q)
    >>> f = jax.nn.softmax(q @ v.T, axis=-1)
    >>> dq, _, _ = factored_attention_vjp((f, jnp.eye(2)), (q, v, v), jnp.ones((2, 1)))
    >>> bool(jnp.allclose(dq, exact))
    True

  Reference:
    Hu, Su, Kuo, Song and Liu, Computational limits of low-rank adaptation (LoRA) fine-tuning for
    transformer models, 2024, section 3 (chained low-rank structure).
  """
  left, right = _arguments.parts(factors, "left", "right", name="factors")
  q, k, v = _arguments.parts(qkv, "q", "k", "v", name="qkv")
  with _arguments.within("factors"):
    left, right = tokens(left=left, right=right)
    check_same("right", right, "left", left, -1)
  with _arguments.within("qkv"):
    q, k, v = tokens(q=q, k=k, v=v)
    check_same("k", k, "q", q, -1)
    check_same("v", v, "k", k, -2)
    check_same("q", q, "left", left, -2)
    check_same("k", k, "right", right, -2)
  _, g = tokens(qkv=q, cotangent=cotangent)
  check_same("cotangent", g, "q", q, -2)
  check_same("cotangent", g, "v", v, -1)
  if left.shape[:-2] != q.shape[:-2]:
    raise ValueError(
      f"factors must have the leading axes of q, {q.shape[:-2]}; got shape {left.shape}."
    )
  left, right, q, k, v, g = (upcast(a) for a in (left, right, q, k, v, g))
  return pull_back(left, right, (q, k, v), g)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def _attend(
  q: Array, k: Array, v: Array, bound: Any, degree: int, series: str
) -> tuple[Array, PolynomialSoftmaxInfo]:
  return _attend_forward(q, k, v, bound, degree, series)[0]


def _attend_forward(
  q: Array, k: Array, v: Array, bound: Any, degree: int, series: str
) -> tuple[tuple[Array, PolynomialSoftmaxInfo], tuple]:
  found = factors_of(q, k, bound, degree, series)
  out = dot(found.left, dot(transposed(found.right), v))
  return (out, found.info), (found.left, found.right, (q, k, v), bound)


def _attend_backward(degree: int, series: str, kept: tuple, cotangents: tuple) -> tuple:
  left, right, qkv, bound = kept
  return *pull_back(left, right, qkv, cotangents[0]), jax.tree.map(jnp.zeros_like, bound)


_attend.defvjp(_attend_forward, _attend_backward)


def polynomial_attention(
  q: ArrayLike,
  k: ArrayLike,
  v: ArrayLike,
  *,
  degree: int = 4,
  series: str = "taylor",
  beta: ArrayLike | None = None,
  bound: ArrayLike | None = None,
) -> tuple[Array, PolynomialSoftmaxInfo]:
  r"""Softmax attention, nearly, in time linear in the tokens, forward and backward.

  Computes left (right^T v) with the factors of ``softmax_poly_factors`` for softmax(beta q k^T).
  Its derivative is ``factored_attention_vjp`` with the same factors: it approximates that of
  softmax attention as well as the output does, and is not the derivative of the approximation.

  Args:
    q: float[..., n, e], queries; heads and examples are leading axes.
    k: float[..., m, e].
    v: float[..., m, h].
    degree: >= 1, static.
    series: ``"taylor"`` or ``"chebyshev"``; static.
    beta: number that multiplies the logits, e^(-1/2) by default; may be traced.
    bound: R > 0, a bound of |beta q_i.k_j| that you know, as in ``exponential_features``; may be
      traced.

  Returns:
    (float[..., n, h] in the dtype of ``v``, ``PolynomialSoftmaxInfo``), computed in float32 at
    least. Look at ``info.valid``: with larger logits the output is useless.

  Raises:
    TypeError: an array is not floating-point, or ``degree`` no static integer.
    ValueError: shapes do not fit, an option is unknown, a number is out of range, or there would be
      more than 20,000 features.

  Note:
    O((n + m) r (e + 1) h), r = C(e + degree, degree): for heads of size 8 at most at degree 4, and
    many more tokens than r e. Without a mask. Reverse mode only. Differentiating
    ``softmax_poly_factors`` instead gives the derivative of the approximation, whose series is of
    one degree less.

  Example:
    >>> x = jnp.array([[0.5, 0.1], [-0.2, 0.3], [0.1, -0.4]])
    >>> out, info = polynomial_attention(x, x, x)
    >>> exact = jax.nn.softmax(x @ x.T / jnp.sqrt(2.0), axis=-1) @ x
    >>> bool(info.valid), bool(jnp.abs(out - exact).max() < 1e-5)
    (True, True)

  Reference:
    Hu, Su, Kuo, Song and Liu, Computational limits of low-rank adaptation (LoRA) fine-tuning for
    transformer models, 2024, theorems 3.1 and A.1.
  """
  queries, keys, degree = check_queries_and_keys(q, k, degree, series, bound)
  _, values = tokens(k=k, v=v)
  check_same("v", values, "k", keys, -2)
  dtype = jnp.promote_types(queries.dtype, upcast(values).dtype)
  scaled = queries.astype(dtype) * as_beta(beta, queries.shape[-1]).astype(dtype)
  limit = None if bound is None else jnp.asarray(bound, dtype)
  out, info = _attend(scaled, keys.astype(dtype), values.astype(dtype), limit, degree, series)
  return out.astype(values.dtype), info


def as_beta(beta: ArrayLike | None, size: int) -> Array:
  """The factor of the logits, by default of heads of this size."""
  return _checks.check_float_array("beta", size**-0.5 if beta is None else beta, rank=0)
