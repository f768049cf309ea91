"""Worst-case expectations over distributions near the uniform one in KL divergence."""

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.losses import _expectation as base
from jaxopt_robust.losses import _worst_case
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "kl_ball_dro",
  "kl_ball_dro_temperature",
  "kl_ball_dro_weights",
  "kl_dro",
  "kl_dro_weights",
]


def kl_dro(losses: ArrayLike, temperature: ArrayLike, *, where: ArrayLike | None = None) -> Array:
  r"""Worst-case mean of losses with a KL penalty on the weights (KL-DRO, tilted risk).

  Computes max_{p in simplex} sum_i p_i l_i - lam sum_i p_i log(n p_i), which is
  lam log( (1/n) sum_i exp(l_i / lam) ), with lam = temperature. As lam -> 0 it is the largest loss,
  as lam -> infinity the mean, and mean + variance / (2 lam) in between where lam is large.

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
    The derivative in the losses is ``kl_dro_weights``, in the temperature -KL(p, 1/n), at any
    temperature; derivatives of higher order are exact too.

  Example:
    >>> losses = jnp.array([0.0, 1.0, 2.0])
    >>> jax.vmap(lambda lam: kl_dro(losses, lam))(jnp.array([1e-3, 1.0, jnp.inf])).round(2)
    Array([2.  , 1.31, 1.  ], dtype=float32)

  Reference:
    Hu and Hong, Kullback-Leibler divergence constrained distributionally robust optimization, 2013
    (recalled, not verified); Li, Beirami, Sanjabi and Smith, Tilted empirical risk minimization,
    2021.
  """
  prepared, lam = _prepare(losses, temperature, where)
  value = _worst_case.worst_case_mean(prepared.values, lam, 1, prepared.where)
  return base.finish(value, prepared)


def kl_dro_weights(
  losses: ArrayLike, temperature: ArrayLike, *, where: ArrayLike | None = None
) -> Array:
  r"""Worst-case weights of ``kl_dro``, a softmax.

  Computes p_i = exp(l_i / lam) / sum_j exp(l_j / lam) with lam = temperature.

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
    >>> kl_dro_weights(jnp.array([0.0, 1.0]), jnp.inf)
    Array([0.5, 0.5], dtype=float32)

  Reference:
    Hu and Hong, Kullback-Leibler divergence constrained distributionally robust optimization, 2013
    (recalled, not verified).
  """
  prepared, lam = _prepare(losses, temperature, where)
  log_ratio = _worst_case.log_weights(prepared.values, lam, 1, prepared.where)
  return base.finish_weights(_worst_case.probabilities(log_ratio, prepared.where), prepared)


def kl_ball_dro(
  losses: ArrayLike,
  radius: ArrayLike,
  *,
  min_temperature: ArrayLike = 0.0,
  where: ArrayLike | None = None,
) -> Array:
  r"""Worst-case mean of losses over a KL ball around the uniform weights.

  Computes max_p sum_i p_i l_i - lam0 KL(p, 1/n) subject to KL(p, 1/n) <= rho, which is
  min_{lam >= lam0} lam log( (1/n) sum_i exp(l_i / lam) ) + (lam - lam0) rho, with rho = radius and
  lam0 = min_temperature. With lam0 = 0, rho = 0 gives the mean and rho >= log n the largest loss.

  Args:
    losses: float[..., n], each row a set of losses.
    radius: >= 0, a scalar or float[...] one per set; may be traced.
    min_temperature: >= 0, finite, a scalar or float[...] one per set; may be traced.
    where: bool[..., n]; the mean runs over the entries where it is true.

  Returns:
    float[...] in the dtype of ``losses``; 0 for a set without entries, NaN if a loss is NaN.

  Raises:
    ValueError: losses have rank 0 or are empty, shapes do not agree, radius < 0 or
      min_temperature < 0.
    TypeError: losses are not floating-point or where is not boolean.

  Note:
    The temperature is found to rounding by bisection on its logarithm. The derivative in the losses
    is ``kl_ball_dro_weights``; that in the radius, lam - lam0, grows without bound as the radius
    goes to 0. The temperature is differentiated implicitly, so derivatives of higher order are
    exact away from the radius at which the constraint starts to bind.

  Example:
    >>> losses = jnp.array([0.0, 1.0, 2.0])
    >>> radii = jnp.array([0.0, 0.1, 2.0])
    >>> jax.vmap(lambda rho: kl_ball_dro(losses, rho))(radii).round(2)
    Array([1.  , 1.36, 2.  ], dtype=float32)

  Reference:
    Hu and Hong, Kullback-Leibler divergence constrained distributionally robust optimization, 2013
    (recalled, not verified); the penalty on top of the ball as in Qi, Lyu, Chan, Bai and Yang,
    Stochastic constrained DRO with a complexity independent of sample size, 2023 (recalled).
  """
  prepared, rho, floor = _prepare_ball(losses, radius, min_temperature, where)
  lam = _ball_temperature(prepared.values, rho, floor, prepared.where)
  value = _worst_case.worst_case_mean(prepared.values, lam, 1, prepared.where)
  return base.finish(value + (lam - floor) * rho, prepared)


