"""Cox's proportional hazards: the partial likelihood of survival times, as a loss of predictors."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.numerics import safe_divide, upcast
from jaxopt_robust.regression.linear_losses import LinearLoss, normalised, register
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["cox_loss", "cox_partial_likelihood_loss"]

_TIES = ("breslow", "efron")


class _Order(NamedTuple):
  """Rows by stratum, and late times first: the rows before an event are those at risk.

  Attributes:
    order: int32[n], the sorting permutation.
    event: bool[n], sorted.
    stratum: int32[n], the first row of the same stratum.
    first: int32[n], the first row of the same time and stratum.
    last: int32[n], the last one.
    valid: scalar, NaN where a time is, otherwise 0.
  """

  order: Array
  event: Array
  stratum: Array
  first: Array
  last: Array
  valid: Array


def _as_times(name: str, value: Any) -> Array:
  """Times, or their ranks where floating point would make ties of different whole or wide ones."""
  times = _checks.check_float_array(name, value, rank=1)
  if not any(_checks.is_jax(leaf) for leaf in jax.tree.leaves(value)):
    known = np.asarray(value)
    ranks = np.unique(known, return_inverse=True)[1].reshape(known.shape)
    return jnp.asarray(np.where(known != known, np.nan, ranks), times.dtype)
  given = jnp.asarray(value)
  if jnp.issubdtype(given.dtype, jnp.integer):
    return jnp.searchsorted(jnp.sort(given), given).astype(times.dtype)
  return times


def _sorted(times: Array, events: Array, strata: Array) -> _Order:
  order = jnp.lexsort((-times, strata)).astype(jnp.int32)
  time, stratum = times[order], strata[order]
  place = jnp.arange(times.shape[0], dtype=jnp.int32)
  new_stratum = (place == 0) | (stratum != jnp.roll(stratum, 1))
  new_time = new_stratum | (time != jnp.roll(time, 1))
  group = jnp.cumsum(new_time) - 1
  last = (jnp.searchsorted(group, group, side="right") - 1).astype(jnp.int32)
  start_of = lambda new: jax.lax.cummax(jnp.where(new, place, 0))
  valid = jnp.where(jnp.isnan(times).any(), jnp.nan, 0).astype(times.dtype)
  return _Order(order, events[order], start_of(new_stratum), start_of(new_time), last, valid)


def _running(values: Array, first: Array) -> Array:
  """log sum exp of the values from ``first[i]`` to i, for each i, by doubling windows."""
  place = jnp.arange(values.shape[0], dtype=jnp.int32)

  def double(k: Array, window: Array) -> Array:
    before = place - (jnp.ones((), jnp.int32) << k)
    other = window[jnp.maximum(before, 0)]
    return jnp.where(before >= first, jnp.logaddexp(window, other), window)

  return jax.lax.fori_loop(0, max(values.shape[0] - 1, 0).bit_length(), double, values)


def _prepare(target: Any, num_rows: int) -> _Order:
  if not isinstance(target, tuple | list) or len(target) not in (2, 3):
    raise ValueError(
      "y must be a pair (times, events) or a triple (times, events, strata); got "
      f"{_checks.describe(target)}."
    )
  times = _as_times("the times of y", target[0])
  if times.shape[0] != num_rows:
    raise ValueError(f"y must have a time for each of the {num_rows} rows; got {times.shape}.")
  events = _checks.check_labels("the events of y", target[1], shape=times.shape, num_classes=2)
  strata = jnp.zeros(times.shape, jnp.int32)
  if len(target) == 3:
    strata = _checks.check_integers("the strata of y", target[2], shape=times.shape)
  return _sorted(times, events.astype(bool), strata)


def _total(prediction: Array, data: _Order, weights: Array, hyper: Any, *, ties: str) -> Array:
  """The negative log partial likelihood for weights of sum 1."""
  del hyper
  z, w = prediction[data.order], weights[data.order]
  # Rows without weight are in no risk set; a large number in place of the infinite logarithm.
  floor = jnp.finfo(z.dtype).min / 4
  counts = w > 0
  number_of_rows = jnp.sum(counts).astype(z.dtype)  # weights 0 and 1 are 0 and 1 in the logarithm
  mass = jnp.where(counts, z + jnp.log(jnp.where(counts, w * number_of_rows, 1)), floor)
  at_risk = _running(mass, data.stratum)[data.last]
  dies = data.event & counts
  if ties == "breslow":
    return jnp.sum(jnp.where(dies, w * (at_risk - z), 0)) + data.valid
  # Efron: of d tied events the k-th one leaves k / d of their mass out, at their mean weight.
  among = _running(jnp.where(dies, mass, floor), data.first)[data.last]
  deaths = jnp.cumsum(dies)
  before = (deaths - dies)[data.first]
  number = (deaths[data.last] - before).astype(z.dtype)
  rank = (deaths - dies - before).astype(z.dtype)
  lost = jnp.where(dies, w, 0)
  total = jnp.cumsum(lost)
  start = (total - lost)[data.first]
  mean_weight = safe_divide(total[data.last] - start, number)
  share = safe_divide(rank, number) * jnp.exp(jnp.where(dies, among - at_risk, 0))
  left = at_risk + jnp.log1p(-jnp.where(dies, share, 0))
  return jnp.sum(jnp.where(dies, mean_weight * left - w * z, 0)) + data.valid


def _make(ties: str) -> LinearLoss:
  return LinearLoss(
    rows=None,
    curvature=None,
    start=lambda mean: mean,
    prepare=_prepare,
    total=functools.partial(_total, ties=ties),
    intercept=False,
  )


_LOSSES = {ties: _make(ties) for ties in _TIES}
register("cox", _LOSSES["efron"])


def cox_loss(*, ties: str = "efron") -> LinearLoss:
  r"""The partial likelihood of Cox's model, as a loss for ``regularization_path``.

  Its objective is that of ``cox_partial_likelihood_loss``, for weights other than 0 and 1 up to a
  constant: inside the logarithms they are divided by the mean of the positive ones. Targets
  are pairs (times, events) or triples (times, events, strata). There is no intercept: it would not
  change the loss.

  Args:
    ties: "efron" or "breslow", how equal times are handled; static.

  Returns:
    ``LinearLoss``; the name "cox" stands for the one with Efron's ties.

  Raises:
    ValueError: when ``ties`` is unknown.

  Example:
    >>> x, times = jnp.array([[1.0], [0.0], [0.5], [0.2]]), jnp.array([1.0, 4.0, 2.0, 3.0])
    >>> y = times, jnp.array([1, 1, 0, 1])
    >>> path = jr.regression.regularization_path(x, y, jnp.array([0.1]), loss=cox_loss())
    >>> int(path.status[0]), bool(path.coefficients[0, 0] > 0)
    (0, True)

  Reference:
    Simon, Friedman, Hastie and Tibshirani, Regularization paths for Cox's proportional hazards
    model via coordinate descent, 2011; they scale by 2 / n where ours divides by the weights' sum.
  """
  _arguments.check_option("ties", ties, _TIES)
  return _LOSSES[ties]


def cox_partial_likelihood_loss(
  prediction: ArrayLike,
  times: ArrayLike,
  events: ArrayLike,
  *,
  strata: ArrayLike | None = None,
  sample_weight: ArrayLike | None = None,
  ties: str = "efron",
) -> Array:
  r"""Negative log partial likelihood of Cox's proportional hazards model.

  With hazards exp(z_i), weights s_i of sum W, and R_i the rows of the same stratum with
  t_j >= t_i, Breslow's form is

    -(1/W) sum_{i: event} s_i (z_i - log sum_{j in R_i} s_j exp(z_j)),

  and Efron's, for the d events D of one time and stratum with mean weight m,

    -(1/W) sum_D [ sum_{i in D} s_i z_i
                   - m sum_{k<d} log( sum_{j in R} s_j e^{z_j} - (k/d) sum_{j in D} s_j e^{z_j} ) ].

  Args:
    prediction: z, float[n], log hazard ratios.
    times: t, float[n] or int[n], of the event or of censoring; only their order counts, and whole
      numbers and NumPy's float64 are compared as they are given.
    events: int[n] or bool[n], 1 where the event was seen, 0 where the row is censored.
    strata: int[n], rows are compared within their stratum only; None: one stratum.
    sample_weight: s, float[n] >= 0; None: 1 each. May be traced.
    ties: "efron" or "breslow"; they agree where the times of events differ. Static.

  Returns:
    float scalar, >= 0 for weights of 1; 0 without events. NaN where a time is NaN. Computed in
    float32 or wider, in the type of the predictions.

  Raises:
    TypeError: when ``events`` or ``strata`` hold no integers.
    ValueError: when shapes do not fit, or ``ties`` is unknown.

  Note:
    O(n log n): one sort, then running sums of exponentials in the logarithmic domain (by windows
    of doubling length), so that no prediction overflows. A row censored at the time of an event is
    at risk there. Differentiable in the predictions and the positive weights; at a weight of 0 the
    derivative in it is 0.

  Example:
    >>> z, t = jnp.zeros(3), jnp.array([1.0, 2.0, 3.0])
    >>> round(float(cox_partial_likelihood_loss(z, t, jnp.array([1, 1, 0]))), 4)  # log(3 * 2) / 3
    0.5973

  Reference:
    Cox, Regression models and life-tables, 1972; Breslow, Covariance analysis of censored survival
    data, 1974; Efron, The efficiency of Cox's likelihood function for censored data, 1977. Weighted
    ties as in Therneau and Grambsch, Modeling Survival Data, 2000, section 3.3.
  """
  _arguments.check_option("ties", ties, _TIES)
  given = _checks.check_float_array("prediction", prediction, rank=1)
  z = upcast(given)
  n = z.shape[0]
  times = _as_times("times", times)
  if times.shape != z.shape:
    raise ValueError(f"times must have shape {z.shape}, that of prediction; got {times.shape}.")
  events = _checks.check_labels("events", events, shape=z.shape, num_classes=2)
  groups = jnp.zeros(n, jnp.int32)
  if strata is not None:
    groups = _checks.check_integers("strata", strata, shape=z.shape)
  order = _sorted(times, events.astype(bool), groups)
  order = order._replace(valid=order.valid.astype(z.dtype))
  weights = normalised(sample_weight, n, z.dtype)
  value = _total(z, order, weights, None, ties=ties)
  if sample_weight is None:
    return value.astype(given.dtype)
  raw = _checks.check_float_array("sample_weight", sample_weight, rank=1).astype(z.dtype)
  counts = raw > 0
  mean = safe_divide(jnp.sum(raw), jnp.sum(counts).astype(z.dtype))
  share = jnp.sum(jnp.where(events > 0, weights, 0))
  value = value + share * jnp.log(jnp.where(jnp.any(counts), mean, 1))
  return value.astype(given.dtype)
