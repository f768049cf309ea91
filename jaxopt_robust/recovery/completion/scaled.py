"""Matrix completion by scaled gradient descent: its rate does not depend on the conditioning."""

from typing import Any

import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.numerics import safe_divide, upcast
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
)
from jaxopt_robust.recovery.completion.start import prepare
from jaxopt_robust.recovery.entries import EntryCOO, EntryMask
from jaxopt_robust.recovery.factors import Factors, check_pair
from jaxopt_robust.recovery.scaled import precondition_factors
from jaxopt_robust.solvers import Solver
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["scaled_gradient_complete", "scaled_gradient_completion"]


def scaled_gradient_completion() -> Solver:
  r"""Scaled gradient descent on the observed entries, as a solver for the drivers.

  With z = A(L R^T) - y and p the fraction of entries observed, both from the old iterate:
  L <- L - (eta/p) A*(z) R (R^T R)^{-1}, R <- R - (eta/p) A*(z)^T L (L^T L)^{-1}.

  The parameters are ``Factors``, ``hyper`` is the step eta, the data are ``op, y`` and optionally
  the true matrix, float[d1, d2]. The objective is 1/2 ||z||^2, the stopping quantity
  error = ||z|| / ||y||.

  Returns:
    Solver with state ``CompletionState`` and info ``CompletionInfo``.

  Note:
    The projection on incoherent factors of the analysis is left out, as in the authors' code.

  Example:
    >>> op = jr.recovery.EntryMask(jnp.ones((2, 2), bool))
    >>> start = jr.recovery.Factors(jnp.ones((2, 1)), jnp.ones((2, 1)))
    >>> factors, infos = jr.solvers.run_steps(
    ...   scaled_gradient_completion(), start, 0.5, op, 2.0 * jnp.ones(4), num_steps=5)
    >>> bool(infos.error[-1] < infos.error[0])
    True

  Reference:
    Tong, Ma and Chi, Accelerating ill-conditioned low-rank matrix estimation via scaled gradient
    descent, 2021, section 3.3.
  """

  link = precondition_factors()

  def init(params: Factors, hyper: Any, op: Any, y: Array, *rest: Any) -> CompletionState:
    del hyper, rest
    op, y = check_entries(op, y)
    params = Factors(*(jnp.asarray(f, jnp.result_type(y)) for f in check_start(op, params)))
    return first_state(params, None, upcast(y).dtype)

  def step(
    state: CompletionState, hyper: Any, op: Any, y: Array, truth: Array | None = None
  ) -> tuple[CompletionState, CompletionInfo]:
    op, y = as_entries(op, y)
    left, right = check_pair(state.params)
    wide = upcast(y).dtype
    rate = jnp.asarray(op.count, wide) / (op.shape[0] * op.shape[1])
    scale = safe_divide(jnp.asarray(hyper, wide), rate)
    z = misfit(op, y, left, right)
    gradients = Factors(op.adjoint_mul(z, right), op.adjoint_t_mul(z, left))
    moves, _ = link.update(gradients, link.init(state.params), state.params)
    new_left, new_right = (
      factor - (scale * move).astype(factor.dtype)
      for factor, move in zip((left, right), check_pair(moves), strict=True)
    )
    after = misfit(op, y, new_left, new_right)
    return close_step(
      state, Factors(new_left, new_right), None,
      value=0.5 * jnp.sum(after**2), residual=relative(after, y),
      err=relative_to_truth(Factors(new_left, new_right), truth),
    )  # fmt: skip

  return entry_units(Solver(init, step))


def scaled_gradient_complete(
  op: EntryCOO | EntryMask,
  y: ArrayLike,
  rank: int,
  *,
  key: Array,
  eta: ArrayLike = 0.5,
  num_rounds: int = 100,
  start: Factors | None = None,
  truth: ArrayLike | None = None,
  tol: ArrayLike = 1e-6,
) -> tuple[Factors, CompletionTrace]:
  r"""Completes a low-rank matrix by scaled gradient descent from the spectral start.

  Minimises 1/2 ||A(L R^T) - y||^2 by gradients preconditioned with (R^T R)^{-1} and (L^T L)^{-1}.

  Args:
    op: observed entries of a d1 x d2 matrix.
    y: float[E], their values (all d1 * d2 of them, row by row, for an ``EntryMask``).
    rank: width of the factors, static.
    key: typed PRNG key of the start.
    eta: > 0, the step; may be traced.
    num_rounds: steps, >= 1, static.
    start: Factors to start from instead; None for the spectral start.
    truth: float[d1, d2], X*, to record the error; None records none.
    tol: >= 0, the residual of a run that counts as converged; may be traced.

  Returns:
    (Factors, CompletionTrace).

  Raises:
    TypeError: ``op`` is no list or mask of entries, an array is not floating-point, or the key is
      not a typed key.
    ValueError: shapes do not fit, a rank larger than the matrix, a number out of range, or entries
      that are not finite, outside of the matrix, or repeated.

  Example:
    >>> op = jr.recovery.EntryMask(jnp.ones((4, 3), bool))
    >>> y = jnp.outer(jnp.arange(1.0, 5.0), jnp.arange(1.0, 4.0)).ravel()
    >>> _, trace = scaled_gradient_complete(op, y, 1, key=jax.random.key(0), num_rounds=30)
    >>> int(trace.status)
    0

  Reference:
    Tong, Ma and Chi, Accelerating ill-conditioned low-rank matrix estimation via scaled gradient
    descent, 2021, section 3.3.
  """
  _checks.check_positive("eta", eta, scalar=True)
  op, y, factors, target = prepare(key, op, y, rank, start, truth)
  return run(
    scaled_gradient_completion(), factors, eta, op, y, target, num_rounds=num_rounds, tol=tol
  )
