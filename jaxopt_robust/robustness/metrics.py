"""Numbers that summarise accuracy over classes."""

import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.losses.dro.cvar import cvar
from jaxopt_robust.losses.dro.group import group_means
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["tail_accuracy"]


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
