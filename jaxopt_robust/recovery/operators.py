"""Linear measurements of a matrix, z_i = <A_i, X>: the protocol that all operators share.

An operator is a frozen dataclass and a pytree: arrays are leaves, sizes are static. It passes
through ``jit`` as an argument, and ``vmap`` maps over a leading batch axis of its leaves. There is
no 1/m inside an operator: the mean belongs to the loss.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxopt_robust import _checks
from jaxopt_robust.numerics import safe_norm, upcast
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "AdjointProducts",
  "MeasurementOperator",
]


def wide_dot(a: Array, b: Array) -> Array:
  """Matrix product accumulated in float32 or wider, at full precision on every backend."""
  return jnp.matmul(upcast(a), upcast(b), precision="highest")


class AdjointProducts(NamedTuple):
  """What a factored step needs from Q = A*(z).

  Attributes:
    left: float[d1, width], Q R.
    right: float[d2, width], Q^T L.
    norm: float scalar, ||Q||_F.
  """

  left: Array
  right: Array
  norm: Array


class MeasurementOperator:
  """A linear map from matrices to measurements, z_i = <A_i, X> = sum_jk A_ijk X_jk.

  The base class of all operators. A subclass gives ``shape``, ``size``, ``dtype``, ``apply`` and
  ``adjoint``, and overrides the factored forms where they are cheaper than a dense matrix. The
  adjoint satisfies <A(X), z> = <X, A*(z)>.

  Attributes:
    shape: (d1, d2), the shape of X.
    size: m, the length of z; static.
    dtype: dtype of the coefficients, or None where they are 0 and 1 only; a result has the dtype
      to which coefficients and arguments promote.
    count: number of measurements that are real, an int or an int scalar; differs from ``size`` only
      where entries are padding or unobserved.
    observed: bool[m], which measurements are real, or None when all are.

  Example:
    >>> op = jr.recovery.Identity((2, 3))
    >>> op.size, op.apply(jnp.ones((2, 3))).shape
    (6, (6,))

  Reference:
    Ma and Fattahi, Global Convergence of Sub-gradient Method for Robust Matrix Recovery, 2023,
    section 1 (the model y_i = <A_i, X> + s_i).
  """

  @property
  def shape(self) -> tuple[int, int]:
    raise NotImplementedError

  @property
  def size(self) -> int:
    raise NotImplementedError

  @property
  def dtype(self) -> Any:
    raise NotImplementedError

  @property
  def count(self) -> int | Array:
    return self.size

  @property
  def observed(self) -> Array | None:
    return None

  def result_dtype(self, *arguments: ArrayLike) -> Any:
    """The dtype of a result.

    Args:
      *arguments: arrays that enter the result beside the operator.

    Returns:
      The dtype to which arguments and coefficients promote.
    """
    own = () if self.dtype is None else (self.dtype,)
    return jnp.result_type(*own, *map(jnp.asarray, arguments))

  def apply(self, matrix: ArrayLike) -> Array:
    """Measures a dense matrix.

    Args:
      matrix: float[d1, d2].

    Returns:
      float[m], z_i = <A_i, X>.
    """
    raise NotImplementedError

  def adjoint(self, z: ArrayLike) -> Array:
    """Applies the transpose.

    Args:
      z: float[m].

    Returns:
      float[d1, d2], sum_i z_i A_i.
    """
    raise NotImplementedError

  def apply_factored(self, left: ArrayLike, right: ArrayLike) -> Array:
    """Measures a product.

    Args:
      left: float[d1, width], L.
      right: float[d2, width], R.

    Returns:
      float[m], z_i = <A_i, L R^T>.
    """
    left, right = self.check_factors(left, right)
    dtype = self.result_dtype(left, right)
    return self.apply(wide_dot(left, right.T)).astype(dtype)

  def adjoint_mul(self, z: ArrayLike, right: ArrayLike) -> Array:
    """Applies the transpose and multiplies.

    Args:
      z: float[m].
      right: float[d2, width], R.

    Returns:
      float[d1, width], A*(z) R.
    """
    right = _checks.check_float_array("right", right, rank=2)
    dtype = self.result_dtype(z, right)
    return wide_dot(self.adjoint(z), right).astype(dtype)

  def adjoint_t_mul(self, z: ArrayLike, left: ArrayLike) -> Array:
    """Applies the transpose, transposes the matrix, and multiplies.

    Args:
      z: float[m].
      left: float[d1, width], L.

    Returns:
      float[d2, width], A*(z)^T L.
    """
    left = _checks.check_float_array("left", left, rank=2)
    dtype = self.result_dtype(z, left)
    return wide_dot(self.adjoint(z).T, left).astype(dtype)

  def adjoint_products(self, z: ArrayLike, left: ArrayLike, right: ArrayLike) -> AdjointProducts:
    """Both factored products of Q = A*(z) and its norm, with one pass over the operator.

    Args:
      z: float[m].
      left: float[d1, width], L.
      right: float[d2, width], R.

    Returns:
      AdjointProducts(Q R, Q^T L, ||Q||_F).
    """
    left, right = self.check_factors(left, right)
    return products_of(upcast(self.adjoint(z)), left, right)

  def residual_products(
    self, left: ArrayLike, right: ArrayLike, y: ArrayLike, *, link: Callable[[Array], Array]
  ) -> tuple[Array, AdjointProducts]:
    """The residual z = A(L R^T) - y, and the products of Q = A*(link(z)).

    Args:
      left: float[d1, width], L.
      right: float[d2, width], R.
      y: float[m]; ignored, even NaN, where a measurement is not observed.
      link: elementwise function with link(0) = 0, such as ``jnp.sign``.

    Returns:
      (float[m] residual, AdjointProducts(Q R, Q^T L, ||Q||_F)). No 1/m anywhere.
    """
    left, right = self.check_factors(left, right)
    y = self.check_measurements("y", y)
    residual = upcast(self.apply_factored(left, right)) - upcast(y)
    if self.observed is not None:
      residual = jnp.where(self.observed, residual, 0)
    return residual, self.adjoint_products(link(residual), left, right)

  def check_matrix(
    self, matrix: ArrayLike, *, name: str = "matrix", complex_ok: bool = False
  ) -> Array:
    """Refuses a matrix that does not fit.

    Args:
      matrix: float[d1, d2].
      name: name of the argument, for the message.
      complex_ok: whether complex numbers fit too.

    Returns:
      float[d1, d2].
    """
    array = _checks.check_float_array(name, matrix, rank=2, complex_ok=complex_ok)
    if array.shape != self.shape:
      raise ValueError(f"{name} must have shape {self.shape}; got {array.shape}.")
    return array

  def check_measurements(self, name: str, z: ArrayLike, *, complex_ok: bool = False) -> Array:
    """Refuses a vector that does not fit.

    Args:
      name: name of the argument, for the message.
      z: float[m].
      complex_ok: whether complex numbers fit too.

    Returns:
      float[m].
    """
    array = _checks.check_float_array(name, z, rank=1, complex_ok=complex_ok)
    if array.shape != (self.size,):
      raise ValueError(
        f"{name} must have one entry per measurement, ({self.size},); got {array.shape}."
      )
    return array

  def check_factors(self, left: ArrayLike, right: ArrayLike) -> tuple[Array, Array]:
    """Refuses factors that do not fit.

    Args:
      left: float[d1, width].
      right: float[d2, width].

    Returns:
      (float[d1, width], float[d2, width]).
    """
    left = _checks.check_float_array("left", left, rank=2)
    right = _checks.check_float_array("right", right, rank=2)
    if (left.shape[0], right.shape[0]) != self.shape or left.shape[1] != right.shape[1]:
      raise ValueError(
        f"left and right must have shapes ({self.shape[0]}, width) and ({self.shape[1]}, width); "
        f"got {left.shape} and {right.shape}."
      )
    return left, right


def products_of(dense: Array, left: Array, right: Array) -> AdjointProducts:
  """The products of a dense Q."""
  return AdjointProducts(
    wide_dot(dense, right).astype(left.dtype),
    wide_dot(dense.T, left).astype(right.dtype),
    safe_norm(dense),
  )


def keep_integers(op: Any, *names: str) -> None:
  """Looks at integers in the fields of an operator before JAX narrows them; lists become arrays.

  For ``__post_init__``: there JAX also passes tracers and placeholders, which stay as they are.
  """
  for name in names:
    value = getattr(op, name)
    if isinstance(value, np.ndarray | list | tuple) or hasattr(value, "__array_interface__"):
      object.__setattr__(op, name, _checks.check_integers(name, value))


def inside(index: Array, size: int) -> Array:
  """Indices as they are, negative ones moved out of range: -1 is no name of the last row."""
  return jnp.where(index < 0, size, index)


def check_shape(name: str, shape: Any) -> tuple[int, int]:
  """Two positive static sizes."""
  if not isinstance(shape, tuple) or len(shape) != 2:
    raise TypeError(f"{name} must be a tuple of two integers; got {shape!r}.")
  rows, cols = (_checks.check_int(f"{name}[{i}]", n, minimum=1) for i, n in enumerate(shape))
  return rows, cols


def check_dtype(dtype: Any) -> np.dtype:
  """A floating-point dtype; the default float where None."""
  return _checks.check_float_dtype(dtype)
