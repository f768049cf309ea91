"""How far an inexact hypergradient is from the exact one: bounds that theory proves."""

from typing import NamedTuple

import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "BilevelConstants",
  "conjugate_gradient_bound",
  "hypergradient_bound",
  "inner_distance_bound",
  "one_step_bound",
  "outer_value_interval",
  "unrolled_bound",
]


class BilevelConstants(NamedTuple):
  """What a bound on the error of a hypergradient needs to know of a bilevel problem.

  Numbers >= 0, or arrays. They must hold on the segment from y to the solution y*(x). A strong
  convexity that is too large, or another constant that is too small, makes every bound wrong on the
  unsafe side.

  Attributes:
    strong_convexity: mu > 0, of the inner objective g in y.
    outer_smoothness: Lipschitz constant of grad_y f in y.
    cross_norm: ||B||_2, B = d(grad_y g)/dx.
    inverse_lipschitz: Lipschitz constant of y -> H(y)^{-1}; at most L_H / mu^2 with L_H that of the
      Hessian. 0 for quadratic g.
    cross_lipschitz: Lipschitz constant of B in y. 0 for quadratic g.
    outer_cross_smoothness: Lipschitz constant of grad_x f in y; 0 where f does not depend on x.
  """

  strong_convexity: ArrayLike
  outer_smoothness: ArrayLike
  cross_norm: ArrayLike
  inverse_lipschitz: ArrayLike = 0.0
  cross_lipschitz: ArrayLike = 0.0
  outer_cross_smoothness: ArrayLike = 0.0


def inner_distance_bound(gradient_norm: ArrayLike, *, strong_convexity: ArrayLike) -> Array:
  r"""Distance of a point from the minimiser of a strongly convex function.

  ||y - y*||_2 <= ||grad g(y)||_2 / mu, with equality for isotropic quadratics.

  Args:
    gradient_norm: float[...], ||grad g(y)||_2 >= 0.
    strong_convexity: mu > 0; may be traced.

  Returns:
    float[...].

  Raises:
    ValueError: when the norm is negative or mu not positive.

  Example:
    >>> float(inner_distance_bound(0.5, strong_convexity=2.0))
    0.25

  Reference:
    Nesterov, Lectures on convex optimization, 2018, theorem 2.1.10.
  """
  _checks.check_non_negative("gradient_norm", gradient_norm)
  _checks.check_positive("strong_convexity", strong_convexity)
  return _checks.check_float_array("gradient_norm", gradient_norm) / jnp.asarray(strong_convexity)


def hypergradient_bound(
  distance: ArrayLike,
  residual: ArrayLike,
  outer_gradient_norm: ArrayLike,
  *,
  constants: BilevelConstants,
) -> Array:
  r"""Bound on the error of an implicit hypergradient, from quantities that are known.

  For ||y - y*|| <= eps, ||H v - grad_y f(y)|| <= delta and z = grad_x f(y, x) - B(y)^T v,

    ||z - grad F(x)|| <= c eps + L_fx eps + (||B|| / mu) delta + (L_B L_f / mu) eps^2,
    c = L_f ||B|| / mu + L_inv ||grad_y f(y)|| ||B|| + L_B ||grad_y f(y)|| / mu.

  Args:
    distance: eps >= 0, of the inner variable from the solution; ``inner_distance_bound``.
    residual: delta >= 0, of the linear system.
    outer_gradient_norm: ||grad_y f(y)||_2 >= 0.
    constants: ``BilevelConstants`` of the problem.

  Returns:
    float scalar.

  Raises:
    TypeError: when ``constants`` is no ``BilevelConstants``.
    ValueError: when a number is negative, or mu is not positive.

  Example:
    >>> known = BilevelConstants(strong_convexity=2.0, outer_smoothness=1.0, cross_norm=4.0)
    >>> float(hypergradient_bound(0.25, 0.0, 1.0, constants=known))  # L_f ||B|| eps / mu
    0.5

  Reference:
    Salehi, Mukherjee, Roberts and Ehrhardt, An adaptively inexact first-order method for bilevel
    optimization with application to hyperparameter learning, 2025, theorem 2.1; the term of a
    direct dependence on x is ours.
  """
  check_constants(constants)
  numbers = {
    "distance": distance, "residual": residual, "outer_gradient_norm": outer_gradient_norm
  }  # fmt: skip
  for name, value in numbers.items():
    _checks.check_non_negative(name, value, scalar=True)
  eps, delta, size = (_checks.check_float_array(k, v, rank=0) for k, v in numbers.items())
  return bound_of(eps, delta, size, constants)


