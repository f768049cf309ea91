"""Derivatives of a solution by the implicit function theorem, in every mode and order."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust._linear_solve import linear_solve as linear_system
from jaxopt_robust.solvers._common import stop_gradient, value_of
from jaxopt_robust.solvers.drive import run_state
from jaxopt_robust.solvers.linear import solve_gmres
from jaxopt_robust.solvers.types import CONTROL, SolveInfo, Solver
from jaxopt_robust.typing import Array, ArrayLike, Penalty, PyTree

__all__ = ["implicit", "implicit_fixed_point", "support_residual"]


def implicit(
  solve: Callable[..., tuple[PyTree, Any]],
  optimality: Callable[..., PyTree],
  *,
  linear_solve: Callable[[Callable, PyTree], PyTree] = solve_gmres,
) -> Callable[..., tuple[PyTree, Any]]:
  r"""Gives a solve the derivatives of its solution instead of those of its iterations.

  With ``F = optimality`` and ``F(x(h, d), h, d) = 0`` at the solution,

    dx = - (dF/dx)^{-1} (dF/dh dh + dF/dd dd),

  one linear solve with the Jacobian of F at the solution, forward or transposed. The rule is a
  ``jax.custom_jvp`` around ``jax.lax.custom_linear_solve``: forward mode, reverse mode and
  derivatives of derivatives work, and nothing of the iterations is stored.

  Args:
    solve: ``solve(params, hyper, *data, **named) -> (solution, info)``, for example a call of
      ``run_until``. Its starting point and its info get the derivative zero.
    optimality: ``optimality(solution, hyper, *data, **named) -> residual`` with the structure of
      the solution, zero at the solution: a gradient, or ``x - prox(x - s grad f(x))`` with the
      helper ``proximal_residual``.
    linear_solve: ``linear_solve(matvec, b) -> x``: ``solve_gmres`` (default, any square system),
      ``solve_cg`` (symmetric positive definite), ``solve_bicgstab`` or ``solve_dense``.

  Returns:
    A function with the signature of ``solve``.

  Raises:
    TypeError: when an argument is not a function.
    ValueError: when the residual does not have the structure and shapes of the solution.

  Note:
    Everything that is differentiated must be passed as ``hyper`` or ``data``, not closed over. The
    rule holds where F is differentiable; at a kink (a coefficient exactly at its threshold) it
    returns the derivative of the branch that F takes. It is as accurate as the solve is: an error
    e in the solution leaves an error of order e in the derivative.

  Example:
    >>> def solve(x, h, b):
    ...   return b / h, None
    >>> root = implicit(solve, lambda x, h, b: h * x - b)
    >>> float(jax.grad(lambda h: root(jnp.zeros(1), h, jnp.ones(1))[0].sum())(2.0))
    -0.25

  Reference:
    Blondel et al., Efficient and modular implicit differentiation, 2022, equation 2; the forward
    form as in Rader, Lyons and Kidger, Optimistix, 2024.
  """
  _arguments.check_callable("solve", solve)
  _arguments.check_callable("optimality", optimality)
  _arguments.check_callable("linear_solve", linear_solve)

  @jax.custom_jvp
  def attach(solution: PyTree, hyper: PyTree, data: tuple, named: dict) -> PyTree:
    del hyper, data, named
    return solution

  @attach.defjvp
  def _rule(primals: tuple, tangents: tuple) -> tuple[PyTree, PyTree]:
    solution, *given = primals
    # Attached again, so that a second derivative sees x as a function of the hyper-parameters.
    x = attach(solution, *given)
    residual, forcing = jax.jvp(
      lambda h, d, n: optimality(x, h, *d, **n), tuple(given), tuple(tangents[1:])
    )
    _checks.check_same_structure("the residual of optimality", residual, "the solution", x)
    hyper, data, named = given

    def jacobian(v: PyTree) -> PyTree:
      return jax.jvp(lambda p: optimality(p, hyper, *data, **named), (x,), (v,))[1]

    right = jax.tree.map(jnp.negative, forcing)
    x_dot = linear_system(jacobian, right, linear_solve, depends_on=(x, given))
    return x, x_dot

  def solve_with_implicit_derivative(
    params: PyTree, hyper: PyTree, *data: PyTree, **named: PyTree
  ) -> tuple[PyTree, Any]:
    params = _checks.check_float_tree("params", params)
    hyper, data, named = jax.tree.map(jnp.asarray, (hyper, data, named))
    fixed_hyper, fixed_data, fixed_named = stop_gradient((hyper, data, named))
    solution, info = solve(stop_gradient(params), fixed_hyper, *fixed_data, **fixed_named)
    return attach(stop_gradient(solution), hyper, data, named), info

  return solve_with_implicit_derivative


def implicit_fixed_point(
  solver: Solver,
  *,
  tol: ArrayLike,
  max_steps: ArrayLike,
  linear_solve: Callable[[Callable, PyTree], PyTree] = solve_gmres,
) -> Callable[..., tuple[Any, SolveInfo]]:
  r"""A solve by any method whose step has a fixed point, with the derivatives of that fixed point.

  With T the step as a map of the state, x = T(x; h, d) at the solution, and

    dx = (I - dT/dx)^{-1} (dT/dh dh + dT/dd dd),

  by ``implicit``. Nothing but the solver is needed: no optimality condition has to be written for a
  splitting method, and its multipliers get derivatives too.

  Args:
    solver: a method whose state comes to rest: ``ista``, ``projected_gradient``,
      ``mirror_descent``, ``block_coordinate_descent``, ``douglas_rachford``, ``davis_yin``,
      ``admm`` without balancing, ``chambolle_pock``, ``condat_vu``, ``fixed_point_iteration``.
      Methods with momentum or memory have no such T: use ``implicit`` with their optimality
      condition.
    tol: >= 0, as in ``run_until``; an error e of the solution leaves one of order e in the
      derivative.
    max_steps: >= 0, as in ``run_until``.
    linear_solve: as in ``implicit``; the system is not symmetric.

  Returns:
    ``solve(params, hyper, *data, **named) -> (state, info)``; ``state.params`` is the solution.

  Raises:
    TypeError: when ``solver`` is no ``Solver``, or ``linear_solve`` not a function.
    ValueError: when ``tol`` or ``max_steps`` is negative.

  Note:
    Step sizes and weights are constants for the derivative, also where they are traced. Where a
    dual solution is not unique the system is singular but solvable; GMRES handles it,
    ``solve_dense`` does not.

  Example:
    >>> solver = jr.solvers.douglas_rachford(jr.prox.prox_least_squares, jr.prox.prox_lasso)
    >>> solve = implicit_fixed_point(solver, tol=1e-6, max_steps=100)
    >>> A, b = jnp.eye(2), jnp.array([3.0, 0.5])
    >>> jacobian = jax.jacobian(lambda lam: solve(jnp.zeros(2), ((A, b), lam))[0].params)
    >>> abs(jacobian(1.0)).round(3)
    Array([1., 0.], dtype=float32)

  Reference:
    Blondel et al., Efficient and modular implicit differentiation, 2022, section 2.2 (fixed
    points); Bolte, Le, Pauwels and Silveti-Falls, Nonsmooth implicit differentiation for
    machine-learning and optimization, 2021 (why the rule holds for non-smooth T).
  """
  _arguments.check_solver("solver", solver)
  _arguments.check_callable("linear_solve", linear_solve)
  _checks.check_non_negative("tol", tol, scalar=True)
  _checks.check_non_negative("max_steps", max_steps, scalar=True)

  def moving(state: Any) -> dict[str, PyTree]:
    return {k: v for k, v in state._asdict().items() if k not in CONTROL}

  def solve(params: PyTree, hyper: PyTree, *data: PyTree, **named: PyTree) -> tuple[Any, SolveInfo]:
    params = _checks.check_float_tree("params", params)
    fixed_hyper, fixed_data, fixed_named = stop_gradient((hyper, data, named))
    start = solver.init(stop_gradient(params), fixed_hyper, *fixed_data, **fixed_named)
    state, info = stop_gradient(
      run_state(
        solver, start, fixed_hyper, *fixed_data, tol=tol, max_steps=max_steps, **fixed_named
      )
    )

    def residual(point: dict, hyper: PyTree, *data: PyTree, **named: PyTree) -> dict:
      image, _ = solver.step(state._replace(**point), hyper, *data, **named)
      return jax.tree.map(jnp.subtract, point, moving(image))

    attach = implicit(lambda p, *_, **__: (p, None), residual, linear_solve=linear_solve)
    point, _ = attach(moving(state), hyper, *data, **named)
    return state._replace(**point), info

  return solve


def support_residual(
  fun: Callable[..., Array],
  penalty: Penalty,
  *,
  support: Callable[[PyTree], PyTree] | None = None,
  has_aux: bool = False,
) -> Callable[..., PyTree]:
  r"""Stationarity on the support of a sparse solution, as a residual for ``implicit``.

  F(x)_j = d/dx_j (f(x) + g(x; hyper)) where j is in the support, x_j elsewhere. On its support the
  penalty of a sparse solution is smooth, so that the Jacobian of F is the masked Hessian
  m H m + (1 - m) I: symmetric, positive definite where the solution is unique, and as well
  conditioned as the columns of the support are. ``solve_cg`` solves it in as many products as the
  support has entries.

  Args:
    fun: ``fun(params, *data) -> scalar``, the smooth part f.
    penalty: ``Penalty(value, prox)`` whose value is smooth on the support: l1, elastic net, MCP,
      SCAD, l_q, group penalties, ...
    support: ``support(params) -> mask`` of booleans like ``params``; None: the entries that are not
      0. For bounds give the free ones, ``lambda x: (x > low) & (x < high)``.
    has_aux: whether ``fun`` returns a pair ``(scalar, aux)``.

  Returns:
    ``residual(params, hyper, *data, **named) -> params_like`` for
    ``implicit(solve, residual, linear_solve=solve_cg)``.

  Raises:
    TypeError: when ``fun`` is not a function or ``penalty`` no ``Penalty``.

  Note:
    The support of the solution must be found exactly: a solve that returns small numbers instead
    of zeros (a mixed or averaged iterate) makes it too large. The rule holds where the support does
    not change, that is not exactly at a threshold.

  Example:
    >>> fun = lambda x, b: 0.5 * jnp.sum((x - b) ** 2)
    >>> solve = lambda x, lam, b: (jr.prox.prox_lasso(b, lam), None)
    >>> exact = jr.solvers.implicit(
    ...   solve, support_residual(fun, jr.prox.lasso), linear_solve=jr.solvers.solve_cg)
    >>> b, lam = jnp.array([3.0, 0.5]), jnp.array(1.0)
    >>> jax.jacobian(lambda lam: exact(jnp.zeros(2), lam, b)[0])(lam).tolist()
    [-1.0, 0.0]

  Reference:
    Bertrand, Klopfenstein, Massias, Blondel, Vaiter, Gramfort and Salmon, Implicit differentiation
    for fast hyperparameter selection in non-smooth convex learning, 2022, theorem 9.
  """
  _arguments.check_callable("fun", fun)
  _arguments.check_penalty("penalty", penalty)
  if support is not None:
    _arguments.check_callable("support", support)

  value = value_of(fun, has_aux)

  def residual(params: PyTree, hyper: PyTree, *data: PyTree, **named: PyTree) -> PyTree:
    mask = jax.tree.map(lambda x: x != 0, params) if support is None else support(params)
    # Off the support x is a constant: its columns are those of the identity.
    fixed = jax.tree.map(lambda m, x: jnp.where(m, x, jax.lax.stop_gradient(x)), mask, params)
    grad = jax.grad(lambda x: value(x, *data, **named) + penalty.value(x, hyper))(fixed)
    return jax.tree.map(jnp.where, mask, grad, params)

  return residual
