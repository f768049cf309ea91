"""Solutions of penalised linear models as differentiable functions of strength and data."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks, _designs
from jaxopt_robust._units import exponent_of, power
from jaxopt_robust.prox import lasso
from jaxopt_robust.regression._problem import Inputs, Params, hyper_at, on_coefficients
from jaxopt_robust.regression.linear_losses import LinearLoss, total_loss
from jaxopt_robust.regression.paths import check_call, solve_path
from jaxopt_robust.solvers import implicit, solve_cg, support_residual
from jaxopt_robust.typing import Array, ArrayLike, Penalty

__all__ = ["LinearFit", "solve_at"]


class LinearFit(NamedTuple):
  """One penalised linear model.

  Attributes:
    coefficients: float[p].
    intercept: scalar.
    error: scalar, as in ``PathResult``.
    steps: int32.
    status: int32, 0 converged, 1 step limit, 2 non-finite, 3 stalled.
  """

  coefficients: Array
  intercept: Array
  error: Array
  steps: Array
  status: Array


def _column_units(x: Any, weights: Array, centred: bool) -> tuple[Array, Array]:
  """Means of the columns (0 where not asked for), and powers of two near the sizes beside them.

  Constants of the linear system: in these units of the coefficients, with the intercept of the
  centred columns, it is well conditioned whatever the units of the columns are.
  """
  x, weights = jax.lax.stop_gradient((x, weights))
  zeros, counts = jnp.zeros(x.shape[1], weights.dtype), weights > 0
  center = weights @ x if centred else zeros
  if _designs.is_sparse(x):
    rows, columns = x.indices[:, 0], x.indices[:, 1]
    kept = counts.at[rows].get(mode="fill", fill_value=False)
    sizes = zeros.at[columns].max(jnp.where(kept, jnp.abs(x.data), 0), mode="drop")
  else:
    sizes = jnp.max(jnp.where(counts[:, None], jnp.abs(x - center[None, :]), 0), axis=0)
  return center, power(exponent_of(sizes), sizes.dtype)


def solve_at(
  x: ArrayLike,
  y: Any,
  strength: ArrayLike,
  *,
  loss: str | LinearLoss = "squared",
  loss_hyper: ArrayLike | None = None,
  penalty: Penalty = lasso,
  penalty_params: tuple = (),
  penalty_factor: ArrayLike | None = None,
  fit_intercept: bool = True,
  sample_weight: ArrayLike | None = None,
  tol: ArrayLike = 1e-5,
  max_steps: ArrayLike = 10_000,
  linear_solve: Any = solve_cg,
) -> LinearFit:
  r"""The penalised linear model of one strength, with derivatives by the implicit function theorem.

  The solution of ``regularization_path`` at one strength. On its support S (with the intercept) the
  objective is smooth, and the derivative of the solution along a change of strength, factors,
  parameters, data or weights is -H_SS^{-1} (d gradient)_S, with H the Hessian there; coefficients
  off the support have the derivative 0. Forward, reverse and higher order.

  Args:
    x: float[n, p], dense or a ``BCOO`` matrix, with derivatives in the entries that it stores.
    y: the targets, as in ``regularization_path``.
    strength: >= 0, scalar; may be traced.
    loss: as in ``regularization_path``, smooth; static.
    loss_hyper: delta of "huber"; may be traced.
    penalty: smooth where its solution is not 0; static.
    penalty_params: as in ``regularization_path``.
    penalty_factor: as in ``regularization_path``.
    fit_intercept: static.
    sample_weight: float[n] >= 0; may be traced.
    tol: >= 0: an error of the solution leaves one of its size in the derivative.
    max_steps: >= 0.
    linear_solve: as in ``jr.solvers.implicit``; ``jr.solvers.solve_dense`` is exact, and needed
      where a non-convex penalty makes H_SS indefinite.

  Returns:
    ``LinearFit``; the derivatives of error, steps and status are 0.

  Raises:
    TypeError: when an array is not of real numbers, or ``penalty`` no ``Penalty``.
    ValueError: when the loss is not smooth, shapes do not fit or a number is out of its range.

  Note:
    Where a coefficient is just about to enter or leave, the derivative is one-sided: the one of the
    support that was found. Collinear columns in the support have no derivative (the system is
    singular).

  Example:
    >>> x = jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> y = jnp.array([3.0, -1.0, 1.5, 0.5])
    >>> slope = jax.jacobian(lambda lam: solve_at(x, y, lam).coefficients)
    >>> slope(0.5).round(3) + 0.0  # on the support minus (x_S^T x_S / n)^{-1} times the signs
    Array([-2.,  0.], dtype=float32)

  Reference:
    Bertrand, Klopfenstein, Massias, Blondel, Vaiter, Gramfort and Salmon, Implicit differentiation
    for fast hyperparameter selection in non-smooth convex learning, 2022, theorem 9.
  """
  _checks.check_non_negative("strength", strength, scalar=True)
  lam = _checks.check_float_array("strength", strength, rank=0)
  call = check_call(
    x, y, lam[None], loss=loss, loss_hyper=loss_hyper, penalty=penalty,
    penalty_params=penalty_params, penalty_factor=penalty_factor, fit_intercept=fit_intercept,
    sample_weight=sample_weight, tol=tol, max_steps=max_steps,
  )  # fmt: skip
  model = call.model
  if not model.loss.smooth:
    raise ValueError("loss must be smooth for solve_at; 'quantile' is not.")

  center, unit = _column_units(call.inputs.x, call.inputs.weights, model.intercept)

  def original(params: Params, center: Array, unit: Array) -> Params:
    w = params.coefficients / unit
    return Params(w, params.intercept - center @ w)

  def fun(params: Params, inputs: Inputs, *units: Array) -> Array:
    w, b = original(params, *units)
    z = inputs.x @ w + b
    return total_loss(model.loss, z, inputs.target, inputs.weights, inputs.loss_hyper)

  def solve(params: Params, hyper: tuple, inputs: Inputs, *units: Array) -> tuple[Params, Any]:
    del params
    (strength, extra, factor, _), (center, unit) = hyper, units
    given = inputs._replace(params=extra, factor=factor)
    path = solve_path(model, False, given, strength, call.tol, call.max_steps)
    w, b = path.coefficients[0], path.intercepts[0]
    return Params(w * unit, b + center @ w), path

  record = on_coefficients(model.penalty)

  def value(params: Params, hyper: tuple) -> Array:
    # The strengths, in the units of a path, become the penalty's own inside the residual.
    strength, extra, factor, unit = hyper
    given = params._replace(coefficients=params.coefficients / unit)
    return record.value(given, hyper_at(strength[0], extra, factor))

  inner = Penalty(value, record.prox)

  def support(params: Params) -> Params:
    here = jnp.full((), model.intercept)
    return Params(params.coefficients != 0, here)

  residual = support_residual(fun, inner, support=support)
  start = Params(
    jnp.zeros(call.inputs.x.shape[1], call.inputs.weights.dtype),
    jnp.zeros((), call.inputs.weights.dtype),
  )
  hyper = (call.strengths, call.inputs.params, call.inputs.factor, unit)
  data = call.inputs._replace(params=(), factor=None)
  root = implicit(solve, residual, linear_solve=linear_solve)
  scaled, path = root(start, hyper, data, center, unit)
  info = jax.tree.map(lambda leaf: leaf[0], (path.error, path.steps, path.status))
  return LinearFit(*original(scaled, center, unit), *info)
