"""Stateful ranking losses: how they are called, what is covered, and calls that must fail."""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxopt_robust import compositional
from tests.helpers import BadInput

# name of the method -> hyperparameters with a bad value, and the message.
BINARY: dict[str, dict[str, tuple[Any, str]]] = {
  "soap": {"rate": (0.0, r"rate must be in \(0")},
  "sopa": {
    "max_fpr": (0.0, r"max_fpr must be in \(0"),
    "step_size": (0.0, "step_size must be > 0"),
  },
  "sopas": {
    "rate": (1.1, r"rate must be in \(0"),
    "temperature": (0.0, "temperature must be > 0"),
  },
  "sotas": {
    "rate": (0.0, r"rate must be in \(0"),
    "positive_rate": (0.0, r"positive_rate must be in \(0"),
    "temperature": (0.0, "temperature must be > 0"),
    "positive_temperature": (0.0, "positive_temperature must be > 0"),
  },
  "staco": {
    "max_fpr": (0.0, r"max_fpr must be in \(0"),
    "min_tpr": (1.0, r"min_tpr must be in \[0"),
    "dual_step_size": (0.0, "dual_step_size must be > 0"),
    "step_size": (0.0, "step_size must be > 0"),
    "positive_step_size": (0.0, "positive_step_size must be > 0"),
    "dual_where": (jnp.ones(2, bool), "dual_where must have shape"),
  },
}
LISTS: dict[str, dict[str, tuple[Any, str]]] = {
  "song": {"rate": (0.0, r"rate must be in \(0"), "num_items": (0, "num_items must be > 0")},
  "song_listwise": {"rate": (0.0, r"rate must be in \(0")},
  "k_song": {
    "k": (0, "k must be > 0"),
    "rate": (0.0, r"rate must be in \(0"),
    "curvature_rate": (0.0, r"curvature_rate must be in \(0"),
    "step_size": (0.0, "step_size must be > 0"),
    "selection_scale": (0.0, "selection_scale must be > 0"),
    "smoothing": (0.0, "smoothing must be > 0"),
    "ridge": (0.0, "ridge must be > 0"),
    "correction": ("newton", "correction must be one of"),
    "ideal_dcg": (jnp.ones(3), "ideal_dcg must be a scalar or have shape"),
    "num_relevant": (-1.0, "num_relevant must be >= 0"),
  },
}
COVERED = {f"{name}_{end}" for name in (*BINARY, *LISTS) for end in ("init", "loss")} | {
  "KSongState",
  "SoapState",
  "SongListwiseState",
  "SongState",
  "SopaInfo",
  "SopaState",
  "SopasState",
  "SotasState",
  "StacoInfo",
  "StacoState",
  "XRiskInfo",
}

BAD_INPUTS: list[BadInput] = []


def _add(
  name: str, what: str, call: Callable, error: type[Exception], match: str, *args: Any, **options
):
  run = functools.partial(call, *args, **options)
  BAD_INPUTS.append(BadInput(f"compositional.{name}", what, run, error, match))


_S, _Y, _I = jnp.zeros(3), jnp.array([1, 0, 1]), jnp.arange(3)
for _name, _values in BINARY.items():
  _init = getattr(compositional, f"{_name}_init")
  _match = "num_examples must be at least 1"
  _add(f"{_name}_init", "size", _init, ValueError, _match, 0)
  _add(f"{_name}_init", "dtype", _init, TypeError, "dtype must be a", 2, dtype=jnp.int32)
  _loss, _state, _full = getattr(compositional, f"{_name}_loss"), _init(4), f"{_name}_loss"
  for _what, _error, _match, _args in (
    ("rank", ValueError, "scores must have rank 1", (jnp.zeros((3, 1)), _Y, _I)),
    ("dtype", TypeError, "scores must be a floating-point", (1j * _S, _Y, _I)),
    ("labels", ValueError, r"labels must lie in \[0, 2\)", (_S, 2 * _Y, _I)),
    ("labels dtype", TypeError, "labels must hold integer", (_S, jnp.ones(3), _I)),
    ("index", ValueError, r"index must lie in \[0, 4\)", (_S, _Y, _I + 2)),
    ("index dtype", TypeError, "index must hold integers", (_S, _Y, jnp.zeros(3))),
    ("index shape", ValueError, "index must have shape", (_S, _Y, _I[:2])),
  ):
    _add(_full, _what, _loss, _error, _match, *_args, _state)
  _where = jnp.ones(2, bool)
  _add(_full, "mask", _loss, ValueError, "where must have shape", _S, _Y, _I, _state, where=_where)
  _match = "surrogate must be callable"
  _add(_full, "surrogate", _loss, TypeError, _match, _S, _Y, _I, _state, surrogate="hinge")
  for _option, (_value, _match) in _values.items():
    _add(_full, _option, _loss, ValueError, _match, _S, _Y, _I, _state, **{_option: _value})

_S, _Y = jnp.zeros((2, 3)), jnp.ones((2, 3), jnp.int32)
_I = (jnp.arange(2), jnp.broadcast_to(jnp.arange(3), (2, 3)))
for _name, _values in LISTS.items():
  _init = getattr(compositional, f"{_name}_init")
  for _what, _error, _match, _args in (
    ("queries", ValueError, "num_queries must be at least 1", (0, 2)),
    ("items", TypeError, "num_items must be a static", (2, 2.0)),
    ("pairs", ValueError, r"must be below 2\^31", (2**16, 2**15)),
  ):
    _add(f"{_name}_init", _what, _init, _error, _match, *_args)
  _loss, _state, _full = getattr(compositional, f"{_name}_loss"), _init(2, 3), f"{_name}_loss"
  if _name == "k_song":
    _loss = lambda *args, **options: compositional.k_song_loss(*args, **{"k": 1, **options})
  _bad_query, _bad_item = (_I[0] + 1, _I[1]), (_I[0], _I[1] + 1)
  for _what, _error, _match, _args in (
    ("rank", ValueError, "scores must have rank 2", (_S[0], _Y[0], _I)),
    ("dtype", TypeError, "scores must be a floating-point", (1j * _S, _Y, _I)),
    ("shape", ValueError, "must have equal shapes", (_S, _Y[:1], _I)),
    ("grades", ValueError, "relevance must be >= 0", (_S, -_Y, _I)),
    ("index type", TypeError, "index must be a pair", (_S, _Y, _I[1])),
    ("query", ValueError, r"index of the query must lie in \[0, 2\)", (_S, _Y, _bad_query)),
    ("item", ValueError, r"index of the item must lie in \[0, 3\)", (_S, _Y, _bad_item)),
  ):
    _add(_full, _what, _loss, _error, _match, *_args, _state)
  for _option, (_value, _match) in _values.items():
    _add(_full, _option, _loss, ValueError, _match, _S, _Y, _I, _state, **{_option: _value})
