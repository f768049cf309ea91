"""Noise-contrastive losses: unnormalised models fitted by telling data from noise."""

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks, numerics
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["ence_loss", "log_ence_loss", "nce_loss"]


def nce_loss(
  data_log_ratio: ArrayLike,
  noise_log_ratio: ArrayLike,
  *,
  log_z: ArrayLike = 0.0,
  data_where: ArrayLike | None = None,
  noise_where: ArrayLike | None = None,
) -> Array:
  r"""Noise-contrastive estimation: the logistic loss of telling data from noise.

  Computes (1/n) sum_i softplus(-(r_i - c)) + (1/m) sum_j softplus(r_j - c) with
  r = log p0 - log q at n data and m noise samples, and c = log_z, a parameter to be learned. In the
  limit of many samples it is least at p0 / e^c = the density of the data.

  Args:
    data_log_ratio: float[n], r at the data.
    noise_log_ratio: float[m], r at samples of q.
    log_z: scalar, the estimate of log Z; may be traced.
    data_where: bool[n], which data count; all of them by default.
    noise_where: bool[m], which noise samples count; all of them by default.

  Returns:
    float scalar in the dtype of ``data_log_ratio``; an empty side counts 0.

  Raises:
    ValueError: a ratio is not a vector, log_z is not a scalar, or a mask has another shape.
    TypeError: the ratios are not floating-point or a mask is not boolean.

  Note:
    Where data and noise hardly overlap the loss is flat in between: the gradient of the mean of a
    Gaussian R away from the noise falls like exp(-R^2 / 8). Not the normalised cross entropy of
    ``losses.nce_rce_loss``, which has the same abbreviation.

  Example:
    >>> nce_loss(jnp.array([0.0, 0.0]), jnp.array([0.0])).round(4)  # 2 log 2
    Array(1.3863, dtype=float32)

  Reference:
    Gutmann and Hyvarinen, Noise-contrastive estimation of unnormalized statistical models, 2012,
    equation 8, with as many noise samples as data (nu = 1).
  """
  sides = _contrast(data_log_ratio, noise_log_ratio, log_z, data_where, noise_where)
  data, noise = (numerics.masked_mean(jax.nn.softplus(x), keep) for x, keep in sides)
  return (data + noise).astype(jnp.result_type(data_log_ratio))


def ence_loss(
  data_log_ratio: ArrayLike,
  noise_log_ratio: ArrayLike,
  *,
  log_z: ArrayLike = 0.0,
  data_where: ArrayLike | None = None,
  noise_where: ArrayLike | None = None,
) -> Array:
  r"""Noise-contrastive estimation with an exponential loss (eNCE).

  Computes (1/n) sum_i exp(-(r_i - c) / 2) + (1/m) sum_j exp((r_j - c) / 2), estimates of
  E_data sqrt(q / p) + E_q sqrt(p / q) with r = log p0 - log q, c = log_z and p = p0 / e^c. In the
  limit of many samples it is least at the density of the data.

  Args:
    data_log_ratio: float[n], r at the data.
    noise_log_ratio: float[m], r at samples of q.
    log_z: scalar, the estimate of log Z; may be traced.
    data_where: bool[n], which data count; all of them by default.
    noise_where: bool[m], which noise samples count; all of them by default.

  Returns:
    float scalar in the dtype of ``data_log_ratio``, infinite where an exponential overflows; an
    empty side counts 0.

  Raises:
    ValueError: a ratio is not a vector, log_z is not a scalar, or a mask has another shape.
    TypeError: the ratios are not floating-point or a mask is not boolean.

  Note:
    Made for normalised gradient descent (a step of fixed length along the gradient):
    its gradients vanish and explode like those of an exponential, but for exponential families its
    condition number does not. ``log_ence_loss`` gives the same direction and does not overflow.

  Example:
    >>> ence_loss(jnp.array([0.0, 0.0]), jnp.array([0.0]))
    Array(2., dtype=float32)

  Reference:
    Liu, Rosenfeld, Ravikumar and Risteski, Analyzing and improving the optimization landscape of
    noise-contrastive estimation, 2022, section 5 (twice their loss; recalled, not verified).
  """
  sides = _contrast(data_log_ratio, noise_log_ratio, log_z, data_where, noise_where)
  data, noise = (numerics.masked_mean(jnp.exp(0.5 * x), keep) for x, keep in sides)
  return (data + noise).astype(jnp.result_type(data_log_ratio))


