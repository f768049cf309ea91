"""Design matrices, dense or sparse (``jax.experimental.sparse``): checks, columns, subsets."""

import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.typing import Array

# Entries of a sparse column that are read at once.
_CHUNK = 128


def _sparse() -> Any:
  """JAX's sparse module where somebody has imported it: nobody else has a sparse array."""
  return sys.modules.get("jax.experimental.sparse")


def is_sparse(design: Any) -> bool:
  """Whether a design is a sparse array of JAX."""
  module = _sparse()
  return module is not None and isinstance(design, module.JAXSparse)


def check_design(name: str, design: Any) -> Any:
  """A matrix of floats, dense or sparse; the sparse ones become BCOO."""
  if not is_sparse(design):
    return _checks.check_float_array(name, design, rank=2)
  if hasattr(design, "to_bcoo"):
    design = design.to_bcoo()
  if not isinstance(design, _sparse().BCOO) or design.n_batch or design.n_dense:
    raise TypeError(
      f"{name} must be an array or a BCOO or BCSR matrix without batch and dense axes; got "
      f"{type(design).__name__}."
    )
  if design.ndim != 2:
    raise ValueError(f"{name} must have rank 2; got shape {design.shape}.")
  if not jnp.issubdtype(design.dtype, jnp.floating):
    raise TypeError(f"{name} must hold real floating-point numbers; got {design.dtype}.")
  return design


def to_dense(design: Any) -> Array:
  """The matrix with its zeros."""
  return design.todense() if is_sparse(design) else design


def squared_columns(design: Any) -> Array:
  """||x_j||^2 for each column."""
  if not is_sparse(design):
    return jnp.sum(design**2, axis=0)
  merged = design.sum_duplicates(nse=design.nse)
  zeros = jnp.zeros(design.shape[1], design.dtype)
  return zeros.at[merged.indices[:, 1]].add(merged.data**2, mode="drop")


def column_reader(design: Any) -> Callable[[Array], Array]:
  """``j -> x_j``, a dense column, without a dense copy of a sparse matrix."""
  if not is_sparse(design):
    columns = design.T  # rows are contiguous
    return lambda j: columns[j]
  order = jnp.argsort(design.indices[:, 1])
  rows, values = design.indices[order, 0], design.data[order]
  starts = jnp.searchsorted(design.indices[order, 1], jnp.arange(design.shape[1] + 1))

  def read(j: Array) -> Array:
    end = starts[j + 1]

    def add(carry: tuple[Array, Array]) -> tuple[Array, Array]:
      at, column = carry
      index = at + jnp.arange(_CHUNK)
      inside = index < end
      index = jnp.where(inside, index, 0)
      place = jnp.where(inside, rows[index], design.shape[0])
      return at + _CHUNK, column.at[place].add(values[index], mode="drop")

    blank = jnp.zeros(design.shape[0], design.dtype)
    return jax.lax.while_loop(lambda c: c[0] < end, add, (starts[j], blank))[1]

  return read if design.nse else lambda j: jnp.zeros(design.shape[0], design.dtype)


def take_columns(design: Any, index: Array) -> Any:
  """The columns of some indices, each taken once; of a sparse matrix sparse, with the same nse."""
  if not is_sparse(design):
    return design.T[index].T
  size, (rows, features) = index.shape[0], design.shape
  place = jnp.full(features + 1, size).at[index].set(jnp.arange(size))
  column = place[jnp.minimum(design.indices[:, 1], features)]
  row = jnp.where(column < size, design.indices[:, 0], rows)  # out of range: padding
  indices = jnp.stack([row, column], axis=1).astype(design.indices.dtype)
  return _sparse().BCOO((design.data, indices), shape=(rows, size))
