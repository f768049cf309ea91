"""One threshold a channel of gates against one a layer: error, accuracy, realised sparsity."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import _figures
from experiments._claims import Claim, Side
from experiments._protocol import Paper, Progress, Row, Settings, Size, new_figure
from experiments._training import stack, train_all
from experiments.layers._gated_nets import (
  GATE,
  Data,
  activations,
  apply,
  load_split,
  train,
)
from jaxopt_robust import layers, losses

PAPER = Paper(
  title="CHESS: optimizing LLM inference via channel-wise thresholding and selective "
  "sparsification",
  authors="He, Wu, Wen, Xue and Li",
  year=2024,
  claim="One threshold a channel, which knows what a gate is multiplied with, costs less of the "
  "performance than one a layer (CATS) at the same sparsity.",
  section="Abstract; downstream tasks",
  url="https://arxiv.org/abs/2409.01366",
)
CATS, RMS, MEAN, DOWN, ORACLE = "CATS", "CHESS", "CHESS, mean |a|", "CHESS, W_down", "oracle"
METHODS = (CATS, RMS, MEAN, DOWN, ORACLE)
WHAT = {
  "product": "error of the gated product, first block",
  "output": "error behind W_down, first block",
  "accuracy": "test accuracy, all blocks",
  "loss": "cross entropy, all blocks",
  "realised": "share of gates dropped, first block",
}


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  Attributes:
    data: "digits" (8 x 8) or "mnist5k" (28 x 28).
    dim: width of the residual.
    width: channels of a gated block.
    blocks: number of blocks.
    train: training images.
    calibration: images for the thresholds, in batches of 100.
    test: test images.
    steps: updates of AdamW.
    batch: batch size.
    rate: learning rate, the same network for all methods: of .0003, .001, .003, .01 and .03 the
      best by accuracy on 200 held-out training images of development seeds 0 to 3.
    levels: sparsities.
    draws: scales of channels a seed, for factors that are independent.
    rows: tokens of each of them.
  """

  seeds: int = 16
  data: str = "digits"
  dim: int = 32
  width: int = 128
  blocks: int = 2
  train: int = 997
  calibration: int = 300
  test: int = 500
  steps: int = 800
  batch: int = 64
  rate: float = 1e-2
  levels: tuple[float, ...] = (0.3, 0.5, 0.7, 0.8, 0.9)
  draws: int = 20
  rows: int = 256


OURS = "A network of two gated blocks on digits, without attention, instead of language models."
SIZES = {
  "toy": Size(
    Config(
      seeds=2, dim=8, width=16, blocks=1, train=200, calibration=100, test=100, steps=4, batch=32,
      levels=(0.5, 0.8), draws=2, rows=32,
    ),
    OURS + " Four updates.",
  ),
  "desk": Size(Config(), OURS),
  "large": Size(
    Config(
      data="mnist5k", dim=128, width=512, blocks=4, train=3500, calibration=500, test=1000,
      steps=5000,
    ),
    OURS,
  ),
}  # fmt: skip


def all_thresholds(params: Any, data: Data, level: jax.Array) -> dict[str, jax.Array]:
  """Thresholds by every method but the oracle, float[methods, F] a block, from batches of data."""
  batches = data.x_calibration.reshape(-1, 100, data.x_calibration.shape[-1])
  part = lambda i: lambda params, x: {k: v[i] for k, v in activations(params, x).items()}
  stats = layers.collect_gate_stats(part(1), params, batches)
  down = {name: params[name.replace("block", "down")] for name in stats.rms}
  weights = stack([
    jax.tree.map(jnp.ones_like, stats.rms),  # equal ones: CATS
    layers.gate_weights(stats),
    layers.gate_weights(stats, stat="mean_abs"),
    layers.gate_weights(stats, down=down),
  ])  # fmt: skip
  each = lambda w: layers.activation_thresholds(part(0), params, batches, sparsity=level, weights=w)
  return jax.vmap(each)(weights)


