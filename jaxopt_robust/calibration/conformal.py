"""Split conformal prediction: sets that hold the label with a chosen probability."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_robust import _checks, numerics
from jaxopt_robust.calibration import _events
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "aps_scores",
  "conformal_quantile",
  "label_scores",
  "lac_scores",
  "prediction_sets",
  "raps_scores",
]

_LARGEST_DENOMINATOR = 40_000  # its square fits 32 bits


def _check(probs: ArrayLike) -> tuple[Array, jnp.dtype]:
  scores = _checks.check_float_array("probs", probs, rank=2)
  if scores.shape[1] < 2:
    raise ValueError(f"probs must have at least two classes; got shape {scores.shape}.")
  wide = numerics.upcast(scores)
  _events.check_range(wide)
  return wide, scores.dtype


def lac_scores(probs: ArrayLike) -> Array:
  r"""Least ambiguous classifier: scores 1 - p_k of all classes.

  Args:
    probs: float[n, classes] probabilities (not logits).

  Returns:
    float[n, classes] of at least float32, low where the class is likely.

  Raises:
    ValueError: fewer than two classes, or known values are no probabilities.
    TypeError: probs are not floating-point.

  Note:
    The smallest sets on average of all with the same marginal coverage, but possibly empty ones.

  Example:
    >>> lac_scores(jnp.array([[0.75, 0.25]]))
    Array([[0.25, 0.75]], dtype=float32)

  Reference:
    Sadinle, Lei and Wasserman, Least ambiguous set-valued classifiers with bounded error levels,
    2019.
  """
  return 1 - _check(probs)[0]


def _mass_before(probs: Array) -> tuple[Array, Array]:
  """Mass of the classes before each one, most likely first, and its rank from 1."""
  order = jnp.argsort(-probs, axis=1)
  rank = jnp.argsort(order, axis=1)
  ordered = jnp.take_along_axis(probs, order, axis=1)
  before = jnp.cumsum(ordered, axis=1) - ordered
  return jnp.take_along_axis(before, rank, axis=1), rank + 1


def aps_scores(probs: ArrayLike, key: ArrayLike | None = None) -> Array:
  r"""Adaptive prediction sets: mass of the classes that are likelier, plus a share of one's own.

  Computes s_k = sum_{j before k} p_j + U p_k with the classes of a row in descending order and one
  U ~ U(0, 1) a row.

  Args:
    probs: float[n, classes] probabilities (not logits).
    key: typed PRNG key for U, or None: U = 1, larger sets without randomness.

  Returns:
    float[n, classes] of at least float32, low where the class is likely.

  Raises:
    ValueError: fewer than two classes, or known values are no probabilities.
    TypeError: probs are not floating-point, or key is not a typed key.

  Note:
    Of equal probabilities the first class comes first.

  Example:
    >>> aps_scores(jnp.array([[0.25, 0.75]]))
    Array([[1.  , 0.75]], dtype=float32)

  Reference:
    Romano, Sesia and Candes, Classification with valid and adaptive coverage, 2020, equation 7.
  """
  wide, _ = _check(probs)
  before, _ = _mass_before(wide)
  return before + _uniform(key, wide) * wide


def _uniform(key: ArrayLike | None, probs: Array) -> Array:
  if key is None:
    return jnp.ones((len(probs), 1), probs.dtype)
  return jax.random.uniform(_checks.check_key("key", key), (len(probs), 1), probs.dtype)


def raps_scores(
  probs: ArrayLike,
  key: ArrayLike | None = None,
  *,
  penalty: ArrayLike = 0.01,
  num_free: ArrayLike = 5,
) -> Array:
  r"""Regularised adaptive prediction sets: APS with a price for classes of a low rank.

  Computes s_k = sum_{j before k} p_j + U p_k + penalty max(rank_k - num_free, 0), ranks from 1.

  Args:
    probs: float[n, classes] probabilities (not logits).
    key: typed PRNG key for U, or None: U = 1.
    penalty: >= 0, a scalar; may be traced.
    num_free: >= 0, a scalar; may be traced. Ranks up to it have no price.

  Returns:
    float[n, classes] of at least float32, low where the class is likely.

  Raises:
    ValueError: fewer than two classes, known values are no probabilities, or penalty or num_free
      is negative.
    TypeError: probs are not floating-point, or key is not a typed key.

  Example:
    >>> raps_scores(jnp.array([[0.25, 0.75]]), penalty=0.5, num_free=1)
    Array([[1.5 , 0.75]], dtype=float32)

  Reference:
    Angelopoulos, Bates, Malik and Jordan, Uncertainty sets for image classifiers using conformal
    prediction, 2021, algorithm 2.
  """
  wide, _ = _check(probs)
  for name, value in (("penalty", penalty), ("num_free", num_free)):
    _checks.check_non_negative(name, value, scalar=True)
  before, rank = _mass_before(wide)
  excess = jnp.maximum(rank - jnp.asarray(num_free, wide.dtype), 0)
  return before + _uniform(key, wide) * wide + jnp.asarray(penalty, wide.dtype) * excess


def label_scores(scores: ArrayLike, labels: ArrayLike) -> Array:
  r"""Score of the label in each row, for ``conformal_quantile``.

  Args:
    scores: float[n, classes].
    labels: int[n] in [0, classes).

  Returns:
    float[n] of the dtype of ``scores``; NaN where a label is out of range under ``jit``.

  Raises:
    ValueError: shapes do not agree, or a known label is out of range.
    TypeError: scores are not floating-point or labels not integers.

  Example:
    >>> label_scores(jnp.array([[0.25, 0.75]]), jnp.array([1]))
    Array([0.75], dtype=float32)

  Reference:
    Vovk, Gammerman and Shafer, Algorithmic learning in a random world, 2005, section 2.2.
  """
  array = _checks.check_float_array("scores", scores, rank=2)
  index = _checks.check_labels("labels", labels, shape=array.shape[:1], num_classes=array.shape[1])
  classes = jnp.arange(array.shape[1], dtype=index.dtype)[None, :]
  found = jnp.sum(jnp.where(classes == index[:, None], array, 0), axis=1)
  return jnp.where((index >= 0) & (index < array.shape[1]), found, jnp.nan)


def conformal_quantile(
  scores: ArrayLike, *, alpha: ArrayLike, where: ArrayLike | None = None
) -> Array:
  r"""Threshold that the score of a new example exceeds with probability at most alpha.

  Computes the ceil((n + 1)(1 - alpha))-th smallest of the n scores, and inf if that exceeds n.

  Args:
    scores: float[n], scores of the labels of held-out examples.
    alpha: in (0, 1), a scalar; may be traced.
    where: bool[n]; scores where it is false are ignored, whatever they hold.

  Returns:
    float scalar of the dtype of ``scores``; NaN where a kept score is NaN.

  Raises:
    ValueError: scores of another rank, or alpha outside (0, 1).
    TypeError: scores are not floating-point, or where is not boolean.

  Note:
    A rank that is off by one breaks the guarantee, so it is found with integers: alpha is read as
    the nearest fraction with a denominator up to 40,000. Traced it is a floating-point number, and
    (n + 1) alpha counts as whole where it is so up to rounding. Over exchangeable examples without
    ties the coverage lies in [1 - alpha, 1 - alpha + 1/(n + 1)].

  Example:
    >>> conformal_quantile(jnp.arange(9.0), alpha=0.1)
    Array(8., dtype=float32)
    >>> conformal_quantile(jnp.arange(8.0), alpha=0.1)
    Array(inf, dtype=float32)

  Reference:
    Vovk, Gammerman and Shafer, Algorithmic learning in a random world, 2005; Papadopoulos,
    Proedrou, Vovk and Gammerman, Inductive confidence machines for regression, 2002.
  """
  array = _checks.check_float_array("scores", scores, rank=1)
  mask = _checks.check_mask("where", where, shape=array.shape)
  _checks.check_interval("alpha", alpha, 0, 1, closed="neither", scalar=True)
  keep = jnp.ones(array.shape, bool) if mask is None else mask
  count = jnp.sum(keep, dtype=jnp.int32)
  rank = count + 1 - _floor_of_product(count + 1, alpha)
  ordered = jnp.sort(jnp.where(keep, array, jnp.inf))
  found = ordered[jnp.clip(rank - 1, 0, len(array) - 1)]
  has_nan = jnp.any(keep & jnp.isnan(array))
  return jnp.where(has_nan, jnp.nan, jnp.where(rank > count, jnp.inf, found)).astype(array.dtype)


def _floor_of_product(whole: Array, alpha: ArrayLike) -> Array:
  """floor(whole * alpha), int32."""
  if _checks.is_concrete(alpha):
    number = np.asarray(alpha)
    fraction = Fraction(float(number)).limit_denominator(_LARGEST_DENOMINATOR)
    p, q = fraction.numerator, fraction.denominator
    return whole // q * p + whole % q * p // q
  product = whole * jnp.asarray(alpha, jnp.result_type(float))
  nearest = jnp.round(product)
  is_whole = jnp.abs(product - nearest) <= 4 * jnp.finfo(product.dtype).eps * product
  return jnp.where(is_whole, nearest, jnp.floor(product)).astype(jnp.int32)


def prediction_sets(scores: ArrayLike, threshold: ArrayLike) -> Array:
  r"""Classes whose score is at most the threshold.

  Args:
    scores: float[n, classes], such as ``lac_scores``.
    threshold: float scalar, such as ``conformal_quantile``; may be traced.

  Returns:
    bool[n, classes]; all classes where the threshold is inf or something is NaN: a set is never too
    small by mistake.

  Raises:
    ValueError: scores of another rank, or a threshold that is no scalar.
    TypeError: scores are not floating-point.

  Example:
    >>> prediction_sets(jnp.array([[0.25, 0.75]]), 0.5)
    Array([[ True, False]], dtype=bool)

  Reference:
    Vovk, Gammerman and Shafer, Algorithmic learning in a random world, 2005, section 2.2.
  """
  array = _checks.check_float_array("scores", scores, rank=2)
  limit = _checks.check_float_array("threshold", threshold, rank=0)
  return ~(array > limit.astype(array.dtype))
