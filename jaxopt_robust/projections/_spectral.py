"""Functions of singular values and eigenvalues, differentiable where these repeat."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust.projections._common import over
from jaxopt_robust.typing import Array


def _inverse_gap(values: Array) -> Array:
  """1 / (values_j - values_i), 0 where they (nearly) agree."""
  gap = values[None, :] - values[:, None]
  floor = jnp.sqrt(jnp.finfo(values.dtype).eps) * jnp.max(jnp.abs(values))
  far = jnp.abs(gap) > floor
  return jnp.where(far, 1 / jnp.where(far, gap, 1), 0)


def _sym(matrix: Array) -> Array:
  return (matrix + matrix.T) / 2


def divided_difference(fun: Callable[..., Array], values: Array, *params: Any) -> Array:
  """(f_i - f_j) / (v_i - v_j) for f = fun(values), its limit J_ii - J_ij where values agree."""
  out = fun(values, *params)
  gap = values[:, None] - values[None, :]
  # Below this gap the quotient has lost half of its digits; the limit errs by as little.
  floor = jnp.sqrt(jnp.finfo(values.dtype).eps) * jnp.max(jnp.abs(values))
  far = jnp.abs(gap) > floor
  jacobian = jax.jacfwd(fun)(values, *params)
  limit = _sym(jnp.diagonal(jacobian)[:, None] - jacobian)
  return jnp.where(far, (out[:, None] - out[None, :]) / jnp.where(far, gap, 1), limit)


@jax.custom_jvp
def _eigh(x: Array) -> tuple[Array, Array]:
  values, vectors = jnp.linalg.eigh(x)
  return values, vectors


@_eigh.defjvp
def _eigh_rule(primals: tuple, tangents: tuple) -> tuple:
  """The usual rule with 0 for the undefined rotations among equal eigenvalues."""
  (x,), (dx,) = primals, tangents
  values, vectors = _eigh(x)
  inner = vectors.T @ _sym(dx) @ vectors
  return (values, vectors), (jnp.diagonal(inner), vectors @ (_inverse_gap(values) * inner))


@jax.custom_jvp
def _svd(x: Array) -> tuple[Array, Array, Array]:
  left, values, right = jnp.linalg.svd(x, full_matrices=False)
  return left, values, right.T


@_svd.defjvp
def _svd_rule(primals: tuple, tangents: tuple) -> tuple:
  """The usual rule with 0 for the undefined rotations among equal and vanishing values."""
  (x,), (dx,) = primals, tangents
  left, values, right = _svd(x)
  inner = left.T @ dx @ right
  gap = _inverse_gap(values * values)
  du = left @ (gap * (inner * values[None, :] + values[:, None] * inner.T))
  dv = right @ (gap * (values[:, None] * inner + inner.T * values[None, :]))
  du = du + over(dx @ right - left @ inner, jnp.broadcast_to(values[None, :], left.shape))
  dv = dv + over(dx.T @ left - right @ inner.T, jnp.broadcast_to(values[None, :], right.shape))
  return (left, values, right), (du, jnp.diagonal(inner), dv)


def eigen_map(fun: Callable[..., Array], x: Array, *params: Any) -> Array:
  """Q diag(fun(w)) Q^T of the symmetric part of ``x`` = Q diag(w) Q^T.

  Args:
    fun: ``fun(w, *params) -> float[n]``, equivariant under permutations.
    x: float[n, n].
    *params: float arrays.

  Returns:
    float[n, n], symmetric.
  """
  return _eigen(fun, _sym(x), *params)


def _eigen(fun: Callable[..., Array], x: Array, *params: Any) -> Array:
  @jax.custom_jvp
  def apply(x: Array, *params: Any) -> Array:
    values, vectors = _eigh(x)
    return (vectors * fun(values, *params)[None, :]) @ vectors.T

  @apply.defjvp
  def _rule(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    x, *params = primals
    values, vectors = _eigh(x)
    inner = vectors.T @ tangents[0] @ vectors
    eye = jnp.eye(values.shape[0], dtype=bool)
    out, change = jax.jvp(fun, (values, *params), (jnp.diagonal(inner), *tangents[1:]))
    middle = jnp.where(eye, 0, divided_difference(fun, values, *params) * inner)
    middle = middle + jnp.diag(change)
    return (vectors * out[None, :]) @ vectors.T, vectors @ middle @ vectors.T

  return apply(x, *params)


def spectral_map(fun: Callable[..., Array], x: Array, *params: Any) -> Array:
  """U diag(fun(s)) V^T of ``x`` = U diag(s) V^T, s in falling order.

  The tangent along H, with P = U^T H V, is U (G1 o sym P + G2 o skew P) V^T plus the parts of H off
  the singular spaces times f / s; G1_ij = (f_i - f_j) / (s_i - s_j), G2_ij = (f_i + f_j) / (s_i +
  s_j), which stay finite where singular values repeat.

  Args:
    fun: ``fun(s, *params) -> float[k]``, equivariant under permutations, 0 at 0 unless ``x`` has
      full rank.
    x: float[m, n], k = min(m, n).
    *params: float arrays.

  Returns:
    float[m, n].
  """

  @jax.custom_jvp
  def apply(x: Array, *params: Any) -> Array:
    left, values, right = _svd(x)
    return (left * fun(values, *params)[None, :]) @ right.T

  @apply.defjvp
  def _rule(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    x, *params = primals
    left, values, right = _svd(x)
    h = tangents[0]
    inner = left.T @ h @ right
    eye = jnp.eye(values.shape[0], dtype=bool)
    out, change = jax.jvp(fun, (values, *params), (jnp.diagonal(inner), *tangents[1:]))
    first = divided_difference(fun, values, *params)
    # Where singular values vanish together f behaves like its odd extension: the same limit.
    total = values[:, None] + values[None, :]
    small = total <= jnp.finfo(values.dtype).eps * max(x.shape) * jnp.max(values)
    second = (out[:, None] + out[None, :]) / jnp.where(small, 1, total)
    second = jnp.where(small, first, second)
    middle = jnp.where(eye, 0, first * _sym(inner) + second * (inner - inner.T) / 2)
    middle = middle + jnp.diag(change)
    tangent = left @ middle @ right.T
    tiny = jnp.diagonal(small)
    ratio = jnp.where(tiny, jnp.diagonal(first), out / jnp.where(tiny, 1, values))
    slopes = jnp.diagonal(jax.jacfwd(fun)(values, *params))
    ratio = jnp.where(tiny, slopes, ratio)
    tangent = tangent + ((h @ right - left @ inner) * ratio[None, :]) @ right.T
    tangent = tangent + (left * ratio[None, :]) @ (left.T @ h - inner @ right.T)
    return (left * out[None, :]) @ right.T, tangent

  return apply(x, *params)
