"""Multi-class hinge losses: Crammer-Singer (largest violation) and Weston-Watkins (their sum)."""

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.losses import _classification as base
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["crammer_singer_loss", "weston_watkins_loss"]


def crammer_singer_loss(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  margin: ArrayLike = 1.0,
  where: ArrayLike | None = None,
) -> Array:
  r"""Multi-class hinge loss of the most violating class.

  Computes max_k ( f_k - f_y + margin 1[k != y] ), which is >= 0 because k = y gives 0.

  Args:
    logits: float[..., classes] scores f, at least two classes.
    labels: int[...] class y of each row, in [0, classes).
    margin: >= 0, a scalar or float[...] one per row; may be traced.
    where: bool[...]; rows where it is false have value 0 and gradient 0, whatever they hold.

  Returns:
    float[...] one loss a row, in the dtype of ``logits``. Under ``jit`` a row whose label is out of
    range is NaN.

  Raises:
    ValueError: shapes do not agree, a known label is out of range, or margin < 0.
    TypeError: logits are not floating-point or labels are not integers.

  Note:
    At ties of the maximum the gradient is shared equally among the tied classes.

  Example:
    >>> crammer_singer_loss(jnp.array([[2.0, 1.5, 0.0]]), jnp.array([0]))
    Array([0.5], dtype=float32)

  Reference:
    Crammer and Singer, On the algorithmic implementation of multiclass kernel-based vector
    machines, 2001, section 3. The margin is 1 there; a free margin follows Zhu, Ying and Yang,
    Label distributionally robust losses for multi-class classification, 2023.
  """
  prepared = base.prepare(logits, labels, where)
  _checks.check_non_negative("margin", margin)
  return base.finish(jnp.max(_violations(prepared, margin), axis=-1), prepared)


def weston_watkins_loss(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  margin: ArrayLike = 1.0,
  where: ArrayLike | None = None,
) -> Array:
  r"""Multi-class hinge loss summed over the wrong classes.

  Computes sum_{k != y} max(0, margin + f_k - f_y), a sum and not a mean over classes.

  Args:
    logits: float[..., classes] scores f, at least two classes.
    labels: int[...] class y of each row, in [0, classes).
    margin: >= 0, a scalar or float[...] one per row; may be traced.
    where: bool[...]; rows where it is false have value 0 and gradient 0, whatever they hold.

  Returns:
    float[...] one loss a row, in the dtype of ``logits``. Under ``jit`` a row whose label is out of
    range is NaN.

  Raises:
    ValueError: shapes do not agree, a known label is out of range, or margin < 0.
    TypeError: logits are not floating-point or labels are not integers.

  Note:
    At a kink (a violation of exactly 0) the derivative is 0.

  Example:
    >>> weston_watkins_loss(jnp.array([[2.0, 1.5, 1.5]]), jnp.array([0]))
    Array([1.], dtype=float32)

  Reference:
    Weston and Watkins, Support vector machines for multi-class pattern recognition, 1999. The code
    published with Zhu, Ying and Yang, 2023, divides the sum by the number of classes.
  """
  prepared = base.prepare(logits, labels, where)
  _checks.check_non_negative("margin", margin)
  hinge = jax.nn.relu(_violations(prepared, margin))
  return base.finish(jnp.sum(jnp.where(prepared.is_label, 0, hinge), axis=-1), prepared)


def _violations(prepared: base.Prepared, margin: ArrayLike) -> Array:
  """f_k - f_y + margin 1[k != y], float[batch, classes]."""
  gap = prepared.logits - base.label_score(prepared)[..., None]
  return gap + jnp.where(prepared.is_label, 0, base.per_row("margin", margin, prepared)[..., None])
