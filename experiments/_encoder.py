"""A sentence encoder of BERT's kind as pure functions, with places to drop activations.

A transformer whose layers are h <- norm(h + attention(h)), h <- norm(h + feed_forward(h)), with
GELU, biases everywhere, and norms that subtract the mean; the embedding of a text is the mean of
its tokens' last h, of length 1. Weights are a pytree with the layers stacked.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments._fetch import DataError

# What may be dropped: the inputs of queries, keys and values, of the output of attention, and of
# the two kernels of the feed-forward network.
ATTENTION_INPUT, ATTENTION_OUTPUT = "attention input", "attention output"
FORWARD_INPUT, HIDDEN = "feed-forward input", "hidden"
PLACES = (ATTENTION_INPUT, ATTENTION_OUTPUT, FORWARD_INPUT, HIDDEN)
HEADS = 12  # of MiniLM-L6; the weights do not tell
_EPSILON = 1e-12  # of BERT's norms

# drop(place, values[batch, tokens, n], what the layer needs for it) -> values
Drop = Callable[[str, jax.Array, Any], jax.Array]

_DENSE = {
  "query": "attention.self.query",
  "key": "attention.self.key",
  "value": "attention.self.value",
  "output": "attention.output.dense",
  "up": "intermediate.dense",
  "down": "output.dense",
}
_NORMS = {"attention_norm": "attention.output.LayerNorm", "forward_norm": "output.LayerNorm"}


def parameters(arrays: Mapping[str, Any]) -> dict[str, Any]:
  """Weights by BERT's names as a pytree; kernels have their inputs first, layers a leading axis."""
  layer = "encoder.layer.{}."
  number = sum(f"{layer.format(i)}output.dense.bias" in arrays for i in range(len(arrays)))
  if not number:
    raise ValueError(f"arrays must have the names of BERT; got {', '.join(list(arrays)[:3])}, ...")
  every = lambda name: np.stack([arrays[layer.format(i) + name] for i in range(number)])
  layers = {
    ours: {"kernel": every(f"{name}.weight").swapaxes(1, 2), "bias": every(f"{name}.bias")}
    for ours, name in _DENSE.items()
  } | {
    ours: {"scale": every(f"{name}.weight"), "bias": every(f"{name}.bias")}
    for ours, name in _NORMS.items()
  }
  named = lambda name: np.asarray(arrays[f"embeddings.{name}"])
  return {
    "word": named("word_embeddings.weight"),
    "position": named("position_embeddings.weight"),
    "kind": named("token_type_embeddings.weight"),
    "norm": {"scale": named("LayerNorm.weight"), "bias": named("LayerNorm.bias")},
    "layers": layers,
  }


def random_parameters(
  key: jax.Array, *, words: int, dim: int, width: int, layers: int, length: int
) -> dict[str, Any]:
  """Parameters of a small encoder: normal kernels of variance 1 / inputs, other parts near BERT's.

  Args:
    key: PRNG key.
    words: size of the vocabulary.
    dim: width of the residual.
    width: of the hidden layer.
    layers: number of layers.
    length: largest number of tokens.

  Returns:
    A pytree like that of ``parameters``.
  """
  keys = iter(jax.random.split(key, 32))
  normal = lambda *shape, size=1.0: np.asarray(size * jax.random.normal(next(keys), shape))
  norm = lambda *shape: {"scale": 1 + normal(*shape, size=0.2), "bias": normal(*shape, size=0.1)}

  def dense(inputs: int, outputs: int) -> dict[str, np.ndarray]:
    kernel = normal(layers, inputs, outputs, size=inputs**-0.5)
    return {"kernel": kernel, "bias": normal(layers, outputs, size=0.1)}

  sizes = dict.fromkeys(_DENSE, (dim, dim)) | {"up": (dim, width), "down": (width, dim)}
  return {
    "word": normal(words, dim), "position": normal(length, dim, size=0.3),
    "kind": normal(2, dim, size=0.3), "norm": norm(dim),
    "layers": {name: dense(*shape) for name, shape in sizes.items()}
    | {name: norm(layers, dim) for name in _NORMS},
  }  # fmt: skip


def _row(vector: Any) -> jax.Array:
  """A number a channel, for values [batch, tokens, channels]."""
  return jnp.asarray(vector)[None, None]


def layer_norm(h: jax.Array, norm: Mapping[str, jax.Array]) -> jax.Array:
  """(h - mean) / sqrt(variance + e) times the scale plus the bias, float[batch, tokens, n]."""
  centred = h - jnp.mean(h, axis=-1, keepdims=True)
  root = jnp.sqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + _EPSILON)
  return centred / root * _row(norm["scale"]) + _row(norm["bias"])


def _dense(x: jax.Array, layer: Mapping[str, jax.Array]) -> jax.Array:
  return x @ layer["kernel"] + _row(layer["bias"])


def _keep_all(place: str, value: jax.Array, needs: Any) -> jax.Array:
  del place, needs
  return value


