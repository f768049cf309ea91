"""Fixed points: plain iteration and Anderson acceleration."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.numerics import tree_where
from jaxopt_robust.solvers._common import displacement, hashable, scalar_dtype
from jaxopt_robust.solvers.types import Solver
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = [
  "AndersonState",
  "FixedPointInfo",
  "FixedPointState",
  "anderson",
  "fixed_point_iteration",
]


class FixedPointState(NamedTuple):
  """State of the plain iteration.

  Attributes:
    params: the iterate.
    count: int32, steps done.
  """

  params: PyTree
  count: Array  # type: ignore[assignment]


class AndersonState(NamedTuple):
  """State of Anderson acceleration.

  Attributes:
    params: T(x) at the last accepted point x; the start before the first step.
    candidate: float[n], flat, the mixed point where the map is evaluated next.
    plain: bool, whether the candidate is a plain value T(x), which is always accepted.
    images: float[memory, n], the last values T(x), flat; the newest at ``slot - 1``.
    residuals: float[memory, n], the residuals T(x) - x that belong to them.
    slot: int32, the row that is written next.
    filled: int32, how many rows of the memory are valid.
    size: scalar, the residual norm at the last accepted point.
    count: int32, steps done.
  """

  params: PyTree
  candidate: Array
  plain: Array
  images: Array
  residuals: Array
  slot: Array
  filled: Array
  size: Array
  count: Array  # type: ignore[assignment]


class FixedPointInfo(NamedTuple):
  """Diagnostics of a fixed-point step.

  Attributes:
    error: ||T(x) - x||_2 at the point x where the map was evaluated, and at least its rounding.
    value: the same number.
  """

  error: Array
  value: Array


@hashable
def fixed_point_iteration(fixed_point_fun: Callable[..., PyTree]) -> Solver:
  r"""The plain iteration x <- T(x).

  Solves x = T(x; hyper, data). The stopping quantity ``info.error`` is ||T(x) - x||_2 at the last
  point but one; for a map with contraction factor rho the error of the result is at most
  rho / (1 - rho) times that.

  Args:
    fixed_point_fun: ``T(params, hyper, *data, **named) -> params_like``.

  Returns:
    ``Solver`` with states ``FixedPointState`` and infos ``FixedPointInfo``.

  Raises:
    TypeError: when ``fixed_point_fun`` is not a function.
    ValueError: when T does not return the structure and shapes that it is given.

  Example:
    >>> solver = fixed_point_iteration(lambda x, a: jnp.cos(a * x))
    >>> x, info = jr.solvers.run_until(solver, jnp.ones(()), 1.0, tol=1e-6, max_steps=100)
    >>> round(float(x), 4)
    0.7391

  Reference:
    Banach, Sur les operations dans les ensembles abstraits et leur application aux equations
    integrales, 1922.
  """
  _arguments.check_callable("fixed_point_fun", fixed_point_fun)

  def init(params: PyTree, hyper: PyTree, *data: PyTree, **named: PyTree) -> FixedPointState:
    del hyper, data, named
    return FixedPointState(params, jnp.zeros((), jnp.int32))

  def step(state: FixedPointState, hyper: PyTree, *data: PyTree, **named: PyTree) -> tuple:
    image = fixed_point_fun(state.params, hyper, *data, **named)
    _checks.check_same_structure("T(x)", image, "x", state.params)
    error = displacement(image, state.params)
    return FixedPointState(image, state.count + 1), FixedPointInfo(error, error)

  return Solver(init, step)


@hashable
def anderson(
  fixed_point_fun: Callable[..., PyTree],
  *,
  memory: int = 5,
  mixing: ArrayLike = 1.0,
  ridge: ArrayLike = 1e-5,
  safeguard: bool = True,
) -> Solver:
  r"""Anderson acceleration of a fixed-point iteration (type II).

  Solves x = T(x; hyper, data). With the last m residuals F_i = T(x_i) - x_i,

    alpha = argmin ||sum_i alpha_i F_i||_2^2 + ridge * max_i ||F_i||^2 ||alpha||^2
            subject to sum_i alpha_i = 1
    x <- sum_i alpha_i (x_i + beta F_i),                               beta = mixing.

  For linear T this is GMRES with restarts in disguise. The stopping quantity ``info.error`` is
  ||T(x) - x||_2.

  Args:
    fixed_point_fun: ``T(params, hyper, *data, **named) -> params_like``; the step of any
      memoryless solver is such a map.
    memory: m >= 1, static.
    mixing: beta in (0, 1]; 1 mixes the values of T. May be traced.
    ridge: >= 0, relative to the largest squared residual of the memory; may be traced.
    safeguard: static; whether a mixed point whose residual is larger than that of the last accepted
      one is dropped, with the memory, for the plain value T(x) of that one. With it a non-expansive
      T converges wherever the plain iteration does; without it the method may run away.

  Returns:
    ``Solver`` with states ``AndersonState`` and infos ``FixedPointInfo``. The iterate is a value of
    T, so that its exact zeros and constraints hold.

  Raises:
    TypeError: when ``fixed_point_fun`` is not a function.
    ValueError: when ``memory`` is no integer >= 1, ``mixing`` not in (0, 1], or ``ridge`` negative.

  Example:
    >>> solver = anderson(lambda x, a: jnp.cos(a * x), memory=3)
    >>> x, info = jr.solvers.run_until(solver, jnp.ones(()), 1.0, tol=1e-6, max_steps=20)
    >>> round(float(x), 4), int(info.steps) < 10
    (0.7391, True)

  Reference:
    Anderson, Iterative procedures for nonlinear integral equations, 1965; Walker and Ni, Anderson
    acceleration for fixed-point iterations, 2011. The regularised weights in closed form as in
    Scieur, d'Aspremont and Bach, Regularized nonlinear acceleration, 2016; a safeguard of this kind
    in Zhang, O'Donoghue and Boyd, Globally convergent type-I Anderson acceleration for nonsmooth
    fixed-point iterations, 2020.
  """
  _arguments.check_callable("fixed_point_fun", fixed_point_fun)
  memory = _checks.check_int("memory", memory, minimum=1)
  _checks.check_interval("mixing", mixing, 0.0, 1.0, closed="right", scalar=True)
  _checks.check_non_negative("ridge", ridge, scalar=True)

  def init(params: PyTree, hyper: PyTree, *data: PyTree, **named: PyTree) -> AndersonState:
    del hyper, data, named
    flat = ravel_pytree(params)[0]
    blank = jnp.zeros((memory, flat.size), flat.dtype)
    zero = jnp.zeros((), jnp.int32)
    return AndersonState(
      params,
      flat,
      jnp.ones((), jnp.bool_),
      blank,
      blank,
      zero,
      zero,
      jnp.full((), jnp.inf, scalar_dtype(params)),
      zero,
    )

  def step(state: AndersonState, hyper: PyTree, *data: PyTree, **named: PyTree) -> tuple:
    unravel = ravel_pytree(state.params)[1]
    point = unravel(state.candidate)
    image = fixed_point_fun(point, hyper, *data, **named)
    _checks.check_same_structure("T(x)", image, "x", point)
    flat = ravel_pytree(image)[0]
    residual = flat - state.candidate
    size = displacement(flat, state.candidate)
    rejected = ~state.plain & (size > state.size) if safeguard else jnp.zeros((), jnp.bool_)

    images = state.images.at[state.slot].set(flat)
    residuals = state.residuals.at[state.slot].set(residual)
    filled = jnp.where(rejected, 0, jnp.minimum(state.filled + 1, memory))
    age = (state.slot - jnp.arange(memory)) % memory  # 0: newest
    mixed = _mix(images, residuals, age < filled, mixing, ridge)
    fallback = ravel_pytree(state.params)[0]
    new = AndersonState(
      tree_where(rejected, state.params, image),
      jnp.where(rejected, fallback, mixed),
      rejected | (filled == 1) & jnp.all(jnp.asarray(mixing) == 1),
      images,
      residuals,
      jnp.where(rejected, state.slot, (state.slot + 1) % memory),
      filled,
      jnp.where(rejected, state.size, size),
      state.count + 1,
    )
    return new, FixedPointInfo(size, size)

  return Solver(init, step)


def _mix(
  images: Array, residuals: Array, valid: Array, mixing: ArrayLike, ridge: ArrayLike
) -> Array:
  """The mixed point: weights z / sum z from (G + r I) z = 1 over the valid rows."""
  used = jnp.where(valid[:, None], residuals, 0)
  # Squares of the quotients neither overflow nor vanish; the weights do not know the scale.
  peak = jnp.max(jnp.abs(used), initial=0)
  unit = used / jnp.where((peak > 0) & jnp.isfinite(peak), peak, 1).astype(used.dtype)
  gram = unit @ unit.T
  largest = jnp.max(jnp.diagonal(gram))
  largest = jnp.where(largest > 0, largest, 1)
  eps = jnp.asarray(ridge, gram.dtype) + jnp.finfo(gram.dtype).eps
  system = gram / largest + jnp.diag(jnp.where(valid, eps, 1))
  z = jnp.linalg.solve(system, valid.astype(gram.dtype))
  total = jnp.sum(z)
  weights = z / jnp.where(total == 0, 1, total)  # 0: no valid row
  beta = jnp.asarray(mixing, gram.dtype)
  return weights @ (jnp.where(valid[:, None], images, 0) - (1 - beta) * used)
