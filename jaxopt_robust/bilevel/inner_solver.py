"""A solver for strongly convex inner problems whose error bounds the distance to the solution."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust._units import tree_norm
from jaxopt_robust.bilevel.products import scalar_of
from jaxopt_robust.solvers import Solver
from jaxopt_robust.solvers._common import hashable
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = ["StronglyConvexInfo", "StronglyConvexState", "strongly_convex_descent"]

Constant = ArrayLike | Callable[..., ArrayLike]


class StronglyConvexState(NamedTuple):
  """State of accelerated descent.

  Attributes:
    params: the iterate y.
    anchor: extrapolated point.
    count: int32, steps done.
  """

  params: PyTree
  anchor: PyTree
  count: Array  # type: ignore[assignment]


class StronglyConvexInfo(NamedTuple):
  """Diagnostics of a step.

  Attributes:
    error: ||grad_y g||_2 at the extrapolated point. The new iterate is at most error / mu from the
      minimiser, and its own gradient is no larger.
    value: g at the extrapolated point.
  """

  error: Array
  value: Array


def check_constant(name: str, value: Any) -> None:
  """A number > 0, or a function of the outer variable and the data."""
  if not callable(value):
    _checks.check_positive(name, value, scalar=True)


def constant_at(name: str, value: Any, x: PyTree, data: tuple, dtype: Any) -> Array:
  """The constant at x."""
  number = jnp.asarray(value(x, *data) if callable(value) else value)
  if number.shape != ():
    raise ValueError(f"{name} must be a scalar; got shape {number.shape}.")
  return number.astype(dtype)


@hashable
def strongly_convex_descent(
  inner: Callable[..., Any], *, strong_convexity: Constant, smoothness: Constant
) -> Solver:
  r"""Accelerated gradient descent for a strongly convex inner problem, as a solver of y.

    y_{k+1} = z_k - grad_y g(z_k, x) / L,
    z_{k+1} = y_{k+1} + beta (y_{k+1} - y_k),  beta = (1 - sqrt(mu/L)) / (1 + sqrt(mu/L)).

  The stopping quantity ``info.error`` is ||grad_y g(z_k, x)||_2. A gradient step with 1/L leads
  away neither from the minimiser nor to a larger gradient, so that the result has
  ||y - y*(x)|| <= info.error / mu.

  Args:
    inner: ``inner(y, x, *data) -> scalar``, g, mu-strongly convex and L-smooth in y.
    strong_convexity: mu > 0, a number or ``mu(x, *data)``.
    smoothness: L >= mu, a number or ``L(x, *data)``.

  Returns:
    ``Solver`` whose hyper is x: ``run_until(solver, y, x, *data, tol=..., max_steps=...)``, with
    states ``StronglyConvexState`` and infos ``StronglyConvexInfo``.

  Raises:
    TypeError: when ``inner`` is not a function.
    ValueError: when a constant is not positive or no scalar, or ``inner`` no scalar.

  Note:
    An mu that is too large, or an L that is too small, makes the distance wrong.

  Example:
    >>> inner = lambda y, x: 0.5 * jnp.sum((y - 1.0) ** 2) + 0.5 * x * jnp.sum(y**2)
    >>> solver = strongly_convex_descent(
    ...   inner, strong_convexity=lambda x: 1 + x, smoothness=lambda x: 1 + x)
    >>> y, info = jr.solvers.run_until(solver, jnp.zeros(2), 1.0, tol=1e-6, max_steps=20)
    >>> y, int(info.status)
    (Array([0.5, 0.5], dtype=float32), 0)

  Reference:
    Nesterov, Lectures on convex optimization, 2018, section 2.2.1 (constant step scheme III).
  """
  fun = scalar_of("inner", inner)
  check_constant("strong_convexity", strong_convexity)
  check_constant("smoothness", smoothness)

  def init(params: PyTree, hyper: PyTree, *data: PyTree) -> StronglyConvexState:
    del hyper, data
    return StronglyConvexState(params, params, jnp.zeros((), jnp.int32))

  def step(
    state: StronglyConvexState, hyper: PyTree, *data: PyTree
  ) -> tuple[StronglyConvexState, StronglyConvexInfo]:
    value, grad = jax.value_and_grad(fun)(state.anchor, hyper, *data)
    mu = constant_at("strong_convexity", strong_convexity, hyper, data, value.dtype)
    smooth = constant_at("smoothness", smoothness, hyper, data, value.dtype)
    root = jnp.sqrt(mu / smooth)
    beta = (1 - root) / (1 + root)
    params = jax.tree.map(lambda z, g: z - (g / smooth).astype(z.dtype), state.anchor, grad)
    anchor = jax.tree.map(lambda new, old: new + beta.astype(new.dtype) * (new - old), params,
                          state.params)  # fmt: skip
    # What rounding alone makes of the gradient at a point of this size.
    eps = jnp.finfo(value.dtype).eps
    floor = eps / 2 * smooth * tree_norm(params)
    error = jnp.maximum(tree_norm(grad), floor).astype(value.dtype)
    new = StronglyConvexState(params, anchor, state.count + 1)
    return new, StronglyConvexInfo(error, value)

  return Solver(init, step)
