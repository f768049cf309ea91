"""The surrogate gap on reliable examples only: adaptation without labels."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.transforms._links import Schedule, at, check_like, function_given, given
from jaxopt_robust.transforms.perturbation import moved
from jaxopt_robust.transforms.sharpness import check_ball, surrogate_gap
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = ["RsgsState", "rsgs"]


class RsgsState(NamedTuple):
  """State of ``rsgs``.

  Attributes:
    count: int32, updates that moved the parameters; a schedule of the radius reads it.
    inner_state: state of the inner optimizer.
    average: float scalar, moving average of the perturbed loss; inf while there is none.
    source: pytree like the parameters, those to go back to; None without recovery.
  """

  count: Array  # type: ignore[assignment]
  inner_state: Any
  average: Array
  source: PyTree | None


def rsgs(
  inner: optax.GradientTransformation,
  *,
  rho: Schedule = 0.05,
  alpha: ArrayLike = 0.2,
  norm: str = "l2",
  recovery: ArrayLike | None = None,
  decay: ArrayLike = 0.9,
) -> optax.GradientTransformationExtraArgs:
  r"""Reliable surrogate gap sharpness-aware minimisation: ``gsam`` on examples that can be trusted.

  For a loss that is a mean over the examples that a test finds reliable (entropies below a bound,
  say), tested at w for g and again at the perturbed parameters for gp:

    g = grad of the loss at w,    gp = grad of the loss at w + rho s, over what is still reliable,
    the inner optimizer gets gp - alpha g_perp, the part of g orthogonal to gp taken away.

  Where nothing is reliable there, neither the parameters nor the inner optimizer's state change.

  With alpha = 0 this is the optimizer of SAR, with rho = 0 too a filtered loss (as in EATA), and
  with everything reliable besides the plain optimizer (TENT, where the loss is the entropy).

  Args:
    inner: optimizer that takes the step.
    rho: >= 0, distance, a number (may be traced) or a schedule ``count -> number``.
    alpha: >= 0, weight of the gap; may be traced.
    norm: of the ball, as in ``sam``: ``"l2"`` or ``"adaptive"``; static.
    recovery: least average of the perturbed loss; may be traced. Below it (the network has
      collapsed to one answer) parameters and optimizer go back to where ``init`` saw them, and the
      average starts anew. None: never.
    decay: in [0, 1), of this moving average; may be traced.

  Returns:
    ``optax.GradientTransformationExtraArgs`` with state ``RsgsState``. ``update`` needs the
    gradients g, the parameters and the extra argument ``value_and_grad_fn``, a function
    ``(params, i)`` to ``((value, reliable), gradients)`` with a boolean array that tells what is
    reliable at these parameters *and* was so at w: ``jax.value_and_grad(..., has_aux=True)`` of the
    second function of ``robustness.rsgs_losses``.

  Raises:
    TypeError: when ``inner`` is no transformation, ``value_and_grad_fn`` returns something else, or
      ``reliable`` is not boolean.
    ValueError: when a number is out of range and known, the norm is unknown, ``update`` gets no
      parameters or no ``value_and_grad_fn``, or gradients of other shapes than the parameters'.

  Note:
    With ``recovery`` the state holds a copy of the parameters, to which an update leads back within
    the rounding of the parameters that it is added to. Batches whose examples are all
    unreliable do not enter the average.

  Example:
    >>> second = jax.value_and_grad(
    ...   lambda w, i: (0.5 * jnp.sum(w**2), jnp.array([True])), has_aux=True)
    >>> tx = rsgs(optax.sgd(1.0), rho=0.5)
    >>> params = jnp.array([0.0, 2.0])
    >>> updates, state = tx.update(params, tx.init(params), params, value_and_grad_fn=second)
    >>> updates
    Array([-0. , -2.5], dtype=float32)

  Reference:
    Yu, Lu and Zhang, Generalized incremental learning under concept drift across evolving data
    streams, 2025 (RSGS), put together from its parts: Niu et al., Towards stable test-time
    adaptation in dynamic wild world, 2023 (SAR: the filters and the recovery; its code keeps the
    average after going back), and Zhuang et al., Surrogate gap minimization improves
    sharpness-aware training, 2022 (GSAM).
  """
  check_ball(inner, rho, norm)
  _checks.check_non_negative("alpha", alpha, scalar=True)
  _checks.check_interval("decay", decay, 0.0, 1.0, closed="left", scalar=True)
  if recovery is not None:
    _checks.check_array("recovery", recovery, rank=0)
  optimizer = optax.with_extra_args_support(inner)

  def init(params: PyTree) -> RsgsState:
    kinds = (jnp.result_type(leaf) for leaf in jax.tree.leaves(params))
    none = jnp.full((), jnp.inf, jnp.result_type(jnp.float32, *kinds))
    source = None if recovery is None else params
    return RsgsState(jnp.zeros((), jnp.int32), optimizer.init(params), none, source)

  def update(
    updates: PyTree,
    state: RsgsState,
    params: PyTree | None = None,
    *,
    value_and_grad_fn: Callable[[PyTree, int], Any] | None = None,
    **extra_args: Any,
  ) -> tuple[PyTree, RsgsState]:
    state = _arguments.check_state("state", state, RsgsState)
    params = given(params, "rsgs")
    second = function_given(
      value_and_grad_fn, "rsgs", "value_and_grad_fn", "the loss on reliable examples"
    )
    check_like("the gradients", updates, params)
    (value, reliable), found = _parts(second(moved(params, updates, at(rho, state.count), norm), 0))
    check_like("what value_and_grad_fn returns as gradients", found, params)
    moves = _any_reliable(reliable)
    found = jax.tree.map(lambda f, g: f.astype(g.dtype), found, updates)
    steps, inner_state = optimizer.update(
      surrogate_gap(updates, found, alpha, "perturbed"), state.inner_state, params, **extra_args
    )
    steps = jax.tree.map(lambda step: jnp.where(moves, step, 0), steps)
    inner_state = numerics.tree_where(moves, inner_state, state.inner_state)
    weight, value = (jnp.asarray(v, state.average.dtype) for v in (decay, value))
    mixed = jnp.where(
      jnp.isinf(state.average), value, weight * state.average + (1 - weight) * value
    )
    average = jnp.where(moves, mixed, state.average)
    if recovery is not None:
      collapsed = average < jnp.asarray(recovery, average.dtype)
      back = jax.tree.map(lambda s, p, u: (s - p).astype(u.dtype), state.source, params, steps)
      steps = numerics.tree_where(collapsed, back, steps)
      inner_state = numerics.tree_where(collapsed, optimizer.init(state.source), inner_state)
      average = jnp.where(collapsed, jnp.inf, average)
    count = jnp.where(moves, optax.safe_increment(state.count), state.count)
    return steps, RsgsState(count, inner_state, average, state.source)

  return optax.GradientTransformationExtraArgs(init, update)


def _parts(out: Any) -> Any:
  """((value, reliable), gradients), and nothing else."""
  pair = lambda v: isinstance(v, tuple | list) and len(v) == 2
  if not pair(out) or not pair(out[0]):
    raise TypeError(
      "value_and_grad_fn must return ((value, reliable), gradients), as jax.value_and_grad(..., "
      f"has_aux=True) does; got {_checks.describe(out)}."
    )
  return out


def _any_reliable(reliable: Any) -> Array:
  mask = _checks.as_array("reliable", reliable)
  if mask.dtype != jnp.bool_:
    raise TypeError(
      "value_and_grad_fn must return ((value, reliable), gradients) with a boolean array reliable; "
      f"got {_checks.describe(mask)}."
    )
  return jnp.any(mask)
