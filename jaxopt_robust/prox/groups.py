"""Penalties on the norms of many groups of entries: group lasso, group MCP, group l0 and others."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_robust import _checks
from jaxopt_robust.numerics import norm_by, upcast
from jaxopt_robust.prox._common import real_dtype, start_array
from jaxopt_robust.prox._radial import check_shared, factors
from jaxopt_robust.typing import Array, ArrayLike, Penalty

__all__ = ["group_weights", "groups_to_ids", "make_group_penalty"]


def check_groups(group_ids: ArrayLike, num_groups: int) -> Array:
  """Group numbers 0..num_groups-1, each used at least once where the numbers are known."""
  num_groups = _checks.check_int("num_groups", num_groups, minimum=1)
  ids = jnp.asarray(group_ids)
  ids = _checks.check_labels("group_ids", ids, shape=ids.shape, num_classes=num_groups)
  if _checks.is_concrete(ids):
    empty = np.flatnonzero(np.bincount(np.asarray(ids).ravel(), minlength=num_groups) == 0)
    if empty.size:
      raise ValueError(
        f"group_ids must use every group of 0..{num_groups - 1}; got no entry of group {empty[0]}."
      )
  # A number out of range is seen only by the guards of ``_expand``; it must not count from the end.
  return jnp.where(ids < 0, num_groups, ids)


def group_norms(x: Array, ids: Array, num_groups: int) -> Array:
  """Norm of each group of ``x``, float[num_groups]."""
  flat = ids.ravel()
  return norm_by(
    x.ravel(),
    lambda v: jax.ops.segment_sum(v, flat, num_groups),
    lambda v: jax.ops.segment_max(v, flat, num_groups),
    lambda v: _expand(v, flat),
  )


def _expand(per_group: Array, ids: Array) -> Array:
  return per_group.at[ids].get(mode="fill", fill_value=jnp.nan)


def groups_prox(
  penalty: Penalty, x: Array, layout: tuple[Array, int], hyperparams: Any, scaling: ArrayLike
) -> Array:
  """The operator of ``sum_G phi(||x_G||)`` for checked input of float32 or wider."""
  ids, num_groups = layout
  check_shared(hyperparams, (num_groups,), "group")
  norms = group_norms(x, ids, num_groups)
  with _checks.within("hyperparams"):
    factor = factors(penalty, norms, hyperparams, scaling)
  return _expand(factor, ids) * x


def groups_value(penalty: Penalty, x: Array, layout: tuple[Array, int], hyperparams: Any) -> Array:
  """``sum_G phi(||x_G||)`` for checked input of float32 or wider."""
  ids, num_groups = layout
  check_shared(hyperparams, (num_groups,), "group")
  with _checks.within("hyperparams"):
    value = penalty.value(group_norms(x, ids, num_groups), hyperparams)
  return jnp.where(jnp.any(ids >= num_groups), jnp.nan, value)


def make_group_penalty(penalty: Penalty, group_ids: ArrayLike, *, num_groups: int) -> Penalty:
  r"""A penalty on the norm of every group, from a penalty on one number.

  With phi the given penalty of one number, g(x) = sum_G phi(||x_G||_2; hyperparams_G), whose
  operator argmin_y 1/2 ||y - x||_2^2 + scaling * g(y) keeps the direction of every group and gives
  it the length that the operator of phi gives to ||x_G||: y_G = (x_G / ||x_G||) prox_phi(||x_G||).
  ``prox.lasso`` makes the l2,1 norm (group lasso), ``prox.mcp`` group MCP, ``prox.l0`` the number
  of non-zero groups.

  Args:
    penalty: an entrywise record such as ``prox.lasso`` or ``prox.scad`` with phi(0) <= phi(r) for
      r > 0.
    group_ids: int[...] of the shape of ``x``: the group, 0..num_groups-1, that each entry is in.
      Every group has at least one entry. The groups do not overlap and may differ in size.
    num_groups: number of groups; static.

  Returns:
    ``Penalty(value, prox)`` for one float array of the shape of ``group_ids``. Each of its
    hyper-parameters is a scalar or float[num_groups]; the usual strength is
    ``lam * group_weights(group_ids, num_groups=num_groups)``.

  Raises:
    TypeError: when ``penalty`` is no ``Penalty``, or the group numbers are no integers.
    ValueError: when a group number is out of range or a group is empty. The functions returned
      refuse ``x`` or hyper-parameters of another shape, and what ``penalty`` refuses.

  Note:
    At x_G = 0 the derivative is the slope of prox_phi at 0: 0 for a penalty that thresholds. Traced
    group numbers cannot be checked: an entry out of range comes out as NaN. NaN in one group leaves
    the other groups alone.

  Example:
    >>> group_lasso = make_group_penalty(jr.prox.lasso, jnp.array([0, 0, 1]), num_groups=2)
    >>> group_lasso.prox(jnp.array([3.0, 4.0, 0.5]), 1.0)
    Array([2.4, 3.2, 0. ], dtype=float32)

  Reference:
    Yuan and Lin, Model selection and estimation in regression with grouped variables, 2006;
    Huang, Breheny and Ma, A selective review of group selection in high-dimensional models, 2012.
  """
  _checks.check_penalty("penalty", penalty)
  layout = (check_groups(group_ids, num_groups), num_groups)
  shape = layout[0].shape

  def value(x: ArrayLike, hyperparams: Any = None) -> Array:
    array = start_array(x, shape=shape, complex_ok=True)
    total = groups_value(penalty, upcast(array), layout, hyperparams)
    return total.astype(real_dtype(array.dtype))

  def prox(x: ArrayLike, hyperparams: Any = None, scaling: ArrayLike = 1.0) -> Array:
    array = start_array(x, scaling, shape=shape, complex_ok=True)
    return groups_prox(penalty, upcast(array), layout, hyperparams, scaling).astype(array.dtype)

  return Penalty(value, prox, penalty.convex)


def group_weights(group_ids: ArrayLike, *, num_groups: int) -> Array:
  r"""The usual weights of groups of unequal size, w_G = sqrt(|G|).

  With them the strength at which a group of pure noise vanishes does not depend on its size.

  Args:
    group_ids: int[...], the group of each entry, as in ``make_group_penalty``.
    num_groups: number of groups; static.

  Returns:
    float[num_groups].

  Raises:
    TypeError: when the group numbers are no integers.
    ValueError: when a group number is out of range or a group is empty.

  Example:
    >>> group_weights(jnp.array([0, 1, 1, 1, 1]), num_groups=2)
    Array([1., 2.], dtype=float32)

  Reference:
    Yuan and Lin, Model selection and estimation in regression with grouped variables, 2006,
    section 2.
  """
  ids = check_groups(group_ids, num_groups).ravel()
  ones = jnp.ones(ids.shape, jnp.result_type(float))
  return jnp.sqrt(jax.ops.segment_sum(ones, ids, num_groups))


def groups_to_ids(groups: Sequence[Sequence[int]], *, size: int) -> Array:
  r"""Turns lists of indices, one a group, into the group number of every entry.

  Entry i of the result is the G with i in ``groups[G]``.

  Args:
    groups: one list of indices 0..size-1 a group; together they hold every index once.
    size: number of entries; static.

  Returns:
    int32[size], the ``group_ids`` of ``make_group_penalty`` with ``num_groups=len(groups)``.

  Raises:
    TypeError: when an index is no integer.
    ValueError: when a group is empty, an index is out of range, groups overlap, or an entry is in
      no group.

  Note:
    A sum of norms over overlapping groups has no closed-form operator: give each group its own copy
    of the variables and couple the copies with a splitting method such as ADMM.

  Example:
    >>> groups_to_ids([[0, 2], [1]], size=3)
    Array([0, 1, 0], dtype=int32)

  Reference:
    Jacob, Obozinski and Vert, Group lasso with overlap and graph lasso, 2009 (why overlap differs).
  """
  size = _checks.check_int("size", size, minimum=1)
  ids = np.full(size, -1, np.int32)
  for number, group in enumerate(groups):
    members = np.asarray(group)
    if members.size == 0:
      raise ValueError(f"groups must not be empty; got no index in group {number}.")
    if members.dtype.kind not in "iu":
      raise TypeError(f"groups must hold integer indices; got {members.dtype} in group {number}.")
    if members.min() < 0 or members.max() >= size:
      raise ValueError(
        f"groups must hold indices in [0, {size}); got {members.tolist()} in group {number}."
      )
    values, counts = np.unique(members, return_counts=True)
    taken = values[(ids[values] >= 0) | (counts > 1)]
    if taken.size:
      raise ValueError(
        f"groups must not overlap; got entry {taken[0]} twice. Overlapping groups have no closed "
        "form: give each group its own copy of the variables and use a splitting solver (ADMM)."
      )
    ids[values] = number
  if (ids < 0).any():
    raise ValueError(
      f"groups must cover every entry; got none for entry {np.flatnonzero(ids < 0)[0]}."
    )
  return jnp.asarray(ids)
