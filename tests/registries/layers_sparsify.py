"""Public names and bad inputs of layers that skip channels and inputs."""

import jax.numpy as jnp

from jaxopt_robust import layers
from tests.helpers import BadInput

COVERED = {
  "ActivatedCost",
  "AttentionKernels",
  "GateStats",
  "GatedKernels",
  "KeyValue",
  "ResidualSpec",
  "SparsityAllocation",
  "Sublayer",
  "activated_cost",
  "activation_thresholds",
  "apply_gate_threshold",
  "cats_threshold",
  "chess_thresholds",
  "collect_gate_stats",
  "column_norms",
  "dense_prefix",
  "empirical_icdf",
  "gate_weights",
  "gated_mlp",
  "gated_mlp_gather",
  "greedy_allocate",
  "merge_gate_stats",
  "orthogonalize_pivots",
  "quantile_kth",
  "selective_attention",
  "sparse_linear",
  "teal_mask",
  "wina_mask",
}

_X = jnp.array([1.0, -2.0, 3.0])
_EYE = jnp.eye(3)
_GATED = layers.GatedKernels(_EYE, _EYE, _EYE)
_HEADS = layers.AttentionKernels(_EYE, _EYE, _EYE, _EYE)
_STATS = layers.GateStats(_X**2, _X**2, jnp.int32(1))
_LAYER = layers.Sublayer("k", ["k"], ["o"], "g")
_SPEC = layers.ResidualSpec(["e"], [_LAYER], ["h"])
_PARAMS = {"e": _EYE, "k": _EYE, "o": _EYE, "h": _EYE, "g": _X}


def _identity(params, batch):
  return batch


def _allocate(layer=lambda s, x: x, **options):
  options = {"weights": {"a": 1.0}, "target": 0.5, **options}
  return layers.greedy_allocate(layer, _EYE, **options)


def _bad(name, what, call, error, match):
  return BadInput(f"layers.{name}", what, call, error, match)


