"""Unfolded ISTA and IHT: gradient steps of the data term, then a threshold, learned a layer."""

from typing import Any

import jax.numpy as jnp

from jaxopt_robust import _checks, prox
from jaxopt_robust.numerics import hard_threshold, soft_threshold
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
  spread,
  strength_of,
)
from jaxopt_robust.unfolding.types import Measurements, StepLayers, ThresholdLayers

__all__ = [
  "continuation_layers",
  "hard_threshold_cell",
  "iht_cell",
  "ista_cell",
  "ista_layers",
  "step_layers",
  "tied_ista_cell",
]


def _moved(x: ArrayLike, layer: Any, data: Any) -> tuple[Array, Array]:
  """x + g A^T (y - A x), and g."""
  x, y, matrix, _ = opened(x, data)
  step = scalar_step(layer.step, x)
  return x + step * multiply(y - multiply(x, matrix.T), matrix), step


def ista_cell(x: ArrayLike, layer: ThresholdLayers, data: Measurements) -> Array:
  r"""One layer of unfolded ISTA with a free threshold.

    x+ = soft(x + g A^T (y - A x), t)

  With g = 1/L, L = ||A||_2^2, and t = lam / L this is a step of ``solvers.ista`` on
  1/2 ||y - A x||_2^2 + lam ||x||_1.

  Args:
    x: float[..., n], the iterate.
    layer: ``ThresholdLayers`` of one layer: step g >= 0 and threshold t >= 0 (``support`` is not
      used). Below 0 they count as 0, without a gradient: train them by ``to_positive``.
    data: ``Measurements(y, matrix)``: y float[..., m] with the leading axes of x, A float[m, n].

  Returns:
    float[..., n], in the dtype of ``x``.

  Raises:
    TypeError: when ``layer`` or ``data`` are of another kind.
    ValueError: when shapes do not fit.

  Note:
    Where |x_i| is exactly the threshold the derivative is 0.

  Example:
    >>> data = jr.unfolding.Measurements(jnp.array([3.0, 0.5]), jnp.eye(2))
    >>> ista_cell(jnp.zeros(2), ThresholdLayers(jnp.ones(()), jnp.ones(())), data)
    Array([2., 0.], dtype=float32)

  Reference:
    Nagahisa, Hayakawa and Iiguni, Comparison between supervised and unsupervised learning in deep
    unfolded sparse signal recovery, 2025 (the network; whether its threshold is free was not read).
  """
  layer = check_layer(layer, ThresholdLayers)
  moved, _ = _moved(x, layer, data)
  return soft_threshold(moved, parameter("threshold", layer.threshold, moved))


def tied_ista_cell(
  x: ArrayLike, layer: StepLayers, data: Measurements, *, strength: ArrayLike
) -> Array:
  r"""One layer of unfolded ISTA whose threshold follows from its step.

    x+ = soft(x + g A^T (y - A x), g lam)

  Args:
    x: float[..., n], the iterate.
    layer: ``StepLayers`` of one layer: the step g >= 0; below 0 it counts as 0.
    data: ``Measurements(y, matrix)`` as in ``ista_cell``.
    strength: lam >= 0, a scalar or float[n]; may be traced. Bind it: ``functools.partial``.

  Returns:
    float[..., n], in the dtype of ``x``.

  Raises:
    TypeError: when ``layer`` or ``data`` are of another kind.
    ValueError: when shapes do not fit, or ``strength`` is negative.

  Example:
    >>> data = jr.unfolding.Measurements(jnp.array([3.0, 0.5]), jnp.eye(2))
    >>> tied_ista_cell(jnp.zeros(2), StepLayers(jnp.array(0.5)), data, strength=1.0)
    Array([1., 0.], dtype=float32)

  Reference:
    Nagahisa, Hayakawa and Iiguni, Comparison between supervised and unsupervised learning in deep
    unfolded sparse signal recovery, 2025.
  """
  layer = check_layer(layer, StepLayers)
  moved, step = _moved(x, layer, data)
  return prox.prox_lasso(moved, spread("strength", strength, moved), step)


