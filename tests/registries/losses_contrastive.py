"""Contrastive losses, losses of pairs and their metrics: names and bad inputs."""

import jax.numpy as jnp

from jaxopt_robust import losses
from tests.helpers import BadInput

COVERED = {
  "Opis",
  "cosine_similarities",
  "eps_opis",
  "global_contrastive_loss",
  "info_nce_loss",
  "normalized_softmax_loss",
  "opis",
  "recall_at_1",
  "robust_contrastive_temperatures",
  "robust_global_contrastive_loss",
  "supervised_contrastive_loss",
  "threshold_consistent_margin_loss",
  "two_view_scores",
}

_SCORES, _POSITIVES = jnp.zeros((2, 3)), jnp.zeros(2, jnp.int32)
_Z, _LABELS = jnp.ones((4, 2)), jnp.array([0, 0, 1, 1])
_SQUARE = jnp.zeros((4, 4))


def _anchor_losses() -> list[BadInput]:
  """What all losses of anchors refuse, and the numbers of each."""
  numbers = {
    "info_nce_loss": [
      ("temperature", 0.0, "temperature must be > 0"),
      ("temperature", jnp.ones(3), r"temperature must be a scalar or have shape \(2,\)"),
    ],
    "global_contrastive_loss": [
      ("temperature", -1.0, "temperature must be > 0"),
      ("radius", -0.1, "radius must be >= 0"),
      ("radius", jnp.ones(3), "radius must be a scalar or have shape"),
    ],
  }
  for name in ("robust_global_contrastive_loss", "robust_contrastive_temperatures"):
    numbers[name] = [
      ("radius", -0.1, "radius must be >= 0"),
      ("temperature_bounds", (0.0, 1.0), "temperature_bounds must be > 0"),
      ("temperature_bounds", (0.5, 0.1), "temperature_bounds must not decrease"),
      ("temperature_bounds", 0.5, "must be a pair"),
      ("temperature_bounds", (0.1, jnp.ones(3)), r"temperature_bounds\[1\] must be a scalar"),
    ]
  cases = []
  for name, options in numbers.items():
    loss = getattr(losses, name)
    shared = [
      ("rank", (jnp.zeros(()), jnp.zeros((), int)), {}, ValueError, "scores must have rank at le"),
      (
        "dtype",
        (jnp.zeros((2, 3), complex), _POSITIVES),
        {},
        TypeError,
        "scores must be a floating",
      ),
      ("empty", (jnp.zeros((0, 3)), jnp.zeros(0, int)), {}, ValueError, "scores must not be empty"),
      ("positive dtype", (_SCORES, jnp.zeros(2)), {}, TypeError, "pos_index must hold integer"),
      ("positive shape", (_SCORES, jnp.zeros(3, int)), {}, ValueError, "pos_index must have sha"),
      ("positive range", (_SCORES, jnp.array([0, 3])), {}, ValueError, "pos_index must lie in"),
      ("mask dtype", (_SCORES, _POSITIVES), {"where": _SCORES}, TypeError, "where must be a bool"),
      (
        "mask shape",
        (_SCORES, _POSITIVES),
        {"where": jnp.ones(2, bool)},
        ValueError,
        "where must have shape",
      ),
    ]
    shared += [
      (f"{option} {number}", (_SCORES, _POSITIVES), {option: value}, ValueError, match)
      for number, (option, value, match) in enumerate(options)
    ]
    for what, args, kwargs, error, match in shared:
      call = lambda loss=loss, args=args, kwargs=kwargs: loss(*args, **kwargs)
      cases.append(BadInput(f"losses.{name}", what, call, error, match))
  return cases


def _bad(name, what, args, error, match, **kwargs) -> BadInput:
  call = lambda: getattr(losses, name)(*args, **kwargs)
  return BadInput(f"losses.{name}", what, call, error, match)


