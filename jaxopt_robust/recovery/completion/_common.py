"""What the completion methods share: checked entries, the record of a run, its status."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_robust import _checks
from jaxopt_robust._units import root_of_unit, times
from jaxopt_robust.numerics import safe_divide, safe_norm, tree_all_finite, tree_where, upcast
from jaxopt_robust.recovery._unit_free import unit_free
from jaxopt_robust.recovery.entries import EntryCOO, EntryMask
from jaxopt_robust.recovery.factors import Factors, check_pair
from jaxopt_robust.recovery.operators import wide_dot
from jaxopt_robust.solvers import CONVERGED, NON_FINITE, STALLED, STEP_LIMIT, Solver, run_steps
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = ["CompletionInfo", "CompletionState", "CompletionTrace"]


class CompletionState(NamedTuple):
  """State of a completion method.

  Attributes:
    params: the iterate; the last finite one.
    memory: what the method carries along besides, or None.
    value: float scalar, the objective at the iterate, divided by the square of the unit of the
      data, a power of 4 at most their largest magnitude; inf before the first step.
    count: int32 scalar, steps done.

  Example:
    >>> CompletionState._fields
    ('params', 'memory', 'value', 'count')

  Reference:
    Gu, Song, Yin and Zhang, Low rank matrix completion via robust alternating minimization in
    nearly linear time, 2023.
  """

  params: PyTree
  memory: Any
  value: Array
  count: Array  # type: ignore[assignment]


class CompletionInfo(NamedTuple):
  """Diagnostics of one step of a completion method.

  Attributes:
    error: float scalar, the stopping quantity: ||A(X) - y|| / ||y|| over the observed entries after
      the step, unless the method says otherwise; NaN once a number is not finite.
    value: float scalar, the objective after the step.
    residual: float scalar, ||A(X) - y|| / ||y|| over the observed entries after the step.
    deficient: int32 scalar, rows and columns with fewer observations than the rank, or dependent
      ones; 0 for methods that do not solve for them one by one.
    err: float scalar, ||X - X*||_F / ||X*||_F where the truth was given, else None.
    stalled: bool scalar, the objective no longer decreases.

  Example:
    >>> CompletionInfo._fields[:2]
    ('error', 'value')

  Reference:
    Gu, Song, Yin and Zhang, Low rank matrix completion via robust alternating minimization in
    nearly linear time, 2023.
  """

  error: Array
  value: Array
  residual: Array
  deficient: Array
  err: Array | None
  stalled: Array


class CompletionTrace(NamedTuple):
  """Record of a run of a completion method.

  Attributes:
    error: float[num_rounds], the stopping quantity after each round.
    value: float[num_rounds], the objective after each round.
    residual: float[num_rounds], ||A(X) - y|| / ||y|| over the observed entries after each round.
    err: float[num_rounds], ||X - X*||_F / ||X*||_F where the truth was given, else None.
    deficient: int32 scalar, rows and columns without enough observations in the last round.
    status: int32 scalar: 0 the last error is at most ``tol``; 1 it is larger; 2 a number was not
      finite (the last finite iterate is returned); 3 the error is larger than ``tol`` and the
      objective no longer decreases, as for noisy entries.

  Example:
    >>> CompletionTrace._fields[-2:]
    ('deficient', 'status')

  Reference:
    Gu, Song, Yin and Zhang, Low rank matrix completion via robust alternating minimization in
    nearly linear time, 2023.
  """

  error: Array
  value: Array
  residual: Array
  err: Array | None
  deficient: Array
  status: Array


def as_entries(op: Any, y: ArrayLike, *, complex_ok: bool = False) -> tuple[EntryCOO, Array]:
  """Observed entries as a list, and their values with zeros where nothing is observed.

  A dense mask becomes the list of all entries, with weight 0 where it is false.
  """
  if isinstance(op, EntryMask):
    y = op.check_measurements("y", y, complex_ok=complex_ok)
    rows, cols = op.shape
    index = jnp.arange(op.size, dtype=jnp.int32)
    observed = op.observed
    assert observed is not None
    op = EntryCOO(index // cols, index % cols, (rows, cols), observed.astype(upcast(y).real.dtype))
  if not isinstance(op, EntryCOO):
    raise TypeError(f"op must be an EntryCOO or an EntryMask; got {type(op).__name__}.")
  y = op.check_measurements("y", y, complex_ok=complex_ok)
  if op.observed is not None:
    y = jnp.where(op.observed, y, 0)
  return op, y


def check_entries(op: Any, y: ArrayLike, *, complex_ok: bool = False) -> tuple[EntryCOO, Array]:
  """As ``as_entries``, and where their values are known, that they are finite, inside and unique.

  For the entrance of a method: the check sorts all pairs, which its steps need not repeat.
  """
  op, y = as_entries(op, y, complex_ok=complex_ok)
  if _checks.is_concrete((op, y)):
    _check_values(op, np.asarray(y))
  return op, y


def _check_values(op: EntryCOO, y: np.ndarray) -> None:
  seen = np.ones(op.size, bool) if op.observed is None else np.asarray(op.observed)
  if not seen.any():
    raise ValueError("op must observe at least one entry; got none.")
  bad = int(np.sum(~np.isfinite(y[seen].astype(np.complex128))))
  if bad:
    raise ValueError(
      f"y must be finite; got {bad} entries that are NaN or infinite. Give them weight 0."
    )
  rows, cols = (np.asarray(index)[seen].astype(np.int64) for index in op._checked())
  for name, index, size in (("row_index", rows, op.shape[0]), ("col_index", cols, op.shape[1])):
    if index.min() < 0 or index.max() >= size:
      raise ValueError(
        f"{name} must lie in [0, {size}); got values from {index.min()} to {index.max()}."
      )
  flat = np.sort(rows * op.shape[1] + cols)
  repeated = int(np.sum(flat[1:] == flat[:-1]))
  if repeated:
    raise ValueError(
      f"op must observe a pair (row, column) at most once; got {repeated} repetitions. Average "
      "them, or keep the last."
    )


def check_start(op: EntryCOO, factors: Factors, rank: int | None = None) -> Factors:
  """Two factors that fit the operator."""
  if isinstance(factors, Factors) and factors.R is None:
    raise TypeError("the start must be a Factors(L, R) with two factors; got R None.")
  left, right = op.check_factors(*check_pair(factors))
  if rank is not None and left.shape[1] != rank:
    raise ValueError(f"the start must have width {rank}, the rank; got {left.shape[1]}.")
  return Factors(left, right)


def misfit(op: EntryCOO, y: Array, left: Array, right: Array) -> Array:
  """A(L R^T) - y, in float32 or wider."""
  return upcast(op.apply_factored(left, right)) - upcast(y)


def relative(residual: Array, y: Array) -> Array:
  """||r|| / ||y||; of zero data 0 where they are fitted and inf elsewhere."""
  return quotient(safe_norm(residual), safe_norm(upcast(y)))


def quotient(error: Array, size: Array) -> Array:
  """error / size with 0 / 0 = 0 and inf for any other error relative to nothing."""
  return safe_divide(error, size, default=jnp.where(error == 0, 0, jnp.inf))


def relative_to_truth(factors: Factors, truth: ArrayLike | None) -> Array | None:
  """||L R^T - X*||_F / ||X*||_F, or None."""
  if truth is None:
    return None
  left, right = check_pair(factors)
  target = upcast(jnp.asarray(truth))
  return quotient(safe_norm(wide_dot(left, right.T) - target), safe_norm(target))


def entry_units(solver: Solver, *, factored: bool = True, hyper_power: int = 0) -> Solver:
  """A completion method that sees its entries in units of their size."""

  def split(data: tuple) -> tuple[Array, tuple]:
    op, y, *rest = data
    op, y = as_entries(op, y, complex_ok=not factored)
    return y, (op, y, *rest)

  def check_params(params: PyTree, data: tuple) -> PyTree:
    if factored:
      return check_start(data[0], params)
    return data[0].check_matrix(params, complex_ok=True)

  return unit_free(
    solver, split=split, check_params=check_params, fields={"params": 1 if factored else 2},
    hyper_power=hyper_power,
  )  # fmt: skip


def with_orthonormal(side: str, factors: Factors, y: Array) -> Factors:
  """The same product, all of its scale in one factor: the solvers give the root of it to each."""
  root = root_of_unit(y)
  left, right = check_pair(factors)
  if side == "left":
    return Factors(times(left, 1 / root), times(right, root))
  return Factors(times(left, root), times(right, 1 / root))


def first_state(params: PyTree, memory: Any, dtype: Any) -> CompletionState:
  """State before the first step."""
  dtype = jnp.finfo(dtype).dtype  # the real one of complex numbers
  return CompletionState(params, memory, jnp.full((), jnp.inf, dtype), jnp.zeros((), jnp.int32))


def close_step(
  state: CompletionState,
  params: PyTree,
  memory: Any,
  *,
  value: Array,
  residual: Array,
  error: Array | None = None,
  deficient: Array | int = 0,
  err: Array | None = None,
  min_decrease: ArrayLike = 0.0,
) -> tuple[CompletionState, CompletionInfo]:
  """The state and the info of a step; a step that is not finite is not taken."""
  error = residual if error is None else error
  finite = jnp.isfinite(value) & jnp.isfinite(error) & tree_all_finite(params)
  params = tree_where(finite, params, state.params)
  memory = tree_where(finite, memory, state.memory)
  value = value.astype(state.value.dtype)
  bound = (1 - jnp.asarray(min_decrease, value.dtype)) * state.value
  info = CompletionInfo(
    jnp.where(finite, error, jnp.nan),
    value,
    residual,
    jnp.asarray(deficient, jnp.int32),
    err,
    value >= bound,
  )
  kept = jnp.where(finite, value, state.value)
  return CompletionState(params, memory, kept, state.count + 1), info


def run(
  solver: Solver, params: PyTree, hyper: PyTree, *data: Any, num_rounds: int, tol: ArrayLike
) -> tuple[PyTree, CompletionTrace]:
  """A fixed number of rounds and their record."""
  num_rounds = _checks.check_int("num_rounds", num_rounds, minimum=1)
  _checks.check_non_negative("tol", tol, scalar=True)
  params, infos = run_steps(solver, params, hyper, *data, num_steps=num_rounds)
  return params, trace_of(infos, tol)


def trace_of(infos: CompletionInfo, tol: ArrayLike) -> CompletionTrace:
  """The record of stacked infos."""
  last = jax.tree.map(lambda leaf: leaf[-1], infos)
  status = jnp.select(
    [~jnp.isfinite(last.error), last.error <= jnp.asarray(tol, last.error.dtype), last.stalled],
    [jnp.asarray(code, jnp.int32) for code in (NON_FINITE, CONVERGED, STALLED)],
    jnp.asarray(STEP_LIMIT, jnp.int32),
  )
  return CompletionTrace(
    infos.error, infos.value, infos.residual, infos.err, last.deficient, status
  )
