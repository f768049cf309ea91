"""Penalties on the norms of many groups of entries: group lasso, group MCP, group l0 and others."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.numerics import norm_by, upcast
from jaxopt_robust.prox._common import start, value_dtype
from jaxopt_robust.prox._radial import check_shared, factors
from jaxopt_robust.typing import Array, ArrayLike, Penalty, PyTree

__all__ = ["group_weights", "groups_to_ids", "make_group_penalty"]


class Layout(NamedTuple):
  """Which group every entry is in.

  Attributes:
    ids: int[n] of all leaves behind each other: 0..num_groups-1; num_groups where a traced number
      is out of range (reads give NaN), num_groups + 1 where the entry is in no group.
    num_groups: number of groups.
    shapes: shape of each leaf.
    treedef: structure of the leaves.
  """

  ids: Array
  num_groups: int
  shapes: list[tuple[int, ...]]
  treedef: Any


class GroupForm(NamedTuple):
  """What a group penalty on a vector was made from.

  Attributes:
    penalty: the penalty of one number.
    ids: int[n], the group of every entry, or -1.
    num_groups: number of groups.
    non_negative: whether entries are to be non-negative.
  """

  penalty: Penalty
  ids: np.ndarray
  num_groups: int
  non_negative: bool


def check_groups(group_ids: PyTree, num_groups: int) -> Layout:
  """Group numbers -1..num_groups-1, each but -1 used at least once where the numbers are known."""
  num_groups = _checks.check_int("num_groups", num_groups, minimum=1)
  numbers, treedef = (
    ([group_ids], None) if _is_list_of_numbers(group_ids) else jax.tree.flatten(group_ids)
  )
  if not numbers:
    raise TypeError("group_ids must hold at least one array of integers; got none.")
  leaves = [
    _checks.check_integers(
      "group_ids", leaf, low=-1, high=num_groups, meaning=", the groups, or be -1 for none"
    )
    for leaf in numbers
  ]
  if _checks.is_concrete(leaves):
    used = np.unique(np.concatenate([np.ravel(leaf) for leaf in leaves]))
    empty = np.setdiff1d(np.arange(num_groups), used)
    if empty.size:
      raise ValueError(
        f"group_ids must use every group of 0..{num_groups - 1}; got no entry of group {empty[0]}."
      )
  ids = jnp.concatenate([leaf.ravel() for leaf in leaves]).astype(jnp.int32)
  inside = (ids >= 0) & (ids < num_groups)  # a negative number must not count from the end
  ids = jnp.where(inside, ids, jnp.where(ids == -1, num_groups + 1, num_groups))
  return Layout(ids, num_groups, [leaf.shape for leaf in leaves], treedef)


def _is_list_of_numbers(value: Any) -> bool:
  """A list that stands for one array, as NumPy reads it, and is no tree of arrays."""
  return isinstance(value, list | tuple) and all(np.isscalar(v) for v in value)


class Flat(NamedTuple):
  """The leaves of a pytree behind each other in float32 at least, and the way back."""

  vector: Array
  back: Callable[[Array], PyTree]
  dtype: Any


def flatten(x: PyTree, layout: Layout, scaling: ArrayLike = 0.0) -> Flat:
  """Checks the leaves of ``x`` against the layout."""
  tree = start(x, scaling, complex_ok=True)
  leaves, treedef = jax.tree.flatten(tree)
  expected = jax.tree.structure(0) if layout.treedef is None else layout.treedef
  if treedef != expected:
    raise ValueError(f"x must have the structure of group_ids, {expected}; got {treedef}.")
  for leaf, shape in zip(leaves, layout.shapes, strict=True):
    if leaf.shape != shape:
      raise ValueError(f"x must have the shape of group_ids, {shape}; got {leaf.shape}.")

  def back(vector: Array) -> PyTree:
    out, first = [], 0
    for leaf in leaves:
      part = vector[first : first + leaf.size].reshape(leaf.shape)
      first += leaf.size
      is_real = jnp.iscomplexobj(part) and not jnp.iscomplexobj(leaf)
      out.append((part.real if is_real else part).astype(leaf.dtype))
    return jax.tree.unflatten(treedef, out)

  return Flat(jnp.concatenate([upcast(v).ravel() for v in leaves]), back, value_dtype(tree))


def _norms(x: Array, layout: Layout) -> Array:
  """Norm of each group of the vector ``x``, float[num_groups]."""
  return norm_by(
    x,
    lambda v: jax.ops.segment_sum(v, layout.ids, layout.num_groups),
    lambda v: jax.ops.segment_max(v, layout.ids, layout.num_groups),
    lambda v: _expand(v, layout),
  )


def _expand(per_group: Array, layout: Layout) -> Array:
  """The number of its group at every entry: 1 in no group, NaN where the group is out of range."""
  values = per_group.at[layout.ids].get(mode="fill", fill_value=jnp.nan)
  return jnp.where(layout.ids > layout.num_groups, 1, values)


def groups_prox(
  penalty: Penalty, x: Array, layout: Layout, hyperparams: Any, scaling: ArrayLike
) -> Array:
  """The operator of ``sum_G phi(||x_G||)`` for a checked vector of float32 or wider."""
  check_shared(hyperparams, (layout.num_groups,), "group")
  with _arguments.within("hyperparams"):
    factor = factors(penalty, _norms(x, layout), hyperparams, scaling)
  return _expand(factor, layout) * x


def groups_value(penalty: Penalty, x: Array, layout: Layout, hyperparams: Any) -> Array:
  """``sum_G phi(||x_G||)`` for a checked vector of float32 or wider."""
  check_shared(hyperparams, (layout.num_groups,), "group")
  with _arguments.within("hyperparams"):
    value = penalty.value(_norms(x, layout), hyperparams)
  return jnp.where(jnp.any(layout.ids == layout.num_groups), jnp.nan, value)


def make_group_penalty(
  penalty: Penalty, group_ids: PyTree, *, num_groups: int, non_negative: bool = False
) -> Penalty:
  r"""A penalty on the norm of every group, from a penalty on one number.

  With phi the given penalty of one number, g(x) = sum_G phi(||x_G||_2; hyperparams_G), whose
  operator argmin_y 1/2 ||y - x||_2^2 + scaling * g(y) keeps the direction of every group and gives
  it the length that the operator of phi gives to ||x_G||: y_G = (x_G / ||x_G||) prox_phi(||x_G||).
  ``prox.lasso`` makes the l2,1 norm (group lasso), ``prox.mcp`` group MCP, ``prox.l0`` the number
  of non-zero groups.

  Args:
    penalty: an entrywise record such as ``prox.lasso`` or ``prox.scad`` with phi(0) <= phi(r) for
      r > 0.
    group_ids: int[...] of the shape of ``x``, or a pytree of such arrays with the structure of
      ``x``: the group, 0..num_groups-1, that each entry is in, or -1 for an entry in no group,
      which is not penalised. Every group has at least one entry; groups do not overlap, may differ
      in size and may spread over leaves.
    num_groups: number of groups; static.
    non_negative: whether x >= 0 is asked for as well, in groups and in none: the operator is that
      of the positive part, and g is infinite elsewhere. For phi that does not fall with the length.
      Static.

  Returns:
    ``Penalty(value, prox)`` for float or complex arrays as ``group_ids``. Each of its
    hyper-parameters is a scalar or float[num_groups]; the usual strength is
    ``lam * group_weights(group_ids, num_groups=num_groups)``.

  Raises:
    TypeError: when ``penalty`` is no ``Penalty``, or the group numbers are no integers. What is
      returned refuses complex ``x`` where it is to be non-negative.
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
  _arguments.check_penalty("penalty", penalty)
  _arguments.check_option("non_negative", non_negative, (True, False))
  layout = check_groups(group_ids, num_groups)

  def real(flat: Flat) -> Flat:
    if non_negative and jnp.iscomplexobj(flat.vector):
      raise TypeError(f"x must be real where it is to be non-negative; got {flat.vector.dtype}.")
    return flat

  def value(x: PyTree, hyperparams: Any = None) -> Array:
    flat = real(flatten(x, layout))
    total = groups_value(penalty, flat.vector, layout, hyperparams)
    if non_negative:
      total = jnp.where(jnp.any(flat.vector < 0) & ~jnp.isnan(total), jnp.inf, total)
    return total.astype(flat.dtype)

  def prox(x: PyTree, hyperparams: Any = None, scaling: ArrayLike = 1.0) -> PyTree:
    flat = real(flatten(x, layout, scaling))
    vector = jnp.maximum(flat.vector, 0) if non_negative else flat.vector
    return flat.back(groups_prox(penalty, vector, layout, hyperparams, scaling))

  prox.form = _form(penalty, group_ids, num_groups, non_negative)  # type: ignore[attr-defined]
  return Penalty(value, prox, penalty.convex)


