"""Proximal alternating linearised minimisation (PALM) for objectives that couple blocks."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.solvers._common import (
  add_scaled,
  displacement,
  hashable,
  operator_of,
  rounding,
  scalar_dtype,
  value_of,
)
from jaxopt_robust.solvers.types import Solver
from jaxopt_robust.typing import Array, ArrayLike, Penalty, ProxFn, PyTree

__all__ = ["PalmInfo", "PalmState", "palm"]


class PalmState(NamedTuple):
  """State of PALM.

  Attributes:
    params: tuple of the blocks.
    count: int32, rounds done.
  """

  params: tuple
  count: Array  # type: ignore[assignment]


class PalmInfo(NamedTuple):
  """Diagnostics of a round.

  Attributes:
    error: max_i ||x_i_new - x_i||_2 / s_i over the blocks, and at least the rounding of that.
    value: the coupling term after the round.
    stepsizes: float[blocks], the steps s_i.
    aux: what ``fun`` returned besides the value after the round (None without ``has_aux``).
  """

  error: Array
  value: Array
  stepsizes: Array
  aux: Any = None


@hashable
def palm(
  fun: Callable[..., Any],
  proxes: Sequence[ProxFn | Penalty],
  lipschitz: Sequence[Callable[..., ArrayLike]],
  *,
  safety: ArrayLike = 1.1,
  has_aux: bool = False,
) -> Solver:
  r"""Proximal alternating linearised minimisation (PALM).

  Minimises f(x_1, ..., x_k) + sum_i g_i(x_i; hyper_i), f smooth in each block, neither need be
  convex, by rounds of

    x_i <- prox_i(x_i - s_i grad_i f(x), hyper_i, s_i),     s_i = 1 / (c L_i(x)),   i = 1, ..., k,

  each with the blocks before it already updated. The stopping quantity ``info.error`` is the
  largest ||x_i_new - x_i||_2 / s_i of the round, zero exactly at a stationary point.

  Args:
    fun: ``fun(params, *data) -> scalar``, f of the tuple of blocks (arrays or pytrees).
    proxes: one ``prox(x_i, hyper_i, scaling)`` a block.
    lipschitz: one ``L_i(params, *data) -> scalar`` a block: the Lipschitz constant of grad_i f in
      x_i for the other blocks as they are. For 1/2 ||y - x_1 x_2||^2 they are the squared spectral
      norms (or, as a bound, squared Frobenius norms) of x_2 and of x_1.
    safety: c > 1; may be traced.
    has_aux: static; whether ``fun`` returns a pair ``(scalar, aux)``: aux is ``info.last.aux``.

  Returns:
    ``Solver`` with states ``PalmState`` and infos ``PalmInfo``; ``hyper`` is a tuple with one entry
    a block, or None.

  Raises:
    TypeError: when a function is not callable.
    ValueError: when there are not as many blocks, operators, constants and hyper-parameters, or
      ``safety`` is not above 1.

  Note:
    The objective falls by at least (c - 1)/2 L_i ||x_i_new - x_i||^2 a block. A constant of 0 (the
    other blocks vanish) gives the step 1.

  Example:
    >>> fun = lambda p, y: 0.5 * jnp.sum((y - jnp.outer(p[0], p[1])) ** 2)
    >>> solver = palm(fun, [jr.prox.prox_none, jr.prox.prox_non_negative_lasso],
    ...               [lambda p, y: jnp.sum(p[1] ** 2), lambda p, y: jnp.sum(p[0] ** 2)])
    >>> start, y = (jnp.ones(2), jnp.ones(2)), jnp.array([[2.0, 4.0], [1.0, 2.0]])
    >>> (a, b), info = jr.solvers.run_until(solver, start, (None, 0.0), y, tol=1e-5, max_steps=500)
    >>> jnp.outer(a, b).round(2)
    Array([[2., 4.],
           [1., 2.]], dtype=float32)

  Reference:
    Bolte, Sabach and Teboulle, Proximal alternating linearized minimization for nonconvex and
    nonsmooth problems, 2014, section 3.1.
  """
  _arguments.check_callable("fun", fun)
  for name, value in (("proxes", proxes), ("lipschitz", lipschitz)):
    if not isinstance(value, tuple | list):
      raise TypeError(f"{name} must be a sequence of functions; got a {type(value).__name__}.")
  proxes, lipschitz = tuple(proxes), tuple(lipschitz)
  if len(proxes) != len(lipschitz) or not proxes:
    raise ValueError(
      f"proxes and lipschitz must hold one function a block; got {len(proxes)} and "
      f"{len(lipschitz)}."
    )
  for operator, constant in zip(proxes, lipschitz, strict=True):
    operator_of("proxes", operator)
    _arguments.check_callable("lipschitz", constant)
  _checks.check_greater("safety", safety, 1.0, scalar=True)
  operators = tuple(operator_of("proxes", operator) for operator in proxes)
  smooth = value_of(fun, has_aux)

  def hypers(hyper: Any) -> tuple:
    members = (None,) * len(proxes) if hyper is None else hyper
    if not isinstance(members, tuple | list) or len(members) != len(proxes):
      raise ValueError(f"hyper must be None or hold one entry for each of {len(proxes)} blocks.")
    return tuple(members)

  def init(params: tuple, hyper: PyTree, *data: PyTree, **named: PyTree) -> PalmState:
    del data, named
    hypers(hyper)
    if not isinstance(params, tuple | list) or len(params) != len(proxes):
      raise ValueError(f"params must be a tuple of {len(proxes)} blocks.")
    return PalmState(tuple(params), jnp.zeros((), jnp.int32))

  def step(
    state: PalmState, hyper: PyTree, *data: PyTree, **named: PyTree
  ) -> tuple[PalmState, PalmInfo]:
    params, moves, steps = state.params, [], []
    dtype = scalar_dtype(params)
    for i, (operator, own) in enumerate(zip(operators, hypers(hyper), strict=True)):
      constant = jnp.asarray(lipschitz[i](params, *data, **named), dtype) * jnp.asarray(
        safety, dtype
      )
      s = jnp.where(constant > 0, 1 / jnp.where(constant > 0, constant, 1), 1)
      replace = lambda x, i=i, params=params: (*params[:i], x, *params[i + 1 :])
      grad = jax.grad(lambda x, r=replace: smooth(r(x), *data, **named))(params[i])
      new = operator(add_scaled(params[i], -s, grad), own, s)
      moves.append(displacement(new, params[i], s, noise=rounding(grad)))
      steps.append(s)
      params = replace(new)
    out = jax.lax.stop_gradient(fun(params, *data, **named))
    value, aux = out if has_aux else (out, None)
    info = PalmInfo(jnp.max(jnp.stack(moves)), value, jnp.stack(steps), aux)
    return PalmState(params, state.count + 1), info

  return Solver(init, step)
