"""Which strength, which features: cross-validation, bootstraps and stability selection."""

import functools
import inspect
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks
from jaxopt_robust._units import in_units
from jaxopt_robust.numerics import safe_divide
from jaxopt_robust.regression._problem import Inputs, Model
from jaxopt_robust.regression.linear_losses import total_loss
from jaxopt_robust.regression.paths import Call, check_call, solve_path
from jaxopt_robust.solvers import NON_FINITE
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "CrossValidation",
  "StabilitySelection",
  "bootstrap_weights",
  "cross_validate",
  "make_folds",
  "stability_selection",
  "subsample_weights",
]


class CrossValidation(NamedTuple):
  """What cross-validation says of each strength.

  Attributes:
    strengths: float[k], as given.
    mean: float[k], mean held-out loss, folds weighted by the weight of their rows.
    standard_error: float[k], of that mean.
    losses: float[folds, k], held-out loss of each fold.
    best: scalar, the strength of the lowest mean; the larger one of equal means.
    one_standard_error: scalar, the largest strength whose mean is at most one standard error above
      the lowest.
    status: int32[folds, k], of the solves.
  """

  strengths: Array
  mean: Array
  standard_error: Array
  losses: Array
  best: Array
  one_standard_error: Array
  status: Array


class StabilitySelection(NamedTuple):
  """What stability selection says of each feature.

  Attributes:
    frequencies: float[k, p], share of the subsamples in which the feature is selected, by strength.
    scores: float[p], the largest frequency over the strengths.
    selected: bool[p], whether the score is at least the threshold.
    mean_size: scalar, q: mean number of features selected at any of the strengths.
    error_bound: scalar, q^2 / ((2 threshold - 1) p), a bound of the expected number of falsely
      selected features under the assumptions of the reference.
    status: int32[num_subsamples, k], of the solves.
  """

  frequencies: Array
  scores: Array
  selected: Array
  mean_size: Array
  error_bound: Array
  status: Array


def make_folds(key: Array, num_rows: int, *, num_folds: int = 5) -> Array:
  r"""A random fold for each row, of sizes that differ by one at most.

  Args:
    key: typed PRNG key.
    num_rows: >= 2, static.
    num_folds: in [2, num_rows], static.

  Returns:
    int32[num_rows], numbers 0..num_folds - 1.

  Raises:
    TypeError: when ``key`` is no typed key, or a size is no static integer.
    ValueError: when a size is out of its range.

  Example:
    >>> jnp.bincount(make_folds(jax.random.key(0), 7, num_folds=3), length=3).tolist()
    [3, 2, 2]

  Reference:
    Stone, Cross-validatory choice and assessment of statistical predictions, 1974.
  """
  _checks.check_key("key", key)
  num_rows = _checks.check_int("num_rows", num_rows, minimum=2)
  num_folds = _checks.check_int("num_folds", num_folds, minimum=2, maximum=num_rows)
  return jax.random.permutation(key, jnp.arange(num_rows, dtype=jnp.int32) % num_folds)


def bootstrap_weights(key: Array, num_rows: int, num_samples: int) -> Array:
  r"""Counts of the rows in bootstrap samples: n draws with replacement each.

  Args:
    key: typed PRNG key.
    num_rows: n >= 1, static.
    num_samples: >= 1, static.

  Returns:
    float[num_samples, num_rows] of sum n in each row, for ``sample_weight``.

  Raises:
    TypeError: when ``key`` is no typed key, or a size is no static integer.
    ValueError: when a size is below 1.

  Example:
    >>> weights = bootstrap_weights(jax.random.key(0), 4, 2)
    >>> weights.shape, weights.sum(axis=1).tolist()
    ((2, 4), [4.0, 4.0])

  Reference:
    Efron, Bootstrap methods: another look at the jackknife, 1979.
  """
  _checks.check_key("key", key)
  num_rows = _checks.check_int("num_rows", num_rows, minimum=1)
  num_samples = _checks.check_int("num_samples", num_samples, minimum=1)
  drawn = jax.random.randint(key, (num_samples, num_rows), 0, num_rows)
  sample = jnp.arange(num_samples)[:, None]
  return jnp.zeros((num_samples, num_rows)).at[sample, drawn].add(1)


