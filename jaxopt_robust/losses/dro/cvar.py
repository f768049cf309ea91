"""Conditional value at risk: the mean of the largest losses."""

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.losses import _expectation as base
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["cvar", "cvar_threshold", "cvar_weights"]


def cvar(losses: ArrayLike, alpha: ArrayLike, *, where: ArrayLike | None = None) -> Array:
  r"""Mean of the largest fraction alpha of the losses (conditional value at risk).

  Computes max_p sum_i p_i l_i over p in the simplex with p_i <= 1 / (alpha n), which is
  min_s s + (1 / (alpha n)) sum_i max(l_i - s, 0). With alpha n an integer it is the mean of the
  alpha n largest losses; else the next loss counts with the fraction that is left. alpha = 1 gives
  the mean, alpha <= 1/n the largest loss.

  Args:
    losses: float[..., n], each row a set of losses.
    alpha: in (0, 1], a scalar or float[...] one per set; may be traced.
    where: bool[..., n]; n counts the entries where it is true, the others are ignored.

  Returns:
    float[...] in the dtype of ``losses``; 0 for a set without entries, NaN if a loss is NaN.

  Raises:
    ValueError: losses have rank 0 or are empty, shapes do not agree, or alpha is not in (0, 1].
    TypeError: losses are not floating-point or where is not boolean.

  Note:
    Exact, by sorting. The derivative in the losses is ``cvar_weights``: losses equal to the
    threshold share what is left for them, so their order does not matter. Piecewise linear in the
    losses: second derivatives in them are 0.

  Example:
    >>> losses = jnp.array([4.0, 1.0, 3.0, 2.0])
    >>> jax.vmap(lambda alpha: cvar(losses, alpha))(jnp.array([0.25, 0.5, 0.625, 1.0]))
    Array([4. , 3.5, 3.2, 2.5], dtype=float32)

  Reference:
    Rockafellar and Uryasev, Optimization of conditional value-at-risk, 2000, theorem 1 (recalled,
    not verified).
  """
  prepared, fraction = _prepare(losses, alpha, where)
  above, ties, budget = _parts(prepared, fraction)
  threshold = _shared(prepared.values, ties)
  excess = jnp.where(above, prepared.values - threshold[..., None], 0)
  return base.finish(threshold + jnp.sum(excess, axis=-1) / budget, prepared)


def cvar_weights(losses: ArrayLike, alpha: ArrayLike, *, where: ArrayLike | None = None) -> Array:
  r"""Worst-case weights of ``cvar``.

  Computes p_i = 1 / (alpha n) for losses above the threshold, 0 for those below; losses equal to
  the threshold share the rest. If alpha n <= 1 the largest losses share all of it.

  Args:
    losses: float[..., n], each row a set of losses.
    alpha: in (0, 1], a scalar or float[...] one per set; may be traced.
    where: bool[..., n]; entries where it is false have weight 0.

  Returns:
    float[..., n] in the dtype of ``losses``; each set sums to one, or is 0 if it has no entries.

  Raises:
    ValueError: losses have rank 0 or are empty, shapes do not agree, or alpha is not in (0, 1].
    TypeError: losses are not floating-point or where is not boolean.

  Example:
    >>> cvar_weights(jnp.array([4.0, 1.0, 3.0, 2.0]), 0.5)
    Array([0.5, 0. , 0.5, 0. ], dtype=float32)

  Reference:
    Rockafellar and Uryasev, Optimization of conditional value-at-risk, 2000 (recalled, not
    verified); the dual form.
  """
  prepared, fraction = _prepare(losses, alpha, where)
  above, ties, budget = _parts(prepared, fraction)
  each = 1 / budget
  num_above = jnp.sum(above, axis=-1).astype(each.dtype)
  left = (1 - num_above * each) / jnp.sum(ties, axis=-1)
  weights = jnp.where(above, each[..., None], jnp.where(ties, left[..., None], 0))
  return base.finish_weights(weights, prepared)


def cvar_threshold(losses: ArrayLike, alpha: ArrayLike, *, where: ArrayLike | None = None) -> Array:
  r"""Threshold of ``cvar``, the (1 - alpha) quantile of the losses (value at risk).

  Computes the ceil(alpha n)-th largest loss, which minimises
  s + (1 / (alpha n)) sum_i max(l_i - s, 0) over s.

  Args:
    losses: float[..., n], each row a set of losses.
    alpha: in (0, 1], a scalar or float[...] one per set; may be traced.
    where: bool[..., n]; n counts the entries where it is true, the others are ignored.

  Returns:
    float[...] in the dtype of ``losses``; 0 for a set without entries, NaN if a loss is NaN.

  Raises:
    ValueError: losses have rank 0 or are empty, shapes do not agree, or alpha is not in (0, 1].
    TypeError: losses are not floating-point or where is not boolean.

  Note:
    Where alpha n is an integer every number down to the next loss is a minimiser too; this is the
    largest. alpha n is rounded to an integer that is within a few units in the last place.

  Example:
    >>> float(cvar_threshold(jnp.array([4.0, 1.0, 3.0, 2.0]), 0.5))
    3.0

  Reference:
    Rockafellar and Uryasev, Optimization of conditional value-at-risk, 2000 (recalled, not
    verified).
  """
  prepared, fraction = _prepare(losses, alpha, where)
  _, ties, _ = _parts(prepared, fraction)
  threshold = _shared(prepared.values, ties)
  return base.finish(threshold, prepared)


def _prepare(
  losses: ArrayLike, alpha: ArrayLike, where: ArrayLike | None
) -> tuple[base.Prepared, Array]:
  prepared = base.prepare(losses, where)
  _checks.check_interval("alpha", alpha, 0.0, 1.0, closed="right")
  fraction = base.per_set("alpha", alpha, prepared)
  return base.with_numbers(prepared, fraction), fraction


def _parts(prepared: base.Prepared, alpha: Array) -> tuple[Array, Array, Array]:
  """Which losses lie above the threshold, which on it, and alpha n (at least 1)."""
  budget = alpha * base.count(prepared)
  # A product such as 0.1 * 30 that is above 3 by rounding must not ask for a fourth loss.
  slack = 1 - 4 * jnp.asarray(jnp.finfo(budget.dtype).eps, budget.dtype)
  rank = jnp.ceil(jax.lax.stop_gradient(budget) * slack).astype(jnp.int32) - 1
  rank = jnp.clip(rank, 0, prepared.values.shape[-1] - 1)
  ordered = base.descending(prepared)
  threshold = jnp.take_along_axis(ordered, rank[..., None], axis=-1)
  above, ties = prepared.values > threshold, prepared.values == threshold
  if prepared.where is not None:
    above, ties = above & prepared.where, ties & prepared.where
  # With NaN among the losses nothing may tie; the result is NaN anyway.
  ties = ties | ~jnp.any(ties, axis=-1, keepdims=True)
  return above, ties, jnp.maximum(budget, 1)


def _shared(values: Array, ties: Array) -> Array:
  """The common value of some entries, whose derivative they share."""
  return jnp.max(values, axis=-1, where=ties, initial=-jnp.inf)
