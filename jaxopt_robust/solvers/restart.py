"""Going on from parameters that come from outside."""

from typing import Any

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.solvers.types import CONTROL, Solver
from jaxopt_robust.typing import PyTree

__all__ = ["at"]


def at(
  solver: Solver, state: Any, params: PyTree, hyper: PyTree, *data: PyTree, **named: PyTree
) -> Any:
  r"""A state that goes on from other parameters: nothing of the old iterate is left in it.

  The rule: everything is what ``solver.init(params, hyper, *data)`` makes it, so that momentum,
  anchors, gradients, multipliers and memories belong to ``params``; the step sizes, the weight of
  an augmented Lagrangian, the radius ``gamma`` and the count stay those of ``state``. With
  ``state._replace(params=...)`` instead, an accelerated method would step from its old anchor and
  forget the new parameters.

  Args:
    solver: the method that ``state`` belongs to.
    state: what its ``init`` or ``step``, or ``run_state``, returned.
    params: pytree of float arrays like ``state.params``: where to go on.
    hyper: pytree of hyper-parameters, as ``init`` takes them.
    *data: pytrees that the objective needs.
    **named: data by keyword.

  Returns:
    A state of the same kind.

  Raises:
    TypeError: when ``solver`` is no solver, or ``state`` lacks the fields ``params`` and ``count``.
    ValueError: when ``params`` has not the structure and shapes of ``state.params``.

  Example:
    >>> fun = lambda x, b: 0.5 * jnp.sum((x - b) ** 2)
    >>> solver = jr.solvers.fista(fun, jr.prox.prox_lasso, stepsize=0.5)
    >>> b = jnp.array([3.0, 0.5])
    >>> state, _ = solver.step(solver.init(jnp.zeros(2), 1.0, b), 1.0, b)
    >>> state = at(solver, state, jnp.ones(2), 1.0, b)  # parameters from outside
    >>> state.anchor, int(state.count)
    (Array([1., 1.], dtype=float32), 1)

  Reference:
    Restarts of accelerated methods: O'Donoghue and Candes, Adaptive restart for accelerated
    gradient schemes, 2015.
  """
  _arguments.check_solver("solver", solver)
  missing = [name for name in ("params", "count") if not hasattr(state, name)]
  if missing:
    raise TypeError(f"state must be a solver's state; {type(state).__name__} lacks {missing}.")
  params = _checks.check_float_tree("params", params, complex_ok=True)
  _checks.check_same_structure("params", params, "state.params", state.params)
  fresh = solver.init(params, hyper, *data, **named)
  return fresh._replace(**{name: getattr(state, name) for name in CONTROL if hasattr(state, name)})