def subsample_weights(key: Array, num_rows: int, num_samples: int) -> Array:
  r"""Random halves of the rows: floor(n / 2) rows without replacement have weight 1.

  Args:
    key: typed PRNG key.
    num_rows: n >= 2, static.
    num_samples: >= 1, static.

  Returns:
    float[num_samples, num_rows] of zeros and ones, for ``sample_weight``.

  Raises:
    TypeError: when ``key`` is no typed key, or a size is no static integer.
    ValueError: when a size is too small.

  Example:
    >>> subsample_weights(jax.random.key(0), 5, 3).sum(axis=1).tolist()
    [2.0, 2.0, 2.0]

  Reference:
    Meinshausen and Buhlmann, Stability selection, 2010, definition 1.
  """
  _checks.check_key("key", key)
  num_rows = _checks.check_int("num_rows", num_rows, minimum=2)
  num_samples = _checks.check_int("num_samples", num_samples, minimum=1)
  half = (jnp.arange(num_rows) < num_rows // 2).astype(jnp.result_type(float))
  halves = jnp.broadcast_to(half, (num_samples, num_rows))
  return jax.random.permutation(key, halves, axis=1, independent=True)


def _checked(x: ArrayLike, y: Any, strengths: ArrayLike, options: dict) -> Call:
  """Checked arguments of a path; an option that it does not take is named."""
  known = inspect.signature(check_call).parameters
  for name in options:
    if name not in known:
      raise TypeError(
        f"options must be those of regularization_path, but for certificate; got {name!r}."
        f"{_arguments.did_you_mean(name, (*known, 'threshold', 'num_subsamples'))}"
      )
  return check_call(x, y, strengths, **options)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _validate(
  model: Model, num_folds: int, inputs: Inputs, strengths: Array, tol: Array, max_steps: Array,
  folds: Array,
) -> CrossValidation:  # fmt: skip
  def one(fold: Array) -> tuple[Array, Array, Array]:
    out = folds == fold
    rest = jnp.where(out, 0, inputs.weights)
    total = jnp.sum(rest)
    kept = inputs._replace(weights=safe_divide(rest, total))
    path = solve_path(model, False, kept, strengths, tol, max_steps)
    held = jnp.where(out, inputs.weights, 0)
    share = jnp.sum(held)
    weights = safe_divide(held, share)

    def loss_of(w: Array, b: Array) -> Array:
      return total_loss(model.loss, inputs.x @ w + b, inputs.target, weights, inputs.loss_hyper)

    # A scan: the predictions of one strength at a time.
    losses = jax.lax.map(lambda point: loss_of(*point), (path.coefficients, path.intercepts))
    return losses, share, path.status

  losses, shares, status = jax.vmap(one)(jnp.arange(num_folds))
  shares = safe_divide(shares, jnp.sum(shares))
  mean = shares @ losses
  # Squares in range, strength by strength.
  centred, unit = jax.vmap(in_units, 1, (1, 0))(losses - mean[None, :])
  variance = shares @ centred**2
  # Folds without weight do not count.
  count = jnp.sum(shares > 0).astype(mean.dtype)
  error = unit * jnp.sqrt(safe_divide(variance, jnp.maximum(count - 1, 0)))
  lowest = jnp.nanmin(mean)
  at = jnp.argmax(jnp.where(mean == lowest, strengths, -1))
  limit = jnp.where(jnp.isnan(error[at]), lowest, lowest + error[at])
  largest = jnp.max(jnp.where(mean <= limit, strengths, 0))
  known = ~jnp.isnan(lowest)
  best, largest = jnp.where(known, strengths[at], jnp.nan), jnp.where(known, largest, jnp.nan)
  return CrossValidation(strengths, mean, error, losses, best, largest, status)


def cross_validate(
  x: ArrayLike, y: Any, strengths: ArrayLike, *, folds: ArrayLike, num_folds: int, **options: Any
) -> CrossValidation:
  r"""Held-out loss of a regularization path, all folds in one program.

  For fold f the path is fitted with the weights of its rows set to 0, and its loss is
  L_f = sum_{i in f} s_i l(x_i w + b, y_i) / S_f with S_f = sum_{i in f} s_i and s = sample_weight.
  With shares a_f = S_f / sum S the mean is m = sum_f a_f L_f, and its standard error
  sqrt(sum_f a_f (L_f - m)^2 / (K - 1)).

  Args:
    x: float[n, p], dense or a ``BCOO`` matrix; not copied.
    y: the targets, as in ``regularization_path``.
    strengths: float[k] >= 0; may be traced.
    folds: int[n], the fold of each row, 0..num_folds - 1, for example of ``make_folds``; rows of
      one group or time belong into one fold.
    num_folds: K >= 2, static.
    **options: those of ``regularization_path``, but for ``certificate``.

  Returns:
    ``CrossValidation``.

  Raises:
    TypeError: when ``folds`` holds no integers, or an option is unknown.
    ValueError: when shapes do not fit or a number is out of its range.

  Note:
    The loss is the one that is fitted, without the penalty. For "cox" it is the partial likelihood
    of the rows of a fold among themselves, which needs large folds. A strength whose loss is NaN in
    a fold is not chosen; where all are, the chosen ones are NaN too. Proximal gradients map over
    the folds by ``vmap``: all of them run as long as the slowest.

  Example:
    >>> x = jax.random.normal(jax.random.key(0), (40, 3))
    >>> y = 2 * x[:, 0] + 0.1 * jax.random.normal(jax.random.key(1), (40,))
    >>> folds = make_folds(jax.random.key(2), 40, num_folds=4)
    >>> result = cross_validate(x, y, jnp.array([1.0, 0.01]), folds=folds, num_folds=4)
    >>> round(float(result.best), 2), result.losses.shape
    (0.01, (4, 2))

  Reference:
    Friedman, Hastie and Tibshirani, Regularization paths for generalized linear models via
    coordinate descent, 2010, section 2.6; the one-standard-error rule of Breiman, Friedman, Olshen
    and Stone, Classification and Regression Trees, 1984, section 3.4.3.
  """
  call = _checked(x, y, strengths, options)
  num_folds = _checks.check_int("num_folds", num_folds, minimum=2)
  rows = call.inputs.weights.shape
  ids = _checks.check_integers("folds", folds, low=0, high=num_folds, shape=rows)
  return _validate(call.model, num_folds, *call[1:], ids)


@functools.partial(jax.jit, static_argnums=(0,))
def _stability(
  model: Model, inputs: Inputs, strengths: Array, tol: Array, max_steps: Array, weights: Array,
  threshold: Array,
) -> StabilitySelection:  # fmt: skip
  def one(counts: Array) -> tuple[Array, Array]:
    kept = counts * inputs.weights
    subsample = inputs._replace(weights=safe_divide(kept, jnp.sum(kept)))
    path = solve_path(model, False, subsample, strengths, tol, max_steps)
    return path.coefficients != 0, path.status

  chosen, status = jax.vmap(one)(weights)
  # A strength at which a solve met NaN selects nothing.
  known = ~jnp.any(status == NON_FINITE, axis=0)
  frequencies = jnp.mean(chosen.astype(threshold.dtype), axis=0)
  frequencies = jnp.where(known[:, None], frequencies, jnp.nan)
  scores = jnp.nanmax(frequencies, axis=0)
  chosen = chosen & known[None, :, None]
  size = jnp.mean(jnp.sum(jnp.any(chosen, axis=1), axis=1).astype(threshold.dtype))
  size = jnp.where(jnp.any(known), size, jnp.nan)
  bound = size**2 / ((2 * threshold - 1) * scores.shape[0])
  return StabilitySelection(frequencies, scores, scores >= threshold, size, bound, status)


def stability_selection(
  key: Array,
  x: ArrayLike,
  y: Any,
  strengths: ArrayLike,
  *,
  num_subsamples: int = 100,
  threshold: ArrayLike = 0.75,
  **options: Any,
) -> StabilitySelection:
  r"""Features that are selected in most random halves of the data, with a bound of false ones.

  Fits a path to each of so many random halves of the rows, all in one program. A feature's score is
  the largest share, over the strengths, of the halves in which its coefficient is not 0; those with
  a score of at least the threshold are selected. With q the mean number of features that a half
  selects at any of the strengths, the expected number of falsely selected ones is at most
  q^2 / ((2 threshold - 1) p), under exchangeability of the noise features and a selection that is
  not worse than chance.

  Args:
    key: typed PRNG key of the halves.
    x: float[n, p], dense or a ``BCOO`` matrix; not copied.
    y: the targets, as in ``regularization_path``.
    strengths: float[k] >= 0; may be traced. The lower the smallest, the larger q.
    num_subsamples: >= 1, static.
    threshold: in (1/2, 1], 0.6 to 0.9 is usual; may be traced.
    **options: those of ``regularization_path``, but for ``certificate``.

  Returns:
    ``StabilitySelection``.

  Raises:
    TypeError: when ``key`` is no typed key, or an option is unknown.
    ValueError: when shapes do not fit or a number is out of its range.

  Note:
    The bound is a theorem about features that are not penalised more or less than others
    (``penalty_factor``) and does not say which of several correlated features is right. A strength
    at which a solve ends in status 2 does not count, its frequencies are NaN; where all do, the
    scores are NaN and nothing is selected.

  Example:
    >>> x = jax.random.normal(jax.random.key(0), (40, 3))
    >>> y = 2 * x[:, 0] + 0.1 * jax.random.normal(jax.random.key(1), (40,))
    >>> result = stability_selection(
    ...   jax.random.key(2), x, y, jnp.array([1.0, 0.5]), num_subsamples=10)
    >>> result.selected.tolist()
    [True, False, False]

  Reference:
    Meinshausen and Buhlmann, Stability selection, 2010, definition 2 and theorem 1.
  """
  _checks.check_key("key", key)
  call = _checked(x, y, strengths, options)
  num_subsamples = _checks.check_int("num_subsamples", num_subsamples, minimum=1)
  _checks.check_interval("threshold", threshold, 0.5, 1.0, closed="right", scalar=True)
  dtype = call.inputs.weights.dtype
  least = _checks.check_float_array("threshold", threshold, rank=0).astype(dtype)
  weights = subsample_weights(key, call.inputs.weights.shape[0], num_subsamples).astype(dtype)
  return _stability(*call, weights, least)