def _form(penalty: Penalty, ids: PyTree, num_groups: int, non_negative: bool) -> GroupForm | None:
  one = _is_list_of_numbers(ids) or jax.tree_util.treedef_is_leaf(jax.tree.structure(ids))
  if not one or not _checks.is_concrete(ids) or np.ndim(ids) != 1:
    return None
  return GroupForm(penalty, np.asarray(ids, np.int64), num_groups, non_negative)


def group_form(penalty: Penalty) -> GroupForm | None:
  """What a penalty of ``make_group_penalty`` was made from; None of others, and where the group
  numbers are traced or those of a pytree."""
  return getattr(penalty.prox, "form", None)


def group_weights(group_ids: PyTree, *, num_groups: int) -> Array:
  r"""The usual weights of groups of unequal size, w_G = sqrt(|G|).

  With them the strength at which a group of pure noise vanishes does not depend on its size.

  Args:
    group_ids: int[...] or a pytree, the group of each entry, as in ``make_group_penalty``.
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
  ids = check_groups(group_ids, num_groups).ids
  ones = jnp.ones(ids.shape, jnp.result_type(float))
  return jnp.sqrt(jax.ops.segment_sum(ones, ids, num_groups))


def groups_to_ids(groups: Sequence[Sequence[int]], *, size: int) -> Array:
  r"""Turns lists of indices, one a group, into the group number of every entry.

  Entry i of the result is the G with i in ``groups[G]``, and -1 where there is none.

  Args:
    groups: one list of indices 0..size-1 a group; they do not overlap. An index that none of them
      holds is not penalised.
    size: number of entries; static.

  Returns:
    int32[size], the ``group_ids`` of ``make_group_penalty`` with ``num_groups=len(groups)``.

  Raises:
    TypeError: when an index is no integer.
    ValueError: when a group is empty, an index is out of range, or groups overlap.

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
  if not isinstance(groups, Sequence | np.ndarray):
    raise TypeError(f"groups must be a list of lists of indices; got a {type(groups).__name__}.")
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
  return jnp.asarray(ids)
