"""The strengths of a path: from the one at which nothing is left, down by a constant factor."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.numerics import safe_divide
from jaxopt_robust.prox import lasso
from jaxopt_robust.regression import _coordinate
from jaxopt_robust.regression._problem import (
  Inputs,
  Model,
  hyper_at,
  make_problem,
  on_coefficients,
  smooth_part,
  start,
)
from jaxopt_robust.regression.linear_losses import LinearLoss
from jaxopt_robust.regression.paths import check_call
from jaxopt_robust.solvers import fista, run_until
from jaxopt_robust.typing import Array, ArrayLike, Penalty

__all__ = ["max_strength", "strength_grid"]

# So many times the bound of the gradient there: no penalised coefficient survives it.
_BEYOND = 1e6


@functools.partial(jax.jit, static_argnums=0)
def _largest(model: Model, inputs: Inputs, max_steps: Array) -> Array:
  # The size of the whole design, whatever the method: it bounds the step.
  problem = make_problem(model._replace(coordinates=False), inputs)
  fun, penalty = smooth_part(model), on_coefficients(model.penalty)
  dtype = problem.unit.dtype
  eps = jnp.finfo(dtype).eps
  beyond = _BEYOND * problem.reference
  hyper = hyper_at(beyond, inputs.params, inputs.factor)
  # In units in which the gradient is of size one, and with a step that suits every penalty.
  step = 1 / problem.unit**2
  if model.coordinates:
    # Each feature has its own step: the units of those of factor 0 do not matter.
    own = make_problem(model, inputs)
    state, advance = _coordinate.make(model, own)
    _, params, _, _, _ = advance(state, hyper, 4 * eps, max_steps)
    constant = safe_divide(own.column * params.intercept, problem.column)
    params = params._replace(intercept=constant)
  else:
    if model.loss.curvature is None:
      solver = fista(fun, penalty, init_stepsize=4 / problem.unit**2)
    else:
      bound = jnp.asarray(model.loss.curvature(problem.loss_hyper), dtype) * problem.unit**2
      solver = fista(fun, penalty, stepsize=1 / bound)
    tol = 4 * eps * problem.reference
    params, info = run_until(solver, start(problem), hyper, problem, tol=tol, max_steps=max_steps)
    step = jnp.where(info.last.stepsize > 0, info.last.stepsize, step)
  gradient = jax.grad(fun)(params, problem).coefficients

  def image(v: Array, strength: Array) -> Array:
    return model.penalty.prox(v, hyper_at(strength, inputs.params, inputs.factor), step)

  ones = jnp.maximum(step * problem.reference, jnp.finfo(dtype).tiny) * jnp.ones_like(gradient)
  is_penalised = image(ones, beyond) == 0
  moved = params.coefficients - step * gradient

  def halve(_: Any, bracket: tuple) -> tuple:
    low, high = bracket
    middle = low + (high - low) / 2
    is_zero = jnp.all((image(moved, middle) == 0) | ~is_penalised)
    return jnp.where(is_zero, low, middle), jnp.where(is_zero, middle, high)

  # From _BEYOND times the gradient to its rounding.
  halvings = jnp.finfo(dtype).nmant + 30
  is_zero = jnp.all((image(moved, 0 * beyond) == 0) | ~is_penalised)
  high = jax.lax.fori_loop(0, halvings, halve, (0 * beyond, beyond))[1]
  return jnp.where(jnp.isfinite(gradient).all(), jnp.where(is_zero, 0, high), jnp.nan)


def max_strength(
  x: ArrayLike,
  y: Any,
  *,
  loss: str | LinearLoss = "squared",
  loss_hyper: ArrayLike | None = None,
  penalty: Penalty = lasso,
  penalty_params: tuple = (),
  penalty_factor: ArrayLike | None = None,
  fit_intercept: bool = True,
  standardize: bool = False,
  sample_weight: ArrayLike | None = None,
  max_steps: ArrayLike = 10_000,
) -> Array:
  r"""The smallest strength at which all penalised coefficients are 0.

  Fits the model of the intercept and the features of factor 0, takes the gradient G of the mean
  loss there, and finds by bisection the smallest lam at which the step w - s G of the penalised
  coefficients is sent to 0 by the operator of the penalty. For the Lasso it is
  max_j |G_j| / factor_j.

  Args:
    x: float[n, p], dense or a ``BCOO`` matrix.
    y: the targets, as in ``regularization_path``.
    loss: as in ``regularization_path``, but smooth; static.
    loss_hyper: the loss's own number; may be traced.
    penalty: a penalty that sends small numbers to 0; static.
    penalty_params: as in ``regularization_path``.
    penalty_factor: as in ``regularization_path``.
    fit_intercept: static.
    standardize: static.
    sample_weight: float[n] >= 0; may be traced.
    max_steps: >= 0, for the fit without penalised features.

  Returns:
    float scalar, up to rounding; 0 where no strength is needed; NaN where the data are.

  Raises:
    TypeError: when an array is not of real numbers, or ``penalty`` no ``Penalty``.
    ValueError: when the loss is not smooth, shapes do not fit or a number is out of its range.

  Note:
    For a penalty that sends nothing to 0, such as ridge, there is no such strength: the result is
    meaningless there. For non-convex penalties it is the strength from which 0 is a fixed point.

  Example:
    >>> x = jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> round(float(max_strength(x, jnp.array([3.0, -1.0, 1.5, 0.5]))), 4)
    1.0

  Reference:
    Friedman, Hastie and Tibshirani, Regularization paths for generalized linear models via
    coordinate descent, 2010, section 2.5.
  """
  call = check_call(
    x, y, jnp.zeros(1), loss=loss, loss_hyper=loss_hyper, penalty=penalty,
    penalty_params=penalty_params, penalty_factor=penalty_factor, fit_intercept=fit_intercept,
    standardize=standardize, sample_weight=sample_weight, max_steps=max_steps,
  )  # fmt: skip
  if not call.model.loss.smooth:
    raise ValueError("loss must be smooth for max_strength; 'quantile' is not: choose strengths.")
  model = call.model._replace(coordinates=_coordinate.serves(call.model, call.inputs.x.shape[1]))
  return _largest(model, call.inputs, call.max_steps)


def strength_grid(
  largest: ArrayLike, *, num_strengths: int = 100, ratio: ArrayLike = 1e-3
) -> Array:
  r"""Strengths in falling order with a constant quotient.

  largest * ratio^(i / (num_strengths - 1)), i = 0, ..., num_strengths - 1.

  Args:
    largest: >= 0, float scalar, such as what ``max_strength`` returns; may be traced.
    num_strengths: >= 1, static.
    ratio: in (0, 1], the last strength over the first; may be traced.

  Returns:
    float[num_strengths].

  Raises:
    TypeError: when ``num_strengths`` is no static integer.
    ValueError: when a number is out of its range.

  Note:
    At exactly ``max_strength`` rounding may leave a coefficient of the size of rounding.

  Example:
    >>> strength_grid(1.0, num_strengths=3, ratio=0.25)
    Array([1.  , 0.5 , 0.25], dtype=float32)

  Reference:
    Friedman, Hastie and Tibshirani, Regularization paths for generalized linear models via
    coordinate descent, 2010, section 2.5 (100 strengths, ratio 1e-3).
  """
  _checks.check_non_negative("largest", largest, scalar=True)
  largest = _checks.check_float_array("largest", largest, rank=0)
  num_strengths = _checks.check_int("num_strengths", num_strengths, minimum=1)
  _checks.check_interval("ratio", ratio, 0.0, 1.0, closed="right", scalar=True)
  ratio = _checks.check_float_array("ratio", ratio, rank=0).astype(largest.dtype)
  exponent = jnp.linspace(0.0, 1.0, num_strengths, dtype=largest.dtype)
  return largest * ratio**exponent
