"""Outer functions f of compositional objectives f(g(w)): of u, and of log u."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.prox import moreau_envelope
from jaxopt_robust.typing import Array, ArrayLike, Penalty

__all__ = [
  "OuterFn",
  "outer_identity",
  "outer_log",
  "outer_mean_deviation",
  "outer_moreau",
  "outer_power",
  "outer_ratio",
  "outer_square",
]


class OuterFn(NamedTuple):
  """An outer function on estimates of inner values, row by row.

  Attributes:
    value: ``value(u) -> float[batch]`` for u float[batch, ...]; differentiable.
    log_value: the same function of log u, for estimators in the log domain.
  """

  value: Callable[[Array], Array]
  log_value: Callable[[Array], Array]


def outer_identity() -> OuterFn:
  r"""f(u) = u: a plain expectation.

  Args: none.

  Returns:
    OuterFn.

  Example:
    >>> outer_identity().value(jnp.array([2.0]))
    Array([2.], dtype=float32)

  Reference:
    Wang, Fang and Liu, Stochastic compositional gradient descent, 2017, equation 1.
  """
  return OuterFn(lambda u: u, jnp.exp)


def outer_log(temperature: ArrayLike = 1.0) -> OuterFn:
  r"""f(u) = lam log u: with g = E exp(l / lam) the KL-penalised worst case of l.

  Args:
    temperature: lam > 0, a scalar; may be traced.

  Returns:
    OuterFn.

  Raises:
    ValueError: temperature <= 0.

  Example:
    >>> outer_log(0.5).log_value(jnp.array([4.0]))
    Array([2.], dtype=float32)

  Reference:
    Qi, Guo, Xu, Jin and Yang, An online method for a class of distributionally robust optimization
    with non-convex objectives, 2021.
  """
  _checks.check_positive("temperature", temperature)
  lam = lambda u: jnp.asarray(temperature, u.dtype)
  return OuterFn(lambda u: lam(u) * jnp.log(u), lambda log_u: lam(log_u) * log_u)


def outer_square() -> OuterFn:
  r"""f(u) = u^2, for scalars of either sign.

  Args: none.

  Returns:
    OuterFn.

  Example:
    >>> outer_square().value(jnp.array([-3.0]))
    Array([9.], dtype=float32)

  Reference:
    Wang, Fang and Liu, Stochastic compositional gradient descent, 2017 (risk-averse examples).
  """
  return OuterFn(lambda u: u * u, lambda log_u: jnp.exp(2 * log_u))


def outer_power(exponent: ArrayLike) -> OuterFn:
  r"""f(u) = u^a for u > 0: p-norm push, and the outer level of the two-way partial AUC.

  Args:
    exponent: a, a scalar; may be traced.

  Returns:
    OuterFn.

  Raises:
    ValueError: exponent is known and not finite.

  Example:
    >>> outer_power(0.5).value(jnp.array([9.0]))
    Array([3.], dtype=float32)

  Reference:
    Rudin, The p-norm push: a simple convex ranking algorithm that concentrates at the top of the
    list, 2009.
  """
  _checks.check_interval("exponent", exponent, float("-inf"), float("inf"), closed="neither")
  a = lambda u: jnp.asarray(exponent, u.dtype)
  return OuterFn(lambda u: u ** a(u), lambda log_u: jnp.exp(a(log_u) * log_u))


def outer_ratio() -> OuterFn:
  r"""f(u) = u_1 / u_2 for inner values of two components: precision at an example.

  Args: none.

  Returns:
    OuterFn of u float[batch, 2]; 0 where u_2 is 0.

  Example:
    >>> outer_ratio().value(jnp.array([[1.0, 4.0]]))
    Array([0.25], dtype=float32)

  Reference:
    Qi, Luo, Xu, Ji and Yang, Stochastic optimization of areas under precision-recall curves with
    provable convergence, 2021, equation 4 (number recalled, not verified).
  """
  return OuterFn(
    lambda u: numerics.safe_divide(u[..., 0], u[..., 1]),
    lambda log_u: jnp.exp(log_u[..., 0] - log_u[..., 1]),
  )


def outer_mean_deviation(radius: ArrayLike) -> OuterFn:
  r"""f(u) = u_1 + sqrt(2 rho (u_2 - u_1^2)) for inner values (l, l^2): chi-square ball.

  The worst mean of l over { p : (n/2) sum_i (p_i - 1/n)^2 <= rho }, as long as no weight would
  become negative; in general an upper bound of it.

  Args:
    radius: rho >= 0, a scalar; may be traced.

  Returns:
    OuterFn of u float[batch, 2]; an estimated variance below 0 counts as 0.

  Raises:
    ValueError: radius < 0.

  Note:
    Where the variance is 0 the derivative of the root is taken as 0.

  Example:
    >>> outer_mean_deviation(0.5).value(jnp.array([[1.0, 5.0]]))
    Array([3.], dtype=float32)

  Reference:
    Duchi and Namkoong, Variance-based regularization with convex objectives, 2019, theorem 1.
  """
  _checks.check_non_negative("radius", radius)

  def value(u: Array) -> Array:
    variance = jnp.maximum(u[..., 1] - u[..., 0] ** 2, 0)
    spread = 2 * jnp.asarray(radius, u.dtype) * variance
    positive = spread > 0
    root = jnp.where(positive, jnp.sqrt(jnp.where(positive, spread, 1)), 0)
    return u[..., 0] + jnp.where(jnp.isnan(spread), spread, root)

  return OuterFn(value, lambda log_u: value(jnp.exp(log_u)))


def outer_moreau(penalty: Penalty, hyperparams: Any = None, *, smoothing: ArrayLike) -> OuterFn:
  r"""Moreau envelope of a non-smooth outer function, for SONEX.

  f_lam(u) = min_v f(v) + 1/(2 lam) ||v - u||^2, with the gradient (u - prox_{lam f}(u)) / lam, row
  by row. For f(u) = rho max(u, 0) the gradient is clip(u / lam, 0, rho); for the maximum over
  groups it is the projection of u / lam onto the simplex.

  Args:
    penalty: f as ``Penalty(value, prox)`` of one row, such as ``prox.max`` or ``prox.hinge``.
    hyperparams: of the penalty; may be traced.
    smoothing: lam > 0, a scalar; may be traced.

  Returns:
    OuterFn.

  Raises:
    TypeError: penalty is no ``Penalty``.
    ValueError: smoothing <= 0.

  Example:
    >>> outer = outer_moreau(jr.prox.lasso, 1.0, smoothing=1.0)  # the Huber function
    >>> outer.value(jnp.array([3.0]))
    Array([2.5], dtype=float32)

  Reference:
    Chen and co-authors, Stochastic momentum methods for non-smooth non-convex finite-sum coupled
    compositional optimization (SONEX), 2025 (arXiv 2506.02504).
  """
  _arguments.check_penalty("penalty", penalty)
  _checks.check_positive("smoothing", smoothing)
  envelope = moreau_envelope(penalty)

  def value(u: Array) -> Array:
    rows = u[:, None] if u.ndim == 1 else u
    return jax.vmap(lambda row: envelope(row, hyperparams, smoothing))(rows)

  return OuterFn(value, lambda log_u: value(jnp.exp(log_u)))
