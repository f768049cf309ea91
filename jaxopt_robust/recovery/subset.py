"""Some of the measurements of any operator, chosen by a mask that may be traced."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.recovery.operators import AdjointProducts, MeasurementOperator
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["Subset"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Subset(MeasurementOperator):
  """The measurements of another operator where a mask is true: z_i = keep_i <A_i, X>.

  The number of measurements becomes data: one compiled solve serves a grid of sample sizes
  (``keep = jnp.arange(m) < count``), a held-out part, or batches of problems of different sizes,
  while all of them share one set of matrices.

  Attributes:
    op: the operator on d1 x d2 matrices with m measurements.
    keep: bool[m], which measurements are real.

  Note:
    ``y`` may be anything, NaN too, where ``keep`` is false. A step costs as much as with all.

  Example:
    >>> op = Subset(jr.recovery.Identity((2, 2)), jnp.array([True, True, True, False]))
    >>> op.apply(jnp.ones((2, 2))), int(op.count)
    (Array([1., 1., 1., 0.], dtype=float32), 3)

  Reference:
    Ma and Fattahi, Global Convergence of Sub-gradient Method for Robust Matrix Recovery, 2023,
    section 1 (the model; the mask is a choice of this package).
  """

  op: MeasurementOperator
  keep: Array

  @property
  def shape(self) -> tuple[int, int]:
    return self._checked().shape

  @property
  def size(self) -> int:
    return self._checked().size

  @property
  def dtype(self) -> Any:
    return self._checked().dtype

  @property
  def count(self) -> Array:
    return jnp.sum(self.observed, dtype=jnp.int32)

  @property
  def observed(self) -> Array:
    own = self._checked().observed
    keep = _checks.check_mask("keep", self.keep, shape=(self.op.size,))
    assert keep is not None
    return keep if own is None else keep & own

  def _checked(self) -> MeasurementOperator:
    if not isinstance(self.op, MeasurementOperator):
      raise TypeError(f"op must be a MeasurementOperator; got {type(self.op).__name__}.")
    return self.op

  def _kept(self, z: ArrayLike) -> Array:
    z = self.check_measurements("z", z)
    return jnp.where(self.observed, z, 0)

  def apply(self, matrix: ArrayLike) -> Array:
    return self._kept(self._checked().apply(matrix))

  def apply_factored(self, left: ArrayLike, right: ArrayLike) -> Array:
    return self._kept(self._checked().apply_factored(left, right))

  def adjoint(self, z: ArrayLike) -> Array:
    return self._checked().adjoint(self._kept(z))

  def adjoint_mul(self, z: ArrayLike, right: ArrayLike) -> Array:
    return self._checked().adjoint_mul(self._kept(z), right)

  def adjoint_t_mul(self, z: ArrayLike, left: ArrayLike) -> Array:
    return self._checked().adjoint_t_mul(self._kept(z), left)

  def adjoint_products(self, z: ArrayLike, left: ArrayLike, right: ArrayLike) -> AdjointProducts:
    return self._checked().adjoint_products(self._kept(z), left, right)
