"""A penalised linear model as a problem for the solvers: units, centring, penalties, starts."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks, _designs
from jaxopt_robust.numerics import safe_divide, upcast
from jaxopt_robust.regression.linear_losses import (
  LinearLoss,
  as_loss,
  hyper_of,
  normalised,
  total_loss,
)
from jaxopt_robust.solvers import operator_norm
from jaxopt_robust.typing import Array, Penalty, PyTree


class Model(NamedTuple):
  """What is static: the loss, the penalty, transformations of the columns, and the method."""

  loss: LinearLoss
  penalty: Penalty
  intercept: bool
  standardize: bool
  coordinates: bool = False


class Params(NamedTuple):
  """Coefficients of the scaled columns; the centred ones' intercept from the offset, in units."""

  coefficients: Array
  intercept: Array


class Problem(NamedTuple):
  """Arrays of a problem.

  Attributes:
    x: the design, as it was given: nothing of its size is made from it.
    target: the prepared target.
    weights: float[n] of sum 1.
    loss_hyper: the loss's own number, or None.
    center: float[p], subtracted from the rows; 0 without an intercept.
    scale: float[p], the columns are multiplied by it; 0 for columns that are constant.
    columns: float[p], weighted root mean squares of the transformed columns.
    unit: scalar, the norm of the transformed design.
    column: scalar, the entries of the intercept's column: the same, or 0 without an intercept.
    offset: scalar, the prediction of the constant model, or a guess of it: predictions start here.
    reference: scalar, a bound of the gradient there, the unit of errors.
  """

  x: Any
  target: PyTree
  weights: Array
  loss_hyper: Any
  center: Array
  scale: Array
  columns: Array
  unit: Array
  column: Array
  offset: Array
  reference: Array


class Inputs(NamedTuple):
  """Checked arguments that both a path and a single solve take."""

  x: Any
  target: PyTree
  weights: Array
  loss_hyper: Any
  params: tuple
  factor: Any


def check_model(loss: Any, penalty: Any, fit_intercept: Any, standardize: Any) -> Model:
  """The static part."""
  record = as_loss(loss)
  _arguments.check_penalty("penalty", penalty)
  _arguments.check_option("fit_intercept", fit_intercept, (True, False))
  _arguments.check_option("standardize", standardize, (True, False))
  return Model(record, penalty, bool(fit_intercept) and record.intercept, bool(standardize))


def check_inputs(
  model: Model,
  x: Any,
  y: Any,
  sample_weight: Any,
  loss_hyper: Any,
  penalty_params: Any,
  penalty_factor: Any,
) -> Inputs:
  """The arrays, in one type of float32 at least."""
  x = _designs.check_design("x", x)
  if not _designs.is_sparse(x):
    x = upcast(x)
  dtype = x.dtype
  rows, features = x.shape
  target = jax.tree.map(
    lambda leaf: leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf,
    model.loss.prepare(y, rows),
  )
  weights = normalised(sample_weight, rows, dtype)
  hyper = hyper_of(model.loss, loss_hyper, dtype)
  if not isinstance(penalty_params, tuple | list):
    raise ValueError(
      "penalty_params must be a tuple of what the penalty takes after its strength; got "
      f"{_checks.describe(penalty_params)}."
    )
  params = tuple(
    _checks.check_float_array("penalty_params", value).astype(dtype) for value in penalty_params
  )
  factor = None
  if penalty_factor is not None:
    _checks.check_non_negative("penalty_factor", penalty_factor)
    factor = _checks.check_float_array("penalty_factor", penalty_factor, rank=(0, 1)).astype(dtype)
  # What the penalty refuses (another number of parameters, shapes, ranges) it refuses here.
  one = jax.ShapeDtypeStruct((features,), dtype)
  names = "penalty_factor" if factor is not None and not params else "penalty_params"
  with _arguments.within(names):
    jax.eval_shape(
      lambda w: model.penalty.prox(w, hyper_at(jnp.ones((), dtype), params, factor), 1.0), one
    )
  return Inputs(x, target, weights, hyper, params, factor)


def hyper_at(strength: Array, params: tuple, factor: Any) -> Any:
  """The penalty's hyper-parameters at a strength; infinite ones are the largest number."""
  largest = jnp.finfo(strength.dtype).max
  if factor is not None:
    free = jnp.isinf(factor)
    strength = jnp.where(free, largest, strength * jnp.where(free, 1, factor))
  strength = jnp.minimum(strength, largest)
  return (strength, *params) if params else strength


