"""Gaussian measurements of a matrix: stored, or drawn again from a key whenever they are needed."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.numerics import upcast
from jaxopt_robust.recovery.operators import (
  AdjointProducts,
  MeasurementOperator,
  check_dtype,
  check_shape,
  products_of,
  wide_dot,
)
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "GaussianSensing",
  "KeyedGaussianSensing",
  "make_gaussian_sensing",
  "make_keyed_gaussian_sensing",
]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class GaussianSensing(MeasurementOperator):
  """Dense measurement matrices, kept as one array; each direction is one matrix product.

  z_i = sum_jk A_ijk X_jk. ``make_gaussian_sensing`` draws independent standard normal entries, for
  which E[A*(A(X))] = m X; any other coefficients work too. The matrices are not symmetrised.

  Attributes:
    flat: float[m, d1 * d2], row i is A_i flattened row by row.
    dims: (d1, d2), static.

  Example:
    >>> op = GaussianSensing(jnp.array([[1.0, 2.0, 3.0, 4.0]]), (2, 2))
    >>> op.apply(jnp.eye(2))
    Array([5.], dtype=float32)

  Reference:
    Ma and Fattahi, Global Convergence of Sub-gradient Method for Robust Matrix Recovery, 2023,
    section 1.
  """

  flat: Array
  dims: tuple[int, int] = dataclasses.field(metadata={"static": True})

  @property
  def shape(self) -> tuple[int, int]:
    return self.dims

  @property
  def size(self) -> int:
    return self._checked().shape[0]

  @property
  def dtype(self) -> Any:
    return self.flat.dtype

  def _checked(self) -> Array:
    flat = _checks.check_float_array("flat", self.flat, rank=2)
    rows, cols = check_shape("dims", self.dims)
    if flat.shape[1] != rows * cols:
      raise ValueError(f"flat must have {rows} * {cols} columns, one an entry; got {flat.shape}.")
    return flat

  def apply(self, matrix: ArrayLike) -> Array:
    matrix = self.check_matrix(matrix)
    dtype = self.result_dtype(matrix)
    return wide_dot(self._checked(), matrix.ravel()).astype(dtype)

  def adjoint(self, z: ArrayLike) -> Array:
    z = self.check_measurements("z", z)
    dtype = self.result_dtype(z)
    return wide_dot(z, self._checked()).reshape(self.dims).astype(dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class KeyedGaussianSensing(MeasurementOperator):
  """Gaussian measurements whose matrices are drawn anew, block by block, each time they are needed.

  Block b, measurements b * chunk to (b + 1) * chunk - 1, is
  ``jax.random.normal(jax.random.fold_in(key, b), (chunk, d1 * d2))``. Memory is chunk * d1 * d2
  numbers instead of m * d1 * d2, paid for by drawing them again in each pass; a step of the
  sub-gradient method takes one pass. ``to_dense`` stores the same matrices, equal bit for bit;
  results agree up to the order in which sums over blocks are rounded.

  Attributes:
    key: typed PRNG key.
    num_measurements: m, a multiple of ``chunk``; static.
    dims: (d1, d2), static.
    chunk: measurements drawn at a time, static.
    scalar_type: dtype of the coefficients, static.

  Example:
    >>> op = make_keyed_gaussian_sensing(jax.random.key(0), 6, 3, 2, chunk=2)
    >>> bool(jnp.all(op.block(1) == op.to_dense().flat[2:4]))
    True

  Reference:
    Ma and Fattahi, Global Convergence of Sub-gradient Method for Robust Matrix Recovery, 2023,
    section 1 (the ensemble); drawing it from keys is a choice of this package.
  """

  key: Array
  num_measurements: int = dataclasses.field(metadata={"static": True})
  dims: tuple[int, int] = dataclasses.field(metadata={"static": True})
  chunk: int = dataclasses.field(metadata={"static": True})
  scalar_type: Any = dataclasses.field(metadata={"static": True})

  @property
  def shape(self) -> tuple[int, int]:
    return self.dims

  @property
  def size(self) -> int:
    return self.num_measurements

  @property
  def dtype(self) -> Any:
    return jnp.dtype(self.scalar_type)

  def block(self, index: ArrayLike) -> Array:
    """Draws one block of matrices.

    Args:
      index: int scalar, 0 <= index < m / chunk.

    Returns:
      float[chunk, d1 * d2].
    """
    shape = (self.chunk, self.dims[0] * self.dims[1])
    return jax.random.normal(jax.random.fold_in(self.key, index), shape, self.scalar_type)

  def _indices(self) -> Array:
    if self.num_measurements % self.chunk:
      raise ValueError(
        "num_measurements must be a multiple of chunk; "
        f"got {self.num_measurements} and {self.chunk}."
      )
    return jnp.arange(self.num_measurements // self.chunk)

  def to_dense(self) -> GaussianSensing:
    """Stores the matrices.

    Returns:
      GaussianSensing with the same coefficients.
    """
    blocks = jax.lax.map(self.block, self._indices())
    return GaussianSensing(blocks.reshape(self.num_measurements, -1), self.dims)

  def apply(self, matrix: ArrayLike) -> Array:
    matrix = self.check_matrix(matrix)
    dtype = self.result_dtype(matrix)
    one = jax.checkpoint(lambda index: wide_dot(self.block(index), matrix.ravel()))
    return jax.lax.map(one, self._indices()).ravel().astype(dtype)

  def adjoint(self, z: ArrayLike) -> Array:
    z = self.check_measurements("z", z)
    dtype = self.result_dtype(z)

    @jax.checkpoint
    def add(total: Array, item: tuple[Array, Array]) -> tuple[Array, None]:
      index, part = item
      return total + wide_dot(part, self.block(index)), None

    total = self._zeros(z)
    total, _ = jax.lax.scan(add, total, (self._indices(), z.reshape(-1, self.chunk)))
    return total.reshape(self.dims).astype(dtype)

  def residual_products(
    self, left: ArrayLike, right: ArrayLike, y: ArrayLike, *, link: Callable[[Array], Array]
  ) -> tuple[Array, AdjointProducts]:
    left, right = self.check_factors(left, right)
    y = upcast(self.check_measurements("y", y))
    flat = wide_dot(left, right.T).ravel()

    @jax.checkpoint
    def add(total: Array, item: tuple[Array, Array]) -> tuple[Array, Array]:
      index, part = item
      block = self.block(index)
      residual = wide_dot(block, flat) - part
      return total + wide_dot(link(residual), block), residual

    total, residual = jax.lax.scan(
      add, self._zeros(flat, y), (self._indices(), y.reshape(-1, self.chunk))
    )
    return residual.ravel(), products_of(total.reshape(self.dims), left, right)

  def _zeros(self, *like: Array) -> Array:
    dtype = jnp.result_type(upcast(jnp.zeros((), self.scalar_type)), *map(upcast, like))
    return jnp.zeros(self.dims[0] * self.dims[1], dtype)


def make_gaussian_sensing(
  key: Array, num_measurements: int, rows: int, cols: int, *, dtype: Any = None
) -> GaussianSensing:
  """Draws dense Gaussian measurement matrices with independent N(0, 1) entries.

  Args:
    key: typed PRNG key.
    num_measurements: m >= 1, static.
    rows: d1 >= 1, static.
    cols: d2 >= 1, static.
    dtype: floating-point dtype; the default float by default.

  Returns:
    GaussianSensing of m matrices of shape (d1, d2); m * d1 * d2 numbers are stored.

  Raises:
    TypeError: the key is not a typed key, a size is not an integer, or the dtype is not floating.
    ValueError: a size is less than 1.

  Example:
    >>> make_gaussian_sensing(jax.random.key(0), 5, 3, 2).flat.shape
    (5, 6)

  Reference:
    Ma and Fattahi, Global Convergence of Sub-gradient Method for Robust Matrix Recovery, 2023,
    section 1.
  """
  _checks.check_key("key", key)
  size = _checks.check_int("num_measurements", num_measurements, minimum=1)
  dims = check_shape("(rows, cols)", (rows, cols))
  return GaussianSensing(
    jax.random.normal(key, (size, dims[0] * dims[1]), check_dtype(dtype)), dims
  )


def make_keyed_gaussian_sensing(
  key: Array, num_measurements: int, rows: int, cols: int, *, chunk: int, dtype: Any = None
) -> KeyedGaussianSensing:
  """Makes a matrix-free Gaussian operator that keeps a key instead of its matrices.

  Args:
    key: typed PRNG key.
    num_measurements: m >= 1, a multiple of ``chunk``, static.
    rows: d1 >= 1, static.
    cols: d2 >= 1, static.
    chunk: measurements drawn at a time, static.
    dtype: floating-point dtype; the default float by default.

  Returns:
    KeyedGaussianSensing of m matrices of shape (d1, d2).

  Raises:
    TypeError: the key is not a typed key, a size is not an integer, or the dtype is not floating.
    ValueError: a size is less than 1, or ``chunk`` does not divide ``num_measurements``.

  Example:
    >>> op = make_keyed_gaussian_sensing(jax.random.key(0), 6, 3, 2, chunk=3)
    >>> op.apply(jnp.ones((3, 2))).shape
    (6,)

  Reference:
    Ma and Fattahi, Global Convergence of Sub-gradient Method for Robust Matrix Recovery, 2023,
    section 1.
  """
  _checks.check_key("key", key)
  size = _checks.check_int("num_measurements", num_measurements, minimum=1)
  dims = check_shape("(rows, cols)", (rows, cols))
  step = _checks.check_int("chunk", chunk, minimum=1)
  if size % step:
    raise ValueError(f"num_measurements must be a multiple of chunk; got {size} and {step}.")
  return KeyedGaussianSensing(key, size, dims, step, check_dtype(dtype))
