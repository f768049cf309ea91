"""Affine recalibration of logits: temperature, vector and matrix scaling."""

import functools
from typing import NamedTuple

import jax.numpy as jnp
import optax

from jaxopt_robust import _checks, numerics
from jaxopt_robust.calibration import _logits, _temperature
from jaxopt_robust.calibration.likelihood import MAX_STEPS, TOL, mean_nll
from jaxopt_robust.solvers import SolveInfo, from_optax, run_until
from jaxopt_robust.typing import Array, ArrayLike

__all__ = [
  "AffineMap",
  "matrix_apply",
  "matrix_fit",
  "temperature_apply",
  "temperature_fit",
  "vector_apply",
  "vector_fit",
]


class AffineMap(NamedTuple):
  """Parameters of vector and matrix scaling.

  Attributes:
    weight: float[classes], or float[classes, classes] with a row an output.
    bias: float[classes], of mean 0.
  """

  weight: Array
  bias: Array


def temperature_fit(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  where: ArrayLike | None = None,
  tol: ArrayLike = 1e-6,
  max_steps: ArrayLike = 100,
) -> tuple[Array, SolveInfo]:
  r"""Temperature scaling: the one factor of all logits that is most likely.

  Solves min_{t >= 0} (1/n) sum_i -log softmax(t z_i)[y_i], which is convex, by Newton steps in a
  bracket. At t > 0 the solution has (1/n) sum_i ( z_i[y_i] - sum_k p_ik z_ik ) = 0.

  Args:
    logits: float[n, classes] of held-out examples.
    labels: int[n] in [0, classes).
    where: bool[n]; rows where it is false are ignored, whatever they hold.
    tol: >= 0, a scalar; may be traced. Ends where the slope is at most tol times the largest
      difference of two logits of a row.
    max_steps: >= 0, an integer scalar; may be traced.

  Returns:
    ``(t, info)`` with the inverse temperature t >= 0, a float scalar (at least float32), and a
    ``SolveInfo``. t = 0 where large logits speak against the labels on average; where every answer
    is right the loss has no minimum and t is as large as tol asks; t = 1 where all logits of a row
    are equal, or no row is kept. Status 2 where logits are not finite.

  Raises:
    ValueError: shapes do not agree, a known label is out of range, or tol or max_steps is negative.
    TypeError: logits are not floating-point or labels not integers.

  Note:
    The temperature of the literature is T = 1 / t. Units do not matter: logits times c give t / c.
    Predicted classes never change (for t > 0).

  Example:
    >>> logits, labels = jnp.array([[4.0, 0.0], [0.0, 4.0], [4.0, 0.0]]), jnp.array([0, 1, 1])
    >>> t, info = temperature_fit(logits, labels)
    >>> round(float(t), 3), int(info.status)
    (0.173, 0)

  Reference:
    Guo, Pleiss, Sun and Weinberger, On calibration of modern neural networks, 2017, section 4.2.
  """
  given = _logits.check_labelled(logits, labels, where)
  return _temperature_of(given, tol, max_steps)


def temperature_apply(params: ArrayLike, logits: ArrayLike) -> Array:
  r"""Logits times the inverse temperature.

  Computes t z with t = params.

  Args:
    params: t >= 0, a float scalar; may be traced.
    logits: float[..., classes].

  Returns:
    float[..., classes] logits of the dtype of ``logits``.

  Raises:
    ValueError: logits have fewer than two classes, or params is negative or no scalar.
    TypeError: logits are not floating-point.

  Example:
    >>> temperature_apply(0.5, jnp.array([4.0, 0.0]))
    Array([2., 0.], dtype=float32)

  Reference:
    Guo, Pleiss, Sun and Weinberger, On calibration of modern neural networks, 2017, section 4.2.
  """
  scores = _logits.check_logits(logits)
  _checks.check_non_negative("params", params, scalar=True)
  factor = _checks.check_float_array("params", params, rank=0)
  wide = numerics.upcast(scores)
  return (factor.astype(wide.dtype) * wide).astype(scores.dtype)


def _temperature_of(given: _logits.Labelled, tol: ArrayLike, max_steps: ArrayLike) -> tuple:
  """Temperature scaling of logits whose largest difference is made 1 first."""
  centred = given.logits - jnp.max(given.logits, axis=1, keepdims=True)
  scale = numerics.divisor(jnp.max(jnp.where(given.weight[:, None] > 0, -centred, 0)))
  scale = jnp.where(jnp.isfinite(scale), scale, 1)
  unit = given._replace(logits=centred / scale)
  t, info = run_until(_temperature.SOLVER, scale, None, unit, tol=tol, max_steps=max_steps)
  return t / scale, info


class _Standard(NamedTuple):
  """Logits of size 1 and mean 0, and how to come back."""

  given: _logits.Labelled
  mean: Array
  scale: Array


