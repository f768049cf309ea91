"""Encoders with texts for them, glosses of synsets and their words; kernels of encoders alone."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _encoder, datasets
from jaxopt_robust import layers

_WORD_LENGTH = 8  # tokens of a word; longer ones are cut
_SMALL = {"words": 64, "dim": 16, "width": 32, "layers": 2, "length": 16}
# Similarities to the first sentence of the others, as the documentation of sentence-transformers
# prints them in its example of semantic search with all-MiniLM-L6-v2.
_PUBLISHED = {
  "A man is eating pasta.": 1.0,
  "A man is eating food.": 0.7035,
  "A man is eating a piece of bread.": 0.5272,
  "A man is riding a horse.": 0.1889,
  "A man is riding a white horse on an enclosed ground.": 0.1047,
  "A cheetah is running behind its prey.": 0.0980,
}


class Texts(NamedTuple):
  """Word pieces and masks: of queries, candidates (the first ones are the answers), calibration."""

  query: Any
  candidate: Any
  calibration: Any
  rows: Any  # of the tokens of the calibration glosses that are no padding


class Source(NamedTuple):
  """An encoder, texts for it by seed, and how far it is from published similarities."""

  params: Any
  heads: int
  draw: Callable[[int], Texts]
  published: float | None


def _texts(gloss: Any, word: Any, config: Any) -> Texts:
  """Of the pieces of the glosses and words of the candidates."""
  part = lambda of, first, last: tuple(a[first:last] for a in of)
  calibration = part(gloss, config.queries, config.queries + config.calibration)
  rows = np.flatnonzero(calibration[1])[: config.tokens].astype(np.int32)
  if len(rows) < config.tokens:
    raise ValueError(f"The calibration glosses have {len(rows)} tokens; wanted {config.tokens}.")
  return Texts(part(gloss, 0, config.queries), word, calibration, rows)


def random(config: Any) -> Source:
  """A small random encoder; glosses are the pieces of their words among others."""

  def draw(seed: int) -> Texts:
    rng = np.random.default_rng(seed)
    word = rng.integers(3, _SMALL["words"], (config.candidates, 3), np.int32)
    other = rng.integers(3, _SMALL["words"], (config.candidates, config.length - 3), np.int32)
    gloss = rng.permuted(np.concatenate([word, other], axis=1), axis=1)
    mask = np.ones(gloss.shape, bool)
    mask[:, -1] = rng.random(config.candidates) < 0.5
    return _texts((gloss, mask), (word, np.ones(word.shape, bool)), config)

  params = _encoder.random_parameters(jax.random.key(0), **_SMALL)
  return Source(jax.tree.map(jnp.asarray, params), 2, draw, None)


def wordnet(config: Any) -> Source:
  """MiniLM-L6; synsets with short glosses and different first words."""
  arrays, synsets = datasets.load("minilm"), datasets.load("wordnet")
  tokenize = _encoder.make_tokenizer(arrays["tokenizer"])
  gloss = synsets["gloss"]
  first = synsets["word"][np.unique(synsets["synset"], return_index=True)[1]]

  def draw(seed: int) -> Texts:
    order = np.random.default_rng(seed).permutation(len(gloss))[: 4 * config.candidates]
    order = order[np.sort(np.unique(first[order], return_index=True)[1])]
    ids, mask = tokenize(gloss[order].tolist(), config.length + 1)
    fits = ~mask[:, -1]
    order, ids, mask = (a[fits][: config.candidates] for a in (order, ids, mask))
    word = tokenize(first[order].tolist(), _WORD_LENGTH)
    return _texts((ids[:, :-1], mask[:, :-1]), word, config)

  params = jax.tree.map(jnp.asarray, _encoder.parameters(arrays))
  embedded = jax.jit(_encoder.embed)(params, *tokenize(list(_PUBLISHED), config.length))
  difference = np.asarray(embedded @ embedded[0]) - np.float32(list(_PUBLISHED.values()))
  return Source(params, _encoder.HEADS, draw, float(np.max(np.abs(difference))))


_ALONE = {"key": _encoder.ATTENTION_INPUT, "up": _encoder.FORWARD_INPUT}


def retrieval(query: jax.Array, words: jax.Array) -> dict[str, jax.Array]:
  """How often embeddings of glosses find their words, those of the same row, among all words."""
  similar = query @ words.T
  place = jnp.sum(similar > jnp.diagonal(similar)[:, None], axis=1)  # 0 is the first
  return {"top1": jnp.mean(place < 1), "top10": jnp.mean(place < 10)}


def rotations(params: Any) -> dict[str, np.ndarray]:
  """Left singular vectors of the kernels that are looked at alone, float32[layers, n, n]."""
  kernels = {name: np.asarray(params["layers"][name]["kernel"], np.float64) for name in _ALONE}
  return {name: np.float32(np.linalg.svd(v, full_matrices=False)[0]) for name, v in kernels.items()}


def single_kernels(
  params: Any, bases: dict[str, Any], values: dict[str, jax.Array], *, level: float
) -> dict[str, Any]:
  """Squared errors of kernels alone, on calibration tokens: keys and first kernels of the networks.

  With inputs as they are, and with inputs rotated so that the kernel's rows are orthogonal.
  """
  found = {}
  for name, place in _ALONE.items():
    kernel, x = params["layers"][name]["kernel"], values[place]
    k = int(kernel.shape[1] * (1 - level) + 1e-6)

    def errors(x: jax.Array, kernel: jax.Array, k: int = k) -> dict[str, jax.Array]:
      masks = layers.teal_mask(x, k=k), layers.wina_mask(x, layers.column_norms(kernel), k=k)
      product = lambda mask: jnp.matmul(jnp.where(mask, 0, x), kernel, precision="highest")
      size = jnp.sum(jnp.matmul(x, kernel, precision="highest") ** 2)
      teal, wina = (jnp.sum(product(mask) ** 2, axis=-1) for mask in masks)
      # Rounding of the rotation makes equal masks differ by nothing, unequal ones by more.
      no_worse = jnp.mean(wina <= teal * (1 + 1e-4))
      return {"TEAL": jnp.sum(teal) / size, "WINA": jnp.sum(wina) / size, "no worse": no_worse}

    basis = bases[name]
    turned = jnp.einsum("ltn,lnr->ltr", x, basis, precision="highest")
    pivot = jnp.einsum("lnr,lnm->lrm", basis, kernel, precision="highest")
    for kind, pair in (("raw", (x, kernel)), ("rotated", (turned, pivot))):
      of_layers = jax.vmap(errors)(*pair)
      found[f"{name}, {kind}"] = jax.tree.map(lambda v: jnp.mean(v), of_layers)
  return found
