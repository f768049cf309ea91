"""Designs conditioned on a high value, by importance weights of a search model (CbAS)."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.surrogates._searches import Bounds, confine_to, one_a_design
from jaxopt_robust.surrogates.gaussian_designs import (
  GaussianDesigns,
  check_designs,
  design_log_prob,
  fit_gaussian_designs,
  sample_designs,
)
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["CbasInfo", "cbas_log_weights", "cbas_search"]


@jax.custom_jvp
def _log_tail(x: Array) -> Array:
  """log Phi(x), whose slope phi / Phi has digits far below 0 too."""
  return jax.scipy.special.log_ndtr(x)


@_log_tail.defjvp
def _slope_of_log_tail(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
  (x,), (change,) = primals, tangents
  limit = 10.0 if x.dtype == jnp.float32 else 20.0
  far = x < -limit  # there phi and Phi differ by less than the logarithm of either is known
  near = jnp.where(far, 0, x)
  ratio = jnp.exp(-(near**2) / 2 - jax.scipy.special.log_ndtr(near)) / math.sqrt(2 * math.pi)
  u = 1 / jnp.where(far, x, -limit) ** 2
  series = 1 - u * (1 - 3 * u * (1 - 5 * u * (1 - 7 * u * (1 - 9 * u * (1 - 11 * u)))))
  slope = jnp.where(far, -x / series, ratio)
  return _log_tail(x), jnp.where(jnp.isneginf(x), 0, slope) * change


class CbasInfo(NamedTuple):
  """What a search saw, a number a step.

  Attributes:
    thresholds: float[num_steps], the value that designs were conditioned to exceed.
    predictions: float[num_steps], mean prediction of the designs drawn.
    effective: float[num_steps], (sum w)^2 / sum w^2 of the weights: how many designs the next
      distribution was fitted to; 0 where none counted and the distribution stayed.
  """

  thresholds: Array
  predictions: Array
  effective: Array


def cbas_log_weights(
  log_prior: ArrayLike,
  log_search: ArrayLike,
  predictions: ArrayLike,
  *,
  threshold: ArrayLike,
  noise: ArrayLike,
) -> Array:
  r"""Log importance weights of designs of a search model, conditioned on a value above a threshold.

  Computes log p(x_i) - log q(x_i) + log P(y >= threshold | x_i), with y ~ N(prediction_i, noise^2):
  under these weights samples of q are samples of p(x | y >= threshold).

  Args:
    log_prior: float[n], log p(x_i) of the model of the data.
    log_search: float[n], log q(x_i) of the search model that x was drawn of.
    predictions: float[n], the means of y.
    threshold: a scalar; may be traced. -inf asks for nothing.
    noise: >= 0, standard deviation of y, a scalar or float[n]; may be traced. 0 counts the designs
      whose prediction is at least the threshold.

  Returns:
    float[n], at least float32; -inf for a design that does not count: one whose prediction or whose
    density is not finite too.

  Raises:
    ValueError: shapes differ or noise < 0.
    TypeError: an array is not floating-point.

  Example:
    >>> zero = jnp.zeros(3)
    >>> values = jnp.array([0.0, 1.0, 3.0])
    >>> weights = jnp.exp(cbas_log_weights(zero, zero, values, threshold=1.0, noise=1.0))
    >>> np.round(np.float64(weights), 3).tolist()
    [0.159, 0.5, 0.977]

  Reference:
    Brookes, Park and Listgarten, Conditioning by adaptive sampling for robust design, 2019,
    algorithm 1.
  """
  prior = numerics.upcast(_checks.check_float_array("log_prior", log_prior, rank=1))
  search = numerics.upcast(_checks.check_float_array("log_search", log_search, rank=1))
  values = numerics.upcast(_checks.check_float_array("predictions", predictions, rank=1))
  _checks.check_same_shape("log_search", search, "log_prior", prior)
  _checks.check_same_shape("predictions", values, "log_prior", prior)
  level = numerics.upcast(_checks.check_float_array("threshold", threshold, rank=0))
  _checks.check_non_negative("noise", noise)
  spread = numerics.upcast(_checks.check_float_array("noise", noise))
  if spread.shape not in ((), values.shape):
    raise ValueError(f"noise must be a scalar or of shape {values.shape}; got {spread.shape}.")
  spread = jnp.broadcast_to(spread, values.shape).astype(values.dtype)
  sharp = spread == 0
  excess = (values - level) / jnp.where(sharp, 1, spread)
  step = jnp.where(jnp.isnan(level), jnp.nan, jnp.where(values >= level, 0, -jnp.inf))
  tail = jnp.where(sharp, step, _log_tail(jnp.where(sharp, 0, excess)))
  weights = prior - search + tail.astype(prior.dtype)
  counts = jnp.isfinite(prior) & jnp.isfinite(search) & jnp.isfinite(values)
  return jnp.where(counts, weights, -jnp.inf)


def cbas_search(
  objective: Callable[[Array], Array],
  prior: GaussianDesigns,
  key: Array,
  *,
  noise: ArrayLike,
  quantile: ArrayLike = 0.8,
  num_samples: int = 1000,
  num_steps: int = 20,
  floor: ArrayLike = 0.01,
  bounds: Bounds = None,
) -> tuple[GaussianDesigns, CbasInfo]:
  r"""Conditioning by adaptive sampling: the designs of the data's model whose value is high.

  From q = prior, repeats: draw designs of q; raise the threshold to the ``quantile`` of their
  predictions, where that is higher; fit q by ``fit_gaussian_designs`` with ``cbas_log_weights``.
  The ratio prior / q keeps the search near the data, where the model can be trusted.

  Args:
    objective: maps float[num_samples, ...] to float[num_samples], the model's prediction.
    prior: GaussianDesigns, the model p of the data, by ``fit_gaussian_designs`` of all of them.
    key: typed PRNG key.
    noise: >= 0, standard deviation of the value given the prediction, a scalar, such as the model's
      error on held-out designs; may be traced.
    quantile: in (0, 1), a scalar; may be traced.
    num_samples: static integer >= 2.
    num_steps: static integer >= 1.
    floor: > 0, least standard deviation of q as a part of the prior's; may be traced.
    bounds: (low, high) of every entry, or None: the objective sees clipped designs.

  Returns:
    ``(designs, info)``: q after the last step, a GaussianDesigns, and a CbasInfo. The model needs
    no derivative; where it has one those of the result hold the noise of the draws fixed.

  Raises:
    ValueError: a number is out of range, or an objective that does not return one number a design.
    TypeError: as the arguments say.

  Note:
    Watch ``info.effective``: where a handful of designs carry all weight, q is as good as chance.
    Then take more samples, a lower quantile or more noise.

  Example:
    >>> prior = GaussianDesigns(jnp.zeros(1), jnp.zeros(1))
    >>> found, info = cbas_search(lambda x: x[:, 0], prior, jax.random.key(0), noise=0.1,
    ...   num_samples=100, num_steps=4)
    >>> bool(found.mean[0] > 1.0), bool(info.thresholds[0] < info.thresholds[-1])
    (True, True)

  Reference:
    Brookes, Park and Listgarten, Conditioning by adaptive sampling for robust design, 2019,
    algorithm 1; the threshold never falls, as in the authors' code. There p and q are
    variational autoencoders, and the defaults are 20 steps, 500 samples and the quantile 0.95.
    Those here are of Trabucco, Geng, Kumar and Levine, Design-Bench: benchmarks for data-driven
    offline model-based optimization, 2022 (the baseline CbAS).
  """
  _arguments.check_callable("objective", objective)
  first = check_designs("prior", prior)
  key = _checks.check_key("key", key)
  _checks.check_non_negative("noise", noise, scalar=True)
  _checks.check_interval("quantile", quantile, 0, 1, closed="neither", scalar=True)
  _checks.check_positive("floor", floor, scalar=True)
  num_samples = _checks.check_int("num_samples", num_samples, minimum=2)
  num_steps = _checks.check_int("num_steps", num_steps, minimum=1)
  confine, predict = confine_to(bounds, first.mean), one_a_design(objective, num_samples)
  wide = numerics.upcast(first.log_std)
  min_std = jnp.asarray(floor, wide.dtype) * jnp.exp(wide)

  def step(carry: tuple, key: Array) -> tuple[tuple, CbasInfo]:
    now, threshold = carry
    x = sample_designs(key, now, num=num_samples)
    values = predict(confine(x)).astype(wide.dtype)
    finite = jnp.isfinite(values)
    level = jnp.nanquantile(jnp.where(finite, values, jnp.nan), jnp.asarray(quantile, values.dtype))
    threshold = jnp.fmax(threshold, level)  # NaN where no value was finite
    logs = cbas_log_weights(
      design_log_prob(first, x), design_log_prob(now, x), values, threshold=threshold, noise=noise
    )
    some = jnp.any(logs > -jnp.inf)
    next_one = fit_gaussian_designs(x, min_std=min_std, log_weights=logs)
    next_one = numerics.tree_where(some, next_one, now)
    weights = jnp.exp(logs - jnp.where(some, jnp.max(logs), 0))
    effective = numerics.safe_divide(jnp.sum(weights) ** 2, jnp.sum(weights**2))
    return (next_one, threshold), CbasInfo(
      threshold, numerics.masked_mean(values, finite), effective
    )

  start = jnp.full((), -jnp.inf, wide.dtype)
  (found, _), info = jax.lax.scan(step, (first, start), jax.random.split(key, num_steps))
  return found, info
