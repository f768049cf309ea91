"""Penalties of the largest entries, whose operators are projections by Moreau's decomposition."""

from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.numerics import upcast
from jaxopt_robust.projections import projection_box_section, projection_weighted_l1_ball
from jaxopt_robust.typing import Array, ArrayLike, Penalty

__all__ = [
  "linf",
  "max",
  "penalty_linf",
  "penalty_max",
  "penalty_squared_l1",
  "penalty_sum_largest",
  "prox_linf",
  "prox_max",
  "prox_squared_l1",
  "prox_sum_largest",
  "squared_l1",
  "sum_largest",
]


def _ready(
  x: ArrayLike, lam: Any, scaling: ArrayLike, name: str = "hyperparams", non_empty: bool = False
) -> tuple[Array, Array, Any]:
  """The vector in float32 at least, the step times the strength, and the dtype to return."""
  array = _checks.check_float_array("x", x, rank=1, non_empty=non_empty)
  for argument, value in ((name, lam), ("scaling", scaling)):
    _checks.check_non_negative(argument, value)
    if jnp.ndim(value) != 0:
      raise ValueError(f"{argument} must be a scalar; got shape {jnp.shape(value)}.")
  wide = upcast(array)
  return wide, jnp.asarray(scaling, wide.dtype) * jnp.asarray(lam, wide.dtype), array.dtype


def _count(k: Any, x: Array) -> Array:
  _checks.check_interval("k of hyperparams", k, 0, x.shape[0])
  if jnp.ndim(k) != 0:
    raise ValueError(f"k of hyperparams must be a scalar; got shape {jnp.shape(k)}.")
  return jnp.asarray(k, x.dtype)


def prox_linf(x: ArrayLike, hyperparams: ArrayLike = 1.0, scaling: ArrayLike = 1.0) -> Array:
  r"""Proximal operator of the largest magnitude.

  Solves argmin_y 1/2 ||y - x||_2^2 + scaling * g(y) with g as in ``penalty_linf``: by Moreau's
  decomposition x - P(x), P the projection onto the l1 ball of radius scaling * lam.

  Args:
    x: float[n] array.
    hyperparams: lam >= 0, a scalar; may be traced.
    scaling: >= 0, the step size; may be traced.

  Returns:
    float[n] of the dtype of ``x``. NaN data give NaN.

  Raises:
    TypeError: when ``x`` is not floating-point.
    ValueError: when ``x`` is no vector, or a number is negative, out of range or not a scalar.

  Note:
    The derivative holds the set of entries at the common bound constant.

  Example:
    >>> prox_linf(jnp.array([3.0, -1.0, 0.5]), 1.0).tolist()
    [2.0, -1.0, 0.5]

  Reference:
    Parikh and Boyd, Proximal algorithms, 2014, section 6.5.
  """
  v, g, dtype = _ready(x, hyperparams, scaling)
  if not v.size:
    return v.astype(dtype)
  return (v - projection_weighted_l1_ball(v, (1.0, g))).astype(dtype)


def penalty_linf(x: ArrayLike, hyperparams: ArrayLike = 1.0) -> Array:
  r"""The largest magnitude.

  Computes g(x) = lam max_i |x_i|.

  Args:
    x: float[n] array.
    hyperparams: as in ``prox_linf``.

  Returns:
    float scalar.

  Raises:
    TypeError: when ``x`` is not floating-point.
    ValueError: when ``x`` is no vector, or a number is negative, out of range or not a scalar.

  Example:
    >>> float(penalty_linf(jnp.array([3.0, -1.0, 0.5]), 1.0))
    3.0

  Reference:
    Parikh and Boyd, Proximal algorithms, 2014, section 6.5.
  """
  v, g, dtype = _ready(x, hyperparams, 1.0)
  return (g * jnp.max(jnp.abs(v), initial=0)).astype(dtype)


