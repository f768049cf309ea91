"""Activations of a real sentence encoder dropped by size, or by size and weights."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _amendments, _encoder, _figures
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments.layers._encoder_parts import (
  Texts,
  random,
  retrieval,
  rotations,
  single_kernels,
  wordnet,
)
from jaxopt_robust import layers

PAPER = Paper(
  title="WINA: weight informed neuron activation for accelerating large language model inference",
  authors="Chen, Zhao, Ko, Banbury, Zhuang, Liang, Cameron and Chen",
  year=2025,
  claim="In a trained sentence encoder, where norms stand behind the residuals so that no rotation "
  "is exact, magnitudes times norms of weights choose better than magnitudes: by top-k a token "
  "(WINA, TEAL) and by thresholds a channel or a layer (as CHESS and CATS).",
  section="Main results, 65 % sparsity",
  url="https://arxiv.org/abs/2505.19427",
)
AMENDED = _amendments.ENCODER_SPARSITY
TEAL, WINA = "TEAL, top-k", "WINA, top-k"
LAYER, CHANNEL = "threshold a layer", "threshold a channel"
METHODS = (TEAL, WINA, LAYER, CHANNEL)
WHAT = {
  "loss": "1 - cosine to the dense embedding",
  "top1": "top-1 retrieval",
  "top10": "top-10 retrieval",
}


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings. A seed draws synsets; the encoder is the same for all.

  Attributes:
    data: "wordnet" with MiniLM-L6, or "random": a small encoder that nobody trained on made-up
      texts.
    queries: glosses whose words are sought.
    candidates: synsets whose first words are searched, embedded by the dense encoder; those of the
      queries are among them.
    calibration: glosses of other candidates, for the thresholds.
    tokens: of the calibration glosses that are used, at most as many as they have.
    length: largest number of tokens of a gloss; synsets with longer ones are not drawn.
    levels: sparsities of the inputs of all kernels.
  """

  seeds: int = 8
  data: str = "wordnet"
  queries: int = 96
  candidates: int = 400
  calibration: int = 100
  tokens: int = 512
  length: int = 16
  levels: tuple[float, ...] = (0.25, 0.4, 0.5, 0.65, 0.8)


OURS = (
  "A sentence encoder of 6 layers with GELU (not gated), norms behind the residuals that subtract "
  "the mean (no rotation is exact) and attention in both directions, in place of language models; "
  "norms of weights at all kernels, not at pivots alone; no dense first tokens."
)
SIZES = {
  "toy": Size(
    Config(
      seeds=2, data="random", queries=8, candidates=16, calibration=8, tokens=32, length=8,
      levels=(0.5, 0.65),
    ),
    OURS + " A random encoder of 2 layers and made-up texts.",
  ),
  "desk": Size(Config(), OURS),
  "large": Size(
    Config(queries=2000, candidates=20000, calibration=1000, tokens=8192, length=48), OURS
  ),
}  # fmt: skip


def _scores(query: jax.Array, dense: jax.Array, words: jax.Array) -> dict[str, jax.Array]:
  """How near embeddings are to the dense ones, and how often they find their words."""
  return {"loss": 1 - jnp.mean(jnp.sum(query * dense, axis=1))} | retrieval(query, words)


def prepare(
  params: Any, texts: Texts, levels: jax.Array, *, heads: int
) -> tuple[jax.Array, jax.Array, dict[str, Any], dict[str, jax.Array]]:
  """Dense embeddings of queries and words, norms and thresholds by place, calibration values."""
  dense, words = (
    _encoder.embed(params, *part, heads=heads) for part in (texts.query, texts.candidate)
  )
  _, seen = _encoder.hidden_states(params, *texts.calibration, heads=heads, watch=True)
  values = {
    place: jnp.take(v.reshape(len(v), -1, v.shape[-1]), texts.rows, axis=1)
    for place, v in seen.items()
  }
  norms = {
    # Equal norms, then those of the weights: [2, layers, n].
    place: jnp.stack([jnp.ones(kernel.shape[:2]), jax.vmap(layers.column_norms)(kernel)])
    for place, kernel in _encoder.kernels_behind(params).items()
  }
  find = lambda values, weights, level: layers.chess_thresholds(values, weights, sparsity=level)
  of_layers = jax.vmap(find, in_axes=(0, 0, None))
  of_both = jax.vmap(of_layers, in_axes=(None, 0, None))
  of_levels = jax.vmap(of_both, in_axes=(None, None, 0))  # [levels, 2, layers, n]
  thresholds = {place: of_levels(values[place], norms[place], levels) for place in values}
  return dense, words, {"norms": norms, "thresholds": thresholds}, values


