"""Networks with learned or analytic weights: LISTA, LISTA-CP, ALISTA, TiLISTA."""

import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.numerics import safe_divide, soft_threshold
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
  thin_svd,
)
from jaxopt_robust.unfolding.support_selection import soft_threshold_except_largest
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
]

# Of the reference implementation of ALISTA, as the fraction of 1 / ||A||_2^2.
_ALISTA_THRESHOLD = 0.4 / 1.001


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
