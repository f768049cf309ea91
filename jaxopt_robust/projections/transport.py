"""Euclidean and Kullback-Leibler projections onto transportation and Birkhoff polytopes.

Both minimise a semi-dual, a smooth convex function of the multipliers v of the columns: the rows
are solved exactly for given v. Newton's method on it has the matrix
diag(W^T 1) - W^T diag(1 / W 1) W, with W the support of the plan (Euclidean) or the plan itself
(Kullback-Leibler).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.numerics import upcast
from jaxopt_robust.projections import _common
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "kl_projection_birkhoff",
  "kl_projection_transport",
  "projection_birkhoff",
  "projection_transport",
]


def _schur(weights: Array, ridge: Array) -> tuple[Any, Array]:
  """Cholesky factor of diag(W^T 1) - W^T diag(1 / W 1) W + ridge I, and the row sums."""
  rows = jnp.sum(weights, axis=1)
  scaled = weights * _common.over(jnp.ones_like(rows), rows)[:, None]
  matrix = jnp.diag(jnp.sum(weights, axis=0)) - weights.T @ scaled
  return jax.scipy.linalg.cho_factor(matrix + ridge * jnp.eye(matrix.shape[0])), rows


def _multipliers(weights: Array, row_rhs: Array, column_rhs: Array) -> tuple[Array, Array]:
  """Solves [diag(W 1), W; W^T, diag(W^T 1)] (u, v) = (row_rhs, column_rhs), which is consistent.

  The matrix is singular: a constant moves between u and v. The ridge picks a solution, and
  repeating the solve on the residual removes its effect.
  """
  fixed = jax.lax.stop_gradient(weights)
  # Errors fall by (ridge / eigenvalue) a round: a cube root of eps needs three.
  ridge = jnp.cbrt(jnp.finfo(weights.dtype).eps) * jnp.max(jnp.sum(fixed, axis=0))
  factor, rows = _schur(fixed, jnp.where(ridge > 0, ridge, 1))
  columns = jnp.sum(fixed, axis=0)
  invert = lambda r: _common.over(r, rows)

  size = row_rhs.shape[0]

  def matvec(pair: Array) -> Array:
    u, v = pair[:size], pair[size:]
    across, down = jnp.sum(weights, axis=1), jnp.sum(weights, axis=0)
    return jnp.concatenate([across * u + weights @ v, weights.T @ u + down * v])

  def solve(_: Any, pair: Array) -> Array:
    u, v = jnp.zeros_like(pair[:size]), jnp.zeros_like(pair[size:])
    for _round in range(4):
      row = pair[:size] - rows * u - fixed @ v
      column = pair[size:] - fixed.T @ u - columns * v
      dv = jax.scipy.linalg.cho_solve(factor, column - fixed.T @ invert(row))
      u, v = u + invert(row - fixed @ dv), v + dv
    return jnp.concatenate([u, v])

  both = jax.lax.custom_linear_solve(
    matvec, jnp.concatenate([row_rhs, column_rhs]), solve=solve, symmetric=True
  )
  return both[:size], both[size:]


def _newton(
  plan_of: Callable[[Array], tuple[Array, Array, Array]],
  weights_of: Callable[[Array], Array],
  fallback: Callable[[Array, Array], Array],
  v: Array,
  bound: Array,
  max_steps: int,
) -> Array:
  """Minimises the semi-dual; ``plan_of(v)`` returns the plan, the gradient and the value."""

  def step(carry: tuple) -> tuple:
    v, plan, grad, value, error, count = carry
    weights = weights_of(plan)
    scale = jnp.max(jnp.sum(weights, axis=0))
    # A ridge that dies with the error keeps the quadratic rate; the floor keeps Cholesky alive.
    floor = 16 * jnp.finfo(v.dtype).eps * v.shape[0]
    ridge = scale * jnp.maximum(floor, jnp.minimum(1e-3, 0.1 * error / (error + bound * 1e3)))
    ridge = jnp.where(error > 1e3 * bound, jnp.minimum(ridge, 1e-3 * scale), floor * scale)
    factor, _ = _schur(weights, jnp.where(ridge > 0, ridge, 1))
    d = -jax.scipy.linalg.cho_solve(factor, grad)
    slope = jnp.vdot(grad, d)

    def attempt(t: Array) -> tuple:
      new = v + t * d
      return new, *plan_of(new)

    def shorter(inner: tuple) -> Array:
      t, (_, _, new_grad, new_value) = inner
      falls = new_value <= value + 1e-4 * t * slope
      # Near the end the value has no digits left: the gradient decides.
      falls |= jnp.max(jnp.abs(new_grad)) <= 0.7 * error
      return ~falls & (t > 1e-3)

    def halve(inner: tuple) -> tuple:
      return inner[0] / 2, attempt(inner[0] / 2)

    one = jnp.ones((), v.dtype)
    t, (new, new_plan, new_grad, new_value) = jax.lax.while_loop(
      shorter, halve, (one, attempt(one))
    )
    failed = (t <= 1e-3) | ~jnp.isfinite(jnp.max(jnp.abs(new_grad)))
    other = fallback(v, grad)
    new, new_plan, new_grad, new_value = jax.lax.cond(
      failed, lambda: (other, *plan_of(other)), lambda: (new, new_plan, new_grad, new_value)
    )
    return new, new_plan, new_grad, new_value, jnp.max(jnp.abs(new_grad)), count + 1

  plan, grad, value = plan_of(v)
  carry = (v, plan, grad, value, jnp.max(jnp.abs(grad)), jnp.zeros((), jnp.int32))
  return jax.lax.while_loop(lambda c: (c[4] > bound) & (c[5] < max_steps), step, carry)[0]


def _prepare(
  sim: ArrayLike, marginals: Any, tol: float, max_steps: int
) -> tuple[Array, Array, Array, Array, Array, Any]:
  """Checked inputs in float32 at least: similarity, marginals, whether they agree, the bound."""
  a, b = _checks.parts(marginals, "row sums", "column sums")
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


def projection_transport(
  sim: ArrayLike, marginals: Any, *, tol: float = 1e-9, max_steps: int = 100
) -> Array:
  r"""Projection onto a transportation polytope.

  Solves argmin_P 1/2 ||P - sim||_F^2 subject to P >= 0, P 1 = a, P^T 1 = b, by a semismooth Newton
  method on the semi-dual. With sim = -C / gamma it is optimal transport with a quadratic penalty.

  Args:
    sim: float[m, n] array.
    marginals: pair (a, b) of float[m] and float[n], >= 0, of the same total; may be traced. Zeros
      give rows or columns of zeros.
    tol: > 0, the largest error of a column sum at the end of the iteration, relative to the largest
      marginal (at least a few roundings of the dtype). A last solve on the support removes it.
    max_steps: static, the largest number of Newton steps.

  Returns:
    float[m, n] of the dtype of ``sim``; NaN when traced marginals are negative or do not agree.

  Raises:
    TypeError: when ``sim`` is not floating-point.
    ValueError: when shapes do not fit, or the marginals are negative or have unequal totals.

  Note:
    A step costs a Cholesky factorisation of the smaller side. The derivative holds the support
    constant: it is a linear solve, of any order and mode.

  Example:
    >>> half = jnp.array([0.5, 0.5])
    >>> projection_transport(jnp.array([[1.0, 0.0], [0.0, 0.0]]), (half, half)).round(4)
    Array([[0.5, 0. ],
           [0. , 0.5]], dtype=float32)

  Reference:
    Blondel, Seguy and Rolet, Smooth and sparse optimal transport, 2018, equation 10 (semi-dual);
    Li, Sun and Toh, On the efficient computation of a projector over the Birkhoff polytope, 2020
    (the Newton system).
  """
  wide, a, b, good, bound, dtype = _prepare(sim, marginals, tol, max_steps)
  flip = wide.shape[1] > wide.shape[0]  # the linear systems have the size of the columns
  if flip:
    wide, a, b = wide.T, b, a
  s, fixed_a, fixed_b = jax.lax.stop_gradient((wide, a, b))
  live = (fixed_a > 0)[:, None] & (fixed_b > 0)[None, :]
  s = jnp.where(live, s, -jnp.inf)
  some = jnp.any(live)

  def rows(v: Array) -> tuple[Array, Array]:
    z = s + v[None, :]
    top = jnp.max(z, axis=1, keepdims=True)
    top = jnp.where(top == -jnp.inf, 0, top)
    return z - top, _common.threshold(z - top, live.astype(s.dtype), fixed_a[:, None])

  def plan_of(v: Array) -> tuple[Array, Array, Array]:
    z, plan = rows(v)
    shift = jnp.max(jnp.where(live, s + v[None, :], -jnp.inf), axis=1)
    gain = jnp.sum(plan * jnp.where(plan > 0, z, 0)) - jnp.sum(plan * plan) / 2
    gain = gain + jnp.sum(fixed_a * jnp.where(fixed_a > 0, shift, 0))
    return plan, jnp.sum(plan, axis=0) - fixed_b, gain - jnp.vdot(fixed_b, v)

  # The multipliers that would be right if no entry were cut off.
  count = jnp.maximum(jnp.sum(live, axis=0), 1)
  start = (fixed_b - jnp.sum(jnp.where(live, s, 0), axis=0)) / count
  start = start - jnp.mean(start)
  v = _newton(
    plan_of, lambda p: (p > 0).astype(s.dtype), lambda v, g: v - g / s.shape[0],
    jnp.where(some, start, 0), bound, max_steps,
  )  # fmt: skip
  _, plan = rows(v)
  mask = plan > 0
  # The plan is wide + u + v on its support; solve for what u and v still lack.
  base = jnp.where(mask, plan + (wide - jax.lax.stop_gradient(wide)), 0)
  du, dv = _multipliers(mask.astype(s.dtype), a - jnp.sum(base, axis=1), b - jnp.sum(base, axis=0))
  out = jnp.where(mask, base + du[:, None] + dv[None, :], 0)
  out = out + jax.lax.stop_gradient(jnp.maximum(out, 0) - out)
  out = _common.or_nan(good, out).astype(dtype)
  return out.T if flip else out


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
    Li, Sun and Toh, On the efficient computation of a projector over the Birkhoff polytope, 2020.
  """
  ones = jnp.ones(_square(sim))
  return projection_transport(sim, (ones, ones), tol=tol, max_steps=max_steps)


