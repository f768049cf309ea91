"""Leading singular triplets by random projection: a few products with the matrix suffice."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust._units import root_of_unit
from jaxopt_robust.numerics import upcast
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["LowRankSVD", "randomized_svd", "randomized_svd_matvec"]


class LowRankSVD(NamedTuple):
  """Leading part of a singular value decomposition, A ~ u diag(s) vt.

  Attributes:
    u: float[m, rank], orthonormal columns.
    s: float[rank], singular values, largest first.
    vt: float[rank, n], orthonormal rows.

  Example:
    >>> LowRankSVD._fields
    ('u', 's', 'vt')

  Reference:
    Halko, Martinsson and Tropp, Finding structure with randomness, 2011, section 1.3.
  """

  u: Array
  s: Array
  vt: Array


def randomized_svd(
  key: Array, matrix: ArrayLike, *, rank: int, oversample: int = 10, power: int = 2
) -> LowRankSVD:
  r"""Leading singular triplets of a dense matrix by random projection.

  Y = A Omega with a Gaussian Omega of rank + oversample columns; ``power`` rounds of products with
  A^T and A, orthonormalised in between; Q = qr(Y); and the exact decomposition of the small Q^T A.

  Args:
    key: typed PRNG key.
    matrix: float[m, n], A.
    rank: number of triplets, 1 <= rank <= min(m, n), static.
    oversample: extra columns, >= 0, static; together with ``rank`` cut at min(m, n).
    power: rounds of subspace iteration, >= 0, static; 1 or 2 where singular values decay slowly.

  Returns:
    LowRankSVD in the dtype of ``matrix``. One NaN in the matrix makes all of it NaN.

  Raises:
    TypeError: the key is not a typed key, the matrix is not floating-point, or a size is not a
      static integer.
    ValueError: the matrix has another rank than 2, or a size is out of range.

  Note:
    Costs 2 (power + 1) products of the matrix with rank + oversample vectors. The computed rank-k
    matrix is within a small factor of the best one; with power >= 1 and decaying singular values
    the factor is 1 to three digits. Signs of the vectors are arbitrary.

  Example:
    >>> a = jnp.outer(jnp.arange(1.0, 4.0), jnp.ones(4))
    >>> out = randomized_svd(jax.random.key(0), a, rank=1)
    >>> bool(jnp.allclose(out.s[0] ** 2, 56.0))
    True

  Reference:
    Halko, Martinsson and Tropp, Finding structure with randomness: probabilistic algorithms for
    constructing approximate matrix decompositions, 2011, algorithms 4.4 and 5.1.
  """
  array = _checks.check_float_array("matrix", matrix, rank=2)
  rows, cols = array.shape
  wide = upcast(array)
  unit = root_of_unit(wide)
  wide = wide / unit / unit  # of size 1, so that products of rows stay in range
  out = randomized_svd_matvec(
    key,
    lambda block: jnp.matmul(wide, block, precision="highest"),
    lambda block: jnp.matmul(wide.T, block, precision="highest"),
    shape=(rows, cols),
    rank=rank,
    oversample=oversample,
    power=power,
    dtype=wide.dtype,
  )
  out = out._replace(s=out.s * unit * unit)
  return LowRankSVD(*(leaf.astype(array.dtype) for leaf in out))


def randomized_svd_matvec(
  key: Array,
  matvec: Callable[[Array], Array],
  rmatvec: Callable[[Array], Array],
  *,
  shape: tuple[int, int],
  rank: int,
  oversample: int = 10,
  power: int = 2,
  start: ArrayLike | None = None,
  dtype: Any = None,
) -> LowRankSVD:
  r"""Leading singular triplets of a matrix that is known by its products only.

  As ``randomized_svd``; the matrix may be sparse, sparse plus low rank, or any linear map.

  Args:
    key: typed PRNG key.
    matvec: function float[n, c] -> float[m, c], A times a block of vectors.
    rmatvec: function float[m, c] -> float[n, c], A^T times a block of vectors.
    shape: (m, n), static.
    rank: number of triplets, 1 <= rank <= min(m, n), static.
    oversample: extra columns, >= 0, static; together with ``rank`` cut at min(m, n).
    power: rounds of subspace iteration, >= 0, static.
    start: float[n, c], guesses of right singular vectors that replace the first c <= rank +
      oversample random columns, such as those of a matrix nearby; None for all random. Columns of
      zeros are replaced by random ones.
    dtype: floating-point dtype of the products; the default float by default.

  Returns:
    LowRankSVD of that dtype.

  Raises:
    TypeError: the key is not a typed key, a product is not a function, or a size is not a static
      integer.
    ValueError: a size is out of range, or ``start`` does not fit.

  Example:
    >>> a = jnp.outer(jnp.arange(1.0, 4.0), jnp.ones(4))
    >>> out = randomized_svd_matvec(
    ...   jax.random.key(0), lambda x: a @ x, lambda x: a.T @ x, shape=(3, 4), rank=1)
    >>> bool(jnp.allclose(out.s[0] ** 2, 56.0))
    True

  Reference:
    Halko, Martinsson and Tropp, Finding structure with randomness: probabilistic algorithms for
    constructing approximate matrix decompositions, 2011, algorithms 4.4 and 5.1.
  """
  _checks.check_key("key", key)
  _arguments.check_callable("matvec", matvec)
  _arguments.check_callable("rmatvec", rmatvec)
  if not isinstance(shape, tuple | list) or len(shape) != 2:
    raise TypeError(f"shape must be a pair (rows, columns); got {shape!r:.60}.")
  rows, cols = (_checks.check_int(f"shape[{i}]", n, minimum=1) for i, n in enumerate(shape))
  rank = _checks.check_rank(rank, (rows, cols))
  oversample = _checks.check_int("oversample", oversample, minimum=0)
  power = _checks.check_int("power", power, minimum=0)
  width = min(rank + oversample, rows, cols)
  scalar_type = jnp.result_type(float) if dtype is None else jnp.dtype(dtype)
  test = jax.random.normal(key, (cols, width), scalar_type)
  if start is not None:
    guess = _checks.check_float_array("start", start, rank=2).astype(scalar_type)
    if guess.shape[0] != cols or guess.shape[1] > width:
      raise ValueError(f"start must have shape ({cols}, at most {width}); got {guess.shape}.")
    known = guess.shape[1]
    is_zero = jnp.all(guess == 0, axis=0)[None, :]
    test = jnp.concatenate([jnp.where(is_zero, test[:, :known], guess), test[:, known:]], axis=1)

  def power_round(basis: Array, _: None) -> tuple[Array, None]:
    return jnp.linalg.qr(matvec(jnp.linalg.qr(rmatvec(basis))[0]))[0], None

  basis, _ = jax.lax.scan(power_round, jnp.linalg.qr(matvec(test))[0], None, length=power)
  small = rmatvec(basis).T  # Q^T A
  left, values, right = jnp.linalg.svd(small, full_matrices=False)
  u = jnp.matmul(basis, left[:, :rank], precision="highest")
  return LowRankSVD(u, values[:rank], right[:rank])
