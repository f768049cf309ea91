"""Surrogates whose mean prediction moves little when their weights are perturbed."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.numerics import upcast
from jaxopt_robust.transforms._links import (
  check_like,
  check_transformation,
  function_given,
  given,
  unit_direction,
)
from jaxopt_robust.transforms.perturbation import moved
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = ["IgniteState", "ignite", "ignite_fixed", "surrogate_sharpness"]

DERIVATIVES = ("difference", "exact")
Mask = PyTree | Callable[[PyTree], PyTree]


class IgniteState(NamedTuple):
  """State of ``ignite`` and ``ignite_fixed``.

  Attributes:
    multiplier: float scalar >= 0, weight of the sharpness in the next update.
    sharpness: float scalar, rho ||grad G|| at the parameters of the last update; 0 before it.
    inner_state: state of the inner optimizer.
  """

  multiplier: Array
  sharpness: Array
  inner_state: Any


def ignite(
  inner: optax.GradientTransformation,
  *,
  rho: ArrayLike = 0.05,
  radius: ArrayLike | None = None,
  budget: ArrayLike = 0.1,
  multiplier: ArrayLike = 1e-3,
  multiplier_rate: ArrayLike = 1e-3,
  derivative: str = "difference",
  mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
  r"""Training of a surrogate under a bound on its sharpness, with a multiplier that adapts.

  Solves min_w L(w) subject to rho ||grad G(w)|| <= budget by descent in w and ascent in the
  multiplier lam >= 0, where G(w) is the *mean prediction* of the surrogate over a batch (not its
  loss): rho ||grad G|| is, to first order, how much G can grow within ||dw||_2 <= rho. An update:

    n = ||g0||,  g0 = grad G(w),  g1 = grad G(w + r g0 / n),
    the inner optimizer gets  grad L(w) + lam rho (g1 - g0) / r,   -> lam rho grad ||grad G||
    lam <- max(0, lam + multiplier_rate (rho n - budget)).

  Args:
    inner: optimizer of the weights, such as ``optax.adam(1e-3)``.
    rho: > 0, size of the perturbation that is guarded against; may be traced.
    radius: r > 0, of the difference quotient, whose error is O(r); ``rho`` if None; may be traced.
    budget: > 0, the paper's eps, in units of the prediction; may be traced.
    multiplier: >= 0, lam at the start; may be traced.
    multiplier_rate: >= 0, step of lam; may be traced.
    derivative: ``"difference"`` as above, or ``"exact"``: (g1 - g0) / r in the limit r -> 0, the
      Hessian of G times g0 / n, for twice the work; static.
    mask: which weights count in the norm: a pytree of booleans, or a prefix of one, or a function
      of the parameters to it (with ``static_args=("mask",)`` of ``optax.inject_hyperparams``).
      ``True`` counts all of them, as None does.

  Returns:
    ``optax.GradientTransformationExtraArgs`` with state ``IgniteState``. ``update`` needs the
    gradients of L, the parameters and the extra argument ``pred_grad_fn``, a function of the
    parameters to the gradient of G on the batch (on its clean inputs).

  Raises:
    TypeError: when ``inner`` is no transformation.
    ValueError: when a number is out of range and known, an option is unknown, the mask holds no
      booleans, ``update`` gets no parameters or no ``pred_grad_fn`` or gradients of other shapes,
      or ``budget`` <= ``rho`` without a mask: an output bias alone contributes 1 to ||grad G||, so
      that no weights keep such a budget and the multiplier grows without bound. Leave the bias out
      by ``mask``; a surrogate without one says ``mask=True``.

  Note:
    Where grad G = 0 nothing is added. The published code lets the multiplier fall below 0, which
    rewards sharpness; here it does not. With data on several devices average inside
    ``pred_grad_fn``: the norm of the mean is wanted. Differences need float32 or wider.

  Example:
    >>> pred_grad_fn = jax.grad(lambda w: 0.5 * jnp.sum(w**2))  # norm |w|, gradient of it w / |w|
    >>> tx = ignite(optax.sgd(1.0), rho=0.1, budget=0.2, multiplier=2.0, multiplier_rate=1.0)
    >>> params = jnp.array([3.0, 4.0])
    >>> updates, state = tx.update(
    ...   jnp.zeros(2), tx.init(params), params, pred_grad_fn=pred_grad_fn)
    >>> np.round(np.float64(updates), 3).tolist()
    [-0.12, -0.16]
    >>> round(float(state.sharpness), 3), round(float(state.multiplier), 3)
    (0.5, 2.3)

  Reference:
    Dao, Nguyen, Truong and Hoang, Incorporating surrogate gradient norm to improve offline
    optimization techniques, 2024 (IGNITE).
  """
  _checks.check_positive("budget", budget, scalar=True)
  _checks.check_non_negative("multiplier_rate", multiplier_rate, scalar=True)
  if mask is None and _checks.is_concrete((rho, budget)):
    _checks.check_positive("rho", rho, scalar=True)
    _checks.check_holds(
      jnp.asarray(budget) > jnp.asarray(rho),
      "budget must be > rho where an output bias counts, whose part of ||grad G|| is 1; got budget "
      f"{budget} and rho {rho}. Leave the bias out by mask=, or say mask=True if there is none.",
    )

  def ascend(lam: Array, sharpness: Array) -> Array:
    excess = sharpness - jnp.asarray(budget, lam.dtype)
    return jnp.maximum(lam + jnp.asarray(multiplier_rate, lam.dtype) * excess, 0)

  return _with_sharpness("ignite", inner, rho, radius, multiplier, derivative, mask, ascend)


def ignite_fixed(
  inner: optax.GradientTransformation,
  *,
  rho: ArrayLike = 0.2,
  radius: ArrayLike | None = None,
  multiplier: ArrayLike = 0.01,
  derivative: str = "difference",
  mask: Mask | None = None,
) -> optax.GradientTransformationExtraArgs:
  r"""Training of a surrogate with its sharpness as a penalty of fixed weight (IGNITE-2).

  Descends on L(w) + multiplier * rho ||grad G(w)||, with G the mean prediction and the derivative
  as in ``ignite``.

  Args:
    inner: optimizer of the weights.
    rho: > 0, size of the perturbation; may be traced.
    radius: r > 0, of the difference quotient; ``rho`` if None; may be traced.
    multiplier: >= 0, weight of the sharpness; may be traced. 0 is the inner optimizer alone.
    derivative: ``"difference"`` or ``"exact"``; static.
    mask: which weights count in the norm, as in ``ignite``.

  Returns:
    ``optax.GradientTransformationExtraArgs`` with state ``IgniteState``; ``update`` needs the
    parameters and ``pred_grad_fn``, as for ``ignite``.

  Raises:
    TypeError: when ``inner`` is no transformation.
    ValueError: when a number is out of range and known, an option is unknown, the mask holds no
      booleans, or ``update`` gets no parameters or no ``pred_grad_fn`` or gradients of other
      shapes.

  Example:
    >>> pred_grad_fn = jax.grad(lambda w: 0.5 * jnp.sum(w**2))
    >>> tx = ignite_fixed(optax.sgd(1.0), multiplier=0.5)
    >>> params = jnp.array([3.0, 4.0])
    >>> updates, _ = tx.update(jnp.zeros(2), tx.init(params), params, pred_grad_fn=pred_grad_fn)
    >>> np.round(np.float64(updates), 3).tolist()
    [-0.06, -0.08]

  Reference:
    Dao, Nguyen, Truong and Hoang, Incorporating surrogate gradient norm to improve offline
    optimization techniques, 2024 (IGNITE-2).
  """
  keep = lambda lam, sharpness: lam
  return _with_sharpness("ignite_fixed", inner, rho, radius, multiplier, derivative, mask, keep)


def surrogate_sharpness(
  fun: Callable[..., Array],
  params: PyTree,
  *data: PyTree,
  rho: ArrayLike = 0.05,
  mask: Mask | None = None,
) -> Array:
  r"""How much a function can grow, to first order, when its parameters are perturbed.

  Computes rho ||grad_w fun(w, *data)||_2 ~ max over ||d||_2 <= rho of fun(w + d) - fun(w).

  Args:
    fun: ``fun(params, *data) -> scalar``, such as the mean prediction on unseen designs.
    params: pytree of float arrays, w.
    *data: what else ``fun`` takes.
    rho: > 0, a scalar; may be traced.
    mask: which weights are perturbed, as in ``ignite``; all of them if None.

  Returns:
    float scalar, at least float32.

  Raises:
    TypeError: when ``fun`` is not a function, or ``params`` holds anything but real numbers.
    ValueError: when ``rho`` is no positive scalar, or the mask does not fit.

  Example:
    >>> mean_prediction = lambda w, x: jnp.mean(x @ w)
    >>> surrogate_sharpness(mean_prediction, jnp.zeros(2), jnp.array([[3.0, 4.0]]), rho=0.1)
    Array(0.5, dtype=float32)

  Reference:
    Dao, Nguyen, Truong and Hoang, Incorporating surrogate gradient norm to improve offline
    optimization techniques, 2024.
  """
  _arguments.check_callable("fun", fun)
  _checks.check_positive("rho", rho, scalar=True)
  params = _checks.check_float_tree("params", params)
  _, norm = unit_direction(_counted(mask, params, jax.grad(fun)(params, *data)))
  return jnp.asarray(rho, norm.dtype) * norm


def _counted(mask: Mask | None, params: PyTree, grads: PyTree) -> PyTree:
  """The gradients with zeros where the mask says that weights do not count."""
  if mask is None:
    return grads
  tree = mask(params) if callable(mask) else mask
  for keep in jax.tree.leaves(tree):
    if not isinstance(keep, bool | np.bool_) and getattr(keep, "dtype", None) != jnp.bool_:
      raise ValueError(f"mask must be a pytree of booleans; got {_checks.describe(keep)}.")
  try:
    kept = jax.tree.broadcast(tree, grads)
    return jax.tree.map(lambda keep, g: jnp.where(keep, g, 0), kept, grads)
  except (TypeError, ValueError) as error:
    raise ValueError(f"mask must be a pytree of booleans for the parameters: {error}") from error


def _with_sharpness(
  name: str,
  inner: optax.GradientTransformation,
  rho: ArrayLike,
  radius: ArrayLike | None,
  multiplier: ArrayLike,
  derivative: str,
  mask: Mask | None,
  ascend: Callable[[Array, Array], Array],
) -> optax.GradientTransformationExtraArgs:
  check_transformation("inner", inner)
  _checks.check_positive("rho", rho, scalar=True)
  if radius is not None:
    _checks.check_positive("radius", radius, scalar=True)
  _checks.check_non_negative("multiplier", multiplier, scalar=True)
  _arguments.check_option("derivative", derivative, DERIVATIVES)
  optimizer = optax.with_extra_args_support(inner)
  step = rho if radius is None else radius

  def init(params: PyTree) -> IgniteState:
    kinds = (jnp.result_type(leaf) for leaf in jax.tree.leaves(params))
    dtype = jnp.result_type(jnp.float32, *kinds)
    lam = jnp.asarray(multiplier).astype(dtype)
    return IgniteState(lam, jnp.zeros((), dtype), optimizer.init(params))

  def slopes(gradient: Callable[[PyTree], PyTree], params: PyTree) -> tuple[PyTree, Array]:
    """grad ||grad G|| and ||grad G||."""
    if derivative == "exact":
      g0, product = jax.linearize(gradient, params)
      check_like("what pred_grad_fn returns", g0, params)
      unit, norm = unit_direction(_counted(mask, params, g0))
      return product(jax.tree.map(lambda u, p: u.astype(p.dtype), unit, params)), norm
    g0 = gradient(params)
    check_like("what pred_grad_fn returns", g0, params)
    counted = _counted(mask, params, g0)
    g1 = gradient(moved(params, counted, step))
    divide = lambda a, b: (upcast(a) - upcast(b)) / jnp.asarray(step, upcast(a).dtype)
    return jax.tree.map(divide, g1, g0), unit_direction(counted)[1]

  def update(
    updates: PyTree,
    state: IgniteState,
    params: PyTree | None = None,
    *,
    pred_grad_fn: Callable[[PyTree], PyTree] | None = None,
    **extra_args: Any,
  ) -> tuple[PyTree, IgniteState]:
    state = _arguments.check_state("state", state, IgniteState)
    params = given(params, name)
    gradient = function_given(pred_grad_fn, name, "pred_grad_fn", "grad of the mean prediction")
    slope, norm = slopes(gradient, params)
    weight = state.multiplier * jnp.asarray(rho, state.multiplier.dtype)

    def with_slope(g: Array, s: Array) -> Array:
      added = jnp.where(weight == 0, 0, weight.astype(s.dtype) * s)
      return (g + added.astype(g.dtype)).astype(g.dtype)

    steps, inner_state = optimizer.update(
      jax.tree.map(with_slope, updates, slope), state.inner_state, params, **extra_args
    )
    sharpness = jnp.asarray(rho, state.sharpness.dtype) * norm.astype(state.sharpness.dtype)
    return steps, IgniteState(ascend(state.multiplier, sharpness), sharpness, inner_state)

  return optax.GradientTransformationExtraArgs(init, update)