def _square(sim: ArrayLike) -> int:
  shape = jnp.shape(sim)
  if len(shape) != 2 or shape[0] != shape[1]:
    raise ValueError(f"sim must be a square matrix; got shape {shape}.")
  return shape[0]


def _kl_values(s: Array, a: Array, b: Array, bound: Array, max_steps: int) -> Array:
  live = (a > 0)[:, None] & (b > 0)[None, :]
  log_a = jnp.log(jnp.where(a > 0, a, 1))
  log_b = jnp.log(jnp.where(b > 0, b, 1))
  s = jnp.where(live, s, -jnp.inf)

  def columns(v: Array) -> tuple[Array, Array]:
    z = s + v[None, :]
    mass = jax.nn.logsumexp(jnp.where(live, z, -1e30 if s.dtype == jnp.float32 else -1e300), axis=1)
    return jnp.where(live, z - mass[:, None] + log_a[:, None], -jnp.inf), mass

  def plan_of(v: Array) -> tuple[Array, Array, Array]:
    log_plan, mass = columns(v)
    plan = jnp.exp(log_plan)
    value = jnp.sum(a * jnp.where(a > 0, mass, 0)) - jnp.vdot(b, v)
    return plan, jnp.sum(plan, axis=0) - b, value

  def sinkhorn(v: Array, _: Array) -> Array:
    log_plan, _ = columns(v)
    have = jax.nn.logsumexp(log_plan, axis=0)
    return jnp.where(b > 0, v + log_b - jnp.where(b > 0, have, 0), 0)

  start = jnp.zeros_like(b)
  for _ in range(3):
    start = sinkhorn(start, start)
  v = _newton(plan_of, lambda p: p, sinkhorn, start, bound, max_steps)
  return jnp.exp(columns(v)[0])


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
    float[m, n] of the dtype of ``sim``; NaN when traced marginals are negative or do not agree.

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
  if flip:
    wide, a, b = wide.T, b, a

  @jax.custom_jvp
  def project(s: Array, a: Array, b: Array, bound: Array) -> Array:
    return _kl_values(s, a, b, bound, max_steps)

  @project.defjvp
  def _rule(primals: tuple, tangents: tuple) -> tuple[Array, Array]:
    plan = project(*primals)
    ds, da, db, _ = tangents
    base = plan * ds
    du, dv = _multipliers(plan, da - jnp.sum(base, axis=1), db - jnp.sum(base, axis=0))
    return plan, base + plan * (du[:, None] + dv[None, :])

  out = _common.or_nan(good, project(wide, a, b, bound)).astype(dtype)
  return out.T if flip else out


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
