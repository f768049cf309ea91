"""Losses at the worst point of a Wasserstein ball, in their Lagrangian form."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.losses.noise_robust import cross_entropy_loss
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = ["WassersteinInfo", "robust_zero_one_loss", "wasserstein_robust_loss"]

COSTS = ("l2", "squared_l2")


class WassersteinInfo(NamedTuple):
  """Where the worst points lie, and how well they were found.

  Attributes:
    points: float[batch, ...], the worst points found, Z.
    costs: float[batch], c(Z, X). Their mean is the transport budget rho that gamma stands for:
      gamma rho + the mean robust loss is the worst mean loss in the Wasserstein ball of radius rho
      (a bound from below where the maximisation is not exact).
    errors: float[batch], length of the last step over its step size: 0 at a stationary point.
  """

  points: Array
  costs: Array
  errors: Array


def wasserstein_robust_loss(
  apply_fn: Callable[[PyTree, Array], Array],
  params: PyTree,
  x: ArrayLike,
  labels: ArrayLike,
  *,
  gamma: ArrayLike,
  loss: Callable[..., Array] = cross_entropy_loss,
  cost: str = "squared_l2",
  num_steps: int = 15,
  stepsize: ArrayLike | None = None,
  max_distance: ArrayLike = float("inf"),
  where: ArrayLike | None = None,
) -> tuple[Array, WassersteinInfo]:
  r"""Robust loss phi_gamma: the worst loss of a moved input minus a price for moving it.

  Computes phi(x, y) = max_Z loss(apply_fn(params, Z), y) - gamma c(Z, x) with c = ||Z - x||_2 for
  "l2" and ||Z - x||_2^2 (no half) for "squared_l2", by proximal gradient ascent on Z from x:
  the gradient step is one on the loss alone, the price is taken by its proximal operator, and a
  point further than ``max_distance`` is pulled back. The best of the iterates counts.

  Args:
    apply_fn: ``apply_fn(params, x) -> float[batch, classes]``, row by row (no batch statistics).
    params: pytree of parameters.
    x: float[batch, ...] examples.
    labels: whatever ``loss`` takes, a row an example; int[batch] classes for the default.
    gamma: >= 0, price of a unit of cost, a scalar; may be traced. > 0 unless ``stepsize`` is given.
    loss: ``loss(scores, labels, where=...) -> float[batch]``.
    cost: "l2" or "squared_l2", over all axes but the first.
    num_steps: static integer >= 1.
    stepsize: > 0, a scalar; may be traced. None takes 1 / gamma, for the squared cost only. Where
      the slope of the loss changes at a rate of at most 2 gamma, that cost converges with any step.
    max_distance: > 0, largest ||Z - x||_2, a scalar; may be traced. Without it the loss can run
      away where gamma is too small.
    where: bool[batch]; rows where it is false have value 0 and gradient 0.

  Returns:
    ``(values, info)``: float[batch] in the dtype of the loss, at least the plain loss up to
    rounding, and a WassersteinInfo.

  Raises:
    ValueError: x is empty or has rank 0, a number is out of range, an unknown cost, no stepsize for
      the cost "l2", or a loss that does not return one number an example.
    TypeError: x is not floating-point, a function is not callable, or num_steps is no integer.

  Note:
    The gradient in ``params``, ``gamma`` and x holds Z - x fixed (the envelope theorem): it is that
    of the value where Z is the maximiser, and nothing is differentiated through the ascent. The
    cost "l2" has a kink at Z = x, where ascent stays while the slope of the loss is below gamma;
    for linear classifiers ``robust_zero_one_loss`` is exact. Iterates that are not finite never
    count. In half precision the moves are kept in float32 and points are rounded.

  Example:
    >>> linear = lambda weights, x: x @ weights
    >>> x, labels = jnp.array([[1.0, 0.0]]), jnp.array([0])
    >>> values, info = wasserstein_robust_loss(linear, jnp.eye(2), x, labels, gamma=1.0)
    >>> round(float(values[0]), 3), info.points.round(2)
    (0.359, Array([[0.83, 0.17]], dtype=float32))

  Reference:
    Sinha, Namkoong and Duchi, Certifying some distributional robustness with principled adversarial
    training, 2018, equation 2 and algorithm 1; Saberi, Najafi, Heidari, Movasaghinia, Motahari and
    Khalaj, Out-of-domain unlabeled data improves generalization, 2024. They ascend by plain
    gradient steps; the proximal step, which no price makes unstable, is ours.
  """
  _arguments.check_callable("apply_fn", apply_fn)
  _arguments.check_callable("loss", loss)
  _arguments.check_option("cost", cost, COSTS)
  clean = _checks.check_float_array("x", x, min_rank=1)
  num_steps = _checks.check_int("num_steps", num_steps, minimum=1)
  _checks.check_non_negative("gamma", gamma, scalar=True)
  _checks.check_positive("max_distance", max_distance, scalar=True)
  mask = _checks.check_mask("where", where, shape=clean.shape[:1])
  if mask is not None:
    clean = jnp.where(mask.reshape(mask.shape + (1,) * (clean.ndim - 1)), clean, 0)
  wide = numerics.upcast(clean).dtype
  price = _checks.check_float_array("gamma", gamma, rank=0).astype(wide)
  step_length = _step_length(stepsize, gamma, cost, wide)

  def losses_at(params: PyTree, point: Array) -> Array:
    values = loss(apply_fn(params, point), labels, where=mask)
    if jnp.shape(values) != clean.shape[:1]:
      raise ValueError(
        f"loss must return one number an example, shape {clean.shape[:1]}; got {jnp.shape(values)}."
      )
    return values

  frozen, start = jax.lax.stop_gradient((params, clean))
  offset = _ascend(
    lambda d: numerics.upcast(losses_at(frozen, start + d.astype(start.dtype))),
    jnp.zeros(clean.shape, wide),
    price=jax.lax.stop_gradient(price),
    stepsize=jax.lax.stop_gradient(step_length),
    limit=jax.lax.stop_gradient(jnp.asarray(max_distance, wide)),
    cost=cost,
    num_steps=num_steps,
  )
  moved, errors = jax.lax.stop_gradient(offset)
  costs = _cost(moved, cost)
  points = clean + moved.astype(clean.dtype)
  plain = losses_at(params, points)
  values = (numerics.upcast(plain) - price * costs).astype(plain.dtype)
  return values, WassersteinInfo(*jax.lax.stop_gradient((points, costs, errors)))


def robust_zero_one_loss(
  distances: ArrayLike, *, gamma: ArrayLike, cost: str = "l2", where: ArrayLike | None = None
) -> Array:
  r"""Robust 0-1 loss of a linear classifier in closed form: the ramp loss for the cost "l2".

  With s the signed distance of an input from the hyperplane, positive on the side of its label,

    max_Z 1[Z is on the wrong side or on the plane] - gamma c(Z, x)
      = 1 where s <= 0, and otherwise max(0, 1 - gamma s) for c = ||Z - x||_2,
                                      max(0, 1 - gamma s^2) for c = ||Z - x||_2^2.

  Args:
    distances: float[...], s. With |s| in its place the label is the classifier's own: a hat with
      its top on the plane, the loss of unlabelled inputs.
    gamma: >= 0 and finite, price of a unit of cost, a scalar; may be traced.
    cost: "l2" or "squared_l2".
    where: bool[...]; entries where it is false have value 0 and gradient 0.

  Returns:
    float[...] in [0, 1], of the dtype of ``distances``. NaN stays NaN.

  Raises:
    ValueError: gamma is out of range, or an unknown cost.
    TypeError: distances are not floating-point.

  Note:
    The derivative is 0 for s <= 0 and beyond the other end of the ramp, at both ends too: start
    from a classifier that is right on most inputs, such as the difference of the class means.

  Example:
    >>> robust_zero_one_loss(jnp.array([-1.0, 0.5, 3.0]), gamma=0.5)
    Array([1.  , 0.75, 0.  ], dtype=float32)

  Reference:
    Saberi, Najafi, Heidari, Movasaghinia, Motahari and Khalaj, Out-of-domain unlabeled data
    improves generalization, 2024, the experiment on Gaussian data (the ramp); the squared cost is
    our derivation.
  """
  values = _checks.check_float_array("distances", distances, non_empty=False)
  _arguments.check_option("cost", cost, COSTS)
  _checks.check_interval("gamma", gamma, 0.0, float("inf"), closed="left", scalar=True)
  mask = _checks.check_mask("where", where, shape=values.shape)
  wide = numerics.upcast(values if mask is None else jnp.where(mask, values, 0))
  slope = _checks.check_float_array("gamma", gamma, rank=0).astype(wide.dtype)
  length = wide if cost == "l2" else wide**2
  ramp = jnp.where(wide <= 0, 1, jax.nn.relu(1 - slope * length))
  if mask is not None:
    ramp = jnp.where(mask, ramp, 0)
  return ramp.astype(values.dtype)


def _step_length(stepsize: ArrayLike | None, gamma: ArrayLike, cost: str, dtype: np.dtype) -> Array:
  """The step size, by default the one at which the squared cost needs no tuning."""
  if stepsize is not None:
    _checks.check_positive("stepsize", stepsize, scalar=True)
    return jnp.asarray(stepsize, dtype)
  if cost == "l2":
    raise ValueError("stepsize must be given for the cost 'l2': it has no natural one; got None.")
  _checks.check_holds(jnp.asarray(gamma) > 0, "gamma must be > 0 where stepsize is None; got 0.")
  return 1 / jnp.asarray(gamma, dtype)


def _length(d: Array) -> Array:
  """Euclidean norm of each example, float[batch]."""
  return numerics.safe_norm(d.reshape(d.shape[0], -1), axis=-1)


def _cost(d: Array, cost: str) -> Array:
  length = _length(d)
  return length if cost == "l2" else length**2


def _ascend(
  gain: Callable[[Array], Array],
  start: Array,
  *,
  price: Array,
  stepsize: Array,
  limit: Array,
  cost: str,
  num_steps: int,
) -> tuple[Array, Array]:
  """Proximal gradient ascent on gain(d) - price c(d); the best offset and the last step's size."""
  spread = start.shape[:1] + (1,) * (start.ndim - 1)

  def net(gained: Array, d: Array) -> Array:
    value = gained - price * _cost(d, cost)
    return jnp.where(jnp.isfinite(value), value, -jnp.inf)

  def keep(best: tuple[Array, Array], d: Array, value: Array) -> tuple[Array, Array]:
    better = value > best[1]
    return jnp.where(better.reshape(spread), d, best[0]), jnp.where(better, value, best[1])

  def step(carry: tuple, _: None) -> tuple[tuple, None]:
    d, best, _ = carry
    total = lambda d: (lambda values: (jnp.sum(values), values))(gain(d))
    gradient, gained = jax.grad(total, has_aux=True)(d)
    best = keep(best, d, net(gained, d))
    moved = d + stepsize * jnp.where(jnp.isfinite(gradient), gradient, 0)
    length = _length(moved)
    if cost == "l2":  # the proximal operator of a multiple of the norm
      kept = jax.nn.relu(length - stepsize * price)
    else:  # and of its square
      kept = length / (1 + 2 * stepsize * price)
    shrink = numerics.safe_divide(jnp.minimum(kept, limit), length)
    new = moved * shrink.reshape(spread)
    return (new, best, _length(new - d) / stepsize), None

  nowhere = jnp.full(start.shape[:1], -jnp.inf, start.dtype)
  first = (start, (start, nowhere), jnp.zeros_like(nowhere))
  (last, best, error), _ = jax.lax.scan(step, first, None, length=num_steps)
  return keep(best, last, net(gain(last), last))[0], error