def iht_cell(x: ArrayLike, layer: StepLayers, data: Measurements, *, strength: ArrayLike) -> Array:
  r"""One layer of unfolded iterative hard thresholding.

    x+ = hard(x + g A^T (y - A x), sqrt(2 g lam))

  With g < 1/L this is a step of ``solvers.ista`` with ``prox.prox_l0`` on
  1/2 ||y - A x||_2^2 + lam ||x||_0, which never increases that objective.

  Args:
    x: float[..., n], the iterate.
    layer: ``StepLayers`` of one layer: the step g >= 0; below 0 it counts as 0.
    data: ``Measurements(y, matrix)`` as in ``ista_cell``.
    strength: lam >= 0, a scalar or float[n]; may be traced. Bind it: ``functools.partial``.

  Returns:
    float[..., n], in the dtype of ``x``.

  Raises:
    TypeError: when ``layer`` or ``data`` are of another kind.
    ValueError: when shapes do not fit, or ``strength`` is negative.

  Note:
    The derivative is that of the branch taken: the step is learned from the entries that are kept,
    through x + g A^T (y - A x), and not through the threshold.

  Example:
    >>> data = jr.unfolding.Measurements(jnp.array([3.0, 0.5]), jnp.eye(2))
    >>> iht_cell(jnp.zeros(2), StepLayers(jnp.ones(())), data, strength=1.0)
    Array([3., 0.], dtype=float32)

  Reference:
    Nagahisa, Hayakawa and Iiguni, Comparison between supervised and unsupervised learning in deep
    unfolded sparse signal recovery, 2025; the iteration: Blumensath and Davies, Iterative
    thresholding for sparse approximations, 2008, equation 2.
  """
  layer = check_layer(layer, StepLayers)
  moved, step = _moved(x, layer, data)
  return prox.prox_l0(moved, spread("strength", strength, moved), step)


def hard_threshold_cell(x: ArrayLike, layer: ThresholdLayers, data: Measurements) -> Array:
  r"""One step of iterative hard thresholding at a given threshold, for schedules.

    x+ = hard(x + g A^T (y - A x), t)

  Args:
    x: float[..., n], the iterate.
    layer: ``ThresholdLayers`` of one layer, as in ``ista_cell``.
    data: ``Measurements(y, matrix)`` as in ``ista_cell``.

  Returns:
    float[..., n], in the dtype of ``x``.

  Raises:
    TypeError: when ``layer`` or ``data`` are of another kind.
    ValueError: when shapes do not fit.

  Note:
    The threshold gets no gradient: it cannot be trained this way. ``continuation_layers`` gives a
    schedule of it.

  Example:
    >>> data = jr.unfolding.Measurements(jnp.array([3.0, 0.5]), jnp.eye(2))
    >>> hard_threshold_cell(jnp.zeros(2), ThresholdLayers(jnp.ones(()), jnp.ones(())), data)
    Array([3., 0.], dtype=float32)

  Reference:
    Blumensath and Davies, Iterative thresholding for sparse approximations, 2008, equation 2.
  """
  layer = check_layer(layer, ThresholdLayers)
  moved, _ = _moved(x, layer, data)
  return hard_threshold(moved, parameter("threshold", layer.threshold, moved))


def step_layers(
  matrix: ArrayLike, *, num_layers: int, lipschitz: ArrayLike | None = None
) -> StepLayers:
  r"""Steps with which unfolded ISTA and IHT are the classical methods: g_k = 1/L, L = ||A||_2^2.

  Args:
    matrix: float[m, n], A.
    num_layers: K >= 1, static.
    lipschitz: L > 0 where it is known; may be traced. None: the singular values of A tell it.

  Returns:
    ``StepLayers`` of K layers.

  Raises:
    TypeError: when ``matrix`` is no array of real numbers.
    ValueError: when it is no finite matrix, or a number is out of range.

  Example:
    >>> step_layers(2 * jnp.eye(2), num_layers=3).step
    Array([0.25, 0.25, 0.25], dtype=float32)

  Reference:
    Daubechies, Defrise and De Mol, An iterative thresholding algorithm for linear inverse problems
    with a sparsity constraint, 2004.
  """
  matrix = check_matrix("matrix", matrix)
  num_layers = _checks.check_int("num_layers", num_layers, minimum=1)
  return StepLayers(repeated(default_step(matrix, lipschitz), num_layers))


