"""Energy-based models, p(x) = p0(x) / Z with an unknown Z: likelihood without Markov chains.

The logarithm of Z is a function of an expectation under a noise distribution q with a known
density: the compositional estimate of its gradient, and what tells whether the noise covers the
model.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _arguments, _checks, numerics
from jaxopt_robust.compositional import _examples
from jaxopt_robust.typing import Array, ArrayLike, PyTree

__all__ = [
  "LogPartition",
  "MecoInfo",
  "MecoState",
  "effective_sample_size",
  "log_partition",
  "meco_init",
  "meco_value_and_grad",
]


class LogPartition(NamedTuple):
  """Importance-sampling estimate of a log partition function.

  Attributes:
    log_z: float[...], the estimate; -inf where there is no sample.
    standard_error: float[...], of ``log_z``, by the delta method; infinite for a single sample.
    effective_sample_size: float[...], as in the function of this name.
  """

  log_z: Array
  standard_error: Array
  effective_sample_size: Array


class MecoState(NamedTuple):
  """Moving average of the partition function.

  Attributes:
    log_z: float scalar, the paper's log u; -inf before the first batch.
  """

  log_z: Array


class MecoInfo(NamedTuple):
  """What one batch says; nothing here carries a gradient.

  Attributes:
    objective: float scalar, the estimate of the negative log-likelihood, with the moving average.
    log_z: float scalar, the moving average after this batch.
    batch_log_z: float scalar, the estimate of this noise batch alone.
    effective_sample_size: float scalar in [1, noise batch]; below 2 the noise misses the model, and
      the gradient cannot be trusted.
    clipped: float scalar, the fraction of noise examples whose weight was clipped.
  """

  objective: Array
  log_z: Array
  batch_log_z: Array
  effective_sample_size: Array
  clipped: Array


def effective_sample_size(log_weights: ArrayLike, *, where: ArrayLike | None = None) -> Array:
  r"""Number of equally weighted samples that are worth as much as weighted ones.

  Computes (sum_j w_j)^2 / sum_j w_j^2 with w_j = exp(log_weights_j), over the last axis.

  Args:
    log_weights: float[..., samples], known up to a constant.
    where: bool[..., samples], which samples count; all of them by default.

  Returns:
    float[...] in [1, samples], in the dtype of ``log_weights``; 0 where no sample counts or all
    weights are zero.

  Raises:
    ValueError: log_weights has no axis or the mask has another shape.
    TypeError: log_weights are not floating-point, or the mask is not boolean.

  Example:
    >>> effective_sample_size(jnp.log(jnp.array([1.0, 1.0, 0.0])))
    Array(2., dtype=float32)

  Reference:
    Kong, Liu and Wong, Sequential imputations and Bayesian missing data problems, 1994.
  """
  array, wide, mask = _log_weights(log_weights, where)
  return _effective(wide, mask).astype(array.dtype)


def log_partition(log_weights: ArrayLike, *, where: ArrayLike | None = None) -> LogPartition:
  r"""Estimates log Z by importance sampling, with its standard error.

  Computes log( (1/m) sum_j w_j ) with log w_j = log p0(x_j) - log q(x_j) for m samples x_j of q,
  and sqrt( sum_j (w_j / mean(w) - 1)^2 / (m (m - 1)) ), over the last axis.

  Args:
    log_weights: float[..., samples].
    where: bool[..., samples], which samples count; all of them by default.

  Returns:
    LogPartition of float[...] in the dtype of ``log_weights``. ``log_z`` may be differentiated: its
    gradient is that of self-normalised importance sampling.

  Raises:
    ValueError: log_weights has no axis or the mask has another shape.
    TypeError: log_weights are not floating-point, or the mask is not boolean.

  Note:
    The mean of w is unbiased for Z, so that ``log_z`` is too low on average, by about half the
    squared standard error. An effective sample size of a few makes both figures meaningless.

  Example:
    >>> log_partition(jnp.log(jnp.array([3.0, 3.0, 3.0]))).log_z.round(4)
    Array(1.0986, dtype=float32)

  Reference:
    Owen, Monte Carlo theory, methods and examples, 2013, chapter 9.
  """
  array, wide, mask = _log_weights(log_weights, where)
  log_z = numerics.log_mean_exp(jnp.where(mask, wide, 0), where=mask)
  size = jax.lax.stop_gradient(_effective(wide, mask))
  count = jnp.sum(mask, axis=-1).astype(wide.dtype)
  # mean(w^2) / mean(w)^2 - 1 = m / ess - 1
  variation = jnp.maximum(count / jnp.maximum(size, 1) - 1, 0)
  error = jnp.where(count > 1, jnp.sqrt(variation / jnp.maximum(count - 1, 1)), jnp.inf)
  return LogPartition(*(x.astype(array.dtype) for x in (log_z, error, size)))


def meco_init(*, dtype: Any = jnp.float32) -> MecoState:
  r"""State of the compositional likelihood before training: no estimate of Z yet.

  Sets log u = -inf; the first batch's estimate is taken whole.

  Args:
    dtype: floating-point dtype of the moving average, at least float32.

  Returns:
    MecoState with a scalar.

  Raises:
    TypeError: dtype is not a floating-point dtype of at least 32 bits.

  Example:
    >>> meco_init()
    MecoState(log_z=Array(-inf, dtype=float32))

  Reference:
    Jiang, Qin, Wu, Chen, Yang and Zhang, Learning unnormalized statistical models via compositional
    optimization, 2023.
  """
  kind = _checks.check_float_dtype(dtype, wide=True)
  return MecoState(jnp.full((), -jnp.inf, kind))


def meco_value_and_grad(
  log_density: Callable[[PyTree, PyTree], Array], log_noise: Callable[[PyTree], Array]
) -> Callable[..., tuple[tuple[Array, MecoInfo], PyTree, MecoState]]:
  r"""Makes the stochastic gradient of the likelihood of an energy-based model (MECO).

  The objective is -(1/n) sum_i log p0(x_i; params) + log E_{z ~ q} [p0(z; params) / q(z)]. A batch
  of m noise samples gives weights log w_j = log p0(z_j) - log q(z_j); then
  log u <- log( (1 - rate) u + (rate / m) sum_j w_j ), and the gradient is
  -(1/batch) sum_i grad log p0(x_i) + (1/m) sum_j min(w_j / u, weight_clip) grad log p0(z_j).

  Args:
    log_density: ``log_density(params, x) -> float[batch]``, log p0, of a batch x (any pytree).
    log_noise: ``log_noise(x) -> float[batch]``, log q, normalised.

  Returns:
    ``fn(params, state, data, noise, *, rate=0.1, weight_clip=inf, data_where=None,
    noise_where=None) -> ((value, info), grads, state)``: value is ``info.objective``, the estimate
    of the negative log-likelihood; info is a MecoInfo; grads is a pytree like params; ``rate`` in
    (0, 1] and ``weight_clip`` > 0 (infinity: no clipping) may be traced; the masks are bool[batch].
    If a noise batch has a NaN or infinite weight, the value is NaN and the state is kept; if a
    mask leaves nothing, the value and the gradient are 0 and the state is kept. Rows of data and
    noise that are masked out may hold anything.

  Raises:
    ValueError: in fn: rate is not in (0, 1], weight_clip <= 0, or a density is not a vector.
    TypeError: an argument is not callable; in fn: a density is not floating-point.

  Note:
    With rate = 1 the gradient is that of self-normalised importance sampling, whose bias does not
    vanish as the step size does; a smaller rate averages over batches, and must be well above the
    speed at which the model moves. Choose q wider than the data and watch
    ``info.effective_sample_size``: a model whose mass lies outside the noise samples keeps moving
    away from them. Clipped weights pull the model less towards itself and so make this worse: clip
    only against single bad samples. Feed the gradients to any optimizer.

  Example:
    >>> def log_density(mean, x): return -0.5 * (x - mean) ** 2
    >>> def log_noise(x): return jax.scipy.stats.norm.logpdf(x, 0.0, 3.0)
    >>> fn = meco_value_and_grad(log_density, log_noise)
    >>> noise = 3.0 * jax.random.normal(jax.random.key(0), (1000,))
    >>> (_, info), grad, state = fn(jnp.array(0.0), meco_init(), jnp.ones(4), noise)
    >>> bool(abs(state.log_z - 0.919) < 0.1), bool(abs(grad + 1.0) < 0.1)  # log sqrt(2 pi), -1
    (True, True)

  Reference:
    Jiang, Qin, Wu, Chen, Yang and Zhang, Learning unnormalized statistical models via compositional
    optimization, 2023, algorithm 1 (its momentum is left to the optimizer; the clipping is ours).
  """
  _arguments.check_callable("log_density", log_density)
  _arguments.check_callable("log_noise", log_noise)

  def value_and_grad(
    params: PyTree,
    state: MecoState,
    data: PyTree,
    noise: PyTree,
    *,
    rate: ArrayLike = 0.1,
    weight_clip: ArrayLike = jnp.inf,
    data_where: ArrayLike | None = None,
    noise_where: ArrayLike | None = None,
  ) -> tuple[tuple[Array, MecoInfo], PyTree, MecoState]:
    state = _arguments.check_state("state", state, MecoState)
    _checks.check_interval("rate", rate, 0, 1, closed="right")
    _checks.check_positive("weight_clip", weight_clip)

    data, noise = _fill(data, "data_where", data_where), _fill(noise, "noise_where", noise_where)
    reference = _checked_log("log_noise(noise)", log_noise(noise))

    def surrogate(params: PyTree) -> tuple[Array, tuple[MecoInfo, MecoState, Array]]:
      data_log = _checked_log("log_density(params, data)", log_density(params, data))
      noise_log = _checked_log("log_density(params, noise)", log_density(params, noise))
      _checks.check_same_shape("log_density(params, noise)", noise_log, "log_noise", reference)
      keep = _mask("noise_where", noise_where, noise_log.shape)
      keep_data = _mask("data_where", data_where, data_log.shape)
      is_empty = ~(jnp.any(keep) & jnp.any(keep_data))
      log_w = noise_log - reference.astype(noise_log.dtype)
      log_w = jax.lax.stop_gradient(jnp.where(keep, log_w, 0))
      weights, info, updated = _meco_step(log_w, keep, state, rate, weight_clip)
      fit = numerics.masked_mean(data_log, keep_data)
      # Points without density have weight 0; where then avoids 0 * inf.
      pushed = jnp.sum(jnp.where(weights == 0, 0, weights * noise_log))
      objective = jax.lax.stop_gradient(info.log_z.astype(fit.dtype) - fit)
      info = info._replace(objective=jnp.where(is_empty, 0, objective))
      return pushed - fit, (info, numerics.tree_where(is_empty, state, updated), is_empty)

    grads, (info, updated, is_empty) = jax.grad(surrogate, has_aux=True)(params)
    grads = jax.tree.map(lambda g: jnp.where(is_empty, jnp.zeros_like(g), g), grads)
    return (info.objective, info), grads, updated

  return value_and_grad


def _log_weights(log_weights: ArrayLike, where: ArrayLike | None) -> tuple[Array, Array, Array]:
  """The caller's array, its wide form with -inf where masked out, and the mask."""
  array = _checks.check_float_array("log_weights", log_weights, min_rank=1)
  mask = _mask("where", where, array.shape)
  return array, jnp.where(mask, numerics.upcast(array), -jnp.inf), mask


