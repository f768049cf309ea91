"""Measurements that read single entries of a matrix: all of them, a mask, a list."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.numerics import safe_norm, upcast
from jaxopt_robust.recovery.operators import (
  AdjointProducts,
  MeasurementOperator,
  check_shape,
  inside,
  keep_integers,
)
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["EntryCOO", "EntryMask", "Identity", "make_entry_mask"]


class _Entries(MeasurementOperator):
  """Operators whose A_i are orthogonal to each other, so that ||A*(z)||_F is a vector norm."""

  def _weighted(self, z: Array) -> Array:
    return z

  def adjoint_products(self, z: ArrayLike, left: ArrayLike, right: ArrayLike) -> AdjointProducts:
    left, right = self.check_factors(left, right)
    z = self.check_measurements("z", z)
    return AdjointProducts(
      self.adjoint_mul(z, right).astype(left.dtype),
      self.adjoint_t_mul(z, left).astype(right.dtype),
      safe_norm(self._weighted(upcast(z))),
    )


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Identity(_Entries):
  """Every entry, read row by row: the operator of robust PCA, z = vec(X).

  Attributes:
    dims: (d1, d2), static.

  Example:
    >>> Identity((2, 2)).apply(jnp.eye(2))
    Array([1., 0., 0., 1.], dtype=float32)

  Reference:
    Candes, Li, Ma and Wright, Robust principal component analysis?, 2011, section 1.
  """

  dims: tuple[int, int] = dataclasses.field(metadata={"static": True})

  @property
  def shape(self) -> tuple[int, int]:
    return check_shape("dims", self.dims)

  @property
  def size(self) -> int:
    return self.shape[0] * self.shape[1]

  @property
  def dtype(self) -> Any:
    return None

  def apply(self, matrix: ArrayLike) -> Array:
    return self.check_matrix(matrix, complex_ok=True).ravel()

  def adjoint(self, z: ArrayLike) -> Array:
    return self.check_measurements("z", z, complex_ok=True).reshape(self.shape)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class EntryMask(_Entries):
  """Observed entries of a matrix, as a dense mask: z = vec(mask * X), zero where not observed.

  Attributes:
    mask: bool[d1, d2], true where an entry is observed.

  Note:
    Single entries do not satisfy the Sign-RIP: the l1 sub-gradient method completes a matrix
    at the exact factor width and fails with a wider factor.

  Example:
    >>> EntryMask(jnp.array([[True, False]])).apply(jnp.array([[3.0, 5.0]]))
    Array([3., 0.], dtype=float32)

  Reference:
    Candes and Recht, Exact matrix completion via convex optimization, 2009, section 1.
  """

  mask: Array

  @property
  def shape(self) -> tuple[int, int]:
    rows, cols = _checks.check_array("mask", self.mask, rank=2).shape
    return rows, cols

  @property
  def size(self) -> int:
    return self.shape[0] * self.shape[1]

  @property
  def dtype(self) -> Any:
    return None

  @property
  def count(self) -> int | Array:
    return jnp.sum(self._checked(), dtype=jnp.int32)

  @property
  def observed(self) -> Array | None:
    return self._checked().ravel()

  def _checked(self) -> Array:
    mask = _checks.check_mask("mask", self.mask, shape=self.shape)
    assert mask is not None
    return mask

  def _weighted(self, z: Array) -> Array:
    return jnp.where(self._checked().ravel(), z, 0)

  def apply(self, matrix: ArrayLike) -> Array:
    return self._weighted(self.check_matrix(matrix, complex_ok=True).ravel())

  def adjoint(self, z: ArrayLike) -> Array:
    return self._weighted(self.check_measurements("z", z, complex_ok=True)).reshape(self.shape)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class EntryCOO(_Entries):
  """Observed entries of a matrix, as coordinates: z_e = w_e X[i_e, j_e].

  Factored products cost E * width, and no dense matrix is formed. Problems of different sizes are
  batched by padding with weight-0 entries.

  Attributes:
    row_index: int[E], i_e in [0, d1).
    col_index: int[E], j_e in [0, d2). No pair may occur twice, padding apart.
    dims: (d1, d2), static.
    weight: float[E], w_e, 0 for padding; or None for all ones.

  Note:
    An index outside the matrix measures NaN, so that a solve reports a non-finite status. The limit
    on factor width of ``EntryMask`` holds here too.

  Example:
    >>> op = EntryCOO(jnp.array([0, 1]), jnp.array([1, 0]), (2, 2))
    >>> op.apply(jnp.array([[1.0, 2.0], [3.0, 4.0]]))
    Array([2., 3.], dtype=float32)

  Reference:
    Candes and Recht, Exact matrix completion via convex optimization, 2009, section 1.
  """

  row_index: Array
  col_index: Array
  dims: tuple[int, int] = dataclasses.field(metadata={"static": True})
  weight: Array | None = None

  def __post_init__(self) -> None:
    keep_integers(self, "row_index", "col_index")

  @property
  def shape(self) -> tuple[int, int]:
    return check_shape("dims", self.dims)

  @property
  def size(self) -> int:
    return self._checked()[0].shape[0]

  @property
  def dtype(self) -> Any:
    return None if self.weight is None else self.weight.dtype

  @property
  def count(self) -> int | Array:
    return self.size if self.weight is None else jnp.sum(self.weight != 0, dtype=jnp.int32)

  @property
  def observed(self) -> Array | None:
    return None if self.weight is None else self.weight != 0

  def _indices(self) -> tuple[Array, Array]:
    """Indices with those outside of the matrix past its end."""
    rows, cols = self._checked()
    return inside(rows, self.dims[0]), inside(cols, self.dims[1])

  def _checked(self) -> tuple[Array, Array]:
    rows = _checks.check_array("row_index", self.row_index, rank=1)
    cols = _checks.check_array("col_index", self.col_index, rank=1)
    _checks.check_same_shape("row_index", rows, "col_index", cols)
    for name, index in (("row_index", rows), ("col_index", cols)):
      if not jnp.issubdtype(index.dtype, jnp.integer):
        raise TypeError(f"{name} must hold integers; got {index.dtype}.")
    return rows, cols

  def _weighted(self, z: Array) -> Array:
    if self.weight is None:
      return z
    weight = _checks.check_float_array("weight", self.weight, rank=1)
    _checks.check_same_shape("weight", weight, "row_index", self.row_index)
    return jnp.where(weight != 0, weight * z, 0)

  def _gather(self, factor: Array, index: Array) -> Array:
    return factor.at[index].get(mode="fill", fill_value=jnp.nan)

  def apply(self, matrix: ArrayLike) -> Array:
    matrix = self.check_matrix(matrix, complex_ok=True)
    rows, cols = self._indices()
    return self._weighted(matrix.at[rows, cols].get(mode="fill", fill_value=jnp.nan))

  def apply_factored(self, left: ArrayLike, right: ArrayLike) -> Array:
    left, right = self.check_factors(left, right)
    rows, cols = self._indices()
    dtype = self.result_dtype(left, right)
    product = upcast(self._gather(left, rows)) * upcast(self._gather(right, cols))
    return self._weighted(jnp.sum(product, -1)).astype(dtype)

  def adjoint(self, z: ArrayLike) -> Array:
    z = self._weighted(self.check_measurements("z", z, complex_ok=True))
    rows, cols = self._indices()
    return jnp.zeros(self.shape, z.dtype).at[rows, cols].add(z)

  def adjoint_mul(self, z: ArrayLike, right: ArrayLike) -> Array:
    right = _checks.check_float_array("right", right, rank=2)
    rows, cols = self._indices()
    return self._scatter(z, self._gather(right, cols), rows, self.shape[0])

  def adjoint_t_mul(self, z: ArrayLike, left: ArrayLike) -> Array:
    left = _checks.check_float_array("left", left, rank=2)
    rows, cols = self._indices()
    return self._scatter(z, self._gather(left, rows), cols, self.shape[1])

  def _scatter(self, z: ArrayLike, factor: Array, index: Array, num: int) -> Array:
    z = self.check_measurements("z", z)
    dtype = self.result_dtype(z, factor)
    terms = self._weighted(upcast(z))[:, None] * upcast(factor)
    return jax.ops.segment_sum(terms, index, num_segments=num).astype(dtype)


def make_entry_mask(key: Array, rows: int, cols: int, *, rate: ArrayLike) -> EntryMask:
  """Observes each entry of a matrix independently with one probability.

  Args:
    key: typed PRNG key.
    rows: d1 >= 1, static.
    cols: d2 >= 1, static.
    rate: probability in [0, 1] that an entry is observed; may be traced.

  Returns:
    EntryMask of shape (d1, d2).

  Raises:
    TypeError: the key is not a typed key, or a size is not an integer.
    ValueError: a size is less than 1, or the rate is outside [0, 1].

  Example:
    >>> int(make_entry_mask(jax.random.key(0), 3, 2, rate=1.0).count)
    6

  Reference:
    Candes and Recht, Exact matrix completion via convex optimization, 2009, section 1.
  """
  _checks.check_key("key", key)
  dims = check_shape("(rows, cols)", (rows, cols))
  _checks.check_interval("rate", rate, 0.0, 1.0, scalar=True)
  return EntryMask(jax.random.bernoulli(key, _checks.check_float_array("rate", rate, rank=0), dims))