def _moments(x: Any, weights: Array, centred: bool) -> tuple[Array, Array, Array]:
  """Weighted means (0 where not asked for), root mean squares around them, and around 0."""
  dtype = weights.dtype
  if _designs.is_sparse(x):
    mean = weights @ x
    merged = x.sum_duplicates(nse=x.nse)
    rows, columns = merged.indices[:, 0], merged.indices[:, 1]
    zeros = jnp.zeros(x.shape[1], dtype)
    center = mean if centred else zeros
    counts = weights.at[rows].get(mode="fill", fill_value=0)
    shifted = merged.data - center.at[columns].get(mode="fill", fill_value=0)
    around = zeros.at[columns].add(counts * shifted**2, mode="drop")
    share = zeros.at[columns].add(counts, mode="drop")
    around = around + jnp.maximum(jnp.sum(weights) - share, 0) * center**2
    square = zeros.at[columns].add(counts * merged.data**2, mode="drop")
  else:
    square = jnp.sum(weights[:, None] * x**2, axis=0)
    center, around = jnp.zeros(x.shape[1], dtype), square
    if centred:
      center = weights @ x
      around = jnp.sum(weights[:, None] * (x - center[None, :]) ** 2, axis=0)
  return center, jnp.sqrt(around), jnp.sqrt(square)


def make_problem(model: Model, inputs: Inputs) -> Problem:
  """Moments of the columns and the size of the design; O(n p) work, no copy of the design."""
  x, weights = inputs.x, inputs.weights
  dtype = weights.dtype
  one = jnp.ones((), dtype)
  center, spread, size = _moments(x, weights, model.intercept)
  # Rounding of a mean of n numbers leaves this much of a constant column.
  dead = spread <= 4 * jnp.finfo(dtype).eps * jnp.sqrt(jnp.asarray(x.shape[0], dtype)) * size
  scale = jnp.where(dead, 0, 1 / jnp.where(dead, 1, spread) if model.standardize else 1)
  scale = jnp.where(jnp.isnan(spread), jnp.nan, scale).astype(dtype)
  problem = Problem(
    x,
    inputs.target,
    weights,
    inputs.loss_hyper,
    center,
    scale,
    spread * scale,
    one,
    0 * one,
    0 * one,
    one,
  )

  def weighted(v: Array) -> Array:
    return jnp.sqrt(weights) * linear(problem, Params(v, 0 * one))

  if model.coordinates:
    unit = jnp.max(problem.columns, initial=0)  # no step depends on the norm
  else:
    # A fixed start of the power iteration: nothing here is random.
    unit = operator_norm(weighted, center, key=jax.random.key(0), num_steps=50)
  unit = jnp.where(unit > 0, unit, 1)
  unit = jnp.where(jnp.isnan(spread).any(), jnp.nan, unit)
  offset, column = 0 * one, 0 * one
  if model.intercept:
    column, offset = unit, jnp.asarray(model.loss.start(weights @ inputs.target), dtype)

  def slope_at(prediction: Array) -> Array:
    """Root mean square of l' where all predictions are the same."""
    slopes = jax.grad(
      lambda z: total_loss(model.loss, z, inputs.target, weights, inputs.loss_hyper)
    )(jnp.full(x.shape[0], prediction))
    return jnp.sqrt(jnp.sum(safe_divide(slopes**2, weights)))

  # Of targets with a large mean rounding leaves no more than a share of their spread.
  slope = jnp.maximum(slope_at(offset), jnp.sqrt(jnp.finfo(dtype).eps) * slope_at(0 * one))
  length = jnp.maximum(jnp.sqrt(jnp.sum(problem.columns**2)), unit)
  return problem._replace(unit=unit, column=column, offset=offset, reference=slope * length)


def linear(problem: Problem, params: Params) -> Array:
  """Predictions of all rows less the offset: (x - center) scale w + column b."""
  w = problem.scale * params.coefficients
  return problem.x @ w + (problem.column * params.intercept - problem.center @ w)


def predict(problem: Problem, params: Params) -> Array:
  """Predictions of all rows."""
  return problem.offset + linear(problem, params)


def smooth_part(model: Model) -> Any:
  """The mean loss as a function of the parameters and the problem."""

  def fun(params: Params, problem: Problem) -> Array:
    z = predict(problem, params)
    return total_loss(model.loss, z, problem.target, problem.weights, problem.loss_hyper)

  return fun


def on_coefficients(penalty: Penalty) -> Penalty:
  """The penalty of the coefficients alone."""

  def value(params: Params, hyper: Any) -> Array:
    return penalty.value(params.coefficients, hyper)

  def prox(params: Params, hyper: Any, scaling: Any = 1.0) -> Params:
    return Params(penalty.prox(params.coefficients, hyper, scaling), params.intercept)

  return Penalty(value, prox, penalty.convex)


def start(problem: Problem) -> Params:
  """No coefficients, and the intercept of the offset."""
  return Params(jnp.zeros_like(problem.center), jnp.zeros_like(problem.unit))


def original(problem: Problem, params: Params) -> tuple[Array, Array]:
  """Coefficients and intercept for the columns as they were given."""
  w = problem.scale * params.coefficients
  return w, problem.offset + (problem.column * params.intercept - problem.center @ w)
