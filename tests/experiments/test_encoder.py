"""The sentence encoder: against a loop of NumPy, invariances, places to drop, word pieces."""

import json
import math
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import _encoder, _parsers
from experiments._fetch import DataError

HEADS, DIM, WIDTH, LAYERS = 2, 8, 12, 2
FORWARD = jax.jit(
  lambda params, ids, mask: _encoder.hidden_states(params, ids, mask, heads=HEADS, watch=True)
)
POOLED = jax.jit(_encoder.pool)


def bert_arrays(seed=0):
  """Made-up weights under the names of the files, outputs first."""
  rng = np.random.default_rng(seed)
  normal = lambda *shape: rng.normal(size=shape).astype(np.float32) * 0.5
  arrays = {
    "embeddings.word_embeddings.weight": normal(20, DIM),
    "embeddings.position_embeddings.weight": normal(9, DIM),
    "embeddings.token_type_embeddings.weight": normal(2, DIM),
    "embeddings.LayerNorm.weight": 1 + normal(DIM),
    "embeddings.LayerNorm.bias": normal(DIM),
    "embeddings.position_ids": np.arange(9)[None],
  }
  for i in range(LAYERS):
    for name in ("self.query", "self.key", "self.value", "output.dense"):
      arrays[f"encoder.layer.{i}.attention.{name}.weight"] = normal(DIM, DIM)
      arrays[f"encoder.layer.{i}.attention.{name}.bias"] = normal(DIM)
    arrays[f"encoder.layer.{i}.intermediate.dense.weight"] = normal(WIDTH, DIM)
    arrays[f"encoder.layer.{i}.intermediate.dense.bias"] = normal(WIDTH)
    arrays[f"encoder.layer.{i}.output.dense.weight"] = normal(DIM, WIDTH)
    arrays[f"encoder.layer.{i}.output.dense.bias"] = normal(DIM)
    for name in ("attention.output.LayerNorm", "output.LayerNorm"):
      arrays[f"encoder.layer.{i}.{name}.weight"] = 1 + normal(DIM)
      arrays[f"encoder.layer.{i}.{name}.bias"] = normal(DIM)
  return arrays


ARRAYS = bert_arrays()
PARAMS = _encoder.parameters(ARRAYS)
IDS = np.array([[2, 7, 5, 19, 3], [2, 4, 3, 0, 0]], np.int32)
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], bool)


def by_loops(ids):
  """Embedding of one text by the paper's formulas in float64, token by token, head by head."""
  w = {name: np.asarray(v, np.float64) for name, v in ARRAYS.items()}

  def norm(h, name):
    mean, variance = np.mean(h), np.var(h)
    return (h - mean) / math.sqrt(variance + 1e-12) * w[f"{name}.weight"] + w[f"{name}.bias"]

  dense = lambda h, name: w[f"{name}.weight"] @ h + w[f"{name}.bias"]
  gelu = lambda v: 0.5 * v * (1 + math.erf(v / math.sqrt(2)))
  named = lambda name: w[f"embeddings.{name}_embeddings.weight"]
  states = [
    norm(named("word")[i] + named("position")[t] + named("token_type")[0], "embeddings.LayerNorm")
    for t, i in enumerate(ids)
  ]
  for i in range(LAYERS):
    layer, size = f"encoder.layer.{i}.", DIM // HEADS
    q, k, v = (
      [dense(h, f"{layer}attention.self.{name}") for h in states]
      for name in ("query", "key", "value")
    )
    after = []
    for t, h in enumerate(states):
      parts = []
      for head in range(HEADS):
        own = slice(head * size, (head + 1) * size)
        scores = np.array([math.exp(q[t][own] @ other[own] / math.sqrt(size)) for other in k])
        weights = scores / scores.sum()
        parts.append(sum(a * other[own] for a, other in zip(weights, v, strict=True)))
      mixed = dense(np.concatenate(parts), f"{layer}attention.output.dense")
      h = norm(h + mixed, f"{layer}attention.output.LayerNorm")
      hidden = np.array([gelu(x) for x in dense(h, f"{layer}intermediate.dense")])
      after.append(norm(h + dense(hidden, f"{layer}output.dense"), f"{layer}output.LayerNorm"))
    states = after
  mean = np.mean(states, axis=0)
  return mean / np.linalg.norm(mean)