def _mask(name: str, where: ArrayLike | None, shape: tuple[int, ...]) -> Array:
  mask = _checks.check_mask(name, where, shape=shape)
  return jnp.ones(shape, jnp.bool_) if mask is None else mask


def _effective(log_w: Array, mask: Array) -> Array:
  """(sum w)^2 / sum w^2, with weights divided by the largest."""
  largest = jnp.max(log_w, axis=-1, keepdims=True, where=mask, initial=-jnp.inf)
  safe = jnp.where(jnp.isneginf(largest), 0, largest)
  weights = jnp.exp(log_w - safe)
  total, squares = jnp.sum(weights, axis=-1), jnp.sum(weights * weights, axis=-1)
  return numerics.safe_divide(total * total, squares)


def _fill(x: PyTree, name: str, where: ArrayLike | None) -> PyTree:
  """A batch whose masked rows are copies of a row that is kept: densities of these are finite."""
  batch = jnp.shape(jax.tree.leaves(x)[0])[:1]
  keep = _checks.check_mask(name, where, shape=batch)
  if keep is None:
    return x
  row = jnp.argmax(keep)

  def fill(leaf: ArrayLike) -> Array:
    array = jnp.asarray(leaf)
    return jnp.where(_examples.shaped(keep, array), array, array[row][None])

  return jax.tree.map(fill, x)


