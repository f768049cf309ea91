"""Where an unmixing starts from: the purest pixels and their shares in the others."""

import jax.numpy as jnp

from jaxopt_robust.numerics import safe_divide
from jaxopt_robust.recovery.unmixing.known_spectra import constrained_abundances
from jaxopt_robust.recovery.unmixing.pure_pixels import channel_noise, successive_projections
from jaxopt_robust.recovery.unmixing.types import Unmixing, check_count, check_pixels, unit_of
from jaxopt_robust.typing import Array, ArrayLike

__all__ = ["unmixing_start"]

_LEAST_REFLECTANCE = 1e-3  # of the mean; what is 0 stays 0 under multiplicative updates
_LEAST_SHARE = 0.02
_TOL, _STEPS = 1e-4, 500  # of the abundances


def unmixing_start(pixels: ArrayLike, num_spectra: int) -> Unmixing:
  r"""Positive factors to start an unmixing from, whichever channels are bad.

  Channels are divided by their ``channel_noise``; ``successive_projections`` pick K pixels, whose
  spectra they are, and ``constrained_abundances`` give their shares. Both are raised to a small
  positive number.

  Args:
    pixels: float[channels, N], Y.
    num_spectra: K, at most the smaller side of Y; static.

  Returns:
    Unmixing in the dtype of ``pixels``, in float32 or wider.

  Raises:
    TypeError: ``pixels`` is not floating-point or ``num_spectra`` no static integer.
    ValueError: wrong shapes, or pixels that are known not to be finite.

  Note:
    Where every material has a nearly pure pixel this alone is a good unmixing.

  Example:
    >>> pixels = jax.random.uniform(jax.random.key(0), (6, 40))
    >>> start = unmixing_start(pixels, 2)
    >>> start.spectra.shape, bool(start.abundances.min() > 0)
    ((6, 2), True)

  Reference:
    Pixels as in Araujo, Saldanha, Galvao, Yoneyama, Chame and Visani, The successive projections
    algorithm for variable selection in spectroscopic multicomponent analysis, 2001; the weights of
    the channels are those of Bioucas-Dias and Nascimento, Hyperspectral subspace identification,
    2008.
  """
  data = check_pixels(pixels)
  count = check_count(num_spectra, data)
  noise = channel_noise(data)
  # The largest weight is 1: no product overflows.
  least = jnp.min(jnp.where(noise > 0, noise, jnp.inf))
  weights = safe_divide(jnp.where(jnp.isfinite(least), least, 1), noise)[:, None]
  spectra = data[:, successive_projections(weights * data, count)]
  shares, _ = constrained_abundances(weights * data, weights * spectra, tol=_TOL, max_steps=_STEPS)
  unit = unit_of(data)
  floor: Array = _LEAST_REFLECTANCE * jnp.mean(jnp.abs(data) / unit) * unit
  return Unmixing(jnp.maximum(spectra, floor), jnp.maximum(shares, _LEAST_SHARE))
