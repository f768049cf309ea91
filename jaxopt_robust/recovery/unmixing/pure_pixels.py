"""Pixels that are as pure as there are, and channels that are noisier than the others."""

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.numerics import safe_divide, safe_norm
from jaxopt_robust.recovery.operators import wide_dot
from jaxopt_robust.recovery.unmixing.types import check_count, check_pixels, unit_of
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["channel_noise", "successive_projections", "vertex_components"]


def successive_projections(pixels: ArrayLike, num_spectra: int) -> Array:
  r"""Picks the pixels that span the others: each time the one with the largest residual.

  R_0 = Y; j_k = argmax_j ||R_k e_j||_2, and R_{k+1} is R_k projected on the complement of that
  column. Where the abundances sum to one and each material has a pure pixel these are found exactly
  from data without noise, in any order.

  Args:
    pixels: float[channels, N], Y.
    num_spectra: K, how many to pick, at most the smaller side of Y; static.

  Returns:
    int32[K], different columns of Y. The first of equals is taken.

  Raises:
    TypeError: ``pixels`` is not floating-point or ``num_spectra`` no static integer.
    ValueError: wrong shapes, or pixels that are known not to be finite.

  Note:
    If K exceeds the rank of Y the last ones are arbitrary.

  Example:
    >>> successive_projections(jnp.array([[1.0, 0.0, 0.5], [0.0, 2.0, 1.0]]), 2)
    Array([1, 0], dtype=int32)

  Reference:
    Araujo, Saldanha, Galvao, Yoneyama, Chame and Visani, The successive projections algorithm for
    variable selection in spectroscopic multicomponent analysis, 2001; exactness: Gillis and
    Vavasis, Fast and robust recursive algorithms for separable nonnegative matrix factorization,
    2014, theorem 2 (number recalled, not verified).
  """
  data = check_pixels(pixels)
  count = check_count(num_spectra, data)

  def pick(carry: tuple, _: None) -> tuple[tuple, Array]:
    residual, taken = carry
    sizes = safe_norm(residual, axis=0)
    index = jnp.argmax(jnp.where(taken, -1, sizes)).astype(jnp.int32)
    direction = safe_divide(residual[:, index], sizes[index])
    along = wide_dot(direction[None, :], residual)
    return (residual - direction[:, None] * along, taken.at[index].set(True)), index

  start = (data / unit_of(data), jnp.zeros(data.shape[1], bool))
  return jax.lax.scan(pick, start, None, length=count)[1]


def channel_noise(pixels: ArrayLike) -> Array:
  r"""Standard deviation of what no other channel explains, for each channel.

  sigma_l^2 = 1 / [(Y Y^T / N)^{-1}]_ll, the mean squared residual of channel l after its regression
  on all others: small where spectra are smooth mixtures, large in a channel that is bad.

  Args:
    pixels: float[channels, N], Y; many more pixels than channels make a good estimate.

  Returns:
    float[channels], in float32 or wider, in the units of Y; 0 for data of zeros.

  Raises:
    TypeError: ``pixels`` is not floating-point.
    ValueError: it has a wrong rank or is empty, or is known not to be finite.

  Note:
    Eigenvalues of Y Y^T below channels times eps times the largest count as so much: nothing below
    can be told from rounding.

  Example:
    >>> mix = jax.random.uniform(jax.random.key(0), (2, 200))
    >>> bad = jax.random.normal(jax.random.key(1), (1, 200))
    >>> channel_noise(jnp.concatenate([mix, mix, bad])).argmax()
    Array(4, dtype=int32)

  Reference:
    Bioucas-Dias and Nascimento, Hyperspectral subspace identification, 2008, algorithm 1 (noise by
    multiple regression; recalled, not verified).
  """
  data = check_pixels(pixels)
  unit = unit_of(data)
  scaled = data / unit
  values, vectors = jnp.linalg.eigh(wide_dot(scaled, scaled.T) / data.shape[1])
  least = data.shape[0] * jnp.finfo(data.dtype).eps * values[-1]
  precision = wide_dot(vectors**2, safe_divide(1.0, jnp.maximum(values, least))[:, None])[:, 0]
  return unit * jnp.sqrt(safe_divide(jnp.ones_like(precision), precision))


def vertex_components(key: Array, pixels: ArrayLike, num_spectra: int) -> Array:
  r"""Picks pixels that are vertices of the cloud of pixels, along random directions.

  Z = U^T Y with U the K leading left singular vectors of Y; each column of Z is divided by its
  product with the mean column, which removes brightness. Then K times: a random direction
  orthogonal to the columns picked so far, and the column that goes farthest along it.

  Args:
    key: typed PRNG key of the directions.
    pixels: float[channels, N], Y.
    num_spectra: K, how many to pick, at most the smaller side of Y; static.

  Returns:
    int32[K], columns of Y.

  Raises:
    TypeError: the key is not a typed key, ``pixels`` is not floating-point, or ``num_spectra`` no
      static integer.
    ValueError: wrong shapes, or pixels that are known not to be finite.

  Note:
    For a high ratio of signal to noise, above about 15 + 10 log10(K) decibels: the projection for
    low ratios of the reference is left out.

  Example:
    >>> pixels = jnp.array([[1.0, 0.0, 0.5], [0.0, 2.0, 1.0]])
    >>> sorted(vertex_components(jax.random.key(0), pixels, 2).tolist())
    [0, 1]

  Reference:
    Nascimento and Bioucas-Dias, Vertex component analysis: a fast algorithm to unmix hyperspectral
    data, 2005, algorithm 1 (recalled, not verified; their first direction is orthogonal to one
    axis, ours to nothing).
  """
  _checks.check_key("key", key)
  data = check_pixels(pixels)
  count = check_count(num_spectra, data)
  data = data / unit_of(data)
  if data.shape[0] <= data.shape[1]:
    basis = jnp.linalg.eigh(wide_dot(data, data.T))[1][:, -count:]
    reduced = wide_dot(basis.T, data)
  else:  # eigenvectors of the smaller Gram matrix; scales of the rows do not matter here
    basis = jnp.linalg.eigh(wide_dot(data.T, data))[1][:, -count:]
    left = wide_dot(data, basis)
    left = safe_divide(left, safe_norm(left, axis=0)[None, :])
    reduced = wide_dot(left.T, data)
  mean = jnp.mean(reduced, axis=1, keepdims=True)
  cone = safe_divide(reduced, jnp.sum(mean * reduced, axis=0, keepdims=True))
  directions = jax.random.normal(key, (count, count), data.dtype)

  def pick(picked: Array, i: Array) -> tuple[Array, Array]:
    # Twice is enough for orthogonality to rounding.
    outside = lambda v: v - wide_dot(picked, wide_dot(picked.T, v))
    direction = outside(outside(directions[i]))
    index = jnp.argmax(jnp.abs(wide_dot(direction[None, :], cone)[0])).astype(jnp.int32)
    new = outside(outside(cone[:, index]))
    return picked.at[:, i].set(safe_divide(new, safe_norm(new))), index

  return jax.lax.scan(pick, jnp.zeros((count, count), data.dtype), jnp.arange(count))[1]
