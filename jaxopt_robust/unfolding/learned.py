"""Networks with learned or analytic weights: LISTA, LISTA-CP, ALISTA, TiLISTA."""

import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.numerics import magnitude, safe_divide, soft_threshold, upcast
from jaxopt_robust.typing import Array, ArrayLike
from jaxopt_robust.unfolding._layers import (
  check_layer,
  check_matrix,
  default_step,
  multiply,
  opened,
  parameter,
  repeated,
  scalar_step,
  strength_of,
)
from jaxopt_robust.unfolding.types import (
  ListaLayers,
  Measurements,
  ThresholdLayers,
  WeightLayers,
)

__all__ = [
  "alista_cell",
  "alista_layers",
  "alista_weight",
  "lista_cell",
  "lista_cp_cell",
  "lista_cp_layers",
  "lista_layers",
  "soft_threshold_except_largest",
  "support_schedule",
]

# Of the reference implementation of ALISTA, as the fraction of 1 / ||A||_2^2.
_ALISTA_THRESHOLD = 0.4 / 1.001


def soft_threshold_except_largest(
  x: ArrayLike, threshold: ArrayLike, *, support: ArrayLike
) -> Array:
  r"""Soft thresholding that leaves the largest entries as they are (support selection).

    y_i = x_i                    where |x_i| > t and x_i is among the round(support n) largest
    y_i = soft(x_i, t)           elsewhere

  Large entries are surely part of the signal: shrinking them would only bias them.

  Args:
    x: float[..., n]; the largest entries are those of the last axis.
    threshold: t >= 0, a scalar or of the shape of ``x``; may be traced.
    support: in [0, 1], a scalar, the share of entries; may be traced.

  Returns:
    Like ``x``. NaN entries stay NaN.

  Raises:
    TypeError: when ``x`` holds no numbers.
    ValueError: when ``threshold`` is negative or ``support`` not in [0, 1].

  Note:
    Of equal moduli the lower index is the larger. The choice has no derivative.

  Example:
    >>> soft_threshold_except_largest(jnp.array([3.0, -2.0, 0.5, 0.1]), 1.0, support=0.25)
    Array([ 3., -1.,  0.,  0.], dtype=float32)

  Reference:
    Chen, Liu, Wang and Yin, Theoretical linear convergence of unfolded ISTA and its practical
    weights and thresholds, 2018.
  """
  x = _checks.check_float_array("x", x, min_rank=1)
  _checks.check_interval("support", support, 0.0, 1.0, scalar=True)
  shrunk = soft_threshold(x, threshold)
  size = magnitude(x)
  share = _checks.check_float_array("support", support, rank=0).astype(size.dtype)
  count = jnp.round(share * x.shape[-1]).astype(jnp.int32)
  order = jnp.argsort(-size, axis=-1, stable=True)
  rank = jnp.argsort(order, axis=-1, stable=True)
  chosen = (rank < count) & (size > jnp.asarray(threshold, size.dtype))
  return jnp.where(chosen, x, shrunk)


def _shrunk(moved: Array, layer: ThresholdLayers | WeightLayers) -> Array:
  threshold = parameter("threshold", layer.threshold, moved)
  if layer.support is None:
    return soft_threshold(moved, threshold)
  return soft_threshold_except_largest(moved, threshold, support=layer.support)


def lista_cell(x: ArrayLike, layer: ListaLayers, data: Measurements) -> Array:
  r"""One layer of LISTA, with two free weight matrices.

    x+ = soft(W1 y + W2 x, t)

  With W1 = A^T / L, W2 = I - A^T A / L and t = lam / L (``lista_layers``) this is a step of ISTA.

  Args:
    x: float[..., n], the iterate.
    layer: ``ListaLayers`` of one layer. A threshold below 0 counts as 0.
    data: ``Measurements(y, matrix)`` as in ``ista_cell``; of A the shape alone is used.

  Returns:
    float[..., n], in the dtype of ``x``.

  Raises:
    TypeError: when ``layer`` or ``data`` are of another kind.
    ValueError: when shapes do not fit.

  Example:
    >>> data = jr.unfolding.Measurements(jnp.array([3.0, 0.5]), jnp.eye(2))
    >>> layer = ListaLayers(jnp.eye(2), jnp.zeros((2, 2)), jnp.ones(()))
    >>> lista_cell(jnp.zeros(2), layer, data)
    Array([2., 0.], dtype=float32)

  Reference:
    Gregor and LeCun, Learning fast approximations of sparse coding, 2010.
  """
  layer = check_layer(layer, ListaLayers)
  x, y, matrix, _ = opened(x, data)
  m, n = matrix.shape
  weights = {"input_weight": (n, m), "state_weight": (n, n)}
  for name, shape in weights.items():
    if jnp.shape(getattr(layer, name)) != shape:
      raise ValueError(
        f"layer.{name} must have shape {shape} within a layer; "
        f"got {jnp.shape(getattr(layer, name))}."
      )
  into, within = (jnp.asarray(getattr(layer, name), x.dtype) for name in weights)
  moved = multiply(y, into.T) + multiply(x, within.T)
  return soft_threshold(moved, parameter("threshold", layer.threshold, moved))


