"""Conjugate gradients as a solver: warm starts, step counts, absolute tolerances, status."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust._units import exponent_of, power, saturated
from jaxopt_robust.solvers._common import (
  add_scaled,
  hashable,
  inner_product,
  norm,
  rounding,
  scalar_dtype,
  scale,
)
from jaxopt_robust.solvers.types import Solver
from jaxopt_robust.typing import Array, PyTree

__all__ = ["ConjugateGradientInfo", "ConjugateGradientState", "conjugate_gradient"]


class ConjugateGradientState(NamedTuple):
  """State of the conjugate gradient method.

  Attributes:
    params: the iterate x.
    residual: (b - A x) / unit.
    direction: search direction, in the same unit.
    unit: power of two of the size of the first residual, so that squares stay in range.
    reach: largest ||A d|| / ||d|| seen, a lower bound of ||A||.
    far: largest ||x|| seen.
    count: int32, steps done.
  """

  params: PyTree
  residual: PyTree
  direction: PyTree
  unit: Array
  reach: Array
  far: Array
  count: Array  # type: ignore[assignment]


class ConjugateGradientInfo(NamedTuple):
  """Diagnostics of a step of conjugate gradients.

  Attributes:
    error: ||b - A x_{k+1}||_2 by its recursion, and at least the rounding by which the recursion
      may have left the true residual.
    value: 1/2 <x, A x> - <b, x> up to rounding.
    stalled: bool, the residual is rounding alone, or a direction of no positive curvature was met
      (A is not positive definite); x is kept then.
  """

  error: Array
  value: Array
  stalled: Array


@hashable
def conjugate_gradient(matvec: Callable[..., PyTree]) -> Solver:
  r"""Conjugate gradients for A x = b with A symmetric and positive definite.

  With r_0 = b - A x_0 and d_0 = r_0,

    a_k = ||r_k||^2 / <d_k, A d_k>,  x_{k+1} = x_k + a_k d_k,  r_{k+1} = r_k - a_k A d_k,
    d_{k+1} = r_{k+1} + (||r_{k+1}||^2 / ||r_k||^2) d_k.

  The stopping quantity ``info.error`` is the absolute residual ||b - A x_{k+1}||_2: a tolerance
  relative to b is ``tol * norm(b)``. Unlike ``solve_cg`` it starts from any x_0, counts its
  products (one a step, one for the start) and tells a status.

  Args:
    matvec: ``matvec(v, *data) -> A v`` on pytrees, linear in v.

  Returns:
    ``Solver`` with states ``ConjugateGradientState`` and infos ``ConjugateGradientInfo``; its data
    are ``(b, *data)``, its hyper is None.

  Raises:
    TypeError: when ``matvec`` is not a function.
    ValueError: when b, x and A x differ in structure or shapes.

  Note:
    After k steps the error in the norm of A is at most 2 ((sqrt(kappa) - 1) / (sqrt(kappa) + 1))^k
    times the first one, kappa the condition number. In float32 a tolerance below about 1e-6 ||b||
    ends in status 3.

  Example:
    >>> solver = conjugate_gradient(lambda v, diagonal: diagonal * v)
    >>> b, diagonal = jnp.array([2.0, 4.0]), jnp.array([1.0, 2.0])
    >>> x, info = jr.solvers.run_until(
    ...   solver, jnp.zeros(2), None, b, diagonal, tol=1e-5, max_steps=10)
    >>> x.round(3), int(info.steps), int(info.status)
    (Array([2., 2.], dtype=float32), 2, 0)

  Reference:
    Hestenes and Stiefel, Methods of conjugate gradients for solving linear systems, 1952; drift of
    the recursion: Greenbaum, Estimating the attainable accuracy of recursively computed residual
    methods, 1997.
  """
  _arguments.check_callable("matvec", matvec)

  def product(v: PyTree, data: tuple) -> PyTree:
    out = matvec(v, *data)
    _checks.check_same_structure("matvec(v)", out, "v", v)
    return out

  def init(params: PyTree, hyper: PyTree, *data: PyTree) -> ConjugateGradientState:
    del hyper
    if not data:
      raise ValueError("data must be the right side b and what matvec takes; got 0 items.")
    b, *rest = data
    _checks.check_same_structure("b", b, "params", params)
    first = jax.tree.map(jnp.subtract, b, product(params, tuple(rest)))
    size = norm(first)
    unit = power(exponent_of(size), size.dtype)
    residual = scale(1 / unit, first)
    zero = jnp.zeros((), scalar_dtype(params))
    return ConjugateGradientState(
      params, residual, residual, unit, zero, norm(params), jnp.zeros((), jnp.int32)
    )

  def step(
    state: ConjugateGradientState, hyper: PyTree, b: PyTree, *data: PyTree
  ) -> tuple[ConjugateGradientState, ConjugateGradientInfo]:
    del hyper
    image = product(state.direction, data)
    square = inner_product(state.residual, state.residual)
    curvature = inner_product(state.direction, image)
    good = (curvature > 0) | jnp.isnan(curvature)  # NaN goes on, and ends the run as such
    done = square == 0
    a = jnp.where(good & ~done, square / jnp.where(good & ~done, curvature, 1), 0)
    params = add_scaled(state.params, a * state.unit, state.direction)
    residual = add_scaled(state.residual, -a, image)
    ratio = inner_product(residual, residual) / jnp.where(done, 1, square)
    direction = add_scaled(residual, ratio, state.direction)
    length = norm(state.direction)
    reach = jnp.maximum(state.reach, norm(image) / jnp.where(length > 0, length, 1))
    far = jnp.maximum(state.far, norm(params))
    eps = jnp.finfo(far.dtype).eps
    drift = eps * reach * far + rounding(b)
    left = state.unit * norm(residual)
    new = ConjugateGradientState(
      params, residual, direction, state.unit, reach, far, state.count + 1
    )
    # <x, A x> = <x, b - r>, in units: the product of two large numbers may be none.
    pull = jax.tree.map(lambda b, r: b / state.unit.astype(b.dtype) + r, b, residual)
    half = -0.5 * inner_product(scale(1 / state.unit, params), pull)
    value = saturated(half, state.unit, state.unit)
    stalled = ~good | (left < drift)
    return new, ConjugateGradientInfo(jnp.maximum(left, drift), value, stalled)

  return Solver(init, step)
