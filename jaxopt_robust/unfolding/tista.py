"""TISTA: linear steps along the pseudo-inverse, then the mean of the posterior as shrinkage."""

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.numerics import safe_divide
from jaxopt_robust.typing import Array, ArrayLike
from jaxopt_robust.unfolding._layers import check_layer, multiply, opened, scalar_step, thin_svd
from jaxopt_robust.unfolding.types import Measurements, StepLayers

__all__ = ["shrink_bernoulli_gaussian", "tista_cell", "tista_weight"]

_LEAST_ERROR = 1e-9  # of the estimated error variance, in units of the signal's variance


def shrink_bernoulli_gaussian(
  x: ArrayLike, *, rate: ArrayLike, noise_variance: ArrayLike, signal_variance: ArrayLike = 1.0
) -> Array:
  r"""Posterior mean of a Bernoulli-Gaussian number under Gaussian noise (MMSE shrinkage).

  For s = 0 with probability 1 - p and s ~ N(0, a) otherwise, observed as x = s + N(0, v),

    E[s | x] = x a / (a + v) q(x),
    q(x) = p N(x; 0, a + v) / ((1 - p) N(x; 0, v) + p N(x; 0, a + v)),

  where q, the probability of s != 0, is computed as the sigmoid of a difference of log-densities.

  Args:
    x: float[...].
    rate: p in [0, 1], a scalar or of the shape of ``x``; may be traced.
    noise_variance: v > 0, a scalar or of the shape of ``x``; may be traced.
    signal_variance: a > 0, a scalar or of the shape of ``x``; may be traced.

  Returns:
    Like ``x``.

  Note:
    At the ends p = 0 and p = 1 the derivative in p is that of the value there, 0.

  Raises:
    TypeError: when ``x`` holds no real numbers.
    ValueError: when a parameter is out of its range or shapes do not fit.

  Example:
    >>> shrink_bernoulli_gaussian(jnp.array([0.1, 3.0]), rate=0.1, noise_variance=0.01).round(2)
    Array([0.  , 2.97], dtype=float32)

  Reference:
    Ito, Takabe and Wadayama, Trainable ISTA for sparse signal recovery, 2019
    (its MMSE shrinkage).
  """
  x = _checks.check_float_array("x", x, non_empty=False)
  _checks.check_interval("rate", rate, 0.0, 1.0)
  _checks.check_positive("noise_variance", noise_variance)
  _checks.check_positive("signal_variance", signal_variance)
  tiny = jnp.finfo(x.dtype).tiny

  def like_x(name: str, value: ArrayLike) -> Array:
    array = _checks.check_float_array(name, value, non_empty=False).astype(x.dtype)
    if array.ndim and array.shape != x.shape:
      raise ValueError(f"{name} must be a scalar or have shape {x.shape}; got {array.shape}.")
    return array

  p = like_x("rate", rate)
  v = jnp.maximum(like_x("noise_variance", noise_variance), tiny)
  a = jnp.maximum(like_x("signal_variance", signal_variance), tiny)
  gain = a / (a + v)
  ends = (p <= 0) | (p >= 1)  # the prior is infinite there, and q is 0 or 1
  inside = jnp.where(ends, 0.5, p)
  prior = jnp.where(
    ends, jnp.where(p <= 0, -jnp.inf, jnp.inf), jnp.log(inside) - jnp.log1p(-inside)
  )
  evidence = 0.5 * (x * (x / v) * gain + jnp.log(v) - jnp.log(a + v))
  evidence = jnp.minimum(evidence, jnp.finfo(x.dtype).max)  # beside a prior of -infinity
  return x * gain * jax.nn.sigmoid(prior + evidence)


