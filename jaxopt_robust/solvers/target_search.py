"""Backtracking in the space of a model's outputs (SSO-SLS)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust._units import in_units
from jaxopt_robust.solvers._backtracking import backtrack
from jaxopt_robust.solvers.target_stepsizes import TargetPoint, TargetStepsize
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["LineSearchInfo", "target_line_search", "target_search"]


class LineSearchInfo(NamedTuple):
  """How a line search went.

  Attributes:
    found: bool, whether a step was accepted.
    trials: int32, values of the loss that it took.
  """

  found: Array
  trials: Array


def target_line_search(
  value_fn: Callable[[Array], Array],
  outputs: ArrayLike,
  gradient: ArrayLike,
  *,
  stepsize: ArrayLike,
  value: ArrayLike | None = None,
  growth: ArrayLike = 1.8,
  shrink: ArrayLike = 0.9,
  decrease: ArrayLike = 0.5,
  max_trials: int = 100,
) -> tuple[Array, LineSearchInfo]:
  r"""A step along the gradient in the space of the outputs, by backtracking.

  The first eta of growth s, shrink growth s, shrink^2 growth s, ... with

    l(z - eta u) <= l(z) - decrease eta ||u||_2^2,

  s the last step. For a loss whose gradient has Lipschitz constant L it is at least
  min(growth s, shrink 2 (1 - decrease) / L).

  Args:
    value_fn: ``value_fn(outputs) -> scalar``, the loss l of a batch.
    outputs: float[...], z.
    gradient: float[...], u = grad l(z).
    stepsize: s > 0, the last step; may be traced, as all other numbers.
    value: l(z), where it is known already.
    growth: >= 1.
    shrink: in (0, 1).
    decrease: in (0, 1).
    max_trials: >= 1, static.

  Returns:
    (eta, ``LineSearchInfo``), eta the last that was tried where none was accepted.

  Raises:
    TypeError: ``value_fn`` is not a function, or an array not floating-point.
    ValueError: shapes that differ, or a number out of its range.

  Example:
    >>> eta, info = target_line_search(
    ...   lambda z: jnp.sum(z**2), jnp.ones(2), 2 * jnp.ones(2), stepsize=1.0)
    >>> bool(0.45 < eta <= 0.5), bool(info.found)
    (True, True)

  Reference:
    Lavington, Vaswani, Babanezhad, Schmidt and Le Roux, Target-based surrogates for stochastic
    optimization, 2023 (SSO-SLS); Vaswani, Mishkin, Laradji, Schmidt, Gidel and Lacoste-Julien,
    Painless stochastic gradient: interpolation, line-search, and convergence rates, 2019.
  """
  _arguments.check_callable("value_fn", value_fn)
  z = _checks.check_float_array("outputs", outputs)
  u = _checks.check_float_array("gradient", gradient).astype(z.dtype)
  _checks.check_same_shape("outputs", z, "gradient", u)
  _check_search(stepsize, growth, shrink, decrease)
  max_trials = _checks.check_int("max_trials", max_trials, minimum=1)
  with _arguments.within("stepsize"):
    first = jnp.asarray(growth, z.dtype) * _checks.check_float_array(
      "stepsize", stepsize, rank=0
    ).astype(z.dtype)
  now = jnp.asarray(value_fn(z) if value is None else value)
  if now.shape != ():
    raise ValueError(f"value_fn must return a scalar; got shape {now.shape}.")
  # ||u||^2 as a number of size 1 and the square of a unit: itself it may be out of range.
  scaled, unit = in_units(u)
  slope = jnp.asarray(decrease, unit.dtype) * jnp.sum(scaled**2)

  def accept(eta: Array) -> Array:
    drop = eta.astype(unit.dtype) * slope * unit * unit
    return jnp.asarray(value_fn(z - eta * u)) <= now - drop.astype(now.dtype)

  end = backtrack(accept, first, shrink=shrink, max_trials=max_trials)
  return end.stepsize, LineSearchInfo(end.found, end.trials + (1 if value is None else 0))


def target_search(
  stepsize: ArrayLike = 1.0,
  *,
  growth: ArrayLike = 1.8,
  shrink: ArrayLike = 0.9,
  decrease: ArrayLike = 0.5,
  min_stepsize: ArrayLike = 1e-4,
  max_stepsize: ArrayLike = 1e4,
  max_trials: int = 100,
) -> TargetStepsize:
  r"""Step sizes by ``target_line_search`` from the last one, in each batch (SSO-SLS).

  Args:
    stepsize: > 0, the last step of the first search; may be traced, as all other numbers.
    growth: >= 1.
    shrink: in (0, 1).
    decrease: in (0, 1).
    min_stepsize: >= 0, the least eta.
    max_stepsize: > 0, the largest, not below ``min_stepsize``.
    max_trials: >= 1, static.

  Returns:
    ``TargetStepsize`` for ``sso``; what it takes is counted in ``SSOState.num_values``.

  Raises:
    TypeError: ``max_trials`` is no static integer.
    ValueError: a number is out of its range.

  Note:
    The search evaluates the loss at outputs that no model made: an oracle that can be asked for
    outputs of the model alone (a simulator) needs another rule. Both bounds are absolute, as those
    of the reference: 0 and inf suit losses of another curvature, of which the least step may be too
    long.

  Example:
    >>> solver = jr.solvers.sso(lambda w, x: x @ w, jax.value_and_grad(lambda z, y: jnp.sum(z**2)),
    ...                         stepsize=target_search(), inner=optax.sgd(0.1), num_inner=3)
    >>> batch = jr.solvers.TargetBatch(jnp.eye(2))
    >>> state, info = solver.step(solver.init(jnp.ones(2), None, batch), None, batch)
    >>> bool(0.45 < info.stepsize <= 0.5), int(state.num_oracle), int(state.num_values)
    (True, 1, 14)

  Reference:
    Lavington, Vaswani, Babanezhad, Schmidt and Le Roux, Target-based surrogates for stochastic
    optimization, 2023 (SSO-SLS, constants of their public code).
  """
  _check_search(stepsize, growth, shrink, decrease)
  _checks.check_non_negative("min_stepsize", min_stepsize, scalar=True)
  _checks.check_positive("max_stepsize", max_stepsize, scalar=True)
  if _checks.is_concrete((min_stepsize, max_stepsize)):
    _checks.check_holds(
      jnp.asarray(min_stepsize) <= jnp.asarray(max_stepsize),
      f"min_stepsize must be <= max_stepsize; got {min_stepsize} and {max_stepsize}.",
    )
  max_trials = _checks.check_int("max_trials", max_trials, minimum=1)

  def init(outputs: Any) -> Array:
    return jnp.asarray(stepsize, outputs.dtype)

  def update(memory: Array, point: TargetPoint) -> tuple:
    eta, info = target_line_search(
      point.value_fn, point.outputs, point.gradient, stepsize=memory, value=point.value,
      growth=growth, shrink=shrink, decrease=decrease, max_trials=max_trials,
    )  # fmt: skip
    low, high = (jnp.asarray(bound, eta.dtype) for bound in (min_stepsize, max_stepsize))
    eta = jnp.clip(eta, min=low, max=high)
    return eta, None, eta, info.trials

  return TargetStepsize(init, update)


def _check_search(
  stepsize: ArrayLike, growth: ArrayLike, shrink: ArrayLike, decrease: ArrayLike
) -> None:
  _checks.check_positive("stepsize", stepsize, scalar=True)
  _checks.check_interval("growth", growth, 1.0, float("inf"), closed="left", scalar=True)
  _checks.check_interval("shrink", shrink, 0.0, 1.0, closed="neither", scalar=True)
  _checks.check_interval("decrease", decrease, 0.0, 1.0, closed="neither", scalar=True)
