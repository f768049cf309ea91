"""Matrix completion by alternating least squares, its half steps exact or sketched."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.numerics import upcast
from jaxopt_robust.recovery.completion._common import (
  CompletionInfo,
  CompletionState,
  CompletionTrace,
  as_entries,
  check_entries,
  check_start,
  close_step,
  entry_units,
  first_state,
  misfit,
  relative,
  relative_to_truth,
  run,
  with_orthonormal,
)
from jaxopt_robust.recovery.completion.lstsq import coo_lstsq
from jaxopt_robust.recovery.completion.start import entry_spectral, prepare
from jaxopt_robust.recovery.completion.weights import Reweight
from jaxopt_robust.recovery.entries import EntryCOO, EntryMask
from jaxopt_robust.recovery.factors import Factors, check_pair
from jaxopt_robust.solvers import Solver
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["als_complete", "alternating_least_squares", "altmin_complete"]

_CLIP = 2.0  # entries above twice the incoherent size are cut from the start


def alternating_least_squares(
  *,
  solver: str = "pcg",
  sketch_size: int | None = None,
  iterations: int = 3,
  orthonormalize: bool = True,
  by_count: bool = False,
  parts: int = 1,
  reweight: Reweight | None = None,
  min_decrease: ArrayLike = 0.0,
) -> Solver:
  r"""Alternating least squares on the observed entries, as a solver for the drivers.

  A step replaces R by argmin_R of the objective for the present L, then L by argmin_L for that R:

  1/2 sum_e w_e (A(L R^T) - y)_e^2 + ridge/2 (sum_i n_i ||L_i||^2 + sum_j n_j ||R_j||^2)

  with n = 1, or the number of observations of the row or column for ``by_count``. The parameters
  are ``Factors``, ``hyper`` is the ridge (0 for none), the data are ``op, y``, a key (None for
  ``solver="exact"`` and one part) and optionally the true matrix, float[d1, d2]. The stopping
  quantity is error = ||A(L R^T) - y|| / ||y||.

  Args:
    solver: how a half step is solved, ``"exact"``, ``"pcg"``, ``"sketch"`` or ``"unit_step"``, see
      ``linalg.segment_lstsq``; static.
    sketch_size: rows of a sketch, static; 4 times the rank by default.
    iterations: iterations of a half step, static.
    orthonormalize: replace the fixed factor by an orthonormal basis before each half step; the fit
      is the same without ridge and better conditioned. Use False with a ridge. Static.
    by_count: weigh the ridge by the number of observations, static.
    parts: 1 uses all entries in each half step; a larger number splits them at random and each half
      step sees one part, static.
    reweight: function (residuals, observed) -> weights, such as ``huber_weights()``, called once a
      step; None for least squares.
    min_decrease: >= 0; the step is stalled when the objective falls by less than this fraction.

  Returns:
    Solver with state ``CompletionState`` and info ``CompletionInfo``.

  Raises:
    TypeError: a size is not a static integer or ``reweight`` not a function; from the solver, the
      key is missing or the data are of another type.
    ValueError: ``parts`` is less than 1 or ``min_decrease`` negative; from the solver, shapes that
      do not fit.

  Note:
    The objective does not increase for exact half steps on all entries. ``value`` is taken with the
    weights of the step, so that with ``reweight`` values of two steps are not comparable.

  Example:
    >>> op = jr.recovery.make_entry_mask(jax.random.key(0), 20, 20, rate=0.6)
    >>> truth = jnp.outer(jnp.arange(1.0, 21.0), jnp.ones(20))
    >>> start = jr.recovery.mask_spectral(op, truth.ravel(), 1)
    >>> solver = alternating_least_squares(solver="exact")
    >>> factors, info = jr.solvers.run_until(
    ...   solver, start, 0.0, op, truth.ravel(), tol=1e-5, max_steps=20)
    >>> int(info.status)
    0

  Reference:
    Gu, Song, Yin and Zhang, Low rank matrix completion via robust alternating minimization in
    nearly linear time, 2023, algorithm of section 2; Zhou, Wilkinson, Schreiber and Pan,
    Large-scale parallel collaborative filtering for the Netflix prize, 2008 (ridge by count).
  """
  parts = _checks.check_int("parts", parts, minimum=1)
  if reweight is not None:
    _arguments.check_function_of("reweight", reweight, "residuals", "observed")
  _checks.check_non_negative("min_decrease", min_decrease, scalar=True)

  def basis(factor: Array) -> Array:
    return jnp.linalg.qr(factor)[0] if orthonormalize else factor

  def init(params: Factors, hyper: Any, op: Any, y: Array, *rest: Any) -> CompletionState:
    del hyper, rest
    op, y = check_entries(op, y)
    params = Factors(*(jnp.asarray(f, jnp.result_type(y)) for f in check_start(op, params)))
    return first_state(params, None, upcast(y).dtype)

  def step(
    state: CompletionState,
    hyper: Any,
    op: Any,
    y: Array,
    key: Array | None = None,
    truth: Array | None = None,
  ) -> tuple[CompletionState, CompletionInfo]:
    op, y = as_entries(op, y)
    if key is None and parts > 1:
      raise TypeError("key must be a typed key for parts > 1; got None.")
    dtype = upcast(y).dtype
    seen = jnp.ones(op.size, bool) if op.observed is None else op.observed
    ridge = jnp.asarray(hyper, dtype)
    index = {"left": op.row_index, "right": op.col_index}
    size = dict(zip(("left", "right"), op.shape, strict=True))
    if by_count:
      shares = {
        side: ridge * jax.ops.segment_sum(seen.astype(dtype), index[side], size[side])
        for side in index
      }
    else:
      shares = {side: jnp.broadcast_to(ridge, (size[side],)) for side in index}
    round_key = None if key is None else jax.random.fold_in(key, state.count)

    old = check_pair(state.params)
    weights = seen.astype(dtype)
    if reweight is not None:
      weights = weights * reweight(misfit(op, y, *old), op.observed)

    def half_step(side: str, fixed: Array, half: int) -> tuple[Array, Array]:
      used = weights
      if parts > 1:
        assert key is not None
        mine = 1 + (2 * state.count + half) % (parts - 1)  # part 0 belongs to the start
        used = jnp.where(part_of(key, op.size, parts) == mine, weights, 0)
      half_key = None if round_key is None else jax.random.fold_in(round_key, half)
      solution, info = coo_lstsq(
        op, y, fixed, side=side, weights=used, ridge=shares[side], solver=solver, key=half_key,
        sketch_size=sketch_size, iterations=iterations,
      )  # fmt: skip
      return solution, jnp.sum(info.deficient)

    def penalty(side: str, factor: Array) -> Array:
      return jnp.sum(shares[side] * jnp.sum(upcast(factor) ** 2, axis=1))

    right, few_cols = half_step("right", basis(old[0]), 0)
    right = basis(right)
    left, few_rows = half_step("left", right, 1)
    residual = misfit(op, y, left, right)
    value = 0.5 * jnp.sum(weights * residual**2)
    value = value + 0.5 * (penalty("left", left) + penalty("right", right))
    return close_step(
      state, Factors(left, right), None,
      value=value, residual=relative(residual, y), deficient=few_cols + few_rows,
      err=relative_to_truth(Factors(left, right), truth), min_decrease=min_decrease,
    )  # fmt: skip

  return entry_units(Solver(init, step), hyper_power=2)


def part_of(key: Array, size: int, parts: int) -> Array:
  """The part of each entry, drawn once for all rounds."""
  return jax.random.randint(key, (size,), 0, parts)


def altmin_complete(
  op: EntryCOO | EntryMask,
  y: ArrayLike,
  rank: int,
  *,
  key: Array,
  num_rounds: int = 25,
  solver: str = "pcg",
  sketch_size: int | None = None,
  iterations: int = 3,
  clip: ArrayLike = _CLIP,
  incoherence: ArrayLike = 1.0,
  resample: bool = False,
  reweight: Reweight | None = None,
  start: Factors | None = None,
  truth: ArrayLike | None = None,
  tol: ArrayLike = 1e-6,
) -> tuple[Factors, CompletionTrace]:
  r"""Completes a low-rank matrix by alternating minimisation with inexact half steps.

  From the clipped spectral start, ``num_rounds`` rounds of V = argmin ||A(U V^T) - y||,
  U = argmin ||A(U V^T) - y||, each half step one sketch and ``iterations`` preconditioned conjugate
  gradients for each row or column: O(E rank) instead of O(E rank^2) work.

  Args:
    op: observed entries of a d1 x d2 matrix.
    y: float[E], their values (all d1 * d2 of them, row by row, for an ``EntryMask``).
    rank: width of the factors, static.
    key: typed PRNG key of the start and of the sketches.
    num_rounds: rounds, >= 1, static.
    solver: ``"exact"``, ``"pcg"``, ``"sketch"`` or ``"unit_step"``, see ``linalg.segment_lstsq``;
      static.
    sketch_size: rows of a sketch, static; 4 rank by default.
    iterations: iterations of a half step, static.
    clip: > 0, the clipping of ``entry_spectral``; may be traced.
    incoherence: > 0, the bound mu that goes with ``clip``; may be traced.
    resample: split the entries into 2 num_rounds + 1 parts at random and use each once, as the
      theory does; static. Needs that many more entries; not for use in practice.
    reweight: function (residuals, observed) -> weights, such as ``huber_weights()``; None for least
      squares.
    start: Factors to start from instead; None for the spectral start.
    truth: float[d1, d2], X*, to record the error; None records none.
    tol: >= 0, the residual of a run that counts as converged; may be traced.

  Returns:
    (Factors, CompletionTrace); R is orthonormal.

  Raises:
    TypeError: ``op`` is no list or mask of entries, an array is not floating-point, or the key is
      not a typed key.
    ValueError: shapes do not fit, a rank larger than the matrix, a number out of range, or entries
      that are not finite, outside of the matrix, or repeated.

  Note:
    Noisy entries have no residual 0: the run then ends with status 3 or 1, not with an error. The
    unit step diverges (status 2 or 3) where a sketch is poor. For ratings use ``als_complete``.

  Example:
    >>> op = jr.recovery.make_entry_mask(jax.random.key(0), 20, 20, rate=0.6)
    >>> truth = jnp.outer(jnp.arange(1.0, 21.0), jnp.ones(20))
    >>> factors, trace = altmin_complete(
    ...   op, truth.ravel(), 1, key=jax.random.key(1), truth=truth, tol=1e-4)
    >>> bool(trace.err[-1] < 1e-3), int(trace.status)
    (True, 0)

  Reference:
    Gu, Song, Yin and Zhang, Low rank matrix completion via robust alternating minimization in
    nearly linear time, 2023 (conjugate gradients in place of the unit step are ours); Jain,
    Netrapalli and Sanghavi, Low-rank matrix completion using alternating minimization, 2013.
  """
  _checks.check_key("key", key)
  op, y = check_entries(op, y)
  rank = _checks.check_rank(rank, op.shape)
  num_rounds = _checks.check_int("num_rounds", num_rounds, minimum=1)
  if truth is not None:
    truth = op.check_matrix(truth, name="truth")
  start_key, run_key = jax.random.split(key)
  parts = 2 * num_rounds + 1 if resample else 1
  if start is None:
    mine = None if parts == 1 else (part_of(run_key, op.size, parts) == 0).astype(y.dtype)
    start = entry_spectral(start_key, op, y, rank, clip=clip, incoherence=incoherence, weights=mine)
  method = alternating_least_squares(
    solver=solver, sketch_size=sketch_size, iterations=iterations, parts=parts, reweight=reweight
  )
  factors = check_start(op, start, rank)
  factors, trace = run(method, factors, 0.0, op, y, run_key, truth, num_rounds=num_rounds, tol=tol)
  return with_orthonormal("right", factors, y), trace


def als_complete(
  op: EntryCOO | EntryMask,
  y: ArrayLike,
  rank: int,
  *,
  key: Array,
  ridge: ArrayLike,
  by_count: bool = True,
  num_rounds: int = 20,
  solver: str = "exact",
  sketch_size: int | None = None,
  iterations: int = 3,
  reweight: Reweight | None = None,
  start: Factors | None = None,
  truth: ArrayLike | None = None,
  tol: ArrayLike = 1e-6,
) -> tuple[Factors, CompletionTrace]:
  r"""Ridge alternating least squares, the usual method for ratings.

  Minimises 1/2 sum_e (A(L R^T) - y)_e^2 + ridge/2 (sum_i n_i ||L_i||^2 + sum_j n_j ||R_j||^2), with
  n the numbers of observations of rows and columns (``by_count``) or 1. Subtract
  ``biased_baseline`` from ratings first: the factors then fit what the biases leave.

  Args:
    op: observed entries of a d1 x d2 matrix.
    y: float[E], their values (all d1 * d2 of them, row by row, for an ``EntryMask``).
    rank: width of the factors, static.
    key: typed PRNG key of the start and of the sketches.
    ridge: > 0 for noisy entries, or 0; may be traced.
    by_count: weigh the ridge by the number of observations, static.
    num_rounds: rounds, >= 1, static.
    solver: ``"exact"``, ``"pcg"``, ``"sketch"`` or ``"unit_step"``, see ``linalg.segment_lstsq``;
      static.
    sketch_size: rows of a sketch, static; 4 rank by default.
    iterations: iterations of a half step, static.
    reweight: function (residuals, observed) -> weights, such as ``huber_weights()``: a robust fit;
      None for least squares.
    start: Factors to start from instead; None for the spectral start.
    truth: float[d1, d2], X*, to record the error; None records none.
    tol: >= 0, the residual of a run that counts as converged; may be traced.

  Returns:
    (Factors, CompletionTrace). Rows and columns without observations have zero factors.

  Raises:
    TypeError: ``op`` is no list or mask of entries, an array is not floating-point, or the key is
      not a typed key.
    ValueError: shapes do not fit, a rank larger than the matrix, a number out of range, or entries
      that are not finite, outside of the matrix, or repeated.

  Note:
    Ratings have noise, so that the status is 1 or 3 and never 0: look at the error on entries that
    were held out.

  Example:
    >>> op = jr.recovery.EntryMask(jnp.ones((4, 3), bool))
    >>> y = jnp.outer(jnp.arange(1.0, 5.0), jnp.arange(1.0, 4.0)).ravel()
    >>> factors, trace = als_complete(op, y, 1, key=jax.random.key(0), ridge=1e-3)
    >>> bool(trace.residual[-1] < 1e-2)
    True

  Reference:
    Zhou, Wilkinson, Schreiber and Pan, Large-scale parallel collaborative filtering for the Netflix
    prize, 2008, section 3.
  """
  _checks.check_non_negative("ridge", ridge, scalar=True)
  start_key, run_key = jax.random.split(_checks.check_key("key", key))
  op, y, factors, target = prepare(start_key, op, y, rank, start, truth)
  method = alternating_least_squares(
    solver=solver, sketch_size=sketch_size, iterations=iterations, orthonormalize=False,
    by_count=by_count, reweight=reweight,
  )  # fmt: skip
  return run(method, factors, ridge, op, y, run_key, target, num_rounds=num_rounds, tol=tol)
