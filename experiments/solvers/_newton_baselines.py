"""What Newton methods with approximate Hessians stand beside, and runs that record every step."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust.solvers import Solver

SHRINKS = 40  # trials of a search, as in gns_newton


class State(NamedTuple):
  """params, value and gradient there, the constant of the search, steps and trials."""

  params: jax.Array
  value: jax.Array
  grad: jax.Array
  constant: jax.Array
  count: jax.Array
  num_solves: jax.Array


class Info(NamedTuple):
  """error: norm of the gradient. value: at the new iterate."""

  error: jax.Array
  value: jax.Array


def _searched(
  fun: Callable, attempt: Callable, least: float, factor: float
) -> tuple[Callable, Callable]:
  """A method whose constant grows by a factor until a trial is accepted, and then falls by it.

  ``attempt(state, data) -> constant -> (accepted, new point, value, gradient)``.
  """

  def init(params: jax.Array, hyper: Any, data: Any) -> State:
    value, grad = jax.value_and_grad(fun)(params, data)
    none = jnp.zeros((), jnp.int32)
    return State(params, value, grad, jnp.ones((), params.dtype), none, none)

  def step(state: State, hyper: Any, data: Any) -> tuple[State, Info]:
    trial = attempt(state, data)

    def go_on(carry: tuple) -> jax.Array:
      return ~carry[0] & (carry[2] < SHRINKS)

    def again(carry: tuple) -> tuple:
      _, constant, tried, _ = carry
      accepted, *point = trial(constant)
      accepted = accepted & jnp.isfinite(point[1])
      return accepted, jnp.where(accepted, constant, constant * factor), tried + 1, tuple(point)

    point = (state.params, state.value, state.grad)
    none = jnp.zeros((), jnp.int32)
    first = (jnp.zeros((), jnp.bool_), state.constant, none, point)
    accepted, constant, tried, new = jax.lax.while_loop(go_on, again, first)
    point = tuple(jnp.where(accepted, a, b) for a, b in zip(new, point, strict=True))
    constant = jnp.where(accepted, jnp.maximum(constant / factor, least), constant)
    state = State(*point, constant, state.count + 1, state.num_solves + tried)
    return state, Info(jnp.linalg.norm(state.grad), state.value)

  return init, step


def gradient_method(fun: Callable, metric: Callable | None = None) -> Solver:
  """x - B^{-1} grad f(x) / L, with L doubled until the quadratic bound holds and halved afterwards.

  Nesterov, Universal gradient methods for convex optimization problems, 2015. The metric is
  factorised again in every step.
  """

  def attempt(state: State, data: Any) -> Callable:
    direction = state.grad
    if metric is not None:
      root = jax.scipy.linalg.cho_factor(metric(data))
      direction = jax.scipy.linalg.cho_solve(root, state.grad[:, None])[:, 0]
    slope = state.grad @ direction

    def trial(constant: jax.Array) -> tuple:
      new = state.params - direction / constant
      value, grad = jax.value_and_grad(fun)(new, data)
      return value <= state.value - 0.5 * slope / constant, new, value, grad

    return trial

  return Solver(*_searched(fun, attempt, 1e-5, 2.0))


def super_universal_newton(fun: Callable, metric: Callable | None = None) -> Solver:
  """Newton's method with the exact Hessian and lambda = H_k ||grad f(x_k)||_*.

  A trial is accepted where <grad f(x+), x - x+> >= ||grad f(x+)||_*^2 / (4 lambda); H_k grows by 4
  and falls by 4. Doikov, Mishchenko and Nesterov, Super-universal regularized Newton method, 2024,
  with the exponent 1.
  """

  def attempt(state: State, data: Any) -> Callable:
    size = state.params.size
    form = jnp.eye(size, dtype=state.grad.dtype) if metric is None else metric(data)
    inverse = jax.scipy.linalg.cho_factor(form)
    square = lambda g: g @ jax.scipy.linalg.cho_solve(inverse, g[:, None])[:, 0]
    hessian = jax.hessian(fun)(state.params, data)
    length = jnp.sqrt(square(state.grad))

    def trial(constant: jax.Array) -> tuple:
      lam = constant * length
      root = jnp.linalg.cholesky(hessian + lam * form)
      step = -jax.scipy.linalg.cho_solve((root, True), state.grad[:, None])[:, 0]
      value, grad = jax.value_and_grad(fun)(state.params + step, data)
      return grad @ -step >= square(grad) / (4 * lam), state.params + step, value, grad

    return trial

  return Solver(*_searched(fun, attempt, 1e-5, 4.0))


def recorded_run(solver: Solver, left: Callable, limit: int) -> Callable:
  """``run(start, data) -> dict``: until ``left(state, data) < 1``, or ``limit`` steps.

  ``norms`` and ``work`` are the gradient's Euclidean norm and the trials so far, after each step
  (NaN and 0 beyond the last). ``rise`` is the largest rise of f in a step, ``overlong`` the largest
  length of an accepted step over its radius, for methods that have one.
  """

  def run(start: jax.Array, data: Any) -> dict[str, jax.Array]:
    def go_on(carry: tuple) -> jax.Array:
      state, stalled = carry[0], carry[1]
      return (left(state, data) >= 1) & (state.count < limit) & ~stalled

    def one(carry: tuple) -> tuple:
      old, _, norms, work, rise, overlong = carry
      state, info = solver.step(old, None, data)
      norms = norms.at[old.count].set(jnp.linalg.norm(state.grad))
      work = work.at[old.count].set(state.num_solves)
      rise = jnp.maximum(rise, state.value - old.value)
      if hasattr(info, "length"):
        ratio = jnp.where(info.found, info.length / info.gamma, 0)
        overlong = jnp.maximum(overlong, ratio)
      return state, getattr(info, "stalled", jnp.zeros((), bool)), norms, work, rise, overlong

    state = solver.init(start, None, data)
    dtype = start.dtype
    begin = (
      state, jnp.zeros((), bool), jnp.full(limit, jnp.nan, dtype), jnp.zeros(limit, jnp.int32),
      jnp.full((), -jnp.inf, dtype), jnp.zeros((), dtype),
    )  # fmt: skip
    state, _, norms, work, rise, overlong = jax.lax.while_loop(go_on, one, begin)
    reached = left(state, data) < 1
    return {
      "iterations": jnp.where(reached, state.count, limit),
      "solves": state.num_solves, "reached": reached, "value": state.value, "norms": norms,
      "work": work, "rise": rise, "overlong": overlong,
    }  # fmt: skip

  return run