def lista_cp_cell(x: ArrayLike, layer: WeightLayers, data: Measurements) -> Array:
  r"""One layer of LISTA with coupled weights (LISTA-CP), with or without support selection.

    x+ = soft(x + W^T (y - A x), t)

  The weights of LISTA become W2 = I - W^T A, W1 = W^T: every LISTA that converges to the signal has
  this form in the limit. ``layer.support`` leaves the largest entries unshrunk (LISTA-CPSS).

  Args:
    x: float[..., n], the iterate.
    layer: ``WeightLayers`` of one layer. A threshold below 0 counts as 0.
    data: ``Measurements(y, matrix)`` as in ``ista_cell``.

  Returns:
    float[..., n], in the dtype of ``x``.

  Raises:
    TypeError: when ``layer`` or ``data`` are of another kind.
    ValueError: when shapes do not fit.

  Example:
    >>> data = jr.unfolding.Measurements(jnp.array([3.0, 0.5]), jnp.eye(2))
    >>> lista_cp_cell(jnp.zeros(2), WeightLayers(jnp.eye(2), jnp.ones(())), data)
    Array([2., 0.], dtype=float32)

  Reference:
    Chen, Liu, Wang and Yin, Theoretical linear convergence of unfolded ISTA and its practical
    weights and thresholds, 2018.
  """
  layer = check_layer(layer, WeightLayers)
  x, y, matrix, _ = opened(x, data)
  if jnp.shape(layer.weight) != matrix.shape:
    raise ValueError(
      f"layer.weight must have the shape of data.matrix, {matrix.shape}, within a layer; "
      f"got {jnp.shape(layer.weight)}."
    )
  weight = jnp.asarray(layer.weight, x.dtype)
  return _shrunk(x + multiply(y - multiply(x, matrix.T), weight), layer)


def alista_cell(x: ArrayLike, layer: ThresholdLayers, data: Measurements) -> Array:
  r"""One layer of ALISTA: a step and a threshold a layer, one weight matrix for all.

    x+ = soft(x + g W^T (y - A x), t)

  W is fixed and computed from A alone (``alista_weight``). With W trained as well, the same cell is
  TiLISTA: make ``data.weight`` a parameter of the loss. With W = A it is ``ista_cell``.
  ``layer.support`` leaves the largest entries unshrunk.

  Args:
    x: float[..., n], the iterate.
    layer: ``ThresholdLayers`` of one layer. Below 0 its numbers count as 0.
    data: ``Measurements(y, matrix, weight)``; W float[m, n].

  Returns:
    float[..., n], in the dtype of ``x``.

  Raises:
    TypeError: when ``layer`` or ``data`` are of another kind.
    ValueError: when shapes do not fit, or ``data.weight`` is None.

  Example:
    >>> matrix = jnp.array([[1.0, 0.0, 0.6], [0.0, 1.0, 0.8]])
    >>> weight = jr.unfolding.alista_weight(matrix)
    >>> data = jr.unfolding.Measurements(jnp.array([3.0, 0.5]), matrix, weight)
    >>> x = alista_cell(jnp.zeros(3), ThresholdLayers(jnp.ones(()), jnp.ones(())), data)
    >>> (x != 0).tolist()
    [True, False, True]

  Reference:
    Liu, Chen, Wang and Yin, ALISTA: analytic weights are as good as learned weights in LISTA, 2019.
  """
  layer = check_layer(layer, ThresholdLayers)
  x, y, matrix, weight = opened(x, data, weight=True)
  step = scalar_step(layer.step, x)
  return _shrunk(x + step * multiply(y - multiply(x, matrix.T), weight), layer)


def _support(support: ArrayLike | None, like: Array, num_layers: int) -> Array | None:
  """The share of entries that each layer leaves as they are."""
  if support is None:
    return None
  _checks.check_interval("support", support, 0.0, 1.0)
  array = _checks.check_float_array("support", support, rank=1).astype(like.dtype)
  if array.shape != (num_layers,):
    raise ValueError(f"support must have shape {(num_layers,)}; got {array.shape}.")
  return array


