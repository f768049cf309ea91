"""Structured measurements of a matrix: rank-one matrices and random cosines."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.numerics import upcast
from jaxopt_robust.recovery.operators import (
  MeasurementOperator,
  check_dtype,
  check_shape,
  inside,
  keep_integers,
  wide_dot,
)
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "FourierSensing",
  "RankOneSensing",
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

  def __post_init__(self) -> None:
    keep_integers(self, "rows")

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
    kept = coefficients.at[inside(self.rows, signs.size)].get(mode="fill", fill_value=jnp.nan)
    return (scale * kept).astype(dtype)

  def adjoint(self, z: ArrayLike) -> Array:
    z = self.check_measurements("z", z)
    signs, scale = self._checked()
    dtype = self.result_dtype(z)
    spread = jnp.zeros(signs.shape, jnp.result_type(signs, upcast(z)))
    spread = spread.at[inside(self.rows, signs.size)].add(scale * upcast(z))
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
