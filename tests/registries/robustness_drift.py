"""Prototypes and adaptation on streams: covered, and bad calls."""

import functools

import jax.numpy as jnp
import optax

from jaxopt_robust import robustness
from tests.helpers import BadInput

COVERED = {
  "CsfaState",
  "StreamInfo",
  "StreamState",
  "calibrate_prototypes",
  "class_prototypes",
  "csfa_add_classes",
  "csfa_init",
  "csfa_logits",
  "csfa_stream_step",
  "prediction_entropy",
  "prototype_logits",
  "reliable_mask",
  "rsgs_losses",
  "stream_init",
  "stream_step",
}

_X = jnp.ones((2, 3))
_LABELS = jnp.zeros(2, jnp.int32)
_SGD = optax.sgd(0.1)
_STATE = robustness.StreamState(jnp.ones(3), _SGD.init(jnp.ones(3)))
BAD_INPUTS: list[BadInput] = []


def _apply(w, x):
  return x * w[None]


def _add(name, what, error, match, *args, **options):
  call = functools.partial(getattr(robustness, name), *args, **options)
  BAD_INPUTS.append(BadInput(f"robustness.{name}", what, call, error, match))


for _name in ("prediction_entropy", "reliable_mask"):
  _add(_name, "dtype", TypeError, "logits must be a floating-point", 1j * _X)
  _add(_name, "rank", ValueError, "logits must have rank at least 1", 1.0)
_add("reliable_mask", "threshold", ValueError, "threshold must have rank 0", _X, threshold=_X)
_add("rsgs_losses", "apply_fn", TypeError, "apply_fn must be callable", None)
_add("rsgs_losses", "threshold", ValueError, "threshold must have rank 0", _apply, threshold=_X)
BAD_INPUTS.append(
  BadInput(
    "robustness.rsgs_losses", "logits",
    lambda: robustness.rsgs_losses(lambda w, x: x[0])[0](1.0, _X), ValueError,
    "apply_fn: logits must have rank 2",
  )
)  # fmt: skip
BAD_INPUTS.append(
  BadInput(
    "robustness.rsgs_losses", "mask",
    lambda: robustness.rsgs_losses(_apply)[1](jnp.ones(3), _X, jnp.ones(2)), TypeError,
    "mask must be a boolean mask",
  )
)  # fmt: skip
_add("stream_init", "optimizer", TypeError, "optimizer must be an optax", jnp.ones(3), optax.sgd)
_add("stream_init", "params", TypeError, "params must be an array or a pytree", None, _SGD)
_step = functools.partial(_add, "stream_step")
_step("apply_fn", TypeError, "apply_fn must be callable", None, _SGD, _STATE, _X)
_step("optimizer", TypeError, "optimizer must be an optax", _apply, 0.1, _STATE, _X)
_step("state", TypeError, "state must be a StreamState", _apply, _SGD, jnp.ones(3), _X)
_step(
  "threshold", ValueError, "threshold must have rank 0", _apply, _SGD, _STATE, _X, threshold=_X,
)  # fmt: skip
_step("logits", ValueError, "logits must have rank 2", lambda w, x: x[0], _SGD, _STATE, _X)
_classes = functools.partial(_add, "class_prototypes")
_classes("rank", ValueError, "features must have rank 2", _X[0], _LABELS, num_classes=2)
_classes("labels", ValueError, "labels must have shape", _X, _LABELS[:1], num_classes=2)
_classes("range", ValueError, r"labels must lie in \[0, 2\)", _X, _LABELS + 2, num_classes=2)
_classes("num_classes", ValueError, "num_classes must be at least 1", _X, _LABELS, num_classes=0)
_classes(
  "mask", TypeError, "where must be a boolean mask", _X, _LABELS, num_classes=2, where=jnp.ones(2),
)  # fmt: skip
_calibrate = functools.partial(_add, "calibrate_prototypes")
_calibrate("rank", ValueError, "new must have rank 2", _X[0], _X)
_calibrate("columns", ValueError, "new and base must have the same number of columns", _X, _X.T)
_calibrate("temperature", ValueError, "temperature must be in", _X, _X, temperature=-1.0)
_calibrate("infinite", ValueError, "temperature must be in", _X, _X, temperature=float("inf"))
_calibrate("weight", ValueError, "weight must be in", _X, _X, weight=1.5)
_calibrate("mask", TypeError, "where must be a boolean mask", _X, _X, where=jnp.ones(2))
_logits = functools.partial(_add, "prototype_logits")
_logits("mask", ValueError, "where must have shape", _X, _X, where=jnp.ones(3, bool))
_logits("dtype", TypeError, "features must be a floating-point", 1j * _X, _X)
_logits("columns", ValueError, "features and prototypes must have the same", _X, _X.T)
_logits("temperature", ValueError, "temperature must be in", _X, _X, temperature=0.0)
_csfa = robustness.CsfaState(_STATE, _X, jnp.ones(2, bool), jnp.ones(2, bool))
_flat = lambda w, x: x[0]
_start = functools.partial(_add, "csfa_init")
_start("encode", TypeError, "encode must be callable", 1, _SGD, _X[0], _X, _LABELS, num_classes=2)
_start(
  "features", ValueError, "encode: features must have rank 2", _flat, _SGD, _X[0], _X, _LABELS,
  num_classes=2,
)  # fmt: skip
_start(
  "range", ValueError, r"labels must lie in \[0, 2\)", _apply, _SGD, _X[0], _X, _LABELS + 2,
  num_classes=2,
)  # fmt: skip
_start(
  "num_classes", ValueError, "num_classes must be at least 1", _apply, _SGD, _X[0], _X, _LABELS,
  num_classes=0,
)  # fmt: skip
_start(
  "params", TypeError, "params must be an array or a pytree", _apply, _SGD, None, _X, _LABELS,
  num_classes=2,
)  # fmt: skip
_arrive = functools.partial(_add, "csfa_add_classes")
_arrive("state", TypeError, "state must be a CsfaState", _apply, _STATE, _X, _LABELS)
_arrive("labels", ValueError, "labels must have shape", _apply, _csfa, _X, _LABELS[:1])
_arrive("weight", ValueError, "weight must be in", _apply, _csfa, _X, _LABELS, weight=2.0)
_add("csfa_logits", "state", TypeError, "state must be a CsfaState", _apply, _STATE, _X)
_add(
  "csfa_logits", "temperature", ValueError, "temperature must be in", _apply, _csfa, _X,
  temperature=0.0,
)  # fmt: skip
_both = functools.partial(_add, "csfa_stream_step")
_both("state", TypeError, "state must be a CsfaState", _apply, _SGD, _STATE, _X)
_both("optimizer", TypeError, "optimizer must be an optax", _apply, 0.1, _csfa, _X)
_both("threshold", ValueError, "threshold must have rank 0", _apply, _SGD, _csfa, _X, threshold=_X)
_both("features", ValueError, "encode: features must have rank 2", _flat, _SGD, _csfa, _X)
