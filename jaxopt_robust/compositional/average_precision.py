"""Average precision from small batches, by moving averages of both parts of its ratio.

The objective is a mean, over the positives, of a function of a mean over the whole data; a batch
estimates the inner mean badly and with a bias, so two numbers a positive are carried along instead.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.compositional import _examples, _ranked
from jaxopt_robust.compositional._ranked import XRiskInfo
from jaxopt_robust.losses.ranking import _common as base
from jaxopt_robust.losses.ranking.surrogates import squared_hinge_surrogate
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["SoapState", "XRiskInfo", "soap_init", "soap_loss"]


class SoapState(NamedTuple):
  """Moving averages of SOAP, one pair an example; only those of positives are ever written.

  Attributes:
    averages: float[num_examples, 2], of the mean surrogate against everything in a batch, and of
      the part of this mean that comes from positives.
    seen: bool[num_examples], whether the example was in a batch yet.
  """

  averages: Array
  seen: Array


def soap_init(num_examples: int, *, dtype: jnp.dtype = jnp.float32) -> SoapState:
  """State of SOAP before training: no example seen.

  Sets all averages to 0; an example's first visit overwrites them.

  Args:
    num_examples: static integer >= 1, size of the training set, negatives included.
    dtype: floating-point dtype of the averages.

  Returns:
    SoapState.

  Raises:
    ValueError: num_examples < 1.
    TypeError: num_examples is not an integer or dtype is not floating-point.

  Example:
    >>> soap_init(3).averages.shape
    (3, 2)

  Reference:
    Qi, Luo, Xu, Ji and Yang, Stochastic optimization of areas under precision-recall curves with
    provable convergence, 2021.
  """
  size = _checks.check_int("num_examples", num_examples, minimum=1)
  averages = jnp.zeros((size, 2), _checks.check_float_dtype(dtype))
  return SoapState(averages, jnp.zeros((size,), bool))


def soap_loss(
  scores: ArrayLike,
  labels: ArrayLike,
  index: ArrayLike,
  state: SoapState,
  *,
  rate: ArrayLike = 0.9,
  surrogate: _ranked.Surrogate = squared_hinge_surrogate,
  where: ArrayLike | None = None,
) -> tuple[Array, tuple[SoapState, XRiskInfo]]:
  r"""Surrogate of the average precision loss, with moving averages of both parts of its ratio.

  The objective is (1/n_+) sum_{i positive} 1 - u_i^+ / u_i with u_i = (1/n) sum_j l(s_i - s_j) over
  all rows j and u_i^+ the part of it from positives (``losses.average_precision_loss``). A visit
  sets u_i <- (1 - rate) u_i + rate (mean over the batch), likewise u_i^+, at the first visit the
  mean itself, and returns the mean over the batch's pairs (i, j) of
  (u_i^+ - u_i 1[j positive]) / u_i^2 l(s_i - s_j), through whose first factor no gradient flows.

  Args:
    scores: float[n] scores s.
    labels: int[n], 1 for positives, 0 for negatives.
    index: int[n] position of each row's example in the state.
    state: SoapState from ``soap_init`` or the previous visit.
    rate: in (0, 1], the weight of the new value; 1 uses the batch alone; may be traced.
    surrogate: non-increasing elementwise function l of an array of gaps s_i - s_j, positive at 0.
    where: bool[n]; rows where it is false do not exist, whatever they hold.

  Returns:
    (surrogate, (new state, XRiskInfo)): a scalar, at least float32, whose gradient is the one to
    use and whose value has no meaning; ``info.objective`` is the value to report. A batch without a
    positive or without a negative gives 0 and changes nothing. NaN if a score is NaN and, under
    ``jit``, if a label or the index of a positive is out of range; the rows concerned are kept.

  Raises:
    ValueError: shapes do not agree, a known label is not 0 or 1, a known index is out of range, or
      rate not in (0, 1].
    TypeError: scores are not floating-point, labels or index not integers, surrogate not callable.

  Note:
    With rate 1 and all data in the batch the gradient is that of the objective. Several rows of one
    example are averaged. Every batch should hold the same share of positives. Use with
    ``jax.value_and_grad(..., has_aux=True)`` and any optimizer.

  Example:
    >>> state, index = soap_init(3), jnp.arange(3)
    >>> scores, labels = jnp.array([0.5, 0.5, 0.0]), jnp.array([1, 0, 0])
    >>> surrogate, (state, info) = soap_loss(scores, labels, index, state)
    >>> round(float(info.objective), 4), state.seen
    (0.5556, Array([ True, False, False], dtype=bool))

  Reference:
    Qi, Luo, Xu, Ji and Yang, Stochastic optimization of areas under precision-recall curves with
    provable convergence, 2021; constants from the authors' library LibAUC, which lets the averages
    start at 0 instead of the first value.
  """
  state = _arguments.check_state("state", state, SoapState)
  averages = _ranked.state_array("state.averages", state.averages, 2)
  anchors = _ranked.prepare(scores, labels, index, num_examples=averages.shape[0], where=where)
  _ranked.rate_of("rate", rate)
  ranked = anchors.ranked
  kept = ranked.is_positive | ranked.is_negative
  loss = base.pair_losses(
    surrogate, ranked.scores, ranked.scores, anchors.is_anchor[:, None] & kept[None, :]
  )
  size = base.count(kept, loss.dtype)
  total = jnp.sum(loss, axis=1) / size
  positive = jnp.sum(jnp.where(ranked.is_positive[None, :], loss, 0), axis=1) / size
  values = jax.lax.stop_gradient(jnp.stack([total, positive], axis=1))
  averages, seen, new = _examples.average(averages, state.seen, anchors.row, values, rate)
  mean, part = jax.lax.stop_gradient(new).astype(loss.dtype).T
  precision = numerics.safe_divide(part, mean)
  each = numerics.safe_divide(precision * total - positive, mean)
  info = _ranked.info_of(anchors.is_anchor, 1 - precision)
  return _ranked.result(anchors, each, SoapState(averages, seen), info)