BAD_INPUTS: list[BadInput] = [
  _bad("quantile_kth", "share", lambda: layers.quantile_kth(_X, 1.5), ValueError, "q must be"),
  _bad("quantile_kth", "empty", lambda: layers.quantile_kth([], 0.5), ValueError, "x must not be"),
  _bad(
    "cats_threshold", "nan", lambda: layers.cats_threshold(_X / 0.0 * 0.0, sparsity=0.5),
    ValueError, "gates must be finite",
  ),
  _bad(
    "cats_threshold", "sparsity", lambda: layers.cats_threshold(_X, sparsity=_X), ValueError,
    "sparsity must be a scalar",
  ),
  _bad(
    "chess_thresholds", "channels", lambda: layers.chess_thresholds(_X, _X[:2], sparsity=0.5),
    ValueError, "up_weight must have one entry for each of 3 channels",
  ),
  _bad(
    "chess_thresholds", "negative", lambda: layers.chess_thresholds(_X, _X, sparsity=0.5),
    ValueError, "up_weight must be >= 0",
  ),
  _bad(
    "apply_gate_threshold", "shape", lambda: layers.apply_gate_threshold(_X, _X[:2] ** 2),
    ValueError, "threshold must be a scalar or one number for each of 3",
  ),
  _bad(
    "apply_gate_threshold", "negative", lambda: layers.apply_gate_threshold(_X, -1.0), ValueError,
    "threshold must be >= 0",
  ),
  _bad(
    "collect_gate_stats", "axis",
    lambda: layers.collect_gate_stats(_identity, None, {"a": _X, "b": _EYE[:2]}), ValueError,
    "batches must have one leading axis",
  ),
  _bad(
    "collect_gate_stats", "function", lambda: layers.collect_gate_stats(len, None, _EYE), TypeError,
    "apply_fn must be a function of",
  ),
  _bad(
    "merge_gate_stats", "other", lambda: layers.merge_gate_stats(_STATS, _X), TypeError,
    "second must be a GateStats",
  ),
  _bad(
    "gate_weights", "stat", lambda: layers.gate_weights(_STATS, stat="mean"), ValueError,
    "stat must be one of",
  ),
  _bad(
    "gate_weights", "down", lambda: layers.gate_weights(_STATS, down=_EYE[:2]), ValueError,
    "down must have the 3 channels",
  ),
  _bad(
    "activation_thresholds", "weights",
    lambda: layers.activation_thresholds(_identity, None, _EYE[None], sparsity=0.5, weights=[_X]),
    ValueError, "weights must have the structure",
  ),
  _bad("gated_mlp", "kernels", lambda: layers.gated_mlp(_X, _EYE), TypeError, "kernels must be"),
  _bad("gated_mlp", "shapes", lambda: layers.gated_mlp(_X[:2], _GATED), ValueError, "shapes"),
  _bad(
    "gated_mlp_gather", "k", lambda: layers.gated_mlp_gather(_X, _GATED, k=4), ValueError,
    "k must be at most 3",
  ),
  _bad(
    "selective_attention", "heads",
    lambda: layers.selective_attention(_EYE, _HEADS, num_heads=2), ValueError, "num_heads must",
  ),
  _bad(
    "selective_attention", "features",
    lambda: layers.selective_attention(_EYE[:, :2], _HEADS, num_heads=1), ValueError,
    "kernels must map the 2 features",
  ),
  _bad(
    "selective_attention", "groups",
    lambda: layers.selective_attention(
      jnp.ones((2, 6)),
      layers.AttentionKernels(jnp.ones((6, 6)), *[jnp.ones((6, 4))] * 2, jnp.ones((6, 6))),
      num_heads=3,
    ),
    ValueError, "num_heads must be a multiple of the 2 heads",
  ),
  _bad("column_norms", "axis", lambda: layers.column_norms(_EYE, in_axis=2), ValueError, "in_axis"),
  _bad("wina_mask", "both", lambda: layers.wina_mask(_X, _X**2), ValueError, "exactly one"),
  _bad("wina_mask", "norms", lambda: layers.wina_mask(_X, _X, k=1), ValueError, "norms must be"),
  _bad("teal_mask", "k", lambda: layers.teal_mask(_X, k=4), ValueError, "k must be at most 3"),
  _bad(
    "teal_mask", "sparsity", lambda: layers.teal_mask(_X, sparsity=-0.1), ValueError,
    "sparsity must be",
  ),
  _bad("dense_prefix", "dtype", lambda: layers.dense_prefix(_EYE), TypeError, "mask must be"),
  _bad("dense_prefix", "rank", lambda: layers.dense_prefix(_X > 0), ValueError, "axes of tokens"),
  _bad(
    "empirical_icdf", "negative", lambda: layers.empirical_icdf(_X, 0.5), ValueError,
    "values must be >= 0",
  ),
  _bad(
    "sparse_linear", "inputs", lambda: layers.sparse_linear(_X[:2], _EYE, k=1), ValueError,
    "kernel must have a row for each of the 2 inputs",
  ),
  _bad(
    "sparse_linear", "bias", lambda: layers.sparse_linear(_X, _EYE, _X[:2], k=1), ValueError,
    "bias must have shape",
  ),
  _bad(
    "sparse_linear", "form", lambda: layers.sparse_linear(_X, _EYE, k=1, form="masks"), ValueError,
    "form must be one of .* Did you mean 'mask'",
  ),
  _bad(
    "orthogonalize_pivots", "path",
    lambda: layers.orthogonalize_pivots(_PARAMS, _SPEC._replace(head=["hh"])), ValueError,
    "not in params. Did you mean 'h'",
  ),
  _bad(
    "orthogonalize_pivots", "tied",
    lambda: layers.orthogonalize_pivots(_PARAMS, _SPEC._replace(head=["e"])), ValueError,
    "names 'e' more than once",
  ),
  _bad(
    "orthogonalize_pivots", "shape",
    lambda: layers.orthogonalize_pivots({**_PARAMS, "o": _EYE[:, :2]}, _SPEC), ValueError,
    r"params\['o'\] must have shape \[..., 3\]",
  ),
  _bad(
    "orthogonalize_pivots", "scale",
    lambda: layers.orthogonalize_pivots({**_PARAMS, "g": _X[:2]}, _SPEC), ValueError,
    r"params\['g'\] must have shape \(3,\)",
  ),
  _bad(
    "orthogonalize_pivots", "spec", lambda: layers.orthogonalize_pivots(_PARAMS, {}), TypeError,
    "spec must be a ResidualSpec",
  ),
  _bad("greedy_allocate", "weights", lambda: _allocate(weights={}), ValueError, "at least"),
  _bad("greedy_allocate", "step", lambda: _allocate(step=0.0), ValueError, "step must be > 0"),
  _bad(
    "greedy_allocate", "output", lambda: _allocate(lambda s, x: x[0]), ValueError,
    "layer_fn's output must have rank at least 2",
  ),
  _bad(
    "activated_cost", "structure", lambda: layers.activated_cost({"a": None}, {"b": _EYE}),
    ValueError, "kept must have the structure",
  ),
  _bad(
    "activated_cost", "share", lambda: layers.activated_cost({"a": 2.0}, {"a": _EYE}), ValueError,
    "kept must be in",
  ),
]  # fmt: skip
