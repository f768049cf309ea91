"""What attacks on classifiers maximise: log cross entropy, margins, difference of logits ratio."""

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks, numerics
from jaxopt_robust.losses import _classification as base
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "cross_entropy_attack_loss",
  "dlr_attack_loss",
  "margin_attack_loss",
  "targeted_dlr_attack_loss",
  "targeted_margin_attack_loss",
]

_FAR = -20.0  # log softplus(m) = m - e^m / 2 to the precision of float64 below


def cross_entropy_attack_loss(
  logits: ArrayLike, labels: ArrayLike, *, where: ArrayLike | None = None
) -> Array:
  r"""Logarithm of the cross entropy, for attacks: its gradient does not vanish where it saturates.

  Computes log(-log p_y), p = softmax(z): log softplus(m) with m = log sum_{k != y} exp(z_k) - z_y.
  It orders points as the cross entropy does and its gradient has the same direction, so attacks
  that step by signs or by normalised gradients are the same. But where z_y is so far above the
  others that p_y rounds to 1, and the gradient of the cross entropy to 0, its slope in m is 1.

  Args:
    logits: float[..., classes] scores z, at least two classes.
    labels: int[...] class y of each row, in [0, classes).
    where: bool[...]; rows where it is false have value 0 and gradient 0, whatever they hold.

  Returns:
    float[...] one loss a row, in the dtype of ``logits``. Under ``jit`` a row whose label is out of
    range is NaN.

  Raises:
    ValueError: shapes do not agree or a known label is out of range.
    TypeError: logits are not floating-point or labels are not integers.

  Note:
    The logarithm changes the weights between examples: for training take
    ``losses.cross_entropy_loss``.

  Example:
    >>> logits, labels = jnp.array([[1e4, 0.0, 0.0]]), jnp.array([0])
    >>> jax.grad(lambda z: cross_entropy_attack_loss(z, labels).sum())(logits).round(2)
    Array([[-1. ,  0.5,  0.5]], dtype=float32)

  Reference:
    Goodfellow, Shlens and Szegedy, Explaining and harnessing adversarial examples, 2015 (attacks on
    the cross entropy); the logarithm is ours.
  """
  prepared = base.prepare(logits, labels, where)
  total, is_sure = base.other_scores(prepared)
  m = jnp.where(is_sure, 0, total - base.label_score(prepared))
  near = jnp.log(jax.nn.softplus(jnp.maximum(m, _FAR)))
  far = jnp.minimum(m, _FAR)
  value = jnp.where(m < _FAR, far - 0.5 * jnp.exp(far), near)
  return base.finish(jnp.where(is_sure, -jnp.inf, value), prepared)


def margin_attack_loss(
  logits: ArrayLike, labels: ArrayLike, *, where: ArrayLike | None = None
) -> Array:
  r"""Margin by which the best wrong class wins, for attacks (Carlini and Wagner).

  Computes max_{k != y} z_k - z_y: positive where the row is misclassified.

  Args:
    logits: float[..., classes] scores z, at least two classes.
    labels: int[...] class y of each row, in [0, classes).
    where: bool[...]; rows where it is false have value 0 and gradient 0, whatever they hold.

  Returns:
    float[...] one loss a row, in the dtype of ``logits``. Under ``jit`` a row whose label is out of
    range is NaN.

  Raises:
    ValueError: shapes do not agree or a known label is out of range.
    TypeError: logits are not floating-point or labels are not integers.

  Note:
    Among wrong classes of equal scores the gradient is shared in equal parts.

  Example:
    >>> margin_attack_loss(jnp.array([[1.0, 3.0, 2.0]]), jnp.array([0]))
    Array([2.], dtype=float32)

  Reference:
    Carlini and Wagner, Towards evaluating the robustness of neural networks, 2017, section V.A
    (f_6, without its cut-off).
  """
  prepared = base.prepare(logits, labels, where)
  return base.finish(-_lead(prepared), prepared)


def dlr_attack_loss(
  logits: ArrayLike, labels: ArrayLike, *, where: ArrayLike | None = None
) -> Array:
  r"""Difference of logits ratio (DLR), an attack's loss that no scale or shift of scores changes.

  Computes -(z_y - max_{k != y} z_k) / (z_(1) - z_(3)), z_(j) the j-th largest score: positive where
  the row is misclassified.

  Args:
    logits: float[..., classes] scores z, at least three classes.
    labels: int[...] class y of each row, in [0, classes).
    where: bool[...]; rows where it is false have value 0 and gradient 0, whatever they hold.

  Returns:
    float[...] one loss a row, in the dtype of ``logits``. Under ``jit`` a row whose label is out of
    range is NaN.

  Raises:
    ValueError: fewer than three classes, shapes do not agree or a known label is out of range.
    TypeError: logits are not floating-point or labels are not integers.

  Note:
    Where the three largest scores are equal the denominator is one rounding of the range of the
    scores; where all are equal the value is 0. The authors' code adds 1e-12 instead.

  Example:
    >>> dlr_attack_loss(jnp.array([[1.0, 3.0, 2.0]]), jnp.array([0]))
    Array([1.], dtype=float32)

  Reference:
    Croce and Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks, 2020, equation 6.
  """
  prepared = base.prepare(logits, labels, where)
  top = _largest(prepared, 3, "margin_attack_loss")
  value = _over(-_lead(prepared), top[0] - top[2], prepared)
  return base.finish(value, prepared)


