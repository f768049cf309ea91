"""A smooth attack inside a box by a log barrier, and its implicit derivative."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = [
  "PerturbationBox",
  "implicit_direction",
  "implicit_term",
  "log_barrier_attack",
  "perturbation_box",
]

_TO_BOUNDARY = 0.9  # the part of the way to a side that one step may go


class PerturbationBox(NamedTuple):
  """The perturbations d that are allowed, lower < d < upper.

  Attributes:
    lower: float[batch, ...], negative; at least float32.
    upper: float[batch, ...], positive.
  """

  lower: Array
  upper: Array


def perturbation_box(
  x: ArrayLike,
  radius: ArrayLike,
  *,
  low: ArrayLike = 0.0,
  high: ArrayLike = 1.0,
  slack: ArrayLike = 1e-3,
) -> PerturbationBox:
  r"""Box of the perturbations of each example, with an interior.

  Computes lower = max(-radius, low - x) and upper = min(radius, high - x). A side that is shorter
  than the slack (a black or white pixel) is widened to the slack, or to the radius if that is
  smaller, so that a barrier on it is finite.

  Args:
    x: float[batch, ...] clean examples, within [low, high].
    radius: > 0, a scalar or float[batch]; may be traced.
    low: least value of an entry, a scalar or an array of one example's shape.
    high: largest value of an entry, a scalar or an array of one example's shape.
    slack: > 0, a scalar; may be traced.

  Returns:
    PerturbationBox with arrays of the shape of ``x``, float32 if ``x`` is narrower: squares of
    distances to the sides overflow in half precision.

  Raises:
    ValueError: x is empty or has rank 0, radius <= 0, slack <= 0, or radius has another shape.
    TypeError: x is not floating-point.

  Example:
    >>> box = perturbation_box(jnp.array([[0.0, 0.5, 0.95]]), 0.1)
    >>> np.round(np.float64(box.upper - box.lower), 3).tolist()
    [[0.101, 0.2, 0.15]]

  Reference:
    Sow, Lin, Wang and Liang, Doubly robust instance-reweighted adversarial training, 2024; the
    slack is ours.
  """
  array = _checks.check_float_array("x", x, min_rank=1)
  _checks.check_positive("radius", radius)
  _checks.check_array("slack", slack, rank=0)
  _checks.check_positive("slack", slack)
  clean = jax.lax.stop_gradient(numerics.upcast(array))
  length = jnp.asarray(radius, clean.dtype)
  if length.ndim and length.shape != clean.shape[:1]:
    raise ValueError(
      f"radius must be a scalar or have shape {clean.shape[:1]}; got {length.shape}."
    )
  length = jnp.broadcast_to(length, clean.shape[:1]).reshape(-1, *(1,) * (clean.ndim - 1))
  low, high = (jnp.broadcast_to(jnp.asarray(b, clean.dtype), clean.shape) for b in (low, high))
  least = jnp.minimum(jnp.asarray(slack, clean.dtype), length)
  lower = jnp.minimum(jnp.maximum(-length, low - clean), -least)
  return PerturbationBox(lower, jnp.maximum(jnp.minimum(length, high - clean), least))


def log_barrier_attack(
  objective: Callable[[Array], Array],
  box: PerturbationBox,
  key: ArrayLike,
  *,
  num_steps: int,
  stepsize: ArrayLike = 0.5,
  barrier: ArrayLike = 1e-3,
) -> Array:
  r"""Maximises an objective plus a log barrier over a box, by strictly feasible steps.

  Approaches the maximiser of objective(d)_i + c sum_j [log(u_j - d_j) + log(d_j - l_j)], with
  c = barrier, from a random point: d <- d + g / (H + 1 / stepsize), g the gradient of this and
  H_j = c / (u_j - d_j)^2 + c / (d_j - l_j)^2 the barrier's curvature. A step goes at most nine
  tenths of the way to a side.

  Args:
    objective: maps perturbations float[batch, ...] to float[batch]; entry i must depend on row i
      alone (no batch statistics).
    box: PerturbationBox l, u from ``perturbation_box``.
    key: typed PRNG key for the start, uniform in the middle nine tenths of the box.
    num_steps: static integer >= 1.
    stepsize: > 0, a scalar; may be traced.
    barrier: > 0, the c, a scalar; may be traced.

  Returns:
    float[batch, ...] perturbation, strictly inside the box. No gradient flows through it.

  Raises:
    ValueError: the box's arrays differ in shape or are empty, num_steps < 1, stepsize <= 0,
      barrier <= 0, or an objective that does not return one number an example.
    TypeError: key is not a typed key, objective is not callable, or num_steps is not an integer.

  Note:
    The curvature of the objective is left out: where it is negative and strong a smaller stepsize
    is needed. Iterates keep sqrt(eps) times the width of the box from its sides, so that the
    barrier stays finite. Entries of a gradient that are not finite count as 0.

  Example:
    >>> box = perturbation_box(jnp.full((1, 2), 0.5), 0.1)
    >>> towards = lambda d: d @ jnp.array([1.0, -2.0])
    >>> found = log_barrier_attack(towards, box, jax.random.key(0), num_steps=20)
    >>> np.round(np.float64(found), 3).tolist()
    [[0.099, -0.1]]

  Reference:
    Sow, Lin, Wang and Liang, Doubly robust instance-reweighted adversarial training, 2024,
    equation 7 (the barrier); the paper takes projected gradient steps, the preconditioner is ours.
  """
  _arguments.check_callable("objective", objective)
  lower, upper = _check_box(box)
  _checks.check_key("key", key)
  num_steps = _checks.check_int("num_steps", num_steps, minimum=1)
  for name, value in (("stepsize", stepsize), ("barrier", barrier)):
    _checks.check_array(name, value, rank=0)
    _checks.check_positive(name, value)
  alpha, c = (jax.lax.stop_gradient(jnp.asarray(v, lower.dtype)) for v in (stepsize, barrier))
  margin = jnp.asarray(jnp.finfo(lower.dtype).eps, lower.dtype) ** 0.5 * (upper - lower)

  def step(_: int, d: Array) -> Array:
    gradient = jax.grad(lambda v: jnp.sum(_per_example(objective, v)))(d)
    gradient = jnp.where(jnp.isfinite(gradient), gradient, 0)
    up, down = upper - d, d - lower
    ascent = gradient - c / up + c / down
    move = ascent / (c / up**2 + c / down**2 + 1 / alpha)
    move = jnp.clip(move, -_TO_BOUNDARY * down, _TO_BOUNDARY * up)
    return jnp.clip(d + move, lower + margin, upper - margin)

  part = jax.random.uniform(key, lower.shape, lower.dtype, 0.05, 0.95)
  start = lower + part * (upper - lower)
  return jax.lax.stop_gradient(jax.lax.fori_loop(0, num_steps, step, start))


def implicit_direction(
  objective: Callable[[Array], Array],
  box: PerturbationBox,
  perturbation: ArrayLike,
  gradient: ArrayLike,
  *,
  barrier: ArrayLike = 1e-3,
  hessian: str = "diagonal",
) -> Array:
  r"""Solves the linear system of the implicit function theorem at an attack's solution.

  Computes q_i = H_i^{-1} gradient_i, with H_i the Hessian in the perturbation d of
  -objective(d)_i - c sum_j [log(u_j - d_j) + log(d_j - l_j)] ("full"), or the barrier's part of it,
  which is diagonal ("diagonal"; exact for an objective that is linear in d, and near where networks
  are piecewise linear).

  Args:
    objective: maps perturbations float[batch, ...] to float[batch], row by row.
    box: PerturbationBox l, u.
    perturbation: float[batch, ...] maximiser found by ``log_barrier_attack``.
    gradient: float[batch, ...] derivative of the outer loss in the perturbation.
    barrier: > 0, the c, a scalar; may be traced.
    hessian: "diagonal" or "full" (dense, one Hessian-vector product an entry: for small examples).

  Returns:
    float[batch, ...] the solution q. No gradient flows through it.

  Raises:
    ValueError: shapes do not agree, barrier <= 0 or an unknown kind of Hessian.
    TypeError: objective is not callable.

  Example:
    >>> box = perturbation_box(jnp.full((1, 2), 0.5), 0.1)
    >>> q = implicit_direction(
    ...   lambda d: d[:, 0], box, jnp.zeros((1, 2)), jnp.ones((1, 2)), barrier=0.01
    ... )
    >>> q.round(2)
    Array([[0.5, 0.5]], dtype=float32)

  Reference:
    Sow, Lin, Wang and Liang, Doubly robust instance-reweighted adversarial training, 2024; the
    diagonal form is derived here, with the curvature of a ReLU network taken as 0.
  """
  _arguments.check_callable("objective", objective)
  lower, upper = _check_box(box)
  _checks.check_array("barrier", barrier, rank=0)
  _checks.check_positive("barrier", barrier)
  _arguments.check_option("hessian", hessian, ("diagonal", "full"))
  vectors = []
  for name, value in (("perturbation", perturbation), ("gradient", gradient)):
    array = _checks.check_float_array(name, value).astype(lower.dtype)
    _checks.check_same_shape(name, array, "box.lower", lower)
    vectors.append(jax.lax.stop_gradient(array))
  d, right = vectors
  c = jax.lax.stop_gradient(jnp.asarray(barrier, lower.dtype))
  curvature = c / (upper - d) ** 2 + c / (d - lower) ** 2
  if hessian == "diagonal":
    return right / curvature
  slope = jax.grad(lambda v: jnp.sum(_per_example(objective, v)))
  size = d[0].size
  units = jnp.eye(size, dtype=d.dtype).reshape(size, 1, *d.shape[1:])

  def column(unit: Array) -> Array:  # all examples at once: their Hessians do not mix
    return jax.jvp(slope, (d,), (jnp.broadcast_to(unit, d.shape),))[1]

  columns = jax.vmap(column)(units).reshape(size, d.shape[0], size)
  matrices = jax.vmap(jnp.diag)(curvature.reshape(-1, size)) - jnp.moveaxis(columns, 0, -1)
  solution = jnp.linalg.solve(matrices, right.reshape(-1, size)[..., None])
  return jax.lax.stop_gradient(solution[..., 0].reshape(d.shape))


def implicit_term(
  objective: Callable[[PyTree, Array], Array],
  params: PyTree,
  perturbation: ArrayLike,
  direction: ArrayLike,
) -> Array:
  r"""Number whose gradient in the parameters is the implicit part of a hypergradient.

  Computes <d objective(params, d)_i / dd, q_i> with q = direction held fixed. With
  q = H^{-1} d(outer loss)/dd from ``implicit_direction`` its gradient in the parameters is what the
  dependence of the attack's solution d on the parameters adds to the gradient of the outer loss.

  Args:
    objective: ``objective(params, d) -> float[batch]``, what the attack maximises, row by row.
    params: pytree of parameters.
    perturbation: float[batch, ...] the attack's solution d.
    direction: float[batch, ...] the q.

  Returns:
    float[batch], one number an example, to be added to the losses. Its value has no meaning.

  Raises:
    ValueError: shapes do not agree.
    TypeError: objective is not callable.

  Note:
    One product with a Jacobian forwards; its gradient is one more pass backwards.

  Example:
    >>> bilinear = lambda w, d: d @ w
    >>> d, q = jnp.zeros((1, 2)), jnp.array([[3.0, 4.0]])
    >>> jax.grad(lambda w: implicit_term(bilinear, w, d, q).sum())(jnp.ones(2))
    Array([3., 4.], dtype=float32)

  Reference:
    Sow, Lin, Wang and Liang, Doubly robust instance-reweighted adversarial training, 2024 (the
    Jacobian inner products of its algorithm).
  """
  _arguments.check_callable("objective", objective)
  d = jax.lax.stop_gradient(_checks.check_float_array("perturbation", perturbation))
  q = jax.lax.stop_gradient(_checks.check_float_array("direction", direction))
  _checks.check_same_shape("perturbation", d, "direction", q)
  return jax.jvp(lambda v: objective(params, v), (d,), (q.astype(d.dtype),))[1]


def _check_box(box: Any) -> tuple[Array, Array]:
  if not hasattr(box, "lower") or not hasattr(box, "upper"):
    raise TypeError(f"box must be a PerturbationBox; got {type(box).__name__}.")
  lower = _checks.check_float_array("box.lower", box.lower, min_rank=1)
  upper = _checks.check_float_array("box.upper", box.upper, min_rank=1)
  _checks.check_same_shape("box.lower", lower, "box.upper", upper)
  return jax.lax.stop_gradient((numerics.upcast(lower), numerics.upcast(upper)))


def _per_example(objective: Callable[[Array], Array], d: Array) -> Array:
  values = objective(d)
  if jnp.shape(values) != d.shape[:1]:
    raise ValueError(
      f"objective must return one number an example, shape {d.shape[:1]}; got {jnp.shape(values)}."
    )
  return values
