"""What the stateful ranking losses share: which rows are anchors, and the rows of their state."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.losses.ranking import _common as base
from jaxopt_robust.typing import Array, ArrayLike

Surrogate = base.Surrogate


class XRiskInfo(NamedTuple):
  """Diagnostics of a stateful ranking loss.

  Attributes:
    objective: float scalar, the objective of the batch's anchors with the new state in place of
      the batch's own averages; what to report and plot. 0 if there are no anchors.
    num_anchors: int32 scalar, rows that the loss is a mean over.
  """

  objective: Array
  num_anchors: Array


class Anchors(NamedTuple):
  """Checked arguments of a stateful loss of one batch.

  Attributes:
    ranked: scores, positives and negatives; the score of a positive whose index is out of range is
      NaN.
    is_anchor: bool[n], the positives of a batch that has a negative too.
    pairs: bool[n, n], anchors against negatives.
    row: int[n], position in the state; out of range for rows that are no anchors.
  """

  ranked: base.Ranked
  is_anchor: Array
  pairs: Array
  row: Array


def prepare(
  scores: ArrayLike,
  labels: ArrayLike,
  index: ArrayLike,
  *,
  num_examples: int,
  where: ArrayLike | None,
) -> Anchors:
  """Checks scores, labels, index and mask; picks the anchors."""
  ranked = base.prepare(scores, labels, where)
  kept = ranked.is_positive | ranked.is_negative
  row = _checks.check_index(
    "index", index, shape=ranked.scores.shape, num_examples=num_examples, where=kept
  )
  is_lost = ranked.is_positive & (row == num_examples)
  ranked = ranked._replace(scores=jnp.where(is_lost, jnp.nan, ranked.scores))
  is_anchor = ranked.is_positive & jnp.any(ranked.is_negative)
  return Anchors(
    ranked,
    is_anchor,
    is_anchor[:, None] & ranked.is_negative[None, :],
    jnp.where(is_anchor, row, num_examples),
  )


def mean_over(where: Array, values: Array) -> Array:
  """Mean over the true entries of a mask, 0 if there are none."""
  return jnp.sum(jnp.where(where, values, 0)) / base.count(where, values.dtype)


def rate_of(name: str, rate: ArrayLike) -> ArrayLike:
  """A rate of a moving average, checked to be a scalar in (0, 1]."""
  _checks.check_array(name, rate, rank=0)
  _checks.check_interval(name, rate, 0.0, 1.0, closed="right")
  return rate


def scalar(name: str, value: ArrayLike, like: Array) -> Array:
  """A scalar hyper-parameter in the dtype of an array."""
  return _checks.check_array(name, value, rank=0).astype(like.dtype)


def state_array(name: str, value: ArrayLike, rank: int) -> Array:
  """An array of a state, checked to be floating-point and of the right rank."""
  return _checks.check_float_array(name, value, rank=rank)


def result(anchors: Anchors, each: Array, state: Any, info: Any) -> tuple[Array, Any]:
  """The mean over the anchors, and what must not carry a gradient."""
  return mean_over(anchors.is_anchor, each), jax.lax.stop_gradient((state, info))


def info_of(is_anchor: Array, objectives: Array) -> XRiskInfo:
  objective = mean_over(is_anchor, jax.lax.stop_gradient(objectives))
  return XRiskInfo(objective, jnp.sum(is_anchor, dtype=jnp.int32))
