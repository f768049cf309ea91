"""Calibration errors by kernels instead of bins: MMCE, SKCE, Dirichlet kernel density."""

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks, numerics
from jaxopt_robust.calibration import _events
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "dirichlet_calibration_error",
  "maximum_mean_calibration_error",
  "squared_kernel_calibration_error",
]

_ROWS = 128  # rows of the kernel matrix at a time, so that memory is linear in the examples


def maximum_mean_calibration_error(
  probs: ArrayLike,
  labels: ArrayLike,
  *,
  bandwidth: ArrayLike = 0.4,
  where: ArrayLike | None = None,
) -> Array:
  r"""Maximum mean calibration error (MMCE) of the predicted class; a training penalty too.

  Computes sqrt( (1/n^2) sum_ij r_i r_j exp(-|c_i - c_j| / bandwidth) ) with confidences c and
  residuals r = 1[right] - c.

  Args:
    probs: float[n, classes] probabilities (not logits), or float[n] of one event.
    labels: int[n] in [0, classes); of one event bool or 0 and 1, whether it happened.
    bandwidth: > 0, a scalar; may be traced.
    where: bool[n]; rows where it is false are ignored, whatever they hold.

  Returns:
    float scalar >= 0, at least float32; 0 if no row is kept, NaN where a kept row is not finite.
    Its derivative at 0 is 0.

  Raises:
    ValueError: shapes do not agree, known values are no probabilities, a known label is out of
      range, or bandwidth <= 0.
    TypeError: probs are not floating-point, labels are not integers, where is not boolean.

  Note:
    The time grows like n^2, the memory like n. Whether a row is right is a constant for the
    derivative.

  Example:
    >>> probs, labels = jnp.array([0.75, 0.75]), jnp.array([1, 0])
    >>> round(float(maximum_mean_calibration_error(probs, labels)), 3)
    0.25

  Reference:
    Kumar, Sarawagi and Jain, Trainable calibration measures for neural networks from kernel mean
    embeddings, 2018, equation 6.
  """
  given = _events.check_probs(probs, labels, where)
  _checks.check_positive("bandwidth", bandwidth, scalar=True)
  return _mmce(given, jnp.asarray(bandwidth, given.probs.dtype))


@jax.jit
def _mmce(given: _events.Probabilities, bandwidth: Array) -> Array:
  events = _events.top_label_events(given)
  residual = jnp.where(events.keep, events.outcome - events.confidence, 0)

  def row(one: tuple[Array, Array]) -> Array:
    confidence, left = one
    kernel = jnp.exp(-jnp.abs(confidence - events.confidence) / bandwidth)
    return left * jnp.sum(kernel * residual)

  total = jnp.sum(jax.lax.map(row, (events.confidence, residual), batch_size=_ROWS))
  count = jnp.maximum(jnp.sum(events.keep), 1).astype(total.dtype)
  square = total / count**2
  is_positive = square > 0  # the kernel is positive semi-definite: below 0 is rounding
  return jnp.where(is_positive, jnp.sqrt(jnp.where(is_positive, square, 1)), 0) + events.poison


def squared_kernel_calibration_error(
  probs: ArrayLike,
  labels: ArrayLike,
  *,
  bandwidth: ArrayLike = 1.0,
  where: ArrayLike | None = None,
) -> Array:
  r"""Unbiased squared kernel calibration error (SKCE) of all classes together.

  Computes the mean over pairs i < j of exp(-||p_i - p_j||_2 / bandwidth) (e_i - p_i) . (e_j - p_j),
  e_i the unit vector of the label.

  Args:
    probs: float[n, classes] probabilities (not logits).
    labels: int[n] in [0, classes).
    bandwidth: > 0, a scalar; may be traced.
    where: bool[n]; rows where it is false are ignored, whatever they hold.

  Returns:
    float scalar, at least float32; of mean 0 for calibrated probabilities, so that it may be
    negative. 0 for fewer than two kept rows, NaN where a kept row is not finite.

  Raises:
    ValueError: shapes do not agree, known values are no probabilities, a known label is out of
      range, or bandwidth <= 0.
    TypeError: probs are not floating-point, labels are not integers, where is not boolean.

  Note:
    The time grows like n^2 classes, the memory like n classes.

  Example:
    >>> probs = jnp.array([[0.8, 0.2], [0.8, 0.2]])
    >>> round(float(squared_kernel_calibration_error(probs, jnp.array([0, 1]))), 3)
    -0.32

  Reference:
    Widmann, Lindsten and Zachariah, Calibration tests in multi-class classification: a unifying
    framework, 2019, table 1 (the unbiased quadratic estimator with the kernel times the identity).
  """
  given = _events.check_probs(probs, labels, where, rank=2)
  _checks.check_positive("bandwidth", bandwidth, scalar=True)
  return _skce(given, jnp.asarray(bandwidth, given.probs.dtype))


