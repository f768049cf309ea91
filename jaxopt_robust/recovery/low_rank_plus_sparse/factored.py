r"""Robust principal component analysis on two factors, D = L R^T + S, for a given rank.

Scaled gradient descent alternates with a sparsification that keeps what is large in its row and in
its column. The sub-gradient method on the l1 loss needs no fraction of outliers.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import _arguments, _checks
from jaxopt_robust._units import root_of_unit
from jaxopt_robust.numerics import hard_threshold, safe_norm, upcast
from jaxopt_robust.recovery.entries import EntryMask, Identity
from jaxopt_robust.recovery.factors import Factors, check_pair, compose
from jaxopt_robust.recovery.initial import mask_spectral
from jaxopt_robust.recovery.low_rank_plus_sparse._common import (
  LowRankSparse,
  RobustPcaInfo,
  SplitInfo,
  check_finite,
  check_matrix,
  finite_or,
  masked,
  relative_size,
  split_units,
  start_parts,
  summary,
)
from jaxopt_robust.recovery.operators import MeasurementOperator, wide_dot
from jaxopt_robust.recovery.scaled import precondition_factors, scaled_geometric
from jaxopt_robust.recovery.sensing import subgm
from jaxopt_robust.recovery.stepsizes import grad_normalized_geometric
from jaxopt_robust.solvers import Solver
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["ScaledGdState", "l1_robust_pca", "scaledgd_rpca", "top_rows_and_columns"]

RULES = ("scaled", "plain")


def _top_of_rows(sizes: Array, fraction: Array) -> Array:
  """Which entries are among the floor(fraction n) largest of their row; the first ones at ties."""
  n = sizes.shape[1]
  # 0.29 * 100 is 28.999...: what rounding takes away is given back before the floor.
  slack = 1 + 4 * jnp.finfo(fraction.dtype).eps
  count = jnp.minimum(jnp.floor(fraction * n * slack).astype(jnp.int32), n)
  place = jnp.full((sizes.shape[0], 1), n - count)
  least = jnp.take_along_axis(jnp.sort(sizes, axis=1), place, axis=1, mode="clip")
  above, tied = sizes > least, sizes == least
  room = count - jnp.sum(above, axis=1, keepdims=True)
  kept = above | (tied & (jnp.cumsum(tied, axis=1) <= room))
  return kept & (count > 0)


def top_rows_and_columns(matrix: ArrayLike, *, fraction: ArrayLike) -> Array:
  r"""Keeps the entries that are among the largest of both their row and their column.

  T_a(Z)_ij = Z_ij where |Z_ij| is one of the floor(a d2) largest magnitudes of row i and one of the
  floor(a d1) largest of column j, else 0.

  Args:
    matrix: float[d1, d2], Z.
    fraction: a in [0, 1]; may be traced.

  Returns:
    float[d1, d2].

  Raises:
    TypeError: the matrix is not floating-point.
    ValueError: it is no matrix, or the fraction is outside [0, 1].

  Note:
    Of equal magnitudes those with the lower index come first. NaN stays NaN; other entries of its
    row and column may be dropped.

  Example:
    >>> top_rows_and_columns(jnp.array([[3.0, 1.0], [2.0, -4.0]]), fraction=0.5)
    Array([[ 3.,  0.],
           [ 0., -4.]], dtype=float32)

  Reference:
    Yi, Park, Chen and Caramanis, Fast algorithms for robust PCA via gradient descent, 2016,
    equation 7 (number recalled, not verified).
  """
  array = _checks.check_float_array("matrix", matrix, rank=2)
  _checks.check_interval("fraction", fraction, 0.0, 1.0, scalar=True)
  sizes = jnp.abs(array)
  share = jnp.asarray(fraction, upcast(array).dtype)
  keep = _top_of_rows(sizes, share) & _top_of_rows(sizes.T, share).T | jnp.isnan(array)
  return jnp.where(keep, array, 0)


class ScaledGdState(NamedTuple):
  """State of ``scaledgd_rpca``.

  Attributes:
    params: LowRankSparse, the two parts.
    factors: Factors of the low-rank part.
    count: int32 scalar, steps done.

  Example:
    >>> ScaledGdState._fields
    ('params', 'factors', 'count')

  Reference:
    Tong, Ma and Chi, Accelerating ill-conditioned low-rank matrix estimation via scaled gradient
    descent, 2021, algorithm 2 (number recalled, not verified).
  """

  params: LowRankSparse
  factors: Factors
  count: Array  # type: ignore[assignment]


def _spectral(matrix: Array, rank: int, mask: Array | None = None) -> Factors:
  """L_0 = U sqrt(Sigma), R_0 = V sqrt(Sigma) of the best approximation of this rank."""
  seen = jnp.ones(matrix.shape, bool) if mask is None else mask
  return mask_spectral(EntryMask(seen), matrix.ravel(), rank)


def scaledgd_rpca(
  rank: int,
  *,
  fraction: ArrayLike,
  stepsize: ArrayLike = 0.5,
  damping: ArrayLike = 0.0,
) -> Solver:
  r"""Robust principal component analysis by scaled gradient descent, a solver for the drivers.

  Starts from the best L_0 R_0^T of the given rank for D - T_a(D); then

    S = T_2a(D - L R^T),  E = L R^T + S - D,
    L <- L - eta E R (R^T R)^{-1},  R <- R - eta E^T L (L^T L)^{-1},

  both from the old factors, with T_a of ``top_rows_and_columns``. The stopping quantity
  ``info.error`` is ||E||_F / ||D||_F at the start of the step.

  Args:
    rank: rank of L, >= 1, static.
    fraction: a in [0, 1], at least the largest fraction of outliers in any row or column; may be
      traced.
    stepsize: eta > 0; may be traced.
    damping: >= 0, of ``precondition_factors``; may be traced.

  Returns:
    Solver with state ``ScaledGdState`` and info ``SplitInfo``. ``params`` is a ``LowRankSparse``
    (what is returned where D is not finite; no start otherwise), ``hyper`` is None and the data are
    D, float[d1, d2].

  Raises:
    ValueError: the rank is larger than the matrix, a number is out of range, or a mask is given.
    TypeError: ``rank`` is not an integer, or D is not floating-point.

  Note:
    Outliers that hit entries at random fill some rows more than others. Those that the start leaves
    in are removed by the factor 2 later, unless they are a hundred times larger than the entries of
    L: then the start is lost, and ``fraction`` must bound every row and column. The larger it is,
    the slower the convergence; beyond about 0.2 nothing is recovered.

  Example:
    >>> matrix = jnp.ones((8, 8)).at[1, 2].set(9.0)
    >>> parts, info = jr.recovery.robust_pca(matrix, solver=scaledgd_rpca(1, fraction=0.125))
    >>> parts.sparse[1, 2].round(3), int(info.status)
    (Array(8., dtype=float32), 0)

  Reference:
    Tong, Ma and Chi, Accelerating ill-conditioned low-rank matrix estimation via scaled gradient
    descent, 2021, section 3 and the authors' program.
  """
  rank = _checks.check_int("rank", rank, minimum=1)
  _checks.check_interval("fraction", fraction, 0.0, 1.0, scalar=True)
  _checks.check_positive("stepsize", stepsize, scalar=True)
  link = precondition_factors(damping=damping)

  def init(params: LowRankSparse, hyper: Any, matrix: Array, where: Any = None) -> ScaledGdState:
    del hyper
    if where is not None:
      raise ValueError("scaledgd_rpca takes no mask; got where. Use pcp_ialm or l1_robust_pca.")
    data, _ = check_matrix(matrix)
    _checks.check_rank(rank, data.shape)
    sparse = top_rows_and_columns(data, fraction=fraction)
    factors = _spectral(data - sparse, rank)
    parts = finite_or(LowRankSparse(compose(factors), sparse), start_parts(params, data))
    return ScaledGdState(parts, factors, jnp.zeros((), jnp.int32))

  def step(
    state: ScaledGdState, hyper: Any, matrix: Array, where: Any = None
  ) -> tuple[ScaledGdState, SplitInfo]:
    del hyper, where
    data, _ = check_matrix(matrix)
    left, right = check_pair(state.factors)
    low = compose(state.factors)
    wide = jnp.minimum(2 * jnp.asarray(fraction, data.dtype), 1)
    sparse = top_rows_and_columns(data - low, fraction=wide)
    residual = low + sparse - data
    gradients = Factors(wide_dot(residual, right), wide_dot(residual.T, left))
    updates, _ = link.update(gradients, link.init(state.factors), state.factors)
    eta = jnp.asarray(stepsize, data.dtype)
    factors = optax.apply_updates(state.factors, jax.tree.map(lambda u: -eta * u, updates))
    info = SplitInfo(relative_size(residual, data), 0.5 * jnp.sum(residual * residual))
    # The parts that the error belongs to: the step that follows is not measured yet.
    state = ScaledGdState(LowRankSparse(low, sparse), factors, state.count + 1)
    return state, jax.lax.stop_gradient(info)

  return split_units(Solver(init, step), factors=1)


def l1_robust_pca(
  matrix: ArrayLike,
  rank: int,
  *,
  where: ArrayLike | None = None,
  rule: str = "scaled",
  eta0: ArrayLike = 0.3,
  rho: ArrayLike = 0.95,
  quantile: ArrayLike = 0.85,
  num_steps: int = 800,
  tol: ArrayLike = 1e-6,
) -> tuple[LowRankSparse, RobustPcaInfo]:
  r"""Robust principal component analysis by the sub-gradient method on the l1 loss.

  Minimises the mean of |L R^T - D| over the observed entries by ``subgm``, from the best factors of
  the given rank for D with its entries clipped to a quantile of |D|, in geometrically decaying
  steps. It needs no bound on the fraction of outliers.

  Args:
    matrix: float[d1, d2], D; ignored, even NaN, where ``where`` is false.
    rank: rank of L, >= 1, static.
    where: bool[d1, d2], which entries are observed; None for all.
    rule: ``"scaled"`` for ``scaled_geometric``, ``"plain"`` for ``grad_normalized_geometric``;
      static.
    eta0: > 0, first step relative to the start: to ||L_0 R_0^T||_F for the scaled rule, to the norm
      of the factors for the plain one. May be traced.
    rho: in [0, 1], decay of a step; may be traced.
    quantile: in (0, 1], of |D|, to which the start is clipped; may be traced.
    num_steps: number of steps, >= 1, static.
    tol: > 0, the last relative step of a run that counts as converged; may be traced.

  Returns:
    (LowRankSparse, RobustPcaInfo). S is D - L where that exceeds sqrt(eps) times the largest
    observed |D|, else 0; the residual is what this leaves out. Status 0 says that the steps have
    become small, as they always do after enough of them.

  Raises:
    TypeError: ``matrix`` is not floating-point, ``where`` not boolean, or ``rank`` not an integer.
    ValueError: wrong shapes, a rank larger than the matrix, a number out of range, or observed
      entries that are known not to be finite; inside ``jit`` these end with status 2.

  Note:
    Single entries need ``rank`` to be the true rank: with a larger one the l1 loss fits outliers.

  Example:
    >>> matrix = jnp.ones((8, 8)).at[1, 2].set(9.0)
    >>> parts, info = l1_robust_pca(matrix, 1, num_steps=300)
    >>> parts.sparse[1, 2].round(3), int(info.support), int(info.status)
    (Array(8., dtype=float32), 1, 0)

  Reference:
    Tong, Ma and Chi, Low-Rank Matrix Recovery with Scaled Subgradient Methods, 2021; Li, Zhu, So
    and Vidal, Nonconvex Robust Low-rank Matrix Recovery, 2020. The clipped start and the scale of
    the steps are ours.
  """
  _arguments.check_option("rule", rule, RULES)
  _checks.check_positive("eta0", eta0, scalar=True)
  _checks.check_interval("quantile", quantile, 0.0, 1.0, closed="right", scalar=True)
  rank = _checks.check_int("rank", rank, minimum=1)
  data, mask = check_matrix(matrix, where)
  _checks.check_rank(rank, data.shape)
  check_finite(data)
  unit = root_of_unit(data) ** 2
  data = data / unit
  sizes = jnp.abs(data)
  share = jnp.asarray(quantile, data.dtype)
  if mask is None:
    bound = jnp.quantile(sizes, share)
  else:
    # NaN where not observed; of no observation at all the bound is 0.
    bound = jnp.nan_to_num(jnp.nanquantile(jnp.where(mask, sizes, jnp.nan), share))
  start = _spectral(jnp.clip(data, -bound, bound), rank, mask)
  step = jnp.asarray(eta0, data.dtype)
  tx: optax.GradientTransformation
  if rule == "scaled":
    tx = scaled_geometric(eta0=step * safe_norm(compose(start)), rho=rho)
  else:
    tx = grad_normalized_geometric(eta0=step * optax.tree.norm(start), rho=rho)
  rows, cols = data.shape
  op: MeasurementOperator = Identity((rows, cols)) if mask is None else EntryMask(mask)
  factors, trace = subgm(op, data.ravel(), start, tx=tx, num_steps=num_steps, tol=tol)
  low = compose(factors)
  cut = jnp.sqrt(jnp.finfo(data.dtype).eps) * jnp.max(sizes)
  parts = LowRankSparse(low, hard_threshold(masked(mask, data - low), cut))
  zero = LowRankSparse(jnp.zeros_like(data), jnp.zeros_like(data))
  parts = finite_or(parts, zero)
  steps = jnp.full((), num_steps, jnp.int32)
  record = summary(data, mask, parts, steps, trace.status)
  dtype = jnp.asarray(matrix).dtype
  return LowRankSparse(*((part * unit).astype(dtype) for part in parts)), record
