"""Solvers that see their data in units of the data, so that the units of the user do not matter.

Squares of numbers below 1e-19 are 0 in float32, and those of numbers above 1e19 infinite. The data
are divided by a power of 4 of their own size before a step, and the iterate, the strengths and the
objective are brought back after it. Powers of 2 do not round.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_robust._units import root_of_unit, saturated, times
from jaxopt_robust.recovery.operators import MeasurementOperator
from jaxopt_robust.solvers import Solver
from jaxopt_robust.typing import Array, PyTree


def scale_tree(tree: PyTree, factor: Array) -> PyTree:
  """Arrays of numbers times a power of two; operators, keys, masks and integers stay."""

  def scale(leaf: Any) -> Any:
    is_number = isinstance(leaf, jax.Array | np.ndarray) and jnp.issubdtype(leaf.dtype, jnp.inexact)
    return times(jnp.asarray(leaf), factor) if is_number else leaf

  return jax.tree.map(scale, tree, is_leaf=lambda leaf: isinstance(leaf, MeasurementOperator))


def unit_free(
  solver: Solver,
  *,
  split: Callable[[tuple], tuple[Array, tuple]],
  check_params: Callable[[Any, tuple], PyTree],
  fields: dict[str, int],
  hyper_power: int = 0,
) -> Solver:
  """A solver in units of its data.

  Args:
    solver: the method, for data of size 1.
    split: function of the data that returns the numbers that set the unit and the checked data.
    check_params: function (params, data) that refuses parameters that do not fit.
    fields: members of the state that are measured, with the power of 2^k by which they are: 2 for
      what is measured like the data, 1 for their factors. Other members stay in units of the data.
    hyper_power: the same for ``hyper``.

  Returns:
    Solver whose ``info.value`` is the objective in the user's units, at most the largest number,
    and whose ``state.value`` is that in units of the data.
  """

  def prepare(data: tuple) -> tuple[Array, tuple, tuple]:
    measured, data = split(data)
    root = root_of_unit(measured)
    return root, data, scale_tree(data, _power(root, -2))

  def enter(state: Any, root: Array) -> Any:
    return state._replace(
      **{name: scale_tree(getattr(state, name), _power(root, -p)) for name, p in fields.items()}
    )

  def leave(state: Any, root: Array) -> Any:
    return state._replace(
      **{name: scale_tree(getattr(state, name), _power(root, p)) for name, p in fields.items()}
    )

  def strength(hyper: Any, root: Array) -> Any:
    if hyper is None or not hyper_power:
      return hyper
    return jax.tree.map(lambda h: jnp.asarray(h, root.dtype) * _power(root, -hyper_power), hyper)

  def init(params: Any, hyper: Any, *data: Any) -> Any:
    root, data, scaled = prepare(data)
    params = scale_tree(check_params(params, data), _power(root, -fields["params"]))
    return leave(solver.init(params, strength(hyper, root), *scaled), root)

  def step(state: Any, hyper: Any, *data: Any) -> tuple[Any, Any]:
    root, data, scaled = prepare(data)
    state, info = solver.step(enter(state, root), strength(hyper, root), *scaled)
    unit = _power(root, 2)
    return leave(state, root), info._replace(value=saturated(info.value, unit, unit))

  return Solver(init, step)


def _power(root: Array, power: int) -> Array:
  """root^power for a power between -2 and 2 of a power of two."""
  base = root if power >= 0 else 1 / root
  return jnp.ones_like(root) if power == 0 else base if abs(power) == 1 else base * base
