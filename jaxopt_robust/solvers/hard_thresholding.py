"""Iterative hard thresholding for sparse solutions of linear measurements: IHT, NIHT, HTP."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.numerics import safe_divide
from jaxopt_robust.solvers._common import displacement, hashable, scalar_dtype
from jaxopt_robust.solvers.types import Solver
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = ["HardThresholdingInfo", "HardThresholdingState", "htp", "iht", "niht"]

# Constants of normalised IHT: a step that changes the support must not exceed (1 - c) of the
# quotient ||d||^2 / ||A d||^2, and is divided by kappa (1 - c) until it does not.
_NIHT_C = 0.01
_NIHT_KAPPA = 1.1 / (1 - _NIHT_C)


class HardThresholdingState(NamedTuple):
  """State of a hard-thresholding method.

  Attributes:
    params: float[n], the iterate, with at most s non-zero entries.
    count: int32, steps done.
  """

  params: Array
  count: Array  # type: ignore[assignment]


class HardThresholdingInfo(NamedTuple):
  """Diagnostics of a hard-thresholding step.

  Attributes:
    error: ``||x_{k+1} - x_k||_2``, and at least its rounding, eps/2 ``||x_k||_2``.
    value: 1/2 ||y - A x_k||_2^2.
    stepsize: the step size that was used.
  """

  error: Array
  value: Array
  stepsize: Array


def _keep_largest(v: Array, sparsity: int) -> tuple[Array, Array]:
  """The entries of largest modulus (ties: the lowest index) and their mask."""
  index = jax.lax.top_k(jnp.abs(v), sparsity)[1]
  mask = jnp.zeros(v.shape, jnp.bool_).at[index].set(True)
  return jnp.where(mask, v, 0), mask


def _measure(matvec: Callable, matrix: PyTree, params: Array, y: Array) -> tuple:
  """Residual, value and negative gradient A^T (y - A x)."""
  image, pull = jax.vjp(lambda v: matvec(matrix, v), params)
  if image.shape != y.shape:
    raise ValueError(f"A x and y must have equal shapes; got {image.shape} and {y.shape}.")
  residual = y - image
  return residual, 0.5 * jnp.sum(residual**2), pull(residual)[0]


def _size(params: PyTree, sparsity: int) -> None:
  if not isinstance(params, jax.Array) or params.ndim != 1:
    raise ValueError("params must be one array of rank 1; got " + str(jax.tree.structure(params)))
  if sparsity > params.size:
    raise ValueError(f"sparsity must be at most the size of params, {params.size}; got {sparsity}.")


def _solver(step: Callable, sparsity: int) -> Solver:
  def init(params: Array, hyper: PyTree, *data: PyTree) -> HardThresholdingState:
    del hyper
    if len(data) != 2:
      raise ValueError(f"data must be the matrix A and the measurements y; got {len(data)} items.")
    _size(params, sparsity)
    return HardThresholdingState(params, jnp.zeros((), jnp.int32))

  def one(state: HardThresholdingState, hyper: PyTree, matrix: PyTree, y: Array) -> tuple:
    del hyper
    params, value, s = step(state.params, matrix, y)
    error = displacement(params, state.params)
    info = HardThresholdingInfo(error, value, s)
    return HardThresholdingState(params, state.count + 1), info

  return Solver(init, one)


def _multiply(matrix: Array, x: Array) -> Array:
  return matrix @ x


@hashable
def iht(
  *,
  sparsity: int,
  stepsize: ArrayLike,
  matvec: Callable[[PyTree, Array], Array] = _multiply,
) -> Solver:
  r"""Iterative hard thresholding (IHT) with a fixed step.

  Seeks argmin 1/2 ||y - A x||_2^2 subject to ||x||_0 <= s by

    x_{k+1} = H_s(x_k + mu A^T (y - A x_k)),

  H_s keeping the s entries of largest modulus. The stopping quantity ``info.error`` is
  ||x_{k+1} - x_k||_2.

  Args:
    sparsity: s >= 1, static.
    stepsize: mu > 0; below 1/||A||^2 the objective never increases. May be traced.
    matvec: ``matvec(A, x) -> A x`` where A is no matrix but what a fast operator needs.

  Returns:
    ``Solver`` with states ``HardThresholdingState`` and infos ``HardThresholdingInfo``. Its data
    are ``(A, y)`` with A float[m, n] (or what ``matvec`` takes) and y float[m], its hyper is None.

  Raises:
    ValueError: when ``sparsity`` is below 1 or above n, or ``stepsize`` is not positive.

  Note:
    Ties keep the entry of the lower index. For the penalty lam ||x||_0 use ``ista`` with
    ``jr.prox.prox_l0``.

  Example:
    >>> solver = iht(sparsity=1, stepsize=0.5)
    >>> A, y = jnp.array([[1.0, 0.2], [0.0, 1.0]]), jnp.array([0.6, 3.0])
    >>> x, _ = jr.solvers.run_until(solver, jnp.zeros(2), None, A, y, tol=1e-6, max_steps=99)
    >>> x.round(2)
    Array([0., 3.], dtype=float32)

  Reference:
    Blumensath and Davies, Iterative hard thresholding for compressed sensing, 2009, equation 9.
  """
  sparsity = _checks.check_int("sparsity", sparsity, minimum=1)
  _checks.check_positive("stepsize", stepsize, scalar=True)
  _arguments.check_callable("matvec", matvec)

  def step(x: Array, matrix: PyTree, y: Array) -> tuple:
    _, value, g = _measure(matvec, matrix, x, y)
    mu = jnp.asarray(stepsize, scalar_dtype(x))
    return _keep_largest(x + mu * g, sparsity)[0], value, mu

  return _solver(step, sparsity)


def _normalised_step(
  matvec: Callable, matrix: PyTree, x: Array, g: Array, sparsity: int
) -> tuple[Array, Array]:
  """mu = ||g_S||^2 / ||A g_S||^2 on the support of x (the s largest of g where x = 0), and S."""
  support = x != 0
  support = jnp.where(jnp.any(support), support, _keep_largest(g, sparsity)[1])
  on_support = jnp.where(support, g, 0)
  top = jnp.sum(on_support**2)
  bottom = jnp.sum(matvec(matrix, on_support) ** 2)
  # Where the gradient vanishes on the support (after a least-squares fit) any step does: 1.
  tiny = top <= (jnp.finfo(x.dtype).eps ** 2) * jnp.sum(g**2)
  mu = safe_divide(jnp.where(tiny, 1, top), jnp.where(tiny, 1, bottom), default=1.0)
  return mu, support


@hashable
def niht(
  *,
  sparsity: int,
  max_reductions: int = 50,
  matvec: Callable[[PyTree, Array], Array] = _multiply,
) -> Solver:
  r"""Normalised iterative hard thresholding (NIHT): no step size to choose.

  The iteration of ``iht`` with mu = ||g_S||^2 / ||A g_S||^2, g = A^T (y - A x), S the support of x.
  Where the support changes, the step is accepted only if mu <= (1 - c) ||d||^2 / ||A d||^2 with
  d = x_{k+1} - x_k, and else divided by kappa (1 - c); c = 0.01, kappa = 1.1 / (1 - c). The
  objective never increases, for any scaling of A. The stopping quantity ``info.error`` is
  ||x_{k+1} - x_k||_2.

  Args:
    sparsity: s >= 1, static.
    max_reductions: >= 1, static: how often a step may be reduced.
    matvec: ``matvec(A, x) -> A x`` where A is no matrix but what a fast operator needs.

  Returns:
    ``Solver`` as in ``iht``: data ``(A, y)``, hyper None.

  Raises:
    ValueError: when ``sparsity`` is below 1 or above n, or ``max_reductions`` is below 1.

  Example:
    >>> A, y = 10 * jnp.array([[1.0, 0.2], [0.0, 1.0]]), jnp.array([6.0, 30.0])
    >>> x, _ = jr.solvers.run_until(
    ...   niht(sparsity=1), jnp.zeros(2), None, A, y, tol=1e-6, max_steps=99)
    >>> x.round(2)
    Array([0., 3.], dtype=float32)

  Reference:
    Blumensath and Davies, Normalized iterative hard thresholding: guaranteed stability and
    performance, 2010, section III.
  """
  sparsity = _checks.check_int("sparsity", sparsity, minimum=1)
  max_reductions = _checks.check_int("max_reductions", max_reductions, minimum=1)
  _arguments.check_callable("matvec", matvec)

  def step(x: Array, matrix: PyTree, y: Array) -> tuple:
    _, value, g = _measure(matvec, matrix, x, y)
    mu, support = _normalised_step(matvec, matrix, x, g, sparsity)

    def accepted(mu: Array) -> Array:
      new, mask = _keep_largest(x + mu * g, sparsity)
      d = new - x
      bound = (1 - _NIHT_C) * safe_divide(
        jnp.sum(d**2), jnp.sum(matvec(matrix, d) ** 2), default=jnp.inf
      )
      return jnp.all(mask == support) | (mu <= bound) | jnp.isnan(mu)

    mu, _ = jax.lax.while_loop(
      lambda c: ~accepted(c[0]) & (c[1] < max_reductions),
      lambda c: (c[0] / (_NIHT_KAPPA * (1 - _NIHT_C)), c[1] + 1),
      (mu, jnp.zeros((), jnp.int32)),
    )
    return _keep_largest(x + mu * g, sparsity)[0], value, mu

  return _solver(step, sparsity)


@hashable
def htp(*, sparsity: int) -> Solver:
  r"""Hard thresholding pursuit (HTP): the support of IHT, then least squares on it.

  S = support of H_s(x_k + mu A^T (y - A x_k)) with the normalised mu of ``niht``, and
  x_{k+1} = argmin ||y - A x||_2 over the vectors supported on S. It ends, with
  ``info.error`` = ||x_{k+1} - x_k||_2 = 0 up to rounding, when the support repeats.

  Args:
    sparsity: s >= 1, static, at most the number of measurements.

  Returns:
    ``Solver`` as in ``iht``: data ``(A, y)`` with A float[m, n], hyper None.

  Raises:
    ValueError: when ``sparsity`` is below 1, above n or above m.

  Note:
    Each step solves a least-squares problem of m x s by the singular value decomposition, which
    also handles dependent columns. The derivative is that of the least-squares fit on the final
    support.

  Example:
    >>> A, y = jnp.array([[1.0, 0.2], [0.0, 1.0]]), jnp.array([0.6, 3.0])
    >>> x, info = jr.solvers.run_until(
    ...   htp(sparsity=1), jnp.zeros(2), None, A, y, tol=1e-6, max_steps=9)
    >>> x.round(2), int(info.steps)
    (Array([0., 3.], dtype=float32), 2)

  Reference:
    Foucart, Hard thresholding pursuit: an algorithm for compressive sensing, 2011.
  """
  sparsity = _checks.check_int("sparsity", sparsity, minimum=1)

  def step(x: Array, matrix: Array, y: Array) -> tuple:
    if sparsity > y.shape[0]:
      raise ValueError(
        f"sparsity must be at most the number of measurements, {y.shape[0]}; got {sparsity}."
      )
    _, value, g = _measure(_multiply, matrix, x, y)
    mu, _ = _normalised_step(_multiply, matrix, x, g, sparsity)
    index = jnp.sort(jax.lax.top_k(jnp.abs(x + mu * g), sparsity)[1])
    fit = jnp.linalg.lstsq(matrix[:, index], y)[0]
    return jnp.zeros_like(x).at[index].set(fit), value, mu

  return _solver(step, sparsity)
