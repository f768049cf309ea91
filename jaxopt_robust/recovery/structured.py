"""Structured measurements of a matrix: rank-one, single entries, all entries, cosines."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.numerics import safe_norm, upcast
from jaxopt_robust.recovery.operators import (
  AdjointProducts,
  MeasurementOperator,
  check_dtype,
  check_shape,
  wide_dot,
)
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "EntryCOO",
  "EntryMask",
  "FourierSensing",
  "Identity",
  "RankOneSensing",
  "make_entry_mask",
  "make_fourier_sensing",
  "make_rank_one_sensing",
]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class RankOneSensing(MeasurementOperator):
  """Rank-one measurement matrices, A_i = a_i b_i^T.

  z_i = a_i^T X b_i. With ``right_vectors=None``, b_i = a_i: quadratic sensing, and phase retrieval
  for a factor of width one. Factored products cost m * width * (d1 + d2).

  Attributes:
    left_vectors: float[m, d1], rows a_i.
    right_vectors: float[m, d2], rows b_i, or None for b_i = a_i.

  Note:
    Quadratic sensing is outside the theory of the l1 sub-gradient method: near the zero matrix
    almost all residuals have one sign, so the first steps have no preferred direction and growth
    is slow.

  Example:
    >>> op = RankOneSensing(jnp.array([[1.0, 2.0]]), None)
    >>> op.apply_factored(jnp.ones((2, 1)), jnp.ones((2, 1)))
    Array([9.], dtype=float32)

  Reference:
    Li, Zhu, So and Vidal, Nonconvex Robust Low-rank Matrix Recovery, 2020, section 1 (the setting).
  """

  left_vectors: Array
  right_vectors: Array | None = None

  def _pair(self) -> tuple[Array, Array]:
    left = _checks.check_float_array("left_vectors", self.left_vectors, rank=2)
    if self.right_vectors is None:
      return left, left
    right = _checks.check_float_array("right_vectors", self.right_vectors, rank=2)
    if left.shape[0] != right.shape[0]:
      raise ValueError(
        f"left_vectors and right_vectors must have equally many rows; "
        f"got {left.shape} and {right.shape}."
      )
    return left, right

  @property
  def shape(self) -> tuple[int, int]:
    left, right = self._pair()
    return left.shape[1], right.shape[1]

  @property
  def size(self) -> int:
    return self._pair()[0].shape[0]

  @property
  def dtype(self) -> Any:
    return jnp.result_type(*self._pair())

  def apply(self, matrix: ArrayLike) -> Array:
    matrix = self.check_matrix(matrix)
    left, right = self._pair()
    dtype = self.result_dtype(matrix)
    return jnp.sum(wide_dot(left, matrix) * upcast(right), -1).astype(dtype)

  def apply_factored(self, left: ArrayLike, right: ArrayLike) -> Array:
    left, right = self.check_factors(left, right)
    a, b = self._pair()
    dtype = self.result_dtype(left, right)
    return jnp.sum(wide_dot(a, left) * wide_dot(b, right), -1).astype(dtype)

  def adjoint(self, z: ArrayLike) -> Array:
    z = self.check_measurements("z", z)
    left, right = self._pair()
    dtype = self.result_dtype(z)
    return wide_dot(left.T, upcast(z)[:, None] * upcast(right)).astype(dtype)

  def adjoint_mul(self, z: ArrayLike, right: ArrayLike) -> Array:
    z = self.check_measurements("z", z)
    right = _checks.check_float_array("right", right, rank=2)
    a, b = self._pair()
    dtype = self.result_dtype(z, right)
    return wide_dot(a.T, upcast(z)[:, None] * wide_dot(b, right)).astype(dtype)

  def adjoint_t_mul(self, z: ArrayLike, left: ArrayLike) -> Array:
    z = self.check_measurements("z", z)
    left = _checks.check_float_array("left", left, rank=2)
    a, b = self._pair()
    dtype = self.result_dtype(z, left)
    return wide_dot(b.T, upcast(z)[:, None] * wide_dot(a, left)).astype(dtype)


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
    return self.check_matrix(matrix).ravel()

  def adjoint(self, z: ArrayLike) -> Array:
    return self.check_measurements("z", z).reshape(self.shape)


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
    return self._weighted(self.check_matrix(matrix).ravel())

  def adjoint(self, z: ArrayLike) -> Array:
    return self._weighted(self.check_measurements("z", z)).reshape(self.shape)


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

  @property
  def shape(self) -> tuple[int, int]:
    return check_shape("dims", self.dims)

  @property
  def size(self) -> int:
    return self._indices()[0].shape[0]

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
    matrix = self.check_matrix(matrix)
    rows, cols = self._indices()
    return self._weighted(matrix.at[rows, cols].get(mode="fill", fill_value=jnp.nan))

  def apply_factored(self, left: ArrayLike, right: ArrayLike) -> Array:
    left, right = self.check_factors(left, right)
    rows, cols = self._indices()
    dtype = self.result_dtype(left, right)
    product = upcast(self._gather(left, rows)) * upcast(self._gather(right, cols))
    return self._weighted(jnp.sum(product, -1)).astype(dtype)

  def adjoint(self, z: ArrayLike) -> Array:
    z = self._weighted(self.check_measurements("z", z))
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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class FourierSensing(MeasurementOperator):
  """Random signs, an orthonormal cosine transform, and a random choice of its coefficients.

  z = sqrt(N / m) * take(DCT(signs * vec(X)), rows), N = d1 d2: O(N log N) operations and O(N + m)
  memory. The transform is the orthonormal DCT-II, so E[A*(A(X))] = X: unlike the other operators
  this one is normalised by 1/sqrt(m), which Polyak and normalised steps do not feel.

  Attributes:
    signs: float[d1 * d2], entries +-1.
    rows: int[m], coefficients that are kept, distinct.
    dims: (d1, d2), static.

  Note:
    A heuristic: the Sign-RIP theory of the l1 method does not cover it.

  Example:
    >>> op = FourierSensing(jnp.ones(4), jnp.arange(4), (2, 2))
    >>> bool(jnp.allclose(op.adjoint(op.apply(jnp.eye(2))), jnp.eye(2), atol=1e-6))
    True

  Reference:
    Candes and Plan, Tight oracle inequalities for low-rank matrix recovery, 2011, section II
    (subsampled orthonormal transforms after random signs; recalled, not verified).
  """

  signs: Array
  rows: Array
  dims: tuple[int, int] = dataclasses.field(metadata={"static": True})

  @property
  def shape(self) -> tuple[int, int]:
    return check_shape("dims", self.dims)

  @property
  def size(self) -> int:
    return _checks.check_array("rows", self.rows, rank=1).shape[0]

  @property
  def dtype(self) -> Any:
    return self.signs.dtype

  def _checked(self) -> tuple[Array, Array]:
    signs = _checks.check_float_array("signs", self.signs, rank=1)
    total = self.shape[0] * self.shape[1]
    if signs.shape != (total,):
      raise ValueError(
        f"signs must have one entry per matrix entry, ({total},); got {signs.shape}."
      )
    scale = jnp.sqrt(jnp.asarray(total / self.size, upcast(signs).dtype))
    return upcast(signs), scale

  def apply(self, matrix: ArrayLike) -> Array:
    matrix = self.check_matrix(matrix)
    signs, scale = self._checked()
    dtype = self.result_dtype(matrix)
    coefficients = jax.scipy.fft.dct(signs * upcast(matrix).ravel(), norm="ortho")
    kept = coefficients.at[self.rows].get(mode="fill", fill_value=jnp.nan)
    return (scale * kept).astype(dtype)

  def adjoint(self, z: ArrayLike) -> Array:
    z = self.check_measurements("z", z)
    signs, scale = self._checked()
    dtype = self.result_dtype(z)
    spread = jnp.zeros(signs.shape, jnp.result_type(signs, upcast(z)))
    spread = spread.at[self.rows].add(scale * upcast(z))
    return (signs * jax.scipy.fft.idct(spread, norm="ortho")).reshape(self.shape).astype(dtype)


def make_rank_one_sensing(
  key: Array, num_measurements: int, rows: int, cols: int | None = None, *, dtype: Any = None
) -> RankOneSensing:
  """Draws rank-one measurements a_i b_i^T with independent N(0, 1) entries.

  Args:
    key: typed PRNG key.
    num_measurements: m >= 1, static.
    rows: d1 >= 1, static.
    cols: d2 >= 1, static; None for quadratic sensing, b_i = a_i.
    dtype: floating-point dtype; the default float by default.

  Returns:
    RankOneSensing with m measurements.

  Raises:
    TypeError: the key is not a typed key, a size is not an integer, or the dtype is not floating.
    ValueError: a size is less than 1.

  Example:
    >>> make_rank_one_sensing(jax.random.key(0), 5, 3).shape
    (3, 3)

  Reference:
    Li, Zhu, So and Vidal, Nonconvex Robust Low-rank Matrix Recovery, 2020, section 1.
  """
  _checks.check_key("key", key)
  size = _checks.check_int("num_measurements", num_measurements, minimum=1)
  check_shape("(rows, cols)", (rows, rows if cols is None else cols))
  left_key, right_key = jax.random.split(key)
  left = jax.random.normal(left_key, (size, rows), check_dtype(dtype))
  if cols is None:
    return RankOneSensing(left, None)
  return RankOneSensing(left, jax.random.normal(right_key, (size, cols), check_dtype(dtype)))


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
  _checks.check_interval("rate", rate, 0.0, 1.0)
  return EntryMask(jax.random.bernoulli(key, rate, dims))


def make_fourier_sensing(
  key: Array, num_measurements: int, rows: int, cols: int, *, dtype: Any = None
) -> FourierSensing:
  """Draws the signs and coefficients of a randomised cosine operator.

  Args:
    key: typed PRNG key.
    num_measurements: 1 <= m <= rows * cols, static.
    rows: d1 >= 1, static.
    cols: d2 >= 1, static.
    dtype: floating-point dtype; the default float by default.

  Returns:
    FourierSensing with m distinct coefficients.

  Raises:
    TypeError: the key is not a typed key, a size is not an integer, or the dtype is not floating.
    ValueError: a size is less than 1, or there are more measurements than entries.

  Example:
    >>> make_fourier_sensing(jax.random.key(0), 4, 3, 2).apply(jnp.ones((3, 2))).shape
    (4,)

  Reference:
    Candes and Plan, Tight oracle inequalities for low-rank matrix recovery, 2011, section II
    (recalled, not verified).
  """
  _checks.check_key("key", key)
  size = _checks.check_int("num_measurements", num_measurements, minimum=1)
  dims = check_shape("(rows, cols)", (rows, cols))
  total = dims[0] * dims[1]
  if size > total:
    raise ValueError(f"num_measurements must be at most rows * cols = {total}; got {size}.")
  sign_key, row_key = jax.random.split(key)
  signs = jax.random.rademacher(sign_key, (total,), check_dtype(dtype))
  return FourierSensing(signs, jax.random.permutation(row_key, total)[:size], dims)
