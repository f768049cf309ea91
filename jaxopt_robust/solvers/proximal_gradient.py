"""Proximal gradient methods: ISTA and FISTA, fixed step or backtracking, adaptive restart."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import _checks
from jaxopt_robust.solvers.types import Solver
from jaxopt_robust.typing import Array, ArrayLike, ProxFn, PyTree

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
    error: ``||x_{k+1} - y_k|| / s``, the norm of the gradient mapping at the anchor ``y_k``.
    value: the smooth part at ``y_k``.
    stepsize: the step size ``s`` that was used.
    stalled: bool, backtracking found no step that decreases the objective.
  """

  error: Array
  value: Array
  stepsize: Array
  stalled: Array


def _scalar_dtype(params: PyTree) -> jnp.dtype:
  return jnp.result_type(*jax.tree.leaves(params))


class _Line(NamedTuple):
  stepsize: Array
  tries: Array
  accepted: Array


def _proximal_step(
  fun: Callable[..., Array],
  prox: ProxFn,
  anchor: PyTree,
  stepsize: Array,
  hyper: PyTree,
  data: tuple,
  *,
  shrink: float,
  max_backtracks: int,
) -> tuple[PyTree, Array, Array, Array]:
  """One proximal gradient step from ``anchor``; returns the point, value, step size and stalled."""
  value, grad = jax.value_and_grad(fun)(anchor, *data)
  if jnp.shape(value) != ():
    raise ValueError(f"fun must return a scalar; got shape {jnp.shape(value)}.")

  def move(anchor: PyTree, grad: PyTree, hyper: PyTree, s: Array) -> PyTree:
    target = jax.tree.map(lambda y, g: y - s.astype(y.dtype) * g, anchor, grad)
    return prox(target, hyper, s)

  if max_backtracks == 0:
    return move(anchor, grad, hyper, stepsize), value, stepsize, jnp.zeros((), jnp.bool_)

  # The accepted step is a power of ``shrink``, locally constant in everything: no derivative.
  fixed = jax.lax.stop_gradient((anchor, grad, value, data, hyper, stepsize))
  anchor_, grad_, value_, data_, hyper_, stepsize_ = fixed
  slack = _SLACK_EPSILONS * jnp.finfo(value.dtype).eps * jnp.abs(value_)

  def accepted(s: Array) -> Array:
    step = optax.tree.sub(move(anchor_, grad_, hyper_, s), anchor_)
    model = optax.tree.vdot(grad_, step) + optax.tree.norm(step, squared=True) / (2 * s)
    moved = jax.tree.map(jnp.add, anchor_, step)
    return fun(moved, *data_) <= value_ + model + slack

  def shorten(line: _Line) -> _Line:
    # The first visit tests the step as given, later ones a shorter one.
    s = jnp.where(line.tries == 0, line.stepsize, line.stepsize * shrink)
    return _Line(s, line.tries + 1, accepted(s))

  line = jax.lax.while_loop(
    lambda c: ~c.accepted & (c.tries <= max_backtracks),
    shorten,
    _Line(stepsize_, jnp.zeros((), jnp.int32), jnp.zeros((), jnp.bool_)),
  )
  return move(anchor, grad, hyper, line.stepsize), value, line.stepsize, ~line.accepted


class _Settings(NamedTuple):
  shrink: float
  max_backtracks: int
  growth: float


def _settings(
  fun: Any, prox: Any, stepsize: Any, init_stepsize: Any, shrink: Any, growth: Any, tries: Any
) -> tuple[ArrayLike, _Settings]:
  """Checks the arguments that ISTA and FISTA share; returns the first step size and the rest."""
  _checks.check_callable("fun", fun)
  _checks.check_callable("prox", prox)
  if stepsize is not None:
    _checks.check_positive("stepsize", stepsize)
    return stepsize, _Settings(0.5, 0, 1.0)
  _checks.check_positive("init_stepsize", init_stepsize)
  _checks.check_interval("shrink", shrink, 0.0, 1.0, closed="neither")
  _checks.check_interval("growth", growth, 1.0, float("inf"), closed="left")
  return init_stepsize, _Settings(
    shrink, _checks.check_int("max_backtracks", tries, minimum=1), growth
  )