def measure(params: Any, data: Data, level: jax.Array) -> dict[str, dict[str, jax.Array]]:
  """What each method loses at one sparsity."""
  gates = activations(params, data.x_test)
  product = jnp.multiply(*gates["block0"])
  relative = lambda lost, whole: jnp.sum(lost**2) / jnp.sum(whole**2)

  def lost_by(keep: Any) -> dict[str, jax.Array]:
    """Of ``keep(block, gates) -> bool[images, F]``."""

    def drop(place: str, block: int, value: jax.Array) -> jax.Array:
      return jnp.where(keep(block, value), value, 0) if place == GATE else value

    kept = keep(0, gates["block0"][0])
    lost, scores = jnp.where(kept, 0, product), apply(params, data.x_test, drop)
    return {
      "product": relative(lost, product),
      "output": relative(lost @ params["down0"], product @ params["down0"]),
      "accuracy": jnp.mean(jnp.argmax(scores, axis=-1) == data.y_test),
      "loss": jnp.mean(losses.cross_entropy_loss(scores, data.y_test)),
      "realised": 1 - jnp.mean(kept),
    }

  # The oracle, the last one, knows the product, and keeps as many channels for every image.
  largest = lambda i, a: layers.teal_mask(a * gates[f"block{i}"][1], sparsity=level)

  def by_method(thresholds: dict[str, jax.Array], knows: jax.Array) -> dict[str, jax.Array]:
    above = lambda i, a: layers.apply_gate_threshold(a, thresholds[f"block{i}"]) != 0
    return lost_by(lambda i, a: jnp.where(knows, largest(i, a), above(i, a)))

  thresholds = jax.tree.map(
    lambda t: jnp.pad(t, ((0, 1), (0, 0))), all_thresholds(params, data, level)
  )
  found = jax.vmap(by_method)(thresholds, jnp.array([name == ORACLE for name in METHODS]))
  return {name: {k: v[i] for k, v in found.items()} for i, name in enumerate(METHODS)}


