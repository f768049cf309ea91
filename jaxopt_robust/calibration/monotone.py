"""Rank-preserving maps of log-probabilities: piecewise linear, and a monotone network."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_robust import _checks, numerics
from jaxopt_robust.calibration import _logits
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "MonotoneNetwork",
  "monotone_network_apply",
  "monotone_network_init",
  "piecewise_linear_apply",
  "piecewise_linear_init",
]


def piecewise_linear_init(*, num_segments: int = 10) -> Array:
  r"""Slopes of the piecewise linear map that is the identity.

  Args:
    num_segments: static integer >= 1, S.

  Returns:
    float[num_segments] ones, in the default float.

  Raises:
    ValueError: num_segments < 1.
    TypeError: num_segments is no integer.

  Example:
    >>> piecewise_linear_init(num_segments=3)
    Array([1., 1., 1.], dtype=float32)

  Reference:
    Huang et al., h-calibration: rethinking classifier recalibration with probabilistic
    error-bounded objective, 2025.
  """
  num_segments = _checks.check_int("num_segments", num_segments, minimum=1)
  return jnp.ones(num_segments, jnp.result_type(float))


def piecewise_linear_apply(
  params: ArrayLike, logits: ArrayLike, *, span: ArrayLike = 100.0
) -> Array:
  r"""Log-probabilities through a continuous piecewise linear map with slopes of one sign.

  Computes -G(u) of u = -log softmax(z) >= 0 with
  G(u) = sum_j |s_j| clip(u - j R/S, 0, R/S), where the last segment has no end.

  Args:
    params: slopes s, float[S]; signs do not matter.
    logits: float[..., classes].
    span: R > 0, a scalar; may be traced. Where the last segment begins, nearly.

  Returns:
    float[..., classes] logits (not normalised) of the dtype of ``logits``.

  Raises:
    ValueError: logits have fewer than two classes, params has another rank, or span <= 0.
    TypeError: logits or params are not floating-point.

  Note:
    The order of the classes never changes; slopes of 0 may tie them. At a knot the derivative is
    that of the segment above. The authors' code interpolates with jumps at the knots; here the map
    is continuous.

  Example:
    >>> logits = jnp.log(jnp.array([0.9, 0.1]))
    >>> found = jnp.exp(piecewise_linear_apply(jnp.array([1.0, 0.5]), logits, span=2.0))
    >>> np.asarray(found).round(3)
    array([0.9  , 0.192], dtype=float32)

  Reference:
    Huang et al., h-calibration: rethinking classifier recalibration with probabilistic
    error-bounded objective, 2025 (its piecewise linear map, in continuous form).
  """
  scores = _logits.check_logits(logits)
  slopes = _checks.check_float_array("params", params, rank=1)
  _checks.check_positive("span", span, scalar=True)
  wide = numerics.upcast(scores)
  slopes = jnp.abs(slopes).astype(wide.dtype)
  width = jnp.asarray(span, wide.dtype) / len(slopes)
  # Far enough for any softmax, near enough for products with slopes to stay finite.
  u = jnp.minimum(-jax.nn.log_softmax(wide, axis=-1), jnp.finfo(wide.dtype).max ** 0.5)
  place = jnp.clip(jnp.floor(u / width), 0, len(slopes) - 1).astype(jnp.int32)
  place = jnp.where(jnp.isnan(u), 0, place)
  below = jnp.concatenate([jnp.zeros(1, wide.dtype), jnp.cumsum(slopes)[:-1] * width])
  rise = below[place] + slopes[place] * (u - place * width)
  return -rise.astype(scores.dtype)


class MonotoneNetwork(NamedTuple):
  """A monotone network of one variable.

  Attributes:
    kernels: of the three dense layers, float[1, h], float[h, h] and float[h, 1].
    biases: of the layers, float[h], float[h] and float[1].
    mean: float scalar, subtracted from the log-probabilities; no gradient flows to it.
    scale: float scalar > 0, which divides them; no gradient flows to it.
  """

  kernels: tuple[Array, ...]
  biases: tuple[Array, ...]
  mean: Array
  scale: Array


def monotone_network_init(
  key: ArrayLike, logits: ArrayLike, *, num_hidden: int = 10
) -> MonotoneNetwork:
  r"""Random parameters of a monotone network, and the scale of the log-probabilities.

  Draws kernels and biases from U(-1/sqrt(fan-in), 1/sqrt(fan-in)).

  Args:
    key: typed PRNG key.
    logits: float[n, classes] of the calibration examples: their log-probabilities are standardised
      by mean and deviation over all entries.
    num_hidden: static integer >= 1, h.

  Returns:
    ``MonotoneNetwork``, at least float32.

  Raises:
    ValueError: num_hidden < 1, or logits of another rank.
    TypeError: key is not a typed key, logits are not floating-point or num_hidden is no integer.

  Example:
    >>> monotone_network_init(jax.random.key(0), jnp.eye(3), num_hidden=4).kernels[1].shape
    (4, 4)

  Reference:
    Huang et al., h-calibration: rethinking classifier recalibration with probabilistic
    error-bounded objective, 2025 (its nonlinear map).
  """
  key = _checks.check_key("key", key)
  scores = _logits.check_logits(_checks.check_float_array("logits", logits, rank=2))
  h = _checks.check_int("num_hidden", num_hidden, minimum=1)
  logs = jax.nn.log_softmax(numerics.upcast(scores), axis=1)
  keys = jax.random.split(key, 6)
  sizes = ((1, h), (h, h), (h, 1))

  def draw(key: Array, shape: tuple[int, ...], fan_in: int) -> Array:
    return jax.random.uniform(key, shape, logs.dtype, -(fan_in**-0.5), fan_in**-0.5)

  kernels = [draw(k, size, size[0]) for k, size in zip(keys[:3], sizes, strict=True)]
  biases = [draw(k, size[1:], size[0]) for k, size in zip(keys[3:], sizes, strict=True)]
  scale = jnp.std(logs)
  return MonotoneNetwork((*kernels,), (*biases,), jnp.mean(logs), jnp.where(scale > 0, scale, 1))


def _clenshaw_curtis(num_steps: int) -> tuple[np.ndarray, np.ndarray]:
  """Nodes and weights on [0, 1], exact for polynomials up to degree num_steps (even)."""
  theta = np.pi * np.arange(num_steps + 1) / num_steps
  k = np.arange(1, num_steps // 2 + 1)
  factor = np.where(2 * k == num_steps, 1.0, 2.0)
  terms = factor / (4 * k**2 - 1) * np.cos(2 * np.outer(theta, k))
  weights = (1 - terms.sum(1)) * 2 / num_steps
  weights[[0, -1]] /= 2
  return (np.cos(theta) + 1) / 2, weights / 2


def monotone_network_apply(
  params: MonotoneNetwork, logits: ArrayLike, *, num_steps: int = 50
) -> Array:
  r"""Log-probabilities through the integral of a positive network.

  Computes F(x) = int_0^x (elu(net(t)) + 1) dt of x = (log p - mean) / scale by Clenshaw-Curtis
  quadrature, net a perceptron of two hidden layers with ReLU.

  Args:
    params: ``MonotoneNetwork``.
    logits: float[..., classes].
    num_steps: static even integer >= 2; one more nodes of the quadrature.

  Returns:
    float[..., classes] logits (not normalised) of the dtype of ``logits``.

  Raises:
    ValueError: logits have fewer than two classes, or num_steps is not even.
    TypeError: params is no ``MonotoneNetwork``, or logits are not floating-point.

  Note:
    The order of the classes does not change as long as the quadrature is exact enough: its nodes
    are shared by the hidden units' kinks.

  Example:
    >>> params = monotone_network_init(jax.random.key(0), jnp.eye(3), num_hidden=2)
    >>> monotone_network_apply(params, jnp.array([2.0, 0.0, -1.0])).argmax()
    Array(0, dtype=int32)

  Reference:
    Huang et al., h-calibration: rethinking classifier recalibration with probabilistic
    error-bounded objective, 2025; Wehenkel and Louppe, Unconstrained monotonic neural networks,
    2019, section 3.
  """
  if not isinstance(params, MonotoneNetwork):
    raise TypeError(f"params must be a MonotoneNetwork; got {_checks.describe(params)}.")
  scores = _logits.check_logits(logits)
  num_steps = _checks.check_int("num_steps", num_steps, minimum=2)
  if num_steps % 2:
    raise ValueError(f"num_steps must be even; got {num_steps}.")
  wide = numerics.upcast(scores)
  mean, scale = jax.lax.stop_gradient((params.mean, params.scale))
  x = (jax.nn.log_softmax(wide, axis=-1) - mean) / numerics.divisor(scale)
  nodes, weights = (jnp.asarray(a, wide.dtype) for a in _clenshaw_curtis(num_steps))
  points = x[..., None] * nodes.reshape((1,) * x.ndim + nodes.shape)
  hidden = points[..., None]
  *inner, last = zip(params.kernels, params.biases, strict=True)
  broad = lambda bias: bias.reshape((1,) * (x.ndim + 1) + bias.shape)
  for kernel, bias in inner:
    hidden = jax.nn.relu(hidden @ kernel + broad(bias))
  density = jax.nn.elu(hidden @ last[0] + broad(last[1]))[..., 0] + 1
  return (x * (density @ weights)).astype(scores.dtype)
