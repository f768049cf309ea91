"""Fresh sparse signals with their measurements, for training and for tests."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.typing import Array, ArrayLike
from jaxopt_robust.unfolding._layers import check_matrix, multiply

__all__ = ["SparseBatch", "sample_sparse_batch"]


class SparseBatch(NamedTuple):
  """Signals and their measurements.

  Attributes:
    truth: float[batch, n], the signals.
    y: float[batch, m], A truth + noise.

  Example:
    >>> SparseBatch._fields
    ('truth', 'y')

  Reference:
    Ito, Takabe and Wadayama, Trainable ISTA for sparse signal recovery, 2019.
  """

  truth: Array
  y: Array


def sample_sparse_batch(
  key: Array,
  matrix: ArrayLike,
  *,
  batch: int,
  rate: ArrayLike = 0.1,
  noise: ArrayLike = 0.1,
  scale: ArrayLike = 1.0,
) -> SparseBatch:
  r"""Draws Bernoulli-Gaussian signals and measures them: y = A x + noise N(0, I).

  Each entry of x is 0 with probability 1 - p, else normal with standard deviation ``scale``. A pure
  function of the key: the sampler that training draws its batches from.

  Args:
    key: typed PRNG key.
    matrix: float[m, n], A.
    batch: number of signals, >= 1, static.
    rate: p in [0, 1], a scalar; may be traced.
    noise: >= 0, standard deviation, a scalar; may be traced.
    scale: >= 0, a scalar; may be traced.

  Returns:
    ``SparseBatch`` in the dtype of ``matrix``.

  Raises:
    TypeError: when ``key`` is no typed key, ``matrix`` no array or ``batch`` no integer.
    ValueError: when a number is out of range, or ``matrix`` is no finite matrix.

  Example:
    >>> batch = sample_sparse_batch(jax.random.key(0), jnp.eye(4), batch=3)
    >>> batch.truth.shape, batch.y.shape
    ((3, 4), (3, 4))

  Reference:
    Ito, Takabe and Wadayama, Trainable ISTA for sparse signal recovery, 2019 (signal model).
  """
  _checks.check_key("key", key)
  matrix = check_matrix("matrix", matrix)
  batch = _checks.check_int("batch", batch, minimum=1)
  _checks.check_interval("rate", rate, 0.0, 1.0, scalar=True)
  _checks.check_non_negative("noise", noise, scalar=True)
  _checks.check_non_negative("scale", scale, scalar=True)
  m, n = matrix.shape
  place_key, size_key, noise_key = jax.random.split(key, 3)
  rate, noise, scale = (
    _checks.check_float_array(name, value, rank=0).astype(matrix.dtype)
    for name, value in (("rate", rate), ("noise", noise), ("scale", scale))
  )
  active = jax.random.uniform(place_key, (batch, n), matrix.dtype) < rate
  sizes = scale * jax.random.normal(size_key, (batch, n), matrix.dtype)
  truth = jnp.where(active, sizes, 0)
  errors = noise * jax.random.normal(noise_key, (batch, m), matrix.dtype)
  return SparseBatch(truth, multiply(truth, matrix.T) + errors)
