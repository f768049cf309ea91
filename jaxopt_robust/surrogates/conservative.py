"""Conservative models of designs (COMs): a term against what searches exploit, and its weight."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.numerics import upcast
from jaxopt_robust.surrogates._searches import Bounds, one_a_design
from jaxopt_robust.surrogates.offline import gradient_ascent_search
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = ["ConservativeInfo", "conservative_gap", "conservative_objective", "multiplier_step"]


class ConservativeInfo(NamedTuple):
  """The two terms of a conservative objective.

  Attributes:
    error: float scalar, mean squared error of the predictions.
    gap: float scalar, ``conservative_gap``: what ``multiplier_step`` takes.
  """

  error: Array
  gap: Array


def conservative_gap(
  apply_fn: Callable[[PyTree, Array], Array],
  params: PyTree,
  x: ArrayLike,
  *,
  stepsize: ArrayLike | None = None,
  num_steps: int = 50,
  bounds: Bounds = None,
) -> Array:
  r"""How much more a model promises where a search ends than on the data (the term of COMs).

  Computes mean_i h(x'_i; w) - mean_i h(x_i; w) with x' found by ``gradient_ascent_search`` from x.
  Adding a multiple of it to the training loss makes the model conservative
  (``conservative_objective``); ``multiplier_step`` keeps it near a bound.

  Args:
    apply_fn: ``apply_fn(params, x) -> float[batch]``, the model h.
    params: pytree of parameters, w.
    x: float[batch, ...], a batch of the data.
    stepsize: of the search, as there.
    num_steps: of the search, as there.
    bounds: of the search, as there.

  Returns:
    float scalar, at least float32. Its gradient in ``params`` holds x' fixed.

  Raises:
    ValueError: as ``gradient_ascent_search``.
    TypeError: as ``gradient_ascent_search``.

  Example:
    >>> linear = lambda w, x: x @ w
    >>> x = jnp.zeros((1, 2))
    >>> conservative_gap(linear, jnp.array([1.0, 0.0]), x, stepsize=0.1, num_steps=10).round(4)
    Array(1., dtype=float32)

  Reference:
    Trabucco, Kumar, Geng and Levine, Conservative objective models for effective offline
    model-based optimization, 2021 (the conservative term of the training objective).
  """
  _arguments.check_callable("apply_fn", apply_fn)
  designs = _checks.check_float_array("x", x, min_rank=1)
  frozen = jax.lax.stop_gradient(params)
  model = one_a_design(lambda v: apply_fn(frozen, v), len(designs), name="apply_fn", slopes=True)
  found, _ = gradient_ascent_search(
    model, designs, stepsize=stepsize, num_steps=num_steps, bounds=bounds
  )
  promised = upcast(apply_fn(params, jax.lax.stop_gradient(found)))
  return jnp.mean(promised) - jnp.mean(upcast(apply_fn(params, designs)))


def conservative_objective(
  apply_fn: Callable[[PyTree, Array], Array],
  params: PyTree,
  x: ArrayLike,
  targets: ArrayLike,
  *,
  multiplier: ArrayLike,
  stepsize: ArrayLike | None = None,
  num_steps: int = 50,
  bounds: Bounds = None,
) -> tuple[Array, ConservativeInfo]:
  r"""Training objective of a conservative model: squared error plus a weight times the gap.

  Computes (1/n) sum_i (h(x_i; w) - y_i)^2 + lam (mean_i h(x'_i; w) - mean_i h(x_i; w)), where x'_i
  is what ``num_steps`` steps of ascent of h from x_i find (see ``conservative_gap``).

  Args:
    apply_fn: ``apply_fn(params, x) -> float[n]``, the model h.
    params: pytree of parameters, w.
    x: float[n, ...], a batch of the data.
    targets: float[n], y.
    multiplier: lam >= 0, a scalar; may be traced. ``multiplier_step`` moves it between updates so
      that the gap stays near a bound.
    stepsize: of the ascent, as in ``gradient_ascent_search``.
    num_steps: of the ascent, as there.
    bounds: of the ascent, as there.

  Returns:
    ``(value, info)``: float scalar, at least float32, and ConservativeInfo. The gradient in
    ``params`` holds x' fixed: take it by ``jax.value_and_grad(..., has_aux=True)``.

  Raises:
    ValueError: targets are not one number a design, multiplier < 0, or as ``conservative_gap``.
    TypeError: as ``conservative_gap``.

  Note:
    The model is to be searched from designs of the data with as many steps as here: it has learned
    not to promise more than the bound there, and nothing about longer searches. The default
    stepsize is that of ``gradient_ascent_search``; the authors' code takes 0.05 sqrt(entries) for
    continuous designs, five times as much.

  Example:
    >>> linear = lambda w, x: x @ w
    >>> value, info = conservative_objective(
    ...   linear, jnp.array([1.0, 0.0]), jnp.ones((3, 2)), jnp.zeros(3),
    ...   multiplier=0.5, stepsize=0.1, num_steps=10)
    >>> round(float(value), 3), round(float(info.error), 3), round(float(info.gap), 3)
    (1.5, 1.0, 1.0)

  Reference:
    Trabucco, Kumar, Geng and Levine, Conservative objective models for effective offline
    model-based optimization, 2021 (the training objective). The error is not halved, as in the
    authors' code, whose bonus for the entropy of x' (0 in the published settings) is left out.
  """
  _arguments.check_callable("apply_fn", apply_fn)
  designs = _checks.check_float_array("x", x, min_rank=1)
  truth = _checks.check_float_array("targets", targets, rank=1)
  if truth.shape != designs.shape[:1]:
    raise ValueError(f"targets must have shape {designs.shape[:1]}; got {truth.shape}.")
  _checks.check_non_negative("multiplier", multiplier, scalar=True)
  gap = conservative_gap(
    apply_fn, params, designs, stepsize=stepsize, num_steps=num_steps, bounds=bounds
  )
  error = jnp.mean((upcast(apply_fn(params, designs)) - truth) ** 2)  # half precision overflows
  return error + jnp.asarray(multiplier, error.dtype) * gap, ConservativeInfo(error, gap)


def multiplier_step(
  multiplier: ArrayLike, value: ArrayLike, *, bound: ArrayLike, rate: ArrayLike
) -> Array:
  r"""Projected ascent of the multiplier of a constraint value <= bound.

  Computes max(0, lam + rate (value - bound)).

  Args:
    multiplier: lam >= 0, float[...].
    value: float[...] of the same shape, what is bounded, at the parameters of now.
    bound: a scalar, or of the same shape; may be traced.
    rate: > 0, a scalar; may be traced. Its unit is that of the loss over the square of the value's.

  Returns:
    float[...] >= 0 of the dtype of ``multiplier``. Where ``value`` is NaN the multiplier stays.

  Raises:
    ValueError: shapes differ, multiplier < 0 or rate <= 0.
    TypeError: an argument is no number.

  Example:
    >>> multiplier_step(jnp.array([0.5, 0.5]), jnp.array([3.0, 0.0]), bound=1.0, rate=1.0)
    Array([2.5, 0. ], dtype=float32)

  Reference:
    Arrow, Hurwicz and Uzawa, Studies in linear and non-linear programming, 1958. Trabucco, Kumar,
    Geng and Levine, Conservative objective models for effective offline model-based optimization,
    2021, take the same ascent in the logarithm of the multiplier.
  """
  _checks.check_non_negative("multiplier", multiplier)
  lam = _checks.check_float_array("multiplier", multiplier, non_empty=False)
  seen = _checks.check_float_array("value", value, non_empty=False).astype(lam.dtype)
  _checks.check_same_shape("value", seen, "multiplier", lam)
  limit = _checks.check_float_array("bound", bound).astype(lam.dtype)
  if limit.shape not in ((), lam.shape):
    raise ValueError(f"bound must be a scalar or of shape {lam.shape}; got {limit.shape}.")
  _checks.check_positive("rate", rate, scalar=True)
  moved = jnp.maximum(lam + jnp.asarray(rate, lam.dtype) * (seen - limit), 0)
  return jnp.where(jnp.isnan(seen), lam, moved)
