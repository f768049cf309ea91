"""Matrix completion by successive over-relaxation of a factorisation (LMaFit)."""

from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxopt_robust.numerics import safe_divide, safe_norm, tree_where, upcast
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
  quotient,
  relative_to_truth,
  run,
  with_orthonormal,
)
from jaxopt_robust.recovery.completion.start import prepare
from jaxopt_robust.recovery.entries import EntryCOO, EntryMask
from jaxopt_robust.recovery.factors import Factors, check_pair
from jaxopt_robust.recovery.operators import wide_dot
from jaxopt_robust.solvers import Solver
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["lmafit", "lmafit_complete"]

_SLOW = 0.7  # a residual that falls by less than this factor asks for more relaxation
_GROWTH = 0.25
_SHRINK = 0.1


class _Relaxation(NamedTuple):
  """weight: w >= 1. increment: by how much w grows next. norm: ||A(X) - y|| at the iterate."""

  weight: Array
  increment: Array
  norm: Array


def lmafit() -> Solver:
  r"""Non-linear successive over-relaxation for a factored completion, as a solver for the drivers.

  With Z = L R^T + w A*(y - A(L R^T)): L <- orth(Z R), R <- Z^T L. The weight w >= 1 starts at 1; a
  step that does not lower the residual is undone and w set back to 1; one that lowers it by less
  than a factor 0.7 is kept and w raised by max(increment, (w - 1) / 4).

  The parameters are ``Factors``, ``hyper`` is not used (pass None), the data are ``op, y`` and
  optionally the true matrix, float[d1, d2]. The objective is 1/2 ||A(L R^T) - y||^2, the stopping
  quantity error = ||A(L R^T) - y|| / ||y||.

  Returns:
    Solver with state ``CompletionState`` and info ``CompletionInfo``.

  Note:
    Z is sparse plus low rank and is never formed. Needs the rank; a step that is undone counts.

  Example:
    >>> op = jr.recovery.EntryMask(jnp.ones((2, 2), bool))
    >>> start = jr.recovery.Factors(jnp.ones((2, 1)), jnp.array([[1.0], [0.5]]))
    >>> y = jnp.array([1.0, 2.0, 2.0, 4.0])
    >>> _, infos = jr.solvers.run_steps(lmafit(), start, None, op, y, num_steps=5)
    >>> bool(infos.error[-1] < 1e-3)
    True

  Reference:
    Wen, Yin and Zhang, Solving a low-rank factorization model for matrix completion by a nonlinear
    successive over-relaxation algorithm, 2012, algorithm 1 (recalled, not verified).
  """

  def init(params: Factors, hyper: Any, op: Any, y: Array, *rest: Any) -> CompletionState:
    del hyper, rest
    op, y = check_entries(op, y)
    left, right = (jnp.asarray(f, jnp.result_type(y)) for f in check_pair(check_start(op, params)))
    dtype = upcast(y).dtype
    one = jnp.ones((), dtype)
    memory = _Relaxation(one, one, safe_norm(misfit(op, y, left, right)))
    return first_state(Factors(left, right), memory, dtype)

  def step(
    state: CompletionState, hyper: Any, op: Any, y: Array, truth: Array | None = None
  ) -> tuple[CompletionState, CompletionInfo]:
    del hyper
    op, y = as_entries(op, y)
    left, right = (upcast(f) for f in check_pair(state.params))
    weight, increment, norm = state.memory
    z = -weight * misfit(op, y, left, right)
    basis = jnp.linalg.qr(wide_dot(left, wide_dot(right.T, right)) + op.adjoint_mul(z, right))[0]
    moved = wide_dot(right, wide_dot(left.T, basis)) + op.adjoint_t_mul(z, basis)
    new_norm = safe_norm(misfit(op, y, basis, moved))
    ratio = safe_divide(new_norm, norm, default=1.0)

    undo = ratio >= 1
    more = jnp.maximum(increment, _GROWTH * (weight - 1))
    slow = ratio > _SLOW
    next_weight = jnp.where(undo, 1, jnp.where(slow, weight + more, weight))
    less = jnp.maximum(_SHRINK * (weight - 1), _SHRINK * increment)
    next_increment = jnp.where(undo, less, jnp.where(slow, more, increment))
    taken = Factors(*(f.astype(y.dtype) for f in (basis, moved)))
    params = tree_where(undo, state.params, taken)
    # A ratio that is NaN is no reason to undo: the step is then refused as not finite.
    kept = jnp.where(undo, norm, new_norm)
    memory = _Relaxation(next_weight, next_increment, kept)
    out, info = close_step(
      state, params, memory, value=0.5 * kept**2, residual=quotient(kept, safe_norm(upcast(y))),
      err=relative_to_truth(params, truth),
    )  # fmt: skip
    return out, info._replace(stalled=undo & (weight == 1))

  return entry_units(Solver(init, step))


def lmafit_complete(
  op: EntryCOO | EntryMask,
  y: ArrayLike,
  rank: int,
  *,
  key: Array,
  num_rounds: int = 200,
  start: Factors | None = None,
  truth: ArrayLike | None = None,
  tol: ArrayLike = 1e-6,
) -> tuple[Factors, CompletionTrace]:
  r"""Completes a low-rank matrix by over-relaxed alternating projections, from the spectral start.

  Minimises 1/2 ||A(L R^T) - y||^2 with two thin matrix products and a QR decomposition a step.

  Args:
    op: observed entries of a d1 x d2 matrix.
    y: float[E], their values (all d1 * d2 of them, row by row, for an ``EntryMask``).
    rank: width of the factors, static.
    key: typed PRNG key of the start.
    num_rounds: steps, >= 1, static.
    start: Factors to start from instead; None for the spectral start.
    truth: float[d1, d2], X*, to record the error; None records none.
    tol: >= 0, the residual of a run that counts as converged; may be traced.

  Returns:
    (Factors, CompletionTrace); L is orthonormal.

  Raises:
    TypeError: ``op`` is no list or mask of entries, an array is not floating-point, or the key is
      not a typed key.
    ValueError: shapes do not fit, a rank larger than the matrix, a number out of range, or entries
      that are not finite, outside of the matrix, or repeated.

  Example:
    >>> op = jr.recovery.EntryMask(jnp.ones((4, 3), bool))
    >>> y = jnp.outer(jnp.arange(1.0, 5.0), jnp.arange(1.0, 4.0)).ravel()
    >>> _, trace = lmafit_complete(op, y, 1, key=jax.random.key(0), num_rounds=5)
    >>> int(trace.status)
    0

  Reference:
    Wen, Yin and Zhang, Solving a low-rank factorization model for matrix completion by a nonlinear
    successive over-relaxation algorithm, 2012, algorithm 1 (recalled, not verified).
  """
  op, y, factors, target = prepare(key, op, y, rank, start, truth)
  factors, trace = run(lmafit(), factors, None, op, y, target, num_rounds=num_rounds, tol=tol)
  return with_orthonormal("left", factors, y), trace
