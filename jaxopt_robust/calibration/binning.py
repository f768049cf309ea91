"""Recalibration without a parametric form: histogram binning and isotonic regression."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.calibration import _bins, _events
from jaxopt_robust.projections import projection_isotonic
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "HistogramMap",
  "IsotonicMap",
  "histogram_apply",
  "histogram_fit",
  "isotonic_apply",
  "isotonic_fit",
]


class HistogramMap(NamedTuple):
  """Bins and the share of positives in each; of several classes with a leading axis.

  Attributes:
    edges: float[..., num_bins - 1], inner edges; bins are (lo, hi].
    value: float[..., num_bins], share of positives; the middle of the bin where it is empty.
    count: float[..., num_bins], number of examples.
  """

  edges: Array
  value: Array
  count: Array  # type: ignore[assignment]


class IsotonicMap(NamedTuple):
  """Points of a non-decreasing piecewise linear function; of several classes a leading axis.

  Attributes:
    score: float[..., n], ascending.
    value: float[..., n], ascending.
  """

  score: Array
  value: Array


def _class_events(given: _events.Probabilities) -> _events.Events:
  if given.probs.ndim == 2:
    return _events.class_events(given)
  return jax.tree.map(lambda leaf: leaf[None], _events.top_label_events(given))


def histogram_fit(
  probs: ArrayLike,
  labels: ArrayLike,
  *,
  num_bins: int = 15,
  binning: str = "width",
  where: ArrayLike | None = None,
) -> HistogramMap:
  r"""Histogram binning: the share of positives in bins of the score, class by class.

  The value of bin b of class j is (number of its rows with y = j) / (number of its rows).

  Args:
    probs: float[n, classes] probabilities (not logits), or float[n] of one event.
    labels: int[n] in [0, classes); of one event bool or 0 and 1, whether it happened.
    num_bins: static integer >= 1.
    binning: ``"width"``: bins (b/B, (b+1)/B]; ``"mass"``: edges half way between the examples of
      ranks round(n b/B), so that ties stay together.
    where: bool[n]; rows where it is false are ignored, whatever they hold.

  Returns:
    ``HistogramMap``, at least float32, with a leading axis of classes for probs of rank 2. NaN
    where a kept row is not finite.

  Raises:
    ValueError: shapes do not agree, known values are no probabilities, a known label is out of
      range, num_bins < 1, or an unknown binning.
    TypeError: probs are not floating-point, labels are not integers, where is not boolean.

  Note:
    On its own rows the map has no binned calibration error with the same edges.

  Example:
    >>> found = histogram_fit(jnp.array([0.1, 0.2, 0.9]), jnp.array([0, 1, 1]), num_bins=2)
    >>> found.value
    Array([0.5, 1. ], dtype=float32)

  Reference:
    Zadrozny and Elkan, Obtaining calibrated probability estimates from decision trees and naive
    Bayesian classifiers, 2001.
  """
  num_bins = _checks.check_int("num_bins", num_bins, minimum=1)
  _arguments.check_option("binning", binning, _bins.BINNINGS)
  given = _events.check_probs(probs, labels, where)
  found = _histogram(given, num_bins, binning)
  return found if given.probs.ndim == 2 else jax.tree.map(lambda leaf: leaf[0], found)


@partial(jax.jit, static_argnames=("num_bins", "binning"))
def _histogram(given: _events.Probabilities, num_bins: int, binning: str) -> HistogramMap:
  def fit(events: _events.Events) -> HistogramMap:
    edges = _bins.width_edges(num_bins, events.confidence.dtype)
    if binning == "mass":
      edges = _mass_edges(events, num_bins)
    sums = _bins.bin_sums(events, _bins.find_bin(edges, events.confidence), num_bins)
    ends = jnp.concatenate([jnp.zeros(1, edges.dtype), edges, jnp.ones(1, edges.dtype)])
    middle = (ends[1:] + ends[:-1]) / 2
    share = sums.outcome / jnp.maximum(sums.count, 1)
    value = jnp.where(sums.count > 0, share, middle) + events.poison
    return HistogramMap(edges, value, sums.count)

  return jax.vmap(fit)(_class_events(given))


def _mass_edges(events: _events.Events, num_bins: int) -> Array:
  ordered = jnp.sort(jnp.where(events.keep, events.confidence, 1))  # what is masked is last
  count = jnp.sum(events.keep, dtype=jnp.int32)
  ends = _bins.mass_ends(count, num_bins, jnp.arange(1, num_bins, dtype=jnp.int32))
  low = ordered[jnp.clip(ends - 1, 0, len(ordered) - 1)]
  high = ordered[jnp.clip(ends, 0, len(ordered) - 1)]
  return jnp.where(count > 0, low + (high - low) / 2, _bins.width_edges(num_bins, low.dtype))


def histogram_apply(params: HistogramMap, probs: ArrayLike) -> Array:
  r"""Probabilities after histogram binning.

  Puts the value of its bin in place of each score; rows of several classes are then divided by
  their sum.

  Args:
    params: ``HistogramMap`` of ``histogram_fit``.
    probs: float[n, classes] probabilities, or float[n] of one event, as in the fit.

  Returns:
    Probabilities of the shape and dtype of ``probs``; a row whose values are all 0 becomes uniform.
    NaN stays NaN.

  Raises:
    ValueError: probs do not go with the map, or known values are no probabilities.
    TypeError: params is no ``HistogramMap``, or probs are not floating-point.

  Note:
    Predicted classes may change, and ties appear.

  Example:
    >>> params = histogram_fit(jnp.array([0.1, 0.2, 0.9]), jnp.array([0, 1, 1]), num_bins=2)
    >>> histogram_apply(params, jnp.array([0.3, 0.6]))
    Array([0.5, 1. ], dtype=float32)

  Reference:
    Zadrozny and Elkan, Obtaining calibrated probability estimates from decision trees and naive
    Bayesian classifiers, 2001.
  """

  def one(params: HistogramMap, scores: Array) -> Array:
    return params.value[_bins.find_bin(params.edges, scores)]

  return _apply(HistogramMap, params, probs, one)


def _apply(
  kind: type,
  params: HistogramMap | IsotonicMap,
  probs: ArrayLike,
  one: Callable[[Any, Array], Array],
) -> Array:
  if not isinstance(params, kind):
    raise TypeError(f"params must be a {kind.__name__}; got {_checks.describe(params)}.")
  scores = _checks.check_float_array("probs", probs, rank=(1, 2))
  check = lambda leaf: _checks.check_float_array("params", leaf, non_empty=False)
  params = jax.tree.map(check, params)
  wide = numerics.upcast(scores)
  _events.check_range(wide)
  expected = () if wide.ndim == 1 else wide.shape[1:]
  if any(leaf.shape[:-1] != expected for leaf in params):
    raise ValueError(
      f"probs must have the classes that params were fitted for, {params.value.shape[:-1]}; got "
      f"shape {scores.shape}."
    )
  params = jax.tree.map(lambda leaf: leaf.astype(wide.dtype), params)
  if wide.ndim == 1:
    found = one(params, wide)
    return jnp.where(jnp.isnan(wide), jnp.nan, found).astype(scores.dtype)
  found = jax.vmap(one, in_axes=(0, 1), out_axes=1)(params, wide)
  found = jnp.where(jnp.isnan(wide), jnp.nan, found)
  total = jnp.sum(found, axis=1, keepdims=True)
  is_zero = total == 0
  shared = jnp.where(is_zero, 1 / found.shape[1], found / jnp.where(is_zero, 1, total))
  return shared.astype(scores.dtype)


def isotonic_fit(
  probs: ArrayLike, labels: ArrayLike, *, where: ArrayLike | None = None
) -> IsotonicMap:
  r"""Isotonic regression of the outcomes on the scores, class by class.

  Solves min_f sum_i (f(p_i) - o_i)^2 over non-decreasing f, with o_i = 1 where the row has the
  class. Equal scores get one value.

  Args:
    probs: float[n, classes] probabilities (not logits), or float[n] of one event.
    labels: int[n] in [0, classes); of one event bool or 0 and 1, whether it happened.
    where: bool[n]; rows where it is false are ignored, whatever they hold.

  Returns:
    ``IsotonicMap``, at least float32, with a leading axis of classes for probs of rank 2: the
    sorted scores and their values. The identity if no row is kept, NaN where a kept row is not
    finite.

  Raises:
    ValueError: shapes do not agree, known values are no probabilities, or a known label is out of
      range.
    TypeError: probs are not floating-point, labels are not integers, where is not boolean.

  Note:
    Equal to ``sklearn.isotonic.IsotonicRegression(out_of_bounds="clip")``.

  Example:
    >>> isotonic_fit(jnp.array([0.1, 0.2, 0.9]), jnp.array([1, 0, 1])).value
    Array([0.5, 0.5, 1. ], dtype=float32)

  Reference:
    Zadrozny and Elkan, Transforming classifier scores into accurate multiclass probability
    estimates, 2002.
  """
  given = _events.check_probs(probs, labels, where)
  found = _isotonic(given)
  return found if given.probs.ndim == 2 else jax.tree.map(lambda leaf: leaf[0], found)


@jax.jit
def _isotonic(given: _events.Probabilities) -> IsotonicMap:
  def fit(events: _events.Events) -> IsotonicMap:
    ordered = _bins.sort_events(events)
    # Masked rows come last, as positives: they change no value before them.
    outcome = jnp.where(ordered.keep, ordered.outcome, 1)
    value = projection_isotonic(outcome)
    count = jnp.sum(ordered.keep)
    last = jnp.maximum(count - 1, 0)
    score = jnp.where(ordered.keep, ordered.confidence, ordered.confidence[last])
    value = jnp.where(ordered.keep, value, value[last])
    line = jnp.linspace(0, 1, len(score), dtype=score.dtype)
    score, value = (jnp.where(count > 0, found, line) for found in (score, value))
    return IsotonicMap(score, value + events.poison)

  return jax.vmap(fit)(_class_events(given))


def isotonic_apply(params: IsotonicMap, probs: ArrayLike) -> Array:
  r"""Probabilities after isotonic regression.

  Interpolates linearly between the scores of the fit and takes the nearest value outside of them;
  rows of several classes are then divided by their sum.

  Args:
    params: ``IsotonicMap`` of ``isotonic_fit``.
    probs: float[n, classes] probabilities, or float[n] of one event, as in the fit.

  Returns:
    Probabilities of the shape and dtype of ``probs``; a row whose values are all 0 becomes uniform.
    NaN stays NaN.

  Raises:
    ValueError: probs do not go with the map, or known values are no probabilities.
    TypeError: params is no ``IsotonicMap``, or probs are not floating-point.

  Note:
    Predicted classes may change, and ties appear.

  Example:
    >>> params = isotonic_fit(jnp.array([0.1, 0.2, 0.9]), jnp.array([0, 0, 1]))
    >>> np.asarray(isotonic_apply(params, jnp.array([0.05, 0.55, 0.95]))).round(3)
    array([0. , 0.5, 1. ], dtype=float32)

  Reference:
    Zadrozny and Elkan, Transforming classifier scores into accurate multiclass probability
    estimates, 2002.
  """

  def one(params: IsotonicMap, scores: Array) -> Array:
    return jnp.interp(scores, params.score, params.value)

  return _apply(IsotonicMap, params, probs, one)
