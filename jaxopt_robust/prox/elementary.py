"""The zero penalty, and indicator functions of sets: proximal operators without a strength."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.prox._common import start, value_dtype
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = ["make_prox_from_projection", "penalty_none", "prox_none"]


def prox_none(x: PyTree, hyperparams: Any = None, scaling: ArrayLike = 1.0) -> PyTree:
  r"""Proximal operator of the zero function: the identity.

  Solves argmin_y 1/2 ||y - x||_2^2, that is y = x.

  Args:
    x: float[...] or complex[...] array or pytree of arrays.
    hyperparams: ignored.
    scaling: ignored.

  Returns:
    ``x``.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.

  Example:
    >>> prox_none(jnp.array([1.0, -2.0]))
    Array([ 1., -2.], dtype=float32)

  Reference:
    Parikh and Boyd, Proximal algorithms, 2014, section 1.1.
  """
  del hyperparams, scaling
  return _checks.check_float_tree("x", x, complex_ok=True)


def penalty_none(x: PyTree, hyperparams: Any = None) -> Array:
  """The zero penalty.

  Computes g(x) = 0.

  Args:
    x: float[...] or complex[...] array or pytree of arrays.
    hyperparams: ignored.

  Returns:
    float scalar 0.

  Raises:
    TypeError: when ``x`` holds anything but floating-point arrays.

  Example:
    >>> float(penalty_none(jnp.ones(2)))
    0.0

  Reference:
    Parikh and Boyd, Proximal algorithms, 2014, section 1.1.
  """
  del hyperparams
  return jnp.zeros((), value_dtype(_checks.check_float_tree("x", x, complex_ok=True)))


def make_prox_from_projection(
  projection: Callable[..., PyTree],
) -> Callable[..., PyTree]:
  r"""Turns a projection into a proximal operator.

  The projection onto a set C solves argmin_y 1/2 ||y - x||_2^2 + g(y) with g = 0 on C and +inf
  elsewhere, so the scaling does not matter.

  Args:
    projection: ``projection(x, hyperparams) -> x_like``, such as
      ``optax.projections.projection_simplex``.

  Returns:
    ``prox(x, hyperparams=None, scaling=1.0) -> x_like``. With ``hyperparams=None`` the projection
    is called with ``x`` alone, so that its own default counts.

  Raises:
    TypeError: when ``projection`` is not a function.

  Example:
    >>> prox = make_prox_from_projection(optax.projections.projection_non_negative)
    >>> prox(jnp.array([1.0, -2.0]))
    Array([1., 0.], dtype=float32)

  Reference:
    Parikh and Boyd, Proximal algorithms, 2014, section 1.2.
  """
  _arguments.check_callable("projection", projection)

  def prox(x: PyTree, hyperparams: Any = None, scaling: ArrayLike = 1.0) -> PyTree:
    x = start(x, scaling)
    return projection(x) if hyperparams is None else projection(x, hyperparams)

  return prox
