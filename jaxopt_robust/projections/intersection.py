"""Projection onto the intersection of convex sets."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.projections import _common
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["projection_intersection"]


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
      entry of x (at least a few roundings of the dtype) is the last.
    max_steps: static, the largest number of sweeps.

  Returns:
    ``projection(x, hyperparams=None) -> x_like`` for a float array ``x``; ``hyperparams`` is None
    or a sequence with one entry a set.

  Raises:
    TypeError: when an entry of ``projections`` is not a function.
    ValueError: when fewer than two are given, or tol or max_steps are out of range.

  Note:
    Converges linearly for polyhedra, else possibly slowly; where the sets do not meet it returns
    the last iterate, which lies in the last set only. The derivative, of forward and reverse mode,
    is that of the fixed point, p = P_i(p + q_i) with p = x - sum_i q_i, and takes a conjugate
    gradient solve.

  Example:
    >>> both = projection_intersection(
    ...   [optax.projections.projection_non_negative, jr.projections.projection_hyperplane])
    >>> both(jnp.array([1.5, -1.0]), (None, (jnp.ones(2), 1.0))).round(3) + 0.0
    Array([1., 0.], dtype=float32)

  Reference:
    Boyle and Dykstra, A method for finding projections onto the intersection of convex sets in
    Hilbert spaces, 1986.
  """
  members = tuple(projections)
  if len(members) < 2:
    raise ValueError(f"projections must hold at least two functions; got {len(members)}.")
  for member in members:
    _checks.check_callable("projections", member)
  _checks.check_positive("tol", tol)
  limit = _checks.check_int("max_steps", max_steps, minimum=1)

  def projection(x: ArrayLike, hyperparams: Any = None) -> Array:
    array = _common.strong(_checks.check_float_array("x", x))
    hypers = (None,) * len(members) if hyperparams is None else tuple(hyperparams)
    if len(hypers) != len(members):
      raise ValueError(
        f"hyperparams must hold one entry a set, {len(members)}; got {len(hypers)} entries."
      )

    def onto(i: int, y: Array) -> Array:
      return members[i](y) if hypers[i] is None else members[i](y, hypers[i])

    def residual(corrections: Array) -> Array:
      p = array - jnp.sum(corrections, axis=0)
      return jnp.stack([onto(i, p + corrections[i]) - p for i in range(len(members))])

    def dykstra(_: Any, start: Array) -> Array:
      eps = jnp.asarray(4 * jnp.finfo(array.dtype).eps, array.dtype)
      bound = jnp.maximum(jnp.asarray(tol, array.dtype), eps) * jnp.max(jnp.abs(array))

      def sweep(carry: tuple) -> tuple:
        y, q, count, _ = carry
        rows, first = [], y
        for i in range(len(members)):
          new = onto(i, y + q[i])
          rows.append(q[i] + y - new)
          y = new
        new_q = jnp.stack(rows)
        change = jnp.maximum(jnp.max(jnp.abs(new_q - q)), jnp.max(jnp.abs(y - first)))
        return y, new_q, count + 1, change

      carry = (array, start, jnp.zeros((), jnp.int32), jnp.full((), jnp.inf, array.dtype))
      go_on = lambda c: (c[3] > bound) & (c[2] < limit)
      return jax.lax.while_loop(go_on, sweep, carry)[1]

    def tangent_solve(linear: Callable[[Array], Array], rhs: Array) -> Array:
      # The corrections need not be unique: least squares, of least norm.
      transpose = jax.linear_transpose(linear, rhs)
      normal = lambda q: transpose(linear(q))[0]
      eps = float(jnp.finfo(array.dtype).eps)
      return jax.scipy.sparse.linalg.cg(
        normal, transpose(rhs)[0], tol=8 * eps, maxiter=4 * rhs.size
      )[0]

    start = jnp.zeros((len(members), *array.shape), array.dtype)
    q = jax.lax.custom_root(residual, start, dykstra, tangent_solve)
    return array - jnp.sum(q, axis=0)

  return projection
