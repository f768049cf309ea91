"""Step-size rules of sub-gradient methods, as optax transformations.

Each turns a sub-gradient g into the update -eta_t g, so that one of them alone is a complete
optimizer for ``optax.apply_updates``; the constant rule is ``optax.sgd``. What a rule needs beyond
the gradient (``value``, ``q_norm``) comes as a keyword argument of ``update``.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import _checks
from jaxopt_robust._units import tree_norm
from jaxopt_robust.numerics import safe_divide, upcast
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = [
  "LevelState",
  "StepCountState",
  "geometric",
  "grad_normalized_geometric",
  "level_polyak",
  "polyak",
  "polynomial",
  "q_normalized_geometric",
]


class StepCountState(NamedTuple):
  """State of the rules that depend on time alone.

  Attributes:
    count: int32 scalar, updates done.

  Example:
    >>> geometric(eta0=1.0, rho=0.5).init(jnp.ones(2)).count
    Array(0, dtype=int32)

  Reference:
    The typed counter of optax states.
  """

  count: Array  # type: ignore[assignment]


class LevelState(NamedTuple):
  """State of ``level_polyak``.

  Attributes:
    best: float scalar, smallest objective value seen.
    gap: float scalar, how far below ``best`` the target level lies.
    stall: int32 scalar, updates since the last sufficient decrease.

  Example:
    >>> float(level_polyak(gap0=2.0, patience=5).init(jnp.ones(2)).gap)
    2.0

  Reference:
    Goffin and Kiwiel, Convergence of a simple subgradient level method, 1999.
  """

  best: Array
  gap: Array
  stall: Array


def _scale(updates: PyTree, step: Array) -> PyTree:
  return jax.tree.map(
    lambda g: (-step.astype(upcast(g).dtype) * upcast(g)).astype(g.dtype), updates
  )


def _scale_direction(updates: PyTree, norm: Array, length: Array) -> PyTree:
  """-length g / ||g||, and 0 where g = 0."""
  inverse = safe_divide(jnp.ones_like(norm), norm)
  return jax.tree.map(
    lambda g: (-length.astype(upcast(g).dtype) * (upcast(g) * inverse)).astype(g.dtype), updates
  )


def _wide_dtype(params: PyTree) -> Any:
  """Widest of float32 and the dtypes of the leaves, which may be shapes without values."""
  leaves = jax.tree.leaves(params)
  dtypes = (getattr(leaf, "dtype", None) or jnp.result_type(leaf) for leaf in leaves)
  return jnp.result_type(jnp.float32, *dtypes)


def _require(name: str, value: Any) -> Array:
  if value is None:
    raise ValueError(f"update needs the keyword argument {name}; got None.")
  return upcast(_checks.check_float_array(name, value, rank=0))


def _count_init(params: PyTree) -> StepCountState:
  del params
  return StepCountState(jnp.zeros((), jnp.int32))


def _decayed(eta0: ArrayLike, rho: ArrayLike, count: Array, dtype: Any) -> Array:
  return jnp.asarray(eta0, dtype) * jnp.asarray(rho, dtype) ** count.astype(dtype)


def _check_geometric(eta0: ArrayLike, rho: ArrayLike) -> None:
  _checks.check_non_negative("eta0", eta0, scalar=True)
  _checks.check_interval("rho", rho, 0.0, 1.0, scalar=True)


def geometric(*, eta0: ArrayLike, rho: ArrayLike) -> optax.GradientTransformationExtraArgs:
  """Geometrically decaying steps.

  update_t = -eta0 rho^t g_t, t = 0, 1, ...

  Args:
    eta0: >= 0, first step; may be traced.
    rho: in [0, 1], decay of a step; may be traced.

  Returns:
    An optax transformation with state ``StepCountState``.

  Raises:
    ValueError: ``eta0`` is negative or ``rho`` outside [0, 1].

  Example:
    >>> tx = geometric(eta0=1.0, rho=0.5)
    >>> _, state = tx.update(jnp.ones(1), tx.init(jnp.ones(1)))
    >>> tx.update(jnp.ones(1), state)[0]
    Array([-0.5], dtype=float32)

  Reference:
    Goffin, On convergence rates of subgradient optimization methods, 1977.
  """
  _check_geometric(eta0, rho)

  def update(updates: PyTree, state: StepCountState, params: PyTree = None, **extra: Any) -> tuple:
    del params, extra
    step = _decayed(eta0, rho, state.count, _wide_dtype(updates))
    return _scale(updates, step), StepCountState(optax.safe_increment(state.count))

  return optax.GradientTransformationExtraArgs(_count_init, update)


def q_normalized_geometric(
  *, eta0: ArrayLike, rho: ArrayLike
) -> optax.GradientTransformationExtraArgs:
  """Geometric steps divided by the norm of the matrix sub-gradient: the rule of SubGM.

  update_t = -(eta0 rho^t / ||Q_t||_F) g_t, where Q_t is the sub-gradient with respect to the
  product X and g_t the one with respect to its factors. The update is 0 where Q_t = 0.

  Args:
    eta0: >= 0, first step; may be traced.
    rho: in [0, 1], decay of a step; may be traced.

  Returns:
    An optax transformation with state ``StepCountState``, whose ``update`` needs the keyword
    argument ``q_norm`` (float scalar, ||Q_t||_F).

  Raises:
    ValueError: ``eta0`` is negative, ``rho`` outside [0, 1], or ``update`` gets no ``q_norm``.

  Note:
    Dividing by the norm of g_t instead would destroy the growth from a small start, because g_t is
    proportional to the factors.

  Example:
    >>> tx = q_normalized_geometric(eta0=1.0, rho=0.5)
    >>> tx.update(jnp.ones(1), tx.init(jnp.ones(1)), q_norm=jnp.array(4.0))[0]
    Array([-0.25], dtype=float32)

  Reference:
    Ma and Fattahi, Global Convergence of Sub-gradient Method for Robust Matrix Recovery, 2023,
    algorithm 1 (that the norm is Frobenius' is recalled, not verified).
  """
  _check_geometric(eta0, rho)

  def update(
    updates: PyTree,
    state: StepCountState,
    params: PyTree = None,
    *,
    q_norm: ArrayLike | None = None,
    **extra: Any,
  ) -> tuple:
    del params, extra
    norm = _require("q_norm", q_norm)
    step = safe_divide(_decayed(eta0, rho, state.count, norm.dtype), norm)
    return _scale(updates, step), StepCountState(optax.safe_increment(state.count))

  return optax.GradientTransformationExtraArgs(_count_init, update)


def grad_normalized_geometric(
  *, eta0: ArrayLike, rho: ArrayLike
) -> optax.GradientTransformationExtraArgs:
  """Geometric steps of fixed length: update_t = -eta0 rho^t g_t / ||g_t||, and 0 where g_t = 0.

  Args:
    eta0: >= 0, length of the first step; may be traced.
    rho: in [0, 1], decay of a step; may be traced.

  Returns:
    An optax transformation with state ``StepCountState``; the norm runs over all leaves.

  Raises:
    ValueError: ``eta0`` is negative or ``rho`` outside [0, 1].

  Note:
    For a start near the solution. From a small start of factored recovery use
    ``q_normalized_geometric``.

  Example:
    >>> tx = grad_normalized_geometric(eta0=1.0, rho=0.5)
    >>> tx.update(jnp.array([3.0, 4.0]), tx.init(jnp.ones(2)))[0]
    Array([-0.6, -0.8], dtype=float32)

  Reference:
    Goffin, On convergence rates of subgradient optimization methods, 1977.
  """
  _check_geometric(eta0, rho)

  def update(updates: PyTree, state: StepCountState, params: PyTree = None, **extra: Any) -> tuple:
    del params, extra
    norm = tree_norm(updates)
    length = _decayed(eta0, rho, state.count, norm.dtype)
    count = optax.safe_increment(state.count)
    return _scale_direction(updates, norm, length), StepCountState(count)

  return optax.GradientTransformationExtraArgs(_count_init, update)


def polynomial(*, eta0: ArrayLike, power: ArrayLike) -> optax.GradientTransformationExtraArgs:
  """Diminishing steps: update_t = -eta0 (t + 1)^(-power) g_t.

  Args:
    eta0: >= 0, first step; may be traced.
    power: in [0, 1]; may be traced.

  Returns:
    An optax transformation with state ``StepCountState``.

  Raises:
    ValueError: ``eta0`` is negative or ``power`` outside [0, 1].

  Example:
    >>> tx = polynomial(eta0=1.0, power=1.0)
    >>> _, state = tx.update(jnp.ones(1), tx.init(jnp.ones(1)))
    >>> tx.update(jnp.ones(1), state)[0]
    Array([-0.5], dtype=float32)

  Reference:
    Ding, Jiang, Chen, Qu and Zhu, Rank overspecified robust matrix recovery: subgradient method and
    exact recovery, 2021.
  """
  _checks.check_non_negative("eta0", eta0, scalar=True)
  _checks.check_interval("power", power, 0.0, 1.0, scalar=True)

  def update(updates: PyTree, state: StepCountState, params: PyTree = None, **extra: Any) -> tuple:
    del params, extra
    dtype = _wide_dtype(updates)
    count = state.count.astype(dtype) + 1
    step = jnp.asarray(eta0, dtype) * count ** (-jnp.asarray(power, dtype))
    return _scale(updates, step), StepCountState(optax.safe_increment(state.count))

  return optax.GradientTransformationExtraArgs(_count_init, update)


def polyak(*, minimum: ArrayLike) -> optax.GradientTransformationExtraArgs:
  """Polyak's step for a known minimum: update_t = -max(f_t - f*, 0) / ||g_t||^2 g_t.

  Args:
    minimum: f*, the value to reach, finite; may be traced.

  Returns:
    An optax transformation without state, whose ``update`` needs the keyword argument ``value``
    (float scalar, f_t). The update is 0 where g_t = 0.

  Raises:
    ValueError: ``update`` gets no ``value``, or ``minimum`` is NaN.

  Note:
    ``optax.scale_by_polyak`` caps the step at 1 unless told otherwise, which is far too small for
    factored l1 losses. For the l1 loss of corrupted measurements f* is mean |s|.

  Example:
    >>> tx = polyak(minimum=0.0)
    >>> tx.update(jnp.array([2.0]), tx.init(jnp.ones(1)), value=jnp.array(4.0))[0]
    Array([-2.], dtype=float32)

  Reference:
    Polyak, Minimization of unsmooth functionals, 1969.
  """
  _checks.check_greater("minimum", minimum, -jnp.inf, scalar=True)

  def update(
    updates: PyTree,
    state: optax.EmptyState,
    params: PyTree = None,
    *,
    value: ArrayLike | None = None,
    **extra: Any,
  ) -> tuple:
    del params, extra
    current = _require("value", value)
    gap = jnp.maximum(current - jnp.asarray(minimum, current.dtype), 0)
    norm = tree_norm(updates)
    return _scale_direction(updates, norm, safe_divide(gap, norm)), state

  return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def level_polyak(*, gap0: ArrayLike, patience: ArrayLike) -> optax.GradientTransformationExtraArgs:
  """Polyak's step towards a moving target, for an unknown minimum.

  update_t = -(f_t - (f_best - gap)) / ||g_t||^2 g_t. ``gap`` is halved when ``patience`` updates in
  a row bring no sufficient decrease, f_t <= f_best - gap / 2.

  Args:
    gap0: > 0, first distance of the target below the best value; may be traced.
    patience: >= 1, updates without sufficient decrease before the gap is halved; may be traced.

  Returns:
    An optax transformation with state ``LevelState``, whose ``update`` needs the keyword argument
    ``value`` (float scalar, f_t). The update is 0 where g_t = 0.

  Raises:
    ValueError: ``gap0`` is not positive, ``patience`` less than 1, or ``update`` gets no ``value``.

  Example:
    >>> tx = level_polyak(gap0=1.0, patience=2)
    >>> tx.update(jnp.array([1.0]), tx.init(jnp.ones(1)), value=jnp.array(4.0))[0]
    Array([-1.], dtype=float32)

  Reference:
    Goffin and Kiwiel, Convergence of a simple subgradient level method, 1999 (we count updates
    instead of measuring the length of the path; the constant 1/2 is recalled, not verified).
  """
  _checks.check_positive("gap0", gap0, scalar=True)
  _checks.check_interval("patience", patience, 1, jnp.inf, scalar=True)

  def init(params: PyTree) -> LevelState:
    dtype = _wide_dtype(params)
    best = jnp.full((), jnp.inf, dtype)
    # Where the caller's gap is narrower or weakly typed it is widened to the dtype of the state.
    return LevelState(best, jnp.asarray(gap0, dtype), jnp.zeros((), jnp.int32))

  def update(
    updates: PyTree,
    state: LevelState,
    params: PyTree = None,
    *,
    value: ArrayLike | None = None,
    **extra: Any,
  ) -> tuple:
    del params, extra
    current = _require("value", value).astype(state.best.dtype)
    progress = current <= state.best - state.gap / 2
    stall = jnp.where(progress, jnp.zeros_like(state.stall), optax.safe_increment(state.stall))
    halve = stall >= jnp.asarray(patience, stall.dtype)
    gap = jnp.where(halve, state.gap / 2, state.gap)
    best = jnp.minimum(state.best, current)
    norm = tree_norm(updates).astype(best.dtype)
    stall = jnp.where(halve, jnp.zeros_like(stall), stall)
    length = safe_divide(current - (best - gap), norm)
    return _scale_direction(updates, norm, length), LevelState(best, gap, stall)

  return optax.GradientTransformationExtraArgs(init, update)
