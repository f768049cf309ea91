"""Calibration errors from bins: expected, maximum, average, root mean square, class by class."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.calibration import _bins, _events
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "ReliabilityBins",
  "average_calibration_error",
  "classwise_calibration_error",
  "expected_calibration_error",
  "maximum_calibration_error",
  "reliability_bins",
  "root_mean_square_calibration_error",
]


class ReliabilityBins(NamedTuple):
  """What a reliability diagram shows, float[num_bins] each.

  Attributes:
    count: number of examples in the bin.
    confidence: their mean confidence; 0 for an empty bin.
    accuracy: the share of them that is right; 0 for an empty bin.
  """

  count: Array  # type: ignore[assignment]
  confidence: Array
  accuracy: Array


def _binned(
  probs: ArrayLike, labels: ArrayLike, num_bins: int, binning: str, where: ArrayLike | None
) -> tuple[_bins.Sums, Array]:
  num_bins = _checks.check_int("num_bins", num_bins, minimum=1)
  _arguments.check_option("binning", binning, _bins.BINNINGS)
  given = _events.check_probs(probs, labels, where)
  return _top_label(given, num_bins, binning)


@partial(jax.jit, static_argnames=("num_bins", "binning"))
def _top_label(
  given: _events.Probabilities, num_bins: int, binning: str
) -> tuple[_bins.Sums, Array]:
  events = _events.top_label_events(given)
  return _bins.binned(events, num_bins, binning), events.poison


def reliability_bins(
  probs: ArrayLike,
  labels: ArrayLike,
  *,
  num_bins: int = 15,
  binning: str = "width",
  where: ArrayLike | None = None,
) -> ReliabilityBins:
  r"""Confidence and accuracy in bins of the confidence: the data of a reliability diagram.

  The confidence of a row is max_k p_k, and it is right if argmax_k p_k is its label. Bins of equal
  width are (b/B, (b+1)/B], the first one holds 0 too. Bins of equal mass hold the ranks from
  round(n b/B) to round(n (b+1)/B) of the sorted confidences.

  Args:
    probs: float[n, classes] probabilities (not logits), or float[n] of one event.
    labels: int[n] in [0, classes); of one event bool or 0 and 1, whether it happened.
    num_bins: static integer >= 1, B.
    binning: ``"width"`` or ``"mass"``.
    where: bool[n]; rows where it is false are ignored, whatever they hold.

  Returns:
    ``ReliabilityBins``, at least float32. NaN where a kept row is not finite.

  Raises:
    ValueError: shapes do not agree, known values are no probabilities, a known label is out of
      range, num_bins < 1, or an unknown binning.
    TypeError: probs are not floating-point, labels are not integers, where is not boolean.

  Note:
    Rows of equal confidence count with their mean outcome where bins of equal mass cut through
    them, so that their order does not matter. Implementations with interpolated quantiles as edges
    drop the smallest confidence. The binary form is that of
    ``sklearn.calibration.calibration_curve``, which leaves empty bins out. Of tied largest
    probabilities the first class is the prediction.

  Example:
    >>> found = reliability_bins(jnp.array([0.1, 0.2, 0.9]), jnp.array([0, 1, 1]), num_bins=2)
    >>> found.count, found.accuracy
    (Array([2., 1.], dtype=float32), Array([0.5, 1. ], dtype=float32))

  Reference:
    Guo, Pleiss, Sun and Weinberger, On calibration of modern neural networks, 2017, section 2.
  """
  sums, poison = _binned(probs, labels, num_bins, binning, where)
  size = jnp.maximum(sums.count, 1)
  return ReliabilityBins(sums.count, sums.confidence / size + poison, sums.outcome / size + poison)


def expected_calibration_error(
  probs: ArrayLike,
  labels: ArrayLike,
  *,
  num_bins: int = 15,
  binning: str = "width",
  where: ArrayLike | None = None,
) -> Array:
  r"""Expected calibration error (ECE) of the predicted class.

  Computes sum_b n_b/n |acc_b - conf_b| over the bins of ``reliability_bins``.

  Args:
    probs: float[n, classes] probabilities (not logits), or float[n] of one event.
    labels: int[n] in [0, classes); of one event bool or 0 and 1, whether it happened.
    num_bins: static integer >= 1.
    binning: ``"width"``, or ``"mass"``: adaptive ECE.
    where: bool[n]; rows where it is false are ignored, whatever they hold.

  Returns:
    float scalar in [0, 1], at least float32; 0 if no row is kept, NaN where a kept row is not
    finite.

  Raises:
    ValueError: shapes do not agree, known values are no probabilities, a known label is out of
      range, num_bins < 1, or an unknown binning.
    TypeError: probs are not floating-point, labels are not integers, where is not boolean.

  Note:
    Falls like n^(-1/2) on perfectly calibrated data, not to 0 at a finite n. netcal's default has
    10 bins, torchmetrics' 15.

  Example:
    >>> probs, labels = jnp.array([[0.9, 0.1], [0.2, 0.8]]), jnp.array([0, 0])
    >>> round(float(expected_calibration_error(probs, labels)), 3)
    0.45

  Reference:
    Naeini, Cooper and Hauskrecht, Obtaining well calibrated probabilities using Bayesian binning,
    2015; equal mass: Nguyen and O'Connor, Posterior calibration and exploratory analysis for
    natural language processing models, 2015.
  """
  sums, poison = _binned(probs, labels, num_bins, binning, where)
  return jnp.sum(_bins.shares(sums) * _bins.gaps(sums)) + poison


def maximum_calibration_error(
  probs: ArrayLike,
  labels: ArrayLike,
  *,
  num_bins: int = 15,
  binning: str = "width",
  where: ArrayLike | None = None,
) -> Array:
  r"""Maximum calibration error (MCE): the largest gap of a bin.

  Computes max_b |acc_b - conf_b| over the bins that hold examples, as in ``reliability_bins``.

  Args:
    probs: float[n, classes] probabilities (not logits), or float[n] of one event.
    labels: int[n] in [0, classes); of one event bool or 0 and 1, whether it happened.
    num_bins: static integer >= 1.
    binning: ``"width"`` or ``"mass"``.
    where: bool[n]; rows where it is false are ignored, whatever they hold.

  Returns:
    float scalar in [0, 1], at least float32; 0 if no row is kept, NaN where a kept row is not
    finite.

  Raises:
    ValueError: shapes do not agree, known values are no probabilities, a known label is out of
      range, num_bins < 1, or an unknown binning.
    TypeError: probs are not floating-point, labels are not integers, where is not boolean.

  Example:
    >>> probs, labels = jnp.array([0.1, 0.2, 0.9]), jnp.array([0, 1, 1])
    >>> round(float(maximum_calibration_error(probs, labels)), 3)
    0.8

  Reference:
    Naeini, Cooper and Hauskrecht, Obtaining well calibrated probabilities using Bayesian binning,
    2015.
  """
  sums, poison = _binned(probs, labels, num_bins, binning, where)
  return jnp.max(_bins.gaps(sums)) + poison


def average_calibration_error(
  probs: ArrayLike,
  labels: ArrayLike,
  *,
  num_bins: int = 15,
  binning: str = "width",
  where: ArrayLike | None = None,
) -> Array:
  r"""Average calibration error (ACE): every bin that holds examples counts the same.

  Computes the mean of |acc_b - conf_b| over the bins that hold examples, as in
  ``reliability_bins``.

  Args:
    probs: float[n, classes] probabilities (not logits), or float[n] of one event.
    labels: int[n] in [0, classes); of one event bool or 0 and 1, whether it happened.
    num_bins: static integer >= 1.
    binning: ``"width"``, as in netcal, or ``"mass"``.
    where: bool[n]; rows where it is false are ignored, whatever they hold.

  Returns:
    float scalar in [0, 1], at least float32; 0 if no row is kept, NaN where a kept row is not
    finite.

  Raises:
    ValueError: shapes do not agree, known values are no probabilities, a known label is out of
      range, num_bins < 1, or an unknown binning.
    TypeError: probs are not floating-point, labels are not integers, where is not boolean.

  Example:
    >>> probs, labels = jnp.array([0.1, 0.1, 0.9]), jnp.array([0, 0, 1])
    >>> round(float(average_calibration_error(probs, labels)), 3)
    0.1

  Reference:
    Neumann, Zisserman and Vedaldi, Relaxed softmax: efficient confidence auto-calibration for safe
    pedestrian detection, 2018.
  """
  sums, poison = _binned(probs, labels, num_bins, binning, where)
  filled = jnp.sum(sums.count > 0)
  return jnp.sum(_bins.gaps(sums)) / jnp.maximum(filled, 1) + poison


def root_mean_square_calibration_error(
  probs: ArrayLike,
  labels: ArrayLike,
  *,
  num_bins: int = 15,
  binning: str = "width",
  where: ArrayLike | None = None,
) -> Array:
  r"""Root mean square calibration error (RMSCE), at least the ECE.

  Computes sqrt( sum_b n_b/n (acc_b - conf_b)^2 ) over the bins of ``reliability_bins``.

  Args:
    probs: float[n, classes] probabilities (not logits), or float[n] of one event.
    labels: int[n] in [0, classes); of one event bool or 0 and 1, whether it happened.
    num_bins: static integer >= 1.
    binning: ``"width"`` or ``"mass"``.
    where: bool[n]; rows where it is false are ignored, whatever they hold.

  Returns:
    float scalar in [0, 1], at least float32; 0 if no row is kept, NaN where a kept row is not
    finite. Its derivative at 0 is 0.

  Raises:
    ValueError: shapes do not agree, known values are no probabilities, a known label is out of
      range, num_bins < 1, or an unknown binning.
    TypeError: probs are not floating-point, labels are not integers, where is not boolean.

  Example:
    >>> probs, labels = jnp.array([0.2, 0.6]), jnp.array([0, 1])
    >>> round(float(root_mean_square_calibration_error(probs, labels)), 3)
    0.316

  Reference:
    Hendrycks, Mazeika and Dietterich, Deep anomaly detection with outlier exposure, 2019; Kumar,
    Liang and Ma, Verified uncertainty calibration, 2019 (their plug-in estimate with p = 2).
  """
  sums, poison = _binned(probs, labels, num_bins, binning, where)
  square = jnp.sum(_bins.shares(sums) * _bins.gaps(sums) ** 2)
  is_zero = square == 0
  return jnp.where(is_zero, 0, jnp.sqrt(jnp.where(is_zero, 1, square))) + poison


def classwise_calibration_error(
  probs: ArrayLike,
  labels: ArrayLike,
  *,
  num_bins: int = 15,
  binning: str = "width",
  reduction: str = "mean",
  threshold: ArrayLike | None = None,
  where: ArrayLike | None = None,
) -> Array:
  r"""ECE of each class as an event of its own, averaged or summed over the classes.

  The error of class j is the ECE of the scores p_j with the outcomes 1[y = j].

  Args:
    probs: float[n, classes] probabilities (not logits).
    labels: int[n] in [0, classes).
    num_bins: static integer >= 1.
    binning: ``"width"`` or ``"mass"``.
    reduction: ``"mean"`` over all classes, ``"sum"``, or ``"none"``.
    threshold: in [0, 1], a scalar; may be traced. Only rows with p_j > threshold count for class j.
      1 / classes gives the thresholded variant; None keeps all.
    where: bool[n]; rows where it is false are ignored, whatever they hold.

  Returns:
    float scalar, or float[classes] without a reduction, at least float32. A class without rows has
    the error 0; one without positives has that of its scores. NaN where a kept row is not finite.

  Raises:
    ValueError: shapes do not agree, known values are no probabilities, a known label is out of
      range, num_bins < 1, threshold outside [0, 1], or an unknown binning or reduction.
    TypeError: probs are not floating-point, labels are not integers, where is not boolean.

  Example:
    >>> probs = jnp.array([[0.9, 0.1], [0.2, 0.8]])
    >>> np.asarray(classwise_calibration_error(probs, jnp.array([0, 0]), reduction="none")).round(3)
    array([0.45, 0.45], dtype=float32)

  Reference:
    Kull et al., Beyond temperature scaling: obtaining well-calibrated multi-class probabilities
    with Dirichlet calibration, 2019, section 3; the threshold: Nixon et al., Measuring calibration
    in deep learning, 2019.
  """
  num_bins = _checks.check_int("num_bins", num_bins, minimum=1)
  _arguments.check_option("binning", binning, _bins.BINNINGS)
  _arguments.check_option("reduction", reduction, ("mean", "sum", "none"))
  given = _events.check_probs(probs, labels, where, rank=2)
  if threshold is not None:
    _checks.check_interval("threshold", threshold, 0, 1, scalar=True)
    threshold = jnp.asarray(threshold, given.probs.dtype)
  errors = _classwise(given, threshold, num_bins, binning)
  if reduction == "none":
    return errors
  return jnp.mean(errors) if reduction == "mean" else jnp.sum(errors)


@partial(jax.jit, static_argnames=("num_bins", "binning"))
def _classwise(
  given: _events.Probabilities, threshold: Array | None, num_bins: int, binning: str
) -> Array:
  def error(events: _events.Events) -> Array:
    if threshold is not None:
      events = events._replace(keep=events.keep & (events.confidence > threshold))
    sums = _bins.binned(events, num_bins, binning)
    return jnp.sum(_bins.shares(sums) * _bins.gaps(sums)) + events.poison

  return jax.vmap(error)(_events.class_events(given))
