"""Optimizers that prefer flat minima: sharpness-aware minimisation and its surrogate gap."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.numerics import upcast
from jaxopt_robust.transforms._links import (
  Schedule,
  at,
  check_like,
  check_transformation,
  function_given,
  given,
  unit_direction,
  vdot,
)
from jaxopt_robust.transforms.perturbation import NORMS, moved
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = ["SharpnessState", "gsam", "gsam_radius", "sam"]

OBJECTIVES = ("perturbed", "plain")
SOURCE_OF_GRADS = "the function that the gradients are values of"


class SharpnessState(NamedTuple):
  """State of ``sam`` and ``gsam``.

  Attributes:
    count: int32, updates done; a schedule of the radius reads it.
    inner_state: state of the inner optimizer.
  """

  count: Array  # type: ignore[assignment]
  inner_state: Any


def sam(
  inner: optax.GradientTransformation, *, rho: Schedule = 0.05, norm: str = "l2"
) -> optax.GradientTransformationExtraArgs:
  r"""Sharpness-aware minimisation: the step of an optimizer by the gradient uphill of here.

  Descends on f(w + rho s), where s is the ascent direction of unit length: the inner optimizer gets

    grad f(w + rho s),    s = g / ||g||_2,    g = grad f(w).

  Args:
    inner: optimizer that takes the step, such as ``optax.sgd(0.1)``.
    rho: >= 0, distance, a number (may be traced) or a schedule ``count -> number``.
    norm: of the ball: ``"l2"``, or ``"adaptive"``, which scales each entry with the weight
      (see ``perturbed_gradient``); static.

  Returns:
    ``optax.GradientTransformationExtraArgs`` with state ``SharpnessState``. ``update`` needs the
    gradients, the parameters and the extra argument ``grad_fn``, a function ``(params, i)`` to the
    gradients with i = 0 (as ``optax.contrib.sam`` in its opaque mode): take the same batch as for
    the gradients.

  Raises:
    TypeError: when ``inner`` is no transformation.
    ValueError: when ``rho`` is negative and known, the norm is unknown, ``update`` gets no
      parameters or no ``grad_fn``, or gradients of other shapes than the parameters'.

  Note:
    Where the gradient is zero it is taken at w itself: no NaN. Two gradients a step. To train some
    weights only, choose them inside, ``sam(optax.partition(...))`` with ``optax.set_to_zero()`` for
    the others: what a mask around ``sam`` leaves out would not reach ``grad_fn``, and
    ``optax.masked`` hands gradients on as they are, uphill. With data on several devices average
    inside ``grad_fn``. Other extra arguments go on to ``inner``.

  Example:
    >>> grad_fn = jax.grad(lambda w, i: 0.5 * jnp.sum(w**2))
    >>> tx = sam(optax.sgd(1.0), rho=0.5)
    >>> params = jnp.array([0.0, 2.0])
    >>> updates, state = tx.update(grad_fn(params, 0), tx.init(params), params, grad_fn=grad_fn)
    >>> updates
    Array([-0. , -2.5], dtype=float32)

  Reference:
    Foret, Kleiner, Mobahi and Neyshabur, Sharpness-aware minimization for efficiently improving
    generalization, 2021, equations 2 and 3.
  """
  return _sharpness_aware("sam", inner, rho, norm, lambda grads, found: found)


def gsam(
  inner: optax.GradientTransformation,
  *,
  rho: Schedule = 0.05,
  alpha: ArrayLike = 0.2,
  norm: str = "l2",
  minimize: str = "perturbed",
) -> optax.GradientTransformationExtraArgs:
  r"""Surrogate gap guided sharpness-aware minimisation: the perturbed loss, and its gap, fall.

  With g = grad f(w), gp = grad f(w + rho s) as in ``sam`` and f_p(w) = f(w + rho s), the inner
  optimizer gets

    gp - alpha g_perp,    g_perp = g - <g, gp> / ||gp||^2 gp       (minimize = "perturbed"),
    g + alpha gp_perp,    gp_perp = gp - <gp, g> / ||g||^2 g       (minimize = "plain").

  To first order the first lowers f_p as ``sam`` does and the gap f_p - f besides; the second lowers
  f as the plain gradient does and the gap besides.

  Args:
    inner: optimizer that takes the step.
    rho: >= 0, distance, a number (may be traced) or a schedule such as ``gsam_radius``.
    alpha: >= 0, weight of the gap; may be traced. 0 gives ``sam`` (or the plain gradient).
    norm: of the ball: ``"l2"`` or ``"adaptive"``; static.
    minimize: ``"perturbed"`` or ``"plain"``; static.

  Returns:
    ``optax.GradientTransformationExtraArgs`` with state ``SharpnessState``; ``update`` needs the
    parameters and ``grad_fn``, as for ``sam``.

  Raises:
    TypeError: when ``inner`` is no transformation.
    ValueError: when a number is negative and known, an option is unknown, ``update`` gets no
      parameters or no ``grad_fn``, or gradients of other shapes than the parameters'.

  Note:
    Both gradients must be averaged over devices before they come here: directions of parts of the
    data decompose differently.

  Example:
    >>> grad_fn = jax.grad(lambda w, i: 0.5 * jnp.sum(jnp.array([1.0, 9.0]) * w**2))
    >>> tx = gsam(optax.sgd(1.0), rho=0.1, alpha=0.5)
    >>> params = jnp.ones(2)
    >>> updates, state = tx.update(grad_fn(params, 0), tx.init(params), params, grad_fn=grad_fn)
    >>> np.round(np.float64(updates), 2).tolist()
    [-0.97, -9.9]

  Reference:
    Zhuang et al., Surrogate gap minimization improves sharpness-aware training, 2022, algorithm 1;
    "plain" as an option of the authors' JAX code. There the adaptive perturbation is scaled with
    |w| once, here as in ASAM.
  """
  _checks.check_non_negative("alpha", alpha, scalar=True)
  _arguments.check_option("minimize", minimize, OBJECTIVES)
  combine = lambda grads, found: surrogate_gap(grads, found, alpha, minimize)
  return _sharpness_aware("gsam", inner, rho, norm, combine)


def gsam_radius(
  learning_rate: Callable[[Array], ArrayLike],
  *,
  rho: tuple[float, float],
  rates: tuple[float, float],
) -> Callable[[Array], Array]:
  r"""Schedule of the distance that falls and rises with the learning rate.

  rho_t = rho_min + (rho_max - rho_min) (rate_t - rate_min) / (rate_max - rate_min).

  Args:
    learning_rate: schedule ``count -> rate``.
    rho: pair (rho_min, rho_max), 0 <= rho_min <= rho_max.
    rates: pair (rate_min, rate_max), rate_min < rate_max: the range of the schedule.

  Returns:
    Schedule ``count -> rho_t`` for ``gsam``, ``sam`` or ``rsgs``; not below 0.

  Raises:
    TypeError: when ``learning_rate`` is not a function.
    ValueError: when a pair is none, or not in order.

  Example:
    >>> rate = optax.linear_schedule(0.1, 0.0, 100)
    >>> radius = gsam_radius(rate, rho=(0.01, 0.05), rates=(0.0, 0.1))
    >>> [round(float(radius(count)), 3) for count in (0, 50, 100)]
    [0.05, 0.03, 0.01]

  Reference:
    Zhuang et al., Surrogate gap minimization improves sharpness-aware training, 2022, algorithm 1.
  """
  _arguments.check_callable("learning_rate", learning_rate)
  least, most = _arguments.parts(rho, "rho_min", "rho_max", name="rho", example="rho=(0.01, 0.05)")
  low, high = _arguments.parts(
    rates, "rate_min", "rate_max", name="rates", example="rates=(0.0, 0.1)"
  )
  _checks.check_non_negative("rho", (least, most))
  _checks.check_non_negative("rates", (low, high))
  _checks.check_holds(least <= most, f"rho must be (rho_min, rho_max) in order; got {rho}.")
  _checks.check_holds(low < high, f"rates must be (rate_min, rate_max), two of them; got {rates}.")

  def schedule(count: Array) -> Array:
    part = (jnp.asarray(learning_rate(count), float) - low) / (high - low)
    return jnp.maximum(least + (most - least) * part, 0)

  return schedule


def surrogate_gap(grads: PyTree, found: PyTree, alpha: ArrayLike, minimize: str) -> PyTree:
  """The gradient of one objective and the part of the other one that is orthogonal to it."""
  main, other, sign = (found, grads, -1) if minimize == "perturbed" else (grads, found, 1)
  unit, _ = unit_direction(main)
  along = vdot(other, unit)

  def combined(m: Array, o: Array, u: Array, like: Array) -> Array:
    orthogonal = upcast(o) - along.astype(u.dtype) * u
    return (upcast(m) + sign * jnp.asarray(alpha, u.dtype) * orthogonal).astype(like.dtype)

  return jax.tree.map(combined, main, other, unit, grads)


def check_ball(inner: Any, rho: Schedule, norm: str) -> None:
  """What all optimizers with a perturbation take."""
  check_transformation("inner", inner)
  _arguments.check_option("norm", norm, NORMS)
  if not callable(rho):
    _checks.check_non_negative("rho", rho, scalar=True)


def _sharpness_aware(
  name: str,
  inner: optax.GradientTransformation,
  rho: Schedule,
  norm: str,
  combine: Callable[[PyTree, PyTree], PyTree],
) -> optax.GradientTransformationExtraArgs:
  check_ball(inner, rho, norm)
  optimizer = optax.with_extra_args_support(inner)

  def init(params: PyTree) -> SharpnessState:
    return SharpnessState(jnp.zeros((), jnp.int32), optimizer.init(params))

  def update(
    updates: PyTree,
    state: SharpnessState,
    params: PyTree | None = None,
    *,
    grad_fn: Callable[[PyTree, int], PyTree] | None = None,
    **extra_args: Any,
  ) -> tuple[PyTree, SharpnessState]:
    state = _arguments.check_state("state", state, SharpnessState)
    params = given(params, name)
    gradient = function_given(grad_fn, name, "grad_fn", SOURCE_OF_GRADS)
    check_like("the gradients", updates, params)
    found = gradient(moved(params, updates, at(rho, state.count), norm), 0)
    check_like("what grad_fn returns", found, params)
    found = jax.tree.map(lambda f, g: f.astype(g.dtype), found, updates)
    steps, inner_state = optimizer.update(
      combine(updates, found), state.inner_state, params, grad_fn=grad_fn, **extra_args
    )
    return steps, SharpnessState(optax.safe_increment(state.count), inner_state)

  return optax.GradientTransformationExtraArgs(init, update)
