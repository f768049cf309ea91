"""Cyclic block coordinate descent for linear models: f(X w; y) + sum_j g(w_j)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks, _designs
from jaxopt_robust.solvers._common import hashable, operator_of, scalar_dtype
from jaxopt_robust.solvers.types import Solver
from jaxopt_robust.typing import Array, ArrayLike, Penalty, ProxFn, PyTree

__all__ = ["BlockCoordinateInfo", "BlockCoordinateState", "block_coordinate_descent"]


class BlockCoordinateState(NamedTuple):
  """State of block coordinate descent.

  Attributes:
    params: float[p] or float[p, k], the iterate; its rows are the blocks.
    count: int32, epochs done.
  """

  params: Array
  count: Array  # type: ignore[assignment]


class BlockCoordinateInfo(NamedTuple):
  """Diagnostics of an epoch.

  Attributes:
    error: max_j ||change of block j||_2 / s_j over the epoch, and at least the rounding of it.
    value: the smooth part f(X w; y) after the epoch.
  """

  error: Array
  value: Array


@hashable
def block_coordinate_descent(
  loss: Callable[..., Array], block_prox: ProxFn | Penalty, *, curvature: ArrayLike
) -> Solver:
  r"""Cyclic block coordinate descent for penalised linear models.

  Minimises f(X w; y) + sum_j g(w_j; hyper_j) over w, whose rows w_j (numbers for a vector w) are
  the blocks. One step is one epoch: for j = 1, ..., p

    w_j <- prox(w_j - s_j x_j^T grad f(X w), hyper_j, s_j),      s_j = 1 / (c ||x_j||^2),

  with X w kept up to date, so that an epoch costs about as much as a gradient. For the quadratic
  loss each update minimises exactly. The stopping quantity ``info.error`` is the largest
  ||w_j - w_j_old||_2 / s_j of the epoch, zero exactly at a solution.

  Args:
    loss: ``loss(predictions, y) -> scalar``, f: smooth in its first argument, with the scaling that
      you give it, such as ``lambda z, y: 0.5 * jnp.mean((z - y) ** 2)``.
    block_prox: ``prox(w_j, hyper_j, scaling)``: the operator of one block, such as
      ``jr.prox.prox_lasso``, or ``jr.prox.prox_group_lasso`` for the rows of a matrix; or the
      ``Penalty`` that holds it.
    curvature: c > 0, a bound of the second derivative of f along one prediction: 1/n for half the
      mean square, 1/(4 n) for the mean logistic loss. May be traced.

  Returns:
    ``Solver`` with states ``BlockCoordinateState`` and infos ``BlockCoordinateInfo``. Its data are
    ``(X, y)``, X float[n, p], dense or a ``BCOO`` matrix. ``hyper`` holds scalars for all blocks,
    or arrays with a leading axis of length p (one a block).

  Raises:
    TypeError: when a function is not callable.
    ValueError: when ``curvature`` is not positive, or shapes do not fit.

  Note:
    Converges for convex f and g, and to stationary points for the folded concave penalties with
    s_j below their bend. Columns of zeros leave their block unchanged. The updates are sequential:
    this is a method for CPUs, and for ``vmap`` over many small problems. With a sparse X an update
    still costs O(n), its gain is memory; it has no derivative in reverse mode then.

  Example:
    >>> solver = block_coordinate_descent(
    ...   lambda z, y: 0.5 * jnp.sum((z - y) ** 2), jr.prox.prox_lasso, curvature=1.0)
    >>> X, y = jnp.eye(2), jnp.array([3.0, 0.5])
    >>> jr.solvers.run_until(solver, jnp.zeros(2), 1.0, X, y, tol=1e-6, max_steps=9)[0]
    Array([2., 0.], dtype=float32)

  Reference:
    Tseng, Convergence of a block coordinate descent method for nondifferentiable minimization,
    2001; Friedman, Hastie and Tibshirani, Regularization paths for generalized linear models via
    coordinate descent, 2010.
  """
  _arguments.check_callable("loss", loss)
  operator = operator_of("block_prox", block_prox)
  _checks.check_positive("curvature", curvature, scalar=True)

  def init(params: Array, hyper: PyTree, *data: PyTree) -> BlockCoordinateState:
    del hyper
    if len(data) != 2:
      raise ValueError(f"data must be the design X and the targets y; got {len(data)} items.")
    design = _designs.check_design("X", data[0])
    params = _checks.check_float_array("params", params, rank=(1, 2))
    if design.shape[1] != params.shape[0]:
      raise ValueError(
        f"X must have a column for each of the {params.shape[0]} blocks of params; got shape "
        f"{design.shape}."
      )
    return BlockCoordinateState(params, jnp.zeros((), jnp.int32))

  def step(state: BlockCoordinateState, hyper: PyTree, design: Any, y: PyTree) -> tuple:
    design = _designs.check_design("X", design)
    blocks = state.params.shape[0]
    dtype = scalar_dtype(state.params)
    lipschitz = jnp.asarray(curvature, dtype) * _designs.squared_columns(design)
    active = lipschitz > 0
    steps = jnp.where(active, 1 / jnp.where(active, lipschitz, 1), 0)
    column_of = _designs.column_reader(design)
    eps = jnp.finfo(dtype).eps / 2
    gradient = jax.grad(loss)

    def own(leaf: ArrayLike, j: Array) -> Array:
      array = jnp.asarray(leaf)
      if array.ndim == 0:
        return array
      if array.shape[0] != blocks:
        raise ValueError(
          f"hyper must hold scalars or arrays of leading length {blocks}; got {array.shape}."
        )
      return array[j]

    def visit(j: Array, carry: tuple) -> tuple:
      params, predictions, error = carry
      column, s, old = column_of(j), steps[j], params[j]
      slope = column @ gradient(predictions, y)
      new = operator(old - s * slope, jax.tree.map(lambda leaf: own(leaf, j), hyper), s)
      new = jnp.where(active[j], new, old)
      change = new - old
      update = column * change if change.ndim == 0 else column[:, None] * change[None, :]
      length = lambda v: jnp.sqrt(jnp.sum(jax.lax.stop_gradient(v) ** 2))
      # A change that rounding of the block swallows is none; the slope has rounding of its own.
      size = jnp.maximum(
        lipschitz[j] * jnp.maximum(length(change), eps * length(old)), eps * length(slope)
      )
      return params.at[j].set(new), predictions + update, jnp.maximum(error, size)

    params, predictions, error = jax.lax.fori_loop(
      0, blocks, visit, (state.params, design @ state.params, jnp.zeros((), dtype))
    )
    value = jax.lax.stop_gradient(loss(predictions, y))
    return BlockCoordinateState(params, state.count + 1), BlockCoordinateInfo(error, value)

  return Solver(init, step)
