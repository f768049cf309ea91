"""Public names and bad inputs of low-rank adapters and of low-rank softmax attention."""

import jax
import jax.numpy as jnp

from jaxopt_robust import layers
from tests.helpers import BadInput

COVERED = {
  "FastGradientInfo",
  "LogitBound",
  "LoraAdapter",
  "NormRegime",
  "PolynomialSoftmaxInfo",
  "attention_norm_regime",
  "exponential_features",
  "factored_attention_vjp",
  "logit_bound",
  "lora_apply",
  "lora_attention_grads_fast",
  "lora_attention_loss",
  "lora_attention_loss_fast",
  "lora_init",
  "lora_merge",
  "polynomial_attention",
  "softmax_poly_factors",
}

_KEY = jax.random.key(0)
_PARAMS = {"dense": {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}}
_ADAPTER = layers.LoraAdapter(jnp.ones((4, 2)), jnp.ones((2, 3)))
_T = jnp.ones((5, 2))
_W = {name: jnp.eye(2) for name in ("query", "key", "value")}
_HEAD = {"query": layers.LoraAdapter(jnp.ones((2, 1)), jnp.ones((1, 2)))}


def _bad(name, what, call, error, match):
  return BadInput(f"layers.{name}", what, call, error, match)


def _polynomial(name):
  function = getattr(layers, name)
  values = (_T,) if name == "polynomial_attention" else ()
  return [
    _bad(name, "features", lambda: function(_T, _T[:, :1], *values), ValueError,
         "k must have the 2 features of q"),
    _bad(name, "degree", lambda: function(_T, _T, *values, degree=0), ValueError,
         "degree must be at least 1"),
    _bad(name, "degree dtype", lambda: function(_T, _T, *values, degree=2.0), TypeError,
         "degree must be a static Python integer"),
    _bad(name, "features in all", lambda: function(jnp.ones((2, 64)), jnp.ones((2, 64)),
         *((jnp.ones((2, 1)),) if values else ())), ValueError, "a method for small heads"),
    _bad(name, "series", lambda: function(_T, _T, *values, series="tailor"), ValueError,
         "series must be one of .* Did you mean 'taylor'"),
    _bad(name, "bound", lambda: function(_T, _T, *values, bound=-1.0), ValueError,
         "bound must be > 0"),
  ]  # fmt: skip


def _head(name):
  function = getattr(layers, name)
  return [
    _bad(name, "weights", lambda: function(_HEAD, {"query": jnp.eye(2)}, _T), ValueError,
         "weights must map 'query', 'key' and 'value'"),
    _bad(name, "adapter", lambda: function({"kye": _HEAD["query"]}, _W, _T), ValueError,
         "adapters names 'kye', which is no kernel of weights. Did you mean 'key'"),
    _bad(name, "factors", lambda: function({"query": (1.0, 2.0)}, _W, _T), TypeError,
         "must be a LoraAdapter"),
    _bad(name, "inputs", lambda: function(_HEAD, _W, jnp.ones((5, 3))), ValueError,
         "must have the 3 inputs of x"),
    _bad(name, "context", lambda: function(_HEAD, _W, _T, context=jnp.ones((5, 3))), ValueError,
         "must have the 3 inputs of context"),
    _bad(name, "beta", lambda: function(_HEAD, _W, _T, beta=jnp.ones(2)), ValueError,
         "beta must have rank 0"),
    _bad(name, "heads", lambda: function(_HEAD, {**_W, "key": jnp.ones((2, 3))}, _T), ValueError,
         "equally many outputs"),
  ]  # fmt: skip


def _target(name):
  function = getattr(layers, name)
  return _bad(name, "target", lambda: function(_HEAD, _W, _T, target=_T[:2]), ValueError,
              "target must have the shape")  # fmt: skip


def _regime(*norms, **options):
  return layers.attention_norm_regime(*norms, **{"length": 100, "size": 2, **options})


