"""Saddle-point problems in optax: descent in one block, ascent in the other, constraints."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.transforms._links import at, check_transformation, given
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = [
  "ExponentiatedGradientState",
  "exponentiated_gradient",
  "min_max",
  "project_updates",
]

_PARAMETRIZATIONS = ("log_weights", "weights")


class ExponentiatedGradientState(NamedTuple):
  """State of ``exponentiated_gradient``.

  Attributes:
    count: int32, updates done; a learning-rate schedule reads it.
  """

  count: Array  # type: ignore[assignment]


def project_updates(projections: PyTree) -> optax.GradientTransformationExtraArgs:
  r"""Keeps parameters inside sets: the last link of a chain.

  Turns updates u into projection(params + u) - params.

  Args:
    projections: a function ``x -> x_like``, or a pytree prefix of the parameters whose leaves are
      such functions or None (no constraint), for example
      ``{"w": None, "q": optax.projections.projection_simplex}``.

  Returns:
    ``optax.GradientTransformationExtraArgs`` without state; ``update`` needs ``params``.

  Raises:
    TypeError: a leaf of ``projections`` is neither a function nor None.
    ValueError: ``update`` gets no ``params``.

  Note:
    params + (projection - params) may miss a bound by a rounding. Where a constraint must hold
    exactly, project after ``optax.apply_updates`` (``apply_updates_projected``).

  Example:
    >>> tx = optax.chain(optax.sgd(1.0), project_updates(optax.projections.projection_non_negative))
    >>> params = jnp.array([0.5])
    >>> updates, _ = tx.update(jnp.array([2.0]), tx.init(params), params)
    >>> optax.apply_updates(params, updates)
    Array([0.], dtype=float32)

  Reference:
    Bertsekas, Nonlinear Programming, 1999, section 2.3 (gradient projection).
  """
  for leaf in jax.tree.leaves(projections, is_leaf=lambda x: x is None):
    if leaf is not None and not callable(leaf):
      raise TypeError(f"projections must hold functions or None; got {type(leaf).__name__}.")

  def init(params: PyTree) -> optax.EmptyState:
    del params
    return optax.EmptyState()

  def update(
    updates: PyTree,
    state: optax.EmptyState,
    params: PyTree | None = None,
    **extra_args: Any,
  ) -> tuple[PyTree, optax.EmptyState]:
    del extra_args
    params = given(params, "project_updates")

    def block(projection: Callable[[PyTree], PyTree] | None, p: PyTree, u: PyTree) -> PyTree:
      if projection is None or not jax.tree.leaves(u):
        return u
      moved = projection(jax.tree.map(lambda a, b: (a + b).astype(a.dtype), p, u))
      return jax.tree.map(lambda m, a, b: (m - a).astype(b.dtype), moved, p, u)

    is_leaf = lambda x: x is None or callable(x)
    return jax.tree.map(block, projections, params, updates, is_leaf=is_leaf), state

  return optax.GradientTransformationExtraArgs(init, update)


def exponentiated_gradient(
  learning_rate: ArrayLike | Callable[[Array], ArrayLike],
  *,
  parametrization: str = "log_weights",
) -> optax.GradientTransformationExtraArgs:
  r"""Mirror descent on the simplex with the entropy: multiplicative weights (Hedge).

  q_i <- q_i exp(-eta g_i) / sum_j q_j exp(-eta g_j) along the last axis, with g the gradient in q.
  As the dual link of ``min_max`` it becomes mirror *ascent*: the weight of the larger loss grows.

  Args:
    learning_rate: eta >= 0, a number (may be traced) or a schedule ``count -> number``.
    parametrization: what the parameters are: "log_weights", log q up to a constant of each row
      (they come back normalised), or "weights", q itself. The gradient is the one in q in both
      cases, such as a vector of losses.

  Returns:
    ``optax.GradientTransformationExtraArgs`` with state ``ExponentiatedGradientState``; ``update``
    needs ``params``.

  Raises:
    ValueError: an unknown parametrization, a known negative learning rate, or no ``params``.

  Note:
    Log weights are safe where weights underflow: an entry that is 0 in float32 never returns. Two
    columns a row with eta g = (eta ce, eta ac) are the per-example weights of ``adawac_loss``.

  Example:
    >>> tx = exponentiated_gradient(1.0)
    >>> logs = jnp.log(jnp.array([0.5, 0.5]))
    >>> updates, _ = tx.update(jnp.array([0.0, -jnp.log(3.0)]), tx.init(logs), logs)
    >>> [round(float(q), 3) for q in jnp.exp(optax.apply_updates(logs, updates))]
    [0.25, 0.75]

  Reference:
    Kivinen and Warmuth, Exponentiated gradient versus gradient descent for linear predictors, 1997.
  """
  _arguments.check_option("parametrization", parametrization, _PARAMETRIZATIONS)
  if not callable(learning_rate):
    _checks.check_non_negative("learning_rate", learning_rate)

  def init(params: PyTree) -> ExponentiatedGradientState:
    del params
    return ExponentiatedGradientState(jnp.zeros((), jnp.int32))

  def update(
    updates: PyTree,
    state: ExponentiatedGradientState,
    params: PyTree | None = None,
    **extra_args: Any,
  ) -> tuple[PyTree, ExponentiatedGradientState]:
    state = _arguments.check_state("state", state, ExponentiatedGradientState)
    del extra_args
    params, rate = given(params, "exponentiated_gradient"), at(learning_rate, state.count)
    for leaf in jax.tree.leaves(params):
      if jnp.ndim(leaf) == 0 or jnp.shape(leaf)[-1] == 0:
        raise ValueError(
          f"params must hold rows of at least one weight; got shape {jnp.shape(leaf)}."
        )

    def one(p: Array, g: Array) -> Array:
      step = jnp.asarray(rate, p.dtype) * g.astype(p.dtype)
      if parametrization == "log_weights":
        total = jax.nn.logsumexp(p - step, axis=-1, keepdims=True)
        return (-step - total).astype(g.dtype)
      positive = p > 0
      logs = jnp.where(positive, jnp.log(jnp.where(positive, p, 1)), -jnp.inf)
      return (jax.nn.softmax(logs - step, axis=-1) - p).astype(g.dtype)

    count = optax.safe_increment(state.count)
    return jax.tree.map(one, params, updates), ExponentiatedGradientState(count)

  return optax.GradientTransformationExtraArgs(init, update)


def min_max(
  primal: optax.GradientTransformation,
  dual: optax.GradientTransformation,
  labels: PyTree | Callable[[PyTree], PyTree],
  *,
  projections: PyTree = None,
) -> optax.GradientTransformationExtraArgs:
  r"""Gradient descent ascent: one optimizer minimises some parameters, another maximises the rest.

  For min_x max_y F(x, y): ``primal`` is fed dF/dx, ``dual`` is fed -dF/dy, and the updated
  parameters are projected.

  Args:
    primal: optax optimizer of the parameters labelled "min".
    dual: optax optimizer, written for descent, of the parameters labelled "max".
    labels: pytree prefix of the parameters with leaves "min" and "max", or a function from
      parameters to such a pytree.
    projections: as in ``project_updates``; None: no constraints.

  Returns:
    ``optax.GradientTransformationExtraArgs``. Extra arguments reach both optimizers; ``update``
    needs ``params`` where one of them or a projection does.

  Raises:
    ValueError: a label other than "min" and "max" (from optax, at ``init``).
    TypeError: an optimizer is no ``optax.GradientTransformation``.

  Example:
    >>> params = {"x": jnp.array(1.0), "y": jnp.array(1.0)}
    >>> tx = min_max(optax.sgd(0.1), optax.sgd(0.1), {"x": "min", "y": "max"})
    >>> grads = jax.grad(lambda p: p["x"] * p["y"])(params)
    >>> updates, _ = tx.update(grads, tx.init(params), params)
    >>> float(updates["x"]), float(updates["y"])
    (-0.10000000149011612, 0.10000000149011612)

  Reference:
    Nemirovski, Juditsky, Lan and Shapiro, Robust stochastic approximation approach to stochastic
    programming, 2009, section 3 (saddle-point mirror descent).
  """
  check_transformation("primal", primal)
  check_transformation("dual", dual)
  parts = optax.partition({"min": primal, "max": optax.chain(optax.scale(-1.0), dual)}, labels)
  if projections is None:
    return parts
  return optax.chain(parts, project_updates(projections))
