"""The alternating direction method of multipliers, relaxed and with residual balancing."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import optax

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.numerics import tree_where
from jaxopt_robust.solvers._common import (
  add_scaled,
  hashable,
  norm,
  operator_of,
  pair_of,
  report,
  rounding,
  scalar_dtype,
  scale,
  transpose_of,
)
from jaxopt_robust.solvers.types import Solver
from jaxopt_robust.typing import Array, ArrayLike, Penalty, ProxFn, PyTree

__all__ = ["ADMMInfo", "ADMMState", "admm"]

# Convergence is proved for a weight that settles.
_LAST_BALANCED_STEP = 1000


class ADMMState(NamedTuple):
  """State of ADMM.

  Attributes:
    params: the iterate x.
    split: z, the copy of K x on which g acts: its exact zeros and constraints hold.
    dual: u, the scaled multiplier; the multiplier itself is weight * u.
    weight: scalar, the weight rho of the augmented Lagrangian.
    count: int32, steps done.
  """

  params: PyTree
  split: PyTree
  dual: PyTree
  weight: Array
  count: Array  # type: ignore[assignment]


class ADMMInfo(NamedTuple):
  """Diagnostics of an ADMM step.

  Attributes:
    error: sqrt(primal_residual^2 + dual_residual^2).
    value: the objective at ``params`` where one was given, otherwise 0.
    primal_residual: ||K x - z||_2.
    dual_residual: rho ||K^T (z - z_previous)||_2. Both are at least the rounding of their formulas.
    weight: the weight rho that the step used.
  """

  error: Array
  value: Array
  primal_residual: Array
  dual_residual: Array
  weight: Array


@hashable
def admm(
  argmin_f: Callable[..., PyTree] | Penalty,
  prox_g: ProxFn | Penalty,
  op: Callable[..., PyTree] | None = None,
  *,
  weight: ArrayLike = 1.0,
  relaxation: ArrayLike = 1.6,
  balance: ArrayLike | None = None,
  factor: ArrayLike = 2.0,
  objective: Callable[..., Array] | None = None,
) -> Solver:
  r"""Alternating direction method of multipliers (ADMM), in its scaled form.

  Minimises f(x; hyper[0]) + g(z; hyper[1]) subject to K x = z, both convex, by

    x <- argmin_x f(x) + rho/2 ||K x - (z - u)||_2^2
    y <- alpha K x + (1 - alpha) z                     (over-relaxation)
    z <- prox_g(y + u, hyper[1], 1/rho)
    u <- u + y - z.

  The stopping quantity ``info.error`` is sqrt(||r||^2 + ||s||^2) with the residuals r = K x - z and
  s = rho K^T (z - z_previous): zero exactly at a solution, and in the units of the data.

  Args:
    argmin_f: ``argmin_f(v, hyper[0], rho, *data) -> x``, the minimiser of
      f(x) + rho/2 ||K x - v||^2. Without ``op`` a proximal operator does it: then it is called as
      ``prox(v, hyper[0], 1/rho)``.
    prox_g: ``prox(x, hyper[1], scaling)``, the operator of g, or a ``Penalty`` that holds it.
    op: ``op(x, *data) -> K x``, linear; None is the identity. Its adjoint comes from
      ``jax.linear_transpose``.
    weight: rho > 0; it sets the speed, not the solution. May be traced.
    relaxation: alpha in (0, 2); 1.5 to 1.8 is usual; may be traced.
    balance: None keeps rho; a number mu > 1 (10 is usual) multiplies rho by ``factor`` where the
      primal residual exceeds mu times the dual one, and divides it in the opposite case; u is
      rescaled. A factorisation inside ``argmin_f`` must then work for any rho.
    factor: > 1, by how much rho changes.
    objective: optional ``objective(params, hyper, *data) -> scalar``, reported as ``info.value``.

  Returns:
    ``Solver`` with states ``ADMMState`` and infos ``ADMMInfo``; ``hyper`` is the pair of the two
    terms' hyper-parameters, or None. It starts at z = K x and u = 0.

  Raises:
    TypeError: when a function is not callable, or ``op`` is not linear.
    ValueError: when ``weight`` is not positive, ``relaxation`` not in (0, 2), ``balance`` or
      ``factor`` not above 1, or ``hyper`` is no pair.

  Note:
    A constraint A x + B z = c of the general form is written with g(z) -> g of B z - c where that
    has a simple operator. The balancing stops changing rho after 1000 steps.

  Example:
    >>> total_variation = admm(lambda v, b, rho: jnp.linalg.solve(jnp.eye(3) + rho * D.T @ D,
    ...                        b + rho * D.T @ v), jr.prox.prox_lasso, lambda x: D @ x)
    >>> D, b = jnp.array([[-1.0, 1.0, 0.0], [0.0, -1.0, 1.0]]), jnp.array([0.0, 0.1, 5.0])
    >>> x, info = jr.solvers.run_until(
    ...   total_variation, b, (b, 1.0), tol=1e-6, max_steps=500)
    >>> x.round(2), int(info.status)
    (Array([0.55, 0.55, 4.  ], dtype=float32), 0)

  Reference:
    Boyd, Parikh, Chu, Peleato and Eckstein, Distributed optimization and statistical learning via
    the alternating direction method of multipliers, 2011, equations 3.5-3.7 (scaled form), 3.13
    (balancing), section 3.4.3 (over-relaxation). Their stopping rule has two tolerances; ours is
    one number, as in Chambolle and Pock's method.
  """
  if op is not None or not isinstance(argmin_f, Penalty):
    _arguments.check_callable("argmin_f", argmin_f)
  minimiser = argmin_f.prox if isinstance(argmin_f, Penalty) else argmin_f
  operator = operator_of("prox_g", prox_g)
  _checks.check_positive("weight", weight, scalar=True)
  _checks.check_interval("relaxation", relaxation, 0.0, 2.0, closed="neither", scalar=True)
  if op is not None:
    _arguments.check_callable("op", op)
  if balance is not None:
    _checks.check_greater("balance", balance, 1.0, scalar=True)
    _checks.check_greater("factor", factor, 1.0, scalar=True)
  if objective is not None:
    _arguments.check_callable("objective", objective)

  def forward(x: PyTree, data: tuple, named: dict) -> PyTree:
    return x if op is None else op(x, *data, **named)

  def minimise(v: PyTree, hyper: PyTree, rho: Array, data: tuple, named: dict) -> PyTree:
    if op is None:
      return minimiser(v, hyper, 1 / rho)
    return minimiser(v, hyper, rho, *data, **named)

  def init(params: PyTree, hyper: PyTree, *data: PyTree, **named: PyTree) -> ADMMState:
    pair_of(hyper)
    split = forward(params, data, named)
    return ADMMState(
      params,
      split,
      optax.tree.zeros_like(split),
      jnp.asarray(weight, scalar_dtype(params)),
      jnp.zeros((), jnp.int32),
    )

  def step(
    state: ADMMState, hyper: PyTree, *data: PyTree, **named: PyTree
  ) -> tuple[ADMMState, ADMMInfo]:
    hyper_f, hyper_g = pair_of(hyper)
    rho, u = state.weight, state.dual
    adjoint = (lambda p: p) if op is None else transpose_of(op, state.params, data, named)
    x = minimise(optax.tree.sub(state.split, u), hyper_f, rho, data, named)
    image = forward(x, data, named)
    relaxed = add_scaled(scale(1 - relaxation, state.split), relaxation, image)
    shifted = optax.tree.add(relaxed, u)
    z = operator(shifted, hyper_g, 1 / rho)
    u = optax.tree.sub(shifted, z)

    # Differences of nearly equal numbers: no smaller than the rounding of these.
    primal = jnp.maximum(norm(optax.tree.sub(image, z)), rounding(z))
    change = norm(adjoint(optax.tree.sub(z, state.split)))
    dual = rho * jnp.maximum(change, rounding(adjoint(z)))
    error = jnp.hypot(primal, dual)
    new_rho = rho
    if balance is not None:
      mu, tau = jnp.asarray(balance, rho.dtype), jnp.asarray(factor, rho.dtype)
      settle = state.count >= _LAST_BALANCED_STEP
      up = ~settle & (primal > mu * dual)
      down = ~settle & (dual > mu * primal)
      new_rho = jnp.where(up, rho * tau, jnp.where(down, rho / tau, rho))
      u = tree_where(up | down, scale(rho / new_rho, u), u)
    info = ADMMInfo(error, report(objective, x, hyper, data, named), primal, dual, rho)
    return ADMMState(x, z, u, new_rho, state.count + 1), info

  return Solver(init, step)
