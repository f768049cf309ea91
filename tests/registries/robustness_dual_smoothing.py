"""Dual randomized smoothing: what is covered, and calls that must fail."""

import functools

import jax
import jax.numpy as jnp

from jaxopt_robust import robustness
from tests.helpers import BadInput

COVERED = {
  "certify_dual_votes",
  "checkerboard_masks",
  "dual_radius",
  "dual_smoothing_loss",
  "dual_smoothing_votes",
  "sub_image",
}

_IMAGE = jnp.zeros((4, 4, 1))
_MASKS = jnp.stack([jnp.ones((4, 4), bool)] * 2)
_VOTES = jnp.array([[9, 1], [8, 2]]), jnp.array([[90, 10], [80, 20]])

BAD_INPUTS: list[BadInput] = []


def _add(name, call, *cases):
  for what, error, match, options in cases:
    bound = functools.partial(call, **options)
    BAD_INPUTS.append(BadInput(f"robustness.{name}", what, bound, error, match))


_add(
  "checkerboard_masks",
  lambda height=4, width=4: robustness.checkerboard_masks(height, width),
  ("height", ValueError, "height must be at least 1", {"height": 0}),
  ("width", TypeError, "width must be a static Python integer", {"width": 4.0}),
  ("one pixel", ValueError, "at least two pixels", {"height": 1, "width": 1}),
)
_add(
  "sub_image",
  lambda x=_IMAGE, mask=_MASKS[0], fill="zero": robustness.sub_image(x, mask, fill=fill),
  ("rank", ValueError, "x must have rank at least 3", {"x": _IMAGE[..., 0]}),
  ("dtype", TypeError, "x must be a floating-point", {"x": _IMAGE + 0j}),
  ("mask", TypeError, "mask must be a boolean mask", {"mask": jnp.ones((4, 4))}),
  ("no mask", TypeError, "mask must be a boolean mask; got None", {"mask": None}),
  ("shape", ValueError, "mask must have shape", {"mask": _MASKS[0, :3]}),
  ("fill", ValueError, "fill must be one of 'zero', 'block_max'", {"fill": "max"}),
  (
    "odd",
    ValueError,
    "x must have even sizes",
    {"x": _IMAGE[:3], "mask": _MASKS[0, :3], "fill": "block_max"},
  ),
)


def _scores(params, x):
  return x.sum((1, 2, 3))[:, None] * params[None]


_COMMON = [
  ("apply_fn", TypeError, "apply_fn must be callable", {"apply_fn": None}),
  ("params", ValueError, "params must have a leading axis of the two", {"params": jnp.ones(3)}),
  ("key", TypeError, "key must be a typed key", {"key": 0}),
  ("sigma", ValueError, "sigma must be > 0", {"sigma": 0.0}),
  ("sigma shape", ValueError, r"sigma must be a scalar or have shape \(2,\)", {"sigma": [0.5] * 3}),
  ("masks", ValueError, "masks must hold each pixel in exactly one", {"masks": _MASKS}),
  ("masks shape", ValueError, "masks must have shape", {"masks": _MASKS[:1]}),
  ("fill", ValueError, "fill must be one of", {"fill": None}),
]


def _votes(apply_fn=_scores, params=None, x=_IMAGE, key=None, **options):
  params = jnp.ones((2, 2)) if params is None else params
  key = jax.random.key(0) if key is None else key
  options = {"sigma": 0.5, "num_samples": 8, **options}
  return robustness.dual_smoothing_votes(apply_fn, params, x, key, **options)


_add(
  "dual_smoothing_votes",
  _votes,
  *_COMMON,
  ("rank", ValueError, "x must have rank 3", {"x": _IMAGE[None]}),
  ("num_samples", ValueError, "num_samples must be at least 1", {"num_samples": 0}),
  ("num_selection", ValueError, "num_selection must be at least", {"num_selection": 0}),
  ("batch_size", ValueError, "batch_size must be at least 1", {"batch_size": 0}),
)


def _loss(apply_fn=_scores, params=None, x=_IMAGE[None], labels=None, key=None, **options):
  params = jnp.ones((2, 2)) if params is None else params
  key = jax.random.key(0) if key is None else key
  labels = jnp.zeros(1, jnp.int32) if labels is None else labels
  options = {"sigma": 0.5, **options}
  return robustness.dual_smoothing_loss(apply_fn, params, x, labels, key, **options)


_add(
  "dual_smoothing_loss",
  _loss,
  *_COMMON,
  ("rank", ValueError, "x must have rank 4", {"x": _IMAGE}),
  ("labels", ValueError, "labels must lie in", {"labels": jnp.array([2])}),
  ("num_copies", ValueError, "num_copies must be at least 1", {"num_copies": 0}),
  ("kl_weight", ValueError, "kl_weight must be >= 0", {"kl_weight": -1.0}),
)
_add(
  "dual_radius",
  lambda lower=(0.9, 0.8), sigma=0.5: robustness.dual_radius(lower, sigma=sigma),
  ("lower", ValueError, r"lower must be in \[0, 1\]", {"lower": [0.9, 1.1]}),
  ("axis", ValueError, "lower must have a last axis of two", {"lower": [0.9, 0.8, 0.7]}),
  ("sigma", ValueError, "sigma must be > 0", {"sigma": 0.0}),
  ("sigma shape", ValueError, r"sigma must be a scalar or have shape \(2,\)", {"sigma": [0.5] * 3}),
)
_add(
  "dual_radius",
  lambda: jax.jit(lambda p: robustness.dual_radius(p, sigma=0.5))(jnp.array([0.9, 0.8])),
  ("traced", TypeError, "lower must be known, or traced in float64", {}),
)
_add(
  "certify_dual_votes",
  lambda votes=_VOTES, **options: robustness.certify_dual_votes(
    votes, **{"num_samples": 100, "sigma": 0.5, **options}
  ),
  ("pair", ValueError, r"votes must be a pair \(selection, counts\)", {"votes": _VOTES[0][0]}),
  ("rank", ValueError, "votes must have at least 2 axes", {"votes": (_VOTES[0][0], _VOTES[1][0])}),
  ("branches", ValueError, "votes must have shape", {"votes": (_VOTES[0][:1], _VOTES[1][:1])}),
  ("too many", ValueError, "counts must sum to at most num_samples, 99", {"num_samples": 99}),
  ("sigma", ValueError, "sigma must be > 0", {"sigma": -1.0}),
  ("alpha", ValueError, r"alpha must be in \(0, 1\)", {"alpha": 1.0}),
)
