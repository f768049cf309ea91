"""Penalties of paths by blocks: one feature each, or the groups of a group penalty."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_robust.prox import elastic_net, lasso, mcp, non_negative_lasso, scad
from jaxopt_robust.prox.groups import GroupForm, group_form
from jaxopt_robust.regression._problem import Problem
from jaxopt_robust.solvers import _gram_descent, _group_descent
from jaxopt_robust.typing import Array, Penalty


def known(penalty: Penalty, features: int) -> bool:
  """Whether coordinate descent knows a penalty of so many features."""
  if penalty in (lasso, elastic_net, non_negative_lasso, mcp, scad):
    return True
  form = group_form(penalty)
  inner = (lasso, elastic_net, mcp, scad)
  return form is not None and form.penalty in inner and form.ids.size == features


class Blocks(NamedTuple):
  """The features and, as the last one, the intercept, in blocks.

  Attributes:
    whole: the penalty of all of them.
    form: the groups; None where every feature is a block.
    members: int[B, q], the features of each block, filled up with their number; None likewise.
    sizes: int[B], how many features each has.
    always: bool[B], the intercept's block.
    bounds: float[B], the curvature along a block at unit curvature of the loss, or a bound of it.
    strict: whether the penalty is strictly convex.
  """

  whole: _gram_descent.Separable
  form: GroupForm | None
  members: np.ndarray | None
  sizes: np.ndarray
  always: np.ndarray
  bounds: Array
  strict: bool

  @property
  def num_features(self) -> int:
    """How many there are, with the intercept."""
    return int(self.sizes.sum())

  @property
  def largest(self) -> int:
    """The size of the largest block."""
    return int(self.sizes.max())

  def spread(self, values: Array) -> Array:
    """What holds for a block, for each of its features."""
    return self.whole.spread(values, self.num_features)

  def hyper_of(self, hyper: Any) -> tuple[Any, Array]:
    """Hyper-parameters of all blocks (those of no group and the intercept have none), and their
    strengths."""
    num = self.sizes.size - 1 if self.form is None else self.form.num_groups
    rest = self.sizes.size - num
    wide = lambda leaf: jnp.append(jnp.broadcast_to(leaf, (num,)), jnp.ones(rest, leaf.dtype))
    hyper = jax.tree.map(wide, hyper)
    strengths = hyper[0] if isinstance(hyper, tuple) else hyper
    return hyper, jnp.where(jnp.arange(self.sizes.size) >= num, 0, strengths)

  def within(self, features: Array, used: Array, hyper: Any) -> tuple[_gram_descent.Separable, Any]:
    """The penalty of a list of features (whole blocks, where ``used``), and its numbers."""
    if self.form is None:
      free = features == self.num_features - 1
      here = jax.tree.map(lambda leaf: leaf[features], hyper)
      return self.whole._replace(free=free), here  # type: ignore[attr-defined]
    size, num = features.shape[0], self.num_features
    slots = jnp.full(num + 1, size, jnp.int32)
    at = jnp.where(used, features, num + 1)
    slots = slots.at[at].set(jnp.arange(size, dtype=jnp.int32), mode="drop")
    # No more blocks than the smallest ones that fill the list.
    most = int(np.searchsorted(np.cumsum(np.sort(self.sizes)), size, side="right"))
    present = slots[self.members[:, 0]] < size  # type: ignore[index]
    (which,) = jnp.nonzero(present, size=max(most, 1), fill_value=self.sizes.size)
    members = slots.at[jnp.asarray(self.members).at[which].get(mode="fill", fill_value=num)].get()
    pick = lambda leaf: jnp.asarray(leaf).at[which].get(mode="clip")
    whole = self.whole
    penalty = whole._replace(  # type: ignore[attr-defined]
      members=members,
      free=pick(whole.free),  # type: ignore[attr-defined]
      signed=pick(whole.signed),  # type: ignore[attr-defined]
      used_groups=jnp.sum(present, dtype=jnp.int32),
    )
    return penalty, jax.tree.map(pick, hyper)


def make(penalty: Penalty, problem: Problem) -> Blocks:
  """The blocks of a known penalty."""
  features = problem.center.shape[0]
  form = group_form(penalty)
  squares = jnp.append(problem.columns, problem.column) ** 2
  if form is None:
    always = np.arange(features + 1) == features

    def prox(target: Array, hyper: Any, step: Array) -> Array:
      return penalty.prox(target, hyper, step)

    whole = _gram_descent.Entries(penalty.value, prox, jnp.asarray(always))
    sizes = np.ones(features + 1, np.int32)
    return Blocks(whole, None, None, sizes, always, squares, penalty == elastic_net)
  # The intercept is in no group, and of any sign.
  form = form._replace(ids=np.append(form.ids, -1))
  members = _group_descent.table(form)
  sizes = np.sum(members <= features, axis=1).astype(np.int32)
  always = np.arange(sizes.size) == sizes.size - 1
  groups = _group_descent.of(form)
  groups = groups._replace(signed=groups.signed | always)
  bounds = jnp.sum(squares.at[members].get(mode="fill", fill_value=0), axis=1)
  return Blocks(groups, form, members, sizes, always, bounds, form.penalty == elastic_net)