def kl_ball_dro_weights(
  losses: ArrayLike,
  radius: ArrayLike,
  *,
  min_temperature: ArrayLike = 0.0,
  where: ArrayLike | None = None,
) -> Array:
  r"""Worst-case weights of ``kl_ball_dro``.

  Computes p = softmax(l / lam) with the temperature lam of ``kl_ball_dro_temperature``. If the
  temperature is 0 the largest losses share the weight.

  Args:
    losses: float[..., n], each row a set of losses.
    radius: >= 0, a scalar or float[...] one per set; may be traced.
    min_temperature: >= 0, finite, a scalar or float[...] one per set; may be traced.
    where: bool[..., n]; entries where it is false have weight 0.

  Returns:
    float[..., n] in the dtype of ``losses``; each set sums to one, or is 0 if it has no entries.

  Raises:
    ValueError: losses have rank 0 or are empty, shapes do not agree, radius < 0 or
      min_temperature < 0.
    TypeError: losses are not floating-point or where is not boolean.

  Example:
    >>> weights = kl_ball_dro_weights(jnp.array([0.0, 1.0, 2.0]), 0.1)
    >>> np.round(np.float64(weights), 2).tolist()
    [0.17, 0.3, 0.53]

  Reference:
    Hu and Hong, Kullback-Leibler divergence constrained distributionally robust optimization, 2013
    (recalled, not verified).
  """
  prepared, rho, floor = _prepare_ball(losses, radius, min_temperature, where)
  lam = _ball_temperature(prepared.values, rho, floor, prepared.where)
  log_ratio = _worst_case.log_weights(prepared.values, lam, 1, prepared.where)
  return base.finish_weights(_worst_case.probabilities(log_ratio, prepared.where), prepared)


def kl_ball_dro_temperature(
  losses: ArrayLike,
  radius: ArrayLike,
  *,
  min_temperature: ArrayLike = 0.0,
  where: ArrayLike | None = None,
) -> Array:
  r"""Temperature at which the softmax of the losses lies on the KL ball, in ``kl_ball_dro``.

  Computes the lam >= lam0 with KL(softmax(l / lam), 1/n) = rho; lam0 where even at lam0 the
  divergence is at most rho; with rho = radius and lam0 = min_temperature.

  Args:
    losses: float[..., n], each row a set of losses.
    radius: >= 0, a scalar or float[...] one per set; may be traced.
    min_temperature: >= 0, finite, a scalar or float[...] one per set; may be traced.
    where: bool[..., n]; entries where it is false do not count.

  Returns:
    float[...] in the dtype of ``losses``; 0 for a set without entries, NaN if a loss is NaN.

  Raises:
    ValueError: losses have rank 0 or are empty, shapes do not agree, radius < 0 or
      min_temperature < 0.
    TypeError: losses are not floating-point or where is not boolean.

  Note:
    Bounded by (max l - min l) / eps^2 with the eps of the dtype, where the weights are uniform to
    rounding; so it is finite at radius 0 too. Derivatives are exact to all orders (implicit
    function theorem); 1 in lam0 and 0 in the rest where the constraint does not bind.

  Example:
    >>> round(float(kl_ball_dro_temperature(jnp.array([0.0, 1.0, 2.0]), 0.1)), 2)
    1.76

  Reference:
    Hu and Hong, Kullback-Leibler divergence constrained distributionally robust optimization, 2013
    (recalled, not verified).
  """
  prepared, rho, floor = _prepare_ball(losses, radius, min_temperature, where)
  lam = _ball_temperature(prepared.values, rho, floor, prepared.where)
  return base.finish(lam, prepared)


