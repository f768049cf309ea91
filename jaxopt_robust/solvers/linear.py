"""Matrix-free linear solves ``(matvec, b) -> x`` on pytrees, for use with ``implicit``."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from jaxopt_robust import _arguments, _checks
from jaxopt_robust._units import exponent_of, power
from jaxopt_robust.numerics import tree_all_finite
from jaxopt_robust.solvers._common import add_scaled, norm, scale
from jaxopt_robust.typing import ArrayLike, PyTree

__all__ = ["solve_bicgstab", "solve_cg", "solve_dense", "solve_gmres", "solve_neumann"]

# Default relative residual in units of machine epsilon: two digits above rounding.
_EPSILONS = 100.0


def _checked(matvec: Any, b: PyTree) -> PyTree:
  """The right side in floating point."""
  _arguments.check_callable("matvec", matvec)
  if isinstance(b, list) and all(isinstance(v, int | float) for v in b):
    b = jnp.asarray(b)  # a list of numbers is a vector, as in NumPy
  return _checks.check_float_tree("b", b, complex_ok=True)


def _in_units(solve: Callable[..., PyTree], matvec: Callable, b: PyTree) -> PyTree:
  """The solution for a right side whose norm is about 1: JAX's solves take a small b for 0."""
  if not _num_unknowns(b):
    return b
  size = norm(b)
  unit = power(exponent_of(size), size.dtype)  # a power of 2: nothing is rounded
  x = solve(matvec, jax.tree.map(lambda leaf: leaf / unit.astype(leaf.dtype), b))
  return _or_nan(matvec, b, scale(unit, x))


def _or_nan(matvec: Callable[[PyTree], PyTree], b: PyTree, x: PyTree) -> PyTree:
  """x, or NaN where b or A x is not finite: to an iteration NaN is no larger than a tolerance."""
  good = tree_all_finite((b, matvec(x)))
  return jax.tree.map(lambda leaf: jnp.where(good, leaf, jnp.nan), x)


