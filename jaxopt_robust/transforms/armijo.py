"""Gradient descent with a backtracking search, as an optax optimizer."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import _arguments, _checks
from jaxopt_robust._units import in_units, tree_norm
from jaxopt_robust.solvers._backtracking import backtrack
from jaxopt_robust.solvers._common import add_scaled, inner_product, scalar_dtype
from jaxopt_robust.transforms._links import given
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = ["ArmijoState", "armijo_descent"]


class ArmijoState(NamedTuple):
  """State of ``armijo_descent``.

  Attributes:
    stepsize: the step that the next search starts from.
    trials: int32, values of the objective that the last search took.
  """

  stepsize: Array
  trials: Array


def armijo_descent(
  *,
  stepsize: ArrayLike = 10.0,
  growth: ArrayLike = 1.8,
  shrink: ArrayLike = 0.9,
  decrease: ArrayLike = 0.5,
  max_trials: int = 100,
  min_stepsize: ArrayLike = 1e-6,
  tol: ArrayLike = 1e-6,
) -> optax.GradientTransformationExtraArgs:
  r"""Gradient descent whose steps decrease the objective enough (Armijo's condition).

  The update is -a g with the first a of s, shrink s, shrink^2 s, ... that has

    f(x - a g) <= f(x) - decrease a ||g||_2^2,

  and the next search starts at s = growth a. Where no trial is accepted, or a falls below
  ``min_stepsize``, or ||g|| <= tol, the update is 0: a step never increases f.

  Args:
    stepsize: > 0, s of the first search; may be traced, as all other numbers.
    growth: >= 1.
    shrink: in (0, 1).
    decrease: in (0, 1).
    max_trials: >= 1, static: values of f that a search may take. ``optax.inject_hyperparams`` needs
      ``static_args=("max_trials",)``.
    min_stepsize: >= 0, the least step.
    tol: >= 0, the norm of the gradient below which nothing moves.

  Returns:
    ``optax.GradientTransformationExtraArgs`` with state ``ArmijoState``. ``update`` needs the
    parameters and the extra arguments ``value`` (f at them) and ``value_fn`` (f).

  Raises:
    TypeError: ``max_trials`` is no static integer, or ``value_fn`` no function.
    ValueError: a number is out of its range, ``update`` lacks an argument, or a value of the
      objective is no scalar.

  Note:
    ``min_stepsize`` and ``tol`` are absolute, as are those of the reference: set both to 0 for
    objectives of another size. After a search that ran out of trials (100 of them reach from s to
    3e-5 s) the next one goes on where it ended; after one whose step is too small it starts where
    that began. For other directions there is ``optax.scale_by_backtracking_linesearch``.

  Example:
    >>> f = lambda x: jnp.sum(x**2)
    >>> tx, x = armijo_descent(), jnp.array([3.0, -1.0])
    >>> state = tx.init(x)
    >>> for _ in range(20):
    ...   value, grad = jax.value_and_grad(f)(x)
    ...   updates, state = tx.update(grad, state, x, value=value, value_fn=f)
    ...   x = optax.apply_updates(x, updates)
    >>> bool(f(x) < 1e-6)
    True

  Reference:
    Armijo, Minimization of functions having Lipschitz continuous first partial derivatives, 1966;
    with these constants the inner method of Lavington, Vaswani, Babanezhad, Schmidt and Le Roux,
    Target-based surrogates for stochastic optimization, 2023. Their public code takes the least
    step where none was accepted.
  """
  _checks.check_positive("stepsize", stepsize, scalar=True)
  _checks.check_interval("growth", growth, 1.0, float("inf"), closed="left", scalar=True)
  _checks.check_interval("shrink", shrink, 0.0, 1.0, closed="neither", scalar=True)
  _checks.check_interval("decrease", decrease, 0.0, 1.0, closed="neither", scalar=True)
  _checks.check_non_negative("min_stepsize", min_stepsize, scalar=True)
  _checks.check_non_negative("tol", tol, scalar=True)
  max_trials = _checks.check_int("max_trials", max_trials, minimum=1)

  def init(params: PyTree) -> ArmijoState:
    return ArmijoState(jnp.asarray(stepsize, scalar_dtype(params)), jnp.zeros((), jnp.int32))

  def update(
    updates: PyTree,
    state: ArmijoState,
    params: PyTree | None = None,
    *,
    value: ArrayLike | None = None,
    value_fn: Callable[[PyTree], Array] | None = None,
    **extra_args: Any,
  ) -> tuple[PyTree, ArmijoState]:
    del extra_args
    state = _arguments.check_state("state", state, ArmijoState)
    params = given(params, "armijo_descent")
    if value is None or value_fn is None:
      raise ValueError(
        "armijo_descent needs the value of the objective and the objective: call "
        "tx.update(grads, state, params, value=value, value_fn=fun)."
      )
    _arguments.check_callable("value_fn", value_fn)
    fun, dtype = value_fn, state.stepsize.dtype
    # ||g||^2 as a number of size 1 and the square of a unit: itself it may be out of range.
    scaled, unit = in_units(updates)
    slope, share = inner_product(scaled, scaled).astype(unit.dtype), jnp.asarray(decrease, dtype)
    now = _scalar("value", value, dtype)

    def accept(a: Array) -> Array:
      new = _scalar("value_fn", fun(add_scaled(params, -a, updates)), dtype)
      return new <= now - ((share * a).astype(unit.dtype) * slope * unit * unit).astype(dtype)

    found = backtrack(accept, state.stepsize, shrink=shrink, max_trials=max_trials)
    good = found.found & (found.stepsize >= jnp.asarray(min_stepsize, dtype))
    good &= tree_norm(updates) > jnp.asarray(tol, dtype)
    step = jnp.where(good, found.stepsize, 0)
    begin = jnp.where(good, jnp.asarray(growth, dtype) * found.stepsize, state.stepsize)
    begin = jnp.where(found.found | ~jnp.isfinite(now), begin, found.stepsize)
    # Where the step is 0 a gradient that is not finite must not be multiplied by it.
    moves = jax.tree.map(lambda g: jnp.where(good, -step.astype(g.dtype) * g, 0), updates)
    return moves, ArmijoState(begin, found.trials)

  return optax.GradientTransformationExtraArgs(init, update)


def _scalar(name: str, value: ArrayLike, dtype: Any) -> Array:
  """A value of the objective."""
  array = jnp.asarray(value, dtype)
  if array.shape != ():
    raise ValueError(f"{name} must be a scalar, or a function to one; got shape {array.shape}.")
  return array
