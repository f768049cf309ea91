"""Three-operator and two-operator splitting: Davis-Yin and Douglas-Rachford."""

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
  operator_of,
  pair_of,
  report,
  rounding,
  scalar_dtype,
  scale,
  smooth_part,
)
from jaxopt_robust.solvers.types import Solver
from jaxopt_robust.typing import Array, ArrayLike, Penalty, ProxFn, PyTree

__all__ = ["SplittingInfo", "SplittingState", "davis_yin", "douglas_rachford"]


class SplittingState(NamedTuple):
  """State of a splitting method whose fixed point is an auxiliary variable.

  Attributes:
    params: the iterate, prox_g of the auxiliary variable.
    auxiliary: the variable s that the method iterates.
    count: int32, steps done.
  """

  params: PyTree
  auxiliary: PyTree
  count: Array  # type: ignore[assignment]


class SplittingInfo(NamedTuple):
  """Diagnostics of a splitting step.

  Attributes:
    error: ||z - x||_2 / stepsize, the distance of the two copies of the solution over the step, and
      at least the rounding of that formula.
    value: the objective at ``params`` where one was given, otherwise 0.
    aux: what ``fun`` returned besides its value (None without ``has_aux``).
  """

  error: Array
  value: Array
  aux: Any = None


@hashable
def davis_yin(
  fun: Callable[..., Any],
  prox_f: ProxFn | Penalty,
  prox_g: ProxFn | Penalty,
  *,
  stepsize: ArrayLike,
  relaxation: ArrayLike = 1.0,
  objective: Callable[..., Array] | None = None,
  has_aux: bool = False,
) -> Solver:
  r"""Davis-Yin three-operator splitting.

  Minimises h(x) + f(x; hyper[0]) + g(x; hyper[1]) with h smooth and convex, f and g convex with
  simple proximal operators, by

    x = prox_g(s, hyper[1], gamma)
    z = prox_f(2 x - s - gamma grad h(x), hyper[0], gamma)
    s <- s + lambda (z - x).

  The stopping quantity ``info.error`` is ||z - x||_2 / gamma, zero exactly at a solution.

  Args:
    fun: ``fun(params, *data) -> scalar``, the smooth part h.
    prox_f: ``prox(x, hyper[0], scaling)``, the operator of f.
    prox_g: ``prox(x, hyper[1], scaling)``, the operator of g; the returned iterate is its output,
      so that constraints that g stands for hold exactly.
    stepsize: gamma > 0, below 2/L with L the Lipschitz constant of grad h; may be traced.
    relaxation: lambda > 0, below 2 - gamma L / 2; may be traced.
    objective: optional ``objective(params, hyper, *data) -> scalar``, reported as ``info.value``.
    has_aux: static; whether ``fun`` returns a pair ``(scalar, aux)``: aux is ``info.last.aux``.

  Returns:
    ``Solver`` with states ``SplittingState`` and infos ``SplittingInfo``; ``hyper`` is the pair of
    the operators' hyper-parameters, or None. It starts at s = params.

  Raises:
    TypeError: when a function is not callable.
    ValueError: when the step or the relaxation is not positive, or ``hyper`` is no pair.

  Example:
    >>> solver = davis_yin(lambda x, b: 0.5 * jnp.sum((x - b) ** 2), jr.prox.prox_lasso,
    ...                    jr.prox.prox_non_negative_lasso, stepsize=1.0)
    >>> b = jnp.array([3.0, -2.0])
    >>> jr.solvers.run_until(solver, jnp.zeros(2), (1.0, 0.0), b, tol=1e-5, max_steps=99)[0]
    Array([2., 0.], dtype=float32)

  Reference:
    Davis and Yin, A three-operator splitting scheme and its optimization applications, 2017,
    algorithm 1.
  """
  _arguments.check_callable("fun", fun)
  return _three_operators(fun, prox_f, prox_g, stepsize, relaxation, objective, has_aux)