def _standardise(given: _logits.Labelled) -> _Standard:
  mean = given.weight @ given.logits
  rest = jnp.where(given.weight[:, None] > 0, given.logits - mean[None, :], 0)
  size = jnp.max(jnp.abs(rest))
  square = given.weight @ jnp.mean((rest / numerics.divisor(size)) ** 2, axis=1)
  scale = numerics.divisor(size) * jnp.where(square > 0, jnp.sqrt(square), 1)
  return _Standard(given._replace(logits=rest / scale), mean, scale)


def _times(weight: Array, logits: Array) -> Array:
  return logits * weight[None, :] if weight.ndim == 1 else logits @ weight.T


def _affine(params: AffineMap, logits: Array) -> Array:
  return _times(params.weight, logits) + params.bias[None, :]


def _back(inner: AffineMap, mean: Array, scale: Array) -> AffineMap:
  """The map of the logits as they came, from that of the standardised ones."""
  weight = inner.weight / scale
  bias = inner.bias - _times(weight, mean[None, :])[0]
  return AffineMap(weight, bias - jnp.mean(bias))


_vector_loss = functools.partial(mean_nll, _affine)


def _matrix_loss(
  params: AffineMap, given: _logits.Labelled, mean: Array, scale: Array, strengths: Array
) -> Array:
  weight, bias = _back(params, mean, scale)
  off = jnp.where(jnp.eye(len(bias), dtype=bool), 0, weight)
  count = max(len(bias) * (len(bias) - 1), 1)
  penalty = strengths[0] * jnp.sum(off**2) / count + strengths[1] * jnp.mean(bias**2)
  return mean_nll(_affine, params, given) + penalty


_VECTOR = from_optax(_vector_loss, optax.lbfgs())
_MATRIX = from_optax(_matrix_loss, optax.lbfgs())


def vector_fit(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  where: ArrayLike | None = None,
  tol: ArrayLike = TOL,
  max_steps: ArrayLike = MAX_STEPS,
) -> tuple[AffineMap, SolveInfo]:
  r"""Vector scaling: a factor and a bias for each class.

  Solves min_{w, b} (1/n) sum_i -log softmax(w z_i + b)[y_i] from temperature scaling by L-BFGS.
  At the solution mean_i p_ik is the frequency of class k.

  Args:
    logits: float[n, classes] of held-out examples.
    labels: int[n] in [0, classes).
    where: bool[n]; rows where it is false are ignored, whatever they hold.
    tol: >= 0, a scalar; may be traced. Ends where the norm of the gradient by the parameters of the
      standardised logits is at most tol.
    max_steps: >= 0, an integer scalar; may be traced.

  Returns:
    ``(AffineMap, info)`` with a ``SolveInfo``. A class without examples has no best bias: the
    probability that it gets falls until the gradient is at most tol. With separable classes the
    same holds of the factors.

  Raises:
    ValueError: shapes do not agree, a known label is out of range, or tol or max_steps is negative.
    TypeError: logits are not floating-point or labels not integers.

  Note:
    Logits are standardised for the solver, so that their units do not matter. Predicted classes may
    change.

  Example:
    >>> logits, labels = jnp.array([[4.0, 0.0], [0.0, 4.0], [4.0, 0.0]]), jnp.array([0, 1, 1])
    >>> params, info = vector_fit(logits, labels)
    >>> np.asarray(jax.nn.softmax(vector_apply(params, logits)).mean(0)).round(2)
    array([0.33, 0.67], dtype=float32)

  Reference:
    Guo, Pleiss, Sun and Weinberger, On calibration of modern neural networks, 2017, section 4.2.
  """
  labelled = _logits.check_labelled(logits, labels, where)
  given, mean, scale = _standardise(labelled)
  t, _ = _temperature_of(labelled, TOL, MAX_STEPS)
  start = AffineMap(jnp.broadcast_to(t * scale, mean.shape), t * mean)
  inner, info = run_until(_VECTOR, start, None, given, tol=tol, max_steps=max_steps)
  return _back(inner, mean, scale), info


def vector_apply(params: AffineMap, logits: ArrayLike) -> Array:
  r"""Logits after vector scaling.

  Computes w z + b, entry by entry.

  Args:
    params: ``AffineMap`` of ``vector_fit``.
    logits: float[..., classes].

  Returns:
    float[..., classes] logits of the dtype of ``logits``.

  Raises:
    ValueError: logits have other classes than the map.
    TypeError: params is no ``AffineMap``, or logits are not floating-point.

  Example:
    >>> params = AffineMap(jnp.array([1.0, 2.0]), jnp.array([0.5, -0.5]))
    >>> vector_apply(params, jnp.array([4.0, 1.0]))
    Array([4.5, 1.5], dtype=float32)

  Reference:
    Guo, Pleiss, Sun and Weinberger, On calibration of modern neural networks, 2017, section 4.2.
  """
  return _apply(params, logits, 1)


