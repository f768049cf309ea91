"""Gradients of f(y*(x), x) through the minimiser y*(x) of an inner objective."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import _arguments, _checks
from jaxopt_robust._units import in_units, tree_norm
from jaxopt_robust.bilevel.error_bounds import (
  BilevelConstants,
  bound_of,
  check_constants,
)
from jaxopt_robust.bilevel.products import (
  SecondOrderProducts,
  inner_arguments,
  product_at,
  scalar_of,
  second_order_products,
)
from jaxopt_robust.numerics import tree_all_finite
from jaxopt_robust.solvers import (
  CONVERGED,
  NON_FINITE,
  STEP_LIMIT,
  Solver,
  conjugate_gradient,
  run_state,
  solve_gmres,
)
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = [
  "HypergradientInfo",
  "fixed_point_hypergradient",
  "hypergradient",
  "unrolled_hypergradient",
]


class HypergradientInfo(NamedTuple):
  """What a hypergradient was computed from, and how good it is.

  Attributes:
    value: f(y, x) at the inner variable given.
    adjoint: v, like y, the solution of the linear system; warm start of the next one.
    residual: ||H v - grad_y f||_2 (of the fixed-point system: ||(I - dT/dy)^T v - grad_y f||_2),
      computed from v, not from a recursion.
    inner_gradient: ||grad_y g(y, x)||_2 (of the fixed-point system: ||T(y, x) - y||_2).
    outer_gradient: ||grad_y f(y, x)||_2.
    steps: int32, products of the solve, that of its start among them; -1 where it does not count.
    status: int32, 0 the residual is at most the tolerance, 1 not so, 2 a number is not finite, of
      the gradient, the solution, f or the inner gradient.
    bound: on the distance from the exact hypergradient, by ``hypergradient_bound``; infinite where
      the constants were not given.
  """

  value: Array
  adjoint: PyTree
  residual: Array
  inner_gradient: Array
  outer_gradient: Array
  steps: Array
  status: Array
  bound: Array


def _subtract(a: PyTree, b: PyTree) -> PyTree:
  return jax.tree.map(jnp.subtract, a, b)


def _mask_of(mask: PyTree, y: PyTree) -> PyTree:
  given: Any = jax.tree.structure(mask)
  if given != jax.tree.structure(y):
    raise ValueError(f"support(y) must be a mask like y; got {given}.")
  check = lambda m, leaf: _checks.check_mask("support(y)", m, shape=leaf.shape)
  return jax.tree.map(check, mask, y)


def _status(residual: Array, tolerance: Array, tree: PyTree) -> Array:
  status = jnp.where(residual <= tolerance, CONVERGED, STEP_LIMIT)
  return jnp.where(tree_all_finite((tree, residual)), status, NON_FINITE).astype(jnp.int32)


def _solve(
  matvec: Callable[[PyTree], PyTree],
  b: PyTree,
  start: PyTree | None,
  linear_solve: Callable[[Callable, PyTree], PyTree] | None,
  tolerance: Array,
  max_steps: ArrayLike | None,
) -> tuple[PyTree, Array]:
  """The solution and the number of products, -1 where it is not counted."""
  size = sum(leaf.size for leaf in jax.tree.leaves(b))
  if linear_solve is None:
    limit = 10 * size if max_steps is None else max_steps
    zero = jax.tree.map(jnp.zeros_like, b) if start is None else start
    solver = conjugate_gradient(matvec)
    state = solver.init(zero, None, b)
    good = state.unit * tree_norm(state.residual) <= tolerance  # a warm start may need no step
    limit = jnp.where(good, 0, jnp.asarray(limit))
    reached = jnp.where(jnp.isnan(tolerance), 0, tolerance)  # NaN ends the run as such
    state, info = run_state(solver, state, None, b, tol=reached, max_steps=limit)
    return state.params, info.steps + 1
  _arguments.check_callable("linear_solve", linear_solve)
  uncounted = jnp.full((), -1, jnp.int32)
  if start is None:
    return linear_solve(matvec, b), uncounted
  correction = linear_solve(matvec, _subtract(b, matvec(start)))
  return jax.tree.map(jnp.add, start, correction), uncounted


def hypergradient(
  inner: Callable[..., Any],
  outer: Callable[..., Any],
  y: PyTree,
  x: PyTree,
  *data: PyTree,
  adjoint: PyTree | None = None,
  linear_solve: Callable[[Callable, PyTree], PyTree] | None = None,
  products: Callable[..., SecondOrderProducts] = second_order_products,
  support: Callable[[PyTree], PyTree] | None = None,
  tol: ArrayLike = 1e-5,
  atol: ArrayLike = 0.0,
  max_steps: ArrayLike | None = None,
  constants: BilevelConstants | None = None,
) -> tuple[PyTree, HypergradientInfo]:
  r"""Implicit hypergradient: of F(x) = f(y*(x), x), y*(x) = argmin_y g(y, x), at an approximate y.

    grad = grad_x f(y, x) - B^T v,   H v = grad_y f(y, x),
    H = grad_yy g(y, x),   B = d(grad_y g(y, x))/dx.

  It is exact at y = y*(x) and for an exact v; ``info`` tells how far both are off. The inner
  problem is yours to solve, by any means: nothing of its iterations is differentiated.

  Args:
    inner: ``inner(y, x, *data) -> scalar``, g, twice differentiable; its Hessian in y must be
      positive definite for the default solve.
    outer: ``outer(y, x, *data) -> scalar``, f.
    y: pytree of float arrays, near y*(x).
    x: pytree of float arrays, the outer variable.
    *data: what both objectives take.
    adjoint: v of the last call, where the solve starts; None starts at 0.
    linear_solve: ``linear_solve(matvec, b) -> v``: ``solvers.solve_gmres``, ``solve_bicgstab``,
      ``solve_dense``, ``solve_neumann`` or ``bilevel.solve_random_neumann`` with its settings
      bound. None: conjugate gradients that count their steps.
    products: ``products(inner, y, x, v, *data)``: ``second_order_products`` or
      ``finite_difference_products``.
    support: ``support(y) -> mask`` of booleans like y, for an inner objective that is smooth on the
      support of its sparse solution only: ``lambda y: y != 0``. The system is masked,
      (m H m + (1 - m) I) v = m grad_y f. None: all of y.
    tol: >= 0, residual relative to ||grad_y f||_2, on the support, at which conjugate gradients
      stop.
    atol: >= 0, absolute residual; the larger of both counts. For an absolute criterion set tol = 0.
    max_steps: >= 0, of conjugate gradients; None: ten times the size of y.
    constants: ``BilevelConstants``, for ``info.bound``.

  Returns:
    ``(grad, info)``: a pytree like x and ``HypergradientInfo``.

  Raises:
    TypeError: when an objective or solve is not a function, a tree holds anything but numbers, or
      ``support`` returns anything but booleans.
    ValueError: when an objective is no scalar, or ``adjoint`` or the mask is not like y.

  Note:
    With one Neumann term and step s, v = s grad_y f: one-step (Jacobian-free) differentiation of a
    gradient step. A Newton step of one-step differentiation is exact. Conjugate gradients in
    float32 do not reach relative residuals below about 1e-6. The default solve is differentiable in
    forward mode; give ``solvers.solve_cg`` where the hypergradient itself is differentiated.

  Example:
    >>> inner = lambda y, x: 0.5 * jnp.sum((y - 1.0) ** 2) + 0.5 * x * jnp.sum(y**2)  # ridge
    >>> outer = lambda y, x: jnp.sum(y)
    >>> grad, info = hypergradient(inner, outer, jnp.array([0.5]), jnp.array(1.0))
    >>> float(grad), int(info.status)  # y* = 1 / (1 + x), so -1 / (1 + x)^2
    (-0.25, 0)

  Reference:
    Pedregosa, Hyperparameter optimization with approximate gradient, 2016; Bengio, Gradient-based
    optimization of hyperparameters, 2000; masks: Bertrand, Klopfenstein, Massias, Blondel, Vaiter,
    Gramfort and Salmon, Implicit differentiation for fast hyperparameter selection in non-smooth
    convex learning, 2022.
  """
  value_of = scalar_of("outer", outer)
  y, x, v = inner_arguments(y, x, y if adjoint is None else adjoint, "adjoint")
  start = None if adjoint is None else v
  _arguments.check_callable("products", products)
  for name, number in (("tol", tol), ("atol", atol)):
    _checks.check_non_negative(name, number, scalar=True)
  value, (outer_y, outer_x) = jax.value_and_grad(value_of, argnums=(0, 1))(y, x, *data)
  if support is not None:
    _arguments.check_callable("support", support)
    mask = _mask_of(support(y), y)
    on = lambda tree: jax.tree.map(lambda m, leaf: jnp.where(m, leaf, 0), mask, tree)
  else:
    on = lambda tree: tree

  product = product_at(products, inner, y, x, *data)

  def system(v: PyTree) -> tuple[PyTree, PyTree]:
    """m H m v + (1 - m) v, and B^T m v."""
    inside = on(v)
    found = product(inside)
    image = jax.tree.map(lambda h, v, w: h + (v - w), on(found.hessian), v, inside)
    return image, found.cross

  right = on(outer_y)
  size, reach = tree_norm(outer_y), tree_norm(right)
  tolerance = jnp.maximum(jnp.asarray(tol, size.dtype) * reach, jnp.asarray(atol, size.dtype))
  if start is not None:  # of 0 the solution is 0, which rounding hides from any other start
    start = jax.tree.map(lambda a: jnp.where(reach == 0, 0, a), start)
  matvec = lambda v: system(v)[0]
  v, steps = _solve(matvec, right, start, linear_solve, tolerance, max_steps)
  image, cross = system(v)
  grad = _subtract(outer_x, cross)
  inner_y = jax.grad(scalar_of("inner", inner))(y, x, *data)
  residual = tree_norm(_subtract(image, right))
  inner_size = tree_norm(on(inner_y))
  bound = jnp.full_like(residual, jnp.inf)
  if constants is not None:
    check_constants(constants)
    distance = inner_size / jnp.asarray(constants.strong_convexity, inner_size.dtype)
    bound = bound_of(distance, residual, size, constants).astype(residual.dtype)
  status = _status(residual, tolerance, (grad, v, value, inner_size))
  return grad, HypergradientInfo(value, v, residual, inner_size, size, steps, status, bound)


def next_change(
  inner: Callable[..., Any], outer: Callable[..., Any], y: PyTree, x: PyTree, v: PyTree, data: tuple
) -> Array:
  """By how much one more step of conjugate gradients would change the hypergradient.

  ||B^T a r||_2 with r = grad_y f - H v, a = ||r||^2 / <r, H r>: what was left out where the linear
  system was hardly solved. Infinite along a direction of no positive curvature.
  """
  product = product_at(second_order_products, inner, y, x, *data)
  left = _subtract(jax.grad(scalar_of("outer", outer))(y, x, *data), product(v).hessian)
  scaled, unit = in_units(left)
  found = product(jax.tree.map(lambda a, b: a.astype(b.dtype), scaled, left))
  square = optax.tree.vdot(scaled, scaled)
  curvature = optax.tree.vdot(scaled, found.hessian)
  good = (curvature > 0) | jnp.isnan(curvature)
  step = jnp.where(good, square / jnp.where(good, curvature, 1), jnp.inf)
  cross = tree_norm(found.cross)
  return jnp.where(square == 0, 0, unit * step * jnp.where(good, cross, 1))


def fixed_point_hypergradient(
  fixed_point: Callable[..., PyTree],
  outer: Callable[..., Any],
  y: PyTree,
  x: PyTree,
  *data: PyTree,
  adjoint: PyTree | None = None,
  linear_solve: Callable[[Callable, PyTree], PyTree] = solve_gmres,
  tol: ArrayLike = 1e-5,
) -> tuple[PyTree, HypergradientInfo]:
  r"""Hypergradient through a fixed point y*(x) = T(y*(x), x), such as a proximal gradient step.

    grad = grad_x f(y, x) + (dT/dx)^T v,   (I - dT/dy)^T v = grad_y f(y, x).

  Args:
    fixed_point: ``fixed_point(y, x, *data) -> y_like``, T, differentiable at y.
    outer: ``outer(y, x, *data) -> scalar``, f.
    y: pytree of float arrays, near the fixed point.
    x: pytree of float arrays, the outer variable.
    *data: what both take.
    adjoint: v of the last call, where the solve starts; None starts at 0.
    linear_solve: ``linear_solve(matvec, b) -> v`` for a system that is not symmetric: GMRES by
      default. ``functools.partial(solvers.solve_neumann, num_terms=0)`` is one-step
      differentiation, more terms are as many steps.
    tol: >= 0, relative residual at which ``info.status`` is 0; the solve has its own.

  Returns:
    ``(grad, info)``: a pytree like x and ``HypergradientInfo``.

  Raises:
    TypeError: when an argument is not a function, or a tree holds anything but numbers.
    ValueError: when T does not return what is like y, or ``outer`` is no scalar.

  Note:
    Conjugate gradients converge to wrong numbers here without any sign, since the system is not
    symmetric. At a threshold T has no derivative; that of the branch it takes is used.

  Example:
    >>> step = lambda y, x: jr.prox.prox_lasso(y - 0.5 * (y - 3.0), x, 0.5)
    >>> outer = lambda y, x: jnp.sum(y)
    >>> grad, info = fixed_point_hypergradient(step, outer, jnp.array([2.0]), jnp.array(1.0))
    >>> float(grad.round(4)), int(info.status)  # y* = 3 - x
    (-1.0, 0)

  Reference:
    Blondel et al., Efficient and modular implicit differentiation, 2022; Grazzi, Franceschi, Pontil
    and Salzo, On the iteration complexity of hypergradient computation, 2020; one step: Bolte,
    Pauwels and Vaiter, One-step differentiation of iterative algorithms, 2023.
  """
  value_of = scalar_of("outer", outer)
  _arguments.check_callable("fixed_point", fixed_point)
  y, x, v = inner_arguments(y, x, y if adjoint is None else adjoint, "adjoint")
  start = None if adjoint is None else v
  _checks.check_non_negative("tol", tol, scalar=True)
  value, (outer_y, outer_x) = jax.value_and_grad(value_of, argnums=(0, 1))(y, x, *data)
  image, pull = jax.vjp(lambda y, x: fixed_point(y, x, *data), y, x)
  _checks.check_same_structure("fixed_point(y, x)", image, "y", y)
  matvec = lambda v: _subtract(v, pull(v)[0])
  size = tree_norm(outer_y)
  tolerance = jnp.asarray(tol, size.dtype) * size
  v, steps = _solve(matvec, outer_y, start, linear_solve, tolerance, None)
  grad = jax.tree.map(jnp.add, outer_x, pull(v)[1])
  residual = tree_norm(_subtract(matvec(v), outer_y))
  moved = tree_norm(_subtract(image, y))
  bound = jnp.full_like(residual, jnp.inf)
  status = _status(residual, tolerance, (grad, v, value, moved))
  return grad, HypergradientInfo(value, v, residual, moved, size, steps, status, bound)


def unrolled_hypergradient(
  solver: Solver,
  outer: Callable[..., Any],
  y: PyTree,
  x: PyTree,
  *data: PyTree,
  num_steps: int,
  last: int | None = None,
  checkpoint: bool = False,
) -> tuple[PyTree, PyTree]:
  r"""Hypergradient by differentiating the iterations of a solver, or the last of them.

  With y_K(x) the iterate after K steps from y, the gradient of f(y_K(x), x); with ``last`` = k the
  first K - k steps count as constants (truncated back-propagation).

  Args:
    solver: ``Solver`` whose hyper is x: ``step(state, x, *data)``, such as
      ``solvers.ista(lambda y, *data: ..., prox, stepsize=...)`` where x is the strength.
    outer: ``outer(y, x, *data) -> scalar``, f.
    y: pytree of float arrays, where the iterations start; a constant.
    x: pytree of float arrays, the outer variable.
    *data: what the solver and f take.
    num_steps: K >= 1, static.
    last: k, static, 1 <= k <= K; None: all steps.
    checkpoint: static; steps are computed again in the backward pass instead of stored: memory for
      the iterates alone.

  Returns:
    ``(grad, y_K)``.

  Raises:
    TypeError: when ``solver`` is no solver, or ``outer`` not a function.
    ValueError: when ``last`` is not between 1 and ``num_steps``, or ``outer`` is no scalar.

  Note:
    Converges to the implicit hypergradient at the rate of the iterations; for gradient steps on a
    quadratic see ``unrolled_bound``. k steps at the solution equal a Neumann series of k terms.

  Example:
    >>> solver = jr.solvers.ista(lambda y: 0.5 * jnp.sum((y - 3.0) ** 2), jr.prox.prox_lasso,
    ...                          stepsize=0.5)
    >>> grad, y = unrolled_hypergradient(
    ...   solver, lambda y, x: jnp.sum(y), jnp.zeros(1), jnp.array(1.0), num_steps=30)
    >>> float(grad.round(4)), y.round(4)
    (-1.0, Array([2.], dtype=float32))

  Reference:
    Franceschi, Donini, Frasconi and Pontil, Forward and reverse gradient-based hyperparameter
    optimization, 2017; Shaban, Cheng, Hatch and Boots, Truncated back-propagation for bilevel
    optimization, 2019.
  """
  _arguments.check_solver("solver", solver)
  value_of = scalar_of("outer", outer)
  y = _checks.check_float_tree("y", y)
  x = _checks.check_float_tree("x", x)
  num_steps = _checks.check_int("num_steps", num_steps, minimum=1)
  last = num_steps if last is None else _checks.check_int("last", last, minimum=1)
  if last > num_steps:
    raise ValueError(f"last must be at most num_steps, {num_steps}; got {last}.")

  def run(x: PyTree, state: Any, count: int) -> Any:
    step = lambda state, _: (solver.step(state, x, *data)[0], None)
    step = jax.checkpoint(step, prevent_cse=False) if checkpoint else step
    return jax.lax.scan(step, state, None, length=count)[0]

  first = num_steps - last

  def final(x: PyTree) -> tuple[Array, PyTree]:
    if first:
      fixed = jax.lax.stop_gradient(x)
      start = jax.lax.stop_gradient(run(fixed, solver.init(y, fixed, *data), first))
    else:
      start = solver.init(y, x, *data)
    out = run(x, start, last).params
    return value_of(out, x, *data), out

  grad, out = jax.grad(final, has_aux=True)(x)
  return grad, out