def independent(key: jax.Array, config: Config, spread: float) -> jax.Array:
  """Mean relative cost of CATS and of CHESS at half of the gates, for independent factors.

  Both factors are normal with log-normal scales of the channels of this spread.
  """
  shape = (config.rows, config.width)

  def costs(key: jax.Array) -> jax.Array:
    keys = jax.random.split(key, 5)
    scales = jnp.exp(spread * jax.random.normal(keys[0], (2, 1, config.width)))
    a, test = (scales[0] * jax.random.normal(k, shape) for k in keys[1:3])
    up, other = (scales[1] * jax.random.normal(k, shape) for k in keys[3:])
    weights = layers.gate_weights(layers.collect_gate_stats(lambda _, u: u, None, up[None]))
    cut = (
      layers.cats_threshold(a, sparsity=0.5), layers.chess_thresholds(a, weights, sparsity=0.5)
    )  # fmt: skip
    lost = [(test - layers.apply_gate_threshold(test, t)) * other for t in cut]
    return jnp.stack([jnp.sum(v**2) for v in lost]) / jnp.sum((test * other) ** 2)

  return jnp.mean(jax.vmap(costs)(jax.random.split(key, config.draws)), axis=0)


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Trains a network a seed, calibrates and measures every method at every sparsity."""
  levels = jnp.asarray(config.levels, jnp.float32)

  def one(rate: jax.Array, data: Data) -> Any:
    params = train(rate, data)
    dense = jnp.mean(jnp.argmax(apply(params, data.x_test), axis=-1) == data.y_test)
    return dense, jax.vmap(measure, in_axes=(None, None, 0))(params, data, levels)

  data = stack([load_split(seed, config) for seed in config.seed_numbers()])
  rates = np.float32([config.rate])
  dense, found = train_all(progress, one, rates, data, name="training and thresholds")
  program = jax.jit(jax.vmap(lambda key, s: independent(key, config, s), in_axes=(0, None)))
  keys = jnp.stack([jax.random.key(seed) for seed in config.seed_numbers()])
  costs = {
    name: np.asarray(progress.clock.call(program, keys, jnp.float32(spread), name="independent"))
    for name, spread in (("log-normal", 1.0), ("equal", 0.0))
  }
  return {
    "dense": dense[:, 0],
    "levels": {
      f"{level:g}": {
        method: {key: values[:, 0, i] for key, values in cell.items()}
        for method, cell in found.items()
      }
      for i, level in enumerate(config.levels)
    },
    "independent": {
      name: {CATS: values[:, 0], RMS: values[:, 1]} for name, values in costs.items()
    },
  }


def _side(metrics: dict[str, Any], level: float, method: str, key: str) -> Side:
  return Side(method, metrics["levels"][f"{level:g}"][method][key])


def _mean(metrics: dict[str, Any], levels: Any, method: str, key: str) -> Side:
  values = [metrics["levels"][f"{level:g}"][method][key] for level in levels]
  return Side(method, np.mean(np.asarray(values, float), axis=0))


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """Accuracy, errors at every level, and what must make no difference."""
  made = []
  high = [level for level in config.levels if level >= 0.5]
  text = "Over the sparsities of a half and more, less accuracy is lost with CHESS than with CATS."
  sides = (_mean(metrics, high, method, "accuracy") for method in (RMS, CATS))
  made.append(Claim("accuracy", text, "paper", "test accuracy, mean over sparsities", *sides))
  for level in config.levels:
    text = f"At sparsity {level:g} the error of the gated product is lower with CHESS than CATS."
    sides = (_side(metrics, level, method, "product") for method in (RMS, CATS))
    made.append(
      Claim(f"product_{level:g}", text, "expected", WHAT["product"], *sides, better="lower",
            scale="ratio", comparisons=len(config.levels))
    )  # fmt: skip
  middle = 0.7 if 0.7 in config.levels else config.levels[0]
  text = "Mean magnitudes in place of root mean squares make no difference (5 % of the error)."
  sides = (_side(metrics, middle, method, "product") for method in (MEAN, RMS))
  made.append(
    Claim("stat", text, "control", WHAT["product"], *sides, better="lower", scale="ratio",
          margin=1.05)
  )  # fmt: skip
  text = "Weights with the norms of W_down lower the error behind W_down."
  sides = (_side(metrics, middle, method, "output") for method in (DOWN, RMS))
  made.append(
    Claim("down", text, "expected", WHAT["output"], *sides, better="lower", scale="ratio")
  )
  text = "On test images as much is dropped as asked for, to a point."
  mean = float(np.mean(config.levels))
  sides = _mean(metrics, config.levels, RMS, "realised"), Side("target", mean)
  made.append(
    Claim("realised", text, "control", "share dropped, mean over sparsities", *sides, margin=0.01)
  )
  cost = metrics["independent"]
  text = "Where gates and what they are multiplied with are independent, CHESS costs less."
  sides = (Side(method, cost["log-normal"][method]) for method in (RMS, CATS))
  made.append(
    Claim("independent", text, "theory", "relative cost at sparsity 0.5", *sides, better="lower",
          scale="ratio")
  )  # fmt: skip
  text = "With equal scales of all channels both are the same (2 % of the cost)."
  sides = (Side(method, cost["equal"][method]) for method in (RMS, CATS))
  made.append(
    Claim("equal", text, "control", "relative cost at sparsity 0.5", *sides, better="lower",
          scale="ratio", margin=1.02)
  )  # fmt: skip
  return made


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Every method beside CATS at every sparsity."""
  rows = [Row("test accuracy, dense", Side("dense", metrics["dense"]))]
  better = {"accuracy": "higher", "realised": "higher"}
  for level in config.levels:
    for key, what in WHAT.items():
      for method in METHODS:
        base = None if method == CATS else _side(metrics, level, CATS, key)
        ours = _side(metrics, level, method, key)
        rows.append(Row(f"{what}, sparsity {level:g}", ours, base, better.get(key, "lower")))
  for name, cell in metrics["independent"].items():
    sides = (Side(method, cell[method]) for method in (RMS, CATS))
    rows.append(Row(f"cost of independent factors, {name} scales", *sides, better="lower"))
  return rows


def figure(record: dict[str, Any]) -> Any:
  """Errors beside those of CATS, and what is lost of the dense accuracy, over the sparsity."""
  metrics, levels = record["metrics"], record["settings"]["levels"]
  fig, axes = new_figure(1, 3, width=4.4)

  def values(method: str, key: str) -> np.ndarray:
    return np.transpose([metrics["levels"][f"{s:g}"][method][key] for s in levels])

  for ax, key in zip(axes, ("product", "output"), strict=False):
    lines = {m: values(m, key) / values(CATS, key) for m in METHODS if m != CATS}
    _figures.curves(ax, lines, levels, xlabel="sparsity", ylabel="over that of CATS",
                    title=WHAT[key][0].upper() + WHAT[key][1:])  # fmt: skip
  dense = np.asarray(metrics["dense"], float)[:, None]
  lines = {m: (values(m, "accuracy") - dense).mean(0) for m in (CATS, RMS, DOWN, ORACLE)}
  _figures.curves(axes[2], lines, levels, xlabel="sparsity", ylabel="beside the dense network",
                  title="Test accuracy, mean")  # fmt: skip
  return fig
