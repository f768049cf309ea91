"""Proximal steps and hard constraints in optax."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.transforms._links import at, given
from jaxopt_robust.typing import Array, ArrayLike, ProxFn, PyTree

__all__ = ["ProximalState", "apply_updates_projected", "proximal"]


class ProximalState(NamedTuple):
  """State of ``proximal``.

  Attributes:
    count: int32, updates done; a learning-rate schedule reads it.
  """

  count: Array  # type: ignore[assignment]


def proximal(
  prox: ProxFn,
  hyperparams: Any = None,
  *,
  learning_rate: ArrayLike | Callable[[Array], ArrayLike],
) -> optax.GradientTransformationExtraArgs:
  r"""A proximal step as the last link of an optax chain.

  Turns updates u into prox(params + u, hyperparams, learning_rate) - params, so that
  ``chain(sgd(s), proximal(prox, lam, learning_rate=s))`` is the stochastic proximal gradient
  method x <- prox(x - s grad f(x), lam, s).

  Args:
    prox: ``prox(x, hyperparams, scaling)`` on pytrees, such as ``prox.prox_lasso``, or a
      ``Penalty``.
    hyperparams: passed to ``prox``; may be traced.
    learning_rate: >= 0, the step size of the links before it, a number (may be traced) or a
      schedule ``count -> number``.

  Returns:
    ``optax.GradientTransformationExtraArgs`` with state ``ProximalState``; ``update`` needs
    ``params`` and ignores extra arguments.

  Raises:
    TypeError: when ``prox`` is neither a function nor a ``Penalty``.
    ValueError: when ``learning_rate`` is negative and known, or ``update`` gets no ``params``.

  Note:
    Exact zeros survive ``optax.apply_updates``: x + (0 - x) is 0. Other values may be missed by a
    rounding, so project hard constraints with ``apply_updates_projected``. After a preconditioned
    link (Adam) this is a heuristic: the exact step would need the prox in the metric of the
    preconditioner. For ``optax.inject_hyperparams`` say ``static_args=("prox",)``, since it takes
    functions for schedules.

  Example:
    >>> tx = optax.chain(optax.sgd(0.5), proximal(jr.prox.prox_lasso, 1.0, learning_rate=0.5))
    >>> params = jnp.array([0.2, 3.0])
    >>> updates, state = tx.update(jnp.zeros(2), tx.init(params), params)
    >>> optax.apply_updates(params, updates)
    Array([0. , 2.5], dtype=float32)

  Reference:
    Duchi and Singer, Efficient online and batch learning using forward backward splitting, 2009,
    equation 3.
  """
  if isinstance(prox, jax.Array):
    raise TypeError(
      "prox must be a function; got an array: optax.inject_hyperparams takes functions for "
      "schedules, so call it with static_args=('prox',)."
    )
  prox = _arguments.as_prox("prox", prox)
  if not callable(learning_rate):
    _checks.check_non_negative("learning_rate", learning_rate)

  def init(params: PyTree) -> ProximalState:
    del params
    return ProximalState(jnp.zeros((), jnp.int32))

  def update(
    updates: PyTree, state: ProximalState, params: PyTree | None = None, **extra_args: Any
  ) -> tuple[PyTree, ProximalState]:
    state = _arguments.check_state("state", state, ProximalState)
    del extra_args
    params, rate = given(params, "proximal"), at(learning_rate, state.count)
    moved = jax.tree.map(lambda p, u: (p + u).astype(p.dtype), params, updates)
    if jax.tree.leaves(moved):  # everything may be masked out
      moved = prox(moved, hyperparams, rate)
    back = jax.tree.map(lambda m, p, u: (m - p).astype(u.dtype), moved, params, updates)
    return back, ProximalState(optax.safe_increment(state.count))

  return optax.GradientTransformationExtraArgs(init, update)


def apply_updates_projected(
  params: PyTree,
  updates: PyTree,
  projection: Callable[..., PyTree],
  hyperparams: Any = None,
) -> PyTree:
  r"""Applies optax updates, then projects: hard constraints hold exactly.

  Computes projection(params + updates, hyperparams).

  Args:
    params: pytree of float arrays.
    updates: pytree like ``params``.
    projection: ``projection(x, hyperparams) -> x_like``, such as
      ``optax.projections.projection_simplex``.
    hyperparams: passed to ``projection``; None calls it with the point alone.

  Returns:
    pytree like ``params``, inside the constraint set.

  Raises:
    TypeError: when ``projection`` is not a function, or ``params`` holds no floats.
    ValueError: when ``updates`` and ``params`` differ in structure.

  Example:
    >>> apply_updates_projected(
    ...   jnp.array([0.5]), jnp.array([-0.75]), optax.projections.projection_non_negative)
    Array([0.], dtype=float32)

  Reference:
    Bertsekas, Nonlinear Programming, 1999, section 2.3 (gradient projection).
  """
  _arguments.check_callable("projection", projection)
  params = _checks.check_float_tree("params", params)
  updates = _checks.check_float_tree("updates", updates)
  structure: Any = jax.tree.structure(params)
  if structure != jax.tree.structure(updates):
    raise ValueError(
      f"updates must have the pytree structure of params, {structure}; "
      f"got {jax.tree.structure(updates)}."
    )
  for leaf, update in zip(jax.tree.leaves(params), jax.tree.leaves(updates), strict=True):
    _checks.check_same_shape("params", leaf, "updates", update)
  moved = optax.apply_updates(params, updates)
  return projection(moved) if hyperparams is None else projection(moved, hyperparams)
