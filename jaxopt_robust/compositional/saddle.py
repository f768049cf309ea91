"""Saddle-point objectives with a dual weight for each example, learned by mirror ascent."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.compositional import _examples
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["AdawacInfo", "AdawacState", "adawac_init", "adawac_loss"]


class AdawacState(NamedTuple):
  """Weights between supervision and consistency, one an example.

  Attributes:
    logits: float32[num_examples]; the weight of supervision is sigmoid(logits).
  """

  logits: Array


class AdawacInfo(NamedTuple):
  """What one batch says; nothing here carries a gradient.

  Attributes:
    objective: float scalar, the mean of the mixed losses with the updated weights.
    weight: float[batch], the updated weights of supervision; 0 in rows that are masked out.
  """

  objective: Array
  weight: Array


def adawac_init(num_examples: int) -> AdawacState:
  r"""State of adaptive weighting before training: both losses of each example weigh the same.

  Sets the logits to 0, that is beta_i = 1/2.

  Args:
    num_examples: static integer >= 1, size of the training set.

  Returns:
    AdawacState with float32[num_examples] zeros.

  Raises:
    ValueError: num_examples < 1.
    TypeError: num_examples is not a static integer.

  Example:
    >>> jax.nn.sigmoid(adawac_init(2).logits)
    Array([0.5, 0.5], dtype=float32)

  Reference:
    Dong, Xie and Ward, Adaptively weighted data augmentation consistency regularization for robust
    optimization under concept shift, 2023, algorithm 1.
  """
  size = _checks.check_int("num_examples", num_examples, minimum=1)
  return AdawacState(jnp.zeros((size,), jnp.float32))


def adawac_loss(
  supervised: ArrayLike,
  consistency: ArrayLike,
  index: ArrayLike,
  state: AdawacState,
  *,
  stepsize: ArrayLike = 8.0,
  clip: ArrayLike = 30.0,
  where: ArrayLike | None = None,
) -> tuple[Array, tuple[AdawacState, AdawacInfo]]:
  r"""Adaptively weighted consistency regularisation (AdaWAC): one visit of a batch.

  The objective is min_theta max_{beta in [0, 1]^n} (1/n) sum_i [beta_i l_i + (1 - beta_i) c_i] with
  supervised losses l and consistency losses c. A visit makes a step of entropic mirror ascent,
  beta_i <- beta_i e^{s l_i} / (beta_i e^{s l_i} + (1 - beta_i) e^{s c_i}) with s = stepsize, and
  returns the batch mean of beta_i l_i + (1 - beta_i) c_i with the new weights, through which no
  gradient flows. The loss that is larger gains weight: examples whose labels are learned drift to
  consistency.

  Args:
    supervised: float[batch] losses of the examples with their labels, such as the cross entropy of
      two augmented copies.
    consistency: float[batch] losses without labels, already multiplied by their coefficient, such
      as twice ``losses.feature_consistency_loss``.
    index: int[batch] position of each row's example in the state.
    state: AdawacState from ``adawac_init`` or the previous visit.
    stepsize: >= 0, a scalar; may be traced. With 0 the weights stay at 1/2.
    clip: > 0, bound on the absolute logits, so that a saturated weight can return; may be traced.
    where: bool[batch]; rows where it is false do not count and keep their state, whatever they
      hold.

  Returns:
    (scalar loss in the dtype of ``supervised``, (the new AdawacState, AdawacInfo)), for
    ``jax.value_and_grad(..., has_aux=True)``; the loss is 0 if no row counts. Rows of one example
    that occur twice are averaged in its step. A NaN loss makes the loss NaN and leaves its
    example's weight; so does an index out of range under ``jit``.

  Raises:
    ValueError: shapes do not agree, a known index is out of range, stepsize < 0 or clip <= 0.
    TypeError: losses are not floating-point or index is not an integer array.

  Note:
    The weights are a two-armed Hedge for each example: after visits with losses l_t and c_t,
    beta = sigmoid(s sum_t (l_t - c_t)). It is a maximum: wrong labels, whose loss stays high, keep
    a weight near one. Add a Dice loss to the result as usual; it takes no part in the weights.

  Example:
    >>> state = adawac_init(3)
    >>> supervised, consistency = jnp.array([2.0, 0.1]), jnp.array([1.0, 1.1])
    >>> index = jnp.array([0, 2])
    >>> loss, (state, info) = adawac_loss(supervised, consistency, index, state, stepsize=1.0)
    >>> state.logits
    Array([ 1.,  0., -1.], dtype=float32)

  Reference:
    Dong, Xie and Ward, Adaptively weighted data augmentation consistency regularization for robust
    optimization under concept shift, 2023, algorithm 1; the clipping of the logits is ours.
  """
  state = _arguments.check_state("state", state, AdawacState)
  one = _checks.check_float_array("supervised", supervised, rank=1)
  two = _checks.check_float_array("consistency", consistency, rank=1)
  _checks.check_same_shape("supervised", one, "consistency", two)
  _checks.check_non_negative("stepsize", stepsize)
  _checks.check_positive("clip", clip)
  mask = _checks.check_mask("where", where, shape=one.shape)
  stored = _checks.check_float_array("state.logits", state.logits, rank=1)
  row = _checks.check_index(
    "index", index, shape=one.shape, num_examples=stored.shape[0], where=mask
  )
  keep = jnp.ones(one.shape, jnp.bool_) if mask is None else mask
  wide, other = (jnp.where(keep, numerics.upcast(x), 0) for x in (one, two))
  gain = _examples.merge(row, jax.lax.stop_gradient(wide - other).astype(stored.dtype))
  step, bound = (jnp.asarray(x, stored.dtype) for x in (stepsize, clip))
  logits = jnp.clip(_examples.read(stored, row) + step * gain, -bound, bound)
  weight = jnp.where(keep, jax.nn.sigmoid(logits), 0)
  beta = weight.astype(wide.dtype)
  loss = numerics.masked_mean(beta * wide + (1 - beta) * other, mask).astype(one.dtype)
  updated = AdawacState(_examples.write(stored, row, logits))
  return loss, (updated, AdawacInfo(jax.lax.stop_gradient(loss), weight))
