"""Weights that keep 1 of every 16, trained twice as long on larger batches: does more help them?"""

import dataclasses
from typing import Any

from experiments import _figures
from experiments._claims import Claim, Side
from experiments._protocol import Progress, Row, Settings, Size, new_figure
from experiments._training import stack
from experiments.transforms import progressive_nm as shorter
from experiments.transforms._sparse_nets import load
from experiments.transforms.progressive_nm import EXP, GEOMETRIC, LINEAR, SRSTE

PAPER = shorter.PAPER
RECIPES = (SRSTE, LINEAR, EXP, GEOMETRIC)


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings. A seed draws the split, initial weights and minibatches.

  Attributes:
    width: features of a token; the feed-forward parts are four times as wide.
    train: training images; the others are test images.
    batch: batch size.
    steps: updates.
    rate: learning rates of AdamW: of .001, .002, .004, .008, .016 and .032 the best for each recipe
      by accuracy on 300 held-out training images of development seeds 0 to 5.
    warm_up: steps in which the learning rate rises; then it falls to 0 along a cosine.
    weight_decay: of AdamW.
    m: length of the runs of which one weight is kept.
    recipes: how they are trained.
  """

  seeds: int = 8
  width: int = 32
  train: int = 1297
  batch: int = 64
  steps: int = 800
  rate: tuple[float, ...] = (0.008, 0.008, 0.008, 0.016)
  warm_up: int = 50
  weight_decay: float = 1e-2
  m: int = 16
  recipes: tuple[str, ...] = RECIPES


SIZES = {
  "toy": Size(
    Config(seeds=2, train=200, steps=8, warm_up=2, recipes=RECIPES[:2], rate=(4e-3, 4e-3)),
    shorter.OURS + " Eight updates.",
  ),
  "desk": Size(Config(), shorter.OURS),
  "large": Size(Config(seeds=20, steps=4000, warm_up=200), shorter.OURS),
}


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Every recipe at one pattern on the transformer."""
  sizes = {"train": config.train, "held": 0, "batch": config.batch, "steps": config.steps}
  data = stack([load("transformer", config.width, seed, **sizes) for seed in config.seed_numbers()])
  return shorter.run_recipes("transformer", config.m, config.recipes, config, data, progress)


def _side(metrics: dict[str, Any], name: str, key: str = "accuracy") -> Side:
  return Side(name, metrics[name][key])


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """Those of the shorter training: better than SR-STE, with gradients that vary less."""
  made, tried = [], [name for name in RECIPES[1:] if name in metrics]
  base, what = _side(metrics, SRSTE), f"test accuracy, 1:{config.m}"
  for name in tried:
    key, ours = str(RECIPES.index(name)), _side(metrics, name)
    text = f"{name}: more accurate than SR-STE."
    made.append(
      Claim(f"better_{key}", text, "paper", what, ours, base, comparisons=len(tried))
    )  # fmt: skip
    text = f"{name}: a point more accurate than SR-STE."
    made.append(Claim(f"point_{key}", text, "expected", what, ours, base, margin=0.01))
  for name in (n for n in (LINEAR, EXP) if n in metrics):
    key, ours = str(RECIPES.index(name)), _side(metrics, name, "variance")
    text = f"{name}: at most half the variance of the gradients with SR-STE."
    base = _side(metrics, SRSTE, "variance")
    made.append(
      Claim(f"half_{key}", text, "expected", f"variance of |gradient|, 1:{config.m}", ours, base,
            better="lower", scale="ratio", margin=2.0)
    )  # fmt: skip
  return made


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Accuracy and gradient variance of every recipe beside SR-STE."""
  rows = []
  for key, what, better in (
    ("accuracy", "test accuracy", "higher"), ("variance", "variance of |gradient|", "lower"),
  ):  # fmt: skip
    for name in metrics:
      base = None if name == SRSTE else _side(metrics, SRSTE, key)
      note = ""
      if key == "variance":
        rate = config.rate[config.recipes.index(name)]
        note = f"At a learning rate of {rate:g}, on which the variance depends too."
      rows.append(
        Row(f"{what}, 1:{config.m}", _side(metrics, name, key), base, better, note=note)
      )  # fmt: skip
  return rows


def figure(record: dict[str, Any]) -> Any:
  """Accuracies and the variance of gradients."""
  metrics, m = record["metrics"], record["settings"]["m"]
  fig, axes = new_figure(1, 2, width=4.8, height=4.2)
  for axis, key, label in (
    (axes[0], "accuracy", "test accuracy"), (axes[1], "variance", "variance of |gradient|"),
  ):  # fmt: skip
    cells = {name: cell[key] for name, cell in metrics.items()}
    _figures.dots(axis, {"": cells}, ylabel=label, title=f"Transformer on digits, 1:{m}")
  axes[1].set_yscale("log")
  return fig
