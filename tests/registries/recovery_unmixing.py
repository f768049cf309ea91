"""Public names and bad inputs of spectral unmixing."""

import jax
import jax.numpy as jnp

from jaxopt_robust import recovery
from tests.helpers import BadInput

COVERED = {
  "Unmixing",
  "UnmixingErrors",
  "UnmixingInfo",
  "UnmixingRecord",
  "UnmixingState",
  "channel_noise",
  "constrained_abundances",
  "hoyer_sparseness",
  "l21_weights",
  "nmf_unmixing",
  "palm_unmixing",
  "robust_unmixing",
  "sparse_nmf_unmixing",
  "spectral_angle",
  "successive_projections",
  "unmix",
  "unmixing_errors",
  "unmixing_start",
  "vertex_components",
}

_Y = jnp.ones((3, 4))
_START = recovery.Unmixing(jnp.ones((3, 2)), jnp.full((2, 4), 0.5))
_NAN = _Y.at[0, 0].set(jnp.nan)


def _bad(name, what, call, error, match):
  return BadInput(f"recovery.{name}", what, call, error, match)


def _init(solver, params=_START, lam=0.1, pixels=_Y):
  return lambda: solver.init(params, lam, pixels)


BAD_INPUTS: list[BadInput] = [
  _bad(
    "robust_unmixing", "exponent", lambda: recovery.robust_unmixing(exponent=1.5), ValueError,
    "exponent must be in",
  ),
  _bad(
    "robust_unmixing", "exponent rank", lambda: recovery.robust_unmixing(exponent=jnp.ones((2, 2))),
    ValueError, "exponent must be a number or one a pixel",
  ),
  _bad(
    "robust_unmixing", "exponent shape", _init(recovery.robust_unmixing(exponent=jnp.ones(3))),
    ValueError, "exponent must be a number or have shape",
  ),
  _bad(
    "robust_unmixing", "warm_up", lambda: recovery.robust_unmixing(warm_up=-1), ValueError,
    "warm_up",
  ),
  _bad(
    "robust_unmixing", "sum_weight", lambda: recovery.robust_unmixing(sum_weight=-1.0), ValueError,
    "sum_weight must be",
  ),
  _bad(
    "robust_unmixing", "params", _init(recovery.robust_unmixing(), tuple(_START)), TypeError,
    "params must be an Unmixing",
  ),
  _bad(
    "robust_unmixing", "shape", _init(recovery.robust_unmixing(), pixels=jnp.ones((3, 5))),
    ValueError, "params must have the shapes",
  ),
  _bad(
    "robust_unmixing", "negative",
    _init(recovery.robust_unmixing(), recovery.Unmixing(-jnp.ones((3, 2)), _START.abundances)),
    ValueError, "params.spectra must be >= 0",
  ),
  _bad("robust_unmixing", "lam", _init(recovery.robust_unmixing(), lam=-1.0), ValueError, "lam"),
  _bad(
    "robust_unmixing", "rank", _init(recovery.robust_unmixing(), pixels=jnp.ones(3)), ValueError,
    "pixels must have rank 2",
  ),
  _bad(
    "nmf_unmixing", "sum_weight", lambda: recovery.nmf_unmixing(sum_weight=jnp.ones(2)),
    ValueError, "sum_weight must be a scalar",
  ),
  _bad(
    "sparse_nmf_unmixing", "exponent", lambda: recovery.sparse_nmf_unmixing(exponent=0.0),
    ValueError, "exponent must be in",
  ),
  _bad(
    "palm_unmixing", "exponent", lambda: recovery.palm_unmixing(exponent=-0.5), ValueError,
    "exponent must be in",
  ),
  _bad(
    "palm_unmixing", "exponent shape", _init(recovery.palm_unmixing(exponent=jnp.ones(3))),
    ValueError, "exponent must be a number or have shape",
  ),
  _bad(
    "palm_unmixing", "sum_weight", lambda: recovery.palm_unmixing(sum_weight=-1.0), ValueError,
    "sum_weight must be",
  ),
  _bad(
    "palm_unmixing", "safety", lambda: recovery.palm_unmixing(safety=1.0), ValueError,
    "safety must be",
  ),
  _bad(
    "palm_unmixing", "params", _init(recovery.palm_unmixing(), tuple(_START)), TypeError,
    "params must be an Unmixing",
  ),
  _bad("palm_unmixing", "lam", _init(recovery.palm_unmixing(), lam=-1.0), ValueError, "lam"),
  _bad(
    "unmix", "too many", lambda: recovery.unmix(_Y, 4), ValueError, "num_spectra must be at most 3"
  ),
  _bad(
    "unmix", "solver", lambda: recovery.unmix(_Y, 2, solver=recovery.nmf_unmixing), TypeError,
    "solver must be a Solver",
  ),
  _bad("unmix", "NaN", lambda: recovery.unmix(_NAN, 2), ValueError, "pixels must be finite"),
  _bad("unmix", "lam", lambda: recovery.unmix(_Y, 2, lam=-0.1), ValueError, "lam must be"),
  _bad(
    "unmix", "start", lambda: recovery.unmix(_Y, 3, start=_START), ValueError,
    "start must have num_spectra = 3",
  ),
  _bad(
    "constrained_abundances", "channels",
    lambda: recovery.constrained_abundances(_Y, jnp.ones((2, 2))), ValueError,
    "pixels and spectra must have equally many channels",
  ),
  _bad(
    "constrained_abundances", "NaN", lambda: recovery.constrained_abundances(_Y, _NAN), ValueError,
    "spectra must be finite",
  ),
  _bad(
    "constrained_abundances", "tol",
    lambda: recovery.constrained_abundances(_Y, _Y, tol=-1.0), ValueError, "tol must be",
  ),
  _bad("channel_noise", "NaN", lambda: recovery.channel_noise(_NAN), ValueError, "finite"),
  _bad("hoyer_sparseness", "rank", lambda: recovery.hoyer_sparseness(1.0), ValueError, "rank"),
  _bad("l21_weights", "rank", lambda: recovery.l21_weights(1.0), ValueError, "rank"),
  _bad(
    "l21_weights", "floor", lambda: recovery.l21_weights(_Y, floor=-1.0), ValueError, "floor must"
  ),
  _bad(
    "spectral_angle", "shape", lambda: recovery.spectral_angle(_Y, jnp.ones((3, 5))), ValueError,
    "a and b must have equal shapes",
  ),
  _bad(
    "successive_projections", "count", lambda: recovery.successive_projections(_Y, 0), ValueError,
    "num_spectra must be at least 1",
  ),
  _bad(
    "vertex_components", "key", lambda: recovery.vertex_components(0, _Y, 2), TypeError,
    "key must be a typed key",
  ),
  _bad(
    "vertex_components", "count",
    lambda: recovery.vertex_components(jax.random.key(0), _Y, 2.0), TypeError, "num_spectra must",
  ),
  _bad("unmixing_start", "count", lambda: recovery.unmixing_start(_Y, 4), ValueError, "at most 3"),
  _bad(
    "unmixing_errors", "type", lambda: recovery.unmixing_errors(_START, tuple(_START)), TypeError,
    "truth must be an Unmixing",
  ),
  _bad(
    "unmixing_errors", "shape",
    lambda: recovery.unmixing_errors(_START, _START._replace(spectra=jnp.ones((3, 1)))),
    ValueError, "found.spectra and truth.spectra must have equal shapes",
  ),
  _bad(
    "unmixing_errors", "mask", lambda: recovery.unmixing_errors(_START, _START, where=jnp.ones(3)),
    TypeError, "where must be a boolean",
  ),
]  # fmt: skip