def ista(
  fun: Callable[..., Array],
  prox: ProxFn,
  *,
  stepsize: ArrayLike | None = None,
  init_stepsize: ArrayLike = 1.0,
  shrink: float = 0.5,
  growth: float = 1.1,
  max_backtracks: int = 60,
) -> Solver:
  r"""Proximal gradient descent (ISTA, forward-backward splitting).

  Minimises f(x) + g(x; hyper) with f smooth, by

    x_{k+1} = prox(x_k - s grad f(x_k), hyper, s).

  The stopping quantity ``info.error`` is ||x_{k+1} - x_k||_2 / s, the norm of the gradient mapping
  at x_k, which is zero exactly at a solution.

  Args:
    fun: ``fun(params, *data) -> scalar``, the smooth part f, with the scaling that you give it.
    prox: ``prox(x, hyper, scaling)``, the proximal operator of g.
    stepsize: > 0, at most 1/L with L the Lipschitz constant of grad f (below 2/L it still
      converges); may be traced. None: backtracking.
    init_stepsize: > 0, first trial step of the backtracking.
    shrink: in (0, 1), factor of a rejected step.
    growth: >= 1, factor by which each iteration's first trial step exceeds the last accepted one.
    max_backtracks: >= 1, static; after so many rejected steps the solve is stalled (status 3).

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
  first, settings = _settings(fun, prox, stepsize, init_stepsize, shrink, growth, max_backtracks)

  def init(params: PyTree, hyper: PyTree, *data: PyTree) -> IstaState:
    del hyper, data
    return IstaState(params, jnp.asarray(first, _scalar_dtype(params)), jnp.zeros((), jnp.int32))

  def step(state: IstaState, hyper: PyTree, *data: PyTree) -> tuple[IstaState, Any]:
    params, value, s, stalled = _proximal_step(
      fun, prox, state.params, state.stepsize, hyper, data,
      shrink=settings.shrink, max_backtracks=settings.max_backtracks,
    )  # fmt: skip
    error = jax.lax.stop_gradient(optax.tree.norm(optax.tree.sub(params, state.params)) / s)
    rounding = _GROWTH_EPSILONS * jnp.finfo(value.dtype).eps * jnp.abs(value)
    trial = jnp.where(0.5 * s * error**2 > rounding, s * settings.growth, s)
    return (
      IstaState(params, trial, state.count + 1),
      ProximalGradientInfo(error, value, s, stalled),
    )

  return Solver(init, step)


def fista(
  fun: Callable[..., Array],
  prox: ProxFn,
  *,
  stepsize: ArrayLike | None = None,
  restart: str | None = "gradient",
  init_stepsize: ArrayLike = 1.0,
  shrink: float = 0.5,
  max_backtracks: int = 60,
) -> Solver:
  r"""Accelerated proximal gradient descent (FISTA), with adaptive restart.

  Minimises f(x) + g(x; hyper) with f smooth and both convex, by

    x_{k+1} = prox(y_k - s_k grad f(y_k), hyper, s_k)
    t_{k+1} = (1 + sqrt(1 + 4 t_k^2)) / 2
    y_{k+1} = x_{k+1} + ((t_k - 1) / t_{k+1}) (x_{k+1} - x_k),        t_0 = 1, y_0 = x_0.

  The stopping quantity ``info.error`` is ||x_{k+1} - y_k||_2 / s, the norm of the gradient mapping
  at y_k, zero exactly at a solution.

  Args:
    fun: ``fun(params, *data) -> scalar``, the smooth part f, with the scaling that you give it.
    prox: ``prox(x, hyper, scaling)``, the proximal operator of g.
    stepsize: > 0, at most 1/L with L the Lipschitz constant of grad f; may be traced. None:
      backtracking.
    restart: ``"gradient"`` sets t back to 1 where <y_k - x_{k+1}, x_{k+1} - x_k> > 0, which keeps
      the linear rate of strongly convex problems without knowing their constant; None never does.
    init_stepsize: > 0, first trial step of the backtracking; steps never grow (the rate needs
      that), so choose it too large rather than too small.
    shrink: in (0, 1), factor of a rejected step.
    max_backtracks: >= 1, static; after so many rejected steps the solve is stalled (status 3).

  Returns:
    ``Solver`` with states ``FistaState`` and infos ``ProximalGradientInfo``.

  Raises:
    TypeError: when ``fun`` or ``prox`` is not a function.
    ValueError: when ``restart`` is unknown, a step size or factor is out of its range, or ``fun``
      is not scalar.

  Note:
    The objective gap is at most 2 L ||x_0 - x*||^2 / (k + 1)^2; it is not monotone. For non-convex
    g use ``ista``. Backtracking's step size is treated as a constant by derivatives.

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
    gradient).
  """
  first, settings = _settings(fun, prox, stepsize, init_stepsize, shrink, 1.0, max_backtracks)
  _checks.check_option("restart", restart, ("gradient", None))

  def init(params: PyTree, hyper: PyTree, *data: PyTree) -> FistaState:
    del hyper, data
    dtype = _scalar_dtype(params)
    return FistaState(
      params, params, jnp.ones((), dtype), jnp.asarray(first, dtype), jnp.zeros((), jnp.int32)
    )

  def step(state: FistaState, hyper: PyTree, *data: PyTree) -> tuple[FistaState, Any]:
    params, value, s, stalled = _proximal_step(
      fun, prox, state.anchor, state.stepsize, hyper, data,
      shrink=settings.shrink, max_backtracks=settings.max_backtracks,
    )  # fmt: skip
    moved = optax.tree.sub(params, state.anchor)
    gain = optax.tree.sub(params, state.params)
    t_next = 0.5 * (1 + jnp.sqrt(1 + 4 * state.t**2))
    momentum = (state.t - 1) / t_next
    if restart == "gradient":
      again = jax.lax.stop_gradient(optax.tree.vdot(moved, gain) < 0)
      momentum = jnp.where(again, jnp.zeros_like(momentum), momentum)
      t_next = jnp.where(again, jnp.ones_like(t_next), t_next)
    anchor = jax.tree.map(lambda x, d: x + momentum.astype(x.dtype) * d, params, gain)
    error = jax.lax.stop_gradient(optax.tree.norm(moved) / s)
    return (
      FistaState(params, anchor, t_next, s, state.count + 1),
      ProximalGradientInfo(error, value, s, stalled),
    )

  return Solver(init, step)


def proximal_residual(
  fun: Callable[..., Array], prox: ProxFn, *, stepsize: ArrayLike = 1.0
) -> Callable[..., PyTree]:
  r"""The optimality condition of a composite problem, as a residual for ``implicit``.

  F(x, hyper, data) = x - prox(x - s grad f(x), hyper, s), which is zero exactly where x minimises
  f(x) + g(x; hyper) (for convex f and g), for any s > 0.

  Args:
    fun: ``fun(params, *data) -> scalar``, the smooth part f.
    prox: ``prox(x, hyper, scaling)``, the proximal operator of g.
    stepsize: > 0; the solution does not depend on it, the conditioning of the linear system does:
      take the step size of the solve. May be traced.

  Returns:
    ``residual(params, hyper, *data) -> params_like``.

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
  _checks.check_callable("fun", fun)
  _checks.check_callable("prox", prox)
  _checks.check_positive("stepsize", stepsize)

  def residual(params: PyTree, hyper: PyTree, *data: PyTree) -> PyTree:
    s = jnp.asarray(stepsize, _scalar_dtype(params))
    grad = jax.grad(fun)(params, *data)
    target = jax.tree.map(lambda x, g: x - s.astype(x.dtype) * g, params, grad)
    return optax.tree.sub(params, prox(target, hyper, s))

  return residual
