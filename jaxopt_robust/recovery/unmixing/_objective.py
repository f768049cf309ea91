"""The objective that the methods of spectral unmixing share, and what they do around a step."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxopt_robust import _checks
from jaxopt_robust.numerics import safe_divide
from jaxopt_robust.recovery.operators import wide_dot
from jaxopt_robust.recovery.unmixing.metrics import hoyer_sparseness
from jaxopt_robust.recovery.unmixing.types import (
  Unmixing,
  UnmixingInfo,
  UnmixingState,
  check_pixels,
  row_norms,
  unit_of,
)
from jaxopt_robust.recovery.unmixing.weights import l21_weights
from jaxopt_robust.typing import Array, ArrayLike

# Of the mean norm of a channel: below it a norm counts as a square. Without it a channel that fits
# exactly would weigh more than all others together and keep the abundances where they are.
SMALL_NORM = 1e-3
_SMALL_ABUNDANCE = 1e-3  # below it a power is replaced by its tangent
_MAX_GUIDANCE = 0.9  # so that the exponent of a pure pixel is 0.1


class Terms(NamedTuple):
  """Data in units of their size, and the numbers of the objective.

  total: sum of the norms of the channels, or of their squares. floor: norm below which a square is
  taken, None where all are squares. lam, sum_weight: weights of a pixel.
  """

  pixels: Array
  total: Array
  floor: Array | None
  lam: Array
  sum_weight: Array


def check_options(exponent: ArrayLike | None, warm_up: ArrayLike) -> Any:
  """Refuses exponents out of range; warm_up as an integer."""
  if exponent is not None:
    _checks.check_interval("exponent", exponent, 0.0, 1.0, closed="right")
    if jnp.ndim(exponent) > 1:
      raise ValueError(f"exponent must be a number or one a pixel; got shape {jnp.shape(exponent)}")
  return _checks.check_integers("warm_up", warm_up, low=0, shape=())


def make_terms(
  lam: Any, pixels: ArrayLike, sum_weight: ArrayLike, *, robust: bool
) -> tuple[Array, Terms]:
  """The unit of the data, and the terms; negative pixels count as 0."""
  data = check_pixels(pixels, finite=False)
  if lam is None:
    lam = 0.0
  _checks.check_non_negative("lam", lam, scalar=True)
  unit = unit_of(data)
  scaled = jnp.maximum(data / unit, 0)  # NaN stays: the run ends with status 2
  norms = row_norms(scaled)
  total = jnp.sum(norms if robust else norms**2)
  total = jnp.where(total > 0, total, 1)
  strength, weight = (jnp.asarray(v, data.dtype) / data.shape[1] for v in (lam, sum_weight))
  floor = SMALL_NORM * total / data.shape[0] if robust else None
  return unit, Terms(scaled, total, floor, strength, weight)


def data_term(terms: Terms, residual: Array) -> Array:
  """Sum of norms of channels over that of the data, or half of the sums of squares."""
  norms = row_norms(residual)
  if terms.floor is None:
    return jnp.sum(norms**2) / (2 * terms.total)
  small = norms**2 / (2 * terms.floor) + terms.floor / 2
  return jnp.sum(jnp.where(norms < terms.floor, small, norms)) / terms.total


def channel_weights(terms: Terms, residual: Array) -> Array:
  """Of the channels, float[channels, 1], in the quadratic that majorises the data term."""
  if terms.floor is None:
    return jnp.full((residual.shape[0], 1), 1 / terms.total)
  return l21_weights(residual, axis=1, floor=terms.floor)[:, None] / terms.total


def sum_penalty(terms: Terms, abundances: Array) -> Array:
  """The soft constraint on the sums."""
  return terms.sum_weight / 2 * jnp.sum((1 - jnp.sum(abundances, axis=0)) ** 2)


def tangent_powers(terms: Terms, abundances: Array, power: Array) -> Array:
  """Powers, below the floor their tangents there."""
  low = jnp.minimum(abundances - _SMALL_ABUNDANCE, 0)
  kept = jnp.maximum(abundances, _SMALL_ABUNDANCE)
  return terms.lam * jnp.sum(kept**power + low * power * _SMALL_ABUNDANCE ** (power - 1))


def slope_of_powers(terms: Terms, abundances: Array, power: Array) -> Array:
  """Derivative of ``tangent_powers``."""
  return terms.lam * power * jnp.maximum(abundances, _SMALL_ABUNDANCE) ** (power - 1)


def _guidance(abundances: Array) -> Array:
  return jnp.clip(hoyer_sparseness(abundances, axis=0), 0, _MAX_GUIDANCE)


def first_state(
  params: Unmixing, exponent: ArrayLike | None, terms: Terms, unit: Array
) -> UnmixingState:
  """The state at the start, with the map of its abundances or the exponents that are given."""
  residual = terms.pixels - wide_dot(params.spectra / unit, params.abundances)
  if exponent is None:
    guidance = _guidance(params.abundances)
  else:
    power = jnp.asarray(exponent, params.abundances.dtype)
    if power.ndim and power.shape != params.abundances.shape[1:]:
      raise ValueError(
        f"exponent must be a number or have shape {params.abundances.shape[1:]}; got {power.shape}."
      )
    guidance = jnp.broadcast_to(1 - power, params.abundances.shape[1:])
  return UnmixingState(params, guidance, data_term(terms, residual), jnp.zeros((), jnp.int32))


def next_state(
  state: UnmixingState, params: Unmixing, loss: Array, values: tuple[Array, Array], *,
  learns: bool, warm_up: Any,
) -> tuple[UnmixingState, UnmixingInfo]:  # fmt: skip
  """The state after a step, with its map, and what the step did to the objective."""
  previous, value = values
  count = state.count + 1
  guidance, drift = state.guidance, jnp.zeros_like(value)
  if learns:
    learned = _guidance(params.abundances)
    drift = jnp.mean(jnp.abs(learned - guidance))
    guidance = jnp.where(count > warm_up, learned, guidance)
  # A difference of two sums of this size is not known better than that.
  fall = jnp.maximum(safe_divide(jnp.abs(previous - value), value), 4 * jnp.finfo(value.dtype).eps)
  info = UnmixingInfo(jnp.maximum(fall, drift), value, previous)
  return UnmixingState(params, guidance, loss, count), jax.lax.stop_gradient(info)
