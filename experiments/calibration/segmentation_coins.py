"""Calibrated segmentation of coins in a noisy photograph: NACL and SVLS beside other losses."""

import dataclasses
from typing import Any

import jax
import numpy as np

from experiments import _figures
from experiments._claims import Claim, Side
from experiments._protocol import Progress, Row, Settings, Size, new_figure
from experiments.calibration import _coins
from experiments.calibration import segmentation_calibration as shapes
from experiments.calibration.segmentation_calibration import CE, METHODS, NACL, STRONG, SVLS

PAPER = shapes.PAPER


@dataclasses.dataclass(frozen=True)
class Config(Settings):
  """Settings. A seed draws crops, noise, initial weights and batches; the photograph is one.

  Attributes:
    train: training crops, from the left part of the picture.
    test: test crops, from the right part.
    side: pixels a side, at half the resolution of the picture.
    noise: deviation of the noise in units of that of the picture.
    steps: updates of Adam, whose rate falls to 0.
    batch: crops of an update.
    width: channels of the first level of the network.
    methods: losses; cross-entropy and NACL are two of them.
    rates: learning rate of each of them: of .003, .01, .03 and .1 (and .3 where .1 was best) the
      best by Dice on the held-out crops of development seeds 0 and 1.
  """

  seeds: int = 8
  train: int = 12
  test: int = 100
  side: int = 32
  noise: float = 1.0
  steps: int = 600
  batch: int = 4
  width: int = 8
  methods: tuple[str, ...] = tuple(METHODS)
  rates: tuple[float, ...] = (0.03, 0.1, 0.03, 0.03, 0.03, 0.01, 0.03, 0.1)


OURS = (
  "Crops of one photograph of coins with noise, labels by a threshold, and a small U-Net instead "
  "of medical images."
)
SIZES = {
  "toy": Size(
    Config(
      seeds=2, train=4, test=4, side=8, steps=2, batch=2, width=4, methods=(CE, NACL, STRONG),
      rates=(0.01,) * 3,
    ),
    OURS + " Two updates.",
  ),
  "desk": Size(Config(), OURS),
  "large": Size(Config(seeds=20, train=48, test=400, steps=3000, batch=8, width=16), OURS),
}  # fmt: skip


def make_data(seed: int, config: Config, *, held_out: bool = False) -> dict[str, Any]:
  """Crops and batches of a seed; with ``held_out`` the test crops are of the part between."""
  rng = np.random.default_rng(seed)
  crops = lambda num, part: _coins.draw(rng, num, config.side, part, config.noise)
  return {
    "key": jax.random.key(seed),
    "train": crops(config.train, "train"),
    "test": crops(config.test, "held out" if held_out else "test"),
    "rows": shapes.rows_of(seed, config),
  }


def run(config: Config, progress: Progress) -> dict[str, Any]:
  """Every loss on every seed, in one program; distances of outlines after it."""
  seeds = [make_data(seed, config) for seed in config.seed_numbers()]
  metrics = shapes.compare(seeds, config, progress, _coins.measured_with_guess)
  for found in metrics.values():
    guesses = found.pop("guess")
    truths = [np.asarray(seed["test"].y) for seed in seeds]
    found["hd95"] = [_coins.mean_distance(*pair) for pair in zip(guesses, truths, strict=True)]
  return metrics


def claims(metrics: dict[str, Any], config: Config) -> list[Claim]:
  """Those of the ellipses; but a third of the picture are coins, so none on whole images."""
  return [claim for claim in shapes.claims(metrics, config) if claim.key != "whole"]


def table(metrics: dict[str, Any], config: Config) -> list[Row]:
  """Every loss beside cross-entropy, with distances of outlines."""
  rows = shapes.table(metrics, config)
  note = "95th percentile of the distances between outlines, in pixels; coins and inner parts."
  for method in config.methods:
    base = None if method == CE else Side(CE, metrics[CE]["hd95"])
    ours = Side(method, metrics[method]["hd95"])
    rows.append(Row("HD95", ours, base, better="lower", note=note))
  return rows


def figure(record: dict[str, Any]) -> Any:
  """Reliability of the coins, its error beside that of whole crops, Dice, HD95."""
  metrics = record["metrics"]
  fig, axes = new_figure(1, 4, width=4.2, height=4.0)
  _figures.reliability_of(axes[0], metrics, (CE, NACL, STRONG, SVLS), title="Coins")
  errors = {
    label: {method: found[what] for method, found in metrics.items()}
    for label, what in (("coins", "foreground ece"), ("whole crops", "image ece"))
  }
  _figures.dots(axes[1], errors, ylabel="ECE", title="Calibration error")
  for ax, what, title in (
    (axes[2], "dice", "Overlap with rim and inner part"), (axes[3], "hd95", "Distance of outlines"),
  ):  # fmt: skip
    values = {"": {method: found[what] for method, found in metrics.items()}}
    _figures.dots(ax, values, ylabel={"hd95": "HD95 (pixels)"}.get(what, "Dice"), title=title)
  return fig
