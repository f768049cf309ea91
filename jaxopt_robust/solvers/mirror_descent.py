"""Mirror descent, and the projected gradient method as its Euclidean case."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.solvers._common import (
  add_scaled,
  check_stepsize,
  displacement,
  hashable,
  scalar_dtype,
  smooth_part,
  step_at,
)
from jaxopt_robust.solvers.proximal_gradient import ista
from jaxopt_robust.solvers.types import Solver
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = [
  "MirrorDescentInfo",
  "MirrorDescentState",
  "entropic_step",
  "make_projection_grad",
  "mirror_descent",
  "projected_gradient",
]


class MirrorDescentState(NamedTuple):
  """State of mirror descent.

  Attributes:
    params: the iterate.
    stepsize: scalar, the step size to take next.
    count: int32, steps done.
  """

  params: PyTree
  stepsize: Array
  count: Array  # type: ignore[assignment]


class MirrorDescentInfo(NamedTuple):
  """Diagnostics of a mirror descent step.

  Attributes:
    error: ``||x_{k+1} - x_k||_2 / s``, and at least the rounding of that formula.
    value: the objective at ``x_k``.
    stepsize: the step size ``s`` that was used.
    aux: what ``fun`` returned besides the value at ``x_k`` (None without ``has_aux``).
  """

  error: Array
  value: Array
  stepsize: Array
  aux: Any = None


@hashable
def mirror_descent(
  fun: Callable[..., Any],
  projection_grad: Callable[..., PyTree],
  *,
  stepsize: ArrayLike | Callable[[Array], ArrayLike],
  has_aux: bool = False,
) -> Solver:
  r"""Mirror descent.

  Minimises f(x) over a set C, with a distance-generating function phi, by

    x_{k+1} = argmin_{x in C} <grad f(x_k), x> + (1/s) D_phi(x, x_k),

  D_phi the Bregman divergence. The stopping quantity ``info.error`` is ||x_{k+1} - x_k||_2 / s.

  Args:
    fun: ``fun(params, *data) -> scalar``, the objective f.
    projection_grad: ``projection_grad(x, grad, s, hyper) -> x_like``, the step above:
      ``entropic_step`` for probability vectors, or one from ``make_projection_grad``.
    stepsize: s > 0, or a schedule ``count -> s`` (1/sqrt(count + 1) for non-smooth f); at most the
      strong convexity of phi over the Lipschitz constant of grad f for the rate 1/k.
    has_aux: static; whether ``fun`` returns a pair ``(scalar, aux)``: aux is ``info.last.aux``.

  Returns:
    ``Solver`` with states ``MirrorDescentState`` and infos ``MirrorDescentInfo``; ``hyper`` is what
    ``projection_grad`` takes.

  Raises:
    TypeError: when a function is not callable.
    ValueError: when ``stepsize`` is a number that is not positive.

  Note:
    Entropic steps reach a vertex only in the limit: entries that vanish do so linearly at best.

  Example:
    >>> solver = mirror_descent(lambda p, c: jnp.vdot(c, p), entropic_step, stepsize=1.0)
    >>> cost = jnp.array([1.0, 0.0, 2.0])
    >>> p, _ = jr.solvers.run_until(solver, jnp.ones(3) / 3, None, cost, tol=1e-4, max_steps=50)
    >>> p.round(3)
    Array([0., 1., 0.], dtype=float32)

  Reference:
    Nemirovsky and Yudin, Problem complexity and method efficiency in optimization, 1983; Beck and
    Teboulle, Mirror descent and nonlinear projected subgradient methods for convex optimization,
    2003, section 3.
  """
  _arguments.check_callable("fun", fun)
  _arguments.check_callable("projection_grad", projection_grad)
  check_stepsize("stepsize", stepsize)

  def init(params: PyTree, hyper: PyTree, *data: PyTree, **named: PyTree) -> MirrorDescentState:
    del hyper, data, named
    count = jnp.zeros((), jnp.int32)
    return MirrorDescentState(params, step_at(stepsize, count, scalar_dtype(params)), count)

  def step(state: MirrorDescentState, hyper: PyTree, *data: PyTree, **named: PyTree) -> tuple:
    value, grad, aux = smooth_part(fun, has_aux, state.params, data, named)
    s, count = state.stepsize, state.count + 1
    params = projection_grad(state.params, grad, s, hyper)
    error = displacement(params, state.params, s)
    new = MirrorDescentState(params, step_at(stepsize, count, s.dtype), count)
    return new, MirrorDescentInfo(error, value, s, aux)

  return Solver(init, step)


def entropic_step(x: PyTree, grad: PyTree, stepsize: ArrayLike, hyper: Any = None) -> PyTree:
  r"""The mirror descent step on probability vectors: exponentiated gradient.

  Computes x_i exp(-s grad_i) / sum_j x_j exp(-s grad_j), the minimiser over the simplex of
  <grad, y> + (1/s) KL(y || x), on the last axis, in the log domain.

  Args:
    x: float[..., n] or pytree of such arrays, >= 0 with sum 1 over the last axis. Entries that are
      0 stay 0: start inside.
    grad: like ``x``.
    stepsize: s > 0, a scalar.
    hyper: None, or the sum of the entries, > 0 (1 by default); may be traced.

  Returns:
    Like ``x``.

  Raises:
    TypeError: when ``x`` or ``grad`` holds anything but real numbers.
    ValueError: when ``hyper`` or ``stepsize`` is not positive, or ``grad`` does not fit ``x``.

  Example:
    >>> entropic_step(jnp.array([0.5, 0.5]), jnp.array([0.0, jnp.log(3.0)]), 1.0).round(2)
    Array([0.75, 0.25], dtype=float32)

  Reference:
    Kivinen and Warmuth, Exponentiated gradient versus gradient descent for linear predictors, 1997.
  """
  x, grad = _checks.check_float_tree("x", x), _checks.check_float_tree("grad", grad)
  _checks.check_same_structure("grad", grad, "x", x)
  mass: ArrayLike = 1.0 if hyper is None else hyper
  _checks.check_positive("hyper", mass)
  _checks.check_positive("stepsize", stepsize, scalar=True)

  def one(v: Array, g: Array) -> Array:
    positive = v > 0
    logits = jnp.where(positive, jnp.log(jnp.where(positive, v, 1)), -jnp.inf)
    weights = jax.nn.softmax(logits - jnp.asarray(stepsize, v.dtype) * g, axis=-1)
    # NaN and negative entries are no probabilities.
    bad = jnp.any(~(v >= 0), axis=-1, keepdims=True)
    return jnp.where(bad, jnp.nan, jnp.asarray(mass, v.dtype) * weights)

  return jax.tree.map(one, x, grad)


def make_projection_grad(
  projection: Callable[..., PyTree], mapping_fun: Callable[[PyTree], PyTree]
) -> Callable[..., PyTree]:
  r"""A mirror descent step from a Bregman projection and the gradient of its generating function.

  Returns ``(x, grad, s, hyper) -> projection(mapping_fun(x) - s grad, hyper)``: a step in the dual
  space of grad phi, and back through the projection.

  Args:
    projection: ``projection(y, hyper) -> x``, from the dual space onto the set, such as
      ``jr.projections.kl_projection_transport``; called as ``projection(y)`` where hyper is None.
    mapping_fun: grad phi, such as ``jnp.log`` for the entropy; applied leaf by leaf.

  Returns:
    ``projection_grad(x, grad, s, hyper) -> x_like`` for ``mirror_descent``.

  Raises:
    TypeError: when an argument is not a function.

  Example:
    >>> step = make_projection_grad(jax.nn.softmax, jnp.log)
    >>> step(jnp.array([0.5, 0.5]), jnp.array([0.0, jnp.log(3.0)]), 1.0, None).round(2)
    Array([0.75, 0.25], dtype=float32)

  Reference:
    Beck and Teboulle, Mirror descent and nonlinear projected subgradient methods for convex
    optimization, 2003, equation 3.11.
  """
  _arguments.check_callable("projection", projection)
  _arguments.check_callable("mapping_fun", mapping_fun)

  def projection_grad(x: PyTree, grad: PyTree, stepsize: ArrayLike, hyper: Any = None) -> PyTree:
    y = add_scaled(jax.tree.map(mapping_fun, x), -jnp.asarray(stepsize), grad)
    return projection(y) if hyper is None else projection(y, hyper)

  return projection_grad


@hashable
def projected_gradient(
  fun: Callable[..., Any],
  projection: Callable[..., PyTree],
  *,
  stepsize: ArrayLike | Callable[[Array], ArrayLike] | None = None,
  init_stepsize: ArrayLike = 1.0,
  max_backtracks: int = 60,
  has_aux: bool = False,
) -> Solver:
  r"""Projected gradient descent.

  Minimises f(x) over a set C by x_{k+1} = P_C(x_k - s grad f(x_k)). It is ``ista`` with the
  projection as its operator; for the accelerated form give ``fista`` the operator
  ``jr.prox.make_prox_from_projection(projection)``, for long steps use
  ``spectral_proximal_gradient``.

  Args:
    fun: ``fun(params, *data) -> scalar``, the objective f, smooth.
    projection: ``projection(x, hyper) -> x_like``, called as ``projection(x)`` where hyper is None.
    stepsize: > 0, at most 1/L with L the Lipschitz constant of grad f; may be traced. A function
      ``count -> stepsize`` is a schedule. None: backtracking.
    init_stepsize: > 0, first trial step of the backtracking.
    max_backtracks: >= 1, static; after so many rejected steps the solve is stalled (status 3).
    has_aux: static; whether ``fun`` returns a pair ``(scalar, aux)``: aux is ``info.last.aux``.

  Returns:
    ``Solver`` with states ``IstaState`` and infos ``ProximalGradientInfo``; ``hyper`` is the set's
    parameter (a radius, bounds), or None.

  Raises:
    TypeError: when a function is not callable.
    ValueError: when a step size is not positive.

  Example:
    >>> solver = projected_gradient(lambda x, b: 0.5 * jnp.sum((x - b) ** 2),
    ...                             optax.projections.projection_simplex, stepsize=1.0)
    >>> b = jnp.array([0.9, 0.4])
    >>> jr.solvers.run_until(solver, jnp.ones(2) / 2, 1.0, b, tol=1e-5, max_steps=9)[0].round(2)
    Array([0.75, 0.25], dtype=float32)

  Reference:
    Goldstein, Convex programming in Hilbert space, 1964; Levitin and Polyak, Constrained
    minimization methods, 1966.
  """
  _arguments.check_callable("projection", projection)

  def prox(x: PyTree, hyper: Any, scaling: ArrayLike) -> PyTree:
    del scaling
    return projection(x) if hyper is None else projection(x, hyper)

  return ista(
    fun, prox, stepsize=stepsize, init_stepsize=init_stepsize, max_backtracks=max_backtracks,
    has_aux=has_aux,
  )  # fmt: skip
