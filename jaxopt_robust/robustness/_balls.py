"""Balls around each example of a batch: steepest directions, projections, random points."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.projections import projection_l1_ball
from jaxopt_robust.typing import Array, ArrayLike

NORMS = ("linf", "l2", "l1")
# The part of the entries that one step in the l1 ball moves. The steepest step moves one entry;
# Croce and Hein (2021) begin with a fifth of them and lower this as the attack goes on.
_L1_SHARE = 0.1


class Ball(NamedTuple):
  """What an attack needs to know of the balls around a batch of examples.

  Attributes:
    clean: float[batch, ...] the centres.
    radius: float[batch, 1, ...].
    direction: ``(gradient, point) -> step`` of norm 1 that ascends, 0 where the gradient is.
    confine: ``point -> point``, projected on the ball and then clipped to the bounds.
    start: ``key -> point`` uniform in the ball, then clipped.
    sphere: ``key -> point`` on the surface of the ball, then clipped.
  """

  clean: Array
  radius: Array
  direction: Callable[[Array, Array], Array]
  confine: Callable[[Array], Array]
  start: Callable[[Array], Array]
  sphere: Callable[[Array], Array]


def make_ball(x: ArrayLike, radius: ArrayLike, norm: str, bounds: Any) -> Ball:
  """Checks examples, radius, norm and bounds, and puts the parts together."""
  clean = jax.lax.stop_gradient(_checks.check_float_array("x", x, min_rank=1))
  _arguments.check_option("norm", norm, NORMS)
  _checks.check_non_negative("radius", radius)
  length = per_example("radius", radius, clean)
  limits = _limits(bounds, clean)
  project = {"linf": _clip, "l2": _shrink, "l1": _onto_l1}[norm]

  def confine(point: Array) -> Array:
    # Ball, then box: for "linf" this is the projection on both, otherwise a point of both.
    point = clean + project(point - clean, length)
    point = jnp.where(length >= 0, point, jnp.nan)  # a traced radius that is negative or NaN
    return point if limits is None else jnp.clip(point, *limits)

  def direction(gradient: Array, point: Array) -> Array:
    if norm != "l1":
      return sign(gradient) if norm == "linf" else unit(gradient)
    if limits is not None:  # an entry at a side of the box can go no further
      low, high = limits
      blocked = ((point <= low) & (gradient < 0)) | ((point >= high) & (gradient > 0))
      gradient = jnp.where(blocked, 0, gradient)
    return _sparse(gradient)

  def start(key: Array) -> Array:
    return confine(clean + length * _uniform(key, clean, norm))

  def sphere(key: Array) -> Array:
    return confine(clean + length * _surface(key, clean, norm))

  return Ball(clean, length, direction, confine, start, sphere)


def per_example(name: str, value: ArrayLike, x: Array) -> Array:
  """A scalar or one number an example, shaped to broadcast against the batch."""
  array = jax.lax.stop_gradient(jnp.asarray(value, x.dtype))
  if array.ndim and array.shape != x.shape[:1]:
    raise ValueError(f"{name} must be a scalar or have shape {x.shape[:1]}; got {array.shape}.")
  return jnp.broadcast_to(array, x.shape[:1]).reshape(x.shape[:1] + (1,) * (x.ndim - 1))


def over_batch(mask: Array, x: Array) -> Array:
  """[batch] shaped to broadcast against the batch."""
  return mask.reshape(mask.shape + (1,) * (x.ndim - 1))


def _limits(bounds: Any, clean: Array) -> tuple[Array, Array] | None:
  if bounds is None:
    return None
  low, high = _arguments.parts(bounds, "low", "high", name="bounds", example="(0.0, 1.0)")
  arrays = []
  for name, value in (("low", low), ("high", high)):
    with _arguments.within("bounds"):
      array = _checks.check_float_array(name, value)
    if array.shape not in ((), clean.shape[1:], clean.shape):
      raise ValueError(
        f"bounds must be scalars or have shape {clean.shape[1:]}; got {array.shape}."
      )
    arrays.append(jax.lax.stop_gradient(jnp.broadcast_to(array.astype(clean.dtype), clean.shape)))
  lower, upper = arrays
  _checks.check_holds(lower <= upper, "bounds must have low <= high.")
  slack = jnp.finfo(clean.dtype).eps * (jnp.abs(lower) + jnp.abs(upper))  # a rounding
  _checks.check_holds(
    (clean >= lower - slack) & (clean <= upper + slack) | jnp.isnan(clean),
    "bounds must contain x; got examples outside of them. Bounds are in the units of x: normalised "
    "images have those of normalised 0 and 1.",
  )
  return lower, upper


def _norm(v: Array) -> Array:
  """Euclidean norm of each example, float[batch, 1, ...]."""
  wide = numerics.upcast(v)
  flat = numerics.safe_norm(wide.reshape(v.shape[0], -1), axis=-1)
  return flat.reshape(v.shape[:1] + (1,) * (v.ndim - 1))


def sign(gradient: Array) -> Array:
  """The steepest direction of norm 1 in the l_inf norm."""
  return jnp.sign(gradient)


def unit(gradient: Array) -> Array:
  """The steepest direction of norm 1 in the l_2 norm, of any scale."""
  # Scaled by the largest entry first, so that the squares neither overflow nor vanish.
  axes = tuple(range(1, gradient.ndim))
  largest = jnp.max(jnp.abs(gradient), axis=axes, keepdims=True)
  scaled = numerics.safe_divide(gradient, largest)
  return numerics.safe_divide(scaled, _norm(scaled)).astype(gradient.dtype)


def one_hot(gradient: Array) -> Array:
  """The steepest direction of norm 1 in the l_1 norm: the first of the largest entries."""
  flat = gradient.reshape(gradient.shape[0], -1)
  place = jax.nn.one_hot(jnp.argmax(jnp.abs(flat), axis=1), flat.shape[1], dtype=flat.dtype)
  return (jnp.sign(flat) * place).reshape(gradient.shape)


def _sparse(gradient: Array) -> Array:
  """The largest entries of the gradient, in proportion, with l_1 norm 1.

  Signs alone would move all of these by the same amount, and the projection would take it back from
  all: of a linear function the iterates would stay where they are.
  """
  flat = numerics.upcast(gradient.reshape(gradient.shape[0], -1))
  flat = numerics.safe_divide(flat, jnp.max(jnp.abs(flat), axis=1, keepdims=True))
  size = jnp.abs(flat)
  count = max(1, round(_L1_SHARE * flat.shape[1]))
  least = jax.lax.top_k(size, count)[0][:, -1:]
  kept = jnp.where(size >= least, flat, 0)
  total = jnp.sum(jnp.abs(kept), axis=1, keepdims=True)
  return numerics.safe_divide(kept, total).astype(gradient.dtype).reshape(gradient.shape)


def _clip(offset: Array, radius: Array) -> Array:
  return jnp.clip(offset, -radius, radius)


def _shrink(offset: Array, radius: Array) -> Array:
  length = _norm(offset)
  factor = jnp.where(length > radius, numerics.safe_divide(radius, length), 1)
  return (offset * factor).astype(offset.dtype)


def _onto_l1(offset: Array, radius: Array) -> Array:
  return jax.vmap(projection_l1_ball)(offset, radius.reshape(-1))


def _exponentials(key: ArrayLike, x: Array) -> tuple[Array, Array]:
  """Entries of random signs and exponential sizes, and the sum of the sizes."""
  key_size, key_sign = jax.random.split(_checks.check_key("key", key))
  size = jax.random.exponential(key_size, x.shape, x.dtype)
  signs = jax.random.rademacher(key_sign, x.shape, x.dtype)
  return signs * size, jnp.sum(size, axis=tuple(range(1, x.ndim)), keepdims=True)


def _uniform(key: ArrayLike, x: Array, norm: str) -> Array:
  """Uniform in the unit ball of one example."""
  if norm == "linf":
    return jax.random.uniform(key, x.shape, x.dtype, -1.0, 1.0)
  key_direction, key_length = jax.random.split(_checks.check_key("key", key))
  lengths = x.shape[:1] + (1,) * (x.ndim - 1)
  if norm == "l1":  # exponentials over their sum and one more are uniform in the simplex
    offset, total = _exponentials(key_direction, x)
    return offset / (total + jax.random.exponential(key_length, lengths, x.dtype))
  length = jax.random.uniform(key_length, lengths, x.dtype)
  dimension = x[0].size
  return unit(jax.random.normal(key_direction, x.shape, x.dtype)) * length ** (1 / dimension)


def _surface(key: ArrayLike, x: Array, norm: str) -> Array:
  """A random direction of norm 1."""
  if norm == "l1":
    offset, total = _exponentials(key, x)
    return numerics.safe_divide(offset, total)
  if norm == "l2":
    return unit(jax.random.normal(key, x.shape, x.dtype))
  offset = jax.random.uniform(key, x.shape, x.dtype, -1.0, 1.0)
  axes = tuple(range(1, x.ndim))
  return numerics.safe_divide(offset, jnp.max(jnp.abs(offset), axis=axes, keepdims=True))
