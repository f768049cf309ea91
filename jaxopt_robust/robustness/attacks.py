"""Projected gradient attacks on a batch, for any per-example objective."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["pgd_attack"]


def pgd_attack(
  objective: Callable[[Array], Array],
  x: ArrayLike,
  key: ArrayLike,
  *,
  radius: ArrayLike,
  stepsize: ArrayLike,
  num_steps: int,
  norm: str = "linf",
  bounds: tuple[ArrayLike, ArrayLike] | None = None,
) -> Array:
  r"""Projected gradient ascent in a ball around each example, from a random point of it.

  Computes an approximate maximiser of objective(x')_i over ||x'_i - x_i|| <= radius by
  x' <- P( x' + stepsize * g ) with g = sign(gradient) for "linf" and gradient / ||gradient||_2 for
  "l2"; P projects on the ball and clips to the bounds. The start is uniform in the ball.

  Args:
    objective: maps float[batch, ...] to float[batch]; entry i must depend on row i alone (no batch
      statistics), so that one call attacks the whole batch.
    x: float[batch, ...] clean examples.
    key: typed PRNG key for the start.
    radius: >= 0, a scalar or float[batch]; may be traced.
    stepsize: > 0, a scalar or float[batch]; may be traced.
    num_steps: static integer >= 1.
    norm: "linf" or "l2", over all axes but the first.
    bounds: (low, high) that every entry of x' must respect, scalars or arrays of one example's
      shape, or None. The clean examples must lie within them.

  Returns:
    float[batch, ...] of the dtype of ``x``, the last iterate. No gradient flows through it.

  Raises:
    ValueError: x is empty or has rank 0, radius < 0, stepsize <= 0, num_steps < 1, an unknown norm,
      or an objective that does not return one number an example.
    TypeError: x is not floating-point, key is not a typed key, objective is not callable, or
      num_steps is not an integer.

  Note:
    Entries of a gradient that are not finite count as 0: the attack does not move along them. With
    radius 0 the clean examples come back unchanged. Distances are kept up to one rounding of x'.

  Example:
    >>> x = jnp.zeros((1, 2))
    >>> towards = lambda v: v @ jnp.array([1.0, -2.0])
    >>> pgd_attack(towards, x, jax.random.key(0), radius=0.5, stepsize=0.2, num_steps=10)
    Array([[ 0.5, -0.5]], dtype=float32)

  Reference:
    Madry, Makelov, Schmidt, Tsipras and Vladu, Towards deep learning models resistant to
    adversarial attacks, 2018, section 2.1.
  """
  _arguments.check_callable("objective", objective)
  clean = jax.lax.stop_gradient(_checks.check_float_array("x", x, min_rank=1))
  _checks.check_key("key", key)
  _arguments.check_option("norm", norm, ("linf", "l2"))
  num_steps = _checks.check_int("num_steps", num_steps, minimum=1)
  _checks.check_non_negative("radius", radius)
  _checks.check_positive("stepsize", stepsize)
  ball, step_length = (
    _per_example("radius", radius, clean),
    _per_example("stepsize", stepsize, clean),
  )
  direction, project = (_sign, _clip) if norm == "linf" else (_unit, _shrink)

  def total(point: Array) -> Array:
    values = objective(point)
    if jnp.shape(values) != clean.shape[:1]:
      raise ValueError(
        "objective must return one number an example, "
        f"shape {clean.shape[:1]}; got {jnp.shape(values)}."
      )
    return jnp.sum(values)

  def confine(point: Array) -> Array:
    point = clean + project(point - clean, ball)
    if bounds is None:
      return point
    low, high = (jnp.broadcast_to(jnp.asarray(b, clean.dtype), clean.shape) for b in bounds)
    return jnp.clip(point, low, high)

  def step(_: int, point: Array) -> Array:
    gradient = jax.grad(total)(point)
    gradient = jnp.where(jnp.isfinite(gradient), gradient, 0)
    return confine(point + step_length * direction(gradient))

  start = confine(clean + ball * _random_offset(key, clean, norm))
  return jax.lax.stop_gradient(jax.lax.fori_loop(0, num_steps, step, start))


def _per_example(name: str, value: ArrayLike, x: Array) -> Array:
  """A scalar or one number an example, shaped to broadcast against the batch."""
  array = jax.lax.stop_gradient(jnp.asarray(value, x.dtype))
  if array.ndim and array.shape != x.shape[:1]:
    raise ValueError(f"{name} must be a scalar or have shape {x.shape[:1]}; got {array.shape}.")
  return jnp.broadcast_to(array, x.shape[:1]).reshape(x.shape[:1] + (1,) * (x.ndim - 1))


def _random_offset(key: ArrayLike, x: Array, norm: str) -> Array:
  """Uniform in the unit ball of one example."""
  if norm == "linf":
    return jax.random.uniform(key, x.shape, x.dtype, -1.0, 1.0)
  key_direction, key_length = jax.random.split(_checks.check_key("key", key))
  length = jax.random.uniform(key_length, x.shape[:1] + (1,) * (x.ndim - 1), x.dtype)
  dimension = x[0].size
  return _unit(jax.random.normal(key_direction, x.shape, x.dtype)) * length ** (1 / dimension)


def _norm(v: Array) -> Array:
  """Euclidean norm of each example, float[batch, 1, ...]."""
  wide = numerics.upcast(v)
  flat = numerics.safe_norm(wide.reshape(v.shape[0], -1), axis=-1)
  return flat.reshape(v.shape[:1] + (1,) * (v.ndim - 1))


def _sign(gradient: Array) -> Array:
  return jnp.sign(gradient)


def _unit(gradient: Array) -> Array:
  # Scaled by the largest entry first, so that the squares neither overflow nor vanish.
  axes = tuple(range(1, gradient.ndim))
  largest = jnp.max(jnp.abs(gradient), axis=axes, keepdims=True)
  scaled = numerics.safe_divide(gradient, largest)
  return numerics.safe_divide(scaled, _norm(scaled)).astype(gradient.dtype)


def _clip(offset: Array, radius: Array) -> Array:
  return jnp.clip(offset, -radius, radius)


def _shrink(offset: Array, radius: Array) -> Array:
  length = _norm(offset)
  factor = jnp.where(length > radius, numerics.safe_divide(radius, length), 1)
  return (offset * factor).astype(offset.dtype)
