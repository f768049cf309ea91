"""Paths by coordinate descent on working sets: screening, Newton models, warm starts."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust.numerics import safe_divide, tree_all_finite
from jaxopt_robust.regression import _blocks, _buffer
from jaxopt_robust.regression._problem import Model, Params, Problem
from jaxopt_robust.regression.linear_losses import linear_loss, total_loss
from jaxopt_robust.solvers import _gram_descent
from jaxopt_robust.solvers.types import CONVERGED, NON_FINITE, STALLED, STEP_LIMIT
from jaxopt_robust.typing import Array

# Working sets of a cold start hold so many features, or twice as many as are active.
_FIRST = 64
# The quadratic model of a loss bends by at least a share of its mean bend: by more of it after a
# step that the line search shortens (many rows of a Huber loss bend elsewhere), else by less. The
# least share is small: where classes nearly separate, most rows of a logistic loss hardly bend.
_FLOOR, _TOP, _CHANGE = 1e-5, 1e3, 4.0
# How much of the error before a working set leaves, where it is not solved to the end.
_SHARE = 0.1
_TRIALS = 30
# Epochs after which another model is made where the one at hand is not solved.
_EPOCHS = 50
# How much shorter than usual the steps are that tell whether a point is stationary.
_SHORT = 64.0
# Bisections of the scores: their order is known to one in a thousand.
_HALVINGS = 10
# Passes over all features without progress after which a solve ends.
_PATIENCE = 4


def serves(model: Model, features: int) -> bool:
  """Whether the method knows the penalty (a sum over features or groups of them) and the loss (one
  over rows)."""
  smooth = model.loss.smooth and model.loss.total is None
  return smooth and _blocks.known(model.penalty, features)


class State(NamedTuple):
  """Where a path is.

  Attributes:
    params: float[p + 1], the intercept last.
    prediction: float[n].
    slopes: float[n], derivative of the objective by the predictions.
    bends: float[n], second derivatives, floored; the weights of the rows for the squared loss.
    mean: their mean before that, 1 where it is not positive.
    gradient: float[p + 1].
    strengths: one a block, those of the last solve: infinite before the first.
    floor: what bends are at least, as a share of their mean.
    buffer: the columns in use.
  """

  params: Array
  prediction: Array
  slopes: Array
  bends: Array
  mean: Array
  gradient: Array
  strengths: Array
  floor: Array
  buffer: Any


class _Pass(NamedTuple):
  """A pass over all features."""

  state: State
  scores: Array
  rounding: Array
  error: Array
  best: Array
  epochs: Array
  idle: Array


class Run(NamedTuple):
  """How a solve went."""

  steps: Array
  status: Array


def start(model: Model, problem: Problem) -> State:
  """The constant model."""
  features = problem.center.shape[0]
  params = jnp.zeros(features + 1, problem.center.dtype)
  blocks = _blocks.make(model.penalty, problem)
  weights = problem.weights if model.loss == linear_loss("squared") else None
  # Of a path without an end, so that no feature is screened before its first solve.
  strengths = jnp.full_like(blocks.bounds, jnp.inf)
  prediction = jnp.full_like(problem.weights, problem.offset)
  buffer = _buffer.empty(blocks, problem, weights)
  floor = jnp.full((), _FLOOR, params.dtype)
  derivatives = _derivatives(model, problem, prediction, floor)
  return State(params, prediction, *derivatives, strengths, floor, buffer)


def _derivatives(
  model: Model, problem: Problem, prediction: Array, floor: Array
) -> tuple[Array, Array, Array, Array]:
  """Slopes and bends of the rows, the mean bend, and the gradient by all coefficients and the
  intercept."""
  slope = lambda z: jax.grad(total_loss, argnums=1)(
    model.loss, z, problem.target, problem.weights, problem.loss_hyper
  )
  if model.loss == linear_loss("squared"):
    slopes, bends, mean = slope(prediction), problem.weights, jnp.ones_like(problem.unit)
  else:
    slopes, bends = jax.jvp(slope, (prediction,), (jnp.ones_like(prediction),))
    mean = safe_divide(jnp.sum(bends), jnp.sum(problem.weights))
    mean = jnp.where(mean > 0, mean, 1)
    bends = jnp.maximum(bends, floor * mean * problem.weights)
  total = jnp.sum(slopes)
  inner = problem.scale * (slopes @ problem.x - problem.center * total)
  return slopes, bends, mean, jnp.append(inner, problem.column * total)


class _Path:
  """The functions of one model and problem."""

  def __init__(self, model: Model, problem: Problem):
    self.model, self.problem = model, problem
    self.squared = model.loss == linear_loss("squared")
    self.blocks = _blocks.make(model.penalty, problem)

  def violations(self, state: State, hyper: Any) -> tuple[Array, Array, Array]:
    """Each block's violation of its optimality condition, rounding of one, and the largest.

    A violation is ||w_j - prox(w_j - s_j gradient_j)|| / s_j, with 1 / s_j the mean curvature along
    block j, or a bound of it; the largest is NaN where anything is not finite.
    """
    blocks = self.blocks
    live = blocks.bounds > 0
    size = blocks.bounds * state.mean
    size = jnp.where(size > 0, size, 1)

    def scores_at(size: Array) -> Array:
      change = _gram_descent.changes(blocks.whole, state.params, state.gradient, hyper, size)
      return jnp.where(live, change, 0)

    scores = scores_at(size)
    if not self.model.penalty.convex:
      # A stationary point is a fixed point of short steps, of long ones where it is the lowest.
      scores = jnp.minimum(scores, scores_at(_SHORT * size))
    parts = jnp.maximum(jnp.abs(state.params) * blocks.spread(size), jnp.abs(state.gradient))
    eps = jnp.finfo(size.dtype).eps / 2
    rounding = eps * jnp.max(jnp.where(blocks.spread(live), parts, 0))
    largest = jnp.max(scores)
    largest = jnp.where(largest > 0, jnp.maximum(largest, rounding), 0)
    finite = tree_all_finite((scores, state.gradient, state.slopes, state.params))
    return scores, rounding, jnp.where(finite, largest, jnp.nan)

  def wanted(self, state: State, scores: Array, strengths: Array) -> tuple[Array, Array]:
    """The features of the next working set, and whether all that are needed are among them.

    The strong rule: between two strengths a gradient changes by no more than they do; and whatever
    violates its condition.
    """
    blocks = self.blocks
    support = (blocks.whole.norms(state.params) > 0) | blocks.always
    reach = 2 * strengths - jnp.where(jnp.isinf(state.strengths), strengths, state.strengths)
    strong = blocks.whole.norms(state.gradient) > reach
    want = (strong | (scores > 0) | support) & (blocks.bounds > 0) | blocks.always
    room = _buffer.capacity(blocks, self.problem.x.shape[0])
    many = lambda mask: jnp.sum(jnp.where(mask, blocks.sizes, 0), dtype=jnp.int32)
    limit = jnp.minimum(jnp.maximum(_FIRST, 2 * many(support)), room)

    def fewer() -> Array:
      # What is active, then the largest scores: the threshold by bisection, quicker than sorting.
      top = jnp.max(scores)
      priority = jnp.where(support, jnp.where(top > 0, 2 * top, 1), scores)

      def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        above = many(want & (priority > middle)) > limit - 1
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

      ends = (jnp.zeros_like(top), jnp.max(priority))
      _, threshold = jax.lax.fori_loop(0, _HALVINGS, halve, ends)
      above = want & (priority > threshold)
      # Of equals the first ones, as far as there is room; the intercept has a place in any case.
      equal = want & (priority == threshold)
      left = limit - 1 - many(above)
      return (
        above | (equal & (jnp.cumsum(jnp.where(equal, blocks.sizes, 0)) <= left)) | blocks.always
      )

    count = many(want)
    chosen = jax.lax.cond(count > limit, fewer, lambda: want)
    return blocks.spread(chosen), count <= limit

  def solve(
    self, state: State, hyper: Any, tol: Array, max_epochs: Array
  ) -> tuple[Array, Array, Array, Array]:
    """Coefficients on the buffer: changes, predictions by what was there and by the changes (two
    rows), the decrease of the model, epochs.

    In branches of static size; their results have the largest.
    """
    buffer = state.buffer
    room = buffer.columns.shape[0]

    def on(size: int) -> Any:
      def go() -> tuple[Array, Array, Array, Array]:
        at = buffer.features[:size]
        columns = buffer.columns[:size]
        hessian = _buffer.hessian(buffer, size, state.bends)
        used = jnp.arange(size) < buffer.used
        penalty, here = self.blocks.within(at, used, hyper)
        quadratic = _gram_descent.quadratic_of(penalty, hessian, here, buffer.used)
        first = _gram_descent.Point(
          jnp.where(used, state.params[at], 0), jnp.where(used, state.gradient[at], 0)
        )
        last, epochs = _gram_descent.descend(penalty, quadratic, first, tol, max_epochs)
        change = last.params - first.params
        decrease = penalty.value(first.params, here) - penalty.value(last.params, here)
        decrease = decrease - 0.5 * (first.gradient + last.gradient) @ change
        parts = jnp.stack([first.params, change]) @ columns
        return jnp.zeros(room, change.dtype).at[:size].set(change), parts, decrease, epochs

      return go

    branches = [on(size) for size in _buffer.sizes(buffer)]
    return jax.lax.switch(_buffer.which_size(buffer), branches)

  def search(
    self, state: State, hyper: Any, change: Array, shift: Array, decrease: Array
  ) -> tuple[Array, Array]:
    """The share of a step of the model that lowers the objective by a part of what it promises, and
    whether it is lower by more than rounding."""
    problem = self.problem

    def objective(share: Array) -> Array:
      params = state.params + share * change
      prediction = state.prediction + share * shift
      loss = total_loss(
        self.model.loss, prediction, problem.target, problem.weights, problem.loss_hyper
      )
      return loss + self.blocks.whole.value(params, hyper)

    before = objective(jnp.zeros_like(decrease))
    slack = 4 * jnp.finfo(before.dtype).eps * jnp.abs(before)

    def bad(carry: tuple) -> Array:
      share, count = carry
      enough = before - objective(share) >= 1e-4 * share * decrease - slack
      return ~enough & (count < _TRIALS)

    share, count = jax.lax.while_loop(
      bad, lambda c: (c[0] / 2, c[1] + 1), (jnp.ones_like(decrease), 0)
    )
    share = jnp.where(count < _TRIALS, share, 0)
    return share, before - objective(share) > slack

  def advance(self, state: State, hyper: Any, tol: Array, max_steps: Array) -> tuple[State, Any]:
    """The solution at the next strength: passes over all features until none is violated."""
    hyper, strengths = self.blocks.hyper_of(hyper)
    weights = self.problem.weights if self.squared else None

    def one(carry: _Pass) -> _Pass:
      state = carry.state
      want, complete = self.wanted(state, carry.scores, strengths)
      buffer = _buffer.add(state.buffer, self.problem, weights, want)
      state = state._replace(buffer=buffer, strengths=strengths)
      small = 0.3 * tol
      rough = jnp.maximum(_SHARE * carry.error, small)
      inner = jnp.where(complete, small, rough) if self.squared else rough
      inner = jnp.maximum(inner, 2 * carry.rounding)
      left = max_steps - carry.epochs
      left = left if self.squared else jnp.minimum(left, _EPOCHS)
      change, parts, decrease, epochs = self.solve(state, hyper, inner, left)
      # Slots beyond the count hold no change, whatever feature they name.
      wide = jnp.zeros_like(state.params).at[buffer.features].add(change, mode="drop")
      share, lower = jnp.ones_like(decrease), jnp.zeros((), bool)
      if not self.squared:
        share, lower = self.search(state, hyper, wide, parts[1], decrease)
      # Afresh where the buffer has all that is active: updates would gather rounding.
      apart = jnp.any((state.params != 0) & ~buffer.member)
      prediction = jnp.where(apart, state.prediction, self.problem.offset + parts[0])
      prediction = prediction + share * parts[1]
      factor = jnp.where(share < 1, _CHANGE, 1 / _CHANGE)
      floor = jnp.clip(state.floor * factor, _FLOOR, _TOP)
      derivatives = _derivatives(self.model, self.problem, prediction, floor)
      params = state.params + share * wide
      new = State(params, prediction, *derivatives, strengths, floor, None)
      scores, rounding, error = self.violations(new, hyper)
      fine = jnp.isfinite(error)
      keep = lambda new, old: jnp.where(fine, new, old)
      new = jax.tree.map(keep, new, state._replace(buffer=None))._replace(buffer=buffer)
      # Models that bend more are left to try.
      tries = jnp.asarray(not self.squared) & (share < 1) & (floor < 1)
      idle = jnp.where(tries, carry.idle, carry.idle + 1)
      idle = jnp.where(lower | (error < 0.9 * carry.best), 0, idle)
      return _Pass(
        new, scores, rounding, error, jnp.minimum(error, carry.best),
        carry.epochs + jnp.maximum(epochs, 1), idle,
      )  # fmt: skip

    def goes_on(carry: _Pass) -> Array:
      return (carry.error > tol) & (carry.epochs < max_steps) & (carry.idle < _PATIENCE)

    scores, rounding, error = self.violations(state, hyper)
    zero = jnp.zeros((), jnp.int32)
    last = jax.lax.while_loop(
      goes_on, one, _Pass(state, scores, rounding, error, error, zero, zero)
    )
    status = jnp.where(last.idle >= _PATIENCE, STALLED, STEP_LIMIT)
    status = jnp.where(last.error <= tol, CONVERGED, status)
    status = jnp.where(jnp.isfinite(last.error), status, NON_FINITE).astype(jnp.int32)
    state = last.state._replace(strengths=strengths)
    return state, (last.error, Run(last.epochs, status))


def make(model: Model, problem: Problem) -> tuple[State, Any]:
  """First state of a path, and how it goes on: ``-> state, params, loss, error, info``."""
  path = _Path(model, problem)

  def advance(state: State, hyper: Any, tol: Array, max_steps: Array) -> tuple:
    state, (error, run) = path.advance(state, hyper, tol * problem.reference, max_steps)
    error = jnp.where(error == 0, 0, safe_divide(error, problem.reference))
    params = Params(state.params[:-1], state.params[-1])
    loss = total_loss(
      model.loss, state.prediction, problem.target, problem.weights, problem.loss_hyper
    )
    return state, params, loss, error, run

  return start(model, problem), advance
