"""Preconditioned sub-gradient steps of factored recovery, blind to the conditioning of the truth.

A step of plain descent on the factors of X = L R^T shrinks with the smallest singular value of X.
Dividing each gradient by the Gram matrix of the other factor makes the change of X independent of
how X was factored, and the number of steps independent of its condition number.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from jaxopt_robust import _checks
from jaxopt_robust.numerics import safe_divide
from jaxopt_robust.recovery.factors import Factors, check_pair
from jaxopt_robust.recovery.operators import wide_dot
from jaxopt_robust.recovery.stepsizes import (
  _check_geometric,
  _decayed,
  _require,
  _scale,
  _wide_dtype,
)
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["ScaledState", "precondition_factors", "scaled_geometric", "scaled_polyak"]


class ScaledState(NamedTuple):
  """State of the preconditioned rules.

  Attributes:
    square_norm: float scalar, N_t^2 = <G_t, P_t>, the squared scaled norm of the last gradient; 0
      before the first update.
    count: int32 scalar, updates done.

  Example:
    >>> start = jr.recovery.Factors(jnp.ones((2, 1)), None)
    >>> precondition_factors().init(start)
    ScaledState(square_norm=Array(0., dtype=float32), count=Array(0, dtype=int32))

  Reference:
    Tong, Ma and Chi, Low-Rank Matrix Recovery with Scaled Subgradient Methods, 2021, section 2.
  """

  square_norm: Array
  count: Array  # type: ignore[assignment]


def _inverses(factors: Sequence[Array], damping: ArrayLike) -> tuple[Array, Array]:
  """Eigenvectors of F^T F, and the eigenvalues of (F^T F + damping I)^+, stacked over the factors.

  One decomposition for all factors: on CPUs with few cores two batched ones that run side by side
  can wait for each other forever.
  """
  grams = jnp.stack([wide_dot(f.T, f) for f in factors])
  values, vectors = jnp.linalg.eigh(grams)
  values = jnp.maximum(values, 0) + jnp.asarray(damping, grams.dtype)
  # What rounding of the Gram matrix leaves of an absent direction; NaN passes.
  top = jnp.max(values, axis=1, keepdims=True)
  absent = values <= values.shape[1] * jnp.finfo(grams.dtype).eps * top
  return vectors, safe_divide(jnp.ones_like(values), jnp.where(absent, 0, values))


def _apply(gradient: Array, vectors: Array, inverse: Array) -> tuple[Array, Array]:
  """G V diag(inverse) V^T and its inner product with G, in float32 or wider."""
  rotated = wide_dot(gradient, vectors)
  scaled = rotated * inverse[None, :]
  return wide_dot(scaled, vectors.T), jnp.sum(rotated * scaled)


def _precondition(
  updates: Factors, params: Factors | None, damping: ArrayLike
) -> tuple[Factors, Array]:
  if params is None:
    raise ValueError("update needs params, the factors at which the gradient was taken; got None.")
  left, right = check_pair(params)
  gradients = check_pair(updates)
  if (updates.R is None) != (params.R is None) or (
    (gradients[0].shape, gradients[1].shape) != (left.shape, right.shape)
  ):
    raise ValueError(
      "updates and params must be factors of equal shapes; "
      f"got {[g.shape for g in gradients]} and {[left.shape, right.shape]}."
    )
  others = (left,) if params.R is None else (right, left)
  vectors, inverses = _inverses(others, damping)
  p_left, square = _apply(gradients[0], vectors[0], inverses[0])
  p_left = p_left.astype(gradients[0].dtype)
  if params.R is None:
    return Factors(p_left, None), square
  p_right, more = _apply(gradients[1], vectors[1], inverses[1])
  return Factors(p_left, p_right.astype(gradients[1].dtype)), square + more


def _init(params: Factors) -> ScaledState:
  return ScaledState(jnp.zeros((), _wide_dtype(params)), jnp.zeros((), jnp.int32))


def precondition_factors(*, damping: ArrayLike = 0.0) -> optax.GradientTransformationExtraArgs:
  r"""Divides the gradient of each factor by the Gram matrix of the other one.

  For X = L R^T: P_L = G_L (R^T R + damping I)^+ and P_R = G_R (L^T L + damping I)^+; for one
  factor, X = L L^T: P_L = G_L (L^T L + damping I)^+. There is no minus sign and no step: follow it
  by ``optax.sgd`` for constant steps, or take ``scaled_polyak`` and ``scaled_geometric``, which are
  built of it. The state holds the squared scaled norm N^2 = <G_L, P_L> + <G_R, P_R>.

  Args:
    damping: >= 0, added to the eigenvalues of the Gram matrices; may be traced. 0 is the scaled
      sub-gradient method; a positive number keeps factors wider than the rank from dividing by
      nearly nothing.

  Returns:
    An optax transformation with state ``ScaledState``, for parameters ``Factors(L, R)`` (R None for
    a symmetric positive semidefinite matrix), whose ``update`` needs ``params``.

  Raises:
    TypeError: parameters or updates are no ``Factors`` of floating-point arrays.
    ValueError: ``damping`` is negative, ``update`` gets no ``params``, or shapes do not fit.

  Note:
    (.)^+ is the pseudo-inverse: eigenvalues up to width * eps times the largest count as 0, and
    nothing moves along their directions, so that factors which lack a direction, or are zero, give
    no NaN and no infinite step. A column that is zero in both factors stays zero. A constant step
    means different things for the sum and for the mean of residuals.

  Example:
    >>> tx = precondition_factors()
    >>> params = jr.recovery.Factors(jnp.array([[1.0]]), jnp.array([[2.0]]))
    >>> updates, state = tx.update(params, tx.init(params), params)
    >>> updates.L, updates.R, float(state.square_norm)
    (Array([[0.25]], dtype=float32), Array([[2.]], dtype=float32), 4.25)

  Reference:
    Tong, Ma and Chi, Low-Rank Matrix Recovery with Scaled Subgradient Methods, 2021, equation 5
    (number recalled, not verified); damping: Giampouras, Cai and Vidal, Guarantees of a
    preconditioned subgradient algorithm for overparameterized asymmetric low-rank matrix recovery,
    2024. The pseudo-inverse is ours.
  """
  _checks.check_non_negative("damping", damping, scalar=True)

  def update(
    updates: Factors, state: ScaledState, params: Factors | None = None, **extra: Any
  ) -> tuple[Factors, ScaledState]:
    del extra
    preconditioned, square = _precondition(updates, params, damping)
    square = square.astype(state.square_norm.dtype)
    return preconditioned, ScaledState(square, optax.safe_increment(state.count))

  return optax.GradientTransformationExtraArgs(_init, update)


def scaled_polyak(
  *, minimum: ArrayLike, damping: ArrayLike = 0.0
) -> optax.GradientTransformationExtraArgs:
  r"""Scaled sub-gradient steps of Polyak's length, for a known minimum.

  update_t = -max(f_t - f*, 0) / N_t^2 P_t, with the preconditioned gradient P_t and the squared
  scaled norm N_t^2 of ``precondition_factors``. The update is the same whether f is the sum or the
  mean of the residuals, as long as value, gradient and f* agree.

  Args:
    minimum: f*, the value to reach, finite; may be traced. For the l1 loss of ``subgm`` it is
      mean |s|, s the corruption.
    damping: >= 0, of ``precondition_factors``; may be traced.

  Returns:
    An optax transformation with state ``ScaledState``, whose ``update`` needs ``params`` and the
    keyword argument ``value`` (float scalar, f_t). The update is 0 where N_t = 0.

  Raises:
    TypeError: parameters or updates are no ``Factors`` of floating-point arrays.
    ValueError: ``minimum`` is NaN, ``damping`` negative, shapes do not fit, or ``update`` gets no
      ``value`` or ``params``.

  Note:
    From a start near the solution (``truncated_spectral``) at the true rank. With factors twice as
    wide and few measurements it does not converge, with or without damping.

  Example:
    >>> tx = scaled_polyak(minimum=0.0)
    >>> params = jr.recovery.Factors(jnp.array([[2.0]]), None)
    >>> tx.update(params, tx.init(params), params, value=jnp.array(1.0))[0].L
    Array([[-0.5]], dtype=float32)

  Reference:
    Tong, Ma and Chi, Low-Rank Matrix Recovery with Scaled Subgradient Methods, 2021, section 2
    (Polyak's step).
  """
  _checks.check_greater("minimum", minimum, -jnp.inf, scalar=True)
  link = precondition_factors(damping=damping)

  def update(
    updates: Factors,
    state: ScaledState,
    params: Factors | None = None,
    *,
    value: ArrayLike | None = None,
    **extra: Any,
  ) -> tuple[Factors, ScaledState]:
    del extra
    current = _require("value", value)
    updates, state = link.update(updates, state, params)
    gap = jnp.maximum(current - jnp.asarray(minimum, current.dtype), 0)
    return _scale(updates, safe_divide(gap, state.square_norm)), state

  return optax.GradientTransformationExtraArgs(link.init, update)


def scaled_geometric(
  *, eta0: ArrayLike, rho: ArrayLike, damping: ArrayLike = 0.0
) -> optax.GradientTransformationExtraArgs:
  r"""Scaled sub-gradient steps of geometrically decaying length.

  update_t = -(eta0 rho^t / N_t) P_t, with the preconditioned gradient P_t and the scaled norm N_t
  of ``precondition_factors``. To first order a step changes X by at most sqrt(2) eta0 rho^t in
  Frobenius norm (2 eta0 rho^t for one factor), so that ``eta0`` is measured like X; the sum and the
  mean of residuals give the same update.

  Args:
    eta0: >= 0, first step; may be traced.
    rho: in [0, 1], decay of a step; may be traced.
    damping: >= 0, of ``precondition_factors``; may be traced.

  Returns:
    An optax transformation with state ``ScaledState``, whose ``update`` needs ``params``. The
    update is 0 where N_t = 0.

  Raises:
    TypeError: parameters or updates are no ``Factors`` of floating-point arrays.
    ValueError: ``eta0`` or ``damping`` is negative, ``rho`` outside [0, 1], shapes do not fit, or
      ``update`` gets no ``params``.

  Example:
    >>> tx = scaled_geometric(eta0=0.5, rho=0.9)
    >>> params = jr.recovery.Factors(jnp.array([[2.0]]), None)
    >>> tx.update(params, tx.init(params), params)[0].L
    Array([[-0.25]], dtype=float32)

  Reference:
    Tong, Ma and Chi, Low-Rank Matrix Recovery with Scaled Subgradient Methods, 2021, section 2
    (geometrically decaying step).
  """
  _check_geometric(eta0, rho)
  link = precondition_factors(damping=damping)

  def update(
    updates: Factors, state: ScaledState, params: Factors | None = None, **extra: Any
  ) -> tuple[Factors, ScaledState]:
    del extra
    count = state.count
    updates, state = link.update(updates, state, params)
    norm = jnp.sqrt(state.square_norm)
    return _scale(updates, safe_divide(_decayed(eta0, rho, count, norm.dtype), norm)), state

  return optax.GradientTransformationExtraArgs(link.init, update)
