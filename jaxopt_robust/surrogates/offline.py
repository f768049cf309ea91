"""Offline model-based optimisation: search a model of logged designs, and see what comes of it."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.surrogates._searches import Bounds, confine_to, one_a_design
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = [
  "AscentInfo",
  "DesignScores",
  "TopDesigns",
  "design_scores",
  "ensemble_prediction",
  "gradient_ascent_search",
  "top_designs",
]


class AscentInfo(NamedTuple):
  """What a search saw.

  Attributes:
    predictions: float[num_steps + 1, batch], of the designs before the first step and after each.
    distances: float[batch], ||x_end - x_start||_2: how far from the data the search went.
  """

  predictions: Array
  distances: Array


class TopDesigns(NamedTuple):
  """The best of some designs, in descending order of their values.

  Attributes:
    designs: float[num, ...].
    values: float[num].
    index: int32[num], their rows.
  """

  designs: Array
  values: Array
  index: Array  # type: ignore[assignment]


class DesignScores(NamedTuple):
  """What a search is worth, by the true values of its designs.

  Attributes:
    best: float scalar, largest value (the "100th percentile" of the literature), scaled.
    median: float scalar, median value, scaled.
    overestimation: float scalar, mean of prediction - value, unscaled: what the search gained by
      the model's errors.
  """

  best: Array
  median: Array
  overestimation: Array


def gradient_ascent_search(
  objective: Callable[[Array], Array],
  x: ArrayLike,
  *,
  stepsize: ArrayLike | None = None,
  num_steps: int = 200,
  bounds: Bounds = None,
) -> tuple[Array, AscentInfo]:
  r"""Gradient ascent of a model from several designs at once, within a box.

  Repeats x_i <- clip( x_i + stepsize * grad objective(x)_i , low, high ), from x clipped.

  Args:
    objective: maps float[batch, ...] to float[batch], the model's prediction; entry i must depend
      on row i alone.
    x: float[batch, ...], the designs to start from, such as ``top_designs`` of the data.
    stepsize: > 0, a scalar; may be traced. None takes 0.01 sqrt(entries of a design), which suits
      designs and values of unit variance.
    num_steps: static integer >= 1.
    bounds: (low, high) of every entry, scalars or arrays of one design's shape, or None.

  Returns:
    ``(designs, info)``: float[batch, ...] of the dtype of ``x`` after the last step, and an
    AscentInfo. It is differentiable in what ``objective`` closes over.

  Raises:
    ValueError: x is empty or has rank 0, stepsize <= 0, num_steps < 1, or an objective that does
      not return one number a design.
    TypeError: x is not floating-point, objective is not callable, or num_steps is no integer.

  Note:
    Entries of a gradient that are not finite count as 0: the search does not move along them.

  Example:
    >>> peak = lambda x: -jnp.sum((x - 2.0) ** 2, axis=1)
    >>> designs, info = gradient_ascent_search(
    ...   peak, jnp.zeros((1, 2)), stepsize=0.1, num_steps=50, bounds=(-1.0, 1.0))
    >>> designs, info.predictions[::50]
    (Array([[1., 1.]], dtype=float32), Array([[-8.],
           [-2.]], dtype=float32))

  Reference:
    Trabucco, Geng, Kumar and Levine, Design-Bench: benchmarks for data-driven offline model-based
    optimization, 2022 (the baseline "gradient ascent"); Dao, Nguyen, Truong and Hoang,
    Incorporating surrogate gradient norm to improve offline optimization techniques, 2024.
  """
  _arguments.check_callable("objective", objective)
  start = _checks.check_float_array("x", x, min_rank=1)
  num_steps = _checks.check_int("num_steps", num_steps, minimum=1)
  if stepsize is None:
    stepsize = 0.01 * math.sqrt(start[0].size)
  _checks.check_positive("stepsize", stepsize, scalar=True)
  length = jnp.asarray(stepsize, start.dtype)
  confine = confine_to(bounds, start[0])
  predict = one_a_design(objective, len(start), slopes=True)

  def total(designs: Array) -> tuple[Array, Array]:
    values = predict(designs)
    return jnp.sum(values), values

  def step(designs: Array, _: None) -> tuple[Array, Array]:
    gradient, values = jax.grad(total, has_aux=True)(designs)
    gradient = jnp.where(jnp.isfinite(gradient), gradient, 0)
    return confine(designs + length * gradient), values

  first = confine(start)
  designs, values = jax.lax.scan(step, first, None, length=num_steps)
  predictions = jnp.concatenate([values, predict(designs)[None]])
  moved = (designs - first).reshape(len(first), -1)
  return designs, AscentInfo(predictions, numerics.safe_norm(moved, axis=-1))


def top_designs(x: ArrayLike, values: ArrayLike, *, num: int) -> TopDesigns:
  """The designs with the largest values, where a search starts.

  Takes the ``num`` largest values in descending order.

  Args:
    x: float[n, ...], designs.
    values: float[n].
    num: static integer in [1, n].

  Returns:
    TopDesigns. Of equal values the earlier row comes first; NaN comes last.

  Raises:
    ValueError: shapes do not agree or num is out of range.
    TypeError: an array is not floating-point.

  Example:
    >>> top_designs(jnp.array([[1.0], [2.0], [3.0]]), jnp.array([5.0, 7.0, 6.0]), num=2).index
    Array([1, 2], dtype=int32)

  Reference:
    Trabucco, Geng, Kumar and Levine, Design-Bench: benchmarks for data-driven offline model-based
    optimization, 2022 (searches start at the best designs of the data).
  """
  designs = _checks.check_float_array("x", x, min_rank=1)
  scores = _checks.check_float_array("values", values, rank=1)
  if scores.shape != designs.shape[:1]:
    raise ValueError(f"values must have shape {designs.shape[:1]}; got {scores.shape}.")
  num = _checks.check_int("num", num, minimum=1, maximum=len(designs))
  # By value, then NaN behind -inf, then by row.
  kept = jnp.where(jnp.isnan(scores), -jnp.inf, scores)
  index = jnp.lexsort((jnp.isnan(scores), -kept))[:num].astype(jnp.int32)
  return TopDesigns(designs[index], scores[index], index)


def ensemble_prediction(
  apply_fn: Callable[[PyTree, Array], Array],
  params: PyTree,
  x: ArrayLike,
  *,
  reduce: str = "mean",
) -> Array:
  r"""Prediction of several models together: their mean, or the least of them.

  Computes (1/K) sum_k h(x; w_k) or min_k h(x; w_k).

  Args:
    apply_fn: ``apply_fn(params, x) -> float[batch]``, one model.
    params: pytree of parameters with a leading axis of K models.
    x: float[batch, ...].
    reduce: "mean" or "min"; the least prediction is high only where all models agree.

  Returns:
    float[batch].

  Raises:
    ValueError: an unknown ``reduce``, no model, parameters without a common leading axis, or models
      that do not return one number a design.
    TypeError: apply_fn is not callable or x is not floating-point.

  Note:
    Where models tie for the least, the gradient is shared equally among them.

  Example:
    >>> linear = lambda w, x: x @ w
    >>> params = jnp.array([[1.0], [3.0]])
    >>> ensemble_prediction(linear, params, jnp.array([[2.0]]), reduce="min")
    Array([2.], dtype=float32)

  Reference:
    Trabucco, Geng, Kumar and Levine, Design-Bench: benchmarks for data-driven offline model-based
    optimization, 2022 (the baselines "gradient ascent, mean and min ensemble").
  """
  _arguments.check_callable("apply_fn", apply_fn)
  designs = _checks.check_float_array("x", x, min_rank=1)
  _arguments.check_option("reduce", reduce, ("mean", "min"))
  models = _checks.check_float_tree("params", params)
  shapes = {jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(models)}
  if len(shapes) != 1 or shapes & {(), (0,)}:
    raise ValueError(f"params must have one leading axis of models; got {sorted(shapes)}.")
  values = jax.vmap(apply_fn, in_axes=(0, None))(models, designs)
  if values.shape[1:] != designs.shape[:1]:
    raise ValueError(
      f"apply_fn must return one number a design, shape {designs.shape[:1]}; "
      f"got {values.shape[1:]}."
    )
  return jnp.mean(values, axis=0) if reduce == "mean" else jnp.min(values, axis=0)


def design_scores(
  predictions: ArrayLike,
  values: ArrayLike,
  *,
  low: ArrayLike = 0.0,
  high: ArrayLike = 1.0,
) -> DesignScores:
  r"""What was found, by the true values of the designs, and how far the model was off there.

  Computes the largest and the median value, each as (v - low) / (high - low), and the mean of
  prediction - value.

  Args:
    predictions: float[batch], of the model at the designs found.
    values: float[batch], the truth there.
    low: scalar, value that scores 0, such as the least of all known; may be traced.
    high: scalar > low, value that scores 1; may be traced.

  Returns:
    DesignScores of scalars. NaN stays NaN.

  Raises:
    ValueError: shapes differ or low >= high.
    TypeError: an array is not floating-point.

  Example:
    >>> scores = design_scores(jnp.array([3.0, 5.0, 4.0]), jnp.array([1.0, 2.0, 3.0]))
    >>> [float(v) for v in scores]
    [3.0, 2.0, 2.0]

  Reference:
    Trabucco, Geng, Kumar and Levine, Design-Bench: benchmarks for data-driven offline model-based
    optimization, 2022 (normalised 100th and 50th percentiles).
  """
  guess = _checks.check_float_array("predictions", predictions, rank=1)
  truth = _checks.check_float_array("values", values, rank=1)
  _checks.check_same_shape("predictions", guess, "values", truth)
  bottom, top = (
    _checks.check_float_array(name, v, rank=0).astype(truth.dtype)
    for name, v in (("low", low), ("high", high))
  )
  _checks.check_holds(bottom < top, "low must be below high.")
  scaled = lambda v: (v - bottom) / (top - bottom)
  middle = jnp.median(numerics.upcast(truth)).astype(truth.dtype)  # of two: their sum must fit
  return DesignScores(scaled(jnp.max(truth)), scaled(middle), jnp.mean(guess - truth))
