"""Losses of a linear predictor, by name: squared, logistic, Huber, quantile, Poisson."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.numerics import safe_divide, upcast
from jaxopt_robust.prox import penalty_huber, penalty_pinball
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = ["LinearLoss", "linear_loss", "linear_objective"]


class LinearLoss(NamedTuple):
  """A loss of linear predictors; with sum of weights W the objective is (1/W) sum_i w_i l_i.

  Attributes:
    rows: ``rows(prediction, target, hyper) -> float[n]``, the loss l_i of each row; None where the
      loss is no sum over rows.
    curvature: ``curvature(hyper) -> scalar``, the Lipschitz constant of l' (largest second
      derivative along one prediction); None where there is none.
    start: ``start(mean) -> scalar``, the best constant prediction for targets of this weighted
      mean, or a guess of it.
    prepare: ``prepare(target, num_rows) -> target``: checks, and what can be computed once.
    hyper: default of the loss's own number, None where it takes none.
    total: ``total(prediction, target, weights, hyper) -> scalar`` for weights of sum 1, where the
      loss is no sum over rows; None: sum_i weights_i l_i.
    smooth: whether l is differentiable everywhere.
    intercept: whether a constant added to all predictions changes the loss.
  """

  rows: Callable[..., Array] | None
  curvature: Callable[[Any], ArrayLike] | None
  start: Callable[[Array], Array]
  prepare: Callable[[Any, int], PyTree]
  hyper: float | None = None
  total: Callable[..., Array] | None = None
  smooth: bool = True
  intercept: bool = True


def as_target(target: Any, num_rows: int) -> Array:
  """Real numbers, one a row."""
  array = _checks.check_float_array("y", target, rank=1)
  if array.shape[0] != num_rows:
    raise ValueError(f"y must have a number for each of the {num_rows} rows; got {array.shape}.")
  return array


def _probabilities(target: Any, num_rows: int) -> Array:
  array = as_target(target, num_rows)
  message = "y must hold labels 0 and 1; labels -1 and 1 are converted by (y + 1) / 2."
  _checks.check_holds(~jnp.any((array < 0) | (array > 1)), message)
  return array


def _counts(target: Any, num_rows: int) -> Array:
  array = as_target(target, num_rows)
  _checks.check_holds(~jnp.any(array < 0), "y must be >= 0 for the loss 'poisson'.")
  return array


def _squared(prediction: Array, target: Array, hyper: Any) -> Array:
  del hyper
  return 0.5 * (prediction - target) ** 2


def _logistic(prediction: Array, target: Array, hyper: Any) -> Array:
  del hyper
  return optax.losses.sigmoid_binary_cross_entropy(prediction, target)


def _huber(prediction: Array, target: Array, hyper: Any) -> Array:
  return jax.vmap(lambda e: penalty_huber(e, (1.0, hyper)))(target - prediction)


def _quantile(prediction: Array, target: Array, hyper: Any) -> Array:
  return jax.vmap(lambda e: penalty_pinball(e, (1.0, hyper)))(target - prediction)


def _poisson(prediction: Array, target: Array, hyper: Any) -> Array:
  del hyper
  # Half the deviance: the constant makes it 0 at the best prediction, log y.
  counts = target != 0
  own = jnp.where(counts, target, 1)
  constant = jnp.where(counts, own * jnp.log(own) - own, 0)
  return jnp.exp(prediction) - target * prediction + constant


def _log(mean: Array) -> Array:
  """The logarithm of a mean, finite at 0."""
  return jnp.log(jnp.maximum(mean, jnp.finfo(mean.dtype).tiny))


def _logit(mean: Array) -> Array:
  # Labels that are all 1 have a mean of 1 up to rounding.
  rest = jnp.where(1 - mean < 16 * jnp.finfo(mean.dtype).eps, 0, 1 - mean)
  return _log(mean) - _log(rest)


_TABLE = {
  "squared": LinearLoss(_squared, lambda hyper: 1.0, lambda mean: mean, as_target),
  "logistic": LinearLoss(_logistic, lambda hyper: 0.25, _logit, _probabilities),
  "huber": LinearLoss(_huber, lambda hyper: 1.0, lambda mean: mean, as_target, 1.35),
  "quantile": LinearLoss(_quantile, None, lambda mean: mean, as_target, 0.5, smooth=False),
  "poisson": LinearLoss(_poisson, None, _log, _counts),
}


def linear_loss(name: str) -> LinearLoss:
  r"""A loss of a linear predictor by its name.

  For a prediction z and a target y:

    "squared"    (z - y)^2 / 2                                          |l''| <= 1
    "logistic"   log(1 + exp(z)) - y z, labels 0 and 1                  |l''| <= 1/4
    "huber"      h(y - z), h(e) = e^2/2 up to |e| = delta,
                 then delta |e| - delta^2 / 2                           |l''| <= 1
    "quantile"   max(tau (y - z), (tau - 1)(y - z))                     not smooth
    "poisson"    exp(z) - y z + y log y - y, half the deviance          no bound

  with ``hyper`` = delta > 0 (1.35 by default), tau in [0, 1] (0.5, the median); the others take
  None.

  Args:
    name: one of these; static. ``"cox"`` is a loss of survival times, see ``cox_loss``.

  Returns:
    ``LinearLoss``, whose ``rows(z, y, hyper)`` are these numbers.

  Raises:
    ValueError: when the name is unknown.

  Note:
    delta is in the units of y. The logistic loss takes probabilities as labels too. exp(z)
    overflows beyond z = 88 in float32: the loss is infinite there, and solvers reject the step.

  Example:
    >>> linear_loss("huber").rows(jnp.array([0.0, 3.0]), jnp.array([0.5, 0.0]), 1.0)
    Array([0.125, 2.5  ], dtype=float32)

  Reference:
    McCullagh and Nelder, Generalized Linear Models, 1989 (squared, logistic, Poisson); Huber,
    Robust estimation of a location parameter, 1964; Koenker and Bassett, Regression quantiles,
    1978.
  """
  _arguments.check_option("name", name, _TABLE)
  return _TABLE[name]


def register(name: str, loss: LinearLoss) -> None:
  """Adds a loss of another file of this package to the table."""
  _TABLE[name] = loss


def as_loss(loss: str | LinearLoss) -> LinearLoss:
  """A loss given by its name, or as it is."""
  if isinstance(loss, LinearLoss):
    return loss
  _arguments.check_option("loss", loss, _TABLE)
  return _TABLE[loss]


def total_loss(
  loss: LinearLoss, prediction: Array, target: PyTree, weights: Array, hyper: Any
) -> Array:
  """The objective for a prepared target and weights of sum 1 (or all 0)."""
  if loss.total is not None:
    return loss.total(prediction, target, weights, hyper)
  assert loss.rows is not None
  rows = loss.rows
  # Rows that do not count have no say where their loss is infinite: 0 times it would be NaN, and so
  # would be 0 times its slope. Finite ones stay: they are the derivatives in the weights.
  known = rows(*jax.lax.stop_gradient((prediction, target, hyper)))
  idle = ~(weights > 0) & jnp.isinf(known)
  losses = rows(jnp.where(idle, 0, prediction), target, hyper)
  return jnp.sum(weights * jnp.where(idle, 0, losses))


def normalised(sample_weight: ArrayLike | None, num_rows: int, dtype: Any) -> Array:
  """Weights of sum 1; all 0 where they are all 0."""
  if sample_weight is None:
    return jnp.full(num_rows, 1 / num_rows, dtype)
  _checks.check_non_negative("sample_weight", sample_weight)
  weights = _checks.check_float_array("sample_weight", sample_weight, rank=1)
  if weights.shape[0] != num_rows:
    raise ValueError(
      f"sample_weight must have a number for each of the {num_rows} rows; got {weights.shape}."
    )
  weights = weights.astype(dtype)
  # Divided by the largest one first, so that no sum overflows.
  weights = safe_divide(weights, jnp.max(weights))
  return safe_divide(weights, jnp.sum(weights))


def hyper_of(loss: LinearLoss, hyper: Any, dtype: Any) -> Any:
  """The loss's own number, its default, or None; refused where the loss refuses it."""
  if hyper is not None and loss.hyper is None:
    raise ValueError(
      "loss_hyper must be None for a loss that takes no number of its own; got "
      f"{_checks.describe(hyper)}."
    )
  value = loss.hyper if hyper is None else hyper
  if value is None:
    return None
  _checks.check_non_negative("loss_hyper", value, scalar=True)
  array = _checks.check_float_array("loss_hyper", value, rank=0).astype(dtype)
  if loss.rows is not None:
    rows, one = loss.rows, jax.ShapeDtypeStruct((1,), dtype)
    with _arguments.within("loss_hyper"):
      jax.eval_shape(lambda z, y: rows(z, y, array), one, one)
  return array


