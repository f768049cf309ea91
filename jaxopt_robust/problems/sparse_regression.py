"""Linear regression with few active features and a correlated design."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_robust import _checks
from jaxopt_robust.problems.types import Problem
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["SparseTruth", "make_sparse_regression"]


class SparseTruth(NamedTuple):
  """The coefficients that made the data.

  Attributes:
    weights: float[num_features], zero but for the active ones, which are +-1.
    support: bool[num_features], the active features.

  Example:
    >>> SparseTruth._fields
    ('weights', 'support')

  Reference:
    Tibshirani, Regression shrinkage and selection via the lasso, 1996.
  """

  weights: Array
  support: Array


def _half_mean_square(weights: Array, design: Array, y: Array) -> Array:
  """1/(2n) ||X w - y||^2."""
  residual = jnp.matmul(design, weights, precision="highest") - y
  return 0.5 * jnp.mean(residual * residual)


def make_sparse_regression(
  key: Array,
  *,
  num_samples: int,
  num_features: int,
  num_active: int,
  correlation: ArrayLike = 0.5,
  noise: ArrayLike = 0.1,
  dtype: Any = None,
) -> Problem:
  r"""Makes a sparse regression problem, y = X w* + noise N(0, I).

  The rows of X are independent and standard normal with autoregressive correlation between
  features, E[x_j x_k] = correlation^|j - k|. w* has ``num_active`` entries +-1 at random places.
  The objective is the smooth part 1/(2n) ||X w - y||_2^2.

  Args:
    key: typed PRNG key.
    num_samples: n >= 1, static.
    num_features: p >= 1, static.
    num_active: active features, 0 <= num_active <= p, static.
    correlation: in (-1, 1); may be traced.
    noise: >= 0, standard deviation; may be traced.
    dtype: float32 or float64; the default float by default.

  Returns:
    Problem with data ``(X: float[n, p], y: float[n])`` and truth ``SparseTruth``. ``optimum`` is 0
    where there is no noise, else None.

  Raises:
    TypeError: the key is not a typed key, a size is not an integer, or the dtype is not allowed.
    ValueError: a size or a number is out of range.

  Example:
    >>> problem = make_sparse_regression(
    ...   jax.random.key(0), num_samples=10, num_features=20, num_active=3)
    >>> problem.data[0].shape, int(problem.truth.support.sum())
    ((10, 20), 3)

  Reference:
    The design of simulations in Fan and Li, Variable selection via nonconcave penalized likelihood
    and its oracle properties, 2001, section 4.
  """
  _checks.check_key("key", key)
  num_samples = _checks.check_int("num_samples", num_samples, minimum=1)
  num_features = _checks.check_int("num_features", num_features, minimum=1)
  num_active = _checks.check_int("num_active", num_active, minimum=0)
  if num_active > num_features:
    raise ValueError(f"num_active must be at most num_features, {num_features}; got {num_active}.")
  _checks.check_interval("correlation", correlation, -1.0, 1.0, closed="neither", scalar=True)
  _checks.check_non_negative("noise", noise, scalar=True)
  scalar_type = _checks.check_float_dtype(dtype, wide=True)
  design_key, place_key, sign_key, noise_key = jax.random.split(key, 4)

  rho = jnp.asarray(correlation, scalar_type)
  fresh = jnp.sqrt(1 - rho * rho)
  shocks = jax.random.normal(design_key, (num_features, num_samples), scalar_type)

  def advance(previous: Array, shock: Array) -> tuple[Array, Array]:
    column = rho * previous + fresh * shock
    return column, column

  _, later = jax.lax.scan(advance, shocks[0], shocks[1:])
  design = jnp.concatenate([shocks[:1], later]).T

  support = jax.random.permutation(place_key, num_features) < num_active
  signs = jax.random.rademacher(sign_key, (num_features,), scalar_type)
  weights = jnp.where(support, signs, jnp.zeros_like(signs))
  errors = jax.random.normal(noise_key, (num_samples,), scalar_type)
  y = jnp.matmul(design, weights, precision="highest") + jnp.asarray(noise, scalar_type) * errors
  is_clean = _checks.is_concrete(noise) and bool(np.all(np.asarray(noise) == 0))
  return Problem(
    data=(design, y),
    truth=SparseTruth(weights, support),
    objective=_half_mean_square,
    optimum=jnp.zeros((), scalar_type) if is_clean else None,
  )
