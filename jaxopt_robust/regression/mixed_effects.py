"""Mixed-effects models of subjects with a power law (multivariate t): outlying ones count less."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust import solvers as _solvers
from jaxopt_robust._arguments import check_penalty, check_state
from jaxopt_robust._units import exponent_of, power
from jaxopt_robust.numerics import upcast
from jaxopt_robust.prox import lasso, precompose_affine
from jaxopt_robust.solvers import SolveInfo
from jaxopt_robust.typing import Array, ArrayLike, Penalty

__all__ = [
  "MixedLM",
  "MixedLMFit",
  "MixedLMParams",
  "fit_mixed_lm",
  "mixed_lm_nll",
  "mixed_lm_weights",
  "pad_subjects",
]

# From this degree of freedom on Stirling's series has the accuracy of float64.
_SERIES_FROM = 60.0
# The unit of outcomes in which a fit is solved, in deviations of the errors; and the steps of the
# rounds that look for these, before the last one.
_UNIT = 0.5
_FIRST_ROUNDS = (15, 15)


class MixedLM(NamedTuple):
  """Data of a linear mixed-effects model, subject by subject.

  Attributes:
    exog: float[subjects, rows, p], the covariates of the fixed effects.
    endog: float[subjects, rows], the outcomes.
    exog_re: float[subjects, rows, q], the covariates of the random effects.
    where: bool[subjects, rows], False at rows that pad a subject; what stands there is not read.
  """

  exog: Array
  endog: Array
  exog_re: Array
  where: Array


class MixedLMParams(NamedTuple):
  """Parameters of a linear mixed-effects model.

  Attributes:
    fe_params: float[p], the fixed effects.
    log_var_re: float[q], logarithms of the scatter of the random effects (diagonal).
    log_scale: scalar, logarithm of the scatter of the errors.
  """

  fe_params: Array
  log_var_re: Array
  log_scale: Array


class MixedLMFit(NamedTuple):
  """A fitted mixed-effects model.

  Attributes:
    params: the parameters.
    weights: float[subjects], how much each subject counts; see ``mixed_lm_weights``.
    info: how the solve ended, a ``SolveInfo``.
  """

  params: MixedLMParams
  weights: Array
  info: SolveInfo


def pad_subjects(
  exog: ArrayLike,
  endog: ArrayLike,
  groups: ArrayLike,
  *,
  num_subjects: int,
  max_rows: int,
  exog_re: ArrayLike | None = None,
) -> MixedLM:
  r"""Rows of a table as subjects of equal size, padded and masked.

  Args:
    exog: float[n, p], the covariates of the fixed effects.
    endog: float[n], the outcomes.
    groups: int[n], the subject of each row, in [0, num_subjects).
    num_subjects: >= 1, static.
    max_rows: >= 1, static; the largest number of rows of a subject.
    exog_re: float[n, q], the covariates of the random effects. None: a random intercept.

  Returns:
    ``MixedLM`` with the rows of each subject in their order, zeros behind them.

  Raises:
    TypeError: when ``groups`` holds no integers.
    ValueError: when shapes do not fit, or a subject has more rows than ``max_rows``.

  Note:
    Under ``jit``, where nobody looks at the numbers, rows beyond ``max_rows`` and those of a group
    out of range are dropped.

  Example:
    >>> model = pad_subjects(jnp.ones((3, 1)), jnp.array([1.0, 2.0, 3.0]), jnp.array([1, 0, 1]),
    ...                      num_subjects=2, max_rows=2)
    >>> model.endog
    Array([[2., 0.],
           [1., 3.]], dtype=float32)

  Reference:
    The names are those of ``statsmodels.regression.mixed_linear_model.MixedLM``.
  """
  exog = _checks.check_float_array("exog", exog, rank=2)
  endog = _checks.check_float_array("endog", endog, rank=1)
  num_subjects = _checks.check_int("num_subjects", num_subjects, minimum=1)
  max_rows = _checks.check_int("max_rows", max_rows, minimum=1)
  rows = exog.shape[0]
  effects = jnp.ones((rows, 1), exog.dtype) if exog_re is None else exog_re
  effects = _checks.check_float_array("exog_re", effects, rank=2)
  for name, array in (("endog", endog), ("exog_re", effects)):
    if array.shape[0] != rows:
      raise ValueError(f"{name} must have the {rows} rows of exog; got shape {array.shape}.")
  groups = _checks.check_integers("groups", groups, low=0, high=num_subjects, shape=(rows,))
  # Under jit: a row of no subject comes last and is dropped, as it is from the counts.
  groups = jnp.where((groups < 0) | (groups >= num_subjects), num_subjects, groups)
  order = jnp.argsort(groups, stable=True)
  sorted_groups = groups[order]
  counts = jnp.zeros(num_subjects, jnp.int32).at[groups].add(1)
  _checks.check_holds(
    counts <= max_rows, f"max_rows must be at least the rows of a subject; got {max_rows}."
  )
  place = jnp.arange(rows, dtype=jnp.int32) - (jnp.cumsum(counts) - counts)[sorted_groups]

  def padded(a: Array) -> Array:
    blank = jnp.zeros((num_subjects, max_rows, *a.shape[1:]), a.dtype)
    return blank.at[sorted_groups, place].set(a[order], mode="drop")

  return MixedLM(padded(exog), padded(endog), padded(effects), padded(jnp.ones(rows, jnp.bool_)))


def _model(model: Any) -> MixedLM:
  """The data, checked, in float32 or wider, with zeros where there is padding."""
  model = check_state("model", model, MixedLM)
  exog = upcast(_checks.check_float_array("model.exog", model.exog, rank=3))
  endog = upcast(_checks.check_float_array("model.endog", model.endog, rank=2))
  effects = upcast(_checks.check_float_array("model.exog_re", model.exog_re, rank=3))
  where = jnp.asarray(model.where)
  if where.dtype != jnp.bool_:
    raise TypeError(f"model.where must hold bools; got {_checks.describe(where)}.")
  shape = exog.shape[:2]
  for name, array in (("endog", endog), ("exog_re", effects), ("where", where)):
    if array.shape[:2] != shape:
      raise ValueError(f"model.{name} must begin with the shape {shape} of model.exog; got "
                       f"{array.shape}.")  # fmt: skip
  keep = where[..., None]
  return MixedLM(
    jnp.where(keep, exog, 0), jnp.where(where, endog, 0), jnp.where(keep, effects, 0), where
  )


def _params(params: Any, model: MixedLM, argument: str = "params") -> MixedLMParams:
  """Parameters of the shapes that the data ask for."""
  params = check_state(argument, params, MixedLMParams)
  shapes = (model.exog.shape[2:], model.exog_re.shape[2:], ())
  found = []
  for name, value, shape in zip(params._fields, params, shapes, strict=True):
    array = _checks.check_float_array(f"{argument}.{name}", value, non_empty=False)
    if array.shape != shape:
      raise ValueError(f"{argument}.{name} must have shape {shape}; got {array.shape}.")
    found.append(array)
  return MixedLMParams(*found)


def _distances(params: MixedLMParams, model: MixedLM) -> tuple[Array, Array, Array]:
  """log det V_i, d_i = r_i^T V_i^{-1} r_i and n_i of each subject."""
  residual = jnp.where(model.where, model.endog - model.exog @ params.fe_params, 0)
  count = jnp.sum(model.where, axis=1).astype(residual.dtype)
  # In units of the error's scatter: V = s2 (I + U U^T) with U = Z sqrt(D / s2). The identity in the
  # rows that are padding adds nothing.
  half = jnp.exp(0.5 * (params.log_var_re - params.log_scale))
  factor = model.exog_re * half[None, None, :]
  rows = residual.shape[1]
  matrix = jnp.eye(rows, dtype=residual.dtype)[None] + factor @ jnp.swapaxes(factor, 1, 2)
  lower = jnp.linalg.cholesky(matrix)
  scaled = residual * jnp.exp(-0.5 * params.log_scale)
  white = jax.scipy.linalg.solve_triangular(lower, scaled[..., None], lower=True)[..., 0]
  diagonal = jnp.diagonal(lower, axis1=1, axis2=2)
  log_det = 2 * jnp.sum(jnp.log(diagonal), axis=1) + count * params.log_scale
  return log_det, jnp.sum(white**2, axis=1), count


def _log_gamma_ratio(nu: Array, count: Array) -> Array:
  """log Gamma((nu + n) / 2) - log Gamma(nu / 2) - (n / 2) log(nu / 2); 0 at nu = inf."""
  a, b = nu / 2, count / 2
  few = jnp.where(nu < _SERIES_FROM, a, 1)
  direct = jax.lax.lgamma(few + b) - jax.lax.lgamma(few) - b * jnp.log(few)
  gaussian = jnp.isposinf(nu)
  many = jnp.where((nu >= _SERIES_FROM) & ~gaussian, a, _SERIES_FROM)
  tail = lambda z: (1 - (1 - 2 / (7 * z**2)) / (30 * z**2)) / (12 * z)
  series = (many + b - 0.5) * jnp.log1p(b / many) - b + tail(many + b) - tail(many)
  return jnp.where(nu < _SERIES_FROM, direct, jnp.where(gaussian, 0, series))


def _degrees(nu: ArrayLike, dtype: Any) -> Array:
  _checks.check_positive("nu", nu, scalar=True)
  nu = jnp.asarray(nu, dtype)
  return jnp.where(nu > 0, nu, jnp.nan)  # under jit, where it is not known


def mixed_lm_nll(params: MixedLMParams, model: MixedLM, *, nu: ArrayLike = 4.0) -> Array:
  r"""Negative log-likelihood of each subject in a power-law mixed-effects model.

  Subject i has outcomes y_i = X_i b + Z_i u_i + e_i with (u_i, e_i) jointly multivariate t with nu
  degrees of freedom and scatter diag(D, s2 I), so that y_i is t with scatter
  V_i = Z_i D Z_i^T + s2 I. With d_i = (y_i - X_i b)^T V_i^{-1} (y_i - X_i b) and n_i rows,

    NLL_i = 1/2 log det V_i + (nu + n_i)/2 log(1 + d_i / nu) - log Gamma((nu + n_i)/2)
            + log Gamma(nu/2) + n_i/2 log(nu pi).

  It maximises Tsallis entropy of order q = 1 + 2 / (nu + n_i) at a given covariance. nu = inf is
  the usual Gaussian model.

  Args:
    params: ``MixedLMParams``: b, log D, log s2.
    model: ``MixedLM``, the data with their mask.
    nu: > 0, a scalar, inf for the Gaussian model; may be traced: NaN under ``jit`` where it is not
      positive.

  Returns:
    float[subjects], 0 for a subject without rows.

  Raises:
    TypeError: when ``params`` or ``model`` is of another kind, or the mask holds no bools.
    ValueError: when shapes do not fit or nu is not positive.

  Note:
    Subjects are independent: one t for all data together would have the fixed effects of Gaussian
    least squares, and no robustness.

  Example:
    >>> model = pad_subjects(jnp.ones((2, 1)), jnp.array([1.0, 1.0]), jnp.array([0, 1]),
    ...                      num_subjects=2, max_rows=1)
    >>> params = MixedLMParams(jnp.ones(1), jnp.full(1, -jnp.inf), jnp.zeros(()))
    >>> [f"{v:.4f}" for v in mixed_lm_nll(params, model, nu=jnp.inf)]
    ['0.9189', '0.9189']

  Reference:
    Yang, Contributions to Robust and Efficient Methods for Analysis of High Dimensional Data
    (thesis, McGill University; the abstract names the model, the form is derived here); Pinheiro,
    Liu and Wu, Efficient algorithms for robust estimation in linear mixed-effects models using the
    multivariate t distribution, 2001, equation 4.
  """
  model = _model(model)
  params = _params(params, model)
  nu = _degrees(nu, model.endog.dtype)
  return _nll(params, model, nu)


def _nll(params: MixedLMParams, model: MixedLM, nu: Array) -> Array:
  log_det, distance, count = _distances(params, model)
  gaussian = jnp.isposinf(nu)
  finite = jnp.where(gaussian, 1, nu)
  heavy = (finite + count) / 2 * jnp.log1p(distance / finite)
  quadratic = jnp.where(gaussian, distance / 2, heavy)
  return 0.5 * log_det + quadratic - _log_gamma_ratio(nu, count) + count / 2 * jnp.log(2 * jnp.pi)


def mixed_lm_weights(params: MixedLMParams, model: MixedLM, *, nu: ArrayLike = 4.0) -> Array:
  r"""How much each subject counts in a power-law mixed-effects model.

  w_i = (nu + n_i) / (nu + d_i), about 1 for a subject that fits the model, near 0 for an outlying
  one: the fixed effects that minimise the likelihood are generalised least squares with these.

  Args:
    params: as in ``mixed_lm_nll``.
    model: as in ``mixed_lm_nll``.
    nu: as in ``mixed_lm_nll``.

  Returns:
    float[subjects]; 1 where nu is inf or a subject has no rows.

  Raises:
    TypeError: when ``params`` or ``model`` is of another kind, or the mask holds no bools.
    ValueError: when shapes do not fit or nu is not positive.

  Example:
    >>> model = pad_subjects(jnp.ones((2, 1)), jnp.array([1.0, 8.0]), jnp.array([0, 1]),
    ...                      num_subjects=2, max_rows=1)
    >>> params = MixedLMParams(jnp.ones(1), jnp.full(1, -jnp.inf), jnp.zeros(()))
    >>> mixed_lm_weights(params, model).round(3)
    Array([1.25 , 0.094], dtype=float32)

  Reference:
    Pinheiro, Liu and Wu, Efficient algorithms for robust estimation in linear mixed-effects models
    using the multivariate t distribution, 2001, section 3.
  """
  model = _model(model)
  params = _params(params, model)
  return _weights(params, model, _degrees(nu, model.endog.dtype))


def _weights(params: MixedLMParams, model: MixedLM, nu: Array) -> Array:
  _, distance, count = _distances(params, model)
  gaussian = jnp.isposinf(nu)
  finite = jnp.where(gaussian, 1, nu)
  return jnp.where(gaussian, 1, (finite + count) / (finite + distance))


def _mean_nll(params: MixedLMParams, model: MixedLM, nu: Array) -> Array:
  """Of the subjects that have rows."""
  subjects = jnp.sum(jnp.any(model.where, axis=1))
  return jnp.sum(_nll(params, model, nu)) / jnp.maximum(subjects, 1)


def _on_fixed_effects(penalty: Penalty, unit: Array) -> Penalty:
  """The penalty of unit times the fixed effects; the variances are free."""
  inner = precompose_affine(penalty, scale=unit)

  def value(params: MixedLMParams, hyper: Any) -> Array:
    return inner.value(params.fe_params, hyper)

  def prox(params: MixedLMParams, hyper: Any, scaling: ArrayLike) -> MixedLMParams:
    return params._replace(fe_params=inner.prox(params.fe_params, hyper, scaling))

  return Penalty(value, prox, penalty.convex)


def fit_mixed_lm(
  model: MixedLM,
  penalty_params: Any,
  *,
  penalty: Penalty = lasso,
  nu: ArrayLike = 4.0,
  start: MixedLMParams | None = None,
  tol: ArrayLike = 1e-4,
  max_steps: ArrayLike = 500,
) -> MixedLMFit:
  r"""Fits a power-law mixed-effects model with a penalty on its fixed effects.

  Minimises over b, log D and log s2

    mean_i NLL_i(b, D, s2) + g(b; penalty_params)

  with NLL_i as in ``mixed_lm_nll``, by ``solvers.prox_ncg``: the penalty's operator acts on b, the
  variances take plain steps. Three rounds, of at most 15, 15 and ``max_steps`` steps, each in the
  unit of outcomes that the last one's error variance suggests.

  Args:
    model: ``MixedLM``, the data with their mask.
    penalty_params: hyper-parameters of the penalty (lam for the Lasso, pairs for MCP and SCAD),
      scalars or arrays of shape [p] (0 for an intercept); may be traced.
    penalty: ``Penalty`` of the fixed effects, static; may be non-convex.
    nu: > 0, a scalar, inf for the Gaussian model; may be traced.
    start: finite ``MixedLMParams`` to begin with. None: no fixed effects, and half of the outcomes'
      median square for each variance.
    tol: >= 0, norm of a sub-gradient at the solution, in outcomes of unit about half the errors'
      deviation; may be traced.
    max_steps: >= 0, of the last round; may be traced.

  Returns:
    ``MixedLMFit(params, weights, info)``; ``info.value`` is the objective, up to the constant
    mean_i n_i log(unit) of the unit in which it was solved.

  Raises:
    TypeError: when ``model`` or ``start`` is of another kind, ``penalty`` no ``Penalty``.
    ValueError: when shapes do not fit, nu is not positive, or ``start`` is not finite.

  Note:
    The objective is not convex: the result is a stationary point that depends on ``start``. Columns
    of ``exog`` should have a scale of about 1. In float32 scatters of the random effects that are
    more than some 1e6 times that of the errors give NaN. Each step costs a Cholesky factorisation
    of rows x rows a subject and evaluation, some seven times. To fit many strengths use
    ``jax.vmap``.

  Example:
    >>> x = jax.random.normal(jax.random.key(0), (40, 3))
    >>> groups = jnp.arange(40) // 4
    >>> model = pad_subjects(x, x @ jnp.array([2.0, 0.0, 0.0]) + 0.1 * jnp.sin(x[:, 1]), groups,
    ...                      num_subjects=10, max_rows=4)
    >>> fit = fit_mixed_lm(model, 0.5)
    >>> bool(jnp.abs(fit.params.fe_params[0] - 2) < 0.1)
    True

  Reference:
    Yang, Contributions to Robust and Efficient Methods for Analysis of High Dimensional Data
    (thesis, McGill University), the third manuscript; derived from its abstract.
  """
  check_penalty("penalty", penalty)
  if penalty_params is not None:
    penalty_params = _checks.check_float_tree("penalty_params", penalty_params)
  model = _model(model)
  dtype = model.endog.dtype
  nu = _degrees(nu, dtype)
  # Powers of two throughout: fits of c y and of y are the same steps.
  unit = power(exponent_of(_typical(model)), dtype)
  model = model._replace(endog=model.endog / unit)
  if start is None:
    size = _typical(model)
    half = jnp.log(jnp.where(size > 0, size**2 / 2, 1))
    effects = jnp.full(model.exog_re.shape[2:], half, dtype)
    first = MixedLMParams(jnp.zeros(model.exog.shape[2:], dtype), effects, half)
  else:
    given = jax.tree.map(lambda a: jnp.asarray(a, dtype), _params(start, model, "start"))
    for leaf in given:
      _checks.check_holds(jnp.isfinite(leaf), "start must hold finite numbers.")
    first = _rescaled(given, 1 / unit)

  def a_round(params: MixedLMParams, limit: Array) -> tuple[MixedLMParams, SolveInfo]:
    # Fixed effects and logarithms of variances have curvatures of one size in units near the
    # errors' deviation, of which each round knows more.
    deviation = jnp.exp(0.5 * params.log_scale)
    own = power(exponent_of(deviation), dtype) * _UNIT
    scaled = model._replace(endog=model.endog / own)
    solver = _solvers.prox_ncg(_mean_nll, _on_fixed_effects(penalty, unit * own))
    found, info = _solvers.run_until(
      solver, _rescaled(params, 1 / own), penalty_params, scaled, nu, tol=tol, max_steps=limit
    )
    return _rescaled(found, own), info

  total = jnp.asarray(_checks.check_integers("max_steps", max_steps, low=0), jnp.int32)
  limits = jnp.minimum(jnp.array([*_FIRST_ROUNDS, jnp.iinfo(jnp.int32).max], jnp.int32), total)
  found, infos = jax.lax.scan(a_round, first, limits)
  info = jax.tree.map(lambda leaf: leaf[-1], infos)._replace(steps=jnp.sum(infos.steps))
  return MixedLMFit(_rescaled(found, unit), _weights(found, model, nu), info)


def _typical(model: MixedLM) -> Array:
  """The median magnitude of the outcomes, or the largest one where half of them are 0."""
  sizes = jnp.where(model.where, jnp.abs(model.endog), jnp.nan)
  middle = jnp.nanmedian(sizes)
  return jnp.where(middle > 0, middle, jnp.max(jnp.abs(model.endog), initial=0))


def _rescaled(params: MixedLMParams, unit: Array) -> MixedLMParams:
  """Parameters of outcomes that are multiplied by ``unit``."""
  logs = 2 * jnp.log(unit)
  return MixedLMParams(params.fe_params * unit, params.log_var_re + logs, params.log_scale + logs)