def _prepare(
  losses: ArrayLike, temperature: ArrayLike, where: ArrayLike | None
) -> tuple[base.Prepared, Array]:
  prepared = base.prepare(losses, where)
  _checks.check_positive("temperature", temperature)
  lam = base.per_set("temperature", temperature, prepared)
  return base.with_numbers(prepared, lam), lam


def _prepare_ball(
  losses: ArrayLike, radius: ArrayLike, min_temperature: ArrayLike, where: ArrayLike | None
) -> tuple[base.Prepared, Array, Array]:
  prepared = base.prepare(losses, where)
  _checks.check_non_negative("radius", radius)
  _checks.check_interval("min_temperature", min_temperature, 0.0, float("inf"), closed="left")
  rho = base.per_set("radius", radius, prepared)
  floor = base.per_set("min_temperature", min_temperature, prepared)
  return base.with_numbers(prepared, rho, floor), rho, floor


def _kl(values: Array, lam: Array, where: Array | None) -> Array:
  return _worst_case.divergence(_worst_case.log_weights(values, lam, 1, where), where)


def _bisect(values: Array, radius: Array, floor: Array, where: Array | None) -> Array:
  """The temperature, by bisection on its logarithm: KL(p_lam) falls as lam grows."""
  info = jnp.finfo(values.dtype)
  prepared = base.Prepared(values, where, where, values.dtype)
  spread = base.largest(prepared) - base.smallest(prepared)
  eps_square = jnp.asarray(info.eps, values.dtype) ** 2
  # KL(p_lam) is the integral of s Var_{p_1/s}(l) over s in [0, 1/lam]; a variance is at most
  # spread^2 / 4, so that KL <= spread^2 / (8 lam^2), which bounds the root from above.
  high = spread / jnp.sqrt(8 * jnp.maximum(radius, eps_square**2))
  low = jnp.maximum(eps_square * spread, jnp.finfo(values.dtype).tiny)
  low, high = jnp.maximum(low, floor), jnp.maximum(jnp.maximum(low, floor), high)
  log_low, log_high = jnp.log(low), jnp.log(high)

  def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
    left, right = ends
    middle = (left + right) / 2
    too_sharp = _kl(values, jnp.exp(middle), where) > radius
    return jnp.where(too_sharp, middle, left), jnp.where(too_sharp, right, middle)

  # The interval is at most a few hundred wide. Where no step moves the left end there is no root:
  # even at the lowest temperature the divergence is within the radius.
  ends = jax.lax.fori_loop(0, info.nmant + 12, halve, (log_low, log_high))
  return jnp.where(ends[0] > log_low, jnp.exp((ends[0] + ends[1]) / 2), floor)


@jax.custom_jvp
def _ball_temperature(values: Array, radius: Array, floor: Array, where: Array | None) -> Array:
  return _bisect(values, radius, floor, where)


@_ball_temperature.defjvp
def _ball_temperature_jvp(
  primals: tuple[Array, Array, Array, Array | None],
  tangents: tuple[Array, Array, Array, Array | None],
) -> tuple[Array, Array]:
  values, radius, floor, where = primals
  values_dot, radius_dot, floor_dot, _ = tangents
  lam = _ball_temperature(values, radius, floor, where)
  p = _worst_case.probabilities(_worst_case.log_weights(values, lam, 1, where), where)
  scale = jnp.where(lam > floor, lam, 1)[..., None]
  centre = jnp.sum(p * values, axis=-1, keepdims=True)
  x, x_dot = (values - centre) / scale, values_dot / scale
  # With x = l / lam, KL changes by Cov_p(x, dl / lam) - Var_p(x) dlam / lam.
  covariance, variance = jnp.sum(p * x * x_dot, axis=-1), jnp.sum(p * x * x, axis=-1)
  is_steep = (variance > 0) & (lam > floor)
  relative = (covariance - radius_dot) / jnp.where(is_steep, variance, 1)
  return lam, jnp.where(is_steep, lam * relative, jnp.where(lam > floor, 0, floor_dot))
