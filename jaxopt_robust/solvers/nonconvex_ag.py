"""Accelerated gradient for penalties that are l1 plus a smooth concave part: SCAD and MCP."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.prox import penalty_lasso, prox_lasso
from jaxopt_robust.solvers._common import (
  add_scaled,
  hashable,
  norm,
  scalar_dtype,
  scale,
  smooth_part,
)
from jaxopt_robust.solvers.types import Solver
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = [
  "NonconvexAGInfo",
  "NonconvexAGState",
  "PenaltySplit",
  "nonconvex_ag",
  "split_mcp",
  "split_scad",
]

# The share of the longest step 1/L that is taken: 0.99 here, 0.5 in the original settings.
_SHARE = {"optimal": 0.99, "original": 0.5}
# Steps after a restart within which there is no other.
_BETWEEN_RESTARTS = 3


class PenaltySplit(NamedTuple):
  """A penalty g(x) = sum_i lam_i |x_i| + h(x) with h smooth and concave.

  Attributes:
    l1reg: lam, a scalar, an array of the shape of x or a pytree prefix of x.
    value: ``value(x) -> scalar``, h.
    grad: ``grad(x) -> x_like``, the gradient of h.
    lipschitz: scalar, the Lipschitz constant of the gradient of h.
  """

  l1reg: Any
  value: Callable[[PyTree], Array]
  grad: Callable[[PyTree], PyTree]
  lipschitz: Array


class NonconvexAGState(NamedTuple):
  """State of accelerated gradient.

  Attributes:
    params: the middle point, where the gradient is taken.
    anchor: the point of the long steps.
    aggregate: the point of the short steps, with exact zeros.
    mixing: scalar, the weight of the anchor in the middle point.
    speed: scalar, the length of the last move of ``params``.
    since: int32, steps since the last restart.
    count: int32, steps done.
  """

  params: PyTree
  anchor: PyTree
  aggregate: PyTree
  mixing: Array
  speed: Array
  since: Array
  count: Array  # type: ignore[assignment]


class NonconvexAGInfo(NamedTuple):
  """Diagnostics of a step.

  Attributes:
    error: ``max_i |params - aggregate|_i / s`` with s the short step, the proximal gradient
      residual at ``params``, and at least the rounding of that formula.
    value: the objective f + g at ``params``.
    restarted: bool, the momentum began anew.
  """

  error: Array
  value: Array
  restarted: Array


def _pair(hyperparams: Any, second: str, example: tuple) -> tuple[Any, Array]:
  """Strengths (any prefix tree) and the one scalar that bends the penalty."""
  lam, bend = _arguments.parts(hyperparams, "lam", second, example=example)
  for leaf in jax.tree.leaves(lam):
    _checks.check_non_negative("lam of hyperparams", leaf)
  return lam, _checks.check_float_array(f"{second} of hyperparams", bend, rank=0)


def _split(lam: Any, value: Callable, slope: Callable, lipschitz: Array) -> PenaltySplit:
  """Entrywise formulas of (|x|, lam), over the leaves of a tree."""

  def strength(lam: ArrayLike, x: Array) -> Array:
    if jnp.shape(lam) not in ((), x.shape):
      raise ValueError(
        f"lam of hyperparams must be a scalar or have the shape of x, {x.shape}; got "
        f"{jnp.shape(lam)}."
      )
    return jnp.asarray(lam, x.dtype)

  def spread(x: PyTree) -> PyTree:
    x = _checks.check_float_tree("x", x)
    return x, jax.tree.map(strength, jax.tree.broadcast(lam, x), x)

  def total(x: PyTree) -> Array:
    x, strengths = spread(x)
    sums = jax.tree.map(lambda v, l: jnp.sum(value(jnp.abs(v), l)), x, strengths)
    return functools.reduce(jnp.add, jax.tree.leaves(sums))

  def grad(x: PyTree) -> PyTree:
    x, strengths = spread(x)
    return jax.tree.map(lambda v, l: jnp.sign(v) * slope(jnp.abs(v), l), x, strengths)

  return PenaltySplit(lam, total, grad, lipschitz)


def split_scad(hyperparams: Any) -> PenaltySplit:
  r"""SCAD as l1 plus a smooth concave part.

  ``prox.penalty_scad`` is sum_i lam |x_i| + h(x_i) with h = 0 up to lam, -(|x| - lam)^2 /
  (2 (a - 1)) up to a lam, lam^2 (a + 1) / 2 - lam |x| beyond. Its slope is sign(x) times 0,
  (lam - |x|) / (a - 1) and -lam.

  Args:
    hyperparams: pair (lam, a): lam >= 0 a scalar, an array of the shape of x or a pytree prefix of
      x (0 for an intercept); a > 2 a scalar (3.7 is usual). May be traced.

  Returns:
    ``PenaltySplit`` with ``lipschitz`` = 1 / (a - 1).

  Raises:
    ValueError: when lam is negative, or a no scalar above 2.

  Example:
    >>> split = split_scad((1.0, 3.0))
    >>> split.grad(jnp.array([0.5, 2.0, -9.0]))
    Array([ 0. , -0.5,  1. ], dtype=float32)

  Reference:
    Yang, Asgharian and Bhatnagar, Accelerated gradient methods for sparse statistical learning with
    nonconvex penalties, 2023, section 2.
  """
  lam, a = _pair(hyperparams, "a", (1.0, 3.7))
  _checks.check_greater("a of hyperparams", a, 2.0)

  def value(size: Array, lam: Array) -> Array:
    b = a.astype(size.dtype)
    bend = -(jnp.maximum(size - lam, 0) ** 2) / (2 * (b - 1))
    return jnp.where(size <= b * lam, bend, lam * (lam * (b + 1) / 2 - size))

  def slope(size: Array, lam: Array) -> Array:
    bend = jnp.minimum(lam - size, 0) / (a.astype(size.dtype) - 1)
    return jnp.maximum(bend, -lam)

  return _split(lam, value, slope, 1 / (a - 1))


def split_mcp(hyperparams: Any) -> PenaltySplit:
  r"""The minimax concave penalty as l1 plus a smooth concave part.

  ``prox.penalty_mcp`` is sum_i lam |x_i| + h(x_i) with h = -x^2 / (2 theta) up to theta lam,
  theta lam^2 / 2 - lam |x| beyond. Its slope is -x / theta, and -lam sign(x) beyond.

  Args:
    hyperparams: pair (lam, theta): lam >= 0 a scalar, an array of the shape of x or a pytree prefix
      of x (0 for an intercept); theta > 0 a scalar (3 is usual). May be traced.

  Returns:
    ``PenaltySplit`` with ``lipschitz`` = 1 / theta.

  Raises:
    ValueError: when lam is negative, or theta no positive scalar.

  Example:
    >>> split = split_mcp((1.0, 2.0))
    >>> split.grad(jnp.array([0.5, -1.0, 9.0]))
    Array([-0.25,  0.5 , -1.  ], dtype=float32)

  Reference:
    Yang, Asgharian and Bhatnagar, Accelerated gradient methods for sparse statistical learning with
    nonconvex penalties, 2023, section 2.
  """
  lam, theta = _pair(hyperparams, "theta", (1.0, 3.0))
  _checks.check_positive("theta of hyperparams", theta)

  def value(size: Array, lam: Array) -> Array:
    t = theta.astype(size.dtype)
    inside = size <= t * lam
    bend = jnp.where(inside, size, 0)
    return jnp.where(inside, -bend * (bend / t / 2), lam * (t * lam / 2 - size))

  def slope(size: Array, lam: Array) -> Array:
    return jnp.maximum(-size / theta.astype(size.dtype), -lam)

  return _split(lam, value, slope, 1 / theta)


def _largest(tree: PyTree) -> Array:
  """The largest magnitude in a tree."""
  sizes = [jnp.max(jnp.abs(leaf), initial=0) for leaf in jax.tree.leaves(tree)]
  return jnp.max(jnp.stack([size.astype(scalar_dtype(tree)) for size in sizes]))


@hashable
def nonconvex_ag(
  fun: Callable[..., Any],
  split: Callable[[Any], PenaltySplit],
  *,
  lipschitz: ArrayLike,
  schedule: str = "optimal",
  restart: str | None = None,
) -> Solver:
  r"""Accelerated gradient for a smooth loss with SCAD, MCP or another split penalty.

  Minimises f(x) + sum_i lam_i |x_i| + h(x), f smooth (the paper's is (1/2n) ||y - X x||^2 or a mean
  logistic loss), h smooth and concave. With the gradient G of f + h at the middle point m, L the
  larger of the Lipschitz constants of the gradients of f and h, s = 0.99 / L and alpha_0 = 1,

    alpha_k = 2 / (1 + sqrt(1 + 4 / alpha_{k-1}^2)),       lambda_k = s / alpha_k,
    m = (1 - alpha_k) u + alpha_k x,
    x <- soft(x - lambda_k G, lambda_k lam),               u <- soft(m - s G, s lam).

  The original settings are alpha_k = 2 / (k + 1), s = 0.5 / L, lambda_k = k s / 2. The stopping
  quantity ``info.error`` is max_i |m - u|_i / s, the proximal gradient residual at m, which is 0
  exactly at a stationary point of the objective.

  Args:
    fun: ``fun(params, *data) -> scalar``, the smooth loss f, with the scaling that you give it.
    split: ``split(hyper) -> PenaltySplit``, such as ``split_scad`` or ``split_mcp``; ``hyper`` is
      then the pair that these take.
    lipschitz: > 0, the Lipschitz constant of grad f: the largest eigenvalue of X^T X / n for the
      least-squares loss, a quarter of it for the logistic one; may be traced.
    schedule: ``"optimal"`` (the settings above) or ``"original"``.
    restart: ``"speed"`` sets alpha back to 1 where the last move of m was shorter than the one
      before and the last restart is three steps ago; None never does.

  Returns:
    ``Solver`` with states ``NonconvexAGState`` and infos ``NonconvexAGInfo``.

  Raises:
    TypeError: when ``fun`` or ``split`` is not a function.
    ValueError: when ``lipschitz`` is not positive, an option is unknown, or ``fun`` is not scalar.

  Note:
    The objective is not monotone, and different methods may end in different local minima. The
    result is the middle point; ``state.aggregate`` is a proximal step from it, with exact zeros.
    Restarts help where features are nearly uncorrelated and cost steps where they are correlated
    (experiment ``sparse_acceleration``).

  Example:
    >>> solver = nonconvex_ag(
    ...   lambda x, b: 0.5 * jnp.sum((x - b) ** 2), split_mcp, lipschitz=1.0)
    >>> x, info = jr.solvers.run_until(
    ...   solver, jnp.zeros(2), (1.0, 2.0), jnp.array([3.0, 0.5]), tol=1e-4, max_steps=100)
    >>> x.round(2), int(info.status)
    (Array([3., 0.], dtype=float32), 0)

  Reference:
    Yang, Asgharian and Bhatnagar, Accelerated gradient methods for sparse statistical learning with
    nonconvex penalties, 2023, algorithm 1 and theorem 1 (settings); Ghadimi and Lan, Accelerated
    gradient methods for nonconvex nonlinear and stochastic programming, 2016, algorithm 1 and
    corollary 1 (original settings). The restart is that of the authors' package.
  """
  _arguments.check_callable("fun", fun)
  _arguments.check_callable("split", split)
  _checks.check_positive("lipschitz", lipschitz, scalar=True)
  _arguments.check_option("schedule", schedule, tuple(_SHARE))
  _arguments.check_option("restart", restart, ("speed", None))

  def init(params: PyTree, hyper: PyTree, *data: PyTree, **named: PyTree) -> NonconvexAGState:
    del hyper, data, named
    one, zero = jnp.ones((), scalar_dtype(params)), jnp.zeros((), jnp.int32)
    return NonconvexAGState(params, params, params, one, jnp.zeros_like(one), zero, zero)

  def step(
    state: NonconvexAGState, hyper: PyTree, *data: PyTree, **named: PyTree
  ) -> tuple[NonconvexAGState, NonconvexAGInfo]:
    parts = split(hyper)
    dtype = state.mixing.dtype
    curvature = jnp.maximum(jnp.asarray(lipschitz, dtype), jnp.asarray(parts.lipschitz, dtype))
    short = _SHARE[schedule] / curvature
    if schedule == "optimal":
      mixing = 2 / (1 + jnp.sqrt(1 + 4 / state.mixing**2))
      long = short / mixing
    else:
      k = (state.since + 1).astype(dtype)
      mixing, long = 2 / (k + 1), k * short / 2
    middle = add_scaled(scale(1 - mixing, state.aggregate), mixing, state.anchor)
    value, grad, _ = smooth_part(fun, False, middle, data, named)
    grad = optax.tree.add(grad, parts.grad(middle))
    anchor = prox_lasso(add_scaled(state.anchor, -long, grad), parts.l1reg, long)
    aggregate = prox_lasso(add_scaled(middle, -short, grad), parts.l1reg, short)

    speed = norm(optax.tree.sub(middle, state.params))
    since = state.since + 1
    again = jnp.zeros((), jnp.bool_)
    if restart == "speed":
      again = (speed < state.speed) & (since >= _BETWEEN_RESTARTS)
    error = _largest(optax.tree.sub(middle, aggregate)) / short
    half_eps = jnp.finfo(dtype).eps / 2
    floor = half_eps * (_largest(middle) / short + _largest(grad))
    total = value + penalty_lasso(middle, parts.l1reg) + parts.value(middle)
    new = NonconvexAGState(
      middle,
      anchor,
      aggregate,
      jnp.where(again, 1, mixing).astype(dtype),
      speed,
      jnp.where(again, 0, since).astype(jnp.int32),
      state.count + 1,
    )
    return new, NonconvexAGInfo(jnp.maximum(error, floor), total, again)

  return Solver(init, step)
