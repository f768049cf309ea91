"""Matrix-free linear solves ``(matvec, b) -> x`` on pytrees, for use with ``implicit``."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxopt_robust import _checks
from jaxopt_robust.typing import PyTree

__all__ = ["solve_bicgstab", "solve_cg", "solve_dense", "solve_gmres"]

# Default relative residual in units of machine epsilon: two digits above rounding.
_EPSILONS = 100.0


def _tolerance(b: PyTree, tol: float | None) -> float:
  if tol is not None:
    _checks.check_positive("tol", tol)
    return tol
  dtype = jnp.result_type(*jax.tree.leaves(b))
  return _EPSILONS * float(jnp.finfo(dtype).eps)


def _num_unknowns(b: PyTree) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(b))


def solve_dense(matvec: Callable[[PyTree], PyTree], b: PyTree) -> PyTree:
  """Solves A x = b by forming A and an LU factorisation.

  Args:
    matvec: linear function ``x -> A x`` on pytrees like ``b``.
    b: pytree of float arrays with n entries in all.

  Returns:
    pytree like ``b``. A singular A gives infinite or NaN entries.

  Note:
    n products and O(n^3) operations: the fastest choice up to a few hundred unknowns on a CPU.

  Example:
    >>> solve_dense(lambda v: 2.0 * v, jnp.array([2.0, 4.0]))
    Array([1., 2.], dtype=float32)

  Reference:
    Golub and Van Loan, Matrix Computations, 2013, algorithm 3.4.1.
  """
  flat, unravel = ravel_pytree(b)
  columns = jax.vmap(lambda v: ravel_pytree(matvec(unravel(v)))[0], out_axes=1)
  return unravel(jnp.linalg.solve(columns(jnp.eye(flat.size, dtype=flat.dtype)), flat))


def solve_cg(
  matvec: Callable[[PyTree], PyTree],
  b: PyTree,
  *,
  tol: float | None = None,
  max_steps: int | None = None,
) -> PyTree:
  """Solves A x = b with A symmetric positive definite by conjugate gradients.

  Stops when ||b - A x||_2 <= tol ||b||_2.

  Args:
    matvec: linear function ``x -> A x`` on pytrees like ``b``, symmetric positive definite.
    b: pytree of float arrays with n entries in all.
    tol: > 0, relative residual; by default 100 machine epsilons.
    max_steps: >= 1, static; by default 10 n.

  Returns:
    pytree like ``b``.

  Raises:
    ValueError: when ``tol`` or ``max_steps`` is not positive.

  Example:
    >>> solve_cg(lambda v: 2.0 * v, jnp.array([2.0, 4.0]))
    Array([1., 2.], dtype=float32)

  Reference:
    Hestenes and Stiefel, Methods of conjugate gradients for solving linear systems, 1952.
  """
  steps = 10 * _num_unknowns(b) if max_steps is None else max_steps
  steps = _checks.check_int("max_steps", steps, minimum=1)
  return jax.scipy.sparse.linalg.cg(matvec, b, tol=_tolerance(b, tol), maxiter=steps)[0]


def solve_bicgstab(
  matvec: Callable[[PyTree], PyTree],
  b: PyTree,
  *,
  tol: float | None = None,
  max_steps: int | None = None,
) -> PyTree:
  """Solves A x = b with a general square A by stabilised bi-conjugate gradients.

  Stops when ||b - A x||_2 <= tol ||b||_2.

  Args:
    matvec: linear function ``x -> A x`` on pytrees like ``b``.
    b: pytree of float arrays with n entries in all.
    tol: > 0, relative residual; by default 100 machine epsilons.
    max_steps: >= 1, static; by default 10 n.

  Returns:
    pytree like ``b``.

  Raises:
    ValueError: when ``tol`` or ``max_steps`` is not positive.

  Note:
    Short recurrences, so memory does not grow; it may break down where GMRES does not.

  Example:
    >>> solve_bicgstab(lambda v: 2.0 * v, jnp.array([2.0, 4.0]))
    Array([1., 2.], dtype=float32)

  Reference:
    van der Vorst, Bi-CGSTAB: a fast and smoothly converging variant of Bi-CG, 1992.
  """
  steps = 10 * _num_unknowns(b) if max_steps is None else max_steps
  steps = _checks.check_int("max_steps", steps, minimum=1)
  return jax.scipy.sparse.linalg.bicgstab(matvec, b, tol=_tolerance(b, tol), maxiter=steps)[0]


def solve_gmres(
  matvec: Callable[[PyTree], PyTree],
  b: PyTree,
  *,
  tol: float | None = None,
  restart: int = 50,
  max_restarts: int = 20,
) -> PyTree:
  """Solves A x = b with a general square A by restarted GMRES.

  Stops when ||b - A x||_2 <= tol ||b||_2, after at most ``restart * max_restarts`` products.

  Args:
    matvec: linear function ``x -> A x`` on pytrees like ``b``.
    b: pytree of float arrays with n entries in all.
    tol: > 0, relative residual; by default 100 machine epsilons.
    restart: >= 1, static: size of the Krylov space (at most n is used).
    max_restarts: >= 1, static.

  Returns:
    pytree like ``b``.

  Raises:
    ValueError: when ``tol``, ``restart`` or ``max_restarts`` is not positive.

  Note:
    The residual map of a proximal step, x - prox(x - s grad f(x)), is not symmetric: this is the
    default solve of ``implicit``. Off the support of a sparse solution that map is the identity, so
    as many products as the support has entries suffice.

  Example:
    >>> solve_gmres(lambda v: 2.0 * v, jnp.array([2.0, 4.0])).round(4)
    Array([1., 2.], dtype=float32)

  Reference:
    Saad and Schultz, GMRES: a generalized minimal residual algorithm for solving nonsymmetric
    linear systems, 1986.
  """
  restart = min(_checks.check_int("restart", restart, minimum=1), _num_unknowns(b))
  max_restarts = _checks.check_int("max_restarts", max_restarts, minimum=1)
  solve: Any = functools.partial(
    jax.scipy.sparse.linalg.gmres,
    tol=_tolerance(b, tol),
    restart=restart,
    maxiter=max_restarts,
    solve_method="batched",
  )
  return solve(matvec, b)[0]
