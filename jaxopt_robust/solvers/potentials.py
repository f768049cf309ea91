"""The regulariser behind a learned proximal operator: inverse, value, and steps of any size."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.numerics import safe_divide
from jaxopt_robust.prox.learned import gradient_of, scalar_potential
from jaxopt_robust.solvers._common import hashable, norm, rounding
from jaxopt_robust.solvers.drive import run_until
from jaxopt_robust.solvers.implicit_differentiation import implicit
from jaxopt_robust.solvers.linear import solve_cg
from jaxopt_robust.solvers.types import SolveInfo, Solver
from jaxopt_robust.typing import Array, ArrayLike, Penalty, PyTree

__all__ = ["invert_potential", "make_potential_penalty", "potential_regularizer"]

_DECREASE = 1e-4  # least decrease of the residual, as a share of the step's length
_MAX_HALVINGS = 30
_FORCING = 0.1  # relative residual of the first linear solves; it falls with the residual
_DAMPING = 1e-3  # the same for the share of the identity that is added to the Hessian
_MAX_PRODUCTS = 500


class _State(NamedTuple):
  """Iterate z, residual there, its first norm (0 before there is one)."""

  params: Array
  residual: Array
  first: Array
  count: Array  # type: ignore[assignment]


class _Info(NamedTuple):
  """Norm of the residual at the new iterate, the objective there, whether nothing decreases it."""

  error: Array
  value: Array
  stalled: Array


def _residual(potential: Callable[..., Any], z: Array, hyper: tuple, x: Array) -> Array:
  """(1 - s) grad psi(z) + s z - x."""
  params, s = hyper
  return (1 - s) * gradient_of(potential, params, z) + s * z - x


@hashable
def _newton(potential: Callable[..., Any]) -> Solver:
  """Inexact Newton steps for the residual above, the gradient of a convex function of z.

  The Hessian is positive semidefinite: conjugate gradients, a share of the identity that vanishes
  with the residual where it is singular, and halved steps until the residual's norm decreases or
  the objective still falls along the step. No differences of function values are taken: they would
  leave half of the digits only.
  """

  def init(params: Array, hyper: tuple, x: Array) -> _State:
    residual = _residual(potential, params, hyper, x)
    return _State(params, residual, norm(residual), jnp.zeros((), jnp.int32))

  def step(state: _State, hyper: tuple, x: Array) -> tuple[_State, _Info]:
    z, residual = state.params, state.residual
    of = lambda v: _residual(potential, v, hyper, x)
    product = jax.linearize(of, z)[1]
    size = norm(residual)
    share = jnp.minimum(safe_divide(size, state.first), 1).astype(x.dtype)
    unit = residual * safe_divide(1.0, size).astype(x.dtype)
    curvature = jnp.sum(unit * product(unit))
    is_flat = curvature <= 0  # a gradient step then
    damping = jnp.where(is_flat, 1, _DAMPING * share * curvature)
    forcing: Any = _FORCING * share + jnp.finfo(x.dtype).eps
    move = solve_cg(
      lambda v: product(v) + damping * v, -residual, tol=forcing,
      max_steps=min(10 * x.size, _MAX_PRODUCTS),
    )  # fmt: skip

    def shorter(line: tuple) -> tuple:
      t, tries, *_ = line
      t = jnp.where(tries == 0, t, t / 2)
      new = of(z + t * move)
      # Either the residual falls, or the minimum along the line is not passed yet.
      falls = norm(new) <= (1 - _DECREASE * t) * size
      return t, tries + 1, new, falls | (jnp.sum(new * move) < 0)

    first = (jnp.ones((), x.dtype), jnp.zeros((), jnp.int32), residual, jnp.zeros((), bool))
    t, _, new, good = jax.lax.while_loop(
      lambda line: ~line[3] & (line[1] <= _MAX_HALVINGS), shorter, first
    )
    z = jnp.where(good, z + t * move, z)
    new = jnp.where(good, new, residual)
    params, s = hyper
    error = jnp.maximum(norm(new), rounding(new + x) + rounding(x))
    value = (1 - s) * scalar_potential(potential, params, z) + jnp.sum((s / 2 * z - x) * z)
    moved = jnp.any(z != state.params)
    info = _Info(error, value.astype(error.dtype), ~good | ~moved)
    return _State(z, new, state.first, state.count + 1), info

  return Solver(init, step)


def _solve(
  potential: Callable[..., Any], params: PyTree, x: Array, s: ArrayLike, tol: Any, max_steps: Any
) -> tuple[Array, SolveInfo]:
  """z with (1 - s) grad psi(z) + s z = x, with derivatives in everything."""
  solver = _newton(potential)
  _checks.check_non_negative("tol", tol, scalar=True)

  def run(z: Array, hyper: tuple, x: Array) -> tuple[Array, SolveInfo]:
    size = norm(x)
    size = jnp.where(size > 0, size, norm(gradient_of(potential, hyper[0], x)))
    size = jnp.where(jnp.isfinite(size), size, 1)  # NaN in x is for the status to tell
    return run_until(solver, z, hyper, x, tol=tol * size, max_steps=max_steps)

  optimality = lambda z, hyper, x: _residual(potential, z, hyper, x)
  solve = implicit(run, optimality, linear_solve=solve_cg)
  return solve(x, (params, jnp.asarray(s, x.dtype)), x)


def _checked(potential: Any, x: ArrayLike) -> Array:
  _arguments.check_callable("potential", potential)
  array = _checks.check_float_array("x", x)
  if array.dtype not in (jnp.float32, jnp.float64):
    raise TypeError(f"x must be float32 or float64, for Newton's method; got {array.dtype}.")
  return array


def invert_potential(
  potential: Callable[..., Any],
  params: PyTree,
  x: ArrayLike,
  *,
  tol: ArrayLike = 1e-4,
  max_steps: ArrayLike = 100,
) -> tuple[Array, SolveInfo]:
  r"""Inverts a learned proximal operator f = grad psi: the y with f(y) = x.

  Minimises the convex function psi(y) - <x, y> from y = x by inexact Newton steps. The stopping
  quantity ``info.error`` is ||grad psi(y) - x||_2.

  Args:
    potential: ``potential(params, y) -> scalar``, convex and twice differentiable in y, such as
      ``nets.ICNN(...).apply``.
    params: its parameters, any pytree of arrays.
    x: float[...], one sample, float32 or float64; batches are for ``jax.vmap``.
    tol: >= 0, on the error relative to ||x||_2 (for x = 0 to ||grad psi(0)||_2); may be traced.
    max_steps: >= 0, Newton steps; may be traced.

  Returns:
    ``(y, info)`` with y like ``x`` and info a ``SolveInfo``. A potential with a quadratic term
    reaches every x; without one an x outside of the range of f ends with status 1 or 3.

  Raises:
    TypeError: when ``potential`` is not a function or not real, or x is not float32 or float64.
    ValueError: when the potential is no scalar, or ``tol`` or ``max_steps`` is negative.

  Note:
    A Newton step costs a few Hessian-vector products where the Hessian is well conditioned; where f
    is almost flat, as a denoiser is across its noise, up to as many as x has entries. Derivatives
    in x and params are implicit, in every mode and order.

  Example:
    >>> half = lambda a, y: 0.5 * jnp.sum(a * y**2)  # its gradient is a y
    >>> y, info = invert_potential(half, jnp.array(0.5), jnp.array([1.0, -3.0]))
    >>> [round(float(v), 3) for v in y], int(info.status)
    ([2.0, -6.0], 0)

  Reference:
    Fang, Buchanan and Sulam, What's in a prior? Learned proximal networks for inverse problems,
    2024 (evaluating the prior; they use conjugate gradients or Adam); Eisenstat and Walker,
    Globally convergent inexact Newton methods, 1994 (halving by the norm of the residual).
  """
  return _solve(potential, params, _checked(potential, x), 0.0, tol, max_steps)


def potential_regularizer(
  potential: Callable[..., Any],
  params: PyTree,
  x: ArrayLike,
  *,
  tol: ArrayLike = 1e-4,
  max_steps: ArrayLike = 100,
) -> tuple[Array, SolveInfo]:
  r"""The regulariser whose proximal operator is the gradient of a convex potential.

  R(x) = <y, x> - psi(y) - 1/2 ||x||_2^2 with grad psi(y) = x, and grad R(x) = y - x.

  Args:
    potential: ``potential(params, y) -> scalar``, convex and twice differentiable in y.
    params: its parameters, any pytree of arrays.
    x: float[...], one sample, float32 or float64; batches are for ``jax.vmap``.
    tol: >= 0, on ||grad psi(y) - x||_2 / ||x||_2; may be traced. The error of R is of the order of
      the square of that norm over the least curvature of psi.
    max_steps: >= 0, Newton steps; may be traced.

  Returns:
    ``(value, info)``: a scalar and the ``SolveInfo`` of the inversion. Where that did not converge
    the value is a lower bound, since R is the maximum over y of the formula.

  Raises:
    TypeError: when ``potential`` is not a function or not real, or x is not float32 or float64.
    ValueError: when the potential is no scalar, or ``tol`` or ``max_steps`` is negative.

  Note:
    A regulariser is known up to a constant: compare values of one potential. A trained network's R
    estimates -sigma^2 log p + constant for noise of variance sigma^2.

  Example:
    >>> half = lambda a, y: 0.5 * jnp.sum(a * y**2)  # f(y) = a y is the operator of a ridge
    >>> value, info = potential_regularizer(half, jnp.array(0.5), jnp.array([2.0, 0.0]))
    >>> round(float(value), 4)  # (1/a - 1)/2 ||x||^2
    2.0

  Reference:
    Fang, Buchanan and Sulam, What's in a prior? Learned proximal networks for inverse problems,
    2024 (equation of the prior); Gribonval and Nikolova, A characterization of proximity operators,
    2020, theorem 1.
  """
  x = _checked(potential, x)
  y, info = _solve(potential, params, x, 0.0, tol, max_steps)
  return jnp.sum((y - x / 2) * x) - scalar_potential(potential, params, y), info


def make_potential_penalty(
  potential: Callable[..., Any], *, tol: ArrayLike = 1e-4, max_steps: ArrayLike = 100
) -> Penalty:
  r"""The regulariser of a convex potential as a ``Penalty``, with operators of every step to 1.

  g(y) = R(y) of ``potential_regularizer``; for a step 0 < s <= 1 its operator solves
  argmin_y 1/2 ||y - x||_2^2 + s R(y), which is y = grad psi(z) with
  (1 - s) grad psi(z) + s z = x; s = 1 needs no solve.

  Args:
    potential: ``potential(params, y) -> scalar``, convex and twice differentiable in y.
    tol: >= 0, on the residual of a solve relative to ||x||_2; may be traced.
    max_steps: >= 0, Newton steps of a solve; may be traced.

  Returns:
    ``Penalty`` of one float array, whose hyper-parameters are the parameters of the potential. Its
    ``convex`` is False: R is 1-weakly convex only. A solve that ends early gives a lower bound as
    the value.

  Raises:
    TypeError: when ``potential`` is not a function.
    ValueError: when ``tol`` or ``max_steps`` is negative; the operator, when the scaling is above 1
      (beyond it the objective need not be convex; one that is traced gives NaN).

  Note:
    ``prox.make_prox_from_potential`` is for plug-and-play methods, which take grad psi itself at
    every step size and so weigh the regulariser by the step.

  Example:
    >>> penalty = make_potential_penalty(lambda a, y: 0.5 * jnp.sum(a * y**2))
    >>> round(float(penalty.prox(jnp.array(3.0), jnp.array(0.5), 0.5)), 3)  # x / (1 + 1/2)
    2.0

  Reference:
    Fang, Buchanan and Sulam, What's in a prior? Learned proximal networks for inverse problems,
    2024; the rule for steps below 1 is ours: the optimality condition with grad R(y) = z - y.
  """
  _arguments.check_callable("potential", potential)
  for name, number in (("tol", tol), ("max_steps", max_steps)):
    _checks.check_non_negative(name, number, scalar=True)

  def value(x: ArrayLike, hyperparams: Any = None) -> Array:
    return potential_regularizer(potential, hyperparams, x, tol=tol, max_steps=max_steps)[0]

  def prox(x: ArrayLike, hyperparams: Any = None, scaling: ArrayLike = 1.0) -> Array:
    _checks.check_interval("scaling", scaling, 0.0, 1.0, scalar=True)
    x = _checked(potential, x)
    s = jnp.asarray(scaling, x.dtype)
    inside = (s >= 0) & (s <= 1)
    z, _ = _solve(potential, hyperparams, x, jnp.where(inside, s, 1), tol, max_steps)
    y = jnp.where(s == 0, x, gradient_of(potential, hyperparams, z))
    return jnp.where(inside, y, jnp.nan)

  return Penalty(value, prox, convex=False)
