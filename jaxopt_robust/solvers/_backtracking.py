"""The loop of a backtracking search: a step shrinks until it is accepted, or trials run out."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust.typing import Array, ArrayLike, PyTree


class Backtracked(NamedTuple):
  """The step at which a search ended, whether it was accepted, how many were tried, and the rest.

  ``result`` is what the last trial returned beside its verdict.
  """

  stepsize: Array
  found: Array
  trials: Array
  result: Any


def backtrack_with(
  attempt: Callable[[Array, PyTree], tuple[Array, PyTree]],
  first: Array,
  result: PyTree,
  *,
  shrink: ArrayLike,
  max_trials: int,
) -> Backtracked:
  """The first of first, shrink first, shrink^2 first, ... that is accepted, or the last one.

  ``attempt(step, result) -> (accepted, result)``: each trial sees what the one before it returned,
  the first one the ``result`` given here.
  """
  factor = jnp.asarray(shrink, first.dtype)

  def go_on(state: Backtracked) -> Array:
    return ~state.found & (state.trials < max_trials)

  def again(state: Backtracked) -> Backtracked:
    stepsize = jnp.where(state.trials == 0, state.stepsize, factor * state.stepsize)
    found, result = attempt(stepsize, state.result)
    return Backtracked(stepsize, jnp.asarray(found, jnp.bool_), state.trials + 1, result)

  start = Backtracked(first, jnp.zeros((), jnp.bool_), jnp.zeros((), jnp.int32), result)
  return jax.lax.while_loop(go_on, again, start)


def backtrack(
  accept: Callable[[Array], Array], first: Array, *, shrink: ArrayLike, max_trials: int
) -> Backtracked:
  """``backtrack_with`` of a verdict alone."""
  return backtrack_with(
    lambda stepsize, _: (accept(stepsize), None), first, None, shrink=shrink, max_trials=max_trials
  )