def prox_max(x: ArrayLike, hyperparams: ArrayLike = 1.0, scaling: ArrayLike = 1.0) -> Array:
  r"""Proximal operator of the largest entry.

  Solves argmin_y 1/2 ||y - x||_2^2 + scaling * g(y) with g as in ``penalty_max``: by Moreau's
  decomposition x - P(x), P the projection onto the simplex of sum scaling * lam.

  Args:
    x: float[n] array.
    hyperparams: lam >= 0, a scalar; may be traced.
    scaling: >= 0, the step size; may be traced.

  Returns:
    float[n] of the dtype of ``x``. NaN data give NaN.

  Raises:
    TypeError: when ``x`` is not floating-point.
    ValueError: when ``x`` is no vector, or a number is negative, out of range or not a scalar.

  Note:
    The derivative holds the set of entries at the common maximum constant.

  Example:
    >>> prox_max(jnp.array([3.0, -1.0, 0.5]), 1.0).tolist()
    [2.0, -1.0, 0.5]

  Reference:
    Parikh and Boyd, Proximal algorithms, 2014, section 6.5.
  """
  v, g, dtype = _ready(x, hyperparams, scaling, non_empty=True)
  return (v - projection_box_section(v, (0.0, jnp.inf, 1.0, g))).astype(dtype)


def penalty_max(x: ArrayLike, hyperparams: ArrayLike = 1.0) -> Array:
  r"""The largest entry.

  Computes g(x) = lam max_i x_i.

  Args:
    x: float[n] array.
    hyperparams: as in ``prox_max``.

  Returns:
    float scalar.

  Raises:
    TypeError: when ``x`` is not floating-point.
    ValueError: when ``x`` is no vector, or a number is negative, out of range or not a scalar.

  Example:
    >>> float(penalty_max(jnp.array([3.0, -1.0, 0.5]), 1.0))
    3.0

  Reference:
    Parikh and Boyd, Proximal algorithms, 2014, section 6.5.
  """
  v, g, dtype = _ready(x, hyperparams, 1.0, non_empty=True)
  return (g * jnp.max(v)).astype(dtype)


def prox_sum_largest(
  x: ArrayLike, hyperparams: Any = (1.0, 1.0), scaling: ArrayLike = 1.0
) -> Array:
  r"""Proximal operator of the sum of the k largest entries.

  Solves argmin_y 1/2 ||y - x||_2^2 + scaling * g(y) with g as in ``penalty_sum_largest``: by
  Moreau's decomposition x - P(x), P the projection onto {u: 0 <= u <= G, sum u = k G} with
  G = scaling * lam.

  Args:
    x: float[n] array.
    hyperparams: pair (lam, k): lam >= 0 and 0 <= k <= n, scalars; may be traced. A k that is no
      whole number takes a part of the next entry.
    scaling: >= 0, the step size; may be traced.

  Returns:
    float[n] of the dtype of ``x``. NaN data give NaN.

  Raises:
    TypeError: when ``x`` is not floating-point.
    ValueError: when ``x`` is no vector, or a number is negative, out of range or not a scalar.

  Note:
    The derivative holds the sets of entries below, at and above the threshold constant.

  Example:
    >>> prox_sum_largest(jnp.array([3.0, -1.0, 0.5]), (1.0, 2.0)).tolist()
    [2.0, -1.0, -0.5]

  Reference:
    Wu, Ding, Sun and Toh, On the Moreau-Yosida regularization of the vector k-norm related
    functions, 2014.
  """
  lam, k = _arguments.parts(hyperparams, "lam", "k", example=(1.0, 2.0))
  v, g, dtype = _ready(x, lam, scaling, "lam of hyperparams")
  count = _count(k, v)
  if not v.size:
    return v.astype(dtype)
  return (v - projection_box_section(v, (0.0, g, 1.0, count * g))).astype(dtype)