def targeted_dlr_attack_loss(
  logits: ArrayLike, labels: ArrayLike, targets: ArrayLike, *, where: ArrayLike | None = None
) -> Array:
  r"""Difference of logits ratio towards a target class.

  Computes -(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2), z_(j) the j-th largest score.

  Args:
    logits: float[..., classes] scores z, at least four classes.
    labels: int[...] class y of each row, in [0, classes).
    targets: int[...] class t that the attack goes for, in [0, classes).
    where: bool[...]; rows where it is false have value 0 and gradient 0, whatever they hold.

  Returns:
    float[...] one loss a row, in the dtype of ``logits``. Under ``jit`` a row whose label or target
    is out of range is NaN.

  Raises:
    ValueError: fewer than four classes, shapes do not agree, a known label or target is out of
      range or equal to the other.
    TypeError: logits are not floating-point, labels or targets are not integers.

  Note:
    Equal scores: as in ``dlr_attack_loss``.

  Example:
    >>> logits, labels = jnp.array([[4.0, 2.0, 0.0, 0.0]]), jnp.array([0])
    >>> targeted_dlr_attack_loss(logits, labels, jnp.array([1]))
    Array([-0.5], dtype=float32)

  Reference:
    Croce and Hein, Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks, 2020, equation 7.
  """
  prepared = base.prepare(logits, labels, where)
  top = _largest(prepared, 4, "targeted_margin_attack_loss")
  towards = _towards(prepared, labels, targets)
  value = _over(towards, top[0] - 0.5 * (top[2] + top[3]), prepared)
  return base.finish(value, prepared)


def targeted_margin_attack_loss(
  logits: ArrayLike, labels: ArrayLike, targets: ArrayLike, *, where: ArrayLike | None = None
) -> Array:
  r"""Margin of a target class over the label's, for attacks.

  Computes z_t - z_y.

  Args:
    logits: float[..., classes] scores z, at least two classes.
    labels: int[...] class y of each row, in [0, classes).
    targets: int[...] class t that the attack goes for, in [0, classes).
    where: bool[...]; rows where it is false have value 0 and gradient 0, whatever they hold.

  Returns:
    float[...] one loss a row, in the dtype of ``logits``. Under ``jit`` a row whose label or target
    is out of range is NaN.

  Raises:
    ValueError: shapes do not agree, a known label or target is out of range or equal to the other.
    TypeError: logits are not floating-point, labels or targets are not integers.

  Example:
    >>> targeted_margin_attack_loss(jnp.array([[4.0, 1.0]]), jnp.array([0]), jnp.array([1]))
    Array([-3.], dtype=float32)

  Reference:
    Carlini and Wagner, Towards evaluating the robustness of neural networks, 2017, section V.A.
  """
  prepared = base.prepare(logits, labels, where)
  return base.finish(_towards(prepared, labels, targets), prepared)


def _lead(prepared: base.Prepared) -> Array:
  """Score of the label minus the largest of the others."""
  others = jnp.max(jnp.where(prepared.is_label, -jnp.inf, prepared.logits), axis=-1)
  return base.label_score(prepared) - others


def _largest(prepared: base.Prepared, count: int, instead: str) -> list[Array]:
  """The largest scores in falling order."""
  classes = prepared.logits.shape[-1]
  if classes < count:
    raise ValueError(
      f"logits must have at least {count} classes; got {classes}: with fewer take {instead}."
    )
  top = jax.lax.top_k(prepared.logits, count)[0]
  return [top[..., j] for j in range(count)]


def _towards(prepared: base.Prepared, labels: ArrayLike, targets: ArrayLike) -> Array:
  """Score of the target minus that of the label."""
  shape, classes = prepared.logits.shape[:-1], prepared.logits.shape[-1]
  index = _checks.check_labels(
    "targets", targets, shape=shape, num_classes=classes, where=prepared.where
  )
  differ = index != jnp.asarray(labels)
  if prepared.where is not None:
    differ = differ | ~prepared.where
  _checks.check_holds(differ, "targets must differ from labels.")
  places = jax.lax.broadcasted_iota(index.dtype, prepared.logits.shape, prepared.logits.ndim - 1)
  score = jnp.sum(jnp.where(places == index[..., None], prepared.logits, 0), axis=-1)
  score = jnp.where((index >= 0) & (index < classes), score, jnp.nan)
  if prepared.where is not None:
    score = jnp.where(prepared.where, score, 0)
  return score - base.label_score(prepared)


def _over(numerator: Array, denominator: Array, prepared: base.Prepared) -> Array:
  """The ratio; its sign stays where the denominator rounds to 0."""
  logits = jax.lax.stop_gradient(prepared.logits)
  # A class that is ruled out by -inf says nothing of the roundings of the others.
  lowest = jnp.min(logits, axis=-1, where=logits > -jnp.inf, initial=jnp.inf)
  extent = jnp.max(logits, axis=-1) - lowest
  least = jnp.finfo(logits.dtype).eps * extent
  return numerics.safe_divide(numerator, jnp.maximum(denominator, least))
