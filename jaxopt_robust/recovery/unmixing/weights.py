"""Weights of least squares that majorise a sum of norms."""

import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.numerics import safe_divide, safe_norm
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["l21_weights"]


def l21_weights(residual: ArrayLike, *, axis: int = -1, floor: ArrayLike = 0.0) -> Array:
  r"""Weights of the quadratic that majorises a sum of norms, 1 / max(||e||_2, floor).

  For any residual e_0: ||e|| <= w ||e||^2 / 2 + 1 / (2 w) with w = 1 / ||e_0||, equal at e_0.

  Args:
    residual: float[...], e, one vector a group along ``axis``.
    axis: axis of a vector, static.
    floor: >= 0, a scalar in the units of the residual; may be traced. The sum of norms becomes one
      of Huber functions, r^2 / (2 floor) + floor / 2 below it.

  Returns:
    float[...] without ``axis``, in float32 or wider; 0 for a group that is 0, if the floor is too.

  Raises:
    TypeError: ``residual`` is not floating-point.
    ValueError: the floor is negative or no scalar, or ``residual`` has rank 0.

  Example:
    >>> l21_weights(jnp.array([[3.0, 4.0], [0.0, 0.5]]))
    Array([0.2, 2. ], dtype=float32)

  Reference:
    Nie, Huang, Cai and Ding, Efficient and robust feature selection via joint l2,1-norms
    minimization, 2010, section 3 (recalled, not verified).
  """
  array = _checks.check_float_array("residual", residual, min_rank=1)
  _checks.check_non_negative("floor", floor, scalar=True)
  sizes = safe_norm(array.astype(jnp.promote_types(array.dtype, jnp.float32)), axis=axis)
  bounded = jnp.maximum(sizes, jnp.asarray(floor, sizes.dtype))
  return safe_divide(jnp.ones_like(bounded), bounded)
