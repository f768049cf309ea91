"""Euclidean and Kullback-Leibler projections onto transportation and Birkhoff polytopes.

The Euclidean projection is found by an interior-point method. The Kullback-Leibler one minimises a
semi-dual, a smooth convex function of the multipliers v of the columns with the rows solved exactly
for given v, by Newton's method along a path of growing differences.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.numerics import safe_divide, upcast
from jaxopt_robust.projections import _common, _marginals
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "kl_projection_birkhoff",
  "kl_projection_transport",
  "projection_birkhoff",
  "projection_transport",
]

# Differences in the logarithm of a plan that Newton's method deals with from any start.
_START = 16.0


def _prepare(
  sim: ArrayLike, marginals: Any, tol: float, max_steps: int
) -> tuple[Array, Array, Array, Array, Array, Any]:
  """Checked inputs in float32 at least: similarity, marginals, whether they agree, the bound."""
  a, b = _arguments.parts(marginals, "row sums", "column sums", name="marginals")
  array = _common.strong(_checks.check_float_array("sim", sim, rank=2))
  wide = upcast(array)
  _checks.check_positive("tol", tol)
  _checks.check_int("max_steps", max_steps, minimum=1)
  for name, value, size in (("row sums", a, wide.shape[0]), ("column sums", b, wide.shape[1])):
    _checks.check_non_negative(name, value)
    if jnp.shape(value) != (size,):
      raise ValueError(f"{name} must have shape ({size},); got {jnp.shape(value)}.")
  a, b = jnp.asarray(a, wide.dtype), jnp.asarray(b, wide.dtype)
  total = jnp.maximum(jnp.sum(a), jnp.sum(b))
  slack = jnp.sqrt(jnp.finfo(wide.dtype).eps) * total
  equal = jnp.abs(jnp.sum(a) - jnp.sum(b)) <= slack
  _checks.check_holds(
    equal | jnp.isnan(total), "row sums and column sums must have the same total."
  )
  good = equal & jnp.all(a >= 0) & jnp.all(b >= 0) & jnp.all(jnp.isfinite(wide))
  b = b * jax.lax.stop_gradient(jnp.where(jnp.sum(b) > 0, jnp.sum(a) / jnp.sum(b), 1))
  eps = 8 * jnp.finfo(wide.dtype).eps
  bound = jnp.maximum(jnp.asarray(tol, wide.dtype), eps) * jax.lax.stop_gradient(
    jnp.maximum(jnp.max(a), jnp.max(b))
  )
  return wide, a, b, good, bound, array.dtype


def _close(plan: Array, a: Array, b: Array, bound: Array, size: ArrayLike) -> Array:
  """Whether sums are right, to the bound or as far as rounding of numbers of a size lets them."""
  plan = jax.lax.stop_gradient(plan)
  rows, columns = jnp.abs(jnp.sum(plan, axis=1) - a), jnp.abs(jnp.sum(plan, axis=0) - b)
  eps = jnp.finfo(plan.dtype).eps
  relative = jnp.maximum(jnp.sqrt(eps), 64 * eps * size)
  allowed = jnp.maximum(2 * bound, relative * jnp.maximum(jnp.max(a), jnp.max(b)))
  return jnp.maximum(jnp.max(rows), jnp.max(columns)) <= allowed


@partial(jax.jit, static_argnames="max_steps")
def _euclidean(wide: Array, a: Array, b: Array, tol: Array, max_steps: int) -> Array:
  """The projection for marginals of the same total, both >= 0; NaN where it is not found."""
  flip = wide.shape[1] > wide.shape[0]  # the linear systems have the size of the columns
  if flip:
    wide, a, b = wide.T, b, a
  s, fixed_a, fixed_b = jax.lax.stop_gradient((wide, a, b))
  live = (fixed_a > 0)[:, None] & (fixed_b > 0)[None, :]
  # The method works at marginals of size 1; a shift of a row of s changes nothing.
  unit = jnp.maximum(jnp.max(fixed_a), jnp.max(fixed_b))
  unit = jnp.where(unit > 0, unit, 1)
  top = jnp.max(jnp.where(live, s, -jnp.inf), axis=1, keepdims=True)
  z = jnp.where(live, s - jnp.where(top == -jnp.inf, 0, top), 0) / unit
  bound = jnp.maximum(tol * tol, 1e-3 * jnp.finfo(s.dtype).eps)
  plan, dual = _marginals.interior_point(z, fixed_a / unit, fixed_b / unit, live, bound, max_steps)
  mask = live & (plan > dual)
  # The plan is wide + u + v on its support; solve for what u and v still lack.
  base = jnp.where(mask, unit * plan + (wide - jax.lax.stop_gradient(wide)), 0)
  du, dv = _marginals.multipliers(
    mask.astype(s.dtype), a - jnp.sum(base, axis=1), b - jnp.sum(base, axis=0)
  )
  out = jnp.where(mask, base + du[:, None] + dv[None, :], 0)
  out = out + jax.lax.stop_gradient(jnp.maximum(out, 0) - out)
  out = _common.or_nan(_close(out, fixed_a, fixed_b, tol * unit, 0.0), out)
  return out.T if flip else out


def projection_transport(
  sim: ArrayLike, marginals: Any, *, tol: float = 1e-9, max_steps: int = 100
) -> Array:
  r"""Projection onto a transportation polytope.

  Solves argmin_P 1/2 ||P - sim||_F^2 subject to P >= 0, P 1 = a, P^T 1 = b, by an interior-point
  method and a last exact solve on the support. With sim = -C / gamma it is optimal transport with a
  quadratic penalty.

  Args:
    sim: float[m, n] array.
    marginals: pair (a, b) of float[m] and float[n], >= 0, of the same total; may be traced. Zeros
      give rows or columns of zeros.
    tol: > 0, how small an entry of P and its multiplier are told apart, where marginals have size 1
      (as far as rounding allows): the iteration ends when no product of them exceeds tol^2 times
      the range of ``sim``. The last solve removes the error of the entries that are positive.
    max_steps: static, the largest number of steps.

  Returns:
    float[m, n] of the dtype of ``sim``; NaN when traced marginals are negative or do not agree,
    or max_steps is too small.

  Raises:
    TypeError: when ``sim`` is not floating-point.
    ValueError: when shapes do not fit, or the marginals are negative or have unequal totals.

  Note:
    A step costs a Cholesky factorisation of the smaller side; ten to thirty steps are the rule, for
    any range of ``sim``. The derivative holds the support constant: it is a linear solve, of any
    order and mode.

  Example:
    >>> half = jnp.array([0.5, 0.5])
    >>> projection_transport(jnp.array([[1.0, 0.0], [0.0, 0.0]]), (half, half)).round(4)
    Array([[0.5, 0. ],
           [0. , 0.5]], dtype=float32)

  Reference:
    Blondel, Seguy and Rolet, Smooth and sparse optimal transport, 2018 (the problem); Mehrotra, On
    the implementation of a primal-dual interior point method, 1992.
  """
  wide, a, b, good, _, dtype = _prepare(sim, marginals, tol, max_steps)
  out = _euclidean(wide, a, b, jnp.asarray(tol, wide.dtype), max_steps)
  return _common.or_nan(good, out).astype(dtype)


def projection_birkhoff(sim: ArrayLike, *, tol: float = 1e-9, max_steps: int = 100) -> Array:
  r"""Projection onto the doubly stochastic matrices (the Birkhoff polytope).

  Solves argmin_P 1/2 ||P - sim||_F^2 subject to P >= 0, P 1 = 1, P^T 1 = 1.

  Args:
    sim: float[n, n] array.
    tol: as in ``projection_transport``.
    max_steps: as in ``projection_transport``.

  Returns:
    float[n, n] of the dtype of ``sim``.

  Raises:
    TypeError: when ``sim`` is not floating-point.
    ValueError: when ``sim`` is no square matrix, or tol or max_steps are out of range.

  Note:
    Derivatives as in ``projection_transport``.

  Example:
    >>> projection_birkhoff(jnp.array([[1.0, 0.0], [0.0, 0.0]])).round(4)
    Array([[0.75, 0.25],
           [0.25, 0.75]], dtype=float32)

  Reference:
    Li, Sun and Toh, On the efficient computation of a projector over the Birkhoff polytope, 2020
    (the problem; the method here is that of ``projection_transport``).
  """
  ones = jnp.ones(_square(sim))
  return projection_transport(sim, (ones, ones), tol=tol, max_steps=max_steps)


def _square(sim: ArrayLike) -> int:
  shape = _checks.check_float_array("sim", sim).shape
  if len(shape) != 2 or shape[0] != shape[1]:
    raise ValueError(f"sim must be a square matrix; got shape {shape}.")
  return shape[0]


@partial(jax.jit, static_argnames="max_steps")
def _kl_values(s: Array, a: Array, b: Array, bound: Array, max_steps: int) -> Array:
  live = (a > 0)[:, None] & (b > 0)[None, :]
  log_a = jnp.log(jnp.where(a > 0, a, 1))
  log_b = jnp.log(jnp.where(b > 0, b, 1))
  # A shift of a row changes nothing; without it the largest entry measures the differences.
  top = jnp.max(jnp.where(live, s, -jnp.inf), axis=1, keepdims=True)
  s = jnp.where(live, s - jnp.where(top == -jnp.inf, 0, top), 0)
  lowest = -1e30 if s.dtype == jnp.float32 else -1e300

  def columns(v: Array, c: Array) -> tuple[Array, Array]:
    z = c * s + v[None, :]
    mass = jax.nn.logsumexp(jnp.where(live, z, lowest), axis=1)
    return jnp.where(live, z - mass[:, None] + log_a[:, None], -jnp.inf), mass

  def plan_of(v: Array, c: Array) -> tuple[Array, Array, Array]:
    log_plan, mass = columns(v, c)
    plan = jnp.exp(log_plan)
    value = jnp.sum(a * jnp.where(a > 0, mass, 0)) - jnp.vdot(b, v)
    return plan, jnp.sum(plan, axis=0) - b, value

  def sinkhorn(v: Array, c: Array) -> Array:
    log_plan, _ = columns(v, c)
    have = jax.nn.logsumexp(log_plan, axis=0)
    return jnp.where(b > 0, v + log_b - jnp.where(b > 0, have, 0), 0)

  def stage(carry: tuple) -> tuple:
    c, v, old_c, old_v = carry
    new_c = jnp.where(c == 0, jnp.minimum(1, first), jnp.minimum(1, 2 * c))
    # Multipliers are nearly linear in c.
    ratio = safe_divide(new_c - c, c - old_c)
    guess = sinkhorn(sinkhorn(v + ratio * (v - old_v), new_c), new_c)
    new, _ = _marginals.newton(
      lambda v: plan_of(v, new_c), lambda v: sinkhorn(v, new_c), guess,
      jnp.where(new_c < 1, jnp.maximum(bound, 1e-6 * jnp.max(b)), bound), max_steps,
    )  # fmt: skip
    return new_c, new, c, v

  first = _START / jnp.maximum(_START, -jnp.min(s))
  zero = jnp.zeros((), s.dtype)
  # At c = 0 the plan is a b^T, with v = log b.
  carry = (zero, log_b, zero, log_b)
  v = jax.lax.while_loop(lambda carry: carry[0] < 1, stage, carry)[1]
  plan = jnp.exp(columns(v, jnp.ones_like(zero))[0])
  return _common.or_nan(_close(plan, a, b, bound, -jnp.min(s)), plan)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _entropic(max_steps: int, s: Array, a: Array, b: Array, bound: Array) -> Array:
  """The projection for marginals of the same total, both >= 0; NaN where it is not found."""
  return _kl_values(s, a, b, bound, max_steps)


@_entropic.defjvp
def _entropic_rule(max_steps: int, primals: tuple, tangents: tuple) -> tuple[Array, Array]:
  plan = _entropic(max_steps, *primals)
  ds, da, db, _ = tangents
  base = plan * ds
  du, dv = _marginals.multipliers(plan, da - jnp.sum(base, axis=1), db - jnp.sum(base, axis=0))
  return plan, base + plan * (du[:, None] + dv[None, :])


def kl_projection_transport(
  sim: ArrayLike, marginals: Any, *, tol: float = 1e-9, max_steps: int = 100
) -> Array:
  r"""Kullback-Leibler projection onto a transportation polytope (entropic optimal transport).

  Solves argmin_P sum_ij P_ij (log P_ij - sim_ij - 1) subject to P >= 0, P 1 = a, P^T 1 = b, that is
  the projection of exp(sim): the fixed point of Sinkhorn's iteration, found in the log domain by
  Newton's method with Sinkhorn steps where Newton's fail.

  Args:
    sim: float[m, n] array; -C / gamma for a cost C and an entropy weight gamma.
    marginals: pair (a, b) of float[m] and float[n], >= 0, of the same total; may be traced. Zeros
      give rows or columns of zeros.
    tol: > 0, the largest error of a column sum, relative to the largest marginal (at least a few
      roundings of the dtype); row sums are exact to rounding.
    max_steps: static, the largest number of Newton or Sinkhorn steps.

  Returns:
    float[m, n] of the dtype of ``sim``; NaN when traced marginals are negative or do not agree,
    or max_steps is too small.

  Raises:
    TypeError: when ``sim`` is not floating-point.
    ValueError: when shapes do not fit, or the marginals are negative or have unequal totals.

  Note:
    Sinkhorn's iteration converges linearly and slowly for a large range of ``sim``; Newton's method
    does not slow down, at the cost of a Cholesky factorisation of the smaller side a step. The
    derivative is implicit: a linear solve, of any order and mode.

  Example:
    >>> half = jnp.array([0.5, 0.5])
    >>> kl_projection_transport(jnp.array([[1.0, 0.0], [0.0, 1.0]]), (half, half)).round(1)
    Array([[0.4, 0.1],
           [0.1, 0.4]], dtype=float32)

  Reference:
    Cuturi, Sinkhorn distances: lightspeed computation of optimal transport, 2013; Brauer, Clason,
    Lorenz and Wirth, A Sinkhorn-Newton method for entropic optimal transport, 2017.
  """
  wide, a, b, good, bound, dtype = _prepare(sim, marginals, tol, max_steps)
  flip = wide.shape[1] > wide.shape[0]
  out = _entropic(max_steps, *((wide.T, b, a) if flip else (wide, a, b)), bound)
  return _common.or_nan(good, out.T if flip else out).astype(dtype)


def kl_projection_birkhoff(sim: ArrayLike, *, tol: float = 1e-9, max_steps: int = 100) -> Array:
  r"""Kullback-Leibler projection onto the doubly stochastic matrices.

  Solves argmin_P sum_ij P_ij (log P_ij - sim_ij - 1) subject to P >= 0, P 1 = 1, P^T 1 = 1: rows
  and columns of exp(sim) are scaled to sum to 1.

  Args:
    sim: float[n, n] array.
    tol: as in ``kl_projection_transport``.
    max_steps: as in ``kl_projection_transport``.

  Returns:
    float[n, n] of the dtype of ``sim``.

  Raises:
    TypeError: when ``sim`` is not floating-point.
    ValueError: when ``sim`` is no square matrix, or tol or max_steps are out of range.

  Note:
    Derivatives as in ``kl_projection_transport``.

  Example:
    >>> kl_projection_birkhoff(jnp.array([[1.0, 0.0], [0.0, 1.0]])).round(1)
    Array([[0.7, 0.3],
           [0.3, 0.7]], dtype=float32)

  Reference:
    Sinkhorn and Knopp, Concerning nonnegative matrices and doubly stochastic matrices, 1967.
  """
  ones = jnp.ones(_square(sim))
  return kl_projection_transport(sim, (ones, ones), tol=tol, max_steps=max_steps)