BAD_INPUTS: list[BadInput] = [
  _bad("lora_init", "key", lambda: layers.lora_init(3, _PARAMS, rank=1), TypeError, "typed key"),
  _bad("lora_init", "rank", lambda: layers.lora_init(_KEY, _PARAMS, rank=4), ValueError,
       "rank must be at most 3"),
  _bad("lora_init", "zero", lambda: layers.lora_init(_KEY, _PARAMS, rank=1, zero="c"), ValueError,
       "zero must be one of"),
  _bad("lora_init", "no kernel", lambda: layers.lora_init(_KEY, {"bias": jnp.ones(3)}, rank=1),
       ValueError, "params must hold a kernel"),
  _bad("lora_init", "bias",
       lambda: layers.lora_init(_KEY, _PARAMS, rank=1, predicate=lambda path, leaf: True),
       ValueError, "must have rank at least 2"),
  _bad("lora_init", "predicate",
       lambda: layers.lora_init(_KEY, _PARAMS, rank=1, predicate=lambda leaf: True), TypeError,
       "predicate must be a function of"),
  _bad("lora_init", "empty", lambda: layers.lora_init(_KEY, {}, rank=1), ValueError,
       "params must hold at least one array"),
  _bad("lora_init", "paths",
       lambda: layers.lora_init(_KEY, {"a": {"b": jnp.eye(2)}, "a/b": jnp.eye(2)}, rank=1),
       ValueError, "different paths"),
  _bad("lora_merge", "path",
       lambda: layers.lora_merge(_PARAMS, {"dense/kernle": _ADAPTER}), ValueError,
       "no kernel of params. Did you mean 'dense/kernel'"),
  _bad("lora_merge", "shapes",
       lambda: layers.lora_merge(_PARAMS, {"dense/bias": _ADAPTER}), ValueError,
       "for its kernel of shape"),
  _bad("lora_merge", "list", lambda: layers.lora_merge(_PARAMS, [_ADAPTER]), TypeError,
       "adapters must map the paths"),
  _bad("lora_apply", "inputs", lambda: layers.lora_apply(jnp.ones(3), jnp.ones((4, 3)), _ADAPTER),
       ValueError, "x must have the 4 inputs of kernel"),
  _bad("lora_apply", "ranks",
       lambda: layers.lora_apply(
         jnp.ones(4), jnp.ones((4, 3)), layers.LoraAdapter(jnp.ones((4, 2)), jnp.ones((1, 3)))
       ), ValueError, "got shapes"),
  _bad("lora_apply", "alpha",
       lambda: layers.lora_apply(jnp.ones(4), jnp.ones((4, 3)), _ADAPTER, alpha=jnp.ones(2)),
       ValueError, "alpha must have rank 0"),
  *_polynomial("exponential_features"),
  *_polynomial("softmax_poly_factors"),
  *_polynomial("polynomial_attention"),
  _bad("polynomial_attention", "values", lambda: layers.polynomial_attention(_T, _T, _T[:2]),
       ValueError, "v must have the 5 tokens of k"),
  _bad("factored_attention_vjp", "pair",
       lambda: layers.factored_attention_vjp(_T, (_T, _T, _T), _T), ValueError,
       r"factors must be a pair \(left, right\)"),
  _bad("factored_attention_vjp", "features",
       lambda: layers.factored_attention_vjp((_T, _T[:, :1]), (_T, _T, _T), _T), ValueError,
       "right must have the 2 features of left"),
  _bad("factored_attention_vjp", "cotangent",
       lambda: layers.factored_attention_vjp((_T, _T), (_T, _T, _T), _T[:2]), ValueError,
       "cotangent must have the 5 tokens of q"),
  *_head("lora_attention_loss"),
  *_head("lora_attention_loss_fast"),
  *_head("lora_attention_grads_fast"),
  *_head("logit_bound"),
  _target("lora_attention_loss"),
  _target("lora_attention_loss_fast"),
  _target("lora_attention_grads_fast"),
  _bad("lora_attention_grads_fast", "none",
       lambda: layers.lora_attention_grads_fast({}, _W, _T), ValueError,
       "adapters must hold at least one"),
  _bad("attention_norm_regime", "norm", lambda: _regime(-1.0, 1.0), ValueError,
       "query_max must be >= 0"),
  _bad("attention_norm_regime", "nan", lambda: _regime(1.0, jnp.nan), ValueError,
       "key_max must be"),
  _bad("attention_norm_regime", "huge", lambda: _regime(1e9, 1e9), ValueError, "below 1e6"),
  _bad("attention_norm_regime", "length", lambda: _regime(1.0, 1.0, length=1), ValueError,
       "length must be at least 2"),
  _bad("attention_norm_regime", "tol", lambda: _regime(1.0, 1.0, tol=1.0), ValueError,
       "tol must be in"),
  _bad("attention_norm_regime", "traced",
       lambda: jax.jit(lambda g: _regime(g, g).ratio)(1.0), TypeError,
       "must be a number that is known while tracing"),
]  # fmt: skip