def embed(ids, mask):
  return np.asarray(POOLED(FORWARD(PARAMS, ids, mask)[0], mask))


def test_embeddings_are_those_of_the_formulas():
  found = embed(IDS, MASK)
  np.testing.assert_allclose(found[0], by_loops([2, 7, 5, 19, 3]), atol=2e-5)
  np.testing.assert_allclose(found[1], by_loops([2, 4, 3]), atol=2e-5)
  whole = _encoder.embed(PARAMS, IDS, MASK, heads=HEADS)
  np.testing.assert_allclose(whole, found, atol=1e-6)


def test_padding_and_neighbours_in_the_batch_change_nothing_but_order_does():
  found = embed(IDS, MASK)
  other = IDS.copy()
  other[1, 3:] = 11, 17  # behind the mask
  np.testing.assert_array_equal(embed(other, MASK), found)
  np.testing.assert_allclose(embed(IDS[::-1], MASK[::-1]), found[::-1], atol=1e-6)
  turned = IDS[:, [0, 2, 1, 3, 4]]
  assert np.max(np.abs(embed(turned, MASK)[0] - found[0])) > 1e-3
  # Without positions a bag of tokens has one embedding.
  flat = PARAMS | {"position": np.zeros_like(PARAMS["position"])}
  bag = [POOLED(FORWARD(flat, ids, MASK)[0], MASK)[0] for ids in (IDS, turned)]
  np.testing.assert_allclose(*bag, atol=1e-5)


def test_no_tokens_give_zero():
  assert embed(IDS, np.zeros_like(MASK)).tolist() == np.zeros((2, DIM)).tolist()


def test_what_is_seen_at_the_places_leads_to_the_last_states():
  last, seen = FORWARD(PARAMS, IDS, MASK)
  assert set(seen) == set(_encoder.PLACES)
  shapes = {place: kernel.shape for place, kernel in _encoder.kernels_behind(PARAMS).items()}
  for place, values in seen.items():
    assert values.shape == (LAYERS, 2, 5, shapes[place][1])
  layer = jax.tree.map(lambda leaf: leaf[-1], PARAMS["layers"])
  added = seen[_encoder.HIDDEN][-1] @ layer["down"]["kernel"] + layer["down"]["bias"][None, None]
  h = _encoder.layer_norm(seen[_encoder.FORWARD_INPUT][-1] + added, layer["forward_norm"])
  np.testing.assert_allclose(h, last, atol=1e-5)
  up = seen[_encoder.FORWARD_INPUT] @ PARAMS["layers"]["up"]["kernel"][:, None]
  up += PARAMS["layers"]["up"]["bias"][:, None, None]
  wanted = 0.5 * up * (1 + jax.scipy.special.erf(up / math.sqrt(2)))
  np.testing.assert_allclose(seen[_encoder.HIDDEN], wanted, atol=1e-5)


@pytest.mark.parametrize(("place", "names"), [
  (_encoder.ATTENTION_INPUT, ("query", "key", "value")), (_encoder.ATTENTION_OUTPUT, ("output",)),
  (_encoder.FORWARD_INPUT, ("up",)), (_encoder.HIDDEN, ("down",)),
])  # fmt: skip
def test_dropping_a_channel_is_a_kernel_without_its_row(place, names):
  """In the second layer alone: ``needs`` reaches each layer's own part."""
  keep = jnp.ones((LAYERS, WIDTH if place == _encoder.HIDDEN else DIM)).at[1, 3].set(0)
  drop = lambda here, value, own: value * own[None, None] if here == place else value
  dropped, _ = _encoder.hidden_states(PARAMS, IDS, MASK, heads=HEADS, drop=drop, needs=keep)
  cut = lambda part: part | {"kernel": part["kernel"] * keep[..., None]}
  layers = PARAMS["layers"] | {name: cut(PARAMS["layers"][name]) for name in names}
  wanted, _ = FORWARD(PARAMS | {"layers": layers}, IDS, MASK)
  np.testing.assert_allclose(dropped, wanted, atol=1e-5)
  assert np.max(np.abs(wanted - FORWARD(PARAMS, IDS, MASK)[0])) > 1e-3
  kernels = np.concatenate([PARAMS["layers"][name]["kernel"] for name in names], axis=2)
  np.testing.assert_array_equal(_encoder.kernels_behind(PARAMS)[place], kernels)


