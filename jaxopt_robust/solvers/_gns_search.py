"""One accepted step of gradient-normalized Newton: what the solver and the optax link share."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.solvers._backtracking import backtrack_with
from jaxopt_robust.solvers._regularized import Metric, Steps, dual_norm, primal_norm
from jaxopt_robust.typing import Array, ArrayLike


class Rules(NamedTuple):
  """Constants of the search."""

  gamma: ArrayLike
  growth: ArrayLike
  shrink: ArrayLike
  decrease: ArrayLike
  min_gamma: ArrayLike
  max_trials: int
  cg_tol: ArrayLike
  cg_max_steps: int | None


def check_rules(rules: Rules) -> Rules:
  """The constants, in range."""
  _checks.check_positive("gamma", rules.gamma, scalar=True)
  infinity = float("inf")
  _checks.check_interval("growth", rules.growth, 1.0, infinity, closed="left", scalar=True)
  _checks.check_interval("shrink", rules.shrink, 0.0, 1.0, closed="neither", scalar=True)
  _checks.check_interval("decrease", rules.decrease, 0.0, 0.5, closed="neither", scalar=True)
  _checks.check_non_negative("min_gamma", rules.min_gamma, scalar=True)
  _checks.check_positive("cg_tol", rules.cg_tol, scalar=True)
  trials = _checks.check_int("max_trials", rules.max_trials, minimum=1)
  limit = rules.cg_max_steps
  if limit is not None:
    limit = _checks.check_int("cg_max_steps", limit, minimum=1)
  return rules._replace(max_trials=trials, cg_max_steps=limit)


class Point(NamedTuple):
  """A flat vector of parameters with the value, the gradient and its dual norm there."""

  flat: Array
  value: Array
  grad: Array
  size: Array


class Searched(NamedTuple):
  """Where a search ended: the new point, or the old one where nothing was accepted.

  Attributes:
    point: the point.
    step: how it was reached from the old one, 0 where nothing was accepted.
    gamma: from which the next search starts.
    tried: gamma of the last trial.
    length: ||d|| of the last trial, in the metric.
    found: bool, whether a step was accepted.
    stalled: bool, no step was, and the last one moves the parameters by less than their rounding.
    trials: int32, linear solves, each with a value and a gradient.
    products: int32, products with H.
  """

  point: Point
  step: Array
  gamma: Array
  tried: Array
  length: Array
  found: Array
  stalled: Array
  trials: Array
  products: Array


class _Trial(NamedTuple):
  point: Point
  step: Array
  products: Array


def search(
  evaluate: Callable[[Array], tuple[Array, Array]],
  steps: Steps,
  metric: Metric,
  point: Point,
  gamma: Array,
  rules: Rules,
) -> Searched:
  """Shrinks gamma until f falls by decrease ||g+||_*^2 / lambda, with lambda = ||g||_* / gamma."""
  dtype = point.grad.dtype
  share = jnp.asarray(rules.decrease, dtype)
  # At a stationary point any lambda gives the step 0.
  size = jnp.where(point.size > 0, point.size, 1)

  def attempt(gamma: Array, last: _Trial) -> tuple[Array, _Trial]:
    step, products = steps(size / gamma, last.step)
    flat = point.flat + step.astype(point.flat.dtype)
    value, grad = evaluate(flat)
    new = Point(flat, value, grad, dual_norm(metric, grad))
    # Quotients first: squares of gradients may be out of range.
    needed = share * gamma * new.size * (new.size / size)
    accepted = (point.value - value >= needed) & jnp.isfinite(value)
    return accepted, _Trial(new, step, last.products + products)

  nothing = _Trial(point, jnp.zeros_like(point.grad), jnp.zeros((), jnp.int32))
  end = backtrack_with(attempt, gamma, nothing, shrink=rules.shrink, max_trials=rules.max_trials)
  # Where no trial was accepted the next search goes on below the last one.
  factor = jnp.where(end.found, jnp.asarray(rules.growth, dtype), jnp.asarray(rules.shrink, dtype))
  least = jnp.where(end.found, jnp.asarray(rules.min_gamma, dtype), 0)
  limits = jnp.finfo(dtype)
  after = jnp.clip(factor * end.stepsize, min=jnp.maximum(least, limits.tiny), max=limits.max)
  new = end.result.point
  moved = jnp.any(new.flat != point.flat) & (end.stepsize > limits.tiny)
  point = Point(*(jnp.where(end.found, a, b) for a, b in zip(new, point, strict=True)))
  step = end.result.step
  return Searched(
    point, jnp.where(end.found, step, 0), after, end.stepsize, primal_norm(metric, step),
    end.found, ~end.found & ~moved, end.trials, end.result.products,
  )  # fmt: skip
