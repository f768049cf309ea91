"""Ranking losses, their surrogates and metrics: what is covered, and calls that must fail."""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxopt_robust import losses
from tests.helpers import BadInput

SURROGATES = {
  "squared_hinge_surrogate": ("margin",),
  "squared_surrogate": ("margin",),
  "hinge_surrogate": ("margin",),
  "logistic_surrogate": ("scale",),
  "barrier_hinge_surrogate": ("margin", "scale"),
}
_VARIABLES = losses.AucMarginVariables(*jnp.zeros(3))


def _margin(scores, labels, **options):
  return losses.auc_margin_loss(scores, labels, options.pop("variables", _VARIABLES), **options)


# Functions of (scores[n], labels[n]): how to call them, and hyperparameters with a bad value.
BINARY: dict[str, tuple[Callable[..., Any], dict[str, tuple[Any, str]]]] = {
  "pairwise_auc_loss": (losses.pairwise_auc_loss, {}),
  "auc_margin_loss": (
    _margin,
    {
      "margin": (0.0, "margin must be > 0"),
      "prior": (1.0, r"prior must be in \(0"),
      "variables": (losses.AucMarginVariables(*jnp.zeros((3, 1))), "variables.a must have rank 0"),
    },
  ),
  "partial_auc_cvar_loss": (
    losses.partial_auc_cvar_loss,
    {"max_fpr": (0.0, r"max_fpr must be in \(0")},
  ),
  "partial_auc_kl_loss": (
    losses.partial_auc_kl_loss,
    {"temperature": (0.0, "temperature must be > 0")},
  ),
  "two_way_partial_auc_cvar_loss": (
    losses.two_way_partial_auc_cvar_loss,
    {"max_fpr": (1.1, r"max_fpr must be in \(0"), "min_tpr": (1.0, r"min_tpr must be in \[0")},
  ),
  "two_way_partial_auc_kl_loss": (
    losses.two_way_partial_auc_kl_loss,
    {
      "temperature": (0.0, "temperature must be > 0"),
      "positive_temperature": (-1.0, "positive_temperature must be > 0"),
    },
  ),
  "average_precision_loss": (losses.average_precision_loss, {}),
  "auc": (losses.auc, {}),
  "average_precision": (losses.average_precision, {}),
  "roc_curve": (losses.roc_curve, {}),
  "partial_auc": (
    losses.partial_auc,
    {"max_fpr": (0.0, r"max_fpr must be in \(0"), "min_tpr": (1.0, r"min_tpr must be in \[0")},
  ),
}
# Functions of (scores[..., items], relevance[..., items]).
LISTS: dict[str, tuple[Callable[..., Any], dict[str, tuple[Any, str]]]] = {
  "ndcg_loss": (losses.ndcg_loss, {}),
  "ndcg_at_k_loss": (
    lambda scores, relevance, **options: losses.ndcg_at_k_loss(
      scores, relevance, **{"k": 2, **options}
    ),
    {"k": (0, "k must be at least 1"), "selection_scale": (0.0, "selection_scale must be > 0")},
  ),
  "listwise_cross_entropy_loss": (losses.listwise_cross_entropy_loss, {}),
  "ndcg": (losses.ndcg, {"k": (0, "k must be at least 1"), "gain": ("log", "gain must be one of")}),
  "mean_reciprocal_rank": (losses.mean_reciprocal_rank, {"k": (0, "k must be at least 1")}),
}
COVERED = (
  set(SURROGATES)
  | set(BINARY)
  | set(LISTS)
  | {
    "AucMarginVariables",
    "RocCurve",
    "auc_margin_init",
    "mann_whitney_loss",
    "topn_negative_pool",
    "two_sample_auc",
  }
)

BAD_INPUTS: list[BadInput] = []


def _add(
  name: str, what: str, call: Callable, error: type[Exception], match: str, *args: Any, **options
):
  run = functools.partial(call, *args, **options)
  BAD_INPUTS.append(BadInput(f"losses.{name}", what, run, error, match))


for _name, _options in SURROGATES.items():
  _call = getattr(losses, _name)
  _add(_name, "dtype", _call, TypeError, "gap must be a floating-point array", 1j * jnp.ones(3))
  for _option in _options:
    _match = f"{_option} must be {'>' if _option == 'scale' else '>='} 0"
    _add(_name, _option, _call, ValueError, _match, jnp.zeros(3), **{_option: -1.0})
    _match = f"{_option} must have rank 0"
    _bad = {_option: jnp.ones(3)}
    _add(_name, f"{_option} rank", _call, ValueError, _match, jnp.zeros(3), **_bad)

