"""The two loops: ``run_until`` stops early, ``run_steps`` records a fixed number of steps."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.numerics import tree_all_finite, tree_where
from jaxopt_robust.solvers._common import stop_gradient
from jaxopt_robust.solvers._eager import run
from jaxopt_robust.solvers.types import (
  CONVERGED,
  NON_FINITE,
  STALLED,
  STEP_LIMIT,
  SolveInfo,
  Solver,
)
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = ["raise_if_failed", "run_state", "run_steps", "run_until"]


def _strip_weak_types(name: str, tree: PyTree) -> PyTree:
  """Python numbers and weakly typed arrays become strongly typed: they would retrace the loop."""

  def strip(leaf: Any) -> Array:
    array = leaf if isinstance(leaf, jax.Array) else _checks.as_array(name, leaf)
    if jnp.issubdtype(array.dtype, jax.dtypes.extended):
      return array
    return jax.lax.convert_element_type(array, array.dtype)

  return jax.tree.map(strip, tree)


def _inputs(hyper: PyTree, data: tuple, named: dict) -> tuple:
  """What goes into a loop beside the parameters."""
  named = {name: _strip_weak_types(name, value) for name, value in named.items()}
  return _strip_weak_types("hyper", hyper), _strip_weak_types("data", data), named


def _bound(tol: ArrayLike | None) -> Array | None:
  """The tolerance as an array; None for a run that no tolerance ends."""
  if tol is None:
    return None
  _checks.check_non_negative("tol", tol, scalar=True)
  return _checks.check_float_array("tol", tol, rank=0)


def _limit(max_steps: ArrayLike) -> Array:
  _checks.check_non_negative("max_steps", max_steps, scalar=True)
  return jnp.asarray(_checks.check_integers("max_steps", max_steps, low=0), jnp.int32)


def _blank_info(solver: Solver, state: PyTree, hyper: PyTree, data: tuple, named: dict) -> Any:
  """An info of the right structure for the case that no step is taken: error and value are inf."""
  _, shapes = jax.eval_shape(solver.step, state, hyper, *data, **named)
  missing = [name for name in ("error", "value") if not hasattr(shapes, name)]
  if missing:
    raise TypeError(
      f"solver.step must return an info with fields 'error' and 'value'; {type(shapes).__name__} "
      f"lacks {missing}."
    )
  for name in ("error", "value"):
    field = getattr(shapes, name)
    if field.shape != () or not jnp.issubdtype(field.dtype, jnp.floating):
      raise TypeError(
        f"info.{name} must be a floating-point scalar; got {field.dtype}{list(field.shape)}."
      )
  blank = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
  return blank._replace(
    error=jnp.full((), jnp.inf, shapes.error.dtype), value=jnp.full((), jnp.inf, shapes.value.dtype)
  )


def run_until(
  solver: Solver,
  params: PyTree,
  hyper: PyTree,
  *data: PyTree,
  tol: ArrayLike | None,
  max_steps: ArrayLike,
  **named: PyTree,
) -> tuple[PyTree, SolveInfo]:
  r"""Runs a solver until its error is at most ``tol``: one ``lax.while_loop``.

  Repeats ``state, info = solver.step(state, hyper, *data)`` until ``info.error <= tol`` (status 0),
  ``max_steps`` steps are done (status 1), the iterate, the error or the value is NaN or infinite
  (status 2; the last finite state is returned), or no progress is possible any more (status 3):
  the solver says so, or a step left its state as it was, bit by bit, with an error above ``tol``.

  Args:
    solver: the method; ``params``, ``hyper`` and ``data`` are what its ``step`` takes.
    params: pytree of float arrays, the starting point; complex where the method's parts take it.
    hyper: pytree of hyper-parameters (for example the strength of a penalty); may be traced.
    *data: pytrees that the objective needs. Pass arrays here instead of closing over them: then one
      compile serves all data of one shape.
    tol: >= 0, float scalar; may be traced. The errors of the solvers of this package are at least
      what rounding makes of them, so that a tolerance below it ends in status 3 where the iterate
      comes to rest, not in status 0. None: nothing but a number that is not finite ends the run
      before ``max_steps``, a fixed point does not either.
    max_steps: >= 0, int scalar; may be traced.
    **named: data by keyword: the objective gets them by the same names.

  Returns:
    ``(params, info)`` with ``info`` a ``SolveInfo``.

  Raises:
    TypeError: when ``solver`` is no solver, or ``params`` holds anything but numbers (whole ones
      become floats).
    ValueError: when ``tol`` or ``max_steps`` is no scalar, or negative and known while tracing.

  Note:
    Called outside ``jit`` it compiles once for a solver, and for one made again by the same factory
    from the same functions and plain numbers; ``tol`` and ``max_steps`` may change. The last 64
    solvers are remembered. Not differentiable in reverse mode: use ``implicit`` (derivative of the
    solution) or ``run_steps`` (derivative of the iterations). Under ``vmap`` every solve stops for
    itself and the loop runs as long as the slowest. ``step`` is traced twice, whatever the number
    of steps.

  Example:
    >>> solver = jr.solvers.ista(lambda x, b: 0.5 * jnp.sum((x - b) ** 2), jr.prox.prox_lasso,
    ...                          stepsize=1.0)
    >>> b = jnp.array([3.0, 0.5])
    >>> x, info = run_until(solver, jnp.zeros(2), 1.0, b, tol=1e-6, max_steps=100)
    >>> x, int(info.steps), int(info.status)
    (Array([2., 0.], dtype=float32), 2, 0)

  Reference:
    The driver that separates a method from its loop: Rader, Lyons and Kidger, Optimistix: modular
    optimisation in JAX and Equinox, 2024.
  """
  _arguments.check_solver("solver", solver)
  params = _checks.check_float_tree("params", params, complex_ok=True)
  rest = _inputs(hyper, data, named)
  return run(_until_from_params, solver, (), params, *rest, _bound(tol), _limit(max_steps))


def _until_from_params(
  solver: Solver, params: PyTree, hyper: PyTree, data: tuple, named: dict, *limits: Any
) -> tuple[PyTree, SolveInfo]:
  state = solver.init(params, hyper, *data, **named)
  state, info = _until(solver, _strip_weak_types("state", state), hyper, data, named, *limits)
  return state.params, info


def run_state(
  solver: Solver,
  state: Any,
  hyper: PyTree,
  *data: PyTree,
  tol: ArrayLike | None,
  max_steps: ArrayLike,
  **named: PyTree,
) -> tuple[Any, SolveInfo]:
  r"""``run_until`` from a state to a state: warm starts, and multipliers beside the solution.

  Repeats ``state, info = solver.step(state, hyper, *data)`` under the rules of ``run_until``. The
  state of a splitting method holds more than its iterate (dual variables, step sizes, memory);
  start the next solve of a path from it, or read the multipliers out of it.

  Args:
    solver: the method; ``state``, ``hyper`` and ``data`` are what its ``step`` takes.
    state: what ``solver.init`` made, or the state that another run returned. Its ``count`` starts
      again at 0.
    hyper: pytree of hyper-parameters; may be traced.
    *data: pytrees that the objective needs.
    tol: as in ``run_until``; None never stops early.
    max_steps: >= 0, int scalar; may be traced.
    **named: data by keyword.

  Returns:
    ``(state, info)`` with the last finite state and a ``SolveInfo``.

  Raises:
    TypeError: when ``solver`` is no solver, or ``state`` lacks the fields ``params`` and ``count``.
    ValueError: when ``tol`` or ``max_steps`` is no scalar, or negative and known while tracing.

  Example:
    >>> solver = jr.solvers.ista(lambda x, b: 0.5 * jnp.sum((x - b) ** 2), jr.prox.prox_lasso,
    ...                          stepsize=1.0)
    >>> b = jnp.array([3.0, 0.5])
    >>> state, _ = run_state(solver, solver.init(b, 1.0, b), 1.0, b, tol=1e-6, max_steps=9)
    >>> state, info = run_state(solver, state, 0.9, b, tol=1e-6, max_steps=9)  # warm start
    >>> state.params.round(2), int(info.steps)
    (Array([2.1, 0. ], dtype=float32), 2)

  Reference:
    Warm starts along a path: Friedman, Hastie and Tibshirani, Regularization paths for generalized
    linear models via coordinate descent, 2010, section 2.5.
  """
  _arguments.check_solver("solver", solver)
  missing = [name for name in ("params", "count") if not hasattr(state, name)]
  if missing:
    raise TypeError(f"state must be a solver's state; {type(state).__name__} lacks {missing}.")
  state = _strip_weak_types("state", state)
  rest = _inputs(hyper, data, named)
  return run(_until, solver, (), state, *rest, _bound(tol), _limit(max_steps))


def _until(
  solver: Solver,
  state: Any,
  hyper: PyTree,
  data: tuple,
  named: dict,
  tol: Array | None,
  limit: Array,
) -> tuple[Any, SolveInfo]:
  state = state._replace(count=jnp.zeros((), jnp.int32))
  blank = _blank_info(solver, state, hyper, data, named)
  go = jnp.full((), -1, jnp.int32)  # no status yet
  bound = None if tol is None else tol.astype(blank.error.dtype)

  def keep_going(carry: tuple) -> Array:
    state, _, status = carry
    return (status == go) & (state.count < limit)

  def status_of(state: Any, new_state: Any, info: Any, finite: Array) -> Array:
    failed = jnp.where(finite, go, jnp.full_like(go, NON_FINITE))
    if bound is None:
      return failed
    # What a step leaves as it was every later step leaves as it is, unless the step's size was 0
    # (`displacement` gives the largest number): a schedule may rise again.
    rests = _is_same(state, new_state) & (info.error < jnp.finfo(info.error.dtype).max)
    stalled = getattr(info, "stalled", jnp.zeros((), jnp.bool_)) | rests
    return jnp.select(
      [~finite, info.error <= bound, stalled],
      [failed, jnp.full_like(go, CONVERGED), jnp.full_like(go, STALLED)],
      go,
    )

  def body(carry: tuple) -> tuple:
    state, _, _ = carry
    new_state, info = solver.step(state, hyper, *data, **named)
    finite = tree_all_finite(new_state.params) & jnp.isfinite(info.error) & jnp.isfinite(info.value)
    counted = state._replace(count=new_state.count)
    status = status_of(counted, new_state, info, finite)
    return tree_where(finite, new_state, counted), info, status

  state, info, status = jax.lax.while_loop(keep_going, body, (state, blank, go))
  status = jnp.where(status == go, jnp.full_like(go, STEP_LIMIT), status)
  return state, SolveInfo(state.count, info.error, info.value, status, info)


def _is_same(a: PyTree, b: PyTree) -> Array:
  pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
  return functools.reduce(jnp.logical_and, [jnp.all(x == y) for x, y in pairs])


def run_steps(
  solver: Solver,
  params: PyTree,
  hyper: PyTree,
  *data: PyTree,
  num_steps: int,
  truncate: int | None = None,
  remat: bool = False,
  **named: PyTree,
) -> tuple[PyTree, Any]:
  r"""Runs a fixed number of steps and records every step's info: one ``lax.scan``.

  Args:
    solver: the method; ``params``, ``hyper`` and ``data`` are what its ``step`` takes.
    params: pytree of float arrays, the starting point; complex where the method's parts take it.
    hyper: pytree of hyper-parameters; may be traced.
    *data: pytrees that the objective needs.
    num_steps: >= 1, static.
    truncate: static, None or K >= 0: differentiate the last K steps only; the steps before them are
      constants for the derivative. After convergence this is the Neumann series with K terms, of
      bias rho^K for a contraction rho.
    remat: recompute each step in the backward pass instead of storing it (``jax.checkpoint``):
      memory grows with the state only, time by about one forward pass.
    **named: data by keyword: the objective gets them by the same names.

  Returns:
    ``(params, infos)`` where each leaf of ``infos`` has a leading axis of length ``num_steps``.

  Raises:
    TypeError: when ``solver`` is no solver, or ``params`` holds anything but numbers (whole ones
      become floats).
    ValueError: when ``num_steps`` is not a static integer >= 1, or ``truncate`` is negative.

  Note:
    Differentiable in both modes through the iterations (unrolled derivative). Nothing stops a run
    that diverges: look at ``infos.error``.

  Example:
    >>> solver = jr.solvers.ista(lambda x, b: 0.5 * jnp.sum((x - b) ** 2), jr.prox.prox_lasso,
    ...                          stepsize=0.5)
    >>> x, infos = run_steps(solver, jnp.zeros(1), 1.0, jnp.array([3.0]), num_steps=4)
    >>> infos.error.shape
    (4,)

  Reference:
    Derivatives of iterative methods by unrolling: Griewank and Walther, Evaluating Derivatives,
    2008, chapter 15.
  """
  _arguments.check_solver("solver", solver)
  params = _checks.check_float_tree("params", params, complex_ok=True)
  num_steps = _checks.check_int("num_steps", num_steps, minimum=1)
  if truncate is not None:
    truncate = _checks.check_int("truncate", truncate, minimum=0)
  rest = _inputs(hyper, data, named)
  return run(_steps, solver, (num_steps, truncate, bool(remat)), params, *rest)


def _steps(
  solver: Solver,
  num_steps: int,
  truncate: int | None,
  remat: bool,
  params: PyTree,
  hyper: PyTree,
  data: tuple,
  named: dict,
) -> tuple[PyTree, Any]:
  def body(state: Any, _: None) -> tuple[Any, Any]:
    return solver.step(state, hyper, *data, **named)

  state = _strip_weak_types("state", solver.init(params, hyper, *data, **named))
  if truncate is None or truncate >= num_steps:
    state, infos = jax.lax.scan(
      jax.checkpoint(body) if remat else body, state, None, length=num_steps
    )
    return state.params, infos
  constant_hyper, constant_data, constant_named = stop_gradient((hyper, data, named))

  def constant_body(state: Any, _: None) -> tuple[Any, Any]:
    return solver.step(state, constant_hyper, *constant_data, **constant_named)

  head = jax.lax.scan(constant_body, stop_gradient(state), None, length=num_steps - truncate)
  state, infos = stop_gradient(head)
  if truncate:
    state, last = jax.lax.scan(
      jax.checkpoint(body) if remat else body, state, None, length=truncate
    )
    infos = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), infos, last)
  return state.params, infos


def raise_if_failed(info: SolveInfo) -> None:
  """Turns the status of one or many finished solves into an exception.

  Args:
    info: ``SolveInfo`` of ``run_until``, scalar or batched; its values must be known (call this
      outside ``jit``).

  Returns:
    None, when every solve converged.

  Raises:
    RuntimeError: when a solve did not converge: how many, which first, its status, steps and error,
      and what usually helps.
    TypeError: when ``info`` is no ``SolveInfo``; inside ``jit``, where nothing can be raised: use
      ``jaxopt_robust.debug.checked`` there.

  Example:
    >>> zero = jnp.zeros((), jnp.int32)
    >>> raise_if_failed(jr.solvers.SolveInfo(zero, jnp.zeros(()), jnp.zeros(()), zero, None))

  Reference:
    Result codes with an optional exception: Rader, Lyons and Kidger, Lineax: unified linear solves
    and linear least-squares in JAX and Equinox, 2023.
  """
  if not isinstance(info, SolveInfo):
    raise TypeError(f"info must be a SolveInfo; got a {type(info).__name__}.")
  if not _checks.is_concrete((info.status, info.steps, info.error)):
    raise TypeError(
      "raise_if_failed needs known values and cannot run inside jit, vmap or grad; "
      "return the info, or wrap the function with jaxopt_robust.debug.checked."
    )
  status = np.asarray(info.status).ravel()
  failed = np.flatnonzero(status != CONVERGED)
  if failed.size == 0:
    return
  first = failed[0]
  meaning = {
    STEP_LIMIT: "reached the step limit; raise max_steps or tol, or check the step size",
    NON_FINITE: "met NaN or infinite numbers; check the data for NaN and lower the step size",
    STALLED: "stalled: rounding hides any further step; use a larger tol or float64, or check the "
    "gradient",
  }
  raise RuntimeError(
    f"{failed.size} of {status.size} solves did not converge. First: number {first}, "
    f"status {status[first]} ({meaning.get(int(status[first]), 'unknown status')}), "
    f"after {np.asarray(info.steps).ravel()[first]} steps with "
    f"error {np.asarray(info.error).ravel()[first]:.3g}."
  )
