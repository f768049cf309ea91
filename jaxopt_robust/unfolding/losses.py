"""What unfolded networks are trained on: distance to the truth, or the objective itself."""

import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.typing import Array, ArrayLike
from jaxopt_robust.unfolding._layers import multiply, opened, spread
from jaxopt_robust.unfolding.types import Measurements

__all__ = ["l0_objective", "l1_objective", "supervised_loss"]


def supervised_loss(x: ArrayLike, truth: ArrayLike) -> Array:
  r"""Mean squared error of an estimate, (1/n) ||x - truth||_2^2 an example.

  Args:
    x: float[..., n], estimates.
    truth: float[..., n], the signals that made the measurements.

  Returns:
    float[...], one number an example; the mean is yours.

  Raises:
    TypeError: when an argument holds no real numbers.
    ValueError: when shapes differ.

  Example:
    >>> supervised_loss(jnp.array([[1.0, 0.0]]), jnp.zeros((1, 2)))
    Array([0.5], dtype=float32)

  Reference:
    Nagahisa, Hayakawa and Iiguni, Comparison between supervised and unsupervised learning in deep
    unfolded sparse signal recovery, 2025.
  """
  x = _checks.check_float_array("x", x, min_rank=1)
  truth = _checks.check_float_array("truth", truth, min_rank=1)
  _checks.check_same_shape("x", x, "truth", truth)
  return jnp.mean((x - truth) ** 2, axis=-1)


def _misfit(x: ArrayLike, data: Measurements) -> tuple[Array, Array]:
  """x, and 1/2 ||y - A x||_2^2 an example."""
  x, y, matrix, _ = opened(x, data)
  return x, 0.5 * jnp.sum((y - multiply(x, matrix.T)) ** 2, axis=-1)


def l1_objective(x: ArrayLike, data: Measurements, *, strength: ArrayLike) -> Array:
  r"""The objective of ISTA, 1/2 ||y - A x||_2^2 + sum_i lam_i |x_i|, an example.

  Args:
    x: float[..., n], estimates.
    data: ``Measurements(y, matrix)`` as in ``ista_cell``.
    strength: lam >= 0, a scalar or float[n]; may be traced.

  Returns:
    float[...], one number an example; the mean is yours.

  Raises:
    TypeError: when an argument is of another kind.
    ValueError: when shapes do not fit, or ``strength`` is negative.

  Example:
    >>> data = jr.unfolding.Measurements(jnp.array([3.0, 0.5]), jnp.eye(2))
    >>> float(l1_objective(jnp.array([2.0, 0.0]), data, strength=1.0))
    2.625

  Reference:
    Tibshirani, Regression shrinkage and selection via the lasso, 1996; as a training loss:
    Nagahisa, Hayakawa and Iiguni, Comparison between supervised and unsupervised learning in deep
    unfolded sparse signal recovery, 2025.
  """
  x, misfit = _misfit(x, data)
  return misfit + jnp.sum(spread("strength", strength, x) * jnp.abs(x), axis=-1)


def l0_objective(
  x: ArrayLike, data: Measurements, *, strength: ArrayLike, width: ArrayLike | None = None
) -> Array:
  r"""The objective of iterative hard thresholding, an example.

    1/2 ||y - A x||_2^2 + sum_i lam_i 1[x_i != 0]                        (width None)
    1/2 ||y - A x||_2^2 + sum_i lam_i (1 - exp(-x_i^2 / (2 mu^2)))       (width mu)

  The count is piecewise constant: trained on it, a network learns from the data term alone. The
  smooth surrogate, below the count and equal to it as mu goes to 0, has a gradient of its own.

  Args:
    x: float[..., n], estimates.
    data: ``Measurements(y, matrix)`` as in ``ista_cell``.
    strength: lam >= 0, a scalar or float[n]; may be traced.
    width: mu > 0, a scalar, for the surrogate; may be traced. None: the count itself.

  Returns:
    float[...], one number an example; the mean is yours.

  Raises:
    TypeError: when an argument is of another kind.
    ValueError: when shapes do not fit, or a number is out of range.

  Example:
    >>> data = jr.unfolding.Measurements(jnp.array([3.0, 0.5]), jnp.eye(2))
    >>> float(l0_objective(jnp.array([3.0, 0.0]), data, strength=1.0))
    1.125

  Reference:
    Blumensath and Davies, Iterative thresholding for sparse approximations, 2008; the surrogate:
    Mohimani, Babaie-Zadeh and Jutten, A fast approach for overcomplete sparse decomposition based
    on smoothed l0 norm, 2009.
  """
  x, misfit = _misfit(x, data)
  lam = spread("strength", strength, x)
  if width is None:
    return misfit + jnp.sum(jnp.where(x != 0, lam, 0), axis=-1)
  _checks.check_positive("width", width, scalar=True)
  ratio = x / _checks.check_float_array("width", width, rank=0).astype(x.dtype)
  return misfit + jnp.sum(lam * -jnp.expm1(-0.5 * ratio * ratio), axis=-1)