_S, _Y = jnp.zeros(3), jnp.array([1, 0, 1])
for _name, (_call, _values) in BINARY.items():
  _add(_name, "rank", _call, ValueError, "scores must have rank 1", jnp.zeros((3, 1)), _Y)
  _add(_name, "dtype", _call, TypeError, "scores must be a floating-point", 1j * _S, _Y)
  _add(_name, "empty", _call, ValueError, "scores must not be empty", jnp.zeros(0), _Y[:0])
  _add(_name, "labels shape", _call, ValueError, "labels must have shape", _S, _Y[:2])
  _add(_name, "labels dtype", _call, TypeError, "labels must hold integer", _S, jnp.ones(3))
  _add(_name, "labels range", _call, ValueError, r"labels must lie in \[0, 2\)", _S, 2 * _Y)
  _match = "where must be a boolean mask"
  _add(_name, "mask dtype", _call, TypeError, _match, _S, _Y, where=jnp.ones(3))
  _match = "where must have shape"
  _add(_name, "mask shape", _call, ValueError, _match, _S, _Y, where=jnp.ones(2, bool))
  for _option, (_value, _match) in _values.items():
    _add(_name, _option, _call, ValueError, _match, _S, _Y, **{_option: _value})

_L, _R = jnp.zeros((2, 3)), jnp.ones((2, 3), jnp.int32)
for _name, (_call, _values) in LISTS.items():
  _match = "scores must have rank at least 1"
  _add(_name, "rank", _call, ValueError, _match, jnp.zeros(()), jnp.zeros((), int))
  _add(_name, "dtype", _call, TypeError, "scores must be a floating-point", 1j * _L, _R)
  _add(_name, "empty", _call, ValueError, "scores must not be empty", _L[:0], _R[:0])
  _add(_name, "shape", _call, ValueError, "scores and relevance must have equal shapes", _L, _R[:1])
  _match = "where must be a boolean mask"
  _add(_name, "mask dtype", _call, TypeError, _match, _L, _R, where=jnp.ones((2, 3)))
  if _name != "mean_reciprocal_rank":
    _add(_name, "grades", _call, ValueError, "relevance must be >= 0", _L, -_R)
  for _option, (_value, _match) in _values.items():
    _add(_name, _option, _call, ValueError, _match, _L, _R, **{_option: _value})

for _name in ("pairwise_auc_loss", "average_precision_loss", "partial_auc_kl_loss"):
  _call = getattr(losses, _name)
  _add(
    _name, "surrogate", _call, TypeError, "surrogate must be callable", _S, _Y, surrogate="hinge"
  )
  _match = "surrogate must return an array of the shape"
  _add(_name, "surrogate shape", _call, ValueError, _match, _S, _Y, surrogate=jnp.sum)
_add(
  "auc_margin_loss", "variables type", losses.auc_margin_loss, TypeError,
  "variables must be AucMarginVariables", _S, _Y, (0.0, 0.0, 0.0),
)  # fmt: skip
_add(
  "auc_margin_init", "dtype", losses.auc_margin_init, TypeError, "dtype must be a floating-point",
  dtype=jnp.int32,
)  # fmt: skip

_P = jnp.arange(2)
for _what, _error, _match, _args, _options in (
  ("rank", ValueError, "scores must have rank 2", (jnp.zeros(3), _P), {}),
  ("dtype", TypeError, "scores must be a floating-point", (1j * _L, _P), {}),
  ("index shape", ValueError, "pos_index must have shape", (_L, jnp.arange(3)), {}),
  ("index dtype", TypeError, "pos_index must hold integer", (_L, jnp.zeros(2)), {}),
  ("index range", ValueError, r"pos_index must lie in \[0, 3\)", (_L, 3 * _P), {}),
  ("mask", TypeError, "where must be a boolean", (_L, _P), {"where": _L}),
  ("temperature", ValueError, "temperature must be > 0", (_L, _P), {"temperature": 0.0}),
  ("reduction", ValueError, "reduction must be one of", (_L, _P), {"reduction": "none"}),
  ("chunk", ValueError, "chunk must be at least 1", (_L, _P), {"chunk": 0}),
):
  _add("mann_whitney_loss", _what, losses.mann_whitney_loss, _error, _match, *_args, **_options)

_M = jnp.zeros((2, 3), bool)
for _what, _error, _match, _args in (
  ("rank", ValueError, "scores must have rank 2", (jnp.zeros(3), _M, 1)),
  ("mask", TypeError, "pos_mask must be a boolean mask", (_L, _R, 1)),
  ("no mask", TypeError, "pos_mask must be a boolean mask", (_L, None, 1)),
  ("n", ValueError, "n must be at least 1", (_L, _M, 0)),
):
  _add("topn_negative_pool", _what, losses.topn_negative_pool, _error, _match, *_args)

_add(
  "two_sample_auc", "empty", losses.two_sample_auc, ValueError,
  "negative_scores must not be empty", _S, jnp.zeros(0),
)  # fmt: skip
_add(
  "two_sample_auc", "dtype", losses.two_sample_auc, TypeError,
  "positive_scores must be a floating-point", 1j * _S, _S,
)  # fmt: skip
_add(
  "two_sample_auc", "mask", losses.two_sample_auc, ValueError,
  "positive_where must have shape", _S, _S, positive_where=jnp.ones(2, bool),
)  # fmt: skip