def thin_svd(name: str, matrix: ArrayLike) -> tuple[Array, Array, Array]:
  """U, 1/s and V^T of A; 1/s is 0 where s is rounding of the largest."""
  array = check_matrix(name, matrix)
  u, s, vt = jnp.linalg.svd(upcast(array), full_matrices=False)
  least = jnp.finfo(s.dtype).eps * max(array.shape) * s[:1]
  inverse = jnp.where(s > least, safe_divide(1.0, s), 0)
  return u.astype(array.dtype), inverse.astype(array.dtype), vt.astype(array.dtype)


def alista_weight(matrix: ArrayLike) -> Array:
  r"""The analytic weight of ALISTA, in closed form.

  Solves argmin_W ||W^T A||_F^2 subject to w_i^T a_i = 1 for each column a_i of A, by

    w_i = (A A^T)^{-1} a_i / (a_i^T (A A^T)^{-1} a_i),

  computed from the singular value decomposition of A, which does not square its condition.

  Args:
    matrix: float[m, n], A, usually of more columns than rows and of full row rank.

  Returns:
    float[m, n], W; a column of zeros where that of A is zero. Where A has dependent rows the
    inverse is the pseudo-inverse: still a minimiser.

  Raises:
    TypeError: when ``matrix`` is no array of real numbers.
    ValueError: when it is no finite matrix.

  Note:
    The columns of A need not have length 1. Differentiable where the singular values are distinct.

  Example:
    >>> matrix = jnp.array([[1.0, 0.0, 0.6], [0.0, 1.0, 0.8]])
    >>> (alista_weight(matrix) * matrix).sum(0).round(4)
    Array([1., 1., 1.], dtype=float32)

  Reference:
    Liu, Chen, Wang and Yin, ALISTA: analytic weights are as good as learned weights in LISTA, 2019
    (the problem, which they solve by projected gradients; the closed form is ours).
  """
  u, inverse, vt = thin_svd("matrix", matrix)
  vt = jnp.where((inverse > 0)[:, None], vt, 0)
  leverage = jnp.sum(vt * vt, axis=0)  # a_i^T (A A^T)^{-1} a_i
  unscaled = multiply(u * jnp.broadcast_to(inverse, u.shape), vt)
  is_zero = jnp.all(jnp.asarray(matrix) == 0, axis=0)
  leverage = jnp.broadcast_to(jnp.where(is_zero, 0, leverage), unscaled.shape)
  return safe_divide(unscaled, leverage)


def alista_layers(
  matrix: ArrayLike,
  *,
  num_layers: int,
  threshold: ArrayLike | None = None,
  support: ArrayLike | None = None,
) -> ThresholdLayers:
  r"""The usual start of ALISTA: g_k = 1, t_k = 0.4 / (1.001 ||A||_2^2).

  Args:
    matrix: float[m, n], A.
    num_layers: K >= 1, static.
    threshold: t >= 0, a scalar, in place of the usual one; may be traced.
    support: float[num_layers] in [0, 1], such as ``support_schedule``; None for no selection.

  Returns:
    ``ThresholdLayers`` of K layers.

  Raises:
    TypeError: when ``matrix`` is no array of real numbers.
    ValueError: when it is no finite matrix, or a number is out of range.

  Note:
    The usual threshold fits signals of size 1 and columns of length 1; otherwise give your own.

  Example:
    >>> alista_layers(jnp.eye(2), num_layers=2).threshold.round(4)
    Array([0.3996, 0.3996], dtype=float32)

  Reference:
    The public implementation of Liu, Chen, Wang and Yin, ALISTA: analytic weights are as good as
    learned weights in LISTA, 2019.
  """
  matrix = check_matrix("matrix", matrix)
  num_layers = _checks.check_int("num_layers", num_layers, minimum=1)
  if threshold is None:
    first = _ALISTA_THRESHOLD * default_step(matrix, None)
  else:
    _checks.check_non_negative("threshold", threshold, scalar=True)
    first = _checks.check_float_array("threshold", threshold, rank=0).astype(matrix.dtype)
  step = jnp.ones((), matrix.dtype)
  return ThresholdLayers(
    repeated(step, num_layers), repeated(first, num_layers), _support(support, step, num_layers)
  )


