"""Worst-case expectations over groups of examples."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.losses import _expectation as base
from jaxopt_robust.losses import _worst_case
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["group_dro", "group_dro_weights"]


def group_dro(
  losses: ArrayLike,
  groups: ArrayLike,
  *,
  num_groups: int,
  temperature: ArrayLike = 0.0,
  where: ArrayLike | None = None,
) -> Array:
  r"""Largest mean loss of a group (group DRO), or its smoothed form.

  Computes max_q sum_k q_k g_k - tau KL(q, 1/m) over the simplex, where g_k is the mean loss of
  group k, m the number of groups that occur, and tau = temperature; which is
  tau log( (1/m) sum_k exp(g_k / tau) ), and max_k g_k at tau = 0.

  Args:
    losses: float[..., n], each row a set of losses.
    groups: int[..., n] group of each loss, in [0, num_groups).
    num_groups: static integer >= 1.
    temperature: >= 0 (infinity is allowed), a scalar or float[...] one per set; may be traced.
    where: bool[..., n]; entries where it is false are ignored, and so are groups without entries.

  Returns:
    float[...] in the dtype of ``losses``; 0 for a set without entries, NaN if a loss is NaN.
    Under ``jit`` a set with a group out of range is NaN.

  Raises:
    ValueError: losses have rank 0 or are empty, shapes do not agree, a known group is out of range,
      num_groups < 1 or temperature < 0.
    TypeError: losses are not floating-point, groups are not integers, where is not boolean or
      num_groups is not an integer.

  Note:
    The derivative is q_k / n_k for each of the n_k losses of group k; groups that tie for the
    largest mean share it equally at tau = 0.

  Example:
    >>> losses, groups = jnp.array([1.0, 3.0, 2.5]), jnp.array([0, 0, 1])
    >>> group_dro(losses, groups, num_groups=2)
    Array(2.5, dtype=float32)

  Reference:
    Sagawa, Koh, Hashimoto and Liang, Distributionally robust neural networks for group shifts,
    2020, equation 4 (recalled, not verified).
  """
  prepared, lam = _prepare(losses, groups, num_groups, temperature, where)
  value = _worst_case.worst_case_mean(prepared.means, lam, 1, prepared.present)
  return base.finish(value, prepared.base)


def group_dro_weights(
  losses: ArrayLike,
  groups: ArrayLike,
  *,
  num_groups: int,
  temperature: ArrayLike = 0.0,
  where: ArrayLike | None = None,
) -> Array:
  r"""Worst-case weights of the groups in ``group_dro``.

  Computes q_k = exp(g_k / tau) / sum_j exp(g_j / tau) over the groups that occur, with g_k the mean
  loss of group k and tau = temperature; at tau = 0 the groups with the largest mean share it.

  Args:
    losses: float[..., n], each row a set of losses.
    groups: int[..., n] group of each loss, in [0, num_groups).
    num_groups: static integer >= 1.
    temperature: >= 0 (infinity is allowed), a scalar or float[...] one per set; may be traced.
    where: bool[..., n]; entries where it is false are ignored, and so are groups without entries.

  Returns:
    float[..., num_groups] in the dtype of ``losses``; each set sums to one, or is 0 if it has no
    entries.

  Raises:
    ValueError: losses have rank 0 or are empty, shapes do not agree, a known group is out of range,
      num_groups < 1 or temperature < 0.
    TypeError: losses are not floating-point, groups are not integers, where is not boolean or
      num_groups is not an integer.

  Example:
    >>> losses, groups = jnp.array([1.0, 3.0, 2.5]), jnp.array([0, 0, 1])
    >>> weights = group_dro_weights(losses, groups, num_groups=3, temperature=1.0)
    >>> np.round(np.float64(weights), 3).tolist()
    [0.378, 0.622, 0.0]

  Reference:
    Sagawa, Koh, Hashimoto and Liang, Distributionally robust neural networks for group shifts, 2020
    (recalled, not verified).
  """
  prepared, lam = _prepare(losses, groups, num_groups, temperature, where)
  log_ratio = _worst_case.log_weights(prepared.means, lam, 1, prepared.present)
  weights = _worst_case.probabilities(log_ratio, prepared.present)
  has_nan = jnp.any(jnp.isnan(prepared.base.values), axis=-1, keepdims=True)
  weights = jnp.where(has_nan, jnp.nan, weights)
  if prepared.base.kept is not None:
    weights = jnp.where(jnp.any(prepared.base.kept, axis=-1, keepdims=True), weights, 0)
  return weights.astype(prepared.base.dtype)


class _Groups(NamedTuple):
  """Mean losses of the groups, float[..., num_groups], 0 where absent; which are present."""

  base: base.Prepared
  means: Array
  present: Array


def _prepare(
  losses: ArrayLike,
  groups: ArrayLike,
  num_groups: int,
  temperature: ArrayLike,
  where: ArrayLike | None,
) -> tuple[_Groups, Array]:
  prepared = base.prepare(losses, where)
  num_groups = _checks.check_int("num_groups", num_groups, minimum=1)
  _checks.check_non_negative("temperature", temperature)
  index = _checks.check_labels(
    "groups", groups, shape=prepared.values.shape, num_classes=num_groups, where=prepared.kept
  )
  lam = base.per_set("temperature", temperature, prepared)
  prepared = base.with_numbers(prepared, lam)
  is_bad = (index < 0) | (index >= num_groups)
  if prepared.kept is not None:
    is_bad = is_bad & prepared.kept
  values = jnp.where(is_bad, jnp.nan, prepared.values)
  prepared = prepared._replace(values=values)
  index = jnp.clip(index, 0, num_groups - 1)  # bad ones are NaN or masked out
  means, present = group_means(values, index, num_groups, prepared.where)
  return _Groups(prepared, means, present), lam


def group_means(
  values: Array, groups: Array, num_groups: int, where: Array | None
) -> tuple[Array, Array]:
  """Mean of every group, float[..., num_groups], 0 where it has no entry; and whether it has."""
  shape = (*groups.shape[:-1], num_groups, groups.shape[-1])
  numbers = jax.lax.broadcasted_iota(groups.dtype, shape, len(shape) - 2)
  member = groups[..., None, :] == numbers
  if where is not None:
    member = member & where[..., None, :]
  total = jnp.sum(jnp.where(member, values[..., None, :], 0), axis=-1)
  size = jnp.sum(member, axis=-1)
  return total / jnp.maximum(size, 1).astype(values.dtype), size > 0
