"""Functions of singular values and eigenvalues whose derivatives survive repeated values.

The derivative of a decomposition is infinite where two values meet; that of a function of the
values is not. The rules here are divided differences of the function, with its slope at ties.
Second derivatives go through the decomposition with the infinite terms left out: they are exact
where the values differ and finite elsewhere.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust.typing import Array

# fun(values[k], *params) -> [k], equivariant to permutations of the values
ValueMap = Callable[..., Array]


def _top(values: Array) -> Array:
  return jax.lax.stop_gradient(jnp.max(jnp.abs(values)))


def _rounding(values: Array, size: int) -> Array:
  """Error bound of computed singular values or eigenvalues of a matrix with ``size`` rows."""
  return size * jnp.finfo(values.dtype).eps * _top(values)


def clean(values: Array, size: int) -> Array:
  """Sets values that are rounding errors to 0, with derivative 1."""
  small = jnp.abs(values) <= _rounding(values, size)
  return values - jax.lax.stop_gradient(jnp.where(small, values, 0))


def adjoint(x: Array) -> Array:
  """The conjugate transpose."""
  return x.conj().T


def _outer(op: Callable[[Array, Array], Array], a: Array, b: Array) -> Array:
  return op(a[:, None], b[None, :])


def _safe_ratio(numerator: Array, denominator: Array, default: Array, is_default: Array) -> Array:
  return jnp.where(is_default, default, numerator / jnp.where(is_default, 1, denominator))


def _differences(values: Array, images: Array, jacobian: Array, size: int) -> Array:
  """(f_i - f_j) / (v_i - v_j), [k, k], with the slope of ``fun`` at ties, 0 on the diagonal.

  Ties are values that rounding cannot tell apart, and values so near that the quotient has lost
  half of its digits while the slopes at both agree (no kink lies between them).
  """
  half_the_digits = jnp.sqrt(jnp.finfo(values.dtype).eps)
  own = jnp.diagonal(jacobian)
  slopes = own[:, None] - jacobian  # for a separable fun just its derivative at v_i
  gap = jnp.abs(_outer(jnp.subtract, values, values))
  near = gap <= half_the_digits * _top(values)
  smooth = jnp.abs(slopes - slopes.T) <= half_the_digits
  tie = (gap <= _rounding(values, size)) | (near & smooth)
  quotient = _safe_ratio(
    _outer(jnp.subtract, images, images),
    _outer(jnp.subtract, values, values),
    (slopes + slopes.T) / 2,
    tie,
  )
  return jnp.where(jnp.eye(values.size, dtype=bool), 0, quotient)


def _jacobian(fun: ValueMap, values: Array, params: tuple) -> Array:
  return jax.jacfwd(lambda v: fun(v, *params))(values)


def _by_params(fun: Callable[..., Array], values: Array, params: tuple, tangents: tuple) -> Array:
  """Derivative of ``fun(values, *params)`` by the parameters alone."""
  return jax.jvp(lambda *p: fun(values, *p), params, tangents)[1]


@jax.custom_jvp
def _svd(x: Array) -> tuple[Array, Array, Array]:
  u, s, vt = jnp.linalg.svd(x, full_matrices=False)
  return u, s, adjoint(vt)


@_svd.defjvp
def _svd_rule(primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
  (x,), (h,) = primals, tangents
  u, s, v = _svd(x)
  p = adjoint(u) @ h @ v
  rounding = _rounding(s, max(x.shape))
  difference, total = _outer(jnp.subtract, s, s), _outer(jnp.add, s, s)
  tied, null = jnp.abs(difference) <= rounding, total <= rounding
  # Both rotations: their sum meets the difference of two values, their difference the sum.
  both = -_safe_ratio((p + adjoint(p)) / 2, difference, jnp.zeros_like(p), tied)
  apart = _safe_ratio((p - adjoint(p)) / 2, total, jnp.zeros_like(p), null)
  du, dv = u @ (both + apart), v @ (both - apart)
  inverse = _safe_ratio(jnp.ones_like(s), s, jnp.zeros_like(s), s <= rounding)
  if x.shape[0] > x.shape[1]:
    du += (h @ v - u @ p) * inverse[None, :]
  if x.shape[0] < x.shape[1]:
    dv += (adjoint(h) @ u - v @ adjoint(p)) * inverse[None, :]
  return (u, s, v), (du, jnp.diagonal(p).real, dv)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def singular_map(fun: ValueMap, x: Array, *params: Any) -> Array:
  """U diag(fun(s, *params)) V^H for x = U diag(s) V^H, real or complex [m, n]; s falls.

  fun(0) = 0 unless x has full rank: else the derivative is that of one choice of U and V.
  """
  u, s, v = _svd(x)
  return (u * fun(s, *params)[None, :]) @ adjoint(v)


@singular_map.defjvp
def _singular_map_rule(fun: ValueMap, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
  (x, *params), (h, *dparams) = primals, tangents
  size = max(x.shape)
  u, s, v = _svd(x)
  f = fun(s, *params)
  jacobian = _jacobian(fun, s, tuple(params))
  slopes = jnp.diagonal(jacobian)
  rounding = _rounding(s, size)
  total = _outer(jnp.add, s, s)
  sums = _safe_ratio(
    _outer(jnp.add, f, f), total, _outer(jnp.add, slopes, slopes) / 2, total <= rounding
  )
  p = adjoint(u) @ h @ v
  inner = _differences(s, f, jacobian, size) * (p + adjoint(p)) / 2 + sums * (p - adjoint(p)) / 2
  diagonal = jacobian @ jnp.diagonal(p).real + _by_params(fun, s, tuple(params), tuple(dparams))
  out = u @ (inner + jnp.diag(diagonal)) @ adjoint(v)
  ratio = _safe_ratio(f, s, slopes, s <= rounding)
  if x.shape[0] > x.shape[1]:
    out += ((h @ v - u @ p) * ratio[None, :]) @ adjoint(v)
  if x.shape[0] < x.shape[1]:
    out += (u * ratio[None, :]) @ (adjoint(u) @ h - p @ adjoint(v))
  return (u * f[None, :]) @ adjoint(v), out


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def singular_sum(fun: Callable[..., Array], x: Array, *params: Any) -> Array:
  """The scalar fun(s, *params) of the singular values s of x, whatever their order."""
  return fun(jnp.linalg.svd(x, compute_uv=False), *params)


@singular_sum.defjvp
def _singular_sum_rule(fun: Callable, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
  (x, *params), (h, *dparams) = primals, tangents
  gradient = singular_map(partial(_gradient_of, fun, max(x.shape)), x, *params)
  by_params = singular_sum(partial(_by_params_of, fun), x, tuple(params), tuple(dparams))
  return singular_sum(fun, x, *params), jnp.sum(jnp.conj(gradient) * h).real + by_params


def _gradient_of(fun: Callable, size: int, values: Array, *params: Any) -> Array:
  """Gradient of ``fun``, 0 at values that are rounding errors: their directions are arbitrary."""
  slope = jax.grad(fun)(values, *params)
  at_zero = jax.grad(fun)(values, *jax.lax.stop_gradient(params))
  small = jnp.abs(values) <= _rounding(values, size)
  return jnp.where(small, at_zero - jax.lax.stop_gradient(at_zero), slope)


def _by_params_of(fun: Callable, values: Array, params: tuple, tangents: tuple) -> Array:
  return _by_params(fun, values, params, tangents)


@jax.custom_jvp
def _eigh(x: Array) -> tuple[Array, Array]:
  w, q = jnp.linalg.eigh(x)
  return w, q


@_eigh.defjvp
def _eigh_rule(primals: tuple, tangents: tuple) -> tuple[tuple, tuple]:
  (x,), (h,) = primals, tangents
  w, q = _eigh(x)
  p = q.T @ h @ q
  difference = _outer(jnp.subtract, w, w)
  tied = jnp.abs(difference) <= _rounding(w, w.size)
  dq = -q @ _safe_ratio(p, difference, jnp.zeros_like(p), tied)
  return (w, q), (jnp.diagonal(p), dq)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def eigen_map(fun: ValueMap, x: Array, *params: Any) -> Array:
  """Q diag(fun(w, *params)) Q^T for a symmetric x = Q diag(w) Q^T, float[n, n]."""
  w, q = _eigh(x)
  return (q * fun(w, *params)[None, :]) @ q.T


@eigen_map.defjvp
def _eigen_map_rule(fun: ValueMap, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
  (x, *params), (h, *dparams) = primals, tangents
  w, q = _eigh(x)
  f = fun(w, *params)
  jacobian = _jacobian(fun, w, tuple(params))
  p = q.T @ h @ q
  inner = _differences(w, f, jacobian, w.size) * p
  diagonal = jacobian @ jnp.diagonal(p) + _by_params(fun, w, tuple(params), tuple(dparams))
  return (q * f[None, :]) @ q.T, q @ (inner + jnp.diag(diagonal)) @ q.T


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def eigen_sum(fun: Callable[..., Array], x: Array, *params: Any) -> Array:
  """The scalar fun(w, *params) of the eigenvalues w of a symmetric x, whatever their order."""
  return fun(jnp.linalg.eigvalsh(x), *params)


@eigen_sum.defjvp
def _eigen_sum_rule(fun: Callable, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
  (x, *params), (h, *dparams) = primals, tangents
  gradient = eigen_map(jax.grad(fun), x, *params)
  by_params = eigen_sum(partial(_by_params_of, fun), x, tuple(params), tuple(dparams))
  return eigen_sum(fun, x, *params), jnp.sum(gradient * h) + by_params


def over_batch(one: Callable[..., Array], x: Array, *params: Any) -> Array:
  """``one(matrix, *params)`` for every matrix in the last two axes of ``x``.

  Leaves of the parameters are scalars, or hold one number a matrix.
  """
  batch = x.shape[:-2]
  if not batch:
    return one(x, *params)
  # Not one nested vmap an axis: one call of a batched decomposition.
  leaves, treedef = jax.tree.flatten(params)
  axes = [0 if jnp.ndim(leaf) else None for leaf in leaves]
  flat = [jnp.ravel(leaf) if jnp.ndim(leaf) else leaf for leaf in leaves]
  mapped = jax.vmap(lambda m, *p: one(m, *jax.tree.unflatten(treedef, p)), (0, *axes))
  out = mapped(x.reshape(-1, *x.shape[-2:]), *flat)
  return out.reshape(*batch, *out.shape[1:])
