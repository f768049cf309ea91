"""Sparse groups: the l1 norm plus a penalty on the norms of groups, in one operator."""

from typing import Any

import jax

from jaxopt_robust import _arguments
from jaxopt_robust.numerics import upcast
from jaxopt_robust.prox._common import start
from jaxopt_robust.prox.group import penalty_group_lasso, prox_group_lasso
from jaxopt_robust.prox.groups import check_groups, flatten, groups_prox, groups_value
from jaxopt_robust.prox.l1 import penalty_lasso, prox_lasso
from jaxopt_robust.typing import Array, ArrayLike, Penalty, PyTree

__all__ = [
  "make_sparse_group_penalty",
  "penalty_sparse_group_lasso",
  "prox_sparse_group_lasso",
  "sparse_group_lasso",
]


def prox_sparse_group_lasso(x: PyTree, hyperparams: Any, scaling: ArrayLike = 1.0) -> PyTree:
  r"""Proximal operator of the l1 norm plus the l2 norm of one group.

  Solves argmin_y 1/2 ||y - x||_2^2 + scaling * (sum_i lam_i |y_i| + mu ||y||_2) with
  (lam, mu) = (l1reg, l2reg): soft thresholding at scaling lam first, block soft thresholding at
  scaling mu second.

  Args:
    x: float[...] or complex[...] array or pytree of arrays: one group;
      ``make_sparse_group_penalty`` is for many.
    hyperparams: pair (l1reg, l2reg): l1reg >= 0, a scalar, an array of the shape of ``x`` or a
      pytree prefix of ``x``; l2reg >= 0, a scalar; may be traced.
    scaling: >= 0, the step size; may be traced.

  Returns:
    Same structure, shapes and dtypes as ``x``. One NaN makes the whole group NaN.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when ``hyperparams`` is no pair, a strength or the scaling is negative, or shapes do
      not fit.

  Note:
    The order matters: block soft thresholding keeps signs, so that the sub-gradient of the l1 norm
    survives it. At the kinks the derivative is 0.

  Example:
    >>> prox_sparse_group_lasso(jnp.array([4.0, 5.0, 0.5]), (1.0, 1.0))
    Array([2.4, 3.2, 0. ], dtype=float32)

  Reference:
    Simon, Friedman, Hastie and Tibshirani, A sparse-group lasso, 2013; the decomposition is that of
    Yu, On decomposing the proximal map, 2013.
  """
  l1reg, l2reg = _arguments.parts(hyperparams, "l1reg", "l2reg", example=(1.0, 1.0))
  x = start(x, scaling, complex_ok=True)
  with _arguments.within("hyperparams"):
    wide = prox_lasso(jax.tree.map(upcast, x), l1reg, scaling)
    block = prox_group_lasso(wide, l2reg, scaling)
  return jax.tree.map(lambda v, y: y.astype(v.dtype), x, block)


def penalty_sparse_group_lasso(x: PyTree, hyperparams: Any) -> Array:
  r"""The l1 norm plus the l2 norm of one group.

  Computes g(x) = sum_i lam_i |x_i| + mu ||x||_2 with (lam, mu) = (l1reg, l2reg).

  Args:
    x: float[...] or complex[...] array or pytree of arrays: one group.
    hyperparams: pair (l1reg, l2reg) as in ``prox_sparse_group_lasso``.

  Returns:
    float scalar.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.
    ValueError: when ``hyperparams`` is no pair, a strength is negative, or shapes do not fit.

  Example:
    >>> float(penalty_sparse_group_lasso(jnp.array([3.0, -4.0]), (1.0, 2.0)))
    17.0

  Reference:
    Simon, Friedman, Hastie and Tibshirani, A sparse-group lasso, 2013.
  """
  l1reg, l2reg = _arguments.parts(hyperparams, "l1reg", "l2reg", example=(1.0, 1.0))
  with _arguments.within("hyperparams"):
    return penalty_lasso(x, l1reg) + penalty_group_lasso(x, l2reg)


def make_sparse_group_penalty(penalty: Penalty, group_ids: PyTree, *, num_groups: int) -> Penalty:
  r"""The l1 norm plus a penalty on the norm of every group.

  With phi the given penalty of one number, g(x) = sum_i lam_i |x_i| + sum_G phi(||x_G||_2;
  hyper_G). The operator argmin_y 1/2 ||y - x||_2^2 + scaling * g(y) is soft thresholding first,
  then the operator of the groups alone: on a sphere of any radius the best direction is that of the
  soft-thresholded x_G, whatever phi is.

  Args:
    penalty: an entrywise record as in ``make_group_penalty``; ``prox.lasso`` makes the sparse group
      lasso, ``prox.mcp`` its non-convex relative.
    group_ids: int[...] of the shape of ``x``, or a pytree as ``x``: the group, 0..num_groups-1, of
      each entry, -1 for none, as in ``make_group_penalty``.
    num_groups: number of groups; static.

  Returns:
    ``Penalty(value, prox)`` for float or complex arrays as ``group_ids``, with the pair
    (l1reg, group) as hyper-parameters: l1reg >= 0 as in ``prox_lasso``; ``group`` what
    ``penalty`` takes, each of its numbers a scalar or float[num_groups].

  Raises:
    TypeError: when ``penalty`` is no ``Penalty``, or the group numbers are no integers.
    ValueError: when a group number is out of range or a group is empty. The functions returned
      refuse ``x`` or hyper-parameters of another shape, and what ``penalty`` refuses.

  Note:
    Derivatives at the kinks are those of ``prox_lasso`` and ``make_group_penalty``.

  Example:
    >>> sparse = make_sparse_group_penalty(jr.prox.lasso, jnp.array([0, 0, 0, 1]), num_groups=2)
    >>> sparse.prox(jnp.array([4.0, 5.0, 0.5, -1.5]), (1.0, 1.0))
    Array([ 2.4,  3.2,  0. , -0. ], dtype=float32)

  Reference:
    Simon, Friedman, Hastie and Tibshirani, A sparse-group lasso, 2013; the decomposition is that of
    Yu, On decomposing the proximal map, 2013.
  """
  _arguments.check_penalty("penalty", penalty)
  layout = check_groups(group_ids, num_groups)

  def value(x: PyTree, hyperparams: Any) -> Array:
    l1reg, group = _arguments.parts(hyperparams, "l1reg", "group", example=(1.0, 1.0))
    flat = flatten(x, layout)
    with _arguments.within("hyperparams"):
      total = penalty_lasso(x, l1reg) + groups_value(penalty, flat.vector, layout, group)
    return total.astype(flat.dtype)

  def prox(x: PyTree, hyperparams: Any, scaling: ArrayLike = 1.0) -> PyTree:
    l1reg, group = _arguments.parts(hyperparams, "l1reg", "group", example=(1.0, 1.0))
    flat = flatten(x, layout, scaling)
    with _arguments.within("hyperparams"):
      wide = jax.tree.map(upcast, start(x, scaling, complex_ok=True))
      soft = flatten(prox_lasso(wide, l1reg, scaling), layout)
      return flat.back(groups_prox(penalty, soft.vector, layout, group, scaling))

  return Penalty(value, prox, penalty.convex)


sparse_group_lasso = Penalty(penalty_sparse_group_lasso, prox_sparse_group_lasso)
