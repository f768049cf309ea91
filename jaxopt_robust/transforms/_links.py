"""What links of optax chains share: schedules, parameters that must be given, checked parts."""

from collections.abc import Callable
from typing import Any

import optax

from jaxopt_robust.typing import Array, ArrayLike, PyTree

Schedule = ArrayLike | Callable[[Array], ArrayLike]


def at(number: Schedule, count: Array) -> ArrayLike:
  """A number, or what a schedule says of it now."""
  return number(count) if callable(number) else number


def given(params: PyTree | None, name: str) -> PyTree:
  """The parameters, without which the link called ``name`` cannot update."""
  if params is None:
    raise ValueError(f"{name} needs the current parameters: call tx.update(grads, state, params).")
  return params


def check_transformation(name: str, tx: Any) -> None:
  """An optax transformation."""
  if not isinstance(tx, optax.GradientTransformation):
    raise TypeError(f"{name} must be an optax.GradientTransformation; got {type(tx).__name__}.")
