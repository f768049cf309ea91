"""Steps as long as the error, read off the residuals: no rank, no growth and no decay to choose."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import optax

from jaxopt_robust import _checks
from jaxopt_robust.numerics import safe_divide
from jaxopt_robust.recovery.stepsizes import _require, _scale, _wide_dtype
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = ["ResidualState", "residual_proportional"]

_PROGRESS = 0.95  # of the least scale of the residuals so far: what is below it is progress
_PATIENCE = 1.5  # times the wait for the first progress
_LEAST_PATIENCE = 20.0  # steps of full length
_SLOWEST, _FASTEST = 0.1, 10.0  # bounds of what a step adds to the wait


class ResidualState(NamedTuple):
  """State of ``residual_proportional``.

  Attributes:
    first_scale: float scalar, the largest scale of the residuals so far, as a rule the first.
    first_norm: float scalar, ||Q_0||_F.
    best: float scalar, least scale at which progress was noted.
    wait: float scalar, tau, steps of full length since the last progress.
    patience: float scalar, the wait after which the steps begin to shrink; inf before the first
      progress.
    cooling: float scalar, c_t.
    count: int32 scalar, updates done.

  Example:
    >>> state = residual_proportional(eta0=0.25).init(jnp.ones(2))
    >>> float(state.cooling), float(state.patience)
    (1.0, inf)

  Reference:
    Ma and Fattahi, Global Convergence of Sub-gradient Method for Robust Matrix Recovery, 2023 (the
    normalised step that this state makes longer and shorter).
  """

  first_scale: Array
  first_norm: Array
  best: Array
  wait: Array
  patience: Array
  cooling: Array
  count: Array  # type: ignore[assignment]


def residual_proportional(
  *, eta0: ArrayLike, cooling: ArrayLike = 0.93
) -> optax.GradientTransformationExtraArgs:
  r"""Steps of factored recovery that are proportional to the error: nothing but eta0 is chosen.

  update_t = -eta0 c_t s_t / (max_{i<=t} s_i ||Q_t||_F) g_t, where s_t is the lower quartile of the
  magnitudes of the residuals, Q_t the sub-gradient with respect to the product X and g_t the one
  with respect to its factors.

  The error of the product is proportional to s_t as long as less than three quarters of the
  residuals are outliers: while the signal grows from a small start the steps keep their length,
  then they shrink with the error. Where an error cannot shrink any more, because of dense noise or
  of surplus columns, the factor c_t shrinks them, by ``cooling`` a step, as soon as the wait tau
  exceeds 1.5 times (and 20 steps) the wait that came before the first progress. Progress is
  s_t <= 0.95 of the least scale at which it was seen; it sets tau to 0, any other step adds
  (||Q_0|| / ||Q_t||)^2 s_t / max s_i, from 1/10 to 10: in steps of full length the next singular
  value takes no longer than the first one to grow, and a sub-gradient that has lost its direction
  shows that only noise is left.

  Args:
    eta0: >= 0, first step; 0.25 is a good choice; may be traced.
    cooling: in (0, 1], factor of a step once progress has ended; may be traced.

  Returns:
    An optax transformation with state ``ResidualState``, whose ``update`` needs the keyword
    arguments ``scale`` and ``q_norm`` (float scalars, ``SubgradAux.scale`` and ``.q_norm``). The
    update is 0 where Q_t = 0.

  Raises:
    ValueError: ``eta0`` is negative, ``cooling`` outside (0, 1], or ``update`` lacks an argument.

  Note:
    Compared with ``q_normalized_geometric``, whose decay must fit the rank, the condition number
    and the start, the final error of surplus columns is smaller where the truth is ill-conditioned,
    because the steps are short by the time that the last singular value arrives. A singular value
    below 1/10 of what is left of the matrix may be taken for noise.

  Example:
    >>> tx = residual_proportional(eta0=0.5)
    >>> g = jnp.ones(1)
    >>> update, state = tx.update(g, tx.init(g), scale=jnp.array(2.0), q_norm=jnp.array(4.0))
    >>> later, _ = tx.update(g, state, scale=jnp.array(1.0), q_norm=jnp.array(4.0))
    >>> update, later
    (Array([-0.125], dtype=float32), Array([-0.0625], dtype=float32))

  Reference:
    Ma and Fattahi, Global Convergence of Sub-gradient Method for Robust Matrix Recovery, 2023,
    algorithm 1 (the normalised step). That its length follows a quantile of the residuals is ours;
    for steps proportional to the distance see Polyak, Minimization of unsmooth functionals, 1969.
  """
  _checks.check_non_negative("eta0", eta0, scalar=True)
  _checks.check_interval("cooling", cooling, 0.0, 1.0, closed="right", scalar=True)

  def init(params: PyTree) -> ResidualState:
    dtype = _wide_dtype(params)
    zero, one, never = (jnp.full((), number, dtype) for number in (0, 1, jnp.inf))
    return ResidualState(zero, zero, zero, zero, never, one, jnp.zeros((), jnp.int32))

  def update(
    updates: PyTree,
    state: ResidualState,
    params: PyTree = None,
    *,
    scale: ArrayLike | None = None,
    q_norm: ArrayLike | None = None,
    **extra: Any,
  ) -> tuple[PyTree, ResidualState]:
    del params, extra
    dtype = state.best.dtype
    now, norm = _require("scale", scale).astype(dtype), _require("q_norm", q_norm).astype(dtype)
    is_first = state.count == 0
    first_norm = jnp.where(is_first, norm, state.first_norm)
    first_scale = jnp.maximum(state.first_scale, now)  # at the start a quarter of y may be 0
    best = jnp.where(jnp.isinf(state.patience), first_scale, state.best)
    length = safe_divide(now, first_scale, default=1.0)

    lost = safe_divide(first_norm, norm, default=1.0) ** 2
    wait = state.wait + jnp.clip(lost * length, _SLOWEST, _FASTEST)
    progress = now < _PROGRESS * best
    patience = jnp.where(
      progress & jnp.isinf(state.patience),
      jnp.maximum(_PATIENCE * wait, _LEAST_PATIENCE),
      state.patience,
    )
    wait = jnp.where(progress, 0, wait)
    cooled = jnp.where(wait > patience, state.cooling * jnp.asarray(cooling, dtype), state.cooling)
    step = jnp.asarray(eta0, dtype) * cooled * safe_divide(length, norm)
    best = jnp.where(progress, now, best)
    count = optax.safe_increment(state.count)
    state = ResidualState(first_scale, first_norm, best, wait, patience, cooled, count)
    return _scale(updates, step), state

  return optax.GradientTransformationExtraArgs(init, update)
