"""Proximal gradient methods: ISTA and FISTA, fixed step or backtracking, adaptive restart."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.numerics import tree_where
from jaxopt_robust.solvers._backtracking import backtrack
from jaxopt_robust.solvers._common import (
  add_scaled,
  check_stepsize,
  displacement,
  hashable,
  inner_product,
  operator_of,
  rounding,
  scalar_dtype,
  smooth_part,
  step_at,
  value_of,
)
from jaxopt_robust.solvers.types import Solver
from jaxopt_robust.typing import Array, ArrayLike, Penalty, ProxFn, PyTree

__all__ = ["FistaState", "IstaState", "ProximalGradientInfo", "fista", "ista", "proximal_residual"]

# A step is accepted when the quadratic model bounds the objective up to rounding of its value...
_SLACK_EPSILONS = 10.0
# ...and may grow only while the model's quadratic term is well above that rounding: below it every
# step passes the test.
_GROWTH_EPSILONS = 1000.0


class IstaState(NamedTuple):
  """State of ISTA.

  Attributes:
    params: the iterate.
    stepsize: scalar, the step size to try next.
    count: int32, steps done.
  """

  params: PyTree
  stepsize: Array
  count: Array  # type: ignore[assignment]


class FistaState(NamedTuple):
  """State of FISTA.

  Attributes:
    params: the iterate.
    anchor: the extrapolated point, where the gradient is taken.
    t: scalar, the momentum parameter.
    stepsize: scalar, the last accepted step size.
    count: int32, steps done.
  """

  params: PyTree
  anchor: PyTree
  t: Array
  stepsize: Array
  count: Array  # type: ignore[assignment]


class ProximalGradientInfo(NamedTuple):
  """Diagnostics of a proximal gradient step.

  Attributes:
    error: ``||x_{k+1} - y_k|| / s``, the norm of the gradient mapping at the anchor ``y_k``, and at
      least the rounding of that formula, eps/2 (||y_k|| / s + ||grad f(y_k)||).
    value: the smooth part at ``y_k``.
    stepsize: the step size ``s`` that was used.
    stalled: bool, backtracking found no step that decreases the objective, or rounding hides every
      further step.
    aux: what ``fun`` returned besides the value at ``y_k`` (None without ``has_aux``).
  """

  error: Array
  value: Array
  stepsize: Array
  stalled: Array
  aux: Any = None


class _Step(NamedTuple):
  """A proximal gradient step: the point, the smooth part where it started, how it was found."""

  params: PyTree
  value: Array
  aux: PyTree
  stepsize: Array
  stalled: Array
  error: Array


class _Problem(NamedTuple):
  """The composite objective with everything that its parts take."""

  fun: Callable[..., Any]
  has_aux: bool
  prox: ProxFn
  hyper: PyTree
  data: tuple
  named: dict

  def value(self, params: PyTree) -> Array:
    return value_of(self.fun, self.has_aux)(params, *self.data, **self.named)

  def move(self, anchor: PyTree, grad: PyTree, s: Array) -> PyTree:
    return self.prox(add_scaled(anchor, -s, grad), self.hyper, s)


def _proximal_step(
  problem: _Problem, anchor: PyTree, stepsize: Array, settings: "_Settings"
) -> _Step:
  """One proximal gradient step from ``anchor``."""
  value, grad, aux = smooth_part(problem.fun, problem.has_aux, anchor, problem.data, problem.named)
  s, stalled = stepsize, jnp.zeros((), jnp.bool_)
  if settings.max_backtracks:
    s, stalled = _search(problem, anchor, value, grad, stepsize, settings)
  params = problem.move(anchor, grad, s)
  # eps/2 ||y|| / s also stands for the rounding of the gradient at y, of size eps/2 L ||y||.
  error = displacement(params, anchor, s, noise=rounding(grad))
  return _Step(params, value, aux, s, stalled, error)


def _search(
  problem: _Problem, anchor: PyTree, value: Array, grad: PyTree, stepsize: Array,
  settings: "_Settings",
) -> tuple[Array, Array]:  # fmt: skip
  """The first step size whose quadratic model bounds the objective, and whether there is none.

  It is a power of ``shrink``, locally constant in everything: no derivative.
  """
  fixed = jax.lax.stop_gradient(
    (anchor, grad, value, (problem.hyper, problem.data, problem.named), stepsize)
  )
  anchor, grad, value, (hyper, data, named), stepsize = fixed
  problem = problem._replace(hyper=hyper, data=data, named=named)
  slack = _SLACK_EPSILONS * jnp.finfo(value.dtype).eps * jnp.abs(value)

  def accepted(s: Array) -> Array:
    step = optax.tree.sub(problem.move(anchor, grad, s), anchor)
    model = inner_product(grad, step) + optax.tree.norm(step, squared=True) / (2 * s)
    return problem.value(optax.tree.add(anchor, step)) <= value + model + slack

  line = backtrack(
    accepted, stepsize, shrink=settings.shrink, max_trials=settings.max_backtracks + 1
  )
  return line.stepsize, ~line.found


class _Settings(NamedTuple):
  shrink: float
  max_backtracks: int
  growth: float


def _settings(
  fun: Any, prox: Any, stepsize: Any, init_stepsize: Any, shrink: Any, growth: Any, tries: Any
) -> tuple[Any, ProxFn, _Settings]:
  """Checks what ISTA and FISTA share; returns the first step size, the operator and the rest."""
  _arguments.check_callable("fun", fun)
  operator = operator_of("prox", prox)
  if stepsize is not None:
    check_stepsize("stepsize", stepsize)
    return stepsize, operator, _Settings(0.5, 0, 1.0)
  _checks.check_positive("init_stepsize", init_stepsize, scalar=True)
  _checks.check_interval("shrink", shrink, 0.0, 1.0, closed="neither", scalar=True)
  _checks.check_interval("growth", growth, 1.0, float("inf"), closed="left", scalar=True)
  tries = _checks.check_int("max_backtracks", tries, minimum=1)
  return init_stepsize, operator, _Settings(shrink, tries, growth)


@hashable
def ista(
  fun: Callable[..., Any],
  prox: ProxFn | Penalty,
  *,
  stepsize: ArrayLike | Callable[[Array], ArrayLike] | None = None,
  init_stepsize: ArrayLike = 1.0,
  shrink: float = 0.5,
  growth: float = 1.1,
  max_backtracks: int = 60,
  has_aux: bool = False,
) -> Solver:
  r"""Proximal gradient descent (ISTA, forward-backward splitting).

  Minimises f(x) + g(x; hyper) with f smooth, by

    x_{k+1} = prox(x_k - s grad f(x_k), hyper, s).

  The stopping quantity ``info.error`` is ||x_{k+1} - x_k||_2 / s, the norm of the gradient mapping
  at x_k, which is zero exactly at a solution (for non-convex f or g: at a stationary point, which
  status 0 does not tell from a minimiser).

  Args:
    fun: ``fun(params, *data) -> scalar``, the smooth part f, with the scaling that you give it.
    prox: ``prox(x, hyper, scaling)``, the proximal operator of g, or a ``Penalty`` that holds it.
    stepsize: > 0, at most 1/L with L the Lipschitz constant of grad f (below 2/L it still
      converges); may be traced. A function ``count -> stepsize`` is a schedule. None: backtracking.
    init_stepsize: > 0, first trial step of the backtracking.
    shrink: in (0, 1), factor of a rejected step.
    growth: >= 1, factor by which each iteration's first trial step exceeds the last accepted one.
    max_backtracks: >= 1, static; after so many rejected steps the solve is stalled (status 3).
    has_aux: static; whether ``fun`` returns a pair ``(scalar, aux)``: aux is ``info.last.aux``.

  Returns:
    ``Solver`` with states ``IstaState`` and infos ``ProximalGradientInfo``.

  Raises:
    TypeError: when ``fun`` or ``prox`` is not a function.
    ValueError: when a step size or factor is out of its range, or ``fun`` is not scalar.

  Note:
    For convex f the objective decreases at each step and its gap is at most
    L ||x_0 - x*||^2 / (2 k). Backtracking costs at least one more evaluation of ``fun`` a step; its
    step size is treated as a constant by derivatives, which is exact almost everywhere.

  Example:
    >>> solver = ista(lambda x, b: 0.5 * jnp.sum((x - b) ** 2), jr.prox.prox_lasso, stepsize=1.0)
    >>> x, info = jr.solvers.run_until(
    ...   solver, jnp.zeros(2), 1.0, jnp.array([3.0, 0.5]), tol=1e-6, max_steps=10)
    >>> x
    Array([2., 0.], dtype=float32)

  Reference:
    Beck and Teboulle, A fast iterative shrinkage-thresholding algorithm for linear inverse
    problems, 2009, section 3 (constant step and backtracking). The growth of the step is ours.
  """
  first, operator, settings = _settings(
    fun, prox, stepsize, init_stepsize, shrink, growth, max_backtracks
  )

  def init(params: PyTree, hyper: PyTree, *data: PyTree, **named: PyTree) -> IstaState:
    del hyper, data, named
    count = jnp.zeros((), jnp.int32)
    return IstaState(params, step_at(first, count, scalar_dtype(params)), count)

  def step(
    state: IstaState, hyper: PyTree, *data: PyTree, **named: PyTree
  ) -> tuple[IstaState, Any]:
    problem = _Problem(fun, has_aux, operator, hyper, data, named)
    found = _proximal_step(problem, state.params, state.stepsize, settings)
    s, count = found.stepsize, state.count + 1
    if callable(first):
      trial = step_at(first, count, s.dtype)
    else:
      noise = _GROWTH_EPSILONS * jnp.finfo(found.value.dtype).eps * jnp.abs(found.value)
      trial = jnp.where(0.5 * s * found.error**2 > noise, s * settings.growth, s)
    info = ProximalGradientInfo(found.error, found.value, s, found.stalled, found.aux)
    return IstaState(found.params, trial, count), info

  return Solver(init, step)


@hashable
def fista(
  fun: Callable[..., Any],
  prox: ProxFn | Penalty,
  *,
  stepsize: ArrayLike | Callable[[Array], ArrayLike] | None = None,
  restart: str | None = "gradient",
  init_stepsize: ArrayLike = 1.0,
  shrink: float = 0.5,
  max_backtracks: int = 60,
  monotone: bool | None = None,
  has_aux: bool = False,
) -> Solver:
  r"""Accelerated proximal gradient descent (FISTA), with adaptive restart.

  Minimises f(x) + g(x; hyper) with f smooth and both convex, by

    x_{k+1} = prox(y_k - s_k grad f(y_k), hyper, s_k)
    t_{k+1} = (1 + sqrt(1 + 4 t_k^2)) / 2
    y_{k+1} = x_{k+1} + ((t_k - 1) / t_{k+1}) (x_{k+1} - x_k),        t_0 = 1, y_0 = x_0.

  The stopping quantity ``info.error`` is ||x_{k+1} - y_k||_2 / s, the norm of the gradient mapping
  at y_k, zero exactly at a solution.

  For non-convex g extrapolation may lead away from a good stationary point. The monotone variant
  takes a second step v = prox(x_k - s grad f(x_k), hyper, s) from the iterate itself, keeps the one
  of x_{k+1} and v with the lower f + g, and stops by ||v - x_k||_2 / s: it never increases the
  objective, and status 0 says that its result is a stationary point of f + g (a minimiser where
  both are convex).

  Args:
    fun: ``fun(params, *data) -> scalar``, the smooth part f, with the scaling that you give it.
    prox: ``prox(x, hyper, scaling)``, the proximal operator of g, or a ``Penalty`` that holds it.
    stepsize: > 0, at most 1/L with L the Lipschitz constant of grad f; may be traced. A function
      ``count -> stepsize`` is a schedule. None: backtracking.
    restart: ``"gradient"`` sets t back to 1 where <y_k - x_{k+1}, x_{k+1} - x_k> > 0, which keeps
      the linear rate of strongly convex problems without knowing their constant; None never does.
    init_stepsize: > 0, first trial step of the backtracking; steps never grow (the rate needs
      that), so choose it too large rather than too small.
    shrink: in (0, 1), factor of a rejected step.
    max_backtracks: >= 1, static; after so many rejected steps the solve is stalled (status 3).
    monotone: static; whether to use the monotone variant, which needs a ``Penalty`` and twice the
      gradients. None: where ``prox`` is a ``Penalty`` that is not convex.
    has_aux: static; whether ``fun`` returns a pair ``(scalar, aux)``: aux is ``info.last.aux``.

  Returns:
    ``Solver`` with states ``FistaState`` and infos ``ProximalGradientInfo``.

  Raises:
    TypeError: when ``fun`` or ``prox`` is not a function.
    ValueError: when ``restart`` is unknown, ``monotone`` has no penalty's value, a step size or
      factor is out of its range, or ``fun`` is not scalar.

  Note:
    The objective gap is at most 2 L ||x_0 - x*||^2 / (k + 1)^2; it is not monotone. Of a bare
    operator nothing tells that its g is not convex: give the ``Penalty``, or use ``ista``. With a
    fixed step that is too long nothing is monotone. Backtracking's step size is treated as a
    constant by derivatives.

  Example:
    >>> solver = fista(lambda x, b: 0.5 * jnp.sum((x - b) ** 2), jr.prox.prox_lasso)
    >>> x, info = jr.solvers.run_until(
    ...   solver, jnp.zeros(2), 1.0, jnp.array([3.0, 0.5]), tol=1e-6, max_steps=100)
    >>> x, int(info.status)
    (Array([2., 0.], dtype=float32), 0)

  Reference:
    Beck and Teboulle, A fast iterative shrinkage-thresholding algorithm for linear inverse
    problems, 2009, section 4; O'Donoghue and Candes, Adaptive restart for accelerated gradient
    schemes, 2015, equation 13 (gradient scheme, with the gradient mapping in place of the
    gradient); Li and Lin, Accelerated proximal gradient methods for nonconvex programming, 2015,
    algorithm 1 (monotone variant; their extrapolation has a third term).
  """
  first, operator, settings = _settings(
    fun, prox, stepsize, init_stepsize, shrink, 1.0, max_backtracks
  )
  _arguments.check_option("restart", restart, ("gradient", None))
  if monotone is None:
    monotone = isinstance(prox, Penalty) and not prox.convex
  value_of_g = prox.value if isinstance(prox, Penalty) else None
  if monotone and value_of_g is None:
    raise ValueError("monotone needs the value of g: give a Penalty(value, prox) as prox.")

  def init(params: PyTree, hyper: PyTree, *data: PyTree, **named: PyTree) -> FistaState:
    del hyper, data, named
    dtype, count = scalar_dtype(params), jnp.zeros((), jnp.int32)
    return FistaState(params, params, jnp.ones((), dtype), step_at(first, count, dtype), count)

  def best_of(problem: _Problem, state: FistaState, found: _Step) -> _Step:
    """The better of the accelerated step and a plain one, with the error of the plain one."""
    assert value_of_g is not None
    plain = _proximal_step(problem, state.params, found.stepsize, settings)
    objective = lambda x: problem.value(x) + value_of_g(x, problem.hyper)
    is_better = objective(found.params) <= objective(plain.params)
    params = tree_where(is_better, found.params, plain.params)
    return plain._replace(params=params, stalled=plain.stalled | found.stalled)

  def step(
    state: FistaState, hyper: PyTree, *data: PyTree, **named: PyTree
  ) -> tuple[FistaState, Any]:
    problem = _Problem(fun, has_aux, operator, hyper, data, named)
    found = _proximal_step(problem, state.anchor, state.stepsize, settings)
    if monotone:
      found = best_of(problem, state, found)
    params = found.params
    s, count = found.stepsize, state.count + 1
    moved = optax.tree.sub(params, state.anchor)
    gain = optax.tree.sub(params, state.params)
    t_next = 0.5 * (1 + jnp.sqrt(1 + 4 * state.t**2))
    momentum = (state.t - 1) / t_next
    if restart == "gradient":
      again = jax.lax.stop_gradient(inner_product(moved, gain) < 0)
      momentum = jnp.where(again, jnp.zeros_like(momentum), momentum)
      t_next = jnp.where(again, jnp.ones_like(t_next), t_next)
    anchor = add_scaled(params, momentum, gain)
    # The momentum counts on, but a point that no step moves stays where it is.
    still = [jnp.all(leaf == 0) for leaf in jax.tree.leaves((moved, gain))]
    stalled = found.stalled | (functools.reduce(jnp.logical_and, still) & (not callable(first)))
    following = step_at(first, count, s.dtype) if callable(first) else s
    info = ProximalGradientInfo(found.error, found.value, s, stalled, found.aux)
    return FistaState(params, anchor, t_next, following, count), info

  return Solver(init, step)


def proximal_residual(
  fun: Callable[..., Any],
  prox: ProxFn | Penalty,
  *,
  stepsize: ArrayLike = 1.0,
  has_aux: bool = False,
) -> Callable[..., PyTree]:
  r"""The optimality condition of a composite problem, as a residual for ``implicit``.

  F(x, hyper, data) = x - prox(x - s grad f(x), hyper, s), which is zero exactly where x minimises
  f(x) + g(x; hyper) (for convex f and g; else of stationary points), for any s > 0.

  Args:
    fun: ``fun(params, *data) -> scalar``, the smooth part f.
    prox: ``prox(x, hyper, scaling)``, the proximal operator of g, or a ``Penalty`` that holds it.
    stepsize: > 0; the solution does not depend on it, the conditioning of the linear system does:
      take the step size of the solve. May be traced.
    has_aux: whether ``fun`` returns a pair ``(scalar, aux)``.

  Returns:
    ``residual(params, hyper, *data, **named) -> params_like``.

  Raises:
    TypeError: when ``fun`` or ``prox`` is not a function.
    ValueError: when ``stepsize`` is not positive.

  Example:
    >>> residual = proximal_residual(lambda x, b: 0.5 * jnp.sum((x - b) ** 2), jr.prox.prox_lasso)
    >>> residual(jnp.array([2.0, 0.0]), 1.0, jnp.array([3.0, 0.5]))
    Array([0., 0.], dtype=float32)

  Reference:
    Parikh and Boyd, Proximal algorithms, 2014, section 4.2 (fixed points of forward-backward).
  """
  _arguments.check_callable("fun", fun)
  operator = operator_of("prox", prox)
  _checks.check_positive("stepsize", stepsize, scalar=True)
  value = value_of(fun, has_aux)

  def residual(params: PyTree, hyper: PyTree, *data: PyTree, **named: PyTree) -> PyTree:
    s = jnp.asarray(stepsize, scalar_dtype(params))
    grad = jax.tree.map(jnp.conj, jax.grad(value)(params, *data, **named))
    return optax.tree.sub(params, operator(add_scaled(params, -s, grad), hyper, s))

  return residual
