"""The last layer of a real sentence encoder fine-tuned by adapters, whole, or not at all."""

import dataclasses
import functools
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments import _encoder, _figures
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments._training import batches
from experiments.layers._encoder_parts import random, retrieval, wordnet
from jaxopt_robust import layers, losses

PAPER = Paper(
  title="Computational limits of low-rank adaptation (LoRA) fine-tuning for transformer models",
  authors="Hu, Su, Kuo, Song and Liu",
  year=2024,
  claim="Adapters of queries, keys and values teach a real sentence encoder a new retrieval; on "
  "which side of the norm threshold of fast gradients its heads are.",
  section="Theorems 3.1 and 4.1",
  url="https://arxiv.org/abs/2406.03136",
)
LORA, FULL, HEAD, NONE = "adapters", "whole layer", "matrix behind", "not tuned"
TUNED = (LORA, FULL, HEAD)
WHAT = {"top1": "top-1 retrieval", "top10": "top-10 retrieval", "loss": "contrastive loss"}
BOUND = 4.0  # of the logits, beyond which series of few degrees are refused


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings. A seed draws synsets; the encoder is the same for all.

  Attributes:
    data: "wordnet" with MiniLM-L6, or "random": a small encoder that nobody trained on made-up
      texts.
    train: synsets for fine-tuning: glosses are to find their words in the batch.
    test: held-out synsets, among whose words theirs are sought.
    length: largest number of tokens of a gloss; synsets with longer ones are not drawn.
    depth: number of layers that are tuned, the last ones.
    rank: of the adapters.
    steps: of Adam.
    batch: pairs a step.
    temperature: of the contrastive loss.
    rates: learning rates of adapters, of the whole layer and of the matrix: of .0001, .0003, .001,
      .003 and .01 (of .00001, .00003, .0001, .0003 and .001 for the whole layer) the best by the
      contrastive loss of the held-out synsets of development seeds 0 and 1.
  """

  seeds: int = 8
  data: str = "wordnet"
  train: int = 640
  test: int = 300
  length: int = 12
  depth: int = 1
  rank: int = 4
  steps: int = 40
  batch: int = 32
  temperature: float = 0.05
  rates: tuple[float, ...] = (3e-3, 3e-4, 1e-3)


OURS = "Theorems, not experiments, are the paper's; retrieval by a real encoder is ours."
SIZES = {
  "toy": Size(
    Config(seeds=2, data="random", train=16, test=12, length=8, rank=2, steps=3, batch=8),
    OURS + " A random encoder of 2 layers and made-up texts.",
  ),
  "desk": Size(Config(), OURS + " The last of 6 layers, few steps."),
  "large": Size(
    Config(train=20000, test=5000, length=48, depth=6, rank=8, steps=600, batch=256),
    OURS,
  ),
}  # fmt: skip


def frozen_states(params: Any, part: Any, depth: int, heads: int) -> jax.Array:
  """What the first of the tuned layers sees."""
  below = jax.tree.map(lambda leaf: leaf[: len(leaf) - depth], params["layers"])
  return _encoder.run_layers(below, _encoder.first_states(params, part[0]), part[1], heads=heads)[0]


def first_tuned(method: str, params: Any, config: Config, key: Any) -> Any:
  """What is trained, at its start, where it changes nothing."""
  last = jax.tree.map(lambda leaf: leaf[-config.depth :], params["layers"])
  if method == LORA:
    chosen = lambda path, leaf: path[0].key in ("query", "key", "value") and leaf.ndim == 3
    return layers.lora_init(key, last, rank=config.rank, predicate=chosen)
  return last if method == FULL else jnp.eye(params["word"].shape[1])


def embed(method: str, tuned: Any, last: Any, h: Any, mask: Any, heads: int) -> jax.Array:
  """Embeddings with what was trained."""
  used = {LORA: lambda: layers.lora_merge(last, tuned), FULL: lambda: tuned}
  own = used.get(method, lambda: last)()
  pooled = _encoder.pool(_encoder.run_layers(own, h, mask, heads=heads)[0], mask)
  if method != HEAD:
    return pooled
  turned = pooled @ tuned
  return turned / jnp.linalg.norm(turned, axis=1, keepdims=True)


def fine_tune(
  method: str, config: Config, heads: int, rate: Any, last: Any, tuned: Any, data: Any, rows: Any
) -> dict[str, dict[str, jax.Array]]:
  """Trains on the first synsets and scores on the others."""
  optimizer = optax.adam(rate)
  (gloss, gloss_mask), (word, word_mask) = data

  def contrast(tuned: Any, rows: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    query = embed(method, tuned, last, gloss[rows], gloss_mask[rows], heads)
    words = embed(method, tuned, last, word[rows], word_mask[rows], heads)
    logits = query @ words.T / config.temperature
    return jnp.mean(losses.cross_entropy_loss(logits, jnp.arange(len(rows)))), (query, words)

  def step(carry: Any, rows: Any) -> tuple[Any, None]:
    tuned, state = carry
    gradient = jax.grad(contrast, has_aux=True)(tuned, rows)[0]
    updates, state = optimizer.update(gradient, state)
    return (optax.apply_updates(tuned, updates), state), None

  def score(tuned: Any) -> dict[str, jax.Array]:
    loss, (query, words) = contrast(tuned, config.train + jnp.arange(config.test))
    return retrieval(query, words) | {"loss": loss}

  last_tuned = jax.lax.scan(step, (tuned, optimizer.init(tuned)), rows)[0][0]
  # At their start all methods are the same: the scores of one of them are those of no tuning.
  return {method: score(last_tuned)} | ({NONE: score(tuned)} if method == HEAD else {})


def logit_bounds(params: Any, part: Any, heads: int) -> jax.Array:
  """Bounds of the logits of every head, ||q|| ||k|| / sqrt(e), float[layers, heads]."""
  _, seen = _encoder.hidden_states(params, *part, heads=heads, watch=True)

  def of_layer(x: jax.Array, layer: Any) -> jax.Array:
    # Padding becomes nothing: neither x nor the 1 of the biases.
    ones = part[1].reshape(-1, 1).astype(x.dtype)
    rows = jnp.concatenate([x.reshape(-1, x.shape[-1]) * ones, ones], axis=1)

    def kernels(name: str) -> jax.Array:
      whole = jnp.concatenate([layer[name]["kernel"], layer[name]["bias"][None]])
      return jnp.moveaxis(whole.reshape(len(whole), heads, -1), 1, 0)

    of_head = lambda weights: layers.logit_bound({}, weights, rows).bound
    return jax.vmap(of_head)({name: kernels(name) for name in ("query", "key", "value")})

  return jax.vmap(of_layer)(seen[_encoder.ATTENTION_INPUT], params["layers"])


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Fine-tunes by every method on the synsets of every seed."""
  number = config.train + config.test
  wanted = types.SimpleNamespace(
    queries=number, candidates=number, calibration=0, tokens=0, length=config.length
  )
  source = {"random": random, "wordnet": wordnet}[config.data](wanted)
  params, heads = source.params, source.heads
  last = jax.tree.map(lambda leaf: leaf[-config.depth :], params["layers"])
  before = jax.jit(functools.partial(frozen_states, depth=config.depth, heads=heads))
  programs = {
    method: jax.jit(functools.partial(fine_tune, method, config, heads)) for method in TUNED
  }
  bounds = jax.jit(functools.partial(logit_bounds, heads=heads))
  epochs = -(-config.steps // (config.train // config.batch))
  call, outcomes = progress.clock.call, []
  for seed in progress.track(config.seed_numbers(), "draws"):
    texts, key = source.draw(seed), jax.random.key(seed)
    data = [
      (call(before, params, part, name="frozen"), part[1])
      for part in (texts.query, texts.candidate)
    ]
    rows = batches(config.train, config.batch, epochs, seed).reshape(-1, config.batch)
    found = {}
    for method, rate in zip(TUNED, config.rates, strict=True):
      tuned = first_tuned(method, params, config, key)
      arguments = (jnp.float32(rate), last, tuned, data)
      found |= call(programs[method], *arguments, rows[: config.steps], name=method)
    test = tuple(a[config.train : config.train + 100] for a in texts.query)
    outcomes.append({"methods": found, "bounds": call(bounds, params, test, name="bounds")})
  stacked = jax.tree.map(lambda *v: np.stack(v), *outcomes)
  return {
    "methods": stacked["methods"],
    "bounds": {
      f"layer {i + 1}": {"least": v.min(axis=1), "largest": v.max(axis=1)}
      for i, v in enumerate(np.moveaxis(stacked["bounds"], 1, 0))
    },
  }


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """Fine-tuning helps, adapters as much as the whole layer; norms of the heads."""
  side = lambda method, key: Side(method, metrics["methods"][method][key])
  made = []
  for key, what in WHAT.items():
    text = f"Adapters improve on no fine-tuning: {what} of held-out words."
    better = "lower" if key == "loss" else "higher"
    made.append(
      Claim(f"helps_{key}", text, "expected", what, side(LORA, key), side(NONE, key),
            better=better, comparisons=len(WHAT))  # type: ignore[arg-type]
    )  # fmt: skip
  text = "Adapters find at most a point fewer words among the first ten than the whole layer does."
  made.append(
    Claim("whole", text, "expected", WHAT["top10"], side(LORA, "top10"), side(FULL, "top10"),
          margin=-0.01)
  )  # fmt: skip
  text = "Adapters find more words among the first ten than a matrix behind the encoder."
  sides = side(LORA, "top10"), side(HEAD, "top10")
  made.append(Claim("matrix", text, "expected", WHAT["top10"], *sides))
  if config.data == "wordnet":
    least = np.min([np.asarray(v["least"], float) for v in metrics["bounds"].values()], axis=0)
    text = "No head's bound of its logits is below 4: none is where series of few degrees serve."
    sides = Side("least of all heads", least), Side("limit", BOUND)
    made.append(Claim("norms", text, "expected", "bound of the logits", *sides))
  return made


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Every method beside no fine-tuning; bounds of the logits."""
  rows = []
  for key, what in WHAT.items():
    base = Side(NONE, metrics["methods"][NONE][key])
    for method in TUNED:
      ours = Side(method, metrics["methods"][method][key])
      rows.append(
        Row(f"{what}, held-out words", ours, base, "lower" if key == "loss" else "higher")
      )
  for layer, cell in metrics["bounds"].items():
    for name, values in cell.items():
      rows.append(Row(f"bound of the logits, {layer}", Side(f"{name} of its heads", values)))
  return rows


def figure(record: dict[str, Any]) -> Any:
  """Retrieval and loss of every method; bounds of the logits over the layers."""
  metrics = record["metrics"]
  fig, axes = new_figure(1, 3, width=4.4)
  for ax, key in zip(axes, ("top10", "loss"), strict=False):
    _figures.dots(
      ax, {"": {m: metrics["methods"][m][key] for m in (NONE, *TUNED)}}, ylabel=WHAT[key]
    )
  lines = {
    name: np.transpose([cell[name] for cell in metrics["bounds"].values()])
    for name in ("least", "largest")
  }
  axes[2].axhline(BOUND, color="grey", ls=":", lw=1)
  _figures.curves(axes[2], lines, xlabel="layer", ylabel="bound of the logits, over heads", log="y")
  return fig
