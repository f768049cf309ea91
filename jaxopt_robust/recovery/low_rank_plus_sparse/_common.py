"""What the methods of robust principal component analysis share: data, results, residuals."""

from typing import NamedTuple

import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust._units import root_of_unit
from jaxopt_robust.numerics import safe_divide, safe_norm, tree_all_finite, tree_where, upcast
from jaxopt_robust.recovery._unit_free import unit_free
from jaxopt_robust.solvers import SolveInfo, Solver
from jaxopt_robust.typing import Array, ArrayLike


class LowRankSparse(NamedTuple):
  """The two parts of a matrix D = L + S.

  Attributes:
    low_rank: float[d1, d2], L.
    sparse: float[d1, d2], S; 0 where not observed.

  Example:
    >>> LowRankSparse._fields
    ('low_rank', 'sparse')

  Reference:
    Candes, Li, Ma and Wright, Robust principal component analysis?, 2011, section 1.
  """

  low_rank: Array
  sparse: Array


class RobustPcaInfo(NamedTuple):
  """What a person wants to know of a finished decomposition.

  Attributes:
    residual: float scalar, ||D - L - S||_F / ||D||_F over the observed entries.
    rank: int32 scalar, singular values of L above max(d1, d2) * eps times the largest.
    support: int32 scalar, entries of S that are not 0.
    steps: int32 scalar, steps taken.
    status: int32 scalar: 0 converged, 1 step limit, 2 a number was not finite (the parts are those
      of the last finite step), 3 stalled.

  Example:
    >>> RobustPcaInfo._fields
    ('residual', 'rank', 'support', 'steps', 'status')

  Reference:
    Candes, Li, Ma and Wright, Robust principal component analysis?, 2011, section 4.1 (rank and
    number of non-zeros are what its tables show).
  """

  residual: Array
  rank: Array
  support: Array
  steps: Array
  status: Array


class SplitInfo(NamedTuple):
  """Diagnostics of one step of a projection method.

  Attributes:
    error: float scalar, ||D - L - S||_F / ||D||_F.
    value: float scalar, 1/2 ||D - L - S||_F^2.
  """

  error: Array
  value: Array


def check_matrix(
  matrix: ArrayLike, where: ArrayLike | None = None, *, complex_ok: bool = False
) -> tuple[Array, Array | None]:
  """The data in float32 or wider, 0 where not observed, and the mask."""
  array = upcast(_checks.check_float_array("matrix", matrix, rank=2, complex_ok=complex_ok))
  mask = _checks.check_mask("where", where, shape=array.shape)
  return (array if mask is None else jnp.where(mask, array, 0)), mask


def check_finite(matrix: Array) -> None:
  """Refuses data that are known not to be finite."""
  _checks.check_holds(
    jnp.isfinite(matrix).all(),
    "matrix must be finite where it is observed; got NaN or infinite entries. Mark them as missing "
    "with where, if the method takes it.",
  )


def masked(mask: Array | None, array: Array) -> Array:
  """The observed entries, 0 elsewhere."""
  return array if mask is None else jnp.where(mask, array, 0)


def start_parts(params: LowRankSparse, matrix: Array) -> LowRankSparse:
  """The starting point of a run, in the dtype of the computation."""
  if not isinstance(params, LowRankSparse):
    raise TypeError(f"params must be a LowRankSparse; got {type(params).__name__}.")
  for name, part in zip(params._fields, params, strict=True):
    _checks.check_same_shape(f"params.{name}", part, "matrix", matrix)
  return LowRankSparse(*(jnp.asarray(part, matrix.dtype) for part in params))


def finite_or(parts: LowRankSparse, fallback: LowRankSparse) -> LowRankSparse:
  """The parts where they are finite, so that a run on bad data returns numbers and status 2."""
  return tree_where(tree_all_finite(parts), parts, fallback)


def split_units(solver: Solver, **fields: int) -> Solver:
  """A method for D = L + S that sees D in units of its size; ``fields`` as in ``unit_free``."""

  def split(data: tuple) -> tuple[Array, tuple]:
    matrix, *where = data
    matrix, mask = check_matrix(matrix, where[0] if where else None)
    return matrix, (matrix,) if mask is None else (matrix, mask)

  def check_params(params: LowRankSparse, data: tuple) -> LowRankSparse:
    return start_parts(params, data[0])

  return unit_free(solver, split=split, check_params=check_params, fields={"params": 2} | fields)


def relative_size(part: Array, whole: Array) -> Array:
  """||part||_F / ||whole||_F; the norm of the part itself where the whole is 0."""
  size, total = safe_norm(part), safe_norm(whole)
  return safe_divide(size, total, default=size)


def summary(
  matrix: Array, mask: Array | None, parts: LowRankSparse, steps: Array, status: Array
) -> RobustPcaInfo:
  """The record of a finished decomposition, in the dtype of the computation."""
  unit = root_of_unit(matrix) ** 2
  matrix, low, sparse = (part / unit for part in (matrix, *parts))
  return RobustPcaInfo(
    residual=relative_size(masked(mask, matrix - low - sparse), matrix),
    rank=jnp.linalg.matrix_rank(low).astype(jnp.int32),
    support=jnp.sum(parts.sparse != 0, dtype=jnp.int32),
    steps=steps,
    status=status,
  )


def finished(
  matrix: Array, mask: Array | None, parts: LowRankSparse, info: SolveInfo
) -> RobustPcaInfo:
  """The record of a run of ``run_until``."""
  return summary(matrix, mask, parts, info.steps, info.status)