def linear_objective(
  prediction: ArrayLike,
  y: Any,
  *,
  loss: str | LinearLoss = "squared",
  loss_hyper: ArrayLike | None = None,
  sample_weight: ArrayLike | None = None,
) -> Array:
  r"""The weighted mean of a loss of predictions.

  Computes (1/W) sum_i w_i l(z_i, y_i; hyper) with W = sum_i w_i: weights of 0 and 1 take subsets
  of the rows, counts repeat rows. The regularization paths minimise it plus a penalty.

  Args:
    prediction: z, float[n], linear predictors (log odds, log rates).
    y: float[n], the targets; ``(times, events)`` for the loss "cox".
    loss: a name of ``linear_loss``, or a ``LinearLoss``; static.
    loss_hyper: the loss's own number (delta, tau), a scalar; None: its default. May be traced.
    sample_weight: w, float[n] >= 0; None: 1 each. May be traced.

  Returns:
    float scalar, computed in float32 or wider, in the type of the predictions; 0 where all weights
    are 0.

  Raises:
    TypeError: when an array is not of real numbers.
    ValueError: when the loss is unknown or takes no number, shapes do not fit, or a target or
      weight is not allowed.

  Note:
    Differentiable in the predictions, the targets, the weights and the number of the loss, with the
    documented choice of ``jr.prox.penalty_huber`` and ``jr.prox.penalty_pinball`` at their kinks;
    at a count of 0 the infinite slope of y log y - y is left out. A row of weight 0 has its
    derivative in the weight, l_i - the mean over W, unless its loss is infinite (then it counts as
    0). For "cox" see ``cox_partial_likelihood_loss``.

  Example:
    >>> z, y = jnp.array([1.0, 2.0, 9.0]), jnp.array([1.0, 4.0, 0.0])
    >>> float(linear_objective(z, y, sample_weight=jnp.array([1.0, 1.0, 0.0])))
    1.0

  Reference:
    McCullagh and Nelder, Generalized Linear Models, 1989, section 2.2.
  """
  record = as_loss(loss)
  given = _checks.check_float_array("prediction", prediction, rank=1)
  z = upcast(given)
  weights = normalised(sample_weight, z.shape[0], z.dtype)
  target = jax.tree.map(
    lambda leaf: leaf.astype(z.dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf,
    record.prepare(y, z.shape[0]),
  )
  value = total_loss(record, z, target, weights, hyper_of(record, loss_hyper, z.dtype))
  return value.astype(given.dtype)