def _checked_log(name: str, value: Any) -> Array:
  return numerics.upcast(_checks.check_float_array(name, value, rank=1))


def _meco_step(
  log_w: Array, keep: Array, state: MecoState, rate: ArrayLike, weight_clip: ArrayLike
) -> tuple[Array, MecoInfo, MecoState]:
  """Weights of the noise samples in the gradient, diagnostics and the new moving average."""
  old = _checks.check_float_array("state.log_z", state.log_z, rank=0)
  batch = _examples.masked_log_mean_exp(log_w, keep).astype(old.dtype)
  mixed = numerics.log_average(old, batch, rate)
  is_good = jnp.isfinite(batch) | jnp.isneginf(batch)
  mixed = jnp.where(is_good, mixed, old)
  relative = log_w - jnp.where(jnp.isneginf(mixed), 0, mixed).astype(log_w.dtype)
  limit = jnp.log(jnp.asarray(weight_clip, log_w.dtype))
  count = jnp.maximum(jnp.sum(keep), 1).astype(log_w.dtype)
  weights = jnp.where(keep, jnp.exp(jnp.minimum(relative, limit)) / count, 0)
  log_z = jnp.where(is_good, mixed, jnp.nan)
  info = MecoInfo(
    objective=log_z,
    log_z=log_z,
    batch_log_z=batch,
    effective_sample_size=_effective(jnp.where(keep, log_w, -jnp.inf), keep),
    clipped=numerics.masked_mean((relative > limit).astype(log_w.dtype), keep),
  )
  return weights, info, MecoState(mixed)
