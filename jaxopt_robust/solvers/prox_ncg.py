"""Proximal nonlinear conjugate gradients: three-term directions between proximal steps."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.numerics import tree_where
from jaxopt_robust.solvers._backtracking import backtrack_with
from jaxopt_robust.solvers._common import (
  add_scaled,
  hashable,
  inner_product,
  norm,
  operator_of,
  rounding,
  scalar_dtype,
  scale,
  smooth_part,
  stop_gradient,
  value_of,
)
from jaxopt_robust.solvers.types import Solver
from jaxopt_robust.typing import Array, ArrayLike, Penalty, PyTree

__all__ = ["ProxNcgInfo", "ProxNcgState", "prox_ncg"]

_SHRINK = 0.5
# The sufficient decrease along the direction, as a share of t ||r||^2.
_DECREASE = 1e-4
# Directions are orthogonal to the change of the residual, up to rounding, below this cosine.
_ORTHOGONAL = 1e-12
# A direction so much longer than the residual has lost what it knew: the method restarts.
_LONGEST = 1e3
# Differences of objective values below so many roundings decide nothing; see ``ista``.
_SLACK_EPSILONS = 10.0
_GROWTH_EPSILONS = 1000.0


class ProxNcgState(NamedTuple):
  """State of proximal nonlinear conjugate gradients.

  Attributes:
    params: the iterate.
    value: smooth part at the iterate.
    grad: gradient of the smooth part at the iterate.
    residual: forward-backward residual of the previous iterate; 0 at the start.
    direction: the last move over its step size; 0 at the start.
    stepsize: scalar, the step size to try next.
    count: int32, steps done.
  """

  params: PyTree
  value: Array
  grad: PyTree
  residual: PyTree
  direction: PyTree
  stepsize: Array
  count: Array  # type: ignore[assignment]


class ProxNcgInfo(NamedTuple):
  """Diagnostics of a step.

  Attributes:
    error: norm of ``(v - x_{k+1}) / s + grad f(x_{k+1}) - grad f(v)``, an element of the
      sub-differential of f + g at ``x_{k+1}`` where ``x_{k+1} = prox(v - s grad f(v), hyper, s)``,
      and at least the rounding of that formula.
    value: the objective f + g at ``x_{k+1}``.
    stepsize: the step size ``s`` of the proximal steps.
    evaluations: int32, values or gradients of the smooth part that the step took.
    conjugate: bool, the step along the direction was taken, not the plain proximal one.
    stalled: bool, no proximal step decreases the objective, or the step left the iterate as it was.
    aux: what ``fun`` returned besides the value at ``x_{k+1}`` (None without ``has_aux``).
  """

  error: Array
  value: Array
  stepsize: Array
  evaluations: Array
  conjugate: Array
  stalled: Array
  aux: Any = None


def three_term_direction(residual: PyTree, previous: PyTree, direction: PyTree) -> PyTree:
  """-r + beta d - theta y with y = r - previous, beta = <r, y> / <d, y>, theta = <r, d> / <d, y>.

  Its inner product with r is -||r||^2 whatever d is. It is -r where d and y are orthogonal, or the
  sum is 1000 times as long as r. Computed with d and y of length 1: free of units.
  """
  change = optax.tree.sub(residual, previous)
  lengths = norm(direction), norm(change)
  unit_d, unit_y = (
    scale(1 / jnp.where(length > 0, length, 1), tree)
    for length, tree in zip(lengths, (direction, change), strict=True)
  )
  cosine = inner_product(unit_d, unit_y)
  usable = jnp.abs(cosine) > _ORTHOGONAL
  divisor = jnp.where(usable, cosine, 1)
  beta = jnp.where(usable, inner_product(residual, unit_y) / divisor, 0)
  theta = jnp.where(usable, inner_product(residual, unit_d) / divisor, 0)
  steepest = scale(-1.0, residual)
  new = add_scaled(add_scaled(steepest, beta, unit_d), -theta, unit_y)
  return tree_where(norm(new) <= _LONGEST * norm(residual), new, steepest)


@hashable
def prox_ncg(
  fun: Callable[..., Any],
  penalty: Penalty,
  *,
  init_stepsize: ArrayLike = 1.0,
  growth: float = 1.2,
  max_backtracks: int = 60,
  max_line_trials: int = 13,
  has_aux: bool = False,
) -> Solver:
  r"""Proximal nonlinear conjugate gradients, never worse than a proximal gradient step.

  Minimises f(x) + g(x; hyper) with f smooth. With the proximal step z_k = prox(x_k - s grad f(x_k),
  hyper, s), s halved until the quadratic model of f at x_k bounds f(z_k), the residual
  r_k = (x_k - z_k) / s takes the place of the gradient in a three-term direction,

    d_k = -r_k + (<r_k, y> / <d, y>) d - (<r_k, d> / <d, y>) y,   y = r_k - r_{k-1},
    d = (x_k - x_{k-1}) / s_{k-1},

  for which <d_k, r_k> = -||r_k||^2. From v = x_k + t d_k, with t = 2 s halved until F = f + g falls
  by 1e-4 t ||r_k||^2, a second proximal step brings back exact zeros,

    x_{k+1} = prox(v - s grad f(v), hyper, s) where its F is below that of z_k, else z_k,

  and s grows by ``growth``. The stopping quantity ``info.error`` is the norm of an element of the
  sub-differential of F at x_{k+1}: see ``ProxNcgInfo``.

  Args:
    fun: ``fun(params, *data) -> scalar``, the smooth part f, with the scaling that you give it.
    penalty: ``Penalty(value, prox)``: the searches need the value of g, which may be non-convex.
    init_stepsize: > 0, first trial step; may be traced. Rather too large: steps below about
      1e-4 / L, whose decrease is below the rounding of f in float32, do not grow.
    growth: >= 1, factor by which each iteration's first trial step exceeds the last accepted one.
    max_backtracks: >= 1, static; after so many rejected proximal steps the solve is stalled, at the
      last trial: with few of them it may be higher than the point before.
    max_line_trials: >= 1, static; trials along the direction (the last one is kept: the second
      proximal step starts there).
    has_aux: static; whether ``fun`` returns a pair ``(scalar, aux)``: aux is ``info.last.aux``.

  Returns:
    ``Solver`` with states ``ProxNcgState`` and infos ``ProxNcgInfo``.

  Raises:
    TypeError: when ``fun`` is not a function or ``penalty`` no ``Penalty``.
    ValueError: when a number is out of its range, or ``fun`` is not scalar.

  Note:
    F never increases, beyond its rounding, where a search ends with a step. A step takes at least
    five values or gradients of ``fun`` (``info.evaluations``) where FISTA with a known step takes
    one: it pays where few steps matter or no step size is known. Step sizes are constants for
    derivatives.

  Example:
    >>> solver = prox_ncg(lambda x, b: 0.5 * jnp.sum((x - b) ** 2), jr.prox.lasso)
    >>> x, info = jr.solvers.run_until(
    ...   solver, jnp.zeros(2), 1.0, jnp.array([3.0, 0.5]), tol=1e-6, max_steps=10)
    >>> x, int(info.status)
    (Array([2., 0.], dtype=float32), 0)

  Reference:
    Yang, Contributions to Robust and Efficient Methods for Analysis of High Dimensional Data
    (thesis, McGill University; the abstract names the method, its constants are ours); Zhang, Zhou
    and Li, Some descent three-term conjugate gradient methods and their global convergence, 2007
    (the direction, with gradients).
  """
  _arguments.check_callable("fun", fun)
  _arguments.check_penalty("penalty", penalty)
  _checks.check_positive("init_stepsize", init_stepsize, scalar=True)
  _checks.check_interval("growth", growth, 1.0, float("inf"), closed="left", scalar=True)
  max_backtracks = _checks.check_int("max_backtracks", max_backtracks, minimum=1)
  max_line_trials = _checks.check_int("max_line_trials", max_line_trials, minimum=1)
  operator = operator_of("prox", penalty.prox)
  smooth = value_of(fun, has_aux)

  def init(params: PyTree, hyper: PyTree, *data: PyTree, **named: PyTree) -> ProxNcgState:
    del hyper
    value, grad, _ = smooth_part(fun, has_aux, params, data, named)
    first = jnp.asarray(init_stepsize, scalar_dtype(params))
    none = jax.tree.map(jnp.zeros_like, params)
    return ProxNcgState(params, value, grad, none, none, first, jnp.zeros((), jnp.int32))

  def step(
    state: ProxNcgState, hyper: PyTree, *data: PyTree, **named: PyTree
  ) -> tuple[ProxNcgState, ProxNcgInfo]:
    x, grad = state.params, state.grad
    # The searches choose step sizes, which are locally constant: nothing in them has a derivative.
    still_x, still_grad, start, fixed = stop_gradient((x, grad, state.value, (hyper, data, named)))
    weight, items, words = fixed
    eps = jnp.finfo(start.dtype).eps

    def smooth_at(point: PyTree) -> Array:
      return smooth(point, *items, **words)

    def bounded(s: Array, _: Array) -> tuple[Array, Array]:
      z = operator(add_scaled(still_x, -s, still_grad), weight, s)
      moved = optax.tree.sub(z, still_x)
      model = inner_product(still_grad, moved) + optax.tree.norm(moved, squared=True) / (2 * s)
      value = smooth_at(z)
      return value <= start + model + _SLACK_EPSILONS * eps * jnp.abs(start), value

    plain = backtrack_with(
      bounded, stop_gradient(state.stepsize), start, shrink=_SHRINK, max_trials=max_backtracks + 1
    )
    s = plain.stepsize
    z = operator(add_scaled(x, -s, grad), hyper, s)
    residual = scale(1 / s, optax.tree.sub(x, z))
    direction = three_term_direction(residual, state.residual, state.direction)

    size = norm(residual)
    objective = start + penalty.value(still_x, weight)
    slack = _SLACK_EPSILONS * eps * jnp.abs(objective)
    still_direction = stop_gradient(direction)

    def lower(t: Array, _: None) -> tuple[Array, None]:
      point = add_scaled(still_x, t, still_direction)
      value = smooth_at(point) + penalty.value(point, weight)
      return value <= objective - _DECREASE * t * size**2 + slack, None

    line = backtrack_with(lower, 2 * s, None, shrink=_SHRINK, max_trials=max_line_trials)
    far = add_scaled(x, line.stepsize, direction)
    _, far_grad, _ = smooth_part(fun, has_aux, far, data, named)
    second = operator(add_scaled(far, -s, far_grad), hyper, s)
    still_z, still_second = stop_gradient((z, second))
    conjugate = smooth_at(still_second) + penalty.value(still_second, weight) < (
      plain.result + penalty.value(still_z, weight)
    )
    params = tree_where(conjugate, second, z)
    base, base_grad = tree_where(conjugate, (far, far_grad), (x, grad))

    value, new_grad, aux = smooth_part(fun, has_aux, params, data, named)
    backward = scale(1 / s, optax.tree.sub(base, params))
    sub_gradient = optax.tree.add(backward, optax.tree.sub(new_grad, base_grad))
    floor = rounding(base) / s + rounding(new_grad) + rounding(base_grad)
    moved = optax.tree.sub(params, x)
    at_rest = norm(moved) == 0
    last = tree_where(at_rest, scale(-1.0, residual), scale(1 / s, moved))
    # As in ``ista``: below rounding every step passes the test, and none should grow.
    grows = 0.5 * s * size**2 > _GROWTH_EPSILONS * eps * jnp.abs(start)
    trial = jnp.where(grows, s * jnp.asarray(growth, s.dtype), s)
    new = ProxNcgState(params, value, new_grad, residual, last, trial, state.count + 1)
    info = ProxNcgInfo(
      jnp.maximum(norm(sub_gradient), floor),
      value + penalty.value(params, hyper),
      s,
      plain.trials + line.trials + 3,
      conjugate,
      ~plain.found | at_rest,
      aux,
    )
    return new, info

  return Solver(init, step)
