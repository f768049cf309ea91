r"""Robust principal component analysis by convex optimisation: principal component pursuit.

Splits D = L + S into a matrix of low rank and a sparse one by minimising ||L||_* + lam ||S||_1. No
rank and no fraction of outliers is asked for. Two methods: alternating directions, and the
augmented Lagrangian with a growing penalty, which takes half the steps and is less exact.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust._units import root_of_unit, times
from jaxopt_robust.numerics import safe_divide, safe_norm, soft_threshold
from jaxopt_robust.prox import prox_nuclear
from jaxopt_robust.recovery.low_rank_plus_sparse._common import (
  LowRankSparse,
  RobustPcaInfo,
  check_finite,
  check_matrix,
  finished,
  masked,
  relative_size,
  start_parts,
)
from jaxopt_robust.solvers import Solver, run_state
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "PcpInfo",
  "PcpState",
  "pcp_admm",
  "pcp_ialm",
  "robust_pca",
]

# The dual error of a sum that fits by accident is 0.6 and more; a slow end has 0.1 at most.
_COARSE = 0.2


class PcpState(NamedTuple):
  """State of the methods of principal component pursuit.

  Attributes:
    params: LowRankSparse, the two parts.
    dual: float[d1, d2], Y, multiplier of L + S = D. At a solution ||Y||_2 <= 1 and |Y_ij| <= lam,
      which proves that it is one.
    penalty: float scalar, mu.
    count: int32 scalar, steps done.

  Example:
    >>> PcpState._fields
    ('params', 'dual', 'penalty', 'count')

  Reference:
    Candes, Li, Ma and Wright, Robust principal component analysis?, 2011, lemma 2.4 (the dual
    certificate) and algorithm 1.
  """

  params: LowRankSparse
  dual: Array
  penalty: Array
  count: Array  # type: ignore[assignment]


class PcpInfo(NamedTuple):
  """Diagnostics of one step of principal component pursuit.

  Attributes:
    error: float scalar, the stopping quantity of the method.
    value: float scalar, ||L||_* + lam ||S||_1.
    residual: float scalar, ||D - L - S||_F / ||D||_F over the observed entries.
    dual_error: float scalar, mu ||S_{k+1} - S_k||_F / ||Y||_F: how far Y is from a sub-gradient of
      the nuclear norm at L.

  Example:
    >>> PcpInfo._fields
    ('error', 'value', 'residual', 'dual_error')

  Reference:
    Boyd, Parikh, Chu, Peleato and Eckstein, Distributed optimization and statistical learning via
    the alternating direction method of multipliers, 2011, section 3.3.
  """

  error: Array
  value: Array
  residual: Array
  dual_error: Array


def _weight(lam: Any, mask: Array | None, shape: tuple[int, ...], dtype: Any) -> Array:
  """lam, or 1 / sqrt(p max(d1, d2)) with p the fraction observed."""
  if lam is not None:
    _checks.check_positive("lam", lam, scalar=True)
    return jnp.asarray(lam, dtype)
  rate = jnp.ones((), dtype) if mask is None else jnp.mean(mask, dtype=dtype)
  return safe_divide(jnp.ones_like(rate), jnp.sqrt(rate * max(shape)), default=1.0)


def _start(params: LowRankSparse, matrix: Array, mask: Array | None) -> LowRankSparse:
  low_rank, sparse = start_parts(params, matrix)
  return LowRankSparse(low_rank, masked(mask, sparse))


def _step(
  state: PcpState, weight: Array, matrix: Array, mask: Array | None, penalty: Array
) -> tuple[PcpState, Array, Array, Array]:
  """Both proximal steps and the multiplier; ``penalty`` is the mu of the next step.

  Returns the state, the objective and the two residuals. All is computed in units of the data,
  in which D, L and S are of size 1.

  Where an entry is not observed S costs nothing and takes up the whole difference, so that the
  entry of L is filled with its last value.
  """
  unit = root_of_unit(matrix) ** 2
  matrix = matrix / unit
  low, sparse = (part / unit for part in state.params)
  dual, mu = state.dual, state.penalty * unit
  inverse = 1 / mu
  target = matrix - sparse + dual * inverse
  if mask is not None:
    target = jnp.where(mask, target, low)
  new_low = prox_nuclear(target, inverse)
  new_sparse = masked(mask, soft_threshold(matrix - new_low + dual * inverse, weight * inverse))
  residual = masked(mask, matrix - new_low - new_sparse)
  new_dual = dual + mu * residual
  moved = new_sparse - sparse
  if mask is not None:
    moved = jnp.where(mask, moved, low - new_low)
  # mu (target - L) is a sub-gradient of the nuclear norm at L: its product with L is ||L||_*.
  value = mu * jnp.sum(((target - new_low) * new_low.conj()).real) + weight * jnp.sum(
    jnp.abs(new_sparse)
  )
  primal = relative_size(residual, matrix)
  dual_error = safe_divide(mu * safe_norm(moved), safe_norm(new_dual))
  params = LowRankSparse(times(new_low, unit), times(new_sparse, unit))
  state = PcpState(params, new_dual, penalty, state.count + 1)
  return state, times(value, unit), primal, dual_error


def pcp_admm(*, mu: ArrayLike | None = None) -> Solver:
  r"""Principal component pursuit by alternating directions, as a solver for the drivers.

  Minimises ||L||_* + lam ||S||_1 subject to L + S = D on the observed entries, by

    L = SVT(D - S + Y/mu, 1/mu),  S = soft(D - L + Y/mu, lam/mu),  Y <- Y + mu (D - L - S),

  with singular value thresholding SVT (``prox_nuclear``). The stopping quantity ``info.error`` is
  the larger one of ||D - L - S||_F / ||D||_F and (mu ||S_{k+1} - S_k||_F / ||Y||_F)^2. The second
  one, of the order of what the objective exceeds its minimum by, is needed: where all entries of Y
  are at their bounds, L + S = D holds exactly and far from a solution.

  Args:
    mu: > 0, penalty; None takes n / (4 ||D||_1), n the number of entries observed. May be traced.

  Returns:
    Solver with state ``PcpState`` and info ``PcpInfo``. ``params`` is a ``LowRankSparse`` to start
    from, ``hyper`` is lam > 0 (None takes 1 / sqrt(p max(d1, d2)), p the fraction observed) and the
    data are D, float[d1, d2], and optionally the mask bool[d1, d2] of observed entries.

  Raises:
    ValueError: ``mu`` or lam is not positive, or shapes do not fit.
    TypeError: D is not floating-point, the mask not boolean, or ``params`` no ``LowRankSparse``.

  Note:
    D may hold anything, even NaN, where the mask is false.

  Example:
    >>> matrix = jnp.ones((8, 8)).at[1, 2].set(9.0)
    >>> zero = jr.recovery.LowRankSparse(jnp.zeros((8, 8)), jnp.zeros((8, 8)))
    >>> parts, _ = jr.solvers.run_until(pcp_admm(), zero, None, matrix, tol=1e-6, max_steps=500)
    >>> parts.sparse[1, 2].round(3), int((parts.sparse != 0).sum())
    (Array(8., dtype=float32), 1)

  Reference:
    Candes, Li, Ma and Wright, Robust principal component analysis?, 2011, algorithm 1; missing
    entries: section 1.6 there; mu from Yuan and Yang, Sparse and low-rank matrix decomposition via
    alternating direction methods, 2013 (all recalled, not verified).
  """
  if mu is not None:
    _checks.check_positive("mu", mu, scalar=True)

  def init(params: LowRankSparse, lam: Any, matrix: Array, where: Any = None) -> PcpState:
    data, mask = check_matrix(matrix, where, complex_ok=True)
    _weight(lam, mask, data.shape, data.real.dtype)
    if mu is None:
      count = jnp.asarray(data.size if mask is None else jnp.sum(mask), data.real.dtype)
      # 0 / 0 of zero data is 1; all sums are taken of numbers of size 1.
      unit = root_of_unit(data) ** 2
      penalty = safe_divide(count, 4 * jnp.sum(jnp.abs(data / unit)), default=1.0) / unit
    else:
      penalty = jnp.asarray(mu, data.real.dtype)
    start = _start(params, data, mask)
    return PcpState(start, jnp.zeros_like(data), penalty, jnp.zeros((), jnp.int32))

  def step(state: PcpState, lam: Any, matrix: Array, where: Any = None) -> tuple[PcpState, PcpInfo]:
    data, mask = check_matrix(matrix, where, complex_ok=True)
    weight = _weight(lam, mask, data.shape, data.real.dtype)
    state, value, residual, dual_error = _step(state, weight, data, mask, state.penalty)
    info = PcpInfo(jnp.maximum(residual, dual_error**2), value, residual, dual_error)
    return state, jax.lax.stop_gradient(info)

  return Solver(init, step)


def pcp_ialm(
  *, mu: ArrayLike | None = None, growth: ArrayLike = 1.5, max_growth: ArrayLike = 1e7
) -> Solver:
  r"""Principal component pursuit by the inexact augmented Lagrangian, a solver for the drivers.

  The steps of ``pcp_admm`` from Y_0 = D / max(||D||_2, ||D||_max / lam), with the penalty
  mu_{k+1} = min(growth mu_k, max_growth mu_0). The stopping quantity ``info.error`` is
  ||D - L - S||_F / ||D||_F, but at least ``info.dual_error`` while that exceeds 0.2.

  Args:
    mu: > 0, first penalty mu_0; None takes 1.25 / ||D||_2. May be traced.
    growth: >= 1, factor of the penalty at each step; may be traced.
    max_growth: >= 1, largest penalty relative to the first; may be traced. Cut to 1e-4 / eps, about
      800 in float32, which keeps rounding errors out of Y.

  Returns:
    Solver as that of ``pcp_admm``.

  Raises:
    ValueError: ``mu`` or lam is not positive, ``growth`` or ``max_growth`` is less than 1, or
      shapes do not fit.
    TypeError: D is not floating-point, the mask not boolean, or ``params`` no ``LowRankSparse``.

  Note:
    A penalty that grows forces L + S = D whether or not the parts are optimal yet. Where D is the
    sum of a matrix of low rank and a sparse one this is harmless; where it is not, the run ends at
    a point whose objective is some tenths of a percent too high, which ``info.dual_error`` shows:
    0.06 instead of 0.0001. A smaller ``growth`` helps, and ``pcp_admm`` is exact.

  Example:
    >>> matrix = jnp.ones((8, 8)).at[1, 2].set(9.0)
    >>> zero = jr.recovery.LowRankSparse(jnp.zeros((8, 8)), jnp.zeros((8, 8)))
    >>> parts, _ = jr.solvers.run_until(pcp_ialm(), zero, None, matrix, tol=1e-6, max_steps=500)
    >>> parts.sparse[1, 2].round(2), int((parts.sparse != 0).sum())
    (Array(8., dtype=float32), 1)

  Reference:
    Lin, Chen and Ma, The augmented Lagrange multiplier method for exact recovery of corrupted
    low-rank matrices, 2010, algorithm 5 (number and constants recalled, not verified).
  """
  if mu is not None:
    _checks.check_positive("mu", mu, scalar=True)
  _checks.check_interval("growth", growth, 1.0, jnp.inf, closed="left", scalar=True)
  _checks.check_interval("max_growth", max_growth, 1.0, jnp.inf, closed="left", scalar=True)

  def init(params: LowRankSparse, lam: Any, matrix: Array, where: Any = None) -> PcpState:
    data, mask = check_matrix(matrix, where, complex_ok=True)
    weight = _weight(lam, mask, data.shape, data.real.dtype)
    unit = root_of_unit(data) ** 2
    top = jnp.linalg.norm(data / unit, ord=2)
    dual = safe_divide(data / unit, jnp.maximum(top, jnp.max(jnp.abs(data / unit)) / weight))
    scaled = (
      safe_divide(jnp.asarray(1.25, data.real.dtype), top, default=1.0) / unit
    )  # their constant
    penalty = scaled if mu is None else jnp.asarray(mu, data.real.dtype)
    return PcpState(_start(params, data, mask), dual, penalty, jnp.zeros((), jnp.int32))

  def step(state: PcpState, lam: Any, matrix: Array, where: Any = None) -> tuple[PcpState, PcpInfo]:
    data, mask = check_matrix(matrix, where, complex_ok=True)
    # mu_0 is not kept: the penalty of step k is known from the last one and the number of steps.
    dtype = data.real.dtype
    exponent = state.count.astype(dtype)
    factor, limit = jnp.asarray(growth, dtype), jnp.asarray(max_growth, dtype)
    # Y sums mu (D - L - S): beyond this mu its rounding errors are more than 1e-4 of its entries.
    limit = jnp.minimum(limit, 1e-4 / jnp.finfo(data.dtype).eps)
    now = jnp.minimum(factor**exponent, limit)
    later = jnp.minimum(factor ** (exponent + 1), limit)
    weight = _weight(lam, mask, data.shape, data.real.dtype)
    state, value, residual, dual_error = _step(
      state, weight, data, mask, state.penalty * (later / now)
    )
    error = jnp.where(dual_error > _COARSE, jnp.maximum(residual, dual_error), residual)
    info = PcpInfo(error, value, residual, dual_error)
    return state, jax.lax.stop_gradient(info)

  return Solver(init, step)


def robust_pca(
  matrix: ArrayLike,
  *,
  solver: Solver | None = None,
  lam: ArrayLike | None = None,
  where: ArrayLike | None = None,
  tol: ArrayLike | None = None,
  max_steps: ArrayLike = 1000,
) -> tuple[LowRankSparse, RobustPcaInfo]:
  r"""Splits a matrix into one of low rank and a sparse one, D = L + S.

  Args:
    matrix: float[d1, d2], D, or complex for the first two solvers; ignored, even NaN, where
      ``where`` is false. The norms are those of magnitudes then.
    solver: ``pcp_admm()`` (what None takes), ``pcp_ialm()``, ``acc_alt_proj(rank)`` or
      ``scaledgd_rpca(rank, fraction=...)``; the last two take neither ``lam`` nor ``where``.
    lam: > 0, weight of ||S||_1 of the first two; None takes 1 / sqrt(p max(d1, d2)), p the fraction
      observed. May be traced.
    where: bool[d1, d2], which entries are observed; None for all.
    tol: >= 0, error of the solver (about ||D - L - S||_F / ||D||_F) at which a run has converged;
      may be traced. None takes 1e-7, or 16 eps where that is larger.
    max_steps: >= 0, int; may be traced.

  Returns:
    (LowRankSparse, RobustPcaInfo): look at ``info.status``, which is 0 where the run converged.

  Raises:
    TypeError: ``matrix`` is not floating-point or ``where`` not boolean.
    ValueError: wrong shapes, a number out of range, or observed entries that are known not to be
      finite; inside ``jit`` these end with status 2.

  Note:
    Converged means L + S = D, no more: whether L is the matrix that one had in mind depends on the
    data. If most entries are outliers any method returns some split. One decomposition of each of
    many matrices is a ``vmap``.

  Example:
    >>> matrix = jnp.ones((8, 8)).at[1, 2].set(9.0).at[5, 5].set(jnp.nan)
    >>> parts, info = robust_pca(matrix, where=~jnp.isnan(matrix))
    >>> parts.low_rank[5, 5].round(2), int(info.rank), int(info.support), int(info.status)
    (Array(1., dtype=float32), 1, 1, 0)

  Reference:
    Candes, Li, Ma and Wright, Robust principal component analysis?, 2011.
  """
  solver = pcp_admm() if solver is None else solver
  if not isinstance(solver, Solver):
    raise TypeError(f"solver must be a Solver; got {type(solver).__name__}.")
  data, mask = check_matrix(matrix, where, complex_ok=True)
  check_finite(data)
  if tol is None:
    tol = max(1e-7, 16 * float(jnp.finfo(data.dtype).eps))
  start = LowRankSparse(jnp.zeros_like(data), jnp.zeros_like(data))
  known = (data,) if mask is None else (data, mask)
  state = solver.init(start, lam, *known)
  state, info = run_state(solver, state, lam, *known, tol=tol, max_steps=max_steps)
  parts = state.params
  record = finished(data, mask, parts, info)
  dtype = jnp.asarray(matrix).dtype
  return LowRankSparse(*(part.astype(dtype) for part in parts)), record