def _tolerance(b: PyTree, tol: float | None) -> float:
  if tol is not None:
    _checks.check_positive("tol", tol, scalar=True)
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

  Raises:
    TypeError: when ``matvec`` is not a function, or ``b`` holds anything but numbers.

  Note:
    n products and O(n^3) operations: the fastest choice up to a few hundred unknowns on a CPU.

  Example:
    >>> solve_dense(lambda v: 2.0 * v, jnp.array([2.0, 4.0]))
    Array([1., 2.], dtype=float32)

  Reference:
    Golub and Van Loan, Matrix Computations, 2013, algorithm 3.4.1.
  """
  flat, unravel = ravel_pytree(_checked(matvec, b))
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
    pytree like ``b``; NaN where b or a product with A is not finite.

  Raises:
    TypeError: when ``matvec`` is not a function, or ``b`` holds anything but numbers.
    ValueError: when ``tol`` or ``max_steps`` is not positive.

  Example:
    >>> solve_cg(lambda v: 2.0 * v, jnp.array([2.0, 4.0]))
    Array([1., 2.], dtype=float32)

  Reference:
    Hestenes and Stiefel, Methods of conjugate gradients for solving linear systems, 1952.
  """
  b = _checked(matvec, b)
  steps = max(10 * _num_unknowns(b), 1) if max_steps is None else max_steps
  steps = _checks.check_int("max_steps", steps, minimum=1)
  cg, bound = jax.scipy.sparse.linalg.cg, _tolerance(b, tol)
  return _in_units(lambda a, c: cg(a, c, tol=bound, maxiter=steps)[0], matvec, b)


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
    pytree like ``b``; NaN where b or a product with A is not finite.

  Raises:
    TypeError: when ``matvec`` is not a function, or ``b`` holds anything but numbers.
    ValueError: when ``tol`` or ``max_steps`` is not positive.

  Note:
    Short recurrences, so memory does not grow; it may break down where GMRES does not.

  Example:
    >>> solve_bicgstab(lambda v: 2.0 * v, jnp.array([2.0, 4.0]))
    Array([1., 2.], dtype=float32)

  Reference:
    van der Vorst, Bi-CGSTAB: a fast and smoothly converging variant of Bi-CG, 1992.
  """
  b = _checked(matvec, b)
  steps = max(10 * _num_unknowns(b), 1) if max_steps is None else max_steps
  steps = _checks.check_int("max_steps", steps, minimum=1)
  bicgstab, bound = jax.scipy.sparse.linalg.bicgstab, _tolerance(b, tol)

  def solve(a: Callable[[PyTree], PyTree], c: PyTree) -> PyTree:
    size = norm(a(c))  # the recurrences hold fourth powers of A
    size = jnp.where((size > 0) & jnp.isfinite(size), size, 1)
    scaled = lambda v: scale(1 / size, a(v))
    return scale(1 / size, bicgstab(scaled, c, tol=bound, maxiter=steps)[0])

  return _in_units(solve, matvec, b)


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
    pytree like ``b``; NaN where b or a product with A is not finite.

  Raises:
    TypeError: when ``matvec`` is not a function, or ``b`` holds anything but numbers.
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
  b = _checked(matvec, b)
  restart = min(_checks.check_int("restart", restart, minimum=1), max(_num_unknowns(b), 1))
  max_restarts = _checks.check_int("max_restarts", max_restarts, minimum=1)
  solve: Any = functools.partial(
    jax.scipy.sparse.linalg.gmres,
    tol=_tolerance(b, tol),
    restart=restart,
    maxiter=max_restarts,
    solve_method="batched",
  )
  return _in_units(lambda a, c: solve(a, c)[0], matvec, b)


def solve_neumann(
  matvec: Callable[[PyTree], PyTree],
  b: PyTree,
  *,
  num_terms: int,
  stepsize: ArrayLike = 1.0,
) -> PyTree:
  """Approximates the solution of A x = b by a truncated Neumann series.

  Computes x_K = s sum_{k=0}^{K} (I - s A)^k b with K = num_terms, in K products: K steps of
  gradient descent from s b.

  Args:
    matvec: linear function ``x -> A x`` on pytrees like ``b``, with ||I - s A|| < 1.
    b: pytree of float arrays.
    num_terms: K >= 0, static.
    stepsize: s > 0. 1 is right for A = I - dT with a contraction T; a Hessian needs at most 2 over
      its largest eigenvalue. May be traced.

  Returns:
    pytree like ``b``; NaN where b or a product with A is not finite.

  Raises:
    TypeError: when ``matvec`` is not a function, or ``b`` holds anything but numbers.
    ValueError: when ``num_terms`` is negative or ``stepsize`` is not positive.

  Note:
    The relative error is at most ||I - s A||^{K+1}. Bind the settings with ``functools.partial`` to
    hand it to ``implicit``; ``num_terms=0`` there is one-step differentiation.

  Example:
    >>> float(solve_neumann(lambda v: 0.5 * v, jnp.ones(()), num_terms=3))  # 1 + 1/2 + 1/4 + 1/8
    1.875

  Reference:
    Lorraine, Vicol and Duvenaud, Optimizing millions of hyperparameters by implicit
    differentiation, 2020, algorithm 3.
  """
  num_terms = _checks.check_int("num_terms", num_terms, minimum=0)
  _checks.check_positive("stepsize", stepsize, scalar=True)
  b = _checked(matvec, b)

  def add_term(_: int, carry: tuple[PyTree, PyTree]) -> tuple[PyTree, PyTree]:
    power, total = carry
    power = add_scaled(power, -jnp.asarray(stepsize), matvec(power))
    return power, jax.tree.map(jnp.add, total, power)

  _, total = jax.lax.fori_loop(0, num_terms, add_term, (b, b))
  return scale(stepsize, total)
