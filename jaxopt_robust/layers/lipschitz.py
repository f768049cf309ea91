"""What 1-Lipschitz networks need beside orthogonal convolutions: dense layers and an activation."""

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.numerics import safe_divide, upcast
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["bjorck_orthonormal", "group_sort"]

_SQUARINGS = 3  # of the Gram matrix in the bound of the norm: it is at most rank^(1/16) too large


def _norm_bound(matrix: Array) -> Array:
  """At least ||W||_2 and at most r^(1/16) times it: ||(W W^T)^8||_F^(1/16), by squarings."""
  gram = jnp.matmul(matrix, matrix.T, precision="highest")
  bound = jnp.ones((), matrix.dtype)
  for i in range(_SQUARINGS + 1):
    size = jnp.sqrt(jnp.sum(gram**2))
    bound = bound * jnp.where(size > 0, size, 1) ** (0.5 ** (i + 1))
    if i < _SQUARINGS:
      gram = safe_divide(gram, size)
      gram = jnp.matmul(gram, gram, precision="highest")
  return bound


def bjorck_orthonormal(weight: ArrayLike, *, num_steps: int = 12) -> Array:
  r"""Orthonormal rows or columns near those of a matrix, by products alone.

  From W_0 = W / b with b between ||W||_2 and 1.3 ||W||_2 the steps

    W <- 3/2 W - 1/2 W W^T W

  converge to the polar factor U V^T of W = U S V^T, quadratically once all singular values are near
  1. A small one grows by 3/2 a step.

  Args:
    weight: float[out, in], W.
    num_steps: >= 0, static.

  Returns:
    float[out, in], in the dtype of ``weight``; a singular value of 0 stays 0.

  Raises:
    TypeError: ``weight`` is not floating-point, or ``num_steps`` no static integer.
    ValueError: ``weight`` is no matrix, or ``num_steps`` negative.

  Note:
    ``projections.projection_stiefel`` gives the exact factor by a singular value decomposition.
    This one is for layers that stay nearly orthonormal from step to step, on accelerators, and its
    derivative is that of the products.

  Example:
    >>> found = bjorck_orthonormal(jnp.array([[3.0, 0.0, 0.0], [0.0, 0.0, 2.0]]))
    >>> found.round(4)
    Array([[1., 0., 0.],
           [0., 0., 1.]], dtype=float32)

  Reference:
    Bjorck and Bowie, An iterative algorithm for computing the best estimate of an orthogonal
    matrix, 1971, order 1; in networks: Anil, Lucas and Grosse, Sorting out Lipschitz function
    approximation, 2019, section 4.2 (recalled, not verified).
  """
  array = _checks.check_float_array("weight", weight, rank=2)
  num_steps = _checks.check_int("num_steps", num_steps, minimum=0)
  matrix = upcast(array)
  wide = matrix.shape[0] > matrix.shape[1]
  matrix = matrix.T if wide else matrix
  top = jax.lax.stop_gradient(jnp.max(jnp.abs(matrix)))
  matrix = safe_divide(matrix, top)  # squares of entries of size 1
  matrix = matrix / _norm_bound(matrix)

  def step(_: int, w: Array) -> Array:
    gram = jnp.matmul(w, w.T, precision="highest")
    return 1.5 * w - 0.5 * jnp.matmul(gram, w, precision="highest")

  found = jax.lax.fori_loop(0, num_steps, step, matrix)
  return (found.T if wide else found).astype(array.dtype)


def group_sort(x: ArrayLike, *, axis: int = 1, group_size: int = 2) -> Array:
  r"""GroupSort activation: sorts the entries of consecutive groups along an axis, upwards.

  A permutation of the entries: its Lipschitz constant is 1, and its Jacobian is orthogonal where no
  entries of a group are equal, so that gradients keep their norm. At ties it is the mean of the
  permutations that sort them.

  Args:
    x: float[...].
    axis: axis of the channels, static; 1 for [batch, channels, ...].
    group_size: >= 1, static; divides the length of the axis. 2 is MaxMin.

  Returns:
    float[...], like ``x``.

  Raises:
    TypeError: ``x`` is not floating-point, or ``group_size`` no static integer.
    ValueError: ``group_size`` does not divide the axis, or there is no such axis.

  Example:
    >>> group_sort(jnp.array([[3.0, 1.0, -2.0, 5.0]]))
    Array([[ 1.,  3., -2.,  5.]], dtype=float32)

  Reference:
    Anil, Lucas and Grosse, Sorting out Lipschitz function approximation, 2019, section 4.1.
  """
  array = _checks.check_float_array("x", x, min_rank=1)
  group_size = _checks.check_int("group_size", group_size, minimum=1)
  if not isinstance(axis, int) or not -array.ndim <= axis < array.ndim:
    raise ValueError(f"axis must be an axis of x, of shape {array.shape}; got {axis!r:.60}.")
  axis = axis % array.ndim
  length = array.shape[axis]
  if length % group_size:
    raise ValueError(f"group_size must divide the length {length} of the axis; got {group_size}.")
  split = (*array.shape[:axis], length // group_size, group_size, *array.shape[axis + 1 :])
  groups = array.reshape(split)
  if group_size == 2:
    first, second = jnp.split(groups, 2, axis=axis + 1)
    low, high = jnp.minimum(first, second), jnp.maximum(first, second)
    return jnp.concatenate([low, high], axis=axis + 1).reshape(array.shape)
  return jnp.sort(groups, axis=axis + 1).reshape(array.shape)