@hashable
def douglas_rachford(
  prox_f: ProxFn | Penalty,
  prox_g: ProxFn | Penalty,
  *,
  stepsize: ArrayLike = 1.0,
  relaxation: ArrayLike = 1.5,
  objective: Callable[..., Array] | None = None,
) -> Solver:
  r"""Douglas-Rachford splitting.

  Minimises f(x; hyper[0]) + g(x; hyper[1]), both convex with simple proximal operators, by

    x = prox_g(s, hyper[1], gamma)
    z = prox_f(2 x - s, hyper[0], gamma)
    s <- s + lambda (z - x).

  The stopping quantity ``info.error`` is ||z - x||_2 / gamma, zero exactly at a solution.

  Args:
    prox_f: ``prox(x, hyper[0], scaling)``, the operator of f, such as
      ``jr.prox.prox_least_squares``.
    prox_g: ``prox(x, hyper[1], scaling)``, the operator of g; the returned iterate is its output,
      so that its exact zeros and constraints hold.
    stepsize: gamma > 0, any; it sets the speed, not the solution. May be traced.
    relaxation: lambda in (0, 2); may be traced.
    objective: optional ``objective(params, hyper, *data) -> scalar``, reported as ``info.value``.

  Returns:
    ``Solver`` with states ``SplittingState`` and infos ``SplittingInfo``; ``hyper`` is the pair of
    the operators' hyper-parameters, or None. It starts at s = params.

  Raises:
    TypeError: when a function is not callable.
    ValueError: when the step is not positive, the relaxation is not in (0, 2), or ``hyper`` is no
      pair.

  Note:
    Where f + g has no minimiser, as for two sets that do not meet, the error tends to a positive
    constant and the status is 1 (step limit).

  Example:
    >>> solver = douglas_rachford(jr.prox.prox_ridge, jr.prox.prox_none)
    >>> jr.solvers.run_until(solver, jnp.ones(2), (1.0, None), tol=1e-6, max_steps=99)[0].round(3)
    Array([0., 0.], dtype=float32)

  Reference:
    Lions and Mercier, Splitting algorithms for the sum of two nonlinear operators, 1979; Eckstein
    and Bertsekas, On the Douglas-Rachford splitting method and the proximal point algorithm for
    maximal monotone operators, 1992 (relaxation).
  """
  _checks.check_interval("relaxation", relaxation, 0.0, 2.0, closed="neither", scalar=True)
  return _three_operators(None, prox_f, prox_g, stepsize, relaxation, objective, False)


def _three_operators(
  fun: Callable[..., Any] | None,
  prox_f: ProxFn | Penalty,
  prox_g: ProxFn | Penalty,
  stepsize: ArrayLike,
  relaxation: ArrayLike,
  objective: Callable[..., Array] | None,
  has_aux: bool,
) -> Solver:
  first, second = operator_of("prox_f", prox_f), operator_of("prox_g", prox_g)
  _checks.check_positive("stepsize", stepsize, scalar=True)
  _checks.check_positive("relaxation", relaxation, scalar=True)
  if objective is not None:
    _arguments.check_callable("objective", objective)

  def init(params: PyTree, hyper: PyTree, *data: PyTree, **named: PyTree) -> SplittingState:
    del data, named
    pair_of(hyper)
    return SplittingState(params, params, jnp.zeros((), jnp.int32))

  def step(
    state: SplittingState, hyper: PyTree, *data: PyTree, **named: PyTree
  ) -> tuple[SplittingState, Any]:
    hyper_f, hyper_g = pair_of(hyper)
    s = state.auxiliary
    gamma = jnp.asarray(stepsize, scalar_dtype(s))
    # x belongs to the s of the last step: one operator each a step, and params are prox_g's output.
    x = second(s, hyper_g, gamma)
    reflected, aux = optax.tree.sub(scale(2, x), s), None
    if fun is not None:
      _, grad, aux = smooth_part(fun, has_aux, x, data, named)
      reflected = add_scaled(reflected, -gamma, grad)
    z = first(reflected, hyper_f, gamma)
    moved = optax.tree.sub(z, x)
    # z and x come from s, and carry its rounding.
    error = displacement(z, x, gamma, noise=rounding(s) / gamma)
    info = SplittingInfo(error, report(objective, x, hyper, data, named), aux)
    new = SplittingState(x, add_scaled(s, relaxation, moved), state.count + 1)
    return jax.tree.map(jnp.asarray, new), info

  return Solver(init, step)
