"""One outer step of MAID: inexact gradients, and line searches on proved decreases."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust._units import tree_norm
from jaxopt_robust.bilevel.error_bounds import interval_of
from jaxopt_robust.bilevel.hypergradients import HypergradientInfo, hypergradient, next_change
from jaxopt_robust.bilevel.inner_solver import constant_at
from jaxopt_robust.bilevel.products import scalar_of
from jaxopt_robust.bilevel.types import BilevelPoint, MaidInfo, MaidState
from jaxopt_robust.numerics import tree_where
from jaxopt_robust.solvers import STEP_LIMIT, Solver, run_until
from jaxopt_robust.typing import Array, ArrayLike, PyTree


class Settings(NamedTuple):
  strong_convexity: Any
  outer_smoothness: Any
  constants: Any
  project: Callable[[PyTree], PyTree]
  convex: bool
  shrink: ArrayLike
  growth: ArrayLike
  tighten: ArrayLike
  relax: ArrayLike
  descent: ArrayLike
  decrease: ArrayLike
  max_backtracks: int
  max_refinements: int
  min_accuracy: float | None
  max_inner_steps: int
  max_products: int


class _Gradient(NamedTuple):
  """An inexact hypergradient, with what it took."""

  y: PyTree
  grad: PyTree
  info: HypergradientInfo
  accuracy: Array
  residual: Array
  inner_steps: Array
  products: Array
  refinements: Array
  good: Array
  unsolved: Array


class _Trial(NamedTuple):
  """A trial of the line search."""

  point: BilevelPoint
  stepsize: Array
  psi: Array
  high: Array
  inner_steps: Array
  tries: Array


class _Attempt(NamedTuple):
  """A gradient and its line search."""

  gradient: _Gradient
  trial: _Trial
  low: Array
  inner_steps: Array
  products: Array
  backtracks: Array
  refinements: Array
  allowed: Array
  accepted: Array


class Problem(NamedTuple):
  inner: Callable[..., Any]
  outer: Callable[..., Any]
  solver: Solver
  settings: Settings

  def floor(self, dtype: Any) -> float:
    least = self.settings.min_accuracy
    return least if least is not None else 1e-13 if jnp.finfo(dtype).bits == 64 else 1e-6

  def solve(
    self, y: PyTree, x: PyTree, accuracy: Array, data: tuple
  ) -> tuple[PyTree, Array, Array]:
    """The inner variable to an accuracy, the steps that it took, and whether they ran out."""
    mu = constant_at("strong_convexity", self.settings.strong_convexity, x, data, accuracy.dtype)
    y, info = run_until(
      self.solver, y, x, *data, tol=mu * accuracy, max_steps=self.settings.max_inner_steps
    )
    return y, info.steps, info.status == STEP_LIMIT

  def interval(
    self, value: Array, outer_gradient: Array, inner_gradient: Array, x: PyTree, data: tuple
  ) -> tuple[Array, Array]:
    """The ends of the interval of F(x), from f, both norms and the distance that they prove."""
    mu = constant_at("strong_convexity", self.settings.strong_convexity, x, data, value.dtype)
    smooth = constant_at("outer_smoothness", self.settings.outer_smoothness, x, data, value.dtype)
    distance = inner_gradient.astype(value.dtype) / mu
    size = outer_gradient.astype(value.dtype)
    return interval_of(value, size, distance, smooth, self.settings.convex)

  def interval_at(self, y: PyTree, x: PyTree, data: tuple) -> tuple[Array, Array]:
    """The same at a point of which nothing is known yet."""
    value, grad = jax.value_and_grad(self.outer)(y, x, *data)
    inner_grad = jax.grad(scalar_of("inner", self.inner))(y, x, *data)
    return self.interval(value, tree_norm(grad), tree_norm(inner_grad), x, data)


def _inexact_gradient(
  problem: Problem, x: PyTree, y: PyTree, adjoint: PyTree, accuracy: Array, residual: Array,
  allowed: Array, data: tuple,
) -> _Gradient:  # fmt: skip
  """Algorithm 3.2: a hypergradient that is accurate enough to be a direction of descent."""
  settings = problem.settings
  zero = jnp.zeros((), jnp.int32)

  def refine(carry: _Gradient) -> _Gradient:
    again = carry.refinements >= 0  # the first visit keeps the accuracies that it was given
    factor = jnp.where(again, jnp.asarray(settings.tighten, accuracy.dtype), 1)
    eps, delta = carry.accuracy * factor, carry.residual * factor
    y, steps, unsolved = problem.solve(carry.y, x, eps, data)
    known = None if settings.constants is None else settings.constants(y, x, *data)
    grad, info = hypergradient(
      problem.inner, problem.outer, y, x, *data, adjoint=carry.info.adjoint, tol=0.0, atol=delta,
      max_steps=settings.max_products, constants=known,
    )  # fmt: skip
    good = jnp.ones((), bool)
    if known is not None:
      good = info.bound <= (1 - jnp.asarray(settings.descent)) * tree_norm(grad)
    return _Gradient(
      y, grad, info, eps, delta, carry.inner_steps + steps, carry.products + info.steps,
      carry.refinements + 1, good, unsolved,
    )  # fmt: skip

  shapes = jax.eval_shape(
    lambda y: hypergradient(problem.inner, problem.outer, y, x, *data, adjoint=adjoint), y
  )
  blank = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
  first = _Gradient(
    y, blank[0], blank[1]._replace(adjoint=adjoint), accuracy, residual, zero, zero, zero - 1,
    jnp.zeros((), bool), jnp.zeros((), bool),
  )  # fmt: skip
  least = problem.floor(accuracy.dtype)
  return jax.lax.while_loop(
    lambda c: (c.refinements < 0) | (~c.good & (c.refinements < allowed) & (c.accuracy > least)),
    refine,
    first,
  )


def _line_search(
  problem: Problem, x: PyTree, gradient: _Gradient, low: Array, stepsize: Array, tries: Array,
  data: tuple,
) -> _Trial:  # fmt: skip
  """Trial steps until the decrease is proved."""
  settings = problem.settings
  eps = gradient.accuracy * jnp.asarray(settings.relax, gradient.accuracy.dtype)
  shrink = jnp.asarray(settings.shrink, stepsize.dtype)

  def attempt(carry: _Trial) -> _Trial:
    alpha = jnp.where(carry.tries == 0, carry.stepsize, carry.stepsize * shrink)
    moved = settings.project(
      jax.tree.map(lambda a, g: a - alpha.astype(a.dtype) * g, x, gradient.grad)
    )
    y, steps, _ = problem.solve(gradient.y, moved, eps, data)
    _, high = problem.interval_at(y, moved, data)
    size = tree_norm(jax.tree.map(jnp.subtract, moved, x)).astype(high.dtype)
    psi = (
      high - low + jnp.asarray(settings.decrease, high.dtype) * size**2 / alpha.astype(high.dtype)
    )
    # A step that is rounding alone proves nothing.
    psi = jnp.where(size > 0, psi, jnp.inf)
    return _Trial(
      BilevelPoint(moved, y), alpha, psi, high, carry.inner_steps + steps, carry.tries + 1
    )

  start = _Trial(
    BilevelPoint(x, gradient.y), stepsize, jnp.full_like(low, jnp.inf), low,
    jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32),
  )  # fmt: skip
  return jax.lax.while_loop(lambda c: ~(c.psi <= 0) & (c.tries < tries), attempt, start)


def maid_step(problem: Problem, state: MaidState, data: tuple) -> tuple[MaidState, MaidInfo]:
  """Algorithm 3.1, one outer step: attempts at finer and finer accuracy until one succeeds."""
  settings, x = problem.settings, state.params.x
  least = problem.floor(state.accuracy.dtype)
  zero = jnp.zeros((), jnp.int32)

  def attempt(y: PyTree, adjoint: PyTree, eps: Array, delta: Array, used: Array) -> _Attempt:
    gradient = _inexact_gradient(
      problem, x, y, adjoint, eps, delta, settings.max_refinements - used, data
    )
    known = gradient.info
    low, _ = problem.interval(known.value, known.outer_gradient, known.inner_gradient, x, data)
    tries = settings.max_backtracks + used
    trial = _line_search(problem, x, gradient, low, state.stepsize, tries, data)
    refinements = used + gradient.refinements
    return _Attempt(
      gradient, trial, low, gradient.inner_steps + trial.inner_steps, gradient.products,
      trial.tries, refinements, refinements < settings.max_refinements, trial.psi <= 0,
    )  # fmt: skip

  def again(last: _Attempt) -> _Attempt:
    factor = jnp.asarray(settings.tighten, state.accuracy.dtype)
    g = last.gradient
    new = attempt(
      g.y, g.info.adjoint, g.accuracy * factor, g.residual * factor, last.refinements + 1
    )
    return new._replace(
      inner_steps=last.inner_steps + new.inner_steps,
      products=last.products + new.products,
      backtracks=last.backtracks + new.backtracks,
    )

  first = attempt(state.params.y, state.adjoint, state.accuracy, state.residual, zero)
  done = jax.lax.while_loop(
    lambda c: ~c.accepted & c.allowed & (c.gradient.accuracy > least), again, first
  )
  gradient, trial = done.gradient, done.trial
  relax = jnp.asarray(settings.relax, state.accuracy.dtype)
  growth = jnp.asarray(settings.growth, state.stepsize.dtype)
  ok = done.accepted
  new = MaidState(
    tree_where(ok, trial.point, BilevelPoint(x, gradient.y)),
    gradient.info.adjoint,
    jnp.where(ok, gradient.accuracy * relax, gradient.accuracy),
    jnp.where(ok, gradient.residual * relax, gradient.residual),
    jnp.where(ok, trial.stepsize * growth, state.stepsize),
    state.count + 1,
  )
  dtype = done.low.dtype
  omega = gradient.info.bound
  missing = omega
  if settings.constants is None:
    missing = next_change(problem.inner, problem.outer, gradient.y, x, gradient.info.adjoint, data)
    missing = jnp.where(gradient.unsolved, jnp.inf, missing)
  error = jnp.minimum(tree_norm(gradient.grad) + missing, jnp.finfo(dtype).max)
  info = MaidInfo(
    error.astype(dtype), gradient.info.value, done.low, trial.high, trial.psi,
    omega, jnp.where(ok, trial.stepsize, 0), gradient.accuracy, gradient.residual,
    done.inner_steps, done.products, done.backtracks - ok, done.refinements, ~ok, gradient.unsolved,
  )  # fmt: skip
  return new, info
