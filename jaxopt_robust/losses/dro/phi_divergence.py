"""Worst-case expectations under any divergence, as optimized certainty equivalents."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.losses import _expectation as base
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "chi2_conjugate",
  "cressie_read_conjugate",
  "cvar_conjugate",
  "kl_conjugate",
  "phi_divergence_dro",
  "phi_divergence_dro_threshold",
  "phi_divergence_dro_weights",
]


def phi_divergence_dro(
  losses: ArrayLike,
  temperature: ArrayLike,
  *,
  conjugate: Callable[[Array], Array],
  where: ArrayLike | None = None,
) -> Array:
  r"""Worst-case mean of losses with any phi-divergence as penalty (optimized certainty equivalent).

  Computes min_eta eta + lam (1/n) sum_i phi*((l_i - eta) / lam), which is
  max_{p in simplex} sum_i p_i l_i - lam (1/n) sum_i phi(n p_i), with lam = temperature and phi* the
  convex conjugate of phi over [0, infinity).

  Args:
    losses: float[..., n], each row a set of losses.
    temperature: > 0 and finite, a scalar or float[...] one per set; may be traced.
    conjugate: phi*, entry by entry; convex, non-decreasing, with 1 among its slopes at 0 (that is,
      phi is smallest at 1), such as ``kl_conjugate``. It may close over traced numbers.
    where: bool[..., n]; the mean runs over the entries where it is true.

  Returns:
    float[...] in the dtype of ``losses``; 0 for a set without entries, NaN if a loss is NaN.

  Raises:
    ValueError: losses have rank 0 or are empty, shapes do not agree, or temperature is not in
      (0, infinity).
    TypeError: losses are not floating-point, where is not boolean or conjugate is not callable.

  Note:
    eta is found by bisection on the slope, to (max l - min l) times eps^2, with the eps of the
    dtype; lower temperatures than that lose digits, for which ``kl_dro``, ``chi2_dro`` and ``cvar``
    are made. It is differentiated implicitly: derivatives of higher order are exact where phi* is
    smooth. At kinks of phi* the losses nearest to eta take what is left of the weight.

  Example:
    >>> losses = jnp.array([0.0, 1.0, 2.0])
    >>> phi_divergence_dro(losses, 1.0, conjugate=kl_conjugate).round(2)
    Array(1.31, dtype=float32)

  Reference:
    Ben-Tal and Teboulle, An old-new concept of convex risk measures: the optimized certainty
    equivalent, 2007 (recalled, not verified).
  """
  prepared, lam = _prepare(losses, temperature, conjugate, where)
  depth = _depth(prepared, lam, conjugate)
  scaled = _scaled(prepared, lam, depth)
  value = _top(prepared) + (lam * base.mean(conjugate(scaled), prepared) - depth)
  return base.finish(value, prepared)


def phi_divergence_dro_weights(
  losses: ArrayLike,
  temperature: ArrayLike,
  *,
  conjugate: Callable[[Array], Array],
  where: ArrayLike | None = None,
) -> Array:
  r"""Worst-case weights of ``phi_divergence_dro``.

  Computes p_i = (1/n) phi*'((l_i - eta) / lam) with the minimising eta and lam = temperature; where
  phi* has kinks the losses nearest to eta take what is left, so that the sum is one.

  Args:
    losses: float[..., n], each row a set of losses.
    temperature: > 0 and finite, a scalar or float[...] one per set; may be traced.
    conjugate: phi*, as in ``phi_divergence_dro``.
    where: bool[..., n]; entries where it is false have weight 0.

  Returns:
    float[..., n] in the dtype of ``losses``; each set sums to one, or is 0 if it has no entries.

  Raises:
    ValueError: losses have rank 0 or are empty, shapes do not agree, or temperature is not in
      (0, infinity).
    TypeError: losses are not floating-point, where is not boolean or conjugate is not callable.

  Example:
    >>> losses = jnp.array([0.0, 1.0, 2.0])
    >>> weights = phi_divergence_dro_weights(losses, 2.0, conjugate=chi2_conjugate)
    >>> np.round(np.float64(weights), 3).tolist()
    [0.167, 0.333, 0.5]

  Reference:
    Ben-Tal and Teboulle, An old-new concept of convex risk measures: the optimized certainty
    equivalent, 2007 (recalled, not verified).
  """
  prepared, lam = _prepare(losses, temperature, conjugate, where)
  depth = _depth(prepared, lam, conjugate)
  weights = _slope(conjugate, _scaled(prepared, lam, depth)) / base.count(prepared)[..., None]
  if prepared.where is not None:
    weights = jnp.where(prepared.where, weights, 0)
  rest = (1 - jnp.sum(weights, axis=-1))[..., None]  # 0 up to rounding but at kinks
  nearest = _nearest(prepared, depth)
  share = nearest / jnp.sum(nearest, axis=-1, keepdims=True).astype(weights.dtype)
  return base.finish_weights(weights + rest * share, prepared)


def phi_divergence_dro_threshold(
  losses: ArrayLike,
  temperature: ArrayLike,
  *,
  conjugate: Callable[[Array], Array],
  where: ArrayLike | None = None,
) -> Array:
  r"""The minimising eta in ``phi_divergence_dro``.

  Computes the eta at which (1/n) sum_i phi*'((l_i - eta) / lam) = 1, with lam = temperature.

  Args:
    losses: float[..., n], each row a set of losses.
    temperature: > 0 and finite, a scalar or float[...] one per set; may be traced.
    conjugate: phi*, as in ``phi_divergence_dro``.
    where: bool[..., n]; entries where it is false do not count.

  Returns:
    float[...] in the dtype of ``losses``, between the smallest and the largest loss; 0 for a set
    without entries, NaN if a loss is NaN.

  Raises:
    ValueError: losses have rank 0 or are empty, shapes do not agree, or temperature is not in
      (0, infinity).
    TypeError: losses are not floating-point, where is not boolean or conjugate is not callable.

  Example:
    >>> losses = jnp.array([0.0, 1.0, 2.0])
    >>> round(float(phi_divergence_dro_threshold(losses, 2.0, conjugate=chi2_conjugate)), 3)
    1.0

  Reference:
    Ben-Tal and Teboulle, An old-new concept of convex risk measures: the optimized certainty
    equivalent, 2007 (recalled, not verified).
  """
  prepared, lam = _prepare(losses, temperature, conjugate, where)
  depth = _depth(prepared, lam, conjugate)
  return base.finish(_top(prepared) - depth, prepared)


def kl_conjugate(s: ArrayLike) -> Array:
  r"""Conjugate for the KL divergence.

  Computes phi*(s) = exp(s) - 1, for phi(t) = t log t - t + 1.

  Args:
    s: float[...].

  Returns:
    float[...].

  Raises:
    TypeError: s is not floating-point.

  Example:
    >>> float(kl_conjugate(jnp.zeros(())))
    0.0

  Reference:
    Ben-Tal, den Hertog, De Waegenaere, Melenberg and Rennen, Robust solutions of optimization
    problems affected by uncertain probabilities, 2013, table 4 (recalled, not verified).
  """
  return jnp.expm1(_checks.check_float_array("s", s))


def chi2_conjugate(s: ArrayLike) -> Array:
  r"""Conjugate for the chi-squared divergence.

  Computes phi*(s) = (max(s + 1, 0)^2 - 1) / 2, for phi(t) = (t - 1)^2 / 2.

  Args:
    s: float[...].

  Returns:
    float[...].

  Raises:
    TypeError: s is not floating-point.

  Example:
    >>> chi2_conjugate(jnp.array([-2.0, 0.0, 1.0]))
    Array([-0.5,  0. ,  1.5], dtype=float32)

  Reference:
    Namkoong and Duchi, Variance-based regularization with convex objectives, 2017 (recalled, not
    verified).
  """
  above = jnp.maximum(_checks.check_float_array("s", s), -1)
  return above + above * above / 2  # no digits lost near 0


def cvar_conjugate(s: ArrayLike, *, alpha: ArrayLike) -> Array:
  r"""Conjugate for the set p_i <= 1 / (alpha n), which makes the worst case the CVaR.

  Computes phi*(s) = max(s, 0) / alpha, for phi(t) = 0 on [0, 1 / alpha] and infinity elsewhere.

  Args:
    s: float[...].
    alpha: in (0, 1], a scalar; may be traced.

  Returns:
    float[...].

  Raises:
    ValueError: alpha is not in (0, 1].
    TypeError: s is not floating-point.

  Example:
    >>> cvar_conjugate(jnp.array([-1.0, 1.0]), alpha=0.5)
    Array([0., 2.], dtype=float32)

  Reference:
    Rockafellar and Uryasev, Optimization of conditional value-at-risk, 2000 (recalled, not
    verified).
  """
  array = _checks.check_float_array("s", s)
  _checks.check_interval("alpha", alpha, 0.0, 1.0, closed="right")
  return jax.nn.relu(array) / jnp.asarray(alpha, array.dtype)


def cressie_read_conjugate(s: ArrayLike, *, power: ArrayLike) -> Array:
  r"""Conjugate for a Cressie-Read divergence; power 2 is chi-squared, power 1 the limit KL.

  Computes phi*(s) = ( max((k - 1) s + 1, 0)^(k / (k - 1)) - 1 ) / k, for
  phi(t) = (t^k - k t + k - 1) / (k (k - 1)), with k = power.

  Args:
    s: float[...].
    power: > 1, the k, a scalar; may be traced.

  Returns:
    float[...].

  Raises:
    ValueError: power <= 1.
    TypeError: s is not floating-point.

  Example:
    >>> cressie_read_conjugate(jnp.array([-2.0, 0.0, 1.0]), power=2.0)
    Array([-0.5,  0. ,  1.5], dtype=float32)

  Reference:
    Duchi and Namkoong, Learning models with uniform performance via distributionally robust
    optimization, 2021, section 2 (recalled, not verified).
  """
  array = _checks.check_float_array("s", s)
  _checks.check_greater("power", power, 1.0)
  k = jnp.asarray(power, array.dtype)
  grown = (k - 1) * array
  is_positive = ~(grown <= -1)  # NaN stays NaN
  exponent = k * array * _log1p_over(jnp.where(is_positive, grown, 0))
  return jnp.where(is_positive, jnp.expm1(exponent), -1) / k


def _log1p_over(x: Array) -> Array:
  """log(1 + x) / x, which is 1 at 0."""
  is_small = jnp.abs(x) < jnp.asarray(jnp.finfo(x.dtype).eps, x.dtype) ** 0.5
  wide = jnp.where(is_small, 1, x)
  return jnp.where(is_small, 1 - x / 2, jnp.log1p(wide) / wide)


def _prepare(
  losses: ArrayLike, temperature: ArrayLike, conjugate: Callable, where: ArrayLike | None
) -> tuple[base.Prepared, Array]:
  prepared = base.prepare(losses, where)
  _checks.check_interval("temperature", temperature, 0.0, float("inf"), closed="neither")
  _arguments.check_callable("conjugate", conjugate)
  values = jax.eval_shape(conjugate, prepared.values)
  if jnp.shape(values) != prepared.values.shape:
    raise ValueError(
      f"conjugate must return one number an entry, shape {prepared.values.shape}; "
      f"got {jnp.shape(values)}."
    )
  lam = base.per_set("temperature", temperature, prepared)
  return base.with_numbers(prepared, lam), lam


def _slope(conjugate: Callable[[Array], Array], s: Array) -> Array:
  return jax.jvp(conjugate, (s,), (jnp.ones_like(s),))[1]


def _top(prepared: base.Prepared) -> Array:
  """The largest loss, from which eta is measured; a constant."""
  return jax.lax.stop_gradient(base.largest(prepared))


def _scaled(prepared: base.Prepared, lam: Array, depth: Array) -> Array:
  """(l_i - eta) / lam with eta = max l - depth."""
  below = prepared.values - _top(prepared)[..., None]
  scaled = (below + depth[..., None]) / lam[..., None]
  return scaled if prepared.where is None else jnp.where(prepared.where, scaled, 0)


def _nearest(prepared: base.Prepared, depth: Array) -> Array:
  """Which losses are nearest to eta."""
  distance = jnp.abs(prepared.values - _top(prepared)[..., None] + depth[..., None])
  if prepared.where is not None:
    distance = jnp.where(prepared.where, distance, jnp.inf)
  return jax.lax.stop_gradient(distance == jnp.min(distance, axis=-1, keepdims=True))


def _depth(prepared: base.Prepared, lam: Array, conjugate: Callable[[Array], Array]) -> Array:
  """max l - eta at the minimising eta; an unknown that keeps its digits for low temperatures."""

  def excess(depth: Array) -> Array:
    return base.mean(_slope(conjugate, _scaled(prepared, lam, depth)), prepared) - 1

  start = jax.lax.stop_gradient(base.largest(prepared) - base.smallest(prepared))
  steps = 2 * jnp.finfo(prepared.values.dtype).nmant

  def solve(fun: Callable[[Array], Array], start: Array) -> Array:
    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
      low, high = ends  # the mean slope grows with the depth: at most 1 at 0, at least 1 at start
      middle = (low + high) / 2
      is_low = fun(middle) < 0
      return jnp.where(is_low, middle, low), jnp.where(is_low, high, middle)

    low, high = jax.lax.fori_loop(0, steps, halve, (jnp.zeros_like(start), start))
    return (low + high) / 2

  def tangent_solve(linear: Callable[[Array], Array], right: Array) -> Array:
    slope = linear(jnp.ones_like(right))  # every set has its own equation
    is_steep = slope > 0
    return jnp.where(is_steep, right / jnp.where(is_steep, slope, 1), 0)

  depth = jax.lax.custom_root(excess, start, solve, tangent_solve)
  # Where phi* is linear around every loss eta sits on a kink, that is on a loss, and moves with it.
  curvature = jax.jvp(excess, (jax.lax.stop_gradient(depth),), (jnp.ones_like(depth),))[1]
  near = _nearest(prepared, depth)
  loss = jnp.max(prepared.values, axis=-1, where=near, initial=-jnp.inf)
  follows = jax.lax.stop_gradient(depth + loss) - loss
  return jnp.where(curvature > 0, depth, follows)
