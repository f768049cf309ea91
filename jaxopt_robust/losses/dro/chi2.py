"""Worst-case expectations over distributions near the uniform one in chi-squared divergence."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks, numerics
from jaxopt_robust.losses import _expectation as base
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["chi2_ball_dro", "chi2_ball_dro_weights", "chi2_dro", "chi2_dro_weights"]


def chi2_dro(losses: ArrayLike, temperature: ArrayLike, *, where: ArrayLike | None = None) -> Array:
  r"""Worst-case mean of losses with a chi-squared penalty on the weights.

  Computes max_{p in simplex} sum_i p_i l_i - (lam / 2) n sum_i (p_i - 1/n)^2 with
  lam = temperature. While no weight is 0 it is mean + variance / (2 lam) (variance with 1/n); as
  lam -> 0 it is the largest loss, as lam -> infinity the mean.

  Args:
    losses: float[..., n], each row a set of losses.
    temperature: > 0 (infinity is allowed), a scalar or float[...] one per set; may be traced.
    where: bool[..., n]; the mean runs over the entries where it is true.

  Returns:
    float[...] in the dtype of ``losses``; 0 for a set without entries, NaN if a loss is NaN.

  Raises:
    ValueError: losses have rank 0 or are empty, shapes do not agree, or temperature <= 0.
    TypeError: losses are not floating-point or where is not boolean.

  Note:
    Exact, by sorting. The derivative in the losses is ``chi2_dro_weights``; second derivatives are
    those of the formula with the set of positive weights held fixed, exact where that set does not
    change.

  Example:
    >>> losses = jnp.array([0.0, 1.0, 2.0])
    >>> jax.vmap(lambda lam: chi2_dro(losses, lam))(jnp.array([0.25, 2.0, jnp.inf])).round(2)
    Array([1.75, 1.17, 1.  ], dtype=float32)

  Reference:
    Namkoong and Duchi, Variance-based regularization with convex objectives, 2017 (recalled, not
    verified); the maximiser is a projection on the simplex.
  """
  prepared, lam = _prepare("temperature", losses, temperature, where)
  active = _active_at(prepared, lam)
  # Quotients by lam first: squares of losses may overflow or vanish.
  shift = active.offset / _safe_scale(prepared, lam)[..., None]
  smoothed = jnp.sum(active.offset * shift, axis=-1) / (2 * active.total)
  value = active.mean + smoothed - _lost(active, lam) / 2
  return base.finish(value, prepared)


def chi2_dro_weights(
  losses: ArrayLike, temperature: ArrayLike, *, where: ArrayLike | None = None
) -> Array:
  r"""Worst-case weights of ``chi2_dro``.

  Computes the Euclidean projection of 1/n + l / (lam n) on the simplex, with lam = temperature.

  Args:
    losses: float[..., n], each row a set of losses.
    temperature: > 0 (infinity is allowed), a scalar or float[...] one per set; may be traced.
    where: bool[..., n]; entries where it is false have weight 0.

  Returns:
    float[..., n] in the dtype of ``losses``; each set sums to one, or is 0 if it has no entries.

  Raises:
    ValueError: losses have rank 0 or are empty, shapes do not agree, or temperature <= 0.
    TypeError: losses are not floating-point or where is not boolean.

  Example:
    >>> weights = chi2_dro_weights(jnp.array([0.0, 1.0, 2.0]), 2.0)
    >>> np.round(np.float64(weights), 3).tolist()
    [0.167, 0.333, 0.5]

  Reference:
    Namkoong and Duchi, Variance-based regularization with convex objectives, 2017 (recalled, not
    verified).
  """
  prepared, lam = _prepare("temperature", losses, temperature, where)
  active = _active_at(prepared, lam)
  return base.finish_weights(_weights(active, 1 / _safe_scale(prepared, lam)), prepared)


def chi2_ball_dro(losses: ArrayLike, radius: ArrayLike, *, where: ArrayLike | None = None) -> Array:
  r"""Worst-case mean of losses over a chi-squared ball around the uniform weights.

  Computes max_{p in simplex} sum_i p_i l_i subject to (n / 2) sum_i (p_i - 1/n)^2 <= rho, with
  rho = radius. While no weight is 0 it is mean + sqrt(2 rho variance) (variance with 1/n);
  rho = 0 gives the mean, rho >= (n - 1) / 2 the largest loss.

  Args:
    losses: float[..., n], each row a set of losses.
    radius: >= 0, a scalar or float[...] one per set; may be traced.
    where: bool[..., n]; the mean runs over the entries where it is true.

  Returns:
    float[...] in the dtype of ``losses``; 0 for a set without entries, NaN if a loss is NaN.

  Raises:
    ValueError: losses have rank 0 or are empty, shapes do not agree, or radius < 0.
    TypeError: losses are not floating-point or where is not boolean.

  Note:
    Exact for every radius, by sorting, also where weights are 0: with the k largest losses active,
    of mean mu and variance V, the value is mu + sqrt((k / n) V (1 + 2 rho - n / k)). The derivative
    in the losses is ``chi2_ball_dro_weights``; at rho = 0, where that in the radius is infinite, 0
    is returned for it.

  Example:
    >>> losses = jnp.array([0.0, 1.0, 2.0])
    >>> radii = jnp.array([0.0, 0.1, 0.5, 1.0])
    >>> jax.vmap(lambda rho: chi2_ball_dro(losses, rho))(radii).round(3)
    Array([1.   , 1.365, 1.789, 2.   ], dtype=float32)

  Reference:
    Namkoong and Duchi, Variance-based regularization with convex objectives, 2017 (recalled, not
    verified); the closed form with zero weights is derived here.
  """
  prepared, rho = _prepare("radius", losses, radius, where)
  active = _active_on(prepared, rho)
  return base.finish(active.mean + numerics.safe_norm(_deviation(active, rho), axis=-1), prepared)


def chi2_ball_dro_weights(
  losses: ArrayLike, radius: ArrayLike, *, where: ArrayLike | None = None
) -> Array:
  r"""Worst-case weights of ``chi2_ball_dro``.

  Computes p_i = 1/k + (l_i - mu) / (lam n) for the k largest losses, of mean mu, and 0 for the
  others, with the lam that puts p on the sphere. Equal largest losses share the weight where the
  ball reaches that far.

  Args:
    losses: float[..., n], each row a set of losses.
    radius: >= 0, a scalar or float[...] one per set; may be traced.
    where: bool[..., n]; entries where it is false have weight 0.

  Returns:
    float[..., n] in the dtype of ``losses``; each set sums to one, or is 0 if it has no entries.

  Raises:
    ValueError: losses have rank 0 or are empty, shapes do not agree, or radius < 0.
    TypeError: losses are not floating-point or where is not boolean.

  Example:
    >>> weights = chi2_ball_dro_weights(jnp.array([0.0, 1.0, 2.0]), 0.5)
    >>> np.round(np.float64(weights), 3).tolist()
    [0.0, 0.211, 0.789]

  Reference:
    Namkoong and Duchi, Variance-based regularization with convex objectives, 2017 (recalled, not
    verified).
  """
  prepared, rho = _prepare("radius", losses, radius, where)
  active = _active_on(prepared, rho)
  # 1 / lam is the length that the radius leaves over the deviation of the losses
  length = numerics.safe_norm(active.offset, axis=-1) / jnp.sqrt(active.total)
  inverse = numerics.safe_divide(_root_of_room(active, rho), length)
  return base.finish_weights(_weights(active, inverse), prepared)


class _Active(NamedTuple):
  """The losses with a positive weight, in each set.

  Attributes:
    kept: bool[..., n], which they are.
    number: float[...], how many, k.
    total: float[...], the number of all losses, n.
    mean: float[...], their mean.
    offset: float[..., n], losses minus that mean, 0 for the others.
  """

  kept: Array
  number: Array
  total: Array
  mean: Array
  offset: Array


def _prepare(
  name: str, losses: ArrayLike, value: ArrayLike, where: ArrayLike | None
) -> tuple[base.Prepared, Array]:
  prepared = base.prepare(losses, where)
  check = _checks.check_positive if name == "temperature" else _checks.check_non_negative
  check(name, value)
  number = base.per_set(name, value, prepared)
  return base.with_numbers(prepared, number), number


def _breakpoints(prepared: base.Prepared) -> tuple[Array, Array]:
  """The losses in descending order, and the temperatures above which loss 2, ..., n is active.

  With the k largest losses active, loss k + 1 becomes so at lam = sum_{j <= k} (l_j - l_{k+1}) / n,
  here as a sum of non-negative numbers.
  """
  ordered = base.descending(prepared)
  number = jnp.arange(1, ordered.shape[-1], dtype=ordered.dtype)
  gaps = ordered[..., :-1] - ordered[..., 1:]  # infinite where the entries that count end
  steps = gaps * jnp.broadcast_to(number, gaps.shape)
  steps = jnp.where(jnp.isnan(steps), jnp.inf, steps)
  return ordered, jnp.cumsum(steps, axis=-1) / base.count(prepared)[..., None]


def _select(prepared: base.Prepared, ordered: Array, number: Array) -> _Active:
  """The ``number`` largest losses, and those equal to them."""
  last = jnp.take_along_axis(ordered, number[..., None] - 1, axis=-1)
  kept = prepared.values >= last
  if prepared.where is not None:
    kept = kept & prepared.where
  values = prepared.values
  size = jnp.maximum(jnp.sum(kept, axis=-1), 1).astype(values.dtype)
  top = jax.lax.stop_gradient(base.largest(prepared))[..., None]
  centred = jnp.where(kept, values - top, 0)
  mean = jnp.sum(centred, axis=-1) / size
  offset = jnp.where(kept, centred - mean[..., None], 0)
  return _Active(kept, size, base.count(prepared), mean + top[..., 0], offset)


def _active_at(prepared: base.Prepared, lam: Array) -> _Active:
  """The losses that are active at a temperature."""
  ordered, breaks = _breakpoints(prepared)
  is_reached = breaks < jax.lax.stop_gradient(lam)[..., None]
  return _select(prepared, ordered, 1 + jnp.sum(is_reached, axis=-1))


def _active_on(prepared: base.Prepared, radius: Array) -> _Active:
  """The losses that are active on the sphere of a radius."""
  ordered, breaks = _breakpoints(prepared)
  total = base.count(prepared)[..., None]
  number = jnp.broadcast_to(jnp.arange(1, ordered.shape[-1], dtype=ordered.dtype), breaks.shape)
  # k V_k by Welford's recursion, whose terms are non-negative; then half the squared distance of
  # the weights at breakpoint k, where mean r^2 = n / k + k V_k / (n b_k^2) for r = n p.
  below = ordered - ordered[..., :1]
  mean = jnp.cumsum(below, axis=-1)[..., :-1] / number
  step = below[..., 1:-1] - mean[..., :-1]
  grown = step * step * (number[..., :-1] / number[..., 1:])
  square = jnp.concatenate([jnp.zeros_like(breaks[..., :1]), grown], axis=-1).cumsum(axis=-1)
  ratio = jnp.sqrt(square) / jnp.where(breaks > 0, breaks, 1)
  distance = (total / number - 1 + ratio * ratio / total) / 2
  # At breakpoint 0 the losses are equal: the next one is always active with them. Entries that are
  # masked out come last and never are.
  is_beyond = jnp.where(breaks > 0, distance > radius[..., None], True)
  is_beyond = is_beyond & (number < total)
  return _select(prepared, ordered, 1 + jnp.sum(is_beyond, axis=-1))


def _safe_scale(prepared: base.Prepared, lam: Array) -> Array:
  """The temperature, but not so low that quotients overflow; there a single loss is active."""
  spread = jax.lax.stop_gradient(base.largest(prepared) - base.smallest(prepared))
  floor = jnp.asarray(jnp.finfo(lam.dtype).eps, lam.dtype) ** 2 * spread
  return jnp.where(spread > 0, jnp.maximum(lam, floor), 1)


def _lost(active: _Active, lam: Array) -> Array:
  """lam (n / k - 1), what the zero weights cost; 0 at an infinite temperature, where k = n."""
  is_whole = active.number >= active.total
  return jnp.where(is_whole, 0, jnp.where(is_whole, 1, lam) * (active.total / active.number - 1))


def _weights(active: _Active, inverse: Array) -> Array:
  level = jnp.broadcast_to((1 / active.number)[..., None], active.offset.shape)
  shift = active.offset * (inverse / active.total)[..., None]
  return jnp.where(active.kept, jnp.maximum(level + shift, 0), 0)


def _root_of_room(active: _Active, radius: Array) -> Array:
  """sqrt(1 + 2 rho - n / k), with derivative 0 at 0."""
  room = 2 * radius - (active.total / active.number - 1)
  is_open = room > 0
  return jnp.where(is_open, jnp.sqrt(jnp.where(is_open, room, 1)), 0)


def _deviation(active: _Active, radius: Array) -> Array:
  """A vector whose length is sqrt((k / n) V (1 + 2 rho - n / k))."""
  scale = _root_of_room(active, radius) / jnp.sqrt(active.total)
  return active.offset * scale[..., None]
