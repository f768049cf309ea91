"""Coordinate descent on a Gram matrix, finished by conjugate gradients on the support."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.prox.groups import group_form
from jaxopt_robust.solvers import _gram_descent, _group_descent
from jaxopt_robust.solvers._common import hashable
from jaxopt_robust.solvers._hessians import Dense
from jaxopt_robust.solvers.types import Solver
from jaxopt_robust.typing import Array, Penalty, PyTree

__all__ = ["GramDescentInfo", "GramDescentState", "gram_coordinate_descent"]


class GramDescentState(NamedTuple):
  """State of coordinate descent on a Gram matrix.

  Attributes:
    params: float[p], the iterate w.
    gradient: float[p], G w - c, kept up to date.
    count: int32, steps done.
  """

  params: Array
  gradient: Array
  count: Array  # type: ignore[assignment]


class GramDescentInfo(NamedTuple):
  """Diagnostics of a step.

  Attributes:
    error: max_j G_jj |w_j - (minimiser of the objective along coordinate j)|, for groups
      max_g L_g ||w_g - prox(w_g - (G w - c)_g / L_g)||_2, and at least the rounding of it.
    value: the smooth part w^T G w / 2 - c^T w.
  """

  error: Array
  value: Array


@hashable
def gram_coordinate_descent(penalty: Penalty) -> Solver:
  r"""Coordinate descent for a penalised quadratic that is given as a matrix.

  Minimises 1/2 w^T G w - c^T w + sum_j g(w_j; hyper_j): the Lasso and its kin, with G = X^T X / n
  and c = X^T y / n computed once for many targets, strengths or folds. One step is two epochs, in
  which each coordinate in turn goes to its own minimum

    w_j <- prox(w_j - (G w - c)_j / G_jj, hyper_j, 1 / G_jj),

  O(p) each (of a penalty of ``jr.prox.make_group_penalty`` one group after the other, with a bound
  L_g of the largest eigenvalue of G_gg in place of G_jj), and then a Newton step on the support:
  conjugate gradients for the system of the non-zero coefficients, in which those that would change
  their sign become 0 (groups those that would turn back), taken where it lowers the objective. The
  epochs find the support; on the right one a Newton step is the solution.

  Args:
    penalty: entrywise ``Penalty``, a sum over coordinates, such as ``jr.prox.lasso``,
      ``elastic_net``, ``non_negative_lasso``, ``mcp`` or ``scad``; or the one of
      ``jr.prox.make_group_penalty`` for known int[p] group numbers.

  Returns:
    ``Solver`` with states ``GramDescentState`` and infos ``GramDescentInfo``. Its data are
    ``(G, c)``: G float[p, p], symmetric and positive semi-definite; c float[p]. ``hyper`` holds
    scalars, or arrays of length p (one number a coordinate), or one number a group.

  Raises:
    TypeError: when ``penalty`` is no ``Penalty``, or an array is not of real numbers.
    ValueError: when shapes do not fit.

  Note:
    Coordinates with G_jj = 0 stay where they are (groups where all of these are 0). For convex g it
    converges to a minimiser, for folded concave ones to a coordinate-wise minimum. Where G is
    singular, as with equal columns, any of its minimisers may come out. The objective has c and G
    alone, so that the squared error itself is this value plus ||y||^2 / (2n).

    The updates are sequential: a method for CPUs. ``regression.regularization_path`` uses it on
    working sets of features, for losses other than the squared one with a new matrix for each
    Newton model.

  Example:
    >>> solver = gram_coordinate_descent(jr.prox.lasso)
    >>> gram, linear = jnp.array([[2.0, 1.0], [1.0, 2.0]]), jnp.array([3.0, 0.5])
    >>> w, info = jr.solvers.run_until(solver, jnp.zeros(2), 1.0, gram, linear,
    ...                                tol=1e-6, max_steps=9)
    >>> w + 0.0, int(info.status)
    (Array([1., 0.], dtype=float32), 0)

  Reference:
    Friedman, Hastie and Tibshirani, Regularization paths for generalized linear models via
    coordinate descent, 2010, section 2.2 (covariance updates). The Newton step in place of the
    extrapolation of Bertrand and Massias, Anderson acceleration of coordinate descent, 2021, was
    the faster one here: a product with G costs less than an epoch.
  """
  _arguments.check_penalty("penalty", penalty)

  form = group_form(penalty)

  def problem(params: Array, hyper: PyTree, gram: Array, linear: Array) -> tuple:
    params = _checks.check_float_array("params", params, rank=1)
    gram = _checks.check_float_array("G", gram, rank=2)
    linear = _checks.check_float_array("c", linear, rank=1)
    num = params.shape[0]
    if gram.shape != (num, num) or linear.shape != (num,):
      raise ValueError(
        f"G must have shape {(num, num)} and c {(num,)}, as params have length {num}; got "
        f"{gram.shape} and {linear.shape}."
      )
    if form is not None and form.ids.size != num:
      raise ValueError(
        f"params must have the length of the penalty's group_ids, {form.ids.size}; got {num}."
      )
    blocks, rest = num if form is None else form.num_groups, 0
    separable: _gram_descent.Separable
    if form is None:
      prox = lambda target, hyper, step: penalty.prox(target, hyper, step)
      separable = _gram_descent.Entries(penalty.value, prox, jnp.zeros(num, bool))
    else:
      separable = _group_descent.of(form)
      rest = separable.free.shape[0] - blocks

    def wide(leaf: Array) -> Array:
      leaf = jnp.asarray(leaf, params.dtype)
      if leaf.shape not in ((), (blocks,)):
        raise ValueError(
          f"hyper must hold scalars or arrays of shape {(blocks,)}; got {leaf.shape}."
        )
      return jnp.append(jnp.broadcast_to(leaf, (blocks,)), jnp.ones(rest, params.dtype))

    used = jnp.asarray(num, jnp.int32)
    hyper = jax.tree.map(wide, hyper)
    hessian = Dense(gram.astype(params.dtype))
    quadratic = _gram_descent.quadratic_of(separable, hessian, hyper, used)
    return separable, quadratic, linear.astype(params.dtype)

  def init(params: Array, hyper: PyTree, gram: Array, linear: Array) -> GramDescentState:
    _, quadratic, linear = problem(params, hyper, gram, linear)
    gradient = quadratic.hessian.product(params) - linear
    return GramDescentState(params, gradient, jnp.zeros((), jnp.int32))

  def step(state: GramDescentState, hyper: PyTree, gram: Array, linear: Array) -> tuple:
    separable, quadratic, linear = problem(state.params, hyper, gram, linear)
    point = _gram_descent.Point(state.params, state.gradient)
    eps = jnp.finfo(point.params.dtype).eps / 2
    # What rounding leaves of an epoch's error, and of the conjugate gradients' residual.
    sizes = jnp.abs(linear) + quadratic.diagonal * jnp.abs(point.params)
    rounding = eps * jnp.max(sizes, initial=0)
    point = _gram_descent.cycle(separable, quadratic, point, rounding)
    # Afresh: its updates would gather rounding from step to step.
    gradient = quadratic.hessian.product(point.params) - linear
    point = point._replace(gradient=gradient)
    error = _gram_descent.violation(separable, quadratic, point)
    error = jnp.where(error > 0, jnp.maximum(error, rounding), error)
    value = 0.5 * (gradient - linear) @ point.params
    return GramDescentState(*point, state.count + 1), GramDescentInfo(error, value)

  return Solver(init, step)
