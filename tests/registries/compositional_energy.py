"""Energy-based models: what they refuse. The contracts are in ``tests/compositional``."""

import jax.numpy as jnp

from jaxopt_robust import compositional
from tests.helpers import BadInput

COVERED = {
  "LogPartition",
  "MecoInfo",
  "MecoState",
  "effective_sample_size",
  "ence_loss",
  "log_ence_loss",
  "log_partition",
  "meco_init",
  "meco_value_and_grad",
  "nce_loss",
}


def _meco(log_density=lambda p, x: p * x, log_noise=lambda x: x, data=None, **options):
  fn = compositional.meco_value_and_grad(log_density, log_noise)
  data = jnp.zeros(3) if data is None else data
  return fn(jnp.zeros(()), compositional.meco_init(), data, jnp.zeros(2), **options)


def _case(name, what, call, error, match):
  return BadInput(f"compositional.{name}", what, call, error, match)


BAD_INPUTS = [
  _case("meco_init", "dtype", lambda: compositional.meco_init(dtype=int), TypeError, "float32 or"),
  _case(
    "meco_value_and_grad",
    "density",
    lambda: compositional.meco_value_and_grad(jnp.ones(3), lambda x: x),
    TypeError,
    "log_density must be callable",
  ),
  _case(
    "meco_value_and_grad",
    "noise",
    lambda: compositional.meco_value_and_grad(lambda p, x: x, None),
    TypeError,
    "log_noise must be callable",
  ),
  _case(
    "meco_value_and_grad",
    "rate",
    lambda: _meco(rate=0.0),
    ValueError,
    r"rate must be in \(0, 1\]; got 0.0",
  ),
  _case(
    "meco_value_and_grad",
    "clip",
    lambda: _meco(weight_clip=-1.0),
    ValueError,
    "weight_clip must be > 0",
  ),
  _case(
    "meco_value_and_grad",
    "rank",
    lambda: _meco(data=jnp.zeros((3, 1))),
    ValueError,
    r"log_density\(params, data\) must have rank 1",
  ),
  _case(
    "meco_value_and_grad",
    "shapes",
    lambda: _meco(log_noise=lambda x: x[:1]),
    ValueError,
    "log_noise must have equal shapes",
  ),
  _case(
    "meco_value_and_grad",
    "mask",
    lambda: _meco(noise_where=jnp.ones(3, bool)),
    ValueError,
    "noise_where must have shape",
  ),
  _case(
    "log_partition",
    "rank",
    lambda: compositional.log_partition(jnp.zeros(())),
    ValueError,
    "log_weights must have rank at least 1",
  ),
  _case(
    "effective_sample_size",
    "dtype",
    lambda: compositional.effective_sample_size(1j * jnp.ones(3)),
    TypeError,
    "log_weights must be a floating-point array",
  ),
  _case(
    "effective_sample_size",
    "mask",
    lambda: compositional.effective_sample_size(jnp.zeros(3), where=jnp.ones(3)),
    TypeError,
    "where must be a boolean mask",
  ),
]
for _name in ("nce_loss", "ence_loss", "log_ence_loss"):
  _loss = getattr(compositional, _name)
  BAD_INPUTS += [
    _case(
      _name,
      "rank",
      lambda f=_loss: f(jnp.zeros((2, 2)), jnp.zeros(2)),
      ValueError,
      "data_log_ratio must have rank 1",
    ),
    _case(
      _name,
      "dtype",
      lambda f=_loss: f(jnp.zeros(2), 1j * jnp.ones(2)),
      TypeError,
      "noise_log_ratio must be a floating-point array",
    ),
    _case(
      _name,
      "log_z",
      lambda f=_loss: f(jnp.zeros(2), jnp.zeros(2), log_z=jnp.zeros(2)),
      ValueError,
      "log_z must have rank 0",
    ),
    _case(
      _name,
      "mask",
      lambda f=_loss: f(jnp.zeros(2), jnp.zeros(3), noise_where=jnp.ones(2, bool)),
      ValueError,
      "noise_where must have shape",
    ),
  ]
