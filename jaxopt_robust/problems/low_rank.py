"""Low-rank matrices seen through Gaussian measurements, some of them grossly wrong."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_robust import _checks
from jaxopt_robust.problems.types import Problem
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = ["LowRankTruth", "make_low_rank_sensing"]


class LowRankTruth(NamedTuple):
  """What the measurements were made of.

  Attributes:
    matrix: float[rows, cols], X*.
    left: float[rows, rank], L* with X* = L* R*^T and L*^T L* = R*^T R* diagonal.
    right: float[cols, rank], R*; equal to ``left`` where X* is positive semidefinite.
    corruption: float[m], what was added to the clean measurements.
    outliers: bool[m], which measurements are grossly wrong.

  Example:
    >>> LowRankTruth._fields
    ('matrix', 'left', 'right', 'corruption', 'outliers')

  Reference:
    Ma and Fattahi, Global Convergence of Sub-gradient Method for Robust Matrix Recovery, 2023,
    section 1.
  """

  matrix: Array
  left: Array
  right: Array
  corruption: Array
  outliers: Array


def _mean_absolute_residual(params: PyTree, matrices: Array, y: Array) -> Array:
  """(1/m) sum_i |<A_i, X> - y_i| for X given as a matrix or as a pair of factors (L, R)."""
  if isinstance(params, tuple):
    left, right = params
    params = jnp.matmul(left, (left if right is None else right).T, precision="highest")
  flat = matrices.reshape(matrices.shape[0], -1)
  return jnp.mean(jnp.abs(jnp.matmul(flat, params.ravel(), precision="highest") - y))


def make_low_rank_sensing(
  key: Array,
  *,
  num_measurements: int,
  rows: int,
  rank: int,
  cols: int | None = None,
  condition: ArrayLike = 1.0,
  outlier_rate: ArrayLike = 0.0,
  outlier_scale: ArrayLike = 0.0,
  noise_scale: ArrayLike = 0.0,
  dtype: Any = None,
) -> Problem:
  r"""Makes a robust matrix sensing problem, y_i = <A_i, X*> + s_i.

  X* has random singular vectors and singular values equally spaced from ``condition`` down to 1.
  A_i has independent N(0, 1) entries. s_i is N(0, noise_scale^2) plus, with probability
  ``outlier_rate``, N(0, outlier_scale^2). The objective is (1/m) sum_i |<A_i, X> - y_i|, for X
  given as a matrix or as a pair (L, R) with X = L R^T (R None for L L^T).

  Args:
    key: typed PRNG key.
    num_measurements: m >= 1, static.
    rows: rows of X*, >= 1, static.
    rank: rank of X*, at most its smaller side, static.
    cols: columns of X*, static; None for a symmetric positive semidefinite X*.
    condition: >= 1, ratio of largest to smallest singular value; may be traced.
    outlier_rate: in [0, 1]; may be traced.
    outlier_scale: >= 0; may be traced.
    noise_scale: >= 0; may be traced.
    dtype: floating-point dtype; the default float by default.

  Returns:
    Problem with data ``(matrices: float[m, rows, cols], y: float[m])`` and truth ``LowRankTruth``.
    ``optimum`` is 0 where nothing is corrupted, else None: the truth is not always the minimiser of
    the objective, whose value there is mean |s|.

  Raises:
    TypeError: the key is not a typed key, a size is not an integer, or the dtype is not floating.
    ValueError: a size or a number is out of range.

  Example:
    >>> problem = make_low_rank_sensing(jax.random.key(0), num_measurements=30, rows=4, rank=1)
    >>> float(problem.objective(problem.truth.matrix, *problem.data)) < 1e-6
    True

  Reference:
    Ma and Fattahi, Global Convergence of Sub-gradient Method for Robust Matrix Recovery, 2023,
    section 1; equally spaced singular values: Tong, Ma and Chi, Low-Rank Matrix Recovery with
    Scaled Subgradient Methods, 2021, section 4.
  """
  _checks.check_key("key", key)
  size = _checks.check_int("num_measurements", num_measurements, minimum=1)
  rows = _checks.check_int("rows", rows, minimum=1)
  width = rows if cols is None else _checks.check_int("cols", cols, minimum=1)
  rank = _checks.check_int("rank", rank, minimum=1)
  if rank > min(rows, width):
    raise ValueError(f"rank must be at most {min(rows, width)}; got {rank}.")
  _checks.check_interval("condition", condition, 1.0, float("inf"), closed="left", scalar=True)
  _checks.check_interval("outlier_rate", outlier_rate, 0.0, 1.0, scalar=True)
  _checks.check_non_negative("outlier_scale", outlier_scale, scalar=True)
  _checks.check_non_negative("noise_scale", noise_scale, scalar=True)
  scalar_type = _checks.check_float_dtype(dtype, wide=True)

  names = ("left", "right", "operator", "support", "noise")
  keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))

  def orthonormal(factor_key: Array, count: int) -> Array:
    return jnp.linalg.qr(jax.random.normal(factor_key, (count, rank), scalar_type))[0]

  values = jnp.linspace(jnp.asarray(condition, scalar_type), 1, rank, dtype=scalar_type)
  root = jnp.sqrt(values)[None, :]
  left = orthonormal(keys["left"], rows) * root
  right = left if cols is None else orthonormal(keys["right"], width) * root
  matrix = jnp.matmul(left, right.T, precision="highest")
  matrices = jax.random.normal(keys["operator"], (size, rows, width), scalar_type)
  clean = jnp.matmul(matrices.reshape(size, -1), matrix.ravel(), precision="highest")
  outliers = jax.random.bernoulli(keys["support"], jnp.asarray(outlier_rate, float), (size,))
  gross, dense = jax.random.normal(keys["noise"], (2, size), scalar_type)
  gross = jnp.where(outliers, jnp.asarray(outlier_scale, scalar_type) * gross, 0)
  corruption = jnp.asarray(noise_scale, scalar_type) * dense + gross
  settings = (outlier_rate, outlier_scale, noise_scale)
  is_clean = _checks.is_concrete(settings) and bool(
    np.all(np.asarray(noise_scale) == 0)
    and (np.all(np.asarray(outlier_rate) == 0) or np.all(np.asarray(outlier_scale) == 0))
  )
  return Problem(
    data=(matrices, clean + corruption),
    truth=LowRankTruth(matrix, left, right, corruption, outliers),
    objective=_mean_absolute_residual,
    optimum=jnp.zeros((), scalar_type) if is_clean else None,
  )