def check_constants(constants: BilevelConstants) -> None:
  """The numbers are in their ranges, where known."""
  if not isinstance(constants, BilevelConstants):
    raise TypeError(f"constants must be BilevelConstants; got {_checks.describe(constants)}.")
  for name, value in constants._asdict().items():
    check = _checks.check_positive if name == "strong_convexity" else _checks.check_non_negative
    check(f"constants.{name}", value, scalar=True)


def bound_of(eps: Array, delta: Array, size: Array, constants: BilevelConstants) -> Array:
  """``hypergradient_bound`` of numbers that may be NaN."""
  mu, smooth, cross, inverse, bend, direct = (jnp.asarray(c, eps.dtype) for c in constants)
  slope = smooth * cross / mu + inverse * size * cross + bend * size / mu + direct
  return slope * eps + cross / mu * delta + bend * smooth / mu * eps**2


def unrolled_bound(
  num_steps: ArrayLike,
  *,
  stepsize: ArrayLike,
  strong_convexity: ArrayLike,
  jacobian_norm: ArrayLike,
) -> Array:
  r"""Bound on the error of the Jacobian of K unrolled gradient steps on a quadratic.

  ||J_K - J*||_2 <= (1 - s mu)^K ||J*||_2 for steps y <- y - s grad_y g, 0 < s <= 1/L, from a start
  that does not depend on x; the same holds for the last K steps differentiated at the solution.

  Args:
    num_steps: K >= 0.
    stepsize: s > 0.
    strong_convexity: mu > 0, with s mu <= 1; NaN where a traced one is larger.
    jacobian_norm: ||J*||_2 >= 0, of the exact Jacobian dy*/dx.

  Returns:
    float scalar.

  Raises:
    ValueError: when a number is out of its range.

  Example:
    >>> float(unrolled_bound(2, stepsize=0.5, strong_convexity=1.0, jacobian_norm=4.0))
    1.0

  Reference:
    Grazzi, Franceschi, Pontil and Salzo, On the iteration complexity of hypergradient computation,
    2020, theorem 2.1 (for general inner problems, with further terms).
  """
  _checks.check_non_negative("num_steps", num_steps, scalar=True)
  for name, value in (("stepsize", stepsize), ("strong_convexity", strong_convexity)):
    _checks.check_positive(name, value, scalar=True)
  _checks.check_non_negative("jacobian_norm", jacobian_norm, scalar=True)
  rate = 1 - _checks.check_float_array("stepsize", stepsize) * jnp.asarray(strong_convexity)
  slack = -4 * jnp.finfo(rate.dtype).eps  # s = 1 / mu times mu is 1 up to rounding
  _checks.check_holds(rate >= slack, "stepsize times strong_convexity must be at most 1.")
  rate = jnp.where(rate >= slack, jnp.maximum(rate, 0), jnp.nan)
  return rate ** jnp.asarray(num_steps) * jnp.asarray(jacobian_norm, rate.dtype)