@jax.jit
def _skce(given: _events.Probabilities, bandwidth: Array) -> Array:
  given, poison = _events.clean(given)
  residual = jnp.where(given.keep[:, None], _events.one_hot(given) - given.probs, 0)

  def row(one: tuple[Array, Array]) -> Array:
    point, left = one
    distance = numerics.safe_norm(point[None, :] - given.probs, axis=1)
    # Without the pair of a row and itself, whose kernel is 1.
    return jnp.sum(jnp.exp(-distance / bandwidth) * (residual @ left)) - left @ left

  total = jnp.sum(jax.lax.map(row, (given.probs, residual), batch_size=_ROWS))
  count = jnp.sum(given.keep).astype(total.dtype)
  return total / jnp.maximum(count * (count - 1), 1) + poison


def dirichlet_calibration_error(
  probs: ArrayLike,
  labels: ArrayLike,
  *,
  bandwidth: ArrayLike = 0.1,
  where: ArrayLike | None = None,
) -> Array:
  r"""Squared canonical calibration error of all classes together, by a Dirichlet kernel density.

  Computes mean_i ||E[e | p_i] - p_i||_2^2 with E[e | p_i] = sum_j k_ij e_j / sum_j k_ij over j != i
  and k_ij the density of Dirichlet(p_j / bandwidth + 1) at p_i. The root is not taken.

  Args:
    probs: float[n, classes] probabilities (not logits).
    labels: int[n] in [0, classes).
    bandwidth: > 0, a scalar; may be traced. The result depends on it: compare at the same one.
    where: bool[n]; rows where it is false are ignored, whatever they hold.

  Returns:
    float scalar >= 0, at least float32; rows to which no other row gives weight are left out, and 0
    if there are no others. NaN where a kept row is not finite.

  Raises:
    ValueError: shapes do not agree, known values are no probabilities, a known label is out of
      range, or bandwidth <= 0.
    TypeError: probs are not floating-point, labels are not integers, where is not boolean.

  Note:
    The time grows like n^2 classes, the memory like n classes.

  Example:
    >>> probs = jnp.array([[0.8, 0.2], [0.8, 0.2]])
    >>> round(float(dirichlet_calibration_error(probs, jnp.array([0, 0]))), 3)
    0.08

  Reference:
    Popordanoska, Sayer and Blaschko, A consistent and differentiable Lp canonical calibration error
    estimator, 2022, equation 8.
  """
  given = _events.check_probs(probs, labels, where, rank=2)
  _checks.check_positive("bandwidth", bandwidth, scalar=True)
  return _dirichlet(given, jnp.asarray(bandwidth, given.probs.dtype))


@jax.jit
def _dirichlet(given: _events.Probabilities, bandwidth: Array) -> Array:
  given, poison = _events.clean(given)
  is_label = _events.one_hot(given)
  shape = given.probs / bandwidth  # of the density, less 1
  gammaln = jax.scipy.special.gammaln
  constant = gammaln(jnp.sum(shape + 1, axis=1)) - jnp.sum(gammaln(shape + 1), axis=1)
  places = jnp.arange(len(given.keep))

  def row(one: tuple[Array, Array]) -> tuple[Array, Array]:
    place, point = one
    # shape * log(point) with 0 log 0 = 0, and a finite derivative.
    is_positive = (point > 0)[None, :]
    logs = shape * jnp.log(jnp.where(is_positive, point[None, :], 1))
    logs = jnp.where(is_positive, logs, jnp.where(shape > 0, -jnp.inf, 0))
    density = constant + jnp.sum(logs, axis=1)
    others = given.keep & (places != place) & (density > -jnp.inf)
    top = jnp.max(jnp.where(others, density, -jnp.inf))
    found = top > -jnp.inf
    relative = jnp.where(others, density - jnp.where(found, top, 0), 0)
    weight = jnp.where(others, jnp.exp(relative), 0)
    total = jnp.sum(weight)
    mean = weight @ is_label / jnp.where(found, total, 1)
    return jnp.sum((mean - point) ** 2), found & given.keep[place]

  errors, use = jax.lax.map(row, (places, given.probs), batch_size=_ROWS)
  return jnp.sum(jnp.where(use, errors, 0)) / jnp.maximum(jnp.sum(use), 1) + poison