def tista_weight(matrix: ArrayLike) -> Array:
  r"""The weight of TISTA: the pseudo-inverse of A, transposed.

  Args:
    matrix: float[m, n], A.

  Returns:
    float[m, n], W with W^T = A^+, for ``Measurements.weight``.

  Raises:
    TypeError: when ``matrix`` is no array of real numbers.
    ValueError: when it is no finite matrix.

  Example:
    >>> matrix = jnp.array([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    >>> tista_weight(matrix)
    Array([[0.5, 0. , 0. ],
           [0. , 1. , 0. ]], dtype=float32)

  Reference:
    Ito, Takabe and Wadayama, Trainable ISTA for sparse signal recovery, 2019.
  """
  u, inverse, vt = thin_svd("matrix", matrix)
  return multiply(u * jnp.broadcast_to(inverse, u.shape), vt)


def tista_cell(
  x: ArrayLike,
  layer: StepLayers,
  data: Measurements,
  *,
  rate: ArrayLike,
  noise_variance: ArrayLike,
  signal_variance: ArrayLike = 1.0,
) -> Array:
  r"""One layer of TISTA for Bernoulli-Gaussian signals.

    r   = x + g W^T (y - A x),                       W^T = A^+
    v2  = max((||y - A x||^2 - m s2) / tr(A^T A), 1e-9 a)
    t2  = (v2 / n) (n + (g^2 - 2 g) m) + g^2 s2 tr(W W^T) / n
    x+  = E[x | r] under noise of variance t2 (``shrink_bernoulli_gaussian``)

  v2 estimates the error variance of x, t2 that of r; there is no threshold to learn.

  Args:
    x: float[..., n], the iterate.
    layer: ``StepLayers`` of one layer: the step g >= 0, 1 at first; below 0 it counts as 0.
    data: ``Measurements(y, matrix, weight)`` with ``weight=tista_weight(matrix)``; A of full row
      rank.
    rate: p in [0, 1], a scalar, the share of non-zeros.
    noise_variance: s2 >= 0, a scalar, of the measurements' noise.
    signal_variance: a > 0, a scalar, of the non-zeros.

  Returns:
    float[..., n], in the dtype of ``x``.

  Raises:
    TypeError: when ``layer`` or ``data`` are of another kind.
    ValueError: when shapes do not fit, ``data.weight`` is None or a number is out of range.

  Example:
    >>> matrix = jnp.array([[1.0, 0.0, 0.6], [0.0, 1.0, 0.8]])
    >>> weight = jr.unfolding.tista_weight(matrix)
    >>> data = jr.unfolding.Measurements(jnp.array([3.0, 0.0]), matrix, weight)
    >>> x = tista_cell(
    ...   jnp.zeros(3), StepLayers(jnp.ones(())), data, rate=0.1, noise_variance=0.01)
    >>> x.shape, int(jnp.argmax(jnp.abs(x)))
    ((3,), 0)

  Reference:
    Ito, Takabe and Wadayama, Trainable ISTA for sparse signal recovery, 2019
    (constants from their code); the floor of v2 in units of the signal is ours.
  """
  layer = check_layer(layer, StepLayers)
  x, y, matrix, weight = opened(x, data, weight=True)
  _checks.check_interval("rate", rate, 0.0, 1.0, scalar=True)
  _checks.check_non_negative("noise_variance", noise_variance, scalar=True)
  _checks.check_positive("signal_variance", signal_variance, scalar=True)
  m, n = matrix.shape
  g = scalar_step(layer.step, x)
  s2, a = (jnp.asarray(value, x.dtype) for value in (noise_variance, signal_variance))
  residual = y - multiply(x, matrix.T)
  excess = jnp.sum(residual**2, axis=-1, keepdims=True) - m * s2
  v2 = jnp.maximum(safe_divide(excess, jnp.sum(matrix**2)), _LEAST_ERROR * a)
  t2 = v2 / n * (n + (g**2 - 2 * g) * m) + g**2 * s2 * jnp.sum(weight**2) / n
  moved = x + g * multiply(residual, weight)
  variance = jnp.broadcast_to(jnp.maximum(t2, jnp.finfo(x.dtype).tiny), moved.shape)
  return shrink_bernoulli_gaussian(
    moved, rate=rate, noise_variance=variance, signal_variance=signal_variance
  )