_OPIS = losses.Opis(*[jnp.zeros(())] * 3, jnp.zeros((2, 3)), jnp.zeros(2), jnp.ones(2, bool))
_two, _sup, _soft, _tcm, _recall = (
  "two_view_scores",
  "supervised_contrastive_loss",
  "normalized_softmax_loss",
  "threshold_consistent_margin_loss",
  "recall_at_1",
)
BAD_INPUTS = _anchor_losses()
BAD_INPUTS += [
  _bad(_two, "rank", (_Z[0], _Z[0]), ValueError, "z1 must have rank 2"),
  _bad(_two, "dtype", (_Z, jnp.ones((4, 2), complex)), TypeError, "z2 must be a floating-point"),
  _bad(_two, "shapes", (_Z, _Z[:3]), ValueError, "z1 and z2 must have equal shapes"),
  _bad(_sup, "rank", (_Z[0], _LABELS), ValueError, "embeddings must have rank 2"),
  _bad(_sup, "labels", (_Z, jnp.zeros(4)), TypeError, "labels must hold integers"),
  _bad(_sup, "labels shape", (_Z, _LABELS[:3]), ValueError, r"labels must have shape \(4,\)"),
  _bad(_sup, "mask", (_Z, _LABELS), TypeError, "where must be a boolean", where=jnp.ones(4)),
  _bad(_sup, "temperature", (_Z, _LABELS), ValueError, "temperature must be > 0", temperature=0.0),
  _bad(
    _sup,
    "temperature rank",
    (_Z, _LABELS),
    ValueError,
    "temperature must have rank 0",
    temperature=jnp.ones(4),
  ),
  _bad(_soft, "widths", (_Z, jnp.ones((2, 3)), _LABELS), ValueError, "must have equally many feat"),
  _bad(_soft, "prototypes", (_Z, _Z[0], _LABELS), ValueError, "prototypes must have rank 2"),
  _bad(_soft, "classes", (_Z, _Z[:1], 0 * _LABELS), ValueError, "must have at least two classes"),
  _bad(_soft, "range", (_Z, _Z[:2], 2 * _LABELS), ValueError, "labels must lie in"),
  _bad(
    _soft, "temperature", (_Z, _Z, _LABELS), ValueError, "temperature must be > 0", temperature=-1.0
  ),
  _bad("cosine_similarities", "rank", (_Z[0],), ValueError, "embeddings must have rank 2"),
  _bad("cosine_similarities", "dtype", (1j * _Z,), TypeError, "embeddings must be a flo"),
  _bad(_tcm, "square", (_SQUARE[:3], _LABELS), ValueError, "must be a square matrix"),
  _bad(_tcm, "dtype", (jnp.zeros((4, 4), complex), _LABELS), TypeError, "must be a floating-point"),
  _bad(_tcm, "labels", (_SQUARE, _LABELS[:3]), ValueError, "labels must have shape"),
  _bad(_tcm, "labels dtype", (_SQUARE, jnp.ones(4)), TypeError, "labels must hold integers"),
  _bad(
    _tcm, "mask", (_SQUARE, _LABELS), ValueError, "where must have shape", where=jnp.ones(4, bool)
  ),
  _bad(
    _tcm,
    "weight",
    (_SQUARE, _LABELS),
    ValueError,
    "negative_weight must be >= 0",
    negative_weight=-1.0,
  ),
  _bad(
    _tcm,
    "margin",
    (_SQUARE, _LABELS),
    ValueError,
    "positive_margin must have rank 0",
    positive_margin=jnp.ones(4),
  ),
  _bad("opis", "classes", (_Z, _LABELS), ValueError, "num_classes must be at", num_classes=0),
  _bad("opis", "range", (_Z, _LABELS), ValueError, "labels must lie in", num_classes=1),
  _bad("opis", "rank", (_Z[0], _LABELS), ValueError, "embeddings must have rank", num_classes=2),
  _bad(
    "opis", "far", (_Z, _LABELS), ValueError, r"far\[0\] must be in", num_classes=2, far=(0.0, 0.1)
  ),
  _bad(
    "opis",
    "far order",
    (_Z, _LABELS),
    ValueError,
    "far must not decrease",
    num_classes=2,
    far=(0.2, 0.1),
  ),
  _bad("opis", "far pair", (_Z, _LABELS), ValueError, "be a pair", num_classes=2, far=0.1),
  _bad("opis", "beta", (_Z, _LABELS), ValueError, "beta must be > 0", num_classes=2, beta=0.0),
  _bad(
    "opis",
    "thresholds",
    (_Z, _LABELS),
    ValueError,
    "num_thresholds must be at least 2",
    num_classes=2,
    num_thresholds=1,
  ),
  _bad(
    "opis",
    "bins",
    (_Z, _LABELS),
    TypeError,
    "num_bins must be a static",
    num_classes=2,
    num_bins=8.0,
  ),
  _bad(
    "opis", "block", (_Z, _LABELS), ValueError, "block must be at least", num_classes=2, block=0
  ),
  _bad("eps_opis", "type", (_Z,), TypeError, "result must be an Opis"),
  _bad("eps_opis", "epsilon", (_OPIS,), ValueError, "epsilon must be in", epsilon=0.0),
  _bad("eps_opis", "more than all", (_OPIS,), ValueError, "epsilon must be in", epsilon=1.5),
  _bad("eps_opis", "rank", (_OPIS,), ValueError, "epsilon must have rank 0", epsilon=jnp.ones(2)),
  _bad(_recall, "labels", (_Z, _LABELS[:2]), ValueError, "labels must have shape"),
  _bad(_recall, "block", (_Z, _LABELS), TypeError, "block must be a static", block=1.5),
]
