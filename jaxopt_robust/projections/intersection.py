"""Projection onto the intersection of convex sets."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.numerics import upcast
from jaxopt_robust.projections import _common
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["projection_intersection"]

_NEWTON = 8  # steps at most behind the sweeps; for polyhedra one is the rule


def projection_intersection(
  projections: Sequence[Callable[..., Array]], *, tol: float = 1e-8, max_steps: int = 10_000
) -> Callable[..., Array]:
  r"""Projection onto the intersection of convex sets, by Dykstra's cyclic algorithm.

  Solves argmin_p 1/2 ||p - x||_2^2 subject to p in C_1, ..., C_k, given the projections onto each:
  a sweep does y <- P_i(y + q_i), q_i <- q_i + y_old - y for i = 1, ..., k.

  Args:
    projections: two or more functions ``projection(x, hyperparams) -> x_like`` (called with ``x``
      alone where the hyper-parameters are None), onto closed convex sets that meet.
    tol: > 0, a sweep that changes no entry of y and of the q_i by more than tol times the largest
      entry of x and its projections (at least a few roundings of the dtype) is the last.
    max_steps: static, the largest number of sweeps.

  Returns:
    ``projection(x, hyperparams=None) -> x_like`` for a float array ``x``; ``hyperparams`` is None
    or a sequence with one entry a set. NaN when the sets do not meet, or when max_steps sweeps and
    the steps behind them leave a residual above 64 tol, relatively.

  Raises:
    TypeError: when an entry of ``projections`` is not a function.
    ValueError: when fewer than two are given, or tol or max_steps are out of range.

  Note:
    Converges linearly for polyhedra, else possibly slowly; where sets meet at a small angle the
    sweeps crawl, and Newton steps on the fixed point finish. Where the angle is too small for the
    dtype (1e-2 in float32, 1e-6 in float64, about) the result is NaN. The derivative, of forward
    and reverse mode, is that of the fixed point, p = P_i(p + q_i) with p = x - sum_i q_i, and takes
    a conjugate gradient solve.

  Example:
    >>> plane = lambda x, h: optax.projections.projection_hyperplane(x, *h)
    >>> both = projection_intersection([optax.projections.projection_non_negative, plane])
    >>> both(jnp.array([1.5, -1.0]), (None, (jnp.ones(2), 1.0))).round(3) + 0.0
    Array([1., 0.], dtype=float32)

  Reference:
    Boyle and Dykstra, A method for finding projections onto the intersection of convex sets in
    Hilbert spaces, 1986.
  """
  if not isinstance(projections, Sequence) or isinstance(projections, str):
    kind = type(projections).__name__
    raise TypeError(f"projections must be a list of functions; got a {kind}.")
  members = tuple(projections)
  if len(members) < 2:
    raise ValueError(f"projections must hold at least two functions; got {len(members)}.")
  for member in members:
    _arguments.check_callable("projections", member)
  _checks.check_positive("tol", tol)
  limit = _checks.check_int("max_steps", max_steps, minimum=1)

  def projection(x: ArrayLike, hyperparams: Any = None) -> Array:
    given = _common.strong(_checks.check_float_array("x", x))
    array = upcast(given)
    hypers = (None,) * len(members) if hyperparams is None else tuple(hyperparams)
    if len(hypers) != len(members):
      raise ValueError(
        f"hyperparams must hold one entry a set, {len(members)}; got {len(hypers)} entries."
      )

    def onto(i: int, y: Array, hypers: Any) -> Array:
      out = members[i](y) if hypers[i] is None else members[i](y, hypers[i])
      return out.astype(y.dtype)  # numbers of another dtype must not change that of the loop

    fixed, fixed_hypers = jax.lax.stop_gradient((array, hypers))

    def residual(q: Array, x: Array, hypers: Any) -> Array:
      p = x - jnp.sum(q, axis=0)
      return jnp.stack([onto(i, p + q[i], hypers) - p for i in range(len(members))])

    def dykstra() -> tuple[Array, Array]:
      eps = jnp.asarray(4 * jnp.finfo(array.dtype).eps, array.dtype)
      # x itself may be 0 where its projections are not.
      reach = [fixed, *(onto(i, fixed, fixed_hypers) for i in range(len(members)))]
      size = jnp.max(jnp.stack([jnp.max(jnp.abs(point)) for point in reach]))
      bound = jnp.maximum(jnp.asarray(tol, array.dtype), eps) * size

      def sweep(carry: tuple) -> tuple:
        y, q, count, _ = carry
        rows, first = [], y
        for i in range(len(members)):
          new = onto(i, y + q[i], fixed_hypers)
          rows.append(q[i] + y - new)
          y = new
        new_q = jnp.stack(rows)
        change = jnp.maximum(jnp.max(jnp.abs(new_q - q)), jnp.max(jnp.abs(y - first)))
        return y, new_q, count + 1, change

      start = jnp.zeros((len(members), *array.shape), array.dtype)
      carry = (fixed, start, jnp.zeros((), jnp.int32), jnp.full((), jnp.inf, array.dtype))
      go_on = lambda c: (c[3] > bound) & (c[2] < limit)
      _, q, _, _ = jax.lax.while_loop(go_on, sweep, carry)
      return polished(q, size, bound)

    def least_squares(q: Array, value: Array) -> Array:
      """The step d of least norm with the derivative of the residual times d nearest to value."""
      _, linear = jax.linearize(lambda q: residual(q, fixed, fixed_hypers), q)
      transpose = jax.linear_transpose(linear, q)
      return jax.scipy.sparse.linalg.cg(
        lambda d: transpose(linear(d))[0], transpose(value)[0],
        tol=8 * float(jnp.finfo(array.dtype).eps), maxiter=4 * q.size,
      )[0]  # fmt: skip

    def polished(q: Array, size: Array, bound: Array) -> tuple[Array, Array]:
      """Newton steps while they pay: sweeps crawl where sets meet at a small angle."""

      def step(carry: tuple) -> tuple:
        q, value, _, _, count = carry
        d = least_squares(q, value)
        new = residual(q - d, fixed, fixed_hypers)
        pays = jnp.max(jnp.abs(new)) < 0.9 * jnp.max(jnp.abs(value))
        move = jnp.where(pays, jnp.max(jnp.abs(jnp.sum(d, axis=0))), 0)
        return jnp.where(pays, q - d, q), jnp.where(pays, new, value), pays, move, count + 1

      value = residual(q, fixed, fixed_hypers)
      carry = (q, value, jnp.ones((), bool), jnp.zeros((), q.dtype), jnp.zeros((), jnp.int32))
      carry = jax.lax.while_loop(lambda c: c[2] & (c[4] < _NEWTON), step, carry)
      q, value, _, move, _ = carry
      # The residual is 0 at the projection only; a last step that still went far has found nothing.
      allowed = jnp.sqrt(bound * size)
      found = (jnp.max(jnp.abs(value)) <= 64 * bound) & (move <= allowed)
      # Corrections are as large as the angle between the sets is small, and so is the error of the
      # point that their rounding makes.
      largest = jnp.max(jnp.abs(q))
      ratio = largest / jnp.where(size > 0, size, 1)
      return q, found & (jnp.finfo(q.dtype).eps * largest * ratio <= allowed)

    q, found = jax.lax.stop_gradient(dykstra())
    # One more step, whose value is dropped and whose derivative counts. The corrections need not be
    # unique: least squares, of least norm.
    value = residual(q, array, hypers)
    step = least_squares(q, value - jax.lax.stop_gradient(value))
    # The factor is 1: it keeps JAX from meeting a symbolic zero in the second derivative.
    q = q - step * (1 + 0 * jnp.sum(array))
    return _common.or_nan(found, array - jnp.sum(q, axis=0)).astype(given.dtype)

  return projection
