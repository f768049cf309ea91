"""Surrogates l(t) of the ranking mistake 1[t <= 0], where t = s_pos - s_neg is a gap of scores."""

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks, numerics
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "barrier_hinge_surrogate",
  "hinge_surrogate",
  "logistic_surrogate",
  "squared_hinge_surrogate",
  "squared_surrogate",
]


def squared_hinge_surrogate(gap: ArrayLike, *, margin: ArrayLike = 1.0) -> Array:
  r"""Squared hinge of a gap of scores, the usual surrogate of ranking losses.

  Computes l(t) = max(m - t, 0)^2 with m = margin; no factor 1/2.

  Args:
    gap: float[...] gaps t, the score of the positive minus that of the negative.
    margin: >= 0, a scalar; may be traced.

  Returns:
    float[...] in the dtype of ``gap``.

  Raises:
    ValueError: margin < 0 or not a scalar.
    TypeError: gap is not floating-point.

  Note:
    With margin at least 1 it bounds the mistake 1[t <= 0] from above.

  Example:
    >>> squared_hinge_surrogate(jnp.array([-1.0, 0.0, 2.0]))
    Array([4., 1., 0.], dtype=float32)

  Reference:
    Gao and Zhou, On the consistency of AUC pairwise optimization, 2015.
  """
  t, m, dtype = _prepare(gap, "margin", margin)
  loss = jax.nn.relu(m - t)
  return (loss * loss).astype(dtype)


def squared_surrogate(gap: ArrayLike, *, margin: ArrayLike = 1.0) -> Array:
  r"""Squared distance of a gap of scores from a margin.

  Computes l(t) = (m - t)^2 with m = margin; no factor 1/2. Gaps larger than m cost too.

  Args:
    gap: float[...] gaps t, the score of the positive minus that of the negative.
    margin: >= 0, a scalar; may be traced.

  Returns:
    float[...] in the dtype of ``gap``.

  Raises:
    ValueError: margin < 0 or not a scalar.
    TypeError: gap is not floating-point.

  Example:
    >>> squared_surrogate(jnp.array([-1.0, 0.0, 2.0]))
    Array([4., 1., 1.], dtype=float32)

  Reference:
    Gao, Jin, Zhu and Zhou, One-pass AUC optimization, 2013.
  """
  t, m, dtype = _prepare(gap, "margin", margin)
  return ((m - t) * (m - t)).astype(dtype)


def hinge_surrogate(gap: ArrayLike, *, margin: ArrayLike = 1.0) -> Array:
  r"""Hinge of a gap of scores.

  Computes l(t) = max(m - t, 0) with m = margin.

  Args:
    gap: float[...] gaps t, the score of the positive minus that of the negative.
    margin: >= 0, a scalar; may be traced.

  Returns:
    float[...] in the dtype of ``gap``.

  Raises:
    ValueError: margin < 0 or not a scalar.
    TypeError: gap is not floating-point.

  Note:
    At the kink, t = m, the derivative is 0.

  Example:
    >>> hinge_surrogate(jnp.array([-1.0, 0.0, 2.0]))
    Array([2., 1., 0.], dtype=float32)

  Reference:
    Zhao, Hoi, Jin and Yang, Online AUC maximization, 2011.
  """
  t, m, dtype = _prepare(gap, "margin", margin)
  return jax.nn.relu(m - t).astype(dtype)


def logistic_surrogate(gap: ArrayLike, *, scale: ArrayLike = 1.0) -> Array:
  r"""Logistic loss of a gap of scores.

  Computes l(t) = log(1 + exp(-s t)) with s = scale, as a softplus, which does not overflow.

  Args:
    gap: float[...] gaps t, the score of the positive minus that of the negative.
    scale: > 0, a scalar; may be traced.

  Returns:
    float[...] in the dtype of ``gap``.

  Raises:
    ValueError: scale <= 0 or not a scalar.
    TypeError: gap is not floating-point.

  Example:
    >>> logistic_surrogate(jnp.array([-100.0, 0.0])).round(4)
    Array([100.    ,   0.6931], dtype=float32)

  Reference:
    Burges et al., Learning to rank using gradient descent, 2005.
  """
  _checks.check_positive("scale", scale)
  t, s, dtype = _prepare(gap, "scale", scale)
  return jax.nn.softplus(-s * t).astype(dtype)


def barrier_hinge_surrogate(
  gap: ArrayLike, *, margin: ArrayLike = 1.0, scale: ArrayLike = 1.0
) -> Array:
  r"""Barrier hinge of a gap of scores: l(t) + l(-t) is constant where it matters.

  Computes l(t) = max(-s (m + t) + m, s (t - m), m - t) with m = margin and s = scale: a linear
  loss m - t for |t| <= m, where l(t) + l(-t) = 2 m, between two walls of slope s.

  Args:
    gap: float[...] gaps t, the score of the positive minus that of the negative.
    margin: >= 0, a scalar; may be traced.
    scale: > 0, slope of the walls, at least 1 for them to act; a scalar; may be traced.

  Returns:
    float[...] in the dtype of ``gap``.

  Raises:
    ValueError: margin < 0, scale <= 0, or one of them is not a scalar.
    TypeError: gap is not floating-point.

  Note:
    At the kinks the derivative is the mean of the two sides.

  Example:
    >>> barrier_hinge_surrogate(jnp.array([-2.0, 0.0, 2.0]), scale=3.0)
    Array([4., 1., 3.], dtype=float32)

  Reference:
    Charoenphakdee, Lee and Sugiyama, On symmetric losses for learning from corrupted labels, 2019.
  """
  _checks.check_positive("scale", scale)
  t, m, dtype = _prepare(gap, "margin", margin)
  s = _checks.check_array("scale", scale, rank=0).astype(t.dtype)
  wall = _larger(s * (t - m), m - s * (m + t))
  return _larger(wall, m - t).astype(dtype)


def _larger(a: Array, b: Array) -> Array:
  """max(a, b), whose derivative never vanishes by rounding.

  That of ``jnp.maximum`` asks which argument equals the result: none does where a compiler computes
  an argument twice, with and without a fused multiply-add.
  """
  return jnp.where(a > b, a, jnp.where(a < b, b, (a + b) / 2))


def _prepare(gap: ArrayLike, name: str, value: ArrayLike) -> tuple[Array, Array, jnp.dtype]:
  """Gaps and hyper-parameter in at least float32, and the caller's dtype."""
  array = _checks.check_float_array("gap", gap, non_empty=False)
  _checks.check_non_negative(name, value)
  wide = numerics.upcast(array)
  return wide, _checks.check_array(name, value, rank=0).astype(wide.dtype), array.dtype