def support_schedule(
  *, num_layers: int, rate: ArrayLike = 0.012, largest: ArrayLike = 0.13
) -> Array:
  r"""Shares for support selection that grow with the layer: p_k = min(rate k, largest).

  Args:
    num_layers: K >= 1, static; k = 1, ..., K.
    rate: in [0, 1], a scalar; may be traced.
    largest: in [0, 1], a scalar; may be traced.

  Returns:
    float[num_layers].

  Raises:
    TypeError: when ``num_layers`` is no integer.
    ValueError: when a number is out of range.

  Example:
    >>> support_schedule(num_layers=3, rate=0.1, largest=0.2)
    Array([0.1, 0.2, 0.2], dtype=float32)

  Reference:
    Chen, Liu, Wang and Yin, Theoretical linear convergence of unfolded ISTA and its practical
    weights and thresholds, 2018; the numbers 1.2 and 13 percent are those of the
    public implementation of ALISTA.
  """
  num_layers = _checks.check_int("num_layers", num_layers, minimum=1)
  _checks.check_interval("rate", rate, 0.0, 1.0, scalar=True)
  _checks.check_interval("largest", largest, 0.0, 1.0, scalar=True)
  rate, largest = (
    _checks.check_float_array(name, value, rank=0)
    for name, value in (("rate", rate), ("largest", largest))
  )
  return jnp.minimum(rate * jnp.arange(1, num_layers + 1, dtype=rate.dtype), largest)


def lista_layers(
  matrix: ArrayLike,
  strength: ArrayLike,
  *,
  num_layers: int,
  lipschitz: ArrayLike | None = None,
) -> ListaLayers:
  r"""Weights with which ``lista_cell`` is ISTA: W1 = A^T / L, W2 = I - A^T A / L, t = lam / L.

  Args:
    matrix: float[m, n], A.
    strength: lam >= 0, a scalar or float[n]; may be traced.
    num_layers: K >= 1, static.
    lipschitz: L > 0 where it is known, else ||A||_2^2; may be traced.

  Returns:
    ``ListaLayers`` of K layers. For weights that all layers share train one layer and
    ``repeat_layers`` it inside the loss.

  Raises:
    TypeError: when ``matrix`` is no array of real numbers.
    ValueError: when it is no finite matrix, or a number is out of range.

  Example:
    >>> lista_layers(2 * jnp.eye(2), 1.0, num_layers=3).input_weight[0]
    Array([[0.5, 0. ],
           [0. , 0.5]], dtype=float32)

  Reference:
    Gregor and LeCun, Learning fast approximations of sparse coding, 2010.
  """
  matrix = check_matrix("matrix", matrix)
  num_layers = _checks.check_int("num_layers", num_layers, minimum=1)
  step = default_step(matrix, lipschitz)
  into = step * matrix.T
  within = jnp.eye(matrix.shape[1], dtype=matrix.dtype) - multiply(into, matrix)
  threshold = step * strength_of(strength, matrix)
  return ListaLayers(*(repeated(value, num_layers) for value in (into, within, threshold)))


def lista_cp_layers(
  matrix: ArrayLike,
  strength: ArrayLike,
  *,
  num_layers: int,
  lipschitz: ArrayLike | None = None,
  support: ArrayLike | None = None,
) -> WeightLayers:
  r"""Weights with which ``lista_cp_cell`` is ISTA: W = A / L, t = lam / L.

  Args:
    matrix: float[m, n], A.
    strength: lam >= 0, a scalar or float[n]; may be traced.
    num_layers: K >= 1, static.
    lipschitz: L > 0 where it is known, else ||A||_2^2; may be traced.
    support: float[num_layers] in [0, 1], such as ``support_schedule``; None for no selection.

  Returns:
    ``WeightLayers`` of K layers.

  Raises:
    TypeError: when ``matrix`` is no array of real numbers.
    ValueError: when it is no finite matrix, or a number is out of range.

  Example:
    >>> lista_cp_layers(2 * jnp.eye(2), 1.0, num_layers=3).weight[0]
    Array([[0.5, 0. ],
           [0. , 0.5]], dtype=float32)

  Reference:
    Chen, Liu, Wang and Yin, Theoretical linear convergence of unfolded ISTA and its practical
    weights and thresholds, 2018.
  """
  matrix = check_matrix("matrix", matrix)
  num_layers = _checks.check_int("num_layers", num_layers, minimum=1)
  step = default_step(matrix, lipschitz)
  threshold = repeated(step * strength_of(strength, matrix), num_layers)
  return WeightLayers(
    repeated(step * matrix, num_layers), threshold, _support(support, step, num_layers)
  )
