"""What the robust means of a minibatch share: checked losses, masks, which state is kept."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks, numerics
from jaxopt_robust.typing import Array, ArrayLike


class RobustMeanInfo(NamedTuple):
  """What one batch says; nothing here carries a gradient.

  Attributes:
    objective: float scalar, estimate of the objective, with the updated inner quantity for the KL
      form and the threshold before its step for the others.
    weights: float[batch], weight of each loss in the gradient; 0 where masked out. They sum to one
      in the long run, not on each batch.
  """

  objective: Array
  weights: Array


class Batch(NamedTuple):
  """Checked losses of a minibatch; 0 where masked out.

  Attributes:
    values: float[batch], at least float32.
    where: bool[batch] or None.
    is_empty: bool scalar, whether nothing is kept.
    size: float scalar, the number of losses, at least 1.
    dtype: dtype of the caller's losses.
  """

  values: Array
  where: Array | None
  is_empty: Array
  size: Array
  dtype: Any


def prepare(losses: ArrayLike, where: ArrayLike | None) -> Batch:
  array = _checks.check_float_array("losses", losses, rank=1)
  mask = _checks.check_mask("where", where, shape=array.shape)
  values = numerics.upcast(array)
  if mask is None:
    size = jnp.asarray(array.shape[0], values.dtype)
    return Batch(values, None, jnp.asarray(False), size, array.dtype)
  size = jnp.maximum(jnp.sum(mask), 1).astype(values.dtype)
  return Batch(jnp.where(mask, values, 0), mask, ~jnp.any(mask), size, array.dtype)


def finish(
  batch: Batch, surrogate: Array, objective: Array, old: Any, fresh: Any, info: Any
) -> tuple[Array, tuple[Any, Any]]:
  """Zero without losses; keeps the old state then, and where the objective is NaN."""
  surrogate = jnp.where(batch.is_empty, 0, surrogate).astype(batch.dtype)
  keep = batch.is_empty | jnp.isnan(objective)
  state = numerics.tree_where(keep, old, fresh)
  return surrogate, jax.lax.stop_gradient((state, info))


def check_scalar(name: str, value: ArrayLike) -> None:
  _checks.check_array(name, value, rank=0)


def check_rate(name: str, rate: ArrayLike) -> None:
  check_scalar(name, rate)
  _checks.check_interval(name, rate, 0.0, 1.0, closed="right")