def penalty_sum_largest(x: ArrayLike, hyperparams: Any = (1.0, 1.0)) -> Array:
  r"""The sum of the k largest entries.

  Computes g(x) = lam (x_(1) + ... + x_(k)), x_(i) the entries in falling order.

  Args:
    x: float[n] array.
    hyperparams: as in ``prox_sum_largest``.

  Returns:
    float scalar.

  Raises:
    TypeError: when ``x`` is not floating-point.
    ValueError: when ``x`` is no vector, or a number is negative, out of range or not a scalar.

  Example:
    >>> float(penalty_sum_largest(jnp.array([3.0, -1.0, 0.5]), (1.0, 2.0)))
    3.5

  Reference:
    Wu, Ding, Sun and Toh, On the Moreau-Yosida regularization of the vector k-norm related
    functions, 2014.
  """
  lam, k = _arguments.parts(hyperparams, "lam", "k", example=(1.0, 2.0))
  v, g, dtype = _ready(x, lam, 1.0, "lam of hyperparams")
  share = jnp.clip(_count(k, v) - jnp.arange(v.shape[0], dtype=v.dtype), min=0, max=1)
  # Infinite entries that do not count must not become NaN.
  return (g * jnp.sum(jnp.where(share == 0, 0, share * jnp.sort(v)[::-1]))).astype(dtype)


def prox_squared_l1(x: ArrayLike, hyperparams: ArrayLike = 1.0, scaling: ArrayLike = 1.0) -> Array:
  r"""Proximal operator of half the squared l1 norm.

  Solves argmin_y 1/2 ||y - x||_2^2 + scaling * g(y) with g as in ``penalty_squared_l1``: soft
  thresholding at t = G ||y||_1, G = scaling * lam, the largest of G C_k / (1 + k G) with C_k the
  sum of the k largest magnitudes.

  Args:
    x: float[n] array.
    hyperparams: lam >= 0, a scalar; may be traced.
    scaling: >= 0, the step size; may be traced.

  Returns:
    float[n] of the dtype of ``x``. NaN data give NaN.

  Raises:
    TypeError: when ``x`` is not floating-point.
    ValueError: when ``x`` is no vector, or a number is negative, out of range or not a scalar.

  Note:
    Unlike for the l1 norm a vector other than 0 never becomes 0. The derivative holds the
    support constant.

  Example:
    >>> prox_squared_l1(jnp.array([3.0, -1.0, 0.5]), 1.0).tolist()
    [1.5, -0.0, 0.0]

  Reference:
    Martins, Smith, Xing, Aguiar and Figueiredo, Online learning of structured predictors with
    multiple kernels, 2011.
  """
  v, g, dtype = _ready(x, hyperparams, scaling)
  size = jnp.abs(v)
  falling = jnp.sort(jax.lax.stop_gradient(size))[::-1]
  step = jax.lax.stop_gradient(g)
  ranks = jnp.arange(1, v.shape[0] + 1, dtype=v.dtype)
  level = jnp.max(step * jnp.cumsum(falling) / (1 + ranks * step), initial=0)
  active = size > level
  total = jnp.sum(jnp.where(active, size, 0))
  exact = g * total / (1 + jnp.sum(active, dtype=v.dtype) * g)
  out = jnp.sign(v) * jnp.where(active, jnp.maximum(size - exact, 0), 0)
  return jnp.where(jnp.isnan(level), jnp.nan, out).astype(dtype)


def penalty_squared_l1(x: ArrayLike, hyperparams: ArrayLike = 1.0) -> Array:
  r"""Half the squared l1 norm.

  Computes g(x) = lam / 2 ||x||_1^2.

  Args:
    x: float[n] array.
    hyperparams: as in ``prox_squared_l1``.

  Returns:
    float scalar.

  Raises:
    TypeError: when ``x`` is not floating-point.
    ValueError: when ``x`` is no vector, or a number is negative, out of range or not a scalar.

  Example:
    >>> float(penalty_squared_l1(jnp.array([3.0, -1.0, 0.5]), 1.0))
    10.125

  Reference:
    Martins, Smith, Xing, Aguiar and Figueiredo, Online learning of structured predictors with
    multiple kernels, 2011.
  """
  v, g, dtype = _ready(x, hyperparams, 1.0)
  return (g / 2 * jnp.sum(jnp.abs(v)) ** 2).astype(dtype)


linf = Penalty(penalty_linf, prox_linf)
max = Penalty(penalty_max, prox_max)  # the package's names are the penalties'
squared_l1 = Penalty(penalty_squared_l1, prox_squared_l1)
sum_largest = Penalty(penalty_sum_largest, prox_sum_largest)
