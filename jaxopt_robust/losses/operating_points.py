"""How differently one similarity threshold works for different classes: OPIS; and recall at 1.

Metrics of embeddings, not to be differentiated. Pairs are counted, a block of rows at a time, so
that memory grows with the number of rows only.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.losses import _embeddings
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["Opis", "eps_opis", "opis", "recall_at_1"]


class Opis(NamedTuple):
  """Operating-point inconsistency of some embeddings.

  Attributes:
    score: float scalar, OPIS, the mean of ``per_class`` over the classes that count.
    per_class: float[classes], mean square deviation of the class's utility from the mean utility.
    thresholds: float[thresholds], distances, equally spaced over ``distance_range``.
    utility: float[classes, thresholds]; 0 for classes that do not count.
    distance_range: float[2], the calibration range.
    is_counted: bool[classes], classes with a pair of their own and a pair with another class.
  """

  score: Array
  per_class: Array
  thresholds: Array
  utility: Array
  distance_range: Array
  is_counted: Array


def opis(
  embeddings: ArrayLike,
  labels: ArrayLike,
  *,
  num_classes: int,
  far: tuple[ArrayLike, ArrayLike] = (1e-2, 1e-1),
  num_thresholds: int = 101,
  beta: ArrayLike = 1.0,
  num_bins: int = 8192,
  block: int = 128,
  where: ArrayLike | None = None,
) -> Opis:
  r"""Operating-point inconsistency score (OPIS): how differently a threshold works for the classes.

  Distances are d = ||z_i - z_j|| of the embeddings divided by their norms. At a threshold t,
  phi_c(t) is the share of pairs within class c with d <= t, psi_c(t) the share of pairs with
  exactly one member in class c with d > t, and U_c = (1 + b^2) phi psi / (b^2 psi + phi) with
  b = beta the class's utility. Computes
  (1/C) sum_c 1/(t_1 - t_0) int_{t_0}^{t_1} (U_c(t) - mean_c U_c(t))^2 dt
  over the C classes that count, by the trapezoidal rule; at t_0 and t_1 the shares far[0] and
  far[1] of all pairs of different classes are accepted.

  Args:
    embeddings: float[examples, features].
    labels: int[examples] classes in [0, num_classes).
    num_classes: static integer >= 1; classes without two examples do not count.
    far: pair of false acceptance rates, 0 < far[0] <= far[1] <= 1, scalars; may be traced.
    num_thresholds: static integer >= 2.
    beta: > 0, weight of phi against psi, a scalar; may be traced.
    num_bins: static integer >= 2; t_0 and t_1 are multiples of 2 / num_bins, rounded up.
    block: static integer >= 1, rows that are compared with all others at a time.
    where: bool[examples]; rows where it is false do not count.

  Returns:
    Opis, in at least float32; NaN if a row that counts holds a NaN. Under ``jit`` rows whose label
    is out of range do not count.

  Raises:
    ValueError: shapes do not agree, a known label is out of range, or a number is outside its
      range.
    TypeError: embeddings are not floating-point, labels or sizes not integers, where not boolean.

  Note:
    Counts at the thresholds are exact; the calibration range is exact up to one bin. It is coarse
    where there are few pairs of different classes. Distances below about 5e-4 are not told apart in
    float32. Costs two passes over all pairs.

  Example:
    >>> embeddings = jax.random.normal(jax.random.key(0), (40, 8))
    >>> labels = jnp.arange(40) % 4
    >>> result = opis(embeddings + 4 * jnp.eye(4, 8)[labels], labels, num_classes=4)
    >>> result.utility.shape, bool(0 < result.score < 0.02)
    ((4, 101), True)

  Reference:
    Zhang, Xu, Tang, Fang, Wu, Tighe and Xing, Threshold-consistent margin loss for open-world deep
    metric learning, 2024 (the range of false acceptance rates is recalled, not verified).
  """
  rows, label = _prepare(embeddings, labels, num_classes, where)
  first, second = _arguments.parts(far, "far_min", "far_max", name="far")
  low = _checks.check_array("far[0]", first, rank=0)
  high = _checks.check_array("far[1]", second, rank=0)
  for number, value in enumerate((low, high)):
    _checks.check_interval(f"far[{number}]", value, 0.0, 1.0, closed="right")
  _checks.check_holds(low <= high, f"far must not decrease; got ({first}, {second}).")
  num_thresholds = _checks.check_int("num_thresholds", num_thresholds, minimum=2)
  _checks.check_array("beta", beta, rank=0)
  _checks.check_positive("beta", beta)
  num_bins = _checks.check_int("num_bins", num_bins, minimum=2)
  block = _checks.check_int("block", block, minimum=1)
  limits = jnp.stack([low, high]).astype(rows.dtype)
  is_row = label < num_classes
  distance_range = _calibrate(rows, label, is_row, limits, num_bins, block)
  steps = jnp.arange(num_thresholds, dtype=rows.dtype) / (num_thresholds - 1)
  start, end = distance_range
  thresholds = start + (end - start) * steps
  counts = _count(rows, label, is_row, num_classes, thresholds, block)
  utility, is_counted = _utility(counts, jnp.asarray(beta, rows.dtype))
  # A distance that is not known is no distance: nothing can be said of these points.
  is_known = ~jnp.any(jnp.isnan(rows) & is_row[:, None])
  utility = jnp.where(is_known, utility, jnp.nan)
  deviation = jnp.where(is_counted[:, None], utility - _class_mean(utility, is_counted), 0)
  per_class = _integral(deviation**2)
  return Opis(
    _class_mean(per_class[:, None], is_counted)[0, 0],
    per_class,
    thresholds,
    utility,
    distance_range,
    is_counted,
  )


def eps_opis(result: Opis, *, epsilon: ArrayLike = 0.1) -> Array:
  r"""OPIS of the extremes: squared gap between the utilities of the best and the worst classes.

  Computes 1/(t_1 - t_0) int (mean of the best classes' U_c(t) - mean of the worst's)^2 dt, at each
  threshold the max(1, round up(epsilon C)) best and as many worst of the C classes that count.

  Args:
    result: Opis of the embeddings.
    epsilon: in (0, 1], share of the classes, a scalar; may be traced.

  Returns:
    float scalar; 0 if fewer than two classes count.

  Raises:
    ValueError: epsilon is outside (0, 1] or no scalar.
    TypeError: result is not an Opis.

  Example:
    >>> embeddings = jax.random.normal(jax.random.key(0), (40, 8))
    >>> labels = jnp.arange(40) % 4
    >>> result = opis(embeddings + 4 * jnp.eye(4, 8)[labels], labels, num_classes=4)
    >>> bool(eps_opis(result) > 4 * result.score)  # a gap is at least twice a deviation
    True

  Reference:
    Zhang, Xu, Tang, Fang, Wu, Tighe and Xing, Threshold-consistent margin loss for open-world deep
    metric learning, 2024 (the definition is recalled, not verified).
  """
  if not isinstance(result, Opis):
    raise TypeError(f"result must be an Opis; got {type(result).__name__}.")
  _checks.check_array("epsilon", epsilon, rank=0)
  _checks.check_interval("epsilon", epsilon, 0.0, 1.0, closed="right")
  utility, is_counted = result.utility, result.is_counted[:, None]
  num_counted = jnp.sum(is_counted).astype(utility.dtype)
  # a product such as 0.1 * 30 may come out an ulp above a whole number
  share = jnp.asarray(epsilon, utility.dtype) * num_counted * (1 - 1e-6)
  size = jnp.maximum(jnp.ceil(share), 1)
  rank = jnp.arange(utility.shape[0], dtype=utility.dtype)[:, None]
  is_end = jnp.broadcast_to(rank < jnp.minimum(size, num_counted), utility.shape)
  worst = jnp.sort(jnp.where(is_counted, utility, jnp.inf), axis=0)
  best = -jnp.sort(jnp.where(is_counted, -utility, jnp.inf), axis=0)
  gap = jnp.sum(jnp.where(is_end, best - worst, 0), axis=0) / size
  has_nan = jnp.any(jnp.isnan(utility) & is_counted)  # sorted out of the way above
  return jnp.where(has_nan, jnp.nan, _integral(gap**2))


def recall_at_1(
  embeddings: ArrayLike, labels: ArrayLike, *, block: int = 128, where: ArrayLike | None = None
) -> Array:
  r"""Share of examples whose nearest other example is of their class (R@1), by cosine.

  Computes (1/n) sum_i 1[y_j(i) = y_i] with j(i) the row of largest cosine with row i, i itself left
  out, over the n rows that have another row of their class.

  Args:
    embeddings: float[examples, features].
    labels: int[examples] classes; any integers.
    block: static integer >= 1, rows that are compared with all others at a time.
    where: bool[examples]; rows where it is false are neither queries nor neighbours.

  Returns:
    float scalar in [0, 1], at least float32; 0 if no row counts, NaN if a row that counts holds a
    NaN.

  Raises:
    ValueError: shapes do not agree or block < 1.
    TypeError: embeddings are not floating-point, labels or block not integers, where not boolean.

  Note:
    Of equally near rows the first counts.

  Example:
    >>> embeddings = jnp.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.8, 0.2]])
    >>> recall_at_1(embeddings, jnp.array([0, 0, 1, 1]))
    Array(0.75, dtype=float32)

  Reference:
    Jegou, Douze and Schmid, Product quantization for nearest neighbor search, 2011 (recall at R).
  """
  array, label, mask = _embeddings.check_embeddings(embeddings, labels, where)
  block = _checks.check_int("block", block, minimum=1)
  rows = _embeddings.unit_rows(array, mask)

  def tally(total: Array, cosines: Array, own: Array, number: Array, own_mask: Array) -> Array:
    is_other = mask[None, :] & (number[:, None] != jnp.arange(label.shape[0])[None, :])
    is_same = is_other & (own[:, None] == label[None, :])
    nearest = jnp.argmax(jnp.where(is_other, cosines, -jnp.inf), axis=1)
    is_query = own_mask & jnp.any(is_same, axis=1)
    is_right = jnp.take_along_axis(is_same, nearest[:, None], axis=1)[:, 0]
    return total + jnp.stack([jnp.sum(is_query & is_right), jnp.sum(is_query)])

  start = jnp.zeros((2,), jnp.int32)
  right, count = _over_blocks(tally, start, rows, label, mask, block)
  share = right.astype(rows.dtype) / jnp.maximum(count, 1).astype(rows.dtype)
  return jnp.where(jnp.any(jnp.isnan(rows)), jnp.nan, share)


def _prepare(
  embeddings: ArrayLike, labels: ArrayLike, num_classes: int, where: ArrayLike | None
) -> tuple[Array, Array]:
  """Unit rows, and labels with num_classes for rows that do not count."""
  array = _checks.check_float_array("embeddings", embeddings, rank=2)
  num_classes = _checks.check_int("num_classes", num_classes, minimum=1)
  mask = _checks.check_mask("where", where, shape=array.shape[:1])
  label = _checks.check_labels(
    "labels", labels, shape=array.shape[:1], num_classes=num_classes, where=mask
  )
  is_out = (label < 0) | (label >= num_classes)
  if mask is not None:
    is_out = is_out | ~mask
  return _embeddings.unit_rows(array, ~is_out), jnp.where(is_out, num_classes, label)


def _over_blocks(
  tally: Callable[..., Array], start: Array, rows: Array, label: Array, mask: Array, block: int
) -> Array:
  """Folds ``tally(total, cosines, labels, numbers, mask)`` over blocks of rows."""
  size = rows.shape[0]
  num_blocks = -(-size // block)
  padded = jnp.minimum(jnp.arange(num_blocks * block), size - 1).reshape(num_blocks, block)
  is_new = (jnp.arange(num_blocks * block) < size).reshape(num_blocks, block)

  def step(total: Array, inputs: tuple[Array, Array]) -> tuple[Array, None]:
    number, new = inputs
    cosines = _embeddings.matmul(rows[number], rows.T)
    return tally(total, cosines, label[number], number, mask[number] & new), None

  return jax.lax.scan(step, start, (padded, is_new))[0]


def _pairs(
  cosines: Array, own: Array, number: Array, own_mask: Array, label: Array, is_row: Array
) -> tuple[Array, Array, Array]:
  """Distances of the pairs (row of the block, any row); which are of one class, which of two."""
  distance = jnp.sqrt(jnp.maximum(2 - 2 * cosines, 0))
  distance = jnp.where(jnp.isnan(distance), jnp.inf, distance)
  is_other = number[:, None] != jnp.arange(label.shape[0])[None, :]
  is_pair = own_mask[:, None] & is_row[None, :] & is_other
  is_same = own[:, None] == label[None, :]
  return distance, is_pair & is_same, is_pair & ~is_same


def _calibrate(
  rows: Array, label: Array, is_row: Array, far: Array, num_bins: int, block: int
) -> Array:
  """The smallest bin edges at which the given shares of the negative pairs are accepted."""

  def tally(total: Array, cosines: Array, own: Array, number: Array, own_mask: Array) -> Array:
    distance, _, is_negative = _pairs(cosines, own, number, own_mask, label, is_row)
    place = jnp.clip(jnp.ceil(distance * (num_bins / 2)), min=0, max=num_bins)
    place = jnp.where(is_negative, place.astype(jnp.int32), num_bins + 1)  # out of range: dropped
    return total + jax.ops.segment_sum(jnp.ones(place.size, jnp.int32), place.ravel(), num_bins + 1)

  start = jnp.zeros((num_bins + 1,), jnp.int32)
  counts = _over_blocks(tally, start, rows, label, is_row, block)
  accepted = jnp.cumsum(counts.astype(rows.dtype))
  # a product such as 0.1 * 30 may come out an ulp above a whole number
  place = jnp.searchsorted(accepted, far * accepted[-1] * (1 - 1e-6))
  return place.astype(rows.dtype) * (2 / num_bins)


def _count(
  rows: Array, label: Array, is_row: Array, num_classes: int, thresholds: Array, block: int
) -> Array:
  """int32[classes, 2, thresholds + 1]: pairs of a class by the first threshold that accepts them.

  Pairs with another class come first, then pairs within the class (each of these twice).
  """
  width = thresholds.shape[0] + 1

  def tally(total: Array, cosines: Array, own: Array, number: Array, own_mask: Array) -> Array:
    distance, is_positive, is_negative = _pairs(cosines, own, number, own_mask, label, is_row)
    place = jnp.searchsorted(thresholds, distance).astype(jnp.int32)
    segment = (2 * own[:, None] + is_positive.astype(jnp.int32)) * width + place
    segment = jnp.where(is_positive | is_negative, segment, total.shape[0])  # dropped
    ones = jnp.ones(segment.size, jnp.int32)
    return total + jax.ops.segment_sum(ones, segment.ravel(), total.shape[0])

  start = jnp.zeros((num_classes * 2 * width,), jnp.int32)
  total = _over_blocks(tally, start, rows, label, is_row, block)
  return total.reshape(num_classes, 2, width)


def _utility(counts: Array, beta: Array) -> tuple[Array, Array]:
  """U of every class at every threshold, and which classes count."""
  total = jnp.sum(counts, axis=2)
  accepted = jnp.cumsum(counts, axis=2)[:, :, :-1]
  size = jnp.maximum(total, 1).astype(beta.dtype)
  is_counted = jnp.all(total > 0, axis=1)
  phi = accepted[:, 1].astype(beta.dtype) / size[:, 1, None]
  psi = (total[:, 0, None] - accepted[:, 0]).astype(beta.dtype) / size[:, 0, None]
  utility = numerics.safe_divide((1 + beta**2) * phi * psi, beta**2 * psi + phi)
  return jnp.where(is_counted[:, None], utility, 0), is_counted


def _class_mean(values: Array, is_counted: Array) -> Array:
  """Mean over the classes that count, float[1, ...]."""
  where = jnp.broadcast_to(is_counted[:, None], values.shape)
  return numerics.masked_mean(values, where, axis=0)[None]


def _integral(values: Array) -> Array:
  """Mean over the last axis by the trapezoidal rule."""
  inner = jnp.sum(values, axis=-1) - (values[..., 0] + values[..., -1]) / 2
  return inner / (values.shape[-1] - 1)
