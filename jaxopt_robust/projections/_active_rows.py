"""The active rows of a polyhedron: an orthonormal basis of their span and its triangle.

Rows are added at the end and taken out anywhere; rotations restore the triangle (Lawson and Hanson,
Solving least squares problems, 1974, chapter 24).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust.numerics import safe_divide
from jaxopt_robust.typing import Array


class Active(NamedTuple):
  """Active rows and what is known of them; k <= min(m, n) slots, the first ``size`` are filled.

  Attributes:
    held: int32[k] rows, m in empty slots.
    size: int32 number of active rows.
    factor: float[k, n + k], a basis beside a triangle: orthonormal rows that span the active rows,
      and the upper triangle with rows^T = basis^T @ triangle. One array, since rotations treat both
      alike. Empty slots have 0 in the basis and 1 on the diagonal.
    dual: float[k] multipliers.
    dual_low: float[k] their further digits.
  """

  held: Array
  size: Array
  factor: Array
  dual: Array
  dual_low: Array


def parts(factor: Array) -> tuple[Array, Array]:
  """Basis float[k, n] and triangle float[k, k]."""
  n = factor.shape[1] - factor.shape[0]
  return factor[:, :n], factor[:, n:]


def empty(none: int, n: int, dtype: Any) -> Active:
  """No active rows of ``none``."""
  k = min(none, n)
  zero = jnp.zeros((k,), dtype)
  return Active(
    jnp.full((k,), none, jnp.int32), jnp.zeros((), jnp.int32), jnp.eye(k, n + k, n, dtype=dtype),
    zero, zero,
  )  # fmt: skip


def solve_triangle(triangle: Array, rhs: Array, *, transpose: bool = False) -> Array:
  """Solves triangle y = rhs."""
  trans = 1 if transpose else 0
  return jax.scipy.linalg.solve_triangular(triangle, rhs[:, None], trans=trans)[:, 0]


def solve_with_factor(factor: Array, r1: Array, r2: Array) -> tuple[Array, Array]:
  """Solves p + rows^T dual = r1, rows p = r2, where r2 is 0 in empty slots."""
  basis, triangle = parts(factor)
  y = solve_triangle(triangle, r2, transpose=True)
  along = basis @ r1
  return basis.T @ (y - along) + r1, solve_triangle(triangle, along - y)


def append_if(
  adds: Array, a: Active, row: Array, along: Array, across: Array, weight: Array
) -> Active:
  """Adds a row = basis^T @ along + across where the flag says so."""
  k, n = a.held.shape[0], across.shape[0]
  length = jnp.linalg.norm(across)
  here = adds & (jnp.arange(k) == a.size)
  new_row = jnp.concatenate([across / length, jnp.zeros_like(along)])
  new_column = jnp.where(here, length, along)
  factor = jnp.where(here[:, None], new_row[None, :], a.factor)
  in_column = adds & (jnp.arange(n + k) == n + a.size)
  factor = jnp.where(in_column[None, :], new_column[:, None], factor)
  return Active(
    jnp.where(here, row, a.held), a.size + adds, factor,
    jnp.where(here, weight, a.dual), jnp.where(here, 0, a.dual_low),
  )  # fmt: skip


def remove(a: Active, slot: Array, none: int) -> Active:
  """Takes the row in a slot <= size out, the last of which is empty; rotates to a triangle."""
  k = a.held.shape[0]
  n = a.factor.shape[1] - k
  last = a.size - (slot < a.size)
  at = jnp.arange(k)
  row, column = at[:, None], jnp.arange(-n, k)[None, :]

  def shift(array: Array, fill: int = 0) -> Array:
    return jnp.where(at < last, jnp.where(at < slot, array, jnp.roll(array, -1)), fill)

  def rotate(i: Array, factor: Array) -> Array:
    upper, lower = jax.lax.dynamic_slice_in_dim(factor, i, 2, axis=0)
    x, y = upper[n + i], lower[n + i]
    size = jnp.hypot(x, y)
    c, s = safe_divide(x, size, default=1.0), safe_divide(y, size)
    pair = jnp.stack([c * upper + s * lower, c * lower - s * upper])
    return jax.lax.dynamic_update_slice_in_dim(factor, pair, i, axis=0)

  factor = jnp.where(column < slot, a.factor, jnp.roll(a.factor, -1, axis=1))
  if k > 1:
    factor = jax.lax.fori_loop(slot, last, rotate, factor)
  known = (row < last) & ((column < 0) | (row <= column) & (column < last))
  factor = jnp.where(known, factor, (row == column).astype(factor.dtype))
  return Active(shift(a.held, none), last, factor, shift(a.dual), shift(a.dual_low))
