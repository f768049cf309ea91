"""Newton's method with any positive semidefinite model of the curvature (gradient-normalized)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.numerics import upcast
from jaxopt_robust.solvers._common import hashable, value_of
from jaxopt_robust.solvers._gns_search import Point, Rules, check_rules, search
from jaxopt_robust.solvers._regularized import (
  Metric,
  check_metric,
  dual_norm,
  make_metric,
  regularized_steps,
)
from jaxopt_robust.solvers.types import Solver
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = ["GnsInfo", "GnsState", "gns_newton"]


class GnsState(NamedTuple):
  """State of the gradient-normalized Newton method.

  Attributes:
    params: the iterate.
    value: f at it.
    grad: grad f at it, like ``params``.
    gamma: radius from which the next search starts.
    metric: B and its root.
    count: int32, steps done.
    num_solves: int32, linear solves; each was followed by a value with its gradient.
    num_products: int32, products with H (conjugate gradients only).
  """

  params: PyTree
  value: Array
  grad: PyTree
  gamma: Array
  metric: Metric
  count: Array  # type: ignore[assignment]
  num_solves: Array
  num_products: Array


class GnsInfo(NamedTuple):
  """Diagnostics of a step.

  Attributes:
    error: ||grad f(x_{k+1})||_*, in the dual norm of the metric.
    value: f(x_{k+1}).
    stalled: bool, no step was accepted down to steps that rounding swallows.
    found: bool, whether a step was accepted; x is kept otherwise.
    gamma: radius of the last trial, so that lambda = ||grad f(x_k)||_* / gamma.
    length: ||d|| of the last trial in the metric; at most gamma where H >= 0.
    trials: int32, linear solves of this step.
  """

  error: Array
  value: Array
  stalled: Array
  found: Array
  gamma: Array
  length: Array
  trials: Array


@hashable
def gns_newton(
  fun: Callable[..., Array],
  curvature: Callable[..., Any],
  *,
  metric: ArrayLike | Callable[..., ArrayLike] | None = None,
  gamma: ArrayLike = 1.0,
  growth: ArrayLike = 2.0,
  shrink: ArrayLike = 0.5,
  decrease: ArrayLike = 0.125,
  min_gamma: ArrayLike = 1e-9,
  max_trials: int = 40,
  cg_tol: ArrayLike = 1e-4,
  cg_max_steps: int | None = None,
) -> Solver:
  r"""Gradient-normalized Newton: minimises a smooth f with any model H >= 0 of its curvature.

  With the norms ||h|| = <B h, h>^{1/2} and ||s||_* = <s, B^{-1} s>^{1/2} of a metric B, a step is

    x_{k+1} = x_k - (H(x_k) + lambda B)^{-1} grad f(x_k),   lambda = ||grad f(x_k)||_* / gamma,

  with the first gamma of gamma_k, shrink gamma_k, shrink^2 gamma_k, ... that has

    f(x_k) - f(x_{k+1}) >= decrease ||grad f(x_{k+1})||_*^2 / lambda;

  then gamma_{k+1} = max(growth gamma, min_gamma). No constant of smoothness has to be known: gamma
  is a radius, ||x_{k+1} - x_k|| <= gamma, that the search finds. With H = grad^2 f it is Newton's
  method near a solution, with H = 0 gradient descent with normalised steps.

  Args:
    fun: ``fun(params, *data) -> scalar``, f.
    curvature: ``curvature(params, *data)``, H, one of three forms, over the parameters in the order
      of ``jax.flatten_util.ravel_pytree``: float[d, d] (solved by Cholesky), ``LowRankCurvature``
      (by Woodbury's identity), a function v -> H v on trees like ``params`` (by conjugate
      gradients). ``exact_curvature``, ``gauss_newton_curvature``, ``power_norm_curvature``,
      ``power_norm_fisher``, ``log_sum_exp_curvature``, ``empirical_fisher`` and
      ``zero_curvature`` make such functions.
    metric: B, positive definite: float[d, d], its diagonal float[d], a function ``metric(*data)``
      to one of these, or None for the identity. Factorised once, by ``init``.
    gamma: gamma_0 > 0, in the units of x; may be traced, as all other numbers. Rather too large:
      where a step of this length changes f by less than its rounding the run ends in status 3.
    growth: >= 1.
    shrink: in (0, 1).
    decrease: in (0, 1/2).
    min_gamma: >= 0, in the units of x.
    max_trials: >= 1, static: solves that a step may take. A step whose trials all fail keeps x, and
      the next one goes on with smaller gamma.
    cg_tol: > 0, residual of conjugate gradients relative to the gradient; each solve starts from
      the step of the larger gamma before it.
    cg_max_steps: >= 1, static; 10 d by default.

  Returns:
    ``Solver`` with states ``GnsState`` and infos ``GnsInfo``; hyper is None. The stopping quantity
    is ||grad f(x_{k+1})||_*.

  Raises:
    TypeError: ``fun`` or ``curvature`` is not a function, or a count no static integer.
    ValueError: a number is out of its range, or ``metric`` or ``curvature(params)`` has another
      shape than the parameters ask for.

  Note:
    An H that is not positive semidefinite is no error: where H + lambda B has no Cholesky
    factorisation the trial is rejected. The test compares values of f, whose difference near a
    solution is below their rounding: in float32 gradients of less than about 1e-4 of the first one
    may be out of reach, and the run ends in status 3 (``STALLED``) there; take float64. Values are
    kept in the state: the data must stay the same during a run.

  Example:
    >>> f = lambda w: (1 - w[0]) ** 2 + 100 * (w[1] - w[0] ** 2) ** 2
    >>> residual = lambda w: jnp.sqrt(2.0) * jnp.array([1 - w[0], 10 * (w[1] - w[0] ** 2)])
    >>> solver = gns_newton(f, jr.solvers.gauss_newton_curvature(residual))
    >>> w, info = jr.solvers.run_until(
    ...   solver, jnp.array([-2.0, 2.0]), None, tol=1e-3, max_steps=100)
    >>> w.round(2), int(info.status)
    (Array([1., 1.], dtype=float32), 0)

  Reference:
    Semenov, Jaggi and Doikov, Gradient-normalized smoothness for optimization with approximate
    Hessians, 2025, algorithm 1. Their public code keeps the last trial where none is accepted, and
    adds 1e-8 to gamma in lambda.
  """
  _arguments.check_callable("fun", fun)
  _arguments.check_callable("curvature", curvature)
  check_metric(metric)
  rules = check_rules(
    Rules(gamma, growth, shrink, decrease, min_gamma, max_trials, cg_tol, cg_max_steps)
  )
  scalar = value_of(fun, False)

  def evaluator(params: PyTree, data: tuple, named: dict) -> tuple[Array, Callable, Callable]:
    flat, unravel = ravel_pytree(_checks.check_float_tree("params", params))
    dtype = upcast(flat).dtype

    def evaluate(x: Array) -> tuple[Array, Array]:
      value, grad = jax.value_and_grad(lambda x: scalar(unravel(x), *data, **named))(x)
      return value.astype(dtype), grad.astype(dtype)

    return flat, unravel, evaluate

  def init(params: PyTree, hyper: PyTree, *data: PyTree, **named: PyTree) -> GnsState:
    del hyper
    flat, unravel, evaluate = evaluator(params, data, named)
    value, grad = evaluate(flat)
    none = jnp.zeros((), jnp.int32)
    return GnsState(
      params, value, unravel(grad.astype(flat.dtype)), jnp.asarray(gamma, grad.dtype),
      make_metric(metric, flat.size, grad.dtype, data, named), none, none, none,
    )  # fmt: skip

  def step(
    state: GnsState, hyper: PyTree, *data: PyTree, **named: PyTree
  ) -> tuple[GnsState, GnsInfo]:
    del hyper
    flat, unravel, evaluate = evaluator(state.params, data, named)
    grad = ravel_pytree(state.grad)[0].astype(state.value.dtype)
    steps = regularized_steps(
      curvature(state.params, *data, **named), state.metric, grad,
      lambda v: unravel(v.astype(flat.dtype)), cg_tol=cg_tol, cg_max_steps=rules.cg_max_steps,
    )  # fmt: skip
    here = Point(flat, state.value, grad, dual_norm(state.metric, grad))
    end = search(evaluate, steps, state.metric, here, state.gamma, rules)
    new = GnsState(
      unravel(end.point.flat), end.point.value, unravel(end.point.grad.astype(flat.dtype)),
      end.gamma, state.metric, state.count + 1, state.num_solves + end.trials,
      state.num_products + end.products,
    )  # fmt: skip
    info = GnsInfo(
      end.point.size, end.point.value, end.stalled, end.found, end.tried, end.length, end.trials
    )
    return new, info

  return Solver(init, step)
