"""The scalar equation of temperature scaling, kept in a bracket."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust.calibration import _logits
from jaxopt_robust.solvers import Solver
from jaxopt_robust.typing import Array, PyTree

_FARTHEST = 2.0**60  # where a search without an upper end gives up


class State(NamedTuple):
  """State of the search.

  Attributes:
    params: inverse temperature t that was looked at last: error and value are its own.
    trial: the one to be looked at next.
    low: lower end of the bracket, -1 at first.
    high: upper end of the bracket, inf at first.
    count: steps done.
  """

  params: Array
  trial: Array
  low: Array
  high: Array
  count: Array  # type: ignore[assignment]


class Info(NamedTuple):
  """error: |slope|, of its negative part at t = 0. value: loss. stalled: nothing left to halve."""

  error: Array
  value: Array
  stalled: Array


def _init(params: Array, hyper: PyTree, given: _logits.Labelled) -> State:
  del hyper, given
  far = jnp.full_like(params, jnp.inf)
  return State(params, params, -jnp.ones_like(params), far, jnp.zeros((), jnp.int32))


def _step(state: State, hyper: PyTree, given: _logits.Labelled) -> tuple[State, Info]:
  """Newton's step where it stays inside the bracket of the root of the slope, else a bisection."""
  del hyper
  t = state.trial
  scaled = t * given.logits
  probs = jax.nn.softmax(scaled, axis=1)
  of_label = _logits.label_value(given.logits, given.labels)
  mean = jnp.sum(probs * given.logits, axis=1)
  slope = jnp.sum(given.weight * (mean - of_label))
  spread = jnp.sum(probs * (given.logits - mean[:, None]) ** 2, axis=1)
  curvature = jnp.sum(given.weight * spread)
  value = jnp.sum(given.weight * (jax.nn.logsumexp(scaled, axis=1) - t * of_label))

  low = jnp.where(slope < 0, t, state.low)
  high = jnp.where(slope < 0, state.high, t)
  newton = jnp.maximum(t - slope / jnp.where(curvature > 0, curvature, 1), 0)
  is_inside = (curvature > 0) & (newton > low) & (newton < jnp.minimum(high, 8 * t + 1))
  floor = jnp.maximum(low, 0)
  middle = jnp.where(jnp.isinf(high), 4 * t + 1, floor + (high - floor) / 2)
  new = jnp.where(is_inside, newton, middle)
  error = jnp.where(t > 0, jnp.abs(slope), jnp.maximum(-slope, 0))
  rests = (curvature > 0) & (newton == t) | (slope == 0)
  stalled = rests | (new == t) | (new > _FARTHEST)
  new = jnp.where(rests, t, new)
  return State(t, new, low, high, state.count + 1), Info(error, value, stalled)


SOLVER = Solver(_init, _step)
