r"""Robust principal component analysis by accelerated alternating projections (AccAltProj).

Splits D = L + S for a given rank: hard thresholding finds S, and L is projected on the tangent
space of the low-rank matrices before its singular value decomposition, which then is one of a
matrix of twice the rank.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.numerics import hard_threshold, safe_divide
from jaxopt_robust.recovery.low_rank_plus_sparse._common import (
  LowRankSparse,
  SplitInfo,
  check_matrix,
  finite_or,
  relative_size,
  split_units,
  start_parts,
)
from jaxopt_robust.recovery.operators import wide_dot
from jaxopt_robust.solvers import Solver
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["AccAltProjState", "acc_alt_proj"]


class AccAltProjState(NamedTuple):
  """State of ``acc_alt_proj``.

  Attributes:
    params: LowRankSparse, the two parts.
    left: float[d1, rank], left singular vectors of L.
    right: float[d2, rank], right singular vectors of L.
    count: int32 scalar, steps done.

  Example:
    >>> AccAltProjState._fields
    ('params', 'left', 'right', 'count')

  Reference:
    Cai, Cai and Wei, Accelerated alternating projections for robust principal component analysis,
    2019, algorithm 1.
  """

  params: LowRankSparse
  left: Array
  right: Array
  count: Array  # type: ignore[assignment]


def _clip_rows(basis: Array, limit: ArrayLike) -> Array:
  """Rows scaled down to ||row||^2 <= limit * rank / rows, then orthonormal columns again."""
  rows, rank = basis.shape
  bound = jnp.asarray(limit, basis.dtype) * rank / rows
  square = jnp.sum(basis * basis, axis=1)
  factor = jnp.where(square > bound, jnp.sqrt(safe_divide(bound, square)), 1)
  return jnp.linalg.qr(basis * factor[:, None])[0]


def _project(target: Array, left: Array, right: Array) -> tuple[Array, Array, Array]:
  """The best approximation of rank ``rank`` to the tangent part: U, all 2 rank values, V."""
  rank = left.shape[1]
  across, back = wide_dot(target, right), wide_dot(target.T, left)
  core = wide_dot(left.T, across)
  q_right, r_right = jnp.linalg.qr(back - wide_dot(right, core.T))
  q_left, r_left = jnp.linalg.qr(across - wide_dot(left, core))
  small = jnp.block([[core, r_right.T], [r_left, jnp.zeros_like(core)]])
  u, values, vt = jnp.linalg.svd(small)
  new_left = wide_dot(jnp.concatenate([left, q_left], axis=1), u[:, :rank])
  new_right = wide_dot(jnp.concatenate([right, q_right], axis=1), vt[:rank].T)
  return new_left, values, new_right


def acc_alt_proj(
  rank: int,
  *,
  beta: ArrayLike | None = None,
  beta_init: ArrayLike | None = None,
  gamma: ArrayLike = 0.7,
  trim: ArrayLike | None = None,
) -> Solver:
  r"""Accelerated alternating projections, as a solver for the drivers and for ``robust_pca``.

  Starts from S = hard(D, beta_init sigma_1(D)), the best L of the given rank for D - S with
  singular values sigma, and S = hard(D - L, beta sigma_1). Step t = 1, 2, ...: L is the best
  approximation of its rank to the projection of D - S on the tangent space at the last L, and

    S = hard(D - L, beta (sigma_{rank+1} + gamma^t sigma_1))

  with the singular values sigma of that projection; hard(x, c) keeps |x| > c. The stopping quantity
  ``info.error`` is ||D - L - S||_F / ||D||_F.

  Args:
    rank: rank of L, >= 1, static.
    beta: > 0, threshold relative to the singular values; None takes 1 / (2 (d1 d2)^(1/4)). Where
      the incoherence mu of L is known, rank mu / (4 sqrt(d1 d2)) is the choice of the theory. May
      be traced.
    beta_init: > 0, the same for the start; None takes 4 beta. May be traced.
    gamma: in (0, 1), decay of the thresholds; may be traced.
    trim: mu > 0, rows of the singular vectors whose squared norm exceeds mu rank / d are scaled
      down to it before the tangent space is taken; None leaves them. May be traced.

  Returns:
    Solver with state ``AccAltProjState`` and info ``SplitInfo``. ``params`` is a ``LowRankSparse``
    (what is returned where D is not finite; no start otherwise), ``hyper`` is None and the data are
    D, float[d1, d2].

  Raises:
    ValueError: the rank is larger than the matrix, a number is out of range, or a mask is given.
    TypeError: ``rank`` is not an integer, or D is not floating-point.

  Note:
    The defaults fail where beta_init sigma_1(D) exceeds the outliers, as for outliers +-1 on a
    tenth of a 200 x 200 matrix of small entries: no outlier is removed at the start, and none ever
    after. Then pass ``beta_init`` = ||D||_max / (2 sigma_1(D)), half of the largest outlier. The
    error does not tell: look at the support.

  Example:
    >>> matrix = jnp.ones((8, 8)).at[1, 2].set(9.0)
    >>> parts, info = jr.recovery.robust_pca(matrix, solver=acc_alt_proj(1), tol=1e-5)
    >>> parts.sparse[1, 2].round(3), int(info.support), int(info.status)
    (Array(8., dtype=float32), 1, 0)

  Reference:
    Cai, Cai and Wei, Accelerated alternating projections for robust principal component analysis,
    2019, algorithms 1 and 2 (constants of the authors' program; trimming only the tangent space is
    recalled, not verified).
  """
  rank = _checks.check_int("rank", rank, minimum=1)
  for name, value in (("beta", beta), ("beta_init", beta_init), ("trim", trim)):
    if value is not None:
      _checks.check_positive(name, value, scalar=True)
  _checks.check_interval("gamma", gamma, 0.0, 1.0, closed="neither", scalar=True)

  def thresholds(data: Array) -> tuple[Array, Array]:
    later = 0.5 * data.size**-0.25 if beta is None else beta
    scale = jnp.asarray(later, data.dtype)
    return scale, 4 * scale if beta_init is None else jnp.asarray(beta_init, data.dtype)

  def init(params: LowRankSparse, hyper: Any, matrix: Array, where: Any = None) -> AccAltProjState:
    del hyper
    if where is not None:
      raise ValueError("acc_alt_proj takes no mask; got where. Use pcp_ialm or l1_robust_pca.")
    data, _ = check_matrix(matrix)
    _checks.check_rank(rank, data.shape)
    scale, scale_init = thresholds(data)
    sparse = hard_threshold(data, scale_init * jnp.linalg.norm(data, ord=2))
    u, values, vt = jnp.linalg.svd(data - sparse, full_matrices=False)
    low = wide_dot(u[:, :rank] * values[None, :rank], vt[:rank])
    sparse = hard_threshold(data - low, scale * values[0])
    parts = finite_or(LowRankSparse(low, sparse), start_parts(params, data))
    return AccAltProjState(parts, u[:, :rank], vt[:rank].T, jnp.zeros((), jnp.int32))

  def step(
    state: AccAltProjState, hyper: Any, matrix: Array, where: Any = None
  ) -> tuple[AccAltProjState, SplitInfo]:
    del hyper, where
    data, _ = check_matrix(matrix)
    left, right = state.left, state.right
    if trim is not None:
      left, right = _clip_rows(left, trim), _clip_rows(right, trim)
    left, values, right = _project(data - state.params.sparse, left, right)
    low = wide_dot(left * values[None, :rank], right.T)
    decay = jnp.asarray(gamma, data.dtype) ** (state.count + 1).astype(data.dtype)
    level = thresholds(data)[0] * (values[rank] + decay * values[0])
    sparse = hard_threshold(data - low, level)
    residual = data - low - sparse
    info = SplitInfo(relative_size(residual, data), 0.5 * jnp.sum(residual * residual))
    parts = LowRankSparse(low, sparse)
    state = AccAltProjState(parts, left, right, state.count + 1)
    return state, jax.lax.stop_gradient(info)

  return split_units(Solver(init, step))