def ista_layers(
  matrix: ArrayLike,
  strength: ArrayLike,
  *,
  num_layers: int,
  lipschitz: ArrayLike | None = None,
) -> ThresholdLayers:
  r"""Steps and thresholds with which ``ista_cell`` is ISTA: g_k = 1/L, t_k = lam / L.

  Args:
    matrix: float[m, n], A.
    strength: lam >= 0, a scalar or float[n]; may be traced.
    num_layers: K >= 1, static.
    lipschitz: L > 0 where it is known, else ||A||_2^2; may be traced.

  Returns:
    ``ThresholdLayers`` of K layers.

  Raises:
    TypeError: when ``matrix`` is no array of real numbers.
    ValueError: when it is no finite matrix, or a number is out of range.

  Example:
    >>> ista_layers(2 * jnp.eye(2), 1.0, num_layers=2).threshold
    Array([0.25, 0.25], dtype=float32)

  Reference:
    Beck and Teboulle, A fast iterative shrinkage-thresholding algorithm for linear inverse
    problems, 2009, section 3.
  """
  matrix = check_matrix("matrix", matrix)
  num_layers = _checks.check_int("num_layers", num_layers, minimum=1)
  step = default_step(matrix, lipschitz)
  threshold = step * strength_of(strength, matrix)
  return ThresholdLayers(repeated(step, num_layers), repeated(threshold, num_layers))


def continuation_layers(
  matrix: ArrayLike,
  strength: ArrayLike,
  *,
  num_layers: int,
  start: ArrayLike = 4.0,
  decay: ArrayLike = 0.97,
  lipschitz: ArrayLike | None = None,
) -> ThresholdLayers:
  r"""Iterative hard thresholding with a falling threshold, for ``hard_threshold_cell``.

  With g = 1/L the threshold of layer k is max(start decay^k, 1) sqrt(2 g lam): large at first, so
  that only sure entries enter, then that of the objective 1/2 ||y - A x||_2^2 + lam ||x||_0. It
  often ends in a lower local minimum than the fixed threshold does.

  Args:
    matrix: float[m, n], A.
    strength: lam >= 0, a scalar or float[n]; may be traced.
    num_layers: K >= 1, static; more than log(start) / log(1 / decay), 46 here.
    start: >= 1, the factor of the first threshold.
    decay: in (0, 1), its factor a step.
    lipschitz: L > 0 where it is known, else ||A||_2^2; may be traced.

  Returns:
    ``ThresholdLayers`` of K layers.

  Raises:
    TypeError: when ``matrix`` is no array of real numbers.
    ValueError: when it is no finite matrix, or a number is out of range.

  Example:
    >>> layers = continuation_layers(jnp.eye(2), 0.5, num_layers=3, start=4.0, decay=0.5)
    >>> layers.threshold.round(2)
    Array([4., 2., 1.], dtype=float32)

  Reference:
    Continuation in iterative thresholding: Hale, Yin and Zhang, Fixed-point continuation for
    l1-minimization: methodology and convergence, 2008; the numbers 4 and 0.97 are ours.
  """
  matrix = check_matrix("matrix", matrix)
  num_layers = _checks.check_int("num_layers", num_layers, minimum=1)
  _checks.check_interval("start", start, 1.0, float("inf"), closed="left", scalar=True)
  _checks.check_interval("decay", decay, 0.0, 1.0, closed="neither", scalar=True)
  step = default_step(matrix, lipschitz)
  least = jnp.sqrt(2 * step) * jnp.sqrt(strength_of(strength, matrix))
  start, decay = (jnp.asarray(value, matrix.dtype) for value in (start, decay))
  factor = jnp.maximum(start * decay ** jnp.arange(num_layers, dtype=matrix.dtype), 1)
  threshold = factor.reshape(-1, *(1,) * least.ndim) * repeated(least, num_layers)
  return ThresholdLayers(repeated(step, num_layers), threshold)
