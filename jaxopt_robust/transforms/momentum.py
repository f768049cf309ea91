"""Directions from stochastic gradients: averages, variance reduction, unit length."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.transforms._links import Schedule, at, unit_direction
from jaxopt_robust.typing import Array, PyTree

__all__ = [
  "EmaFirstState",
  "StormState",
  "ema_first",
  "normalized_gradient",
  "storm_momentum",
]


class EmaFirstState(NamedTuple):
  """State of ``ema_first``.

  Attributes:
    average: pytree like the parameters, the average v.
    count: int32, updates done.
  """

  average: PyTree
  count: Array  # type: ignore[assignment]


class StormState(NamedTuple):
  """State of ``storm_momentum``.

  Attributes:
    direction: pytree like the parameters, the estimate d of the gradient.
    count: int32, updates done.
  """

  direction: PyTree
  count: Array  # type: ignore[assignment]


def ema_first(rate: Schedule) -> optax.GradientTransformationExtraArgs:
  r"""Moving average of gradients that starts at the first gradient.

  v <- (1 - rate) v + rate g, and v = g at the first update; the update is v. This is the momentum
  of stochastic compositional methods (SOX, SogCLR, MECO); ``optax.ema(1 - rate, debias=False)``
  starts at zero instead.

  Args:
    rate: weight of the new gradient in (0, 1], the paper's beta, a number (may be traced) or a
      schedule ``count -> number``.

  Returns:
    ``optax.GradientTransformationExtraArgs`` with state ``EmaFirstState``; put
    ``optax.scale_by_learning_rate`` behind it.

  Raises:
    ValueError: rate is not in (0, 1] and known.

  Example:
    >>> tx = ema_first(0.5)
    >>> state = tx.init(jnp.zeros(1))
    >>> first, state = tx.update(jnp.array([2.0]), state)
    >>> second, state = tx.update(jnp.array([4.0]), state)
    >>> first[0].item(), second[0].item()
    (2.0, 3.0)

  Reference:
    Wang and Yang, Finite-sum coupled compositional stochastic optimization: theory and
    applications, 2022, algorithm 1; the first step as in the authors' code.
  """
  _check_rate("rate", rate)

  def init(params: PyTree) -> EmaFirstState:
    return EmaFirstState(zeros_like(params), jnp.zeros((), jnp.int32))

  def update(
    updates: PyTree, state: EmaFirstState, params: PyTree | None = None, **extra_args: Any
  ) -> tuple[PyTree, EmaFirstState]:
    state = _arguments.check_state("state", state, EmaFirstState)
    del params, extra_args
    weight = jnp.where(state.count == 0, 1, at(rate, state.count))
    average = jax.tree.map(
      lambda v, g: _blend(v, g, weight).astype(v.dtype), state.average, updates
    )
    out = jax.tree.map(lambda v, g: v.astype(g.dtype), average, updates)
    return out, EmaFirstState(average, optax.safe_increment(state.count))

  return optax.GradientTransformationExtraArgs(init, update)


def storm_momentum(rate: Schedule) -> optax.GradientTransformationExtraArgs:
  r"""Recursive variance-reduced gradient (STORM).

  d <- g + (1 - rate) (d - g'), with g' the gradient of the *same* sample at the previous
  parameters, and d = g at the first update; the update is d.

  Args:
    rate: in (0, 1], the paper's a, a number (may be traced) or a schedule ``count -> number``;
      1 is plain stochastic gradients.

  Returns:
    ``optax.GradientTransformationExtraArgs`` with state ``StormState``; ``update`` needs the extra
    argument ``previous_grads``, a pytree like the gradients. It is ignored at the first update.

  Raises:
    ValueError: rate is not in (0, 1] and known, or ``update`` gets no ``previous_grads``.

  Note:
    Each step takes two gradients: at the parameters and, with the same data and key, at those of
    the step before.

  Example:
    >>> tx = storm_momentum(0.1)
    >>> state = tx.init(jnp.zeros(1))
    >>> d, state = tx.update(jnp.array([2.0]), state, previous_grads=jnp.zeros(1))
    >>> d, state = tx.update(jnp.array([3.0]), state, previous_grads=jnp.array([2.0]))
    >>> d[0].item()
    3.0

  Reference:
    Cutkosky and Orabona, Momentum-based variance reduction in non-convex SGD, 2019, algorithm 1.
  """
  _check_rate("rate", rate)

  def init(params: PyTree) -> StormState:
    return StormState(zeros_like(params), jnp.zeros((), jnp.int32))

  def update(
    updates: PyTree,
    state: StormState,
    params: PyTree | None = None,
    *,
    previous_grads: PyTree | None = None,
    **extra_args: Any,
  ) -> tuple[PyTree, StormState]:
    state = _arguments.check_state("state", state, StormState)
    del params, extra_args
    if previous_grads is None:
      raise ValueError(
        "storm_momentum needs the gradients at the previous parameters: "
        "call tx.update(grads, state, params, previous_grads=...)."
      )
    # Inside optax.masked and optax.partition the updates lack parts that the extra argument has.
    is_masked = lambda u: isinstance(u, optax.MaskedNode)
    previous_grads = jax.tree.map(
      lambda u, before: u if is_masked(u) else before, updates, previous_grads, is_leaf=is_masked
    )
    _checks.check_same_structure("previous_grads", previous_grads, "updates", updates)
    keep = jnp.where(state.count == 0, 0, 1 - jnp.asarray(at(rate, state.count)))

    def one(d: Array, g: Array, before: Array) -> Array:
      change = jnp.where(keep == 0, 0, d - before)  # what is not used may be anything
      return (g + keep.astype(d.dtype) * change).astype(d.dtype)

    direction = jax.tree.map(one, state.direction, updates, previous_grads)
    out = jax.tree.map(lambda d, g: d.astype(g.dtype), direction, updates)
    return out, StormState(direction, optax.safe_increment(state.count))

  return optax.GradientTransformationExtraArgs(init, update)


def normalized_gradient() -> optax.GradientTransformationExtraArgs:
  r"""Gradients scaled to unit length: g / ||g||_2 over the whole pytree, 0 where g is 0.

  Args: none.

  Returns:
    ``optax.GradientTransformationExtraArgs`` without state.

  Note:
    Nothing is added to the norm, so that gradients of any size become unit vectors, which is what
    flat landscapes need (``optax.normalize_by_update_norm`` adds 1e-6, and stalls there). A power
    of two is divided out first: squares of tiny entries do not underflow.

  Example:
    >>> tx = normalized_gradient()
    >>> updates, _ = tx.update(jnp.array([3e-30, 4e-30]), tx.init(jnp.zeros(2)))
    >>> updates.round(3)
    Array([0.6, 0.8], dtype=float32)

  Reference:
    Liu, Rosenfeld, Ravikumar and Risteski, Analyzing and improving the optimization landscape of
    noise-contrastive estimation, 2022 (normalised gradient descent).
  """

  def init(params: PyTree) -> optax.EmptyState:
    del params
    return optax.EmptyState()

  def update(
    updates: PyTree, state: optax.EmptyState, params: PyTree | None = None, **extra_args: Any
  ) -> tuple[PyTree, optax.EmptyState]:
    del params, extra_args
    unit, _ = unit_direction(updates)
    return jax.tree.map(lambda u, g: u.astype(g.dtype), unit, updates), state

  return optax.GradientTransformationExtraArgs(init, update)


def zeros_like(params: PyTree) -> PyTree:
  """Zeros of the shapes and dtypes of the parameters, never weakly typed (that would retrace)."""
  return jax.tree.map(lambda p: jnp.zeros(jnp.shape(p), jnp.result_type(p)), params)


def _check_rate(name: str, rate: Schedule) -> None:
  if not callable(rate):
    _checks.check_interval(name, rate, 0.0, 1.0, closed="right")


def _blend(old: Array, new: Array, weight: Array) -> Array:
  """old + weight (new - old) that takes the new value whole where the weight is 1."""
  mixed = old + weight.astype(old.dtype) * (new.astype(old.dtype) - old)
  return jnp.where(weight == 1, new.astype(old.dtype), mixed)
