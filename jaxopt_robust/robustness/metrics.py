"""Numbers that summarise accuracy: over the worst classes, within certified radii."""

import jax.numpy as jnp

from jaxopt_robust import _checks, numerics
from jaxopt_robust.losses.dro.cvar import cvar
from jaxopt_robust.losses.dro.group import group_means
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["average_certified_radius", "certified_accuracy", "tail_accuracy"]


def tail_accuracy(
  correct: ArrayLike,
  labels: ArrayLike,
  *,
  num_classes: int,
  fraction: ArrayLike = 0.3,
  where: ArrayLike | None = None,
) -> Array:
  r"""Mean accuracy of the worst classes (RA-Tail-30 with attacked examples and fraction 0.3).

  Computes the mean of the fraction * K lowest class accuracies, K the number of classes that occur;
  if that is no integer, the next class counts with the fraction that is left.

  Args:
    correct: bool[n] or float[n], whether each example is right.
    labels: int[n] its class, in [0, num_classes).
    num_classes: static integer >= 1.
    fraction: in (0, 1], a scalar; may be traced. 1 gives the mean over the classes.
    where: bool[n]; examples where it is false are ignored, and so are classes without examples.

  Returns:
    float scalar (at least float32), 0 if no example is kept. Labels out of range count as no class
    under ``jit``.

  Raises:
    ValueError: shapes do not agree, a known label is out of range, num_classes < 1 or fraction is
      not in (0, 1].
    TypeError: labels or num_classes are not integers, or where is not boolean.

  Example:
    >>> correct, labels = jnp.array([True, False, True, True]), jnp.array([0, 0, 1, 2])
    >>> tail_accuracy(correct, labels, num_classes=3, fraction=1 / 3)
    Array(0.5, dtype=float32)

  Reference:
    Sow, Lin, Wang and Liang, Doubly robust instance-reweighted adversarial training, 2024 (the
    metric RA-Tail-30).
  """
  values = _checks.check_array("correct", correct, rank=1)
  values = values.astype(jnp.promote_types(values.dtype, jnp.float32))
  num_classes = _checks.check_int("num_classes", num_classes, minimum=1)
  _checks.check_array("fraction", fraction, rank=0)
  mask = _checks.check_mask("where", where, shape=values.shape)
  index = _checks.check_labels(
    "labels", labels, shape=values.shape, num_classes=num_classes, where=mask
  )
  accuracy, present = group_means(values, index, num_classes, mask)
  return -cvar(-accuracy, fraction, where=present)


def certified_accuracy(
  radius: ArrayLike, correct: ArrayLike, *, radii: ArrayLike, where: ArrayLike | None = None
) -> Array:
  r"""Certified accuracy: the share of examples that are right within a radius, at each radius.

  Computes (1/n) sum_i 1[correct_i] 1[R_i >= r] for each r of radii.

  Args:
    radius: float[n] certified radii R.
    correct: bool[n], whether the certified class is the label; False where abstained.
    radii: float[...] >= 0.
    where: bool[n]; examples where it is false are left out.

  Returns:
    float[...] of the shape of ``radii``, at least float32; it does not increase with the radius. 0
    without examples.

  Raises:
    ValueError: shapes do not agree, or a known radius is negative.
    TypeError: correct or where is not boolean.

  Example:
    >>> correct = jnp.array([True, True, False, True])
    >>> certified_accuracy([0.9, 0.3, 0.0, 0.6], correct, radii=[0.0, 0.5])
    Array([0.75, 0.5 ], dtype=float32)

  Reference:
    Cohen, Rosenfeld and Kolter, Certified adversarial robustness via randomized smoothing, 2019,
    section 4.
  """
  values, right, mask = _check_certified(radius, correct, where)
  _checks.check_non_negative("radii", radii)
  bounds = _checks.check_float_array("radii", radii, non_empty=False).astype(values.dtype)
  shape = (*bounds.shape, values.size)
  values, right = jnp.broadcast_to(values, shape), jnp.broadcast_to(right, shape)
  good = (right & (values >= bounds[..., None])).astype(values.dtype)
  return numerics.masked_mean(good, jnp.broadcast_to(mask, shape), axis=-1)


def average_certified_radius(
  radius: ArrayLike, correct: ArrayLike, *, where: ArrayLike | None = None
) -> Array:
  r"""Average certified radius (ACR): mean radius, where wrong answers count as 0.

  Computes (1/n) sum_i 1[correct_i] R_i, the area under the curve of certified accuracy.

  Args:
    radius: float[n] certified radii R.
    correct: bool[n], whether the certified class is the label; False where abstained.
    where: bool[n]; examples where it is false are left out.

  Returns:
    float scalar, at least float32; 0 without examples.

  Raises:
    ValueError: shapes do not agree, or a known radius is negative.
    TypeError: correct or where is not boolean.

  Example:
    >>> average_certified_radius([1.0, 0.5, 0.75], jnp.array([True, True, False]))
    Array(0.5, dtype=float32)

  Reference:
    Zhai, Dan, He, Zhang, Gong, Ravikumar, Hsieh and Wang, MACER: attack-free and scalable robust
    training via maximizing certified radius, 2020, section 5.
  """
  values, right, mask = _check_certified(radius, correct, where)
  return numerics.masked_mean(jnp.where(right, values, 0), mask)


def _check_certified(
  radius: ArrayLike, correct: ArrayLike, where: ArrayLike | None
) -> tuple[Array, Array, Array]:
  _checks.check_non_negative("radius", radius)
  values = numerics.upcast(_checks.check_float_array("radius", radius, rank=1, non_empty=False))
  right = _checks.check_mask("correct", correct, shape=values.shape)
  if right is None:
    raise TypeError("correct must be a boolean mask; got None.")
  mask = _checks.check_mask("where", where, shape=values.shape)
  return values, right, jnp.ones(values.shape, jnp.bool_) if mask is None else mask
