"""Derivatives of a solution by the implicit function theorem, in every mode and order."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.solvers.linear import solve_gmres
from jaxopt_robust.typing import PyTree

__all__ = ["implicit"]


def _is_inexact(leaf: Any) -> bool:
  return jnp.issubdtype(jnp.result_type(leaf), jnp.inexact)


def _stop(tree: PyTree) -> PyTree:
  return jax.tree.map(lambda x: jax.lax.stop_gradient(x) if _is_inexact(x) else x, tree)


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
    solve: ``solve(params, hyper, *data) -> (solution, info)``, for example a call of ``run_until``.
      Its starting point and its info get the derivative zero.
    optimality: ``optimality(solution, hyper, *data) -> residual`` with the structure of the
      solution, zero at the solution: a gradient, or ``x - prox(x - s grad f(x))`` with the helper
      ``proximal_residual``.
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
  _checks.check_callable("solve", solve)
  _checks.check_callable("optimality", optimality)
  _checks.check_callable("linear_solve", linear_solve)

  @jax.custom_jvp
  def attach(solution: PyTree, hyper: PyTree, data: tuple) -> PyTree:
    del hyper, data
    return solution

  @attach.defjvp
  def _rule(primals: tuple, tangents: tuple) -> tuple[PyTree, PyTree]:
    solution, hyper, data = primals
    _, hyper_dot, data_dot = tangents
    # Attached again, so that a second derivative sees x as a function of the hyper-parameters.
    x = attach(solution, hyper, data)
    residual, forcing = jax.jvp(
      lambda h, d: optimality(x, h, *d), (hyper, data), (hyper_dot, data_dot)
    )
    _checks.check_same_structure("the residual of optimality", residual, "the solution", x)

    def jacobian(v: PyTree) -> PyTree:
      return jax.jvp(lambda p: optimality(p, hyper, *data), (x,), (v,))[1]

    x_dot = jax.lax.custom_linear_solve(
      jacobian, jax.tree.map(jnp.negative, forcing), linear_solve, transpose_solve=linear_solve
    )
    return x, x_dot

  def solve_with_implicit_derivative(
    params: PyTree, hyper: PyTree, *data: PyTree
  ) -> tuple[PyTree, Any]:
    params = _checks.check_float_tree("params", params)
    as_arrays = lambda tree: jax.tree.map(jnp.asarray, tree)
    hyper, data = as_arrays(hyper), as_arrays(data)
    solution, info = solve(_stop(params), _stop(hyper), *_stop(data))
    return attach(_stop(solution), hyper, data), info

  return solve_with_implicit_derivative
