"""What the cells share: checked data, the step along the residual, clamped parameters."""

from typing import Any

import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.numerics import safe_divide, upcast
from jaxopt_robust.typing import Array, ArrayLike
from jaxopt_robust.unfolding.types import Measurements


def multiply(a: Array, b: Array) -> Array:
  """Product in full precision: steps that are many times 1/L amplify rounding."""
  return jnp.matmul(a, b, precision="highest")


def check_layer(layer: Any, kind: type) -> Any:
  """The parameters of one layer, of the kind that the cell takes."""
  if not isinstance(layer, kind):
    raise TypeError(f"layer must be a {kind.__name__}; got {_checks.describe(layer)}.")
  return layer


def check_matrix(name: str, matrix: ArrayLike) -> Array:
  """A finite real matrix."""
  array = _checks.check_float_array(name, matrix, rank=2)
  _checks.check_holds(jnp.isfinite(array), f"{name} must be finite; got NaN or infinity.")
  return array


def opened(x: ArrayLike, data: Any, *, weight: bool = False) -> tuple[Array, Array, Array, Any]:
  """x, y, A and W (None where ``weight`` is not set) in the dtype of x, their shapes checked."""
  x = _checks.check_float_array("x", x, min_rank=1)
  if not isinstance(data, Measurements):
    raise TypeError(f"data must be Measurements(y, matrix); got {_checks.describe(data)}.")
  y = _checks.check_float_array("data.y", data.y, min_rank=1)
  matrix = _checks.check_float_array("data.matrix", data.matrix, rank=2)
  wanted = (*x.shape[:-1], matrix.shape[0])
  if x.shape[-1] != matrix.shape[1] or y.shape != wanted:
    raise ValueError(
      f"x must have shape [..., {matrix.shape[1]}] and data.y [..., {matrix.shape[0]}], like "
      f"data.matrix of shape {matrix.shape}, with equal leading axes; got {x.shape} and {y.shape}."
    )
  back = None
  if weight:
    if data.weight is None:
      raise ValueError("data.weight must be an array like data.matrix; got None.")
    back = _checks.check_float_array("data.weight", data.weight, rank=2).astype(x.dtype)
    _checks.check_same_shape("data.weight", back, "data.matrix", matrix)
  return x, y.astype(x.dtype), matrix.astype(x.dtype), back


def parameter(name: str, value: ArrayLike, x: Array) -> Array:
  """A step or a threshold in the shape and dtype of x; below 0 it counts as 0."""
  array = _checks.check_float_array(f"layer.{name}", value).astype(x.dtype)
  if array.ndim > 1 or (array.ndim == 1 and array.shape != x.shape[-1:]):
    raise ValueError(
      f"layer.{name} must be a scalar or have shape {x.shape[-1:]} within a layer; "
      f"got {array.shape}: unfold takes the layers apart."
    )
  array = jnp.maximum(array, 0)
  return jnp.broadcast_to(array, x.shape) if array.ndim else array


def scalar_step(value: ArrayLike, x: Array) -> Array:
  """A step size; below 0 it counts as 0."""
  array = _checks.check_float_array("layer.step", value).astype(x.dtype)
  if array.ndim:
    raise ValueError(
      f"layer.step must be a scalar within a layer; got {array.shape}: unfold takes the layers "
      "apart."
    )
  return jnp.maximum(array, 0)


def spread(name: str, strength: ArrayLike, x: Array) -> Array:
  """A strength >= 0 as a scalar, or one a coefficient in the shape of x."""
  _checks.check_non_negative(name, strength)
  array = _checks.check_float_array(name, strength).astype(x.dtype)
  if array.ndim > 1 or (array.ndim == 1 and array.shape != x.shape[-1:]):
    raise ValueError(f"{name} must be a scalar or have shape {x.shape[-1:]}; got {array.shape}.")
  return jnp.broadcast_to(array, x.shape) if array.ndim else array


def strength_of(strength: ArrayLike, matrix: Array) -> Array:
  """lam >= 0 as a scalar or one a column of A, in its dtype."""
  _checks.check_non_negative("strength", strength)
  array = _checks.check_float_array("strength", strength).astype(matrix.dtype)
  if array.shape not in ((), matrix.shape[1:]):
    raise ValueError(
      f"strength must be a scalar or have shape {matrix.shape[1:]}; got {array.shape}."
    )
  return array


def default_step(matrix: Array, lipschitz: ArrayLike | None) -> Array:
  """1/L, L = ||A||_2^2 unless it is given; 1 for the zero matrix."""
  if lipschitz is None:
    # the quotient first: the square of a small norm may be 0
    inverse = safe_divide(1.0, jnp.linalg.norm(upcast(matrix), 2), default=1.0)
    return (inverse * inverse).astype(matrix.dtype)
  _checks.check_positive("lipschitz", lipschitz, scalar=True)
  return 1 / jnp.asarray(lipschitz, matrix.dtype)


def repeated(value: Array, num_layers: int) -> Array:
  """The same parameter for each layer."""
  return jnp.broadcast_to(value, (num_layers, *value.shape))


def thin_svd(name: str, matrix: ArrayLike) -> tuple[Array, Array, Array]:
  """U, 1/s and V^T of A; 1/s is 0 where s is rounding of the largest."""
  array = check_matrix(name, matrix)
  u, s, vt = jnp.linalg.svd(upcast(array), full_matrices=False)
  least = jnp.finfo(s.dtype).eps * max(array.shape) * s[:1]
  inverse = jnp.where(s > least, safe_divide(1.0, s), 0)
  return u.astype(array.dtype), inverse.astype(array.dtype), vt.astype(array.dtype)
