"""Inverses of small matrices by products alone, with a derivative that does not see the loop."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.numerics import safe_divide, upcast
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["NewtonInverseInfo", "newton_inverse"]


class NewtonInverseInfo(NamedTuple):
  """How good an inverse is.

  Attributes:
    error: float[...], ||I - (A + ridge I) Y||_F / sqrt(n): 0 for the inverse, sqrt(k/n) where k
      directions of A are too small to be inverted, NaN where A is not finite.

  Example:
    >>> NewtonInverseInfo._fields
    ('error',)

  Reference:
    Pan and Reif, Efficient parallel solution of linear systems, 1985.
  """

  error: Array


def newton_inverse(
  matrix: ArrayLike, *, num_iters: int = 20, ridge: ArrayLike = 0.0, safety: ArrayLike = 0.9
) -> tuple[Array, NewtonInverseInfo]:
  r"""Inverses of a batch of matrices by Newton's iteration (Schulz, Hotelling, Ben-Israel).

  With P = A + ridge I,

    Y_0 = 2 safety P^T / (||P||_1 ||P||_inf),  Y_{k+1} = 2 Y_k - Y_k P Y_k,

  which in terms of the singular values s of P is, after K iterations,

    Y_K = V diag((1 - (1 - a s^2)^(2^K)) / s) U^T,  a = 2 safety / (||P||_1 ||P||_inf):

  a smooth pseudo-inverse. It is the inverse to 1e-7 in directions whose s exceeds 3 2^(-K/2) times
  sqrt(||P||_1 ||P||_inf), 0.003 times for 20 iterations, and goes to 0 for smaller ones.

  Args:
    matrix: float[..., n, n], A; any matrices, each with a scale of its own.
    num_iters: K >= 0, static.
    ridge: >= 0, a scalar, added to the diagonal, which makes sense for positive semidefinite A; may
      be traced.
    safety: in (0, 1], a scalar; may be traced. With 1 a matrix of constant row sums and rank one
      (all ones) has the iterates 0, the inverse of nothing.

  Returns:
    (float[..., n, n], ``NewtonInverseInfo``), the inverse in the dtype of ``matrix``; for half
    precision it is computed in float32.

  Raises:
    TypeError: ``matrix`` is not floating-point, or ``num_iters`` not a static integer.
    ValueError: matrices that are not square, not finite, or a number out of range.

  Note:
    The derivative is dY = -Y dA Y, two products whatever K is, in forward and reverse mode and of
    any order: that of the inverse, exact where ``info.error`` is small, and not that of the smooth
    pseudo-inverse where it is not. ``info`` has derivative 0.

  Example:
    >>> inverse, info = newton_inverse(jnp.array([[2.0, 1.0], [0.0, 4.0]]))
    >>> inverse.round(4), bool(info.error < 1e-6)
    (Array([[ 0.5  , -0.125],
           [ 0.   ,  0.25 ]], dtype=float32), True)

  Reference:
    Schulz, Iterative Berechnung der reziproken Matrix, 1933; the start: Pan and Reif, Efficient
    parallel solution of linear systems, 1985 (recalled, not verified); 20 iterations and 0.9 as in
    Lu, Yao, Zhang, Zhu, Xu, Gao, Xu, Xiang and Zhang, SOFT: softmax-free transformer with linear
    complexity, 2021.
  """
  array = _checks.check_float_array("matrix", matrix, min_rank=2)
  if array.shape[-1] != array.shape[-2]:
    raise ValueError(f"matrix must have shape [..., n, n]; got {array.shape}.")
  num_iters = _checks.check_int("num_iters", num_iters, minimum=0)
  _checks.check_non_negative("ridge", ridge, scalar=True)
  _checks.check_interval("safety", safety, 0.0, 1.0, closed="right", scalar=True)
  _checks.check_holds(jnp.isfinite(array), "matrix must be finite; got NaN or infinity.")
  wide = upcast(array)
  shift = _checks.check_array("ridge", ridge, rank=0).astype(wide.dtype)
  factor = _checks.check_array("safety", safety, rank=0).astype(wide.dtype)
  unit = jnp.broadcast_to(jnp.eye(wide.shape[-1], dtype=wide.dtype), wide.shape)
  shifted = wide + shift * unit
  inverse = _iterate(num_iters, shifted, factor)
  misfit = unit - _dot(jax.lax.stop_gradient(shifted), jax.lax.stop_gradient(inverse))
  error = jnp.sqrt(jnp.mean(jnp.sum(misfit**2, axis=-1), axis=-1))
  return inverse.astype(array.dtype), NewtonInverseInfo(error)


def _dot(a: Array, b: Array) -> Array:
  return jnp.matmul(a, b, precision="highest")


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _iterate(num_iters: int, matrix: Array, safety: Array) -> Array:
  columns, rows = (jnp.max(jnp.sum(jnp.abs(matrix), axis), axis=-1) for axis in (-2, -1))
  # Divided by its size, so that powers of very small or large entries stay in range.
  scale = (jnp.sqrt(columns) * jnp.sqrt(rows))[..., None, None]
  scaled = safe_divide(matrix, scale)

  def body(_: int, inverse: Array) -> Array:
    return 2 * inverse - _dot(inverse, _dot(scaled, inverse))

  start = 2 * safety * jnp.swapaxes(scaled, -1, -2)
  return safe_divide(jax.lax.fori_loop(0, num_iters, body, start), scale)


@_iterate.defjvp
def _iterate_jvp(num_iters: int, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
  inverse = _iterate(num_iters, *primals)
  return inverse, -_dot(inverse, _dot(tangents[0], inverse))