def test_a_random_encoder_has_the_same_parts():
  key = jax.random.key(0)
  made = _encoder.random_parameters(key, words=20, dim=DIM, width=WIDTH, layers=LAYERS, length=9)
  shapes = lambda tree: jax.tree.map(lambda leaf: leaf.shape, tree)
  assert shapes(made) == shapes(PARAMS)


def test_what_does_not_fit_is_refused():
  with pytest.raises(ValueError, match="at most 9 tokens; got 10"):
    _encoder.embed(PARAMS, np.zeros((1, 10), np.int32), np.ones((1, 10), bool), heads=HEADS)
  with pytest.raises(ValueError, match="divide the width, 8; got 3"):
    _encoder.embed(PARAMS, IDS, MASK, heads=3)
  with pytest.raises(ValueError, match=r"names of BERT; got word, \.\.\."):
    _encoder.parameters({"word": np.ones((2, 2))})


def test_half_precision_stays_and_long_logits_give_no_nan():
  half = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.bfloat16), PARAMS)
  found = _encoder.embed(half, IDS, MASK, heads=HEADS)
  assert found.dtype == jnp.bfloat16
  np.testing.assert_allclose(np.asarray(found, np.float32), embed(IDS, MASK), atol=0.1)
  far = PARAMS["layers"] | {"query": jax.tree.map(lambda v: 1e15 * v, PARAMS["layers"]["query"])}
  assert np.isfinite(POOLED(FORWARD(PARAMS | {"layers": far}, IDS, MASK)[0], MASK)).all()


def test_weights_are_read_by_their_names():
  """A file is the length of its header, the header, the numbers."""
  pytest.importorskip("safetensors")
  numbers = np.array([[1.5, -2.0, 0.25]], np.float32)
  header = {"a.weight": {"dtype": "F32", "shape": [1, 3], "data_offsets": [0, 12]}}
  raw = json.dumps(header).encode()
  found = _parsers.minilm(struct.pack("<Q", len(raw)) + raw + numbers.tobytes(), b"{}")
  np.testing.assert_array_equal(found["a.weight"], numbers)
  assert bytes(found["tokenizer"]) == b"{}"


WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##aff", "##able", "cat", "s", "##s")
TOKENIZER = {
  "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
  "normalizer": {
    "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
    "strip_accents": None, "lowercase": True,
  },
  "pre_tokenizer": {"type": "BertPreTokenizer"},
  "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
  "decoder": None,
  "model": {
    "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
    "max_input_chars_per_word": 100, "vocab": {word: i for i, word in enumerate(WORDS)},
  },
}  # fmt: skip


def test_texts_are_split_into_the_longest_pieces_and_padded():
  pytest.importorskip("tokenizers")
  raw = np.frombuffer(json.dumps(TOKENIZER).encode(), np.uint8)
  tokenize = _encoder.make_tokenizer(raw)
  ids, mask = tokenize(["Unaffable cats", "dog", ""], 8)
  assert ids.tolist() == [
    [2, 4, 5, 6, 7, 9, 3, 0], [2, 1, 3, 0, 0, 0, 0, 0], [2, 3, 0, 0, 0, 0, 0, 0],
  ]  # fmt: skip
  np.testing.assert_array_equal(mask.sum(axis=1), [7, 3, 2])
  assert tokenize(["Unaffable cats"], 4)[0].tolist() == [[2, 4, 5, 3]], "cut, with its end"
  assert ids.dtype == np.int32 and mask.dtype == bool
  assert tokenize([], 4)[0].shape == (0, 4)


def test_a_missing_package_is_named(monkeypatch):
  monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
  monkeypatch.setitem(__import__("sys").modules, "safetensors.numpy", None)
  with pytest.raises(DataError, match=r"tokenizers, which is missing.*\[experiments\]"):
    _encoder.make_tokenizer(b"{}")
  with pytest.raises(DataError, match=r"safetensors, which is missing.*\[experiments\]"):
    _parsers.minilm(b"", b"")
