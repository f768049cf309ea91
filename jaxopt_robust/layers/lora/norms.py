r"""Norms of attention and the threshold sqrt(log n) beyond which no fast gradient is known."""

import math
from typing import Any, NamedTuple

from jaxopt_robust import _checks
from jaxopt_robust.typing import ArrayLike

__all__ = ["NormRegime", "attention_norm_regime"]


class NormRegime(NamedTuple):
  """On which side of the threshold norms lie, and what a fast gradient takes there.

  Attributes:
    norm: float, G = sqrt(e G_Q G_K), so that no logit exceeds G^2: the largest entry of queries and
      keys where products are divided by e, as the theory has it.
    threshold: float, sqrt(log n).
    ratio: float, norm / threshold.
    below: bool, whether the norm is below the threshold.
    degree: int, the least degree of Taylor's series whose error on [-R, R], R = G^2, is at most
      ``tol``.
    num_features: int, C(e + degree, degree).
    fast: bool, whether num_features e < n: products with the factors take fewer operations than
      those with n x n logits, up to a constant.
    reason: str, all this in a sentence.

  Example:
    >>> NormRegime._fields[:4]
    ('norm', 'threshold', 'ratio', 'below')

  Reference:
    Hu, Su, Kuo, Song and Liu, Computational limits of low-rank adaptation (LoRA) fine-tuning for
    transformer models, 2024, theorems 3.1 and 4.1.
  """

  norm: float
  threshold: float
  ratio: float
  below: bool
  degree: int
  num_features: int
  fast: bool
  reason: str


def _log_tail(bound: float, degree: int) -> float:
  """Logarithm of sum_{t > degree} bound^t / t!, for bound <= degree + 1: its terms fall."""
  total, term, t = 1.0, 1.0, degree + 2
  while term > 1e-17 * total:
    term *= bound / t
    total, t = total + term, t + 1
  return (degree + 1) * math.log(bound) - math.lgamma(degree + 2) + math.log(total)


def _least_degree(bound: float, tol: float) -> int:
  """The least degree, 1 or more, at which the tail of the series is at most ``tol`` < 1."""
  if bound == 0:
    return 1
  # The term of degree floor(bound) is at least 1 where bound is: the degree is not below it.
  low = max(math.floor(bound) - 1, 0)
  high = low + 1
  while _log_tail(bound, high) > math.log(tol):
    low, high = high, 2 * high
  while high - low > 1:
    middle = (low + high) // 2
    low, high = (middle, high) if _log_tail(bound, middle) > math.log(tol) else (low, middle)
  return high


def _number(name: str, value: Any, *, positive: bool) -> float:
  if not _checks.is_concrete(value):
    raise TypeError(f"{name} must be a number that is known while tracing; got a traced value.")
  check = _checks.check_positive if positive else _checks.check_non_negative
  check(name, value, scalar=True)
  number = float(value)
  if not math.isfinite(number):
    raise ValueError(f"{name} must be finite; got {number}.")
  return number


def attention_norm_regime(
  query_max: ArrayLike,
  key_max: ArrayLike,
  *,
  length: int,
  size: int,
  tol: float | None = None,
) -> NormRegime:
  r"""Which side of the norm threshold sqrt(log n) a head is on, and why.

  For n tokens and heads of size e = O(log n), gradients within 1 / poly(n) take almost linear time
  where the norm G of the tokens is o(sqrt(log n)); where it is larger than sqrt(log n) by a growing
  factor, no algorithm is faster than about n^2, unless SETH fails. A number n is neither: what is
  returned is G / sqrt(log n), and the degree and features that the series needs.

  Args:
    query_max: >= 0, G_Q, the largest entry of the queries in size, beta among them.
    key_max: >= 0, G_K, the same of the keys; both as ``logit_bound`` returns them.
    length: n >= 2, number of tokens; static.
    size: e, of the head; static.
    tol: in (0, 1), the error of exp that is allowed, 1 / n by default.

  Returns:
    ``NormRegime``, of Python numbers: for reports, not for ``jit``.

  Raises:
    TypeError: a norm or ``tol`` is traced, or a size no static integer.
    ValueError: a number is out of range.

  Note:
    The threshold is one of orders of growth, whose constant is not known, and the lower bound is
    for heads of size about log n: for a fixed size there are algorithms faster than n^2 whatever
    the norms (Gupta, Huang, Saha, Xu and Ye 2025), which are not these series.

  Example:
    >>> found = attention_norm_regime(0.3, 0.3, length=4096, size=2)
    >>> found.below, found.degree, found.num_features, found.fast
    (True, 3, 10, True)

  Reference:
    Hu, Su, Kuo, Song and Liu, Computational limits of low-rank adaptation (LoRA) fine-tuning for
    transformer models, 2024, theorems 3.1 (upper bound) and 4.1 (lower bound); products divided by
    e: Alman and Song, Fast attention requires bounded entries, 2023; fixed sizes: Gupta, Huang,
    Saha, Xu and Ye, Subquadratic algorithms and hardness for attention with any temperature, 2025.
  """
  g_query = _number("query_max", query_max, positive=False)
  g_key = _number("key_max", key_max, positive=False)
  n = _checks.check_int("length", length, minimum=2)
  e = _checks.check_int("size", size, minimum=1)
  if tol is None:
    allowed = 1 / n
  else:
    allowed = _number("tol", tol, positive=True)
    _checks.check_interval("tol", allowed, 0.0, 1.0, closed="neither", scalar=True)
  bound = e * g_query * g_key
  norm, threshold = math.sqrt(bound), math.sqrt(math.log(n))
  if bound > 1e6:
    raise ValueError(
      f"query_max and key_max must keep the logits below 1e6; got a bound of {bound:.3g}."
    )
  degree = _least_degree(bound, allowed)
  count = math.comb(e + degree, degree)
  below, fast = norm < threshold, count * e < n
  # Beyond 1e308 an integer is no float.
  features = f"{count:.4g}" if count < 10**300 else f"1e+{math.floor(math.log10(count))}"
  reason = (
    f"The norm {norm:.3g} is {'below' if below else 'not below'} sqrt(log {n}) = {threshold:.3g}. "
    f"Logits of at most {bound:.3g} need degree {degree} for an error of "
    f"{allowed:.2g}: {features} features for heads of size {e}, "
    f"{'fewer' if fast else 'no fewer'} operations than with {n} x {n} logits."
  )
  return NormRegime(norm, threshold, norm / threshold, below, degree, count, fast, reason)
