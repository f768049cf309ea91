"""HOAG: descent on approximate hypergradients, with an accuracy that follows a schedule."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust._units import tree_norm
from jaxopt_robust.bilevel.hypergradients import hypergradient, next_change
from jaxopt_robust.bilevel.products import scalar_of
from jaxopt_robust.bilevel.types import BilevelPoint, HoagInfo, HoagState, check_point
from jaxopt_robust.numerics import tree_where
from jaxopt_robust.solvers import STEP_LIMIT, Solver, run_until
from jaxopt_robust.solvers._common import hashable
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = ["geometric_accuracy", "hoag", "polynomial_accuracy"]

Schedule = Callable[[ArrayLike], ArrayLike]
_RISE = 0.2  # a value that is larger by this share shows that the step was too long


def geometric_accuracy(first: ArrayLike = 0.01, *, decay: ArrayLike = 0.9) -> Schedule:
  r"""Accuracies eps_k = eps_0 decay^k.

  Args:
    first: eps_0 > 0.
    decay: in (0, 1); may be traced.

  Returns:
    ``accuracy(count) -> scalar``.

  Raises:
    ValueError: when a number is out of its range.

  Example:
    >>> float(geometric_accuracy(1.0, decay=0.5)(3))
    0.125

  Reference:
    Pedregosa, Hyperparameter optimization with approximate gradient, 2016, section 4.
  """
  _checks.check_positive("first", first, scalar=True)
  _checks.check_interval("decay", decay, 0.0, 1.0, closed="neither", scalar=True)
  return lambda count: jnp.asarray(first) * jnp.asarray(decay) ** count


def polynomial_accuracy(first: ArrayLike = 0.01, *, power: ArrayLike = 2.0) -> Schedule:
  r"""Accuracies eps_k = eps_0 / (k + 1)^power.

  Args:
    first: eps_0 > 0.
    power: > 1, so that their sum is finite, which the convergence of ``hoag`` needs.

  Returns:
    ``accuracy(count) -> scalar``.

  Raises:
    ValueError: when a number is out of its range.

  Example:
    >>> float(polynomial_accuracy(1.0)(3))
    0.0625

  Reference:
    Pedregosa, Hyperparameter optimization with approximate gradient, 2016, section 4 (powers 2
    and 3).
  """
  _checks.check_positive("first", first, scalar=True)
  _checks.check_greater("power", power, 1.0, scalar=True)
  return lambda count: jnp.asarray(first) / (jnp.asarray(count) + 1.0) ** jnp.asarray(power)


@hashable
def hoag(
  inner: Callable[..., Any],
  outer: Callable[..., Any],
  inner_solver: Solver,
  *,
  accuracy: Schedule | None = None,
  stepsize: ArrayLike | None = None,
  project: Callable[[PyTree], PyTree] | None = None,
  slack: ArrayLike = 0.25,
  max_inner_steps: int = 2000,
  max_products: int = 2000,
) -> Solver:
  r"""Hyper-parameter optimization with approximate gradients, as a solver.

  For min_x F(x), F(x) = f(y*(x), x). Step k with accuracy eps_k:

  1. y with ||grad_y g|| <= eps_k times its first value, v with ||H v - grad_y f|| <= eps_k
     ||grad_y f||, both from where the last step ended; z = grad_x f - B^T v.
  2. x+ = x - z / L_k and its f_+, at accuracy eps_{k+1}. With d = ||x+ - x||:
     f_+ <= f + c eps_{k+1} + eps_k (1 + c) d - L_k d^2: accepted, L_{k+1} = 0.95 L_k;
     f_+ >= f + 0.2 |f|: rejected, L_{k+1} = 2 L_k, all further accuracies are halved;
     in between: accepted, L_{k+1} = L_k.

  The stopping quantity ``info.error`` is ||z||_2 + the change that one more step of the linear
  solve would make of z, at the point before the step, and the largest number where the inner solver
  ended at its step limit there (``info.unsolved``); nothing proves how far z is from the
  hypergradient (``maid`` does).

  Args:
    inner: ``inner(y, x, *data) -> scalar``, g, strongly convex in y and twice differentiable.
    outer: ``outer(y, x, *data) -> scalar``, f.
    inner_solver: ``Solver`` whose params are y, whose hyper is x and whose error is ||grad_y g||:
      ``strongly_convex_descent``, or any other. Solvers of an objective without hyper take x as
      data: with ``base = solvers.from_optax(inner, optax.lbfgs())`` it is
      ``Solver(lambda y, x, *data: base.init(y, None, x, *data),
      lambda state, x, *data: base.step(state, None, x, *data))``.
    accuracy: ``accuracy(count) -> eps`` > 0 with a finite sum: ``geometric_accuracy``,
      ``polynomial_accuracy``; None: ``geometric_accuracy()``. A constant one does not converge.
    stepsize: 1 / L_0 > 0; may be traced. None: the first step has the length sqrt(n) for n
      hyper-parameters.
    project: projection of x on a convex set; None: none. Logarithms of strengths should be kept in
      some interval such as [-12, 12].
    slack: c >= 0.
    max_inner_steps: >= 1, static, of one call of the inner solver.
    max_products: >= 1, static, of one linear solve.

  Returns:
    ``Solver`` whose params are a ``BilevelPoint``, hyper is None, with states ``HoagState`` and
    infos ``HoagInfo``.

  Raises:
    TypeError: when an objective is not a function, or ``inner_solver`` no solver.
    ValueError: when a number is out of its range, or an objective is no scalar.

  Example:
    >>> inner = lambda y, x: 0.5 * jnp.sum((y - 1.0) ** 2) + 0.5 * x * jnp.sum(y**2)
    >>> outer = lambda y, x: 0.5 * jnp.sum((y - 0.8) ** 2)
    >>> solver = jr.bilevel.strongly_convex_descent(
    ...   inner, strong_convexity=lambda x: 1 + x, smoothness=lambda x: 1 + x)
    >>> method = hoag(inner, outer, solver, project=lambda x: jnp.maximum(x, 0.0), stepsize=1.0)
    >>> start = jr.bilevel.BilevelPoint(jnp.array(1.0), jnp.zeros(1))
    >>> best, info = jr.solvers.run_until(method, start, None, tol=1e-4, max_steps=200)
    >>> round(float(best.x), 2), int(info.status)  # 1 / (1 + x) = 0.8
    (0.25, 0)

  Reference:
    Pedregosa, Hyperparameter optimization with approximate gradient, 2016, algorithm 1; the step
    rule as in sparse-ho (Bertrand et al., 2022), with each step taken once and rejected steps taken
    back.
  """
  scalar_of("inner", inner)
  value_of = scalar_of("outer", outer)
  _arguments.check_solver("inner_solver", inner_solver)
  accuracy = geometric_accuracy() if accuracy is None else accuracy
  for name, function in (("accuracy", accuracy), ("project", project)):
    if function is not None:
      _arguments.check_callable(name, function)
  if stepsize is not None:
    _checks.check_positive("stepsize", stepsize, scalar=True)
  _checks.check_non_negative("slack", slack, scalar=True)
  max_inner_steps = _checks.check_int("max_inner_steps", max_inner_steps, minimum=1)
  max_products = _checks.check_int("max_products", max_products, minimum=1)
  on_set = project or (lambda x: x)

  def init(params: BilevelPoint, hyper: None, *data: PyTree) -> HoagState:
    del hyper
    params = check_point(params)
    dtype = jnp.result_type(*jax.tree.leaves(params))
    zero = jax.tree.map(jnp.zeros_like, params.y)
    grad = jax.grad(scalar_of("inner", inner))(params.y, params.x, *data)
    first = jnp.asarray(0.0 if stepsize is None else 1 / jnp.asarray(stepsize), dtype)
    return HoagState(
      params, zero, first, jnp.ones((), dtype), tree_norm(grad).astype(dtype),
      jnp.zeros((), jnp.int32),
    )  # fmt: skip

  def solve(y: PyTree, x: PyTree, eps: Array, state: HoagState, data: tuple) -> tuple:
    tol = eps * state.reference
    tol = jnp.where(jnp.isnan(tol), 0, tol)  # NaN ends the run as such
    y, info = run_until(inner_solver, y, x, *data, tol=tol, max_steps=max_inner_steps)
    return y, info.steps, info.status == STEP_LIMIT

  def step(state: HoagState, hyper: None, *data: PyTree) -> tuple[HoagState, HoagInfo]:
    del hyper
    x, dtype = state.params.x, state.lipschitz.dtype
    at = lambda count: jnp.asarray(accuracy(count), dtype) * state.tightening
    eps, following = at(state.count), at(state.count + 1)
    y, steps, unsolved = solve(state.params.y, x, eps, state, data)
    grad, found = hypergradient(
      inner, outer, y, x, *data, adjoint=state.adjoint, tol=eps, max_steps=max_products
    )
    size = tree_norm(grad).astype(dtype)
    count = sum(leaf.size for leaf in jax.tree.leaves(x))
    start = jnp.where(size > 0, size / math.sqrt(count), 1)
    lipschitz = jnp.where(state.lipschitz > 0, state.lipschitz, start)
    moved = on_set(jax.tree.map(lambda a, g: a - (g / lipschitz).astype(a.dtype), x, grad))
    near, more, later = solve(y, moved, following, state, data)
    value, new = found.value, value_of(near, moved, *data)
    d = tree_norm(jax.tree.map(jnp.subtract, moved, x)).astype(dtype)
    c = jnp.asarray(slack, dtype)
    good = new <= value + c * following + eps * (1 + c) * d - lipschitz * d**2
    bad = ~(new < value + _RISE * jnp.abs(value))
    taken = ~bad | good
    factor = jnp.where(taken, jnp.where(good, 0.95, 1.0), 2.0).astype(dtype)
    state = HoagState(
      tree_where(taken, BilevelPoint(moved, near), BilevelPoint(x, y)),
      found.adjoint,
      lipschitz * factor,
      jnp.where(taken, state.tightening, state.tightening / 2),
      state.reference,
      state.count + 1,
    )
    missing = next_change(inner, outer, y, x, found.adjoint, data).astype(dtype)
    missing = jnp.where(unsolved, jnp.inf, missing)
    error = jnp.minimum(size + missing, jnp.finfo(dtype).max)
    info = HoagInfo(
      error, value, new, jnp.where(taken, 1 / lipschitz, 0), eps, steps + more, found.steps, taken,
      unsolved | later,
    )  # fmt: skip
    return state, info

  return Solver(init, step)
