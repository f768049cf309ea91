"""What unfolded networks are made of: parameters of their layers, and what a layer measures."""

from typing import NamedTuple

from jaxopt_robust.typing import Array

__all__ = ["ListaLayers", "Measurements", "StepLayers", "ThresholdLayers", "WeightLayers"]


class Measurements(NamedTuple):
  """Linear measurements y = A x + noise of a sparse x; what the cells of this module take as data.

  Attributes:
    y: float[..., m], the measurements; leading axes are examples.
    matrix: float[m, n], A, the same for all examples.
    weight: float[m, n], W, by which ``alista_cell`` and ``tista_cell`` go back from residuals to
      coefficients in place of A; None where the cell takes none.

  Example:
    >>> Measurements(jnp.ones(2), jnp.eye(2)).weight is None
    True

  Reference:
    Liu, Chen, Wang and Yin, ALISTA: analytic weights are as good as learned weights in LISTA, 2019.
  """

  y: Array
  matrix: Array
  weight: Array | None = None


class StepLayers(NamedTuple):
  """Layers that learn a step size each.

  Attributes:
    step: float[layers], g_k >= 0; a scalar within a layer.

  Example:
    >>> StepLayers._fields
    ('step',)

  Reference:
    Ito, Takabe and Wadayama, Trainable ISTA for sparse signal recovery, 2019.
  """

  step: Array


class ThresholdLayers(NamedTuple):
  """Layers that learn a step size and a threshold each.

  Attributes:
    step: float[layers], g_k >= 0; a scalar within a layer.
    threshold: float[layers] or float[layers, n], t_k >= 0.
    support: float[layers] in [0, 1], the share of the largest entries that are not shrunk, or None
      for none. It decides by comparison alone: its gradient is 0.

  Example:
    >>> ThresholdLayers(jnp.ones(3), jnp.zeros(3)).support is None
    True

  Reference:
    Chen, Liu, Wang and Yin, Theoretical linear convergence of unfolded ISTA and its practical
    weights and thresholds, 2018 (support selection).
  """

  step: Array
  threshold: Array
  support: Array | None = None


class WeightLayers(NamedTuple):
  """Layers of LISTA with coupled weights (LISTA-CP).

  Attributes:
    weight: float[layers, m, n], W_k, in place of step times A.
    threshold: float[layers] or float[layers, n], t_k >= 0.
    support: as in ``ThresholdLayers``.

  Example:
    >>> WeightLayers._fields
    ('weight', 'threshold', 'support')

  Reference:
    Chen, Liu, Wang and Yin, Theoretical linear convergence of unfolded ISTA and its practical
    weights and thresholds, 2018.
  """

  weight: Array
  threshold: Array
  support: Array | None = None


class ListaLayers(NamedTuple):
  """Layers of LISTA with free weights.

  Attributes:
    input_weight: float[layers, n, m], W1_k, which multiplies y.
    state_weight: float[layers, n, n], W2_k, which multiplies x.
    threshold: float[layers] or float[layers, n], t_k >= 0.

  Example:
    >>> ListaLayers._fields
    ('input_weight', 'state_weight', 'threshold')

  Reference:
    Gregor and LeCun, Learning fast approximations of sparse coding, 2010.
  """

  input_weight: Array
  state_weight: Array
  threshold: Array
