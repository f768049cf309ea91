"""Abundances for spectra that are known: least squares on the simplex."""

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust._units import root_of_unit
from jaxopt_robust.numerics import safe_norm, upcast
from jaxopt_robust.projections import projection_simplex
from jaxopt_robust.prox import make_prox_from_projection
from jaxopt_robust.recovery.operators import wide_dot
from jaxopt_robust.recovery.unmixing.types import check_pixels
from jaxopt_robust.solvers import SolveInfo, fista, run_until
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["constrained_abundances"]


def _misfit(abundances: Array, triangle: Array, target: Array) -> Array:
  return 0.5 * jnp.sum((wide_dot(triangle, abundances[:, None])[:, 0] - target) ** 2)


def _on_simplex(x: Array, hyperparams: object = None) -> Array:
  del hyperparams
  return projection_simplex(x)


_ON_SIMPLEX = make_prox_from_projection(_on_simplex)


def constrained_abundances(
  pixels: ArrayLike,
  spectra: ArrayLike,
  *,
  tol: ArrayLike | None = None,
  max_steps: ArrayLike = 5000,
) -> tuple[Array, SolveInfo]:
  r"""Fully constrained least squares: abundances that are non-negative and sum to one.

  Solves min_a 1/2 ||y_n - M a||_2^2 subject to a >= 0, sum_k a_k = 1, for each pixel n, by the
  accelerated projected gradient method on the triangular factor of M.

  Args:
    pixels: float[channels, N], columns y_n.
    spectra: float[channels, K], M.
    tol: >= 0, norm of the gradient mapping at which the run of a pixel has converged, relative to
      ||M||_2^2 (1 + ||y_n|| / ||M||_2); may be traced. None takes 1e-6, or 16 eps where that is
      larger.
    max_steps: >= 0, int, of each pixel; may be traced.

  Returns:
    (float[K, N], SolveInfo): look at ``info.status``, which is 0 where the runs of all pixels
    converged, otherwise the largest of theirs; ``info.error`` is the largest of the quantities that
    ``tol`` bounds, ``info.steps`` the largest number of steps and ``info.value`` the sum over the
    pixels of 1/2 ||y_n - M a_n||_2^2 / ||M||_2^2. ``info.last`` is of one pixel a row.

  Raises:
    TypeError: an argument is not floating-point.
    ValueError: the channels differ, an argument is empty, or known not to be finite.

  Note:
    Abundances are unique where no spectrum is an affine combination of others. Those of nearly
    dependent spectra are known to about the tolerance times the squared condition number of M.

  Example:
    >>> abundances, info = constrained_abundances(jnp.array([[0.25, 2.0], [0.75, 0.0]]), jnp.eye(2))
    >>> abundances.round(2), int(info.status)
    (Array([[0.25, 1.  ],
           [0.75, 0.  ]], dtype=float32), 0)

  Reference:
    Heinz and Chang, Fully constrained least squares linear spectral mixture analysis method for
    material quantification in hyperspectral imagery, 2001 (the problem; their method is an active
    set).
  """
  data = check_pixels(pixels)
  matrix = upcast(_checks.check_float_array("spectra", spectra, rank=2))
  if matrix.shape[0] != data.shape[0]:
    raise ValueError(
      f"pixels and spectra must have equally many channels; got {data.shape[0]} and "
      f"{matrix.shape[0]}."
    )
  _checks.check_holds(jnp.isfinite(matrix).all(), "spectra must be finite.")
  dtype = jnp.result_type(data, matrix)
  if tol is None:
    tol = max(1e-6, 16 * float(jnp.finfo(dtype).eps))
  _checks.check_non_negative("tol", tol, scalar=True)
  unit = root_of_unit(matrix) ** 2
  basis, triangle = jnp.linalg.qr((matrix / unit).astype(dtype))
  top = jnp.linalg.norm(triangle, ord=2)
  top = jnp.where(top > 0, top, 1)
  triangle, target = triangle / top, wide_dot(basis.T, (data / unit).astype(dtype)) / top

  # Each pixel is a problem of its own: a bright one must not decide when the others are done.
  start = jnp.full(matrix.shape[1], 1 / matrix.shape[1], dtype)
  solver = fista(_misfit, _ON_SIMPLEX, stepsize=1.0)

  def solve(target: Array) -> tuple[Array, SolveInfo]:
    scale = 1 + safe_norm(target)
    bound = jnp.asarray(tol, dtype) * scale
    found, info = run_until(solver, start, None, triangle, target, tol=bound, max_steps=max_steps)
    return found, info._replace(error=info.error / scale)

  found, infos = jax.vmap(solve, in_axes=1, out_axes=(1, 0))(target)
  residual = (data / unit).astype(dtype) - wide_dot((matrix / unit).astype(dtype), found)
  info = infos._replace(
    steps=jnp.max(infos.steps),
    error=jnp.max(infos.error),
    value=0.5 * jnp.sum((residual / top) ** 2),
    status=jnp.max(infos.status),
  )
  return found.astype(jnp.result_type(jnp.asarray(pixels), dtype)), info
