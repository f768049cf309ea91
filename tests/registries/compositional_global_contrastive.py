"""Global contrastive losses with state: names and bad inputs."""

import jax.numpy as jnp

from jaxopt_robust import compositional
from tests.helpers import BadInput

COVERED = {"RgclInfo", "RgclState", "rgcl_bimodal_loss", "rgcl_init", "rgcl_loss"}

_Z, _INDEX = jnp.ones((3, 2)), jnp.arange(3)
_STATE = compositional.RgclState(jnp.zeros(4), jnp.ones(4), jnp.zeros(4))


def _views(z1=_Z, z2=_Z, index=_INDEX, state=_STATE, **options):
  return compositional.rgcl_loss(z1, z2, index, state, **options)


def _pairs(z1=_Z, z2=_Z, index=_INDEX, state=_STATE, **options):
  return compositional.rgcl_bimodal_loss(z1, z2, index, (state, state), **options)


_OPTIONS = [
  ("mode", "moco", ValueError, "mode must be one of 'isogclr'"),
  ("radius", -0.1, ValueError, "radius must be >= 0"),
  ("radius", jnp.ones(3), ValueError, "radius must have rank 0"),
  ("rate", 0.0, ValueError, r"rate must be in \(0"),
  ("momentum", 1.5, ValueError, r"momentum must be in \[0"),
  ("temperature_rate", -1.0, ValueError, "temperature_rate must be >= 0"),
  ("temperature_bounds", (0.5, 0.1), ValueError, "temperature_bounds must not decrease"),
  ("temperature_bounds", (0.1, jnp.ones(3)), ValueError, "tau_max must have rank 0"),
  ("gradient_clip", 0.0, ValueError, "gradient_clip must be > 0"),
  ("index", jnp.array([0, 1, 4]), ValueError, r"index must lie in \[0, 4\)"),
  ("index", jnp.ones(3), TypeError, "index must hold integers"),
  ("index", _INDEX[:2], ValueError, r"index must have shape \(3,\)"),
  ("where", jnp.ones(3), TypeError, "where must be a boolean mask"),
  ("z2", _Z[:2], ValueError, "must have equal shapes"),
  ("z1", _Z[0], ValueError, "must have rank 2"),
  ("z1", jnp.ones((3, 2), complex), TypeError, "must be a floating-point array"),
  ("state", _STATE._replace(momentum=jnp.zeros(3)), ValueError, "log_average and state.momentum"),
]
BAD_INPUTS = [
  BadInput(
    f"compositional.{name}",
    f"{option} {number}",
    lambda call=call, option=option, value=value: call(**{option: value}),
    error,
    match,
  )
  for name, call in (("rgcl_loss", _views), ("rgcl_bimodal_loss", _pairs))
  for number, (option, value, error, match) in enumerate(_OPTIONS)
]
_bimodal = compositional.rgcl_bimodal_loss
_OTHER = compositional.RgclState(jnp.zeros(5), jnp.ones(5), jnp.zeros(5))
_init = compositional.rgcl_init
BAD_INPUTS += [
  BadInput(
    "compositional.rgcl_bimodal_loss",
    "one state",
    lambda: _bimodal(_Z, _Z, _INDEX, _STATE),
    TypeError,
    "state must be a pair",
  ),
  BadInput(
    "compositional.rgcl_bimodal_loss",
    "state sizes",
    lambda: _bimodal(_Z, _Z, _INDEX, (_STATE, _OTHER)),
    ValueError,
    "must have equal shapes",
  ),
  BadInput("compositional.rgcl_init", "size", lambda: _init(0), ValueError, "num_examples must be"),
  BadInput(
    "compositional.rgcl_init",
    "temperature",
    lambda: _init(2, temperature=0.0),
    ValueError,
    "temperature must be > 0",
  ),
  BadInput(
    "compositional.rgcl_init",
    "temperature shape",
    lambda: _init(2, temperature=jnp.ones(3)),
    ValueError,
    r"temperature must be a scalar or have shape \(2,\)",
  ),
  BadInput(
    "compositional.rgcl_init",
    "dtype",
    lambda: _init(2, dtype=jnp.bfloat16),
    TypeError,
    "dtype must be float32 or float64",
  ),
]