def _attention(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array, heads: int) -> jax.Array:
  """softmax(q k^T / sqrt(e)) v of every head, over the tokens that the mask has."""
  split = lambda a: a.reshape(*a.shape[:2], heads, -1)
  scores = jnp.einsum("bqhe,bkhe->bhqk", split(q), split(k)) / (q.shape[-1] // heads) ** 0.5
  scores = jnp.where(mask[:, None, None, :], scores, jnp.finfo(scores.dtype).min)
  mixed = jnp.einsum("bhqk,bkhe->bqhe", jax.nn.softmax(scores, axis=-1), split(v))
  return mixed.reshape(q.shape)


def first_states(params: Any, ids: jax.Array) -> jax.Array:
  """What the first layer sees, float[batch, tokens, width]: pieces, places, norm."""
  longest = len(params["position"])
  if ids.shape[1] > longest:
    raise ValueError(f"texts must have at most {longest} tokens; got {ids.shape[1]}.")
  places = params["position"][None, : ids.shape[1]]
  return layer_norm(params["word"][ids] + places + _row(params["kind"][0]), params["norm"])


def run_layers(
  layers: Any,
  h: jax.Array,
  mask: jax.Array,
  *,
  heads: int = HEADS,
  drop: Drop = _keep_all,
  needs: Any = None,
  watch: bool = False,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """The last h of every token, and what was seen at all places of all layers.

  Args:
    layers: ``params["layers"]``, or some of them in a row.
    h: float[batch, tokens, width], what the first of them sees.
    mask: bool[batch, tokens], false for padding, which no other token sees.
    heads: number of heads of attention; divides the width.
    drop: what to do with the values at a place before they reach the kernels behind it.
    needs: pytree whose leaves have a leading axis of layers; a layer's part goes to ``drop``.
    watch: whether to return the values at all places, before ``drop``.

  Returns:
    float[batch, tokens, width], and with ``watch`` float[layers, batch, tokens, n] by place.

  Raises:
    ValueError: heads that do not divide the width.
  """
  if h.shape[-1] % heads:
    raise ValueError(f"heads must divide the width, {h.shape[-1]}; got {heads}.")

  def step(h: jax.Array, given: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
    layer, own = given
    seen: dict[str, jax.Array] = {}

    def at(place: str, value: jax.Array) -> jax.Array:
      seen[place] = value
      return drop(place, value, own)

    x = at(ATTENTION_INPUT, h)
    mixed = _attention(*(_dense(x, layer[name]) for name in ("query", "key", "value")), mask, heads)
    added = _dense(at(ATTENTION_OUTPUT, mixed), layer["output"])
    h = layer_norm(h + added, layer["attention_norm"])
    hidden = jax.nn.gelu(_dense(at(FORWARD_INPUT, h), layer["up"]), approximate=False)
    h = layer_norm(h + _dense(at(HIDDEN, hidden), layer["down"]), layer["forward_norm"])
    return h, seen if watch else {}

  return jax.lax.scan(step, h, (layers, needs))


def hidden_states(
  params: Any, ids: jax.Array, mask: jax.Array, **options: Any
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """``run_layers`` of all layers on texts: int[batch, tokens], and bool of that shape."""
  return run_layers(params["layers"], first_states(params, ids), mask, **options)


def pool(h: jax.Array, mask: jax.Array) -> jax.Array:
  """Mean of the tokens that the mask has, float[batch, width] of length 1; 0 where it has none."""
  weight = mask[..., None].astype(h.dtype)
  mean = jnp.sum(h * weight, axis=1) / jnp.maximum(jnp.sum(weight, axis=1), 1)
  return mean / jnp.maximum(jnp.linalg.norm(mean, axis=-1, keepdims=True), _EPSILON)


def embed(params: Any, ids: jax.Array, mask: jax.Array, **options: Any) -> jax.Array:
  """Embeddings of texts, float[batch, width] of length 1; options of ``hidden_states``."""
  return pool(hidden_states(params, ids, mask, **options)[0], mask)


def kernels_behind(params: Any) -> dict[str, jax.Array]:
  """What the values at a place are multiplied with, float[layers, n, outputs] by place."""
  kernel = lambda name: params["layers"][name]["kernel"]
  attention = jnp.concatenate([kernel(name) for name in ("query", "key", "value")], axis=2)
  return {
    ATTENTION_INPUT: attention,
    ATTENTION_OUTPUT: kernel("output"),
    FORWARD_INPUT: kernel("up"),
    HIDDEN: kernel("down"),
  }


def make_tokenizer(raw: Any) -> Callable[[Sequence[str], int], tuple[np.ndarray, np.ndarray]]:
  """The tokenizer of a ``tokenizer.json``, given as bytes or uint8.

  Returns:
    A function ``(texts, length) -> (ids, mask)``, int32 and bool of [texts, length]: word pieces
    between the marks of beginning and end, cut and padded to a length.
  """
  try:
    from tokenizers import Tokenizer
  except ImportError:
    raise DataError(
      "Texts are split by the package tokenizers, which is missing: "
      'pip install "jaxopt-robust[experiments]"'
    ) from None
  tokenizer = Tokenizer.from_str(bytes(raw).decode())

  def tokenize(texts: Sequence[str], length: int) -> tuple[np.ndarray, np.ndarray]:
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length, pad_id=tokenizer.token_to_id("[PAD]") or 0)
    found = tokenizer.encode_batch([str(text) for text in texts])
    ids = np.array([one.ids for one in found], np.int32).reshape(len(found), length)
    mask = np.array([one.attention_mask for one in found], bool).reshape(len(found), length)
    return ids, mask

  return tokenize
