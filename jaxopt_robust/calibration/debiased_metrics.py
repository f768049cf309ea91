"""Calibration errors beyond a fixed number of bins: debiased, swept, and without bins (KS)."""

from functools import partial

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.calibration import _bins, _events
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "debiased_calibration_error",
  "ks_calibration_error",
  "sweep_calibration_error",
]


def debiased_calibration_error(
  probs: ArrayLike,
  labels: ArrayLike,
  *,
  num_bins: int = 15,
  where: ArrayLike | None = None,
) -> Array:
  r"""ECE on bins of equal mass without the bias that few examples a bin give it.

  Computes sum_b n_b/n (2 |m_b| - E|N(m_b, s_b^2)|) with m_b = acc_b - conf_b and
  s_b^2 = acc_b (1 - acc_b) / n_b, where the mean of |N(m, s^2)| is
  s sqrt(2/pi) exp(-m^2 / (2 s^2)) + m erf(m / (s sqrt 2)), and |m| for s = 0.

  Args:
    probs: float[n, classes] probabilities (not logits), or float[n] of one event.
    labels: int[n] in [0, classes); of one event bool or 0 and 1, whether it happened.
    num_bins: static integer >= 1; the bins are those of ``binning="mass"``.
    where: bool[n]; rows where it is false are ignored, whatever they hold.

  Returns:
    float scalar, at least float32; may be negative. 0 if no row is kept, NaN where a kept row is
    not finite.

  Raises:
    ValueError: shapes do not agree, known values are no probabilities, a known label is out of
      range, or num_bins < 1.
    TypeError: probs are not floating-point, labels are not integers, where is not boolean.

  Example:
    >>> probs = jnp.array([0.4, 0.45, 0.55, 0.6])
    >>> round(float(debiased_calibration_error(probs, jnp.array([0, 1, 1, 0]), num_bins=2)), 3)
    -0.138

  Reference:
    Kumar, Liang and Ma, Verified uncertainty calibration, 2019 (their l1 estimate by resampling, in
    closed form).
  """
  num_bins = _checks.check_int("num_bins", num_bins, minimum=1)
  return _debiased(_events.check_probs(probs, labels, where), num_bins)


@partial(jax.jit, static_argnames=("num_bins",))
def _debiased(given: _events.Probabilities, num_bins: int) -> Array:
  events = _events.top_label_events(given)
  sums = _bins.binned(events, num_bins, "mass")
  accuracy = sums.outcome / jnp.maximum(sums.count, 1)
  gap, share = _bins.gaps(sums), _bins.shares(sums)
  variance = jnp.maximum(accuracy * (1 - accuracy), 0) / jnp.maximum(sums.count, 1)
  is_sure = variance == 0
  deviation = jnp.sqrt(jnp.where(is_sure, 1, variance))
  ratio = gap / deviation
  folded = deviation * jnp.sqrt(2 / jnp.pi) * jnp.exp(-(ratio**2) / 2)
  folded = folded + gap * jax.scipy.special.erf(ratio / jnp.sqrt(2.0).astype(ratio.dtype))
  return jnp.sum(share * (2 * gap - jnp.where(is_sure, gap, folded))) + events.poison


def sweep_calibration_error(
  probs: ArrayLike,
  labels: ArrayLike,
  *,
  max_bins: int = 100,
  where: ArrayLike | None = None,
) -> Array:
  r"""ECE with as many bins of equal mass as leave the accuracy monotone in the confidence.

  The number of bins grows from 1 until the accuracy of a bin is below that of the bin before it;
  the number before that is taken.

  Args:
    probs: float[n, classes] probabilities (not logits), or float[n] of one event.
    labels: int[n] in [0, classes); of one event bool or 0 and 1, whether it happened.
    max_bins: static integer >= 1, where the search ends (and at one example a bin).
    where: bool[n]; rows where it is false are ignored, whatever they hold.

  Returns:
    float scalar in [0, 1], at least float32; 0 if no row is kept, NaN where a kept row is not
    finite.

  Raises:
    ValueError: shapes do not agree, known values are no probabilities, a known label is out of
      range, or max_bins < 1.
    TypeError: probs are not floating-point, labels are not integers, where is not boolean.

  Note:
    Not differentiable in reverse mode: the number of bins is found by a loop of unknown length.

  Example:
    >>> probs, labels = jnp.array([0.1, 0.2, 0.7, 0.9]), jnp.array([0, 0, 1, 1])
    >>> round(float(sweep_calibration_error(probs, labels)), 3)
    0.175

  Reference:
    Roelofs, Cain, Shlens and Mozer, Mitigating bias in calibration error estimation, 2022,
    algorithm 1 (equal mass).
  """
  max_bins = _checks.check_int("max_bins", max_bins, minimum=1)
  return _sweep(_events.check_probs(probs, labels, where), max_bins)


