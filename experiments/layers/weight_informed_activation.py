"""Inputs dropped by size, or by size and weights, before and after an exact rotation."""

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
  GATE_INPUT,
  PRODUCT,
  UP_INPUT,
  Data,
  apply,
  load_split,
  residual_spec,
  train,
)
from jaxopt_robust import layers

PAPER = Paper(
  title="WINA: weight informed neuron activation for accelerating large language model inference",
  authors="Chen, Zhao, Ko, Banbury, Zhuang, Liang, Cameron and Chen",
  year=2025,
  claim="Choosing the inputs of a layer by magnitude times the norm of their weights, after a "
  "rotation that makes these orthogonal, keeps more of the performance than choosing by magnitude.",
  section="Main results, 65 % sparsity",
  url="https://arxiv.org/abs/2505.19427",
)
TEAL, WINA = "TEAL", "WINA, not rotated"
TEAL_ROTATED, WINA_ROTATED = "TEAL, rotated", "WINA"
METHODS = (TEAL, WINA, TEAL_ROTATED, WINA_ROTATED)
WHAT = {"change": "relative change of the scores", "accuracy": "test accuracy"}


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings.

  Attributes:
    data: "digits" (8 x 8) or "mnist5k" (28 x 28).
    dim: width of the residual.
    width: channels of a gated block.
    blocks: number of blocks.
    train: training images.
    test: test images.
    steps: updates of AdamW.
    batch: batch size.
    rate: learning rate, the same network for all methods: of .0003, .001, .003, .01 and .03 the
      best by accuracy on 200 held-out training images of development seeds 0 to 3.
    levels: sparsities, of the inputs of all three kernels of a block.
    tokens: of the single layer, a normal matrix with log-normal scales of its inputs.
  """

  seeds: int = 16
  data: str = "digits"
  dim: int = 64
  width: int = 192
  blocks: int = 2
  train: int = 1297
  test: int = 500
  steps: int = 500
  batch: int = 64
  rate: float = 3e-3
  levels: tuple[float, ...] = (0.25, 0.5, 0.65, 0.8)
  tokens: int = 256


OURS = "A network of two gated blocks on digits, without attention, instead of language models."
SIZES = {
  "toy": Size(
    Config(
      seeds=2, dim=8, width=24, blocks=1, train=200, test=100, steps=4, batch=32,
      levels=(0.5, 0.65), tokens=32,
    ),
    OURS + " Four updates.",
  ),
  "desk": Size(Config(), OURS),
  "large": Size(
    Config(
      data="mnist5k", dim=128, width=512, blocks=4, train=4000, test=1000, steps=5000,
    ),
    OURS,
  ),
}  # fmt: skip


def measure(
  params: Any, rotations: Any, weighted: jax.Array, data: Data, level: jax.Array
) -> dict[str, jax.Array]:
  """Scores and accuracy with the gates' inputs chosen by weights or not, all others by size."""

  def drop(place: str, block: int, value: jax.Array) -> jax.Array:
    if place not in (GATE_INPUT, UP_INPUT, PRODUCT):
      return value
    if place == GATE_INPUT:
      norms = layers.column_norms(params[f"gate{block}"])
      norms = jnp.where(weighted, norms, 1)  # equal ones: by size
      return jnp.where(layers.wina_mask(value, norms, sparsity=level), value, 0)
    return jnp.where(layers.teal_mask(value, sparsity=level), value, 0)

  dense = apply(params, data.x_test, rotations=rotations)
  scores = apply(params, data.x_test, drop, rotations)
  return {
    "change": jnp.linalg.norm(scores - dense) / jnp.linalg.norm(dense),
    "accuracy": jnp.mean(jnp.argmax(scores, axis=-1) == data.y_test),
  }


