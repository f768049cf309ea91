"""Matrix completion on the manifold of matrices of one rank: gradient and conjugate gradient."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments
from jaxopt_robust.numerics import safe_divide, upcast
from jaxopt_robust.recovery.completion._common import (
  CompletionInfo,
  CompletionState,
  CompletionTrace,
  as_entries,
  check_entries,
  check_start,
  close_step,
  entry_units,
  first_state,
  misfit,
  relative,
  relative_to_truth,
  run,
)
from jaxopt_robust.recovery.completion.start import prepare
from jaxopt_robust.recovery.entries import EntryCOO, EntryMask
from jaxopt_robust.recovery.factors import Factors, check_pair
from jaxopt_robust.recovery.operators import wide_dot
from jaxopt_robust.solvers import Solver
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["riemannian_complete", "riemannian_completion"]

_DIRECTIONS = ("conjugate", "gradient")
_ARMIJO = 1e-4  # share of the decrease that the slope promises
_HALVINGS = 10
_LEAST_ANGLE = 0.1  # cosine to the gradient below which a conjugate direction is dropped


class _Tangent(NamedTuple):
  """U core V^T + left V^T + U right^T with U^T left = 0 and V^T right = 0."""

  core: Array
  left: Array
  right: Array


class _Point(NamedTuple):
  """X = U diag(s) V^T."""

  u: Array
  s: Array
  v: Array


def _inner(a: _Tangent, b: _Tangent) -> Array:
  return jnp.sum(a.core * b.core) + jnp.sum(a.left * b.left) + jnp.sum(a.right * b.right)


def _axpy(scale: Array, a: _Tangent, b: _Tangent) -> _Tangent:
  return jax.tree.map(lambda x, y: scale * x + y, a, b)


def _point(left: Array, right: Array) -> _Point:
  """The decomposition of a product by two QR decompositions and a small one."""
  basis_left, triangle_left = jnp.linalg.qr(left)
  basis_right, triangle_right = jnp.linalg.qr(right)
  u, s, vt = jnp.linalg.svd(wide_dot(triangle_left, triangle_right.T))
  return _Point(wide_dot(basis_left, u), s, wide_dot(basis_right, vt.T))


def _project(point: _Point, times_v: Array, times_u: Array) -> _Tangent:
  """Tangent part of a matrix G from G V and G^T U."""
  core = wide_dot(point.u.T, times_v)
  return _Tangent(core, times_v - wide_dot(point.u, core), times_u - wide_dot(point.v, core.T))


def _transport(old: _Point, tangent: _Tangent, new: _Point) -> _Tangent:
  """The projection of an old tangent vector on the tangent space at a new point."""
  a = wide_dot(old.u, tangent.core) + tangent.left  # the vector is a V^T + U right^T
  times_v = wide_dot(a, wide_dot(old.v.T, new.v)) + wide_dot(
    old.u, wide_dot(tangent.right.T, new.v)
  )
  times_u = wide_dot(old.v, wide_dot(a.T, new.u)) + wide_dot(
    tangent.right, wide_dot(old.u.T, new.u)
  )
  return _project(new, times_v, times_u)


def _measure(op: EntryCOO, point: _Point, tangent: _Tangent) -> Array:
  """A of a tangent vector."""
  left = jnp.concatenate([wide_dot(point.u, tangent.core) + tangent.left, point.u], axis=1)
  return op.apply_factored(left, jnp.concatenate([point.v, tangent.right], axis=1))


def _retract(point: _Point, tangent: _Tangent, step: Array) -> _Point:
  """The best approximation of X + step * tangent at the same rank, by a 2r x 2r decomposition."""
  rank = point.s.shape[0]
  q_left, r_left = jnp.linalg.qr(tangent.left)
  q_right, r_right = jnp.linalg.qr(tangent.right)
  top = jnp.concatenate([jnp.diag(point.s) + step * tangent.core, step * r_right.T], axis=1)
  bottom = jnp.concatenate([step * r_left, jnp.zeros_like(r_left)], axis=1)
  a, s, bt = jnp.linalg.svd(jnp.concatenate([top, bottom], axis=0))
  u = wide_dot(jnp.concatenate([point.u, q_left], axis=1), a[:, :rank])
  v = wide_dot(jnp.concatenate([point.v, q_right], axis=1), bt[:rank].T)
  # Rounding of two bases that should be orthogonal to each other adds up over many steps.
  return _Point(jnp.linalg.qr(u)[0] * _signs(u), s[:rank], jnp.linalg.qr(v)[0] * _signs(v))


def _signs(factor: Array) -> Array:
  """Signs that make the QR basis of nearly orthonormal columns equal to these columns."""
  diagonal = jnp.diagonal(jnp.linalg.qr(factor)[1])
  return jnp.where(diagonal < 0, -1, 1).astype(factor.dtype)[None, :]


def _factors(point: _Point, dtype: Any) -> Factors:
  root = jnp.sqrt(point.s)[None, :]
  return Factors((point.u * root).astype(dtype), (point.v * root).astype(dtype))


class _Memory(NamedTuple):
  """point: the iterate. direction, slope: the last search direction and gradient there."""

  point: _Point
  direction: _Tangent
  gradient: _Tangent


def riemannian_completion(*, direction: str = "conjugate") -> Solver:
  r"""Descent over the matrices of one rank, as a solver for the drivers.

  With G = A*(y - A(X)) and P the projection on the tangent space at X = U S V^T, P(G) =
  U U^T G + G V V^T - U U^T G V V^T: X moves along P(G) (``"gradient"``), or along
  P(G) + beta T with T the transported last direction and beta of Polak and Ribiere, at least 0
  (``"conjugate"``); the step is the exact minimiser along the tangent, halved until the objective
  falls; then X is set to the best approximation of the same rank.

  The parameters are ``Factors`` (balanced), ``hyper`` is not used (pass None), the data are
  ``op, y`` and optionally the true matrix, float[d1, d2]. The objective is 1/2 ||A(X) - y||^2, the
  stopping quantity error = ||A(X) - y|| / ||y||.

  Args:
    direction: ``"conjugate"`` or ``"gradient"``; static.

  Returns:
    Solver with state ``CompletionState`` and info ``CompletionInfo``.

  Raises:
    ValueError: an unknown direction.

  Note:
    G is sparse and never formed: a step costs O(E r) and the decomposition of a 2r x 2r matrix.

  Example:
    >>> op = jr.recovery.EntryMask(jnp.ones((3, 3), bool))
    >>> start = jr.recovery.Factors(jnp.ones((3, 1)), jnp.ones((3, 1)))
    >>> y = jnp.outer(jnp.arange(1.0, 4.0), jnp.ones(3)).ravel()
    >>> _, infos = jr.solvers.run_steps(riemannian_completion(), start, None, op, y, num_steps=5)
    >>> bool(infos.error[-1] < 1e-3)
    True

  Reference:
    Vandereycken, Low-rank matrix completion by Riemannian optimization, 2013, algorithms 1 to 6
    (recalled, not verified).
  """
  _arguments.check_option("direction", direction, _DIRECTIONS)

  def init(params: Factors, hyper: Any, op: Any, y: Array, *rest: Any) -> CompletionState:
    del hyper, rest
    op, y = check_entries(op, y)
    left, right = check_pair(check_start(op, params))
    dtype = upcast(y).dtype
    point = _point(upcast(left).astype(dtype), upcast(right).astype(dtype))
    blank = _Tangent(
      jnp.zeros((point.s.shape[0],) * 2, dtype), jnp.zeros_like(point.u), jnp.zeros_like(point.v)
    )
    return first_state(_factors(point, y.dtype), _Memory(point, blank, blank), dtype)

  def step(
    state: CompletionState, hyper: Any, op: Any, y: Array, truth: Array | None = None
  ) -> tuple[CompletionState, CompletionInfo]:
    del hyper
    op, y = as_entries(op, y)
    point, search, gradient = state.memory  # search and gradient live at the point
    misfit_now = misfit(op, y, point.u * point.s[None, :], point.v)
    z = -misfit_now
    ascent = _project(point, op.adjoint_mul(z, point.v), op.adjoint_t_mul(z, point.u))
    if direction == "conjugate":
      size = _inner(gradient, gradient)
      beta = jnp.maximum(
        safe_divide(_inner(ascent, _axpy(jnp.asarray(-1, z.dtype), gradient, ascent)), size), 0
      )
      along = _axpy(beta, search, ascent)
      cosine = safe_divide(
        _inner(along, ascent), jnp.sqrt(_inner(along, along) * _inner(ascent, ascent))
      )
      along = jax.tree.map(lambda a, b: jnp.where(cosine < _LEAST_ANGLE, b, a), along, ascent)
    else:
      along = ascent
    image = upcast(_measure(op, point, along))
    slope = jnp.sum(image * z)
    length = safe_divide(slope, jnp.sum(image**2))
    value = 0.5 * jnp.sum(z**2)

    def trial(step_length: Array) -> tuple[_Point, Array, Array]:
      new = _retract(point, along, step_length)
      after = misfit(op, y, new.u * new.s[None, :], new.v)
      return new, after, 0.5 * jnp.sum(after**2)

    def too_long(carry: tuple) -> Array:
      _, _, after_value, step_length, halvings = carry
      short = after_value > value - _ARMIJO * step_length * slope
      return short & (halvings < _HALVINGS)

    def halve(carry: tuple) -> tuple:
      *_, step_length, halvings = carry
      return (*trial(0.5 * step_length), 0.5 * step_length, halvings + 1)

    new, after, new_value, _, _ = jax.lax.while_loop(
      too_long, halve, (*trial(length), length, jnp.zeros((), jnp.int32))
    )
    memory = _Memory(new, _transport(point, along, new), _transport(point, ascent, new))
    factors = _factors(new, y.dtype)
    return close_step(
      state, factors, memory, value=new_value, residual=relative(after, y),
      err=relative_to_truth(factors, truth),
    )  # fmt: skip

  return entry_units(Solver(init, step))


def riemannian_complete(
  op: EntryCOO | EntryMask,
  y: ArrayLike,
  rank: int,
  *,
  key: Array,
  direction: str = "conjugate",
  num_rounds: int = 60,
  start: Factors | None = None,
  truth: ArrayLike | None = None,
  tol: ArrayLike = 1e-6,
) -> tuple[Factors, CompletionTrace]:
  r"""Completes a low-rank matrix by descent over the matrices of that rank (LRGeomCG).

  Minimises 1/2 ||A(X) - y||^2 over matrices X of the given rank, from the spectral start.

  Args:
    op: observed entries of a d1 x d2 matrix.
    y: float[E], their values (all d1 * d2 of them, row by row, for an ``EntryMask``).
    rank: the rank, static.
    key: typed PRNG key of the start.
    direction: ``"conjugate"`` or ``"gradient"``; static.
    num_rounds: steps, >= 1, static.
    start: Factors to start from instead; None for the spectral start.
    truth: float[d1, d2], X*, to record the error; None records none.
    tol: >= 0, the residual of a run that counts as converged; may be traced.

  Returns:
    (Factors, CompletionTrace); the factors are balanced, L^T L = R^T R.

  Raises:
    TypeError: ``op`` is no list or mask of entries, an array is not floating-point, or the key is
      not a typed key.
    ValueError: shapes do not fit, a rank larger than the matrix, an unknown direction, a number out
      of range, or entries that are not finite, outside of the matrix, or repeated.

  Example:
    >>> op = jr.recovery.EntryMask(jnp.ones((4, 3), bool))
    >>> y = jnp.outer(jnp.arange(1.0, 5.0), jnp.arange(1.0, 4.0)).ravel()
    >>> _, trace = riemannian_complete(op, y, 1, key=jax.random.key(0), num_rounds=5)
    >>> int(trace.status)
    0

  Reference:
    Vandereycken, Low-rank matrix completion by Riemannian optimization, 2013, algorithms 1 to 6
    (recalled, not verified).
  """
  op, y, factors, target = prepare(key, op, y, rank, start, truth)
  method = riemannian_completion(direction=direction)
  return run(method, factors, None, op, y, target, num_rounds=num_rounds, tol=tol)
