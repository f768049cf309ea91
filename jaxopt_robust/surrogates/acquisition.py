"""What a further evaluation is expected to gain: expected improvement, of one and of several."""

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks, numerics
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["expected_improvement", "q_expected_improvement"]


@jax.custom_jvp
def _improvement(gain: Array, width: Array) -> Array:
  """E[max(f, 0)] for f ~ N(gain, width^2)."""
  certain = width == 0
  safe = jnp.where(certain, 1, width)
  z = gain / safe
  density = jnp.exp(jax.scipy.stats.norm.logpdf(z))
  value = gain * jax.scipy.special.ndtr(z) + safe * density
  value = jnp.where(certain, jnp.maximum(gain, 0), jnp.maximum(value, 0))
  return jnp.where(jnp.isneginf(gain) & jnp.isfinite(width), 0, value)


@_improvement.defjvp
def _slopes_of_improvement(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
  """Phi(z) and phi(z), which know no units; the slope of z has the square of a width in it."""
  gain, width = primals
  certain = width == 0
  z = gain / jnp.where(certain, 1, width)
  chance = jnp.where(certain, (1 + jnp.sign(gain)) / 2, jax.scipy.special.ndtr(z))
  density = jnp.where(certain, 0, jnp.exp(jax.scipy.stats.norm.logpdf(z)))
  return _improvement(gain, width), chance * tangents[0] + density * tangents[1]


def expected_improvement(mean: ArrayLike, std: ArrayLike, *, best: ArrayLike) -> Array:
  r"""Expected improvement on the best value known, under a normal prediction (larger is better).

  Computes E[max(f - best, 0)] for f ~ N(mean, std^2), which is

    d Phi(d / std) + std phi(d / std),    d = mean - best.

  Args:
    mean: float[...], posterior means.
    std: float[...] of the same shape, >= 0, posterior standard deviations.
    best: largest value known, a scalar or of the same shape; may be traced.

  Returns:
    float[...] >= 0 of the dtype of ``mean``; max(mean - best, 0) where std = 0.

  Raises:
    ValueError: shapes differ or std < 0.
    TypeError: an array is not floating-point.

  Note:
    Far below the best value both terms cancel: in float32 the relative error is 1e-4 at
    d = -10 std, and from d = -13 std on no digit is right and soon nothing left, of the gradient
    neither.

  Example:
    >>> expected_improvement(jnp.array([1.0, 0.0]), jnp.array([0.7, 0.0]), best=0.0).round(4)
    Array([1.0241, 0.    ], dtype=float32)

  Reference:
    Jones, Schonlau and Welch, Efficient global optimization of expensive black-box functions, 1998.
    Frazier, A tutorial on Bayesian optimization, 2018, prints a form that holds for d <= 0 alone.
  """
  center = _checks.check_float_array("mean", mean, non_empty=False)
  spread = _checks.check_float_array("std", std, non_empty=False)
  _checks.check_same_shape("std", spread, "mean", center)
  _checks.check_non_negative("std", std)
  known = _checks.check_float_array("best", best)
  if known.shape not in ((), center.shape):
    raise ValueError(f"best must be a scalar or of shape {center.shape}; got {known.shape}.")
  wide, width = numerics.upcast(center), numerics.upcast(spread)
  gain = wide - jnp.broadcast_to(known, wide.shape).astype(wide.dtype)
  return _improvement(gain, width.astype(wide.dtype)).astype(center.dtype)


def q_expected_improvement(samples: ArrayLike, *, best: ArrayLike) -> Array:
  r"""Expected improvement of several evaluations together, by posterior samples.

  Computes (1/S) sum_s max(0, max_i f_si - best) for S joint draws f_s of the values of q designs.

  Args:
    samples: float[..., S, q], joint draws of any posterior: of a Gaussian process mean + L z with
      fixed z, so that it is a smooth function of the designs; of an ensemble its members.
    best: largest value known, a scalar or float[...]; may be traced.

  Returns:
    float[...] >= 0 of the dtype of ``samples``.

  Raises:
    ValueError: samples of rank below 2 or empty, or best of another shape.
    TypeError: an array is not floating-point.

  Note:
    The gradient flows to the best of each draw; equal ones share it.

  Example:
    >>> q_expected_improvement(jnp.array([[1.0, 0.0], [-1.0, 3.0]]), best=0.0)
    Array(2., dtype=float32)

  Reference:
    Ginsbourger, Le Riche and Carraro, Kriging is well-suited to parallelize optimization, 2010;
    by fixed draws: Wilson, Hutter and Deisenroth, Maximizing acquisition functions for Bayesian
    optimization, 2018.
  """
  draws = _checks.check_float_array("samples", samples, min_rank=2)
  known = _checks.check_float_array("best", best)
  if known.shape not in ((), draws.shape[:-2]):
    raise ValueError(f"best must be a scalar or of shape {draws.shape[:-2]}; got {known.shape}.")
  wide = numerics.upcast(draws)
  top = jnp.max(wide, axis=-1)
  level = jnp.broadcast_to(known, draws.shape[:-2]).astype(wide.dtype)
  return jnp.mean(jax.nn.relu(top - level[..., None]), axis=-1).astype(draws.dtype)
