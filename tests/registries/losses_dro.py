"""Worst-case expectations: what is covered, and calls that must fail."""

import functools
from typing import Any

import jax.numpy as jnp

from jaxopt_robust import losses
from tests.helpers import BadInput

# name -> (hyperparameter, a good value, a bad value, the message)
HYPER: dict[str, tuple[str, float, float, str]] = {
  "kl_dro": ("temperature", 1.0, 0.0, "temperature must be > 0"),
  "kl_dro_weights": ("temperature", 1.0, -1.0, "temperature must be > 0"),
  "kl_ball_dro": ("radius", 1.0, -0.1, "radius must be >= 0"),
  "kl_ball_dro_temperature": ("radius", 1.0, -0.1, "radius must be >= 0"),
  "kl_ball_dro_weights": ("radius", 1.0, -0.1, "radius must be >= 0"),
  "cvar": ("alpha", 0.5, 0.0, r"alpha must be in \(0"),
  "cvar_threshold": ("alpha", 0.5, 1.1, r"alpha must be in \(0"),
  "cvar_weights": ("alpha", 0.5, 0.0, r"alpha must be in \(0"),
  "chi2_dro": ("temperature", 1.0, 0.0, "temperature must be > 0"),
  "chi2_dro_weights": ("temperature", 1.0, 0.0, "temperature must be > 0"),
  "chi2_ball_dro": ("radius", 1.0, -1.0, "radius must be >= 0"),
  "chi2_ball_dro_weights": ("radius", 1.0, -1.0, "radius must be >= 0"),
  "phi_divergence_dro": ("temperature", 1.0, float("inf"), "temperature must be in"),
  "phi_divergence_dro_threshold": ("temperature", 1.0, 0.0, "temperature must be in"),
  "phi_divergence_dro_weights": ("temperature", 1.0, 0.0, "temperature must be in"),
}
CONJUGATES = {"chi2_conjugate", "cressie_read_conjugate", "cvar_conjugate", "kl_conjugate"}
COVERED = set(HYPER) | CONJUGATES | {"group_dro", "group_dro_weights"}

_LOSSES = jnp.zeros((2, 3))
BAD_INPUTS = []


def _add(name: str, what: str, error: type[Exception], match: str, *args: Any, **options: Any):
  call = functools.partial(getattr(losses, name), *args, **options)
  BAD_INPUTS.append(BadInput(f"losses.{name}", what, call, error, match))


for _name, (_hyper, _good, _bad, _match) in HYPER.items():
  _more = {"conjugate": losses.kl_conjugate} if _name.startswith("phi") else {}
  _add(_name, _hyper, ValueError, _match, _LOSSES, _bad, **_more)
  _shape = rf"{_hyper} must be a scalar or have shape \(2,\)"
  _add(_name, f"{_hyper} shape", ValueError, _shape, _LOSSES, jnp.full(3, _good), **_more)
  _add(_name, "rank", ValueError, "losses must have rank at least 1", jnp.zeros(()), _good, **_more)
  _add(_name, "empty", ValueError, "losses must not be empty", jnp.zeros((0,)), _good, **_more)
  _add(_name, "dtype", TypeError, "losses must be a floating-point", 1j * _LOSSES, _good, **_more)
  _more["where"] = jnp.ones((2, 3))
  _add(_name, "mask dtype", TypeError, "where must be a boolean", _LOSSES, _good, **_more)
  _more["where"] = jnp.ones(3, bool)
  _add(_name, "mask shape", ValueError, "where must have shape", _LOSSES, _good, **_more)

for _name in ("kl_ball_dro", "kl_ball_dro_temperature", "kl_ball_dro_weights"):
  _match = "min_temperature must be in"
  _add(_name, "min_temperature", ValueError, _match, _LOSSES, 0.1, min_temperature=-1.0)
for _name in (n for n in HYPER if n.startswith("phi")):
  _match = "conjugate must be callable"
  _add(_name, "conjugate", TypeError, _match, _LOSSES, 1.0, conjugate="kl")

_GROUPS = jnp.zeros((2, 3), jnp.int32)
for _name in ("group_dro", "group_dro_weights"):
  _call = functools.partial(_add, _name)
  _call("temperature", ValueError, "temperature must be >= 0", _LOSSES, _GROUPS, num_groups=2,
        temperature=-1.0)  # fmt: skip
  _call("range", ValueError, r"groups must lie in \[0, 2\)", _LOSSES, _GROUPS + 2, num_groups=2)
  _call("groups dtype", TypeError, "groups must hold integer", _LOSSES, _LOSSES, num_groups=2)
  _call("groups shape", ValueError, "groups must have shape", _LOSSES, _GROUPS[0], num_groups=2)
  _call("num_groups", ValueError, "num_groups must be at least 1", _LOSSES, _GROUPS, num_groups=0)
  _call("num_groups dtype", TypeError, "num_groups must be a", _LOSSES, _GROUPS, num_groups=2.0)
  _call("empty", ValueError, "losses must not be empty", _LOSSES[:0], _GROUPS[:0], num_groups=2)

for _name in sorted(CONJUGATES):
  _option = {"cvar_conjugate": {"alpha": 0.5}, "cressie_read_conjugate": {"power": 2.0}}
  _add(
    _name, "dtype", TypeError, "s must be a floating", 1j * jnp.ones(2), **_option.get(_name, {})
  )
_add("cvar_conjugate", "alpha", ValueError, "alpha must be in", _LOSSES, alpha=2.0)
_add("cressie_read_conjugate", "power", ValueError, "power must be > 1", _LOSSES, power=1.0)