def one_step_bound(*, contraction: ArrayLike, derivative_norm: ArrayLike) -> Array:
  r"""Bound on the error of one-step differentiation at a fixed point.

  ||d_x T - J*||_2 <= rho / (1 - rho) ||d_x T||_2 where ||d_y T||_2 <= rho < 1: exact for Newton's
  method (rho = 0), far off for slow gradient steps.

  Args:
    contraction: rho in [0, 1).
    derivative_norm: ||d_x T||_2 >= 0.

  Returns:
    float scalar.

  Raises:
    ValueError: when a number is out of its range.

  Example:
    >>> float(one_step_bound(contraction=0.5, derivative_norm=3.0))
    3.0

  Reference:
    Bolte, Pauwels and Vaiter, One-step differentiation of iterative algorithms, 2023.
  """
  _checks.check_interval("contraction", contraction, 0.0, 1.0, closed="left", scalar=True)
  _checks.check_non_negative("derivative_norm", derivative_norm, scalar=True)
  rho = _checks.check_float_array("contraction", contraction)
  return rho / (1 - rho) * jnp.asarray(derivative_norm, rho.dtype)


def conjugate_gradient_bound(num_steps: ArrayLike, *, condition_number: ArrayLike) -> Array:
  r"""By how much k conjugate gradient steps reduce the error in the norm of A, at least.

  ||v_k - v*||_A <= 2 ((sqrt(kappa) - 1) / (sqrt(kappa) + 1))^k ||v_0 - v*||_A.

  Args:
    num_steps: k >= 0.
    condition_number: kappa >= 1.

  Returns:
    float scalar, the factor.

  Raises:
    ValueError: when a number is out of its range.

  Example:
    >>> float(conjugate_gradient_bound(1, condition_number=9.0))
    1.0

  Reference:
    Golub and Van Loan, Matrix Computations, 2013, theorem 11.3.3.
  """
  _checks.check_non_negative("num_steps", num_steps, scalar=True)
  _checks.check_interval(
    "condition_number", condition_number, 1.0, float("inf"), closed="left", scalar=True
  )
  root = jnp.sqrt(_checks.check_float_array("condition_number", condition_number))
  return 2 * ((root - 1) / (root + 1)) ** jnp.asarray(num_steps)


def outer_value_interval(
  value: ArrayLike,
  gradient_norm: ArrayLike,
  distance: ArrayLike,
  *,
  smoothness: ArrayLike,
  convex: bool = False,
) -> tuple[Array, Array]:
  r"""An interval that holds f(y*) for a point y at a known distance from y*.

  f(y) - ||grad f(y)|| eps - L/2 eps^2 <= f(y*) <= f(y) + ||grad f(y)|| eps + L/2 eps^2 for
  ||y - y*|| <= eps; convex f need no quadratic term on the left.

  Args:
    value: float scalar, f(y).
    gradient_norm: ||grad f(y)||_2 >= 0.
    distance: eps >= 0.
    smoothness: L >= 0, Lipschitz constant of grad f.
    convex: static, whether f is convex.

  Returns:
    (low, high), float scalars.

  Raises:
    ValueError: when a norm, distance or constant is negative.

  Example:
    >>> low, high = outer_value_interval(1.0, 2.0, 0.5, smoothness=4.0)
    >>> float(low), float(high)
    (-0.5, 2.5)

  Reference:
    Salehi, Mukherjee, Roberts and Ehrhardt, An adaptively inexact first-order method for bilevel
    optimization with application to hyperparameter learning, 2025, section 3.
  """
  for name, number in (
    ("gradient_norm", gradient_norm), ("distance", distance), ("smoothness", smoothness)
  ):  # fmt: skip
    _checks.check_non_negative(name, number, scalar=True)
  value = _checks.check_float_array("value", value, rank=0)
  return interval_of(value, gradient_norm, distance, smoothness, convex)


def interval_of(
  value: Array, gradient_norm: ArrayLike, distance: ArrayLike, smoothness: ArrayLike, convex: bool
) -> tuple[Array, Array]:
  """``outer_value_interval`` of numbers that may be NaN."""
  slope = jnp.asarray(gradient_norm, value.dtype) * jnp.asarray(distance, value.dtype)
  bend = 0.5 * jnp.asarray(smoothness, value.dtype) * jnp.asarray(distance, value.dtype) ** 2
  return value - slope - (0 if convex else bend), value + slope + bend