def by_count(
  params: Any, texts: Texts, norms: Any, dense: Any, words: Any, *, level: float, heads: int
) -> dict[str, jax.Array]:
  """Scores where the largest |x| c of every token are kept, for both kinds of norms."""

  def drop(place: str, value: jax.Array, own: Any) -> jax.Array:
    k = int(value.shape[-1] * (1 - level) + 1e-6)
    return jnp.where(layers.wina_mask(value, own[place], k=k), value, 0)

  def one(own: Any) -> dict[str, jax.Array]:
    query = _encoder.embed(params, *texts.query, heads=heads, drop=drop, needs=own)
    return _scores(query, dense, words)

  return jax.lax.map(one, norms)


def by_threshold(
  params: Any, texts: Texts, thresholds: Any, dense: Any, words: Any, *, heads: int
) -> dict[str, jax.Array]:
  """Scores where what is above its threshold is kept, and the share of the others."""
  drop = lambda place, value, own: layers.apply_gate_threshold(value, own[place])

  def one(own: Any) -> dict[str, jax.Array]:
    h, seen = _encoder.hidden_states(
      params, *texts.query, heads=heads, drop=drop, needs=own, watch=True
    )
    real = texts.query[1][None, ..., None]
    below = [
      jnp.sum((jnp.abs(value) <= own[place][:, None, None]) & real)
      / (value.shape[0] * jnp.sum(real) * value.shape[-1])
      for place, value in seen.items()
    ]
    query = _encoder.pool(h, texts.query[1])
    return _scores(query, dense, words) | {"realised": sum(below) / len(below)}

  return jax.lax.map(lambda own: jax.lax.map(one, own), thresholds)


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Embeds glosses by the dense encoder and with activations dropped by every rule."""
  params, heads, draw, published = {"random": random, "wordnet": wordnet}[config.data](config)
  levels = jnp.asarray(config.levels, jnp.float32)
  first = jax.jit(functools.partial(prepare, heads=heads))
  counts = [jax.jit(functools.partial(by_count, level=s, heads=heads)) for s in config.levels]
  cuts = jax.jit(functools.partial(by_threshold, heads=heads))
  alone = jax.jit(functools.partial(single_kernels, level=0.65))
  scores, bases = jax.jit(_scores), rotations(params)
  call, outcomes = progress.clock.call, []
  for seed in progress.track(config.seed_numbers(), "draws"):
    texts = draw(seed)
    dense, words, given, values = call(first, params, texts, levels, name="dense, thresholds")
    rest = (dense, words)
    found = [call(f, params, texts, given["norms"], *rest, name="top-k") for f in counts]
    cut = call(cuts, params, texts, given["thresholds"], *rest, name="thresholds")
    outcomes.append({
      "dense": call(scores, dense, dense, words, name="scores"),
      "alone": call(alone, params, bases, values, name="single kernels"),
      "top-k": jax.tree.map(lambda *v: np.stack(v), *found),
      "cut": jax.tree.map(np.asarray, cut),
    })  # fmt: skip
  stacked = jax.tree.map(lambda *v: np.stack(v), *outcomes)
  cells = {TEAL: ("top-k", 0), WINA: ("top-k", 1), LAYER: ("cut", 0), CHANNEL: ("cut", 1)}
  return {
    "published": None if published is None else [published] * config.seeds,
    "dense": {key: stacked["dense"][key] for key in ("top1", "top10")},
    "alone": stacked["alone"],
    "levels": {
      f"{level:g}": {
        method: {key: v[:, i, j] for key, v in stacked[rule].items()}
        for method, (rule, j) in cells.items()
      }
      for i, level in enumerate(config.levels)
    },
  }


def _side(metrics: dict[str, Any], level: float, method: str, key: str) -> Side:
  return Side(method, metrics["levels"][f"{level:g}"][method][key])


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """Losses of similarity at every level, retrieval at high ones, and what must be so."""
  made = []
  pairs = ((WINA, TEAL, "by counts"), (CHANNEL, LAYER, "by thresholds"))
  for ours, base, how in pairs:
    for level in config.levels:
      text = f"At sparsity {level:g} norms of weights lower the loss of similarity, {how}."
      sides = (_side(metrics, level, method, "loss") for method in (ours, base))
      made.append(
        Claim(f"loss_{level:g}_{METHODS.index(ours)}", text, "expected", WHAT["loss"], *sides,
              better="lower", scale="ratio", comparisons=len(config.levels))
      )  # fmt: skip
    for level in (s for s in (0.65, 0.8) if s in config.levels):
      text = f"At sparsity {level:g} norms of weights find more words first, {how}."
      sides = (_side(metrics, level, method, "top1") for method in (ours, base))
      key = f"top1_{level:g}_{METHODS.index(ours)}"
      made.append(Claim(key, text, "expected", WHAT["top1"], *sides, comparisons=2))
  text = "At sparsity 0.65 thresholds, which share among tokens, lose less than equal counts."
  sides = (_side(metrics, 0.65, method, "loss") for method in (CHANNEL, WINA))
  made.append(
    Claim("shared", text, "expected", WHAT["loss"], *sides, better="lower", scale="ratio")
  )
  if 0.25 in config.levels:
    text = "At sparsity 0.25 at most 2 points of top-1 retrieval are lost (thresholds a channel)."
    sides = _side(metrics, 0.25, CHANNEL, "top1"), Side("dense", metrics["dense"]["top1"])
    made.append(Claim("quarter", text, "expected", WHAT["top1"], *sides, margin=-0.02))
  shares = [metrics["levels"][f"{s:g}"][CHANNEL]["realised"] for s in config.levels]
  text = "On other glosses as much is dropped as asked for, to a point."
  sides = (
    Side(CHANNEL, np.mean(np.asarray(shares, float), axis=0)),
    Side("target", float(np.mean(config.levels))),
  )
  made.append(
    Claim("realised", text, "control", "share dropped, mean over sparsities", *sides, margin=0.01)
  )
  if metrics["published"] is not None:
    text = "Similarities of six sentences are those that the authors' own code prints, to a digit."
    sides = Side("largest difference", metrics["published"]), Side("none", 0.0)
    made.append(
      Claim("published", text, "control", "similarity", *sides, better="lower", margin=1e-4)
    )
  for name, what in (("key", "keys"), ("up", "the feed-forward network's first kernel")):
    text = f"With inputs rotated for {what} alone, no token's output is worse with WINA than TEAL."
    sides = (
      Side("share no worse", metrics["alone"][f"{name}, rotated"]["no worse"]),
      Side("all", 1.0),
    )
    made.append(Claim(f"pointwise_{name}", text, "theory", "share of tokens", *sides, margin=-1e-6))
  return made


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Every rule beside its own without weights at every sparsity; kernels alone."""
  rows = [Row(f"{WHAT[key]}, dense", Side("dense", v)) for key, v in metrics["dense"].items()]
  bases = {WINA: TEAL, CHANNEL: LAYER}
  for level in config.levels:
    for key, what in WHAT.items():
      for method in METHODS:
        base = _side(metrics, level, bases[method], key) if method in bases else None
        better = "lower" if key == "loss" else "higher"
        ours = _side(metrics, level, method, key)
        rows.append(Row(f"{what}, sparsity {level:g}", ours, base, better))
    for method in (LAYER, CHANNEL):
      ours = _side(metrics, level, method, "realised")
      rows.append(Row(f"share dropped, sparsity {level:g}", ours))
  for name, cell in metrics["alone"].items():
    sides = Side("WINA", cell["WINA"]), Side("TEAL", cell["TEAL"])
    rows.append(Row(f"error of one kernel, sparsity 0.65: {name}", *sides, better="lower"))
  return rows


def figure(record: dict[str, Any]) -> Any:
  """Loss of similarity, and retrieval beside that of the dense encoder, over the sparsity."""
  metrics, levels = record["metrics"], record["settings"]["levels"]
  fig, axes = new_figure(1, 3, width=4.4)
  for ax, key in zip(axes, WHAT, strict=True):
    lines = {
      method: np.transpose([metrics["levels"][f"{s:g}"][method][key] for s in levels])
      for method in METHODS
    }
    if key != "loss":
      lines = {m: np.asarray(v, float).mean(0) for m, v in lines.items()}
      ax.axhline(np.mean(metrics["dense"][key]), color="grey", ls=":", lw=1)
    title = {"top1": "Top-1, mean; dotted: dense", "top10": "Top-10, mean"}.get(key, "")
    _figures.curves(ax, lines, levels, xlabel="sparsity", ylabel=WHAT[key], title=title,
                    log="y" if key == "loss" else "")  # fmt: skip
  return fig
