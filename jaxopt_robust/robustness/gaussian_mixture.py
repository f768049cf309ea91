"""A mixture of two Gaussians on a line: which values belong to the upper of two groups."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust._units import exponent_of, power
from jaxopt_robust.solvers.types import CONVERGED, NON_FINITE, STEP_LIMIT
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["GaussianMixture2", "gmm2_fit", "gmm2_posterior"]

_KMEANS_STEPS = 50
_FARTHEST = 1e6  # spans away from the data; its square fits in float32 after division by variances


class GaussianMixture2(NamedTuple):
  """Two Gaussians, the one with the lower mean first.

  Means and variances are those of (v - low) / (high - low).

  Attributes:
    weights: float[2], they sum to 1; (1, 0) where the values in use are all the same or none.
    means: float[2], ascending.
    variances: float[2], each at least the regularisation.
    low: float scalar, the least value in use.
    high: float scalar, the largest.
    steps: int32, steps of expectation maximisation.
    status: int32, 0 if the mean log-likelihood has settled (or there was nothing to split), 1 after
      all steps, 2 if a value in use is NaN: then the numbers are NaN too.
  """

  weights: Array
  means: Array
  variances: Array
  low: Array
  high: Array
  steps: Array
  status: Array


def gmm2_fit(
  values: ArrayLike,
  *,
  where: ArrayLike | None = None,
  max_steps: int = 10,
  tol: ArrayLike = 1e-2,
  regularization: ArrayLike = 5e-4,
) -> GaussianMixture2:
  r"""Fits a mixture of two Gaussians to numbers by expectation maximisation.

  The values are brought to [0, 1] by their least and largest one. Two-means from these ends gives
  the first responsibilities r_ik; then, with N_k = sum_i r_ik, in turn

    pi_k = N_k / n,  m_k = sum_i r_ik v_i / N_k,  s_k = sum_i r_ik (v_i - m_k)^2 / N_k + reg
    r_ik = pi_k N(v_i; m_k, s_k) / sum_j pi_j N(v_i; m_j, s_j)

  until the mean of log sum_k pi_k N(v_i; m_k, s_k) changes by less than tol.

  Args:
    values: float[n].
    where: bool[n]; values where it is false are not used, whatever they are.
    max_steps: static integer >= 1.
    tol: >= 0, a scalar; may be traced.
    regularization: reg > 0, a scalar; may be traced. Relative to the squared span of the values.

  Returns:
    GaussianMixture2 in float32 or wider.

  Raises:
    ValueError: shapes do not agree or a number is out of range.
    TypeError: values are not floating-point, where is not boolean or max_steps no integer.

  Note:
    An infinite value counts as the largest (or least) finite one. Two components are always found
    where there are two different values, whether or not there are two groups. An increasing affine
    map of the values changes low and high alone. Derivatives are 0: the fit is held fixed.

  Example:
    >>> mixture = gmm2_fit(jnp.array([0.1, 0.0, 0.2, 5.0, 5.2]))
    >>> [f"{weight:.2f}" for weight in mixture.weights]
    ['0.60', '0.40']
    >>> gmm2_posterior(mixture, jnp.array([0.3, 4.9])).round(2)
    Array([0., 1.], dtype=float32)

  Reference:
    Dempster, Laird and Rubin, Maximum likelihood from incomplete data via the EM algorithm, 1977.
    Constants, scaling and stopping as in Albert, Valmadre, Arazo, Krishna, O'Connor and McGuinness,
    An accurate detection is not all you need to combat label noise in web-noisy datasets, 2024
    (their code: scikit-learn's ``GaussianMixture``, whose start by k-means is random).
  """
  array = _checks.check_float_array("values", values, rank=1)
  mask = _checks.check_mask("where", where, shape=array.shape)
  max_steps = _checks.check_int("max_steps", max_steps, minimum=1)
  _checks.check_non_negative("tol", tol, scalar=True)
  _checks.check_positive("regularization", regularization, scalar=True)
  v = jax.lax.stop_gradient(numerics.upcast(array))
  used = jnp.ones(v.shape, jnp.bool_) if mask is None else mask
  tol, reg = (jnp.asarray(x, v.dtype) for x in (tol, regularization))
  is_bad = jnp.any(used & jnp.isnan(v))
  finite = used & jnp.isfinite(v)
  any_finite = jnp.any(finite)
  low = jnp.where(any_finite, jnp.min(v, where=finite, initial=jnp.inf), 0)
  high = jnp.where(any_finite, jnp.max(v, where=finite, initial=-jnp.inf), 0)
  x = jnp.where(used & ~is_bad, _to_unit(v, low, high), 0)
  weights, means, variances, steps, settled = _maximise(x, used, tol, reg, max_steps)
  # Equal values: no upper group, rather than one half of each.
  flat = low == high
  weights = jnp.where(flat, jnp.array([1, 0], v.dtype), weights)
  means = jnp.where(flat, 0, means)
  variances = jnp.where(flat, reg, variances)
  order = jnp.argsort(means)
  spoil = lambda numbers: jnp.where(is_bad, jnp.nan, numbers)
  status = jnp.where(settled | flat, CONVERGED, STEP_LIMIT)
  return GaussianMixture2(
    spoil(weights[order]),
    spoil(means[order]),
    spoil(variances[order]),
    spoil(low),
    spoil(high),
    jnp.where(flat | is_bad, 0, steps).astype(jnp.int32),
    jnp.where(is_bad, NON_FINITE, status).astype(jnp.int32),
  )


def gmm2_posterior(mixture: GaussianMixture2, values: ArrayLike) -> Array:
  r"""Probability that a value belongs to the Gaussian with the higher mean.

  Computes pi_1 N(v; m_1, s_1) / sum_k pi_k N(v; m_k, s_k) with v the value in the units of the fit.

  Args:
    mixture: GaussianMixture2.
    values: float[...].

  Returns:
    float[...] in [0, 1]; 0 where the mixture has one component. NaN gives NaN.

  Raises:
    TypeError: mixture is no GaussianMixture2 or values are not floating-point.

  Note:
    It need not grow with the value: far below a narrow lower group the wider upper one takes over.

  Example:
    >>> mixture = gmm2_fit(jnp.array([0.0, 0.0, 1.0, 1.0]))
    >>> gmm2_posterior(mixture, jnp.array([0.0, 0.5, 1.0])).round(2)
    Array([0. , 0.5, 1. ], dtype=float32)

  Reference:
    Albert, Valmadre, Arazo, Krishna, O'Connor and McGuinness, An accurate detection is not all you
    need to combat label noise in web-noisy datasets, 2024 (detection by small losses).
  """
  mixture = _arguments.check_state("mixture", mixture, GaussianMixture2)
  array = _checks.check_float_array("values", values, non_empty=False)
  wide = array.astype(jnp.promote_types(array.dtype, mixture.means.dtype))
  x = _to_unit(wide, mixture.low.astype(wide.dtype), mixture.high.astype(wide.dtype))
  parts = _log_parts(x, mixture.weights, mixture.means, mixture.variances)
  return jax.nn.sigmoid(parts[1] - parts[0]).astype(array.dtype)


def _to_unit(v: Array, low: Array, high: Array) -> Array:
  """(v - low) / (high - low), cut far away from [0, 1]; 0 where low = high."""
  size = power(exponent_of(jnp.maximum(jnp.abs(low), jnp.abs(high))), v.dtype)
  v, low, high = v / size, low / size, high / size
  x = numerics.safe_divide(jnp.clip(v, low, high) - low, high - low)
  beyond = numerics.safe_divide(v - jnp.clip(v, low, high), high - low)
  beyond = jnp.where(jnp.isinf(v), 0, beyond)
  return x + jnp.clip(beyond, -_FARTHEST, _FARTHEST)


def _log_parts(x: Array, weights: Array, means: Array, variances: Array) -> tuple[Array, Array]:
  """log pi_k N(x; m_k, s_k) + 1/2 log(2 pi) of both components."""
  one = lambda k: (
    jnp.log(weights[k]) - 0.5 * jnp.log(variances[k]) - 0.5 * (x - means[k]) ** 2 / variances[k]
  )
  return one(0), one(1)


def _moments(x: Array, used: Array, upper: Array, reg: Array) -> tuple[Array, Array, Array]:
  """Weights, means and variances for the probabilities of the upper component."""
  share = jnp.where(used[None], jnp.stack([1 - upper, upper]), 0)
  mass = jnp.sum(share, axis=1) + 10 * jnp.finfo(x.dtype).eps
  means = jnp.sum(share * x[None], axis=1) / mass
  variances = jnp.sum(share * (x[None] - means[:, None]) ** 2, axis=1) / mass + reg
  return mass / jnp.sum(mass), means, variances


def _maximise(
  x: Array, used: Array, tol: Array, reg: Array, max_steps: int
) -> tuple[Array, Array, Array, Array, Array]:
  """Two-means, then expectation maximisation; its steps and whether it has settled."""
  total = jnp.maximum(jnp.sum(used), 1).astype(x.dtype)

  def move(_: int, cut: Array) -> Array:
    upper = used & (x > cut)
    mean = lambda rows: jnp.sum(jnp.where(rows, x, 0)) / jnp.maximum(jnp.sum(rows), 1)
    return ((mean(upper) + mean(used & ~upper)) / 2).astype(x.dtype)

  cut = jax.lax.fori_loop(0, _KMEANS_STEPS, move, jnp.asarray(0.5, x.dtype))
  first = _moments(x, used, (x > cut).astype(x.dtype), reg)

  def go_on(carry: tuple) -> Array:
    _, _, step, settled = carry
    return (step < max_steps) & ~settled

  def step(carry: tuple) -> tuple:
    model, before, count, _ = carry
    parts = _log_parts(x, *model)
    likelihood = jnp.sum(jnp.where(used, jnp.logaddexp(*parts), 0)) / total
    model = _moments(x, used, jax.nn.sigmoid(parts[1] - parts[0]), reg)
    return model, likelihood, count + 1, jnp.abs(likelihood - before) < tol

  start = (first, jnp.asarray(-jnp.inf, x.dtype), jnp.zeros((), jnp.int32), jnp.zeros((), bool))
  model, _, steps, settled = jax.lax.while_loop(go_on, step, start)
  return *model, steps, settled
