"""The spectral proximal gradient method: Barzilai-Borwein steps, non-monotone line search."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.solvers._common import (
  add_scaled,
  hashable,
  inner_product,
  norm,
  operator_of,
  rounding,
  scalar_dtype,
  smooth_part,
  value_of,
)
from jaxopt_robust.solvers.types import Solver
from jaxopt_robust.typing import Array, ArrayLike, Penalty, PyTree

__all__ = ["SpectralInfo", "SpectralState", "spectral_proximal_gradient"]

# The sufficient decrease of a step, as a share of ||d||^2 / (2 s).
_DECREASE = 1e-2
_SHRINK = 0.5
# Differences of objective values below so many roundings decide nothing.
_SLACK_EPSILONS = 10.0


class SpectralState(NamedTuple):
  """State of the spectral proximal gradient method.

  Attributes:
    params: the iterate.
    grad: gradient of the smooth part at the iterate.
    value: smooth part at the iterate.
    history: float[memory], the last objective values; -inf where there is none yet.
    stepsize: scalar, the step size to try next.
    count: int32, steps done.
  """

  params: PyTree
  grad: PyTree
  value: Array
  history: Array
  stepsize: Array
  count: Array  # type: ignore[assignment]


class SpectralInfo(NamedTuple):
  """Diagnostics of a spectral step.

  Attributes:
    error: norm of ``(x_k - x_{k+1}) / s + grad f(x_{k+1}) - grad f(x_k)``, an element of the
      sub-differential of f + g at ``x_{k+1}``, and at least the rounding of that formula.
    value: the objective f + g at ``x_{k+1}``.
    stepsize: the step size ``s`` that was accepted.
    stalled: bool, the line search found no step that decreases the objective, or a step left the
      iterate as it was.
    aux: what ``fun`` returned besides the value at ``x_{k+1}`` (None without ``has_aux``).
  """

  error: Array
  value: Array
  stepsize: Array
  stalled: Array
  aux: Any = None


@hashable
def spectral_proximal_gradient(
  fun: Callable[..., Any],
  penalty: Penalty,
  *,
  init_stepsize: ArrayLike = 1.0,
  memory: int = 10,
  min_stepsize: float = 1e-10,
  max_stepsize: float = 1e10,
  max_backtracks: int = 60,
  has_aux: bool = False,
) -> Solver:
  r"""Proximal gradient with Barzilai-Borwein steps (SpaRSA; spectral projected gradient).

  Minimises f(x) + g(x; hyper) with f smooth, by

    x_{k+1} = prox(x_k - s_k grad f(x_k), hyper, s_k),       s_k = <d, d> / <d, q>,

  d = x_k - x_{k-1}, q = grad f(x_k) - grad f(x_{k-1}); s_k is halved until the objective is below
  the largest of the last ``memory`` ones by 0.01 ||x_{k+1} - x_k||^2 / (2 s_k). The stopping
  quantity ``info.error`` is the norm of (x_k - x_{k+1}) / s_k + grad f(x_{k+1}) - grad f(x_k), an
  element of the sub-differential of f + g at x_{k+1}, however long the step is.

  Args:
    fun: ``fun(params, *data) -> scalar``, the smooth part f, with the scaling that you give it.
    penalty: ``Penalty(value, prox)``: the line search needs the value of g. For a set C give
      ``Penalty(jr.prox.penalty_none, jr.prox.make_prox_from_projection(projection))``.
    init_stepsize: > 0, the first trial step; may be traced.
    memory: >= 1, static; 1 makes the method monotone.
    min_stepsize: > 0, bound of the Barzilai-Borwein quotient.
    max_stepsize: > 0, bound of the quotient, taken where <d, q> <= 0.
    max_backtracks: >= 1, static; after so many rejected steps the solve is stalled (status 3).
    has_aux: static; whether ``fun`` returns a pair ``(scalar, aux)``: aux is ``info.last.aux``.

  Returns:
    ``Solver`` with states ``SpectralState`` and infos ``SpectralInfo``.

  Raises:
    TypeError: when ``fun`` is not a function or ``penalty`` no ``Penalty``.
    ValueError: when a number is out of its range, or ``fun`` is not scalar.

  Note:
    No rate is proved that beats the fixed step; in practice it needs about as many steps as
    restarted FISTA, and f need not be convex. Use ``implicit`` for derivatives of its solution: the
    step sizes are treated as constants.

  Example:
    >>> solver = spectral_proximal_gradient(
    ...   lambda x, b: 0.5 * jnp.sum((x - b) ** 2), jr.prox.lasso)
    >>> x, info = jr.solvers.run_until(
    ...   solver, jnp.zeros(2), 1.0, jnp.array([3.0, 0.5]), tol=1e-6, max_steps=10)
    >>> x
    Array([2., 0.], dtype=float32)

  Reference:
    Barzilai and Borwein, Two-point step size gradient methods, 1988, equation 5; Wright, Nowak and
    Figueiredo, Sparse reconstruction by separable approximation, 2009 (SpaRSA); Birgin, Martinez
    and Raydan, Nonmonotone spectral projected gradient methods on convex sets, 2000.
  """
  _arguments.check_callable("fun", fun)
  _arguments.check_penalty("penalty", penalty)
  _checks.check_positive("init_stepsize", init_stepsize, scalar=True)
  memory = _checks.check_int("memory", memory, minimum=1)
  _checks.check_positive("min_stepsize", min_stepsize)
  _checks.check_greater("max_stepsize", max_stepsize, min_stepsize)
  max_backtracks = _checks.check_int("max_backtracks", max_backtracks, minimum=1)

  smooth = value_of(fun, has_aux)
  operator = operator_of("prox", penalty.prox)

  def init(params: PyTree, hyper: PyTree, *data: PyTree, **named: PyTree) -> SpectralState:
    value, grad, _ = smooth_part(fun, has_aux, params, data, named)
    total = value + penalty.value(params, hyper)
    history = jnp.full((memory,), -jnp.inf, value.dtype).at[0].set(total)
    # A start outside the set has no finite objective: any step is better.
    first = jnp.asarray(init_stepsize, scalar_dtype(params))
    return SpectralState(params, grad, value, history, first, jnp.zeros((), jnp.int32))

  def step(state: SpectralState, hyper: PyTree, *data: PyTree, **named: PyTree) -> tuple:
    reference = jnp.max(state.history)
    slack = _SLACK_EPSILONS * jnp.finfo(reference.dtype).eps * jnp.abs(reference)

    def move(s: Array) -> PyTree:
      return operator(add_scaled(state.params, -s, state.grad), hyper, s)

    def objective(x: PyTree) -> Array:
      return smooth(x, *data, **named) + penalty.value(x, hyper)

    def accepted(s: Array) -> Array:
      x = move(s)
      square = optax.tree.norm(optax.tree.sub(x, state.params), squared=True)
      bound = reference - _DECREASE * square / (2 * s) + slack
      return (objective(x) <= bound) | ~jnp.isfinite(reference)

    s, _, good = jax.lax.stop_gradient(
      jax.lax.while_loop(
        lambda c: ~c[2] & (c[1] < max_backtracks),
        lambda c: (c[0] * _SHRINK, c[1] + 1, accepted(c[0] * _SHRINK)),
        (state.stepsize, jnp.zeros((), jnp.int32), accepted(state.stepsize)),
      )
    )
    params = move(s)
    value, grad, aux = smooth_part(fun, has_aux, params, data, named)
    total = value + penalty.value(params, hyper)
    moved = optax.tree.sub(params, state.params)
    square = optax.tree.norm(moved, squared=True)
    turned = optax.tree.sub(grad, state.grad)
    curvature = inner_product(moved, turned)
    convex = curvature > 0
    quotient = jnp.where(convex, square / jnp.where(convex, curvature, 1), max_stepsize)
    trial = jnp.where(square > 0, jnp.clip(quotient, min=min_stepsize, max=max_stepsize), s)
    history = state.history.at[(state.count + 1) % memory].set(total)
    residual = norm(add_scaled(turned, -1 / s, moved))
    # A step that rounds to nothing leaves the residual unknown, up to this.
    floor = rounding(state.params) / s + rounding(grad) + rounding(state.grad)
    error = jnp.maximum(residual, floor)
    still = norm(moved) == 0
    new = SpectralState(
      params,
      grad,
      value,
      history,
      jax.lax.stop_gradient(trial).astype(state.stepsize.dtype),
      state.count + 1,
    )
    return new, SpectralInfo(error, total, s, ~good | still, aux)

  return Solver(init, step)