def single_layer(key: jax.Array, level: jax.Array, config: Config) -> dict[str, jax.Array]:
  """Mean squared error of one layer's output by weights over that by size, raw and rotated."""
  keys = jax.random.split(key, 3)
  scales = jnp.exp(jax.random.normal(keys[0], (config.dim, 1)))
  kernel = scales * jax.random.normal(keys[1], (config.dim, config.width))
  x = jax.random.normal(keys[2], (config.tokens, config.dim))
  basis = jnp.linalg.svd(kernel, full_matrices=False)[0]

  def error(x: jax.Array, kernel: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.sum((jnp.where(mask, 0, x) @ kernel) ** 2, axis=-1)

  found = {}
  for name, values, matrix in (("raw", x, kernel), ("rotated", x @ basis, basis.T @ kernel)):
    norms = layers.column_norms(matrix)
    ours = error(values, matrix, layers.wina_mask(values, norms, sparsity=level))
    base = error(values, matrix, layers.teal_mask(values, sparsity=level))
    found[name] = jnp.mean(ours) / jnp.mean(base)
    # Rounding of the rotation makes equal masks differ by nothing, unequal ones by more.
    found[f"{name}, tokens no worse"] = jnp.mean(ours <= base * (1 + 1e-4))
  return found


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Trains a network a seed, rotates it, and drops inputs by every rule at every sparsity."""
  data = stack([load_split(seed, config) for seed in config.seed_numbers()])
  rates = np.float32([config.rate])
  trained = train_all(progress, train, rates, data, name="training")
  spec, eye = residual_spec(config.blocks), np.eye(config.dim, dtype=np.float32)
  plain = np.broadcast_to(eye, (config.blocks, *eye.shape))
  levels = np.float32(config.levels)
  weighted = np.array([name in (WINA, WINA_ROTATED) for name in METHODS])

  @jax.jit
  def compare(params: Any, rotations: Any, weighted: Any, data: Data, levels: Any) -> Any:
    """Of all methods, the leading axis of the first three arguments."""
    scores = jax.vmap(lambda p, r: apply(p, data.x_test, rotations=r))(params, rotations)
    dense, other = scores[0], scores[-1]
    over_levels = jax.vmap(measure, in_axes=(None, None, None, None, 0))
    each = jax.vmap(over_levels, in_axes=(0, 0, 0, None, None))
    found = each(params, rotations, weighted, data, levels)
    one = jax.vmap(lambda level: single_layer(data.key, level, config))(levels)
    return {
      "found": found, "layer": one,
      "dense": jnp.mean(jnp.argmax(dense, axis=-1) == data.y_test),
      "invariance": jnp.linalg.norm(other - dense) / jnp.linalg.norm(dense),
    }  # fmt: skip

  outcomes = []
  for i in progress.track(range(config.seeds), "seeds"):
    params = jax.tree.map(lambda leaf, i=i: leaf[i, 0], trained)
    rotated, rotations = layers.orthogonalize_pivots(params, spec)
    own = jax.tree.map(lambda leaf, i=i: leaf[i], data)
    networks = stack([params, params, rotated, rotated])
    turned = np.stack([plain, plain, rotations, rotations])
    outcomes.append(
      progress.clock.call(compare, networks, turned, weighted, own, levels, name="comparison")
    )
  stacked = jax.tree.map(np.asarray, stack(outcomes))
  return {
    "dense": stacked["dense"],
    "invariance": stacked["invariance"],
    "levels": {
      f"{level:g}": {
        method: {key: values[:, m, i] for key, values in stacked["found"].items()}
        for m, method in enumerate(METHODS)
      }
      for i, level in enumerate(config.levels)
    },
    "layer": {
      f"{level:g}": {key: values[:, i] for key, values in stacked["layer"].items()}
      for i, level in enumerate(config.levels)
    },
  }


def _side(metrics: dict[str, Any], level: float, method: str, key: str) -> Side:
  return Side(method, metrics["levels"][f"{level:g}"][method][key])


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """Accuracy, changes of the scores at every level, one layer, and what must not differ."""
  made = []
  for level, kind in ((0.65, "paper"), (0.8, "expected")):
    for base in (TEAL, TEAL_ROTATED):
      if level not in config.levels:
        continue
      text = f"At sparsity {level:g} WINA is more accurate than {base}."
      sides = (
        _side(metrics, level, WINA_ROTATED, "accuracy"),
        _side(metrics, level, base, "accuracy"),
      )
      key = f"accuracy_{level:g}_{METHODS.index(base)}"
      made.append(
        Claim(key, text, kind, WHAT["accuracy"], *sides, comparisons=2)  # type: ignore[arg-type]
      )
  for level in config.levels:
    for base in (TEAL, TEAL_ROTATED):
      text = f"At sparsity {level:g} the scores change less with WINA than with {base}."
      sides = _side(metrics, level, WINA_ROTATED, "change"), _side(metrics, level, base, "change")
      made.append(
        Claim(f"change_{level:g}_{METHODS.index(base)}", text, "expected", WHAT["change"], *sides,
              better="lower", scale="ratio", comparisons=2 * len(config.levels))
      )  # fmt: skip
  text = "Without the rotation WINA and TEAL are the same (0.01 of the scores at sparsity 0.65)."
  sides = (_side(metrics, 0.65, method, "change") for method in (WINA, TEAL))
  made.append(Claim("plain", text, "control", WHAT["change"], *sides, better="lower", margin=0.01))
  text = "The rotation changes no score (2e-5 of their size, in float32)."
  sides = Side("rotated", metrics["invariance"]), Side("none", 0.0)
  made.append(
    Claim("invariance", text, "control", WHAT["change"], *sides, better="lower", margin=2e-5)
  )
  one = metrics["layer"]["0.65"]
  text = "Of one rotated layer the output of no token is worse with WINA than with TEAL."
  sides = Side("share no worse", one["rotated, tokens no worse"]), Side("all", 1.0)
  made.append(Claim("pointwise", text, "theory", "share of tokens", *sides, margin=-1e-6))
  for name, kind in (("rotated", "theory"), ("raw", "expected")):
    text = (
      f"Of one {name} layer with log-normal scales the error is lower with WINA than with TEAL."
    )
    sides = Side("WINA over TEAL", one[name]), Side("equal", 1.0)
    metric = "ratio of mean squared errors, sparsity 0.65"
    made.append(
      Claim(f"layer_{name}", text, kind, metric, *sides, better="lower",  # type: ignore[arg-type]
            scale="ratio")
    )  # fmt: skip
  return made


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Every method beside TEAL at every sparsity; single layers."""
  rows = [Row("test accuracy, dense", Side("dense", metrics["dense"]))]
  for level in config.levels:
    for key, what in WHAT.items():
      for method in METHODS:
        base = None if method == TEAL else _side(metrics, level, TEAL, key)
        better = "higher" if key == "accuracy" else "lower"
        ours = _side(metrics, level, method, key)
        rows.append(Row(f"{what}, sparsity {level:g}", ours, base, better))
    for name in ("raw", "rotated"):
      ours = Side("WINA over TEAL", metrics["layer"][f"{level:g}"][name])
      rows.append(Row(f"error of one layer, {name}, sparsity {level:g}", ours, better="lower"))
  return rows


def figure(record: dict[str, Any]) -> Any:
  """Change of the scores, accuracy, and the single layer over the sparsity."""
  metrics, levels = record["metrics"], record["settings"]["levels"]
  fig, axes = new_figure(1, 3, width=4.4)
  for ax, key in zip(axes, ("change", "accuracy"), strict=False):
    lines = {
      method: np.transpose([metrics["levels"][f"{s:g}"][method][key] for s in levels])
      for method in METHODS
    }
    _figures.curves(ax, lines, levels, xlabel="sparsity", ylabel=WHAT[key])
  lines = {
    name: np.transpose([metrics["layer"][f"{s:g}"][name] for s in levels])
    for name in ("raw", "rotated")
  }
  _figures.curves(axes[2], lines, levels, xlabel="sparsity", ylabel="error, WINA over TEAL",
                  title="One layer")  # fmt: skip
  return fig
