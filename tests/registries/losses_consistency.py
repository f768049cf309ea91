"""Consistency losses: what they refuse. Their contracts are in ``tests/losses``."""

import jax.numpy as jnp

from jaxopt_robust import losses
from tests.helpers import BadInput

COVERED = {
  "adaptive_consistency_loss",
  "feature_consistency_loss",
  "prediction_consistency_loss",
  "soft_dice_loss",
}

_PIXELS = jnp.zeros((2, 4), jnp.int32)
_LOGITS = jnp.zeros((2, 4, 3))


def _case(name, what, call, error, match):
  return BadInput(f"losses.{name}", what, call, error, match)


BAD_INPUTS = [
  _case(
    "feature_consistency_loss",
    "rank",
    lambda: losses.feature_consistency_loss(jnp.zeros(()), jnp.zeros(())),
    ValueError,
    "first must have rank at least 1",
  ),
  _case(
    "feature_consistency_loss",
    "shapes",
    lambda: losses.feature_consistency_loss(jnp.zeros((2, 3)), jnp.zeros((2, 4))),
    ValueError,
    "first and second must have equal shapes",
  ),
  _case(
    "feature_consistency_loss",
    "dtype",
    lambda: losses.feature_consistency_loss(jnp.zeros((2, 3)), jnp.zeros((2, 3), complex)),
    TypeError,
    "second must be a floating-point array",
  ),
  _case(
    "feature_consistency_loss",
    "mask",
    lambda: losses.feature_consistency_loss(
      jnp.zeros((2, 3)), jnp.zeros((2, 3)), where=jnp.ones((2, 3), bool)
    ),
    ValueError,
    "where must have shape",
  ),
  _case(
    "soft_dice_loss",
    "rank",
    lambda: losses.soft_dice_loss(jnp.zeros(3), jnp.zeros((), int)),
    ValueError,
    "logits must have rank at least 2",
  ),
  _case(
    "soft_dice_loss",
    "labels",
    lambda: losses.soft_dice_loss(_LOGITS, _PIXELS + 3),
    ValueError,
    r"labels must lie in \[0, 3\); got 3",
  ),
  _case(
    "soft_dice_loss",
    "shape of labels",
    lambda: losses.soft_dice_loss(_LOGITS, _PIXELS[:, :3]),
    ValueError,
    "labels must have shape",
  ),
  _case(
    "soft_dice_loss",
    "smoothing",
    lambda: losses.soft_dice_loss(_LOGITS, _PIXELS, smoothing=0.0),
    ValueError,
    "smoothing must be > 0",
  ),
  _case(
    "soft_dice_loss",
    "mask",
    lambda: losses.soft_dice_loss(_LOGITS, _PIXELS, where=jnp.ones((2, 4))),
    TypeError,
    "where must be a boolean mask",
  ),
  _case(
    "adaptive_consistency_loss",
    "shapes",
    lambda: losses.adaptive_consistency_loss(jnp.zeros(2), jnp.zeros(3), 0.5),
    ValueError,
    "supervised and consistency must have equal shapes",
  ),
  _case(
    "adaptive_consistency_loss",
    "weight",
    lambda: losses.adaptive_consistency_loss(jnp.zeros(2), jnp.zeros(2), 1.5),
    ValueError,
    r"weight must be in \[0, 1\]; got 1.5",
  ),
  _case(
    "adaptive_consistency_loss",
    "shape of weight",
    lambda: losses.adaptive_consistency_loss(jnp.zeros(2), jnp.zeros(2), jnp.zeros(3)),
    ValueError,
    "weight must be a scalar or have shape",
  ),
  _case(
    "prediction_consistency_loss",
    "rank",
    lambda: losses.prediction_consistency_loss(jnp.zeros(3)),
    ValueError,
    "logits must have rank at least 2",
  ),
  _case(
    "prediction_consistency_loss",
    "classes",
    lambda: losses.prediction_consistency_loss(jnp.zeros((2, 3, 1))),
    ValueError,
    "logits must have at least two classes",
  ),
  _case(
    "prediction_consistency_loss",
    "weight",
    lambda: losses.prediction_consistency_loss(_LOGITS, kl_weight=-1.0),
    ValueError,
    "kl_weight must be >= 0",
  ),
  _case(
    "prediction_consistency_loss",
    "mask",
    lambda: losses.prediction_consistency_loss(_LOGITS, where=jnp.ones(4)),
    TypeError,
    "where must be a boolean mask",
  ),
]
