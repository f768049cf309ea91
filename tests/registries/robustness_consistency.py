"""Consistent representations (rRCM): what is covered, and calls that must fail."""

import functools

import jax
import jax.numpy as jnp
import optax

from jaxopt_robust import robustness
from tests.helpers import BadInput

COVERED = {
  "RrcmInfo",
  "RrcmState",
  "edm_noise_level",
  "noise_level_embedding",
  "num_noise_levels",
  "representation_nce_loss",
  "rrcm_init",
  "rrcm_loss",
  "rrcm_step",
  "sigmoid_ema_rate",
}

_ROWS = jnp.eye(3)

BAD_INPUTS: list[BadInput] = []


def _add(name, call, *cases):
  for what, error, match, options in cases:
    bound = functools.partial(call, **options)
    BAD_INPUTS.append(BadInput(f"robustness.{name}", what, bound, error, match))


_BOUNDS = [
  ("bounds", ValueError, r"bounds must be a pair \(t_min, t_max\)", {"bounds": 80.0}),
  ("t_min", ValueError, "t_min must be > 0", {"bounds": (0.0, 1.0)}),
  ("order", ValueError, "t_min must be below t_max", {"bounds": (2.0, 1.0)}),
  ("power", ValueError, "power must be > 0", {"power": 0.0}),
]
_add(
  "edm_noise_level",
  lambda index=0, num_levels=5, **options: robustness.edm_noise_level(index, num_levels, **options),
  ("index", ValueError, r"index must lie in \[0, 5\); got 5", {"index": 5}),
  ("index dtype", TypeError, "index must hold integers", {"index": 0.5}),
  ("num_levels", ValueError, "num_levels must be at least 2", {"num_levels": 1}),
  *_BOUNDS,
)
_add(
  "num_noise_levels",
  lambda step=0, num_steps=10, **options: robustness.num_noise_levels(step, num_steps, **options),
  ("step", ValueError, "step must be at least 0", {"step": -1}),
  ("num_steps", ValueError, "num_steps must be at least 1", {"num_steps": 0}),
  ("counts", ValueError, r"counts must be a pair \(first, last\)", {"counts": 20}),
  ("order", ValueError, r"counts\[1\] must be at least 20", {"counts": (20, 10)}),
)
_add(
  "sigmoid_ema_rate",
  lambda step=0, num_steps=10, **options: robustness.sigmoid_ema_rate(step, num_steps, **options),
  ("step", ValueError, "step must be >= 0", {"step": -1}),
  ("num_steps", ValueError, "num_steps must be > 0", {"num_steps": 0}),
  ("sharpness", ValueError, "sharpness must be > 0", {"sharpness": 0.0}),
  ("bounds", ValueError, r"bounds must be a pair \(low, high\)", {"bounds": 0.9}),
  ("range", ValueError, r"bounds\[1\] must be in \(0, 1\]", {"bounds": (0.9, 1.1)}),
  ("order", ValueError, "bounds must be .low, high. with low <= high", {"bounds": (0.9, 0.8)}),
)
_add(
  "noise_level_embedding",
  lambda level=1.0, num_features=4, **options: robustness.noise_level_embedding(
    level, num_features, **options
  ),
  ("level", ValueError, "level must be >= 0", {"level": -1.0}),
  ("odd", ValueError, "num_features must be even", {"num_features": 5}),
  ("few", ValueError, "num_features must be at least 2", {"num_features": 0}),
  ("max_period", ValueError, "max_period must be > 0", {"max_period": 0.0}),
)
_add(
  "representation_nce_loss",
  lambda queries=_ROWS, keys=_ROWS, **options: robustness.representation_nce_loss(
    queries, keys, **options
  ),
  ("rank", ValueError, "queries must have rank 2", {"queries": jnp.ones(3)}),
  ("shapes", ValueError, "queries and keys must have equal shapes", {"keys": jnp.eye(2)}),
  ("dtype", TypeError, "keys must be a floating-point", {"keys": jnp.eye(3, dtype=complex)}),
  ("temperature", ValueError, "temperature must be > 0", {"temperature": 0.0}),
)


def _encode(params, x, level):
  return x @ params


def _project(params, features):
  return features


_IMAGES = (jnp.eye(4),) * 3
_TRAINING = [
  ("encode", TypeError, "encode must be callable", {"encode": None}),
  ("projection", TypeError, "projection must be callable", {"projection": None}),
  ("images", ValueError, "images must be a triple", {"images": _IMAGES[0]}),
  ("image shapes", ValueError, "must have equal shapes", {"images": (*_IMAGES[:2], jnp.eye(3))}),
  ("dtype", TypeError, r"images\[0\] must be a floating", {"images": (_IMAGES[0] + 0j,) * 3}),
  ("key", TypeError, "key must be a typed key", {"key": 0}),
  ("temperature", ValueError, "temperature must be > 0", {"temperature": 0.0}),
  ("features", ValueError, "encode must return one row", {"encode": lambda p, x, t: x[0]}),
  ("projected", ValueError, "projection must return one row", {"projection": lambda p, x: x[0]}),
  *_BOUNDS,
]


def _loss(encode=_encode, projection=_project, images=_IMAGES, key=None, **options):
  key = jax.random.key(0) if key is None else key
  options = {"num_levels": 5, **options}
  return robustness.rrcm_loss(encode, projection, jnp.eye(4), jnp.eye(4), images, key, **options)


def _step(encode=_encode, projection=_project, images=_IMAGES, key=None, state=None, **options):
  key = jax.random.key(0) if key is None else key
  optimizer = options.pop("optimizer", optax.sgd(0.1))
  state = robustness.rrcm_init(jnp.eye(4), optax.sgd(0.1)) if state is None else state
  options = {"num_steps": 5, **options}
  return robustness.rrcm_step(encode, projection, optimizer, state, images, key, **options)


_add(
  "rrcm_loss",
  _loss,
  *_TRAINING,
  ("num_levels", ValueError, "num_levels must be at least 2", {"num_levels": 1}),
)
_add(
  "rrcm_step",
  _step,
  *_TRAINING,
  ("optimizer", TypeError, "optimizer must be an optax", {"optimizer": optax.sgd}),
  ("state", TypeError, "state must be a RrcmState", {"state": jnp.eye(4)}),
  ("num_steps", ValueError, "num_steps must be at least 1", {"num_steps": 0}),
  ("counts", ValueError, "counts must be a pair", {"level_counts": 20}),
  ("ema", ValueError, "bounds must be a pair", {"ema_bounds": 0.9}),
)
_add(
  "rrcm_init",
  lambda params=None, optimizer=None: robustness.rrcm_init(
    jnp.eye(4) if params is None else params, optax.sgd(0.1) if optimizer is None else optimizer
  ),
  ("params", TypeError, "params must be a number or an array", {"params": "weights"}),
  ("empty", ValueError, "params must hold at least one array", {"params": {}}),
  ("optimizer", TypeError, "optimizer must be an optax", {"optimizer": optax.sgd}),
)
