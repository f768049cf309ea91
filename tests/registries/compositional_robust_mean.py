"""Robust means of minibatches: what is covered, and calls that must fail."""

import functools
from typing import Any

import jax.numpy as jnp

from jaxopt_robust import compositional as comp
from jaxopt_robust import losses
from tests.helpers import BadInput

COVERED = {
  "GroupMeanInfo",
  "GroupMeanState",
  "KlBallMeanInfo",
  "KlBallMeanState",
  "KlMeanState",
  "RobustMeanInfo",
  "ThresholdState",
  "cvar_robust_mean",
  "group_robust_mean",
  "group_robust_mean_init",
  "kl_ball_robust_mean",
  "kl_ball_robust_mean_init",
  "kl_robust_mean",
  "kl_robust_mean_init",
  "phi_divergence_robust_mean",
  "smoothed_group_robust_mean",
  "threshold_init",
}

_LOSSES = jnp.zeros(3)
_GROUPS = jnp.zeros(3, jnp.int32)
# name -> (state, good options, {option: (bad value, message)})
_CALLS: dict[str, tuple[Any, dict[str, Any], dict[str, tuple[Any, str]]]] = {
  "kl_robust_mean": (
    comp.kl_robust_mean_init(),
    {"temperature": 1.0},
    {
      "temperature": (float("inf"), "temperature must be in"),
      "rate": (0.0, "rate must be in"),
    },
  ),
  "kl_ball_robust_mean": (
    comp.kl_ball_robust_mean_init(),
    {"radius": 0.1},
    {
      "radius": (-0.1, "radius must be >= 0"),
      "rate": (1.5, "rate must be in"),
      "momentum_rate": (0.0, "momentum_rate must be in"),
      "stepsize": (0.0, "stepsize must be > 0"),
      "min_temperature": (0.0, "min_temperature must be > 0"),
      "max_temperature": (-1.0, "max_temperature must be > 0"),
      "clip": (0.0, "clip must be > 0"),
    },
  ),
  "cvar_robust_mean": (
    comp.threshold_init(),
    {"alpha": 0.5},
    {"alpha": (0.0, "alpha must be in"), "stepsize": (-1.0, "stepsize must be >= 0")},
  ),
  "phi_divergence_robust_mean": (
    comp.threshold_init(),
    {"temperature": 1.0, "conjugate": losses.chi2_conjugate},
    {
      "temperature": (0.0, "temperature must be in"),
      "stepsize": (-1.0, "stepsize must be >= 0"),
    },
  ),
  "group_robust_mean": (
    comp.group_robust_mean_init(2),
    {},
    {
      "stepsize": (-1.0, "stepsize must be >= 0"),
      "rate": (0.0, "rate must be in"),
      "frequencies": (jnp.array([0.0, 1.0]), "frequencies must be > 0"),
    },
  ),
  "smoothed_group_robust_mean": (
    comp.group_robust_mean_init(2),
    {"temperature": 1.0},
    {
      "temperature": (0.0, "temperature must be > 0"),
      "rate": (0.0, "rate must be in"),
      "frequencies": (jnp.ones(3), "must have equal shapes"),
    },
  ),
}

BAD_INPUTS = []


def _add(name: str, what: str, error: type[Exception], match: str, *args: Any, **options: Any):
  call = functools.partial(getattr(comp, name), *args, **options)
  BAD_INPUTS.append(BadInput(f"compositional.{name}", what, call, error, match))


for _name, (_state, _good, _bad) in _CALLS.items():
  _groups = (_GROUPS,) if "group" in _name else ()
  for _option, (_value, _match) in _bad.items():
    _add(_name, _option, ValueError, _match, _LOSSES, *_groups, _state, **_good | {_option: _value})
  _match = "losses must have rank 1"
  _add(_name, "rank", ValueError, _match, _LOSSES[:, None], *_groups, _state, **_good)
  _match = "losses must be a floating-point"
  _add(_name, "dtype", TypeError, _match, 1j * jnp.ones(3), *_groups, _state, **_good)
  _good = _good | {"where": jnp.ones(3)}
  _add(_name, "mask", TypeError, "where must be a boolean", _LOSSES, *_groups, _state, **_good)
for _name in ("group_robust_mean", "smoothed_group_robust_mean"):
  _state, _good, _ = _CALLS[_name]
  _match = r"groups must lie in \[0, 2\)"
  _add(_name, "groups range", ValueError, _match, _LOSSES, _GROUPS + 2, _state, **_good)
  _add(_name, "groups dtype", TypeError, "groups must hold", _LOSSES, _LOSSES, _state, **_good)
for _name in ("kl_robust_mean_init", "kl_ball_robust_mean_init", "threshold_init"):
  _add(_name, "dtype", TypeError, "dtype must be a floating-point", dtype=int)
_match = "temperature must be > 0"
_add("kl_ball_robust_mean_init", "temperature", ValueError, _match, temperature=0.0)
_add("group_robust_mean_init", "size", ValueError, "num_groups must be at least 1", 0)
_add("group_robust_mean_init", "size dtype", TypeError, "num_groups must be a static", 2.0)
_add("group_robust_mean_init", "dtype", TypeError, "dtype must be a floating-point", 2, dtype=int)
