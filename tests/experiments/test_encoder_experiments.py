"""What the experiments with the encoder compute: ranks, kernels alone, first scores, bounds."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _encoder
from experiments.layers import _encoder_parts, encoder_adapters, encoder_sparsity
from experiments.layers.encoder_adapters import FULL, HEAD, LORA

CONFIG = encoder_sparsity.SIZES["toy"].config
SOURCE = _encoder_parts.random(CONFIG)
TEXTS = SOURCE.draw(0)


def call(function, **options):
  return jax.jit(functools.partial(function, heads=SOURCE.heads, **options))


def test_retrieval_counts_the_words_that_are_nearer():
  """Places of the answers among 12 words, written down: 0, 1, 10, 11; a tie is no loss."""
  similar = np.zeros((4, 12), np.float32)
  similar[0, 0] = 1
  similar[1, 1], similar[1, 5] = 1, 2
  similar[2] = 1
  similar[2, 2], similar[2, 3] = 0, 0
  similar[3] = 1
  similar[3, 3] = 0
  found = _encoder_parts.retrieval(jnp.eye(4), jnp.asarray(similar.T))
  assert float(found["top1"]) == 1 / 4 and float(found["top10"]) == 2 / 4
  tied = _encoder_parts.retrieval(jnp.eye(2), jnp.ones((2, 2)))
  assert float(tied["top1"]) == 1


def test_draws_depend_on_the_seed_alone_and_answers_come_first():
  again, other = SOURCE.draw(0), SOURCE.draw(1)
  jax.tree.map(np.testing.assert_array_equal, TEXTS, again)
  assert not np.array_equal(TEXTS.query[0], other.query[0])
  for gloss, word in zip(TEXTS.query[0], TEXTS.candidate[0], strict=False):
    assert np.isin(word, gloss).all(), "a made-up gloss has the pieces of its word"
  assert TEXTS.calibration[1].ravel()[TEXTS.rows].all(), "no padding among the tokens"


def test_nothing_dropped_is_the_dense_encoder():
  dense, words, given, values = call(encoder_sparsity.prepare)(SOURCE.params, TEXTS, jnp.zeros(1))
  rest = dense, words
  count = call(encoder_sparsity.by_count, level=0.0)(SOURCE.params, TEXTS, given["norms"], *rest)
  cut = call(encoder_sparsity.by_threshold)(SOURCE.params, TEXTS, given["thresholds"], *rest)
  np.testing.assert_allclose(count["loss"], 0, atol=1e-6)
  np.testing.assert_allclose(cut["loss"], 0, atol=1e-6)
  np.testing.assert_allclose(cut["realised"], 0, atol=1e-6)
  for place, kernel in _encoder.kernels_behind(SOURCE.params).items():
    rows = np.linalg.norm(np.asarray(kernel), axis=2)
    np.testing.assert_allclose(given["norms"][place][1], rows, rtol=1e-5)
    assert values[place].shape == (2, CONFIG.tokens, kernel.shape[1])


def test_bases_make_the_rows_of_kernels_orthogonal():
  for name, basis in _encoder_parts.rotations(SOURCE.params).items():
    turned = np.swapaxes(basis, 1, 2) @ np.asarray(SOURCE.params["layers"][name]["kernel"])
    gram = turned @ np.swapaxes(turned, 1, 2)
    np.testing.assert_allclose(gram, gram * np.eye(gram.shape[1]), atol=1e-5)


def test_bounds_of_logits_are_those_of_queries_and_keys():
  found = call(encoder_adapters.logit_bounds)(SOURCE.params, TEXTS.query)
  _, seen = call(_encoder.hidden_states, watch=True)(SOURCE.params, *TEXTS.query)
  for i, x in enumerate(np.asarray(seen[_encoder.ATTENTION_INPUT])):
    real = x[TEXTS.query[1]]
    parts = (SOURCE.params["layers"][name] for name in ("query", "key"))
    q, k = (real @ part["kernel"][i] + part["bias"][i][None] for part in parts)
    for h in range(SOURCE.heads):
      own = slice(h * 8, (h + 1) * 8)
      sizes = (np.linalg.norm(np.asarray(v)[:, own], axis=1).max() for v in (q, k))
      np.testing.assert_allclose(found[i, h], np.prod(list(sizes)) / np.sqrt(8), rtol=1e-5)


def test_all_methods_start_at_the_frozen_encoder_and_lower_what_they_train():
  config = encoder_adapters.Config(train=8, test=8, batch=8, rank=2, temperature=0.1)
  last = jax.tree.map(lambda leaf: leaf[-1:], SOURCE.params["layers"])
  below, embed = call(encoder_adapters.frozen_states, depth=1), call(_encoder.embed)
  parts = TEXTS.query, tuple(a[:8] for a in TEXTS.candidate)
  # Held-out texts are those of the training: what is trained has to be seen in their loss.
  twice = lambda a: np.concatenate([a, a])
  data = jax.tree.map(twice, [(below(SOURCE.params, part), part[1]) for part in parts])
  query, words = (np.asarray(embed(SOURCE.params, *part), np.float64) for part in parts)
  logits = query @ words.T / 0.1
  wanted = np.mean(np.log(np.sum(np.exp(logits), axis=1)) - np.diag(logits))
  rows = np.tile(np.arange(8), (20, 1))
  for method, rate in ((LORA, 1e-2), (FULL, 1e-3), (HEAD, 1e-2)):
    tuned = encoder_adapters.first_tuned(method, SOURCE.params, config, jax.random.key(0))
    program = jax.jit(functools.partial(encoder_adapters.fine_tune, method, config, SOURCE.heads))
    still, after = (program(jnp.float32(r), last, tuned, data, rows) for r in (0, rate))
    np.testing.assert_allclose(still[method]["loss"], wanted, rtol=1e-4)
    assert float(after[method]["loss"]) < wanted - 0.05, method
  np.testing.assert_allclose(after[encoder_adapters.NONE]["loss"], wanted, rtol=1e-4)
