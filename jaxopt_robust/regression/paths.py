"""Regularization paths: solutions of a penalised linear model for many strengths, warm-started."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust.numerics import safe_divide
from jaxopt_robust.prox import lasso
from jaxopt_robust.regression import _certificates, _coordinate, _quantile
from jaxopt_robust.regression._problem import (
  Inputs,
  Model,
  Params,
  Problem,
  check_inputs,
  check_model,
  hyper_at,
  make_problem,
  on_coefficients,
  original,
  smooth_part,
  start,
)
from jaxopt_robust.regression.linear_losses import LinearLoss, linear_loss
from jaxopt_robust.solvers import fista, run_state, run_until
from jaxopt_robust.typing import Array, ArrayLike, Penalty

__all__ = ["PathResult", "regularization_path"]

# Where backtracking sets the step: the first trial, and its growth from one strength to the next.
_FIRST_TRIAL = 4.0
_GROWTH = 2.0


class PathResult(NamedTuple):
  """Solutions along a path, one a strength, in the order in which the strengths were given.

  Attributes:
    coefficients: float[k, p], for the columns as they were given.
    intercepts: float[k].
    strengths: float[k].
    objective: float[k], mean loss plus penalty.
    error: float[k], the optimality residual over a bound of the gradient at the constant model.
    gap: float[k], an upper bound of objective minus minimum; infinite where none was asked for.
    steps: int32[k]: epochs of coordinate descent, or steps of the proximal gradient method.
    status: int32[k], 0 converged, 1 step limit, 2 non-finite, 3 stalled.
  """

  coefficients: Array
  intercepts: Array
  strengths: Array
  objective: Array
  error: Array
  gap: Array
  steps: Array
  status: Array


def _smooth(model: Model, problem: Problem) -> tuple[Any, Any]:
  """First state of a path, and how it goes on: ``(state, hyper, tol, steps) -> state,
  params, loss, error, info``.

  The state is the parameters and the step size to try first.
  """
  fun, penalty = smooth_part(model), on_coefficients(model.penalty)
  dtype = problem.unit.dtype
  if model.loss.curvature is not None:
    bound = jnp.asarray(model.loss.curvature(problem.loss_hyper), dtype) * problem.unit**2
    first = 1 / bound
  else:
    typical = jnp.where(problem.reference > 0, problem.reference, 1) / problem.unit
    first = _FIRST_TRIAL / (typical * problem.unit**2)

  def advance(state: tuple, hyper: Any, tol: Array, max_steps: Array) -> tuple:
    params, stepsize = state
    if model.loss.curvature is not None:
      solver = fista(fun, penalty, stepsize=stepsize)
    else:
      solver = fista(fun, penalty, init_stepsize=stepsize)
    params, info = run_until(
      solver, params, hyper, problem, tol=tol * problem.reference, max_steps=max_steps
    )
    error = jnp.where(info.error == 0, 0, safe_divide(info.error, problem.reference))
    if model.loss.curvature is None:
      last = info.last.stepsize
      stepsize = jnp.where(jnp.isfinite(last) & (last > 0), _GROWTH * last, stepsize)
    params = Params(*params)
    return (params, stepsize), params, fun(params, problem), error, info

  return (start(problem), first), advance


def _non_smooth(model: Model, problem: Problem) -> tuple[Any, Any]:
  """The same for the quantile loss; the state is the primal-dual one."""
  data, fun = _quantile.scaled(problem), smooth_part(model)
  solver = _quantile.make_solver(model, data)

  def advance(state: Any, hyper: Any, tol: Array, max_steps: Array) -> tuple:
    state, info = run_state(
      solver, state, _quantile.hyper_of(hyper, data), data, tol=tol, max_steps=max_steps
    )
    params = Params(*_quantile.back(data, state.params))
    return state, params, fun(params, problem), info.error, info

  return _quantile.first_state(solver, data), advance


@functools.partial(jax.jit, static_argnums=(0, 1))
def solve_path(
  model: Model, certificate: bool, inputs: Inputs, strengths: Array, tol: Array, max_steps: Array
) -> PathResult:
  """A path for checked arguments."""
  solve = functools.partial(_solve, model, certificate)
  if not model.coordinates:
    return solve(inputs, strengths, tol, max_steps)
  # Mapped over, one after the other: side by side all would do the work of every branch.
  one_by_one = jax.custom_jvp(jax.custom_batching.sequential_vmap(solve))
  # The rule for mapped functions knows no derivatives; these are the ones of the steps.
  one_by_one.defjvp(functools.partial(jax.jvp, solve))
  return one_by_one(inputs, strengths, tol, max_steps)


def _solve(
  model: Model, certificate: bool, inputs: Inputs, strengths: Array, tol: Array, max_steps: Array
) -> PathResult:
  problem = make_problem(model, inputs)
  if model.coordinates:
    first, advance = _coordinate.make(model, problem)
  else:
    first, advance = (_smooth if model.loss.smooth else _non_smooth)(model, problem)
  gap_of = _certificates.make(model, inputs, problem) if certificate else None

  def one(state: Any, strength: Array) -> tuple[Any, PathResult]:
    hyper = hyper_at(strength, inputs.params, inputs.factor)
    state, params, loss, error, info = advance(state, hyper, tol, max_steps)
    w, b = original(problem, params)
    objective = loss + model.penalty.value(params.coefficients, hyper)
    gap = jnp.full((), jnp.inf, w.dtype) if gap_of is None else gap_of(params, loss, strength)
    return state, PathResult(w, b, strength, objective, error, gap, info.steps, info.status)

  order = jnp.argsort(-strengths)
  _, found = jax.lax.scan(one, first, strengths[order])
  back = jnp.argsort(order)
  return jax.tree.map(lambda leaf: leaf[back], found)


class Call(NamedTuple):
  """Checked arguments of a path."""

  model: Model
  inputs: Inputs
  strengths: Array
  tol: Array
  max_steps: Array


def _by_coordinates(method: Any, model: Model, x: Any) -> bool:
  """Whether a path goes by coordinate descent: sequential work, for the processors of a host.

  Newton models of a Huber loss that could fit every row have few rows that bend: no default there.
  """
  _arguments.check_option("method", method, ("auto", "coordinate_descent", "proximal_gradient"))
  served = _coordinate.serves(model, x.shape[1])
  if method == "coordinate_descent" and not served:
    raise ValueError(
      "method 'coordinate_descent' needs one of the penalties lasso, elastic_net, "
      "non_negative_lasso, mcp, scad and those of make_group_penalty (of lasso, elastic_net, mcp "
      "or scad, for known group numbers, one a feature), and a smooth loss that is a sum over rows."
    )
  if method == "auto":
    flat = model.loss == linear_loss("huber") and x.shape[1] >= x.shape[0]
    return served and not flat and jax.default_backend() == "cpu"
  return method == "coordinate_descent"


def check_call(
  x: Any,
  y: Any,
  strengths: Any,
  *,
  loss: str | LinearLoss = "squared",
  loss_hyper: Any = None,
  penalty: Penalty = lasso,
  penalty_params: Any = (),
  penalty_factor: Any = None,
  fit_intercept: bool = True,
  standardize: bool = False,
  sample_weight: Any = None,
  method: str = "auto",
  tol: Any = 1e-5,
  max_steps: Any = 10_000,
) -> Call:
  """What the paths, their selection and their derivatives take."""
  model = check_model(loss, penalty, fit_intercept, standardize)
  inputs = check_inputs(model, x, y, sample_weight, loss_hyper, penalty_params, penalty_factor)
  model = model._replace(coordinates=_by_coordinates(method, model, inputs.x))
  _checks.check_non_negative("strengths", strengths)
  strengths = _checks.check_float_array("strengths", strengths, rank=1)
  _checks.check_non_negative("tol", tol, scalar=True)
  _checks.check_non_negative("max_steps", max_steps, scalar=True)
  steps = jnp.asarray(_checks.check_integers("max_steps", max_steps, low=0), jnp.int32)
  dtype = inputs.weights.dtype
  bound = _checks.check_float_array("tol", tol, rank=0).astype(dtype)
  return Call(model, inputs, strengths.astype(dtype), bound, steps)


def regularization_path(
  x: ArrayLike,
  y: Any,
  strengths: ArrayLike,
  *,
  loss: str | LinearLoss = "squared",
  loss_hyper: ArrayLike | None = None,
  penalty: Penalty = lasso,
  penalty_params: tuple = (),
  penalty_factor: ArrayLike | None = None,
  fit_intercept: bool = True,
  standardize: bool = False,
  sample_weight: ArrayLike | None = None,
  certificate: bool = False,
  method: str = "auto",
  tol: ArrayLike = 1e-5,
  max_steps: ArrayLike = 10_000,
) -> PathResult:
  r"""Penalised linear models for many strengths, each started from the one before.

  Minimises, for each strength lam,

    (1/W) sum_i s_i l(x_i w + b, y_i) + g(w; lam * penalty_factor, *penalty_params)

  with s = sample_weight and W = sum_i s_i, in falling order of lam: one scan, one compile for all
  data of one shape. Coordinate descent works on the features that the strong rule keeps and on
  those that violate their optimality condition (or on groups of features), on their Gram matrix or,
  of many more than there are rows, on their columns, with Newton steps on the support
  (``jr.solvers.gram_coordinate_descent``), for losses other than the squared one on a
  Newton model with a line search; after each working set all features are looked at. Elsewhere it
  is ``jr.solvers.fista`` (step by the norm of the design, or by backtracking where the loss has no
  curvature bound), for the quantile loss ``jr.solvers.chambolle_pock``. ``error`` is the residual
  that these report, for columns that are centred (with an intercept) and scaled, divided by a bound
  of the gradient at the constant model: it has no units.

  Args:
    x: float[n, p], dense or a ``BCOO`` matrix; not copied, but for the columns that are active.
    y: float[n], the targets; labels 0 and 1 for "logistic", counts >= 0 for "poisson",
      ``(times, events)`` or ``(times, events, strata)`` for "cox".
    strengths: float[k] >= 0 in any order; may be traced. See ``strength_grid``.
    loss: "squared", "logistic", "huber", "quantile", "poisson" (``linear_loss``) or "cox", or a
      ``LinearLoss``; static.
    loss_hyper: delta of "huber" (in the units of y), tau of "quantile"; may be traced.
    penalty: a ``Penalty`` whose hyper-parameters are (strength, rest...): ``jr.prox.lasso``,
      ``elastic_net``, ``ridge``, ``mcp``, ``scad``, ``non_negative_lasso``, ``owl``, those of
      ``jr.prox.make_group_penalty``; static.
    penalty_params: the rest: ``(gamma,)`` of the elastic net, ``(theta,)`` of MCP; may be traced.
    penalty_factor: >= 0, multiplies the strength: float[p], one a feature (0: not penalised,
      infinite: left out); float[num_groups] for group penalties; the falling weights of ``owl``.
    fit_intercept: whether an unpenalised b is fitted; static.
    standardize: whether columns are divided by their weighted standard deviation (root mean square
      without an intercept) for the penalty; coefficients are those of the given columns. Static.
    sample_weight: s, float[n] >= 0: 0 and 1 take subsets, counts repeat rows; may be traced, and
      mapped over by ``jax.vmap``.
    certificate: whether to compute duality gaps: for the losses "squared", "logistic", "huber" and
      "poisson" with lasso, elastic net, non-negative lasso and group lasso. For "squared", and for
      "logistic" with lasso, it makes a dense copy of x; for the others, and for groups, a feature
      of strength 0 leaves a bound that is true and useless, the objective itself. Static.
    method: static. "coordinate_descent" for lasso, elastic net, non-negative lasso, MCP and SCAD
      and group lasso, group elastic net, group MCP and group SCAD (a group at a time) with a smooth
      loss that is a sum over rows; "proximal_gradient"; "auto": the first where it is
      known and JAX's default backend is a CPU, where it is the faster one, the other elsewhere and
      for the Huber loss with p >= n.
    tol: >= 0, the bound of ``error``; 1e-8 and less needs float64.
    max_steps: >= 0, for each strength.

  Returns:
    ``PathResult``.

  Raises:
    TypeError: when an array is not of real numbers, or ``penalty`` no ``Penalty``.
    ValueError: when shapes do not fit, a number is out of its range, a name is unknown, or there is
      no duality gap where one is asked for.

  Note:
    Outcomes of bad data. A constant column (without an intercept: one of zeros) has the coefficient
    0. Of equal columns any split of their coefficient is a minimiser of the Lasso: the proximal
    gradient method gives them equal ones, coordinate descent does not. With p > n and strength 0
    the result is one of many minimisers. Targets that are all 0 give coefficients 0; "logistic" and
    "poisson" then predict the smallest normal number in place of the probability or rate 0. For
    separable labels and strength 0 there is no minimiser: coefficients grow until the gradient is
    below ``tol`` (status 0) or steps run out (status 1). NaN anywhere in x or y, also in rows of
    weight 0, gives status 2. All weights 0 give coefficients 0. Non-convex penalties give
    stationary points (local minima along each coordinate; of the monotone variant of ``fista``),
    and depend on the warm start: on the strengths above.

    By coordinate descent paths that are mapped over by ``vmap`` run one after the other, each as
    long as it needs, and those that ``jr.sweeps.sweep`` spreads over devices so on each of them.

  Example:
    >>> x = jnp.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
    >>> path = regularization_path(x, jnp.array([3.0, -1.0, 1.5, 0.5]), jnp.array([0.5, 0.1]))
    >>> (10 * path.coefficients).round().tolist(), path.intercepts.round(3), path.status.tolist()
    ([[10.0, 0.0], [18.0, 3.0]], Array([1., 1.], dtype=float32), [0, 0])

  Reference:
    Friedman, Hastie and Tibshirani, Regularization paths for generalized linear models via
    coordinate descent, 2010 (objective, warm starts, penalty factors; their elastic net has
    lam alpha and lam (1 - alpha) where ours has lam and lam gamma); Tibshirani, Bien, Friedman,
    Hastie, Simon, Taylor and Tibshirani, Strong rules for discarding predictors in lasso-type
    problems, 2012, equation 7. Ours has Newton steps on the support where they have epochs alone.
  """
  call = check_call(
    x, y, strengths, loss=loss, loss_hyper=loss_hyper, penalty=penalty,
    penalty_params=penalty_params, penalty_factor=penalty_factor, fit_intercept=fit_intercept,
    standardize=standardize, sample_weight=sample_weight, method=method, tol=tol,
    max_steps=max_steps,
  )  # fmt: skip
  if certificate and not _certificates.known(call.model):
    raise ValueError(
      "certificate needs one of the losses 'squared', 'logistic', 'huber' and 'poisson' and one of "
      "the penalties lasso, elastic_net, non_negative_lasso and the group lasso of "
      "make_group_penalty (for known group numbers, one a feature)."
    )
  return solve_path(call.model, bool(certificate), *call[1:])