@partial(jax.jit, static_argnames=("max_bins",))
def _sweep(given: _events.Probabilities, max_bins: int) -> Array:
  events = _events.top_label_events(given)
  ordered = _bins.sort_events(events)
  size = min(max_bins, len(ordered.keep))
  most = jnp.minimum(jnp.sum(ordered.keep, dtype=jnp.int32), size)

  def look(num_bins: Array) -> tuple[Array, Array]:
    index = _bins.mass_bins(ordered.keep, num_bins, size)
    sums = _bins.bin_sums(ordered, index, size)
    accuracy = sums.outcome / jnp.maximum(sums.count, 1)
    # Means of equal outcomes may differ by rounding.
    slack = 8 * jnp.finfo(accuracy.dtype).eps
    is_used = jnp.arange(1, size) < num_bins
    monotone = jnp.all((accuracy[1:] >= accuracy[:-1] - slack) | ~is_used)
    return monotone, jnp.sum(_bins.shares(sums) * _bins.gaps(sums))

  def go_on(carry: tuple) -> Array:
    num_bins, monotone, _ = carry
    return monotone & (num_bins < most)

  def body(carry: tuple) -> tuple:
    num_bins, _, error = carry
    monotone, new = look(num_bins + 1)
    return num_bins + 1, monotone, jnp.where(monotone, new, error)

  one = jnp.ones((), jnp.int32)
  _, _, error = jax.lax.while_loop(go_on, body, (one, *look(one)))
  return error + events.poison


def ks_calibration_error(
  probs: ArrayLike, labels: ArrayLike, *, where: ArrayLike | None = None
) -> Array:
  r"""Kolmogorov-Smirnov calibration error: the largest gap of two cumulative curves, no bins.

  Computes max_i |sum_{j <= i} (c_j - o_j)| / n over the rows sorted by confidence c, with o_j = 1
  where the row is right.

  Args:
    probs: float[n, classes] probabilities (not logits), or float[n] of one event.
    labels: int[n] in [0, classes); of one event bool or 0 and 1, whether it happened.
    where: bool[n]; rows where it is false are ignored, whatever they hold.

  Returns:
    float scalar in [0, 1], at least float32; 0 if no row is kept, NaN where a kept row is not
    finite. Never less than the ECE with one bin.

  Raises:
    ValueError: shapes do not agree, known values are no probabilities, or a known label is out of
      range.
    TypeError: probs are not floating-point, labels are not integers, where is not boolean.

  Note:
    Rows of equal confidence enter with their mean outcome: the curves are compared between
    different confidences only.

  Example:
    >>> probs, labels = jnp.array([0.1, 0.2, 0.9]), jnp.array([0, 1, 1])
    >>> round(float(ks_calibration_error(probs, labels)), 3)
    0.267

  Reference:
    Gupta et al., Calibration of neural networks using splines, 2021, section 3.
  """
  return _ks(_events.check_probs(probs, labels, where))


@jax.jit
def _ks(given: _events.Probabilities) -> Array:
  events = _events.top_label_events(given)
  ordered = _bins.sort_events(events)
  count = jnp.maximum(jnp.sum(ordered.keep), 1)
  path = jnp.cumsum(ordered.confidence - ordered.outcome)
  return jnp.max(jnp.abs(path)) / count + events.poison
