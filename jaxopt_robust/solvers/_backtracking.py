"""The loop of a backtracking search: a step shrinks until it is accepted, or trials run out."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust.typing import Array, ArrayLike


class Backtracked(NamedTuple):
  """The step at which a search ended, whether it was accepted, and how many were tried."""

  stepsize: Array
  found: Array
  trials: Array


def backtrack(
  accept: Callable[[Array], Array], first: Array, *, shrink: ArrayLike, max_trials: int
) -> Backtracked:
  """The first of first, shrink first, shrink^2 first, ... that is accepted, or the last one."""
  factor = jnp.asarray(shrink, first.dtype)

  def go_on(state: Backtracked) -> Array:
    return ~state.found & (state.trials < max_trials)

  def attempt(state: Backtracked) -> Backtracked:
    stepsize = jnp.where(state.trials == 0, state.stepsize, factor * state.stepsize)
    return Backtracked(stepsize, jnp.asarray(accept(stepsize), jnp.bool_), state.trials + 1)

  start = Backtracked(first, jnp.zeros((), jnp.bool_), jnp.zeros((), jnp.int32))
  return jax.lax.while_loop(go_on, attempt, start)
