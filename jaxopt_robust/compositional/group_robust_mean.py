"""Group DRO from minibatches: weights of the groups by mirror ascent, or from moving averages."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.compositional import _examples
from jaxopt_robust.losses.dro.group import group_means
from jaxopt_robust.losses.dro.kl import kl_dro, kl_dro_weights
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "GroupMeanInfo",
  "GroupMeanState",
  "group_robust_mean",
  "group_robust_mean_init",
  "smoothed_group_robust_mean",
]


class GroupMeanState(NamedTuple):
  """State of the group-robust means.

  Attributes:
    log_weights: float[num_groups], logarithms of the weights of mirror ascent; not used by the
      smoothed form.
    averages: float[num_groups], moving average of each group's mean loss.
    seen: bool[num_groups], whether the group has occurred.
  """

  log_weights: Array
  averages: Array
  seen: Array


class GroupMeanInfo(NamedTuple):
  """What one batch says; nothing here carries a gradient.

  Attributes:
    objective: float scalar, the largest moving average (its smoothed form in the smoothed loss).
    group_weights: float[num_groups], the q that was used.
    group_losses: float[num_groups], mean losses in this batch, 0 for groups that do not occur.
  """

  objective: Array
  group_weights: Array
  group_losses: Array


def group_robust_mean_init(num_groups: int, *, dtype: Any = jnp.float32) -> GroupMeanState:
  r"""State of the group-robust means before the first batch: all groups weigh the same.

  Sets q_k = 1 / num_groups.

  Args:
    num_groups: static integer >= 1.
    dtype: floating-point type of the state.

  Returns:
    GroupMeanState with arrays of length num_groups.

  Raises:
    ValueError: num_groups < 1.
    TypeError: num_groups is not an integer or dtype not a floating-point type.

  Example:
    >>> jnp.exp(group_robust_mean_init(2).log_weights)
    Array([0.5, 0.5], dtype=float32)

  Reference:
    Sagawa, Koh, Hashimoto and Liang, Distributionally robust neural networks for group shifts,
    2020, algorithm 1 (recalled, not verified).
  """
  size = _checks.check_int("num_groups", num_groups, minimum=1)
  dtype = _checks.check_float_dtype(dtype)
  level = -jnp.log(jnp.asarray(size, dtype))
  return GroupMeanState(
    jnp.full((size,), level, dtype), jnp.zeros((size,), dtype), jnp.zeros((size,), bool)
  )


def group_robust_mean(
  losses: ArrayLike,
  groups: ArrayLike,
  state: GroupMeanState,
  *,
  stepsize: ArrayLike = 0.01,
  rate: ArrayLike = 1.0,
  frequencies: ArrayLike | None = None,
  where: ArrayLike | None = None,
) -> tuple[Array, tuple[GroupMeanState, GroupMeanInfo]]:
  r"""One minibatch of ``losses.group_dro`` by exponentiated gradient ascent on the group weights.

  With the batch's mean loss g_k of each group and its moving average a_k <- (1 - rate) a_k +
  rate g_k, sets q_k proportional to q_k exp(stepsize a_k), and returns sum_k q_k g_k over the
  groups that occur, with q held fixed. A group that does not occur keeps its last average, and so
  goes on gaining or losing weight.

  Args:
    losses: float[batch] losses of a minibatch.
    groups: int[batch] group of each loss, in [0, num_groups).
    state: GroupMeanState from ``group_robust_mean_init`` or the previous batch.
    stepsize: >= 0, of the ascent, a scalar; may be traced.
    rate: in (0, 1], weight of the new batch, a scalar; may be traced.
    frequencies: None, or float[num_groups] > 0, each group's share of the data. If given the result
      is (1/B) sum_i q_{k_i} l_i / frequencies_{k_i}, which is unbiased for sum_k q_k g_k under
      uniform sampling also when rare groups are missing from most batches.
    where: bool[batch]; losses where it is false do not count.

  Returns:
    (surrogate, (state, GroupMeanInfo)) for ``jax.value_and_grad(..., has_aux=True)``. Without
    losses the surrogate is 0; then, and when a loss is NaN (the surrogate is too), the state stays.

  Raises:
    ValueError: shapes do not agree, a known group is out of range, or a number is out of range.
    TypeError: losses are not floating-point, groups are not integers or where is not boolean.

  Note:
    With groups drawn equally often (balanced batches) the plain form is unbiased. Under ``jit`` a
    group out of range makes the surrogate NaN.

  Example:
    >>> state, losses, groups = group_robust_mean_init(2), jnp.array([1.0, 3.0]), jnp.array([0, 1])
    >>> _, (state, info) = group_robust_mean(losses, groups, state, stepsize=1.0)
    >>> info.group_weights.round(2)
    Array([0.12, 0.88], dtype=float32)

  Reference:
    Sagawa, Koh, Hashimoto and Liang, Distributionally robust neural networks for group shifts,
    2020, algorithm 1 (recalled, not verified); the averages and the frequencies are ours.
  """
  state = _arguments.check_state("state", state, GroupMeanState)
  _checks.check_array("stepsize", stepsize, rank=0)
  _checks.check_non_negative("stepsize", stepsize)
  batch = _prepare(losses, groups, state, rate, where)
  step = jnp.asarray(stepsize, batch.averages.dtype)
  gain = jnp.where(batch.seen, step * batch.averages, 0)
  log_weights = state.log_weights + gain.astype(state.log_weights.dtype)
  log_weights = jax.nn.log_softmax(log_weights)
  kept = jnp.where(batch.seen, batch.averages, -jnp.inf)
  return _finish(batch, state, jnp.exp(log_weights), log_weights, jnp.max(kept), frequencies)


def smoothed_group_robust_mean(
  losses: ArrayLike,
  groups: ArrayLike,
  state: GroupMeanState,
  *,
  temperature: ArrayLike,
  rate: ArrayLike = 0.1,
  frequencies: ArrayLike | None = None,
  where: ArrayLike | None = None,
) -> tuple[Array, tuple[GroupMeanState, GroupMeanInfo]]:
  r"""One minibatch of the smoothed ``losses.group_dro``, with moving averages of the group losses.

  With the batch's mean loss g_k of each group and its moving average a_k <- (1 - rate) a_k +
  rate g_k, the weights are q = softmax(a / tau) over the groups seen so far, tau = temperature, and
  the result is sum_k q_k g_k over the groups that occur, with q held fixed. This is the
  compositional gradient of tau log( (1/m) sum_k exp(E g_k / tau) ).

  Args:
    losses: float[batch] losses of a minibatch.
    groups: int[batch] group of each loss, in [0, num_groups).
    state: GroupMeanState from ``group_robust_mean_init`` or the previous batch.
    temperature: > 0 (infinity is allowed: equal weights), a scalar; may be traced.
    rate: in (0, 1], weight of the new batch, a scalar; may be traced.
    frequencies: None, or float[num_groups] > 0, as in ``group_robust_mean``.
    where: bool[batch]; losses where it is false do not count.

  Returns:
    (surrogate, (state, GroupMeanInfo)) for ``jax.value_and_grad(..., has_aux=True)``. Without
    losses the surrogate is 0; then, and when a loss is NaN (the surrogate is too), the state stays.

  Raises:
    ValueError: shapes do not agree, a known group is out of range, or a number is out of range.
    TypeError: losses are not floating-point, groups are not integers or where is not boolean.

  Note:
    With rate 1 and the whole data set the gradient is that of ``losses.group_dro``.

  Example:
    >>> state, losses, groups = group_robust_mean_init(2), jnp.array([1.0, 3.0]), jnp.array([0, 1])
    >>> _, (state, info) = smoothed_group_robust_mean(losses, groups, state, temperature=1.0)
    >>> info.group_weights.round(2)
    Array([0.12, 0.88], dtype=float32)

  Reference:
    Hu, Zhu and Yang, Non-smooth weakly-convex finite-sum coupled compositional optimization, 2023
    (group DRO as such a problem; recalled, not verified); the entropic smoothing is standard.
  """
  state = _arguments.check_state("state", state, GroupMeanState)
  _checks.check_array("temperature", temperature, rank=0)
  _checks.check_positive("temperature", temperature)
  batch = _prepare(losses, groups, state, rate, where)
  lam = jnp.asarray(temperature, batch.averages.dtype)
  weights = kl_dro_weights(batch.averages, lam, where=batch.seen)
  objective = kl_dro(batch.averages, lam, where=batch.seen)
  return _finish(batch, state, weights, state.log_weights, objective, frequencies)


class _Batch(NamedTuple):
  values: Array  # float[batch], 0 where masked out
  group: Array  # int[batch], within range
  where: Array | None
  is_empty: Array
  means: Array  # float[num_groups], 0 where absent; carries the gradient
  averages: Array
  seen: Array
  dtype: Any


def _prepare(
  losses: ArrayLike,
  groups: ArrayLike,
  state: GroupMeanState,
  rate: ArrayLike,
  where: ArrayLike | None,
) -> _Batch:
  array = _checks.check_float_array("losses", losses, rank=1)
  mask = _checks.check_mask("where", where, shape=array.shape)
  num_groups = state.averages.shape[0]
  index = _checks.check_labels(
    "groups", groups, shape=array.shape, num_classes=num_groups, where=mask
  )
  _checks.check_array("rate", rate, rank=0)
  _checks.check_interval("rate", rate, 0.0, 1.0, closed="right")
  is_good = (index >= 0) & (index < num_groups)
  values = jnp.where(is_good, numerics.upcast(array), jnp.nan)
  kept = jnp.ones(array.shape, bool) if mask is None else mask
  values = jnp.where(kept, values, 0)
  row = jnp.where(is_good & kept, index, num_groups)
  averages, seen, _ = _examples.average(
    state.averages, state.seen, row, jax.lax.stop_gradient(values), rate
  )
  index = jnp.clip(index, 0, num_groups - 1)
  means, _ = group_means(values, index, num_groups, kept)
  return _Batch(values, index, mask, ~jnp.any(kept), means, averages, seen, array.dtype)


def _finish(
  batch: _Batch,
  state: GroupMeanState,
  weights: Array,
  log_weights: Array,
  objective: Array,
  frequencies: ArrayLike | None,
) -> tuple[Array, tuple[GroupMeanState, GroupMeanInfo]]:
  q = jax.lax.stop_gradient(weights.astype(batch.values.dtype))
  if frequencies is None:
    surrogate = jnp.sum(q * batch.means)
  else:
    share = _checks.check_array("frequencies", frequencies, rank=1)
    _checks.check_same_shape("frequencies", share, "state.averages", state.averages)
    _checks.check_positive("frequencies", frequencies)
    each = (q / share.astype(q.dtype))[batch.group] * batch.values
    surrogate = numerics.masked_mean(each, batch.where)
  keep = batch.is_empty | jnp.isnan(surrogate)
  fresh = GroupMeanState(log_weights, batch.averages, batch.seen)
  # A NaN shows in the objective too; the averages have left it out.
  objective = jnp.where(jnp.isnan(surrogate), jnp.nan, jnp.where(batch.is_empty, 0, objective))
  info = GroupMeanInfo(objective, q, batch.means)
  surrogate = jnp.where(batch.is_empty, 0, surrogate).astype(batch.dtype)
  return surrogate, jax.lax.stop_gradient((numerics.tree_where(keep, state, fresh), info))