def matrix_fit(
  logits: ArrayLike,
  labels: ArrayLike,
  *,
  off_diagonal: ArrayLike = 0.0,
  intercept: ArrayLike = 0.0,
  where: ArrayLike | None = None,
  tol: ArrayLike = TOL,
  max_steps: ArrayLike = MAX_STEPS,
) -> tuple[AffineMap, SolveInfo]:
  r"""Matrix scaling: any affine map of the logits, with penalties (ODIR).

  Solves min_{W, b} (1/n) sum_i -log softmax(W z_i + b)[y_i]
  + off_diagonal mean_{j != k} W_jk^2 + intercept mean_k b_k^2 from temperature scaling by L-BFGS,
  with b of mean 0. Without penalties the solution has (1/n) sum_i (p_i - e_i) z_i^T = 0.

  Args:
    logits: float[n, classes] of held-out examples. On log-probabilities this is Dirichlet
      calibration.
    labels: int[n] in [0, classes).
    off_diagonal: >= 0, a scalar; may be traced. In units of one over squared logits.
    intercept: >= 0, a scalar; may be traced.
    where: bool[n]; rows where it is false are ignored, whatever they hold.
    tol: >= 0, a scalar; may be traced. Ends where the norm of the gradient by the parameters of the
      standardised logits is at most tol.
    max_steps: >= 0, an integer scalar; may be traced.

  Returns:
    ``(AffineMap, info)`` with a ``SolveInfo``. classes^2 parameters fit few examples too well:
    separable classes have no best parameters, and the last ones are returned.

  Raises:
    ValueError: shapes do not agree, a known label is out of range, or a strength, tol or max_steps
      is negative.
    TypeError: logits are not floating-point or labels not integers.

  Note:
    Predicted classes may change.

  Example:
    >>> logits, labels = jnp.array([[4.0, 0.0], [0.0, 4.0], [4.0, 0.0]]), jnp.array([0, 1, 1])
    >>> params, info = matrix_fit(logits, labels, off_diagonal=0.1)
    >>> np.asarray(jax.nn.softmax(matrix_apply(params, logits)).mean(0)).round(2)
    array([0.33, 0.67], dtype=float32)

  Reference:
    Guo, Pleiss, Sun and Weinberger, On calibration of modern neural networks, 2017, section 4.2;
    the penalties: Kull et al., Beyond temperature scaling: obtaining well-calibrated multi-class
    probabilities with Dirichlet calibration, 2019, section 4.
  """
  labelled = _logits.check_labelled(logits, labels, where)
  given, mean, scale = _standardise(labelled)
  for name, strength in (("off_diagonal", off_diagonal), ("intercept", intercept)):
    _checks.check_non_negative(name, strength, scalar=True)
  strengths = jnp.stack([jnp.asarray(s, mean.dtype) for s in (off_diagonal, intercept)])
  t, _ = _temperature_of(labelled, TOL, MAX_STEPS)
  start = AffineMap(t * scale * jnp.eye(len(mean), dtype=mean.dtype), t * mean)
  data = (given, mean, scale, strengths)
  inner, info = run_until(_MATRIX, start, None, *data, tol=tol, max_steps=max_steps)
  return _back(inner, mean, scale), info


def matrix_apply(params: AffineMap, logits: ArrayLike) -> Array:
  r"""Logits after matrix scaling.

  Computes W z + b.

  Args:
    params: ``AffineMap`` of ``matrix_fit``.
    logits: float[..., classes].

  Returns:
    float[..., classes] logits of the dtype of ``logits``.

  Raises:
    ValueError: logits have other classes than the map.
    TypeError: params is no ``AffineMap``, or logits are not floating-point.

  Example:
    >>> swap = AffineMap(jnp.array([[0.0, 1.0], [1.0, 0.0]]), jnp.zeros(2))
    >>> matrix_apply(swap, jnp.array([4.0, 1.0]))
    Array([1., 4.], dtype=float32)

  Reference:
    Guo, Pleiss, Sun and Weinberger, On calibration of modern neural networks, 2017, section 4.2.
  """
  return _apply(params, logits, 2)


def _apply(params: AffineMap, logits: ArrayLike, rank: int) -> Array:
  if not isinstance(params, AffineMap):
    raise TypeError(f"params must be an AffineMap; got {_checks.describe(params)}.")
  scores = _logits.check_logits(logits)
  weight = _checks.check_float_array("params.weight", params.weight, rank=rank)
  bias = _checks.check_float_array("params.bias", params.bias, rank=1)
  if weight.shape != (len(bias),) * rank:
    raise ValueError(
      f"params must have a weight of shape {(len(bias),) * rank} beside its bias; got "
      f"{weight.shape}."
    )
  _logits.check_classes("params", len(bias), scores)
  wide = numerics.upcast(scores)
  bias = bias.astype(wide.dtype).reshape((1,) * (scores.ndim - 1) + bias.shape)
  weight = weight.astype(wide.dtype)
  if rank == 1:
    weight = weight.reshape(bias.shape)
    return (wide * weight + bias).astype(scores.dtype)
  return (wide @ weight.T + bias).astype(scores.dtype)