def log_ence_loss(
  data_log_ratio: ArrayLike,
  noise_log_ratio: ArrayLike,
  *,
  log_z: ArrayLike = 0.0,
  data_where: ArrayLike | None = None,
  noise_where: ArrayLike | None = None,
) -> Array:
  r"""Logarithm of the exponential noise-contrastive loss, for any size of the ratios.

  Computes log( (1/n) sum_i exp(-(r_i - c) / 2) + (1/m) sum_j exp((r_j - c) / 2) ) with
  r = log p0 - log q and c = log_z. Its gradient is that of ``ence_loss`` divided by its value, so
  that normalised gradient descent takes the same steps.

  Args:
    data_log_ratio: float[n], r at the data.
    noise_log_ratio: float[m], r at samples of q.
    log_z: scalar, the estimate of log Z; may be traced.
    data_where: bool[n], which data count; all of them by default.
    noise_where: bool[m], which noise samples count; all of them by default.

  Returns:
    float scalar in the dtype of ``data_log_ratio``; 0 where no sample counts.

  Raises:
    ValueError: a ratio is not a vector, log_z is not a scalar, or a mask has another shape.
    TypeError: the ratios are not floating-point or a mask is not boolean.

  Example:
    >>> log_ence_loss(jnp.array([-1e4]), jnp.array([0.0]))
    Array(5000., dtype=float32)

  Reference:
    Liu, Rosenfeld, Ravikumar and Risteski, Analyzing and improving the optimization landscape of
    noise-contrastive estimation, 2022, section 5 (twice their loss; the logarithm is ours).
  """
  sides = _contrast(data_log_ratio, noise_log_ratio, log_z, data_where, noise_where)
  terms, masks = [], []
  for x, keep in sides:
    count = jnp.maximum(jnp.sum(keep), 1).astype(x.dtype)
    terms.append(0.5 * x - jnp.log(count))
    masks.append(keep)
  mask = jnp.concatenate(masks)
  is_empty = ~jnp.any(mask)
  mask = mask | is_empty  # logsumexp of nothing is -inf and has no derivative
  total = jax.nn.logsumexp(jnp.concatenate(terms), where=mask)
  return jnp.where(is_empty, 0, total).astype(jnp.result_type(data_log_ratio))


def _contrast(
  data_log_ratio: ArrayLike,
  noise_log_ratio: ArrayLike,
  log_z: ArrayLike,
  data_where: ArrayLike | None,
  noise_where: ArrayLike | None,
) -> list[tuple[Array, Array]]:
  """(scores that ought to be negative, mask) for data and noise; 0 where masked out."""
  data = _checks.check_float_array("data_log_ratio", data_log_ratio, rank=1)
  noise = _checks.check_float_array("noise_log_ratio", noise_log_ratio, rank=1)
  shift = _checks.check_array("log_z", log_z, rank=0)
  sides = []
  for sign, name, array, where in (
    (-1, "data_where", data, data_where),
    (1, "noise_where", noise, noise_where),
  ):
    mask = _checks.check_mask(name, where, shape=array.shape)
    keep = jnp.ones(array.shape, jnp.bool_) if mask is None else mask
    wide = numerics.upcast(array)
    sides.append((sign * (jnp.where(keep, wide, 0) - shift.astype(wide.dtype)), keep))
  return sides
