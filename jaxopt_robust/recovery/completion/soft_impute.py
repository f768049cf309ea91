"""Matrix completion by nuclear-norm regularisation: softImpute, dense and sparse plus low rank."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.linalg import randomized_svd_matvec
from jaxopt_robust.numerics import safe_divide, safe_norm, upcast
from jaxopt_robust.prox import penalty_nuclear, prox_nuclear
from jaxopt_robust.recovery.completion._common import (
  CompletionInfo,
  CompletionState,
  as_entries,
  check_entries,
  check_start,
  close_step,
  entry_units,
  first_state,
  misfit,
  quotient,
  relative,
)
from jaxopt_robust.recovery.entries import EntryCOO, EntryMask
from jaxopt_robust.recovery.factors import Factors, check_pair
from jaxopt_robust.recovery.operators import wide_dot
from jaxopt_robust.solvers import SolveInfo, Solver, run_state
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["soft_impute", "soft_impute_factored", "soft_impute_path"]

_OVERSAMPLE = 10
_POWER = 1  # the last singular vectors are the guess: one round is enough


def soft_impute(*, min_decrease: ArrayLike = 0.0) -> Solver:
  r"""Iterated singular value thresholding of the filled-in matrix, as a solver for the drivers.

  Minimises 1/2 ||A(X) - y||^2 + lam ||X||_* by X <- prox(X + A*(y - A(X)), lam): the unobserved
  entries are filled with those of X, and the singular values are lowered by lam.

  The parameter is the matrix X, float[d1, d2] or complex as y may be, ``hyper`` is lam, the data
  are ``op, y`` and optionally the true matrix, float[d1, d2]. The stopping quantity is
  error = ||X_{k+1} - X_k||_F / ||X_k||_F (the residual on the entries, which has no limit 0 here,
  stands in ``residual``).

  Args:
    min_decrease: >= 0; the step is stalled when the objective falls by less than this fraction.

  Returns:
    Solver with state ``CompletionState`` and info ``CompletionInfo``.

  Raises:
    ValueError: ``min_decrease`` is negative.

  Note:
    The error is of order 1/k in the number of steps; a small lam from a cold start takes thousands
    of them. Use ``soft_impute_path`` for a decreasing series.

  Example:
    >>> op = jr.recovery.EntryMask(jnp.ones((2, 2), bool))
    >>> x, info = jr.solvers.run_until(
    ...   soft_impute(), jnp.zeros((2, 2)), 1.0, op, jnp.array([3.0, 0.0, 0.0, 0.5]),
    ...   tol=1e-5, max_steps=10)
    >>> x
    Array([[2., 0.],
           [0., 0.]], dtype=float32)

  Reference:
    Mazumder, Hastie and Tibshirani, Spectral regularization algorithms for learning large
    incomplete matrices, 2010, algorithm 1.
  """
  _checks.check_non_negative("min_decrease", min_decrease, scalar=True)

  def init(params: Array, hyper: Any, op: Any, y: Array, *rest: Any) -> CompletionState:
    del hyper, rest
    op, y = check_entries(op, y, complex_ok=True)
    matrix = op.check_matrix(params, complex_ok=True)
    return first_state(matrix.astype(jnp.result_type(matrix, y)), None, upcast(y).dtype)

  def step(
    state: CompletionState, hyper: Any, op: Any, y: Array, truth: Array | None = None
  ) -> tuple[CompletionState, CompletionInfo]:
    op, y = as_entries(op, y, complex_ok=True)
    matrix = state.params
    z = upcast(y) - upcast(op.apply(matrix))
    new = prox_nuclear(upcast(matrix) + op.adjoint(z), hyper)
    after = upcast(op.apply(new)) - upcast(y)
    value = 0.5 * jnp.sum((after * after.conj()).real) + penalty_nuclear(new, hyper)
    error = safe_divide(safe_norm(new - upcast(matrix)), safe_norm(new))
    err = None
    if truth is not None:
      target = upcast(jnp.asarray(truth))
      err = quotient(safe_norm(new - target), safe_norm(target))
    return close_step(
      state, new.astype(matrix.dtype), None, value=value, residual=relative(after, y),
      error=error, err=err, min_decrease=min_decrease,
    )  # fmt: skip

  return entry_units(Solver(init, step), factored=False, hyper_power=2)


def soft_impute_factored(*, min_decrease: ArrayLike = 0.0) -> Solver:
  r"""softImpute with the matrix kept as factors: sparse plus low rank, for large sizes.

  The same iteration as ``soft_impute`` at a bound on the rank: the filled-in matrix
  L R^T + A*(y - A(L R^T)) is known by its products, its leading singular triplets come from
  ``linalg.randomized_svd_matvec`` started at the last ones, and no d1 x d2 array is formed.

  The parameters are ``Factors`` whose width bounds the rank, ``hyper`` is lam, the data are
  ``op, y`` and a key. The stopping quantity is error = ||X_{k+1} - X_k||_F / ||X_{k+1}||_F.

  Args:
    min_decrease: >= 0; the step is stalled when the objective falls by less than this fraction.

  Returns:
    Solver with state ``CompletionState`` and info ``CompletionInfo``.

  Raises:
    ValueError: ``min_decrease`` is negative.

  Note:
    Where the solution has a higher rank than the bound, the fixed point is that of the problem with
    the rank bounded, which is not convex.

  Example:
    >>> op = jr.recovery.EntryMask(jnp.ones((2, 2), bool))
    >>> start = jr.recovery.Factors(jnp.zeros((2, 1)), jnp.zeros((2, 1)))
    >>> x, info = jr.solvers.run_until(
    ...   soft_impute_factored(), start, 1.0, op, jnp.array([3.0, 0.0, 0.0, 0.5]),
    ...   jax.random.key(0), tol=1e-5, max_steps=10)
    >>> jr.recovery.compose(x).round(3)
    Array([[2., 0.],
           [0., 0.]], dtype=float32)

  Reference:
    Mazumder, Hastie and Tibshirani, Spectral regularization algorithms for learning large
    incomplete matrices, 2010, section 4; the warm start of the decomposition: Hastie, Mazumder, Lee
    and Zadeh, Matrix completion and low-rank SVD via fast alternating least squares, 2015.
  """
  _checks.check_non_negative("min_decrease", min_decrease, scalar=True)

  def init(params: Factors, hyper: Any, op: Any, y: Array, *rest: Any) -> CompletionState:
    del hyper, rest
    op, y = check_entries(op, y)
    left, right = (jnp.asarray(f, y.dtype) for f in check_pair(check_start(op, params)))
    return first_state(Factors(left, right), upcast(right), upcast(y).dtype)

  def step(
    state: CompletionState, hyper: Any, op: Any, y: Array, key: Array
  ) -> tuple[CompletionState, CompletionInfo]:
    op, y = as_entries(op, y)
    left, right = (upcast(f) for f in check_pair(state.params))
    z = -misfit(op, y, left, right)
    out = randomized_svd_matvec(
      jax.random.fold_in(key, state.count),
      lambda block: wide_dot(left, wide_dot(right.T, block)) + op.adjoint_mul(z, block),
      lambda block: wide_dot(right, wide_dot(left.T, block)) + op.adjoint_t_mul(z, block),
      shape=op.shape,
      rank=left.shape[1],
      oversample=_OVERSAMPLE,
      power=_POWER,
      start=state.memory,
      dtype=z.dtype,
    )
    lam = jnp.asarray(hyper, z.dtype)
    values = jnp.maximum(out.s - lam, 0)
    root = jnp.sqrt(values)[None, :]
    new_left, new_right = out.u * root, out.vt.T * root
    after = misfit(op, y, new_left, new_right)
    value = 0.5 * jnp.sum(after**2) + lam * jnp.sum(values)
    error = safe_divide(_distance((new_left, new_right), (left, right)), safe_norm(values))
    params = Factors(new_left.astype(y.dtype), new_right.astype(y.dtype))
    return close_step(
      state, params, out.vt.T, value=value, residual=relative(after, y), error=error,
      min_decrease=min_decrease,
    )  # fmt: skip

  return entry_units(Solver(init, step), hyper_power=2)


def _distance(a: tuple[Array, Array], b: tuple[Array, Array]) -> Array:
  """||L_a R_a^T - L_b R_b^T||_F by two thin QR decompositions: no cancellation of squares."""
  left = jnp.linalg.qr(jnp.concatenate([a[0], -b[0]], axis=1))[1]
  right = jnp.linalg.qr(jnp.concatenate([a[1], b[1]], axis=1))[1]
  return safe_norm(wide_dot(left, right.T))


def soft_impute_path(
  op: EntryCOO | EntryMask,
  y: ArrayLike,
  lams: ArrayLike,
  *,
  rank: int | None = None,
  key: Array | None = None,
  tol: ArrayLike = 1e-4,
  max_steps: ArrayLike = 200,
  min_decrease: ArrayLike = 0.0,
) -> tuple[Any, SolveInfo]:
  r"""Nuclear-norm solutions for a series of strengths, each started at the one before.

  Minimises 1/2 ||A(X) - y||^2 + lam ||X||_* for each lam, largest first.

  Args:
    op: observed entries of a d1 x d2 matrix.
    y: float[E], their values (all d1 * d2 of them, row by row, for an ``EntryMask``); complex for
      the dense method.
    lams: float[num], strengths >= 0, not increasing; may be traced.
    rank: bound on the rank for ``soft_impute_factored``, static; None for the dense method.
    key: typed PRNG key, for a bounded rank.
    tol: >= 0, relative change at which a strength is done; may be traced.
    max_steps: >= 0, steps for a strength; may be traced.
    min_decrease: >= 0, relative decrease of the objective below which a strength is given up.

  Returns:
    (solutions, ``SolveInfo``) with a leading axis of length ``num``: float[num, d1, d2], or Factors
    for a bounded rank.

  Raises:
    TypeError: ``op`` is no list or mask of entries, an array is not floating-point, or the key is
      missing.
    ValueError: shapes do not fit, strengths that are negative or increase, a rank larger than the
      matrix, a number out of range, or entries that are not finite, outside of the matrix, or
      repeated.

  Example:
    >>> op = jr.recovery.EntryMask(jnp.ones((2, 2), bool))
    >>> x, info = soft_impute_path(op, jnp.array([3.0, 0.0, 0.0, 0.5]), jnp.array([2.0, 1.0]))
    >>> x[:, 0, 0], info.status
    (Array([1., 2.], dtype=float32), Array([0, 0], dtype=int32))

  Reference:
    Mazumder, Hastie and Tibshirani, Spectral regularization algorithms for learning large
    incomplete matrices, 2010, algorithm 1.
  """
  op, y = check_entries(op, y, complex_ok=rank is None)
  strengths = _checks.check_float_array("lams", lams, rank=1)
  _checks.check_non_negative("lams", strengths)
  _checks.check_non_increasing("lams", strengths)
  if rank is None:
    solver = soft_impute(min_decrease=min_decrease)
    data: tuple = (op, y)
    start: Any = jnp.zeros(op.shape, y.dtype)
  else:
    rank = _checks.check_rank(rank, op.shape)
    if key is None:
      raise TypeError("key must be a typed key where the rank is bounded; got None.")
    _checks.check_key("key", key)
    solver = soft_impute_factored(min_decrease=min_decrease)
    data = (op, y, key)
    start = Factors(*(jnp.zeros((size, rank), y.dtype) for size in op.shape))

  def body(params: Any, lam: Array) -> tuple[Any, Any]:
    state = solver.init(params, lam, *data)
    state, info = run_state(solver, state, lam, *data, tol=tol, max_steps=max_steps)
    return state.params, (state.params, info)

  return jax.lax.scan(body, start, strengths.astype(upcast(y).real.dtype))[1]
