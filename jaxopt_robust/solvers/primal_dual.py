"""Primal-dual splitting for f(x) + g(K x): Chambolle-Pock (PDHG) and Condat-Vu."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.solvers._common import (
  add_scaled,
  displacement,
  hashable,
  norm,
  operator_of,
  pair_of,
  report,
  rounding,
  scalar_dtype,
  scale,
  smooth_part,
  transpose_of,
)
from jaxopt_robust.solvers.types import Solver
from jaxopt_robust.typing import Array, ArrayLike, Penalty, ProxFn, PyTree

__all__ = ["PrimalDualInfo", "PrimalDualState", "chambolle_pock", "condat_vu"]


class PrimalDualState(NamedTuple):
  """State of a primal-dual method.

  Attributes:
    params: the primal iterate x.
    dual: the dual iterate p, of the structure of K x.
    image: K x at the iterate.
    extrapolated: K of the extrapolated point, K (x + theta (x - x_previous)).
    stepsize: scalar, the primal step tau.
    dual_stepsize: scalar, the dual step sigma.
    count: int32, steps done.
  """

  params: PyTree
  dual: PyTree
  image: PyTree
  extrapolated: PyTree
  stepsize: Array
  dual_stepsize: Array
  count: Array  # type: ignore[assignment]


class PrimalDualInfo(NamedTuple):
  """Diagnostics of a primal-dual step.

  Attributes:
    error: sqrt(primal_residual^2 + dual_residual^2).
    value: the objective at ``params`` where one was given, otherwise 0.
    primal_residual: norm of an element of df(x) + grad h(x) + K^T p, zero at a solution.
    dual_residual: norm of an element of dg*(p) - K x, zero at a solution. Both are at least the
      rounding of their formulas.
    aux: what ``fun`` returned besides its value (None without ``has_aux``).
  """

  error: Array
  value: Array
  primal_residual: Array
  dual_residual: Array
  aux: Any = None


@hashable
def chambolle_pock(
  prox_f: ProxFn | Penalty,
  prox_g: ProxFn | Penalty,
  op: Callable[..., PyTree],
  *,
  stepsize: ArrayLike,
  dual_stepsize: ArrayLike,
  strong_convexity: ArrayLike = 0.0,
  objective: Callable[..., Array] | None = None,
) -> Solver:
  r"""Chambolle-Pock primal-dual method (PDHG, primal-dual hybrid gradient).

  Minimises f(x; hyper[0]) + g(K x; hyper[1]), both convex with simple proximal operators, by

    p <- prox_{sigma g*}(p + sigma K x_bar)
    x_new = prox_f(x - tau K^T p, hyper[0], tau)
    x_bar = x_new + theta (x_new - x).

  The operator of the conjugate g* comes from that of g by Moreau's identity. The stopping quantity
  ``info.error`` is sqrt(||r_x||^2 + ||r_p||^2) of the optimality residuals r_x = (x - x_new)/tau
  and r_p = (p_old - p)/sigma + K (x_bar_old - x_new), which are elements of df(x_new) + K^T p and
  of dg*(p) - K x_new.

  Args:
    prox_f: ``prox(x, hyper[0], scaling)``, the operator of f.
    prox_g: ``prox(p, hyper[1], scaling)``, the operator of g (not of its conjugate), such as
      ``jr.prox.prox_l21`` for isotropic total variation.
    op: ``op(x, *data) -> K x``, linear; its adjoint comes from ``jax.linear_transpose``.
    stepsize: tau > 0; may be traced.
    dual_stepsize: sigma > 0 with tau sigma ||K||^2 < 1; ``jr.solvers.operator_norm`` gives ||K||,
      tau = sigma = 0.99/||K|| is usual; may be traced.
    strong_convexity: mu >= 0 such that f - mu/2 ||.||^2 is convex. Above 0 the steps change,
      theta = 1/sqrt(1 + 2 mu tau), tau <- theta tau, sigma <- sigma/theta, and the squared
      distance to the solution falls like 1/k^2, while r_x, divided by the vanishing tau, falls like
      1/k only: for tight tolerances leave it at 0.
    objective: optional ``objective(params, hyper, *data) -> scalar``, reported as ``info.value``.

  Returns:
    ``Solver`` with states ``PrimalDualState`` and infos ``PrimalDualInfo``; ``hyper`` is the pair
    of the operators' hyper-parameters, or None. It starts at p = 0.

  Raises:
    TypeError: when a function is not callable, or ``op`` is not linear.
    ValueError: when a step is not positive, ``strong_convexity`` is negative, or ``hyper`` is no
      pair.

  Example:
    >>> solver = chambolle_pock(jr.prox.prox_quadratic, jr.prox.prox_lasso, jnp.diff,
    ...                         stepsize=0.45, dual_stepsize=0.45)
    >>> b = jnp.array([0.0, 0.1, 5.0])
    >>> x, info = jr.solvers.run_until(
    ...   solver, b, ((1.0, b), 1.0), tol=1e-5, max_steps=500)  # 1/2 ||x||^2 - <b, x> + TV
    >>> x.round(2), int(info.status)
    (Array([0.55, 0.55, 4.  ], dtype=float32), 0)

  Reference:
    Chambolle and Pock, A first-order primal-dual algorithm for convex problems with applications to
    imaging, 2011, algorithms 1 and 2; the residuals as in Goldstein, Li, Yuan, Esser and Baraniuk,
    Adaptive primal-dual hybrid gradient methods for saddle-point problems, 2013.
  """
  _checks.check_non_negative("strong_convexity", strong_convexity, scalar=True)
  return _primal_dual(
    None, prox_f, prox_g, op, stepsize, dual_stepsize, strong_convexity, objective, False
  )


@hashable
def condat_vu(
  fun: Callable[..., Any],
  prox_f: ProxFn | Penalty,
  prox_g: ProxFn | Penalty,
  op: Callable[..., PyTree],
  *,
  stepsize: ArrayLike,
  dual_stepsize: ArrayLike,
  objective: Callable[..., Array] | None = None,
  has_aux: bool = False,
) -> Solver:
  r"""Condat-Vu primal-dual method: a smooth term beside the two simple ones.

  Minimises h(x) + f(x; hyper[0]) + g(K x; hyper[1]) with h smooth, all convex, by

    p <- prox_{sigma g*}(p + sigma K x_bar)
    x_new = prox_f(x - tau (grad h(x) + K^T p), hyper[0], tau)
    x_bar = 2 x_new - x.

  The stopping quantity is that of ``chambolle_pock``, with grad h(x_new) - grad h(x) left out of
  r_x (it vanishes with the step).

  Args:
    fun: ``fun(params, *data) -> scalar``, the smooth part h.
    prox_f: ``prox(x, hyper[0], scaling)``, the operator of f.
    prox_g: ``prox(p, hyper[1], scaling)``, the operator of g (not of its conjugate).
    op: ``op(x, *data) -> K x``, linear; its adjoint comes from ``jax.linear_transpose``.
    stepsize: tau > 0; may be traced.
    dual_stepsize: sigma > 0 with 1/tau - sigma ||K||^2 >= L/2, L the Lipschitz constant of grad h;
      may be traced.
    objective: optional ``objective(params, hyper, *data) -> scalar``, reported as ``info.value``.
    has_aux: static; whether ``fun`` returns a pair ``(scalar, aux)``: aux is ``info.last.aux``.

  Returns:
    ``Solver`` with states ``PrimalDualState`` and infos ``PrimalDualInfo``; ``hyper`` is the pair
    of the operators' hyper-parameters, or None. It starts at p = 0.

  Raises:
    TypeError: when a function is not callable, or ``op`` is not linear.
    ValueError: when a step is not positive, or ``hyper`` is no pair.

  Example:
    >>> solver = condat_vu(lambda x, b: 0.5 * jnp.sum((x - b) ** 2), jr.prox.prox_none,
    ...                    jr.prox.prox_lasso, lambda x, b: jnp.diff(x), stepsize=0.4,
    ...                    dual_stepsize=0.4)
    >>> b = jnp.array([0.0, 0.1, 5.0])
    >>> jr.solvers.run_until(solver, b, (None, 1.0), b, tol=1e-5, max_steps=500)[0].round(2)
    Array([0.55, 0.55, 4.  ], dtype=float32)

  Reference:
    Condat, A primal-dual splitting method for convex optimization involving Lipschitzian,
    proximable and linear composite terms, 2013, algorithm 3.1; Vu, A splitting algorithm for dual
    monotone inclusions involving cocoercive operators, 2013.
  """
  _arguments.check_callable("fun", fun)
  return _primal_dual(fun, prox_f, prox_g, op, stepsize, dual_stepsize, 0.0, objective, has_aux)


def _primal_dual(
  fun: Callable[..., Any] | None,
  prox_f: ProxFn | Penalty,
  prox_g: ProxFn | Penalty,
  op: Callable[..., PyTree],
  stepsize: ArrayLike,
  dual_stepsize: ArrayLike,
  strong_convexity: ArrayLike,
  objective: Callable[..., Array] | None,
  has_aux: bool,
) -> Solver:
  first, second = operator_of("prox_f", prox_f), operator_of("prox_g", prox_g)
  _arguments.check_callable("op", op)
  _checks.check_positive("stepsize", stepsize, scalar=True)
  _checks.check_positive("dual_stepsize", dual_stepsize, scalar=True)
  if objective is not None:
    _arguments.check_callable("objective", objective)

  def init(params: PyTree, hyper: PyTree, *data: PyTree, **named: PyTree) -> PrimalDualState:
    pair_of(hyper)
    dtype = scalar_dtype(params)
    image = op(params, *data, **named)
    return PrimalDualState(
      params,
      optax.tree.zeros_like(image),
      image,
      image,
      jnp.asarray(stepsize, dtype),
      jnp.asarray(dual_stepsize, dtype),
      jnp.zeros((), jnp.int32),
    )

  def step(state: PrimalDualState, hyper: PyTree, *data: PyTree, **named: PyTree) -> tuple:
    hyper_f, hyper_g = pair_of(hyper)
    tau, sigma, x = state.stepsize, state.dual_stepsize, state.params
    adjoint = transpose_of(op, x, data, named)
    # prox_{sigma g*}(v) = v - sigma prox_{g / sigma}(v / sigma)
    v = add_scaled(scale(1 / sigma, state.dual), 1, state.extrapolated)
    p = scale(sigma, optax.tree.sub(v, second(v, hyper_g, 1 / sigma)))
    direction, aux = adjoint(p), None
    if fun is not None:
      _, grad, aux = smooth_part(fun, has_aux, x, data, named)
      direction = optax.tree.add(direction, grad)
    x_new = first(add_scaled(x, -tau, direction), hyper_f, tau)
    image = op(x_new, *data, **named)
    mu = jnp.asarray(strong_convexity, tau.dtype)
    theta = 1 / jnp.sqrt(1 + 2 * mu * tau)
    extrapolated = add_scaled(scale(1 + theta, image), -theta, state.image)

    # p is the new dual point in both lines above, so that these are elements of sub-differentials.
    primal = displacement(x_new, x, tau)
    gap = optax.tree.sub(state.extrapolated, image)
    noise = rounding(p) / sigma + rounding(image)
    dual = jnp.maximum(norm(add_scaled(gap, 1 / sigma, optax.tree.sub(state.dual, p))), noise)
    info = PrimalDualInfo(
      jnp.hypot(primal, dual), report(objective, x_new, hyper, data, named), primal, dual, aux
    )
    new = PrimalDualState(
      x_new, p, image, extrapolated, theta * tau, sigma / theta, state.count + 1
    )
    return jax.tree.map(jnp.asarray, new), info

  return Solver(init, step)
