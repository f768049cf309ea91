"""Any solver as a network: its steps with parameters a layer, or its fixed point as one layer."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks, solvers
from jaxopt_robust.solvers import ADMMState, SolveInfo, Solver
from jaxopt_robust.solvers.types import CONTROL
from jaxopt_robust.typing import ArrayLike, PyTree
from jaxopt_robust.unfolding.engine import count_layers, scan_layers

__all__ = ["unfold_equilibrium", "unfold_solver"]


def unfold_solver(
  make_solver: Callable[[Any], Solver],
  layers: PyTree,
  params: PyTree,
  hyper: PyTree | Callable[[Any], PyTree],
  *data: PyTree,
  depth: ArrayLike | None = None,
  checkpoint: int | None = None,
  **named: PyTree,
) -> tuple[PyTree, Any]:
  r"""Steps of a solver as layers: step sizes, weights and penalties are learned for each step.

    state_k, info_k = make_solver(layers[k]).step(state_{k-1}, hyper, *data),  k = 1, ..., K,

  where the step sizes and the weight of an augmented Lagrangian in the state are those of layer k's
  own solver. The scaled multiplier of ``admm`` is rescaled where its weight changes, so that the
  multiplier itself stays.

  Args:
    make_solver: ``make_solver(layer) -> Solver``; all layers have states of one structure. Step
      sizes must be given, not searched for.
    layers: pytree of float arrays with a common leading axis of the K layers.
    params: pytree of float arrays, the start.
    hyper: what the steps take as ``hyper``, or a function ``layer -> hyper``.
    *data: pytrees that the objective needs; the same for all layers.
    depth: as in ``unfold``. Layers beyond it report zeros.
    checkpoint: as in ``unfold``.
    **named: data by keyword.

  Returns:
    ``(params, infos)``: the last iterate, and the infos of all steps with a leading axis of K.

  Raises:
    TypeError: when ``make_solver`` returns no ``Solver``, or ``layers`` or ``params`` hold anything
      but numbers.
    ValueError: when ``layers`` have no common leading axis, ``checkpoint`` does not divide it, or
      ``depth`` is negative.

  Note:
    With equal layers this is ``solvers.run_steps``. Step sizes should be positive: see
    ``to_positive``. Differentiable in both modes.

  Example:
    >>> fun = lambda x, b: 0.5 * jnp.sum((x - b) ** 2)
    >>> make = lambda step: jr.solvers.ista(fun, jr.prox.prox_lasso, stepsize=step)
    >>> b = jnp.array([3.0, 0.5])
    >>> x, infos = unfold_solver(make, jnp.array([0.5, 1.0]), jnp.zeros(2), 1.0, b)
    >>> x, infos.error.shape
    (Array([2., 0.], dtype=float32), (2,))

  Reference:
    Monga, Li and Eldar, Algorithm unrolling: interpretable, efficient deep learning for signal and
    image processing, 2021; Yang, Sun, Li and Xu, Deep ADMM-Net for compressive sensing MRI, 2016.
  """
  _arguments.check_callable("make_solver", make_solver)
  num_layers = count_layers("layers", layers)
  layers = _checks.check_float_tree("layers", layers)
  params = _checks.check_float_tree("params", params, complex_ok=True)
  if not callable(hyper):
    hyper = jax.tree.map(lambda leaf: _checks.as_array("hyper", leaf), hyper)

  def solver_of(layer: Any) -> Solver:
    with _arguments.within("layers"):
      solver = make_solver(layer)
      _arguments.check_solver("make_solver(layer)", solver)
    return solver

  def hyper_of(layer: Any) -> PyTree:
    return hyper(layer) if callable(hyper) else hyper

  def strong(tree: PyTree) -> PyTree:
    """Without weak types, which a scan does not carry."""
    return jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, leaf.dtype), tree)

  def body(state: Any, layer: Any) -> tuple[Any, Any]:
    solver, here = solver_of(layer), hyper_of(layer)
    fresh = solver.init(state.params, here, *data, **named)
    own = [name for name in CONTROL if name != "count" and hasattr(state, name)]
    moved = state._replace(**{name: getattr(fresh, name) for name in own})
    if isinstance(state, ADMMState):
      factor = state.weight / moved.weight
      moved = moved._replace(dual=jax.tree.map(lambda u: u * factor.astype(u.dtype), state.dual))
    moved, info = solver.step(moved, here, *data, **named)
    return strong(moved), info

  first = jax.tree.map(lambda leaf: leaf[0], layers)
  state = strong(solver_of(first).init(params, hyper_of(first), *data, **named))
  _, shapes = jax.eval_shape(body, state, first)

  def nothing(_: Any) -> Any:
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

  state, infos = scan_layers(body, nothing, state, layers, num_layers, depth, checkpoint)
  return state.params, infos


def unfold_equilibrium(
  cell: Callable[..., PyTree],
  layer: PyTree,
  x: PyTree,
  *data: PyTree,
  tol: ArrayLike,
  max_steps: ArrayLike,
  linear_solve: Callable[[Callable, PyTree], PyTree] = solvers.solve_gmres,
) -> tuple[PyTree, SolveInfo]:
  r"""A network of infinitely many equal layers: the fixed point of a cell, differentiated as such.

  Finds x = cell(x, layer, *data) by iteration. Its derivative comes from the implicit function
  theorem (``solvers.implicit_fixed_point``), in both modes: nothing of the iterations is stored.

  Args:
    cell: ``cell(x, layer, *data) -> x_like``, a map whose iteration converges, such as
      ``ista_cell`` with a step below 2/L.
    layer: pytree, the parameters of one layer.
    x: pytree of float arrays, the start. Give one example, and ``vmap`` over more: otherwise the
      linear system holds all of them.
    *data: pytrees that the cell needs.
    tol: >= 0, bound of ||cell(x) - x||_2; an error e of the solution leaves one of order e in the
      derivative.
    max_steps: >= 0, limit of the iterations.
    linear_solve: as in ``solvers.implicit``.

  Returns:
    ``(x, info)`` with ``info`` a ``SolveInfo``: its ``status`` says whether x is a fixed point.

  Raises:
    TypeError: when ``cell`` is not a function, or ``x`` holds anything but numbers.
    ValueError: when the cell does not return the structure and shapes of x, or a number is out of
      range.

  Note:
    A solution alone gives no gradient to parameters that do not move it: at a fixed point of ISTA
    the step and the threshold g lam act through their quotient lam only.

  Example:
    >>> data = jr.unfolding.Measurements(jnp.array([3.0, 0.5]), jnp.eye(2))
    >>> layer = jr.unfolding.ThresholdLayers(jnp.array(0.5), jnp.array(0.5))
    >>> x, info = unfold_equilibrium(
    ...   jr.unfolding.ista_cell, layer, jnp.zeros(2), data, tol=1e-6, max_steps=100)
    >>> x.round(3), int(info.status)
    (Array([2., 0.], dtype=float32), 0)

  Reference:
    Bai, Kolter and Koltun, Deep equilibrium models, 2019; Gilton, Ongie and Willett, Deep
    equilibrium architectures for inverse problems in imaging, 2021.
  """
  _arguments.check_callable("cell", cell)
  x = _checks.check_float_tree("x", x)
  layer = _checks.check_float_tree("layer", layer)
  solver = solvers.fixed_point_iteration(cell)
  solve = solvers.implicit_fixed_point(
    solver, tol=tol, max_steps=max_steps, linear_solve=linear_solve
  )
  state, info = solve(x, layer, *data)
  return state.params, info
