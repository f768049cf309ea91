"""Working sets: a sparse linear model is solved on the few features that matter."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks, _designs
from jaxopt_robust.solvers._common import (
  hashable,
  operator_of,
  rounding,
  scalar_dtype,
  smooth_part,
  value_of,
)
from jaxopt_robust.solvers.drive import run_until
from jaxopt_robust.solvers.proximal_gradient import fista
from jaxopt_robust.solvers.types import Solver
from jaxopt_robust.typing import Array, ArrayLike, Penalty, ProxFn, PyTree

__all__ = ["WorkingSetInfo", "WorkingSetState", "working_set"]


class WorkingSetState(NamedTuple):
  """State of the working-set method.

  Attributes:
    params: float[p], the iterate.
    score: float[p], by how much each coefficient violates its optimality condition.
    count: int32, working sets solved.
  """

  params: Array
  score: Array
  count: Array  # type: ignore[assignment]


class WorkingSetInfo(NamedTuple):
  """Diagnostics of a working set.

  Attributes:
    error: the largest score after the solve, over all features, and at least the rounding of it.
    value: the smooth part at the iterate.
    size: int32, number of features of the working set.
    inner_steps: int32, steps of the inner solve.
    aux: what ``fun`` returned besides the value at the iterate (None without ``has_aux``).
  """

  error: Array
  value: Array
  size: Array
  inner_steps: Array
  aux: Any = None


def _sizes(features: int, smallest: int) -> tuple[int, ...]:
  """Doubling sizes, the last one all features."""
  sizes = []
  size = smallest
  while size < features:
    sizes.append(size)
    size *= 2
  return (*sizes, features)


def _room(active: Array) -> Array:
  """How many features a working set holds: room for a quarter more than are active, and a few."""
  return active + active // 4 + 16


@hashable
def working_set(
  fun: Callable[..., Any],
  prox: ProxFn | Penalty,
  *,
  stepsize: ArrayLike,
  min_size: int = 32,
  inner: Callable[[ArrayLike], Solver] | None = None,
  inner_factor: float = 0.03,
  max_inner_steps: int = 10_000,
  has_aux: bool = False,
) -> Solver:
  r"""Working-set method for sparse linear models with many features.

  Minimises f(w; X, y) + sum_j g(w_j; hyper_j), where f depends on w through X w. One step takes the
  features with w_j != 0 and those of the largest score

    |w_j - prox(w_j - s grad_j f(w), hyper_j, s)| / s,

  at least a quarter more than there are non-zero coefficients, solves the problem on these columns
  of X alone, and scores all features anew. The stopping quantity ``info.error`` is the largest
  score: zero exactly at a solution (for non-convex g at a fixed point of the proximal gradient
  map).

  Args:
    fun: ``fun(w, X, y, ...) -> scalar``, the smooth part f; it is called with subsets of the
      columns of X, so that it must not know their number.
    prox: ``prox(x, hyper, scaling)``, entrywise, such as ``jr.prox.prox_lasso``, or a ``Penalty``
      that holds it.
    stepsize: s > 0, at most 1/L with L the Lipschitz constant of grad f; may be traced.
    min_size: >= 1, static: the smallest working set. Sizes double from there, one program each
      inside a ``lax.switch``.
    inner: ``inner(stepsize) -> Solver`` for the small problems; None: restarted ``fista``.
    inner_factor: in (0, 1): the inner tolerance, as a share of the largest score before.
    max_inner_steps: >= 1, static.
    has_aux: static; whether ``fun`` returns a pair ``(scalar, aux)``: aux is ``info.last.aux``.

  Returns:
    ``Solver`` with states ``WorkingSetState`` and infos ``WorkingSetInfo``. Its data are
    ``(X, y, ...)``, X float[n, p], dense or a ``BCOO`` matrix. ``hyper`` holds scalars, or arrays
    of length p (one number a feature).

  Raises:
    TypeError: when a function is not callable.
    ValueError: when a number is out of its range, or shapes do not fit.

  Note:
    A path of strengths in falling order with warm starts is one ``lax.scan`` over ``run_until``.
    Under ``vmap`` the switch runs every size: map over the whole solve with plain ``fista``
    instead.

  Example:
    >>> fun = lambda w, X, y: 0.5 * jnp.mean((X @ w - y) ** 2)
    >>> X, y = jnp.eye(4), jnp.array([8.0, 0.1, -4.0, 0.2])
    >>> solver = working_set(fun, jr.prox.prox_lasso, stepsize=4.0, min_size=2)
    >>> w, info = jr.solvers.run_until(solver, jnp.zeros(4), 0.5, X, y, tol=1e-6, max_steps=9)
    >>> w, int(info.status)
    (Array([ 6.,  0., -2.,  0.], dtype=float32), 0)

  Reference:
    Massias, Gramfort and Salmon, Celer: a fast solver for the Lasso with dual extrapolation, 2018
    (doubling working sets); Bertrand, Klopfenstein, Bannier, Gidel and Massias, Beyond L1: faster
    and better sparse models with skglm, 2022, algorithm 1 (scores). The fixed-point score is theirs
    for penalties whose sub-differential at 0 is the whole line. They double the number of active
    features and solve to 0.3 of the score by coordinate descent; the smaller sets and the tighter
    inner solve here were the fastest with FISTA.
  """
  _arguments.check_callable("fun", fun)
  operator = operator_of("prox", prox)
  _checks.check_positive("stepsize", stepsize, scalar=True)
  min_size = _checks.check_int("min_size", min_size, minimum=1)
  _checks.check_interval("inner_factor", inner_factor, 0.0, 1.0, closed="neither")
  max_inner_steps = _checks.check_int("max_inner_steps", max_inner_steps, minimum=1)
  if inner is not None:
    _arguments.check_callable("inner", inner)
  make_inner = inner or (lambda s: fista(value_of(fun, has_aux), prox, stepsize=s))

  def score_of(params: Array, hyper: PyTree, data: tuple, named: dict) -> tuple:
    value, grad, aux = smooth_part(fun, has_aux, params, data, named)
    s = jnp.asarray(stepsize, params.dtype)
    score = jnp.abs(params - operator(params - s * grad, hyper, s)) / s
    largest = jax.lax.stop_gradient(jnp.max(score))
    return score, jnp.maximum(largest, rounding(params) / s + rounding(grad)), value, aux

  def init(params: Array, hyper: PyTree, *data: PyTree, **named: PyTree) -> WorkingSetState:
    if not data:
      raise ValueError("data must be the design X, the targets y, ...; got nothing.")
    design = _designs.check_design("X", data[0])
    params = _checks.check_float_array("params", params, rank=1)
    if design.shape[1] != params.shape[0]:
      raise ValueError(
        f"X must have a column for each of the {params.shape[0]} params; got shape {design.shape}."
      )
    for leaf in jax.tree.leaves(hyper):
      if jnp.ndim(leaf) and jnp.shape(leaf) != params.shape:
        raise ValueError(
          f"hyper must hold scalars or arrays of shape {params.shape}; got {jnp.shape(leaf)}."
        )
    score, *_ = score_of(params, hyper, data, named)
    return WorkingSetState(params, score, jnp.zeros((), jnp.int32))

  def step(state: WorkingSetState, hyper: PyTree, *data: PyTree, **named: PyTree) -> tuple:
    design, rest = _designs.check_design("X", data[0]), data[1:]
    params, score = state.params, state.score
    features = params.shape[0]
    sizes = _sizes(features, min_size)
    s = jnp.asarray(stepsize, scalar_dtype(params))
    active = params != 0
    priority = jnp.where(active, jnp.inf, score)
    # No tighter than what the inner solve can tell from rounding.
    tol = jnp.maximum(inner_factor * jnp.max(score), 4 * rounding(params) / s)

    def solve_on(size: int) -> Callable[[], tuple[Array, Array]]:
      def solve() -> tuple[Array, Array]:
        index = jax.lax.top_k(priority, size)[1]
        pick = lambda leaf: jnp.asarray(leaf)[index] if jnp.ndim(leaf) else leaf
        found, info = run_until(
          make_inner(s), params[index], jax.tree.map(pick, hyper),
          _designs.take_columns(design, index), *rest, tol=tol, max_steps=max_inner_steps, **named,
        )  # fmt: skip
        return params.at[index].set(found), info.steps

      return solve

    wanted = jnp.minimum(_room(jnp.sum(active)), features)
    which = jnp.sum(jnp.asarray(sizes[:-1], jnp.int32) < wanted)
    new, steps = jax.lax.switch(which, [solve_on(size) for size in sizes])
    score, error, value, aux = score_of(new, hyper, data, named)
    info = WorkingSetInfo(error, value, jnp.asarray(sizes, jnp.int32)[which], steps, aux)
    return WorkingSetState(new, score, state.count + 1), info

  return Solver(init, step)
