"""Hessians of coordinate descent, read a few rows at a time: matrices, or products of columns."""

from typing import NamedTuple, Protocol

import jax.numpy as jnp

from jaxopt_robust.typing import Array

# What is gathered of many columns is some of so many parts of them.
_PARTS = 4


class Hessian(Protocol):
  """A symmetric positive semi-definite matrix H of size m.

  An epoch holds what it takes to read single entries of the gradient after changes of others:
  ``held`` below. Indices of m or more name no coordinate.
  """

  def diagonal(self) -> Array:
    """float[m]."""

  def blocks(self, members: Array) -> Array:
    """The blocks of groups int[k, q] of coordinates, float[k, q, q]."""

  def product(self, vector: Array) -> Array:
    """H v."""

  def parts(self) -> tuple[int, ...]:
    """Rising numbers of coordinates, the last one all, whose part of H is worth gathering for many
    products; none where that is as dear as they are."""

  def restricted(self, at: Array) -> "Hessian":
    """H of the coordinates ``at``."""

  def hold(self, gradient: Array) -> Array:
    """What an epoch holds at its start."""

  def read(self, held: Array, gradient: Array, at: Array) -> Array:
    """The gradient now, at the coordinates ``at``, of the one at the start."""

  def add(self, held: Array, at: Array, change: Array) -> Array:
    """What is held after the coordinates ``at`` have changed."""

  def release(self, held: Array, gradient: Array) -> Array:
    """The gradient after an epoch."""


def _pick(array: Array, at: Array) -> Array:
  """Rows of an array: one that there is, or several, 0 where there is none."""
  return array[at] if at.ndim == 0 else array.at[at].get(mode="fill", fill_value=0)


class Dense(NamedTuple):
  """H as a matrix float[m, m]; an epoch holds the gradient."""

  matrix: Array

  def diagonal(self) -> Array:
    return jnp.diagonal(self.matrix)

  def blocks(self, members: Array) -> Array:
    return self.matrix.at[members[:, :, None], members[:, None, :]].get(mode="fill", fill_value=0)

  def product(self, vector: Array) -> Array:
    return self.matrix @ vector

  def parts(self) -> tuple[int, ...]:
    return ()

  def restricted(self, at: Array) -> "Dense":
    return Dense(self.blocks(at[None])[0])

  def hold(self, gradient: Array) -> Array:
    return gradient

  def read(self, held: Array, gradient: Array, at: Array) -> Array:
    del gradient
    return _pick(held, at)

  def add(self, held: Array, at: Array, change: Array) -> Array:
    return held + jnp.dot(change, _pick(self.matrix, at))

  def release(self, held: Array, gradient: Array) -> Array:
    del gradient
    return held


class Columns(NamedTuple):
  """H = C diag(s) C^T of columns C float[m, n] and weights s float[n] of the rows of a design: the
  cheaper one of many columns. An epoch holds the change of the predictions, float[n]."""

  columns: Array
  weights: Array

  def diagonal(self) -> Array:
    return self.columns**2 @ self.weights

  def blocks(self, members: Array) -> Array:
    parts = self.columns.at[members].get(mode="fill", fill_value=0)
    return jnp.einsum("kqn,n,krn->kqr", parts, self.weights, parts)

  def product(self, vector: Array) -> Array:
    return self.columns @ (self.weights * (vector @ self.columns))

  def parts(self) -> tuple[int, ...]:
    size = self.columns.shape[0]
    return tuple(-(-size * part // _PARTS) for part in range(1, _PARTS + 1))

  def restricted(self, at: Array) -> "Columns":
    return Columns(_pick(self.columns, at), self.weights)

  def hold(self, gradient: Array) -> Array:
    del gradient
    return jnp.zeros_like(self.weights)

  def read(self, held: Array, gradient: Array, at: Array) -> Array:
    return _pick(gradient, at) + _pick(self.columns, at) @ (self.weights * held)

  def add(self, held: Array, at: Array, change: Array) -> Array:
    return held + jnp.dot(change, _pick(self.columns, at))

  def release(self, held: Array, gradient: Array) -> Array:
    return gradient + self.columns @ (self.weights * held)
